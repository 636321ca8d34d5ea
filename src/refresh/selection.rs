//! Which filtered scans of a query are kept as they are: those of large tables of which few rows pass, as the planner sees it.
//!
//! The choice is made when state is made, and recognised afterwards by the fingerprint of what was made, whatever the planner
//! would say by then.

use super::local_settings;
use crate::catalog::StreamTable;
use pgtrickle_engine::program::Definition;
use pgtrickle_engine::selection::{Selection, selections};
use pgtrickle_pg::class;
use pgtrickle_pg::spi::{Connection, Plan, RunAs};

/// Of smaller tables any row is found cheaply.
const LARGE_ROWS: f64 = 1_000.0;
/// So small a part of a table is few rows.
const FEW: f64 = 0.15;
/// All combinations of so many selections are tried in order to recognise one; of more none is kept.
const MOST: usize = 6;

/// The choices that may have been made for a stream table, the likeliest first.
pub fn choices(st: &StreamTable, definition: &Definition) -> Vec<Vec<Selection>> {
    let all = selections(definition);
    let none = st.is_immediate() || all.len() > MOST;
    let now: Vec<Selection> = if none { Vec::new() } else { worthwhile(st, &all) };
    if st.fingerprint == 0 || all.is_empty() || all.len() > MOST {
        return vec![now];
    }
    let numbers = 0..1_usize << all.len();
    let chosen = |number: usize| {
        let is_in = |(i, _): &(usize, &Selection)| number & 1 << i != 0;
        all.iter().enumerate().filter(is_in).map(|(_, selection)| selection.clone()).collect()
    };
    std::iter::once(now).chain(numbers.map(chosen)).collect()
}

fn worthwhile(st: &StreamTable, all: &[Selection]) -> Vec<Selection> {
    let large = all.iter().filter(|s| class::estimated_rows(s.source.0) >= LARGE_ROWS);
    let large: Vec<&Selection> = large.collect();
    if large.is_empty() {
        return Vec::new();
    }
    // Planning can run functions of the owner's.
    let _connection = Connection::open();
    let _settings = local_settings(st);
    let _owner = RunAs::restricted(st.owner);
    let few = |s: &&Selection| {
        Plan::prepare(s.query.as_str(), &[]).expected_rows() <= FEW * class::estimated_rows(s.source.0)
    };
    large.into_iter().filter(few).cloned().collect()
}
