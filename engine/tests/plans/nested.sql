CREATE TABLE pgtrickle_changes.state_1_1 (k1 integer, n bigint NOT NULL) WITH (fillfactor = 80);
CREATE UNIQUE INDEX ON pgtrickle_changes.state_1_1 (k1);
CREATE TABLE pgtrickle_changes.state_1_2 (n bigint NOT NULL, p1 bigint) WITH (fillfactor = 80);

-- fill
-- modify unless empty: 
INSERT INTO pgtrickle_changes.state_1_1 (k1, n) SELECT c2 AS k1, count(*) AS n FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3) GROUP BY 1;
-- modify unless empty: 
INSERT INTO pgtrickle_changes.state_1_2 (n, p1) SELECT count(*) AS n, max(c2) AS p1 FROM (SELECT k1 AS c1, n AS c2 FROM pgtrickle_changes.state_1_1) AS d(c1, c2);
-- modify unless empty: 
INSERT INTO "public"."st" ("Region") SELECT c1 FROM (SELECT p1 AS c1 FROM pgtrickle_changes.state_1_2) AS d(c1);

-- refresh
-- stage pgt_g1 unless empty: pgt_delta_200
SELECT c2 AS k1, coalesce(sum(w::integer), 0) AS n FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_200 WHERE w <> 0) AS d(c1, c2, c3, w) GROUP BY 1;
-- stage pgt_t1 unless empty: pgt_g1
SELECT g.k1 AS k1, (coalesce(s.n, 0) + g.n) AS n, s.k1 AS j1, s.n AS m, NULL::bigint AS r, s.ctid AS x FROM pgt_g1 AS g LEFT JOIN pgtrickle_changes.state_1_1 AS s ON (s.k1 = g.k1);
-- check unless empty: pgt_t1
SELECT 'the stored state of a group contradicts its changes'::text AS "wrong" FROM pgt_t1 WHERE n < 0 OR r <> n;
-- modify unless empty: pgt_t1
MERGE INTO ONLY pgtrickle_changes.state_1_1 AS s USING (SELECT k1, n, x FROM pgt_t1 WHERE (m IS NULL OR n <> m)) AS t(k1, n, x) ON s.ctid = t.x WHEN MATCHED AND t.n = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = t.n WHEN NOT MATCHED AND t.n > 0 THEN INSERT (k1, n) VALUES (t.k1, t.n);
-- stage pgt_g2 unless empty: pgt_t1
SELECT coalesce(sum(w::integer), 0) AS n FROM (SELECT k1 AS c1, n AS c2, 1::bigint AS w FROM pgt_t1 WHERE (m IS NULL OR n = 0 OR record_image_ne(ROW(n), ROW(m))) AND n > 0 UNION ALL SELECT j1 AS c1, m AS c2, (-1)::bigint AS w FROM pgt_t1 WHERE (m IS NULL OR n = 0 OR record_image_ne(ROW(n), ROW(m))) AND m IS NOT NULL) AS d(c1, c2, w);
-- stage pgt_r2 unless empty: pgt_g2
SELECT count(*) AS n, max(c2) AS p1 FROM (SELECT k1 AS c1, n AS c2 FROM pgtrickle_changes.state_1_1) AS d(c1, c2) WHERE EXISTS (SELECT FROM pgt_g2) HAVING EXISTS (SELECT FROM pgt_g2);
-- stage pgt_t2 unless empty: pgt_g2
SELECT (coalesce(s.n, 0) + g.n) AS n, CASE WHEN r.n IS NOT NULL THEN r.p1 ELSE NULL::bigint END AS p1, s.n AS m, s.p1 AS q1, r.n AS r, s.ctid AS x FROM pgt_g2 AS g LEFT JOIN pgtrickle_changes.state_1_2 AS s ON (true) LEFT JOIN pgt_r2 AS r ON (true);
-- check unless empty: pgt_t2
SELECT 'the stored state of a group contradicts its changes'::text AS "wrong" FROM pgt_t2 WHERE n < 0 OR r <> n OR m IS NULL;
-- modify unless empty: pgt_t2
MERGE INTO ONLY pgtrickle_changes.state_1_2 AS s USING (SELECT n, p1, x FROM pgt_t2 WHERE (m IS NULL OR n <> m OR record_image_ne(ROW(p1), ROW(q1)))) AS t(n, p1, x) ON true WHEN MATCHED THEN UPDATE SET n = t.n, p1 = t.p1 WHEN NOT MATCHED THEN INSERT (n, p1) VALUES (t.n, t.p1);
-- stage pgt_root unless empty: pgt_t2
SELECT p1 AS c1, 1::bigint AS w FROM pgt_t2 WHERE record_image_ne(ROW(p1), ROW(q1)) UNION ALL SELECT q1 AS c1, (-1)::bigint AS w FROM pgt_t2 WHERE record_image_ne(ROW(p1), ROW(q1));
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0)) AS d(c1, w) ON true WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET "Region" = d.c1 WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region") VALUES (d.c1);

-- recompute
-- stage pgt_t1 unless empty: 
SELECT CASE WHEN g.n IS NOT NULL THEN g.k1 ELSE s.k1 END AS k1, coalesce(g.n, 0) AS n, s.k1 AS j1, s.n AS m, s.ctid AS x FROM (SELECT c2 AS k1, count(*) AS n FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3) GROUP BY 1) AS g(k1, n) FULL JOIN pgtrickle_changes.state_1_1 AS s ON (s.k1 = g.k1);
-- modify unless empty: pgt_t1
MERGE INTO ONLY pgtrickle_changes.state_1_1 AS s USING (SELECT k1, n, x FROM pgt_t1 WHERE (m IS NULL OR n <> m)) AS t(k1, n, x) ON s.ctid = t.x WHEN MATCHED AND t.n = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = t.n WHEN NOT MATCHED AND t.n > 0 THEN INSERT (k1, n) VALUES (t.k1, t.n);
-- stage pgt_t2 unless empty: 
SELECT coalesce(g.n, 0) AS n, g.p1 AS p1, s.n AS m, s.p1 AS q1, s.ctid AS x FROM (SELECT count(*) AS n, max(c2) AS p1 FROM (SELECT k1 AS c1, n AS c2 FROM pgtrickle_changes.state_1_1) AS d(c1, c2)) AS g(n, p1) LEFT JOIN pgtrickle_changes.state_1_2 AS s ON (true);
-- modify unless empty: pgt_t2
MERGE INTO ONLY pgtrickle_changes.state_1_2 AS s USING (SELECT n, p1, x FROM pgt_t2 WHERE (m IS NULL OR n <> m OR record_image_ne(ROW(p1), ROW(q1)))) AS t(n, p1, x) ON true WHEN MATCHED THEN UPDATE SET n = t.n, p1 = t.p1 WHEN NOT MATCHED THEN INSERT (n, p1) VALUES (t.n, t.p1);
-- stage pgt_root unless empty: 
SELECT CASE WHEN v.w > 0 THEN a.c1 ELSE b.c1 END AS c1, v.w AS w FROM (SELECT c1, true AS i1 FROM (SELECT p1 AS c1 FROM pgtrickle_changes.state_1_2) AS d(c1)) AS a FULL JOIN (SELECT "Region" AS c1, true AS i1 FROM ONLY "public"."st") AS b ON (true) CROSS JOIN (VALUES (1::bigint), ((-1)::bigint)) AS v(w) WHERE (a.i1 IS NULL OR b.i1 IS NULL OR record_image_ne(ROW(a.c1), ROW(b.c1))) AND CASE WHEN v.w > 0 THEN a.i1 ELSE b.i1 END;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0)) AS d(c1, w) ON true WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET "Region" = d.c1 WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region") VALUES (d.c1);

-- where columns come from
-- pgt_t1: 200.2 -
-- pgt_t2: -
-- state_1_1: 200.2 -
-- state_1_2: -
