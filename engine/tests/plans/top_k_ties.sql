CREATE TABLE pgtrickle_changes.state_1_1 (c1 integer, c2 numeric(12,2)) WITH (fillfactor = 80);
CREATE INDEX ON pgtrickle_changes.state_1_1 (pgtrickle.image_hash(c1, c2));
CREATE INDEX ON "public"."st" (pgtrickle.image_hash("Region", "total"));

-- fill
-- modify unless empty: 
INSERT INTO pgtrickle_changes.state_1_1 (c1, c2) SELECT c1, c2 FROM (SELECT c1, c2 FROM (SELECT c2 AS c1, c3 AS c2 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3)) AS d(c1, c2) ORDER BY c1 USING OPERATOR(pg_catalog.<) NULLS LAST FETCH FIRST 13 ROWS WITH TIES) AS d(c1, c2);
-- modify unless empty: 
INSERT INTO "public"."st" ("Region", "total") SELECT c1, c2 FROM (SELECT c1 AS c1, c2 AS c2 FROM ONLY pgtrickle_changes.state_1_1 ORDER BY c1 USING OPERATOR(pg_catalog.<) NULLS LAST FETCH FIRST 3 ROWS WITH TIES) AS d(c1, c2);

-- refresh
-- stage pgt_g1 unless empty: pgt_delta_100
SELECT c1, c2, o AS o, CASE WHEN i1 < 3 OR i2 > 0 THEN GREATEST(n, 0) ELSE 0 END AS n, n < 0 AND (i1 < 3 OR i2 > 0) AS i1 FROM (SELECT c1, c2, o AS o, o + w AS n, sum(o::integer) OVER () AS i1, sum(o::integer) OVER (ORDER BY c1 USING OPERATOR(pg_catalog.<) NULLS LAST RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS i2 FROM (SELECT c1, c2, sum(o::integer) AS o, sum(w::integer) AS w FROM (SELECT c1 AS c1, c2 AS c2, 1 AS o, 0::bigint AS w FROM ONLY pgtrickle_changes.state_1_1 UNION ALL SELECT c1, c2, 0 AS o, w AS w FROM (SELECT c2 AS c1, c3 AS c2, w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_100 WHERE w <> 0) AS d(c1, c2, c3, w)) AS d(c1, c2, w)) AS d GROUP BY 1, 2) AS d) AS d;
-- check unless empty: pgt_g1
SELECT 'the stored first rows contradict their changes'::text AS "wrong" FROM pgt_g1 WHERE i1;
-- stage pgt_r1 unless empty: pgt_g1
SELECT c1, c2 FROM (SELECT c2 AS c1, c3 AS c2 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3)) AS d(c1, c2) WHERE (SELECT sum(o) >= 3 AND sum(n) < 3 FROM pgt_g1) ORDER BY c1 USING OPERATOR(pg_catalog.<) NULLS LAST FETCH FIRST 13 ROWS WITH TIES;
-- stage pgt_t1 unless empty: pgt_g1 pgt_r1
SELECT c1, c2, w, v FROM (SELECT c1, c2, CASE WHEN i2 < 13 THEN n ELSE 0 END - o AS w, CASE WHEN i2 < 3 THEN n ELSE 0 END - CASE WHEN i1 < 3 THEN o ELSE 0 END AS v FROM (SELECT c1, c2, o AS o, n AS n, sum(o::integer) OVER () - sum(o::integer) OVER (ORDER BY c1 USING OPERATOR(pg_catalog.<) NULLS LAST RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS i1, sum(n::integer) OVER () - sum(n::integer) OVER (ORDER BY c1 USING OPERATOR(pg_catalog.<) NULLS LAST RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS i2 FROM (SELECT c1, c2, sum(o::integer) AS o, sum(n::integer) AS n FROM (SELECT c1, c2, o AS o, CASE WHEN (SELECT sum(o) >= 3 AND sum(n) < 3 FROM pgt_g1) THEN 0 ELSE n END AS n FROM pgt_g1 WHERE (o > 0 OR n > 0) UNION ALL SELECT c1, c2, 0 AS o, 1 AS n FROM pgt_r1) AS d GROUP BY 1, 2) AS d) AS d) AS d WHERE (w <> 0 OR v <> 0);
-- modify unless empty: pgt_t1
-- as many as SELECT coalesce(-sum(w::integer) FILTER (WHERE w < 0), 0) AS n FROM pgt_t1
DELETE FROM ONLY pgtrickle_changes.state_1_1 AS t WHERE t.ctid = ANY (ARRAY(SELECT i1 FROM (SELECT t.ctid AS i1, row_number() OVER (PARTITION BY d.i1) AS i2, d.w AS w FROM (SELECT c1, c2, w, row_number() OVER () AS i1 FROM pgt_t1 AS d WHERE w < 0) AS d JOIN ONLY pgtrickle_changes.state_1_1 AS t ON (pgtrickle.image_hash(t.c1, t.c2) = pgtrickle.image_hash(d.c1, d.c2) AND record_image_eq(ROW(t.c1, t.c2), ROW(d.c1, d.c2)))) AS d WHERE i2 <= -w));
-- modify unless empty: pgt_t1
INSERT INTO pgtrickle_changes.state_1_1 (c1, c2) SELECT c1, c2 FROM pgt_t1 AS d CROSS JOIN generate_series(1, d.w) AS i1 WHERE d.w > 0;
-- stage pgt_root unless empty: pgt_t1
SELECT c1, c2, sum(w::integer) AS w FROM (SELECT c1, c2, v AS w FROM pgt_t1 WHERE v <> 0) AS d(c1, c2, w) GROUP BY 1, 2 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_root
-- as many as SELECT coalesce(-sum(w::integer) FILTER (WHERE w < 0), 0) AS n FROM pgt_root
DELETE FROM ONLY "public"."st" AS t WHERE t.ctid = ANY (ARRAY(SELECT i1 FROM (SELECT t.ctid AS i1, row_number() OVER (PARTITION BY d.i1) AS i2, d.w AS w FROM (SELECT c1, c2, w, row_number() OVER () AS i1 FROM pgt_root AS d WHERE w < 0) AS d JOIN ONLY "public"."st" AS t ON (pgtrickle.image_hash(t."Region", t."total") = pgtrickle.image_hash(d.c1, d.c2) AND record_image_eq(ROW(t."Region", t."total"), ROW(d.c1, d.c2)))) AS d WHERE i2 <= -w));
-- modify unless empty: pgt_root
INSERT INTO "public"."st" ("Region", "total") SELECT c1, c2 FROM pgt_root AS d CROSS JOIN generate_series(1, d.w) AS i1 WHERE d.w > 0;

-- recompute
-- stage pgt_t1 unless empty: 
SELECT c1, c2, sum(w::integer) AS w FROM (SELECT c1, c2, 1::bigint AS w FROM (SELECT c1, c2 FROM (SELECT c2 AS c1, c3 AS c2 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3)) AS d(c1, c2) ORDER BY c1 USING OPERATOR(pg_catalog.<) NULLS LAST FETCH FIRST 13 ROWS WITH TIES) AS d(c1, c2) UNION ALL SELECT c1 AS c1, c2 AS c2, (-1)::bigint AS w FROM ONLY pgtrickle_changes.state_1_1) AS d(c1, c2, w) GROUP BY 1, 2 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_t1
-- as many as SELECT coalesce(-sum(w::integer) FILTER (WHERE w < 0), 0) AS n FROM pgt_t1
DELETE FROM ONLY pgtrickle_changes.state_1_1 AS t WHERE t.ctid = ANY (ARRAY(SELECT i1 FROM (SELECT t.ctid AS i1, row_number() OVER (PARTITION BY d.i1) AS i2, d.w AS w FROM (SELECT c1, c2, w, row_number() OVER () AS i1 FROM pgt_t1 AS d WHERE w < 0) AS d JOIN ONLY pgtrickle_changes.state_1_1 AS t ON (pgtrickle.image_hash(t.c1, t.c2) = pgtrickle.image_hash(d.c1, d.c2) AND record_image_eq(ROW(t.c1, t.c2), ROW(d.c1, d.c2)))) AS d WHERE i2 <= -w));
-- modify unless empty: pgt_t1
INSERT INTO pgtrickle_changes.state_1_1 (c1, c2) SELECT c1, c2 FROM pgt_t1 AS d CROSS JOIN generate_series(1, d.w) AS i1 WHERE d.w > 0;
-- stage pgt_root unless empty: 
SELECT c1, c2, sum(w::integer) AS w FROM (SELECT c1, c2, 1::bigint AS w FROM (SELECT c1 AS c1, c2 AS c2 FROM ONLY pgtrickle_changes.state_1_1 ORDER BY c1 USING OPERATOR(pg_catalog.<) NULLS LAST FETCH FIRST 3 ROWS WITH TIES) AS d(c1, c2) UNION ALL SELECT "Region" AS c1, "total" AS c2, (-1)::bigint AS w FROM ONLY "public"."st") AS d(c1, c2, w) GROUP BY 1, 2 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_root
-- as many as SELECT coalesce(-sum(w::integer) FILTER (WHERE w < 0), 0) AS n FROM pgt_root
DELETE FROM ONLY "public"."st" AS t WHERE t.ctid = ANY (ARRAY(SELECT i1 FROM (SELECT t.ctid AS i1, row_number() OVER (PARTITION BY d.i1) AS i2, d.w AS w FROM (SELECT c1, c2, w, row_number() OVER () AS i1 FROM pgt_root AS d WHERE w < 0) AS d JOIN ONLY "public"."st" AS t ON (pgtrickle.image_hash(t."Region", t."total") = pgtrickle.image_hash(d.c1, d.c2) AND record_image_eq(ROW(t."Region", t."total"), ROW(d.c1, d.c2)))) AS d WHERE i2 <= -w));
-- modify unless empty: pgt_root
INSERT INTO "public"."st" ("Region", "total") SELECT c1, c2 FROM pgt_root AS d CROSS JOIN generate_series(1, d.w) AS i1 WHERE d.w > 0;

-- where columns come from
-- pgt_t1: 100.2 100.3
-- state_1_1: 100.2 100.3
