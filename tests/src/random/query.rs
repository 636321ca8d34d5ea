//! Random queries whose result is one bag of rows, whatever the plan: every order is total, every sum exact, and nothing
//! is made of the looks of values that are equal but look different.
//!
//! Errors while a query runs are avoided by construction: no division by what may be zero, no integer that grows without
//! bound, no scalar subquery with two rows, no JSON function on the wrong kind of JSON.

use std::collections::BTreeSet;

use fastrand::Rng;

use super::kinds::{Kind, literal};
use super::text::{Text, text};
use super::{one_in, pick};

/// A column as an expression that may be used where it is in scope.
#[derive(Debug, Clone)]
pub struct Column {
    pub text: Text,
    pub kind: Kind,
}

impl Column {
    pub fn new(text: impl Into<Text>, kind: Kind) -> Column {
        Column { text: text.into(), kind }
    }
}

/// Something to select from, with its columns.
#[derive(Debug, Clone)]
pub struct Source {
    pub from: Text,
    pub columns: Vec<Column>,
    /// About how many rows it has: joins of joins must not explode.
    pub rows: f64,
}

/// A table, view or stream table, with its columns' names.
#[derive(Debug, Clone)]
pub struct Named {
    pub name: String,
    pub columns: Vec<(String, Kind)>,
    pub rows: f64,
    /// What is noted of queries that read it.
    pub traits: Vec<&'static str>,
}

/// A query and the kinds of its columns, which are named `x1`, `x2`, ….
#[derive(Debug, Clone)]
pub struct Relation {
    pub sql: Text,
    pub kinds: Vec<Kind>,
    pub rows: f64,
}

/// Joins stay below this many rows.
pub const MANY: f64 = 1200.0;

/// Writes one query.
pub struct Writer<'a> {
    pub rng: &'a mut Rng,
    /// Of PostgreSQL.
    pub version: u32,
    pub sources: &'a [Named],
    /// The constructs that the query has, for the statistics.
    pub constructs: BTreeSet<&'static str>,
    aliases: usize,
}

impl<'a> Writer<'a> {
    pub fn new(rng: &'a mut Rng, version: u32, sources: &'a [Named]) -> Writer<'a> {
        Writer { rng, version, sources, constructs: BTreeSet::new(), aliases: 0 }
    }

    /// Notes what the query contains.
    pub fn note(&mut self, construct: &'static str) {
        self.constructs.insert(construct);
    }

    pub fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("q{}", self.aliases)
    }

    pub fn one_in(&mut self, n: u32) -> bool {
        one_in(self.rng, n)
    }

    pub fn pick<T: Clone>(&mut self, options: &[T]) -> T {
        pick(self.rng, options).clone()
    }

    /// A few of them, in any order.
    pub fn some<T: Clone>(&mut self, options: &[T], least: usize, most: usize) -> Vec<T> {
        let mut options = options.to_vec();
        self.rng.shuffle(&mut options);
        let most = most.min(options.len());
        options.truncate(self.rng.usize(least.min(most)..=most));
        options
    }

    /// A query of at most this depth.
    pub fn relation(&mut self, depth: u32) -> Relation {
        if depth == 0 {
            let source = self.base();
            let condition = if self.one_in(2) { self.filter(&source.columns, 0) } else { "".into() };
            return self.select(&source, condition);
        }
        match self.rng.u32(..46) {
            0..=2 => {
                let input = self.input(depth);
                let condition = self.filter(&input.columns, depth - 1);
                self.select(&input, condition)
            }
            3..=9 => self.join(depth),
            10..=11 => self.lateral(depth),
            12..=17 => self.aggregate(depth),
            18..=19 => self.grouping_sets(depth),
            20..=21 => self.set_operation(depth),
            22 => self.distinct(depth),
            23..=24 => self.distinct_on(depth),
            25..=27 => self.window(depth),
            28..=29 => self.top_k(depth),
            30..=32 => self.with_subquery_condition(depth),
            33..=34 => self.with_scalar_subqueries(depth),
            35..=36 => self.common_table(depth),
            37..=39 => self.recursive(depth),
            40 => self.functions_in_select_list(depth),
            41 => self.set_operation(depth),
            42 => self.window(depth),
            _ => self.functions_in_from(depth),
        }
    }

    /// A query of less depth to select from.
    pub fn input(&mut self, depth: u32) -> Source {
        let below = if self.one_in(2) { depth - 1 } else { self.rng.u32(..depth) };
        self.input_of(below)
    }

    pub fn input_of(&mut self, depth: u32) -> Source {
        if depth == 0 && self.one_in(12) {
            return self.constants();
        }
        if depth == 0 && self.one_in(2) {
            return self.base();
        }
        let relation = self.relation(depth);
        self.derived(relation)
    }

    /// A table, view or stream table.
    pub fn base(&mut self) -> Source {
        self.one_of(self.sources)
    }

    pub fn one_of(&mut self, sources: &[Named]) -> Source {
        let named = self.pick(sources);
        let alias = self.alias();
        let columns = named.columns.iter().map(|(name, kind)| Column::new(format!("{alias}.{name}"), *kind)).collect();
        Source { from: format!("{} AS {alias}", named.name).into(), columns, rows: named.rows }
    }

    /// A list of rows.
    fn constants(&mut self) -> Source {
        self.note("VALUES");
        let alias = self.alias();
        let kinds = [Kind::Int, self.pick(&[Kind::Text, Kind::Num, Kind::Date, Kind::Int])];
        let row = |this: &mut Self| {
            let values = kinds.map(|kind| format!("{}::{}", literal(this.rng, kind, true), kind.sql()));
            Text::from(format!("({})", values.join(", ")))
        };
        let rows = Text::list((0..self.rng.usize(1..=4)).map(|_| row(self)).collect::<Vec<_>>(), ", ");
        let columns = (1..).zip(kinds).map(|(i, kind)| Column::new(format!("{alias}.x{i}"), kind)).collect();
        Source { from: text!["(VALUES ", rows, format!(") AS {alias}(x1, x2)")], columns, rows: 3.0 }
    }

    /// A query in FROM.
    pub fn derived(&mut self, relation: Relation) -> Source {
        let alias = self.alias();
        let column = |(i, kind): (usize, &Kind)| Column::new(format!("{alias}.x{}", i + 1), *kind);
        let columns = relation.kinds.iter().enumerate().map(column).collect();
        let simpler = self.stand_in(&relation);
        Source { from: text!["(", relation.sql.or(simpler), ") AS ", &alias], columns, rows: relation.rows }
    }

    /// A plain selection with columns of the same kinds.
    fn stand_in(&mut self, relation: &Relation) -> Text {
        let table = &self.sources[0];
        let column = |(i, kind): (usize, &Kind)| match table.columns.iter().find(|(_, k)| k == kind) {
            Some((name, _)) => format!("{name} AS x{}", i + 1).into(),
            None => format!("NULL::{} AS x{}", kind.sql(), i + 1).into(),
        };
        let columns = Text::list(relation.kinds.iter().enumerate().map(column), ", ");
        text!["SELECT ", columns, format!(" FROM {}", table.name)]
    }

    /// Some columns and expressions of a source; `rest` is what follows FROM.
    pub fn select(&mut self, source: &Source, rest: impl Into<Text>) -> Relation {
        let chosen = self.some(&source.columns, 1, 4);
        let outputs = chosen
            .into_iter()
            .map(|column| if self.one_in(3) { self.expression(&column, &source.columns) } else { column });
        let outputs: Vec<Column> = outputs.collect();
        self.assemble(&outputs, source, rest)
    }

    pub fn assemble(&mut self, outputs: &[Column], source: &Source, rest: impl Into<Text>) -> Relation {
        Relation {
            sql: text!["SELECT ", select_list(outputs), " FROM ", &source.from, rest.into()],
            kinds: outputs.iter().map(|column| column.kind).collect(),
            rows: source.rows,
        }
    }

    /// ` WHERE …`
    pub fn filter(&mut self, columns: &[Column], depth: u32) -> Text {
        text![" WHERE ", self.condition(columns, depth)].optional()
    }

    /// Every column, each in a random direction: a total order up to rows that are equal.
    pub fn total_order(&mut self, columns: &[Column]) -> Text {
        let mut columns = columns.to_vec();
        self.rng.shuffle(&mut columns);
        Text::list(columns.iter().map(|column| self.ordered(column)), ", ")
    }

    pub fn ordered(&mut self, column: &Column) -> Text {
        let direction = self.pick(&["", "", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
        text![&column.text, direction]
    }
}

pub fn select_list(outputs: &[Column]) -> Text {
    Text::list(outputs.iter().enumerate().map(|(i, column)| text![&column.text, format!(" AS x{}", i + 1)]), ", ")
}

/// `a, b, c`
pub fn listed(columns: &[Column]) -> Text {
    Text::list(columns.iter().map(|column| column.text.clone()), ", ")
}
