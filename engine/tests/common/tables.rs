//! The tables: `t1` with a primary key, `t2` and `t3` without, full of duplicates and NULLs.

use super::random::Random;
use pgtrickle_engine::ir::{Col, Equality, Number, SourceId, Ty};
use pgtrickle_engine::program::SourceInfo;
use pgtrickle_engine::sql::{Ident, QualifiedName};

/// Attribute numbers have gaps, as after DROP COLUMN.
pub const ATTNUMS: [i16; 4] = [1, 2, 4, 5];
const NAMES: [&str; 4] = ["Id", "b", "amount", "select"];
pub const TABLES: [u32; 3] = [1001, 1002, 1003];

/// A value as both SQL and the evaluator see it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    /// A numeric literal, for PostgreSQL only.
    Decimal(String),
    Text(String),
}

pub type Row = Vec<Value>;

pub fn integer() -> Ty {
    Ty::new("integer").with_number(Number::Small)
}

pub fn bigint() -> Ty {
    Ty::bigint()
}

pub fn numeric() -> Ty {
    Ty::numeric()
}

pub fn text() -> Ty {
    Ty::new("text")
}

pub fn other(sql: &str, equality: Equality) -> Ty {
    Ty::new(sql).with_equality(equality)
}

pub fn cols(table: u32) -> Vec<Col> {
    let id = if table == TABLES[0] { Col::not_null(integer()) } else { Col::new(integer()) };
    vec![id, Col::new(integer()), Col::new(numeric()), Col::new(text())]
}

pub fn info(table: u32) -> SourceInfo {
    SourceInfo {
        id: SourceId(table),
        table: QualifiedName::new("public", format!("t{}", table - 1000)),
        only: false,
        columns: ATTNUMS.iter().copied().zip(NAMES.map(Ident::new)).collect(),
        primary_key: (table == TABLES[0]).then(|| vec![1]),
    }
}

pub fn create(table: u32) -> String {
    let key = if table == TABLES[0] { " PRIMARY KEY" } else { "" };
    let columns = format!("\"Id\" integer{key}, b integer, amount numeric, \"select\" text");
    let buffer = "w bigint, c1 integer, c2 integer, c4 numeric, c5 text";
    format!("CREATE TABLE public.t{} ({columns});\nCREATE TEMP TABLE pgt_delta_{table} ({buffer});\n", table - 1000)
}

/// What a table holds.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    pub rows: Vec<Row>,
    next_key: i64,
}

impl Contents {
    /// A new row; its first column is a key if the table has one.
    fn row(&mut self, table: u32, r: &mut Random) -> Row {
        let small = |r: &mut Random| {
            if r.chance(15) { Value::Null } else { Value::Int(r.below(4) as i64) }
        };
        self.next_key += 1;
        let id = if table == TABLES[0] { Value::Int(self.next_key % 40) } else { small(r) };
        let decimals = ["0", "1", "1.5", "2.50", "-1.500", "3.25", "1.0", "NaN", "Infinity", "-Infinity"];
        let limit = if r.chance(5) { decimals.len() } else { 7 };
        let decimal = if r.chance(10) { Value::Null } else { Value::Decimal((*r.pick(&decimals[..limit])).to_owned()) };
        let texts = ["a", "b", "B c", ""];
        let text = if r.chance(15) { Value::Null } else { Value::Text((*r.pick(&texts)).to_owned()) };
        vec![id, small(r), decimal, text]
    }

    /// Random changes, each a row with its weight.
    pub fn change(&mut self, table: u32, count: usize, r: &mut Random) -> Vec<(i64, Row)> {
        let mut changes = Vec::new();
        for _ in 0..count {
            let delete = !self.rows.is_empty() && r.chance(50);
            let update = delete && r.chance(50);
            if delete {
                let gone = self.rows.swap_remove(r.below(self.rows.len()));
                changes.push((-1, gone.clone()));
                if update {
                    let mut new = self.row(table, r);
                    new[0] = gone[0].clone();
                    self.insert(new, &mut changes);
                }
            } else {
                let new = self.row(table, r);
                let taken = table == TABLES[0] && self.rows.iter().any(|row| row[0] == new[0]);
                if !taken {
                    self.insert(new, &mut changes);
                }
            }
        }
        changes
    }

    fn insert(&mut self, row: Row, changes: &mut Vec<(i64, Row)>) {
        changes.push((1, row.clone()));
        self.rows.push(row);
    }
}

/// `(1,'a',NULL)`
pub fn literal(row: &[Value]) -> String {
    let values: Vec<String> = row
        .iter()
        .map(|value| match value {
            Value::Null => "NULL".to_owned(),
            Value::Bool(b) => b.to_string(),
            Value::Int(i) => i.to_string(),
            Value::Decimal(d) => format!("'{d}'"),
            Value::Text(t) => format!("'{t}'"),
        })
        .collect();
    values.join(",")
}
