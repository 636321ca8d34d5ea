//! When a stream table is to be refreshed.

use crate::error::{Error, Result};
use crate::settings;
use chrono::{DateTime, Utc};
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use pgrx::PgSqlErrorCode as Code;
use std::time::Duration;

/// 2000-01-01, from which PostgreSQL counts, after 1970-01-01.
const EPOCH_OFFSET_US: i64 = 946_684_800_000_000;

/// Data younger than this is never stale.
const PATIENCE_US: i64 = 10_000_000;

/// What a schedule says.
#[derive(Clone, Debug)]
pub enum Schedule {
    /// As often as those who read the stream table.
    Calculated,
    /// At intervals.
    Every(Duration),
    /// At these times, in UTC.
    Cron(Box<Cron>),
}

impl Schedule {
    /// A schedule as the catalog has it; `seconds` is that of an interval.
    pub fn of(text: &str, seconds: Option<f64>) -> Schedule {
        match (seconds, is_cron(text)) {
            (Some(seconds), _) => Schedule::Every(Duration::from_secs_f64(seconds.clamp(0.0, 1.0e9))),
            (None, true) => parse_cron(text).map_or(Schedule::Calculated, |cron| Schedule::Cron(Box::new(cron))),
            (None, false) => Schedule::Calculated,
        }
    }

    /// From when on data that was current at `fresh` is stale: two refreshes were missed, or three intervals have passed, and
    /// at least ten seconds.
    pub fn stale_at(&self, fresh: i64) -> i64 {
        let three = |every: Duration| fresh.saturating_add((every * 3).as_micros() as i64);
        let missed = match self {
            Schedule::Every(every) => three(*every),
            Schedule::Calculated => three(default_interval()),
            Schedule::Cron(cron) => next(cron, next(cron, fresh)),
        };
        missed.max(fresh.saturating_add(PATIENCE_US))
    }
}

/// The interval of schedule 'calculated' where nobody reads.
pub fn default_interval() -> Duration {
    Duration::from_secs(settings::DEFAULT_SCHEDULE_SECONDS.get().max(0) as u64)
}

/// Whether a schedule is meant as cron's: a nickname, or five or six fields of which the first two are numbers.
pub fn is_cron(text: &str) -> bool {
    let field = |field: &&str| field.chars().all(|c| c.is_ascii_digit() || "*-/,?".contains(c));
    let nickname = text.strip_prefix('@').is_some_and(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()));
    nickname || (text.split_whitespace().count() >= 5 && text.split_whitespace().take(2).all(|f| field(&f)))
}

/// An error if it is not cron's.
pub fn check_cron(text: &str) -> Result<()> {
    let cron = parse_cron(text)?;
    // 30 February: it would never be refreshed.
    cron.find_next_occurrence(&at(0), false).map(drop).map_err(|error| invalid(text, &error.to_string()))
}

fn parse_cron(text: &str) -> Result<Cron> {
    let parser = CronParser::builder().seconds(Seconds::Optional).build();
    parser.parse(text).map_err(|error| invalid(text, &error.to_string()))
}

fn invalid(text: &str, why: &str) -> Error {
    Error::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, format!("invalid schedule: \"{text}\""))
        .detail(format!("Read as a cron expression: {why}."))
        .hint("Five fields are minute, hour, day of month, month, day of week; six begin with the second. Times are in UTC.")
}

fn at(us: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(us + EPOCH_OFFSET_US).unwrap_or_default()
}

/// How long from `now` until the first time of `cron` after `last`; zero if that has passed, however often. In microseconds
/// since 2000-01-01.
pub fn until_next(cron: &Cron, last: i64, now: i64) -> Duration {
    Duration::from_micros((next(cron, last) - now).max(0) as u64)
}

/// The first time of `cron` after `last`; far away if there is none.
fn next(cron: &Cron, last: i64) -> i64 {
    let next = cron.find_next_occurrence(&at(last), false);
    next.map_or(i64::MAX / 4, |next| next.timestamp_micros() - EPOCH_OFFSET_US)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cron_is_told_from_intervals() {
        for text in ["@hourly", "@daily", "*/5 * * * *", "0 0 12 * * MON", "1,2 3-4 * * *", "30 */10 * * * *"] {
            assert!(is_cron(text) && check_cron(text).is_ok(), "{text}");
        }
        for text in [
            "1 hour 30 minutes 5 seconds",
            "5s",
            "@ 1 minute",
            "1 day 2 hours 3 minutes",
            "calculated",
            "1-2 3 4:05:06",
        ] {
            assert!(!is_cron(text), "{text}");
        }
        for text in ["@sometimes", "61 * * * *", "* * 30 2 *", "1 2 3 4 5 6 7"] {
            assert!(is_cron(text) && check_cron(text).is_err(), "{text}");
        }
    }

    #[test]
    fn missed_times_count_once() {
        let cron = parse_cron("0 * * * *").unwrap();
        let (minute, hour) = (60_000_000, 3_600_000_000);
        assert_eq!(until_next(&cron, 0, minute), Duration::from_secs(59 * 60));
        assert_eq!(until_next(&cron, 0, 5 * hour), Duration::ZERO);
        assert_eq!(until_next(&cron, 5 * hour + minute, 5 * hour + minute), Duration::from_secs(59 * 60));
    }
    #[test]
    fn data_is_stale_when_two_refreshes_were_missed() {
        let (second, hour) = (1_000_000, 3_600_000_000);
        let every = |seconds| Schedule::Every(Duration::from_secs(seconds)).stale_at(hour);
        assert_eq!([every(0), every(1), every(60)], [10, 10, 180].map(|s| hour + s * second));
        let hourly = Schedule::Cron(Box::new(parse_cron("@hourly").unwrap()));
        assert_eq!(hourly.stale_at(5 * hour + second), 7 * hour);
    }
}
