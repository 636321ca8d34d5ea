CREATE TABLE pgtrickle_changes.state_1_1 (c1 integer, c2 integer);
CREATE UNIQUE INDEX ON pgtrickle_changes.state_1_1 (c1, c2);
CREATE INDEX ON pgtrickle_changes.state_1_1 (c2);
CREATE UNIQUE INDEX ON "public"."st" ("Region", "total");

-- fill
-- modify unless empty: 
INSERT INTO pgtrickle_changes.state_1_1 (c1, c2) WITH RECURSIVE pgt_f(c1, c2) AS (SELECT c1::integer AS c1, c2::integer AS c2 FROM (SELECT c1 AS c1, c2 AS c2 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3)) AS d(c1, c2) UNION SELECT c1, c2 FROM (SELECT c1 AS c1, c4 AS c2 FROM (SELECT c1, c2, c3, c4 FROM (SELECT c1, c2 FROM pgt_f) AS l(c1, c2) JOIN (SELECT c1 AS c1, c2 AS c2 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3)) AS r(c3, c4) ON (((c2 = c3)))) AS d(c1, c2, c3, c4)) AS d(c1, c2)) SELECT c1, c2 FROM pgt_f;
-- modify unless empty: 
INSERT INTO "public"."st" ("Region", "total") SELECT c1, c2 FROM (SELECT c1, c2 FROM pgtrickle_changes.state_1_1) AS d(c1, c2);

-- refresh
-- stage pgt_z1 unless empty: pgt_delta_100 pgt_delta_200
SELECT c1 AS c1, c2 AS c2, w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_100 WHERE w <> 0) AS d(c1, c2, c3, w) UNION ALL SELECT c1 AS c1, c4 AS c2, w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, c4 AS c4, t1.w AS w FROM (SELECT c1 AS c1, c2 AS c2, w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_200 WHERE w <> 0) AS d(c1, c2, c3, w)) AS t1(c3, c4, w) JOIN (SELECT c1, c2 FROM pgtrickle_changes.state_1_1 AS s) AS t2(c1, c2) ON (((c2 = c3)))) AS d(c1, c2, c3, c4, w);
-- stage pgt_d1 unless empty: pgt_z1
WITH RECURSIVE pgt_f(c1, c2) AS (SELECT c1::integer AS c1, c2::integer AS c2 FROM pgt_z1 AS d WHERE w < 0 AND EXISTS (SELECT FROM pgtrickle_changes.state_1_1 AS s WHERE d.c1 = s.c1 AND d.c2 = s.c2) UNION SELECT c1, c2 FROM (SELECT c1 AS c1, c4 AS c2 FROM (SELECT c1, c2, c3, c4 FROM (SELECT c1, c2 FROM pgt_f) AS l(c1, c2) JOIN (SELECT c1 AS c1, c2 AS c2 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3)) AS r(c3, c4) ON (((c2 = c3)))) AS d(c1, c2, c3, c4)) AS d(c1, c2) WHERE EXISTS (SELECT FROM pgtrickle_changes.state_1_1 AS s WHERE d.c1 = s.c1 AND d.c2 = s.c2)) SELECT c1, c2 FROM pgt_f;
-- modify unless empty: pgt_d1
-- as many as SELECT count(*) AS n FROM pgt_d1
DELETE FROM ONLY pgtrickle_changes.state_1_1 AS t WHERE t.ctid = ANY (ARRAY(SELECT s.ctid AS i1 FROM pgt_d1 AS d JOIN pgtrickle_changes.state_1_1 AS s ON (s.c1 = d.c1 AND s.c2 = d.c2)));
-- stage pgt_u1 unless empty: pgt_d1
SELECT x.c1, x.c2 FROM pgt_d1 AS d JOIN (SELECT c1 AS c1, c2 AS c2 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3)) AS x(c1, c2) ON (x.c1 = d.c1 AND x.c2 = d.c2) UNION ALL SELECT x.c1, x.c2 FROM pgt_d1 AS d JOIN (SELECT c1 AS c1, c4 AS c2 FROM (SELECT c1, c2, c3, c4 FROM (SELECT c1, c2 FROM pgtrickle_changes.state_1_1 AS s) AS l(c1, c2) JOIN (SELECT c1 AS c1, c2 AS c2 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3)) AS r(c3, c4) ON (((c2 = c3)))) AS d(c1, c2, c3, c4)) AS x(c1, c2) ON (x.c1 = d.c1 AND x.c2 = d.c2);
-- stage pgt_b1 unless empty: pgt_z1
SELECT c1, c2, sum(w::integer) AS w FROM (SELECT c1, c2, w FROM pgt_z1 UNION ALL SELECT c1, c2, -w AS w FROM (SELECT c1 AS c1, c4 AS c2, w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, c4 AS c4, t1.w AS w FROM (SELECT c1 AS c1, c2 AS c2, w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_200 WHERE w <> 0) AS d(c1, c2, c3, w)) AS t1(c3, c4, w) JOIN (SELECT c1, c2 FROM pgt_d1 AS s) AS t2(c1, c2) ON (((c2 = c3)))) AS d(c1, c2, c3, c4, w)) AS d(c1, c2, w)) AS x(c1, c2, w) WHERE NOT EXISTS (SELECT FROM pgtrickle_changes.state_1_1 AS s WHERE x.c1 = s.c1 AND x.c2 = s.c2) GROUP BY c1, c2 HAVING sum(w::integer) > 0;
-- stage pgt_a1 unless empty: pgt_b1 pgt_u1
WITH RECURSIVE pgt_f(c1, c2) AS (SELECT c1::integer AS c1, c2::integer AS c2 FROM (SELECT c1, c2 FROM pgt_b1 AS d UNION ALL SELECT c1, c2 FROM pgt_u1 AS d) AS d(c1, c2) UNION SELECT c1, c2 FROM (SELECT c1 AS c1, c4 AS c2 FROM (SELECT c1, c2, c3, c4 FROM (SELECT c1, c2 FROM pgt_f) AS l(c1, c2) JOIN (SELECT c1 AS c1, c2 AS c2 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3)) AS r(c3, c4) ON (((c2 = c3)))) AS d(c1, c2, c3, c4)) AS d(c1, c2) WHERE NOT EXISTS (SELECT FROM pgtrickle_changes.state_1_1 AS s WHERE d.c1 = s.c1 AND d.c2 = s.c2)) SELECT c1, c2 FROM pgt_f;
-- modify unless empty: pgt_a1
INSERT INTO pgtrickle_changes.state_1_1 (c1, c2) SELECT c1, c2 FROM pgt_a1 AS d;
-- stage pgt_t1 unless empty: pgt_a1 pgt_d1
SELECT c1, c2, sum(w::integer) AS w FROM (SELECT c1, c2, 1::bigint AS w FROM pgt_a1 UNION ALL SELECT c1, c2, (-1)::bigint AS w FROM pgt_d1) AS x(c1, c2, w) GROUP BY c1, c2 HAVING sum(w::integer) <> 0;
-- stage pgt_root unless empty: pgt_t1
SELECT c1, c2, w FROM pgt_t1;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, c2, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, c2, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND a.c1 = b.c1 AND a.c2 = b.c2)) AS d(c1, c2, w) ON t."Region" = d.c1 AND t."total" = d.c2 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region", "total") VALUES (d.c1, d.c2);

-- recompute
-- stage pgt_t1 unless empty: 
SELECT c1, c2, sum(w::integer) AS w, count(*) FILTER (WHERE w > 0) AS n FROM (SELECT c1, c2, 1::bigint AS w FROM (WITH RECURSIVE pgt_f(c1, c2) AS (SELECT c1::integer AS c1, c2::integer AS c2 FROM (SELECT c1 AS c1, c2 AS c2 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3)) AS d(c1, c2) UNION SELECT c1, c2 FROM (SELECT c1 AS c1, c4 AS c2 FROM (SELECT c1, c2, c3, c4 FROM (SELECT c1, c2 FROM pgt_f) AS l(c1, c2) JOIN (SELECT c1 AS c1, c2 AS c2 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3)) AS r(c3, c4) ON (((c2 = c3)))) AS d(c1, c2, c3, c4)) AS d(c1, c2)) SELECT c1, c2 FROM pgt_f) AS x(c1, c2) UNION ALL SELECT c1, c2, (-1)::bigint AS w FROM pgtrickle_changes.state_1_1 AS s) AS x(c1, c2, w) GROUP BY c1, c2 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_t1
DELETE FROM ONLY pgtrickle_changes.state_1_1 AS t WHERE t.ctid = ANY (ARRAY(SELECT s.ctid AS i1 FROM pgt_t1 AS d JOIN pgtrickle_changes.state_1_1 AS s ON (s.c1 = d.c1 AND s.c2 = d.c2)));
-- modify unless empty: pgt_t1
INSERT INTO pgtrickle_changes.state_1_1 (c1, c2) SELECT c1, c2 FROM pgt_t1 AS d CROSS JOIN generate_series(1, n) AS i1;
-- stage pgt_root unless empty: 
SELECT CASE WHEN v.w > 0 THEN a.c1 ELSE b.c1 END AS c1, CASE WHEN v.w > 0 THEN a.c2 ELSE b.c2 END AS c2, v.w AS w FROM (SELECT c1, c2, true AS i1 FROM (SELECT c1, c2 FROM pgtrickle_changes.state_1_1) AS d(c1, c2)) AS a FULL JOIN (SELECT "Region" AS c1, "total" AS c2, true AS i1 FROM ONLY "public"."st") AS b ON (a.c1 = b.c1 AND a.c2 = b.c2) CROSS JOIN (VALUES (1::bigint), ((-1)::bigint)) AS v(w) WHERE (a.i1 IS NULL OR b.i1 IS NULL OR record_image_ne(ROW(a.c1, a.c2), ROW(b.c1, b.c2))) AND CASE WHEN v.w > 0 THEN a.i1 ELSE b.i1 END;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, c2, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, c2, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND a.c1 = b.c1 AND a.c2 = b.c2)) AS d(c1, c2, w) ON t."Region" = d.c1 AND t."total" = d.c2 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region", "total") VALUES (d.c1, d.c2);

-- where columns come from
-- pgt_t1: - -
-- state_1_1: - -
