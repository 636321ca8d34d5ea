//! Makes a failing case smaller while it keeps failing: fewer streams, steps and statements, simpler queries, fewer rows.

use std::time::{Duration, Instant};

use super::{Generated, Text};
use crate::Failure;
use crate::case::{Case, Statement};
use crate::server::Server;

/// Shrinking is a help for the reader and not worth minutes.
const PATIENCE: Duration = Duration::from_secs(45);

pub fn shrink(server: &Server, generated: Generated, failure: Failure) -> (Case, Failure) {
    let patience = std::env::var("PGTEST_SHRINK_SECONDS").ok().and_then(|text| text.parse().ok());
    let deadline = Instant::now() + patience.map_or(PATIENCE, Duration::from_secs);
    let Generated { case, queries, .. } = generated;
    let mut best = Best { server, deadline, kind: kind(&failure), case, queries, failure };
    best.remove_streams();
    best.remove_each(|best| best.case.steps.len(), |case, _, i| drop(case.steps.remove(i)));
    for step in 0..best.case.steps.len() {
        best.remove_each(
            |best| best.case.steps[step].statements.len(),
            |case, _, i| drop(case.steps[step].statements.remove(i)),
        );
    }
    // Some could not go before statements that named them.
    best.remove_streams();
    best.simplify_queries();
    best.remove_each(|best| best.case.tables.len(), |case, _, i| drop(case.tables.remove(i)));
    best.remove_rows();
    best.simplify_queries();
    (best.case, best.failure)
}

struct Best<'a> {
    server: &'a Server,
    deadline: Instant,
    kind: Kind,
    case: Case,
    queries: Vec<Text>,
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
    fn remove_each(&mut self, count: impl Fn(&Self) -> usize, remove: impl Fn(&mut Case, &mut Vec<Text>, usize)) {
        let mut i = count(self);
        while i > 0 {
            i -= 1;
            let (mut case, mut queries) = (self.case.clone(), self.queries.clone());
            remove(&mut case, &mut queries, i);
            self.try_out(case, queries);
        }
    }

    fn remove_streams(&mut self) {
        self.remove_each(
            |best| best.case.streams.len(),
            |case, queries, i| {
                case.streams.remove(i);
                queries.remove(i);
            },
        );
    }

    /// Takes the first reduction of a query that still fails, again and again.
    fn simplify_queries(&mut self) {
        for stream in 0..self.queries.len() {
            while let Some(()) = self.queries[stream].reductions().into_iter().find_map(|query| {
                let (mut case, mut queries) = (self.case.clone(), self.queries.clone());
                case.streams[stream].query = query.to_string();
                queries[stream] = query;
                self.try_out(case, queries).then_some(())
            }) {}
        }
    }

    /// Halves of the rows of every INSERT, then single rows.
    fn remove_rows(&mut self) {
        let places = |case: &Case| -> Vec<Place> {
            let tables = (0..case.tables.len()).map(|i| Place { step: None, statement: i });
            let steps = case.steps.iter().enumerate();
            let changes = steps
                .flat_map(|(s, step)| (0..step.statements.len()).map(move |i| Place { step: Some(s), statement: i }));
            tables.chain(changes).collect()
        };
        for place in places(&self.case) {
            let mut width = rows_of(place.of(&mut self.case.clone())).map_or(0, |(_, rows)| rows.len());
            while width > 0 {
                self.remove_runs(&place, width);
                width /= 2;
            }
        }
    }

    fn remove_runs(&mut self, place: &Place, width: usize) {
        let mut at = 0;
        loop {
            let mut case = self.case.clone();
            let statement = place.of(&mut case);
            let Some((head, mut rows)) = rows_of(statement) else {
                return;
            };
            if at + width > rows.len() || width == rows.len() {
                return;
            }
            rows.drain(at..at + width);
            statement.sql = format!("{head}{};", rows.join("), ("));
            if !self.try_out(case, self.queries.clone()) {
                at += width;
            }
        }
    }

    fn try_out(&mut self, case: Case, queries: Vec<Text>) -> bool {
        if Instant::now() >= self.deadline || case.streams.is_empty() {
            return false;
        }
        match case.run(self.server) {
            Err(failure) if self.is_same(&failure) => {
                (self.case, self.queries, self.failure) = (case, queries, failure);
                true
            }
            _ => false,
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

/// Where a statement of a case is.
struct Place {
    step: Option<usize>,
    statement: usize,
}

impl Place {
    fn of<'c>(&self, case: &'c mut Case) -> &'c mut Statement {
        match self.step {
            None => &mut case.tables[self.statement],
            Some(step) => &mut case.steps[step].statements[self.statement],
        }
    }
}

/// An INSERT up to its VALUES, and its rows.
fn rows_of(statement: &Statement) -> Option<(String, Vec<String>)> {
    let text = statement.sql.strip_suffix(';')?;
    let (head, rows) = text.split_once(" VALUES ")?;
    if !head.starts_with("INSERT ") || rows.contains(" ON CONFLICT ") {
        return None;
    }
    Some((format!("{head} VALUES "), rows.split("), (").map(str::to_owned).collect()))
}

fn signature(failure: &Failure) -> String {
    let text = failure.to_string();
    let error = text.lines().next().and_then(|line| line.rsplit("ERROR").next()).unwrap_or_default();
    error.chars().filter(|c| !c.is_ascii_digit()).collect()
}
