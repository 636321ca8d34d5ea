//! Looking at stream tables.

use crate::catalog;
use crate::error::or_raise;
use crate::graph::Graph;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;

/// The version of the extension.
#[pg_extern]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// The relations that a stream table reads.
#[pg_extern]
fn list_sources(
    name: &str,
) -> TableIterator<
    'static,
    (
        name!(source_table, String),
        name!(source_oid, pg_sys::Oid),
        name!(source_type, String),
        name!(columns_used, Vec<String>),
    ),
> {
    let st = or_raise(catalog::by_name(name));
    let rows: Vec<_> = Spi::connect(|client| {
        client
            .select(
                "SELECT d.source_relid::text, d.source_relid::oid, d.source_type,
                        array(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                               WHERE a.attrelid = d.source_relid AND a.attnum = ANY (d.columns_used) ORDER BY a.attnum)
                   FROM pgtrickle.pgt_dependencies d WHERE d.pgt_id = $1 ORDER BY 1",
                None,
                &[st.pgt_id.into()],
            )
            .unwrap_or_report()
            .map(|row| {
                (
                    row.get(1).unwrap_or_report().unwrap_or_default(),
                    row.get(2).unwrap_or_report().unwrap_or(pg_sys::InvalidOid),
                    row.get(3).unwrap_or_report().unwrap_or_default(),
                    row.get(4).unwrap_or_report().unwrap_or_default(),
                )
            })
            .collect()
    });
    TableIterator::new(rows)
}

/// Where ways through stream tables meet again: from which relation, in which stream table, through which of its sources; and
/// all that lies on those ways.
#[pg_extern]
fn _diamonds() -> TableIterator<
    'static,
    (
        name!(origin, pg_sys::Oid),
        name!(tip, pg_sys::Oid),
        name!(arms, Vec<pg_sys::Oid>),
        name!(members, Vec<pg_sys::Oid>),
    ),
> {
    let all = catalog::all();
    let oids = |relids: &mut dyn Iterator<Item = u32>| relids.map(pg_sys::Oid::from).collect::<Vec<_>>();
    let rows: Vec<_> = Graph::of(all.iter())
        .diamonds()
        .iter()
        .flat_map(|diamond| {
            let meetings = diamond.meetings().into_iter();
            let members = oids(&mut diamond.members().into_iter());
            meetings.map(move |(origin, arms)| {
                (origin.into(), diamond.tip.into(), oids(&mut arms.into_iter()), members.clone())
            })
        })
        .collect();
    TableIterator::new(rows)
}
