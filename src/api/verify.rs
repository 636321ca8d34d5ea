//! `verify_stream_table`: the audit.

use super::refresh::refresh_now;
use crate::catalog::{self, StreamTable};
use crate::error::{Error, Result, or_raise};
use crate::refresh::{local_settings, partitions, program};
use pgrx::prelude::*;
use pgtrickle_engine::ir::Equality;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::{QualifiedName, Sql};
use pgtrickle_pg::snapshot::Snapshot;
use pgtrickle_pg::spi::{Connection, Plan, RunAs};

/// How often it is begun anew because somebody has redefined what the query reads.
const TRIES: usize = 10;

/// Refreshes a stream table, then compares it with its query under the very same snapshot: how many rows are missing
/// from it, and how many it has too many. Both are 0 unless something is wrong.
#[pg_extern]
fn verify_stream_table(name: &str) -> TableIterator<'static, (name!(missing, i64), name!(extra, i64))> {
    let st = or_raise(super::to_change(name));
    let mut counts = or_raise(or_raise(refresh_now(&st, compare)));
    for _ in 0..TRIES {
        // Whoever redefines what the query reads between the refresh and the comparison asks for a recomputation.
        if counts == (0, 0) || catalog::by_id(st.pgt_id).is_none_or(|now| !now.needs_reinit) {
            break;
        }
        counts = or_raise(or_raise(refresh_now(&st, compare)));
    }
    if counts != (0, 0) {
        catalog::doubt(&st);
        catalog::changed();
        warning!("stream table {} differs from its query; its next refresh recomputes it", st.label());
    }
    TableIterator::once(counts)
}

fn compare(st: &StreamTable, snapshot: &Snapshot) -> Result<(i64, i64)> {
    // Dropped while we waited for its lock.
    catalog::by_id(st.pgt_id).ok_or_else(|| Error::no_such_stream_table(&st.label()))?;
    let loaded = program::load(st)?;
    let table = Sql::from(&QualifiedName::new(&st.schema, &st.name));
    let definition = match &loaded.settled {
        Some(query) => sql!("({}) AS query", query),
        None => Sql::from(&program::definition_view(st.pgt_id)),
    };
    // Rows are counted per value; types without equality are compared by their bytes.
    let keys = Sql::list(loaded.columns.iter().map(|(name, ty)| match ty.equality {
        Equality::None => sql!("pgtrickle.row_image({})", name),
        _ => Sql::from(name),
    }));
    let columns: Vec<Sql> = (0..loaded.columns.len()).map(Sql::column).collect();
    let rows = |from: &Sql, weight: i64| sql!("SELECT {}::bigint{} FROM {}", weight, prefixed(&keys), from);
    let query = sql!(
        "SELECT coalesce(sum(w) FILTER (WHERE w > 0), 0)::text || ' ' || coalesce(-sum(w) FILTER (WHERE w < 0), 0)::text
           FROM (SELECT sum(w) AS w FROM ({} UNION ALL {}) AS rows(w{}) {}) AS netted",
        rows(&definition, 1),
        rows(&table, -1),
        prefixed(&Sql::list(columns.iter())),
        match columns.is_empty() {
            true => Sql::default(),
            false => sql!("GROUP BY {}", Sql::list(columns.iter())),
        }
    );
    let _connection = Connection::open();
    let _settings = local_settings(st);
    let _owner = RunAs::restricted(st.owner);
    let text = Plan::prepare(query.as_str(), &[]).first_text(snapshot).unwrap_or_default();
    partitions::unchanged(st, snapshot)?;
    let mut numbers = text.split(' ').map(|n| n.parse().unwrap_or(-1));
    Ok((numbers.next().unwrap_or(-1), numbers.next().unwrap_or(-1)))
}

/// `, list`, or nothing for an empty list.
fn prefixed(list: &Sql) -> Sql {
    if list.as_str().is_empty() { Sql::default() } else { sql!(", {}", list) }
}
