//! The plugin's options.
//!
//! | option | values | default | meaning |
//! |---|---|---|---|
//! | `format_version` | `1` | `1` | version of the wire format; others are refused |
//! | `encoding` | `binary`, `raw` | `binary` | rows as the output of send functions, or as this server's heap tuples |
//! | `tables` | `schema.name, …` | all ordinary tables | which tables; a partitioned table is named by its root |
//! | `tracked` | boolean | `off` | the tables and columns in `pgtrickle.pgt_change_tracking` instead |
//! | `messages` | boolean | `off` | logical messages of any prefix, too |
//!
//! UPDATE and DELETE need the old row, so REPLICA IDENTITY FULL: at the first one without it the stream says that the
//! table is degraded and tells no more of it.

use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys::panic::ErrorReport};
use pgtrickle_wire::{Encoding, FORMAT_VERSION};
use std::fmt;

/// Which tables' changes are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tables {
    /// All ordinary tables outside of the system's and our own schemas.
    All,
    /// These: schema and name.
    Named(Vec<(String, String)>),
    /// Those in `pgtrickle.pgt_change_tracking`.
    Tracked,
}

/// What a run of the plugin was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How rows are encoded.
    pub encoding: Encoding,
    /// Which tables.
    pub tables: Tables,
    /// Whether logical messages of any prefix are sent.
    pub messages: bool,
}

/// Why the options cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionError {
    /// An option that does not exist.
    Unknown(String),
    /// An option without the value it needs, or with one that it does not take.
    Value {
        /// Which.
        name: &'static str,
        /// What it was given.
        value: Option<String>,
        /// What it takes.
        takes: &'static str,
    },
    /// Two options that exclude each other.
    TablesAndTracked,
    /// A format that this version does not write.
    Version(String),
}

impl OptionError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            OptionError::Unknown(_) => "The options are format_version, encoding, tables, tracked and messages.".into(),
            OptionError::Value { takes, .. } => format!("It takes {takes}."),
            OptionError::TablesAndTracked => "Leave one of them out.".into(),
            OptionError::Version(_) => format!("This version writes format {FORMAT_VERSION}."),
        }
    }

    /// Raises it as an error of PostgreSQL.
    pub fn raise(&self) -> ! {
        let code = match self {
            OptionError::Version(_) => PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            _ => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        };
        ErrorReport::new(code, self.to_string(), "pg_trickle").set_hint(self.hint()).report(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionError::Unknown(name) => write!(f, "unrecognized pg_trickle option \"{name}\""),
            OptionError::Value { name, value: None, .. } => write!(f, "pg_trickle option \"{name}\" needs a value"),
            OptionError::Value { name, value: Some(value), .. } => {
                write!(f, "invalid value for pg_trickle option \"{name}\": \"{value}\"")
            }
            OptionError::TablesAndTracked => {
                write!(f, "pg_trickle options \"tables\" and \"tracked\" exclude each other")
            }
            OptionError::Version(version) => write!(f, "pg_trickle change format {version} is not supported"),
        }
    }
}

impl std::error::Error for OptionError {}

impl Options {
    /// From what was given by name, in order; a later value replaces an earlier one.
    pub fn parse(given: &[(String, Option<String>)]) -> Result<Self, OptionError> {
        let mut options = Options { encoding: Encoding::Binary, tables: Tables::All, messages: false };
        let mut named = None;
        for (name, value) in given {
            match name.as_str() {
                "format_version" => check_version(value)?,
                "encoding" => options.encoding = encoding(value)?,
                "tables" => named = Some(tables(value)?),
                "tracked" => options.tables = if boolean("tracked", value)? { Tables::Tracked } else { Tables::All },
                "messages" => options.messages = boolean("messages", value)?,
                _ => return Err(OptionError::Unknown(name.clone())),
            }
        }
        match (named, &options.tables) {
            (Some(_), Tables::Tracked) => Err(OptionError::TablesAndTracked),
            (Some(named), _) => Ok(Options { tables: Tables::Named(named), ..options }),
            (None, _) => Ok(options),
        }
    }
}

fn wrong<T>(name: &'static str, value: &Option<String>, takes: &'static str) -> Result<T, OptionError> {
    Err(OptionError::Value { name, value: value.clone(), takes })
}

fn check_version(value: &Option<String>) -> Result<(), OptionError> {
    match value.as_deref().map(str::parse::<u16>) {
        Some(Ok(FORMAT_VERSION)) => Ok(()),
        Some(Ok(other)) => Err(OptionError::Version(other.to_string())),
        _ => wrong("format_version", value, "a number"),
    }
}

fn encoding(value: &Option<String>) -> Result<Encoding, OptionError> {
    match value.as_deref() {
        Some("binary") => Ok(Encoding::Binary),
        Some("raw") => Ok(Encoding::Raw),
        _ => wrong("encoding", value, "\"binary\" or \"raw\""),
    }
}

/// An option without a value is one that is switched on.
fn boolean(name: &'static str, value: &Option<String>) -> Result<bool, OptionError> {
    match value.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("on" | "true" | "yes" | "1") => Ok(true),
        Some("off" | "false" | "no" | "0") => Ok(false),
        _ => wrong(name, value, "a boolean"),
    }
}

const NAMES: &str = "schema-qualified names separated by commas, such as 'public.orders, \"Sales\".\"Items\"'";

fn tables(value: &Option<String>) -> Result<Vec<(String, String)>, OptionError> {
    let names = value.as_deref().and_then(parse_names);
    names.map_or_else(|| wrong("tables", value, NAMES), Ok)
}

/// `a.b, "C"."d.e"`: None if it is anything else, or empty.
fn parse_names(text: &str) -> Option<Vec<(String, String)>> {
    let mut rest = text;
    let mut names = Vec::new();
    loop {
        let (schema, after) = parse_identifier(rest)?;
        let (name, after) = parse_identifier(after.trim_start().strip_prefix('.')?)?;
        names.push((schema, name));
        rest = after.trim_start();
        if rest.is_empty() {
            return Some(names);
        }
        rest = rest.strip_prefix(',')?;
    }
}

/// As SQL reads one: folded to lower case unless quoted.
fn parse_identifier(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c.is_whitespace() || matches!(c, '.' | ',' | '"')).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_lowercase(), &text[end..]));
    };
    let mut name = String::new();
    loop {
        let quote = rest.find('"')?;
        name.push_str(&rest[..quote]);
        rest = &rest[quote + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                name.push('"');
                rest = after;
            }
            None => return (!name.is_empty()).then_some((name, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[(&str, Option<&str>)]) -> Result<Options, OptionError> {
        let given: Vec<_> = given.iter().map(|(n, v)| (n.to_string(), v.map(str::to_string))).collect();
        Options::parse(&given)
    }

    #[test]
    fn names_are_read_as_sql_reads_them() {
        let parsed = parse_names(" Public.Orders , \"S a\".\"x\"\".y\"").unwrap();
        assert_eq!(parsed, [("public".into(), "orders".into()), ("S a".into(), "x\".y".into())]);
        for wrong in ["", "orders", "a.b,", "a.b c.d", "\"a.b", "a..b", ",a.b", "\"\".b"] {
            assert_eq!(parse_names(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_not_an_option_is_refused() {
        assert!(matches!(parse(&[("colour", None)]), Err(OptionError::Unknown(_))));
        assert!(matches!(parse(&[("format_version", Some("2"))]), Err(OptionError::Version(_))));
        assert!(matches!(parse(&[("encoding", Some("text"))]), Err(OptionError::Value { .. })));
        assert!(matches!(parse(&[("messages", Some("maybe"))]), Err(OptionError::Value { .. })));
        let both = parse(&[("tables", Some("a.b")), ("tracked", None)]);
        assert_eq!(both, Err(OptionError::TablesAndTracked));
    }

    #[test]
    fn nothing_given_means_everything_in_binary() {
        let options = parse(&[]).unwrap();
        assert_eq!(options, Options { encoding: Encoding::Binary, tables: Tables::All, messages: false });
    }
}
