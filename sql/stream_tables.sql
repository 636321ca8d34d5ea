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
