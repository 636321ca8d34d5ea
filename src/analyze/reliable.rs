//! Functions that PostgreSQL declares STABLE only because they read settings.
//!
//! A stream table's query is always evaluated with the settings of the session that made it (`refresh/pinned.rs`), so
//! these functions are as good as IMMUTABLE in it. What depends on the clock, the user or other tables is not among them;
//! nor are conversions from text to dates and times, as the text may be 'now'.

use pgtrickle_pg::calls::{Call, prints_reliably};
use pgtrickle_pg::functions::reads_immutably;
use pgtrickle_pg::types::builtin_name;

/// They print their arguments: reliable if these are.
const PRINTERS: [&str; 31] = [
    "anytextcat",
    "array_out",
    "array_to_json",
    "array_to_string",
    "concat",
    "concat_ws",
    "enum_out",
    "format",
    "json_agg",
    "json_agg_strict",
    "json_build_array",
    "json_build_object",
    "json_object_agg",
    "json_object_agg_strict",
    "json_object_agg_unique",
    "jsonb_agg",
    "jsonb_agg_strict",
    "jsonb_build_array",
    "jsonb_build_object",
    "jsonb_object_agg",
    "jsonb_object_agg_strict",
    "jsonb_object_agg_unique",
    "multirange_out",
    "quote_literal",
    "quote_nullable",
    "range_out",
    "record_out",
    "row_to_json",
    "textanycat",
    "to_json",
    "to_jsonb",
];

/// They read TimeZone, DateStyle, IntervalStyle, `lc_*` or `default_text_search_config`, and nothing else that changes.
const BY_SETTINGS: [&str; 62] = [
    "cash_out",
    "date",
    "date_cmp_timestamptz",
    "date_eq_timestamptz",
    "date_ge_timestamptz",
    "date_gt_timestamptz",
    "date_le_timestamptz",
    "date_lt_timestamptz",
    "date_ne_timestamptz",
    "date_out",
    "date_part",
    "date_trunc",
    "extract",
    "generate_series",
    "in_range",
    "interval_out",
    "interval_pl_timestamptz",
    "make_timestamptz",
    "money",
    "numeric",
    "overlaps",
    "phraseto_tsquery",
    "plainto_tsquery",
    "time",
    "timestamp",
    "timestamp_cmp_timestamptz",
    "timestamp_eq_timestamptz",
    "timestamp_ge_timestamptz",
    "timestamp_gt_timestamptz",
    "timestamp_le_timestamptz",
    "timestamp_lt_timestamptz",
    "timestamp_ne_timestamptz",
    "timestamp_out",
    "timestamptz",
    "timestamptz_cmp_date",
    "timestamptz_cmp_timestamp",
    "timestamptz_eq_date",
    "timestamptz_eq_timestamp",
    "timestamptz_ge_date",
    "timestamptz_ge_timestamp",
    "timestamptz_gt_date",
    "timestamptz_gt_timestamp",
    "timestamptz_le_date",
    "timestamptz_le_timestamp",
    "timestamptz_lt_date",
    "timestamptz_lt_timestamp",
    "timestamptz_mi_interval",
    "timestamptz_ne_date",
    "timestamptz_ne_timestamp",
    "timestamptz_out",
    "timestamptz_pl_interval",
    "to_char",
    "to_date",
    "to_number",
    "to_timestamp",
    "to_tsquery",
    "to_tsvector",
    "ts_headline",
    "ts_match_tq",
    "ts_match_tt",
    "websearch_to_tsquery",
    "json_to_tsvector",
];

/// They read values of any type from text: reliable if those are always read in the same way.
const READERS: [&str; 8] = [
    "json_populate_record",
    "json_populate_recordset",
    "json_to_record",
    "json_to_recordset",
    "jsonb_populate_record",
    "jsonb_populate_recordset",
    "jsonb_to_record",
    "jsonb_to_recordset",
];

/// Whether a STABLE function returns the same for the same arguments and settings.
pub(super) fn is_reliable(call: &Call) -> bool {
    let Some(name) = builtin_name(call.function) else { return false };
    BY_SETTINGS.contains(&name.as_str())
        || READERS.contains(&name.as_str())
            && !call.result.is_empty()
            && call.result.iter().all(|ty| reads_immutably(*ty))
        || PRINTERS.contains(&name.as_str()) && call.args.iter().all(|arg| prints_reliably(*arg))
}

#[cfg(test)]
mod tests {
    #[test]
    fn lists_have_no_repetition() {
        for list in [&super::PRINTERS[..], &super::BY_SETTINGS, &super::READERS] {
            let distinct: std::collections::BTreeSet<_> = list.iter().collect();
            assert_eq!(distinct.len(), list.len());
        }
    }
}
