//! Understanding a stream table: the statements of its refresh. And the catalog of our errors.

use crate::catalog::{self, SourceType};
use crate::error::{Error, or_raise};
use crate::refresh::program;
use pgrx::prelude::*;
use pgtrickle_engine::ir::SourceId;
use pgtrickle_engine::program::Step;
use std::collections::BTreeSet;

/// The id of the stream table of this name; an error if there is none.
#[pg_extern(stable)]
fn _id_of(name: &str) -> i64 {
    or_raise(catalog::by_name(name)).pgt_id
}

/// The statements of a refresh in which every source has changed. Needs ownership, as they contain the query.
#[pg_extern]
fn explain_delta(name: &str) -> SetOfIterator<'static, String> {
    let st = or_raise(catalog::by_name_owned(name));
    let loaded = or_raise(program::load(&st));
    let changed: BTreeSet<SourceId> =
        st.sources.iter().filter(|s| s.kind != SourceType::Other).map(|s| SourceId(s.relid)).collect();
    let steps = match loaded.program.is_differential() {
        true => loaded.program.refresh(&changed),
        false => loaded.program.recompute(),
    };
    let lines: Vec<_> = steps
        .iter()
        .map(|step| match step {
            Step::Stage { name, query, .. } => format!("{} := {query}", name.as_str()),
            Step::Modify { sql, .. } => sql.to_string(),
            Step::Check { query, .. } => format!("check: {query}"),
        })
        .collect();
    SetOfIterator::new(lines)
}

/// Errors that pg_trickle itself raises: SQLSTATE, message, and what to do.
#[pg_extern(immutable)]
fn error_catalog() -> TableIterator<
    'static,
    (name!(sqlstate, String), name!(message, String), name!(detail, Option<String>), name!(hint, Option<String>)),
> {
    TableIterator::new(Error::examples().into_iter().map(|e| (sqlstate(e.code as i32), e.message, e.detail, e.hint)))
}

/// The five characters of a packed SQLSTATE, six bits each.
pub fn sqlstate(packed: i32) -> String {
    (0..5).map(|i| char::from(b'0' + (packed >> (6 * i) & 0x3f) as u8)).collect()
}
