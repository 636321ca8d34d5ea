//! Makes a failing case smaller while it keeps failing: fewer steps, then fewer statements, then fewer streams.

use std::time::{Duration, Instant};

use crate::Failure;
use crate::case::Case;
use crate::server::Server;

/// Shrinking is a help for the reader and not worth minutes.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn shrink(server: &Server, case: Case, failure: Failure) -> (Case, Failure) {
    let mut best = Best { server, deadline: Instant::now() + PATIENCE, kind: kind(&failure), case, failure };
    best.remove_each(|case| case.streams.len(), |case, i| drop(case.streams.remove(i)));
    best.remove_each(|case| case.steps.len(), |case, i| drop(case.steps.remove(i)));
    for step in 0..best.case.steps.len() {
        best.remove_each(
            |case| case.steps[step].statements.len(),
            |case, i| drop(case.steps[step].statements.remove(i)),
        );
    }
    (best.case, best.failure)
}

struct Best<'a> {
    server: &'a Server,
    deadline: Instant,
    kind: Kind,
    case: Case,
    failure: Failure,
}

/// What must stay the same, lest shrinking wander off to an uninteresting failure.
#[derive(PartialEq, Eq)]
enum Kind {
    Inexact,
    Refused,
}

fn kind(failure: &Failure) -> Kind {
    if failure.to_string().contains("not its query") { Kind::Inexact } else { Kind::Refused }
}

impl Best<'_> {
    fn remove_each(&mut self, count: impl Fn(&Case) -> usize, remove: impl Fn(&mut Case, usize)) {
        let mut i = count(&self.case);
        while i > 0 {
            i -= 1;
            let mut smaller = self.case.clone();
            remove(&mut smaller, i);
            if Instant::now() >= self.deadline {
                return;
            }
            if let Err(failure) = smaller.run(self.server)
                && self.is_same(&failure)
            {
                (self.case, self.failure) = (smaller, failure);
            }
        }
    }

    fn is_same(&self, failure: &Failure) -> bool {
        match self.kind {
            Kind::Inexact => kind(failure) == Kind::Inexact,
            // The first line names the statement and the error; numbers in it may differ.
            Kind::Refused => signature(failure) == signature(&self.failure),
        }
    }
}

fn signature(failure: &Failure) -> String {
    let text = failure.to_string();
    let error = text.lines().next().and_then(|line| line.rsplit("ERROR").next()).unwrap_or_default();
    error.chars().filter(|c| !c.is_ascii_digit()).collect()
}
