//! Arguments that users write: names, schedules, modes.

use crate::error::{Error, Result};
use crate::schedule;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgtrickle_engine::sql::QualifiedName;
use pgtrickle_pg::class;
use std::ffi::CString;

/// A relation that a user names, whether it exists or not.
pub struct Target {
    pub name: QualifiedName,
}

impl Target {
    /// For messages.
    pub fn label(&self) -> String {
        format!("{}.{}", self.name.schema.as_str(), self.name.name.as_str())
    }

    /// OID of the relation, if it exists.
    pub fn existing(&self) -> Option<u32> {
        let schema = CString::new(self.name.schema.as_str()).ok()?;
        class::named(&schema, self.name.name.as_str())
    }
}

/// Resolves `name` or `schema.name`; without a schema it is the one in which tables are created.
pub fn resolve(name: &str) -> Result<Target> {
    let (parts, current) = Spi::connect(|client| {
        client
            .select("SELECT pg_catalog.parse_ident($1), current_schema()::text", Some(1), &[name.into()])
            .unwrap_or_report()
            .first()
            .get_two::<Vec<String>, String>()
            .unwrap_or_report()
    });
    match (parts.unwrap_or_default().as_slice(), current) {
        ([table], Some(schema)) => Ok(Target { name: QualifiedName::new(schema, table) }),
        ([_], None) => {
            Err(Error::new(PgSqlErrorCode::ERRCODE_INVALID_SCHEMA_NAME, "no schema has been selected to create in")
                .hint("Write schema.name, or set search_path."))
        }
        ([schema, table], _) => Ok(Target { name: QualifiedName::new(schema, table) }),
        _ => Err(Error::new(PgSqlErrorCode::ERRCODE_INVALID_NAME, format!("invalid name of a stream table: {name}"))
            .hint("Write name or schema.name.")),
    }
}

/// Checks a schedule: 'calculated', a non-negative interval, or a cron expression.
pub fn schedule(text: Option<&str>) -> Result<String> {
    let text = text.unwrap_or("calculated").trim();
    if text.eq_ignore_ascii_case("calculated") {
        return Ok("calculated".to_owned());
    }
    if schedule::is_cron(text) {
        // White space of any kind separates fields; blanks are kept.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        return schedule::check_cron(&text).map(|()| text);
    }
    let seconds = PgTryBuilder::new(std::panic::AssertUnwindSafe(|| {
        Spi::connect(|client| {
            client
                .select("SELECT extract(epoch FROM $1::interval)::float8", Some(1), &[text.into()])
                .unwrap_or_report()
                .first()
                .get_one::<f64>()
                .unwrap_or_report()
        })
    }))
    .catch_when(PgSqlErrorCode::ERRCODE_INVALID_DATETIME_FORMAT, |_| None)
    .catch_when(PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW, |_| None)
    .catch_when(PgSqlErrorCode::ERRCODE_INTERVAL_FIELD_OVERFLOW, |_| None)
    .execute();
    match seconds {
        Some(seconds) if (0.0..=1.0e9).contains(&seconds) => Ok(text.to_owned()),
        _ => Err(Error::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, format!("invalid schedule: \"{text}\""))
            .hint("Write '0s' for as soon as changes arrive, an interval such as '5s' or '1h30m', a cron expression, or 'calculated'.")),
    }
}

/// Checks a status that a user may set.
pub fn status(text: &str) -> Result<String> {
    let status = text.to_uppercase();
    match status.as_str() {
        "ACTIVE" | "PAUSED" => Ok(status),
        _ => Err(Error::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, format!("invalid status: \"{text}\""))
            .hint("Use ACTIVE or PAUSED.")),
    }
}

/// Checks a refresh mode.
pub fn refresh_mode(text: &str) -> Result<String> {
    let mode = text.to_uppercase();
    match mode.as_str() {
        "AUTO" | "FULL" | "DIFFERENTIAL" | "IMMEDIATE" => Ok(mode),
        _ => Err(Error::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("invalid refresh mode: \"{text}\""),
        )
        .hint("Use AUTO, DIFFERENTIAL, FULL or IMMEDIATE.")),
    }
}
