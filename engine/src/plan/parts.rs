//! The algebra of aggregates: from which stored parts a result follows, how a change of the input changes the parts,
//! and when a part cannot be had that way, so that its group must be computed anew (it is *dirty*).
//!
//! ```text
//! n'      = n + Σw
//! count'  = count + Σw over the rows that count
//! sum'    = sum + Σ(w·x)                    dirty if not finite: ∞ − ∞ says nothing
//! max'    = max(max, inserted)              dirty if a deleted value reaches it
//! scales' = scales + Σw per scale           the widest that some row has is what a sum shows
//! others                                    always dirty
//! ```
//!
//! A single row's weight is far from the limits of integer, in which PostgreSQL sums up to bigint at little cost.
//! Everything is exact: integers are summed in a wider type, numeric in numeric, and what numeric shows (its scale)
//! is that of a sum over the present rows.

use crate::ir::{Agg, AggKind, Number, Scalar, Ty};
use crate::sql;
use crate::sql::Sql;

/// Something stored per group, in one or two columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The number of rows that fulfil the conditions.
    Count { conditions: Vec<Sql> },
    /// The sum, 0 over nothing.
    Sum { x: Scalar, filter: Option<Sql> },
    /// How many numeric values have each scale: twelve decimal digits of one number per scale.
    Scales { x: Scalar, filter: Option<Sql> },
    /// The minimum or maximum.
    Extremum { call: Scalar, x: Scalar, filter: Option<Sql>, most: Most },
    /// The result itself.
    Value { call: Scalar },
}

/// Which extremum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Most {
    Min,
    Max,
}

/// Where a number of rows is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// All rows of the group.
    Rows,
    /// A part, by its number.
    Part(usize),
}

/// How a result follows from the parts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Output {
    Count(Counted),
    Sum { sum: usize, count: Counted, scale: Option<usize>, ty: Ty },
    Avg { sum: usize, count: Counted, scale: Option<usize>, ty: Ty },
    Part(usize),
}

/// The parts of all aggregates of a stage, shared where two need the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    parts: Vec<Part>,
    outputs: Vec<Output>,
}

/// One row's parts under names that an alias qualifies.
pub(crate) struct Row<'a> {
    /// The number of rows of the group.
    pub n: Sql,
    /// Its parts' columns.
    pub columns: &'a [Sql],
    /// Whether the group is there only while it has rows.
    pub has_rows: bool,
}

impl Parts {
    /// The parts that these aggregates need.
    pub fn of(aggs: &[Agg]) -> Parts {
        let mut parts = Parts::default();
        for agg in aggs {
            let output = parts.output_of(agg);
            parts.outputs.push(output);
        }
        parts
    }

    fn output_of(&mut self, agg: &Agg) -> Output {
        let filter = agg.filter.as_ref().map(|f| sql!("({})", f.sql));
        let ty = agg.call.ty.clone();
        match &agg.kind {
            AggKind::CountStar => Output::Count(self.counted(None, filter)),
            AggKind::Count(x) => Output::Count(self.counted(Some(x), filter)),
            AggKind::Sum(x) if x.ty.algebraic_sum() => {
                let (sum, count, scale) = self.summed(x, filter);
                Output::Sum { sum, count, scale, ty }
            }
            AggKind::Avg(x) if x.ty.algebraic_sum() => {
                let (sum, count, scale) = self.summed(x, filter);
                Output::Avg { sum, count, scale, ty }
            }
            AggKind::Min(x) => Output::Part(self.extremum(agg, x, filter, Most::Min)),
            AggKind::Max(x) => Output::Part(self.extremum(agg, x, filter, Most::Max)),
            _ => Output::Part(self.part(Part::Value { call: agg.call.clone() })),
        }
    }

    fn counted(&mut self, x: Option<&Scalar>, filter: Option<Sql>) -> Counted {
        let not_null = x.filter(|x| !x.not_null).map(|x| sql!("({}) IS NOT NULL", x.sql));
        let conditions: Vec<Sql> = not_null.into_iter().chain(filter).collect();
        if conditions.is_empty() { Counted::Rows } else { Counted::Part(self.part(Part::Count { conditions })) }
    }

    fn summed(&mut self, x: &Scalar, filter: Option<Sql>) -> (usize, Counted, Option<usize>) {
        let count = self.counted(Some(x), filter.clone());
        let sum = self.part(Part::Sum { x: x.clone(), filter: filter.clone() });
        let varies = x.ty.number == Number::Numeric { fixed_scale: false };
        let scale = varies.then(|| self.part(Part::Scales { x: x.clone(), filter }));
        (sum, count, scale)
    }

    fn extremum(&mut self, agg: &Agg, x: &Scalar, filter: Option<Sql>, most: Most) -> usize {
        self.part(Part::Extremum { call: agg.call.clone(), x: x.clone(), filter, most })
    }

    fn part(&mut self, part: Part) -> usize {
        self.parts.iter().position(|p| *p == part).unwrap_or_else(|| {
            self.parts.push(part);
            self.parts.len() - 1
        })
    }

    /// The types of the stored columns.
    pub fn types(&self) -> Vec<Ty> {
        self.parts.iter().flat_map(Part::types).collect()
    }

    /// The stored columns, computed from the input.
    pub fn fresh(&self) -> Vec<Sql> {
        self.parts.iter().flat_map(Part::fresh).collect()
    }

    /// What a change of the input (with column `w`) is summed up to.
    pub fn gathered(&self) -> Vec<Sql> {
        self.parts.iter().flat_map(Part::gathered).collect()
    }

    /// The stored columns after the change; dirty ones say nothing.
    pub fn merged(&self, stored: &Row, gathered: &Row) -> Vec<Sql> {
        let merged = |(i, part): (usize, &Part)| part.merged(self.stored(i, stored), self.change(i, gathered));
        self.parts.iter().enumerate().flat_map(merged).collect()
    }

    /// When a group is dirty; nothing if none ever is.
    pub fn dirty(&self, stored: &Row, gathered: &Row) -> Option<Sql> {
        let dirty = |(i, part): (usize, &Part)| part.dirty(self.stored(i, stored), self.change(i, gathered));
        let conditions: Vec<Sql> = self.parts.iter().enumerate().filter_map(dirty).collect();
        (!conditions.is_empty()).then(|| Sql::any(conditions))
    }

    /// Whether every touched group is dirty, whatever is stored.
    pub fn always_dirty(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Value { .. }))
    }

    /// The aggregates' results.
    pub fn results(&self, row: &Row) -> Vec<Sql> {
        self.outputs.iter().map(|output| self.result(output, row)).collect()
    }

    fn result(&self, output: &Output, row: &Row) -> Sql {
        let count = |count: &Counted| match count {
            Counted::Rows => row.n.clone(),
            Counted::Part(part) => row.columns[self.stored_at(*part)].clone(),
        };
        let sum = |sum: &usize, scale: &Option<usize>| {
            let sum = &row.columns[self.stored_at(*sum)];
            match scale {
                Some(part) => {
                    let scales = &row.columns[self.stored_at(*part)];
                    sql!("round({}, (length({}::text) - 1) / 12)", sum, scales)
                }
                None => sum.clone(),
            }
        };
        match output {
            Output::Count(c) => count(c),
            Output::Part(part) => row.columns[self.stored_at(*part)].clone(),
            // As a plain column PostgreSQL has statistics of it.
            Output::Sum { sum: s, count: Counted::Rows, scale, ty } if row.has_rows => {
                sql!("{}::{}", sum(s, scale), ty.sql)
            }
            Output::Sum { sum: s, count: c, scale, ty } => {
                sql!("CASE WHEN {} > 0 THEN {}::{} END", count(c), sum(s, scale), ty.sql)
            }
            Output::Avg { sum: s, count: c, scale, ty } => {
                let quotient = sql!("({}::numeric / {}::numeric)", sum(s, scale), count(c));
                sql!("CASE WHEN {} > 0 THEN {}::{} END", count(c), quotient, ty.sql)
            }
        }
    }

    fn stored_at(&self, part: usize) -> usize {
        self.parts[..part].iter().map(|p| p.types().len()).sum()
    }

    fn gathered_at(&self, part: usize) -> usize {
        self.parts[..part].iter().map(|p| p.gathered().len()).sum()
    }

    fn stored<'a>(&self, part: usize, row: &Row<'a>) -> &'a [Sql] {
        &row.columns[self.stored_at(part)..]
    }

    fn change<'a>(&self, part: usize, row: &Row<'a>) -> &'a [Sql] {
        &row.columns[self.gathered_at(part)..]
    }
}

impl Part {
    fn types(&self) -> Vec<Ty> {
        match self {
            Part::Count { .. } => vec![Ty::bigint()],
            Part::Sum { x, .. } if x.ty.number == Number::Small => vec![Ty::bigint()],
            Part::Sum { .. } | Part::Scales { .. } => vec![Ty::numeric()],
            Part::Extremum { call, .. } | Part::Value { call } => vec![call.ty.clone()],
        }
    }

    fn fresh(&self) -> Vec<Sql> {
        match self {
            Part::Count { conditions } => vec![sql!("count(*){}", only(conditions))],
            Part::Sum { x, filter } => {
                vec![sql!("coalesce(sum({}){}, 0)::{}", x.sql, only(filter), self.types()[0].sql)]
            }
            Part::Scales { x, filter } => vec![sql!("coalesce(sum({}){}, 0)", scale_digit(x), only(filter))],
            Part::Extremum { call, .. } | Part::Value { call } => vec![call.sql.clone()],
        }
    }

    fn gathered(&self) -> Vec<Sql> {
        match self {
            Part::Count { conditions } => {
                vec![sql!("coalesce(sum(w::integer){}, 0)", only(conditions))]
            }
            Part::Sum { x, filter } => {
                let ty = &self.types()[0].sql;
                vec![sql!("coalesce(sum({}){}, 0)::{}", weighted(x, ty), only(filter), ty)]
            }
            Part::Scales { x, filter } => {
                vec![sql!("coalesce(sum({} * w){}, 0)", scale_digit(x), only(filter))]
            }
            Part::Extremum { x, filter, most, .. } => {
                let extremum = |sign| sql!("{}({}){}", most.aggregate(), x.sql, only_signed(sign, filter));
                vec![extremum("w > 0"), extremum("w < 0")]
            }
            Part::Value { .. } => Vec::new(),
        }
    }

    fn merged(&self, stored: &[Sql], change: &[Sql]) -> Vec<Sql> {
        match self {
            Part::Count { .. } | Part::Sum { .. } | Part::Scales { .. } => vec![plus(&stored[0], &change[0])],
            Part::Extremum { most, .. } => vec![most.of(&stored[0], &change[0])],
            Part::Value { call } => vec![call.ty.null()],
        }
    }

    fn dirty(&self, stored: &[Sql], change: &[Sql]) -> Option<Sql> {
        match self {
            Part::Count { .. } | Part::Scales { .. } => None,
            Part::Sum { x, .. } => {
                let numeric = matches!(x.ty.number, Number::Numeric { .. });
                let sum = plus(&stored[0], &change[0]);
                numeric.then(|| sql!("{} IN ('NaN'::numeric, 'Infinity'::numeric, '-Infinity'::numeric)", sum))
            }
            Part::Extremum { most, .. } => {
                let new = most.of(&stored[0], &change[0]);
                let reaches = sql!("({} {} {})", change[1], most.reaches(), new);
                Some(sql!("({} IS NOT NULL AND {} IS NOT FALSE)", change[1], reaches))
            }
            Part::Value { .. } => Some(sql!("true")),
        }
    }
}

impl Most {
    fn aggregate(self) -> &'static str {
        match self {
            Most::Min => "min",
            Most::Max => "max",
        }
    }

    fn of(self, a: &Sql, b: &Sql) -> Sql {
        match self {
            Most::Min => sql!("LEAST({}, {})", a, b),
            Most::Max => sql!("GREATEST({}, {})", a, b),
        }
    }

    fn reaches(self) -> &'static str {
        match self {
            Most::Min => "<=",
            Most::Max => ">=",
        }
    }
}

/// One for the scale of x: of the digits that count the values of each scale.
fn scale_digit(x: &Scalar) -> Sql {
    let usual =
        "WHEN 0 THEN 1::numeric WHEN 1 THEN 1e12 WHEN 2 THEN 1e24 WHEN 3 THEN 1e36 WHEN 4 THEN 1e48 WHEN 6 THEN 1e72";
    sql!("CASE scale({}) {} ELSE rpad('1', 12 * scale({}) + 1, '0')::numeric END", x.sql, Sql::text(usual), x.sql)
}

/// x·w, without a multiplication for the usual weights where those are slow.
fn weighted(x: &Scalar, ty: &Sql) -> Sql {
    let value = sql!("({})::{}", x.sql, ty);
    match x.ty.number {
        Number::Small => sql!("{} * w", value),
        _ => sql!("CASE w WHEN 1 THEN {} WHEN -1 THEN -{} ELSE {} * w END", value, value, value),
    }
}

fn plus(stored: &Sql, change: &Sql) -> Sql {
    sql!("(coalesce({}, 0) + {})", stored, change)
}

fn only<'a>(conditions: impl IntoIterator<Item = &'a Sql>) -> Sql {
    let conditions: Vec<&Sql> = conditions.into_iter().collect();
    if conditions.is_empty() { Sql::default() } else { sql!(" FILTER (WHERE {})", Sql::all(conditions)) }
}

fn only_signed(sign: &'static str, filter: &Option<Sql>) -> Sql {
    let sign = Sql::text(sign);
    only(std::iter::once(&sign).chain(filter))
}
