CREATE TABLE pgtrickle_changes.state_1_1 (c1 integer, c2 integer, c3 numeric(12,2), c4 numeric) WITH (fillfactor = 80);
CREATE UNIQUE INDEX ON pgtrickle_changes.state_1_1 (c1);
CREATE INDEX ON pgtrickle_changes.state_1_1 (c2);
CREATE UNIQUE INDEX ON "public"."st" ("Region");

-- fill
-- modify unless empty: 
INSERT INTO pgtrickle_changes.state_1_1 (c1, c2, c3, c4) SELECT c1, c2, c3, c4 FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, sum(c3) OVER (PARTITION BY c2 ORDER BY c1 USING OPERATOR(pg_catalog.<) NULLS LAST) AS c4 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3)) AS d(c1, c2, c3, c4);
-- modify unless empty: 
INSERT INTO "public"."st" ("Region", "total") SELECT c1, c2 FROM (SELECT c1 AS c1, c4 AS c2 FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, c4 AS c4 FROM ONLY pgtrickle_changes.state_1_1) AS d(c1, c2, c3, c4)) AS d(c1, c2);

-- refresh
-- stage pgt_k1 unless empty: pgt_delta_100
SELECT c2 AS k1 FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_100 WHERE w <> 0) AS d(c1, c2, c3, w) WHERE w <> 0 GROUP BY 1;
-- stage pgt_t1 unless empty: pgt_k1
SELECT CASE WHEN v.w > 0 THEN a.c1 ELSE b.c1 END AS c1, CASE WHEN v.w > 0 THEN a.c2 ELSE b.c2 END AS c2, CASE WHEN v.w > 0 THEN a.c3 ELSE b.c3 END AS c3, CASE WHEN v.w > 0 THEN a.c4 ELSE b.c4 END AS c4, v.w AS w FROM (SELECT c1, c2, c3, c4, true AS i1 FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, sum(c3) OVER (PARTITION BY c2 ORDER BY c1 USING OPERATOR(pg_catalog.<) NULLS LAST) AS c4 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3) JOIN pgt_k1 AS x ON (c2 = x.k1)) AS d(c1, c2, c3, c4)) AS a FULL JOIN (SELECT s.c1 AS c1, s.c2 AS c2, s.c3 AS c3, s.c4 AS c4, true AS i1 FROM ONLY pgtrickle_changes.state_1_1 AS s JOIN pgt_k1 AS x ON (s.c2 = x.k1)) AS b ON (a.c1 = b.c1) CROSS JOIN (VALUES (1::bigint), ((-1)::bigint)) AS v(w) WHERE (a.i1 IS NULL OR b.i1 IS NULL OR record_image_ne(ROW(a.c1, a.c2, a.c3, a.c4), ROW(b.c1, b.c2, b.c3, b.c4))) AND CASE WHEN v.w > 0 THEN a.i1 ELSE b.i1 END;
-- modify unless empty: pgt_t1
MERGE INTO ONLY pgtrickle_changes.state_1_1 AS t USING (SELECT c1, c2, c3, c4, w FROM pgt_t1 AS a WHERE w > 0 UNION ALL SELECT c1, c2, c3, c4, w FROM pgt_t1 AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_t1 AS a WHERE a.w > 0 AND a.c1 = b.c1)) AS d(c1, c2, c3, c4, w) ON t.c1 = d.c1 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET c2 = d.c2, c3 = d.c3, c4 = d.c4 WHEN NOT MATCHED AND d.w > 0 THEN INSERT (c1, c2, c3, c4) VALUES (d.c1, d.c2, d.c3, d.c4);
-- stage pgt_root unless empty: pgt_t1
SELECT c1 AS c1, c4 AS c2, w FROM (SELECT c1, c2, c3, c4, w FROM pgt_t1 WHERE w <> 0) AS d(c1, c2, c3, c4, w);
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, c2, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, c2, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND a.c1 = b.c1)) AS d(c1, c2, w) ON t."Region" = d.c1 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET "total" = d.c2 WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region", "total") VALUES (d.c1, d.c2);

-- recompute
-- stage pgt_t1 unless empty: 
SELECT CASE WHEN v.w > 0 THEN a.c1 ELSE b.c1 END AS c1, CASE WHEN v.w > 0 THEN a.c2 ELSE b.c2 END AS c2, CASE WHEN v.w > 0 THEN a.c3 ELSE b.c3 END AS c3, CASE WHEN v.w > 0 THEN a.c4 ELSE b.c4 END AS c4, v.w AS w FROM (SELECT c1, c2, c3, c4, true AS i1 FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, sum(c3) OVER (PARTITION BY c2 ORDER BY c1 USING OPERATOR(pg_catalog.<) NULLS LAST) AS c4 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3)) AS d(c1, c2, c3, c4)) AS a FULL JOIN (SELECT c1 AS c1, c2 AS c2, c3 AS c3, c4 AS c4, true AS i1 FROM ONLY pgtrickle_changes.state_1_1) AS b ON (a.c1 = b.c1) CROSS JOIN (VALUES (1::bigint), ((-1)::bigint)) AS v(w) WHERE (a.i1 IS NULL OR b.i1 IS NULL OR record_image_ne(ROW(a.c1, a.c2, a.c3, a.c4), ROW(b.c1, b.c2, b.c3, b.c4))) AND CASE WHEN v.w > 0 THEN a.i1 ELSE b.i1 END;
-- modify unless empty: pgt_t1
MERGE INTO ONLY pgtrickle_changes.state_1_1 AS t USING (SELECT c1, c2, c3, c4, w FROM pgt_t1 AS a WHERE w > 0 UNION ALL SELECT c1, c2, c3, c4, w FROM pgt_t1 AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_t1 AS a WHERE a.w > 0 AND a.c1 = b.c1)) AS d(c1, c2, c3, c4, w) ON t.c1 = d.c1 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET c2 = d.c2, c3 = d.c3, c4 = d.c4 WHEN NOT MATCHED AND d.w > 0 THEN INSERT (c1, c2, c3, c4) VALUES (d.c1, d.c2, d.c3, d.c4);
-- stage pgt_root unless empty: 
SELECT CASE WHEN v.w > 0 THEN a.c1 ELSE b.c1 END AS c1, CASE WHEN v.w > 0 THEN a.c2 ELSE b.c2 END AS c2, v.w AS w FROM (SELECT c1, c2, true AS i1 FROM (SELECT c1 AS c1, c4 AS c2 FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, c4 AS c4 FROM ONLY pgtrickle_changes.state_1_1) AS d(c1, c2, c3, c4)) AS d(c1, c2)) AS a FULL JOIN (SELECT "Region" AS c1, "total" AS c2, true AS i1 FROM ONLY "public"."st") AS b ON (a.c1 = b.c1) CROSS JOIN (VALUES (1::bigint), ((-1)::bigint)) AS v(w) WHERE (a.i1 IS NULL OR b.i1 IS NULL OR record_image_ne(ROW(a.c1, a.c2), ROW(b.c1, b.c2))) AND CASE WHEN v.w > 0 THEN a.i1 ELSE b.i1 END;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, c2, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, c2, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND a.c1 = b.c1)) AS d(c1, c2, w) ON t."Region" = d.c1 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET "total" = d.c2 WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region", "total") VALUES (d.c1, d.c2);

-- where columns come from
-- pgt_t1: 100.1 100.2 100.3 -
-- state_1_1: 100.1 100.2 100.3 -
