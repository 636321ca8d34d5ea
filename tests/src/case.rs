//! Data-driven cases: one file, one behaviour, one oracle for all.
//!
//! ```text
//! # What this case shows.
//! versions: 18
//!
//! == tables
//! CREATE TABLE t (a int);
//!
//! == stream st mode=DIFFERENTIAL
//! SELECT a, count(*) AS n FROM t GROUP BY a
//!
//! == step two of the same
//! INSERT INTO t VALUES (1), (1);
//!
//! == expect st
//! 1|2
//! ```
//!
//! After creation and after every step all streams are refreshed, in the order of the file, and compared with their
//! queries. Then everything is replayed in a fresh schema with all steps followed by one refresh.
//!
//! - A stream may say `mode=DIFFERENTIAL`, or `mode=FULL opaque="part of the reason"`, or `fails=SQLSTATE` when its creation must be refused.
//! - A statement ends with `;` at a line's end. `@2 ` before it: on another connection, which keeps its transaction over
//!   refreshes. `!` or `!22012 ` before it: must fail. `COPY … FROM stdin;` is followed by its lines and `\.`.
//! - `{schema}` stands for the schema of the run, for names that are global (prepared transactions).
//! - `== expect st` lists rows as PostgreSQL prints them, `|` between values, `\N` for NULL, in any order.
//! - Directives before the first section: `versions:` (majors it runs on), `replay: no`.

mod parse;
mod print;
mod run;

use std::path::{Path, PathBuf};

use crate::install;
use crate::{Failure, Outcome};

/// A whole case.
#[derive(Debug, Clone, Default)]
pub struct Case {
    /// `operator/what`, from the file's path.
    pub name: String,
    pub description: Vec<String>,
    /// Majors that it runs on; empty for all.
    pub versions: Vec<u32>,
    /// Whether all steps are replayed as one refresh.
    pub replay: bool,
    pub tables: Vec<Statement>,
    pub streams: Vec<Stream>,
    pub steps: Vec<Step>,
}

/// One stream table of a case.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    pub name: String,
    pub query: String,
    /// The query with every choice that it leaves among ties made as the documentation says; then this is what counts.
    pub completed: Option<String>,
    pub mode: Option<String>,
    /// Part of the reason for which it is recomputed.
    pub opaque: Option<String>,
    pub fails: Option<String>,
}

impl Stream {
    /// What the stream table must equal.
    pub fn truth(&self) -> &str {
        self.completed.as_deref().unwrap_or(&self.query)
    }
}

/// Changes that one refresh takes up, and what is expected after it.
#[derive(Debug, Clone, Default)]
pub struct Step {
    pub title: String,
    pub statements: Vec<Statement>,
    pub expectations: Vec<Expectation>,
}

/// The rows that a stream table must have after a step.
#[derive(Debug, Clone, Default)]
pub struct Expectation {
    pub stream: String,
    pub rows: Vec<String>,
}

/// One statement and how it is to be run.
#[derive(Debug, Clone, Default)]
pub struct Statement {
    pub sql: String,
    /// The connection: 1 unless said otherwise.
    pub session: u32,
    pub outcome: Expected,
    /// The lines that follow a `COPY … FROM stdin`.
    pub copy: Option<String>,
}

/// What a statement must do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Expected {
    #[default]
    Success,
    /// Fail, with this SQLSTATE if it is given.
    Error(Option<String>),
}

impl Case {
    pub fn runs_on(&self, version: install::PgVersion) -> bool {
        self.versions.is_empty() || self.versions.contains(&version.0)
    }

    /// Every case under `tests/cases`, in order.
    pub fn all() -> Outcome<Vec<Case>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
        let mut paths = Vec::new();
        collect(&root, &mut paths)?;
        paths.sort();
        paths.iter().map(|path| Case::load(&root, path)).collect()
    }

    /// The case `operator/what`.
    pub fn named(name: &str) -> Outcome<Case> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
        Case::load(&root, &root.join(name).with_extension("case"))
    }

    fn load(root: &Path, path: &Path) -> Outcome<Case> {
        let name = path.strip_prefix(root).unwrap_or(path).with_extension("").display().to_string();
        let text = std::fs::read_to_string(path)?;
        Case::parse(&name, &text).map_err(|error: Failure| error.during(&name))
    }
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) -> Outcome {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, paths)?;
        } else if path.extension().is_some_and(|extension| extension == "case") {
            paths.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_case_parses() {
        assert!(super::Case::all().expect("a case does not parse").len() > 50);
    }
}
