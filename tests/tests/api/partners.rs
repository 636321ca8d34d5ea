//! Large changes of which only few rows find a partner in a kept selection, while that changes, too.

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::stream::{BY_HAND, StreamTable};
use pgtrickle_tests::{During, Failure, Outcome, oracle};

use crate::{Test, arrange};

pub const TESTS: &[Test] =
    &[("partners_come_and_go", come_and_go), ("partners_of_nothing", nothing_to_do), ("partners_of_few", few)];

const TABLES: &str = "
    CREATE FUNCTION code(i int) RETURNS varchar LANGUAGE sql IMMUTABLE AS 'SELECT pg_catalog.md5(i::text)';
    CREATE TABLE part (id int PRIMARY KEY, code varchar(40), kind text);
    CREATE TABLE line (id int, part int, code varchar(40), qty int);
    CREATE TABLE supply (part int, price int);
    INSERT INTO part SELECT i, code(i), CASE WHEN i % 20 = 0 THEN 'rare' ELSE 'plain' END FROM generate_series(1, 3000) AS i;
    INSERT INTO line SELECT i, i % 3000 + 1, code(i % 3000 + 1), i % 50 FROM generate_series(1, 9000) AS i;
    INSERT INTO supply SELECT i % 3000 + 1, i FROM generate_series(1, 4000) AS i;
    CREATE INDEX ON line (part); CREATE INDEX ON supply (part);
    ANALYZE part, line, supply";

/// Name and query, all of which keep what is rare.
const QUERIES: &[(&str, &str)] = &[
    ("by_number", "SELECT l.id, l.qty, p.code FROM line l JOIN part p ON p.id = l.part WHERE p.kind = 'rare'"),
    (
        "by_text",
        "SELECT p.id, sum(l.qty) AS qty FROM line l, part p WHERE p.code = l.code AND p.kind = 'rare' GROUP BY p.id",
    ),
    (
        "by_another",
        "SELECT p.id, l.id AS line, s.price FROM part p, line l, supply s
          WHERE p.id = l.part AND s.part = l.part AND p.kind = 'rare'",
    ),
    (
        "outside",
        "SELECT l.id, s.price FROM line l JOIN part p ON p.id = l.part AND p.kind = 'rare'
           LEFT JOIN supply s ON s.part = l.qty WHERE EXISTS (SELECT FROM line m WHERE m.part = l.part AND m.qty > l.qty)",
    ),
    (
        "below_average",
        "SELECT sum(l.qty) AS qty FROM line l, part p WHERE p.id = l.part AND p.kind = 'rare'
            AND l.qty < (SELECT avg(m.qty) FROM line m WHERE m.part = p.id)",
    ),
    (
        "twice",
        "SELECT l.part, m.id FROM line l JOIN part p ON p.id = l.part AND p.kind = 'rare' JOIN line m ON m.id = l.qty",
    ),
];

/// What happens, each between two refreshes.
const STEPS: &[&str] = &[
    "UPDATE line SET qty = qty + 1 WHERE id <= 6000",
    "UPDATE part SET kind = 'rare' WHERE id BETWEEN 101 AND 140;
     INSERT INTO line SELECT 10000 + i, i % 200 + 1, code(i % 200 + 1), i % 40 FROM generate_series(1, 3000) AS i",
    "UPDATE part SET kind = 'plain' WHERE kind = 'rare' AND id % 40 = 0; UPDATE line SET qty = qty - 1 WHERE id % 2 = 0",
    "UPDATE line SET part = part + 100000, code = md5(code) WHERE part % 5 = 0",
    "UPDATE part SET id = id + 100000, code = md5(code) WHERE id % 10 = 0; UPDATE line SET qty = 7 WHERE id % 3 = 0",
    "UPDATE line SET part = NULL, code = NULL WHERE id % 7 = 0; UPDATE supply SET part = part + 1",
    "UPDATE line SET part = id % 3000 + 1, code = code(id % 3000 + 1) WHERE part IS NULL;
     UPDATE part SET kind = 'rare' WHERE id % 7 = 1 AND id < 900",
    "DELETE FROM part WHERE kind = 'rare' AND id % 3 = 0; DELETE FROM line WHERE id % 3 = 0",
    "INSERT INTO part SELECT i, code(i), 'rare' FROM generate_series(3001, 3050) AS i",
    "INSERT INTO line SELECT 20000 + i, i, code(i), i FROM generate_series(1, 4000) AS i; DELETE FROM part WHERE id > 3025",
];

fn come_and_go(server: &Server) -> Outcome {
    let mut session = arrange(server, "partners_come_and_go", TABLES)?;
    for (name, query) in QUERIES {
        create(&mut session, "partners_come_and_go", name, query)?;
    }
    for step in STEPS {
        session.each(&format!("BEGIN; {step}; COMMIT"))?;
        for (name, query) in QUERIES {
            StreamTable::new("partners_come_and_go", name).refresh(&mut session).during(*step)?;
            oracle::assert_exact(&mut session, name, query).during(*step)?;
        }
    }
    Ok(())
}

/// What finds no partner is passed over: there is nothing to do.
fn nothing_to_do(server: &Server) -> Outcome {
    let mut session = arrange(server, "partners_of_nothing", TABLES)?;
    let (name, query) = QUERIES[0];
    create(&mut session, "partners_of_nothing", name, query)?;
    let refreshes = |session: &mut Session| {
        session.text(
            "SELECT sum(refreshes) FROM pgtrickle.pgt_refresh_history JOIN pgtrickle.pgt_stream_tables USING (pgt_id)
                       WHERE pgt_schema = 'partners_of_nothing'",
        )
    };
    let before = refreshes(&mut session)?;
    session.run("UPDATE line SET qty = qty + 1 WHERE part % 20 <> 0")?;
    StreamTable::new("partners_of_nothing", name).refresh(&mut session)?;
    oracle::assert_exact(&mut session, name, query)?;
    let after = refreshes(&mut session)?;
    if after != before {
        return Err(Failure::new(format!("{after} refreshes had something to do, {before} before")));
    }
    session.run("UPDATE part SET kind = 'rare' WHERE id BETWEEN 101 AND 119")?;
    StreamTable::new("partners_of_nothing", name).refresh(&mut session)?;
    oracle::assert_exact(&mut session, name, query)
}

/// For a few changes partners are not looked for; those are found that a larger change then has.
fn few(server: &Server) -> Outcome {
    let mut session = arrange(server, "partners_of_few", TABLES)?;
    let (name, query) = QUERIES[2];
    create(&mut session, "partners_of_few", name, query)?;
    for step in [
        "UPDATE line SET qty = qty + 1 WHERE id = 19",
        "UPDATE part SET kind = 'rare' WHERE id = 21",
        "UPDATE line SET qty = qty + 1",
        "UPDATE part SET kind = 'plain' WHERE id = 21",
        "UPDATE line SET part = 21 WHERE id < 3000",
    ] {
        session.run(step)?;
        StreamTable::new("partners_of_few", name).refresh(&mut session)?;
        oracle::assert_exact(&mut session, name, query).during(step)?;
    }
    Ok(())
}

fn create(session: &mut Session, schema: &str, name: &str, query: &str) -> Outcome {
    StreamTable::new(schema, name).create(session, query, BY_HAND).during(name)?;
    let kept = "the rows that pass are kept";
    let stages = session.rows(&format!("SELECT * FROM pgtrickle.explain_st('{schema}.{name}')"))?;
    let told = stages.iter().flatten().flatten().any(|text| text.contains(kept));
    if told { Ok(()) } else { Err(Failure::new(format!("{name} keeps no selection"))) }
}
