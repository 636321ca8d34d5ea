//! The triggers on sources that tell of their changes. All stream tables that are maintained at once share those of a source.

use crate::analyze::Source;
use crate::api::{is_stream_table, track};
use crate::catalog;
use crate::error::{Error, Result};
use crate::refresh::{fill::ddl, lock_all, ours};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::{Ident, QualifiedName, Sql};
use pgtrickle_pg::snapshot::Snapshot;
use pgtrickle_pg::spi::current_role;
use pgtrickle_pg::transition::{Fires, set_firing};
use pgtrickle_pg::{depend, lock, table};

/// For each row that replication applies: that fires no triggers of statements, so nobody would be told. On a partitioned table
/// it is also on every partition; its name ends in the OID of the table, as a source may become a partition of another.
const REPLICA: &str = "pgtrickle_replica_";

/// Name, time and event, and transition tables of each that is for statements, on a table and on each partition.
const TRIGGERS: [(&str, &str, &str); 5] = [
    ("pgtrickle_before", "BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE", ""),
    ("pgtrickle_insert", "AFTER INSERT", "REFERENCING NEW TABLE AS pgtrickle_new"),
    ("pgtrickle_update", "AFTER UPDATE", "REFERENCING OLD TABLE AS pgtrickle_old NEW TABLE AS pgtrickle_new"),
    ("pgtrickle_delete", "AFTER DELETE", "REFERENCING OLD TABLE AS pgtrickle_old"),
    ("pgtrickle_truncate", "AFTER TRUNCATE", ""),
];

/// From now on, and until this transaction ends, nobody else writes to these sources; from then on all that is written to
/// them is told of. Whoever is writing is waited for. Stream tables among them cannot be refreshed meanwhile.
pub fn install(sources: &[Source]) -> Result<()> {
    let (parents, tables): (Vec<_>, Vec<_>) = sources.iter().partition(|s| is_stream_table(s));
    may_trigger(sources)?;
    for source in tables {
        let relid = source.relid.to_u32();
        hold_off_writers(relid).into_iter().for_each(|part| set(part, &name_of(part)));
        // Whether or not a trigger was missing, others must learn of a new reader.
        depend::invalidate(relid);
    }
    let ids: Vec<i64> =
        parents.iter().filter_map(|s| catalog::by_relid(s.relid.to_u32())).map(|st| st.pgt_id).collect();
    lock_all(&ids);
    parents.iter().try_for_each(|s| {
        depend::invalidate(s.relid.to_u32());
        track::create_parent_buffer(s.relid.to_u32())
    })
}

/// After a definition that concerns `table`, the source or a part of it: new parts get triggers, and nobody has turned those
/// of the table off.
pub fn ensure(source: u32, table: u32) -> Result<()> {
    let has_all = |known: Vec<String>| {
        TRIGGERS.iter().all(|(name, _, _)| known.iter().any(|k| k == name))
            && known.iter().any(|k| k.starts_with(REPLICA))
    };
    parts(source).into_iter().filter(|&part| !has_all(names(part))).for_each(|part| set(part, &name_of(part)));
    let off: Option<String> = catalog::scalar(
        "SELECT tgname::text FROM pg_catalog.pg_trigger
          WHERE tgrelid = $1 AND tgfoid = 'pgtrickle._immediate()'::regprocedure
            AND tgenabled <> CASE WHEN tgname LIKE 'pgtrickle\\_replica\\_%' THEN 'R' ELSE 'A' END LIMIT 1",
        &[pg_sys::Oid::from(table).into()],
    );
    match off {
        None => Ok(()),
        Some(trigger) => Err(Error::new(
            Code::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
            format!("cannot disable trigger {trigger} on table {}", name_of(table)),
        )
        .detail("Stream tables whose refresh_mode is IMMEDIATE would no longer follow the table.")
        .hint("Give them another refresh_mode first, or name the triggers to disable.")),
    }
}

/// As for any trigger: it can make statements of others fail.
fn may_trigger(sources: &[Source]) -> Result<()> {
    let user = current_role().into();
    match sources.iter().find(|s| !table::may_trigger(user, s.relid)) {
        None => Ok(()),
        Some(source) => Err(Error::new(
            Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("permission denied: table {} would get triggers", source.label()),
        )
        .detail("With refresh_mode IMMEDIATE whoever writes to a source maintains the stream table.")
        .hint(format!("GRANT TRIGGER ON {} TO …, or use refresh_mode => 'AUTO'.", source.name))),
    }
}

/// A table and its partitions, by OID, in which order they are locked.
fn parts(relid: u32) -> Vec<u32> {
    if !table::is_partitioned(relid.into()) {
        return vec![relid];
    }
    let mut parts: Vec<u32> = table::with_children(relid.into()).into_iter().map(|part| part.to_u32()).collect();
    parts.sort_unstable();
    parts
}

/// Whoever is writing to a source is waited for; from then on, until this transaction ends, nobody else writes to it, or gives it
/// a partition. Returns what it consists of then.
pub fn hold_off_writers(relid: u32) -> Vec<u32> {
    lock::against_writers(relid);
    loop {
        // Whoever was waited for may have attached one, at any level.
        let known = parts(relid);
        known.iter().copied().for_each(lock::against_writers);
        if parts(relid) == known {
            return known;
        }
    }
}

fn name_of(relid: u32) -> QualifiedName {
    let relation = table::Relation::describe(relid.into());
    QualifiedName::new(&relation.schema, &relation.name)
}

fn set(relid: u32, name: &QualifiedName) {
    lock::against_writers(relid);
    let _owner = catalog::as_owner();
    let known = names(relid);
    for (trigger, event, transition) in TRIGGERS.iter().filter(|(trigger, _, _)| !known.iter().any(|k| k == trigger)) {
        ddl(&sql!(
            "CREATE TRIGGER {} {} ON {} {} FOR EACH STATEMENT EXECUTE FUNCTION pgtrickle._immediate()",
            Ident::new(*trigger),
            Sql::text(event),
            name,
            Sql::text(transition)
        ));
        set_firing(relid, trigger, Fires::Always);
    }
    let replica = of_rows(relid);
    if !table::is_partition(relid.into()) && !known.contains(&replica) {
        ddl(&sql!(
            "CREATE TRIGGER {} AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW EXECUTE FUNCTION pgtrickle._immediate()",
            Ident::new(&replica),
            name
        ));
        set_firing(relid, &replica, Fires::Replica);
    }
}

/// The name of a table's own trigger for rows.
fn of_rows(relid: u32) -> String {
    format!("{REPLICA}{relid}")
}

/// The triggers of ours that a table has.
fn names(relid: u32) -> Vec<String> {
    catalog::scalar(
        "SELECT array(SELECT tgname::text FROM pg_catalog.pg_trigger
                       WHERE tgrelid = $1 AND tgfoid = 'pgtrickle._immediate()'::regprocedure)",
        &[pg_sys::Oid::from(relid).into()],
    )
    .unwrap_or_default()
}

/// Drops the triggers of one table that no stream table needs any more, if it can be done without waiting.
pub fn remove_unused() {
    // Whoever had it until now may have committed a reader meanwhile.
    let free = |relid: &&pg_sys::Oid| lock::try_access_exclusive(relid.to_u32());
    if let Some(relid) = needed_by_nobody().iter().find(free).filter(|relid| needed_by_nobody().contains(relid)) {
        drop_all(relid.to_u32());
    }
}

/// The tables with triggers of ours that no stream table needs.
fn needed_by_nobody() -> Vec<pg_sys::Oid> {
    const UNUSED: &str = "
        SELECT array(SELECT DISTINCT t.tgrelid FROM pg_catalog.pg_trigger t
                       WHERE t.tgfoid = 'pgtrickle._immediate()'::regprocedure
                         AND NOT EXISTS (SELECT FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_stream_tables s USING (pgt_id)
                                          WHERE s.refresh_mode = 'IMMEDIATE'
                                            AND (d.source_relid::oid = t.tgrelid
                                                 OR d.source_relid IN (SELECT relid FROM pg_catalog.pg_partition_ancestors(t.tgrelid)))))";
    Snapshot::latest().active(|| catalog::scalar(UNUSED, &[])).unwrap_or_default()
}

/// Drops the triggers of every table.
pub fn remove_all() {
    let tables: Vec<pg_sys::Oid> = Spi::connect(|client| {
        let query =
            "SELECT DISTINCT tgrelid FROM pg_catalog.pg_trigger WHERE tgfoid = 'pgtrickle._immediate()'::regprocedure";
        let rows = client.select(query, None, &[]).unwrap_or_report();
        rows.filter_map(|row| row.get(1).unwrap_or_report()).collect()
    });
    tables.iter().for_each(|relid| drop_all(relid.to_u32()));
}

fn drop_all(relid: u32) {
    let (_owner, _work) = (catalog::as_owner(), ours::begin(relid));
    let name = name_of(relid);
    // What a partition has of its table's goes with that.
    let own = |trigger: &String| !trigger.starts_with(REPLICA) || *trigger == of_rows(relid);
    for trigger in names(relid).into_iter().filter(own) {
        ddl(&sql!("DROP TRIGGER {} ON {}", Ident::new(trigger), name));
    }
}
