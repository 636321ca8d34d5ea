//! pg_trickle: stream tables, that is, tables defined by a query that keep themselves up to date.

::pgrx::pg_module_magic!(name, version);
