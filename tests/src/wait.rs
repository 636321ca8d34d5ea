//! Waiting for a condition, with a deadline: the only way in which tests let time pass.

use std::time::{Duration, Instant};

use crate::{Failure, Outcome};

/// How long anything that should happen soon may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls until `condition` holds.
pub fn until(what: &str, patience: Duration, mut condition: impl FnMut() -> Outcome<bool>) -> Outcome {
    poll(what, patience, || Ok(condition()?.then_some(())))
}

/// Polls until `attempt` gives a value; an error ends the wait at once.
pub fn poll<T>(what: &str, patience: Duration, mut attempt: impl FnMut() -> Outcome<Option<T>>) -> Outcome<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = attempt()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(format!("{what}: not within {patience:?}")));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Polls until `attempt` succeeds: errors are taken for "not yet", and the last one is told at the deadline.
pub fn retry<T>(what: &str, patience: Duration, mut attempt: impl FnMut() -> Outcome<T>) -> Outcome<T> {
    let deadline = Instant::now() + patience;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.during(format!("{what}: not within {patience:?}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
