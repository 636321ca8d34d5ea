CREATE INDEX ON "public"."st" (pgtrickle.image_hash("Region", "total"));

-- fill
-- modify unless empty: 
INSERT INTO "public"."st" ("Region", "total") SELECT c1, c2 FROM (SELECT c2 AS c1, c3 AS c2 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3)) AS d(c1, c2);

-- refresh
-- stage pgt_root unless empty: pgt_delta_100
SELECT c1, c2, sum(w::integer) AS w FROM (SELECT c2 AS c1, c3 AS c2, w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3, w FROM pgt_delta_100 WHERE w <> 0) AS d(c1, c2, c3, w)) AS d(c1, c2, w) GROUP BY 1, 2 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_root
-- as many as SELECT coalesce(-sum(w::integer) FILTER (WHERE w < 0), 0) AS n FROM pgt_root
DELETE FROM ONLY "public"."st" AS t WHERE t.ctid = ANY (ARRAY(SELECT i1 FROM (SELECT t.ctid AS i1, row_number() OVER (PARTITION BY d.i1) AS i2, d.w AS w FROM (SELECT c1, c2, w, row_number() OVER () AS i1 FROM pgt_root AS d WHERE w < 0) AS d JOIN ONLY "public"."st" AS t ON (pgtrickle.image_hash(t."Region", t."total") = pgtrickle.image_hash(d.c1, d.c2) AND record_image_eq(ROW(t."Region", t."total"), ROW(d.c1, d.c2)))) AS d WHERE i2 <= -w));
-- modify unless empty: pgt_root
INSERT INTO "public"."st" ("Region", "total") SELECT c1, c2 FROM pgt_root AS d CROSS JOIN generate_series(1, d.w) AS i1 WHERE d.w > 0;

-- recompute
-- stage pgt_root unless empty: 
SELECT c1, c2, sum(w::integer) AS w FROM (SELECT c1, c2, 1::bigint AS w FROM (SELECT c2 AS c1, c3 AS c2 FROM (SELECT "id" AS c1, "customer_id" AS c2, "amount" AS c3 FROM "public"."orders") AS d(c1, c2, c3)) AS d(c1, c2) UNION ALL SELECT "Region" AS c1, "total" AS c2, (-1)::bigint AS w FROM ONLY "public"."st") AS d(c1, c2, w) GROUP BY 1, 2 HAVING sum(w::integer) <> 0;
-- modify unless empty: pgt_root
-- as many as SELECT coalesce(-sum(w::integer) FILTER (WHERE w < 0), 0) AS n FROM pgt_root
DELETE FROM ONLY "public"."st" AS t WHERE t.ctid = ANY (ARRAY(SELECT i1 FROM (SELECT t.ctid AS i1, row_number() OVER (PARTITION BY d.i1) AS i2, d.w AS w FROM (SELECT c1, c2, w, row_number() OVER () AS i1 FROM pgt_root AS d WHERE w < 0) AS d JOIN ONLY "public"."st" AS t ON (pgtrickle.image_hash(t."Region", t."total") = pgtrickle.image_hash(d.c1, d.c2) AND record_image_eq(ROW(t."Region", t."total"), ROW(d.c1, d.c2)))) AS d WHERE i2 <= -w));
-- modify unless empty: pgt_root
INSERT INTO "public"."st" ("Region", "total") SELECT c1, c2 FROM pgt_root AS d CROSS JOIN generate_series(1, d.w) AS i1 WHERE d.w > 0;

-- where columns come from
