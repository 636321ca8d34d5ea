-- What users define on stream tables themselves.

CREATE FUNCTION pgtrickle._on_stream_table() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF tg_tag = 'ALTER SCHEMA' THEN
        PERFORM pgtrickle._schema_altered(c.objid)
           FROM pg_event_trigger_ddl_commands() c WHERE c.classid = 'pg_namespace'::regclass;
    ELSE
        PERFORM pgtrickle._stream_table_altered(s.pgt_id)
           FROM (SELECT DISTINCT objid FROM pg_event_trigger_ddl_commands() WHERE classid = 'pg_class'::regclass) c
           JOIN pgtrickle.pgt_stream_tables s ON s.pgt_relid = c.objid;
    END IF;
END
$$;
REVOKE EXECUTE ON FUNCTION pgtrickle._on_stream_table(), pgtrickle._stream_table_altered(bigint), pgtrickle._schema_altered(oid)
    FROM PUBLIC;
CREATE EVENT TRIGGER pg_trickle_on_stream_table ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'ALTER SCHEMA') EXECUTE FUNCTION pgtrickle._on_stream_table();

CREATE FUNCTION pgtrickle.validate_recovery()
RETURNS TABLE (stream_table text, state text, action text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT f.label, f.state,
           CASE f.state WHEN 'FOLLOWING' THEN 'none'
                        WHEN 'RECOMPUTE' THEN 'none: its next refresh compares it with its query'
                        WHEN 'PAUSED' THEN format('SELECT pgtrickle.resume_stream_table(%L)', f.label)
                        WHEN 'BROKEN' THEN 'its definition view is missing: create it again'
                        ELSE format('SELECT pgtrickle.repair_stream_table(%L)', f.label) END
      FROM (SELECT s.pgt_id, s.pgt_relid::text AS label,
                   CASE WHEN to_regclass('pgtrickle.def_' || s.pgt_id) IS NULL THEN 'BROKEN'
                        WHEN s.home_relid <> s.pgt_relid THEN 'RESTORED'
                        WHEN s.status IN ('PAUSED', 'SUSPENDED', 'ERROR') THEN s.status
                        WHEN EXISTS (SELECT FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_change_tracking t USING (source_relid)
                                      WHERE d.pgt_id = s.pgt_id AND t.state <> 'ACTIVE') THEN 'DEGRADED'
                        WHEN s.frontier IS NULL OR s.needs_reinit
                             OR s.generation <> (SELECT coalesce(max(c.generation), 0) FROM pgtrickle.pgt_capture c) THEN 'RECOMPUTE'
                        ELSE 'FOLLOWING' END AS state
              FROM pgtrickle.pgt_stream_tables s) AS f
     ORDER BY f.pgt_id
$$;
COMMENT ON FUNCTION pgtrickle.validate_recovery() IS 'After a restore, a promotion or a crash: whether each stream table is followed, and what to do if not';
