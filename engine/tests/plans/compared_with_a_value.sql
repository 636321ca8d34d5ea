CREATE TABLE pgtrickle_changes.state_1_1 (n bigint NOT NULL, p1 integer) WITH (fillfactor = 80);
CREATE UNIQUE INDEX ON "public"."st" ("Region");

-- fill
-- modify unless empty: 
INSERT INTO pgtrickle_changes.state_1_1 (n, p1) SELECT count(*) AS n, max(c1) AS p1 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3);
-- modify unless empty: 
INSERT INTO "public"."st" ("Region") SELECT c1 FROM (SELECT c1 AS c1 FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, NULL::integer AS c4 FROM (SELECT c1, c2, c3 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS l(c1, c2, c3) WHERE EXISTS (SELECT FROM (SELECT p1 AS c1 FROM pgtrickle_changes.state_1_1) AS r(c4) WHERE ((c2 < c4)))) AS d(c1, c2, c3)) AS d(c1, c2, c3, c4)) AS d(c1);

-- refresh
-- stage pgt_g1 unless empty: pgt_delta_200
SELECT coalesce(sum(w::integer), 0) AS n, max(c1) FILTER (WHERE w > 0) AS d1, max(c1) FILTER (WHERE w < 0) AS d2 FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_200 WHERE w <> 0) AS d(c1, c2, c3, w);
-- stage pgt_t1 unless empty: pgt_g1
SELECT (coalesce(s.n, 0) + g.n) AS n, GREATEST(s.p1, g.d1) AS p1, s.n AS m, s.p1 AS q1, NULL::bigint AS r, s.ctid AS x, ((g.d2 IS NOT NULL AND (g.d2 >= GREATEST(s.p1, g.d1)) IS NOT FALSE)) AS y FROM pgt_g1 AS g LEFT JOIN pgtrickle_changes.state_1_1 AS s ON (true);
-- stage pgt_d1 unless empty: pgt_t1
SELECT true AS y FROM pgt_t1 WHERE y;
-- stage pgt_r1 unless empty: pgt_d1
SELECT count(*) AS n, max(c1) AS p1 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3) WHERE EXISTS (SELECT FROM pgt_d1) HAVING EXISTS (SELECT FROM pgt_d1);
-- stage pgt_t1 again unless empty: pgt_d1
SELECT g.n AS n, CASE WHEN r.n IS NOT NULL THEN r.p1 ELSE g.p1 END AS p1, g.m AS m, g.q1 AS q1, r.n AS r, g.x AS x, g.y AS y FROM pgt_t1 AS g LEFT JOIN pgt_r1 AS r ON (true);
-- check unless empty: pgt_t1
SELECT 'the stored state of a group contradicts its changes'::text AS "wrong" FROM pgt_t1 WHERE n < 0 OR r <> n OR m IS NULL;
-- modify unless empty: pgt_t1
MERGE INTO ONLY pgtrickle_changes.state_1_1 AS s USING (SELECT n, p1, x FROM pgt_t1 WHERE (m IS NULL OR n <> m OR record_image_ne(ROW(p1), ROW(q1)))) AS t(n, p1, x) ON true WHEN MATCHED THEN UPDATE SET n = t.n, p1 = t.p1 WHEN NOT MATCHED THEN INSERT (n, p1) VALUES (t.n, t.p1);
-- stage pgt_root unless empty: pgt_delta_100 pgt_t1
SELECT c1, sum(w::integer) AS w FROM (SELECT c1 AS c1, w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, NULL::integer AS c4, w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, sum(w::integer) AS w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM (SELECT c1, c2, c3, c4, r.w AS w FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS l(c1, c2, c3) JOIN (SELECT p1 AS c1, 1::bigint AS w FROM pgt_t1 WHERE record_image_ne(ROW(p1), ROW(q1)) UNION ALL SELECT q1 AS c1, (-1)::bigint AS w FROM pgt_t1 WHERE record_image_ne(ROW(p1), ROW(q1))) AS r(c4, w) ON (((c2 < c4)))) AS d(c1, c2, c3, c4, w) UNION ALL SELECT c1, c2, c3, -w AS w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM (SELECT c1, c2, c3, c4, l.w * r.w AS w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_100 WHERE w <> 0) AS l(c1, c2, c3, w) JOIN (SELECT p1 AS c1, 1::bigint AS w FROM pgt_t1 WHERE record_image_ne(ROW(p1), ROW(q1)) UNION ALL SELECT q1 AS c1, (-1)::bigint AS w FROM pgt_t1 WHERE record_image_ne(ROW(p1), ROW(q1))) AS r(c4, w) ON (((c2 < c4)))) AS d(c1, c2, c3, c4, w)) AS d(c1, c2, c3, w)) AS d(c1, c2, c3, w) GROUP BY c1, c2, c3 HAVING sum(w::integer) <> 0 UNION ALL SELECT c1, c2, c3, w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_100 WHERE w <> 0) AS l(c1, c2, c3, w) WHERE EXISTS (SELECT FROM (SELECT p1 AS c1 FROM pgtrickle_changes.state_1_1) AS r(c4) WHERE ((c2 < c4)))) AS d(c1, c2, c3, w)) AS d(c1, c2, c3, c4, w)) AS d(c1, w) GROUP BY 1 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND a.c1 = b.c1)) AS d(c1, w) ON t."Region" = d.c1 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region") VALUES (d.c1);

-- recompute
-- stage pgt_t1 unless empty: 
SELECT coalesce(g.n, 0) AS n, g.p1 AS p1, s.n AS m, s.p1 AS q1, s.ctid AS x FROM (SELECT count(*) AS n, max(c1) AS p1 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3)) AS g(n, p1) LEFT JOIN pgtrickle_changes.state_1_1 AS s ON (true);
-- modify unless empty: pgt_t1
MERGE INTO ONLY pgtrickle_changes.state_1_1 AS s USING (SELECT n, p1, x FROM pgt_t1 WHERE (m IS NULL OR n <> m OR record_image_ne(ROW(p1), ROW(q1)))) AS t(n, p1, x) ON true WHEN MATCHED THEN UPDATE SET n = t.n, p1 = t.p1 WHEN NOT MATCHED THEN INSERT (n, p1) VALUES (t.n, t.p1);
-- stage pgt_root unless empty: 
SELECT CASE WHEN v.w > 0 THEN a.c1 ELSE b.c1 END AS c1, v.w AS w FROM (SELECT c1, true AS i1 FROM (SELECT c1 AS c1 FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, NULL::integer AS c4 FROM (SELECT c1, c2, c3 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS l(c1, c2, c3) WHERE EXISTS (SELECT FROM (SELECT p1 AS c1 FROM pgtrickle_changes.state_1_1) AS r(c4) WHERE ((c2 < c4)))) AS d(c1, c2, c3)) AS d(c1, c2, c3, c4)) AS d(c1)) AS a FULL JOIN (SELECT "Region" AS c1, true AS i1 FROM ONLY "public"."st") AS b ON (a.c1 = b.c1) CROSS JOIN (VALUES (1::bigint), ((-1)::bigint)) AS v(w) WHERE (a.i1 IS NULL OR b.i1 IS NULL OR record_image_ne(ROW(a.c1), ROW(b.c1))) AND CASE WHEN v.w > 0 THEN a.i1 ELSE b.i1 END;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND a.c1 = b.c1)) AS d(c1, w) ON t."Region" = d.c1 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region") VALUES (d.c1);

-- where columns come from
-- pgt_t1: -
-- state_1_1: -
