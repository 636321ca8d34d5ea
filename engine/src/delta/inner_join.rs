//! Δ(L ⋈ R) = ΔL ⋈ R + L ⋈ ΔR − ΔL ⋈ ΔR        (L, R at their new state)
//!
//! A tree of inner joins is one join of its leaves R₁ … Rₙ, of which only some change. Those come in one after the other,
//! and with them the leaves that connect them with those before, or that keep few rows:
//!
//! ```text
//! D₁ = ΔR₁ ⋈ U₁
//! Dₘ = (Dₘ₋₁ ⋈ Rₘ + Jₘ₋₁ ⋈ ΔRₘ − Dₘ₋₁ ⋈ ΔRₘ) ⋈ Uₘ        Jₘ: what has come in, at its new state
//! ```
//!
//! Cost: three joins per leaf that changes, each flat, so that PostgreSQL chooses its order, and driven by a change.

use super::{Changed, delta as change};
use crate::ir::{Conjunct, JoinKind, Rel, Scalar};
use crate::zset::{Placed, Zset};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub(super) fn delta(left: &Rel, right: &Rel, on: &[Conjunct], changed: &Changed) -> Option<Zset> {
    let mut group = Group::default();
    group.add_tree(left);
    group.add(right, on);
    let changes = group.leaves.iter().map(|leaf| change(leaf.rel, changed)).collect();
    group.delta(changes, changed)
}

/// The same where the changes of both sides are known.
pub(super) fn of_two(
    (left, dl): (&Rel, Option<Zset>),
    (right, dr): (&Rel, Option<Zset>),
    on: &[Conjunct],
    changed: &Changed,
) -> Option<Zset> {
    let mut group = Group::default();
    group.add(left, &[]);
    group.add(right, on);
    group.delta(vec![dl, dr], changed)
}

/// A tree of inner joins, taken apart.
#[derive(Default)]
struct Group<'a> {
    leaves: Vec<Leaf<'a>>,
    conditions: Vec<Condition<'a>>,
}

struct Leaf<'a> {
    rel: &'a Rel,
    /// The places of its columns in the row of the whole tree.
    at: Vec<usize>,
}

struct Condition<'a> {
    scalar: &'a Scalar,
    /// The leaves that it reads.
    leaves: BTreeSet<usize>,
}

/// A leaf that changes, and the unchanged ones that come in with it.
struct Step {
    changing: usize,
    others: Vec<usize>,
}

impl<'a> Group<'a> {
    fn add_tree(&mut self, rel: &'a Rel) {
        match rel {
            Rel::Join { kind: JoinKind::Inner, left, right, on } => {
                self.add_tree(left);
                self.add(right, on);
            }
            leaf => self.add(leaf, &[]),
        }
    }

    fn add(&mut self, rel: &'a Rel, on: &'a [Conjunct]) {
        let width: usize = self.leaves.iter().map(|leaf| leaf.at.len()).sum();
        self.leaves.push(Leaf { rel, at: (width..width + rel.arity()).collect() });
        let reads = |scalar: &Scalar| {
            let read = |leaf: &Leaf| scalar.cols.iter().any(|col| leaf.at.contains(col));
            (0..self.leaves.len()).filter(|i| read(&self.leaves[*i])).collect()
        };
        let conditions: Vec<Condition> =
            on.iter().map(|c| Condition { scalar: &c.condition, leaves: reads(&c.condition) }).collect();
        self.conditions.extend(conditions);
    }

    fn delta(&self, changes: Vec<Option<Zset>>, changed: &Changed) -> Option<Zset> {
        let changing: BTreeSet<usize> = (0..changes.len()).filter(|i| changes[*i].is_some()).collect();
        let steps = self.steps(&changing);
        let last = steps.len().checked_sub(1)?;
        let mut inside = BTreeSet::new();
        let mut before: Option<Placed> = None;
        for (number, step) in steps.into_iter().enumerate() {
            let mut dr = changes[step.changing].clone()?;
            if before.is_some() {
                dr = changed.share(dr);
            }
            let alone = before.is_none() && step.others.is_empty() && number < last;
            let zset = if alone { dr } else { self.come_in(&step, &inside, before.take(), dr) };
            inside.extend(step.others.iter().copied().chain([step.changing]));
            if number == last {
                return Some(zset);
            }
            let at = inside.iter().flat_map(|leaf| self.leaves[*leaf].at.iter().copied()).collect();
            before = Some(Placed { zset: changed.share(zset), at });
        }
        None
    }

    /// Dₘ from Dₘ₋₁, `before`, over the leaves `inside`.
    fn come_in(&self, step: &Step, inside: &BTreeSet<usize>, before: Option<Placed>, dr: Zset) -> Zset {
        let new =
            |leaf: &usize| (BTreeSet::from([*leaf]), self.placed(*leaf, Zset::Bag(self.leaves[*leaf].rel.clone())));
        let others = || step.others.iter().map(new);
        let change = || (BTreeSet::from([step.changing]), self.placed(step.changing, dr.clone()));
        let Some(before) = before else {
            return self.product([change()].into_iter().chain(others()));
        };
        let before = || (inside.clone(), before.clone());
        Zset::UnionAll(vec![
            self.product([before(), new(&step.changing)].into_iter().chain(others())),
            self.product(inside.iter().map(new).chain([change()]).chain(others())),
            self.product([before(), change()].into_iter().chain(others())).negate(),
        ])
    }

    fn placed(&self, leaf: usize, zset: Zset) -> Placed {
        Placed { zset, at: self.leaves[leaf].at.clone() }
    }

    /// All factors joined, on the conditions that read nothing else and do not hold within one of them anyway.
    fn product(&self, factors: impl Iterator<Item = (BTreeSet<usize>, Placed)>) -> Zset {
        let (sets, inputs): (Vec<BTreeSet<usize>>, Vec<Placed>) = factors.unzip();
        let all: BTreeSet<usize> = sets.iter().flatten().copied().collect();
        let holds = |c: &Condition| c.leaves.len() > 1 && sets.iter().any(|set| c.leaves.is_subset(set));
        let due = |c: &&Condition| {
            let alone = c.leaves.len() < 2 && sets.iter().any(|set| set.len() > 1 && c.leaves.is_subset(set));
            c.leaves.is_subset(&all) && !holds(c) && !alone
        };
        let on = self.conditions.iter().filter(due).map(|c| c.scalar.clone()).collect();
        Zset::Product { inputs, on }
    }

    /// In which order the changing leaves come in: those first that keep few rows, each connected with those before.
    fn steps(&self, changing: &BTreeSet<usize>) -> Vec<Step> {
        let mut inside = BTreeSet::new();
        let mut left = changing.clone();
        let mut steps: Vec<Step> = Vec::new();
        while !left.is_empty() {
            let paths = self.paths(&inside, changing);
            let rank = |leaf: &&usize| {
                let path = paths.get(*leaf).map_or(usize::MAX, Vec::len);
                (if inside.is_empty() { 0 } else { path }, !keeps_few(self.leaves[**leaf].rel), **leaf)
            };
            let Some(next) = left.iter().min_by_key(rank).copied() else { break };
            let mut others = paths.get(&next).cloned().unwrap_or_default();
            left.remove(&next);
            inside.extend(others.iter().copied().chain([next]));
            while let Some(few) = (0..self.leaves.len()).find(|leaf| {
                !inside.contains(leaf)
                    && !changing.contains(leaf)
                    && keeps_few(self.leaves[*leaf].rel)
                    && self.touches(*leaf, &inside)
            }) {
                inside.insert(few);
                others.push(few);
            }
            steps.push(Step { changing: next, others });
        }
        if let Some(last) = steps.last_mut() {
            last.others.extend((0..self.leaves.len()).filter(|leaf| !inside.contains(leaf)));
        }
        steps
    }

    /// Whether a condition connects the leaf with some of the others.
    fn touches(&self, leaf: usize, others: &BTreeSet<usize>) -> bool {
        self.conditions.iter().any(|c| c.leaves.contains(&leaf) && !c.leaves.is_disjoint(others))
    }

    /// The unchanging leaves on the shortest way from those inside to each other leaf.
    fn paths(&self, inside: &BTreeSet<usize>, changing: &BTreeSet<usize>) -> BTreeMap<usize, Vec<usize>> {
        let mut found: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut queue: VecDeque<(BTreeSet<usize>, Vec<usize>)> = [(inside.clone(), Vec::new())].into();
        while let Some((reached, path)) = queue.pop_front() {
            for leaf in (0..self.leaves.len()).filter(|leaf| !inside.contains(leaf)) {
                if found.contains_key(&leaf) || !self.touches(leaf, &reached) {
                    continue;
                }
                found.insert(leaf, path.clone());
                if !changing.contains(&leaf) {
                    queue.push_back((BTreeSet::from([leaf]), [path.clone(), vec![leaf]].concat()));
                }
            }
        }
        found
    }
}

/// Whether a relation is filtered, so that little comes out of a join with it. A stage of one column has what is distinct
/// of it, values that are asked for; or it has a single row.
fn keeps_few(rel: &Rel) -> bool {
    match rel {
        Rel::State { cols, single, few, .. } => *single || *few || cols.len() == 1,
        Rel::Filter { .. } | Rel::Join { kind: JoinKind::Semi | JoinKind::Anti, .. } => true,
        Rel::Map { input, .. } => keeps_few(input),
        _ => false,
    }
}
