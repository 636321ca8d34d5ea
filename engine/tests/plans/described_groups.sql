CREATE TABLE pgtrickle_changes.state_1_1 (k1 integer, n bigint NOT NULL, p1 bigint, p2 numeric) WITH (fillfactor = 80);
CREATE UNIQUE INDEX ON pgtrickle_changes.state_1_1 (k1);
CREATE UNIQUE INDEX ON "public"."st" ("total");

-- fill
-- modify unless empty: 
INSERT INTO pgtrickle_changes.state_1_1 (k1, n, p1, p2) SELECT c2 AS k1, count(*) AS n, count(*) FILTER (WHERE (c3) IS NOT NULL) AS p1, coalesce(sum(c3), 0)::numeric AS p2 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3) GROUP BY 1;
-- modify unless empty: 
INSERT INTO "public"."st" ("Region", "total", n) SELECT c1, c2, c3 FROM (SELECT c4 AS c1, c1 AS c2, c2 AS c3 FROM (SELECT c1, c2, c3, c4, c5 FROM (SELECT k1 AS c1, CASE WHEN p1 > 0 THEN p2::bigint END AS c2 FROM pgtrickle_changes.state_1_1) AS l(c1, c2) JOIN (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS r(c3, c4, c5) ON (((c1 = c3)))) AS d(c1, c2, c3, c4, c5)) AS d(c1, c2, c3);

-- refresh
-- stage pgt_g1 unless empty: pgt_delta_100
SELECT c2 AS k1, coalesce(sum(w::integer), 0) AS n, coalesce(sum(w::integer) FILTER (WHERE (c3) IS NOT NULL), 0) AS d1, coalesce(sum(CASE w WHEN 1 THEN (c3)::numeric WHEN -1 THEN -(c3)::numeric ELSE (c3)::numeric * w END), 0)::numeric AS d2 FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_100 WHERE w <> 0) AS d(c1, c2, c3, w) GROUP BY 1;
-- stage pgt_t1 unless empty: pgt_g1
SELECT g.k1 AS k1, (coalesce(s.n, 0) + g.n) AS n, (coalesce(s.p1, 0) + g.d1) AS p1, (coalesce(s.p2, 0) + g.d2) AS p2, s.k1 AS j1, s.n AS m, s.p1 AS q1, s.p2 AS q2, NULL::bigint AS r, s.ctid AS x, ((coalesce(s.p2, 0) + g.d2) IN ('NaN'::numeric, 'Infinity'::numeric, '-Infinity'::numeric)) AND (coalesce(s.n, 0) + g.n) > 0 AS y FROM pgt_g1 AS g LEFT JOIN pgtrickle_changes.state_1_1 AS s ON (s.k1 = g.k1);
-- stage pgt_d1 unless empty: pgt_t1
SELECT k1 FROM pgt_t1 WHERE y;
-- stage pgt_r1 unless empty: pgt_d1
SELECT c2 AS k1, count(*) AS n, count(*) FILTER (WHERE (c3) IS NOT NULL) AS p1, coalesce(sum(c3), 0)::numeric AS p2 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3) JOIN pgt_d1 AS x ON ((c2) = x.k1) GROUP BY 1;
-- stage pgt_t1 again unless empty: pgt_d1
SELECT g.k1 AS k1, g.n AS n, CASE WHEN r.n IS NOT NULL THEN r.p1 ELSE g.p1 END AS p1, CASE WHEN r.n IS NOT NULL THEN r.p2 ELSE g.p2 END AS p2, g.j1 AS j1, g.m AS m, g.q1 AS q1, g.q2 AS q2, r.n AS r, g.x AS x, g.y AS y FROM pgt_t1 AS g LEFT JOIN pgt_r1 AS r ON (r.k1 = g.k1);
-- check unless empty: pgt_t1
SELECT 'the stored state of a group contradicts its changes'::text AS "wrong" FROM pgt_t1 WHERE n < 0 OR r <> n;
-- modify unless empty: pgt_t1
MERGE INTO ONLY pgtrickle_changes.state_1_1 AS s USING (SELECT k1, n, p1, p2, x FROM pgt_t1 WHERE (m IS NULL OR n <> m OR record_image_ne(ROW(p1, p2), ROW(q1, q2)))) AS t(k1, n, p1, p2, x) ON s.ctid = t.x WHEN MATCHED AND t.n = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = t.n, p1 = t.p1, p2 = t.p2 WHEN NOT MATCHED AND t.n > 0 THEN INSERT (k1, n, p1, p2) VALUES (t.k1, t.n, t.p1, t.p2);
-- stage pgt_root unless empty: pgt_delta_200 pgt_t1
SELECT c1, c2, c3, sum(w::integer) AS w FROM (SELECT c4 AS c1, c1 AS c2, c2 AS c3, w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, c4 AS c4, c5 AS c5, t1.w AS w FROM (SELECT k1 AS c1, CASE WHEN p1 > 0 THEN p2::bigint END AS c2, 1::bigint AS w FROM pgt_t1 WHERE (m IS NULL OR n = 0 OR record_image_ne(ROW(CASE WHEN p1 > 0 THEN p2::bigint END), ROW(CASE WHEN q1 > 0 THEN q2::bigint END))) AND n > 0 UNION ALL SELECT j1 AS c1, CASE WHEN q1 > 0 THEN q2::bigint END AS c2, (-1)::bigint AS w FROM pgt_t1 WHERE (m IS NULL OR n = 0 OR record_image_ne(ROW(CASE WHEN p1 > 0 THEN p2::bigint END), ROW(CASE WHEN q1 > 0 THEN q2::bigint END))) AND m IS NOT NULL) AS t1(c1, c2, w) JOIN (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS t2(c3, c4, c5) ON (((c1 = c3))) UNION ALL SELECT c1 AS c1, c2 AS c2, c3 AS c3, c4 AS c4, c5 AS c5, t2.w AS w FROM (SELECT k1 AS c1, CASE WHEN p1 > 0 THEN p2::bigint END AS c2 FROM pgtrickle_changes.state_1_1) AS t1(c1, c2) JOIN (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_200 WHERE w <> 0) AS t2(c3, c4, c5, w) ON (((c1 = c3))) UNION ALL SELECT c1, c2, c3, c4, c5, -w AS w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, c4 AS c4, c5 AS c5, t1.w * t2.w AS w FROM (SELECT k1 AS c1, CASE WHEN p1 > 0 THEN p2::bigint END AS c2, 1::bigint AS w FROM pgt_t1 WHERE (m IS NULL OR n = 0 OR record_image_ne(ROW(CASE WHEN p1 > 0 THEN p2::bigint END), ROW(CASE WHEN q1 > 0 THEN q2::bigint END))) AND n > 0 UNION ALL SELECT j1 AS c1, CASE WHEN q1 > 0 THEN q2::bigint END AS c2, (-1)::bigint AS w FROM pgt_t1 WHERE (m IS NULL OR n = 0 OR record_image_ne(ROW(CASE WHEN p1 > 0 THEN p2::bigint END), ROW(CASE WHEN q1 > 0 THEN q2::bigint END))) AND m IS NOT NULL) AS t1(c1, c2, w) JOIN (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_200 WHERE w <> 0) AS t2(c3, c4, c5, w) ON (((c1 = c3)))) AS d(c1, c2, c3, c4, c5, w)) AS d(c1, c2, c3, c4, c5, w)) AS d(c1, c2, c3, w) GROUP BY 1, 2, 3 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, c2, c3, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, c2, c3, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND a.c2 = b.c2)) AS d(c1, c2, c3, w) ON t."total" = d.c2 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET "Region" = d.c1, n = d.c3 WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region", "total", n) VALUES (d.c1, d.c2, d.c3);

-- recompute
-- stage pgt_t1 unless empty: 
SELECT CASE WHEN g.n IS NOT NULL THEN g.k1 ELSE s.k1 END AS k1, coalesce(g.n, 0) AS n, g.p1 AS p1, g.p2 AS p2, s.k1 AS j1, s.n AS m, s.p1 AS q1, s.p2 AS q2, s.ctid AS x FROM (SELECT c2 AS k1, count(*) AS n, count(*) FILTER (WHERE (c3) IS NOT NULL) AS p1, coalesce(sum(c3), 0)::numeric AS p2 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3) GROUP BY 1) AS g(k1, n, p1, p2) FULL JOIN pgtrickle_changes.state_1_1 AS s ON (s.k1 = g.k1);
-- modify unless empty: pgt_t1
MERGE INTO ONLY pgtrickle_changes.state_1_1 AS s USING (SELECT k1, n, p1, p2, x FROM pgt_t1 WHERE (m IS NULL OR n <> m OR record_image_ne(ROW(p1, p2), ROW(q1, q2)))) AS t(k1, n, p1, p2, x) ON s.ctid = t.x WHEN MATCHED AND t.n = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = t.n, p1 = t.p1, p2 = t.p2 WHEN NOT MATCHED AND t.n > 0 THEN INSERT (k1, n, p1, p2) VALUES (t.k1, t.n, t.p1, t.p2);
-- stage pgt_root unless empty: 
SELECT CASE WHEN v.w > 0 THEN a.c1 ELSE b.c1 END AS c1, CASE WHEN v.w > 0 THEN a.c2 ELSE b.c2 END AS c2, CASE WHEN v.w > 0 THEN a.c3 ELSE b.c3 END AS c3, v.w AS w FROM (SELECT c1, c2, c3, true AS i1 FROM (SELECT c4 AS c1, c1 AS c2, c2 AS c3 FROM (SELECT c1, c2, c3, c4, c5 FROM (SELECT k1 AS c1, CASE WHEN p1 > 0 THEN p2::bigint END AS c2 FROM pgtrickle_changes.state_1_1) AS l(c1, c2) JOIN (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS r(c3, c4, c5) ON (((c1 = c3)))) AS d(c1, c2, c3, c4, c5)) AS d(c1, c2, c3)) AS a FULL JOIN (SELECT "Region" AS c1, "total" AS c2, n AS c3, true AS i1 FROM ONLY "public"."st") AS b ON (a.c2 = b.c2) CROSS JOIN (VALUES (1::bigint), ((-1)::bigint)) AS v(w) WHERE (a.i1 IS NULL OR b.i1 IS NULL OR record_image_ne(ROW(a.c1, a.c2, a.c3), ROW(b.c1, b.c2, b.c3))) AND CASE WHEN v.w > 0 THEN a.i1 ELSE b.i1 END;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, c2, c3, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, c2, c3, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND a.c2 = b.c2)) AS d(c1, c2, c3, w) ON t."total" = d.c2 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET "Region" = d.c1, n = d.c3 WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region", "total", n) VALUES (d.c1, d.c2, d.c3);

-- where columns come from
-- pgt_t1: 100.2 -
-- state_1_1: 100.2 -
