//! `explain_delta`: the statements of a refresh, to be read or run by hand.

use super::{all, layout, statement};
use crate::catalog;
use crate::error::or_raise;
use crate::refresh::program;
use pgrx::prelude::*;

/// The statements of a refresh in which every source has changed, in their order, a line a row. Needs ownership, as they contain
/// the query.
#[pg_extern]
fn explain_delta(name: &str) -> SetOfIterator<'static, String> {
    let st = or_raise(catalog::by_name_owned(name));
    let loaded = or_raise(program::load(&st));
    let steps = match loaded.program.is_differential() {
        true => loaded.program.refresh(&all(&st, &loaded)),
        false => loaded.program.recompute(),
    };
    let statements = steps
        .iter()
        .map(statement)
        .flat_map(|(what, sql)| std::iter::once(format!("-- {what}")).chain(layout::lines(&format!("{sql};"), 0)));
    SetOfIterator::new(statements.collect::<Vec<_>>())
}
