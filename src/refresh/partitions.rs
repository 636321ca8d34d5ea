//! ATTACH PARTITION takes no lock that keeps readers away, and what a query reads does not depend on its snapshot: a
//! partition that comes after S is read all the same, with all rows that are older than S.

use crate::catalog::{Dependency, StreamTable};
use crate::error::{Error, Result};
use pgrx::PgSqlErrorCode as Code;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::Literal;
use pgtrickle_pg::snapshot::Snapshot;
use pgtrickle_pg::spi::{Connection, Plan};
use pgtrickle_pg::table;
use std::cell::RefCell;
use std::collections::HashMap;

thread_local! {
    /// Per partitioned table, the query for its partitions.
    static PARTITIONS: RefCell<HashMap<u32, Plan>> = RefCell::default();
}

/// An error if some source has other partitions by now than `snapshot` shows: what was computed may be of either. Since the
/// sources are locked, none can have gone and come back.
pub fn unchanged(st: &StreamTable, snapshot: &Snapshot) -> Result<()> {
    let partitioned = |source: &&Dependency| table::is_partitioned(source.relid.into());
    for source in st.sources.iter().filter(partitioned) {
        if partitions(source.relid, snapshot) != partitions(source.relid, &Snapshot::latest()) {
            return Err(Error::new(
                Code::ERRCODE_T_R_SERIALIZATION_FAILURE,
                format!("a partition was attached to a source of stream table {} during its refresh", st.label()),
            )
            .hint("Refresh again."));
        }
    }
    Ok(())
}

fn partitions(relid: u32, snapshot: &Snapshot) -> Option<String> {
    let _connection = Connection::open();
    let known = PARTITIONS.with_borrow_mut(|plans| plans.remove(&relid));
    let plan = known.unwrap_or_else(|| {
        let query = sql!(
            "WITH RECURSIVE tree (relid) AS (
                 SELECT {}::oid UNION ALL
                 SELECT i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.relid)
             SELECT pg_catalog.string_agg(relid::text, ' ' ORDER BY relid) FROM tree",
            Literal::text(relid.to_string())
        );
        Plan::prepare(query.as_str(), &[])
    });
    let found = plan.first_text(snapshot);
    PARTITIONS.with_borrow_mut(|plans| plans.insert(relid, plan));
    found
}
