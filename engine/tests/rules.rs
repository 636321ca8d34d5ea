//! The delta rules against an evaluator in memory: what they say has changed is what recomputing shows to have changed,
//! over random relations, random contents and random changes, in small steps and in one big step.

mod common;

use common::generate::{ALL_JOINS, Grammar, rel};
use common::oracle::{State, Weighted, add, plus};
use common::random::Random;
use common::recursion::{self, recursive};
use common::staging::staged;
use common::tables::{ATTNUMS, Contents, TABLES, Value};
use pgtrickle_engine::cut::{Stages, cut};
use pgtrickle_engine::delta::{Changed, delta};
use pgtrickle_engine::demand::restrict;
use pgtrickle_engine::described::describe_groups;
use pgtrickle_engine::ir::{Rel, SourceId};
use pgtrickle_engine::keys::{KnownKeys, key};
use pgtrickle_engine::relevant::{Changes, Relevance, relevance};
use pgtrickle_engine::selection::keep;
use pgtrickle_engine::single::as_semi_joins;
use pgtrickle_engine::zset::Zset;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const GRAMMAR: Grammar = Grammar { decimals: false, aggregates: true, joins: ALL_JOINS };

/// What a program keeps between refreshes: the inputs of each stage stand for its state.
struct Kept {
    stages: Stages,
    inputs: Vec<Vec<Weighted>>,
    state: State,
    root: Weighted,
    relevant: BTreeMap<SourceId, Vec<Relevance>>,
}

impl Kept {
    fn fill(query: &Rel, sources: &State) -> Kept {
        // Of every other query the filtered scans are kept.
        let stages = cut(&restrict(&keep(&simplified(query), &known_keys(), &|_| query.arity() % 2 == 1)))
            .expect("a query of supported operators");
        let mut state = sources.clone();
        let mut inputs = Vec::new();
        for stage in &stages.stages {
            if matches!(stage, Rel::Fixpoint { .. }) {
                state.stages.push(state.rel(stage));
                inputs.push(Vec::new());
                continue;
            }
            let of_stage: Vec<Weighted> =
                stage.inputs().into_iter().map(|input| read(stage, &state.rel(input))).collect();
            state.stages.push(state.operator(stage, of_stage.clone()));
            inputs.push(of_stage);
        }
        let root = state.rel(&stages.root);
        let relevant = relevance(&stages, &KnownKeys::default());
        Kept { stages, inputs, state, root, relevant }
    }

    /// The same where changes come with all rows that they have, whether these matter or not.
    fn unstaged(self) -> Kept {
        Kept { relevant: BTreeMap::new(), ..self }
    }

    /// Takes what the sources hold now, and of their changes what matters.
    fn stage(&mut self, sources: &State) -> Changed {
        self.state.sources = sources.sources.clone();
        self.state.source_changes = sources.source_changes.clone();
        let mut changes = Changes::default();
        for (source, change) in &mut self.state.source_changes {
            if let Some(scans) = self.relevant.get(source) {
                let (rows, idle) = staged(change, scans, &self.state.stages);
                *change = rows;
                changes.idle.extend(idle.into_iter().map(|number| (*source, number)));
            }
            if !change.is_empty() {
                changes.sources.insert(*source);
            }
        }
        Changed::with(&changes, &self.relevant)
    }

    /// The sources are at their new state; only what the rules say about changes is added to what is kept.
    fn refresh(&mut self, sources: &State) {
        let mut changed = self.stage(sources);
        self.state.stage_changes = vec![Weighted::new(); self.stages.stages.len()];
        for (i, stage) in self.stages.stages.iter().enumerate() {
            if let Rel::Fixpoint { base, step, all } = stage {
                if delta(base, &changed).is_none() && delta(step, &changed).is_none() {
                    continue;
                }
                let new = recursion::refreshed(&self.state, base, step, *all, &self.state.stages[i], &changed);
                self.state.stage_changes[i] = plus(&new, &self.state.stages[i], -1);
                self.state.stages[i] = new;
                changed.stages.insert(i);
                continue;
            }
            let changes: Vec<Option<Zset>> = stage.inputs().into_iter().map(|input| delta(input, &changed)).collect();
            if changes.iter().all(Option::is_none) {
                continue;
            }
            for (input, change) in self.inputs[i].iter_mut().zip(changes) {
                let change = change.map_or(Weighted::new(), |change| self.state.zset(&change));
                *input = plus(input, &read(stage, &change), 1);
            }
            let new = self.state.operator(stage, self.inputs[i].clone());
            self.state.stage_changes[i] = plus(&new, &self.state.stages[i], -1);
            self.state.stages[i] = new;
            changed.stages.insert(i);
        }
        if let Some(change) = delta(&self.stages.root, &changed) {
            self.root = plus(&self.root, &self.state.zset(&change), 1);
        }
    }
}

fn simplified(query: &Rel) -> Rel {
    describe_groups(&as_semi_joins(query), &known_keys())
}

/// The first table has a primary key.
fn known_keys() -> KnownKeys {
    KnownKeys { sources: [(SourceId(TABLES[0]), vec![ATTNUMS[0]])].into(), ..KnownKeys::default() }
}

/// What a stage reads of its input's rows: the rest is not kept up to date.
fn read(stage: &Rel, rows: &Weighted) -> Weighted {
    let Rel::Aggregate { keys, aggs, .. } = stage else { return rows.clone() };
    let calls = aggs.iter().flat_map(|agg| [Some(&agg.call), agg.argument(), agg.filter.as_ref()]).flatten();
    let used: BTreeSet<usize> = keys.iter().chain(calls).flat_map(|scalar| scalar.cols.iter().copied()).collect();
    let kept = |(i, value): (usize, &Value)| if used.contains(&i) { value.clone() } else { Value::Null };
    let mut read = Weighted::new();
    rows.iter().for_each(|(row, w)| add(&mut read, row.iter().enumerate().map(kept).collect(), *w));
    read
}

/// Three tables that change.
struct Tables {
    contents: Vec<Contents>,
    state: State,
}

impl Tables {
    fn new(r: &mut Random) -> Tables {
        let mut tables = Tables { contents: vec![Contents::default(); TABLES.len()], state: State::default() };
        for table in TABLES {
            tables.state.sources.insert(SourceId(table), Weighted::new());
        }
        tables.change(6, r);
        tables
    }

    fn change(&mut self, size: usize, r: &mut Random) {
        for (table, contents) in TABLES.into_iter().zip(&mut self.contents) {
            let mut change = Weighted::new();
            if r.chance(60) {
                contents.change(table, size, r).into_iter().for_each(|(w, row)| add(&mut change, row, w));
            }
            let source = self.state.sources.get_mut(&SourceId(table)).expect("made above");
            *source = plus(source, &change, 1);
            self.state.source_changes.insert(SourceId(table), change);
        }
    }
}

/// How long each law is tried, unless `PGTRICKLE_RULE_CASES` says with how many queries. `PGTRICKLE_RULE_SEED` is the first
/// seed, otherwise it depends on the commit, so that a run can be repeated and each commit sees others.
const SECONDS: u64 = 25;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn first_seed() -> u64 {
    let of_commit = || {
        let head = std::process::Command::new("git").args(["rev-parse", "HEAD"]).output().ok()?;
        u64::from_str_radix(std::str::from_utf8(&head.stdout).ok()?.get(..10)?, 16).ok()
    };
    number("PGTRICKLE_RULE_SEED").or_else(of_commit).unwrap_or_default()
}

/// A law of a query over tables whose contents and changes depend on a seed; an error says at which step it fails.
type Law = fn(&Rel, &mut Tables, &mut Random) -> Result<(), String>;

/// Tries a law with many queries. A query that breaks it is replaced by the smallest part of it that does.
fn holds(depth: impl Fn(&mut Random) -> usize, law: Law) {
    holds_for(
        |r| {
            let depth = depth(r);
            rel(depth, &GRAMMAR, r)
        },
        law,
    );
}

/// The same with queries of another kind.
fn holds_for(query: impl Fn(&mut Random) -> Rel, law: Law) {
    let (first, cases, started) = (first_seed(), number("PGTRICKLE_RULE_CASES"), Instant::now());
    let enough = |tried: u64| match cases {
        Some(cases) => tried >= cases,
        None => started.elapsed() >= Duration::from_secs(SECONDS),
    };
    let mut next = first;
    while !enough(next - first) {
        let seed = next;
        next += 1;
        let mut r = Random::new(seed);
        let query = query(&mut r);
        let Err(error) = tried(&query, seed, law) else {
            continue;
        };
        let mut parts = Vec::new();
        query.visit(&mut |part| parts.push((part.clone(), format!("{part:?}").len())));
        parts.sort_by_key(|(_, size)| *size);
        let smallest = parts.into_iter().find_map(|(part, _)| Some((tried(&part, seed, law).err()?, part)));
        let (error, query) = smallest.unwrap_or((error, query));
        panic!("PGTRICKLE_RULE_SEED={seed} PGTRICKLE_RULE_CASES=1: {error}\n{query:#?}");
    }
    // Past what the test harness holds back.
    let told = format!("rules: {} queries from PGTRICKLE_RULE_SEED={first} on: no difference\n", next - first);
    let _ = std::io::Write::write_all(&mut std::io::stderr(), told.as_bytes());
}

fn tried(query: &Rel, seed: u64, law: Law) -> Result<(), String> {
    let mut r = Random::new(!seed);
    let mut tables = Tables::new(&mut r);
    law(query, &mut tables, &mut r)
}

fn same(found: &Weighted, wanted: &Weighted, when: impl std::fmt::Display) -> Result<(), String> {
    let wrong = plus(found, wanted, -1);
    if wrong.is_empty() { Ok(()) } else { Err(format!("{when}: too much (or, negative, missing) is {wrong:?}")) }
}

#[test]
fn oracle_cutting_keeps_the_result() {
    holds(
        |_| 3,
        |query, tables, _| same(&Kept::fill(query, &tables.state).root, &tables.state.rel(query), "after the fill"),
    );
}

/// By its key a row of a stream table is found, so no two of them may share one.
#[test]
fn oracle_no_two_rows_share_a_key() {
    holds(
        |r| 1 + r.below(4),
        |query, tables, r| {
            let Some(key) = key(query, &known_keys()) else { return Ok(()) };
            (0..3).try_for_each(|step| {
                tables.change(4, r);
                let mut seen = BTreeSet::new();
                tables.state.rel(query).iter().try_for_each(|(row, times)| {
                    let of_key: Vec<_> = key.iter().map(|column| row[*column].clone()).collect();
                    let first = seen.insert(of_key.clone()) && *times == 1;
                    if first {
                        Ok(())
                    } else {
                        Err(format!("step {step}: two rows have {of_key:?} in columns {key:?}"))
                    }
                })
            })
        },
    );
}

#[test]
fn differential_small_steps_equal_recomputing() {
    holds(
        |r| 1 + r.below(4),
        |query, tables, r| {
            let mut kept = Kept::fill(query, &tables.state);
            (0..4).try_for_each(|step| {
                let size = 1 + r.below(4);
                tables.change(size, r);
                kept.refresh(&tables.state);
                same(&kept.root, &tables.state.rel(query), format!("step {step}"))
            })
        },
    );
}

#[test]
fn differential_recursions_equal_recomputing() {
    holds_for(
        |r| {
            let depth = r.below(2);
            let query = recursive(depth, &GRAMMAR, r);
            if r.chance(30) { query.distinct().unwrap() } else { query }
        },
        |query, tables, r| {
            let mut kept = Kept::fill(query, &tables.state);
            (0..5).try_for_each(|step| {
                let size = 1 + r.below(3);
                tables.change(size, r);
                kept.refresh(&tables.state);
                same(&kept.root, &tables.state.rel(query), format!("step {step}"))
            })
        },
    );
}

#[test]
fn differential_one_big_step_equals_small_steps() {
    holds(
        |r| 1 + r.below(3),
        |query, tables, r| {
            let mut small = Kept::fill(query, &tables.state);
            let mut big = Kept::fill(query, &tables.state).unstaged();
            let before = tables.state.sources.clone();
            for _ in 0..3 {
                tables.change(2, r);
                small.refresh(&tables.state);
            }
            for (source, rows) in &tables.state.sources {
                tables.state.source_changes.insert(*source, plus(rows, &before[source], -1));
            }
            big.refresh(&tables.state);
            same(&big.root, &small.root, "after three steps in one")
        },
    );
}

#[test]
fn every_rewriting_is_met() {
    let (mut single, mut asked, mut kept, mut described, mut partners) = (0, 0, 0, 0, 0);
    for seed in 0..3000 {
        let mut r = Random::new(seed);
        let query = rel(1 + (seed % 4) as usize, &GRAMMAR, &mut r);
        single += u32::from(as_semi_joins(&query) != query);
        asked += u32::from(restrict(&query) != query);
        kept += u32::from(keep(&query, &known_keys(), &|_| true) != query);
        described += u32::from(describe_groups(&query, &known_keys()) != query);
        let stages = cut(&restrict(&keep(&simplified(&query), &known_keys(), &|_| true)))
            .expect("a query of supported operators");
        let scans = relevance(&stages, &KnownKeys::default());
        partners += u32::from(scans.values().flatten().any(|scan| !scan.partners().is_empty()));
    }
    let met = [single, asked, kept, described, partners];
    assert!(met.iter().all(|times| *times > 100), "{met:?} of 3000 queries");
}
