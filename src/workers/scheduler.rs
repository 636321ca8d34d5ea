//! The scheduler: one per database. Decides which stream tables are due. What is due alone and quick to do it refreshes itself,
//! as handing it over would cost more than it gains; the rest it hands over.

use super::away;
use super::crew::Crew;
use super::current::Current;
use super::diamonds::Diamonds;
use super::entry::{self, Counts, Entries, Entry};
use super::executor::{self, Busy};
use super::watch::Watch;
use crate::catalog::{self, StreamTable};
use crate::refresh::prune;
use crate::shmem::{self, DbShared, JobResult, JobState, Status};
use crate::{api, immediate, settings};
use pgrx::prelude::*;
use pgtrickle_pg::xact::{self, Failure};
use pgtrickle_pg::{wait, worker};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often buffers, the slot and the history are looked after.
const HOUSEKEEPING: Duration = Duration::from_secs(2);
/// The catalog is read again this often even when nobody said that it changed.
const REREAD: Duration = Duration::from_secs(60);
/// So long the scheduler does jobs itself, where there is no pool, before it looks up.
const SPELL: Duration = Duration::from_millis(50);
/// Refreshes that begin later than this and than their interval are told of.
const TOLERABLE: Duration = Duration::from_secs(1);
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);

/// Main function of a scheduler.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pgtrickle_scheduler_main(dboid: pg_sys::Datum) {
    worker::handle_signals();
    let dboid = dboid.value() as u32;
    away::connect(dboid, c"pg_trickle_scheduler");
    worker::commit_asynchronously();
    // Another database's scheduler may be at it, too.
    drop(xact::attempt(|| {
        api::drop_lost_origins();
        Ok::<_, Failure>(())
    }));
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
    // Nobody knows any more why these were asked for; what is due is found out anew.
    for job in db.jobs() {
        let waiting = [JobState::Asked, JobState::Ready, JobState::Alone];
        waiting.into_iter().find(|&state| job.change(state, JobState::Returned));
    }
    // What was prepared before the server went down may concern anybody.
    if worker::in_transaction(catalog::has_prepared) {
        db.prepared.store(true, Ordering::SeqCst);
    }
    db.scheduler_latch.publish();
    shmem::use_ring_of(0);
    db.scheduler_pid.store(worker::pid(), Ordering::SeqCst);
    worker::before_exit(|| {
        executor::give_back();
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
    entries: Entries,
    /// What they read.
    sources: BTreeSet<u32>,
    diamonds: Diamonds,
    /// Those of the entries to be refreshed as soon as there are changes.
    immediate: BTreeSet<i64>,
    /// When the first of the others is due; None when that is to be found out anew.
    next_timed: Option<Instant>,
    /// What was handed over, by the number of the job.
    flights: HashMap<usize, Flight>,
    crew: Crew,
    told_lateness: Option<Instant>,
    reread_at: Instant,
    housekeeping_at: Instant,
    watch: Watch,
    current: Current,
    /// What the buffers' figures depend on, as it was at the last look at them, and how many looks are to come.
    looked_at: Vec<u64>,
    looks_due: u32,
}

/// A component that was handed over.
struct Flight {
    members: Vec<i64>,
    /// When it was found due, and what the change counts of its sources were then.
    started: Instant,
    counts: Counts,
}

impl Scheduler {
    fn new(db: &'static DbShared) -> Scheduler {
        let now = Instant::now();
        Scheduler {
            db,
            entries: Entries::new(),
            sources: BTreeSet::new(),
            diamonds: Diamonds::default(),
            immediate: BTreeSet::new(),
            next_timed: None,
            flights: HashMap::new(),
            crew: Crew::new(),
            told_lateness: None,
            reread_at: now,
            housekeeping_at: now,
            watch: Watch::new(db),
            current: Current::default(),
            looked_at: Vec::new(),
            looks_due: 0,
        }
    }

    fn run(mut self) {
        loop {
            worker::attend();
            if self.db.catalog_dirty.swap(false, Ordering::SeqCst) || Instant::now() >= self.reread_at {
                self.reread();
            }
            self.collect();
            let working = settings::ENABLED.get() && !self.db.draining.load(Ordering::SeqCst);
            if working {
                let current = self.current();
                // Read before any snapshot: what is counted later may be missing from it.
                let counts = entry::counts(self.db, &self.sources);
                let due = self.due(&counts, current);
                self.begin(due, &counts);
            }
            let busy = !self.crew.has_pool(self.db) && self.work();
            if Instant::now() >= self.housekeeping_at {
                self.housekeeping_at = Instant::now() + HOUSEKEEPING;
                if !worker::in_transaction(catalog::installed) {
                    return self.retire();
                }
                self.keep_house();
            }
            worker::report_activity(c"waiting for changes or the next schedule", false);
            let nap = self.nap();
            if !nap.is_zero() && !busy {
                let since = Instant::now();
                wait::sleep(nap);
                if !self.crew.has_pool(self.db) {
                    self.db.idle_us.fetch_add(since.elapsed().as_micros() as u64, Ordering::Relaxed);
                }
            }
        }
    }

    /// Reads the catalog, keeping what is known of stream tables that are still there.
    fn reread(&mut self) {
        // Soon again if it cannot be read now.
        self.reread_at = Instant::now() + HOUSEKEEPING;
        let Some(current) = super::or_warn("the catalog could not be read", catalog::all) else { return };
        self.reread_at = Instant::now() + REREAD;
        let mut before = std::mem::take(&mut self.entries);
        for st in current {
            let pgt_id = st.pgt_id;
            let counters = note_catalog(&st);
            let mut entry = match before.remove(&pgt_id) {
                Some(mut known) => {
                    known.update(st);
                    known
                }
                None => Entry::new(st),
            };
            entry.counters = counters;
            self.entries.insert(pgt_id, entry);
        }
        let dboid = self.db.dboid.load(Ordering::Relaxed);
        // Also those that were dropped while no scheduler was there to see it.
        shmem::retain_stream_tables(dboid, |pgt_id| self.entries.contains_key(&pgt_id));
        self.sources = self.entries.values().flat_map(|e| &e.st.sources).map(|s| s.relid).collect();
        self.diamonds = Diamonds::of(&self.entries);
        entry::set_depths(&mut self.entries);
        self.immediate = entry::immediate(&self.entries).into_iter().collect();
        self.next_timed = None;
        self.db.immediate_tables.store(self.immediate.len() as u32, Ordering::Relaxed);
        self.db.catalog_reads.fetch_add(1, Ordering::SeqCst);
    }

    /// Until when sources whose change counts stand still are known not to have changed. To be asked before the counts.
    fn current(&mut self) -> i64 {
        let now = worker::now_us();
        let committed = self.db.want_flush_lsn.load(Ordering::SeqCst);
        self.current.look(committed, self.db.applied_lsn.load(Ordering::SeqCst), now)
    }

    /// Stream tables to refresh now: their time has come and there are changes; with them those of their descendants
    /// whose time has come, which get their changes from them.
    ///
    /// A thousand commits a second may wake us for a few that want it, so the others are looked at only when one is due.
    fn due(&mut self, counts: &Counts, current: i64) -> BTreeSet<i64> {
        let now = Instant::now();
        let times = if self.next_timed.is_none_or(|at| at <= now) {
            self.next_timed = None;
            entry::due_times(&self.entries)
        } else {
            self.immediate.iter().map(|id| (*id, self.entries[id].not_before)).collect()
        };
        let has_come = |id: i64| times.get(&id).is_some_and(|&time| time <= now);
        let mut order: Vec<(usize, i64)> =
            times.keys().filter(|&&id| has_come(id)).map(|&id| (self.entries[&id].depth, id)).collect();
        order.sort_unstable();
        let mut due = BTreeSet::new();
        let mut changed = BTreeSet::new();
        for (_, id) in order {
            let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.is_free()) else { continue };
            let below_due = entry.st.sources.iter().any(|s| changed.contains(&s.relid));
            if below_due || entry.has_changes(counts) {
                due.insert(entry.st.pgt_id);
                changed.insert(entry.st.relid);
            } else {
                entry.nothing_to_do(now, current);
                if let Some(counters) = entry.counters {
                    counters.fresh_until.fetch_max(current, Ordering::Relaxed);
                }
            }
        }
        self.diamonds.complete(&self.entries, &mut due, now);
        let late = due.iter().filter_map(|id| {
            let (entry, passed) = (&self.entries[id], now.saturating_duration_since(*times.get(id)?));
            let interval = entry.interval();
            (!interval.is_zero() && entry.failures == 0 && passed > interval.max(TOLERABLE)).then_some(passed)
        });
        self.tell_lateness(late.max().unwrap_or_default());
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
        super::or_warn("an alert could not be sent", || api::alert("scheduler_falling_behind", None, &message));
    }

    /// Refreshes what is due, or has it refreshed.
    fn begin(&mut self, due: BTreeSet<i64>, counts: &Counts) {
        let mut components = entry::components(&self.entries, due);
        let quick = |c: &Vec<i64>| c.iter().all(|id| self.entries.get(id).is_some_and(Entry::is_quick));
        match &components[..] {
            [] => {}
            [one] if super::pool::wanted() == 0 || quick(one) => self.refresh(one, counts),
            _ => {
                // Who has waited longest comes first.
                components.sort_by_key(|c| c.iter().filter_map(|id| self.entries.get(id)).map(|e| e.next_due).min());
                self.crew.gather(self.db);
                components.into_iter().for_each(|component| self.hand_over(component, counts));
                self.db.dispatcher_latch.wake();
                self.db.wake_pool();
            }
        }
    }

    /// Has a component refreshed under the dispatcher's snapshot or, where there is no dispatcher, under one of its own.
    fn hand_over(&mut self, members: Vec<i64>, counts: &Counts) {
        let state = if self.crew.has_dispatcher(self.db) { JobState::Asked } else { JobState::Alone };
        match self.db.ask(&members, state) {
            Some(job) => {
                members.iter().for_each(|id| self.set_in_flight(*id, true));
                let counts = self.counts(&members, counts);
                self.flights.insert(job.number, Flight { members, started: Instant::now(), counts });
            }
            None => self.refresh(&members, counts),
        }
    }

    fn set_in_flight(&mut self, pgt_id: i64, in_flight: bool) {
        // Others may be held back on its account.
        self.next_timed = self.next_timed.filter(|_| self.diamonds.is_empty() && self.immediate.contains(&pgt_id));
        if let Some(entry) = self.entries.get_mut(&pgt_id) {
            entry.in_flight = in_flight;
        }
    }

    /// Takes back what was handed over and has ended.
    fn collect(&mut self) {
        if !self.flights.is_empty() {
            self.crew.look(self.db);
        }
        for job in self.db.jobs_in(&[JobState::Done, JobState::Returned]) {
            let done = job.state() == JobState::Done;
            let results = job.results();
            job.free();
            // Others were handed over by a scheduler before this one.
            let Some(flight) = self.flights.remove(&job.number) else { continue };
            flight.members.iter().for_each(|&id| self.set_in_flight(id, false));
            if done {
                self.done(&flight, &results);
            }
        }
    }

    /// Does jobs itself for a while; says whether there were any.
    fn work(&mut self) -> bool {
        let until = Instant::now() + SPELL;
        let mut worked = false;
        while Instant::now() < until && executor::work(self.db, |_| true) {
            worked = true;
        }
        worked
    }

    /// Refreshes a component itself.
    fn refresh(&mut self, component: &[i64], counts: &Counts) {
        let Some(_busy) = Busy::begin(self.db) else { return };
        let (started, counts) = (Instant::now(), self.counts(component, counts));
        let results = executor::refresh(component);
        self.done(&Flight { members: component.to_vec(), started, counts }, &results);
    }

    fn counts(&self, component: &[i64], all: &Counts) -> Counts {
        let sources = component.iter().filter_map(|id| self.entries.get(id)).flat_map(|e| &e.st.sources);
        sources.filter_map(|s| all.get(&s.relid).map(|&count| (s.relid, count))).collect()
    }

    fn done(&mut self, flight: &Flight, results: &[JobResult]) {
        let mut counts = flight.counts.clone();
        for (id, _) in flight.members.iter().zip(results).filter(|(_, result)| result.fed) {
            // What a parent has given its readers, those of the same component have seen.
            let own = self.entries.get(id).and_then(|parent| counts.get_mut(&parent.st.relid));
            own.into_iter().for_each(|count| *count += 1);
        }
        for (id, &result) in flight.members.iter().zip(results) {
            self.next_timed = self.next_timed.filter(|_| self.immediate.contains(id));
            match self.entries.get_mut(id) {
                Some(entry) if result.failed => entry.failed(),
                Some(entry) if result.busy => entry.put_off(),
                Some(_) if result.stopped => {}
                Some(entry) => {
                    if entry.st.needs_reinit {
                        // Asked for again meanwhile, it is still to be done, as the catalog knows.
                        self.db.catalog_dirty.store(true, Ordering::SeqCst);
                    }
                    entry.done(result, flight.started, &counts)
                }
                None => {}
            }
        }
    }

    /// Whether buffers may be other than when they were last looked at: there were changes or refreshes since, or the catalog was read
    /// anew. One more look than that, as the first one may have emptied some.
    fn has_changed(&mut self) -> bool {
        let refreshes = |c: &shmem::StreamTableShared| {
            let kinds = [&c.differential_refreshes, &c.full_refreshes, &c.failures];
            kinds.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>()
        };
        let mut state: Vec<u64> = self.sources.iter().map(|&relid| self.db.source_change_count(relid)).collect();
        state.push(self.db.catalog_reads.load(Ordering::SeqCst));
        state.push(self.entries.values().filter_map(|e| e.counters).map(refreshes).sum());
        if self.looked_at != state {
            self.looked_at = state;
            self.looks_due = 2;
        }
        let due = self.looks_due > 0;
        self.looks_due = self.looks_due.saturating_sub(1);
        due
    }

    fn keep_house(&mut self) {
        let changed = self.has_changed();
        for &source in self.sources.iter().filter(|_| changed) {
            let complaint = format!("the change buffer of table {source} could not be emptied");
            if super::or_warn(&complaint, || prune::prune(source)).unwrap_or(true) {
                // Autovacuum may be at it, say.
                self.looks_due = self.looks_due.max(1);
            }
        }
        super::or_warn("housekeeping failed", || api::keep_house(self.db));
        self.entries.values().filter(|e| e.st.is_immediate()).for_each(|e| immediate::look_after(&e.st));
        // Places that were given back meanwhile.
        self.entries.values_mut().filter(|e| e.counters.is_none()).for_each(|e| e.counters = note_catalog(&e.st));
        entry::note_patience(&self.entries);
        let tables: Vec<_> = self.entries.values().map(|e| &e.st).collect();
        self.watch.cycle(self.db, &self.sources, changed, &tables);
    }

    /// How long nothing is to be done unless somebody wakes us.
    fn nap(&mut self) -> Duration {
        let now = Instant::now();
        let limit = now + Duration::from_millis(settings::SCHEDULER_INTERVAL_MS.get() as u64);
        if self.db.catalog_dirty.load(Ordering::SeqCst) {
            return Duration::ZERO;
        }
        if !settings::ENABLED.get() || self.db.draining.load(Ordering::SeqCst) {
            return limit.saturating_duration_since(now);
        }
        let held = self.diamonds.waiting(&self.entries, now);
        let waits = |e: &&Entry| e.is_free() && !held.contains(&e.st.pgt_id);
        let next_timed = *self.next_timed.get_or_insert_with(|| {
            let times = entry::due_times(&self.entries);
            let timed = self.entries.values().filter(|e| !self.immediate.contains(&e.st.pgt_id));
            timed.filter(waits).map(|e| times[&e.st.pgt_id]).min().unwrap_or(now + REREAD)
        });
        if !held.is_empty() {
            // What they wait for may end at any moment.
            self.next_timed = None;
        }
        let counts = entry::counts(self.db, &self.sources);
        let immediate = self.immediate.iter().map(|id| &self.entries[id]).filter(waits);
        let changed = immediate.filter(|e| e.not_before > now || e.has_changes(&counts)).map(|e| e.not_before).min();
        next_timed.min(limit).min(changed.unwrap_or(limit)).saturating_duration_since(now)
    }

    /// The extension is gone: capture ends, the slot and the origin are dropped, the place is given back.
    fn retire(self) {
        self.db.retired.store(true, Ordering::SeqCst);
        shmem::shared().launcher_latch.wake();
        let deadline = Instant::now() + Duration::from_secs(30);
        let others = [&self.db.decoder_pid, &self.db.apply_pid, &self.db.dispatcher_pid];
        let others: Vec<_> = others.into_iter().chain(&self.db.pool_pids).collect();
        while others.iter().any(|pid| pid.load(Ordering::SeqCst) != 0) {
            self.db.dispatcher_latch.wake();
            self.db.wake_pool();
            worker::attend();
            if Instant::now() > deadline {
                warning!("the other workers did not end in time; the replication slot remains");
                return;
            }
            wait::sleep(Duration::from_millis(50));
        }
        let dboid = self.db.dboid.load(Ordering::Relaxed);
        super::or_warn("the replication slot could not be dropped", || api::drop_capture(dboid));
        shmem::release_db(self.db);
    }
}

fn note_catalog(st: &StreamTable) -> Option<&'static shmem::StreamTableShared> {
    let counters = st.counters()?;
    counters.set_status(Status::named(&st.status));
    shmem::store_text(&counters.schema, &st.schema);
    shmem::store_text(&counters.name, &st.name);
    counters.set_sources(st.sources.iter().map(|s| s.relid));
    counters.relid.store(st.relid, Ordering::Relaxed);
    if let Some(age) = st.age_seconds.filter(|_| counters.fresh_until.load(Ordering::Relaxed) == 0) {
        counters.fresh_until.store(worker::now_us() - (age * 1e6) as i64, Ordering::Relaxed);
    }
    Some(counters)
}
