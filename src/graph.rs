//! Which stream tables read which, and where two ways from one relation meet again.

use crate::catalog::StreamTable;
use std::collections::{BTreeSet, HashMap, HashSet};

/// What each stream table reads, by relation.
pub struct Graph {
    sources: HashMap<u32, Vec<u32>>,
}

/// A stream table that reads a relation along more than one way.
pub struct Diamond {
    pub tip: u32,
    /// Those of its sources that have a relation in common, each with all that it comes from and itself.
    pub arms: Vec<(u32, HashSet<u32>)>,
}

impl Graph {
    pub fn of<'a>(stream_tables: impl Iterator<Item = &'a StreamTable>) -> Graph {
        Graph::new(stream_tables.map(|st| (st.relid, st.sources.iter().map(|s| s.relid).collect())))
    }

    fn new(reads: impl Iterator<Item = (u32, Vec<u32>)>) -> Graph {
        Graph { sources: reads.collect() }
    }

    /// A relation and all that it comes from.
    fn origins(&self, relid: u32) -> HashSet<u32> {
        let mut found = HashSet::new();
        let mut pending = vec![relid];
        while let Some(next) = pending.pop() {
            if found.insert(next) {
                pending.extend(self.sources.get(&next).into_iter().flatten());
            }
        }
        found
    }

    /// All diamonds. Where nothing meets, which is the common case, two arms are looked at only until the first has been gone
    /// through, and nothing is made of it.
    pub fn diamonds(&self) -> Vec<Diamond> {
        let tips = self.sources.iter().filter(|(_, sources)| sources.len() > 1);
        let mut found: Vec<Diamond> = tips
            .filter_map(|(&tip, sources)| {
                let mut arms: Vec<_> = sources.iter().map(|&arm| (arm, self.origins(arm))).collect();
                let meets: Vec<bool> = arms
                    .iter()
                    .map(|(arm, one)| {
                        arms.iter().any(|(other, two)| other != arm && one.intersection(two).next().is_some())
                    })
                    .collect();
                let mut meets = meets.into_iter();
                arms.retain(|_| meets.next() == Some(true));
                (!arms.is_empty()).then_some(Diamond { tip, arms })
            })
            .collect();
        found.sort_unstable_by_key(|diamond| diamond.tip);
        found
    }
}

impl Diamond {
    /// The tip, and everything on its ways.
    pub fn members(&self) -> BTreeSet<u32> {
        self.arms.iter().flat_map(|(_, origins)| origins).copied().chain([self.tip]).collect()
    }

    /// Each relation from which several arms come, with them.
    pub fn meetings(&self) -> Vec<(u32, Vec<u32>)> {
        let from = |origin: u32| self.arms.iter().filter(move |(_, all)| all.contains(&origin)).map(|&(arm, _)| arm);
        let origins = self.members().into_iter().map(|origin| (origin, from(origin).collect::<Vec<_>>()));
        origins.filter(|(_, arms)| arms.len() > 1).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(reads: &[(u32, &[u32])]) -> Graph {
        Graph::new(reads.iter().map(|(relid, sources)| (*relid, sources.to_vec())))
    }

    #[test]
    fn arms_that_share_nothing_are_no_diamond() {
        assert!(graph(&[(10, &[1]), (11, &[2]), (20, &[10, 11])]).diamonds().is_empty());
        assert!(graph(&[(10, &[1]), (11, &[1]), (12, &[10])]).diamonds().is_empty());
    }

    #[test]
    fn arms_that_meet_are_told_with_what_they_share() {
        // 1 → 10, 11; 10, 11, 2 → 20; 20, 1 → 30.
        let found = graph(&[(10, &[1]), (11, &[1]), (20, &[10, 11, 2]), (30, &[20, 1])]).diamonds();
        let told: Vec<_> = found.iter().map(|d| (d.tip, d.meetings())).collect();
        assert_eq!(told, [(20, vec![(1, vec![10, 11])]), (30, vec![(1, vec![20, 1])])]);
        assert_eq!(found[0].members(), BTreeSet::from([1, 10, 11, 20]));
    }
}
