//! The relational algebra that a stream table's query becomes: about ten operators, columns by position.
//!
//! Every node outputs columns `c1`..`cn`. A [`Scalar`] is text that PostgreSQL's deparser printed, in which the columns
//! of the node's input row appear under exactly these names (a join's input row is left ++ right). So nothing below
//! the printer knows a column's name, and no scalar is ever rewritten.
//!
//! Constructors check arity and column references; a [`Rel`] made through them is well formed.

mod rel;

pub use rel::{Malformed, Rel, union_cols};

use crate::sql;
use crate::sql::Sql;

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
    /// A domain, which may refuse NULL.
    pub domain: bool,
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
            domain: false,
        }
    }

    /// NULL of this type. A conversion to a domain asks whether that allows NULL, which nobody asks of the element that an
    /// array lacks.
    pub fn null(&self) -> Sql {
        if self.domain { sql!("(NULL::{}[])[1]", self.sql) } else { sql!("NULL::{}", self.sql) }
    }

    /// A value of this type, or of the type beneath a domain, as one of this type. Whatever is converted to a domain later must
    /// not be NULL.
    pub fn of_base(&self, value: Sql) -> Sql {
        match self.domain {
            true => sql!(
                "CASE WHEN {} IS NOT DISTINCT FROM NULL THEN {} ELSE {}::{} END",
                value,
                self.null(),
                value,
                self.sql
            ),
            false => value,
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

    /// Whether equal values may look different.
    pub fn is_blurred(&self) -> bool {
        self.equality == Equality::Semantic && !self.is_exact()
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
        Scalar { sql: ty.null(), cols: Vec::new(), ty: ty.clone(), not_null: false, column: None }
    }

    /// Whether values that it gives may be equal and look different.
    pub fn is_blurred(&self) -> bool {
        self.ty.is_blurred() && !self.cols.is_empty()
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

/// A term of ORDER BY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortKey {
    /// What is sorted by, over the input row.
    pub by: Scalar,
    /// The operator that sorts, qualified: `OPERATOR(pg_catalog.<)`.
    pub operator: Sql,
    /// Where NULLs go.
    pub nulls_first: bool,
}

impl SortKey {
    /// The term.
    pub fn sql(&self) -> Sql {
        let nulls = if self.nulls_first { "FIRST" } else { "LAST" };
        sql!("{} USING {} NULLS {}", self.by.sql, self.operator, nulls)
    }
}

/// How many rows of an ordered input are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// After how many rows.
    pub offset: u64,
    /// How many at most.
    pub rows: u64,
    /// And all rows that are equal, by the order, to the last of these. Then the offset is 0.
    pub ties: bool,
}

impl Limit {
    /// How many of the first rows decide.
    pub fn first(&self) -> u64 {
        self.offset.saturating_add(self.rows)
    }

    /// The clause.
    pub fn sql(&self) -> Sql {
        Limit::clause(self.offset, self.rows, self.ties)
    }

    /// `OFFSET … FETCH FIRST … ROWS`
    pub fn clause(offset: u64, rows: u64, ties: bool) -> Sql {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let ties = if ties { "WITH TIES" } else { "ONLY" };
        let fetch = sql!("FETCH FIRST {} ROWS {}", number(rows), ties);
        if offset == 0 { fetch } else { sql!("OFFSET {} {}", number(offset), fetch) }
    }
}

/// What each row of a relation is joined to: the rows of functions over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The item of FROM without its alias, over the input's columns: `ROWS FROM (unnest(c1)) WITH ORDINALITY`.
    pub item: Sql,
    /// The input columns that it reads, counted from 0.
    pub reads: Vec<usize>,
    /// Its columns.
    pub cols: Vec<Col>,
    /// Those of its columns that no two rows share which it has for one input row, if such are known.
    pub key: Option<Vec<usize>>,
    /// For an outer join its condition over input ++ function columns: where no row fulfils it, NULLs stand.
    pub outer: Option<Vec<Scalar>>,
}

impl Rows {
    /// The columns as the join has them.
    pub fn joined_cols(&self) -> Vec<Col> {
        let padded = |col: &Col| if self.outer.is_some() { col.clone().nullable() } else { col.clone() };
        self.cols.iter().map(padded).collect()
    }
}
