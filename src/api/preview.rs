//! `preview_stream_table`: what would be maintained how, with nothing created.

use crate::analyze::{self, Analysis, Analyzed, Capture, Input};
use crate::error::or_raise;
use pgrx::prelude::*;

/// How a stream table of this query would be maintained, as readable lines.
#[pg_extern]
fn preview_stream_table(query: &str) -> SetOfIterator<'static, String> {
    let analysis = or_raise(analyze::analyze(Input::Text(query)).map_err(Into::into));
    SetOfIterator::new(lines(&analysis))
}

fn lines(analysis: &Analysis) -> Vec<String> {
    let mut lines = match &analysis.plan {
        Analyzed::Differential(definition) => {
            let mut lines = vec!["Maintained by its changes:".to_owned()];
            lines.extend(analyze::tree::lines(definition).into_iter().map(|line| format!("  {line}")));
            lines
        }
        Analyzed::Opaque { reason } => {
            vec![format!("Maintained by recomputing it and applying the difference, because {reason}.")]
        }
    };
    lines.push("Columns:".into());
    lines.extend(analysis.columns.iter().map(|(name, ty)| format!("  {} {}", name.as_str(), ty.sql)));
    lines.push("Sources:".into());
    lines.extend(analysis.sources.iter().map(|source| {
        let capture = match source.capture {
            Capture::Wal => "",
            Capture::Never(what) => &format!(": {what}, compared at each refresh"),
        };
        format!("  {} columns {:?}{capture}", source.name, source.columns)
    }));
    lines
}
