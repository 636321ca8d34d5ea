//! Tables whose values come from small pools, so that keys meet, groups collide and duplicates happen.

use fastrand::Rng;

use super::kinds::{self, Kind, literal};
use super::query::{Named, Writer};
use super::{one_in, pick};
use crate::case::Statement;

/// A column of a generated table.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
    pub not_null: bool,
    declared: String,
    role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Key,
    Value,
    Generated,
}

/// What kind of table it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Plain,
    Partitioned,
    /// With a child that inherits from it.
    Parent,
}

/// A generated table; with a key its first column is `id`.
#[derive(Debug, Clone)]
pub struct Table {
    pub name: String,
    pub keyed: bool,
    pub columns: Vec<Column>,
    shape: Shape,
}

/// What tables and queries use besides.
pub const TYPES: &[&str] = &[
    "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');",
    "CREATE AGGREGATE total (bigint) (SFUNC = int8pl, STYPE = bigint, INITCOND = '0');",
];

pub fn generate(rng: &mut Rng) -> Vec<Table> {
    (0..rng.usize(2..=3)).map(|i| table(rng, i)).collect()
}

fn table(rng: &mut Rng, number: usize) -> Table {
    let keyed = !one_in(rng, 3);
    let shape = match rng.u32(..8) {
        0 => Shape::Partitioned,
        // A key of the parent's does not hold for its children.
        1 if !keyed => Shape::Parent,
        _ => Shape::Plain,
    };
    let mut columns = Vec::new();
    if keyed {
        columns.push(Column {
            name: "id".into(),
            kind: Kind::Int,
            not_null: true,
            declared: "int PRIMARY KEY".into(),
            role: Role::Key,
        });
    }
    for i in 0..rng.usize(2..=5) {
        // At least one of a kind that joins, groups and sums can use.
        let kind = if i == 0 || one_in(rng, 4) { Kind::Int } else { *pick(rng, kinds::ALL) };
        let declared = if i == 0 { "int".into() } else { (*pick(rng, kind.declared())).to_owned() };
        columns.push(Column { name: format!("c{i}"), kind, not_null: one_in(rng, 4), declared, role: Role::Value });
    }
    if one_in(rng, 8) {
        let declared = "int GENERATED ALWAYS AS (c0 * 2) STORED".into();
        columns.push(Column { name: "g".into(), kind: Kind::Int, not_null: false, declared, role: Role::Generated });
    }
    Table { name: format!("t{number}"), keyed, columns, shape }
}

impl Table {
    /// The statements that create and fill it.
    pub fn creation(&self, rng: &mut Rng) -> Vec<Statement> {
        let column = |c: &Column| format!("{} {}{}", c.name, c.declared, if c.not_null { " NOT NULL" } else { "" });
        let columns: Vec<String> = self.columns.iter().map(column).collect();
        let (name, columns) = (&self.name, columns.join(", "));
        let mut all: Vec<String> = match self.shape {
            Shape::Plain => vec![format!("CREATE TABLE {name} ({columns});")],
            Shape::Parent => vec![
                format!("CREATE TABLE {name} ({columns});"),
                format!("CREATE TABLE {name}_child () INHERITS ({name});"),
            ],
            Shape::Partitioned if self.keyed => {
                let part = |i| {
                    format!("CREATE TABLE {name}_{i} PARTITION OF {name} FOR VALUES WITH (MODULUS 2, REMAINDER {i});")
                };
                vec![format!("CREATE TABLE {name} ({columns}) PARTITION BY HASH (id);"), part(0), part(1)]
            }
            Shape::Partitioned => vec![
                format!("CREATE TABLE {name} ({columns}) PARTITION BY LIST (c0);"),
                format!("CREATE TABLE {name}_0 PARTITION OF {name} FOR VALUES IN (0, 1, 2, NULL);"),
                format!("CREATE TABLE {name}_1 PARTITION OF {name} DEFAULT;"),
            ],
        };
        let rows = rng.usize(0..25);
        if rows > 0 {
            all.push(self.insertion(rng, rows, 0));
        }
        all.into_iter().map(plain).collect()
    }

    /// An insertion of `count` rows; keys start beyond those of other insertions with a smaller `round`.
    pub fn insertion(&self, rng: &mut Rng, count: usize, round: usize) -> String {
        let set: Vec<&Column> = self.columns.iter().filter(|column| column.role != Role::Generated).collect();
        let row = |rng: &mut Rng, i: usize| {
            let values: Vec<String> = set.iter().map(|c| value(rng, c, round * 1000 + i)).collect();
            format!("({})", values.join(", "))
        };
        let rows: Vec<String> = (0..count).map(|i| row(rng, i)).collect();
        let names: Vec<&str> = set.iter().map(|column| column.name.as_str()).collect();
        let child = if self.shape == Shape::Parent && rng.bool() { "_child" } else { "" };
        format!("INSERT INTO {}{child} ({}) VALUES {};", self.name, names.join(", "), rows.join(", "))
    }

    /// A few rows once more.
    pub fn duplication(&self) -> String {
        let names: Vec<&str> = self.settable().map(|column| column.name.as_str()).collect();
        let (name, names) = (&self.name, names.join(", "));
        format!("INSERT INTO {name} ({names}) SELECT {names} FROM {name} ORDER BY ctid LIMIT 4;")
    }

    /// Columns that an update may set.
    pub fn settable(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.role == Role::Value)
    }

    /// As queries see it.
    pub fn named(&self) -> Named {
        let columns = self.columns.iter().map(|column| (column.name.clone(), column.kind)).collect();
        let mut traits = match self.shape {
            Shape::Plain => vec![],
            Shape::Partitioned => vec!["over a partitioned table"],
            Shape::Parent => vec!["over an inheritance parent"],
        };
        traits.push(if self.keyed { "over a table with a key" } else { "over a keyless table" });
        if self.columns.iter().any(|column| column.role == Role::Generated) {
            traits.push(super::GENERATED);
        }
        Named { name: self.name.clone(), columns, rows: 20.0, traits }
    }
}

fn value(rng: &mut Rng, column: &Column, key: usize) -> String {
    match column.role {
        Role::Key => key.to_string(),
        _ => literal(rng, column.kind, !column.not_null),
    }
}

/// A view over what there is, with a query like those of stream tables.
pub fn view(rng: &mut Rng, version: u32, name: &str, sources: &[Named]) -> (Statement, Named) {
    let depth = rng.u32(..=1);
    let relation = Writer::new(rng, version, sources).relation(depth);
    let columns = relation.kinds.iter().enumerate().map(|(i, kind)| (format!("x{}", i + 1), *kind)).collect();
    let named = Named { name: name.into(), columns, rows: relation.rows, traits: vec!["over a view"] };
    (plain(format!("CREATE VIEW {name} AS {};", relation.sql)), named)
}

/// A statement of the first session that must succeed.
pub fn plain(sql: String) -> Statement {
    Statement { sql, session: 1, ..Statement::default() }
}
