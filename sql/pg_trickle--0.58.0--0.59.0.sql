-- From 0.58.0 to 0.59.0: what changes in the tables. scripts/update_script.sh appends the functions and views of 0.59.0.

ALTER TABLE pgtrickle.pgt_stream_tables ADD COLUMN IF NOT EXISTS defining_query_hash BIGINT NOT NULL DEFAULT 0;
ALTER TABLE pgtrickle.pgt_stream_tables ADD COLUMN settings text[] NOT NULL DEFAULT '{}';
ALTER TABLE pgtrickle.pgt_stream_tables ADD COLUMN home_relid oid NOT NULL DEFAULT 0;
-- The same function as in CREATE and ALTER STREAM TABLE, so that nothing looks changed.
UPDATE pgtrickle.pgt_stream_tables
   SET defining_query_hash = pg_catalog.hashtextextended(defining_query, 0)::bigint, home_relid = pgt_relid;

ALTER TABLE pgtrickle.pgt_stream_tables ALTER COLUMN pgt_relid TYPE regclass;
ALTER TABLE pgtrickle.pgt_dependencies ALTER COLUMN source_relid TYPE regclass;
ALTER TABLE pgtrickle.pgt_change_tracking ALTER COLUMN source_relid TYPE regclass;
CREATE TABLE pgtrickle.pgt_stage_costs (
    pgt_id              bigint NOT NULL REFERENCES pgtrickle.pgt_stream_tables ON DELETE CASCADE,
    -- As explain_st() numbers them.
    stage               integer NOT NULL,
    program_fingerprint bigint NOT NULL,
    calls               bigint NOT NULL,
    rows_changed        bigint NOT NULL,
    total_ms            double precision NOT NULL,
    PRIMARY KEY (pgt_id, stage)
) WITH (fillfactor = 50);
COMMENT ON TABLE pgtrickle.pgt_stage_costs IS 'What each stage of a stream table has cost since it was planned as it is; written every ten seconds at most';
GRANT SELECT ON pgtrickle.pgt_stage_costs TO PUBLIC;
CREATE TABLE pgtrickle.pgt_immediate (
    pgt_id bigint PRIMARY KEY REFERENCES pgtrickle.pgt_stream_tables ON DELETE CASCADE,
    -- The transaction that last changed what it is made of.
    xid    xid8 NOT NULL
) WITH (fillfactor = 10);
COMMENT ON TABLE pgtrickle.pgt_immediate IS 'Per stream table that is maintained at once: who wrote to its sources last, for transactions that keep to one snapshot';
GRANT SELECT ON pgtrickle.pgt_immediate TO PUBLIC;
ALTER TABLE pgtrickle.pgt_stream_tables DROP CONSTRAINT pgt_stream_tables_effective_refresh_mode_check,
    ADD CONSTRAINT pgt_stream_tables_effective_refresh_mode_check CHECK (effective_refresh_mode IN ('FULL', 'DIFFERENTIAL', 'IMMEDIATE'));

SELECT pg_catalog.pg_extension_config_dump('pgtrickle.pgt_stream_tables_pgt_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('pgtrickle.pgt_refresh_history_refresh_id_seq', '');

-- A slot left over on a server that was a standby in between is recognised by the timeline.
ALTER TABLE pgtrickle.pgt_capture ADD COLUMN timeline integer NOT NULL DEFAULT 0;
