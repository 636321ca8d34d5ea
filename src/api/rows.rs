//! Row hashes and images, used by the statements of refreshes and by the indexes of stream tables without a key.

use pgrx::prelude::*;
use pgtrickle_pg::variadic_function;

variadic_function!(pgtrickle_row_hash, pg_finfo_pgtrickle_row_hash, pgtrickle_pg::rowhash::row_hash);
variadic_function!(pgtrickle_image_hash, pg_finfo_pgtrickle_image_hash, pgtrickle_pg::rowhash::image_hash);
variadic_function!(pgtrickle_row_image, pg_finfo_pgtrickle_row_image, pgtrickle_pg::rowhash::row_image);

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
"#,
    name = "row_functions"
);
