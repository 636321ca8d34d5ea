//! The instruments themselves: a server survives what tests do to it, and the oracle sees what it must see.

use pgtrickle_tests::oracle;
use pgtrickle_tests::server::{Server, Shutdown};
use pgtrickle_tests::suite;
use pgtrickle_tests::{Failure, Outcome};

fn main() {
    suite::main(2, |version| {
        let server = move |name, test: fn(&Server) -> Outcome| {
            suite::trial(version, name, move || test(&Server::start_bare(version, &[])?))
        };
        Ok(vec![
            server("server_survives_crashes", crashes),
            server("oracle_sees_differences", oracle_differences),
            server("oracle_compares_types_without_equality", oracle_types),
        ])
    })
}

fn crashes(server: &Server) -> Outcome {
    server.session()?.run("CREATE TABLE t AS SELECT 1 AS a")?;
    for how in [Shutdown::Immediate, Shutdown::Kill, Shutdown::Fast] {
        server.crash_restart(how)?;
        assert_eq!(server.session()?.number("SELECT count(*) FROM t")?, 1);
    }
    let mut session = server.session()?;
    server.kill_backend_type(&mut session, "checkpointer")?;
    assert_eq!(server.session_after_crash()?.number("SELECT count(*) FROM t")?, 1);
    Ok(())
}

fn oracle_differences(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.run("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (1), (NULL)")?;
    oracle::assert_exact(&mut session, "t", "VALUES (NULL::int), (1), (1)")?;
    for wrong in ["VALUES (1)", "VALUES (1), (1), (NULL), (NULL)", "VALUES (1), (NULL)", "SELECT NULL::int WHERE false"]
    {
        if oracle::assert_exact(&mut session, "t", wrong).is_ok() {
            return Err(Failure::new(format!("not seen: {wrong}")));
        }
    }
    Ok(())
}

fn oracle_types(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.run(
        "CREATE TYPE pair AS (a json, b int); CREATE TABLE t (i int, j json, p point, x xml, c pair, js json[])",
    )?;
    let row = "VALUES (1, '{\"a\": 1}'::json, '(1,2)'::point, '<a/>'::xml, ROW('[]', 1)::pair, ARRAY['1'::json])";
    session.run(&format!("INSERT INTO t {row}"))?;
    oracle::assert_exact(&mut session, "t", row)?;
    oracle::assert_exact(&mut session, "t", &row.replace("[]", "[1]")).expect_err("a difference inside a composite");
    Ok(())
}
