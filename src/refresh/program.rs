//! Refresh programs: from the definition view to statements with kept plans, cached per process.
//!
//! For each stream table what its query was analysed to (dropped when a relation that it reads changes), the statements for each
//! set of changed sources that came up, and a plan of each per size class of what they read. A refresh looks it up once.

use super::templates::Templates;
use super::{local_settings, selection};
use crate::analyze::{self, Analysis, Analyzed, Input};
use crate::catalog::{self, StreamTable};
use crate::error::{Error, Result};
use crate::{settings, shmem};
use pgtrickle_engine::ir::{SourceId, Ty};
use pgtrickle_engine::origin;
use pgtrickle_engine::partners::Values;
use pgtrickle_engine::program::{Program, Step, Target};
use pgtrickle_engine::relevant::{Changes, Relevance};
use pgtrickle_engine::selection::Choice;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::{Ident, QualifiedName, Sql};
use pgtrickle_pg::inval::{self, Asker, Invalidated};
use pgtrickle_pg::snapshot::Snapshot;
use pgtrickle_pg::spi::Plan;
use pgtrickle_pg::statistics::Origins;
use pgtrickle_pg::{class, lock, worker};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A stream table's program, and what it was made from.
pub struct Loaded {
    pub program: Program,
    /// Changes with what the query means, and with what is kept for it: then everything is computed anew.
    pub fingerprint: i64,
    /// Why the query is recomputed instead of maintained.
    pub full_reason: Option<String>,
    /// Numbers of the stream table's columns.
    pub attnums: Vec<i16>,
    /// Names and types of the stream table's columns.
    pub columns: Vec<(Ident, Ty)>,
    /// What is maintained in place of the definition view's query, if views that this reads leave a choice.
    pub settled: Option<Sql>,
    /// What was chosen by what the sources held.
    choice: Choice,
    /// Whether others could have been.
    has_choice: bool,
    /// Whether the owner was allowed to read what the query reads when that was last looked at.
    permitted: Cell<bool>,
    query_hash: i64,
    refresh_mode: String,
    label: String,
    /// The view that holds the query; 0 if there is none yet.
    view: u32,
    /// What it reads, and which columns of it.
    reads: HashMap<u32, Vec<i16>>,
    /// Plans of the scans' conditions, by source and number of the scan.
    filters: RefCell<HashMap<(u32, usize), Rc<Plan>>>,
    /// Plans of the queries for values that scans' rows must have one of.
    values: RefCell<HashMap<Values, Rc<Plan>>>,
    statements: RefCell<HashMap<Task, Rc<Statements>>>,
}

/// What one scan of a source, as the program has it, makes of the source's changes.
pub struct ScanOf {
    pub columns: Vec<i16>,
    pub filter: Option<Rc<Plan>>,
    /// Columns, and the values that a row must have one of in each.
    pub partners: Vec<(i16, Values)>,
}

impl Loaded {
    /// What matters of a source's changes, whose buffer this is; nothing if everything does.
    pub fn scans_of(&self, source: u32, buffer: &QualifiedName) -> Vec<ScanOf> {
        let everything = |columns: &Vec<i16>| ScanOf { columns: columns.clone(), filter: None, partners: Vec::new() };
        let columns = || self.reads.get(&source).map(everything);
        let Some(scans) = self.program.relevant(SourceId(source)) else {
            return columns().into_iter().collect();
        };
        let filter = |number: usize, scan: &Relevance| {
            let known = self.filters.borrow().get(&(source, number)).cloned();
            known.or_else(|| {
                let plan = Rc::new(Plan::prepare(scan.query(buffer)?.as_str(), &[]));
                self.filters.borrow_mut().insert((source, number), plan.clone());
                Some(plan)
            })
        };
        let scan = |(number, scan): (usize, &Relevance)| ScanOf {
            columns: scan.used().collect(),
            filter: filter(number, scan),
            partners: scan.partners().iter().cloned().collect(),
        };
        scans.iter().enumerate().map(scan).collect()
    }

    /// A query for values that are kept, and the table that has them.
    pub fn kept_values(&self, values: &Values) -> Option<(Rc<Plan>, u32)> {
        let (query, table) = self.program.kept_values(values);
        let table = class::named(c"pgtrickle_changes", table.name.as_str())?;
        let known = self.values.borrow().get(values).cloned();
        let plan = known.unwrap_or_else(|| {
            let plan = Rc::new(Plan::prepare(query.as_str(), &[]));
            self.values.borrow_mut().insert(values.clone(), plan.clone());
            plan
        });
        Some((plan, table))
    }
}

impl Loaded {
    /// An error if the stream table's owner, as whom this is called, may no longer read what the query reads: deltas tell of that
    /// without reading it. Privileges that change drop the program.
    pub fn check_rights(&self, st: &StreamTable, snapshot: &Snapshot) {
        if !self.permitted.get() {
            let probe = sql!("SELECT NULL::text FROM {} LIMIT 0", definition_view(st.pgt_id));
            Plan::prepare(probe.as_str(), &[]).first_text(snapshot);
            self.permitted.set(true);
        }
    }

    /// Whether it reads exactly the sources that are recorded.
    pub fn reads_recorded(&self, st: &StreamTable) -> bool {
        self.reads.len() == st.sources.len() && st.sources.iter().all(|s| self.reads.contains_key(&s.relid))
    }

    /// Whether it is the program of the stream table's present query, mode and name.
    fn is_of(&self, st: &StreamTable) -> bool {
        self.query_hash == st.query_hash && self.refresh_mode == st.refresh_mode && self.label == st.label()
    }
}

/// What a refresh has to do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Task {
    /// Apply the changes of these sources.
    Apply(Changes),
    /// Recompute everything and apply the differences.
    Recompute,
    /// The same where another program has stored the rows.
    Adopt,
}

impl Task {
    /// Computing everything anew, whatever program has done so before.
    pub fn anew(st: &StreamTable, loaded: &Loaded) -> Task {
        if loaded.fingerprint == st.fingerprint { Task::Recompute } else { Task::Adopt }
    }
}

/// So many plans of a statement are kept at most: changes of ever other sizes would gather plans without end.
const PLANS_PER_STEP: usize = 12;
/// As many tasks: sets of changed sources.
const TASKS: usize = 16;

/// The statements of one task, with their plans.
pub struct Statements {
    pub steps: Vec<Step>,
    /// The stage that each step belongs to.
    pub stages: Vec<usize>,
    /// Whether they read whole tables.
    whole: bool,
    /// Where the columns of relations that they stage and read come from.
    pub origins: Rc<Origins>,
    plans: RefCell<Plans>,
}

/// The size classes of the relations that a statement reads: a plan made for ten rows is wrong for a hundred thousand.
type Classes = Vec<u8>;

/// The plans of each statement.
type Plans = HashMap<usize, Vec<(Classes, Rc<Plan>)>>;

thread_local! {
    static CACHE: RefCell<Templates<Loaded>> = RefCell::new(Templates::new(NonZeroUsize::MIN));
}

/// Forgets what depends on relations that changed since the last call.
fn forget_changed() {
    inval::listen();
    let forget = |stale: &dyn Fn(&Loaded) -> bool| CACHE.with_borrow_mut(|cache| cache.forget(stale));
    match inval::take(Asker::Programs) {
        Invalidated::All => forget(&|_| true),
        Invalidated::Relations(relids) if relids.is_empty() => {}
        Invalidated::Relations(relids) => forget(&|l| l.reads.keys().chain([&l.view]).any(|r| relids.contains(r))),
    }
}

/// The program of a stream table.
pub fn load(st: &StreamTable) -> Result<Rc<Loaded>> {
    if st.needs_reinit && !st.is_immediate() && !worker::in_recovery() {
        // Marked by whoever changed what its query means: a commit can be seen before others are told what it has changed.
        lock::redefinitions_told(catalog::relid(), st.pgt_id);
    }
    forget_changed();
    let shared = shmem::my_db();
    // The same text may mean other relations now (after a rename, say): plans of another program must not serve. And another
    // process may have chosen otherwise what is kept when it made the state.
    let fits = |loaded: &Loaded| loaded.is_of(st) && (!loaded.has_choice || loaded.fingerprint == st.fingerprint);
    if let Some(loaded) = CACHE.with_borrow_mut(|cache| cache.find(st.pgt_id, fits)) {
        count(shared.map(|db| &db.cache_hits), 1);
        return Ok(loaded);
    }
    count(shared.map(|db| &db.cache_misses), 1);
    let loaded = Rc::new(build(st, analyse(st)?));
    let most = NonZeroUsize::new(settings::TEMPLATE_CACHE_MAX_ENTRIES.get() as usize).unwrap_or(NonZeroUsize::MIN);
    let evicted = CACHE.with_borrow_mut(|cache| cache.keep(st.pgt_id, loaded.clone(), most));
    count(shared.map(|db| &db.cache_evictions), evicted as u64);
    Ok(loaded)
}

fn count(counter: Option<&AtomicU64>, number: u64) {
    if let Some(counter) = counter {
        counter.fetch_add(number, Ordering::Relaxed);
    }
}

/// Constants are printed under the settings under which the text is read (money by `lc_monetary`).
fn analyse(st: &StreamTable) -> Result<Analysis> {
    let _settings = local_settings(st);
    Ok(analyze::analyze(Input::View(view_oid(st.pgt_id)?.into()))?)
}

/// Makes the program of an analysed query, as `st.refresh_mode` allows: the one that the state was made for, if there is one.
pub fn build(st: &StreamTable, analysis: Analysis) -> Loaded {
    let choices = match &analysis.plan {
        Analyzed::Differential(definition) if st.refresh_mode != "FULL" => selection::choices(st, definition),
        _ => vec![Choice::default()],
    };
    let has_choice = choices.iter().any(|choice| *choice != Choice::default());
    let mut made = choices.iter().map(|choice| choosing(st, &analysis, choice, has_choice));
    let likeliest = made.next();
    let recognised = likeliest.iter().all(|loaded| loaded.fingerprint == st.fingerprint);
    let other = if recognised { None } else { made.find(|loaded| loaded.fingerprint == st.fingerprint) };
    other.or(likeliest).unwrap_or_else(|| choosing(st, &analysis, &Choice::default(), false))
}

/// The program of a stream table that has got its state from another.
pub fn build_like(st: &StreamTable, other: &Loaded) -> Result<Loaded> {
    let analysis = analyse(st)?;
    Ok(choosing(st, &analysis, &other.choice, other.has_choice))
}

fn choosing(st: &StreamTable, analysis: &Analysis, choice: &Choice, has_choice: bool) -> Loaded {
    let target = Target { table: QualifiedName::new(&st.schema, &st.name), pgt_id: st.pgt_id };
    let view = definition_view(st.pgt_id);
    let opaque = |reason: String| (Program::opaque(&view, &analysis.columns, &target), Some(reason));
    let (program, full_reason) = match &analysis.plan {
        Analyzed::Differential(definition) if st.refresh_mode == "FULL" => {
            (Program::recomputed(definition, &view, &target), Some("refresh_mode is FULL".into()))
        }
        Analyzed::Opaque { reason } => opaque(reason.clone()),
        Analyzed::Differential(definition) => match Program::choosing(definition, &target, choice) {
            Ok(program) => (program, None),
            Err(unsupported) => opaque(unsupported.reason),
        },
    };
    let settled = analysis.settled.clone().filter(|_| program.is_differential());
    Loaded {
        fingerprint: fingerprint(&analysis.plan, &program),
        choice: choice.clone(),
        has_choice,
        program,
        full_reason,
        columns: analysis.columns.clone(),
        settled,
        permitted: Cell::new(false),
        attnums: catalog::live_attributes(st.relid),
        query_hash: st.query_hash,
        refresh_mode: st.refresh_mode.clone(),
        label: st.label(),
        filters: RefCell::default(),
        values: RefCell::default(),
        statements: RefCell::default(),
        view: view_oid(st.pgt_id).unwrap_or_default(),
        reads: analysis.sources.iter().map(|s| (s.relid.to_u32(), s.columns.clone())).collect(),
    }
}

/// OID of the view that holds a stream table's query.
pub fn view_oid(pgt_id: i64) -> Result<u32> {
    class::named(c"pgtrickle", &format!("def_{pgt_id}")).ok_or_else(|| {
        Error::new(
            pgrx::PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("the definition view pgtrickle.def_{pgt_id} is missing"),
        )
        .hint("Drop the stream table and create it again.")
    })
}

/// The view that holds a stream table's query.
pub fn definition_view(pgt_id: i64) -> QualifiedName {
    QualifiedName { schema: Ident::new("pgtrickle"), name: Ident::new(format!("def_{pgt_id}")) }
}

fn fingerprint(plan: &Analyzed, program: &Program) -> i64 {
    let mut hasher = DefaultHasher::new();
    if let Analyzed::Differential(definition) = plan {
        format!("{:?}", definition.root).hash(&mut hasher);
    }
    format!("{:?} {:?} {:?}", program.state_tables(), program.identity_index(), program.explain()).hash(&mut hasher);
    if !program.relied_on().is_empty() {
        program.relied_on().hash(&mut hasher);
    }
    if let Some(regrouped) = program.regrouped() {
        format!("{regrouped:?}").hash(&mut hasher);
    }
    if let Some(chosen) = program.chosen() {
        format!("{chosen:?}").hash(&mut hasher);
    }
    hasher.finish() as i64
}

/// The statements for a task, made now if it is the first of its kind.
pub fn statements(loaded: &Loaded, task: &Task) -> Rc<Statements> {
    if let Some(known) = loaded.statements.borrow().get(task) {
        return known.clone();
    }
    let made = Rc::new(match task {
        Task::Apply(changes) => Statements {
            origins: Rc::new(origins(&loaded.program, changes)),
            ..Statements::of(loaded.program.refresh_by_stage(changes), false)
        },
        Task::Recompute => Statements::of(loaded.program.recompute_by_stage(), true),
        Task::Adopt => Statements::of(loaded.program.adopt_by_stage(), true),
    });
    let mut kept = loaded.statements.borrow_mut();
    if kept.len() >= TASKS {
        kept.clear();
    }
    kept.insert(task.clone(), made.clone());
    made
}

/// What the planner is told of the columns of relations.
fn origins(program: &Program, changes: &Changes) -> Origins {
    let column = |(source, column): (SourceId, i16)| (source.0, column);
    let columns = |(name, origins): (String, origin::Origins)| {
        (name, origins.into_iter().map(|origin| origin.map(column)).collect())
    };
    program.origins(changes).into_iter().map(columns).collect()
}

impl Statements {
    /// Statements that are run once and not cached.
    pub fn once(steps: Vec<Step>) -> Statements {
        Statements {
            stages: vec![0; steps.len()],
            steps,
            whole: true,
            origins: Rc::default(),
            plans: RefCell::default(),
        }
    }

    fn of(by_stage: Vec<(usize, Vec<Step>)>, whole: bool) -> Statements {
        let stages = by_stage.iter().flat_map(|(stage, steps)| std::iter::repeat_n(*stage, steps.len())).collect();
        let steps = by_stage.into_iter().flat_map(|(_, steps)| steps).collect();
        Statements { steps, stages, whole, origins: Rc::default(), plans: RefCell::default() }
    }

    /// The plan of statement `number` for these size classes, or for such as hardly differ; made now if there is none.
    pub fn plan(&self, number: usize, sql: &str, classes: Vec<u8>) -> Rc<Plan> {
        if let Some(known) = self.plans.borrow().get(&number).and_then(|plans| fitting(plans, &classes)) {
            return known.clone();
        }
        let plan = Rc::new(if self.whole { Plan::prepare_for_workers(sql) } else { Plan::prepare(sql, &[]) });
        let mut plans = self.plans.borrow_mut();
        let plans = plans.entry(number).or_default();
        if plans.len() >= PLANS_PER_STEP {
            plans.clear();
        }
        plans.push((classes, plan.clone()));
        plan
    }
}

fn fitting<'a>(plans: &'a [(Classes, Rc<Plan>)], classes: &[u8]) -> Option<&'a Rc<Plan>> {
    let best = plans.iter().find(|(of, _)| of == classes);
    best.or_else(|| plans.iter().find(|(of, _)| hardly_differ(of, classes))).map(|(_, plan)| plan)
}

/// Whether relations are about as large, or few rows all the same: planning a join of many tables takes longer than joining a
/// few rows by the plan for somewhat more or fewer.
fn hardly_differ(a: &[u8], b: &[u8]) -> bool {
    const FEW: u8 = size_class(1_000).0;
    let alike = |(a, b): (&u8, &u8)| a == b || (*a.max(b) <= FEW && a.abs_diff(*b) < 2);
    a.len() == b.len() && a.iter().zip(b).all(alike)
}

/// The class of a number of rows, and the number that the planner is told for it: low, as an underestimate costs less
/// for few rows than an overestimate.
pub const fn size_class(rows: u64) -> (u8, f64) {
    match rows {
        0..=30 => (0, 10.0),
        31..=100 => (1, 40.0),
        101..=300 => (2, 150.0),
        301..=1_000 => (3, 500.0),
        1_001..=3_000 => (4, 1_500.0),
        3_001..=10_000 => (5, 5_000.0),
        10_001..=30_000 => (6, 15_000.0),
        30_001..=100_000 => (7, 50_000.0),
        100_001..=1_000_000 => (8, 300_000.0),
        _ => (9, 2_000_000.0),
    }
}
