//! The frame of every suite: one trial per test and version, with the usual options (`--list`, a name's part, …).

use std::sync::{Arc, Mutex, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::install::PgVersion;
use crate::server::{self, Server};
use crate::{Failure, Outcome};

/// Runs the trials that `make` gives for each version, and ends the program.
pub fn main(default_threads: usize, make: impl Fn(PgVersion) -> Outcome<Vec<Trial>>) -> ! {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(default_threads);
    let mut trials = Vec::new();
    for version in PgVersion::under_test() {
        match make(version) {
            Ok(made) => trials.extend(made),
            Err(error) => trials.push(Trial::test(format!("pg{version}/suite"), move || Err(failed(error)))),
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    server::clean_up();
    conclusion.exit()
}

/// A trial named after version and test.
pub fn trial(version: PgVersion, name: &str, test: impl FnOnce() -> Outcome + Send + 'static) -> Trial {
    Trial::test(format!("pg{version}/{name}"), move || test().map_err(failed))
}

fn failed(error: Failure) -> Failed {
    Failed::from(error.to_string())
}

/// A server that several trials share: started by the first, stopped when the last is done.
#[derive(Clone)]
pub struct Shared {
    version: PgVersion,
    settings: &'static [(&'static str, &'static str)],
    server: Arc<OnceLock<Outcome<Server>>>,
    starting: Arc<Mutex<()>>,
}

impl Shared {
    pub fn new(version: PgVersion, settings: &'static [(&'static str, &'static str)]) -> Shared {
        Shared { version, settings, server: Arc::default(), starting: Arc::default() }
    }

    pub fn server(&self) -> Outcome<&Server> {
        let _one_at_a_time = self.starting.lock();
        let start = || Server::start(self.version, self.settings);
        self.server.get_or_init(start).as_ref().map_err(|error: &Failure| error.clone())
    }

    /// A trial on this server; when it fails, the log so far is kept.
    pub fn trial(&self, name: &str, test: impl FnOnce(&Server) -> Outcome + Send + 'static) -> Trial {
        let shared = self.clone();
        trial(self.version, name, move || {
            let server = shared.server()?;
            test(server).inspect_err(|_| {
                let _ = server.keep_log("shared");
            })
        })
    }
}

/// Runs a test on a server of its own; when it fails, the log is kept and its end shown.
pub fn on_own_server(
    version: PgVersion,
    name: &'static str,
    settings: &'static [(&'static str, &'static str)],
    test: impl FnOnce(&Server) -> Outcome + Send + 'static,
) -> Trial {
    trial(version, name, move || {
        let server = Server::start(version, settings)?;
        test(&server).map_err(|error| {
            let kept = server.keep_log(name).map(|path| path.display().to_string()).unwrap_or_default();
            Failure::new(format!("{error}\nserver log ({kept}):\n{}", server.log_tail(25)))
        })
    })
}

/// A number of this commit, so that a run can be repeated and each commit sees others; `PGTEST_BASE` overrides it.
pub fn seed_of_commit() -> u64 {
    let given = std::env::var("PGTEST_BASE").ok().and_then(|text| text.parse().ok());
    let head = std::process::Command::new("git").args(["rev-parse", "HEAD"]).output().ok();
    let head = head.and_then(|output| String::from_utf8(output.stdout).ok());
    let digits = head.and_then(|text| u64::from_str_radix(text.get(..10)?, 16).ok());
    given.or(digits).unwrap_or(59)
}
