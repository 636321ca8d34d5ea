//! Refresh by the snapshot frontier: take a snapshot S, wait until the change buffers hold everything visible in S,
//! apply to each stream table the changes between its frontier and S, store S as the new frontier. One transaction.
//!
//! Invariant: a stream table is its query's result at its stored frontier, always.

pub mod barrier;
pub mod blame;
pub mod choice;
pub mod costs;
pub mod fill;
pub mod ours;
pub mod partitions;
mod partners;
pub mod pinned;
pub mod program;
pub mod prune;
pub mod round;
pub mod run;
pub mod selection;
pub mod sources;
pub mod store;
pub mod templates;

use crate::api;
use crate::catalog::{self, Frontier, SourceType, StreamTable};
use crate::error::{Error, Result, policy};
use crate::settings;
use crate::shmem::{self, Progress, Status};
use pgrx::PgSqlErrorCode as Code;
use pgtrickle_engine::ir::SourceId;
use pgtrickle_engine::program::Program;
use pgtrickle_pg::snapshot::{self, Snapshot};
use pgtrickle_pg::spi::{Connection, LocalSettings, RunAs};
use pgtrickle_pg::xact::Failure;
use pgtrickle_pg::{class, lock, spi, worker, xact};
use program::{Loaded, Task};
use round::{Round, SharedRound};
use run::Relations;
use sources::Changes;
use std::ffi::CStr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Who asked for a refresh, as the history tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Initiator {
    Scheduler,
    Manual,
}

/// What a refresh did, as the history tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    NoData,
    Differential,
    Full,
    Reinitialize,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Action::NoData => "NO_DATA",
            Action::Differential => "DIFFERENTIAL",
            Action::Full => "FULL",
            Action::Reinitialize => "REINITIALIZE",
        }
    }
}

/// The result of one stream table's refresh.
pub struct Outcome {
    pub st: StreamTable,
    pub action: Action,
    /// Changes of some source, or of the result itself, leave no trace: it has to be recomputed on schedule.
    pub blind: bool,
    /// Its readers have been given changes.
    pub fed: bool,
    /// Rows of the stream table's delta.
    pub delta_rows: u64,
    pub changes: Changes,
    pub duration: Duration,
    /// The part of it that was waiting for capture.
    pub barrier: Duration,
    /// When the snapshot was taken, µs since 2000-01-01.
    pub snapshot_at: i64,
}

type Setting = (&'static CStr, &'static CStr);

/// Settings under which the statements run: names resolve to nothing but PostgreSQL's own, and plans suit small deltas,
/// which must be joined first however many tables there are.
const SETTINGS: &[Setting] = &[
    (c"search_path", c"pg_catalog, pg_temp"),
    // How literals are read, as they were printed.
    (c"standard_conforming_strings", c"on"),
    (c"array_nulls", c"on"),
    (c"transform_null_equals", c"off"),
    (c"jit", c"off"),
    (c"join_collapse_limit", c"20"),
    (c"from_collapse_limit", c"20"),
    (c"geqo_threshold", c"20"),
];
/// What deltas look up over and over is in memory: a lookup by index costs far less than PostgreSQL's usual settings say, a
/// long scan of an index more.
const LOOKUPS: [Setting; 2] = [(c"random_page_cost", c"0.2"), (c"cpu_index_tuple_cost", c"0.02")];
/// Netting a large delta in less memory than this spills to disk.
const WORK_MEM: Setting = (c"work_mem", c"64MB");

/// For how long a scheduled refresh, and whatever else our workers do, waits for a lock before it is put off.
pub const PATIENCE: (&CStr, &CStr) = (c"lock_timeout", c"1s");

/// The settings under which a stream table's query is computed, until dropped.
pub fn local_settings(st: &StreamTable) -> LocalSettings {
    settings_with(st, &[WORK_MEM])
}

/// The settings of a refresh: what is computed anew is planned as the same query of a user is, with the user's memory if
/// it is the query itself.
pub fn settings_of(st: &StreamTable, task: &Task, program: &Program) -> LocalSettings {
    match task {
        _ if !program.is_differential() => settings_with(st, &[]),
        Task::Recompute | Task::Adopt => settings_with(st, &[WORK_MEM]),
        Task::Apply(_) => settings_with(st, &[WORK_MEM, LOOKUPS[0], LOOKUPS[1]]),
    }
}

fn settings_with(st: &StreamTable, more: &[Setting]) -> LocalSettings {
    let enough = spi::work_mem_kb() >= 64 << 10;
    let more = more.iter().filter(|setting| **setting != WORK_MEM || !enough);
    let settings = SETTINGS.iter().chain(more).copied();
    LocalSettings::new(&settings.chain(pinned::different(&st.settings)).collect::<Vec<_>>())
}

/// Refreshes stream tables, parents before their children, in the current transaction. The caller reports the outcomes
/// with [`Outcome::committed`] once the transaction has committed.
pub fn refresh(pgt_ids: &[i64], initiator: Initiator) -> Result<Vec<Outcome>> {
    refresh_then(pgt_ids, initiator, |_| ()).map(|(outcomes, ())| outcomes)
}

/// As [`refresh`]; `after` then runs with the refresh's snapshot, under which it finds what the refresh wrote.
pub fn refresh_then<T>(
    pgt_ids: &[i64],
    initiator: Initiator,
    after: impl FnOnce(&Snapshot) -> T,
) -> Result<(Vec<Outcome>, T)> {
    ours::must_rest()?;
    let mut stream_tables = Vec::new();
    // A worker that waits for somebody's lock keeps others waiting who have nothing to do with it.
    let _patience = (initiator == Initiator::Scheduler).then(|| LocalSettings::new(&[PATIENCE]));
    lock_all(pgt_ids);
    // Read only now: the refresh that held the lock before us may have moved the frontier.
    stream_tables.extend(pgt_ids.iter().filter_map(|&pgt_id| catalog::by_id(pgt_id)));
    if initiator == Initiator::Manual {
        must_be_visible(&stream_tables)?;
    }
    check(&mut stream_tables, initiator)?;
    lock_sources(&stream_tables)?;
    blame::at_work(stream_tables.iter().filter(|st| round::reads_tables(st)).map(|st| st.pgt_id));
    let round = Round::begin(&stream_tables)?;
    let outcomes = each(stream_tables, &round, initiator)?;
    Ok((outcomes, after(&round.snapshot)))
}

/// What became of stream tables that were to be refreshed together.
pub enum Together {
    Refreshed(Vec<Outcome>),
    /// Nothing, as somebody else is refreshing these of them, or altering them.
    Busy(Vec<i64>),
}

/// As [`refresh`] by the scheduler, who waits for nobody.
pub fn refresh_if_free(pgt_ids: &[i64]) -> Result<Together> {
    let busy: Vec<i64> = pgt_ids.iter().copied().filter(|&pgt_id| !try_lock(pgt_id)).collect();
    if !busy.is_empty() {
        return Ok(Together::Busy(busy));
    }
    refresh(pgt_ids, Initiator::Scheduler).map(Together::Refreshed)
}

/// As [`refresh`], for the stream tables of a job in the dispatcher's round. `joined` is called once the round may end; `None` if
/// the job has to be done without it.
pub fn refresh_in(shared: &SharedRound, joined: impl FnOnce()) -> Result<Option<Vec<Outcome>>> {
    let Some((mut stream_tables, round)) = shared.join() else { return Ok(None) };
    let _patience = LocalSettings::new(&[PATIENCE]);
    joined();
    check(&mut stream_tables, Initiator::Scheduler)?;
    each(stream_tables, &round, Initiator::Scheduler).map(Some)
}

fn each(stream_tables: Vec<StreamTable>, round: &Round, initiator: Initiator) -> Result<Vec<Outcome>> {
    let mut doubted = Vec::new();
    let outcomes = stream_tables.into_iter().map(|st| {
        let in_doubt = st.sources.iter().any(|source| doubted.contains(&source.relid));
        // Its row asks for a comparison now, since it was read.
        let st = in_doubt.then(|| catalog::by_id(st.pgt_id)).flatten().unwrap_or(st);
        one_or_anew(st, round, initiator, &mut doubted)
    });
    let outcomes = outcomes.collect();
    if Result::is_ok(&outcomes) {
        blame::at_work([]);
    }
    outcomes
}

/// Whoever keeps to one snapshot would see what this refresh does, and not what others have done since that snapshot.
fn must_be_visible(stream_tables: &[StreamTable]) -> Result<()> {
    if !xact::has_one_snapshot() {
        return Ok(());
    }
    let visible = Snapshot::of_transaction().xids();
    let seen = |xid| Some(xid) == snapshot::current_xid() || visible.contains(xid);
    let newer = stream_tables.iter().find(|st| st.frontier.as_ref().is_some_and(|frontier| !seen(frontier.xid)));
    newer.map_or(Ok(()), |st| Err(Error::concurrent_refresh(&st.label())))
}

/// Leaves out what is not to be refreshed now, and refuses what cannot be.
fn check(stream_tables: &mut Vec<StreamTable>, initiator: Initiator) -> Result<()> {
    if initiator == Initiator::Scheduler {
        // Paused since the scheduler looked.
        stream_tables.retain(|st| !matches!(st.status.as_str(), "PAUSED" | "SUSPENDED"));
    }
    for st in stream_tables.iter_mut() {
        blame::at_work([st.pgt_id]);
        // Statements call it by its name and run in its owner's, which nobody may change from here on.
        lock::row_exclusive(st.relid);
        if !class::is_named(st.relid, &st.schema, &st.name) || class::owner(st.relid) != Some(st.owner) {
            *st = catalog::by_id(st.pgt_id).ok_or_else(|| Error::no_such_stream_table(&st.label()))?;
        }
    }
    match stream_tables.iter().find(|st| st.restored) {
        Some(restored) => {
            blame::at_work([restored.pgt_id]);
            Err(Error::restored(&restored.label()))
        }
        None => Ok(()),
    }
}

/// Takes the refresh locks of stream tables, in one order for everybody, so that those who take overlapping sets cannot
/// wait for each other.
pub fn lock_all(pgt_ids: &[i64]) {
    let mut ascending = pgt_ids.to_vec();
    ascending.sort_unstable();
    ascending.iter().for_each(|&pgt_id| lock::stream_table(catalog::relid(), pgt_id));
}

/// As [`lock_all`], if there is nothing to wait for.
pub fn try_lock_all(pgt_ids: &[i64]) -> bool {
    pgt_ids.iter().all(|&pgt_id| try_lock(pgt_id))
}

fn try_lock(pgt_id: i64) -> bool {
    lock::try_stream_table(catalog::relid(), pgt_id)
}

/// TRUNCATE and rewriting ALTER are not MVCC-safe, so they must not come between the snapshot and our commit.
fn lock_sources(stream_tables: &[StreamTable]) -> Result<()> {
    for st in stream_tables {
        blame::at_work([st.pgt_id]);
        for source in &st.sources {
            if !lock::access_share(source.relid) {
                return Err(Error::new(
                    Code::ERRCODE_UNDEFINED_TABLE,
                    format!("a source of stream table {} no longer exists", st.label()),
                )
                .hint("Drop the stream table, or create its source again and replace the stream table."));
            }
        }
    }
    Ok(())
}

/// Where stored state contradicts the changes, or these have a value that cannot be computed, maybe of a row that has come and
/// gone, who asked by hand gets it computed anew at once. (The scheduler tells of it first.) What was not what it should have been is
/// added to the `doubted`.
fn one_or_anew(st: StreamTable, round: &Round, initiator: Initiator, doubted: &mut Vec<u32>) -> Result<Outcome> {
    if initiator == Initiator::Scheduler || st.needs_reinit || st.frontier.is_none() {
        return one(st, round, initiator);
    }
    let failure = match xact::or_undone(|| one(st.clone(), round, initiator)) {
        Ok(Err(error)) if policy(error.code).recompute => error.into(),
        Ok(result) => return result,
        Err(caught) if policy(xact::failure_code(&caught)).recompute => Failure::from_caught(*caught),
        Err(caught) => caught.rethrow(),
    };
    pgrx::warning!("{}; stream table {} is recomputed", failure.message, st.label());
    if failure.code == Code::ERRCODE_DATA_CORRUPTED {
        // What somebody took out of it is in no difference that comes now: readers compare everything, too.
        api::tell_readers(&st)?;
        catalog::changed();
        doubted.push(st.relid);
    }
    one(StreamTable { needs_reinit: true, ..st }, round, initiator)
}

fn one(mut st: StreamTable, round: &Round, initiator: Initiator) -> Result<Outcome> {
    blame::at_work([st.pgt_id]);
    let started = Instant::now();
    let begun_at = worker::now_us();
    let loaded = program::load(&st)?;
    let missed = !loaded.reads_recorded(&st);
    if missed {
        // From our commit on they are captured, and then everything is compared once more.
        api::definitions::look_for_missed(&st);
        // That stays asked for, even if this transaction had written the row before.
        st.row_version = 0;
    }
    let _connection = Connection::open();
    let mut relations = Relations::default();
    let frontier = st.frontier.as_ref().unwrap_or(Frontier::EMPTY);
    // Under a newer snapshot than S: it sees what earlier stream tables of this round wrote, too.
    let newest = Snapshot::latest();
    let changes = match missed || is_to_be_rebuilt(&st, &loaded, round) {
        // Not even looked at: conditions may fail on rows that have come and gone, and would do so for ever.
        true => Changes::unread(),
        false => sources::stage(&st, &loaded, frontier, &round.visible, &newest, &mut relations),
    };
    let (task, mut action) = choose(&st, &loaded, round, &changes);
    let mut delta_rows = 0;
    if action != Action::NoData {
        round.compare_if_disturbed(&mut st);
        let written = {
            let _settings = settings_of(&st, &task, &loaded.program);
            let _owner = RunAs::restricted(st.owner);
            if action == Action::Differential {
                loaded.check_rights(&st, &round.snapshot);
            }
            if action == Action::Reinitialize && loaded.fingerprint != st.fingerprint {
                fill::rebuild_state(&st, &loaded)?;
            }
            let statements = program::statements(&loaded, &task);
            let slow = action != Action::Differential;
            let progress = slow.then(|| Progress::begin(st.relid, "recomputing", statements.steps.len()));
            let mut clock = costs::Clock::start();
            let written = run::run(&st, &statements, &mut relations, &round.snapshot, &mut clock, progress.as_ref())?;
            clock.stop(st.pgt_id, loaded.fingerprint);
            written
        };
        round.note_triggers(&st);
        if action == Action::Reinitialize {
            let _owner = catalog::as_owner();
            fill::ensure_index(&st, &loaded);
        }
        delta_rows = relations.rows(&pgtrickle_engine::program::Program::root_delta());
        if action == Action::Differential && changes.changed.is_empty() && written == 0 {
            // Sources were looked at, and nothing came of it. (State that was written makes another version of the catalog's
            // row, or a round that was opened before would take it for what its snapshot shows.)
            action = Action::NoData;
        }
    }
    let mut fed = false;
    if action != Action::NoData {
        partitions::unchanged(&st, &round.snapshot)?;
        fed = store::feed_children(&st, &loaded, &relations);
        if fed && round.written {
            store::feed_again(&st);
        }
    }
    if action != Action::NoData || changes.cancelled > 0 || st.status == "ERROR" {
        let counts = || run::come_and_gone(&relations);
        store::store_frontier(&st, round, &loaded, (action, initiator), delta_rows, begun_at, counts);
    }
    drop(relations);
    let duration = started.elapsed() + round.barrier;
    let blind = !loaded.program.compared().is_empty() || is_blind(&st, &loaded, round);
    let (barrier, snapshot_at) = (round.barrier, round.snapshot_at);
    Ok(Outcome { st, action, blind, fed, delta_rows, changes, duration, barrier, snapshot_at })
}

/// Whether there are changes that neither a buffer nor a comparison tells of.
fn is_blind(st: &StreamTable, loaded: &Loaded, round: &Round) -> bool {
    let compared = |relid| loaded.program.compared().contains(&SourceId(relid));
    let untold = |s: &catalog::Dependency| s.kind == SourceType::Other || round.degraded.contains(&s.relid);
    let unseen = |s: &catalog::Dependency| untold(s) && !compared(s.relid);
    st.time_dependent || st.sources.iter().any(unseen)
}

/// Whether everything is to be computed anew, whatever has changed.
fn is_to_be_rebuilt(st: &StreamTable, loaded: &Loaded, round: &Round) -> bool {
    st.frontier.is_none()
        || st.needs_reinit
        || loaded.fingerprint != st.fingerprint
        || st.generation != round.generation
}

fn choose(st: &StreamTable, loaded: &Loaded, round: &Round, changes: &Changes) -> (Task, Action) {
    if changes.reinitialise {
        (Task::anew(st, loaded), Action::Reinitialize)
    } else if is_blind(st, loaded, round) {
        (Task::Recompute, Action::Full)
    } else if changes.changed.is_empty() && loaded.program.compared().is_empty() {
        (Task::Recompute, Action::NoData)
    } else if !loaded.program.is_differential() || too_many(st, changes) {
        (Task::Recompute, Action::Full)
    } else {
        (Task::Apply(changes.with_compared(loaded.program.compared())), Action::Differential)
    }
}

/// Whether recomputing is likely to be cheaper: from what it has cost, or as more than the set fraction of the sources' rows
/// has changed.
fn too_many(st: &StreamTable, changes: &Changes) -> bool {
    if st.refresh_mode != "AUTO" {
        return false;
    }
    if choice::recomputing_is_cheaper(st, changes.rows) {
        return true;
    }
    if changes.rows < 10_000 {
        return false;
    }
    let known: f64 = st.sources.iter().map(|s| class::estimated_rows(s.relid).max(0.0)).sum();
    known > 0.0 && changes.rows as f64 > known * settings::DIFFERENTIAL_MAX_CHANGE_RATIO.get()
}

impl Outcome {
    /// Counts the refresh, once its transaction has committed.
    pub fn committed(&self) {
        self.changes.committed();
        let Some(db) = shmem::my_db() else { return };
        let now = worker::now_us();
        // What came from parents alone has no commit of its own: their refresh has told the age.
        let newest = Some(self.changes.newest_lsn).filter(|&lsn| lsn != 0);
        if let Some(changed_at) = newest.and_then(|lsn| db.commit_time_of(lsn)) {
            db.note_lag((now - changed_at).max(0) as u64, now);
        }
        let dboid = pgtrickle_pg::spi::my_database_id();
        let Some(counters) = shmem::stream_table(dboid, self.st.pgt_id, &self.st.schema, &self.st.name) else { return };
        counters.fresh_until.store(self.snapshot_at, Ordering::Relaxed);
        if matches!(self.st.status.as_str(), "INITIALIZING" | "ERROR") {
            counters.set_status(Status::Active);
        }
        counters.consecutive_errors.store(0, Ordering::Relaxed);
        choice::learn(counters, self, self.duration - self.barrier);
        match self.action {
            Action::NoData => return,
            Action::Differential => counters.differential_refreshes.fetch_add(1, Ordering::Relaxed),
            Action::Full | Action::Reinitialize => counters.full_refreshes.fetch_add(1, Ordering::Relaxed),
        };
        counters.rows_changed.fetch_add(self.delta_rows, Ordering::Relaxed);
        counters.last_rows.store(self.delta_rows, Ordering::Relaxed);
        counters.last_duration_us.store(self.duration.as_micros() as u64, Ordering::Relaxed);
        counters.refreshed_at.store(now, Ordering::Relaxed);
        counters.duration_sum_us.fetch_add(self.duration.as_micros() as u64, Ordering::Relaxed);
        let bucket = shmem::DURATION_BOUNDS_S.iter().position(|&bound| self.duration.as_secs_f64() <= bound);
        counters.duration_counts[bucket.unwrap_or(shmem::DURATION_BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
    }
}
