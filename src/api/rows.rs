//! Row hashes and images, used by the statements of refreshes and by the indexes of stream tables without a key.

use pgrx::prelude::*;
use pgtrickle_pg::variadic_function;

variadic_function!(pgtrickle_row_hash, pg_finfo_pgtrickle_row_hash, pgtrickle_pg::rowhash::row_hash);
variadic_function!(pgtrickle_image_hash, pg_finfo_pgtrickle_image_hash, pgtrickle_pg::rowhash::image_hash);
variadic_function!(pgtrickle_row_image, pg_finfo_pgtrickle_row_image, pgtrickle_pg::rowhash::row_image);
variadic_function!(pgtrickle_lesser_image, pg_finfo_pgtrickle_lesser_image, pgtrickle_pg::rowhash::lesser_image);

extension_sql!(
    r#"
CREATE FUNCTION pgtrickle.row_hash(VARIADIC "any") RETURNS bigint
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'pgtrickle_row_hash';
COMMENT ON FUNCTION pgtrickle.row_hash("any") IS 'Hash of a row: equal values have equal hashes';
CREATE FUNCTION pgtrickle.image_hash(VARIADIC "any") RETURNS bigint
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'pgtrickle_image_hash';
COMMENT ON FUNCTION pgtrickle.image_hash("any") IS 'Hash of the bytes of a row''s values';
CREATE FUNCTION pgtrickle.row_image(VARIADIC "any") RETURNS bytea
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'pgtrickle_row_image';
COMMENT ON FUNCTION pgtrickle.row_image("any") IS 'The bytes of a row''s values';
CREATE FUNCTION pgtrickle.lesser_image(anyelement, anyelement) RETURNS anyelement
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pgtrickle_lesser_image';
COMMENT ON FUNCTION pgtrickle.lesser_image(anyelement, anyelement) IS 'Of two values the one whose bytes come first';
CREATE AGGREGATE pgtrickle.least_image(anyelement)
    (SFUNC = pgtrickle.lesser_image, STYPE = anyelement, COMBINEFUNC = pgtrickle.lesser_image, PARALLEL = SAFE);
COMMENT ON AGGREGATE pgtrickle.least_image(anyelement) IS 'Of values that are equal but look different (1.0 and 1.00) the one whose bytes come first';
"#,
    name = "row_functions"
);
