CREATE TABLE pgtrickle_changes.state_1_1 (k1 text, h bigint NOT NULL, n bigint NOT NULL) WITH (fillfactor = 80);
CREATE INDEX ON pgtrickle_changes.state_1_1 (h);
CREATE INDEX ON "public"."st" (pgtrickle.row_hash("Region"));

-- fill
-- modify unless empty: 
INSERT INTO pgtrickle_changes.state_1_1 (k1, h, n) SELECT c1 AS k1, pgtrickle.row_hash(c1) AS h, count(*) AS n FROM (SELECT c3 AS c1 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3)) AS d(c1) GROUP BY 1;
-- modify unless empty: 
INSERT INTO "public"."st" ("Region") SELECT c1 FROM (SELECT k1 AS c1 FROM pgtrickle_changes.state_1_1) AS d(c1);

-- refresh
-- stage pgt_g1 unless empty: pgt_delta_200
SELECT c1 AS k1, pgtrickle.row_hash(c1) AS h, coalesce(sum(w::integer), 0) AS n FROM (SELECT c3 AS c1, w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_200 WHERE w <> 0) AS d(c1, c2, c3, w)) AS d(c1, w) GROUP BY 1;
-- stage pgt_t1 unless empty: pgt_g1
SELECT g.k1 AS k1, g.h AS h, (coalesce(s.n, 0) + g.n) AS n, s.k1 AS j1, s.n AS m, NULL::bigint AS r, s.ctid AS x FROM pgt_g1 AS g LEFT JOIN pgtrickle_changes.state_1_1 AS s ON (s.h = g.h AND s.k1 IS NOT DISTINCT FROM g.k1);
-- check unless empty: pgt_t1
SELECT 'the stored state of a group contradicts its changes'::text AS "wrong" FROM pgt_t1 WHERE n < 0 OR r <> n;
-- modify unless empty: pgt_t1
MERGE INTO ONLY pgtrickle_changes.state_1_1 AS s USING (SELECT k1, h, n, x FROM pgt_t1 WHERE (m IS NULL OR n <> m)) AS t(k1, h, n, x) ON s.ctid = t.x WHEN MATCHED AND t.n = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = t.n WHEN NOT MATCHED AND t.n > 0 THEN INSERT (k1, h, n) VALUES (t.k1, t.h, t.n);
-- stage pgt_root unless empty: pgt_t1
SELECT k1 AS c1, 1::bigint AS w FROM pgt_t1 WHERE (m IS NULL OR n = 0) AND n > 0 UNION ALL SELECT j1 AS c1, (-1)::bigint AS w FROM pgt_t1 WHERE (m IS NULL OR n = 0) AND m IS NOT NULL;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND pgtrickle.row_hash(a.c1) = pgtrickle.row_hash(b.c1) AND a.c1 IS NOT DISTINCT FROM b.c1)) AS d(c1, w) ON pgtrickle.row_hash(t."Region") = pgtrickle.row_hash(d.c1) AND t."Region" IS NOT DISTINCT FROM d.c1 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region") VALUES (d.c1);

-- recompute
-- stage pgt_t1 unless empty: 
SELECT CASE WHEN g.n IS NOT NULL THEN g.k1 ELSE s.k1 END AS k1, coalesce(g.h, s.h) AS h, coalesce(g.n, 0) AS n, s.k1 AS j1, s.n AS m, s.ctid AS x FROM (SELECT c1 AS k1, pgtrickle.row_hash(c1) AS h, count(*) AS n FROM (SELECT c3 AS c1 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3)) AS d(c1) GROUP BY 1) AS g(k1, h, n) FULL JOIN pgtrickle_changes.state_1_1 AS s ON (s.h = g.h AND s.k1 IS NOT DISTINCT FROM g.k1);
-- modify unless empty: pgt_t1
MERGE INTO ONLY pgtrickle_changes.state_1_1 AS s USING (SELECT k1, h, n, x FROM pgt_t1 WHERE (m IS NULL OR n <> m)) AS t(k1, h, n, x) ON s.ctid = t.x WHEN MATCHED AND t.n = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = t.n WHEN NOT MATCHED AND t.n > 0 THEN INSERT (k1, h, n) VALUES (t.k1, t.h, t.n);
-- stage pgt_root unless empty: 
SELECT CASE WHEN v.w > 0 THEN a.c1 ELSE b.c1 END AS c1, v.w AS w FROM (SELECT c1, true AS i1 FROM (SELECT k1 AS c1 FROM pgtrickle_changes.state_1_1) AS d(c1)) AS a FULL JOIN (SELECT "Region" AS c1, true AS i1 FROM ONLY "public"."st") AS b ON (pgtrickle.row_hash(a.c1) = pgtrickle.row_hash(b.c1) AND a.c1 IS NOT DISTINCT FROM b.c1) CROSS JOIN (VALUES (1::bigint), ((-1)::bigint)) AS v(w) WHERE (a.i1 IS NULL OR b.i1 IS NULL OR record_image_ne(ROW(a.c1), ROW(b.c1))) AND CASE WHEN v.w > 0 THEN a.i1 ELSE b.i1 END;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND pgtrickle.row_hash(a.c1) = pgtrickle.row_hash(b.c1) AND a.c1 IS NOT DISTINCT FROM b.c1)) AS d(c1, w) ON pgtrickle.row_hash(t."Region") = pgtrickle.row_hash(d.c1) AND t."Region" IS NOT DISTINCT FROM d.c1 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region") VALUES (d.c1);

-- where columns come from
-- pgt_t1: 200.3
-- state_1_1: 200.3
