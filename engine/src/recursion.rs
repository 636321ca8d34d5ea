//! Which recursions have a rule: those whose step is linear in the recursive reference.
//!
//! ```text
//! f(A + B) = f(A) + f(B)        and so f(∅) = ∅
//! ```
//!
//! Then what a change of R makes of f(R) is f of the change, and a recursion over changes gives what the recursion
//! over everything would. Maps, filters, functions that give rows, inner joins with other relations, and semi, anti and
//! left joins that keep R's rows are linear; whatever groups, numbers, limits or counts R's rows is not. DISTINCT in a
//! step is left out where the recursion makes rows distinct anyway. A recursion with another step is computed anew when what it
//! reads has changed, and compared.

use crate::ir::{JoinKind, Rel};
use crate::program::Unsupported;

/// A recursion with a linear step, or what is not linear in it. Anything else is left as it is.
pub fn linear(rel: &Rel) -> Result<Rel, Unsupported> {
    match rel {
        Rel::Fixpoint { base, step, all } => {
            Ok(Rel::Fixpoint { base: base.clone(), step: Box::new(path(step, *all)?), all: *all })
        }
        _ => Ok(rel.clone()),
    }
}

/// Whether a recursion can at least be computed anew by itself: its step refers to it once, at a place where the step can be
/// printed with a reference that PostgreSQL accepts. Steps that are not linear take the rows of one round as a whole, so
/// they must not see several recursions at once, as they do where these depend on rows outside.
pub fn recomputable(rel: &Rel, several: bool) -> Result<(), Unsupported> {
    match rel {
        Rel::Fixpoint { step, .. } => match linear(rel) {
            Err(unsupported) if several => Err(unsupported),
            Err(_) => whole(step),
            Ok(_) => Ok(()),
        },
        _ => Ok(()),
    }
}

fn whole(rel: &Rel) -> Result<(), Unsupported> {
    if references(rel) != 1 {
        return Err(unsupported("reads itself in several places, or in some branches only"));
    }
    match rel {
        Rel::Join { kind, right, .. } if *kind != JoinKind::Inner && references(right) > 0 => {
            return Err(unsupported(&format!("reads itself on the right of a {} join", kind.name())));
        }
        Rel::Fixpoint { .. } => return Err(unsupported("has its own rows under recursion")),
        _ => {}
    }
    rel.inputs().into_iter().filter(|input| references(input) > 0).try_for_each(whole)
}

/// How often a relation refers to the recursion around it. What an inner recursion refers to is its own.
pub fn references(rel: &Rel) -> usize {
    match rel {
        Rel::Recursive { .. } => 1,
        Rel::Fixpoint { base, .. } => references(base),
        _ => rel.inputs().into_iter().map(references).sum(),
    }
}

/// The way from the top of a step to its recursive reference.
fn path(rel: &Rel, all: bool) -> Result<Rel, Unsupported> {
    if references(rel) != 1 {
        return Err(unsupported("reads itself in several places, or in some branches only"));
    }
    match rel {
        Rel::Aggregate { input, keys, aggs } if aggs.is_empty() && !all && !keys.is_empty() => {
            return path(&Rel::Map { input: input.clone(), exprs: keys.clone() }, all);
        }
        Rel::Join { kind, right, .. } if *kind != JoinKind::Inner && references(right) > 0 => {
            return Err(unsupported(&format!("reads itself on the right of a {} join", kind.name())));
        }
        Rel::Recursive { .. } | Rel::Map { .. } | Rel::Filter { .. } | Rel::FlatMap { .. } | Rel::Join { .. } => {}
        Rel::UnionAll { inputs } if inputs.len() == 1 => {}
        other => return Err(unsupported(&format!("has its own rows under {}", other.name()))),
    }
    rel.try_map_inputs(&mut |input| if references(input) == 1 { path(input, all) } else { Ok(input.clone()) })
}

fn unsupported(what: &str) -> Unsupported {
    Unsupported { reason: format!("recursion that {what}") }
}
