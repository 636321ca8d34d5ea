//! What only describes groups is looked up once per group, not for each of its rows.
//!
//! ```text
//! γ_G(R ⋈ P) = π(γ_K(R) ⋈ P)      if the groups by G are those by K, and K tells P's row
//! ```
//!
//! So it is with grouping by a customer's id, name and address: the orders are grouped by the customer's id alone, and a
//! customer that changes is looked up in the groups, not in the orders. K are the columns by which P is joined and what else R
//! has of G; P are scans without a filter, joined by their keys, of which aggregates read nothing. Only one of them may be
//! joined to R, by columns that come first in K, so that groups are found by them; the others are joined to that one. G is not
//! empty: one group of all rows is there also where P has no partner.

use crate::dependencies::{dependencies, determine};
use crate::ir::{Agg, Conjunct, JoinKind, Malformed, Rel, Scalar, SourceId, Ty};
use crate::joined::{Condition, Leaf, Tree, equality};
use crate::keys::{KnownKeys, key};
use crate::origin::origins;
use crate::plan::matching::{hashed, is_not_null};
use crate::sql;
use crate::sql::Sql;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::Range;

/// The same query, in which what describes groups is joined to them.
pub fn describe_groups(query: &Rel, known: &KnownKeys) -> Rel {
    rewritten(query, known, &mut Vec::new())
}

/// Each source whose rows describe groups, with the column by whose values these are then made: groups of values that the
/// source does not have are kept for nothing.
pub fn describing(query: &Rel, known: &KnownKeys) -> Vec<(SourceId, SourceId, i16)> {
    let mut found = Vec::new();
    rewritten(query, known, &mut found);
    found
}

fn rewritten(query: &Rel, known: &KnownKeys, found: &mut Vec<(SourceId, SourceId, i16)>) -> Rel {
    // A recursion's step has to stay linear in its own rows.
    if matches!(query, Rel::Fixpoint { .. }) {
        return query.clone();
    }
    let Ok(rel) = query.try_map_inputs::<Infallible>(&mut |input| Ok(rewritten(input, known, found)));
    match &rel {
        Rel::Aggregate { input, keys, aggs } if !keys.is_empty() => {
            let grouping = Tree::of(input).map(|tree| Grouping { tree, keys, aggs, known });
            grouping.and_then(|grouping| grouping.rewritten(found)).unwrap_or(rel)
        }
        _ => rel,
    }
}

/// Groups of a tree's rows.
struct Grouping<'a> {
    tree: Tree<'a>,
    keys: &'a [Scalar],
    aggs: &'a [Agg],
    known: &'a KnownKeys,
}

/// How what describes groups is joined to them.
struct Plan {
    /// One after the other.
    joins: Vec<Attached>,
    /// What the rest is grouped by.
    keys: Vec<Scalar>,
    /// Columns of the rest that must not be NULL, as they are compared.
    compared: BTreeSet<usize>,
}

/// A leaf that is joined to others.
struct Attached {
    leaf: usize,
    key: Vec<usize>,
    /// Its columns with those of the others that they equal.
    equal: Vec<(usize, usize)>,
}

impl Grouping<'_> {
    fn rewritten(&self, found: &mut Vec<(SourceId, SourceId, i16)>) -> Option<Rel> {
        let mut apart = BTreeSet::new();
        let mut plan = None;
        let candidates: Vec<usize> = (0..self.tree.leaves.len()).filter(|leaf| self.describes(*leaf)).collect();
        // What is joined through others can follow only once they are there.
        while let Some((leaf, better)) = candidates.iter().filter(|leaf| !apart.contains(*leaf)).find_map(|leaf| {
            let more: BTreeSet<usize> = apart.iter().copied().chain([*leaf]).collect();
            Some((*leaf, self.plan(&more)?))
        }) {
            apart.insert(leaf);
            plan = Some(better);
        }
        let plan = plan?;
        let first = plan.joins.first().and_then(|join| self.tree.leaves[join.leaf].rel.sources().first().copied());
        let value = plan.compared.first().and_then(|c| origins(self.tree.rel)[*c]);
        found.extend(first.zip(value).map(|(source, (of, column))| (source, of, column)));
        self.joined(&apart, &plan)
    }

    /// Whether a leaf could be joined to groups: all its rows, by equality, and of its columns nothing but these is used.
    fn describes(&self, leaf: usize) -> bool {
        let Leaf { rel, at } = &self.tree.leaves[leaf];
        let reads = |scalar: &Scalar| scalar.cols.iter().any(|c| at.contains(c));
        let arguments = self.aggs.iter().flat_map(|agg| [Some(&agg.call), agg.argument(), agg.filter.as_ref()]);
        let mut conditions = self.tree.conditions.iter().filter(|c| c.leaves.contains(&leaf));
        is_whole(rel)
            && !arguments.flatten().any(reads)
            && self.keys.iter().all(|key| key.column.is_some() || !reads(key))
            && conditions.all(|c| self.tree.same_value(c, leaf).is_some())
    }

    /// How these leaves are joined to groups of the others, if that gives the same.
    fn plan(&self, apart: &BTreeSet<usize>) -> Option<Plan> {
        let below: BTreeSet<usize> = (0..self.tree.leaves.len()).filter(|leaf| !apart.contains(leaf)).collect();
        let is_below = |column: usize| self.tree.leaf_of(column).is_some_and(|leaf| below.contains(&leaf));
        let (mut inside, mut joins) = (below.clone(), Vec::<Attached>::new());
        let mut compared = BTreeSet::new();
        while inside.len() < self.tree.leaves.len() {
            let next = apart.iter().filter(|leaf| !inside.contains(*leaf));
            let attached = next.filter_map(|leaf| self.attached(*leaf, &inside)).next()?;
            let of_rest: BTreeSet<usize> = attached.equal.iter().map(|(_, y)| *y).filter(|y| is_below(*y)).collect();
            // By others than the first the groups could not be looked up.
            if joins.is_empty() == of_rest.is_empty() {
                return None;
            }
            compared.extend(of_rest);
            inside.insert(attached.leaf);
            joins.push(attached);
        }
        let grouped = self.keys.iter().filter_map(|key| key.column).collect();
        let determined: Vec<usize> = joins.iter().flat_map(|join| &join.key).chain(&compared).copied().collect();
        let same_groups = determine(&grouped, &determined, &dependencies(self.tree.rel, self.known));
        let keys = self.keys_below(&below, &compared);
        let by_columns = !hashed(&keys.iter().map(Scalar::col).collect::<Vec<_>>());
        (same_groups && by_columns && self.connected(&below)).then_some(Plan { joins, keys, compared })
    }

    /// A leaf that is joined to leaves inside by its key.
    fn attached(&self, leaf: usize, inside: &BTreeSet<usize>) -> Option<Attached> {
        let Leaf { rel, at } = &self.tree.leaves[leaf];
        let key: Vec<usize> = key(rel, self.known)?.into_iter().map(|c| c + at.start).collect();
        let others_inside = |c: &&Condition| c.leaves.iter().all(|other| *other == leaf || inside.contains(other));
        let conditions = self.tree.conditions.iter().filter(|c| c.leaves.contains(&leaf)).filter(others_inside);
        let equal = conditions.map(|c| self.tree.same_value(c, leaf)).collect::<Option<Vec<_>>>()?;
        let told = key.iter().all(|c| equal.iter().any(|(x, _)| x == c));
        (!key.is_empty() && told).then_some(Attached { leaf, key, equal })
    }

    /// The columns by which the rest is joined, then what else it has of the keys.
    fn keys_below(&self, below: &BTreeSet<usize>, compared: &BTreeSet<usize>) -> Vec<Scalar> {
        let cols = self.tree.rel.cols();
        let mut keys: Vec<Scalar> =
            compared.iter().map(|c| Scalar { not_null: true, ..Scalar::column(*c, &cols[*c]) }).collect();
        for key in self.keys.iter().filter(|key| self.is_of(key, below)) {
            if key.column.is_none_or(|c| !compared.contains(&c)) && !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        keys
    }

    fn is_of(&self, key: &Scalar, leaves: &BTreeSet<usize>) -> bool {
        key.cols.iter().all(|c| self.tree.leaf_of(*c).is_some_and(|leaf| leaves.contains(&leaf)))
    }

    /// Whether conditions lead from each of these leaves to all others.
    fn connected(&self, leaves: &BTreeSet<usize>) -> bool {
        let mut reached: BTreeSet<usize> = leaves.first().copied().into_iter().collect();
        loop {
            let among = self.tree.conditions.iter().map(|c| &c.leaves).filter(|of| of.is_subset(leaves));
            let more: BTreeSet<usize> = among.filter(|of| !of.is_disjoint(&reached)).flatten().copied().collect();
            if more.is_subset(&reached) {
                return reached.len() == leaves.len();
            }
            reached.extend(more);
        }
    }

    fn joined(&self, apart: &BTreeSet<usize>, plan: &Plan) -> Option<Rel> {
        let rest = self.rest(apart, &plan.compared).ok()?;
        let mut rel = rest.aggregate(plan.keys.clone(), self.aggs.to_vec()).ok()?;
        let grouped = plan.keys.iter().enumerate().filter_map(|(place, key)| Some((key.column?, place)));
        let mut places: BTreeMap<usize, usize> = grouped.collect();
        for Attached { leaf, equal, .. } in &plan.joins {
            let (l, Leaf { rel: leaf, at }) = (rel.arity(), &self.tree.leaves[*leaf]);
            let on = equal.iter().map(|(x, y)| equality(places[y], x - at.start, l)).collect();
            rel = rel.join(JoinKind::Inner, (*leaf).clone(), on).ok()?;
            // What is equal to a key of the groups is taken from there: rows are found by it.
            for c in at.clone() {
                let same = equal.iter().find(|(x, _)| *x == c).map(|(_, y)| places[y]);
                places.insert(c, same.unwrap_or(l + c - at.start));
            }
        }
        let cols = rel.cols();
        let key = |key: &Scalar| {
            let of_groups = || plan.keys.iter().position(|known| known == key);
            let place = key.column.and_then(|c| places.get(&c).copied()).or_else(of_groups);
            place.map(|place| Scalar::column(place, &cols[place]))
        };
        let keys = self.keys.iter().map(key).collect::<Option<Vec<_>>>()?;
        let aggs = (plan.keys.len()..plan.keys.len() + self.aggs.len()).map(|c| Scalar::column(c, &cols[c]));
        rel.map(keys.into_iter().chain(aggs).collect()).ok()
    }

    /// The other leaves joined. Each column keeps its place: where a leaf is missing, there are NULLs.
    fn rest(&self, apart: &BTreeSet<usize>, compared: &BTreeSet<usize>) -> Result<Rel, Malformed> {
        let leaves = &self.tree.leaves;
        let below: Vec<usize> = (0..leaves.len()).filter(|leaf| !apart.contains(leaf)).collect();
        let nulls = |places: Range<usize>| places.filter_map(|c| self.tree.ty(c)).map(|ty| Scalar::null(&ty));
        let mut joined: Option<Rel> = None;
        for (nth, leaf) in below.iter().enumerate() {
            let Leaf { rel, at } = &leaves[*leaf];
            let before = if nth == 0 { 0..at.start } else { at.start..at.start };
            let until = below.get(nth + 1).map_or(at.end, |next| leaves[*next].at.start);
            let own = rel.cols().into_iter().enumerate().map(|(i, col)| Scalar::column(i, &col)).collect::<Vec<_>>();
            let padded = match before.is_empty() && until == at.end {
                true => (*rel).clone(),
                false => (*rel).clone().map(nulls(before).chain(own).chain(nulls(at.end..until)).collect())?,
            };
            joined = Some(match joined {
                None => padded,
                Some(left) => left.join(JoinKind::Inner, padded, self.conditions_of(*leaf, apart))?,
            });
        }
        let joined = joined.unwrap_or_else(|| self.tree.rel.clone());
        let cols = joined.cols();
        let nullable = compared.iter().filter(|c| !cols[**c].not_null);
        let present = nullable.map(|c| {
            let text = is_not_null(&Sql::column(*c));
            Scalar { sql: sql!("({})", text), ..Scalar::deparsed("", vec![*c], Ty::new("boolean"), true) }
        });
        let present: Vec<Scalar> = present.collect();
        if present.is_empty() { Ok(joined) } else { joined.filter(present) }
    }

    /// The conditions that hold as soon as this leaf has come in, among those that stay.
    fn conditions_of(&self, leaf: usize, apart: &BTreeSet<usize>) -> Vec<Conjunct> {
        let from = self.tree.leaves[leaf].at.start;
        let of_leaf = |c: &&Condition| c.leaves.last() == Some(&leaf) && c.leaves.is_disjoint(apart);
        let conjunct = |c: &Condition| {
            let equi = c.equal.map(|(a, b)| (a.min(b), a.max(b))).filter(|(a, b)| *a < from && *b >= from);
            Conjunct { condition: c.scalar.clone(), equi: equi.map(|(a, b)| (a, b - from)) }
        };
        self.tree.conditions.iter().filter(of_leaf).map(conjunct).collect()
    }
}

/// Whether it has all rows of a source.
fn is_whole(rel: &Rel) -> bool {
    match rel {
        Rel::Scan { .. } => true,
        Rel::Map { input, .. } => is_whole(input),
        _ => false,
    }
}
