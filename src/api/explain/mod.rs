//! `explain_st` and `preview_stream_table`: how a stream table is, or would be, maintained.
//!
//! Both fill a [`Report`]; `text` and `json` print it.

mod dag;
mod delta;
mod json;
mod layout;
mod preview;
mod stored;
mod text;
mod validate;

use crate::catalog::{self, Frontier, StreamTable};
use crate::error::{Error, Result, or_raise};
use crate::refresh::costs;
use crate::refresh::program::{self, Loaded};
use pgrx::PgSqlErrorCode as Code;
use pgrx::prelude::*;
use pgtrickle_engine::explain::plain;
use pgtrickle_engine::ir::SourceId;
use pgtrickle_engine::program::{Program, Step};
use std::collections::BTreeSet;

/// Everything that there is to say.
struct Report {
    title: String,
    /// What is said first, in order: a word and what it is about.
    facts: Vec<(&'static str, String)>,
    stages: Vec<Stage>,
    /// What the staged changes of sources are called in the statements, and whose they are.
    deltas: Vec<(String, String)>,
}

/// One stage.
struct Stage {
    construct: &'static str,
    over: String,
    rule: String,
    state: Option<State>,
    cost: Option<Cost>,
    /// Of the refresh just run: rows of its change, milliseconds.
    now: Option<(i64, f64)>,
    statements: Vec<(String, String)>,
}

/// What a stage keeps.
struct State {
    table: String,
    rows: i64,
    bytes: i64,
}

/// What a stage has cost since it was planned as it is.
struct Cost {
    calls: i64,
    rows: i64,
    ms: f64,
}

/// How a stream table is maintained: its mode and why, its stages and their rules in the words of SQL, what each keeps and has
/// cost, and the statements of a refresh in which every source has changed. With `with_analyze` it is refreshed, and
/// shown what each stage has just taken. `format` is text or json.
#[pg_extern]
fn explain_st(
    name: &str,
    with_analyze: default!(bool, "false"),
    format: default!(&str, "'text'"),
) -> SetOfIterator<'static, String> {
    SetOfIterator::new(or_raise(explained(name, with_analyze, format)))
}

fn explained(name: &str, with_analyze: bool, format: &str) -> Result<Vec<String>> {
    let print = printer(format)?;
    let st = catalog::by_name_owned(name)?;
    if with_analyze {
        costs::forget_last(st.pgt_id);
        super::refresh::refresh_now(&st, |_, _| ())?;
    }
    // As it is now, refreshed or not.
    let st = catalog::by_id(st.pgt_id).unwrap_or(st);
    let loaded = program::load(&st)?;
    let changed = all(&st, &loaded);
    let mut report = Report {
        title: st.label(),
        facts: facts(&st, &loaded),
        stages: stages(&loaded.program, &changed),
        deltas: changed.iter().map(|&source| delta(source, dag::name(source.0))).collect(),
    };
    let now = costs::last(st.pgt_id);
    let kept = stored::costs(st.pgt_id, loaded.fingerprint);
    for (number, stage) in report.stages.iter_mut().enumerate() {
        stage.cost = kept.iter().find(|(stage, _)| *stage == number as i32 + 1).map(|(_, cost)| Cost { ..*cost });
        if with_analyze {
            stage.now = now.get(&number).map(|cost| (cost.rows, cost.time.as_secs_f64() * 1000.0));
        }
    }
    for (stage, outline) in report.stages.iter_mut().zip(loaded.program.outline()) {
        stage.state = outline.state.map(|table| stored::state(&table));
    }
    report.facts.extend(stored::last_error(st.pgt_id).map(|error| ("Last error", error)));
    report.facts.extend(stored::history(st.pgt_id).into_iter().map(|line| ("Cost so far", line)));
    Ok(print(&report))
}

type Print = fn(&Report) -> Vec<String>;

fn printer(format: &str) -> Result<Print> {
    match format.to_ascii_lowercase().as_str() {
        "text" => Ok(text::lines),
        "json" => Ok(|report| vec![json::report(report)]),
        _ => Err(Error::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, format!("unknown format: \"{format}\""))
            .hint("Use text or json.")),
    }
}

fn facts(st: &StreamTable, loaded: &Loaded) -> Vec<(&'static str, String)> {
    let mode = match &loaded.full_reason {
        None if st.is_immediate() => {
            "IMMEDIATE: whoever writes to its sources maintains it, in the same transaction".to_owned()
        }
        None => "DIFFERENTIAL: its changes follow from those of its sources".to_owned(),
        Some(reason) => format!("FULL: computed anew and the difference applied, because {reason}"),
    };
    let frontier = st.frontier.as_ref().unwrap_or(Frontier::EMPTY);
    let frontier = match (frontier.lsn, st.age_seconds) {
        (lsn, _) if lsn != 0 && st.is_immediate() => {
            "every transaction: its contents are those of its query for whoever looks".to_owned()
        }
        (0, _) => "none yet: the next refresh compares everything".to_owned(),
        (lsn, None) => format!("{:X}/{:X}", lsn >> 32, lsn as u32),
        (lsn, Some(age)) => format!("{:X}/{:X}, {} ago", lsn >> 32, lsn as u32, text::duration(age * 1000.0)),
    };
    let schedule = if st.is_immediate() { "at once" } else { &st.schedule };
    let schedule = format!("{schedule}, {}", st.status);
    let settled = loaded.settled.iter().map(|query| ("Settled query", query.to_string()));
    [("Mode", mode), ("Schedule", schedule), ("Frontier", frontier)].into_iter().chain(settled).collect()
}

/// Every source that can have changed.
fn all(st: &StreamTable, loaded: &Loaded) -> BTreeSet<SourceId> {
    let captured = st.sources.iter().filter(|s| s.kind != catalog::SourceType::Other);
    captured.map(|s| SourceId(s.relid)).chain(loaded.program.compared().iter().copied()).collect()
}

/// What the staged changes of a source are called, and the source's name.
fn delta(source: SourceId, name: String) -> (String, String) {
    (Program::source_delta(source).as_str().to_owned(), name)
}

/// The stages of a program, with the statements of a refresh after changes of these sources.
fn stages(program: &Program, changed: &BTreeSet<SourceId>) -> Vec<Stage> {
    let mut by_stage = program.refresh_by_stage(&changed.iter().copied().collect());
    let outline = program.outline().into_iter().enumerate();
    outline
        .map(|(number, outline)| {
            let steps = by_stage.iter_mut().find(|(stage, _)| *stage == number).map(|(_, steps)| std::mem::take(steps));
            Stage {
                construct: outline.construct,
                over: outline.over,
                rule: outline.rule,
                state: None,
                cost: None,
                now: None,
                statements: steps.unwrap_or_default().iter().map(statement).collect(),
            }
        })
        .collect()
}

/// What a statement makes, and its text.
fn statement(step: &Step) -> (String, String) {
    match step {
        Step::Stage { name, query, .. } | Step::Restage { name, query, .. } => {
            (format!("{} :=", name.as_str()), query.to_string())
        }
        Step::Modify { sql, .. } => ("run".to_owned(), sql.to_string()),
        Step::Check { query, .. } => ("must be empty".to_owned(), query.to_string()),
    }
}
