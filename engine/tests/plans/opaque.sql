-- modify unless empty: 
INSERT INTO "public"."st" ("doc", n) SELECT c1, c2 FROM (SELECT "doc" AS c1, n AS c2 FROM pgtrickle.def_1) AS d(c1, c2);
-- stage pgt_root unless empty: 
SELECT c1, c2, w FROM (SELECT DISTINCT ON (i1) c1, c2, sum(w::integer) OVER (PARTITION BY i1) AS w FROM (SELECT c1, c2, w, pgtrickle.row_image(c1, c2) AS i1 FROM (SELECT c1, c2, 1::bigint AS w FROM (SELECT "doc" AS c1, n AS c2 FROM pgtrickle.def_1) AS d(c1, c2) UNION ALL SELECT "doc" AS c1, n AS c2, (-1)::bigint AS w FROM ONLY "public"."st") AS d(c1, c2, w)) AS d) AS d WHERE w <> 0;
-- modify unless empty: pgt_root
-- as many as SELECT coalesce(-sum(w::integer) FILTER (WHERE w < 0), 0) AS n FROM pgt_root
DELETE FROM ONLY "public"."st" AS t WHERE t.ctid = ANY (ARRAY(SELECT i1 FROM (SELECT t.ctid AS i1, row_number() OVER (PARTITION BY d.i1) AS i2, d.w AS w FROM (SELECT c1, c2, w, row_number() OVER () AS i1 FROM pgt_root AS d WHERE w < 0) AS d JOIN ONLY "public"."st" AS t ON (pgtrickle.image_hash(t."doc", t.n) = pgtrickle.image_hash(d.c1, d.c2) AND record_image_eq(ROW(t."doc", t.n), ROW(d.c1, d.c2)))) AS d WHERE i2 <= -w));
-- modify unless empty: pgt_root
INSERT INTO "public"."st" ("doc", n) SELECT c1, c2 FROM pgt_root AS d CROSS JOIN generate_series(1, d.w) AS i1 WHERE d.w > 0;
