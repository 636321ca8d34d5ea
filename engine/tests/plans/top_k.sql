CREATE TABLE pgtrickle_changes.state_1_1 (c1 integer, c2 integer, c3 numeric(12,2)) WITH (fillfactor = 80);
CREATE UNIQUE INDEX ON pgtrickle_changes.state_1_1 (c1);
CREATE UNIQUE INDEX ON "public"."st" ("Region");

-- fill
-- modify unless empty: 
INSERT INTO pgtrickle_changes.state_1_1 (c1, c2, c3) SELECT c1, c2, c3 FROM (SELECT c1, c2, c3 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3) ORDER BY c3 USING OPERATOR(pg_catalog.<) NULLS LAST, c1 USING OPERATOR(pg_catalog.<) NULLS LAST FETCH FIRST 15 ROWS ONLY) AS d(c1, c2, c3);
-- modify unless empty: 
INSERT INTO "public"."st" ("Region", "total", n) SELECT c1, c2, c3 FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3 FROM ONLY pgtrickle_changes.state_1_1 ORDER BY c3 USING OPERATOR(pg_catalog.<) NULLS LAST, c1 USING OPERATOR(pg_catalog.<) NULLS LAST OFFSET 2 FETCH FIRST 3 ROWS ONLY) AS d(c1, c2, c3);

-- refresh
-- stage pgt_g1 unless empty: pgt_delta_100
SELECT c1, c2, c3, o AS o, CASE WHEN i1 < 5 OR i2 > 0 THEN GREATEST(n, 0) ELSE 0 END AS n, n < 0 AND (i1 < 5 OR i2 > o) AS i1 FROM (SELECT c1, c2, c3, o AS o, o + w AS n, sum(o::integer) OVER () AS i1, sum(o::integer) OVER (ORDER BY c3 USING OPERATOR(pg_catalog.<) NULLS LAST, c1 USING OPERATOR(pg_catalog.<) NULLS LAST RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS i2 FROM (SELECT c1, c2, c3, sum(o::integer) AS o, sum(w::integer) AS w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, 1 AS o, 0::bigint AS w FROM ONLY pgtrickle_changes.state_1_1 UNION ALL SELECT c1, c2, c3, 0 AS o, w AS w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_100 WHERE w <> 0) AS d(c1, c2, c3, w)) AS d GROUP BY 1, 2, 3) AS d) AS d;
-- check unless empty: pgt_g1
SELECT 'the stored first rows contradict their changes'::text AS "wrong" FROM pgt_g1 WHERE i1;
-- stage pgt_r1 unless empty: pgt_g1
SELECT c1, c2, c3 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3) WHERE (SELECT sum(o) >= 5 AND sum(n) < 5 FROM pgt_g1) ORDER BY c3 USING OPERATOR(pg_catalog.<) NULLS LAST, c1 USING OPERATOR(pg_catalog.<) NULLS LAST FETCH FIRST 15 ROWS ONLY;
-- stage pgt_t1 unless empty: pgt_g1 pgt_r1
SELECT c1, c2, c3, w, v FROM (SELECT c1, c2, c3, GREATEST(LEAST(i2 + n, 15) - GREATEST(i2, 0), 0) - o AS w, GREATEST(LEAST(i2 + n, 5) - GREATEST(i2, 2), 0) - GREATEST(LEAST(i1 + o, 5) - GREATEST(i1, 2), 0) AS v FROM (SELECT c1, c2, c3, o AS o, n AS n, sum(o::integer) OVER () - sum(o::integer) OVER (ORDER BY c3 USING OPERATOR(pg_catalog.<) NULLS LAST, c1 USING OPERATOR(pg_catalog.<) NULLS LAST RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS i1, sum(n::integer) OVER () - sum(n::integer) OVER (ORDER BY c3 USING OPERATOR(pg_catalog.<) NULLS LAST, c1 USING OPERATOR(pg_catalog.<) NULLS LAST RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS i2 FROM (SELECT c1, c2, c3, sum(o::integer) AS o, sum(n::integer) AS n FROM (SELECT c1, c2, c3, o AS o, CASE WHEN (SELECT sum(o) >= 5 AND sum(n) < 5 FROM pgt_g1) THEN 0 ELSE n END AS n FROM pgt_g1 WHERE (o > 0 OR n > 0) UNION ALL SELECT c1, c2, c3, 0 AS o, 1 AS n FROM pgt_r1) AS d GROUP BY 1, 2, 3) AS d) AS d) AS d WHERE (w <> 0 OR v <> 0);
-- modify unless empty: pgt_t1
MERGE INTO ONLY pgtrickle_changes.state_1_1 AS t USING (SELECT c1, c2, c3, w FROM pgt_t1 AS a WHERE w > 0 UNION ALL SELECT c1, c2, c3, w FROM pgt_t1 AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_t1 AS a WHERE a.w > 0 AND a.c1 = b.c1)) AS d(c1, c2, c3, w) ON t.c1 = d.c1 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET c2 = d.c2, c3 = d.c3 WHEN NOT MATCHED AND d.w > 0 THEN INSERT (c1, c2, c3) VALUES (d.c1, d.c2, d.c3);
-- stage pgt_root unless empty: pgt_t1
SELECT c1, c2, c3, v AS w FROM pgt_t1 WHERE v <> 0;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, c2, c3, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, c2, c3, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND a.c1 = b.c1)) AS d(c1, c2, c3, w) ON t."Region" = d.c1 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET "total" = d.c2, n = d.c3 WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region", "total", n) VALUES (d.c1, d.c2, d.c3);

-- recompute
-- stage pgt_t1 unless empty: 
SELECT CASE WHEN v.w > 0 THEN a.c1 ELSE b.c1 END AS c1, CASE WHEN v.w > 0 THEN a.c2 ELSE b.c2 END AS c2, CASE WHEN v.w > 0 THEN a.c3 ELSE b.c3 END AS c3, v.w AS w FROM (SELECT c1, c2, c3, true AS i1 FROM (SELECT c1, c2, c3 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3) ORDER BY c3 USING OPERATOR(pg_catalog.<) NULLS LAST, c1 USING OPERATOR(pg_catalog.<) NULLS LAST FETCH FIRST 15 ROWS ONLY) AS d(c1, c2, c3)) AS a FULL JOIN (SELECT c1 AS c1, c2 AS c2, c3 AS c3, true AS i1 FROM ONLY pgtrickle_changes.state_1_1) AS b ON (a.c1 = b.c1) CROSS JOIN (VALUES (1::bigint), ((-1)::bigint)) AS v(w) WHERE (a.i1 IS NULL OR b.i1 IS NULL OR record_image_ne(ROW(a.c1, a.c2, a.c3), ROW(b.c1, b.c2, b.c3))) AND CASE WHEN v.w > 0 THEN a.i1 ELSE b.i1 END;
-- modify unless empty: pgt_t1
MERGE INTO ONLY pgtrickle_changes.state_1_1 AS t USING (SELECT c1, c2, c3, w FROM pgt_t1 AS a WHERE w > 0 UNION ALL SELECT c1, c2, c3, w FROM pgt_t1 AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_t1 AS a WHERE a.w > 0 AND a.c1 = b.c1)) AS d(c1, c2, c3, w) ON t.c1 = d.c1 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET c2 = d.c2, c3 = d.c3 WHEN NOT MATCHED AND d.w > 0 THEN INSERT (c1, c2, c3) VALUES (d.c1, d.c2, d.c3);
-- stage pgt_root unless empty: 
SELECT CASE WHEN v.w > 0 THEN a.c1 ELSE b.c1 END AS c1, CASE WHEN v.w > 0 THEN a.c2 ELSE b.c2 END AS c2, CASE WHEN v.w > 0 THEN a.c3 ELSE b.c3 END AS c3, v.w AS w FROM (SELECT c1, c2, c3, true AS i1 FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3 FROM ONLY pgtrickle_changes.state_1_1 ORDER BY c3 USING OPERATOR(pg_catalog.<) NULLS LAST, c1 USING OPERATOR(pg_catalog.<) NULLS LAST OFFSET 2 FETCH FIRST 3 ROWS ONLY) AS d(c1, c2, c3)) AS a FULL JOIN (SELECT "Region" AS c1, "total" AS c2, n AS c3, true AS i1 FROM ONLY "public"."st") AS b ON (a.c1 = b.c1) CROSS JOIN (VALUES (1::bigint), ((-1)::bigint)) AS v(w) WHERE (a.i1 IS NULL OR b.i1 IS NULL OR record_image_ne(ROW(a.c1, a.c2, a.c3), ROW(b.c1, b.c2, b.c3))) AND CASE WHEN v.w > 0 THEN a.i1 ELSE b.i1 END;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, c2, c3, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, c2, c3, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND a.c1 = b.c1)) AS d(c1, c2, c3, w) ON t."Region" = d.c1 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET "total" = d.c2, n = d.c3 WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region", "total", n) VALUES (d.c1, d.c2, d.c3);

-- where columns come from
-- pgt_t1: 100.1 100.2 100.3
-- state_1_1: 100.1 100.2 100.3
