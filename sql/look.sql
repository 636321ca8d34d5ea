-- Looking at stream tables and their workers, and understanding them. Functions in SQL, each with a comment from which
-- docs/API.md is made. What shared memory counts comes from the functions of src/api/counters.rs.

-- The text of an error may hold values of rows: it is for the owner of the stream table, and for those who may see everybody's statements.
CREATE FUNCTION pgtrickle._sees_errors_of(stream_table oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_has_role('pg_read_all_stats', 'USAGE')
        OR EXISTS (SELECT FROM pg_class c WHERE c.oid = stream_table AND pg_has_role(c.relowner, 'USAGE'))
$$;

-- How each stream table fares: state from the catalog, counters since the server started from shared memory.
CREATE VIEW pgtrickle.pg_stat_stream_tables AS
    SELECT s.pgt_id, n.nspname::text AS schema, c.relname::text AS name, s.status, s.refresh_mode, s.effective_refresh_mode,
           s.is_populated, GREATEST(s.data_timestamp, k.current_at) AS data_timestamp,
           clock_timestamp() - GREATEST(s.data_timestamp, k.current_at) AS staleness,
           s.status NOT IN ('PAUSED', 'SUSPENDED') AND coalesce(clock_timestamp() >= k.stale_at, false) AS is_stale,
           k.last_refresh_at, k.last_ms AS last_duration_ms,
           CASE WHEN k.differential + k.full_refreshes > 0 THEN k.total_ms / (k.differential + k.full_refreshes) END AS avg_duration_ms,
           coalesce(k.differential + k.full_refreshes, 0) AS refreshes, coalesce(k.differential, 0) AS differential_refreshes,
           coalesce(k.full_refreshes, 0) AS full_refreshes, coalesce(k.failures, 0) AS failures,
           coalesce(k.rows_changed, 0) AS rows_changed, s.consecutive_errors,
           CASE WHEN s.last_error_message IS NOT NULL AND pgtrickle._sees_errors_of(s.pgt_relid) THEN s.last_error_message END AS last_error_message,
           s.last_error_at
      FROM pgtrickle.pgt_stream_tables s
      JOIN pg_catalog.pg_class c ON c.oid = s.pgt_relid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pgtrickle._stream_table_counters() k ON k.pgt_id = s.pgt_id;
COMMENT ON VIEW pgtrickle.pg_stat_stream_tables IS
    'How each stream table fares: status, staleness, whether that is more than its schedule allows, and its refreshes since the server started';

CREATE VIEW pgtrickle._history AS
    SELECT h.refresh_id, h.pgt_id, h.start_time, h.end_time, h.duration, h.action, h.status, h.refreshes, h.rows_inserted, h.rows_deleted,
           h.delta_row_count, h.barrier_wait, h.initiated_by,
           CASE WHEN h.error_message IS NOT NULL AND pgtrickle._sees_errors_of(s.pgt_relid) THEN h.error_message END AS error_message
      FROM pgtrickle.pgt_refresh_history h LEFT JOIN pgtrickle.pgt_stream_tables s USING (pgt_id);

COMMENT ON VIEW pgtrickle._history IS 'The history of refreshes without those texts of errors that are not for its reader';

CREATE FUNCTION pgtrickle.st_refresh_stats()
RETURNS TABLE (stream_table text, status text, refresh_mode text, total_refreshes bigint, successful_refreshes bigint,
               failed_refreshes bigint, rows_inserted bigint, rows_deleted bigint, avg_duration_ms double precision,
               max_duration_ms double precision, last_action text, last_refresh_at timestamptz, staleness_seconds double precision)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('%I.%I', v.schema, v.name), v.status, v.effective_refresh_mode,
           coalesce(sum(h.refreshes), 0), coalesce(sum(h.refreshes) FILTER (WHERE h.status = 'COMPLETED'), 0),
           coalesce(sum(h.refreshes) FILTER (WHERE h.status = 'FAILED'), 0),
           coalesce(sum(h.rows_inserted), 0)::bigint, coalesce(sum(h.rows_deleted), 0)::bigint,
           (avg(extract(epoch FROM h.duration)) * 1000)::float8, (max(extract(epoch FROM h.duration)) * 1000)::float8,
           (array_agg(h.action ORDER BY h.refresh_id DESC) FILTER (WHERE h.status = 'COMPLETED'))[1],
           GREATEST(max(h.end_time), v.last_refresh_at), extract(epoch FROM v.staleness)::float8
      FROM pgtrickle.pg_stat_stream_tables v LEFT JOIN pgtrickle._history h USING (pgt_id)
     GROUP BY v.schema, v.name, v.status, v.effective_refresh_mode, v.last_refresh_at, v.staleness
     ORDER BY 1
$$;
COMMENT ON FUNCTION pgtrickle.st_refresh_stats() IS
    'Per stream table the refreshes that the history holds: how many, how long, how many rows, what the last one did';

CREATE FUNCTION pgtrickle.refresh_timeline(max_rows integer DEFAULT 50)
RETURNS TABLE (start_time timestamptz, stream_table text, action text, status text, duration_ms double precision,
               refreshes integer, rows_inserted bigint, rows_deleted bigint, initiated_by text, error_message text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT h.start_time, coalesce(quote_ident(s.pgt_schema) || '.' || quote_ident(s.pgt_name), format('(dropped, id %s)', h.pgt_id)), h.action,
           h.status, (extract(epoch FROM h.duration) * 1000)::float8, h.refreshes, h.rows_inserted, h.rows_deleted,
           h.initiated_by, h.error_message
      FROM pgtrickle._history h LEFT JOIN pgtrickle.pgt_stream_tables s USING (pgt_id)
     ORDER BY h.start_time DESC, h.refresh_id DESC LIMIT max_rows
$$;
COMMENT ON FUNCTION pgtrickle.refresh_timeline(integer) IS 'The newest refreshes of all stream tables, the last one first';

CREATE FUNCTION pgtrickle.freshness()
RETURNS TABLE (samples bigint, p50_seconds double precision, p95_seconds double precision, p99_seconds double precision)
LANGUAGE sql VOLATILE AS 'SELECT samples, p50_seconds, p95_seconds, p99_seconds FROM pgtrickle._lag()';
COMMENT ON FUNCTION pgtrickle.freshness() IS
    'Commit to visible: how old changes were when refreshes showed them, percentiles of the last 256 samples of each worker, of at most 15 minutes';

CREATE FUNCTION pgtrickle.cache_stats()
RETURNS TABLE (hits bigint, misses bigint, evictions bigint, hit_ratio double precision, max_entries integer)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT h, m, e, h::float8 / nullif(h + m, 0), current_setting('pg_trickle.template_cache_max_entries')::integer
      FROM (SELECT coalesce(max(value) FILTER (WHERE name = 'cache_hits'), 0), coalesce(max(value) FILTER (WHERE name = 'cache_misses'), 0),
                   coalesce(max(value) FILTER (WHERE name = 'cache_evictions'), 0)
              FROM pgtrickle.reliability_counters()) AS c (h, m, e)
$$;
COMMENT ON FUNCTION pgtrickle.cache_stats() IS 'The cache of refresh programs of this database''s processes, since the server started';

CREATE FUNCTION pgtrickle.worker_pool_status()
RETURNS TABLE (worker text, pid integer, state text, doing text, since timestamptz, queued bigint, idle_ms_total bigint)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.backend_type, a.pid,
           CASE WHEN a.backend_type IN ('pg_trickle_launcher', 'pg_trickle_wal_decoder', 'pg_trickle_apply') THEN 'running'
                WHEN a.state = 'active' THEN 'busy' ELSE a.state END,
           CASE a.backend_type WHEN 'pg_trickle_launcher' THEN 'looking after the workers of all databases' ELSE a.query END, a.state_change,
           CASE WHEN a.backend_type = 'pg_trickle_scheduler' THEN c.queued END,
           CASE WHEN a.backend_type = 'pg_trickle_scheduler' THEN c.idle END
      FROM pg_stat_activity a
     CROSS JOIN (SELECT coalesce(max(value) FILTER (WHERE name = 'jobs_queued'), 0),
                        coalesce(max(value) FILTER (WHERE name = 'worker_idle_ms'), 0)
                   FROM pgtrickle.reliability_counters()) AS c (queued, idle)
     WHERE a.backend_type LIKE 'pg\_trickle\_%' AND (a.datname = current_database() OR a.datname IS NULL)
     ORDER BY 1, 2
$$;
COMMENT ON FUNCTION pgtrickle.worker_pool_status() IS
    'The workers that serve this database: what each is doing, busy or idle if it refreshes; beside the scheduler the jobs that wait and the time that all who refresh have spent idle';

CREATE VIEW pgtrickle.pg_stat_progress_pgtrickle AS
    SELECT p.pid, current_database() AS datname, p.relid, s.pgt_schema AS schema, s.pgt_name AS name, p.phase, p.step, p.steps,
           p.rows AS rows_so_far, p.started_at, clock_timestamp() - p.started_at AS running
      FROM pgtrickle._progress() p LEFT JOIN pgtrickle.pgt_stream_tables s ON s.pgt_relid = p.relid;
COMMENT ON VIEW pgtrickle.pg_stat_progress_pgtrickle IS
    'Fills and recomputations that run now: at which step, rows written so far. The name is NULL while its creation has not committed';

CREATE FUNCTION pgtrickle.parallel_job_status(seconds integer DEFAULT 300)
RETURNS TABLE (stream_table text, status text, action text, started_at timestamptz, finished_at timestamptz,
               duration_ms double precision, detail text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(quote_ident(p.schema) || '.' || quote_ident(p.name), p.relid::text), 'RUNNING', upper(p.phase), p.started_at, NULL::timestamptz,
           (extract(epoch FROM p.running) * 1000)::float8, format('step %s of %s, %s rows so far', p.step, p.steps, p.rows_so_far)
      FROM pgtrickle.pg_stat_progress_pgtrickle p
    UNION ALL
    (SELECT t.stream_table, t.status, t.action, t.start_time, t.start_time + make_interval(secs => t.duration_ms / 1000), t.duration_ms,
            coalesce(t.error_message, format('%s inserted, %s deleted', t.rows_inserted, t.rows_deleted)
                                      || CASE WHEN t.refreshes > 1 THEN format(' in %s refreshes', t.refreshes) ELSE '' END)
       FROM pgtrickle.refresh_timeline(100000) t WHERE t.start_time > clock_timestamp() - make_interval(secs => seconds))
$$;
COMMENT ON FUNCTION pgtrickle.parallel_job_status(integer) IS
    'Refreshes that run now, and those of the last so many seconds that the history holds';

CREATE FUNCTION pgtrickle.check_cdc_health()
RETURNS TABLE (source_table text, source_oid oid, state text, replica_identity text, slot_name text, slot_active boolean,
               retained_wal_bytes bigint, alert text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(quote_ident(n.nspname) || '.' || quote_ident(c.relname), t.source_relid::oid::text), t.source_relid, t.state,
           CASE c.relreplident WHEN 'f' THEN 'FULL' WHEN 'd' THEN 'DEFAULT' WHEN 'i' THEN 'INDEX' ELSE 'NOTHING' END,
           t.slot_name, coalesce(s.active, false), (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - s.restart_lsn)::bigint,
           CASE WHEN c.oid IS NULL THEN 'the table no longer exists'
                WHEN t.state <> 'ACTIVE' THEN 'capture stopped: ' || coalesce(t.detail, '') || '; see pgtrickle.repair_stream_table()'
                WHEN to_regclass('pgtrickle_changes.changes_' || t.source_relid::oid) IS NULL
                     THEN 'its change buffer is gone, so that its readers are recomputed at each change; see pgtrickle.repair_stream_table()'
                WHEN c.relreplident <> 'f' AND c.relkind = 'r' THEN format('ALTER TABLE %I.%I REPLICA IDENTITY FULL', n.nspname, c.relname)
                WHEN s.slot_name IS NULL THEN 'the replication slot does not exist; it is made anew by itself'
                WHEN NOT s.active THEN 'no decoder uses the slot; see pgtrickle.health_check()' END
      FROM pgtrickle.pgt_change_tracking t
      LEFT JOIN pg_class c ON c.oid = t.source_relid
      LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_replication_slots s ON s.slot_name = t.slot_name
     ORDER BY 1
$$;
COMMENT ON FUNCTION pgtrickle.check_cdc_health() IS 'Capture of each source; alert says what is wrong with it and how to mend it';

CREATE FUNCTION pgtrickle.dependency_tree()
RETURNS TABLE (tree_line text, relation text, kind text, depth integer, status text, staleness interval)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE edges AS (
        SELECT d.source_relid AS parent, s.pgt_relid AS child
          FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_stream_tables s USING (pgt_id)),
    roots AS (SELECT DISTINCT parent FROM edges WHERE parent NOT IN (SELECT child FROM edges)),
    tree AS (
        SELECT parent AS relid, 0 AS depth, ARRAY[parent::regclass::text] AS path FROM roots
        UNION ALL
        SELECT e.child, t.depth + 1, t.path || e.child::regclass::text
          FROM tree t JOIN edges e ON e.parent = t.relid)
    SELECT repeat('   ', GREATEST(t.depth - 1, 0)) || CASE WHEN t.depth > 0 THEN '└─ ' ELSE '' END || t.path[cardinality(t.path)],
           t.relid::regclass::text, CASE WHEN v.pgt_relid IS NULL THEN 'source' ELSE 'stream table' END, t.depth, v.status,
           p.staleness
      FROM tree t LEFT JOIN pgtrickle.pgt_stream_tables v ON v.pgt_relid = t.relid
      LEFT JOIN pgtrickle.pg_stat_stream_tables p USING (pgt_id)
     ORDER BY t.path
$$;
COMMENT ON FUNCTION pgtrickle.dependency_tree() IS
    'Every source and what is made of it, as an indented tree; what reads two relations appears below each of them';

CREATE FUNCTION pgtrickle.diamond_groups()
RETURNS TABLE (source text, stream_table text, arms text[])
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT d.origin::regclass::text, d.tip::regclass::text, array(SELECT a::regclass::text FROM unnest(d.arms) AS u (a) ORDER BY 1)
      FROM pgtrickle._diamonds() AS d ORDER BY 1, 2
$$;
COMMENT ON FUNCTION pgtrickle.diamond_groups() IS
    'Stream tables that read a source along more than one way. Each is refreshed only together with its arms, in one transaction, so they agree; it waits while one of them fails, is paused, or is held by another session. An arm with a slower schedule keeps it';

CREATE FUNCTION pgtrickle.health_summary()
RETURNS TABLE (severity text, stream_tables bigint, active bigint, paused bigint, failing bigint, stale bigint,
               errors bigint, warnings bigint, advice text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    WITH checks AS MATERIALIZED (SELECT * FROM pgtrickle.health_check())
    SELECT CASE WHEN bool_or(c.severity = 'ERROR') THEN 'ERROR' WHEN bool_or(c.severity = 'WARNING') THEN 'WARNING' ELSE 'OK' END,
           t.total, t.active, t.paused, t.failing, t.stale,
           count(*) FILTER (WHERE c.severity = 'ERROR'), count(*) FILTER (WHERE c.severity = 'WARNING'),
           (SELECT w.check_name || ': ' || w.detail FROM checks w WHERE w.severity <> 'OK'
             ORDER BY w.severity = 'ERROR' DESC, w.check_name LIMIT 1)
      FROM checks c
     CROSS JOIN (SELECT count(*), count(*) FILTER (WHERE status = 'ACTIVE'), count(*) FILTER (WHERE status = 'PAUSED'),
                        count(*) FILTER (WHERE status IN ('ERROR', 'SUSPENDED')),
                        count(*) FILTER (WHERE is_stale)
                   FROM pgtrickle.pg_stat_stream_tables) AS t (total, active, paused, failing, stale)
     GROUP BY t.total, t.active, t.paused, t.failing, t.stale
$$;
COMMENT ON FUNCTION pgtrickle.health_summary() IS 'health_check() in one row: the worst severity, how many of what, and what to mend first';

CREATE VIEW pgtrickle.quick_health AS
    SELECT severity, stream_tables, active, failing, stale, errors, warnings, advice FROM pgtrickle.health_summary();
COMMENT ON VIEW pgtrickle.quick_health IS 'health_summary() as a view: one row, for a first look';

CREATE FUNCTION pgtrickle.metrics_summary()
RETURNS TABLE (metric text, value double precision, unit text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT m.* FROM (SELECT count(*), coalesce(sum(refreshes), 0), coalesce(sum(failures), 0), coalesce(sum(rows_changed), 0),
                           sum(avg_duration_ms * refreshes) / nullif(sum(refreshes), 0), extract(epoch FROM max(staleness))
                      FROM pgtrickle.pg_stat_stream_tables) AS s (tables, refreshes, failures, rows_changed, average_ms, oldest_s),
           LATERAL (VALUES ('stream tables', s.tables::float8, 'stream tables'),
                           ('completed refreshes since the server started', s.refreshes::float8, 'refreshes'),
                           ('failed refreshes since the server started', s.failures::float8, 'refreshes'),
                           ('rows changed by refreshes since the server started', s.rows_changed::float8, 'rows'),
                           ('average time of a refresh', s.average_ms::float8, 'ms'),
                           ('age of the oldest data', s.oldest_s::float8, 's')) AS m (metric, value, unit)
    UNION ALL SELECT 'commit to visible, ' || p.label, p.value, 's'
                FROM pgtrickle._lag() l, LATERAL (VALUES ('p50', l.p50_seconds), ('p95', l.p95_seconds), ('p99', l.p99_seconds)) p (label, value)
    UNION ALL SELECT description, value::float8, unit FROM pgtrickle.reliability_counters()
$$;
COMMENT ON FUNCTION pgtrickle.metrics_summary() IS 'The main figures of this database, one a row; /metrics has them all';

CREATE FUNCTION pgtrickle.explain_refresh_mode(name text)
RETURNS TABLE (configured_mode text, effective_mode text, reason text)
LANGUAGE sql STABLE AS $$ -- the name is resolved by the caller's search path
    SELECT s.refresh_mode, s.effective_refresh_mode,
           CASE WHEN s.full_reason IS NOT NULL THEN 'it is recomputed and the difference applied, because ' || s.full_reason
                WHEN s.refresh_mode = 'IMMEDIATE' THEN 'whoever writes to its sources maintains it, in the same transaction'
                WHEN s.refresh_mode = 'AUTO' THEN pg_catalog.format('its changes are computed from those of its sources; recomputed when that has been cheaper, or when more than %s %% of their rows have changed',
                                                                    (pg_catalog.current_setting('pg_trickle.differential_max_change_ratio')::numeric * 100)::float8)
                ELSE 'its changes are computed from those of its sources' END
      FROM pgtrickle.pgt_stream_tables s WHERE s.pgt_id = pgtrickle._id_of(name)
$$;
COMMENT ON FUNCTION pgtrickle.explain_refresh_mode(text) IS 'Which mode was asked for, which one is used, and why';

CREATE FUNCTION pgtrickle.export_definition(name text) RETURNS text
LANGUAGE sql STABLE AS $$ -- the name is resolved by the caller's search path
    SELECT pg_catalog.format(E'SELECT pgtrickle.create_stream_table(\n    name => %L,\n    query => %L,\n    schedule => %L,\n    refresh_mode => %L);%s',
                  pg_catalog.format('%I.%I', n.nspname, c.relname), s.defining_query, s.schedule, s.refresh_mode,
                  CASE WHEN s.status = 'PAUSED' THEN pg_catalog.format(E'\nSELECT pgtrickle.pause_stream_table(%L);', pg_catalog.format('%I.%I', n.nspname, c.relname)) ELSE '' END)
      FROM pgtrickle.pgt_stream_tables s
      JOIN pg_catalog.pg_class c ON c.oid = s.pgt_relid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE s.pgt_id = pgtrickle._id_of(name)
$$;
COMMENT ON FUNCTION pgtrickle.export_definition(text) IS 'The statements that make this stream table anew';

CREATE FUNCTION pgtrickle.preflight()
RETURNS TABLE (check_name text, severity text, detail text)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT h.check_name, h.severity, h.detail FROM pgtrickle.health_check() h
     WHERE h.check_name IN ('wal_level', 'shared_preload_libraries', 'output_plugin_libraries')
    UNION ALL
    SELECT 'max_replication_slots', CASE WHEN free > 0 OR ours THEN 'OK' ELSE 'ERROR' END,
           CASE WHEN ours THEN 'this database has its slot' WHEN free > 0 THEN format('%s free', free)
                ELSE 'No replication slot is free: raise max_replication_slots and restart the server.' END
      FROM (SELECT current_setting('max_replication_slots')::integer - count(*),
                   coalesce(bool_or(slot_name = 'pg_trickle_' || (SELECT oid FROM pg_database WHERE datname = current_database())), false)
              FROM pg_replication_slots) AS slots (free, ours)
    UNION ALL
    SELECT 'max_worker_processes', CASE WHEN most >= needed THEN 'OK' ELSE 'WARNING' END,
           CASE WHEN most >= needed THEN format('%s; %s are needed: %s', most, needed, what)
                ELSE format('Raise max_worker_processes from %s to %s or more: %s. When they are short, parallel refreshes and queries make room.', most, needed, what) END
      FROM (SELECT current_setting('max_worker_processes')::integer AS most, d * (3 + pool) + parallel + 3 AS needed,
                   format('3 for capture and schedules and %s for parallel refreshes %s, %s parallel workers of queries, 3 for launchers and creations',
                          pool, CASE d WHEN 1 THEN 'in one database' ELSE format('in each of %s databases', d) END, parallel) AS what
              FROM (SELECT (SELECT GREATEST(count(DISTINCT datname), 1) FROM pg_stat_activity WHERE backend_type = 'pg_trickle_scheduler') AS d,
                           CASE WHEN current_setting('pg_trickle.parallel_refresh_mode') = 'off' THEN 0
                                WHEN current_setting('pg_trickle.max_dynamic_refresh_workers') = '0' THEN 0
                                ELSE 1 + current_setting('pg_trickle.max_dynamic_refresh_workers')::integer END AS pool,
                           current_setting('max_parallel_workers')::integer AS parallel) AS n) AS w
    UNION ALL
    SELECT 'max_slot_wal_keep_size', CASE WHEN size = '-1' THEN 'WARNING' ELSE 'OK' END,
           CASE WHEN size = '-1' THEN 'WAL is kept for the slot without a limit: set max_slot_wal_keep_size so that a stopped decoder cannot fill the disk. A slot that is lost is made anew by itself.'
                ELSE size END
      FROM current_setting('max_slot_wal_keep_size') AS size
    UNION ALL
    SELECT 'fsync', CASE WHEN fsync = 'on' THEN 'OK' ELSE 'WARNING' END,
           CASE WHEN fsync = 'on' THEN 'on' ELSE 'fsync is off: after a crash of the machine nothing is certain.' END
      FROM current_setting('fsync') AS fsync
$$;
COMMENT ON FUNCTION pgtrickle.preflight() IS 'What the server must have before stream tables are made, and what it should have';

CREATE FUNCTION pgtrickle.version_check()
RETURNS TABLE (library_version text, extension_version text, matches boolean, detail text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT pgtrickle.version(), e.extversion, e.extversion = pgtrickle.version(),
           CASE WHEN e.extversion = pgtrickle.version() THEN 'library and SQL objects are of one version'
                ELSE 'Run ALTER EXTENSION pg_trickle UPDATE; if the library is the older one, restart the server after installing.' END
      FROM pg_extension e WHERE e.extname = 'pg_trickle'
$$;
COMMENT ON FUNCTION pgtrickle.version_check() IS 'Whether the library that is loaded and the objects in the database are of one version';

GRANT SELECT ON pgtrickle.pg_stat_stream_tables, pgtrickle._history, pgtrickle.quick_health, pgtrickle.pg_stat_progress_pgtrickle TO PUBLIC;
