-- Functions and views in SQL, and what ties the extension to drops of stream tables.

CREATE FUNCTION pgtrickle.pgt_status()
RETURNS TABLE (schema text, name text, status text, refresh_mode text, effective_refresh_mode text, schedule text,
               is_populated boolean, staleness interval, data_timestamp timestamptz, last_refresh_at timestamptz,
               consecutive_errors integer, last_error_message text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT n.nspname::text, c.relname::text, s.status, s.refresh_mode, s.effective_refresh_mode, s.schedule,
           s.is_populated, v.staleness, s.data_timestamp, s.last_refresh_at,
           s.consecutive_errors, v.last_error_message
      FROM pgtrickle.pgt_stream_tables s
      LEFT JOIN pgtrickle.pg_stat_stream_tables v USING (pgt_id)
      JOIN pg_class c ON c.oid = s.pgt_relid
      JOIN pg_namespace n ON n.oid = c.relnamespace
     ORDER BY 1, 2
$$;
COMMENT ON FUNCTION pgtrickle.pgt_status() IS 'State of each stream table; staleness is the time since its data was last known to be current';

CREATE FUNCTION pgtrickle.slot_health()
RETURNS TABLE (slot_name text, active boolean, active_pid integer, wal_status text, retained_wal_bytes bigint,
               restart_lsn pg_lsn, confirmed_flush_lsn pg_lsn, catalog_xmin_age integer, generation bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.slot_name::text, s.active, s.active_pid, s.wal_status,
           (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - s.restart_lsn)::bigint, s.restart_lsn, s.confirmed_flush_lsn,
           age(s.catalog_xmin), c.generation
      FROM pg_replication_slots s
      LEFT JOIN pgtrickle.pgt_capture c ON c.slot_name = s.slot_name
     WHERE s.database = current_database() AND s.plugin = 'pg_trickle'
$$;
COMMENT ON FUNCTION pgtrickle.slot_health() IS 'The replication slots of this database that use the output plugin';

CREATE FUNCTION pgtrickle.get_refresh_history(name text, max_rows integer DEFAULT 20)
RETURNS SETOF pgtrickle.pgt_refresh_history
LANGUAGE sql STABLE AS $$
    SELECT h.* FROM pgtrickle._history h
      JOIN pgtrickle.pgt_stream_tables s USING (pgt_id)
     WHERE s.pgt_relid = pg_catalog.to_regclass(name)
     ORDER BY h.refresh_id DESC LIMIT max_rows
$$;
COMMENT ON FUNCTION pgtrickle.get_refresh_history(text, integer) IS 'The newest refreshes of a stream table';

-- Rows that the slowest reader has not seen yet. The buffers themselves are for the extension's owner alone.
CREATE FUNCTION pgtrickle.change_buffer_sizes()
RETURNS TABLE (stream_table text, source_table text, source_oid oid, cdc_mode text, pending_rows bigint, buffer_bytes bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dependency record;
BEGIN
    FOR dependency IN
        SELECT s.pgt_relid, s.frontier, s.frontier_xid, s.refresh_mode, d.source_relid, d.source_type,
               'pgtrickle_changes.changes_' || d.source_relid::oid AS buffer
          FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_stream_tables s USING (pgt_id)
         ORDER BY 1, 4
    LOOP
        stream_table := dependency.pgt_relid::regclass::text;
        source_table := dependency.source_relid::regclass::text;
        source_oid := dependency.source_relid;
        cdc_mode := CASE WHEN dependency.refresh_mode = 'IMMEDIATE' THEN 'TRIGGER' WHEN dependency.source_type = 'TABLE' THEN 'WAL'
                         WHEN dependency.source_type = 'STREAM_TABLE' THEN 'REFRESH' ELSE 'NONE' END;
        pending_rows := 0;
        buffer_bytes := 0;
        IF dependency.refresh_mode = 'IMMEDIATE' THEN
            RETURN NEXT;
            CONTINUE;
        END IF;
        BEGIN
            EXECUTE format('SELECT count(*) FROM %s WHERE NOT coalesce(pg_visible_in_snapshot(xid, $1) OR xid = $2, false)',
                           dependency.buffer)
               INTO pending_rows USING dependency.frontier, dependency.frontier_xid;
            SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0) INTO buffer_bytes
              FROM pg_inherits WHERE inhparent = to_regclass(dependency.buffer);
            -- So that its locks are not kept until the caller's transaction ends: no segment could be emptied.
            RAISE SQLSTATE 'PGT00';
        EXCEPTION WHEN SQLSTATE 'PGT00' OR undefined_table THEN
            NULL; -- Seen; or there is none, or its stream table is being dropped.
        END;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION pgtrickle.change_buffer_sizes() IS 'Per stream table and source: change rows not yet applied, and bytes of the buffer';

CREATE VIEW pgtrickle.stream_tables_info AS
    SELECT s.pgt_id, s.pgt_relid, s.pgt_schema, s.pgt_name, s.defining_query, s.schedule, s.refresh_mode, s.effective_refresh_mode, s.full_reason,
           s.time_dependent, s.status, s.is_populated, s.frontier, s.frontier_lsn, s.frontier_xid, s.generation, s.data_timestamp,
           s.last_refresh_at, s.program_fingerprint, s.consecutive_errors, s.needs_reinit,
           CASE WHEN s.last_error_message IS NOT NULL AND pgtrickle._sees_errors_of(s.pgt_relid) THEN s.last_error_message END AS last_error_message,
           s.last_error_at, s.created_at, s.defining_query_hash, s.settings, s.home_relid,
           pg_catalog.clock_timestamp() - s.data_timestamp AS staleness
      FROM pgtrickle.pgt_stream_tables s;
COMMENT ON VIEW pgtrickle.stream_tables_info IS 'The catalog of stream tables, with the time since the snapshot of the last refresh';
GRANT SELECT ON pgtrickle.stream_tables_info TO PUBLIC;

-- All but the texts of errors, which views and functions show to those whom they concern. (As with PostgreSQL's own pg_subscription,
-- `SELECT *` is not for everybody.)
REVOKE ALL ON pgtrickle.pgt_stream_tables, pgtrickle.pgt_refresh_history FROM PUBLIC;
GRANT SELECT ON pgtrickle.pgt_stream_tables, pgtrickle.pgt_refresh_history TO pg_read_all_stats;
GRANT SELECT (xmin, pgt_id, pgt_relid, pgt_schema, pgt_name, defining_query, schedule, refresh_mode, effective_refresh_mode, full_reason, time_dependent,
              status, is_populated, frontier, frontier_lsn, frontier_xid, generation, data_timestamp, last_refresh_at, program_fingerprint,
              consecutive_errors, needs_reinit, last_error_at, created_at, defining_query_hash, settings, home_relid)
    ON pgtrickle.pgt_stream_tables TO PUBLIC;
GRANT SELECT (refresh_id, pgt_id, start_time, end_time, duration, action, status, refreshes, rows_inserted, rows_deleted, delta_row_count, barrier_wait,
              initiated_by)
    ON pgtrickle.pgt_refresh_history TO PUBLIC;

CREATE FUNCTION pgtrickle._on_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone bigint;
BEGIN
    IF to_regclass('pgtrickle.pgt_stream_tables') IS NULL THEN
        RETURN;
    END IF;
    FOR gone IN
        SELECT s.pgt_id
          FROM pg_event_trigger_dropped_objects() d
          JOIN pgtrickle.pgt_stream_tables s ON s.pgt_relid = d.objid
         WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0
    LOOP
        PERFORM pgtrickle._forget(gone);
    END LOOP;
    PERFORM pgtrickle._buffer_gone(e.source_relid::text, d.object_name)
       FROM pg_event_trigger_dropped_objects() d
       JOIN pgtrickle.pgt_dependencies e ON d.object_name = 'changes_' || e.source_relid::oid
       JOIN pgtrickle.pgt_stream_tables s USING (pgt_id)
       JOIN pg_class c ON c.oid = e.source_relid
      WHERE d.object_type = 'table' AND d.schema_name = 'pgtrickle_changes' AND s.refresh_mode <> 'IMMEDIATE' LIMIT 1;
END
$$;
-- It looks at the command itself, so that it is told in a function, too, and of a schema or an owner that takes the extension along.
CREATE FUNCTION pgtrickle._before_drop_extension() RETURNS event_trigger
    LANGUAGE c SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'pgtrickle_before_drop';
CREATE EVENT TRIGGER pg_trickle_before_drop_extension ON ddl_command_start WHEN TAG IN ('DROP EXTENSION', 'DROP SCHEMA', 'DROP OWNED')
    EXECUTE FUNCTION pgtrickle._before_drop_extension();
ALTER EVENT TRIGGER pg_trickle_before_drop_extension ENABLE ALWAYS;

REVOKE EXECUTE ON FUNCTION pgtrickle._on_drop(), pgtrickle._buffer_gone(text, text), pgtrickle._forget(bigint), pgtrickle._installed() FROM PUBLIC;
CREATE EVENT TRIGGER pg_trickle_on_drop ON sql_drop EXECUTE FUNCTION pgtrickle._on_drop();
ALTER EVENT TRIGGER pg_trickle_on_drop ENABLE ALWAYS;

SELECT pgtrickle._installed();
