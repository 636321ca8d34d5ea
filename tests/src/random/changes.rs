//! Random changes: single statements, transactions with savepoints, a second session that stays open over refreshes,
//! refreshes of single stream tables out of turn, and what administrators do.

use fastrand::Rng;

use super::kinds::literal;
use super::tables::{Table, plain};
use super::{one_in, pick};
use crate::case::{Statement, Step};

pub fn generate(rng: &mut Rng, tables: &[Table], streams: usize) -> Vec<Step> {
    let mut writer = Writer { tables, streams, round: 0, moves: 0, second_is_open: false };
    let steps = rng.usize(5..=8);
    (0..steps).map(|_| Step { statements: writer.step(rng), ..Step::default() }).collect()
}

struct Writer<'a> {
    tables: &'a [Table],
    streams: usize,
    /// Grows with every insertion, so that new keys are new.
    round: usize,
    /// How often keys were moved; each time by another power of two, so that no key can meet one that was moved before.
    moves: u32,
    /// Whether the second session has an open transaction: then nothing may be done that would wait for it.
    second_is_open: bool,
}

impl Writer<'_> {
    fn step(&mut self, rng: &mut Rng) -> Vec<Statement> {
        let mut statements = Vec::new();
        self.second_session(rng, &mut statements);
        for _ in 0..rng.usize(1..=3) {
            match rng.u32(..10) {
                0 | 1 => self.transaction(rng, &mut statements),
                2 if one_in(rng, 2) => statements.push(plain(self.care(rng))),
                _ => statements.push(plain(self.change(rng))),
            }
        }
        statements
    }

    fn transaction(&mut self, rng: &mut Rng, statements: &mut Vec<Statement>) {
        statements.push(plain("BEGIN;".into()));
        for _ in 0..rng.usize(1..=4) {
            let sql = self.change(rng);
            let undone = one_in(rng, 4);
            if undone {
                statements.push(plain("SAVEPOINT s;".into()));
            }
            statements.push(plain(sql));
            if undone {
                statements.push(plain(pick(rng, &["ROLLBACK TO s;", "RELEASE s;"]).to_string()));
            }
        }
        let end = if one_in(rng, 6) { "ROLLBACK;" } else { "COMMIT;" };
        statements.push(plain(end.into()));
    }

    /// The second session only inserts into tables without a key: it blocks nobody but TRUNCATE.
    fn second_session(&mut self, rng: &mut Rng, statements: &mut Vec<Statement>) {
        let keyless: Vec<&Table> = self.tables.iter().filter(|table| !table.keyed).collect();
        if keyless.is_empty() || one_in(rng, 2) {
            return;
        }
        let mut say = |sql: String| statements.push(Statement { session: 2, ..plain(sql) });
        if self.second_is_open {
            say(if one_in(rng, 4) { "ROLLBACK;".into() } else { "COMMIT;".into() });
        } else {
            let rows = rng.usize(1..=3);
            say("BEGIN;".into());
            say(pick(rng, &keyless).insertion(rng, rows, 0));
        }
        self.second_is_open = !self.second_is_open;
    }

    /// What is no change of rows: a stream table refreshed before its turn (so others lag behind it), or maintenance.
    fn care(&mut self, rng: &mut Rng) -> String {
        let stream = rng.usize(..self.streams);
        let table = &pick(rng, self.tables).name;
        match rng.u32(..8) {
            // Both wait for transactions that have used the table.
            0 if !self.second_is_open => format!("VACUUM FULL {table};"),
            1 if !self.second_is_open => {
                self.round += 1;
                format!("ALTER TABLE {table} ADD COLUMN more{} int DEFAULT 3;", self.round)
            }
            2 => format!("ANALYZE {table};"),
            3 => format!("SELECT pgtrickle.reinitialize_stream_table('{{schema}}.st{stream}');"),
            _ => format!("SELECT pgtrickle.refresh_stream_table('{{schema}}.st{stream}');"),
        }
    }

    fn change(&mut self, rng: &mut Rng) -> String {
        let (table, other) = (pick(rng, self.tables), pick(rng, self.tables));
        match rng.u32(..15) {
            0..=3 => {
                self.round += 1;
                let rows = rng.usize(1..=6);
                table.insertion(rng, rows, self.round)
            }
            4..=7 => self.update(rng, table),
            8..=9 => format!("DELETE FROM {} WHERE {};", table.name, condition(rng, table)),
            10 if table.keyed => upsert(rng, table, self.round),
            12 => from_another(rng, table, other),
            13 if !table.keyed => table.duplication(),
            14 if table.keyed => merge(rng, table, other),
            11 if !self.second_is_open && one_in(rng, 2) => format!("TRUNCATE {};", table.name),
            _ => format!(
                "DELETE FROM {0} WHERE ctid = (SELECT ctid FROM {0} WHERE {1} ORDER BY ctid LIMIT 1);",
                table.name,
                condition(rng, table)
            ),
        }
    }

    fn update(&mut self, rng: &mut Rng, table: &Table) -> String {
        let columns: Vec<_> = table.settable().collect();
        let column = *pick(rng, &columns);
        let value = literal(rng, column.kind, !column.not_null);
        let condition = condition(rng, table);
        if table.keyed && self.moves < MOST_MOVES && one_in(rng, 8) {
            self.moves += 1;
            return format!("UPDATE {} SET id = id + {} WHERE {condition};", table.name, FIRST_MOVE << self.moves);
        }
        format!("UPDATE {} SET {} = {value} WHERE {condition};", table.name, column.name)
    }
}

/// Beyond all keys that are inserted.
const FIRST_MOVE: u32 = 20_000;
/// Then keys stay so small that sums of a few of them are integers.
const MOST_MOVES: u32 = 8;

/// UPDATE and DELETE that join. Every table has an int `c0`.
fn from_another(rng: &mut Rng, table: &Table, other: &Table) -> String {
    let (name, other) = (&table.name, &other.name);
    match rng.u32(..3) {
        0 => format!("DELETE FROM {name} USING {other} AS o WHERE {name}.c0 = o.c0 AND o.c0 % 3 = {};", rng.u32(..3)),
        1 => format!("UPDATE {name} SET c0 = coalesce(o.c0, 1) FROM {other} AS o WHERE {name}.c0 = o.c0 + 1;"),
        _ => format!(
            "UPDATE {name} SET c0 = (SELECT coalesce(max(o.c0), 0) % 5 FROM {other} AS o) WHERE c0 = {};",
            rng.i32(-2..8)
        ),
    }
}

fn merge(rng: &mut Rng, table: &Table, other: &Table) -> String {
    let columns: Vec<_> = table.settable().collect();
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let values: Vec<String> = columns.iter().map(|column| literal(rng, column.kind, !column.not_null)).collect();
    format!(
        "MERGE INTO {} AS t USING (SELECT DISTINCT c0 AS k FROM {} WHERE c0 IS NOT NULL) AS o ON t.id = o.k \
         WHEN MATCHED AND o.k % 2 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET c0 = 7 - o.k \
         WHEN NOT MATCHED AND o.k < 5 THEN INSERT (id, {}) VALUES (o.k, {});",
        table.name,
        other.name,
        names.join(", "),
        values.join(", ")
    )
}

fn upsert(rng: &mut Rng, table: &Table, round: usize) -> String {
    let columns: Vec<_> = table.settable().collect();
    let column = *pick(rng, &columns);
    let value = literal(rng, column.kind, !column.not_null);
    let around = rng.usize(0..=round);
    let insertion = table.insertion(rng, 5, around);
    let insertion = insertion.trim_end_matches(';');
    match rng.u32(..3) {
        0 => format!("{insertion} ON CONFLICT DO NOTHING;"),
        1 => format!("{insertion} ON CONFLICT (id) DO UPDATE SET {0} = excluded.{0};", column.name),
        _ => format!("{insertion} ON CONFLICT (id) DO UPDATE SET {} = {value};", column.name),
    }
}

fn condition(rng: &mut Rng, table: &Table) -> String {
    let column = pick(rng, &table.columns);
    let value = literal(rng, column.kind, false);
    match rng.u32(..6) {
        0 => format!("{} IS NULL", column.name),
        1 if table.keyed => format!("id % 3 = {}", rng.u32(..3)),
        2 => format!("{} >= {value}", column.name),
        _ => format!("{} = {value}", column.name),
    }
}
