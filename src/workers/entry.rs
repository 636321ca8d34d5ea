//! Stream tables as the scheduler sees them: when each is due, which read which.

use crate::catalog::{Frontier, SourceType, StreamTable};
use crate::schedule::{self, Schedule, until_next};
use crate::settings;
use crate::shmem::{DbShared, JobResult, StreamTableShared};
use pgtrickle_pg::worker;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A stream table and what its refreshes found.
pub struct Entry {
    pub st: StreamTable,
    pub schedule: Schedule,
    /// When its own schedule wants it refreshed.
    pub next_due: Instant,
    /// The same by the clock on the wall, which may be set, and goes on while the machine sleeps: µs since 2000-01-01.
    due_at: i64,
    /// After a failure it is left alone until then.
    pub not_before: Instant,
    /// Change counts of the sources when all their changes were last known to be in the stream table.
    pub seen: BTreeMap<u32, u64>,
    /// Steps from the base tables; parents have less than their children.
    pub depth: usize,
    pub failures: u32,
    /// How often in a row somebody else had it when it was to be refreshed, or changes may have been on their way.
    pub put_offs: u32,
    /// As the last refresh found: changes leave no trace, so it is recomputed on schedule.
    pub blind: bool,
    /// It was handed over and has not come back.
    pub in_flight: bool,
    /// So many times its interval is waited while its refreshes take as long as that.
    pub stretch: u32,
    /// Its counters in shared memory.
    pub counters: Option<&'static StreamTableShared>,
}

/// Change counts of sources at one moment: the two arms of a diamond see the same ones, or they would not be due together.
pub type Counts = HashMap<u32, u64>;

/// What the counts of these sources are now.
pub fn counts(db: &DbShared, sources: &BTreeSet<u32>) -> Counts {
    sources.iter().map(|&relid| (relid, db.source_change_count(relid))).collect()
}

/// Stream tables that are recomputed whatever has changed are so at most this often.
const MIN_RECOMPUTE: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
const SHORTEST_PUT_OFF: Duration = Duration::from_millis(10);
const LONGEST_PUT_OFF: Duration = Duration::from_secs(1);
/// A refresh that takes this part of its interval is taken to be in need of a longer one, up to so many times.
const FULL_SHARE: f64 = 0.95;
const MOST_STRETCH: u32 = 8;
/// What is expected to take longer is not done by the scheduler if others can, µs.
const QUICK_US: u64 = 100_000;

impl Entry {
    /// A stream table that the scheduler did not know. One that was refreshed lately, by whomever, is not due before its time;
    /// one that has missed several times is due once.
    pub fn new(st: StreamTable) -> Entry {
        let now = Instant::now();
        let schedule = Schedule::of(&st.schedule, st.schedule_seconds);
        let wall = worker::now_us();
        // A refresh without changes is not in the catalog.
        let known_for = st.counters().map_or(wall, |c| wall - c.fresh_until.load(Ordering::Relaxed)) as f64 / 1e6;
        let age = st.age_seconds.map_or(1.0e9, |age| age.min(known_for));
        let age = Duration::from_secs_f64(age.clamp(0.0, 1.0e9));
        let rest = match &schedule {
            // What was never filled is due at once.
            Schedule::Cron(cron) => until_next(cron, st.age_seconds.map_or(0, |_| wall - age.as_micros() as i64), wall),
            _ => interval(&schedule).saturating_sub(age),
        };
        let blind = st.time_dependent;
        let next_due = if let Schedule::Cron(_) = schedule { now + rest } else { together(now, rest) };
        Entry {
            st,
            schedule,
            next_due,
            due_at: on_the_wall(next_due),
            not_before: now,
            seen: BTreeMap::new(),
            depth: 0,
            failures: 0,
            put_offs: 0,
            blind,
            in_flight: false,
            stretch: 1,
            counters: None,
        }
    }

    /// Takes over what another process changed in the catalog.
    pub fn update(&mut self, st: StreamTable) {
        // That it has failed it knows better itself.
        let resumed = self.st.status != st.status && st.status != "ERROR";
        if self.st.query_hash != st.query_hash || resumed {
            self.seen.clear();
            self.failures = 0;
            self.not_before = Instant::now();
        }
        if self.st.schedule != st.schedule {
            let known = Entry::new(st);
            (self.schedule, self.next_due, self.due_at, self.st) =
                (known.schedule, known.next_due, known.due_at, known.st);
        } else {
            self.st = st;
        }
        let now = Instant::now();
        // The clock on the wall may have been set, or the machine have slept.
        let left = Duration::from_micros(self.due_at.saturating_sub(worker::now_us()).max(0) as u64);
        self.next_due = self.next_due.min(now + left);
        if !matches!(self.schedule, Schedule::Cron(_)) && self.next_due > now + self.interval() {
            // The default interval may have been shortened.
            self.due_next(now + self.interval());
        }
    }

    fn due_next(&mut self, next_due: Instant) {
        (self.next_due, self.due_at) = (next_due, on_the_wall(next_due));
    }

    /// There was nothing to do when it was looked at; its sources are `known` up to this moment. Before that is the one at which it
    /// was due, changes of then may be on their way, and the next time could be tomorrow.
    pub fn nothing_to_do(&mut self, now: Instant, known: i64) {
        let waits = !self.interval().is_zero() && self.next_due <= now && known < self.due_at;
        if waits {
            self.next_due = now + self.pause();
        } else {
            self.put_offs = 0;
            self.due_next(self.after(now, Duration::ZERO));
        }
    }

    /// The time between two refreshes; zero for as soon as there are changes.
    pub fn interval(&self) -> Duration {
        self.schedule_interval().saturating_mul(self.stretch)
    }

    /// The same without the time that is added while its refreshes take long.
    pub fn schedule_interval(&self) -> Duration {
        interval(&self.schedule)
    }

    /// Takes over what became of a refresh that began at `started`, when its sources had these counts of changes.
    pub fn done(&mut self, result: JobResult, started: Instant, counts: &Counts) {
        if !result.refreshed {
            // Dropped or paused, as the catalog will tell.
            return self.due_next(self.after(started, MIN_RECOMPUTE));
        }
        (self.failures, self.put_offs) = (0, 0);
        self.blind = result.blind;
        self.adapt();
        // Recomputing without a pause would serve nobody.
        let least = if result.blind { MIN_RECOMPUTE } else { Duration::ZERO };
        self.due_next(self.after(started, least));
        if result.blind {
            self.not_before = started + least;
        }
        self.seen.clear();
        if !result.leftover {
            let sources = self.st.sources.iter();
            self.seen.extend(sources.filter_map(|s| counts.get(&s.relid).map(|&count| (s.relid, count))));
        }
        // Whatever the frontier is exactly, there is one now.
        self.st.needs_reinit = false;
        self.st.frontier.get_or_insert(Frontier { lsn: 1, ..Frontier::EMPTY.clone() });
    }

    /// Leaves more time to refreshes that need all they have, and less again to one that does not.
    fn adapt(&mut self) {
        let took = self.counted_us(|c| &c.last_duration_us) as f64 / 1e6;
        let interval = interval(&self.schedule).as_secs_f64();
        self.stretch = match settings::AUTO_BACKOFF.get() && interval > 0.0 && took >= interval * FULL_SHARE {
            true => (self.stretch * 2).min(MOST_STRETCH),
            false => 1,
        };
    }

    /// It could not be refreshed. It stays due, whatever its schedule.
    pub fn failed(&mut self) {
        self.failures += 1;
        let backoff = Duration::from_millis(200) * 2u32.saturating_pow(self.failures.min(16) - 1);
        self.not_before = Instant::now() + backoff.max(self.interval()).min(LONGEST_BACKOFF);
        self.seen.clear();
    }

    /// Somebody else has it. It stays due: soon at first, for most have it for a moment.
    pub fn put_off(&mut self) {
        self.not_before = Instant::now() + self.pause();
    }

    /// Until it is tried again: longer from time to time.
    fn pause(&mut self) -> Duration {
        self.put_offs += 1;
        let pause = SHORTEST_PUT_OFF * 2u32.saturating_pow(self.put_offs.min(16) - 1);
        pause.min(LONGEST_PUT_OFF)
    }

    fn counted_us(&self, counter: fn(&StreamTableShared) -> &AtomicU64) -> u64 {
        self.counters.map_or(0, |counters| counter(counters).load(Ordering::Relaxed))
    }

    /// Whether a refresh is expected to be over soon: the last one was, or the first fill.
    pub fn is_quick(&self) -> bool {
        let follows = self.st.frontier.is_some() && !self.st.needs_reinit;
        let known = [self.counted_us(|c| &c.last_duration_us), self.counted_us(|c| &c.recompute_us)];
        follows && known.into_iter().find(|&us| us > 0).is_some_and(|us| us < QUICK_US)
    }

    /// When it is due again after a refresh that began at `started`, `least` later at the earliest.
    pub fn after(&self, started: Instant, least: Duration) -> Instant {
        match &self.schedule {
            Schedule::Cron(cron) => {
                let now = worker::now_us();
                Instant::now() + until_next(cron, now, now)
            }
            _ => together(started, self.interval().max(least)),
        }
    }

    pub fn has_changes(&self, counts: &Counts) -> bool {
        let frontier = self.st.frontier.as_ref().unwrap_or(Frontier::EMPTY);
        frontier == Frontier::EMPTY
            || self.st.needs_reinit
            || self.blind
            || self
                .st
                .sources
                .iter()
                .any(|s| s.kind == SourceType::Other || self.seen.get(&s.relid) != counts.get(&s.relid))
    }

    /// Whether it is refreshed by itself at all.
    pub fn is_active(&self) -> bool {
        !self.st.restored
            && !self.st.is_immediate()
            && matches!(self.st.status.as_str(), "ACTIVE" | "INITIALIZING" | "ERROR")
    }
}

impl Entry {
    /// Whether a refresh of it may begin.
    pub fn is_free(&self) -> bool {
        self.is_active() && !self.in_flight
    }

    /// Whether one may begin now: it is not left alone for a while after a failure or because somebody else has it.
    pub fn is_ready(&self, now: Instant) -> bool {
        self.is_free() && self.not_before <= now
    }

    /// Whether it shows all changes without a refresh.
    pub fn is_kept_current(&self) -> bool {
        self.st.is_immediate() && !self.st.restored && !matches!(self.st.status.as_str(), "PAUSED" | "SUSPENDED")
    }
}

/// What the clock shows at a moment, µs since 2000-01-01.
fn on_the_wall(moment: Instant) -> i64 {
    let (now, wall) = (Instant::now(), worker::now_us());
    let us = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    match moment.checked_duration_since(now) {
        Some(left) => wall.saturating_add(us(left)),
        None => wall.saturating_sub(us(now - moment)),
    }
}

/// Intervals end together: at moments a quarter of an interval apart, at most a second, so that stream tables of equal schedules
/// are due in the same few ticks, whenever they were made. Up to that much earlier, never later.
fn together(started: Instant, interval: Duration) -> Instant {
    thread_local! {
        static ORIGIN: Instant = Instant::now();
    }
    let end = started + interval;
    let apart = (interval / 4).min(Duration::from_secs(1));
    if apart < Duration::from_millis(5) {
        return end;
    }
    let passed = ORIGIN.with(|&origin| end.saturating_duration_since(origin));
    end - Duration::from_nanos((passed.as_nanos() % apart.as_nanos()) as u64)
}

/// A cron schedule is looked at by its times, never by an interval.
fn interval(schedule: &Schedule) -> Duration {
    match schedule {
        Schedule::Every(every) => *every,
        Schedule::Cron(_) => Duration::MAX / 4,
        Schedule::Calculated => schedule::default_interval(),
    }
}

/// The scheduler's stream tables by id.
pub type Entries = BTreeMap<i64, Entry>;

/// Ids, those who read others first.
fn readers_first(entries: &Entries) -> Vec<i64> {
    let mut order: Vec<i64> = entries.keys().copied().collect();
    order.sort_by_key(|id| std::cmp::Reverse(entries[id].depth));
    order
}

/// A value of each stream table: its own, or with schedule 'calculated' the least of those that read it, if any do.
pub(super) fn least_of_readers<T: Ord + Copy>(entries: &Entries, own: impl Fn(&Entry) -> T) -> HashMap<i64, T> {
    let mut wanted: HashMap<u32, T> = HashMap::new();
    let mut values = HashMap::new();
    for id in readers_first(entries) {
        let entry = &entries[&id];
        let value = match entry.schedule {
            Schedule::Calculated => wanted.get(&entry.st.relid).copied().unwrap_or_else(|| own(entry)),
            _ => own(entry),
        };
        values.insert(id, value);
        for source in entry.st.sources.iter().filter(|s| entry.is_active() && s.kind == SourceType::StreamTable) {
            wanted.entry(source.relid).and_modify(|least| *least = value.min(*least)).or_insert(value);
        }
    }
    values
}

/// When each stream table is due.
pub fn due_times(entries: &Entries) -> HashMap<i64, Instant> {
    let mut times = least_of_readers(entries, |entry| entry.next_due.max(entry.not_before));
    times.iter_mut().for_each(|(id, time)| *time = (*time).max(entries[id].not_before));
    times
}

/// Those that are to be refreshed as soon as there are changes.
pub fn immediate(entries: &Entries) -> Vec<i64> {
    let intervals = least_of_readers(entries, Entry::interval);
    intervals.into_iter().filter(|(_, interval)| interval.is_zero()).map(|(id, _)| id).collect()
}

/// Tells in shared memory from when on each stream table's data counts as stale: what its schedule, or that of its readers,
/// allows after the moment for which it was last known to be current.
pub fn note_patience(entries: &Entries) {
    let governing = least_of_readers(entries, |entry| (entry.interval(), entry.st.pgt_id));
    for (id, (_, governor)) in governing {
        let Some(counters) = entries[&id].st.counters() else { continue };
        let fresh = counters.fresh_until.load(Ordering::Relaxed);
        let stale_at = if fresh == 0 { 0 } else { entries[&governor].schedule.stale_at(fresh) };
        counters.stale_at.store(stale_at, Ordering::Relaxed);
    }
}

/// Counts how far each stream table is from the base tables.
pub fn set_depths(entries: &mut Entries) {
    let by_relid: BTreeMap<u32, i64> = entries.values().map(|e| (e.st.relid, e.st.pgt_id)).collect();
    // Each pass lifts children above their parents; without cycles it ends after as many passes as there are levels.
    for _ in 0..entries.len() {
        let depths: BTreeMap<i64, usize> = entries.iter().map(|(&id, e)| (id, e.depth)).collect();
        let mut moved = false;
        for entry in entries.values_mut() {
            let parents = entry.st.sources.iter().filter_map(|s| by_relid.get(&s.relid));
            let depth = parents.map(|id| depths[id] + 1).max().unwrap_or(0);
            moved |= std::mem::replace(&mut entry.depth, depth) != depth;
        }
        if !moved {
            break;
        }
    }
}

/// The connected components of a set of stream tables, parents first in each.
pub fn components(entries: &Entries, due: impl IntoIterator<Item = i64>) -> Vec<Vec<i64>> {
    let mut components: Vec<Vec<i64>> = Vec::new();
    let mut order: Vec<i64> = due.into_iter().collect();
    order.sort_by_key(|id| (entries[id].depth, *id));
    for id in order {
        let reads = |member: &i64| entries[&id].st.sources.iter().any(|s| s.relid == entries[member].st.relid);
        let (mut mine, others): (Vec<_>, Vec<_>) = components.into_iter().partition(|c| c.iter().any(reads));
        let mut merged: Vec<i64> = mine.drain(..).flatten().collect();
        merged.push(id);
        merged.sort_by_key(|id| (entries[id].depth, *id));
        components = others;
        components.push(merged);
    }
    components
}
