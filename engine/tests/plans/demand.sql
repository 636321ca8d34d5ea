CREATE TABLE pgtrickle_changes.state_1_1 (k1 integer, n bigint NOT NULL) WITH (fillfactor = 80);
CREATE UNIQUE INDEX ON pgtrickle_changes.state_1_1 (k1);
CREATE TABLE pgtrickle_changes.state_1_2 (k1 integer, n bigint NOT NULL, p1 integer) WITH (fillfactor = 80);
CREATE UNIQUE INDEX ON pgtrickle_changes.state_1_2 (k1);
CREATE UNIQUE INDEX ON "public"."st" ("Region");

-- fill
-- modify unless empty: 
INSERT INTO pgtrickle_changes.state_1_1 (k1, n) SELECT c1 AS k1, count(*) AS n FROM (SELECT c1 AS c1 FROM (SELECT c1, c2, c3 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3) WHERE ((c2 > 100))) AS d(c1, c2, c3)) AS d(c1) GROUP BY 1;
-- modify unless empty: 
INSERT INTO pgtrickle_changes.state_1_2 (k1, n, p1) SELECT c2 AS k1, count(*) AS n, max(c1) AS p1 FROM (SELECT c1, c2, c3, c4 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS l(c1, c2, c3) JOIN (SELECT k1 AS c1 FROM pgtrickle_changes.state_1_1) AS r(c4) ON (((c2 = c4)))) AS d(c1, c2, c3, c4) GROUP BY 1;
-- modify unless empty: 
INSERT INTO "public"."st" ("Region", "total") SELECT c1, c2 FROM (SELECT c1 AS c1, c5 AS c2 FROM (SELECT c1, c2, c3, c4, c5 FROM (SELECT c1, c2, c3 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3) WHERE ((c2 > 100))) AS l(c1, c2, c3) JOIN (SELECT k1 AS c1, p1 AS c2 FROM pgtrickle_changes.state_1_2) AS r(c4, c5) ON (((c1 = c4)))) AS d(c1, c2, c3, c4, c5)) AS d(c1, c2);

-- refresh
-- stage pgt_g2 unless empty: pgt_delta_100
SELECT c2 AS k1, coalesce(sum(w::integer), 0) AS n, max(c1) FILTER (WHERE w > 0) AS d1, max(c1) FILTER (WHERE w < 0) AS d2 FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, c4 AS c4, t1.w AS w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_100 WHERE w <> 0) AS t1(c1, c2, c3, w) JOIN (SELECT k1 AS c1 FROM pgtrickle_changes.state_1_1) AS t2(c4) ON (((c2 = c4)))) AS d(c1, c2, c3, c4, w) GROUP BY 1;
-- stage pgt_t2 unless empty: pgt_g2
SELECT g.k1 AS k1, (coalesce(s.n, 0) + g.n) AS n, GREATEST(s.p1, g.d1) AS p1, s.k1 AS j1, s.n AS m, s.p1 AS q1, NULL::bigint AS r, s.ctid AS x, ((g.d2 IS NOT NULL AND (g.d2 >= GREATEST(s.p1, g.d1)) IS NOT FALSE)) AND (coalesce(s.n, 0) + g.n) > 0 AS y FROM pgt_g2 AS g LEFT JOIN pgtrickle_changes.state_1_2 AS s ON (s.k1 = g.k1);
-- stage pgt_d2 unless empty: pgt_t2
SELECT k1 FROM pgt_t2 WHERE y;
-- stage pgt_r2 unless empty: pgt_d2
SELECT c2 AS k1, count(*) AS n, max(c1) AS p1 FROM (SELECT c1, c2, c3, c4 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS l(c1, c2, c3) JOIN (SELECT k1 AS c1 FROM pgtrickle_changes.state_1_1) AS r(c4) ON (((c2 = c4)))) AS d(c1, c2, c3, c4) JOIN pgt_d2 AS x ON ((c2) = x.k1) GROUP BY 1;
-- stage pgt_t2 again unless empty: pgt_d2
SELECT g.k1 AS k1, g.n AS n, CASE WHEN r.n IS NOT NULL THEN r.p1 ELSE g.p1 END AS p1, g.j1 AS j1, g.m AS m, g.q1 AS q1, r.n AS r, g.x AS x, g.y AS y FROM pgt_t2 AS g LEFT JOIN pgt_r2 AS r ON (r.k1 = g.k1);
-- check unless empty: pgt_t2
SELECT 'the stored state of a group contradicts its changes'::text AS "wrong" FROM pgt_t2 WHERE n < 0 OR r <> n;
-- modify unless empty: pgt_t2
MERGE INTO ONLY pgtrickle_changes.state_1_2 AS s USING (SELECT k1, n, p1, x FROM pgt_t2 WHERE (m IS NULL OR n <> m OR record_image_ne(ROW(p1), ROW(q1)))) AS t(k1, n, p1, x) ON s.ctid = t.x WHEN MATCHED AND t.n = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = t.n, p1 = t.p1 WHEN NOT MATCHED AND t.n > 0 THEN INSERT (k1, n, p1) VALUES (t.k1, t.n, t.p1);
-- stage pgt_root unless empty: pgt_t2
SELECT c1, c2, sum(w::integer) AS w FROM (SELECT c1 AS c1, c5 AS c2, w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, c4 AS c4, c5 AS c5, t1.w AS w FROM (SELECT k1 AS c1, p1 AS c2, 1::bigint AS w FROM pgt_t2 WHERE (m IS NULL OR n = 0 OR record_image_ne(ROW(p1), ROW(q1))) AND n > 0 UNION ALL SELECT j1 AS c1, q1 AS c2, (-1)::bigint AS w FROM pgt_t2 WHERE (m IS NULL OR n = 0 OR record_image_ne(ROW(p1), ROW(q1))) AND m IS NOT NULL) AS t1(c4, c5, w) JOIN (SELECT c1, c2, c3 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3) WHERE ((c2 > 100))) AS t2(c1, c2, c3) ON (((c1 = c4)))) AS d(c1, c2, c3, c4, c5, w)) AS d(c1, c2, w) GROUP BY 1, 2 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, c2, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, c2, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND a.c1 = b.c1)) AS d(c1, c2, w) ON t."Region" = d.c1 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET "total" = d.c2 WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region", "total") VALUES (d.c1, d.c2);

-- recompute
-- stage pgt_t1 unless empty: 
SELECT CASE WHEN g.n IS NOT NULL THEN g.k1 ELSE s.k1 END AS k1, coalesce(g.n, 0) AS n, s.k1 AS j1, s.n AS m, s.ctid AS x FROM (SELECT c1 AS k1, count(*) AS n FROM (SELECT c1 AS c1 FROM (SELECT c1, c2, c3 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3) WHERE ((c2 > 100))) AS d(c1, c2, c3)) AS d(c1) GROUP BY 1) AS g(k1, n) FULL JOIN pgtrickle_changes.state_1_1 AS s ON (s.k1 = g.k1);
-- modify unless empty: pgt_t1
MERGE INTO ONLY pgtrickle_changes.state_1_1 AS s USING (SELECT k1, n, x FROM pgt_t1 WHERE (m IS NULL OR n <> m)) AS t(k1, n, x) ON s.ctid = t.x WHEN MATCHED AND t.n = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = t.n WHEN NOT MATCHED AND t.n > 0 THEN INSERT (k1, n) VALUES (t.k1, t.n);
-- stage pgt_t2 unless empty: 
SELECT CASE WHEN g.n IS NOT NULL THEN g.k1 ELSE s.k1 END AS k1, coalesce(g.n, 0) AS n, g.p1 AS p1, s.k1 AS j1, s.n AS m, s.p1 AS q1, s.ctid AS x FROM (SELECT c2 AS k1, count(*) AS n, max(c1) AS p1 FROM (SELECT c1, c2, c3, c4 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS l(c1, c2, c3) JOIN (SELECT k1 AS c1 FROM pgtrickle_changes.state_1_1) AS r(c4) ON (((c2 = c4)))) AS d(c1, c2, c3, c4) GROUP BY 1) AS g(k1, n, p1) FULL JOIN pgtrickle_changes.state_1_2 AS s ON (s.k1 = g.k1);
-- modify unless empty: pgt_t2
MERGE INTO ONLY pgtrickle_changes.state_1_2 AS s USING (SELECT k1, n, p1, x FROM pgt_t2 WHERE (m IS NULL OR n <> m OR record_image_ne(ROW(p1), ROW(q1)))) AS t(k1, n, p1, x) ON s.ctid = t.x WHEN MATCHED AND t.n = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = t.n, p1 = t.p1 WHEN NOT MATCHED AND t.n > 0 THEN INSERT (k1, n, p1) VALUES (t.k1, t.n, t.p1);
-- stage pgt_root unless empty: 
SELECT CASE WHEN v.w > 0 THEN a.c1 ELSE b.c1 END AS c1, CASE WHEN v.w > 0 THEN a.c2 ELSE b.c2 END AS c2, v.w AS w FROM (SELECT c1, c2, true AS i1 FROM (SELECT c1 AS c1, c5 AS c2 FROM (SELECT c1, c2, c3, c4, c5 FROM (SELECT c1, c2, c3 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3) WHERE ((c2 > 100))) AS l(c1, c2, c3) JOIN (SELECT k1 AS c1, p1 AS c2 FROM pgtrickle_changes.state_1_2) AS r(c4, c5) ON (((c1 = c4)))) AS d(c1, c2, c3, c4, c5)) AS d(c1, c2)) AS a FULL JOIN (SELECT "Region" AS c1, "total" AS c2, true AS i1 FROM ONLY "public"."st") AS b ON (a.c1 = b.c1) CROSS JOIN (VALUES (1::bigint), ((-1)::bigint)) AS v(w) WHERE (a.i1 IS NULL OR b.i1 IS NULL OR record_image_ne(ROW(a.c1, a.c2), ROW(b.c1, b.c2))) AND CASE WHEN v.w > 0 THEN a.i1 ELSE b.i1 END;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, c2, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, c2, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND a.c1 = b.c1)) AS d(c1, c2, w) ON t."Region" = d.c1 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET "total" = d.c2 WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region", "total") VALUES (d.c1, d.c2);

-- where columns come from
-- pgt_t1: 200.1
-- pgt_t2: 100.2 -
-- state_1_1: 200.1
-- state_1_2: 100.2 -
