-- Definitions that change a source's rows without a row change: partitions that come and go, rewrites that compute values
-- anew. A logical message makes capture mark the source in its change buffer, in the order of everything else.

CREATE FUNCTION pgtrickle._mark_sources(tables oid[], reason text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source oid;
BEGIN
    FOR source IN
        SELECT DISTINCT t.source_relid::oid
          FROM unnest(tables) AS changed (relid)
         CROSS JOIN LATERAL (SELECT changed.relid UNION SELECT p.relid FROM pg_partition_ancestors(changed.relid) p) AS a
          JOIN pgtrickle.pgt_change_tracking t ON t.source_relid = a.relid
    LOOP
        PERFORM pg_logical_emit_message(true, 'pg_trickle', format('reinit %s %s', source, reason));
    END LOOP;
END
$$;

-- New partitions of a source need its replica identity.
CREATE FUNCTION pgtrickle._on_definition() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    leaf regclass;
BEGIN
    PERFORM pgtrickle._mark_sources(array_agg(c.objid), 'its partitions changed')
       FROM pg_event_trigger_ddl_commands() c
       JOIN pg_class k ON k.oid = c.objid
      WHERE c.classid = 'pg_class'::regclass AND c.command_tag = 'ALTER TABLE' AND k.relkind = 'p';
    FOR leaf IN
        -- pg_partition_tree locks the tree, so it must be asked of the tables of this command alone.
        WITH commanded AS MATERIALIZED (
            SELECT k.oid
              FROM pg_event_trigger_ddl_commands() c JOIN pg_class k ON k.oid = c.objid
             WHERE c.classid = 'pg_class'::regclass AND (k.relkind = 'p' OR k.relispartition))
        SELECT DISTINCT l.relid
          FROM commanded
         CROSS JOIN LATERAL pg_partition_tree(commanded.oid) l
          JOIN pg_class p ON p.oid = l.relid
         WHERE p.relkind = 'r' AND p.relreplident <> 'f'
           AND EXISTS (SELECT FROM pg_partition_ancestors(l.relid) a
                         JOIN pgtrickle.pgt_change_tracking t ON t.source_relid = a.relid AND t.state <> 'DEGRADED')
           AND coalesce(current_setting('pg_trickle.manage_replica_identity', true), 'on')::boolean
    LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', leaf);
    END LOOP;
END
$$;

CREATE FUNCTION pgtrickle._on_partition_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('pgtrickle.pgt_change_tracking') IS NOT NULL THEN
        PERFORM pgtrickle._mark_sources(array_agg(parent), 'a partition was dropped')
           FROM pg_event_trigger_dropped_objects() d
          CROSS JOIN LATERAL unnest(pgtrickle._parents_before_drop(d.objid)) AS parent
         WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND d.object_type = 'table';
    END IF;
END
$$;

CREATE FUNCTION pgtrickle._on_rewrite() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgtrickle._mark_sources(ARRAY[pg_event_trigger_table_rewrite_oid()], 'it was rewritten');
END
$$;

CREATE FUNCTION pgtrickle._on_type() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgtrickle._enum_changed(t.oid)
       FROM pg_event_trigger_ddl_commands() c JOIN pg_type t ON t.oid = c.objid
      WHERE c.classid = 'pg_type'::regclass AND t.typtype = 'e';
END
$$;

REVOKE EXECUTE ON FUNCTION pgtrickle._on_type(), pgtrickle._enum_changed(oid), pgtrickle._mark_sources(oid[], text), pgtrickle._on_definition(), pgtrickle._on_partition_drop(),
    pgtrickle._on_rewrite(), pgtrickle._parents_before_drop(oid) FROM PUBLIC;
CREATE EVENT TRIGGER pg_trickle_on_definition ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE') EXECUTE FUNCTION pgtrickle._on_definition();
CREATE EVENT TRIGGER pg_trickle_on_partition_drop ON sql_drop
    WHEN TAG IN ('DROP TABLE', 'DROP SCHEMA', 'DROP OWNED') EXECUTE FUNCTION pgtrickle._on_partition_drop();
CREATE EVENT TRIGGER pg_trickle_on_type ON ddl_command_end
    WHEN TAG IN ('ALTER TYPE') EXECUTE FUNCTION pgtrickle._on_type();
CREATE EVENT TRIGGER pg_trickle_on_rewrite ON table_rewrite EXECUTE FUNCTION pgtrickle._on_rewrite();
