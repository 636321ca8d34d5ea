//! The health cycle: every few seconds one query measures all change buffers, and what has gone beyond a threshold is told
//! by NOTIFY, once until it is well again.

use crate::catalog::{self, StreamTable};
use crate::shmem::{self, DbShared};
use crate::{api, refresh, settings};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::{Ident, Literal, QualifiedName, Sql};
use pgtrickle_pg::worker;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// Counting may take this part of the time: after a slow count of large buffers the next one comes later.
const COUNTING_SHARE: u32 = 20;

/// What has been told already.
type Told = BTreeSet<(&'static str, u32)>;

/// An event for `pg_trickle_alert`.
struct Event<'a> {
    name: &'static str,
    st: Option<&'a StreamTable>,
    message: String,
}

/// What the cycles remember.
pub struct Watch {
    told: Told,
    /// Counters of each stream table when its refreshes were last told.
    refreshes: BTreeMap<i64, (u64, u64)>,
    count_at: Instant,
    /// The buffers are to be counted.
    changed: bool,
}

impl Watch {
    /// Refreshes before a restart of the worker are not told again.
    pub fn new(db: &DbShared) -> Watch {
        let dboid = db.dboid.load(Relaxed);
        let mine = shmem::shared().stream_tables.iter().filter(|s| s.dboid.load(Relaxed) == dboid);
        let refreshes = mine.map(|s| (s.pgt_id.load(Relaxed), counted(s))).collect();
        Watch { told: Told::new(), refreshes, count_at: Instant::now(), changed: true }
    }

    /// One look at everything; at the buffers only if they can have `changed` since the last one.
    pub fn cycle(&mut self, db: &DbShared, sources: &BTreeSet<u32>, changed: bool, tables: &[&StreamTable]) {
        self.changed |= changed;
        if !self.changed {
            db.health_cycles.fetch_add(1, Relaxed);
        } else if Instant::now() >= self.count_at {
            self.changed = false;
            let began = Instant::now();
            super::or_warn("the change buffers could not be measured", || measure(db, sources));
            self.count_at = Instant::now() + began.elapsed() * COUNTING_SHARE;
            db.health_cycles.fetch_add(1, Relaxed);
        }
        let mut events = self.refreshes(tables);
        events.extend(self.conditions(db, tables));
        if events.is_empty() {
            return;
        }
        super::or_warn("alerts could not be sent", || {
            events.iter().for_each(|e| api::alert(e.name, e.st, &e.message));
        });
    }

    /// Refreshes since the last cycle, summed up per stream table.
    fn refreshes<'a>(&mut self, tables: &[&'a StreamTable]) -> Vec<Event<'a>> {
        let mut events = Vec::new();
        for &st in tables {
            let Some(shared) = st.counters() else { continue };
            let now = counted(shared);
            let before = self.refreshes.insert(st.pgt_id, now).unwrap_or_default();
            let refreshes = now.0.saturating_sub(before.0);
            if refreshes > 0 {
                let rows = now.1.saturating_sub(before.1);
                let last_ms = shared.last_duration_us.load(Relaxed) as f64 / 1000.0;
                let message = format!("refreshes: {refreshes}, rows changed: {rows}, last took: {last_ms:.1} ms");
                events.push(Event { name: "refresh_completed", st: Some(st), message });
            }
        }
        self.refreshes.retain(|pgt_id, _| tables.iter().any(|st| st.pgt_id == *pgt_id));
        events
    }

    /// What is not well and was so far.
    fn conditions<'a>(&mut self, db: &DbShared, tables: &[&'a StreamTable]) -> Vec<Event<'a>> {
        let mut events = Vec::new();
        let mut news = |name, about: u32, unwell: bool, st, message: &dyn Fn() -> String| {
            if !unwell {
                self.told.remove(&(name, about));
            } else if self.told.insert((name, about)) {
                events.push(Event { name, st, message: message() });
            }
        };
        let dboid = db.dboid.load(Relaxed);
        for buffer in shmem::shared().sources.iter().filter(|s| s.dboid.load(Relaxed) == dboid) {
            let rows = buffer.pending_rows.load(Relaxed);
            let threshold = settings::BUFFER_ALERT_THRESHOLD.get() as u64;
            news("buffer_growth_warning", buffer.relid.load(Relaxed), rows > threshold, None, &|| {
                format!(
                    "{rows} changes of {} wait for refreshes (threshold {threshold})",
                    shmem::load_text(&buffer.name)
                )
            });
        }
        let retained_mb = db.slot_retained_bytes.load(Relaxed) >> 20;
        let threshold = settings::SLOT_LAG_WARNING_THRESHOLD_MB.get() as u64;
        news("slot_lag_warning", 0, retained_mb > threshold, None, &|| {
            format!("the replication slot retains {retained_mb} MB of WAL (threshold {threshold})")
        });
        let now = worker::now_us();
        for &st in tables {
            let Some(shared) = st.counters() else { continue };
            news("stale_data", st.relid, shared.is_stale(now), Some(st), &|| {
                let age = now - shared.fresh_until.load(Relaxed);
                format!("the data is {:.0} s old", age as f64 / 1e6)
            });
        }
        events
    }
}

/// Refreshes and rows so far.
fn counted(shared: &shmem::StreamTableShared) -> (u64, u64) {
    let refreshes = shared.differential_refreshes.load(Relaxed) + shared.full_refreshes.load(Relaxed);
    (refreshes, shared.rows_changed.load(Relaxed))
}

/// Counts the pending rows of every buffer, and their bytes, by one query.
fn measure(db: &DbShared, sources: &BTreeSet<u32>) {
    let dboid = db.dboid.load(Relaxed);
    let mut found = BTreeSet::new();
    if !sources.is_empty() {
        let _owner = catalog::as_owner();
        let query = query(sources);
        Spi::connect(|client| {
            for row in client.select(query.as_str(), None, &[]).unwrap_or_report() {
                let number = |i| row.get::<i64>(i).unwrap_or_report().unwrap_or_default() as u64;
                let relid = number(1) as u32;
                found.insert(relid);
                let Some(place) = shmem::source(dboid, relid) else { continue };
                let name = row.get::<Vec<u8>>(2).unwrap_or_report().unwrap_or_default();
                shmem::store_text(&place.name, &String::from_utf8_lossy(&name));
                let pending = row.get::<i64>(3).unwrap_or_report();
                place.buffered.store(pending.is_some(), Relaxed);
                place.pending_rows.store(pending.unwrap_or_default() as u64, Relaxed);
                place.buffer_bytes.store(number(4), Relaxed);
            }
        });
    }
    shmem::retain_sources(dboid, |relid| found.contains(&relid));
}

/// One row per source: its name as it is, which in a database of encoding SQL_ASCII may be any bytes; pending are the rows of its buffer that some stream table has not seen yet, NULL if it has none.
fn query(sources: &BTreeSet<u32>) -> Sql {
    let each = sources.iter().map(|&relid| {
        if refresh::sources::buffer_of(relid).is_none() {
            return sql!("SELECT {}::oid, NULL::bigint", Literal::text(relid.to_string()));
        }
        let name = format!("changes_{relid}");
        let buffer = QualifiedName { schema: Ident::new("pgtrickle_changes"), name: Ident::new(&name) };
        sql!(
            "SELECT {}::oid, (SELECT count(*) FROM {} b WHERE EXISTS (SELECT FROM readers r WHERE r.source_relid = {}::oid
                    AND NOT coalesce(pg_visible_in_snapshot(b.xid, r.frontier) OR b.xid = r.frontier_xid, false)))",
            Literal::text(relid.to_string()),
            buffer,
            Literal::text(relid.to_string())
        )
    });
    sql!(
        "WITH readers AS MATERIALIZED (
             SELECT d.source_relid, s.frontier, s.frontier_xid
               FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_stream_tables s USING (pgt_id)
              WHERE s.refresh_mode <> 'IMMEDIATE')
         SELECT m.relid::bigint, convert_to(format('%s.%s', n.nspname, c.relname), 'SQL_ASCII'), m.pending,
                (SELECT coalesce(sum(pg_total_relation_size(i.inhrelid)), 0)::bigint FROM pg_inherits i
                  WHERE i.inhparent = to_regclass('pgtrickle_changes.changes_' || m.relid))
           FROM ({}) AS m (relid, pending)
           JOIN pg_class c ON c.oid = m.relid JOIN pg_namespace n ON n.oid = c.relnamespace",
        Sql::join(" UNION ALL ", each)
    )
}
