//! What the stages of a stream table have cost: summed up in each process, written to `pgt_stage_costs` once in a while,
//! so that a refresh pays a few clock readings for it.

use super::program::Statements;
use super::run::Relations;
use pgtrickle_engine::program::Step;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Costs are written at most this often, per process and stream table.
const INTERVAL: Duration = Duration::from_secs(10);

/// What one stage has cost since it was last written down.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    pub calls: i64,
    /// Rows of its change.
    pub rows: i64,
    pub time: Duration,
}

#[derive(Default)]
struct Untold {
    fingerprint: i64,
    stages: BTreeMap<usize, Cost>,
    told: Option<Instant>,
    /// Of the last refresh alone.
    last: BTreeMap<usize, Cost>,
}

thread_local! {
    static UNTOLD: RefCell<HashMap<i64, Untold>> = RefCell::default();
}

/// Measures the steps of one refresh.
pub struct Clock {
    last: Instant,
    stages: BTreeMap<usize, Cost>,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { last: Instant::now(), stages: BTreeMap::new() }
    }

    /// What has passed since the last call belongs to this step.
    pub fn lap(&mut self, statements: &Statements, step: usize, relations: &Relations) {
        let now = Instant::now();
        let cost = self.stages.entry(statements.stages[step]).or_default();
        cost.calls = 1;
        cost.time += now - self.last;
        self.last = now;
        if let Step::Stage { name, .. } | Step::Restage { name, .. } = &statements.steps[step] {
            // A stage's last relation is its change.
            cost.rows = relations.rows(name) as i64;
        }
    }

    /// Adds the refresh to what has been spent on the stream table.
    pub fn stop(self, pgt_id: i64, fingerprint: i64) {
        UNTOLD.with_borrow_mut(|untold| {
            let spent = untold.entry(pgt_id).or_default();
            if spent.fingerprint != fingerprint {
                *spent = Untold { fingerprint, ..Untold::default() };
            }
            spent.last = self.stages.clone();
            for (stage, cost) in self.stages {
                let sum = spent.stages.entry(stage).or_default();
                sum.calls += cost.calls;
                sum.rows += cost.rows;
                sum.time += cost.time;
            }
        });
    }
}

/// What each stage has cost in the last refresh of this process, by its number from 0.
pub fn last(pgt_id: i64) -> BTreeMap<usize, Cost> {
    UNTOLD.with_borrow(|untold| untold.get(&pgt_id).map(|spent| spent.last.clone()).unwrap_or_default())
}

/// Forgets that.
pub fn forget_last(pgt_id: i64) {
    UNTOLD.with_borrow_mut(|untold| untold.entry(pgt_id).or_default().last.clear());
}

/// What is to be written down now, if it is time: per stage, from 0.
pub fn due(pgt_id: i64) -> Option<BTreeMap<usize, Cost>> {
    UNTOLD.with_borrow_mut(|untold| {
        let spent = untold.get_mut(&pgt_id)?;
        let due = !spent.stages.is_empty() && spent.told.is_none_or(|at| at.elapsed() >= INTERVAL);
        due.then(|| {
            spent.told = Some(Instant::now());
            std::mem::take(&mut spent.stages)
        })
    })
}
