//! A server with an endpoint, and ways to ask both.

use std::fmt::Display;
use std::ops::RangeInclusive;

use libtest_mimic::Trial;
use pgtrickle_tests::install::PgVersion;
use pgtrickle_tests::metrics::{self, Scrape};
use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, suite, wait};

/// A server of its own with an endpoint.
pub struct Bench {
    pub server: Server,
    pub session: Session,
    pub port: u16,
}

impl Bench {
    /// Runs `tables` statement by statement once the extension is there.
    pub fn start(version: PgVersion, settings: &[(&str, &str)], tables: &str) -> Outcome<Bench> {
        let port = metrics::free_port()?;
        let text = port.to_string();
        let mut all = vec![("pg_trickle.metrics_port", text.as_str())];
        all.extend_from_slice(settings);
        let server = Server::start(version, &all)?;
        let mut session = server.session()?;
        session.each(tables)?;
        wait::retry("the endpoint", wait::PATIENCE, || metrics::get(port, "/metrics"))?;
        Ok(Bench { server, session, port })
    }

    pub fn scrape(&self) -> Outcome<Scrape> {
        Scrape::fetch(self.port)
    }

    /// The metric's value with these labels; without the prefix.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Outcome<f64> {
        self.scrape()?.value(&format!("pg_trickle_{name}"), labels)
    }

    /// The metric gets into this range, and soon.
    pub fn reaches(&self, name: &str, labels: &[(&str, &str)], range: RangeInclusive<f64>) -> Outcome<f64> {
        wait::retry(name, wait::PATIENCE, || {
            let value = self.value(name, labels)?;
            within(name, value, &range)?;
            Ok(value)
        })
    }

    pub fn becomes(&self, name: &str, labels: &[(&str, &str)], value: f64) -> Outcome {
        self.reaches(name, labels, value..=value).map(drop)
    }

    /// Changes a setting of the running server.
    pub fn set(&mut self, name: &str, value: &str) -> Outcome {
        self.session.each(&format!("ALTER SYSTEM SET {name} = '{value}'; SELECT pg_reload_conf()"))
    }

    /// Ends the workers of this kind.
    pub fn terminate(&mut self, backend_type: &str) -> Outcome {
        self.session.run(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = '{backend_type}'"
        ))
    }
}

pub fn within(what: impl Display, value: f64, range: &RangeInclusive<f64>) -> Outcome {
    if range.contains(&value) { Ok(()) } else { Err(Failure::new(format!("{what} is {value}, not in {range:?}"))) }
}

pub fn assert(holds: bool, message: impl Display) -> Outcome {
    if holds { Ok(()) } else { Err(Failure::new(message.to_string())) }
}

pub fn trial(version: PgVersion, name: &'static str, test: fn(PgVersion) -> Outcome) -> Trial {
    suite::trial(version, name, move || test(version))
}
