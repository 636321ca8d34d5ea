//! The relational algebra that a stream table's query becomes: about ten operators, columns by position.
//!
//! Every node outputs columns `c1`..`cn`. A [`Scalar`] is text that PostgreSQL's deparser printed, in which the columns
//! of the node's input row appear under exactly these names (a join's input row is left ++ right). So nothing below
//! the printer knows a column's name, and no scalar is ever rewritten.
//!
//! Constructors check arity and column references; a [`Rel`] made through them is well formed.

use crate::sql;
use crate::sql::Sql;
use std::fmt;

/// How PostgreSQL's default equality of a type relates to the bytes of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Equality {
    /// The type has no default equality (json, xml, point).
    None,
    /// Equal values may differ in their bytes (numeric 1.0 and 1.00, float zeroes, jsonb, interval, text under a
    /// nondeterministic collation).
    Semantic,
    /// Equal values have identical bytes.
    Image,
}

/// What exact arithmetic over a type can be done by the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// None: sums over it are recomputed per touched group (floats, money, interval, everything that is no number).
    No,
    /// int2 and int4: summed in bigint.
    Small,
    /// int8: summed in numeric.
    Big,
    /// numeric. `fixed_scale` says that every value shows the same number of decimals (a typmod, or an expression over
    /// such columns), so that a sum's scale does not depend on which rows are present.
    Numeric { fixed_scale: bool },
}

/// A column's type as the engine needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ty {
    /// `format_type` with the type modifier, schema qualified where the pinned search_path needs it.
    pub sql: Sql,
    /// How equality relates to bytes.
    pub equality: Equality,
    /// The equality operator as `OPERATOR(schema.=)` where plain `=` does not find it under `search_path = pg_catalog`.
    pub equality_operator: Option<Sql>,
    /// Whether the default equality can be hashed.
    pub hashable: bool,
    /// Exact arithmetic, if any.
    pub number: Number,
    /// A collation other than the type's default, quoted and qualified.
    pub collation: Option<Sql>,
}

impl Ty {
    /// A hashable type whose equal values are identical, from text that `format_type` printed.
    pub fn new(sql: impl Into<String>) -> Ty {
        Ty {
            sql: Sql::deparsed(sql),
            equality: Equality::Image,
            equality_operator: None,
            hashable: true,
            number: Number::No,
            collation: None,
        }
    }

    /// The same with another equality; a type without equality is not hashable either.
    pub fn with_equality(mut self, equality: Equality) -> Ty {
        self.equality = equality;
        self.hashable &= equality != Equality::None;
        self
    }

    /// The same with exact arithmetic.
    pub fn with_number(mut self, number: Number) -> Ty {
        self.number = number;
        self
    }

    /// The type of weights and counts.
    pub fn bigint() -> Ty {
        Ty::new("bigint").with_number(Number::Big)
    }

    /// Unconstrained numeric.
    pub fn numeric() -> Ty {
        Ty::new("numeric").with_equality(Equality::Semantic).with_number(Number::Numeric { fixed_scale: false })
    }

    /// Whether equal values always look the same.
    pub fn is_exact(&self) -> bool {
        let fixed_scale = self.number == Number::Numeric { fixed_scale: true };
        self.equality == Equality::Image || self.equality == Equality::Semantic && fixed_scale
    }

    /// Whether `sum` and `avg` over it can be maintained by addition.
    pub fn algebraic_sum(&self) -> bool {
        self.number != Number::No
    }
}

/// A column of a relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Col {
    /// Its type.
    pub ty: Ty,
    /// Never NULL, as the catalog or the operator guarantees.
    pub not_null: bool,
}

impl Col {
    /// A nullable column.
    pub fn new(ty: Ty) -> Col {
        Col { ty, not_null: false }
    }

    /// A column that is never NULL.
    pub fn not_null(ty: Ty) -> Col {
        Col { ty, not_null: true }
    }

    /// The same column where an outer join may leave it out.
    pub fn nullable(mut self) -> Col {
        self.not_null = false;
        self
    }
}

/// An expression over one input row, opaque to the engine: no sublinks, no window functions, no aggregates (except in
/// [`Agg::call`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalar {
    /// The text, in which input columns appear as `c1`..`cn`.
    pub sql: Sql,
    /// The input columns that it reads, counted from 0, ascending and without repetition.
    pub cols: Vec<usize>,
    /// The type of its value.
    pub ty: Ty,
    /// Whether its value is never NULL.
    pub not_null: bool,
    /// `Some(i)` when it is just input column `i`.
    pub column: Option<usize>,
}

impl Scalar {
    /// An expression from text that PostgreSQL's deparser printed.
    pub fn deparsed(sql: impl Into<String>, mut cols: Vec<usize>, ty: Ty, not_null: bool) -> Scalar {
        cols.sort_unstable();
        cols.dedup();
        Scalar { sql: Sql::deparsed(sql), cols, ty, not_null, column: None }
    }

    /// Input column `i` (from 0) as it is.
    pub fn column(i: usize, col: &Col) -> Scalar {
        Scalar { sql: Sql::column(i), cols: vec![i], ty: col.ty.clone(), not_null: col.not_null, column: Some(i) }
    }

    /// NULL of some type.
    pub fn null(ty: &Ty) -> Scalar {
        Scalar { sql: sql!("NULL::{}", ty.sql), cols: Vec::new(), ty: ty.clone(), not_null: false, column: None }
    }

    /// The column that it makes.
    pub fn col(&self) -> Col {
        Col { ty: self.ty.clone(), not_null: self.not_null }
    }
}

/// A source: the oid of the base table or of the stream table that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u32);

/// Which join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    /// Pairs that fulfil the condition. Right and full joins are [lowered](crate::lower) to the others.
    Inner,
    /// These, and each left row without a partner once with NULLs.
    Left,
    /// Left rows that have a partner; outputs the left columns only.
    Semi,
    /// Left rows that have none; outputs the left columns only.
    Anti,
}

impl JoinKind {
    /// Its name for messages.
    pub fn name(self) -> &'static str {
        match self {
            JoinKind::Inner => "inner",
            JoinKind::Left => "left",
            JoinKind::Semi => "semi",
            JoinKind::Anti => "anti",
        }
    }
}

/// One term of a join condition that is a conjunction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conjunct {
    /// The condition over the row left ++ right.
    pub condition: Scalar,
    /// `Some((l, r))` when it is `left column l = right column r` (each counted from 0 on its own side) by the default
    /// equality of their types.
    pub equi: Option<(usize, usize)>,
}

/// How an aggregate is maintained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AggKind {
    /// `count(*)`
    CountStar,
    /// `count(x)`
    Count(Scalar),
    /// `sum(x)` over a type with exact arithmetic.
    Sum(Scalar),
    /// `avg(x)` over a type with exact arithmetic.
    Avg(Scalar),
    /// `min(x)` of `pg_catalog`, not DISTINCT.
    Min(Scalar),
    /// `max(x)` of `pg_catalog`, not DISTINCT.
    Max(Scalar),
    /// Any other: recomputed for each touched group.
    Recompute,
}

/// One aggregate of an [`Rel::Aggregate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agg {
    /// The full call over the input columns, with FILTER, DISTINCT and ORDER BY.
    pub call: Scalar,
    /// Its algebra.
    pub kind: AggKind,
    /// The condition of its FILTER clause.
    pub filter: Option<Scalar>,
}

impl Agg {
    /// The argument, where the algebra knows one.
    pub fn argument(&self) -> Option<&Scalar> {
        match &self.kind {
            AggKind::CountStar | AggKind::Recompute => None,
            AggKind::Count(x) | AggKind::Sum(x) | AggKind::Avg(x) | AggKind::Min(x) | AggKind::Max(x) => Some(x),
        }
    }
}

/// A relation: a bag of rows at some state of the sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rel {
    /// Columns of a source, named by attribute number.
    Scan { source: SourceId, columns: Vec<i16>, cols: Vec<Col> },
    /// What stage `stage` keeps. Only [cutting](crate::cut) makes it.
    State { stage: usize, cols: Vec<Col> },
    /// Constant rows; the scalars read no columns.
    Values { rows: Vec<Vec<Scalar>>, cols: Vec<Col> },
    /// One output column per expression.
    Map { input: Box<Rel>, exprs: Vec<Scalar> },
    /// The rows for which every predicate is true.
    Filter { input: Box<Rel>, predicates: Vec<Scalar> },
    /// A join on a conjunction; no conjunct means all pairs.
    Join { kind: JoinKind, left: Box<Rel>, right: Box<Rel>, on: Vec<Conjunct> },
    /// Each row as often as an integer over it says, which is never negative or NULL.
    Repeat { input: Box<Rel>, times: Scalar },
    /// Bag union; the columns' types agree.
    UnionAll { inputs: Vec<Rel> },
    /// Groups: keys ++ aggregates. Without keys exactly one row, also over no input.
    Aggregate { input: Box<Rel>, keys: Vec<Scalar>, aggs: Vec<Agg> },
}

/// A node that its constructor refused: a mistake of the caller's, not of the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    what: String,
}

impl Malformed {
    /// SQLSTATE internal_error.
    pub const SQLSTATE: &'static str = "XX000";
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed relation: {}", self.what)
    }
}

impl std::error::Error for Malformed {}

fn malformed<T>(what: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed { what: what.into() })
}

fn check_reads<'a>(what: &str, scalars: impl IntoIterator<Item = &'a Scalar>, arity: usize) -> Result<(), Malformed> {
    for scalar in scalars {
        if let Some(col) = scalar.cols.iter().find(|c| **c >= arity) {
            return malformed(format!("{what} reads column {} of {arity}: {}", col + 1, scalar.sql));
        }
    }
    Ok(())
}

impl Rel {
    /// Columns of a source.
    pub fn scan(source: SourceId, columns: Vec<i16>, cols: Vec<Col>) -> Result<Rel, Malformed> {
        if columns.len() != cols.len() {
            return malformed(format!("scan of {} columns described by {}", columns.len(), cols.len()));
        }
        Ok(Rel::Scan { source, columns, cols })
    }

    /// Constant rows of the given columns.
    pub fn values(rows: Vec<Vec<Scalar>>, cols: Vec<Col>) -> Result<Rel, Malformed> {
        for row in &rows {
            if row.len() != cols.len() {
                return malformed(format!("a row of {} values for {} columns", row.len(), cols.len()));
            }
            check_reads("a constant", row, 0)?;
        }
        Ok(Rel::Values { rows, cols })
    }

    /// One column per expression.
    pub fn map(self, exprs: Vec<Scalar>) -> Result<Rel, Malformed> {
        check_reads("map", &exprs, self.arity())?;
        Ok(Rel::Map { input: Box::new(self), exprs })
    }

    /// The rows that fulfil all predicates.
    pub fn filter(self, predicates: Vec<Scalar>) -> Result<Rel, Malformed> {
        check_reads("filter", &predicates, self.arity())?;
        Ok(Rel::Filter { input: Box::new(self), predicates })
    }

    /// A join of any kind on a conjunction.
    pub fn join(self, kind: JoinKind, right: Rel, on: Vec<Conjunct>) -> Result<Rel, Malformed> {
        let (l, r) = (self.arity(), right.arity());
        check_reads("join", on.iter().map(|c| &c.condition), l + r)?;
        if let Some((a, b)) = on.iter().filter_map(|c| c.equi).find(|(a, b)| *a >= l || *b >= r) {
            return malformed(format!("equality of left column {} of {l} and right column {} of {r}", a + 1, b + 1));
        }
        Ok(Rel::Join { kind, left: Box::new(self), right: Box::new(right), on })
    }

    /// Each row as often as `times` says.
    pub fn repeat(self, times: Scalar) -> Result<Rel, Malformed> {
        check_reads("repeat", [&times], self.arity())?;
        Ok(Rel::Repeat { input: Box::new(self), times })
    }

    /// Bag union of at least one input of equal arity.
    pub fn union_all(inputs: Vec<Rel>) -> Result<Rel, Malformed> {
        match inputs.first() {
            None => malformed("union of nothing"),
            Some(first) if inputs.iter().any(|i| i.arity() != first.arity()) => {
                malformed("union of relations with different numbers of columns")
            }
            Some(_) => Ok(Rel::UnionAll { inputs }),
        }
    }

    /// Grouping; outputs keys ++ aggregates.
    pub fn aggregate(self, keys: Vec<Scalar>, aggs: Vec<Agg>) -> Result<Rel, Malformed> {
        let arity = self.arity();
        check_reads("group key", &keys, arity)?;
        check_reads("aggregate", aggs.iter().map(|a| &a.call), arity)?;
        check_reads("aggregate argument", aggs.iter().filter_map(Agg::argument), arity)?;
        check_reads("aggregate filter", aggs.iter().filter_map(|a| a.filter.as_ref()), arity)?;
        Ok(Rel::Aggregate { input: Box::new(self), keys, aggs })
    }

    /// DISTINCT: the groups by all columns, without aggregates. A relation without columns keeps one row if it has any,
    /// which no aggregate says, so it is refused.
    pub fn distinct(self) -> Result<Rel, Malformed> {
        let cols = self.cols();
        if cols.is_empty() {
            return malformed("DISTINCT over no columns");
        }
        let keys = cols.iter().enumerate().map(|(i, col)| Scalar::column(i, col)).collect();
        self.aggregate(keys, Vec::new())
    }

    /// The number of output columns.
    pub fn arity(&self) -> usize {
        match self {
            Rel::Scan { cols, .. } | Rel::State { cols, .. } | Rel::Values { cols, .. } => cols.len(),
            Rel::Map { exprs, .. } => exprs.len(),
            Rel::Filter { input, .. } | Rel::Repeat { input, .. } => input.arity(),
            Rel::Join { kind: JoinKind::Inner | JoinKind::Left, left, right, .. } => left.arity() + right.arity(),
            Rel::Join { left, .. } => left.arity(),
            Rel::UnionAll { inputs } => inputs.first().map_or(0, Rel::arity),
            Rel::Aggregate { keys, aggs, .. } => keys.len() + aggs.len(),
        }
    }

    /// The output columns.
    pub fn cols(&self) -> Vec<Col> {
        match self {
            Rel::Scan { cols, .. } | Rel::State { cols, .. } | Rel::Values { cols, .. } => cols.clone(),
            Rel::Map { exprs, .. } => exprs.iter().map(Scalar::col).collect(),
            Rel::Filter { input, .. } | Rel::Repeat { input, .. } => input.cols(),
            Rel::Join { kind, left, right, on } => match kind {
                JoinKind::Inner => matched([left.cols(), right.cols()].concat(), on, left.arity()),
                JoinKind::Left => left.cols().into_iter().chain(right.cols().into_iter().map(Col::nullable)).collect(),
                JoinKind::Semi | JoinKind::Anti => left.cols(),
            },
            Rel::UnionAll { inputs } => union_cols(inputs.iter().map(Rel::cols)),
            Rel::Aggregate { keys, aggs, .. } => {
                keys.iter().map(Scalar::col).chain(aggs.iter().map(|a| a.call.col())).collect()
            }
        }
    }

    /// The sources that it reads, each once, in order of first appearance.
    pub fn sources(&self) -> Vec<SourceId> {
        let mut found = Vec::new();
        self.visit(&mut |rel| {
            if let Rel::Scan { source, .. } = rel
                && !found.contains(source)
            {
                found.push(*source);
            }
        });
        found
    }

    /// Calls `f` for this node and everything beneath it, parents first.
    pub fn visit(&self, f: &mut impl FnMut(&Rel)) {
        f(self);
        self.inputs().into_iter().for_each(|input| input.visit(f));
    }

    /// The nodes directly beneath.
    pub fn inputs(&self) -> Vec<&Rel> {
        match self {
            Rel::Scan { .. } | Rel::State { .. } | Rel::Values { .. } => Vec::new(),
            Rel::Map { input, .. }
            | Rel::Filter { input, .. }
            | Rel::Repeat { input, .. }
            | Rel::Aggregate { input, .. } => vec![input],

            Rel::Join { left, right, .. } => vec![left, right],
            Rel::UnionAll { inputs } => inputs.iter().collect(),
        }
    }
}

/// What was found equal was not NULL: default equality is strict.
fn matched(mut cols: Vec<Col>, on: &[Conjunct], left_arity: usize) -> Vec<Col> {
    for (l, r) in on.iter().filter_map(|conjunct| conjunct.equi) {
        cols[l].not_null = true;
        cols[left_arity + r].not_null = true;
    }
    cols
}

/// A union's column is never NULL if it is so in every input; its equality is the weakest of them.
pub(crate) fn union_cols(mut all: impl Iterator<Item = Vec<Col>>) -> Vec<Col> {
    let mut cols = all.next().unwrap_or_default();
    for other in all {
        for (col, other) in cols.iter_mut().zip(other) {
            col.not_null &= other.not_null;
            col.ty.equality = col.ty.equality.min(other.ty.equality);
            if col.ty.number != other.ty.number {
                col.ty.number = weaker_number(col.ty.number, other.ty.number);
            }
        }
    }
    cols
}

/// The branches of a union agree in type, so two numbers can only differ in whether the scale is fixed; and even two
/// fixed scales may be different ones.
fn weaker_number(a: Number, b: Number) -> Number {
    match (a, b) {
        (Number::Numeric { .. }, Number::Numeric { .. }) => Number::Numeric { fixed_scale: false },
        _ => Number::No,
    }
}
