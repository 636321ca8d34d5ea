//! The scheduler: one per database. Decides which stream tables are due and refreshes them.

use super::away;
use super::entry::{self, Entries, Entry};
use super::watch::Watch;
use crate::catalog::{self, Frontier, StreamTable};
use crate::error::Error;
use crate::refresh::{self, Initiator, Outcome, prune};
use crate::shmem::{self, DbShared, Status};
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
/// Refreshes that begin later than this and than their interval are told of.
const TOLERABLE: Duration = Duration::from_secs(1);
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);

/// Main function of a scheduler.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pgtrickle_scheduler_main(dboid: pg_sys::Datum) {
    worker::handle_signals();
    let dboid = dboid.value() as u32;
    away::connect(dboid);
    worker::set_config(c"application_name", c"pg_trickle_scheduler");
    worker::neutralise_settings();
    // Another database's scheduler may be at it, too.
    drop(xact::attempt(|| Ok::<_, Error>(api::drop_lost_origins())));
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
    db.draining.store(false, Ordering::SeqCst);
    db.scheduler_latch.publish();
    shmem::use_ring_of(0);
    db.scheduler_pid.store(worker::pid(), Ordering::SeqCst);
    worker::before_exit(|| {
        if let Some(db) = shmem::my_db() {
            // What it was about to do, its successor finds due again.
            db.jobs_queued.store(0, Ordering::Relaxed);
            db.jobs_running.store(0, Ordering::Relaxed);
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
    entries: Entries,
    /// Those of them to be refreshed as soon as there are changes.
    immediate: BTreeSet<i64>,
    told_lateness: Option<Instant>,
    reread_at: Instant,
    housekeeping_at: Instant,
    watch: Watch,
}

impl Scheduler {
    fn new(db: &'static DbShared) -> Scheduler {
        let now = Instant::now();
        Scheduler {
            db,
            entries: Entries::new(),
            immediate: BTreeSet::new(),
            told_lateness: None,
            reread_at: now,
            housekeeping_at: now,
            watch: Watch::new(db),
        }
    }

    fn run(mut self) {
        loop {
            worker::attend();
            if self.db.catalog_dirty.swap(false, Ordering::SeqCst) || Instant::now() >= self.reread_at {
                self.reread();
            }
            let working = settings::ENABLED.get() && !self.db.draining.load(Ordering::SeqCst);
            let due = if working { self.due() } else { BTreeSet::new() };
            let jobs = entry::components(&self.entries, due);
            self.db.jobs_queued.fetch_add(jobs.len() as u64, Ordering::Relaxed);
            for component in jobs {
                self.db.jobs_queued.fetch_sub(1, Ordering::Relaxed);
                // Told first: who drains and then finds nothing running may be sure that nothing begins.
                self.db.jobs_running.store(1, Ordering::SeqCst);
                if !self.db.draining.load(Ordering::SeqCst) {
                    self.refresh(&component);
                }
                self.db.jobs_running.store(0, Ordering::Relaxed);
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
                let since = Instant::now();
                wait::sleep(nap);
                self.db.idle_us.fetch_add(since.elapsed().as_micros() as u64, Ordering::Relaxed);
            }
        }
    }

    /// Reads the catalog, keeping what is known of stream tables that are still there.
    fn reread(&mut self) {
        self.reread_at = Instant::now() + REREAD;
        let Ok(current) = xact::attempt(|| Ok::<_, Error>(catalog::all())) else { return };
        let mut before = std::mem::take(&mut self.entries);
        for st in current {
            let pgt_id = st.pgt_id;
            note_catalog(&st);
            let entry = match before.remove(&pgt_id) {
                Some(mut known) => {
                    known.update(st);
                    known
                }
                None => Entry::new(st),
            };
            self.entries.insert(pgt_id, entry);
        }
        let dboid = self.db.dboid.load(Ordering::Relaxed);
        // Also those that were dropped while no scheduler was there to see it.
        shmem::retain_stream_tables(dboid, |pgt_id| self.entries.contains_key(&pgt_id));
        entry::set_depths(&mut self.entries);
        self.immediate = entry::immediate(&self.entries).into_iter().collect();
        self.db.immediate_tables.store(self.immediate.len() as u32, Ordering::Relaxed);
    }

    /// Stream tables to refresh now: their time has come and there are changes; with them those of their descendants
    /// whose time has come, which get their changes from them.
    fn due(&mut self) -> BTreeSet<i64> {
        let now = Instant::now();
        let times = entry::due_times(&self.entries);
        let mut due = BTreeSet::new();
        let mut changed = BTreeSet::new();
        let mut late = Duration::ZERO;
        let mut order: Vec<&mut Entry> = self.entries.values_mut().collect();
        order.sort_by_key(|e| e.depth);
        for entry in order {
            let time = times[&entry.st.pgt_id];
            if time > now || !entry.is_active() {
                continue;
            }
            let below_due = entry.st.sources.iter().any(|s| changed.contains(&s.relid));
            if below_due || entry.has_changes(self.db) {
                due.insert(entry.st.pgt_id);
                changed.insert(entry.st.relid);
                let interval = entry.interval();
                if !interval.is_zero() && entry.failures == 0 && now - time > interval.max(TOLERABLE) {
                    late = late.max(now - time);
                }
            } else {
                entry.next_due = entry.after(now, Duration::ZERO);
                note_fresh(&entry.st);
            }
        }
        self.tell_lateness(late);
        due
    }

    /// Tells that refreshes take longer than their schedules leave them, now and then.
    fn tell_lateness(&mut self, late: Duration) {
        if late.is_zero() || self.told_lateness.is_some_and(|at| at.elapsed() < BETWEEN_WARNINGS) {
            return;
        }
        self.told_lateness = Some(Instant::now());
        let message = format!("refreshes begin {:.1} s after they are due", late.as_secs_f64());
        warning!("pg_trickle falls behind its schedules: {message}");
        drop(xact::attempt(|| Ok::<_, Error>(api::alert("scheduler_falling_behind", None, &message))));
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
        let least = if outcome.blind { MIN_RECOMPUTE } else { Duration::ZERO };
        entry.next_due = entry.after(outcome.started, least);
        if outcome.blind {
            entry.not_before = outcome.started + least;
        }
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
        // It stays due, whatever its schedule.
        entry.not_before = Instant::now() + backoff.max(entry.interval()).min(LONGEST_BACKOFF);
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
        for &source in &sources {
            if let Err(error) = xact::attempt(|| Ok::<_, Error>(prune::prune_large(source))) {
                warning!("the change buffer of table {source} could not be emptied: {}", error.message);
            }
        }
        if let Err(error) = xact::attempt(|| Ok::<_, Error>(api::keep_house(self.db))) {
            warning!("housekeeping failed: {}", error.message);
        }
        entry::note_patience(&self.entries);
        let tables: Vec<_> = self.entries.values().map(|e| &e.st).collect();
        self.watch.cycle(self.db, &sources, &tables);
    }

    /// How long nothing is to be done unless somebody wakes us.
    fn nap(&self) -> Duration {
        let now = Instant::now();
        let limit = now + Duration::from_millis(settings::SCHEDULER_INTERVAL_MS.get() as u64);
        if self.db.catalog_dirty.load(Ordering::SeqCst) {
            return Duration::ZERO;
        }
        if !settings::ENABLED.get() || self.db.draining.load(Ordering::SeqCst) {
            return limit.saturating_duration_since(now);
        }
        let times = entry::due_times(&self.entries);
        let wanting = self.entries.values().filter(|e| e.is_active());
        let waiting = wanting.filter(|e| !self.immediate.contains(&e.st.pgt_id) || e.has_changes(self.db));
        let next = waiting.map(|e| times[&e.st.pgt_id]).min();
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
        shmem::release_db(self.db);
    }
}

fn note_fresh(st: &StreamTable) {
    if let Some(counters) = st.counters() {
        counters.fresh_until.store(worker::now_us(), Ordering::Relaxed);
    }
}

fn note_catalog(st: &StreamTable) {
    let Some(counters) = st.counters() else { return };
    counters.set_status(Status::named(&st.status));
    shmem::store_text(&counters.schema, &st.schema);
    shmem::store_text(&counters.name, &st.name);
    counters.set_sources(st.sources.iter().map(|s| s.relid));
    counters.relid.store(st.relid, Ordering::Relaxed);
    if let Some(age) = st.age_seconds.filter(|_| counters.fresh_until.load(Ordering::Relaxed) == 0) {
        counters.fresh_until.store(worker::now_us() - (age * 1e6) as i64, Ordering::Relaxed);
    }
}
