CREATE TABLE pgtrickle_changes.state_1_1 (k1 integer, n bigint NOT NULL, p1 bigint, p2 bigint) WITH (fillfactor = 80);
CREATE UNIQUE INDEX ON pgtrickle_changes.state_1_1 (k1);
CREATE INDEX ON "public"."st" (pgtrickle.image_hash("Region"));

-- fill
-- modify unless empty: 
INSERT INTO pgtrickle_changes.state_1_1 (k1, n, p1, p2) SELECT c1 AS k1, count(*) AS n, count(*) FILTER (WHERE ((c2 = true))) AS p1, count(*) FILTER (WHERE ((c2 = false))) AS p2 FROM (SELECT c1 AS c1, true AS c2 FROM (SELECT c1 AS c1 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3)) AS d(c1) UNION ALL SELECT c1 AS c1, false AS c2 FROM (SELECT c1 AS c1 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3)) AS d(c1)) AS d(c1, c2) GROUP BY 1;
-- modify unless empty: 
INSERT INTO "public"."st" ("Region") SELECT c1 FROM (SELECT c1 AS c1 FROM (SELECT c1, c2, c3 FROM (SELECT k1 AS c1, p1 AS c2, p2 AS c3 FROM pgtrickle_changes.state_1_1) AS d(c1, c2, c3) CROSS JOIN generate_series(1, GREATEST(c2 - c3, 0::bigint)) AS i1) AS d(c1, c2, c3)) AS d(c1);

-- refresh
-- stage pgt_g1 unless empty: pgt_delta_200
SELECT c1 AS k1, coalesce(sum(w::integer), 0) AS n, coalesce(sum(w::integer) FILTER (WHERE ((c2 = true))), 0) AS d1, coalesce(sum(w::integer) FILTER (WHERE ((c2 = false))), 0) AS d2 FROM (SELECT c1 AS c1, true AS c2, w FROM (SELECT c1 AS c1, w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_200 WHERE w <> 0) AS d(c1, c2, c3, w)) AS d(c1, w)) AS d(c1, c2, w) GROUP BY 1;
-- stage pgt_t1 unless empty: pgt_g1
SELECT g.k1 AS k1, (coalesce(s.n, 0) + g.n) AS n, (coalesce(s.p1, 0) + g.d1) AS p1, (coalesce(s.p2, 0) + g.d2) AS p2, s.k1 AS j1, s.n AS m, s.p1 AS q1, s.p2 AS q2, NULL::bigint AS r, s.ctid AS x FROM pgt_g1 AS g LEFT JOIN pgtrickle_changes.state_1_1 AS s ON (s.k1 = g.k1);
-- check unless empty: pgt_t1
SELECT 'the stored state of a group contradicts its changes'::text AS "wrong" FROM pgt_t1 WHERE n < 0 OR r <> n;
-- modify unless empty: pgt_t1
MERGE INTO ONLY pgtrickle_changes.state_1_1 AS s USING (SELECT k1, n, p1, p2, x FROM pgt_t1 WHERE (m IS NULL OR n <> m OR record_image_ne(ROW(p1, p2), ROW(q1, q2)))) AS t(k1, n, p1, p2, x) ON s.ctid = t.x WHEN MATCHED AND t.n = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = t.n, p1 = t.p1, p2 = t.p2 WHEN NOT MATCHED AND t.n > 0 THEN INSERT (k1, n, p1, p2) VALUES (t.k1, t.n, t.p1, t.p2);
-- stage pgt_root unless empty: pgt_t1
SELECT c1, sum(w::integer) AS w FROM (SELECT c1 AS c1, w FROM (SELECT c1, c2, c3, w * (GREATEST(c2 - c3, 0::bigint)) AS w FROM (SELECT k1 AS c1, p1 AS c2, p2 AS c3, 1::bigint AS w FROM pgt_t1 WHERE (m IS NULL OR n = 0 OR record_image_ne(ROW(p1, p2), ROW(q1, q2))) AND n > 0 UNION ALL SELECT j1 AS c1, q1 AS c2, q2 AS c3, (-1)::bigint AS w FROM pgt_t1 WHERE (m IS NULL OR n = 0 OR record_image_ne(ROW(p1, p2), ROW(q1, q2))) AND m IS NOT NULL) AS d(c1, c2, c3, w)) AS d(c1, c2, c3, w)) AS d(c1, w) GROUP BY 1 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_root
-- as many as SELECT coalesce(-sum(w::integer) FILTER (WHERE w < 0), 0) AS n FROM pgt_root
DELETE FROM ONLY "public"."st" AS t WHERE t.ctid = ANY (ARRAY(SELECT i1 FROM (SELECT t.ctid AS i1, row_number() OVER (PARTITION BY d.i1) AS i2, d.w AS w FROM (SELECT c1, w, row_number() OVER () AS i1 FROM pgt_root AS d WHERE w < 0) AS d JOIN ONLY "public"."st" AS t ON (pgtrickle.image_hash(t."Region") = pgtrickle.image_hash(d.c1) AND record_image_eq(ROW(t."Region"), ROW(d.c1)))) AS d WHERE i2 <= -w));
-- modify unless empty: pgt_root
INSERT INTO "public"."st" ("Region") SELECT c1 FROM pgt_root AS d CROSS JOIN generate_series(1, d.w) AS i1 WHERE d.w > 0;

-- recompute
-- stage pgt_t1 unless empty: 
SELECT CASE WHEN g.n IS NOT NULL THEN g.k1 ELSE s.k1 END AS k1, coalesce(g.n, 0) AS n, g.p1 AS p1, g.p2 AS p2, s.k1 AS j1, s.n AS m, s.p1 AS q1, s.p2 AS q2, s.ctid AS x FROM (SELECT c1 AS k1, count(*) AS n, count(*) FILTER (WHERE ((c2 = true))) AS p1, count(*) FILTER (WHERE ((c2 = false))) AS p2 FROM (SELECT c1 AS c1, true AS c2 FROM (SELECT c1 AS c1 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3)) AS d(c1) UNION ALL SELECT c1 AS c1, false AS c2 FROM (SELECT c1 AS c1 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3)) AS d(c1)) AS d(c1, c2) GROUP BY 1) AS g(k1, n, p1, p2) FULL JOIN pgtrickle_changes.state_1_1 AS s ON (s.k1 = g.k1);
-- modify unless empty: pgt_t1
MERGE INTO ONLY pgtrickle_changes.state_1_1 AS s USING (SELECT k1, n, p1, p2, x FROM pgt_t1 WHERE (m IS NULL OR n <> m OR record_image_ne(ROW(p1, p2), ROW(q1, q2)))) AS t(k1, n, p1, p2, x) ON s.ctid = t.x WHEN MATCHED AND t.n = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = t.n, p1 = t.p1, p2 = t.p2 WHEN NOT MATCHED AND t.n > 0 THEN INSERT (k1, n, p1, p2) VALUES (t.k1, t.n, t.p1, t.p2);
-- stage pgt_root unless empty: 
SELECT c1, sum(w::integer) AS w FROM (SELECT c1, 1::bigint AS w FROM (SELECT c1 AS c1 FROM (SELECT c1, c2, c3 FROM (SELECT k1 AS c1, p1 AS c2, p2 AS c3 FROM pgtrickle_changes.state_1_1) AS d(c1, c2, c3) CROSS JOIN generate_series(1, GREATEST(c2 - c3, 0::bigint)) AS i1) AS d(c1, c2, c3)) AS d(c1) UNION ALL SELECT "Region" AS c1, (-1)::bigint AS w FROM ONLY "public"."st") AS d(c1, w) GROUP BY 1 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_root
-- as many as SELECT coalesce(-sum(w::integer) FILTER (WHERE w < 0), 0) AS n FROM pgt_root
DELETE FROM ONLY "public"."st" AS t WHERE t.ctid = ANY (ARRAY(SELECT i1 FROM (SELECT t.ctid AS i1, row_number() OVER (PARTITION BY d.i1) AS i2, d.w AS w FROM (SELECT c1, w, row_number() OVER () AS i1 FROM pgt_root AS d WHERE w < 0) AS d JOIN ONLY "public"."st" AS t ON (pgtrickle.image_hash(t."Region") = pgtrickle.image_hash(d.c1) AND record_image_eq(ROW(t."Region"), ROW(d.c1)))) AS d WHERE i2 <= -w));
-- modify unless empty: pgt_root
INSERT INTO "public"."st" ("Region") SELECT c1 FROM pgt_root AS d CROSS JOIN generate_series(1, d.w) AS i1 WHERE d.w > 0;

-- where columns come from
-- pgt_t1: 200.1 - -
-- state_1_1: 200.1 - -
