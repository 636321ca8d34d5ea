//! Relations and Z-sets evaluated in memory, by their definitions and without any cleverness.

use super::recursion;
use super::scalars::evaluate;
use super::tables::{ATTNUMS, Row, Value};
use super::windows;
use pgtrickle_engine::ir::{Agg, AggKind, Conjunct, JoinKind, Rel, Rows, Scalar, SourceId};
use pgtrickle_engine::zset::{Placed, Zset};
use std::collections::BTreeMap;

/// Rows with their weights, none of which is 0.
pub type Weighted = BTreeMap<Row, i64>;

/// What sources and stages hold, and how that has changed.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub sources: BTreeMap<SourceId, Weighted>,
    pub source_changes: BTreeMap<SourceId, Weighted>,
    pub stages: Vec<Weighted>,
    pub stage_changes: Vec<Weighted>,
    /// What a recursive reference means.
    pub recursive: Weighted,
}

/// Adds weights.
pub fn add(to: &mut Weighted, row: Row, w: i64) {
    let sum = to.entry(row.clone()).or_default();
    *sum += w;
    if *sum == 0 {
        to.remove(&row);
    }
}

/// a + sign · b
pub fn plus(a: &Weighted, b: &Weighted, sign: i64) -> Weighted {
    let mut sum = a.clone();
    b.iter().for_each(|(row, w)| add(&mut sum, row.clone(), sign * w));
    sum
}

fn collect(rows: impl IntoIterator<Item = (Row, i64)>) -> Weighted {
    let mut sum = Weighted::new();
    rows.into_iter().for_each(|(row, w)| add(&mut sum, row, w));
    sum
}

fn is_true(condition: &Scalar, row: &Row) -> bool {
    evaluate(condition.sql.as_str(), row) == Value::Bool(true)
}

fn mapped(rows: &Weighted, exprs: &[Scalar]) -> Weighted {
    let value = |row: &Row| exprs.iter().map(|e| evaluate(e.sql.as_str(), row)).collect();
    collect(rows.iter().map(|(row, w)| (value(row), *w)))
}

pub fn filtered(rows: &Weighted, predicates: &[Scalar]) -> Weighted {
    let kept = |row: &Row| predicates.iter().all(|p| is_true(p, row));
    rows.iter().filter(|(row, _)| kept(row)).map(|(row, w)| (row.clone(), *w)).collect()
}

pub fn picked(rows: &Weighted, attnums: &[i16]) -> Weighted {
    let at = |attnum: &i16| ATTNUMS.iter().position(|a| a == attnum).expect("a column of the table");
    let pick = |row: &Row| attnums.iter().map(|attnum| row[at(attnum)].clone()).collect();
    collect(rows.iter().map(|(row, w)| (pick(row), *w)))
}

fn pairs(l: &Weighted, r: &Weighted, on: &[Conjunct]) -> Weighted {
    let mut found = Weighted::new();
    for (left, lw) in l {
        for (right, rw) in r {
            let row = [left.clone(), right.clone()].concat();
            if on.iter().all(|c| is_true(&c.condition, &row)) {
                add(&mut found, row, lw * rw);
            }
        }
    }
    found
}

fn holds(on: &[Conjunct], row: &Row) -> bool {
    on.iter().all(|c| is_true(&c.condition, row))
}

fn partners(row: &Row, right: &Weighted, on: &[Conjunct]) -> i64 {
    pairs(&Weighted::from([(row.clone(), 1)]), right, on).values().sum()
}

fn repeated(rows: &Weighted, times: &Scalar) -> Weighted {
    let number = |row: &Row| match evaluate(times.sql.as_str(), row) {
        Value::Int(n) => n,
        other => panic!("{other:?} times"),
    };
    collect(rows.iter().map(|(row, w)| (row.clone(), w * number(row))))
}

/// Each row beside `1..n` for the only function that the evaluator knows, `generate_series(1, n)`.
fn flat_mapped(rows: &Weighted, functions: &Rows) -> Weighted {
    let text = functions.item.as_str();
    let last = text.strip_prefix("ROWS FROM (generate_series(1, ").and_then(|text| text.strip_suffix("))"));
    let last = last.expect("a function that the evaluator knows");
    let mut found = Weighted::new();
    for (row, w) in rows {
        let last = match evaluate(last, row) {
            Value::Int(last) => last,
            Value::Null => 0,
            other => panic!("a series up to {other:?}"),
        };
        let beside = |i| [row.clone(), vec![i]].concat();
        let mut made: Vec<Row> = (1..=last).map(|i| beside(Value::Int(i))).collect();
        if let Some(on) = &functions.outer {
            made.retain(|row| on.iter().all(|on| is_true(on, row)));
            if made.is_empty() {
                made.push(beside(Value::Null));
            }
        }
        made.into_iter().for_each(|row| add(&mut found, row, *w));
    }
    found
}

fn joined(kind: JoinKind, l: &Weighted, r: &Weighted, on: &[Conjunct], right_arity: usize) -> Weighted {
    let partners = |row: &Row| pairs(&Weighted::from([(row.clone(), 1)]), r, on);
    match kind {
        JoinKind::Inner => pairs(l, r, on),
        JoinKind::Left => {
            let lonely = l.iter().filter(|(row, _)| partners(row).is_empty());
            let padded = lonely.map(|(row, w)| ([row.clone(), vec![Value::Null; right_arity]].concat(), *w));
            plus(&pairs(l, r, on), &collect(padded), 1)
        }
        JoinKind::Semi | JoinKind::Anti => {
            let wanted = kind == JoinKind::Anti;
            l.iter().filter(|(row, _)| partners(row).is_empty() == wanted).map(|(row, w)| (row.clone(), *w)).collect()
        }
    }
}

impl State {
    /// The rows of a relation.
    pub fn rel(&self, rel: &Rel) -> Weighted {
        if let Rel::Fixpoint { base, step, all } = rel {
            return recursion::least(self, base, step, *all);
        }
        self.operator(rel, rel.inputs().into_iter().map(|input| self.rel(input)).collect())
    }

    /// The rows of a relation whose inputs have these rows.
    pub fn operator(&self, rel: &Rel, inputs: Vec<Weighted>) -> Weighted {
        match rel {
            Rel::Scan { source, columns, .. } => picked(&self.sources[source], columns),
            Rel::State { stage, .. } => self.stages[*stage].clone(),
            Rel::Recursive { .. } => self.recursive.clone(),
            Rel::Fixpoint { .. } => unreachable!("its step is evaluated more than once"),
            Rel::Values { rows, .. } => {
                let row = |row: &Vec<Scalar>| row.iter().map(|v| evaluate(v.sql.as_str(), &vec![])).collect();
                collect(rows.iter().map(|r| (row(r), 1)))
            }
            Rel::Map { exprs, .. } => mapped(&inputs[0], exprs),
            Rel::Filter { predicates, .. } => filtered(&inputs[0], predicates),
            Rel::Join { kind, right, on, .. } => joined(*kind, &inputs[0], &inputs[1], on, right.arity()),
            Rel::Repeat { times, .. } => repeated(&inputs[0], times),
            Rel::FlatMap { rows, .. } => flat_mapped(&inputs[0], rows),
            Rel::UnionAll { .. } => inputs.iter().fold(Weighted::new(), |sum, input| plus(&sum, input, 1)),
            Rel::Aggregate { keys, aggs, .. } => grouped(&inputs[0], keys, aggs),
            Rel::Window { partition, calls, .. } => windows::windows(&inputs[0], partition, calls),
            Rel::Compared { .. } | Rel::Selected { .. } => inputs[0].clone(),
            Rel::TopK { order, limit, .. } => windows::first_rows(&inputs[0], order, limit),
        }
    }

    /// Pairs of all factors, in one row as wide as their places reach.
    fn product(&self, inputs: &[Placed], on: &[Scalar]) -> Weighted {
        let mut places: Vec<usize> = inputs.iter().flat_map(|input| input.at.iter().copied()).collect();
        places.sort_unstable();
        let width = places.last().map_or(0, |last| last + 1);
        let mut rows = vec![(vec![Value::Null; width], 1)];
        for input in inputs {
            let factor = self.zset(&input.zset);
            let put = |row: &Row, part: &Row| {
                let mut row = row.clone();
                input.at.iter().zip(part).for_each(|(place, value)| row[*place] = value.clone());
                row
            };
            let pairs = |(row, w): &(Row, i64)| -> Vec<(Row, i64)> {
                factor.iter().map(|(part, v)| (put(row, part), w * v)).collect()
            };
            rows = rows.iter().flat_map(pairs).collect();
        }
        rows.retain(|(row, _)| on.iter().all(|c| is_true(c, row)));
        collect(rows.into_iter().map(|(row, w)| (places.iter().map(|place| row[*place].clone()).collect(), w)))
    }

    /// The rows of a Z-set.
    pub fn zset(&self, zset: &Zset) -> Weighted {
        match zset {
            Zset::Bag(rel) => self.rel(rel),
            Zset::SourceChange { source, columns, .. } => picked(&self.source_changes[source], columns),
            Zset::StageChange { stage, .. } => self.stage_changes[*stage].clone(),
            Zset::Map { input, exprs } => mapped(&self.zset(input), exprs),
            Zset::Filter { input, predicates } => filtered(&self.zset(input), predicates),
            Zset::Join { left, right, on } => pairs(&self.zset(left), &self.zset(right), on),
            Zset::Product { inputs, on } => self.product(inputs, on),
            Zset::Touched { input, change, on } => {
                let change = self.zset(change);
                let has = |row: &Row| change.keys().any(|other| holds(on, &[row.clone(), other.clone()].concat()));
                self.zset(input).into_iter().filter(|(row, _)| has(row)).collect()
            }
            Zset::Shared { value, .. } => self.zset(value),
            Zset::Repeat { input, times } => repeated(&self.zset(input), times),
            Zset::FlatMap { input, rows } => flat_mapped(&self.zset(input), rows),
            Zset::Matching { input, right, on, matched } => {
                let right = self.rel(right);
                let rows = self.zset(input);
                let kept = |row: &&Row| partners(row, &right, on) > 0;
                rows.iter().filter(|(row, _)| kept(row) == *matched).map(|(row, w)| (row.clone(), *w)).collect()
            }
            Zset::Presence { right, change, keys, only, left_arity, .. } => {
                let (now, change) = (self.rel(right), self.zset(change));
                let before = plus(&now, &change, -1);
                let offset = |row: &Row| [vec![Value::Null; *left_arity], row.clone()].concat();
                let counts = |row: &Row| only.iter().all(|c| is_true(&c.condition, &offset(row)));
                let key = |row: &Row| -> Row {
                    let value = |(i, v): (usize, &Value)| {
                        if keys.contains(&i) { v.clone() } else { Value::Null }
                    };
                    row.iter().enumerate().map(value).collect()
                };
                let present = |rows: &Weighted| -> Weighted {
                    let counted = rows.iter().filter(|(row, _)| counts(row)).map(|(row, w)| (key(row), *w));
                    collect(counted).into_iter().filter(|(_, n)| *n > 0).map(|(key, _)| (key, 1)).collect()
                };
                plus(&present(&now), &present(&before), -1)
            }
            Zset::Netted { input, by } => {
                let kept = |row: &Row| {
                    (0..row.len()).map(|i| if by.contains(&i) { row[i].clone() } else { Value::Null }).collect()
                };
                collect(self.zset(input).iter().map(|(row, w)| (kept(row), *w)))
            }
            Zset::Flips { input, right, change, on } => {
                let (now, change) = (self.rel(right), self.zset(change));
                let before = plus(&now, &change, -1);
                let has = |row: &Row, right: &Weighted| i64::from(partners(row, right, on) > 0);
                let rows = self.zset(input);
                collect(rows.iter().map(|(row, w)| (row.clone(), w * (has(row, &now) - has(row, &before)))))
            }
            Zset::UnionAll(inputs) => {
                inputs.iter().fold(Weighted::new(), |sum, input| plus(&sum, &self.zset(input), 1))
            }
            Zset::Negate(input) => plus(&Weighted::new(), &self.zset(input), -1),
        }
    }
}

/// Groups of a bag.
fn grouped(rows: &Weighted, keys: &[Scalar], aggs: &[Agg]) -> Weighted {
    let mut groups: BTreeMap<Row, Vec<&Row>> = BTreeMap::new();
    if keys.is_empty() {
        groups.insert(vec![], vec![]);
    }
    for (row, w) in rows {
        assert!(*w > 0, "a bag has no negative weights");
        let key = keys.iter().map(|k| evaluate(k.sql.as_str(), row)).collect();
        groups.entry(key).or_default().extend(std::iter::repeat_n(row, *w as usize));
    }
    let results = |rows: &[&Row]| aggs.iter().map(|agg| aggregate(agg, rows)).collect::<Vec<_>>();
    groups.iter().map(|(key, rows)| ([key.clone(), results(rows)].concat(), 1)).collect()
}

fn aggregate(agg: &Agg, rows: &[&Row]) -> Value {
    let kept: Vec<&Row> =
        rows.iter().copied().filter(|row| agg.filter.as_ref().is_none_or(|f| is_true(f, row))).collect();
    let values = |text: &str| -> Vec<Value> {
        kept.iter().map(|row| evaluate(text, row)).filter(|v| *v != Value::Null).collect()
    };
    let of = |x: &Scalar| values(x.sql.as_str());
    match &agg.kind {
        AggKind::CountStar => Value::Int(kept.len() as i64),
        AggKind::Count(x) => Value::Int(of(x).len() as i64),
        AggKind::Sum(x) => {
            let sum = |sum, value: Value| match value {
                Value::Int(i) => i.wrapping_add(sum),
                other => panic!("sum of {other:?}"),
            };
            let values = of(x);
            if values.is_empty() { Value::Null } else { Value::Int(values.into_iter().fold(0, sum)) }
        }
        AggKind::Min(x) => of(x).into_iter().min().unwrap_or(Value::Null),
        AggKind::Max(x) => of(x).into_iter().max().unwrap_or(Value::Null),
        AggKind::Avg(_) => panic!("the evaluator has no fractions"),
        AggKind::Recompute => {
            let call = agg.call.sql.as_str();
            let distinct = call.strip_prefix("count(DISTINCT ").expect("an aggregate that the evaluator knows");
            let argument = &distinct[..closing(distinct)];
            let mut values = values(argument);
            values.sort();
            values.dedup();
            Value::Int(values.len() as i64)
        }
    }
}

/// Where the parenthesis that was opened before the text ends.
pub fn closing(text: &str) -> usize {
    let mut depth = 0;
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 0 => return i,
            ')' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}
