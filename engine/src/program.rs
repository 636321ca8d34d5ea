//! What the runner runs: a list of steps for each thing that can happen to a stream table.

use crate::cut::{Stages, cut};
use crate::delta::{Changed, delta};
use crate::demand::restrict;
use crate::described::describe_groups;
use crate::explain::{construct, over, plain};
use crate::ir::{Col, Rel, SourceId, Ty};
use crate::keys::{KnownKeys, key};
use crate::origin::{self, Origins};
use crate::partners::Values;
use crate::plan::Catalog;
use crate::plan::kept::Kept;
use crate::plan::stage::StagePlan;
use crate::relevant::{Changes, Relevance, partner_keys, relevance};
use crate::selection::{Choice, keep};
use crate::single::as_semi_joins;
use crate::sql::{From, Ident, QualifiedName, Query, Select, Sql};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// A source as the printer needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceInfo {
    /// Its oid.
    pub id: SourceId,
    /// Its name.
    pub table: QualifiedName,
    /// Read without its inheritance children, which are sources of their own.
    pub only: bool,
    /// The names of its columns by attribute number. In the delta relation they are called `c<attnum>`.
    pub columns: BTreeMap<i16, Ident>,
    /// A key whose columns are NOT NULL and unique at every committed moment, if there is one (not for a parent of an
    /// inheritance tree, whose children it does not bind).
    pub primary_key: Option<Vec<i16>>,
}

/// A stream table's query after analysis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The query.
    pub root: Rel,
    /// Names and types of the stream table's columns, in the order of the root's.
    pub columns: Vec<(Ident, Ty)>,
    /// All sources of the root, each once.
    pub sources: Vec<SourceInfo>,
}

impl Definition {
    /// The query as one statement over its sources, with columns `c1`..`cn`: what the stream table must equal.
    pub fn query(&self) -> Sql {
        Catalog::of_sources(&self.sources).rel(&self.root).sql()
    }

    /// The root as it is planned, but for what is kept of it.
    pub(crate) fn simplified(&self, as_written: bool) -> Rel {
        let query = as_semi_joins(&self.root);
        if as_written { query } else { describe_groups(&query, &self.known_keys()) }
    }

    /// The keys of the sources.
    pub(crate) fn known_keys(&self) -> KnownKeys {
        let primary_key = |source: &SourceInfo| Some((source.id, source.primary_key.clone()?));
        KnownKeys { sources: self.sources.iter().filter_map(primary_key).collect(), stages: Vec::new() }
    }
}

/// Where results are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The stream table.
    pub table: QualifiedName,
    /// Its number, part of the names of its state tables `pgtrickle_changes.state_<pgt_id>_<n>`.
    pub pgt_id: i64,
}

/// How a row of the stream table is found again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// By these columns (from 0). Without columns there is at most one row.
    Key { columns: Vec<usize> },
    /// By its whole image, among equals.
    Bag,
}

/// A hidden table that keeps one stage's state, with its indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateTable {
    /// Its name.
    pub name: QualifiedName,
    /// CREATE TABLE.
    pub create: Sql,
    /// CREATE INDEX.
    pub indexes: Vec<Sql>,
}

/// One thing to run, all under the refresh's snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Run the query into a tuplestore and register that as ephemeral named relation `name`. If it is skipped, an empty
    /// relation is registered.
    Stage { name: Ident, query: Sql, reads: Vec<Ident>, skip_if_empty: Vec<Ident> },
    /// Run the query, which may read `name`, and put its result in the place of that relation; same columns. If it is
    /// skipped, the relation stays as it is.
    Restage { name: Ident, query: Sql, reads: Vec<Ident>, skip_if_empty: Vec<Ident> },
    /// Run a data-modifying statement. If `expect` is there, it is a query that returns one bigint: the number of rows
    /// that the statement must have processed; any other number means that stored state is corrupt.
    Modify { sql: Sql, reads: Vec<Ident>, skip_if_empty: Vec<Ident>, expect: Option<Sql> },
    /// Run a query; a row returned means that stored state is corrupt, and its first column (text) says what is wrong.
    Check { query: Sql, reads: Vec<Ident>, skip_if_empty: Vec<Ident> },
}

impl Step {
    /// The relations all of which being empty makes the step needless; if there are none, it always runs.
    pub fn skip_if_empty(&self) -> &[Ident] {
        match self {
            Step::Stage { skip_if_empty, .. }
            | Step::Restage { skip_if_empty, .. }
            | Step::Modify { skip_if_empty, .. }
            | Step::Check { skip_if_empty, .. } => skip_if_empty,
        }
    }
}

/// One stage as a user may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageInfo {
    /// The operator at its top.
    pub operator: String,
    /// How it is maintained, and why so.
    pub rule: String,
    /// Its state table, if it has one.
    pub state: Option<QualifiedName>,
}

/// One stage in the words of SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// The construct at its top.
    pub construct: &'static str,
    /// What it is made of.
    pub over: String,
    /// How it is maintained, and why so.
    pub rule: String,
    /// Its state table, if it has one.
    pub state: Option<QualifiedName>,
}

/// A query for which there is no delta rule (yet): it can be maintained as [`Program::opaque`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Which construct.
    pub reason: String,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Unsupported {}

/// Everything that a stream table's refreshes run.
#[derive(Clone, Debug)]
pub struct Program {
    catalog: Catalog,
    query: Origin,
    root: Kept,
    compared: BTreeSet<SourceId>,
    relevant: BTreeMap<SourceId, Vec<Relevance>>,
    /// Where the columns of each stage come from.
    origins: Vec<Origins>,
    /// The keys of sources and stages.
    keys: Arc<KnownKeys>,
    /// Those that changes are read by: they must have been keys before.
    relied_on: Vec<(usize, Vec<usize>)>,
    /// The query, if keys tell that it can be grouped otherwise.
    regrouped: Option<Rel>,
    /// The stages, if what some of them keep was chosen.
    chosen: Option<Stages>,
    /// Construct and inputs of each stage and of the root.
    outline: Vec<(&'static str, String)>,
}

/// Where the root's rows come from.
#[derive(Clone, Debug)]
enum Origin {
    /// Delta rules over sources and stages.
    Rules(Rel),
    /// The definition view.
    View(QualifiedName),
}

impl Program {
    /// The ephemeral named relation with the netted change of the stream table: columns `c1`..`cn` and `w` bigint, never 0.
    pub fn root_delta() -> Ident {
        Ident::new("pgt_root")
    }

    /// The ephemeral named relation with the staged change of a source: the columns of its buffer.
    pub fn source_delta(source: SourceId) -> Ident {
        Ident::numbered("pgt_delta_", source.0)
    }

    /// Plans a query by its delta rules.
    pub fn new(definition: &Definition, target: &Target) -> Result<Program, Unsupported> {
        Program::choosing(definition, target, &Choice::default())
    }

    /// The same with another choice.
    pub fn choosing(definition: &Definition, target: &Target, choice: &Choice) -> Result<Program, Unsupported> {
        let chosen = |rel: &Rel| choice.kept.iter().any(|selection| selection.is(rel));
        let query = definition.simplified(choice.as_written);
        let regrouped = (query != definition.simplified(true)).then(|| query.clone());
        let stages = cut(&restrict(&keep(&query, &definition.known_keys(), &chosen)))?;
        let mut known = definition.known_keys();
        for stage in &stages.stages {
            let key = key(stage, &known);
            known.stages.push(key);
        }
        let identity = key(&stages.root, &known).map_or(Identity::Bag, |columns| Identity::Key { columns });
        let cols = stages.root.cols();
        let all = stages.stages.iter().chain([&stages.root]);
        let outline = all.map(|rel| (construct(rel), over(rel, &definition.sources))).collect();
        Ok(Program {
            outline,
            regrouped,
            chosen: stages.stages.iter().any(|stage| matches!(stage, Rel::Selected { .. })).then(|| stages.clone()),
            relevant: relevance(&stages, &known),
            relied_on: partner_keys(stages.stages.iter().chain([&stages.root]), &known),
            origins: origin::of_stages(&stages),
            catalog: Catalog::new(&definition.sources, &stages, &known, target.pgt_id),
            keys: Arc::new(known),
            root: Kept::root(target, &definition.columns, cols, identity),
            query: Origin::Rules(stages.root),
            compared: definition.root.compared_sources(),
        })
    }

    /// Plans a query that has delta rules, but is to be recomputed from its definition view all the same: without state
    /// tables, and with rows found by key where the query has one.
    pub fn recomputed(definition: &Definition, view: &QualifiedName, target: &Target) -> Program {
        let by_rules = Program::new(definition, target);
        let opaque = Program::opaque(view, &definition.columns, target);
        by_rules.map_or(opaque.clone(), |by_rules| Program { root: by_rules.root, ..opaque })
    }

    /// Plans a query that is recomputed from its definition view and compared with what is stored.
    pub fn opaque(view: &QualifiedName, columns: &[(Ident, Ty)], target: &Target) -> Program {
        let cols = columns.iter().map(|(_, ty)| Col::new(ty.clone())).collect();
        Program {
            catalog: Catalog::default(),
            query: Origin::View(view.clone()),
            root: Kept::root(target, columns, cols, Identity::Bag),
            compared: BTreeSet::new(),
            relevant: BTreeMap::new(),
            origins: Vec::new(),
            keys: Arc::default(),
            relied_on: Vec::new(),
            regrouped: None,
            chosen: None,
            outline: vec![("The whole query", format!("of {}", plain(view)))],
        }
    }

    /// Whether [`Program::refresh`] may be used.
    pub fn is_differential(&self) -> bool {
        matches!(self.query, Origin::Rules(_))
    }

    /// Sources whose changes [`Program::refresh`] finds out by itself, if they are named among the changed ones.
    pub fn compared(&self) -> &BTreeSet<SourceId> {
        &self.compared
    }

    /// Which changes of a source matter, a term per scan: what matters to none of them need not be staged. Nothing is known
    /// of a query without delta rules.
    pub fn relevant(&self, source: SourceId) -> Option<&[Relevance]> {
        self.relevant.get(&source).map(Vec::as_slice)
    }

    /// A query for the values, called `v`, that a stage keeps, and its table.
    pub fn kept_values(&self, values: &Values) -> (Sql, QualifiedName) {
        let stage = &self.catalog.stages[values.stage];
        let select = Select::from(stage.rows().aliased("k", Vec::new()));
        (select.column(Sql::column(values.column), Ident::new("v")).sql(), stage.state_table().name)
    }

    /// The keys of the query's parts without which changes would be read otherwise: rows from before may lack them.
    pub fn relied_on(&self) -> &[(usize, Vec<usize>)] {
        &self.relied_on
    }

    /// The query where it is grouped otherwise than it says, because of keys that its sources have.
    pub fn regrouped(&self) -> Option<&Rel> {
        self.regrouped.as_ref()
    }

    /// The stages, if [selections](crate::selection) are among them: other choices keep other rows in tables that look the same.
    pub fn chosen(&self) -> Option<&Stages> {
        self.chosen.as_ref()
    }

    /// The hidden tables to create.
    pub fn state_tables(&self) -> Vec<StateTable> {
        self.catalog.stages.iter().map(|stage| stage.state_table()).collect()
    }

    /// How rows of the stream table are found again.
    pub fn identity(&self) -> &Identity {
        &self.root.identity
    }

    /// The index that the stream table needs for it, if any.
    pub fn identity_index(&self) -> Option<Sql> {
        self.root.index()
    }

    /// The first fill of state tables and stream table, all empty before. Stages no [`Program::root_delta`].
    pub fn fill(&self) -> Vec<Step> {
        let stages = self.catalog.stages.iter().flat_map(|stage| stage.fill(&self.catalog));
        stages.chain([self.root.fill(self.new_rows())]).collect()
    }

    /// The effect of the changes of these sources, which must not be empty; the other sources have not changed.
    pub fn refresh(&self, changed: &BTreeSet<SourceId>) -> Vec<Step> {
        self.refresh_by_stage(&changed.iter().copied().collect()).into_iter().flat_map(|(_, steps)| steps).collect()
    }

    /// The same, each stage's steps with its number in [`outline`](Self::outline), from 0.
    pub fn refresh_by_stage(&self, changes: &Changes) -> Vec<(usize, Vec<Step>)> {
        let mut changed = self.changed(changes);
        self.steps_for(&mut changed)
    }

    fn changed(&self, changes: &Changes) -> Changed {
        Changed::with(changes, &self.relevant).knowing(self.keys.clone())
    }

    fn steps_for(&self, changed: &mut Changed) -> Vec<(usize, Vec<Step>)> {
        let Origin::Rules(root) = &self.query else {
            return self.recompute_by_stage();
        };
        let mut stages = Vec::new();
        let mut shared = 0;
        for (i, stage) in self.catalog.stages.iter().enumerate() {
            if let Some(change) = stage.refresh(&self.catalog, changed) {
                let mut steps = self.share_from(&mut shared, changed);
                steps.extend(change);
                stages.push((i, steps));
                changed.stages.insert(i);
            }
        }
        if let Some(change) = delta(root, changed) {
            let mut steps = self.share_from(&mut shared, changed);
            steps.extend(self.root.refresh(&self.catalog, &change));
            stages.push((self.catalog.stages.len(), steps));
        }
        stages
    }

    /// Where the columns of what [`refresh_by_stage`](Self::refresh_by_stage) stages and of the state tables come from, by the
    /// relation's name (of a state table without its schema). Such a column's name ends in its number, from 1.
    pub fn origins(&self, changes: &Changes) -> BTreeMap<String, Origins> {
        let mut changed = self.changed(changes);
        self.steps_for(&mut changed);
        let shared = changed.shared_from(0);
        let shared = shared.iter().map(|value| origin::of_zset(value, &self.origins)).enumerate();
        let shared = shared.map(|(number, origins)| (crate::plan::shared(number), origins));
        let names = |stage: &std::sync::Arc<dyn StagePlan>| [stage.state_table().name.name, stage.staged()];
        let stages = self.catalog.stages.iter().zip(&self.origins);
        let stages = stages.flat_map(|(stage, origins)| names(stage).map(|name| (name, origins.clone())));
        shared.chain(stages).map(|(name, origins)| (name.as_str().to_owned(), origins)).collect()
    }

    /// The steps for what has been shared since the last call.
    fn share_from(&self, first: &mut usize, changed: &Changed) -> Vec<Step> {
        let new = changed.shared_from(*first);
        let steps = new.iter().enumerate().map(|(i, value)| self.catalog.share(*first + i, value)).collect();
        *first += new.len();
        steps
    }

    /// Computes everything anew, whatever is stored, and applies only the differences.
    pub fn recompute(&self) -> Vec<Step> {
        self.recompute_by_stage().into_iter().flat_map(|(_, steps)| steps).collect()
    }

    /// The same, each stage's steps with its number in [`outline`](Self::outline), from 0.
    pub fn recompute_by_stage(&self) -> Vec<(usize, Vec<Step>)> {
        let stages = self.catalog.stages.iter().map(|stage| stage.recompute(&self.catalog));
        stages.chain([self.root.recompute(self.new_rows())]).enumerate().collect()
    }

    /// The same where another program has filled the stream table. The state tables are this one's, and empty.
    pub fn adopt_by_stage(&self) -> Vec<(usize, Vec<Step>)> {
        let stages = self.catalog.stages.iter().map(|stage| stage.recompute(&self.catalog));
        stages.chain([self.root.adopt(self.new_rows())]).enumerate().collect()
    }

    /// The stages in the words of SQL, sources first, the stream table last.
    pub fn outline(&self) -> Vec<Outline> {
        let root = match &self.query {
            Origin::Rules(_) => format!("changes flow through without anything being kept; {}", self.root.explain()),
            Origin::View(_) => format!("computed anew and compared with what is stored; {}", self.root.explain()),
        };
        let stages = self.catalog.stages.iter().map(|stage| stage.explain()).map(|info| (info.rule, info.state));
        let described = self.outline.iter().zip(stages.chain([(root, None)]));
        described
            .map(|((construct, over), (rule, state))| Outline { construct, over: over.clone(), rule, state })
            .collect()
    }

    /// The stages, sources first, the stream table last.
    pub fn explain(&self) -> Vec<StageInfo> {
        let stages = self.catalog.stages.iter().map(|stage| stage.explain());
        let rule = match &self.query {
            Origin::Rules(root) => format!("{}; {}", describe(root), self.root.explain()),
            Origin::View(_) => format!("recomputed and compared; {}", self.root.explain()),
        };
        stages.chain([StageInfo { operator: "root".into(), rule, state: None }]).collect()
    }

    fn new_rows(&self) -> Query {
        match &self.query {
            Origin::Rules(root) => self.catalog.rel(root),
            Origin::View(view) => {
                let columns = self.root.names.iter().map(Sql::from);
                Select::from(From::table(view)).columns(columns.zip(crate::plan::columns(self.root.names.len()))).into()
            }
        }
    }
}

/// The operators of a relation without stateful ones, from the top.
fn describe(rel: &Rel) -> String {
    let mut names = Vec::new();
    rel.visit(&mut |rel| {
        names.push(match rel {
            Rel::State { stage, .. } => format!("stage {}", stage + 1),
            _ => rel.name(),
        });
    });
    names.join(" > ")
}
