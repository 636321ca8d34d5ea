//! Runs a case on a server, step by step and then as one refresh.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use super::{Case, Expectation, Expected, Statement, Step, Stream};
use crate::oracle::{self, row_text};
use crate::server::Server;
use crate::session::{Session, ident};
use crate::stream::{BY_HAND, StreamTable};
use crate::{During, Failure, Outcome};

impl Case {
    /// The whole case, in schemas of its own.
    pub fn run(&self, server: &Server) -> Outcome {
        self.run_observed(server, &|_, _, _| Ok(()))
    }

    /// The case without a single refresh: its stream tables are maintained by whoever writes (refresh_mode IMMEDIATE), and
    /// compared after every statement. Those that cannot be are left out.
    pub fn run_immediate(&self, server: &Server) -> Outcome {
        let schema = format!("{}_now", self.name.replace(|c: char| !c.is_ascii_alphanumeric(), "_").to_lowercase());
        // Nothing here needs capture, but tables made while its slot is being made can be in its way.
        let mut observer = server.session()?;
        let captured = "SELECT EXISTS (SELECT FROM pgtrickle.pgt_capture)";
        crate::wait::until("capture runs", Duration::from_secs(60), || observer.holds(captured))?;
        let mut run = Run::prepare(self, server, &schema, Some(Vec::new()))?;
        for (i, step) in self.steps.iter().enumerate() {
            let title = format!("step {} {}", i + 1, step.title);
            for statement in &step.statements {
                run.statement(statement).during(&title)?;
                run.compare_from_inside().during(crate::session::abridged(&statement.sql)).during(&title)?;
            }
        }
        run.finish()
    }

    /// Whether it is one that [`Case::run_immediate`] can run: with several sessions writers wait for each other.
    pub fn can_be_immediate(&self) -> bool {
        let statements = || self.steps.iter().flat_map(|step| &step.statements);
        statements().all(|s| s.session == 1 && !s.sql.contains("PREPARE TRANSACTION"))
            // Two runs of a case would be in each other's way there.
            && !self.tables.iter().any(|s| s.sql.contains("CREATE EXTENSION"))
            && self.streams.iter().any(|stream| stream.fails.is_none() && stream.opaque.is_none())
    }

    /// The same, with a look at each stream table when all steps have been checked.
    pub fn run_observed(&self, server: &Server, look: &dyn Fn(&mut Session, &str, &Stream) -> Outcome) -> Outcome {
        let schema = self.name.replace(|c: char| !c.is_ascii_alphanumeric(), "_").to_lowercase();
        self.run_stepwise(server, &schema, look).during("step by step")?;
        if self.replay && !self.steps.is_empty() {
            self.run_at_once(server, &format!("{schema}_all")).during("all steps in one refresh")?;
        }
        Ok(())
    }

    /// Only the tables and the changes, without any stream table; `ready` is called between the two.
    pub fn run_without_streams<T>(
        &self,
        server: &Server,
        schema: &str,
        ready: impl FnOnce() -> Outcome<T>,
    ) -> Outcome<T> {
        let bare = Case { streams: Vec::new(), ..self.clone() };
        let mut run = Run::start(&bare, server, schema)?;
        let result = ready()?;
        self.steps.iter().try_for_each(|step| run.change(step))?;
        Ok(result)
    }

    fn run_stepwise(
        &self,
        server: &Server,
        schema: &str,
        look: &dyn Fn(&mut Session, &str, &Stream) -> Outcome,
    ) -> Outcome {
        let mut run = Run::start(self, server, schema)?;
        for (i, step) in self.steps.iter().enumerate() {
            let title = format!("step {} {}", i + 1, step.title);
            run.change(step).during(&title)?;
            run.refresh_and_compare().during(&title)?;
            step.expectations.iter().try_for_each(|expected| run.expect(expected)).during(&title)?;
        }
        run.living_streams().try_for_each(|stream| look(&mut run.observer, schema, stream))?;
        run.finish()
    }

    fn run_at_once(&self, server: &Server, schema: &str) -> Outcome {
        let mut run = Run::start(self, server, schema)?;
        for (i, step) in self.steps.iter().enumerate() {
            run.change(step).during(format!("step {} {}", i + 1, step.title))?;
        }
        run.refresh_and_compare()?;
        if let Some(step) = self.steps.last() {
            step.expectations.iter().try_for_each(|expected| run.expect(expected))?;
        }
        run.finish()
    }
}

/// One pass over a case: its connections and its schema.
struct Run<'a> {
    case: &'a Case,
    server: &'a Server,
    schema: &'a str,
    /// Refreshes and compares; never inside the case's own transactions.
    observer: Session,
    sessions: BTreeMap<u32, Session>,
    /// In a run without refreshes: the stream tables that are maintained at once.
    immediate: Option<Vec<String>>,
}

impl<'a> Run<'a> {
    fn start(case: &'a Case, server: &'a Server, schema: &'a str) -> Outcome<Run<'a>> {
        Run::prepare(case, server, schema, None)
    }

    fn prepare(
        case: &'a Case,
        server: &'a Server,
        schema: &'a str,
        immediate: Option<Vec<String>>,
    ) -> Outcome<Run<'a>> {
        let mut observer = server.session()?;
        observer.run(&format!("DROP SCHEMA IF EXISTS {0} CASCADE; CREATE SCHEMA {0}", ident(schema)))?;
        observer.run(&search_path(schema))?;
        let mut run = Run { case, server, schema, observer, sessions: BTreeMap::new(), immediate };
        for statement in &case.tables {
            run.statement(statement).during("tables")?;
        }
        for stream in &case.streams {
            run.create(stream).during(format!("stream {}", stream.name))?;
        }
        if run.immediate.is_none() {
            run.refresh_and_compare().during("just created")?;
        }
        run.compare().during("just created")?;
        Ok(run)
    }

    fn table(&self, name: &str) -> StreamTable {
        StreamTable::new(self.schema, name)
    }

    fn create(&mut self, stream: &Stream) -> Outcome {
        let table = self.table(&stream.name);
        if let Some(state) = &stream.fails {
            let (found, text) = self.observer.error(&table.creation(&stream.query, BY_HAND))?;
            return if found == *state { Ok(()) } else { Err(Failure::new(format!("expected {state}, got {text}"))) };
        }
        if let Some(immediate) = &mut self.immediate {
            match self.observer.try_run(&table.immediate_creation(&stream.query)) {
                Ok(()) => {
                    immediate.push(stream.name.clone());
                    return Ok(());
                }
                // feature_not_supported
                Err(Some(state)) if state == "0A000" => {}
                Err(state) => return Err(Failure::new(format!("creating {}: {state:?}", stream.name))),
            }
        }
        table.create(&mut self.observer, &stream.query, BY_HAND).during("creating")?;
        oracle::assert_exact(&mut self.observer, &table.quoted(), stream.truth()).during("filled")?;
        match &stream.mode {
            Some(mode) => {
                let found = table.mode(&mut self.observer)?;
                if found != *mode {
                    return Err(Failure::new(format!("expected mode {mode}, found {found}")));
                }
                let Some(reason) = &stream.opaque else { return Ok(()) };
                let found = table.reason(&mut self.observer)?;
                match found.contains(reason.as_str()) {
                    true => Ok(()),
                    false => {
                        Err(Failure::new(format!("expected to be recomputed because {reason}, not because {found}")))
                    }
                }
            }
            None => Ok(()),
        }
    }

    fn change(&mut self, step: &Step) -> Outcome {
        step.statements.iter().try_for_each(|statement| self.statement(statement))
    }

    fn statement(&mut self, statement: &Statement) -> Outcome {
        let sql = statement.sql.replace("{schema}", self.schema);
        let session = self.session(statement.session)?;
        if let Some(data) = &statement.copy {
            let mut writer = session.client().copy_in(sql.trim_end_matches(';')).during(&sql)?;
            writer.write_all(data.as_bytes())?;
            writer.finish().during(&sql)?;
            return Ok(());
        }
        match &statement.outcome {
            Expected::Success => session.run(&sql),
            Expected::Error(expected) => {
                let (found, text) = session.error(&sql)?;
                match expected {
                    Some(state) if *state != found => Err(Failure::new(format!("expected {state}, got {text}"))),
                    _ => Ok(()),
                }
            }
        }
    }

    fn session(&mut self, number: u32) -> Outcome<&mut Session> {
        if !self.sessions.contains_key(&number) {
            let mut session = self.server.session()?;
            session.run(&search_path(self.schema))?;
            self.sessions.insert(number, session);
        }
        Ok(self.sessions.get_mut(&number).expect("just inserted"))
    }

    fn refresh_and_compare(&mut self) -> Outcome {
        for stream in self.living_streams() {
            self.table(&stream.name).refresh(&mut self.observer).during("refreshing")?;
        }
        self.compare()
    }

    fn compare(&mut self) -> Outcome {
        for stream in self.living_streams() {
            let table = self.table(&stream.name).quoted();
            oracle::assert_exact(&mut self.observer, &table, stream.truth())?;
        }
        Ok(())
    }

    /// As the writer itself sees it, in the midst of its transaction if it has one open.
    fn compare_from_inside(&mut self) -> Outcome {
        for stream in self.living_streams() {
            let table = self.table(&stream.name).quoted();
            let writer = self.session(1)?;
            match writer.try_run("SAVEPOINT inside; RELEASE inside") {
                Ok(()) => oracle::assert_exact_within(writer, &table, stream.truth())?,
                // no_active_sql_transaction
                Err(Some(state)) if state == "25P01" => {
                    oracle::assert_exact(&mut self.observer, &table, stream.truth())?
                }
                // in_failed_sql_transaction
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// The stream tables that are to be exact.
    fn living_streams(&self) -> impl Iterator<Item = &'a Stream> + use<'a> {
        let immediate = self.immediate.clone();
        let case: &'a Case = self.case;
        case.streams.iter().filter(move |stream| {
            stream.fails.is_none() && immediate.as_ref().is_none_or(|names| names.contains(&stream.name))
        })
    }

    fn expect(&mut self, expected: &Expectation) -> Outcome {
        let rows = self.observer.rows(&format!("TABLE {}", self.table(&expected.stream).quoted()))?;
        let mut found: Vec<String> = rows.iter().map(row_text).collect();
        let mut wanted = expected.rows.clone();
        found.sort();
        wanted.sort();
        if found == wanted {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{} has other rows than the case says\nexpected:\n  {}\nfound:\n  {}",
            expected.stream,
            wanted.join("\n  "),
            found.join("\n  ")
        )))
    }

    /// The extension's own audit must agree with ours; then everything goes away.
    fn finish(mut self) -> Outcome {
        for stream in self.living_streams() {
            self.table(&stream.name).assert_verified(&mut self.observer)?;
            self.table(&stream.name).assert_same_looks(&mut self.observer)?;
        }
        // Open transactions of the case would block the drops.
        self.sessions.clear();
        for stream in self.case.streams.iter().rev().filter(|stream| stream.fails.is_none()) {
            self.table(&stream.name).drop(&mut self.observer).during("dropping")?;
        }
        self.observer.run(&format!("SET client_min_messages = error; DROP SCHEMA {} CASCADE", ident(self.schema)))
    }
}

/// Nothing in a case takes long: what does, waits for something that never comes.
fn search_path(schema: &str) -> String {
    format!("SET search_path = {}, public; SET statement_timeout = '60s'", ident(schema))
}
