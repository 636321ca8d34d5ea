CREATE TABLE pgtrickle_changes.state_1_1 (c1 integer, c2 numeric(12,2)) WITH (fillfactor = 80);
CREATE INDEX ON pgtrickle_changes.state_1_1 (pgtrickle.image_hash(c1, c2));
CREATE INDEX ON pgtrickle_changes.state_1_1 (c1);
CREATE INDEX ON pgtrickle_changes.state_1_1 (c1, c2);
CREATE TABLE pgtrickle_changes.state_1_2 (k1 integer, k2 numeric(12,2), h bigint NOT NULL, n bigint NOT NULL, p1 bigint) WITH (fillfactor = 80);
CREATE INDEX ON pgtrickle_changes.state_1_2 (h);
CREATE INDEX ON "public"."st" (pgtrickle.row_hash("Region", "total"));

-- fill
-- modify unless empty: 
INSERT INTO pgtrickle_changes.state_1_1 (c1, c2) SELECT c1, c2 FROM (SELECT c2 AS c1, c3 AS c2 FROM (SELECT c1, c2, c3 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3) WHERE ((c3 > 100))) AS d(c1, c2, c3)) AS d(c1, c2);
-- modify unless empty: 
INSERT INTO pgtrickle_changes.state_1_2 (k1, k2, h, n, p1) SELECT c2 AS k1, c3 AS k2, pgtrickle.row_hash(c2, c3) AS h, count(*) AS n, count(DISTINCT c5) AS p1 FROM (SELECT c1, c2, c3, c4, c5, c6 FROM (SELECT NULL::integer AS c1, c1 AS c2, c2 AS c3 FROM (SELECT c1 AS c1, c2 AS c2 FROM ONLY pgtrickle_changes.state_1_1) AS d(c1, c2)) AS l(c1, c2, c3) JOIN (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS r(c4, c5, c6) ON (((c2 = c4)))) AS d(c1, c2, c3, c4, c5, c6) GROUP BY 1, 2;
-- modify unless empty: 
INSERT INTO "public"."st" ("Region", "total", n) SELECT c1, c2, c3 FROM (SELECT k1 AS c1, k2 AS c2, p1 AS c3 FROM pgtrickle_changes.state_1_2) AS d(c1, c2, c3);

-- refresh
-- stage pgt_t1 unless empty: pgt_delta_100
SELECT c1, c2, sum(w::integer) AS w FROM (SELECT c2 AS c1, c3 AS c2, w FROM (SELECT c1, c2, c3, w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_100 WHERE w <> 0) AS d(c1, c2, c3, w) WHERE ((c3 > 100))) AS d(c1, c2, c3, w)) AS d(c1, c2, w) GROUP BY 1, 2 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_t1
-- as many as SELECT coalesce(-sum(w::integer) FILTER (WHERE w < 0), 0) AS n FROM pgt_t1
DELETE FROM ONLY pgtrickle_changes.state_1_1 AS t WHERE t.ctid = ANY (ARRAY(SELECT i1 FROM (SELECT t.ctid AS i1, row_number() OVER (PARTITION BY d.i1) AS i2, d.w AS w FROM (SELECT c1, c2, w, row_number() OVER () AS i1 FROM pgt_t1 AS d WHERE w < 0) AS d JOIN ONLY pgtrickle_changes.state_1_1 AS t ON (pgtrickle.image_hash(t.c1, t.c2) = pgtrickle.image_hash(d.c1, d.c2) AND record_image_eq(ROW(t.c1, t.c2), ROW(d.c1, d.c2)))) AS d WHERE i2 <= -w));
-- modify unless empty: pgt_t1
INSERT INTO pgtrickle_changes.state_1_1 (c1, c2) SELECT c1, c2 FROM pgt_t1 AS d CROSS JOIN generate_series(1, d.w) AS i1 WHERE d.w > 0;
-- stage pgt_g2 unless empty: pgt_t1
SELECT c2 AS k1, c3 AS k2, pgtrickle.row_hash(c2, c3) AS h, coalesce(sum(w::integer), 0) AS n FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, c4 AS c4, c5 AS c5, c6 AS c6, t1.w AS w FROM (SELECT NULL::integer AS c1, c1 AS c2, c2 AS c3, w FROM (SELECT c1, c2, w FROM pgt_t1 WHERE w <> 0) AS d(c1, c2, w)) AS t1(c1, c2, c3, w) JOIN (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS t2(c4, c5, c6) ON (((c2 = c4)))) AS d(c1, c2, c3, c4, c5, c6, w) GROUP BY 1, 2;
-- stage pgt_r2 unless empty: pgt_g2
SELECT c2 AS k1, c3 AS k2, pgtrickle.row_hash(c2, c3) AS h, count(*) AS n, count(DISTINCT c5) AS p1 FROM (SELECT c1, c2, c3, c4, c5, c6 FROM (SELECT NULL::integer AS c1, c1 AS c2, c2 AS c3 FROM (SELECT c1 AS c1, c2 AS c2 FROM ONLY pgtrickle_changes.state_1_1) AS d(c1, c2)) AS l(c1, c2, c3) JOIN (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS r(c4, c5, c6) ON (((c2 = c4)))) AS d(c1, c2, c3, c4, c5, c6) JOIN pgt_g2 AS x ON ((c2) = x.k1 AND (c3) = x.k2) WHERE x.k2 IS DISTINCT FROM NULL GROUP BY 1, 2 UNION ALL SELECT c2 AS k1, c3 AS k2, pgtrickle.row_hash(c2, c3) AS h, count(*) AS n, count(DISTINCT c5) AS p1 FROM (SELECT c1, c2, c3, c4, c5, c6 FROM (SELECT NULL::integer AS c1, c1 AS c2, c2 AS c3 FROM (SELECT c1 AS c1, c2 AS c2 FROM ONLY pgtrickle_changes.state_1_1) AS d(c1, c2)) AS l(c1, c2, c3) JOIN (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS r(c4, c5, c6) ON (((c2 = c4)))) AS d(c1, c2, c3, c4, c5, c6) JOIN pgt_g2 AS x ON ((c2) = x.k1 AND (c3) IS NOT DISTINCT FROM x.k2) WHERE (x.k2 IS NOT DISTINCT FROM NULL) GROUP BY 1, 2;
-- stage pgt_t2 unless empty: pgt_g2
SELECT g.k1 AS k1, g.k2 AS k2, g.h AS h, (coalesce(s.n, 0) + g.n) AS n, CASE WHEN r.n IS NOT NULL THEN r.p1 ELSE NULL::bigint END AS p1, s.k1 AS j1, s.k2 AS j2, s.n AS m, s.p1 AS q1, r.n AS r, s.ctid AS x FROM pgt_g2 AS g LEFT JOIN pgtrickle_changes.state_1_2 AS s ON (s.h = g.h AND s.k1 = g.k1 AND s.k2 IS NOT DISTINCT FROM g.k2) LEFT JOIN pgt_r2 AS r ON (r.h = g.h AND r.k1 = g.k1 AND r.k2 IS NOT DISTINCT FROM g.k2);
-- check unless empty: pgt_t2
SELECT 'the stored state of a group contradicts its changes'::text AS "wrong" FROM pgt_t2 WHERE n < 0 OR r <> n;
-- modify unless empty: pgt_t2
MERGE INTO ONLY pgtrickle_changes.state_1_2 AS s USING (SELECT k1, k2, h, n, p1, x FROM pgt_t2 WHERE (m IS NULL OR n <> m OR record_image_ne(ROW(p1), ROW(q1)))) AS t(k1, k2, h, n, p1, x) ON s.ctid = t.x WHEN MATCHED AND t.n = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = t.n, p1 = t.p1 WHEN NOT MATCHED AND t.n > 0 THEN INSERT (k1, k2, h, n, p1) VALUES (t.k1, t.k2, t.h, t.n, t.p1);
-- stage pgt_root unless empty: pgt_t2
SELECT k1 AS c1, k2 AS c2, p1 AS c3, 1::bigint AS w FROM pgt_t2 WHERE (m IS NULL OR n = 0 OR record_image_ne(ROW(p1), ROW(q1))) AND n > 0 UNION ALL SELECT j1 AS c1, j2 AS c2, q1 AS c3, (-1)::bigint AS w FROM pgt_t2 WHERE (m IS NULL OR n = 0 OR record_image_ne(ROW(p1), ROW(q1))) AND m IS NOT NULL;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, c2, c3, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, c2, c3, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND pgtrickle.row_hash(a.c1, a.c2) = pgtrickle.row_hash(b.c1, b.c2) AND a.c1 = b.c1 AND a.c2 IS NOT DISTINCT FROM b.c2)) AS d(c1, c2, c3, w) ON pgtrickle.row_hash(t."Region", t."total") = pgtrickle.row_hash(d.c1, d.c2) AND t."Region" = d.c1 AND t."total" IS NOT DISTINCT FROM d.c2 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = d.c3 WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region", "total", n) VALUES (d.c1, d.c2, d.c3);

-- recompute
-- stage pgt_t1 unless empty: 
SELECT c1, c2, sum(w::integer) AS w FROM (SELECT c1, c2, 1::bigint AS w FROM (SELECT c2 AS c1, c3 AS c2 FROM (SELECT c1, c2, c3 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3) WHERE ((c3 > 100))) AS d(c1, c2, c3)) AS d(c1, c2) UNION ALL SELECT c1 AS c1, c2 AS c2, (-1)::bigint AS w FROM ONLY pgtrickle_changes.state_1_1) AS d(c1, c2, w) GROUP BY 1, 2 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_t1
-- as many as SELECT coalesce(-sum(w::integer) FILTER (WHERE w < 0), 0) AS n FROM pgt_t1
DELETE FROM ONLY pgtrickle_changes.state_1_1 AS t WHERE t.ctid = ANY (ARRAY(SELECT i1 FROM (SELECT t.ctid AS i1, row_number() OVER (PARTITION BY d.i1) AS i2, d.w AS w FROM (SELECT c1, c2, w, row_number() OVER () AS i1 FROM pgt_t1 AS d WHERE w < 0) AS d JOIN ONLY pgtrickle_changes.state_1_1 AS t ON (pgtrickle.image_hash(t.c1, t.c2) = pgtrickle.image_hash(d.c1, d.c2) AND record_image_eq(ROW(t.c1, t.c2), ROW(d.c1, d.c2)))) AS d WHERE i2 <= -w));
-- modify unless empty: pgt_t1
INSERT INTO pgtrickle_changes.state_1_1 (c1, c2) SELECT c1, c2 FROM pgt_t1 AS d CROSS JOIN generate_series(1, d.w) AS i1 WHERE d.w > 0;
-- stage pgt_t2 unless empty: 
SELECT CASE WHEN g.n IS NOT NULL THEN g.k1 ELSE s.k1 END AS k1, CASE WHEN g.n IS NOT NULL THEN g.k2 ELSE s.k2 END AS k2, coalesce(g.h, s.h) AS h, coalesce(g.n, 0) AS n, g.p1 AS p1, s.k1 AS j1, s.k2 AS j2, s.n AS m, s.p1 AS q1, s.ctid AS x FROM (SELECT c2 AS k1, c3 AS k2, pgtrickle.row_hash(c2, c3) AS h, count(*) AS n, count(DISTINCT c5) AS p1 FROM (SELECT c1, c2, c3, c4, c5, c6 FROM (SELECT NULL::integer AS c1, c1 AS c2, c2 AS c3 FROM (SELECT c1 AS c1, c2 AS c2 FROM ONLY pgtrickle_changes.state_1_1) AS d(c1, c2)) AS l(c1, c2, c3) JOIN (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS r(c4, c5, c6) ON (((c2 = c4)))) AS d(c1, c2, c3, c4, c5, c6) GROUP BY 1, 2) AS g(k1, k2, h, n, p1) FULL JOIN pgtrickle_changes.state_1_2 AS s ON (s.h = g.h AND s.k1 = g.k1 AND s.k2 IS NOT DISTINCT FROM g.k2);
-- modify unless empty: pgt_t2
MERGE INTO ONLY pgtrickle_changes.state_1_2 AS s USING (SELECT k1, k2, h, n, p1, x FROM pgt_t2 WHERE (m IS NULL OR n <> m OR record_image_ne(ROW(p1), ROW(q1)))) AS t(k1, k2, h, n, p1, x) ON s.ctid = t.x WHEN MATCHED AND t.n = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = t.n, p1 = t.p1 WHEN NOT MATCHED AND t.n > 0 THEN INSERT (k1, k2, h, n, p1) VALUES (t.k1, t.k2, t.h, t.n, t.p1);
-- stage pgt_root unless empty: 
SELECT CASE WHEN v.w > 0 THEN a.c1 ELSE b.c1 END AS c1, CASE WHEN v.w > 0 THEN a.c2 ELSE b.c2 END AS c2, CASE WHEN v.w > 0 THEN a.c3 ELSE b.c3 END AS c3, v.w AS w FROM (SELECT c1, c2, c3, true AS i1 FROM (SELECT k1 AS c1, k2 AS c2, p1 AS c3 FROM pgtrickle_changes.state_1_2) AS d(c1, c2, c3)) AS a FULL JOIN (SELECT "Region" AS c1, "total" AS c2, n AS c3, true AS i1 FROM ONLY "public"."st") AS b ON (pgtrickle.row_hash(a.c1, a.c2) = pgtrickle.row_hash(b.c1, b.c2) AND a.c1 = b.c1 AND a.c2 IS NOT DISTINCT FROM b.c2) CROSS JOIN (VALUES (1::bigint), ((-1)::bigint)) AS v(w) WHERE (a.i1 IS NULL OR b.i1 IS NULL OR record_image_ne(ROW(a.c1, a.c2, a.c3), ROW(b.c1, b.c2, b.c3))) AND CASE WHEN v.w > 0 THEN a.i1 ELSE b.i1 END;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, c2, c3, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, c2, c3, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND pgtrickle.row_hash(a.c1, a.c2) = pgtrickle.row_hash(b.c1, b.c2) AND a.c1 = b.c1 AND a.c2 IS NOT DISTINCT FROM b.c2)) AS d(c1, c2, c3, w) ON pgtrickle.row_hash(t."Region", t."total") = pgtrickle.row_hash(d.c1, d.c2) AND t."Region" = d.c1 AND t."total" IS NOT DISTINCT FROM d.c2 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = d.c3 WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region", "total", n) VALUES (d.c1, d.c2, d.c3);

-- where columns come from
-- pgt_t1: 100.2 100.3
-- pgt_t2: 100.2 100.3 -
-- state_1_1: 100.2 100.3
-- state_1_2: 100.2 100.3 -
