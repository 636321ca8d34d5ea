//! Settings of a session that what a query computes may depend on. They are pinned when a stream table is made, like the
//! SET clauses of a function: whoever refreshes it, wherever, computes the same. Only then can functions that read
//! them (date_trunc of a timestamptz, to_char) be maintained by changes.

use pgtrickle_pg::spi::setting;
use std::ffi::{CStr, CString};

/// The settings that are pinned.
const NAMES: [&CStr; 12] = [
    c"TimeZone",
    c"DateStyle",
    c"IntervalStyle",
    c"extra_float_digits",
    c"bytea_output",
    c"lc_monetary",
    c"lc_numeric",
    c"lc_time",
    c"default_text_search_config",
    c"xmlbinary",
    c"xmloption",
    c"quote_all_identifiers",
];

/// A setting and its value.
pub type Setting = (CString, CString);

/// What the catalog keeps of this session: `name=value` each.
pub fn current() -> Vec<String> {
    let entry = |name: &CStr| setting(name).map(|value| format!("{}={value}", name.to_string_lossy()));
    NAMES.into_iter().filter_map(entry).collect()
}

/// Reads back what [`current`] gave.
pub fn parse(entries: &[String]) -> Vec<Setting> {
    let pair = |entry: &String| {
        let (name, value) = entry.split_once('=')?;
        Some((CString::new(name).ok()?, CString::new(value).ok()?))
    };
    entries.iter().filter_map(pair).collect()
}

/// Those that this session has otherwise; usually none.
pub fn different(pinned: &[Setting]) -> impl Iterator<Item = (&CStr, &CStr)> {
    let differs = |(name, value): &&Setting| setting(name).is_none_or(|now| now.as_bytes() != value.as_bytes());
    pinned.iter().filter(differs).map(|(name, value)| (name.as_c_str(), value.as_c_str()))
}
