//! The generated SQL on a real server: random queries, random changes, small steps and one big step.
//!
//! Needs a server of version 15 or newer and does nothing without: `PGTRICKLE_ENGINE_PSQL` is a command such as
//! `psql -h /tmp/socket -p 5499 -U postgres -d scratch`, of a database that may be filled with tables. Temporary tables
//! stand in for ephemeral relations, and PostgreSQL's own functions for the extension's.
//! `PGTRICKLE_ENGINE_CASES` and `PGTRICKLE_ENGINE_SEED` say how many cases and which first.

mod common;

use common::generate::{ALL_JOINS, Grammar, rel};
use common::oracle::closing;
use common::random::Random;
use common::recursion::recursive;
use common::tables::{self, Contents, TABLES};
use pgtrickle_engine::ir::{Agg, AggKind, Col, Rel, Scalar, SourceId};
use pgtrickle_engine::program::{Definition, Program, Step, Target};
use pgtrickle_engine::selection::{Choice, selections};
use pgtrickle_engine::sql::{Ident, QualifiedName, Sql};
use std::collections::BTreeSet;
use std::env;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

const GRAMMAR: Grammar = Grammar { decimals: true, aggregates: true, joins: ALL_JOINS };

#[test]
fn differential_random_queries_on_a_server() {
    let Ok(psql) = env::var("PGTRICKLE_ENGINE_PSQL") else {
        return;
    };
    let number = |name, default| env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (first, cases) = (number("PGTRICKLE_ENGINE_SEED", 1), number("PGTRICKLE_ENGINE_CASES", 200));
    let failed: Vec<u64> = (first..first + cases).filter(|seed| !passes(&psql, *seed)).collect();
    assert!(failed.is_empty(), "seeds {failed:?}");
}

fn passes(psql: &str, seed: u64) -> bool {
    let mut r = Random::new(seed);
    let depth = 1 + r.below(4);
    let root = match seed % 4 {
        0 => recursive(depth % 3, &GRAMMAR, &mut r),
        _ => rel(depth, &GRAMMAR, &mut r),
    };
    let script = Script::whole(&root, &mut r);
    let output = run(psql, &script);
    let good = output.lines().all(|line| line == "ok");
    if !good {
        let _ = std::fs::write(format!("/tmp/pgtrickle_engine_{seed}.sql"), &script);
        println!("seed {seed}: {root:#?}\n{output}");
    }
    good
}

#[test]
fn differential_keys_look_like_one_of_their_rows() {
    let Ok(psql) = env::var("PGTRICKLE_ENGINE_PSQL") else { return };
    let amount = Col::new(tables::numeric());
    let count = Scalar::deparsed("count(*)", vec![], tables::bigint(), true);
    let count = Agg { call: count, kind: AggKind::CountStar, filter: None };
    let scan = Rel::scan(SourceId(1002), vec![4], vec![amount.clone()]).unwrap();
    let root = scan.aggregate(vec![Scalar::column(0, &amount)], vec![count]).unwrap();
    for seed in 0..20 {
        let mut r = Random::new(seed);
        let mut script = Script::begin(&root);
        script.exact = false;
        script.scenario(&root, &mut r);
        let output = run(&psql, &script.sql);
        assert!(output.lines().all(|line| line == "ok"), "seed {seed}\n{output}\n{}", script.sql);
    }
}

fn run(psql: &str, script: &str) -> String {
    let mut words = psql.split_whitespace();
    let mut child = Command::new(words.next().expect("a command"))
        .args(words)
        .args(["-XqAt", "-v", "ON_ERROR_STOP=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql starts");
    let mut stdin = child.stdin.take().expect("piped");
    let script = script.to_owned();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(script.as_bytes());
    });
    let output = child.wait_with_output().expect("psql ends");
    let _ = writer.join();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Writes one case.
struct Script {
    sql: String,
    program: Program,
    query: String,
    columns: usize,
    /// Whether table and query must agree in every byte.
    exact: bool,
}

impl Script {
    fn whole(root: &Rel, r: &mut Random) -> String {
        let mut script = Script::begin(root);
        script.scenario(root, r);
        script.sql
    }

    fn begin(root: &Rel) -> Script {
        let columns: Vec<_> = root.cols().into_iter().enumerate().map(|(i, col)| (name(i), col.ty)).collect();
        let sources = root.sources().iter().map(|source| tables::info(source.0)).collect::<Vec<_>>();
        let definition = Definition { root: root.clone(), columns, sources };
        let target = Target { table: QualifiedName::new("public", "Stream table"), pgt_id: 7 };
        // Every other query has its filtered scans kept.
        let mut selections = selections(&definition);
        if root.arity().is_multiple_of(2) {
            selections.clear();
        }
        // Of every third query the groups are made as they are written.
        let choice = Choice { kept: selections, as_written: root.arity().is_multiple_of(3) };
        let program = Program::choosing(&definition, &target, &choice).expect("a query of supported operators");
        let query = definition.query().to_string();
        let mut script = Script { sql: String::new(), program, query, columns: root.arity(), exact: true };
        script.set_up(&definition);
        script
    }

    fn line(&mut self, sql: impl std::fmt::Display) {
        let _ = writeln!(self.sql, "{};", stand_in(&sql.to_string()));
    }

    fn set_up(&mut self, definition: &Definition) {
        self.line("SET client_min_messages = error");
        self.line("BEGIN");
        self.line("DROP SCHEMA IF EXISTS pgtrickle, pgtrickle_changes, public CASCADE");
        self.line("CREATE SCHEMA pgtrickle_changes; CREATE SCHEMA public");
        TABLES.iter().for_each(|table| self.sql.push_str(&tables::create(*table)));
        self.line("SET search_path = pg_catalog");
        let column = |(name, ty): &(Ident, pgtrickle_engine::ir::Ty)| format!("{} {}", Sql::from(name), ty.sql);
        let columns: Vec<String> = definition.columns.iter().map(column).collect();
        self.line(format!("CREATE TABLE public.\"Stream table\" ({})", columns.join(", ")));
        for state in self.program.state_tables() {
            self.line(state.create);
            // What stands in for the extension's functions is not immutable; an index changes no result anyway.
            let plain = state.indexes.iter().filter(|index| !index.as_str().contains("pgtrickle."));
            plain.for_each(|index| self.line(index));
        }
        if matches!(self.program.identity(), pgtrickle_engine::program::Identity::Key { .. }) {
            self.program.identity_index().iter().for_each(|index| self.line(index));
        }
    }

    fn scenario(&mut self, root: &Rel, r: &mut Random) {
        let mut contents: Vec<Contents> = vec![Contents::default(); TABLES.len()];
        if r.chance(80) {
            self.change(&mut contents, 20, r);
        }
        self.steps(self.program.fill());
        self.compare();
        for _ in 0..6 {
            let size = *r.pick(&[1, 2, 5, 30]);
            let changed = self.change(&mut contents, size, r);
            let changed: BTreeSet<SourceId> = changed.into_iter().filter(|s| root.sources().contains(s)).collect();
            if r.chance(10) {
                self.steps(self.program.recompute());
            } else if !changed.is_empty() {
                self.steps(self.program.refresh(&changed));
            }
            self.compare();
        }
    }

    /// Changes some tables and stages that.
    fn change(&mut self, contents: &mut [Contents], size: usize, r: &mut Random) -> Vec<SourceId> {
        let mut changed = Vec::new();
        for (table, contents) in TABLES.into_iter().zip(contents) {
            self.line(format!("TRUNCATE pgt_delta_{table}"));
            if r.chance(40) {
                continue;
            }
            let changes = contents.change(table, size, r);
            let changes = changes.iter().map(|(w, row)| format!("({w},{})", tables::literal(row)));
            self.insert(&format!("pgt_delta_{table}"), changes.collect());
            self.line(format!("TRUNCATE public.t{}", table - 1000));
            let rows = contents.rows.iter().map(|row| format!("({})", tables::literal(row)));
            self.insert(&format!("public.t{}", table - 1000), rows.collect());
            changed.push(SourceId(table));
        }
        changed
    }

    fn insert(&mut self, table: &str, rows: Vec<String>) {
        if !rows.is_empty() {
            self.line(format!("INSERT INTO {table} VALUES {}", rows.join(", ")));
        }
    }

    fn steps(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Stage { name, query, .. } => {
                    self.line(format!("DROP TABLE IF EXISTS {}", name.as_str()));
                    self.line(format!("CREATE TEMP TABLE {} AS {query}", name.as_str()));
                }
                Step::Restage { name, query, .. } => {
                    self.line(format!("CREATE TEMP TABLE pgt_again AS {query}"));
                    self.line(format!("DROP TABLE {}", name.as_str()));
                    self.line(format!("ALTER TABLE pgt_again RENAME TO {}", name.as_str()));
                }
                Step::Modify { sql, expect, .. } => {
                    self.line(sql);
                    if let Some(expect) = expect {
                        let _ = writeln!(self.sql, "\\set processed :ROW_COUNT");
                        self.line(format!(
                            "SELECT CASE WHEN n = :processed THEN 'ok' ELSE 'lost rows' END FROM ({expect}) x"
                        ));
                    }
                }
                Step::Check { query, .. } => self.line(query),
            }
        }
    }

    /// Table and query agree in number and in every byte; where equal keys of a group look different, in that the table
    /// shows one that is there.
    fn compare(&mut self) {
        let names: Vec<String> = (0..self.columns).map(|i| Sql::from(name(i)).to_string()).collect();
        let columns: Vec<String> = (1..=self.columns).map(|i| format!("c{i}")).collect();
        let shape = if self.exact { "::text" } else { "" };
        let stored = format!("SELECT ROW({}){shape} AS x FROM public.\"Stream table\"", names.join(", "));
        let wanted = format!("SELECT ROW({}){shape} FROM ({}) q", columns.join(", "), self.query);
        self.line(format!(
            "SELECT coalesce(string_agg(what || ' ' || x::text, ' '), 'ok') FROM (\
             SELECT 'extra' AS what, x FROM ({stored} EXCEPT ALL {wanted}) a \
             UNION ALL SELECT 'missing', x FROM ({wanted} EXCEPT ALL {stored}) b(x)) d"
        ));
        if !self.exact {
            self.line(format!(
                "SELECT 'stale look ' || s FROM public.\"Stream table\" s WHERE NOT EXISTS \
                 (SELECT FROM public.t2 t WHERE record_image_eq(ROW(t.amount), ROW(s.{})))",
                names[0]
            ));
        }
    }
}

fn name(i: usize) -> Ident {
    Ident::new(format!("Col \"{i}"))
}

/// Puts PostgreSQL's own functions in place of the extension's.
fn stand_in(sql: &str) -> String {
    let mut sql = sql.to_owned();
    for (function, before, after) in [
        ("pgtrickle.row_hash(", "hash_record(ROW(", "))"),
        ("pgtrickle.row_image(", "record_send(ROW(", "))"),
        ("pgtrickle.image_hash(", "hashtextextended(ROW(", ")::text, 0)"),
    ] {
        while let Some(start) = sql.find(function) {
            let arguments = start + function.len();
            let end = arguments + closing(&sql[arguments..]);
            sql = format!("{}{before}{}{after}{}", &sql[..start], &sql[arguments..end], &sql[end + 1..]);
        }
    }
    sql
}
