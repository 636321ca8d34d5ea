//! Recursions: evaluated by their definition, kept up to date by the rule's equations, and random ones.

use super::generate::{Grammar, rel, shape};
use super::oracle::{State, Weighted, plus};
use super::random::Random;
use super::tables::{bigint, text};
use pgtrickle_engine::delta::{Changed, delta};
use pgtrickle_engine::ir::{Col, Conjunct, JoinKind, Rel, Scalar, Ty};
use pgtrickle_engine::zset::Zset;

/// More rounds than any terminating recursion over these tables needs.
const ROUNDS: usize = 200;

fn distinct(rows: &Weighted) -> Weighted {
    rows.iter().filter(|(_, w)| **w > 0).map(|(row, _)| (row.clone(), 1)).collect()
}

fn meaning(state: &State, rows: &Weighted) -> State {
    State { recursive: rows.clone(), ..state.clone() }
}

fn applied(state: &State, step: &Rel, rows: &Weighted) -> Weighted {
    meaning(state, rows).rel(step)
}

fn without(rows: &Weighted, others: &Weighted) -> Weighted {
    rows.iter().filter(|(row, _)| !others.contains_key(*row)).map(|(row, w)| (row.clone(), *w)).collect()
}

fn within(rows: &Weighted, others: &Weighted) -> Weighted {
    rows.iter().filter(|(row, _)| others.contains_key(*row)).map(|(row, w)| (row.clone(), *w)).collect()
}

/// What follows from the rows; over sets without what is known.
fn followed(state: &State, step: &Rel, rows: &Weighted, all: bool, known: &Weighted) -> Weighted {
    let fresh = |rows: &Weighted, found: &Weighted| match all {
        true => rows.clone(),
        false => without(&without(&distinct(rows), found), known),
    };
    let mut working = fresh(rows, &Weighted::new());
    let mut found = working.clone();
    for _ in 0..ROUNDS {
        if working.is_empty() {
            return found;
        }
        working = fresh(&applied(state, step, &working), &found);
        found = plus(&found, &working, 1);
    }
    panic!("a recursion does not end");
}

/// The recursion as PostgreSQL evaluates it.
pub fn least(state: &State, base: &Rel, step: &Rel, all: bool) -> Weighted {
    followed(state, step, &state.rel(base), all, &Weighted::new())
}

/// R′ from R by the equations of the rule.
pub fn refreshed(state: &State, base: &Rel, step: &Rel, all: bool, old: &Weighted, changed: &Changed) -> Weighted {
    let around = Zset::sum([delta(base, changed), delta(step, changed)]);
    let Some(around) = around else { return old.clone() };
    let negative = |rows: Weighted| rows.into_iter().filter(|(_, w)| *w < 0).map(|(row, _)| (row, 1));
    let mut lost: Weighted =
        delta(base, changed).map_or(Weighted::new(), |change| negative(state.zset(&change)).collect());
    // For each row of R apart: what it no longer gives is lost, although another row may give it now.
    for row in delta(step, changed).iter().flat_map(|_| old.keys()) {
        let change = delta(step, changed)
            .map_or(Weighted::new(), |change| meaning(state, &Weighted::from([(row.clone(), 1)])).zset(&change));
        lost.extend(negative(change));
    }
    let mut deleted = within(&lost, old);
    loop {
        let more = within(&distinct(&applied(state, step, &deleted)), old);
        let grown: Weighted = deleted.iter().chain(&more).map(|(row, _)| (row.clone(), 1)).collect();
        if grown == deleted {
            break;
        }
        deleted = grown;
    }
    let kept = without(old, &deleted);
    let again = within(&plus(&state.rel(base), &applied(state, step, &kept), 1), &deleted);
    let begun = meaning(state, &kept).zset(&around);
    let begun: Weighted = without(&begun, &deleted).into_iter().filter(|(_, w)| *w > 0).collect();
    let added = followed(state, step, &plus(&again, &begun, 1), all, &kept);
    plus(&kept, &added, 1)
}

fn equality(a: usize, b: usize, left: usize) -> Conjunct {
    let sql = format!("(c{} = c{})", a + 1, left + b + 1);
    Conjunct { condition: Scalar::deparsed(sql, vec![a, left + b], Ty::new("boolean"), false), equi: Some((a, b)) }
}

/// A random recursion: over sets through a graph with cycles, or, with a third column that counts the rounds, over sets or
/// bags up to some depth.
pub fn recursive(depth: usize, g: &Grammar, r: &mut Random) -> Rel {
    let (all, counted) = (r.chance(50), r.chance(40));
    let counted = counted || all;
    let zero = Scalar::deparsed("(0)::bigint", vec![], bigint(), true);
    let mut base = shape(rel(depth, g, r));
    let cols = [Col::new(bigint()), Col::new(text()), Col::new(bigint())];
    let cols = cols[..if counted { 3 } else { 2 }].to_vec();
    if counted {
        let own = base.cols();
        let exprs = (0..2).map(|i| Scalar::column(i, &own[i])).chain([zero]).collect();
        base = base.map(exprs).unwrap();
    }
    let mut step = Rel::Recursive { cols: cols.clone() };
    if counted {
        let limit = Scalar::deparsed(format!("(c3 < {})", 1 + r.below(3)), vec![2], Ty::new("boolean"), false);
        step = step.filter(vec![limit]).unwrap();
    }
    for _ in 0..1 + r.below(2) {
        let other = shape(rel(depth / 2, g, r));
        let kind = *r.pick(&[JoinKind::Inner, JoinKind::Inner, JoinKind::Left, JoinKind::Semi, JoinKind::Anti]);
        let width = step.arity();
        let column = if r.chance(70) { (0, 0) } else { (1, 1) };
        step = if kind == JoinKind::Inner && r.chance(20) {
            let flipped = other.join(kind, step, vec![equality(column.1, column.0, 2)]).unwrap();
            let own = flipped.cols();
            let order = (2..2 + width).chain(0..2).map(|i| Scalar::column(i, &own[i])).collect();
            flipped.map(order).unwrap()
        } else {
            step.join(kind, other, vec![equality(column.0, column.1, width)]).unwrap()
        };
    }
    let own = step.cols();
    let of =
        |wanted: &Ty| (0..own.len()).filter(|i| own[*i].ty == *wanted && !(counted && *i == 2)).collect::<Vec<_>>();
    let (numbers, texts) = (of(&bigint()), of(&text()));
    let (i, j) = (*r.pick(&numbers), *r.pick(&texts));
    let mut exprs = vec![Scalar::column(i, &own[i]), Scalar::column(j, &own[j])];
    if r.chance(30) {
        exprs[0] = Scalar::deparsed(format!("((c{} + 1) % 5)", i + 1), vec![i], bigint(), false);
    }
    if counted {
        exprs.push(Scalar::deparsed("(c3 + 1)", vec![2], bigint(), false));
    }
    let mut step = step.map(exprs).unwrap();
    if !all && r.chance(20) {
        step = step.distinct().unwrap();
    }
    Rel::fixpoint(base, step, all).unwrap()
}
