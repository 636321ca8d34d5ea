//! Updates of the extension from the version before.

use crate::common::shell;
use pgtrickle_tests::install::PgVersion;
use pgtrickle_tests::server::Server;
use pgtrickle_tests::{Failure, Outcome, oracle};

/// Everything about the extension's objects that an update could get wrong, as text.
const CATALOG: &str = "
    SELECT o FROM (
        SELECT format('column %s.%s %s %s %s default %s', a.attrelid::regclass, a.attname, a.attnum, format_type(atttypid, atttypmod),
                      attnotnull, (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef d WHERE adrelid = attrelid AND adnum = attnum))
          FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = 'pgtrickle'::regnamespace AND attnum > 0
        UNION ALL SELECT format('class %s %s %s %s %s', oid::regclass, relkind, reloptions, relacl, obj_description(oid, 'pg_class'))
          FROM pg_class WHERE relnamespace IN ('pgtrickle'::regnamespace, 'pgtrickle_changes'::regnamespace)
        UNION ALL SELECT format('view %s %s', oid::regclass, pg_get_viewdef(oid))
          FROM pg_class WHERE relnamespace = 'pgtrickle'::regnamespace AND relkind = 'v'
        UNION ALL SELECT format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
          FROM pg_constraint WHERE connamespace = 'pgtrickle'::regnamespace
        UNION ALL SELECT format('function %s %s %s', CASE prokind WHEN 'a' THEN oid::regprocedure::text ELSE pg_get_functiondef(oid) END, proacl, obj_description(oid, 'pg_proc'))
          FROM pg_proc WHERE pronamespace = 'pgtrickle'::regnamespace
        UNION ALL SELECT format('table trigger %s', pg_get_triggerdef(t.oid))
          FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal AND c.relnamespace = 'pgtrickle'::regnamespace
        UNION ALL SELECT format('trigger %s %s %s %s', evtname, evtevent, evttags, evtfoid::regproc) FROM pg_event_trigger
        UNION ALL SELECT format('schema %s %s %s', nspname, nspacl, obj_description(oid, 'pg_namespace'))
          FROM pg_namespace WHERE nspname LIKE 'pgtrickle%'
        UNION ALL SELECT format('member %s', pg_describe_object(classid, objid, objsubid))
          FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
           AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_trickle')
        UNION ALL SELECT format('dumped %s %s', c.oid::regclass, condition)
          FROM pg_extension e, unnest(extconfig, extcondition) AS d (relation, condition) JOIN pg_class c ON c.oid = relation
         WHERE extname = 'pg_trickle') AS objects (o)
     WHERE o NOT LIKE '%def_%' ORDER BY 1";

/// A stream table as 0.58.0 left it: table, view and catalog rows.
const OLD_STREAM_TABLE: &str = "CREATE TABLE t (a int, b int); INSERT INTO t SELECT i, i FROM generate_series(1, 10) i; \
    CREATE TABLE st AS SELECT a FROM t WHERE b > 3; \
    CREATE VIEW pgtrickle.def_1 AS SELECT a FROM t WHERE b > 3; \
    INSERT INTO pgtrickle.pgt_stream_tables (pgt_relid, pgt_schema, pgt_name, defining_query, schedule, refresh_mode, \
        effective_refresh_mode, status, is_populated) \
    VALUES ('st'::regclass, 'public', 'st', 'SELECT a FROM t WHERE b > 3', '1s', 'AUTO', 'DIFFERENTIAL', 'ACTIVE', true); \
    INSERT INTO pgtrickle.pgt_dependencies VALUES (1, 't'::regclass, 'TABLE', '{1,2}')";

/// From the version before: the same catalog as a fresh one, stream tables and all.
pub fn update(version: PgVersion) -> Outcome {
    let server = Server::start_bare(version, &[])?;
    shell(&server, "createdb fresh; createdb updated")?;
    let mut fresh = server.session_in("fresh")?;
    fresh.each("CREATE EXTENSION pg_trickle")?;
    let mut updated = server.session_in("updated")?;
    updated.each("CREATE EXTENSION pg_trickle VERSION '0.58.0'")?;
    updated.each(OLD_STREAM_TABLE)?;
    updated.each("ALTER EXTENSION pg_trickle UPDATE TO '0.59.0'")?;
    let (expected, found) = (fresh.rows(CATALOG)?, updated.rows(CATALOG)?);
    let only = |one: &[Vec<Option<String>>], other: &[Vec<Option<String>>]| {
        one.iter().filter(|row| !other.contains(row)).map(oracle::row_text).collect::<Vec<_>>().join("\n")
    };
    if expected != found || expected.len() < 100 {
        let (missing, extra) = (only(&expected, &found), only(&found, &expected));
        return Err(Failure::new(format!("{} objects\nmissing:\n{missing}\nextra:\n{extra}", expected.len())));
    }
    let hashed = "SELECT defining_query_hash = hashtextextended(defining_query, 0) FROM pgtrickle.pgt_stream_tables";
    // The same text is the same stream table.
    let replace = "SELECT pgtrickle.create_or_replace_stream_table('st', 'SELECT a FROM t WHERE b > 3', '1s') = 1";
    fresh.each(
        "CREATE TABLE t (a int, b int); SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t WHERE b > 3', '1s')",
    )?;
    let hash = "SELECT defining_query_hash FROM pgtrickle.pgt_stream_tables";
    let same = fresh.number(hash)? == updated.number(hash)?;
    fresh.each("SELECT pgtrickle.alter_stream_table('st', query => 'SELECT b FROM t')")?;
    if !same || !fresh.holds(hashed)? || !updated.holds(hashed)? || !updated.holds(replace)? {
        return Err(Failure::new("the hash of the query is not what it would be if it were created now"));
    }
    updated
        .each("DELETE FROM t WHERE a = 5; SELECT pgtrickle.repair_stream_table('st'); INSERT INTO t VALUES (77, 77)")?;
    updated.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    oracle::assert_exact(&mut updated, "st", "SELECT a FROM t WHERE b > 3")
}
