-- What users define on stream tables themselves.

-- What would change the rows of a stream table behind the back of its guard, or keep refreshes from changing them.
CREATE FUNCTION pgtrickle._refuse_on_stream_table() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found record;
BEGIN
    FOR found IN
        WITH commanded AS MATERIALIZED (SELECT DISTINCT classid, objid FROM pg_event_trigger_ddl_commands())
        SELECT s.pgt_relid AS relid, 'with FORCE ROW LEVEL SECURITY' AS what,
               'Leave out FORCE: refreshes run in the name of its owner and must see all of its rows.' AS hint
          FROM commanded c JOIN pg_class k ON k.oid = c.objid JOIN pgtrickle.pgt_stream_tables s ON s.pgt_relid = c.objid
         WHERE c.classid = 'pg_class'::regclass AND k.relforcerowsecurity
        UNION ALL
        SELECT s.pgt_relid, 'that is not logged', 'Unlogged tables are emptied by a crash.'
          FROM commanded c JOIN pg_class k ON k.oid = c.objid JOIN pgtrickle.pgt_stream_tables s ON s.pgt_relid = c.objid
         WHERE c.classid = 'pg_class'::regclass AND k.relpersistence <> 'p'
        UNION ALL
        SELECT s.pgt_relid, 'of a type', 'ALTER TYPE would change its columns, which are those of its query.'
          FROM commanded c JOIN pg_class k ON k.oid = c.objid JOIN pgtrickle.pgt_stream_tables s ON s.pgt_relid = c.objid
         WHERE c.classid = 'pg_class'::regclass AND k.reloftype <> 0
        UNION ALL
        SELECT s.pgt_relid, 'that is a partition, a parent or a child of another table', 'Define a view over both.'
          FROM commanded c
         CROSS JOIN LATERAL (SELECT inhrelid, inhparent FROM pg_inherits WHERE inhrelid = c.objid
                              UNION ALL SELECT inhrelid, inhparent FROM pg_inherits WHERE inhparent = c.objid) AS i
          JOIN pgtrickle.pgt_stream_tables s ON s.pgt_relid = ANY (ARRAY[i.inhrelid, i.inhparent]::regclass[])
         WHERE c.classid = 'pg_class'::regclass
        UNION ALL
        SELECT s.pgt_relid, 'with a BEFORE ROW trigger', 'Its rows are those of its query: use an AFTER trigger.'
          FROM commanded c JOIN pg_trigger t ON t.oid = c.objid JOIN pgtrickle.pgt_stream_tables s ON s.pgt_relid = t.tgrelid
         WHERE c.classid = 'pg_trigger'::regclass AND t.tgtype & 3 = 3
        UNION ALL
        SELECT s.pgt_relid, 'with a constraint that is INITIALLY DEFERRED', 'Refreshes check it with each statement: leave that out.'
          FROM commanded c JOIN pg_trigger t ON c.classid = 'pg_class'::regclass AND c.objid IN (t.tgrelid, t.tgconstrrelid)
                                             OR c.classid = 'pg_trigger'::regclass AND c.objid = t.oid
          JOIN pgtrickle.pgt_stream_tables s ON s.pgt_relid = t.tgrelid
         WHERE t.tginitdeferred
        UNION ALL
        SELECT s.pgt_relid, 'with a rule', 'Use an AFTER trigger.'
          FROM commanded c JOIN pg_rewrite r ON r.oid = c.objid JOIN pgtrickle.pgt_stream_tables s ON s.pgt_relid = r.ev_class
         WHERE c.classid = 'pg_rewrite'::regclass
    LOOP
        RAISE EXCEPTION USING
            ERRCODE = 'wrong_object_type',
            MESSAGE = format('stream table %s cannot be one %s', found.relid, found.what),
            HINT = found.hint;
    END LOOP;
END
$$;

CREATE FUNCTION pgtrickle._on_stream_table() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF tg_tag = 'ALTER SCHEMA' THEN
        PERFORM pgtrickle._schema_altered(c.objid)
           FROM pg_event_trigger_ddl_commands() c WHERE c.classid = 'pg_namespace'::regclass;
        RETURN;
    END IF;
    PERFORM pgtrickle._refuse_on_stream_table();
    IF tg_tag = 'ALTER TABLE' THEN
        PERFORM pgtrickle._stream_table_altered(s.pgt_id)
           FROM (SELECT DISTINCT objid FROM pg_event_trigger_ddl_commands() WHERE classid = 'pg_class'::regclass) c
           JOIN pgtrickle.pgt_stream_tables s ON s.pgt_relid = c.objid;
    END IF;
END
$$;
REVOKE EXECUTE ON FUNCTION pgtrickle._on_stream_table(), pgtrickle._refuse_on_stream_table(), pgtrickle._stream_table_altered(bigint), pgtrickle._schema_altered(oid)
    FROM PUBLIC;
CREATE EVENT TRIGGER pg_trickle_on_stream_table ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'ALTER SCHEMA', 'CREATE SCHEMA', 'CREATE TABLE', 'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE', 'CREATE TRIGGER', 'CREATE RULE')
    EXECUTE FUNCTION pgtrickle._on_stream_table();
ALTER EVENT TRIGGER pg_trickle_on_stream_table ENABLE ALWAYS;

-- Whose rows are published can be changed only if it has a replica identity: stream tables, and what is kept for them, which a
-- publication FOR ALL TABLES does not leave out.
CREATE FUNCTION pgtrickle._let_publish() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed regclass;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_publication) THEN
        RETURN;
    END IF;
    FOR changed IN
        SELECT k.oid
          FROM pg_class k
         WHERE k.relkind = 'r' AND k.relreplident = 'd'
           AND CASE WHEN k.relnamespace = 'pgtrickle_changes'::regnamespace THEN k.relname ~ '^state_'
                    ELSE EXISTS (SELECT FROM pgtrickle.pgt_stream_tables s WHERE s.pgt_relid = k.oid)
                         AND coalesce(current_setting('pg_trickle.manage_replica_identity', true), 'on')::boolean END
           AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = k.oid AND i.indisprimary)
           AND (EXISTS (SELECT FROM pg_publication WHERE puballtables)
                OR EXISTS (SELECT FROM pg_publication_rel WHERE prrelid = k.oid)
                OR EXISTS (SELECT FROM pg_publication_namespace WHERE pnnspid = k.relnamespace))
    LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', changed);
    END LOOP;
END
$$;
CREATE FUNCTION pgtrickle._on_publication() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgtrickle._let_publish();
END
$$;
REVOKE EXECUTE ON FUNCTION pgtrickle._let_publish(), pgtrickle._on_publication() FROM PUBLIC;
CREATE EVENT TRIGGER pg_trickle_on_publication ON ddl_command_end WHEN TAG IN ('CREATE PUBLICATION', 'ALTER PUBLICATION')
    EXECUTE FUNCTION pgtrickle._on_publication();
ALTER EVENT TRIGGER pg_trickle_on_publication ENABLE ALWAYS;

-- The extension's triggers on stream tables and on what is read by those that are maintained at once: without them rows could be
-- changed by hand, or change unseen.
CREATE FUNCTION pgtrickle._needs_trigger(relid oid, name text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN name = 'pgtrickle_guard' THEN EXISTS (SELECT FROM pgtrickle.pgt_stream_tables s WHERE s.pgt_relid = relid)
                WHEN name ~ '^pgtrickle_(before|insert|update|delete|truncate|replica_[0-9]+)$'
                THEN EXISTS (SELECT FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_stream_tables s USING (pgt_id)
                              WHERE s.refresh_mode = 'IMMEDIATE'
                                AND (d.source_relid = relid OR d.source_relid IN (SELECT p.relid FROM pg_partition_ancestors(relid) p)))
                ELSE false END
$$;
CREATE FUNCTION pgtrickle._on_trigger() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF tg_event = 'ddl_command_end' THEN
        PERFORM pgtrickle._own_trigger_gone(t.tgname::text, t.tgrelid)
           FROM pg_event_trigger_ddl_commands() c JOIN pg_trigger t ON t.oid = c.objid
          CROSS JOIN LATERAL (SELECT t.tgfoid IN ('pgtrickle._guard()'::regprocedure, 'pgtrickle._immediate()'::regprocedure)) AS f (own)
          WHERE c.classid = 'pg_trigger'::regclass
            AND CASE tg_tag WHEN 'ALTER TRIGGER' THEN f.own AND t.tgname !~ '^pgtrickle_(guard|before|insert|update|delete|truncate|replica_[0-9]+)$'
                            ELSE NOT f.own AND pgtrickle._needs_trigger(t.tgrelid, t.tgname::text) END;
        RETURN;
    END IF;
    PERFORM pgtrickle._own_trigger_gone(g.name, g.relid)
       FROM (SELECT d.address_names[3] AS name, to_regclass(format('%I.%I', d.address_names[1], d.address_names[2]))::oid AS relid
               FROM pg_event_trigger_dropped_objects() d WHERE d.object_type = 'trigger') AS g
      WHERE pgtrickle._needs_trigger(g.relid, g.name);
END
$$;
REVOKE EXECUTE ON FUNCTION pgtrickle._on_trigger(), pgtrickle._own_trigger_gone(text, oid), pgtrickle._needs_trigger(oid, text) FROM PUBLIC;
CREATE EVENT TRIGGER pg_trickle_on_trigger_drop ON sql_drop WHEN TAG IN ('DROP TRIGGER') EXECUTE FUNCTION pgtrickle._on_trigger();
ALTER EVENT TRIGGER pg_trickle_on_trigger_drop ENABLE ALWAYS;
CREATE EVENT TRIGGER pg_trickle_on_trigger ON ddl_command_end WHEN TAG IN ('CREATE TRIGGER', 'ALTER TRIGGER') EXECUTE FUNCTION pgtrickle._on_trigger();
ALTER EVENT TRIGGER pg_trickle_on_trigger ENABLE ALWAYS;

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
                                      WHERE d.pgt_id = s.pgt_id AND s.refresh_mode <> 'IMMEDIATE' AND t.state <> 'ACTIVE') THEN 'DEGRADED'
                        WHEN s.frontier IS NULL OR s.needs_reinit
                             OR s.refresh_mode <> 'IMMEDIATE' AND s.generation <> (SELECT coalesce(max(c.generation), 0) FROM pgtrickle.pgt_capture c) THEN 'RECOMPUTE'
                        ELSE 'FOLLOWING' END AS state
              FROM pgtrickle.pgt_stream_tables s) AS f
     ORDER BY f.pgt_id
$$;
COMMENT ON FUNCTION pgtrickle.validate_recovery() IS 'After a restore, a promotion or a crash: whether each stream table is followed, and what to do if not';
