//! `preview_stream_table`: what would be maintained how, with nothing created.

use crate::analyze::{self, Analysis, Analyzed, Capture, Input};
use crate::error::or_raise;
use pgrx::prelude::*;
use pgtrickle_engine::program::{Definition, Program, StageInfo, Target};
use pgtrickle_engine::sql::QualifiedName;

/// How a stream table of this query would be maintained, as readable lines.
#[pg_extern]
fn preview_stream_table(query: &str) -> SetOfIterator<'static, String> {
    let analysis = or_raise(analyze::analyze(Input::Text(query)).map_err(Into::into));
    SetOfIterator::new(lines(&analysis))
}

/// The stages of the engine's program, each with its rule.
fn stages(definition: &Definition) -> Vec<String> {
    let target = Target { table: QualifiedName::new("pgtrickle", "preview"), pgt_id: 0 };
    let Ok(program) = Program::new(definition, &target) else { return Vec::new() };
    let stage = |stage: &StageInfo| {
        let kept = if stage.state.is_some() { ", state kept" } else { "" };
        format!("  {}: {}{kept}", stage.operator, stage.rule)
    };
    std::iter::once("Stages:".to_owned()).chain(program.explain().iter().map(stage)).collect()
}

fn lines(analysis: &Analysis) -> Vec<String> {
    let mut lines = match &analysis.plan {
        Analyzed::Differential(definition) => {
            let mut lines = vec!["Maintained by its changes:".to_owned()];
            lines.extend(analyze::tree::lines(definition).into_iter().map(|line| format!("  {line}")));
            lines.extend(stages(definition));
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
