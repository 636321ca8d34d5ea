//! explain_st, preview_stream_table, explain_dag.

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome};

use crate::{Test, arrange, assert_error, assert_text};

pub const TESTS: &[Test] = &[
    ("explain_st", explain_st),
    ("preview_stream_table", preview),
    ("validate_query", validate),
    ("explain_dag", dag),
];

fn lines(session: &mut Session, sql: &str) -> Outcome<String> {
    let rows = session.rows(sql)?;
    Ok(rows.into_iter().filter_map(|mut row| row[0].take()).collect::<Vec<_>>().join("\n"))
}

fn says(text: &str, parts: &[&str]) -> Outcome {
    match parts.iter().find(|part| !text.contains(**part)) {
        Some(part) => Err(Failure::new(format!("does not say \"{part}\":\n{text}"))),
        None => Ok(()),
    }
}

fn explain_st(server: &Server) -> Outcome {
    let mut session =
        arrange(server, "explains", "CREATE TABLE t (a int, b int); INSERT INTO t VALUES (1, 2), (2, 3)")?;
    session.each(
        "SELECT pgtrickle.create_stream_table('sums', 'SELECT a, sum(b) AS s FROM t GROUP BY a', schedule => '1h');
         SELECT pgtrickle.create_stream_table('reach',
            'WITH RECURSIVE r AS (SELECT a, b FROM t UNION SELECT r.a, t.b FROM r JOIN t ON t.a = r.b) SELECT a, count(*) AS n FROM r GROUP BY a', schedule => '1h');
         SELECT pgtrickle.create_stream_table('now', 'SELECT a, now() AS n FROM t', schedule => '1h');
         INSERT INTO t VALUES (3, 4); SELECT pgtrickle.refresh_stream_table('reach')",
    )?;
    let sums = lines(&mut session, "SELECT pgtrickle.explain_st('sums')")?;
    let base = session.text("SELECT 't'::regclass::oid")?;
    says(&sums, &[&format!("pgt_delta_{base}: the changes of explains.t"), "\n  FROM pgt_g1 AS g\n"])?;
    says(
        &sums,
        &["explains.sums", "DIFFERENTIAL", "1. GROUP BY of explains.t", "the change is added", "2 rows", "MERGE"],
    )?;
    let reach = lines(&mut session, "SELECT pgtrickle.explain_st('reach')")?;
    says(
        &reach,
        &[
            "1. WITH RECURSIVE … UNION of explains.t (JOIN)",
            "2. GROUP BY of stage 1",
            "6 rows",
            "1 call,",
            "1 DIFFERENTIAL",
        ],
    )?;
    session.each("INSERT INTO t VALUES (4, 5)")?;
    let analyzed = lines(&mut session, "SELECT pgtrickle.explain_st('reach', with_analyze => true)")?;
    says(&analyzed, &["now    4 rows changed", "10 rows"])?;
    let now = lines(&mut session, "SELECT pgtrickle.explain_st('now')")?;
    says(&now, &["FULL: computed anew", "because it"])?;
    let json = "SELECT j->>'name' || ' ' || (j->'stages'->0->>'construct') || ' ' || (j->'stages'->0->>'state_rows')
                  FROM (SELECT pgtrickle.explain_st('reach', format => 'json')::jsonb AS j) q";
    assert_text(&mut session, json, "explains.reach WITH RECURSIVE … UNION 10")?;
    assert_error(&mut session, "SELECT pgtrickle.explain_st('reach', format => 'xml')", "22023", &["text or json"])
}

fn preview(server: &Server) -> Outcome {
    let mut session = arrange(server, "previews", "CREATE TABLE t (a int PRIMARY KEY, b int)")?;
    let kept = lines(&mut session, "SELECT pgtrickle.preview_stream_table('SELECT b, max(a) AS m FROM t GROUP BY b')")?;
    says(
        &kept,
        &["DIFFERENTIAL", "b integer", "previews.t: 2 columns used, followed in the WAL", "GROUP BY of previews.t"],
    )?;
    let opaque = lines(&mut session, "SELECT pgtrickle.preview_stream_table('SELECT a, now() AS n FROM t')")?;
    says(&opaque, &["FULL", "because it", "The whole query"])?;
    assert_text(&mut session, "SELECT count(*) FROM pgtrickle.pgt_status() WHERE schema = 'previews'", "0")
}

fn validate(server: &Server) -> Outcome {
    let mut session =
        arrange(server, "validates", "CREATE TABLE t (a int PRIMARY KEY, b int); CREATE UNLOGGED TABLE u (a int)")?;
    let mut check = |query: &str, rows: &[&str]| {
        let sql =
            format!("SELECT check_name || '|' || result || '|' || severity FROM pgtrickle.validate_query('{query}')");
        says(&lines(&mut session, &sql)?, rows)
    };
    check(
        "SELECT b, count(*) AS n FROM t GROUP BY b",
        &[
            "refresh_mode|DIFFERENTIAL|OK",
            "columns|b integer, n bigint|OK",
            "source|validates.t: 1 column used, followed in the WAL|OK",
            "stage|GROUP BY of validates.t|OK",
        ],
    )?;
    check(
        "SELECT a, now() AS n FROM t",
        &["refresh_mode|FULL: it would be recomputed at each refresh, because", "|WARNING"],
    )?;
    check("SELECT a FROM u", &["source|validates.u", "compared|WARNING"])?;
    check("SELECT random() AS r FROM t", &["query|", "volatile", "|ERROR"])?;
    assert_text(&mut session, "SELECT count(*) FROM pgtrickle.pgt_status() WHERE schema = 'validates'", "0")
}

fn dag(server: &Server) -> Outcome {
    let mut session = arrange(server, "graphs", "CREATE TABLE t (a int)")?;
    session.each(
        "SELECT pgtrickle.create_stream_table('parent', 'SELECT a FROM t', schedule => '1h');
         SELECT pgtrickle.create_stream_table('child', 'SELECT count(*) AS n FROM parent', schedule => '2h')",
    )?;
    let graph = session.text("SELECT pgtrickle.explain_dag()")?;
    let oid = |session: &mut Session, name: &str| session.text(&format!("SELECT '{name}'::regclass::oid"));
    let (t, parent, child) = (oid(&mut session, "t")?, oid(&mut session, "parent")?, oid(&mut session, "child")?);
    let edges = [format!("r{t} --> r{parent}"), format!("r{parent} --> r{child}"), format!("r{t}[(\"graphs.t\")]")];
    says(&graph, &["graph TD", "graphs.child<br/>DIFFERENTIAL, 2h, ACTIVE", &edges[0], &edges[1], &edges[2]])?;
    let dot = session.text("SELECT pgtrickle.explain_dag('dot')")?;
    says(&dot, &["digraph", &format!("r{parent} -> r{child}")])?;
    assert_error(&mut session, "SELECT pgtrickle.explain_dag('png')", "22023", &["mermaid or dot"])
}
