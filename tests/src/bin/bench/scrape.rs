//! Refreshes beside several hundred scrapes a second, against refreshes without any.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use pgtrickle_tests::metrics::{self, Scraper};
use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::stream::{BY_HAND, StreamTable};
use pgtrickle_tests::{Outcome, wait};

use crate::report::{Figure, Goal, Report, median, percentile};
use crate::{Effort, SETTINGS};

/// Stream tables whose metrics are in each scrape.
const TABLES: usize = 50;
/// Clients that keep their connections, and how often each of them asks.
const SCRAPERS: u32 = 8;
const EVERY: Duration = Duration::from_millis(20);

pub fn measure(effort: &Effort, report: &mut Report) -> Outcome {
    report.section("Refreshes beside scrapes");
    let port = metrics::free_port()?;
    let text = port.to_string();
    let mut settings = vec![("pg_trickle.metrics_port", text.as_str())];
    settings.extend_from_slice(SETTINGS);
    let server = Server::start(effort.version, &settings)?;
    let mut session = server.session()?;
    session
        .run("CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t SELECT i, i FROM generate_series(1, 1000) i")?;
    for i in 0..TABLES {
        StreamTable::new("public", &format!("st{i}")).create(&mut session, "SELECT id, a FROM t", BY_HAND)?;
    }
    let bytes = wait::retry("the endpoint", wait::PATIENCE, || Scraper::connect(port)?.scrape())?;
    let turn = Duration::from_secs(10) / effort.fraction.min(5) as u32;
    refreshes(&mut session, turn)?;
    let (mut alone, mut beside, mut ratios, mut scraped) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut rates_alone, mut rates_beside) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        let without = refreshes(&mut session, turn)?;
        let (with, scrapes) = scraped_meanwhile(port, || refreshes(&mut session, turn))?;
        ratios.push(with.len() as f64 / without.len() as f64);
        scraped.push(scrapes as f64 / turn.as_secs_f64());
        rates_alone.push(without.len() as f64 / turn.as_secs_f64());
        rates_beside.push(with.len() as f64 / turn.as_secs_f64());
        alone.extend(without);
        beside.extend(with);
    }
    report.add(Figure {
        what: format!("refreshes/s beside {:.0} scrapes/s", median(scraped)),
        ours: format!("{:.0}/s", median(rates_beside)),
        rival: format!("{:.0}/s without scrapes", median(rates_alone)),
        value: median(ratios),
        goal: Some(Goal::AtLeast(0.9)),
    });
    for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
        let (with, without) = (percentile(&mut beside, part), percentile(&mut alone, part));
        report.add(Figure {
            what: format!("time of an update and its refresh, {name}"),
            ours: format!("{with:.2} ms"),
            rival: format!("{without:.2} ms without scrapes"),
            value: with / without,
            goal: None,
        });
    }
    report.note(format!(
        "{SCRAPERS} clients with open connections; {TABLES} stream tables, so that each scrape has {} kB. Client, scrapers and server share the cores.",
        bytes >> 10
    ));
    Ok(())
}

/// Milliseconds of each update with its refresh, one after the other for so long.
fn refreshes(session: &mut Session, turn: Duration) -> Outcome<Vec<f64>> {
    let stream = StreamTable::new("public", "st0");
    let (began, mut taken) = (Instant::now(), Vec::new());
    while began.elapsed() < turn {
        let started = Instant::now();
        session.run("UPDATE t SET a = a + 1 WHERE id = 7")?;
        stream.refresh(session)?;
        taken.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(taken)
}

/// Runs something while the scrapers are at work; returns how many scrapes they had answered.
fn scraped_meanwhile<T>(port: u16, run: impl FnOnce() -> Outcome<T>) -> Outcome<(T, u64)> {
    let (stop, scrapes) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let scraper = || -> Outcome {
            let mut scraper = Scraper::connect(port)?;
            while !stop.load(Relaxed) {
                let started = Instant::now();
                scraper.scrape()?;
                scrapes.fetch_add(1, Relaxed);
                std::thread::sleep(EVERY.saturating_sub(started.elapsed()));
            }
            Ok(())
        };
        let scrapers: Vec<_> = (0..SCRAPERS).map(|_| scope.spawn(scraper)).collect();
        let done = run();
        stop.store(true, Relaxed);
        for scraper in scrapers {
            scraper.join().expect("a scraper panicked")?;
        }
        Ok((done?, scrapes.load(Relaxed)))
    })
}
