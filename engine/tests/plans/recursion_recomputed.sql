CREATE TABLE pgtrickle_changes.state_1_1 (c1 integer);
CREATE INDEX ON pgtrickle_changes.state_1_1 (pgtrickle.row_hash(c1));
CREATE INDEX ON "public"."st" (pgtrickle.image_hash("Region"));

-- fill
-- modify unless empty: 
INSERT INTO pgtrickle_changes.state_1_1 (c1) WITH RECURSIVE pgt_f(c1) AS (SELECT c1::integer AS c1 FROM (SELECT c1 AS c1 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3)) AS d(c1) UNION ALL SELECT c1 FROM (SELECT c1 AS c1 FROM (SELECT c1 AS c1 FROM (SELECT c1 FROM pgt_f) AS d(c1)) AS d(c1) GROUP BY 1) AS d(c1)) SELECT c1 FROM pgt_f;
-- modify unless empty: 
INSERT INTO "public"."st" ("Region") SELECT c1 FROM (SELECT c1 FROM pgtrickle_changes.state_1_1) AS d(c1);

-- refresh
-- stage pgt_t1 unless empty: pgt_delta_200
SELECT c1, sum(w::integer) AS w, count(*) FILTER (WHERE w > 0) AS n FROM (SELECT c1, 1::bigint AS w FROM (WITH RECURSIVE pgt_f(c1) AS (SELECT c1::integer AS c1 FROM (SELECT c1 AS c1 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3)) AS d(c1) UNION ALL SELECT c1 FROM (SELECT c1 AS c1 FROM (SELECT c1 AS c1 FROM (SELECT c1 FROM pgt_f) AS d(c1)) AS d(c1) GROUP BY 1) AS d(c1)) SELECT c1 FROM pgt_f) AS x(c1) UNION ALL SELECT c1, (-1)::bigint AS w FROM pgtrickle_changes.state_1_1 AS s) AS x(c1, w) GROUP BY c1 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_t1
DELETE FROM ONLY pgtrickle_changes.state_1_1 AS t WHERE t.ctid = ANY (ARRAY(SELECT s.ctid AS i1 FROM pgt_t1 AS d JOIN pgtrickle_changes.state_1_1 AS s ON (pgtrickle.row_hash(s.c1) = pgtrickle.row_hash(d.c1) AND s.c1 IS NOT DISTINCT FROM d.c1)));
-- modify unless empty: pgt_t1
INSERT INTO pgtrickle_changes.state_1_1 (c1) SELECT c1 FROM pgt_t1 AS d CROSS JOIN generate_series(1, n) AS i1;
-- stage pgt_root unless empty: pgt_t1
SELECT c1, sum(w::integer) AS w FROM (SELECT c1, w FROM pgt_t1) AS d(c1, w) GROUP BY 1 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_root
-- as many as SELECT coalesce(-sum(w::integer) FILTER (WHERE w < 0), 0) AS n FROM pgt_root
DELETE FROM ONLY "public"."st" AS t WHERE t.ctid = ANY (ARRAY(SELECT i1 FROM (SELECT t.ctid AS i1, row_number() OVER (PARTITION BY d.i1) AS i2, d.w AS w FROM (SELECT c1, w, row_number() OVER () AS i1 FROM pgt_root AS d WHERE w < 0) AS d JOIN ONLY "public"."st" AS t ON (pgtrickle.image_hash(t."Region") = pgtrickle.image_hash(d.c1) AND record_image_eq(ROW(t."Region"), ROW(d.c1)))) AS d WHERE i2 <= -w));
-- modify unless empty: pgt_root
INSERT INTO "public"."st" ("Region") SELECT c1 FROM pgt_root AS d CROSS JOIN generate_series(1, d.w) AS i1 WHERE d.w > 0;

-- recompute
-- stage pgt_t1 unless empty: 
SELECT c1, sum(w::integer) AS w, count(*) FILTER (WHERE w > 0) AS n FROM (SELECT c1, 1::bigint AS w FROM (WITH RECURSIVE pgt_f(c1) AS (SELECT c1::integer AS c1 FROM (SELECT c1 AS c1 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3)) AS d(c1) UNION ALL SELECT c1 FROM (SELECT c1 AS c1 FROM (SELECT c1 AS c1 FROM (SELECT c1 FROM pgt_f) AS d(c1)) AS d(c1) GROUP BY 1) AS d(c1)) SELECT c1 FROM pgt_f) AS x(c1) UNION ALL SELECT c1, (-1)::bigint AS w FROM pgtrickle_changes.state_1_1 AS s) AS x(c1, w) GROUP BY c1 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_t1
DELETE FROM ONLY pgtrickle_changes.state_1_1 AS t WHERE t.ctid = ANY (ARRAY(SELECT s.ctid AS i1 FROM pgt_t1 AS d JOIN pgtrickle_changes.state_1_1 AS s ON (pgtrickle.row_hash(s.c1) = pgtrickle.row_hash(d.c1) AND s.c1 IS NOT DISTINCT FROM d.c1)));
-- modify unless empty: pgt_t1
INSERT INTO pgtrickle_changes.state_1_1 (c1) SELECT c1 FROM pgt_t1 AS d CROSS JOIN generate_series(1, n) AS i1;
-- stage pgt_root unless empty: 
SELECT c1, sum(w::integer) AS w FROM (SELECT c1, 1::bigint AS w FROM (SELECT c1 FROM pgtrickle_changes.state_1_1) AS d(c1) UNION ALL SELECT "Region" AS c1, (-1)::bigint AS w FROM ONLY "public"."st") AS d(c1, w) GROUP BY 1 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_root
-- as many as SELECT coalesce(-sum(w::integer) FILTER (WHERE w < 0), 0) AS n FROM pgt_root
DELETE FROM ONLY "public"."st" AS t WHERE t.ctid = ANY (ARRAY(SELECT i1 FROM (SELECT t.ctid AS i1, row_number() OVER (PARTITION BY d.i1) AS i2, d.w AS w FROM (SELECT c1, w, row_number() OVER () AS i1 FROM pgt_root AS d WHERE w < 0) AS d JOIN ONLY "public"."st" AS t ON (pgtrickle.image_hash(t."Region") = pgtrickle.image_hash(d.c1) AND record_image_eq(ROW(t."Region"), ROW(d.c1)))) AS d WHERE i2 <= -w));
-- modify unless empty: pgt_root
INSERT INTO "public"."st" ("Region") SELECT c1 FROM pgt_root AS d CROSS JOIN generate_series(1, d.w) AS i1 WHERE d.w > 0;

-- where columns come from
-- pgt_t1: -
-- state_1_1: -
