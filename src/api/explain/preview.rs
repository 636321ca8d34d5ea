//! `preview_stream_table`: what would be maintained how, with nothing created.

use super::text::count;
use super::{Report, Stage, delta, printer, stages};
use crate::analyze::{self, Analyzed, Capture, Input};
use crate::error::{Result, or_raise};
use pgrx::prelude::*;
use pgtrickle_engine::explain::plain;
use pgtrickle_engine::ir::SourceId;
use pgtrickle_engine::program::{Definition, Program, Target};
use pgtrickle_engine::sql::QualifiedName;

/// How a stream table of this query would be maintained, as [`explain_st`](super::explain_st) shows it.
#[pg_extern]
fn preview_stream_table(query: &str, format: default!(&str, "'text'")) -> SetOfIterator<'static, String> {
    SetOfIterator::new(or_raise(previewed(query, format)))
}

fn previewed(query: &str, format: &str) -> Result<Vec<String>> {
    let print = printer(format)?;
    let analysis = analyze::analyze(Input::Text(query))?;
    let mut facts = Vec::new();
    let stages = match &analysis.plan {
        Analyzed::Differential(definition) => {
            facts.push(("Mode", "DIFFERENTIAL: its changes would follow from those of its sources".to_owned()));
            maintained(definition)
        }
        Analyzed::Opaque { reason } => {
            facts.push((
                "Mode",
                format!("FULL: it would be computed anew and the difference applied, because {reason}"),
            ));
            let target = Target { table: QualifiedName::new("pgtrickle", "preview"), pgt_id: 0 };
            let view = QualifiedName::new("pgtrickle", "def_0");
            stages(&Program::opaque(&view, &analysis.columns, &target), &[SourceId(0)].into())
        }
    };
    let columns = analysis.columns.iter().map(|(name, ty)| format!("{} {}", name.as_str(), ty.sql));
    facts.extend(columns.map(|column| ("Columns", column)));
    facts.extend(analysis.sources.iter().map(source).map(|source| ("Sources", source)));
    if let Analyzed::Differential(definition) = &analysis.plan {
        facts.extend(analyze::tree::lines(definition).into_iter().map(|line| ("Operators", line)));
    }
    let deltas = match &analysis.plan {
        Analyzed::Differential(definition) => {
            definition.sources.iter().map(|source| delta(source.id, plain(&source.table))).collect()
        }
        Analyzed::Opaque { .. } => Vec::new(),
    };
    Ok(print(&Report { title: "A stream table of this query".to_owned(), facts, stages, deltas }))
}

/// The stages of a program that does not exist yet.
pub(super) fn maintained(definition: &Definition) -> Vec<Stage> {
    let target = Target { table: QualifiedName::new("pgtrickle", "preview"), pgt_id: 0 };
    let changed = definition.sources.iter().map(|source| source.id).collect();
    Program::new(definition, &target).map(|program| stages(&program, &changed)).unwrap_or_default()
}

/// A source, and how its changes are found.
pub(super) fn source(source: &analyze::Source) -> String {
    let capture = match source.capture {
        Capture::Wal => "followed in the WAL".to_owned(),
        Capture::Never(what) => format!("{what}, read at each refresh and compared"),
    };
    format!("{}: {} used, {capture}", plain(&source.name), count(source.columns.len() as i64, "column"))
}
