//! Hashes and images of rows.

use pgtrickle_tests::Outcome;
use pgtrickle_tests::server::Server;

use crate::{Test, arrange, assert_error, assert_text};

pub const TESTS: &[Test] = &[("hashes_stay", stay), ("hashes_of_many_rows", many_rows), ("hashes_that_fail", errors)];

/// Hashes are stored, in state and in indexes: a version that computes others would not find its rows.
fn stay(server: &Server) -> Outcome {
    let mut session = arrange(server, "hashes", "CREATE TYPE pair AS (a int, b text)")?;
    for (call, expected) in [
        ("row_hash(1)", "-4873358688225189392"),
        ("row_hash(1::smallint)", "-4873358688225189392"),
        ("row_hash(true)", "-4873358688225189392"),
        ("row_hash(NULL::integer)", "0"),
        ("row_hash(NULL::integer, 1)", "-4873358688225189392"),
        ("row_hash(1, NULL::integer)", "-2318754479498152619"),
        ("row_hash(1.0)", "-78935464306965885"),
        ("row_hash(1.00)", "-78935464306965885"),
        ("row_hash(''::text)", "3880645330695573155"),
        ("row_hash('a'::text)", "-9094175775720963621"),
        ("row_hash('a'::text COLLATE \"C\")", "-9094175775720963621"),
        ("row_hash('a'::char(5))", "-9094175775720963621"),
        ("row_hash('2020-01-01'::date, 'x'::text, 2.5)", "-4209824472193708554"),
        ("row_hash('1 day'::interval)", "-4786784484209858888"),
        ("row_hash('x'::name)", "-2999481018875393094"),
        ("row_hash(ROW(1, 'x')::pair)", "-6499647779749107743"),
        ("row_hash(ARRAY[1, 2])", "-2934716103622400061"),
        ("row_hash('{\"a\": 1}'::json)", "-8566252135438268209"),
        ("row_hash('{\"a\": 1}'::jsonb)", "381311381208624465"),
        ("row_hash('(1,1)'::point)", "-8356259582867641291"),
        ("row_hash('1,1,1,1'::box)", "1142271920774774162"),
        ("image_hash(1)", "-315024314728508235"),
        ("image_hash(1.0)", "-5588765497859440017"),
        ("image_hash(1.00)", "-8417379045443452857"),
        ("image_hash('a'::text, NULL::int)", "-7096999220623307124"),
        ("image_hash('n'::name)", "2915865447832688563"),
        ("image_hash('{\"a\": 1}'::json)", "-8566252135438268209"),
    ] {
        assert_text(&mut session, &format!("SELECT pgtrickle.{call}"), expected)?;
    }
    Ok(())
}

/// What is known of a call's arguments is kept with its place.
fn many_rows(server: &Server) -> Outcome {
    let mut session = arrange(server, "hashes_of_many", "CREATE TABLE t (i int, c text)")?;
    session.each("INSERT INTO t VALUES (1, 'a'), (NULL, 'b'), (3, NULL)")?;
    for function in ["row_hash", "image_hash", "row_image"] {
        let differing = format!(
            "SELECT count(*) FROM t WHERE pgtrickle.{function}(i, c) IS DISTINCT FROM CASE c
               WHEN 'a' THEN pgtrickle.{function}(1, 'a'::text)
               WHEN 'b' THEN pgtrickle.{function}(NULL::int, 'b'::text)
               ELSE pgtrickle.{function}(3, NULL::text) END"
        );
        assert_text(&mut session, &differing, "0")?;
    }
    Ok(())
}

/// A type whose hash function fails for one value and forgets another.
const FRAGILE: &str = "
    CREATE TYPE fragile;
    CREATE FUNCTION fragile_in(cstring) RETURNS fragile LANGUAGE internal IMMUTABLE STRICT AS 'int4in';
    CREATE FUNCTION fragile_out(fragile) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out';
    CREATE TYPE fragile (INPUT = fragile_in, OUTPUT = fragile_out, LIKE = int4);
    CREATE CAST (fragile AS int) WITHOUT FUNCTION;
    CREATE CAST (int AS fragile) WITHOUT FUNCTION;
    CREATE FUNCTION fragile_eq(fragile, fragile) RETURNS bool LANGUAGE internal IMMUTABLE STRICT AS 'int4eq';
    CREATE OPERATOR = (LEFTARG = fragile, RIGHTARG = fragile, FUNCTION = fragile_eq, HASHES);
    CREATE FUNCTION fragile_hash(fragile) RETURNS int LANGUAGE internal IMMUTABLE STRICT AS 'hashint4';
    CREATE FUNCTION fragile_hash(fragile, bigint) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT AS
        'SELECT CASE $1::int WHEN 9 THEN NULL ELSE hashint4extended($1::int, $2 + 0 / ($1::int - 8)) END';
    CREATE OPERATOR CLASS fragile_ops DEFAULT FOR TYPE fragile USING hash AS
        OPERATOR 1 =, FUNCTION 1 fragile_hash(fragile), FUNCTION 2 fragile_hash(fragile, bigint);
    CREATE TABLE t (i int, f fragile);
    INSERT INTO t SELECT i, i::fragile FROM generate_series(1, 9) i;
";

/// Errors come through, and nothing is the worse for them.
fn errors(server: &Server) -> Outcome {
    let mut session = arrange(server, "hashes_that_fail", FRAGILE)?;
    for _ in 0..3 {
        assert_error(&mut session, "SELECT pgtrickle.row_hash(i, f) FROM t", "22012", &["division by zero"])?;
        assert_error(&mut session, "SELECT pgtrickle.row_hash(f) FROM t WHERE i = 9", "XX000", &["returned NULL"])?;
        for function in ["row_hash", "row_image"] {
            let sql = format!("SELECT pgtrickle.{function}('a')");
            assert_error(&mut session, &sql, "XX000", &["type of argument 1"])?;
        }
        let sound = "SELECT bool_and(pgtrickle.row_hash(f, i) = pgtrickle.row_hash(i, i)) FROM t WHERE i < 8";
        assert_text(&mut session, sound, "t")?;
    }
    Ok(())
}
