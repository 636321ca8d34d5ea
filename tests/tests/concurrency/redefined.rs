//! Views and functions that a query uses are replaced over and over while the workers refresh: what a stream table holds is by
//! the definition that is in force, whichever moment of the replacing transaction's end a refresh began at.

use std::time::Instant;

use fastrand::Rng;
use pgtrickle_tests::server::{Connector, Server};
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{During, Failure, Outcome};

use crate::{Watch, duration};

const DEFINITIONS: usize = 6;

pub fn views_and_functions(server: &Server) -> Outcome {
    let seed = fastrand::u64(..);
    let mut session = server.session()?;
    session.run("CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL); INSERT INTO t SELECT i, i % 100 FROM generate_series(1, 400) i")?;
    for number in 0..DEFINITIONS {
        session.run(&definition(number, 30))?;
        let query = match number % 2 {
            0 => format!("SELECT id, v FROM seen_{number}"),
            _ => format!("SELECT id, v FROM t WHERE seen_{number}(v)"),
        };
        session.run(&format!("SELECT pgtrickle.create_stream_table('st_{number}', '{query}', '0s')"))?;
    }
    let watch = Watch { deadline: Instant::now() + duration() / 2, over: Default::default() };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|number| {
                let (watch, connector) = (&watch, server.connector());
                scope.spawn(move || match number {
                    0 => write(watch, &connector, seed),
                    _ => redefine(watch, &connector, seed + number),
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread panicked"))
    })
    .during(format!("seed {seed}"))
}

/// A view, or a function that says whether a value is seen.
fn definition(number: usize, least: u32) -> String {
    match number % 2 {
        0 => format!("CREATE OR REPLACE VIEW seen_{number} AS SELECT id, v FROM t WHERE v > {least}"),
        _ => format!(
            "CREATE OR REPLACE FUNCTION seen_{number}(v int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN v > {least}; END'"
        ),
    }
}

fn write(watch: &Watch, connector: &Connector, seed: u64) -> Outcome {
    let mut rng = Rng::with_seed(seed);
    let mut session = connector.session()?;
    watch
        .repeat(|_| session.run(&format!("UPDATE t SET v = {} WHERE id = {}", rng.u32(..100), rng.u32(1..400))))
        .map(drop)
}

/// Each of two sessions has half of the definitions.
fn redefine(watch: &Watch, connector: &Connector, seed: u64) -> Outcome {
    let mut rng = Rng::with_seed(seed);
    let mut session = connector.session()?;
    watch
        .repeat(|round| {
            let number = rng.usize(..DEFINITIONS / 2) * 2 + (seed % 2) as usize;
            let definition = definition(number, if round % 2 == 0 { 60 } else { 30 });
            // What a subtransaction has written has its id.
            session.run(&match rng.bool() {
                true => definition,
                false => format!("BEGIN; SAVEPOINT s; {definition}; RELEASE s; COMMIT"),
            })?;
            verify(&mut session, number)
        })
        .map(drop)
}

fn verify(session: &mut Session, number: usize) -> Outcome {
    let verify = format!(
        "SELECT missing || ' missing, ' || extra || ' extra' FROM pgtrickle.verify_stream_table('st_{number}')"
    );
    match session.answer(&verify) {
        Ok(answer) if answer == "0 missing, 0 extra" => Ok(()),
        Ok(answer) => Err(Failure::new(format!("st_{number}: {answer}"))),
        Err(state) => Err(Failure::new(format!("st_{number}: {state:?}"))),
    }
}
