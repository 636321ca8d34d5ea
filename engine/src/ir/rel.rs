//! The operators, their constructors, and what can be asked of each.

use super::{Agg, Col, Conjunct, JoinKind, Limit, Number, Rows, Scalar, SortKey, SourceId};
use std::collections::BTreeSet;
use std::fmt;

/// A relation: a bag of rows at some state of the sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rel {
    /// Columns of a source, named by attribute number.
    Scan { source: SourceId, columns: Vec<i16>, cols: Vec<Col> },
    /// What stage `stage` keeps, `single` if that is never more than one row, `few` if it is a selection. Only
    /// [cutting](crate::cut) makes it.
    State { stage: usize, cols: Vec<Col>, single: bool, few: bool },
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
    /// Each row beside each row that functions return for it; outputs input ++ function columns.
    FlatMap { input: Box<Rel>, rows: Rows },
    /// A source that nobody tells the changes of, to be compared with a copy of it.
    Compared { input: Box<Rel> },
    /// A filtered scan or a reduced table whose rows are kept, as they are few; by each of these lists of columns they are looked up.
    Selected { input: Box<Rel>, asked: Vec<Vec<usize>> },
    /// Bag union; the columns' types agree.
    UnionAll { inputs: Vec<Rel> },
    /// Groups: keys ++ aggregates. Without keys exactly one row, also over no input.
    Aggregate { input: Box<Rel>, keys: Vec<Scalar>, aggs: Vec<Agg> },
    /// Each row of the input with one more column per call of a window function. A call is printed with its OVER clause,
    /// which partitions by these columns (any others would be another node).
    Window { input: Box<Rel>, partition: Vec<usize>, calls: Vec<Scalar> },
    /// The first rows by an order that leaves no choice but between identical rows.
    TopK { input: Box<Rel>, order: Vec<SortKey>, limit: Limit },
    /// The least R = base + step(R), `all` as bags, otherwise as sets. In `step` R is [`Rel::Recursive`].
    Fixpoint { base: Box<Rel>, step: Box<Rel>, all: bool },
    /// The rows of the innermost [`Rel::Fixpoint`] around, in its step.
    Recursive { cols: Vec<Col> },
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

    /// The same rows, for a scan whose changes are found by comparison.
    pub fn compared(self) -> Result<Rel, Malformed> {
        match self {
            Rel::Scan { .. } => Ok(Rel::Compared { input: Box::new(self) }),
            other => malformed(format!("comparison of a {}", other.name())),
        }
    }

    /// The same rows, kept, to be looked up by each of these lists of columns.
    pub fn selected(self, asked: Vec<Vec<usize>>) -> Result<Rel, Malformed> {
        match asked.iter().flatten().find(|c| **c >= self.arity()) {
            Some(c) => malformed(format!("lookup by column {} of {}", c + 1, self.arity())),
            None => Ok(Rel::Selected { input: Box::new(self), asked }),
        }
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

    /// Each row beside the rows of functions over it.
    pub fn flat_map(self, rows: Rows) -> Result<Rel, Malformed> {
        let (l, r) = (self.arity(), rows.cols.len());
        if let Some(col) = rows.reads.iter().find(|col| **col >= l) {
            return malformed(format!("a function reads column {} of {l}: {}", col + 1, rows.item));
        }
        if let Some(col) = rows.key.iter().flatten().find(|col| **col >= r) {
            return malformed(format!("key column {} of a function with {r}", col + 1));
        }
        check_reads("join with a function", rows.outer.iter().flatten(), l + r)?;
        Ok(Rel::FlatMap { input: Box::new(self), rows })
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

    /// Window functions over partitions by columns; outputs the input's columns, then the calls.
    pub fn window(self, partition: Vec<usize>, calls: Vec<Scalar>) -> Result<Rel, Malformed> {
        let arity = self.arity();
        check_reads("window function", &calls, arity)?;
        if let Some(c) = partition.iter().find(|c| **c >= arity) {
            return malformed(format!("PARTITION BY column {} of {arity}", c + 1));
        }
        Ok(Rel::Window { input: Box::new(self), partition, calls })
    }

    /// The first rows by an order.
    pub fn top_k(self, order: Vec<SortKey>, limit: Limit) -> Result<Rel, Malformed> {
        check_reads("ORDER BY", order.iter().map(|key| &key.by), self.arity())?;
        if limit.ties && limit.offset > 0 {
            return malformed("WITH TIES after an offset");
        }
        Ok(Rel::TopK { input: Box::new(self), order, limit })
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

    /// The rows of `base`, and over and over what `step` makes of them; without `all` each row once.
    pub fn fixpoint(base: Rel, step: Rel, all: bool) -> Result<Rel, Malformed> {
        if base.arity() != step.arity() {
            return malformed(format!("recursion from {} columns to {}", base.arity(), step.arity()));
        }
        Ok(Rel::Fixpoint { base: Box::new(base), step: Box::new(step), all })
    }

    /// The number of output columns.
    pub fn arity(&self) -> usize {
        match self {
            Rel::Scan { cols, .. } | Rel::State { cols, .. } | Rel::Values { cols, .. } | Rel::Recursive { cols } => {
                cols.len()
            }
            Rel::Map { exprs, .. } => exprs.len(),
            Rel::Filter { input, .. }
            | Rel::Repeat { input, .. }
            | Rel::TopK { input, .. }
            | Rel::Compared { input }
            | Rel::Selected { input, .. } => input.arity(),
            Rel::Window { input, calls, .. } => input.arity() + calls.len(),
            Rel::Join { kind: JoinKind::Inner | JoinKind::Left, left, right, .. } => left.arity() + right.arity(),
            Rel::Join { left, .. } => left.arity(),
            Rel::FlatMap { input, rows } => input.arity() + rows.cols.len(),
            Rel::UnionAll { inputs } => inputs.first().map_or(0, Rel::arity),
            Rel::Aggregate { keys, aggs, .. } => keys.len() + aggs.len(),
            Rel::Fixpoint { base, .. } => base.arity(),
        }
    }

    /// The output columns.
    pub fn cols(&self) -> Vec<Col> {
        match self {
            Rel::Scan { cols, .. } | Rel::State { cols, .. } | Rel::Values { cols, .. } | Rel::Recursive { cols } => {
                cols.clone()
            }
            Rel::Map { exprs, .. } => exprs.iter().map(Scalar::col).collect(),
            Rel::Filter { input, .. }
            | Rel::Repeat { input, .. }
            | Rel::TopK { input, .. }
            | Rel::Compared { input }
            | Rel::Selected { input, .. } => input.cols(),
            Rel::Window { input, calls, .. } => input.cols().into_iter().chain(calls.iter().map(Scalar::col)).collect(),
            Rel::Join { kind, left, right, on } => match kind {
                JoinKind::Inner => matched([left.cols(), right.cols()].concat(), on, left.arity()),
                JoinKind::Left => left.cols().into_iter().chain(right.cols().into_iter().map(Col::nullable)).collect(),
                JoinKind::Semi | JoinKind::Anti => left.cols(),
            },
            Rel::FlatMap { input, rows } => [input.cols(), rows.joined_cols()].concat(),
            Rel::UnionAll { inputs } => union_cols(inputs.iter().map(Rel::cols)),
            Rel::Fixpoint { base, step, .. } => union_cols([base.cols(), step.cols()].into_iter()),
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

    /// Those of its sources whose changes are found by comparison.
    pub fn compared_sources(&self) -> BTreeSet<SourceId> {
        let mut found = BTreeSet::new();
        self.visit(&mut |rel| {
            if let Rel::Compared { input } = rel {
                found.extend(input.sources());
            }
        });
        found
    }

    /// Calls `f` for this node and everything beneath it, parents first.
    pub fn visit(&self, f: &mut impl FnMut(&Rel)) {
        f(self);
        self.inputs().into_iter().for_each(|input| input.visit(f));
    }

    /// The operator's name, for people.
    pub fn name(&self) -> String {
        match self {
            Rel::Scan { .. } => "scan",
            Rel::State { .. } => "stage",
            Rel::Values { .. } => "values",
            Rel::Map { .. } => "map",
            Rel::Filter { .. } => "filter",
            Rel::Join { kind, .. } => return format!("{} join", kind.name()),
            Rel::Repeat { .. } => "repeat",
            Rel::FlatMap { .. } => "functions per row",
            Rel::UnionAll { .. } => "union all",
            Rel::Aggregate { .. } => "aggregate",
            Rel::Window { .. } => "window",
            Rel::TopK { .. } => "top k",
            Rel::Compared { .. } => "comparison",
            Rel::Selected { .. } => "selection",
            Rel::Fixpoint { .. } => "recursion",
            Rel::Recursive { .. } => "recursive reference",
        }
        .to_owned()
    }

    /// Whether its result has to be kept for its changes to be found: then it becomes a [stage](crate::cut).
    pub fn is_stateful(&self) -> bool {
        matches!(
            self,
            Rel::Aggregate { .. }
                | Rel::Window { .. }
                | Rel::TopK { .. }
                | Rel::Compared { .. }
                | Rel::Selected { .. }
                | Rel::Fixpoint { .. }
        )
    }

    /// The same operator over other inputs, made from its own.
    pub fn try_map_inputs<E>(&self, f: &mut impl FnMut(&Rel) -> Result<Rel, E>) -> Result<Rel, E> {
        let mut boxed = |rel: &Rel| f(rel).map(Box::new);
        Ok(match self {
            Rel::Scan { .. } | Rel::State { .. } | Rel::Values { .. } | Rel::Recursive { .. } => self.clone(),
            Rel::Map { input, exprs } => Rel::Map { input: boxed(input)?, exprs: exprs.clone() },
            Rel::Filter { input, predicates } => Rel::Filter { input: boxed(input)?, predicates: predicates.clone() },
            Rel::Join { kind, left, right, on } => {
                Rel::Join { kind: *kind, left: boxed(left)?, right: boxed(right)?, on: on.clone() }
            }
            Rel::Repeat { input, times } => Rel::Repeat { input: boxed(input)?, times: times.clone() },
            Rel::Compared { input } => Rel::Compared { input: boxed(input)? },
            Rel::Selected { input, asked } => Rel::Selected { input: boxed(input)?, asked: asked.clone() },
            Rel::FlatMap { input, rows } => Rel::FlatMap { input: boxed(input)?, rows: rows.clone() },
            Rel::UnionAll { inputs } => Rel::UnionAll { inputs: inputs.iter().map(f).collect::<Result<_, _>>()? },
            Rel::Aggregate { input, keys, aggs } => {
                Rel::Aggregate { input: boxed(input)?, keys: keys.clone(), aggs: aggs.clone() }
            }
            Rel::Window { input, partition, calls } => {
                Rel::Window { input: boxed(input)?, partition: partition.clone(), calls: calls.clone() }
            }
            Rel::TopK { input, order, limit } => {
                Rel::TopK { input: boxed(input)?, order: order.clone(), limit: *limit }
            }
            Rel::Fixpoint { base, step, all } => Rel::Fixpoint { base: boxed(base)?, step: boxed(step)?, all: *all },
        })
    }

    /// The nodes directly beneath.
    pub fn inputs(&self) -> Vec<&Rel> {
        match self {
            Rel::Scan { .. } | Rel::State { .. } | Rel::Values { .. } | Rel::Recursive { .. } => Vec::new(),
            Rel::Map { input, .. }
            | Rel::Filter { input, .. }
            | Rel::Repeat { input, .. }
            | Rel::FlatMap { input, .. }
            | Rel::Compared { input }
            | Rel::Selected { input, .. }
            | Rel::Aggregate { input, .. }
            | Rel::Window { input, .. }
            | Rel::TopK { input, .. } => vec![input],
            Rel::Join { left, right, .. } => vec![left, right],
            Rel::Fixpoint { base, step, .. } => vec![base, step],
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
pub fn union_cols(mut all: impl Iterator<Item = Vec<Col>>) -> Vec<Col> {
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
