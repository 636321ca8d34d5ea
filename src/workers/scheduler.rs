//! The scheduler: one per database. Decides which stream tables are due and refreshes them.

use crate::catalog::{self, Frontier, SourceType, StreamTable};
use crate::error::Error;
use crate::refresh::{self, Initiator, Outcome, prune};
use crate::shmem::{self, DbShared};
use crate::{api, settings};
use pgrx::prelude::*;
use pgtrickle_pg::xact::{self, Failure};
use pgtrickle_pg::{wait, worker};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often buffers, the slot and the history are looked after.
const HOUSEKEEPING: Duration = Duration::from_secs(2);
/// The catalog is read again this often even when nobody said that it changed.
const REREAD: Duration = Duration::from_secs(60);
/// Stream tables that are recomputed whatever has changed are so at most this often.
const MIN_RECOMPUTE: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// A stream table as the scheduler sees it.
struct Entry {
    st: StreamTable,
    every: Duration,
    next_due: Instant,
    /// Change counts of the sources when all their changes were last known to be in the stream table.
    seen: BTreeMap<u32, u64>,
    /// Steps from the base tables; parents have less than their children.
    depth: usize,
    failures: u32,
    /// As the last refresh found: changes leave no trace, so it is recomputed on schedule.
    blind: bool,
}

impl Entry {
    fn has_changes(&self, db: &DbShared) -> bool {
        let frontier = self.st.frontier.as_ref().unwrap_or(Frontier::EMPTY);
        frontier == Frontier::EMPTY
            || self.st.needs_reinit
            || self.blind
            || self.st.sources.iter().any(|s| {
                s.kind == SourceType::Other || self.seen.get(&s.relid) != Some(&db.source_change_count(s.relid))
            })
    }
}

/// Main function of a scheduler.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pgtrickle_scheduler_main(dboid: pg_sys::Datum) {
    worker::handle_signals();
    let dboid = dboid.value() as u32;
    worker::connect(dboid);
    worker::set_config(c"application_name", c"pg_trickle_scheduler");
    worker::neutralise_settings();
    if !worker::in_transaction(catalog::installed) {
        // Left over when the server went down between DROP EXTENSION and its tidying up.
        worker::in_transaction(|| api::drop_capture(dboid));
        return;
    }
    let Some(db) = shmem::claim_db(dboid) else {
        warning!("pg_trickle serves {} databases already and cannot serve another", shmem::MAX_DATABASES);
        return;
    };
    shmem::store_text(&db.name, &worker::in_transaction(catalog::database_name));
    db.retired.store(false, Ordering::SeqCst);
    db.scheduler_latch.publish();
    db.scheduler_pid.store(worker::pid(), Ordering::SeqCst);
    worker::before_exit(|| {
        if let Some(db) = shmem::my_db() {
            db.scheduler_latch.clear();
            db.scheduler_pid.store(0, Ordering::SeqCst);
        }
    });
    // The launcher starts the workers of capture as soon as the place is claimed.
    shmem::shared().launcher_latch.wake();
    Scheduler::new(db).run();
}

struct Scheduler {
    db: &'static DbShared,
    entries: BTreeMap<i64, Entry>,
    reread_at: Instant,
    housekeeping_at: Instant,
}

impl Scheduler {
    fn new(db: &'static DbShared) -> Scheduler {
        let now = Instant::now();
        Scheduler { db, entries: BTreeMap::new(), reread_at: now, housekeeping_at: now }
    }

    fn run(mut self) {
        loop {
            worker::attend();
            if self.db.catalog_dirty.swap(false, Ordering::SeqCst) || Instant::now() >= self.reread_at {
                self.reread();
            }
            let due = if settings::ENABLED.get() { self.due() } else { BTreeSet::new() };
            for component in self.components(due) {
                self.refresh(&component);
            }
            if Instant::now() >= self.housekeeping_at {
                self.housekeeping_at = Instant::now() + HOUSEKEEPING;
                if !worker::in_transaction(catalog::installed) {
                    return self.retire();
                }
                self.keep_house();
            }
            worker::report_activity(c"waiting for changes or the next schedule", false);
            let nap = self.nap();
            if !nap.is_zero() {
                wait::sleep(nap);
            }
        }
    }

    /// Reads the catalog, keeping what is known of stream tables that are still there.
    fn reread(&mut self) {
        self.reread_at = Instant::now() + REREAD;
        let Ok(current) = xact::attempt(|| Ok::<_, Error>(catalog::all())) else { return };
        let mut before = std::mem::take(&mut self.entries);
        for st in current {
            let every = Duration::from_secs_f64(
                st.schedule_seconds.unwrap_or_else(|| f64::from(settings::DEFAULT_SCHEDULE_SECONDS.get())).max(0.0),
            );
            let old = before.remove(&st.pgt_id);
            let same = old.as_ref().is_some_and(|o| o.st.query_hash == st.query_hash && o.st.status == st.status);
            // A stream table that was refreshed lately, by whomever, is not due before its time.
            let rest = st
                .age_seconds
                .map_or(Duration::ZERO, |age| every.saturating_sub(Duration::from_secs_f64(age.max(0.0))));
            let mut entry = old.unwrap_or_else(|| Entry {
                st: st.clone(),
                every,
                next_due: Instant::now() + rest,
                seen: BTreeMap::new(),
                depth: 0,
                failures: 0,
                blind: st.time_dependent,
            });
            if !same {
                entry.seen.clear();
                entry.failures = 0;
            }
            entry.next_due = entry.next_due.min(Instant::now() + every);
            (entry.st, entry.every) = (st, every);
            note_status(&entry.st);
            self.entries.insert(entry.st.pgt_id, entry);
        }
        let dboid = self.db.dboid.load(Ordering::Relaxed);
        before.keys().for_each(|&gone| shmem::release_stream_table(dboid, gone));
        self.set_depths();
        let immediate = self.entries.values().filter(|e| e.every.is_zero()).count();
        self.db.immediate_tables.store(immediate as u32, Ordering::Relaxed);
    }

    fn set_depths(&mut self) {
        let by_relid: BTreeMap<u32, i64> = self.entries.values().map(|e| (e.st.relid, e.st.pgt_id)).collect();
        // Each pass lifts children above their parents; without cycles it ends after as many passes as there are levels.
        for _ in 0..self.entries.len() {
            let depths: BTreeMap<i64, usize> = self.entries.iter().map(|(&id, e)| (id, e.depth)).collect();
            let mut moved = false;
            for entry in self.entries.values_mut() {
                let parents = entry.st.sources.iter().filter_map(|s| by_relid.get(&s.relid));
                let depth = parents.map(|id| depths[id] + 1).max().unwrap_or(0);
                moved |= std::mem::replace(&mut entry.depth, depth) != depth;
            }
            if !moved {
                break;
            }
        }
    }

    /// Stream tables to refresh now: their time has come and there are changes; with them those of their descendants
    /// whose time has come, which get their changes from them.
    fn due(&mut self) -> BTreeSet<i64> {
        let now = Instant::now();
        let ready = |e: &Entry| {
            e.next_due <= now && !e.st.restored && matches!(e.st.status.as_str(), "ACTIVE" | "INITIALIZING" | "ERROR")
        };
        let mut due = BTreeSet::new();
        let mut changed = BTreeSet::new();
        let mut order: Vec<&mut Entry> = self.entries.values_mut().collect();
        order.sort_by_key(|e| e.depth);
        for entry in order {
            if !ready(entry) {
                continue;
            }
            let below_due = entry.st.sources.iter().any(|s| changed.contains(&s.relid));
            if below_due || entry.has_changes(self.db) {
                due.insert(entry.st.pgt_id);
                changed.insert(entry.st.relid);
            } else {
                entry.next_due = now + entry.every;
                note_fresh(&entry.st);
            }
        }
        due
    }

    /// The connected components of a set of stream tables, parents first in each.
    fn components(&self, due: BTreeSet<i64>) -> Vec<Vec<i64>> {
        let mut components: Vec<Vec<i64>> = Vec::new();
        let mut order: Vec<i64> = due.into_iter().collect();
        order.sort_by_key(|id| (self.entries[id].depth, *id));
        for id in order {
            let reads =
                |member: &i64| self.entries[&id].st.sources.iter().any(|s| s.relid == self.entries[member].st.relid);
            let (mut mine, others): (Vec<_>, Vec<_>) = components.into_iter().partition(|c| c.iter().any(reads));
            let mut merged: Vec<i64> = mine.drain(..).flatten().collect();
            merged.push(id);
            merged.sort_by_key(|id| (self.entries[id].depth, *id));
            components = others;
            components.push(merged);
        }
        components
    }

    /// Refreshes a component in one transaction; if that fails, its stream tables one by one, so that an error in one
    /// does not stop the others.
    fn refresh(&mut self, component: &[i64]) {
        worker::report_activity(c"refreshing stream tables", true);
        // Read before the snapshot: what is counted later may be missing from it.
        let counts = self.counts(component);
        match xact::attempt(|| refresh::refresh(component, Initiator::Scheduler)) {
            Ok(outcomes) => outcomes.iter().for_each(|outcome| self.done(outcome, &counts)),
            Err(failure) => match component {
                [one] => self.failed(*one, &failure),
                many => many.iter().for_each(|one| self.refresh(std::slice::from_ref(one))),
            },
        }
    }

    fn counts(&self, component: &[i64]) -> BTreeMap<u32, u64> {
        let sources = component.iter().filter_map(|id| self.entries.get(id)).flat_map(|e| &e.st.sources);
        sources.map(|s| (s.relid, self.db.source_change_count(s.relid))).collect()
    }

    fn done(&mut self, outcome: &Outcome, counts: &BTreeMap<u32, u64>) {
        outcome.committed();
        let Some(entry) = self.entries.get_mut(&outcome.st.pgt_id) else { return };
        entry.failures = 0;
        entry.blind = outcome.blind;
        // Recomputing without a pause would serve nobody.
        entry.next_due = outcome.started + if outcome.blind { entry.every.max(MIN_RECOMPUTE) } else { entry.every };
        entry.seen.clear();
        if !outcome.changes.leftover {
            let sources = outcome.st.sources.iter();
            entry.seen.extend(sources.filter_map(|s| counts.get(&s.relid).map(|&count| (s.relid, count))));
        }
        // Whatever the frontier is exactly, there is one now.
        entry.st.needs_reinit = false;
        entry.st.frontier.get_or_insert(Frontier { lsn: 1, ..Frontier::EMPTY.clone() });
    }

    fn failed(&mut self, pgt_id: i64, failure: &Failure) {
        let Some(entry) = self.entries.get_mut(&pgt_id) else { return };
        entry.failures += 1;
        let backoff = Duration::from_millis(200) * 2u32.saturating_pow(entry.failures.min(16) - 1);
        entry.next_due = Instant::now() + backoff.min(LONGEST_BACKOFF).max(entry.every);
        entry.seen.clear();
        let st = entry.st.clone();
        warning!("refresh of stream table {} failed: {}", st.label(), failure.message);
        let recorded = xact::attempt(|| Ok::<_, Error>(api::record_failure(&st, failure)));
        if let Err(error) = recorded {
            warning!("the failure of stream table {} could not be recorded: {}", st.label(), error.message);
        }
    }

    fn keep_house(&mut self) {
        let sources: BTreeSet<u32> = self.entries.values().flat_map(|e| &e.st.sources).map(|s| s.relid).collect();
        for source in sources {
            if let Err(error) = xact::attempt(|| Ok::<_, Error>(prune::prune_large(source))) {
                warning!("the change buffer of table {source} could not be emptied: {}", error.message);
            }
        }
        if let Err(error) = xact::attempt(|| Ok::<_, Error>(api::keep_house(self.db))) {
            warning!("housekeeping failed: {}", error.message);
        }
    }

    /// How long nothing is to be done unless somebody wakes us.
    fn nap(&self) -> Duration {
        let now = Instant::now();
        let limit = now + Duration::from_millis(settings::SCHEDULER_INTERVAL_MS.get() as u64);
        if self.db.catalog_dirty.load(Ordering::SeqCst) {
            return Duration::ZERO;
        }
        let enabled = settings::ENABLED.get();
        let wanting = self
            .entries
            .values()
            .filter(|e| enabled && !e.st.restored && e.st.status != "PAUSED" && e.st.status != "SUSPENDED");
        let next = wanting.filter(|e| !e.every.is_zero() || e.has_changes(self.db)).map(|e| e.next_due).min();
        next.unwrap_or(limit).min(limit).saturating_duration_since(now)
    }

    /// The extension is gone: capture ends, the slot and the origin are dropped, the place is given back.
    fn retire(self) {
        self.db.retired.store(true, Ordering::SeqCst);
        shmem::shared().launcher_latch.wake();
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.db.decoder_pid.load(Ordering::SeqCst) != 0 || self.db.apply_pid.load(Ordering::SeqCst) != 0 {
            worker::attend();
            if Instant::now() > deadline {
                warning!("the capture workers did not end in time; their replication slot remains");
                return;
            }
            wait::sleep(Duration::from_millis(50));
        }
        let dropped = xact::attempt(|| Ok::<_, Error>(api::drop_capture(self.db.dboid.load(Ordering::Relaxed))));
        if let Err(error) = dropped {
            warning!("the replication slot could not be dropped: {}", error.message);
        }
        let dboid = self.db.dboid.swap(0, Ordering::SeqCst);
        self.entries.keys().for_each(|&gone| shmem::release_stream_table(dboid, gone));
    }
}

fn counters(st: &StreamTable) -> Option<&'static shmem::StreamTableShared> {
    shmem::stream_table(pgtrickle_pg::spi::my_database_id(), st.pgt_id, &st.schema, &st.name)
}

fn note_fresh(st: &StreamTable) {
    if let Some(counters) = counters(st) {
        counters.fresh_until.store(worker::now_us(), Ordering::Relaxed);
    }
}

fn note_status(st: &StreamTable) {
    if let Some(counters) = counters(st) {
        counters.active.store(matches!(st.status.as_str(), "ACTIVE" | "INITIALIZING"), Ordering::Relaxed);
    }
}
