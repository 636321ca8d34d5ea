//! Query text to relational algebra: PostgreSQL's analysed and rewritten query becomes the engine's [`Rel`].
//!
//! Each SQL construct is one function in a small file. What has no mapping makes the whole query *opaque*, with a
//! sentence that says why; what no stream table can be made of is *refused* with an error.
//!
//! | file | construct |
//! |---|---|
//! | `from` | FROM, joins of all kinds, WHERE |
//! | `lateral` | LATERAL |
//! | `computed` | subqueries that read no table |
//! | `functions` | functions in FROM, set-returning functions in the select list |
//! | `node` | rows on the way, join conditions |
//! | `subquery` | EXISTS, IN, ANY, ALL as conditions |
//! | `group_value` | values of groups, joined to rows |
//! | `value` | scalar subqueries, ARRAY(SELECT …), EXISTS as values |
//! | `truth` | ANY, ALL and rows compared with a subquery, as values |
//! | `target` | one SELECT: its clauses in the order in which SQL evaluates them |
//! | `aggregate` | GROUP BY, aggregates, HAVING |
//! | `window` | window functions |
//! | `top_k` | LIMIT, OFFSET, FETCH FIRST, DISTINCT ON |
//! | `order` | ORDER BY, where it matters |
//! | `setop` | UNION, INTERSECT, EXCEPT |
//! | `recursive` | WITH RECURSIVE |
//! | `dependent` | subqueries that depend on the row outside in any way, LATERAL |
//! | `scalar` | expressions and types |
//! | `sources`, `family` | tables that are read; partitions, inheritance |
//! | `refuse` | what is not allowed |
//! | `reliable` | STABLE functions that are as good as IMMUTABLE |
//! | `tree` | the result, for people |

mod aggregate;
mod computed;
mod dependent;
mod family;
mod from;
mod functions;
mod group_value;
mod lateral;
mod node;
mod order;
mod recursive;
mod refuse;
mod reliable;
mod scalar;
mod setop;
mod sources;
mod subquery;
mod target;
mod top_k;
pub mod tree;
mod truth;
mod value;
mod window;

pub use refuse::Refusal;
pub use sources::{Capture, Source};

use dependent::Domain;
use pgrx::pg_sys;
use pgtrickle_engine::ir::{Malformed, Rel, Ty};
use pgtrickle_engine::program::{Definition, Program, Target};
use pgtrickle_engine::sql::{Ident, QualifiedName, Sql};
use pgtrickle_pg::deparse::Printing;
use pgtrickle_pg::query::{Query, RelationEntry, Scratch, Written, with_scratch};
use pgtrickle_pg::spi::RunAs;
use pgtrickle_pg::table::{self, Relation};
use recursive::Recursions;
use scalar::Types;
use sources::Sources;
use std::fmt;
use std::rc::Rc;

/// A query to analyse.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// As a user wrote it; names are resolved under the current search_path.
    Text(&'a str),
    /// A view.
    View(pg_sys::Oid),
}

/// What is known of a query.
#[derive(Debug, Clone)]
pub struct Analysis {
    /// How it can be maintained.
    pub plan: Analyzed,
    /// Names and types of its columns.
    pub columns: Vec<(Ident, Ty)>,
    /// All tables that it reads, through views too.
    pub sources: Vec<Source>,
    /// Its result may change while they do not: with time, settings or who asks.
    pub restless: bool,
    /// The query that is maintained, where views that it reads leave a choice that it does not.
    pub settled: Option<Sql>,
}

/// How a query can be maintained.
#[derive(Debug, Clone)]
pub enum Analyzed {
    /// By the engine's delta rules.
    Differential(Definition),
    /// By computing it anew and applying the difference.
    Opaque {
        /// Why, in one sentence.
        reason: String,
    },
}

/// Why there is no analysis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// No stream table can be made of the query.
    Refused(Refusal),
    /// A mistake of ours: the mapping made a relation that the engine rejects.
    Malformed(Malformed),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused(refusal) => refusal.fmt(f),
            Error::Malformed(malformed) => malformed.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

/// Why the walk ended early.
enum Stop {
    /// There is no mapping.
    Opaque(String),
    /// There shall be none.
    Refused(Refusal),
    /// There is a wrong one.
    Malformed(Malformed),
}

impl From<Malformed> for Stop {
    fn from(malformed: Malformed) -> Stop {
        Stop::Malformed(malformed)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

type Mapped<T> = Result<T, Stop>;

fn opaque<T>(reason: impl Into<String>) -> Mapped<T> {
    Err(Stop::Opaque(reason.into()))
}

/// Analyses a query. Errors that PostgreSQL itself finds in it are raised as they are.
pub fn analyze(input: Input<'_>) -> Result<Analysis, Error> {
    with_scratch(|scratch| {
        // Folding constants runs functions of the query: those of a view in its owner's name, whoever refreshes.
        let mut _owner = None;
        let (written, user) = match input {
            Input::Text(text) => {
                let written = scratch.parse(text).map_err(|e| Error::Refused(Refusal::NotAQuery(e)))?;
                (written, table::current_user())
            }
            // A stream table's view belongs to the stream table's owner.
            Input::View(view) => {
                let owner = Relation::describe(view).owner;
                _owner = Some(RunAs::restricted(owner.to_u32()));
                (scratch.view(view), owner)
            }
        };
        let printing = Printing::new();
        let analyzed = |written: Written<'_>| Analyzer::new(scratch, &printing, user).run(written.rewritten());
        let analysis = analyzed(written)?;
        if analysis.restless || matches!(analysis.plan, Analyzed::Differential(_)) {
            return Ok(analysis);
        }
        // Perhaps only because of what views leave open.
        let Some(settled) = written.settled(&|entry| readable(entry, user)) else { return Ok(analysis) };
        match analyzed(settled)? {
            again @ Analysis { plan: Analyzed::Differential(_), .. } => {
                Ok(Analysis { settled: Some(Sql::deparsed(settled.text(&printing))), ..again })
            }
            _ => Ok(analysis),
        }
    })
}

/// Whether somebody may read all that a query reads of a relation, and all of its rows.
fn readable(entry: &RelationEntry, user: pg_sys::Oid) -> bool {
    let all = entry.selected.iter().any(|&column| column <= 0);
    let columns: &[i16] = if all { &[] } else { &entry.selected };
    !Relation::describe(entry.relid).row_security && table::may_read(user, entry.relid, columns)
}

/// Everything that mapping one query needs to look at or to note down.
struct Analyzer<'q> {
    scratch: &'q Scratch,
    types: Types<'q>,
    sources: Sources,
    recursions: Recursions,
    /// As whom the stream table will read its sources.
    user: pg_sys::Oid,
}

impl<'q> Analyzer<'q> {
    fn new(scratch: &'q Scratch, printing: &'q Printing, user: pg_sys::Oid) -> Self {
        let (sources, recursions) = (Sources::default(), Recursions::default());
        Analyzer { scratch, types: Types::new(printing), sources, recursions, user }
    }

    fn run(&self, query: Query<'q>) -> Result<Analysis, Error> {
        let columns = refuse::check(query, &self.types).map_err(Error::Refused)?;
        let unreliable = refuse::opaque_reason(query, &self.types);
        let restless = unreliable.is_some();
        let mapped = match unreliable {
            Some(reason) => Err(Stop::Opaque(reason)),
            None => self.definition(query, &columns),
        };
        let (plan, sources) = match mapped {
            Ok(definition) => (planned(definition), self.sources.scanned()),
            Err(Stop::Opaque(reason)) => (Analyzed::Opaque { reason }, sources::of_query(query)),
            Err(Stop::Refused(refusal)) => return Err(Error::Refused(refusal)),
            Err(Stop::Malformed(malformed)) => return Err(Error::Malformed(malformed)),
        };
        Ok(Analysis { plan, columns, sources, restless, settled: None })
    }

    fn definition(&self, query: Query<'q>, columns: &[(Ident, Ty)]) -> Mapped<Definition> {
        if query.limit_may_end_recursion() {
            return opaque("its LIMIT without ORDER BY may be what ends its recursion");
        }
        let wanted: Vec<usize> = (1..=columns.len()).collect();
        let root = self.query(&Frame { query, around: None, domain: None }, &wanted)?;
        let root = sources::unified(&root)?;
        Ok(Definition { sources: self.sources.infos(&root), root, columns: columns.to_vec() })
    }
}

/// A query among those around it, where names of WITH and columns of outer levels are found.
#[derive(Clone)]
struct Frame<'a, 'q> {
    query: Query<'q>,
    around: Option<&'a Frame<'a, 'q>>,
    /// What it reads of the queries around, if it depends on them: then its relation has these columns in front.
    domain: Option<Rc<Domain>>,
}

impl<'a, 'q> Frame<'a, 'q> {
    /// A query inside this one; it has a domain if it needs one.
    fn inside(&'a self, query: Query<'q>) -> Frame<'a, 'q> {
        let needs =
            |query: Query<'_>| query.outer_columns().iter().any(|id| id.levels_up > 1) || query.reads_recursion();
        let domain = self.domain.as_ref().filter(|_| needs(query));
        Frame { query, around: Some(self), domain: domain.map(|domain| domain.inside()) }
    }

    /// A branch of this query: it has this query's domain, needed or not.
    fn branch(&'a self, query: Query<'q>) -> Frame<'a, 'q> {
        Frame { query, around: Some(self), domain: self.domain.as_ref().map(|domain| domain.inside()) }
    }

    /// How many columns of the domain are in front.
    fn offset(&self) -> usize {
        self.domain.as_ref().map_or(0, |domain| domain.width())
    }

    fn up(&self, levels: u32) -> Option<&Frame<'a, 'q>> {
        (0..levels).try_fold(self, |frame, _| frame.around)
    }
}

/// A definition that the engine has rules for, or why it has not.
fn planned(definition: Definition) -> Analyzed {
    let anywhere = Target { table: QualifiedName::new("pgtrickle", "preview"), pgt_id: 0 };
    match Program::new(&definition, &anywhere) {
        Ok(_) => Analyzed::Differential(definition),
        Err(unsupported) => {
            Analyzed::Opaque { reason: format!("there is no rule for the change of its {}", unsupported.reason) }
        }
    }
}

/// Leaves a relation out of account that only repeats its input.
fn map(rel: Rel, exprs: Vec<pgtrickle_engine::ir::Scalar>) -> Mapped<Rel> {
    let same = exprs.len() == rel.arity() && exprs.iter().enumerate().all(|(i, e)| e.column == Some(i));
    Ok(if same { rel } else { rel.map(exprs)? })
}

impl From<Error> for crate::error::Error {
    fn from(error: Error) -> Self {
        let Error::Refused(refusal) = error else {
            return crate::error::Error::new(pgrx::PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, error.to_string());
        };
        let plain = crate::error::Error::new(refusal.code(), refusal.to_string()).hint(refusal.hint());
        match refusal.detail() {
            Some(detail) => plain.detail(detail),
            None => plain,
        }
    }
}
