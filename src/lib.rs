//! pg_trickle: stream tables, that is, tables defined by a query that keep themselves up to date.

#![allow(clippy::wrong_self_convention, reason = "FROM is SQL's")]

use pgrx::prelude::*;

mod analyze;
mod api;
mod catalog;
mod error;
mod graph;
mod immediate;
mod refresh;
mod schedule;
mod settings;
mod shmem;
mod workers;

::pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/catalog.sql", name = "catalog", bootstrap);
extension_sql_file!(
    "../sql/definitions.sql",
    name = "definitions",
    requires = [
        api::definitions::parents_before_drop,
        api::definitions::sources_changed,
        api::definitions::defined,
        api::guard::stream_table_rewritten,
    ]
);
extension_sql_file!(
    "../sql/immediate.sql",
    name = "immediate",
    requires = [api::triggers::_immediate, api::triggers::_immediate_changed]
);
extension_sql_file!(
    "../sql/look.sql",
    name = "look",
    requires = [
        api::counters::_stream_table_counters,
        api::counters::reliability_counters,
        api::counters::_lag,
        api::counters::_progress,
        api::health::health_check,
        api::look::_diamonds,
        api::look::version,
        api::understand::_id_of,
    ]
);
extension_sql_file!(
    "../sql/stream_tables.sql",
    name = "stream_tables",
    requires = [api::guard::stream_table_altered, api::guard::schema_altered]
);
extension_sql_file!("../sql/views.sql", name = "views", finalize);

#[pg_guard]
#[allow(non_snake_case)]
pub extern "C-unwind" fn _PG_init() {
    settings::register();
    pgtrickle_pg::statistics::install();
    if pgtrickle_pg::worker::preloading() {
        shmem::init();
        workers::register();
    }
}

/// Makes the library an output plugin: PostgreSQL looks this name up when a slot with plugin `pg_trickle` is used.
#[pg_guard]
#[unsafe(no_mangle)]
#[allow(non_snake_case, clippy::missing_safety_doc)]
pub unsafe extern "C-unwind" fn _PG_output_plugin_init(callbacks: *mut pg_sys::OutputPluginCallbacks) {
    // SAFETY: PostgreSQL passes its table to be filled in.
    unsafe { pgtrickle_decoder::callbacks::init(callbacks) }
}
