//! Where two ways from one relation meet again: who reads there is to see one moment.
//!
//! The stream table in which they meet, the tip, is refreshed only together with all that lies on its ways, in one transaction
//! under one snapshot. While one of these cannot be refreshed the tip waits; the others do not.

use super::entry::{Entries, Entry, least_of_readers};
use crate::graph::Graph;
use crate::schedule::Schedule;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// All diamonds.
#[derive(Default)]
pub struct Diamonds {
    all: Vec<Diamond>,
    /// Of their members.
    paces: HashMap<i64, Pace>,
}

struct Diamond {
    tip: i64,
    /// All on the ways, the tip included.
    members: Vec<i64>,
}

/// How often a stream table is to be refreshed, on its own account or its readers'.
struct Pace {
    interval: Duration,
    cron: Option<String>,
}

impl Pace {
    fn of(entry: &Entry) -> Pace {
        let cron = matches!(entry.schedule, Schedule::Cron(_)).then(|| entry.st.schedule.clone());
        Pace { interval: entry.schedule_interval(), cron }
    }

    /// Whether whoever has this pace is to be refreshed whenever one with the other pace is. The times of a cron schedule are
    /// meant as they are.
    fn keeps_up_with(&self, other: &Pace) -> bool {
        self.interval <= other.interval && (self.cron.is_none() || self.cron == other.cron)
    }
}

impl Diamonds {
    pub fn of(entries: &Entries) -> Diamonds {
        let by_relid: HashMap<u32, i64> = entries.values().map(|e| (e.st.relid, e.st.pgt_id)).collect();
        let found = Graph::of(entries.values().map(|e| &e.st)).diamonds();
        if found.is_empty() {
            return Diamonds::default();
        }
        let members = |d: &crate::graph::Diamond| d.members().iter().filter_map(|r| by_relid.get(r).copied()).collect();
        let all = found.iter().map(|d| Diamond { tip: by_relid[&d.tip], members: members(d) }).collect();
        let governors = least_of_readers(entries, |entry| (entry.schedule_interval(), entry.st.pgt_id));
        let paces = governors.into_iter().map(|(id, (_, governor))| (id, Pace::of(&entries[&governor]))).collect();
        Diamonds { all, paces }
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Adds those who are to go with those that are due, even if they seem to have no changes (what one of them sees in a buffer
    /// the other may not yet have looked for), and takes away who has to wait.
    pub fn complete(&self, entries: &Entries, due: &mut BTreeSet<i64>, now: Instant) {
        let mut before = usize::MAX;
        while before != due.len() {
            before = due.len();
            for Diamond { members, .. } in &self.all {
                let going: Vec<&Pace> =
                    members.iter().filter(|id| due.contains(id)).map(|id| &self.paces[id]).collect();
                let goes_with = |id: &&i64| going.iter().any(|pace| self.paces[id].keeps_up_with(pace));
                due.extend(members.iter().filter(goes_with).filter(|id| entries[id].is_ready(now)));
            }
        }
        let waiting = self.waiting(entries, now);
        due.retain(|id| !waiting.contains(id));
    }

    /// Those that must not be refreshed now: tips of which something is not ready, and, so that the ways come together again,
    /// everybody on the ways of a diamond of which something is being refreshed.
    pub fn waiting(&self, entries: &Entries, now: Instant) -> BTreeSet<i64> {
        let mut waiting = BTreeSet::new();
        for Diamond { tip, members } in &self.all {
            if members.iter().any(|id| entries[id].in_flight) {
                waiting.extend(members);
                continue;
            }
            let below = members.iter().filter(|id| *id != tip).map(|id| &entries[id]);
            if below.into_iter().any(|entry| !entry.is_ready(now) && !entry.is_kept_current()) {
                waiting.insert(*tip);
            }
        }
        waiting
    }
}
