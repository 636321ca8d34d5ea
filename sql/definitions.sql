-- Definitions that change a source's rows without a row change: partitions and children that come and go, rewrites that compute values
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

-- Stream tables that read these tables, ancestors or partitions of theirs, look for their sources anew. One statement each, which sees
-- what those before it have captured. Where a whole row is read, its columns and their names are part of what is read.
CREATE FUNCTION pgtrickle._look_for_sources(tables oid[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reader record;
BEGIN
    FOR reader IN
        WITH RECURSIVE family AS (
            SELECT relid FROM unnest(tables) AS t (relid)
            UNION SELECT i.inhparent FROM family f JOIN pg_inherits i ON i.inhrelid = f.relid),
        parts AS (
            SELECT k.oid AS relid FROM unnest(tables) AS t (relid) JOIN pg_class k ON k.oid = t.relid WHERE k.relkind = 'p'
            UNION SELECT i.inhrelid FROM parts p JOIN pg_inherits i ON i.inhparent = p.relid),
        uses AS MATERIALIZED (
            SELECT x.refobjid AS relid, r.ev_class, r.ev_action::text LIKE '%:varattno 0 %' AS whole_row
              FROM pg_depend x JOIN pg_rewrite r ON r.oid = x.objid
             WHERE x.classid = 'pg_rewrite'::regclass AND x.refclassid = 'pg_class'::regclass AND x.refobjid = ANY (tables))
        SELECT d.pgt_id, bool_or(w.whole_row) AS whole_row
          FROM (SELECT relid FROM family UNION SELECT relid FROM parts) AS f
          JOIN pgtrickle.pgt_dependencies d ON d.source_relid::oid = f.relid
          JOIN pgtrickle.pgt_stream_tables s USING (pgt_id)
          JOIN pg_class k ON k.oid = f.relid
         CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM uses u WHERE u.relid = f.relid AND u.whole_row)) AS w (whole_row)
         -- A plain table that the query names is a source whatever happens to it; only its row security may have changed,
         -- by which results change with more than rows, or whether its changes are in the WAL, and the expressions of virtual columns.
         WHERE w.whole_row
            OR NOT (f.relid = ANY (tables) AND k.relkind = 'r' AND k.relrowsecurity = s.time_dependent
                    AND (k.relpersistence = 'p') = (d.source_type IN ('TABLE', 'STREAM_TABLE'))
                    AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = f.relid AND a.attgenerated = 'v')
                    AND EXISTS (SELECT FROM uses u WHERE u.relid = f.relid AND u.ev_class = to_regclass(format('pgtrickle.def_%s', d.pgt_id))))
         GROUP BY d.pgt_id ORDER BY d.pgt_id
    LOOP
        PERFORM pgtrickle._sources_changed(reader.pgt_id, reader.whole_row);
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
    PERFORM pgtrickle._look_for_sources(array_agg(c.objid))
       FROM pg_event_trigger_ddl_commands() c
       JOIN pg_class k ON k.oid = c.objid
      WHERE c.classid = 'pg_class'::regclass AND k.relkind IN ('r', 'p', 'f')
        AND (k.relkind = 'p' OR c.command_tag <> 'CREATE TABLE' OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = k.oid));
    PERFORM pgtrickle._defined(c.objid, c.command_tag = 'ALTER TABLE' AND (k.relkind = 'p' OR k.relispartition))
       FROM pg_event_trigger_ddl_commands() c
       JOIN pg_class k ON k.oid = c.objid
      WHERE c.classid = 'pg_class'::regclass AND k.relkind IN ('r', 'p');
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
        DELETE FROM pgtrickle.pgt_dependencies s
         USING pg_event_trigger_dropped_objects() d
         WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND s.source_relid::oid = d.objid;
        PERFORM pgtrickle._mark_sources(array_agg(parent), 'a partition was dropped')
           FROM pg_event_trigger_dropped_objects() d
          CROSS JOIN LATERAL unnest(pgtrickle._parents_before_drop(d.objid)) AS parent
         WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND d.object_type IN ('table', 'foreign table');
        PERFORM pgtrickle._defined(parent, true)
           FROM pg_event_trigger_dropped_objects() d
          CROSS JOIN LATERAL unnest(pgtrickle._parents_before_drop(d.objid)) AS parent
          JOIN pg_class k ON k.oid = parent
         WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND d.object_type = 'table' AND k.relkind = 'p';
    END IF;
END
$$;

CREATE FUNCTION pgtrickle._on_rewrite() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgtrickle._mark_sources(ARRAY[pg_event_trigger_table_rewrite_oid()], 'it was rewritten');
    PERFORM pgtrickle._stream_table_rewritten(pgt_id) FROM pgtrickle.pgt_stream_tables
      WHERE pgt_relid = pg_event_trigger_table_rewrite_oid();
    -- Those that are maintained at once follow at the end of the command.
    UPDATE pgtrickle.pgt_stream_tables s SET needs_reinit = true
     WHERE s.refresh_mode = 'IMMEDIATE' AND NOT s.needs_reinit
       AND EXISTS (SELECT FROM pgtrickle.pgt_dependencies d
                    WHERE d.pgt_id = s.pgt_id
                      AND (d.source_relid = pg_event_trigger_table_rewrite_oid()
                           OR d.source_relid IN (SELECT relid FROM pg_partition_ancestors(pg_event_trigger_table_rewrite_oid()))));
END
$$;

-- Stream tables whose queries use what means something else now, whatever lies between: views, functions, operators, aggregates, casts,
-- types that are made of it and tables with columns of such types. A view may read other tables than before. Those that read
-- them in turn follow by their changes.
CREATE FUNCTION pgtrickle._means_something_else(changed_class oid, changed_object oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reader bigint;
BEGIN
    FOR reader IN
        WITH RECURSIVE users (class, object) AS (
            SELECT changed_class, changed_object
             UNION
            SELECT next.*
              FROM users u
             CROSS JOIN LATERAL (
                    SELECT d.classid, d.objid FROM pg_depend d WHERE d.refclassid = u.class AND d.refobjid = u.object
                     UNION ALL SELECT 'pg_class'::regclass, w.ev_class FROM pg_rewrite w WHERE u.class = 'pg_rewrite'::regclass AND w.oid = u.object
                     UNION ALL SELECT 'pg_type'::regclass, k.reltype FROM pg_class k WHERE u.class = 'pg_class'::regclass AND k.oid = u.object
                   ) AS next (class, object)
             WHERE NOT EXISTS (SELECT FROM pg_class k WHERE u.class = 'pg_class'::regclass AND k.oid = u.object
                                                        AND k.relnamespace = 'pgtrickle'::regnamespace))
        SELECT s.pgt_id
          FROM pgtrickle.pgt_stream_tables s
          JOIN users u ON u.class = 'pg_class'::regclass AND u.object = to_regclass(format('pgtrickle.def_%s', s.pgt_id))
         WHERE u.object <> changed_object ORDER BY 1
    LOOP
        PERFORM pgtrickle._sources_changed(reader, true);
    END LOOP;
END
$$;

-- A view or a function was replaced, texts are parsed otherwise; labels or attributes of a type, or columns of a view, which are part of results as text, are
-- other ones.
CREATE FUNCTION pgtrickle._on_replaced() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgtrickle._means_something_else(c.classid, c.objid)
       FROM pg_event_trigger_ddl_commands() c
      WHERE CASE c.command_tag
                WHEN 'ALTER TABLE' THEN EXISTS (SELECT FROM pg_class k WHERE k.oid = c.objid AND k.relkind IN ('v', 'm'))
                -- Of a view, whose query this is.
                WHEN 'CREATE RULE' THEN EXISTS (SELECT FROM pg_rewrite r WHERE r.oid = c.objid AND r.ev_type = '1')
                ELSE true
            END;
    -- A text search configuration that a query uses because a setting says so is no dependency of it.
    PERFORM pgtrickle._sources_changed(s.pgt_id, true)
       FROM pgtrickle.pgt_stream_tables s
      WHERE EXISTS (SELECT FROM pg_event_trigger_ddl_commands() c
                      JOIN pg_ts_config_map m ON c.objid IN (m.mapcfg, m.mapdict)
                      JOIN pg_ts_config g ON g.oid = m.mapcfg
                     WHERE c.command_tag IN ('ALTER TEXT SEARCH CONFIGURATION', 'ALTER TEXT SEARCH DICTIONARY')
                       AND 'default_text_search_config=' || format('%s.%I', g.cfgnamespace::regnamespace, g.cfgname) = ANY (s.settings));
    -- Views made before go on without the new cast, but their text would be read with it.
    PERFORM pgtrickle._means_something_else('pg_type'::regclass, t.oid)
       FROM pg_event_trigger_ddl_commands() c
       JOIN pg_cast k ON c.classid = 'pg_cast'::regclass AND k.oid = c.objid
       JOIN pg_type t ON t.oid IN (k.castsource, k.casttarget);
END
$$;

REVOKE EXECUTE ON FUNCTION pgtrickle._defined(oid, boolean), pgtrickle._sources_changed(bigint, boolean), pgtrickle._stream_table_rewritten(bigint), pgtrickle._on_replaced(), pgtrickle._look_for_sources(oid[]), pgtrickle._means_something_else(oid, oid), pgtrickle._mark_sources(oid[], text), pgtrickle._on_definition(), pgtrickle._on_partition_drop(),
    pgtrickle._on_rewrite(), pgtrickle._parents_before_drop(oid) FROM PUBLIC;
CREATE EVENT TRIGGER pg_trickle_on_definition ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'ALTER FOREIGN TABLE', 'CREATE TABLE', 'CREATE FOREIGN TABLE', 'CREATE SCHEMA') EXECUTE FUNCTION pgtrickle._on_definition();
ALTER EVENT TRIGGER pg_trickle_on_definition ENABLE ALWAYS;
CREATE EVENT TRIGGER pg_trickle_on_partition_drop ON sql_drop
    WHEN TAG IN ('DROP TABLE', 'DROP FOREIGN TABLE', 'DROP SCHEMA', 'DROP OWNED') EXECUTE FUNCTION pgtrickle._on_partition_drop();
ALTER EVENT TRIGGER pg_trickle_on_partition_drop ENABLE ALWAYS;
CREATE EVENT TRIGGER pg_trickle_on_replaced ON ddl_command_end
    WHEN TAG IN ('CREATE VIEW', 'ALTER VIEW', 'CREATE RULE', 'ALTER MATERIALIZED VIEW', 'ALTER TABLE', 'CREATE FUNCTION', 'ALTER FUNCTION', 'ALTER ROUTINE', 'CREATE AGGREGATE', 'CREATE CAST', 'ALTER TYPE',
                 'ALTER TEXT SEARCH CONFIGURATION', 'ALTER TEXT SEARCH DICTIONARY') EXECUTE FUNCTION pgtrickle._on_replaced();
ALTER EVENT TRIGGER pg_trickle_on_replaced ENABLE ALWAYS;
CREATE EVENT TRIGGER pg_trickle_on_rewrite ON table_rewrite EXECUTE FUNCTION pgtrickle._on_rewrite();
ALTER EVENT TRIGGER pg_trickle_on_rewrite ENABLE ALWAYS;
