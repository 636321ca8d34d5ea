CREATE UNIQUE INDEX ON "public"."st" ("Region");

-- fill
-- modify unless empty: 
INSERT INTO "public"."st" ("Region", "total") SELECT c1, c2 FROM (SELECT c1 AS c1, c6 AS c2 FROM (SELECT c1, c2, c3, c4, c5, c6 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS l(c1, c2, c3) JOIN (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS r(c4, c5, c6) ON (((c2 = c4)))) AS d(c1, c2, c3, c4, c5, c6)) AS d(c1, c2);

-- refresh
-- stage pgt_root unless empty: pgt_delta_100 pgt_delta_200
SELECT c1, c2, sum(w::integer) AS w FROM (SELECT c1 AS c1, c6 AS c2, w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, c4 AS c4, c5 AS c5, c6 AS c6, t1.w AS w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_100 WHERE w <> 0) AS t1(c1, c2, c3, w) JOIN (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS t2(c4, c5, c6) ON (((c2 = c4))) UNION ALL SELECT c1 AS c1, c2 AS c2, c3 AS c3, c4 AS c4, c5 AS c5, c6 AS c6, t2.w AS w FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS t1(c1, c2, c3) JOIN (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_200 WHERE w <> 0) AS t2(c4, c5, c6, w) ON (((c2 = c4))) UNION ALL SELECT c1, c2, c3, c4, c5, c6, -w AS w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, c4 AS c4, c5 AS c5, c6 AS c6, t1.w * t2.w AS w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_100 WHERE w <> 0) AS t1(c1, c2, c3, w) JOIN (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_200 WHERE w <> 0) AS t2(c4, c5, c6, w) ON (((c2 = c4)))) AS d(c1, c2, c3, c4, c5, c6, w)) AS d(c1, c2, c3, c4, c5, c6, w)) AS d(c1, c2, w) GROUP BY 1, 2 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, c2, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, c2, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND a.c1 = b.c1)) AS d(c1, c2, w) ON t."Region" = d.c1 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET "total" = d.c2 WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region", "total") VALUES (d.c1, d.c2);

-- recompute
-- stage pgt_root unless empty: 
SELECT CASE WHEN v.w > 0 THEN a.c1 ELSE b.c1 END AS c1, CASE WHEN v.w > 0 THEN a.c2 ELSE b.c2 END AS c2, v.w AS w FROM (SELECT c1, c2, true AS i1 FROM (SELECT c1 AS c1, c6 AS c2 FROM (SELECT c1, c2, c3, c4, c5, c6 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS l(c1, c2, c3) JOIN (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS r(c4, c5, c6) ON (((c2 = c4)))) AS d(c1, c2, c3, c4, c5, c6)) AS d(c1, c2)) AS a FULL JOIN (SELECT "Region" AS c1, "total" AS c2, true AS i1 FROM ONLY "public"."st") AS b ON (a.c1 = b.c1) CROSS JOIN (VALUES (1::bigint), ((-1)::bigint)) AS v(w) WHERE (a.i1 IS NULL OR b.i1 IS NULL OR record_image_ne(ROW(a.c1, a.c2), ROW(b.c1, b.c2))) AND CASE WHEN v.w > 0 THEN a.i1 ELSE b.i1 END;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, c2, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, c2, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND a.c1 = b.c1)) AS d(c1, c2, w) ON t."Region" = d.c1 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET "total" = d.c2 WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region", "total") VALUES (d.c1, d.c2);

-- where columns come from
