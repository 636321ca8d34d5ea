CREATE INDEX ON "public"."st" (pgtrickle.row_hash("Region", "total"));

-- fill
-- modify unless empty: 
INSERT INTO "public"."st" ("Region", "total", n) SELECT c1, c2, c3 FROM (SELECT c1 AS c1, c5 AS c2, c4 AS c3 FROM (SELECT c1, c2, c3, c4, c5 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3) LEFT JOIN LATERAL ROWS FROM (regexp_split_to_table(c3, ' '::text)) WITH ORDINALITY AS f(c4, c5) ON (((c5 < c1)))) AS d(c1, c2, c3, c4, c5)) AS d(c1, c2, c3);

-- refresh
-- stage pgt_root unless empty: pgt_delta_200
SELECT c1, c2, c3, sum(w::integer) AS w FROM (SELECT c1 AS c1, c5 AS c2, c4 AS c3, w FROM (SELECT c1, c2, c3, c4, c5, w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_200 WHERE w <> 0) AS d(c1, c2, c3, w) LEFT JOIN LATERAL ROWS FROM (regexp_split_to_table(c3, ' '::text)) WITH ORDINALITY AS f(c4, c5) ON (((c5 < c1)))) AS d(c1, c2, c3, c4, c5, w)) AS d(c1, c2, c3, w) GROUP BY 1, 2, 3 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, c2, c3, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, c2, c3, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND pgtrickle.row_hash(a.c1, a.c2) = pgtrickle.row_hash(b.c1, b.c2) AND a.c1 = b.c1 AND a.c2 IS NOT DISTINCT FROM b.c2)) AS d(c1, c2, c3, w) ON pgtrickle.row_hash(t."Region", t."total") = pgtrickle.row_hash(d.c1, d.c2) AND t."Region" = d.c1 AND t."total" IS NOT DISTINCT FROM d.c2 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = d.c3 WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region", "total", n) VALUES (d.c1, d.c2, d.c3);

-- recompute
-- stage pgt_root unless empty: 
SELECT CASE WHEN v.w > 0 THEN a.c1 ELSE b.c1 END AS c1, CASE WHEN v.w > 0 THEN a.c2 ELSE b.c2 END AS c2, CASE WHEN v.w > 0 THEN a.c3 ELSE b.c3 END AS c3, v.w AS w FROM (SELECT c1, c2, c3, true AS i1 FROM (SELECT c1 AS c1, c5 AS c2, c4 AS c3 FROM (SELECT c1, c2, c3, c4, c5 FROM (SELECT "id" AS c1, "region" AS c2, "name" AS c3 FROM "public"."customers") AS d(c1, c2, c3) LEFT JOIN LATERAL ROWS FROM (regexp_split_to_table(c3, ' '::text)) WITH ORDINALITY AS f(c4, c5) ON (((c5 < c1)))) AS d(c1, c2, c3, c4, c5)) AS d(c1, c2, c3)) AS a FULL JOIN (SELECT "Region" AS c1, "total" AS c2, n AS c3, true AS i1 FROM ONLY "public"."st") AS b ON (pgtrickle.row_hash(a.c1, a.c2) = pgtrickle.row_hash(b.c1, b.c2) AND a.c1 = b.c1 AND a.c2 IS NOT DISTINCT FROM b.c2) CROSS JOIN (VALUES (1::bigint), ((-1)::bigint)) AS v(w) WHERE (a.i1 IS NULL OR b.i1 IS NULL OR record_image_ne(ROW(a.c1, a.c2, a.c3), ROW(b.c1, b.c2, b.c3))) AND CASE WHEN v.w > 0 THEN a.i1 ELSE b.i1 END;
-- modify unless empty: pgt_root
MERGE INTO ONLY "public"."st" AS t USING (SELECT c1, c2, c3, w FROM pgt_root AS a WHERE w > 0 UNION ALL SELECT c1, c2, c3, w FROM pgt_root AS b WHERE w < 0 AND NOT EXISTS (SELECT FROM pgt_root AS a WHERE a.w > 0 AND pgtrickle.row_hash(a.c1, a.c2) = pgtrickle.row_hash(b.c1, b.c2) AND a.c1 = b.c1 AND a.c2 IS NOT DISTINCT FROM b.c2)) AS d(c1, c2, c3, w) ON pgtrickle.row_hash(t."Region", t."total") = pgtrickle.row_hash(d.c1, d.c2) AND t."Region" = d.c1 AND t."total" IS NOT DISTINCT FROM d.c2 WHEN MATCHED AND d.w < 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = d.c3 WHEN NOT MATCHED AND d.w > 0 THEN INSERT ("Region", "total", n) VALUES (d.c1, d.c2, d.c3);

-- where columns come from
