//! Which filtered scans of a query are kept as they are: those of large tables of which few rows pass, as the planner sees it,
//! and tables reduced by a small one, for a larger one; and whether groups are made before what describes them is joined: if that has rows for most of them.
//!
//! The choice is made when state is made, and recognised afterwards by the fingerprint of what was made, whatever the planner
//! would say by then.

use super::local_settings;
use crate::catalog::StreamTable;
use crate::settings;
use pgtrickle_engine::ir::SourceId;
use pgtrickle_engine::program::Definition;
use pgtrickle_engine::reduction::Reduction;
use pgtrickle_engine::selection::{Choice, Selection, describing, selections};
use pgtrickle_engine::sql::Sql;
use pgtrickle_pg::class;
use pgtrickle_pg::spi::{Connection, Plan, RunAs};

/// Of smaller tables any row is found cheaply.
const LARGE_ROWS: f64 = 1_000.0;
/// A reduced table is kept for one that is so many times as large.
const LARGER: f64 = 4.0;
/// So small a part of a table is few rows.
const FEW: f64 = 0.15;
/// All combinations of so many selections are tried in order to recognise one; of more no table is reduced, or nothing kept.
const MOST: usize = 7;

/// The choices that may have been made for a stream table, the likeliest first.
pub fn choices(st: &StreamTable, definition: &Definition) -> Vec<Choice> {
    let (mut all, described) = (selections(definition), describing(definition));
    if all.len() > MOST {
        all.retain(|selection| selection.reduction.is_none());
    }
    let none = st.is_immediate() || all.len() > MOST;
    let kept: Vec<Selection> = if none { Vec::new() } else { worthwhile(st, &all) };
    let now = Choice { kept, as_written: !described.iter().all(|(source, values)| is_covered(st, *source, values)) };
    if st.fingerprint == 0 || all.is_empty() && described.is_empty() {
        return vec![now];
    }
    let numbers = 0..if all.len() > MOST { 1 } else { 1_usize << all.len() };
    let chosen = |number: usize| {
        let is_in = |(i, _): &(usize, &Selection)| number & 1 << i != 0;
        all.iter().enumerate().filter(is_in).map(|(_, selection)| selection.clone()).collect::<Vec<_>>()
    };
    let other = !described.is_empty();
    let both = numbers.flat_map(|number| {
        let kept = chosen(number);
        let written = other.then(|| Choice { kept: kept.clone(), as_written: true });
        [Some(Choice { kept, as_written: false }), written].into_iter().flatten()
    });
    std::iter::once(now).chain(both).collect()
}

/// Whether a source has about half as many rows as there are values at least: then most groups by these are described.
fn is_covered(st: &StreamTable, source: SourceId, values: &Sql) -> bool {
    let rows = class::estimated_rows(source.0);
    if rows < 0.0 {
        return true;
    }
    let _connection = Connection::open();
    let _settings = local_settings(st);
    let _owner = RunAs::restricted(st.owner);
    let expected = Plan::prepare(values.as_str(), &[]).expected_rows();
    expected < LARGE_ROWS || rows >= expected / 2.0
}

fn worthwhile(st: &StreamTable, all: &[Selection]) -> Vec<Selection> {
    if settings::DEBUG_SELECTIONS.get() {
        return all.to_vec();
    }
    let rows = |source: &SourceId| class::estimated_rows(source.0);
    let for_larger = |selection: &&Selection| match &selection.reduction {
        None => true,
        Some(Reduction { by, joined }) => {
            (0.0..LARGE_ROWS).contains(&rows(by))
                && joined.iter().any(|other| rows(other) >= LARGER * rows(&selection.source))
        }
    };
    let large = all.iter().filter(|s| rows(&s.source) >= LARGE_ROWS).filter(for_larger);
    let large: Vec<&Selection> = large.collect();
    if large.is_empty() {
        return Vec::new();
    }
    // Planning can run functions of the owner's.
    let _connection = Connection::open();
    let _settings = local_settings(st);
    let _owner = RunAs::restricted(st.owner);
    let few = |s: &&Selection| Plan::prepare(s.query.as_str(), &[]).expected_rows() <= FEW * rows(&s.source);
    large.into_iter().filter(few).cloned().collect()
}
