//! Window functions and first rows, by their definitions.

use super::oracle::Weighted;
use super::scalars::evaluate;
use super::tables::{Row, Value};
use pgtrickle_engine::ir::{Limit, Scalar, SortKey};
use std::cmp::Ordering;

/// Each row as often as its weight says.
fn copies(rows: &Weighted) -> Vec<Row> {
    rows.iter().flat_map(|(row, w)| std::iter::repeat_n(row.clone(), *w as usize)).collect()
}

/// A term of ORDER BY as these tests write it: `expression USING OPERATOR(pg_catalog.<) NULLS LAST`.
#[derive(Clone)]
struct Term {
    by: String,
    descending: bool,
    nulls_first: bool,
}

impl Term {
    fn parse(text: &str) -> Term {
        let (by, how) = text.split_once(" USING ").expect("a sort operator");
        Term { by: by.to_owned(), descending: how.contains('>'), nulls_first: how.ends_with("NULLS FIRST") }
    }

    /// Terms end with FIRST or LAST; commas are in expressions, too.
    fn list(text: &str) -> Vec<Term> {
        text.split_inclusive("ST, ").map(|term| Term::parse(term.trim_end_matches(", "))).collect()
    }

    fn compare(&self, a: &Row, b: &Row) -> Ordering {
        // The tie-break is the whole row; any order of all rows does.
        if self.by.starts_with("ROW(") {
            return a.cmp(b);
        }
        let (a, b) = (evaluate(&self.by, a), evaluate(&self.by, b));
        let null = |value: &Value| (*value == Value::Null) != self.nulls_first;
        match (&a, &b) {
            (Value::Null, _) | (_, Value::Null) if (a == Value::Null) != (b == Value::Null) => null(&a).cmp(&null(&b)),
            _ if self.descending => b.cmp(&a),
            _ => a.cmp(&b),
        }
    }
}

fn compare(order: &[Term], a: &Row, b: &Row) -> Ordering {
    order.iter().map(|term| term.compare(a, b)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
}

/// The first rows by an order that leaves a choice between identical rows only.
pub fn first_rows(rows: &Weighted, order: &[SortKey], limit: &Limit) -> Weighted {
    let order: Vec<Term> = order.iter().map(|key| Term::parse(key.sql().as_str())).collect();
    let mut rows = copies(rows);
    rows.sort_by(|a, b| compare(&order, a, b));
    let end = (limit.first() as usize).min(rows.len());
    let tied = |row: &&Row| limit.ties && end > 0 && compare(&order, row, &rows[end - 1]).is_eq();
    let ties = rows[end..].iter().take_while(tied).count();
    let mut first = Weighted::new();
    rows[..end + ties].iter().skip(limit.offset as usize).for_each(|row| *first.entry(row.clone()).or_default() += 1);
    first
}

/// Each row with the values of window functions.
pub fn windows(rows: &Weighted, partition: &[usize], calls: &[Scalar]) -> Weighted {
    let rows = copies(rows);
    let mut found: Vec<Row> = rows.clone();
    for call in calls {
        let (function, over) = call.sql.as_str().split_once(" OVER (").expect("a window");
        let order: Vec<Term> = match over.trim_end_matches(')').split_once("ORDER BY ") {
            Some((_, terms)) => Term::list(terms),
            None => Vec::new(),
        };
        let key = |row: &Row| partition.iter().map(|c| row[*c].clone()).collect::<Row>();
        let mut numbers: Vec<usize> = (0..rows.len()).collect();
        numbers.sort_by(|a, b| key(&rows[*a]).cmp(&key(&rows[*b])).then(compare(&order, &rows[*a], &rows[*b])));
        for together in numbers.chunk_by(|a, b| key(&rows[*a]) == key(&rows[*b])) {
            let ordered: Vec<&Row> = together.iter().map(|i| &rows[*i]).collect();
            let values = values(function, &order, &ordered);
            together.iter().zip(values).for_each(|(i, value)| found[*i].push(value));
        }
    }
    let mut sum = Weighted::new();
    found.into_iter().for_each(|row| *sum.entry(row).or_default() += 1);
    sum
}

/// The values over the ordered rows of one partition. Rows that are equal by the order are identical, or peers do not matter.
fn values(function: &str, order: &[Term], rows: &[&Row]) -> Vec<Value> {
    let int = |n: usize| Value::Int(n as i64);
    let same = |a: usize, b: usize| compare(order, rows[a], rows[b]).is_eq();
    match function {
        "row_number()" => (1..=rows.len()).map(int).collect(),
        "rank()" => (0..rows.len()).map(|i| int(1 + (0..i).find(|j| same(*j, i)).unwrap_or(i))).collect(),
        "count(*)" => {
            (0..rows.len()).map(|i| int((0..rows.len()).filter(|j| *j <= i || same(*j, i)).count())).collect()
        }
        _ => {
            let argument = function.strip_prefix("lag(").expect("a known window function").trim_end_matches(')');
            let before = |i: usize| if i == 0 { Value::Null } else { evaluate(argument, rows[i - 1]) };
            (0..rows.len()).map(before).collect()
        }
    }
}
