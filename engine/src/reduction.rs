//! A table is reduced to what joins the rows of another that pass a filter.
//!
//! ```text
//! S ⋈ σ R   =   (S ⋉ σ R) ⋈ R      by a key of R, so that no other of its rows joins what is left of S
//! ```
//!
//! So suppliers are reduced to those of one nation. What is left may be [kept](crate::selection) where a larger table is joined to S:
//! then of that table's changes those matter that [have a partner](crate::partners) there.

use crate::ir::{JoinKind, Rel, SourceId};
use crate::joined::{Tree, equality};
use crate::keys::{KnownKeys, key};
use std::collections::BTreeMap;
use std::convert::Infallible;

/// How a table could be reduced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reduction {
    /// Of whose rows some pass.
    pub by: SourceId,
    /// What else is joined to it by equality.
    pub joined: Vec<SourceId>,
}

/// The same query where tables are reduced to what is chosen to be left of them.
pub(crate) fn reduced(rel: &Rel, known: &KnownKeys, chosen: &mut dyn FnMut(&Rel, &Reduction) -> bool) -> Rel {
    match rel {
        // A recursion looks its rows up time and again as it is.
        Rel::Fixpoint { .. } => rel.clone(),
        Rel::Join { kind: JoinKind::Inner, .. } => {
            let mut others = BTreeMap::new();
            if let Some(tree) = Tree::of(rel) {
                for leaf in 0..tree.leaves.len() {
                    let found = reductions(&tree, leaf, known);
                    let one = found.into_iter().find(|found| chosen(&found.left, &found.reduction));
                    if let Some(Found { left, by, whole, .. }) = one {
                        others.extend([(leaf, left), (by, whole)]);
                    }
                }
            }
            let mut leaf = 0..;
            with_leaves(rel, &mut |rel| {
                let other = leaf.next().and_then(|leaf| others.remove(&leaf));
                other.unwrap_or_else(|| reduced(rel, known, chosen))
            })
        }
        _ => {
            let Ok(rel) = rel.try_map_inputs::<Infallible>(&mut |input| Ok(reduced(input, known, chosen)));
            rel
        }
    }
}

/// A tree of inner joins with other leaves, in the order in which a [`Tree`] has them.
fn with_leaves(rel: &Rel, other: &mut dyn FnMut(&Rel) -> Rel) -> Rel {
    match rel {
        Rel::Join { kind: JoinKind::Inner, left, right, on } => {
            let left = Box::new(with_leaves(left, other));
            Rel::Join { kind: JoinKind::Inner, left, right: Box::new(other(right)), on: on.clone() }
        }
        leaf => other(leaf),
    }
}

/// A leaf that could be reduced.
struct Found {
    /// What is left of it.
    left: Rel,
    /// The leaf that says what, and what that is without its filter.
    by: usize,
    whole: Rel,
    reduction: Reduction,
}

/// How a leaf could be reduced: if it is a whole table, by each filtered one with whose key it is joined.
fn reductions(tree: &Tree, leaf: usize, known: &KnownKeys) -> Vec<Found> {
    if !matches!(tree.leaves[leaf].rel, Rel::Scan { .. }) {
        return Vec::new();
    }
    let conditions = tree.conditions.iter().filter(|c| c.leaves.contains(&leaf));
    let equal: Vec<(usize, usize)> = conditions.filter_map(|c| tree.same_value(c, leaf)).collect();
    let (own, at) = (tree.leaves[leaf].rel, &tree.leaves[leaf].at);
    let reduction = |(x, y): &(usize, usize)| {
        let by = tree.leaf_of(*y)?;
        let filtered = &tree.leaves[by];
        let Rel::Filter { input: whole, .. } = filtered.rel else { return None };
        let Rel::Scan { source: of_filtered, .. } = **whole else { return None };
        let (left, right) = (x - at.start, y - filtered.at.start);
        if key(filtered.rel, known)? != [right] {
            return None;
        }
        let on = vec![equality(left, right, own.arity())];
        let others = equal.iter().filter_map(|(_, y)| tree.leaf_of(*y)).filter(|other| *other != by);
        let joined = others.flat_map(|other| tree.leaves[other].rel.sources()).collect();
        Some(Found {
            left: own.clone().join(JoinKind::Semi, filtered.rel.clone(), on).ok()?,
            by,
            whole: (**whole).clone(),
            reduction: Reduction { by: of_filtered, joined },
        })
    };
    equal.iter().filter_map(reduction).collect()
}
