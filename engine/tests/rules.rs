//! The delta rules against an evaluator in memory: what they say has changed is what recomputing shows to have changed,
//! over random relations, random contents and random changes, in small steps and in one big step.

mod common;

use common::generate::{ALL_JOINS, Grammar, rel};
use common::oracle::{State, Weighted, add, plus};
use common::random::Random;
use common::recursion::{self, recursive};
use common::tables::{Contents, TABLES};
use pgtrickle_engine::cut::{Stages, cut};
use pgtrickle_engine::delta::{Changed, delta};
use pgtrickle_engine::demand::restrict;
use pgtrickle_engine::ir::{Rel, SourceId};
use pgtrickle_engine::selection::keep;
use pgtrickle_engine::single::as_semi_joins;
use pgtrickle_engine::zset::Zset;
use std::collections::BTreeSet;

const GRAMMAR: Grammar = Grammar { decimals: false, aggregates: true, joins: ALL_JOINS };

/// What a program keeps between refreshes: the inputs of each stage stand for its state.
struct Kept {
    stages: Stages,
    inputs: Vec<Vec<Weighted>>,
    state: State,
    root: Weighted,
}

impl Kept {
    fn fill(query: &Rel, sources: &State) -> Kept {
        // Of every other query the filtered scans are kept.
        let stages = cut(&restrict(&keep(&as_semi_joins(query), &|_| query.arity() % 2 == 1)))
            .expect("a query of supported operators");
        let mut state = sources.clone();
        let mut inputs = Vec::new();
        for stage in &stages.stages {
            if matches!(stage, Rel::Fixpoint { .. }) {
                state.stages.push(state.rel(stage));
                inputs.push(Vec::new());
                continue;
            }
            let of_stage: Vec<Weighted> = stage.inputs().into_iter().map(|input| state.rel(input)).collect();
            state.stages.push(state.operator(stage, of_stage.clone()));
            inputs.push(of_stage);
        }
        let root = state.rel(&stages.root);
        Kept { stages, inputs, state, root }
    }

    /// The sources are at their new state; only what the rules say about changes is added to what is kept.
    fn refresh(&mut self, sources: &State) {
        self.state.sources = sources.sources.clone();
        self.state.source_changes = sources.source_changes.clone();
        self.state.stage_changes = vec![Weighted::new(); self.stages.stages.len()];
        let changes = self.state.source_changes.iter();
        let sources: BTreeSet<SourceId> = changes.filter(|(_, change)| !change.is_empty()).map(|(id, _)| *id).collect();
        let mut changed = Changed::of(sources);
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
                *input = plus(input, &change, 1);
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

/// So many per law unless `PGTRICKLE_RULE_CASES` says otherwise. `PGTRICKLE_RULE_SEED` is the first seed, 0 by default.
const CASES: u64 = 4000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
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
    let first = number("PGTRICKLE_RULE_SEED", 0);
    let cases = number("PGTRICKLE_RULE_CASES", CASES);
    for seed in first..first + cases {
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
    println!("seeds {first} to {}", first + cases - 1);
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
            let (mut small, mut big) = (Kept::fill(query, &tables.state), Kept::fill(query, &tables.state));
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
