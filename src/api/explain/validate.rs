//! `validate_query`: whether a query can be a stream table, and how it would be maintained, in a few rows.

use super::preview;
use crate::analyze::{self, Analyzed, Capture, Input};
use crate::error::Error;
use pgrx::prelude::*;

/// What is looked at, what was found, and OK, WARNING (it works, but is recomputed or compared) or ERROR (it is refused).
type Row = (String, String, String);

/// Whether a stream table could be made of a query, and how it would be maintained; nothing is created. What is refused is a row
/// with severity ERROR; what is no query at all is PostgreSQL's own error. `preview_stream_table()` shows more.
#[pg_extern]
fn validate_query(
    query: &str,
) -> TableIterator<'static, (name!(check_name, String), name!(result, String), name!(severity, String))> {
    TableIterator::new(match analyze::analyze(Input::Text(query)) {
        Ok(analysis) => rows(&analysis),
        Err(error) => vec![row("query", refusal(&Error::from(error)), "ERROR")],
    })
}

fn row(check: &str, result: String, severity: &str) -> Row {
    (check.into(), result, severity.into())
}

fn rows(analysis: &analyze::Analysis) -> Vec<Row> {
    let mut rows = vec![match &analysis.plan {
        Analyzed::Differential(_) => row("refresh_mode", "DIFFERENTIAL".into(), "OK"),
        Analyzed::Opaque { reason } => {
            row("refresh_mode", format!("FULL: it would be recomputed at each refresh, because {reason}"), "WARNING")
        }
    }];
    let columns: Vec<_> = analysis.columns.iter().map(|(name, ty)| format!("{} {}", name.as_str(), ty.sql)).collect();
    rows.push(row("columns", columns.join(", "), "OK"));
    for source in &analysis.sources {
        let severity = if matches!(source.capture, Capture::Wal) { "OK" } else { "WARNING" };
        rows.push(row("source", preview::source(source), severity));
    }
    if let Analyzed::Differential(definition) = &analysis.plan {
        rows.extend(
            preview::maintained(definition)
                .iter()
                .map(|stage| row("stage", format!("{} {}", stage.construct, stage.over), "OK")),
        );
    }
    rows
}

fn refusal(error: &Error) -> String {
    let parts = [Some(&error.message), error.detail.as_ref(), error.hint.as_ref()];
    let sentences = parts.into_iter().flatten().map(|part| part.trim_end_matches('.'));
    sentences.collect::<Vec<_>>().join(". ")
}
