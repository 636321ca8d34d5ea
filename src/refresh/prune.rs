//! Emptying change buffers: a segment all of whose rows are in every consumer's frontier is truncated.

use super::sources::buffer_of;
use crate::catalog::{self, SourceType, StreamTable};
use pgrx::Spi;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::{Ident, QualifiedName, Sql};
use pgtrickle_pg::{class, lock};

/// Segments below this size are left alone: reading them costs less than emptying them.
const MIN_BLOCKS: u32 = 128;

/// Empties what no stream table needs any more of the buffer of `source`. Nothing is waited for: a segment that is in
/// use now is left for later. A creation in progress keeps its sources' segments locked, so that rows it will need stay.
/// Says whether one was in use.
pub fn prune(source: u32) -> bool {
    let Some(buffer) = buffer_of(source) else { return false };
    let mut in_use = false;
    for (number, segment) in buffer.segments.into_iter().enumerate() {
        if class::blocks(segment) < MIN_BLOCKS {
            continue;
        }
        if !lock::try_access_exclusive(segment) {
            in_use = true;
        } else {
            let name = QualifiedName {
                schema: Ident::new("pgtrickle_changes"),
                name: Ident::new(format!("changes_{source}_{number}")),
            };
            // Read only now: whoever was creating a stream table over this source has committed.
            let consumers: Vec<StreamTable> = catalog::all()
                .into_iter()
                .filter(|st| !st.is_immediate() && st.sources.iter().any(|s| s.relid == source))
                .collect();
            if consumed(&name, source, &consumers) {
                let _owner = catalog::as_owner();
                super::fill::ddl(&sql!("TRUNCATE {}", name));
            }
        }
    }
    in_use
}

/// Whether every row of the segment is visible in the frontier of every consumer. One that has no frontier needs no
/// rows: it is going to be recomputed. Of a parent's rows those that the consumer's own refresh wrote are known to it;
/// of a table's they are what the creating transaction wrote after the creation.
fn consumed(segment: &QualifiedName, source: u32, consumers: &[StreamTable]) -> bool {
    let sources = || consumers.iter().flat_map(|st| &st.sources);
    let from_parent = sources().any(|s| s.relid == source && s.kind == SourceType::StreamTable);
    let needed = Sql::any(consumers.iter().filter_map(|st| st.frontier.as_ref()).map(|frontier| {
        sql!(
            "(xid <> {} AND NOT pg_catalog.pg_visible_in_snapshot(xid, {}))",
            sql!(
                "{}::xid8",
                pgtrickle_engine::sql::Literal::text(if from_parent { frontier.xid } else { 0 }.to_string())
            ),
            sql!("{}::pg_snapshot", pgtrickle_engine::sql::Literal::text(frontier.visible.to_string()))
        )
    }));
    let query = sql!("SELECT 1 FROM {} WHERE {} LIMIT 1", segment, needed);
    pgtrickle_pg::snapshot::Snapshot::latest()
        .active(|| Spi::connect(|client| client.select(query.as_str(), Some(1), &[]).map(|rows| rows.is_empty())))
        .unwrap_or_else(|e| pgrx::error!("{e}"))
}
