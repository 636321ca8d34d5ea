//! Random queries whose result is one bag of rows, whatever the plan: every order is total, every sum exact.

use fastrand::Rng;

use super::tables::{Kind, Table, literal};
use super::{one_in, pick};

/// Something to select from, with its columns.
#[derive(Debug, Clone)]
pub struct Source {
    from: String,
    columns: Vec<(String, Kind)>,
}

/// A query and the kinds of its columns, which are named `x1`, `x2`, ….
#[derive(Debug, Clone)]
pub struct Relation {
    pub sql: String,
    kinds: Vec<Kind>,
}

impl Source {
    pub fn table(table: &Table) -> Source {
        let columns = table.columns.iter().map(|column| (column.name.clone(), column.kind)).collect();
        Source { from: table.name.clone(), columns }
    }

    pub fn stream_table(name: &str, relation: &Relation) -> Source {
        Source { from: name.into(), columns: relation.named() }
    }
}

impl Relation {
    fn named(&self) -> Vec<(String, Kind)> {
        self.kinds.iter().enumerate().map(|(i, kind)| (format!("x{}", i + 1), *kind)).collect()
    }

    fn source(&self, alias: &str) -> Source {
        let columns = self.named().into_iter().map(|(name, kind)| (format!("{alias}.{name}"), kind)).collect();
        Source { from: format!("({}) AS {alias}", self.sql), columns }
    }
}

pub fn generate(rng: &mut Rng, sources: &[Source]) -> Relation {
    let depth = rng.u32(1..=3);
    relation(rng, sources, depth)
}

fn relation(rng: &mut Rng, sources: &[Source], depth: u32) -> Relation {
    if depth == 0 {
        let source = pick(rng, sources).clone();
        return select(rng, &source, "");
    }
    match rng.u32(..20) {
        0..=2 => {
            let input = relation(rng, sources, depth - 1).source("q");
            let condition = condition(rng, &input.columns);
            select(rng, &input, &format!(" WHERE {condition}"))
        }
        3..=7 => join(rng, sources, depth),
        8..=12 => {
            let input = relation(rng, sources, depth - 1).source("q");
            aggregate(rng, &input)
        }
        13..=14 => {
            let input = relation(rng, sources, depth - 1).source("q");
            let selected = select(rng, &input, "");
            Relation { sql: selected.sql.replacen("SELECT", "SELECT DISTINCT", 1), ..selected }
        }
        15..=17 => union(rng, sources, depth),
        18 => set_operation(rng, sources, depth),
        _ => unruly(rng, sources, depth),
    }
}

/// Some columns and expressions of a source.
fn select(rng: &mut Rng, source: &Source, rest: &str) -> Relation {
    let count = rng.usize(1..=source.columns.len().min(4));
    let mut columns = source.columns.clone();
    rng.shuffle(&mut columns);
    let outputs = columns
        .into_iter()
        .take(count)
        .map(|(name, kind)| if one_in(rng, 4) { expression(rng, &name, kind) } else { (name, kind) });
    assemble(outputs.collect(), &source.from, rest)
}

fn assemble(outputs: Vec<(String, Kind)>, from: &str, rest: &str) -> Relation {
    let kinds = outputs.iter().map(|(_, kind)| *kind).collect();
    let list: Vec<String> = outputs.iter().enumerate().map(|(i, (text, _))| format!("{text} AS x{}", i + 1)).collect();
    Relation { sql: format!("SELECT {} FROM {from}{rest}", list.join(", ")), kinds }
}

fn expression(rng: &mut Rng, name: &str, kind: Kind) -> (String, Kind) {
    let value = literal(rng, kind, false);
    match (kind, rng.u32(..4)) {
        (Kind::Number, 0) => (format!("{name} + ({value})"), kind),
        (Kind::Number, 1) => (format!("abs({name}) % 3"), kind),
        (Kind::Number, 2) => {
            (format!("CASE WHEN {name} > {value} THEN 'high' WHEN {name} IS NULL THEN 'none' END"), Kind::Text)
        }
        (Kind::Text, 0) => (format!("{name} || {value}"), kind),
        (Kind::Text, 1) => (format!("length({name})"), Kind::Number),
        (Kind::Truth, 0 | 1) => (format!("NOT {name}"), kind),
        (_, 3) => (format!("{name} IS NOT DISTINCT FROM {value}"), Kind::Truth),
        _ => (format!("coalesce({name}, {value})"), kind),
    }
}

fn condition(rng: &mut Rng, columns: &[(String, Kind)]) -> String {
    let term = |rng: &mut Rng| {
        let (name, kind) = pick(rng, columns).clone();
        let value = literal(rng, kind, false);
        match (kind, rng.u32(..6)) {
            (_, 0) => format!("{name} IS NULL"),
            (Kind::Truth, _) => name,
            (_, 1) => format!("{name} IN ({value}, {})", literal(rng, kind, false)),
            (_, 2) => format!("{name} = {value}"),
            (_, 3) => format!("{name} <= {value}"),
            _ => format!("{name} <> {value}"),
        }
    };
    let first = term(rng);
    match rng.u32(..4) {
        0 => format!("({first} OR {})", term(rng)),
        1 => format!("({first} AND {})", term(rng)),
        _ => first,
    }
}

/// A pair of columns of one kind, if there is any.
fn matching(rng: &mut Rng, left: &Source, right: &Source) -> Option<(String, String)> {
    let pairs: Vec<(String, String)> = left
        .columns
        .iter()
        .flat_map(|l| right.columns.iter().filter(|r| r.1 == l.1).map(|r| (l.0.clone(), r.0.clone())))
        .collect();
    (!pairs.is_empty()).then(|| pick(rng, &pairs).clone())
}

fn join(rng: &mut Rng, sources: &[Source], depth: u32) -> Relation {
    let left = relation(rng, sources, depth - 1).source("l");
    let right_depth = rng.u32(..depth);
    let right = relation(rng, sources, right_depth).source("r");
    let Some((a, b)) = matching(rng, &left, &right) else {
        return select(rng, &left, "");
    };
    let columns: Vec<_> = left.columns.iter().chain(&right.columns).cloned().collect();
    let mut on = match rng.u32(..8) {
        0 => format!("{a} < {b}"),
        1 => format!("{a} IS NOT DISTINCT FROM {b}"),
        _ => format!("{a} = {b}"),
    };
    if one_in(rng, 4) {
        on = format!("{on} AND {}", condition(rng, &columns));
    }
    let kind = match rng.u32(..12) {
        0 => "LEFT JOIN",
        1 if on == format!("{a} = {b}") => "FULL JOIN",
        2 => "RIGHT JOIN",
        _ => "JOIN",
    };
    let from = format!("{} {kind} {} ON {on}", left.from, right.from);
    select(rng, &Source { from, columns }, "")
}

fn aggregate(rng: &mut Rng, input: &Source) -> Relation {
    let mut keys = input.columns.clone();
    rng.shuffle(&mut keys);
    keys.truncate(rng.usize(0..=2));
    let mut outputs: Vec<(String, Kind)> = keys.clone();
    for _ in 0..rng.usize(1..=3) {
        outputs.push(call(rng, input));
    }
    let mut rest = String::new();
    if !keys.is_empty() {
        let list: Vec<&str> = keys.iter().map(|(name, _)| name.as_str()).collect();
        rest = format!(" GROUP BY {}", list.join(", "));
        if one_in(rng, 4) {
            rest.push_str(&format!(" HAVING count(*) > {}", rng.u32(0..3)));
        }
    }
    assemble(outputs, &input.from, &rest)
}

fn call(rng: &mut Rng, input: &Source) -> (String, Kind) {
    let (name, kind) = pick(rng, &input.columns).clone();
    let (text, result) = match (kind, rng.u32(..9)) {
        (_, 0) => ("count(*)".to_owned(), Kind::Number),
        (_, 1) => (format!("count({name})"), Kind::Number),
        (Kind::Number, 2 | 3) => (format!("sum({name})"), Kind::Number),
        (Kind::Number, 4) => (format!("avg({name})"), Kind::Number),
        (Kind::Number | Kind::Text, 5) => (format!("min({name})"), kind),
        (Kind::Number | Kind::Text, 6) => (format!("max({name})"), kind),
        (Kind::Truth, 5 | 6) => (format!("bool_or({name})"), kind),
        (Kind::Text, 7) => (format!("string_agg({name}, '/' ORDER BY {name})"), Kind::Text),
        _ => (format!("count(DISTINCT {name})"), Kind::Number),
    };
    if one_in(rng, 5) {
        return (format!("{text} FILTER (WHERE {})", condition(rng, &input.columns)), result);
    }
    (text, result)
}

/// Two selections of the same columns, so that the types agree.
fn union(rng: &mut Rng, sources: &[Source], depth: u32) -> Relation {
    let input = relation(rng, sources, depth - 1);
    let branch = |rng: &mut Rng| {
        let source = input.source("q");
        let rest = format!(" WHERE {}", condition(rng, &source.columns));
        assemble(source.columns, &source.from, &rest).sql
    };
    let operator = if one_in(rng, 4) { "UNION" } else { "UNION ALL" };
    let sql = format!("{} {operator} {}", branch(rng), branch(rng));
    Relation { sql, kinds: input.kinds }
}

fn set_operation(rng: &mut Rng, sources: &[Source], depth: u32) -> Relation {
    let united = union(rng, sources, depth);
    let operator = *pick(rng, &["INTERSECT", "INTERSECT ALL", "EXCEPT", "EXCEPT ALL"]);
    let from = if united.sql.contains(" UNION ALL ") { " UNION ALL " } else { " UNION " };
    // The last of them is the one between the two branches of the outermost union or of one within it: both are valid.
    let sql = match united.sql.find(from) {
        Some(at) => format!("{} {operator} {}", &united.sql[..at], &united.sql[at + from.len()..]),
        None => united.sql,
    };
    Relation { sql, kinds: united.kinds }
}

/// Queries for which there may be no rule.
fn unruly(rng: &mut Rng, sources: &[Source], depth: u32) -> Relation {
    let input = relation(rng, sources, depth - 1).source("q");
    let all: Vec<&str> = input.columns.iter().map(|(name, _)| name.as_str()).collect();
    let total_order = all.join(", ");
    match rng.u32(..3) {
        0 => {
            let mut outputs = input.columns.clone();
            outputs.truncate(2);
            outputs.push((format!("rank() OVER (ORDER BY {total_order})"), Kind::Number));
            assemble(outputs, &input.from, "")
        }
        1 => assemble(input.columns.clone(), &input.from, &format!(" ORDER BY {total_order} LIMIT {}", rng.u32(1..6))),
        _ => {
            let other = relation(rng, sources, 0).source("s");
            let condition = match matching(rng, &input, &other) {
                Some((a, b)) => format!("EXISTS (SELECT FROM {} WHERE {a} = {b})", other.from),
                None => "true".into(),
            };
            let negation = if rng.bool() { "NOT " } else { "" };
            assemble(input.columns.clone(), &input.from, &format!(" WHERE {negation}{condition}"))
        }
    }
}
