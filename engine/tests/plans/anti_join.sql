CREATE UNIQUE INDEX ON "public"."st" ("Region");

-- fill
-- modify unless empty: 
INSERT INTO "public"."st" ("Region", "total", n) SELECT c1, c2, c3 FROM (SELECT c1, c2, c3 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS l(c1, c2, c3) WHERE NOT EXISTS (SELECT FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS r(c4, c5, c6) WHERE ((c1 = c5)))) AS d(c1, c2, c3);

-- refresh
-- stage pgt_s1 unless empty: pgt_delta_100
SELECT c1 AS c1, c2 AS c2, NULL::numeric(12,2) AS c3, sum(w::integer) AS w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_100 WHERE w <> 0) AS d(c1, c2, c3, w) GROUP BY c1, c2 HAVING sum(w::integer) <> 0;
-- stage pgt_s2 unless empty: pgt_s1
SELECT NULL::integer AS c1, c5 AS c2, NULL::numeric(12,2) AS c3, (-1)::bigint AS w FROM (SELECT c5, sum(w::integer) AS i1 FROM (SELECT c1, c2, c3, w FROM pgt_s1) AS d(c4, c5, c6, w) WHERE true GROUP BY 1 HAVING sum(w::integer) < 0) AS k WHERE NOT EXISTS (SELECT FROM (SELECT c5 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c4, c5, c6) WHERE true) AS r WHERE k.c5 = r.c5) UNION ALL SELECT NULL::integer AS c1, c5 AS c2, NULL::numeric(12,2) AS c3, 1::bigint AS w FROM (SELECT c5, sum(w::integer) AS i1 FROM (SELECT c1, c2, c3, w FROM pgt_s1) AS d(c4, c5, c6, w) WHERE true GROUP BY 1 HAVING min(w::integer) > 0) AS k WHERE NOT EXISTS (SELECT FROM (SELECT c5 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c4, c5, c6) WHERE true AND (c4) NOT IN (SELECT c4 FROM (SELECT c1, c2, c3, w FROM pgt_s1) AS d(c4, c5, c6, w) WHERE true AND w > 0)) AS r WHERE k.c5 = r.c5);
-- stage pgt_root unless empty: pgt_delta_200 pgt_s2
SELECT c1, c2, c3, sum(w::integer) AS w FROM (SELECT c1, c2, c3, -w AS w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM (SELECT c1, c2, c3, c4, c5, c6, r.w AS w FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS l(c1, c2, c3) JOIN (SELECT c1, c2, c3, w FROM pgt_s2) AS r(c4, c5, c6, w) ON (((c1 = c5)))) AS d(c1, c2, c3, c4, c5, c6, w) UNION ALL SELECT c1, c2, c3, -w AS w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM (SELECT c1, c2, c3, c4, c5, c6, l.w * r.w AS w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_200 WHERE w <> 0) AS l(c1, c2, c3, w) JOIN (SELECT c1, c2, c3, w FROM pgt_s2) AS r(c4, c5, c6, w) ON (((c1 = c5)))) AS d(c1, c2, c3, c4, c5, c6, w)) AS d(c1, c2, c3, w)) AS d(c1, c2, c3, w) UNION ALL SELECT c1, c2, c3, w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_200 WHERE w <> 0) AS l(c1, c2, c3, w) WHERE NOT EXISTS (SELECT FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS r(c4, c5, c6) WHERE ((c1 = c5)))) AS d(c1, c2, c3, w) GROUP BY 1, 2, 3 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, c2, c3, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, c2, c3, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND a.c1 = b.c1)) AS d(c1, c2, c3, w) ON t."Region" = d.c1 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET "total" = d.c2, n = d.c3 WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region", "total", n) VALUES (d.c1, d.c2, d.c3);

-- recompute
-- stage pgt_root unless empty: 
SELECT CASE WHEN v.w > 0 THEN a.c1 ELSE b.c1 END AS c1, CASE WHEN v.w > 0 THEN a.c2 ELSE b.c2 END AS c2, CASE WHEN v.w > 0 THEN a.c3 ELSE b.c3 END AS c3, v.w AS w FROM (SELECT c1, c2, c3, true AS i1 FROM (SELECT c1, c2, c3 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS l(c1, c2, c3) WHERE NOT EXISTS (SELECT FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS r(c4, c5, c6) WHERE ((c1 = c5)))) AS d(c1, c2, c3)) AS a FULL JOIN (SELECT "Region" AS c1, "total" AS c2, n AS c3, true AS i1 FROM ONLY "public"."st") AS b ON (a.c1 = b.c1) CROSS JOIN (VALUES (1::bigint), ((-1)::bigint)) AS v(w) WHERE (a.i1 IS NULL OR b.i1 IS NULL OR record_image_ne(ROW(a.c1, a.c2, a.c3), ROW(b.c1, b.c2, b.c3))) AND CASE WHEN v.w > 0 THEN a.i1 ELSE b.i1 END;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, c2, c3, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, c2, c3, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND a.c1 = b.c1)) AS d(c1, c2, c3, w) ON t."Region" = d.c1 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET "total" = d.c2, n = d.c3 WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region", "total", n) VALUES (d.c1, d.c2, d.c3);

-- where columns come from
-- pgt_s1: 100.1 100.2 100.3
-- pgt_s2: 100.1 100.2 100.3
