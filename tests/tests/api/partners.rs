//! Large changes of which only few rows find a partner in a kept selection, while that changes, too.

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::stream::{BY_HAND, StreamTable};
use pgtrickle_tests::{During, Failure, Outcome, oracle};

use crate::{Test, arrange};

pub const TESTS: &[Test] = &[
    ("partners_come_and_go", come_and_go),
    ("partners_of_nothing", nothing_to_do),
    ("partners_of_few", few),
    ("partners_kept_of_another", other_choice),
    ("partners_reduced_by_another", other_reduction),
];

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

/// What is kept is known again where the planner would choose otherwise by now, also from what looks the same.
fn other_choice(server: &Server) -> Outcome {
    let schema = "partners_kept_of_another";
    let tables = "
        CREATE TABLE a (id int PRIMARY KEY, k int, f int);
        CREATE TABLE b (id int PRIMARY KEY, k int, f int);
        INSERT INTO a SELECT i, i % 100, 1 FROM generate_series(1, 10000) AS i;
        INSERT INTO b SELECT i, i % 100, CASE WHEN i <= 1400 THEN 1 ELSE 0 END FROM generate_series(1, 10000) AS i;
        ANALYZE a, b";
    let mut session = arrange(server, schema, tables)?;
    let query = "SELECT a.k, count(*) AS n FROM a JOIN b ON a.k = b.k WHERE a.f = 1 AND b.f = 1 GROUP BY a.k";
    create(&mut session, schema, "st", query)?;
    chosen_again(
        &mut session,
        (schema, "st", query),
        &[
            "INSERT INTO b SELECT i, i % 100, 1 FROM generate_series(10001, 10400) AS i; ANALYZE b",
            "UPDATE a SET f = 2 WHERE id > 900; ANALYZE a",
            "UPDATE a SET k = k + 1 WHERE id % 7 = 0; UPDATE b SET f = 1 - f WHERE id % 9 = 0; DELETE FROM b WHERE id % 10 = 0",
            "UPDATE b SET f = 0 WHERE id > 50; UPDATE a SET f = 1; ANALYZE a, b",
            "INSERT INTO a SELECT i, i % 100, 1 FROM generate_series(20001, 20400) AS i; DELETE FROM b WHERE id < 9",
        ],
    )
}

fn other_reduction(server: &Server) -> Outcome {
    let schema = "partners_reduced_by_another";
    let tables = "
        CREATE TABLE one (id int PRIMARY KEY, name text);
        CREATE TABLE two (id int PRIMARY KEY, name text);
        CREATE TABLE middle (id int PRIMARY KEY, one int, two int);
        CREATE TABLE large (id int PRIMARY KEY, middle int);
        INSERT INTO one SELECT i, CASE WHEN i = 1 THEN 'x' ELSE 'y' END FROM generate_series(0, 19) AS i;
        INSERT INTO two SELECT i, CASE WHEN i < 15 THEN 'x' ELSE 'y' END FROM generate_series(0, 19) AS i;
        INSERT INTO middle SELECT i, i % 20, i / 20 % 20 FROM generate_series(1, 2000) AS i;
        INSERT INTO large SELECT i, i % 2100 FROM generate_series(1, 10000) AS i;
        CREATE INDEX ON large (middle); CREATE INDEX ON middle (one); CREATE INDEX ON middle (two);
        ANALYZE one, two, middle, large";
    let mut session = arrange(server, schema, tables)?;
    let query = "SELECT o.id AS one, t.id AS two, count(*) AS n FROM large l JOIN middle m ON m.id = l.middle
                   JOIN one o ON o.id = m.one JOIN two t ON t.id = m.two
                  WHERE o.name = 'x' AND t.name = 'x' GROUP BY o.id, t.id";
    create(&mut session, schema, "st", query)?;
    chosen_again(
        &mut session,
        (schema, "st", query),
        &[
            "UPDATE one SET name = 'x'; UPDATE two SET name = CASE id WHEN 1 THEN 'x' ELSE 'y' END; ANALYZE one, two",
            "UPDATE large SET middle = middle + 1 WHERE id % 3 = 0; INSERT INTO large SELECT i, i % 2000 FROM generate_series(10001, 12000) AS i",
            "UPDATE middle SET one = two, two = one WHERE id % 2 = 0",
            "UPDATE one SET name = 'y' WHERE id > 4; UPDATE two SET name = 'x' WHERE id > 10; ANALYZE one, two, middle",
            "DELETE FROM large WHERE id % 4 = 0; UPDATE large SET middle = id % 2000",
        ],
    )
}

/// Refreshes after each step, exactly, and without making state anew.
fn chosen_again(session: &mut Session, (schema, name, query): (&str, &str, &str), steps: &[&str]) -> Outcome {
    for step in steps {
        session.each(step)?;
        StreamTable::new(schema, name).refresh(session).during(*step)?;
        oracle::assert_exact(session, name, query).during(*step)?;
        let action = session.text(&format!(
            "SELECT action FROM pgtrickle.pgt_refresh_history JOIN pgtrickle.pgt_stream_tables USING (pgt_id)
              WHERE pgt_schema = '{schema}' ORDER BY refresh_id DESC LIMIT 1"
        ))?;
        if action == "REINITIALIZE" {
            return Err(Failure::new(format!("{action}: what is kept was not known again")).during(*step));
        }
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
