//! Tables whose values come from small pools, so that keys meet, groups collide and duplicates happen.

use fastrand::Rng;

use super::{one_in, pick};
use crate::case::Statement;

/// What the generator knows of a type: which literals and operators fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Number,
    Text,
    Truth,
}

/// A column of a generated table.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
    pub not_null: bool,
    declared: &'static str,
}

/// A generated table; with a key its first column is `id`.
#[derive(Debug, Clone)]
pub struct Table {
    pub name: String,
    pub keyed: bool,
    pub columns: Vec<Column>,
}

const TYPES: &[(Kind, &str)] = &[
    (Kind::Number, "int"),
    (Kind::Number, "int"),
    (Kind::Number, "bigint"),
    (Kind::Number, "smallint"),
    (Kind::Number, "numeric(8,2)"),
    (Kind::Text, "text"),
    (Kind::Text, "varchar(20)"),
    (Kind::Truth, "boolean"),
];

pub fn generate(rng: &mut Rng) -> Vec<Table> {
    (0..rng.usize(1..=3)).map(|i| table(rng, i)).collect()
}

fn table(rng: &mut Rng, number: usize) -> Table {
    let keyed = !one_in(rng, 3);
    let mut columns = Vec::new();
    if keyed {
        columns.push(Column { name: "id".into(), kind: Kind::Number, not_null: true, declared: "int PRIMARY KEY" });
    }
    for i in 0..rng.usize(2..=4) {
        // The first two of a kind that joins and groups can use.
        let (kind, declared) = if i == 0 { (Kind::Number, "int") } else { *pick(rng, TYPES) };
        columns.push(Column { name: format!("c{i}"), kind, not_null: one_in(rng, 4), declared });
    }
    Table { name: format!("t{number}"), keyed, columns }
}

impl Table {
    /// The statements that create and fill it.
    pub fn creation(&self, rng: &mut Rng) -> Vec<Statement> {
        let column = |c: &Column| format!("{} {}{}", c.name, c.declared, if c.not_null { " NOT NULL" } else { "" });
        let columns: Vec<String> = self.columns.iter().map(column).collect();
        let mut all = vec![plain(format!("CREATE TABLE {} ({});", self.name, columns.join(", ")))];
        let rows = rng.usize(0..25);
        if rows > 0 {
            all.push(plain(self.insertion(rng, rows, 0)));
        }
        all
    }

    /// An insertion of `count` rows; keys start beyond those of other insertions with a smaller `round`.
    pub fn insertion(&self, rng: &mut Rng, count: usize, round: usize) -> String {
        let row = |rng: &mut Rng, i: usize| {
            let values: Vec<String> = self.columns.iter().map(|c| self.value(rng, c, round * 1000 + i)).collect();
            format!("({})", values.join(", "))
        };
        let rows: Vec<String> = (0..count).map(|i| row(rng, i)).collect();
        format!("INSERT INTO {} VALUES {};", self.name, rows.join(", "))
    }

    fn value(&self, rng: &mut Rng, column: &Column, key: usize) -> String {
        if column.declared.contains("PRIMARY KEY") {
            return key.to_string();
        }
        literal(rng, column.kind, !column.not_null)
    }

    /// Columns that an update may set.
    pub fn settable(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| !column.declared.contains("PRIMARY KEY"))
    }
}

/// A literal of the kind, from a small pool.
pub fn literal(rng: &mut Rng, kind: Kind, nullable: bool) -> String {
    if nullable && one_in(rng, 6) {
        return "NULL".into();
    }
    match kind {
        Kind::Number => rng.i32(-2..8).to_string(),
        Kind::Text => format!("'{}'", pick(rng, &["", "a", "b", "ab", "Zz", "x y"])),
        Kind::Truth => rng.bool().to_string(),
    }
}

/// A statement of the first session that must succeed.
pub fn plain(sql: String) -> Statement {
    Statement { sql, session: 1, ..Statement::default() }
}
