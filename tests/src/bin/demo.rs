//! Half a minute of load on three stream tables, watched once a second, and audited at the end.
//!
//! pgbench's TPC-B runs beside a small shop. The lag is measured from outside: a row is committed, and the time taken
//! until the stream table shows it.

use std::io::Write;
use std::process::{Child, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgtrickle_tests::install::PgVersion;
use pgtrickle_tests::metrics::{self, Scrape};
use pgtrickle_tests::server::{self, Server};
use pgtrickle_tests::session::Session;
use pgtrickle_tests::stream::{AT_ONCE, StreamTable};
use pgtrickle_tests::{During, Failure, Outcome, wait};

const SCALE: u32 = 10;
const SHOPPERS: u64 = 3;

const SHOP: &str = "
    CREATE TABLE customers (id int PRIMARY KEY, country text NOT NULL);
    CREATE TABLE products (id int PRIMARY KEY, category text NOT NULL, price numeric(10, 2) NOT NULL);
    CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int NOT NULL, product int NOT NULL, quantity int NOT NULL);
    INSERT INTO customers SELECT i, 'country ' || i % 12 FROM generate_series(1, 2000) i;
    INSERT INTO customers VALUES (0, 'probe');
    INSERT INTO products SELECT i, 'category ' || i % 8, i % 90 + 9.99 FROM generate_series(0, 300) i;
    INSERT INTO orders (customer, product, quantity) SELECT i % 2000 + 1, i % 300, i % 5 + 1 FROM generate_series(1, 200000) i;
    CREATE INDEX ON orders (customer);
    CREATE INDEX ON orders (product);
    ANALYZE";

const STREAMS: [(&str, &str, &str); 3] = [
    (
        "revenue",
        "join and aggregate over the shop",
        "SELECT c.country, p.category, count(*) AS orders, sum(o.quantity * p.price) AS amount
         FROM orders o JOIN customers c ON c.id = o.customer JOIN products p ON p.id = o.product
         GROUP BY c.country, p.category",
    ),
    (
        "branch_balance",
        "pgbench's million accounts, summed by branch",
        "SELECT bid, count(*) AS accounts, sum(abalance) AS balance FROM pgbench_accounts GROUP BY bid",
    ),
    (
        "top_branches",
        "the three richest branches: a stream table over a stream table",
        "SELECT bid, balance FROM branch_balance ORDER BY balance DESC, bid LIMIT 3",
    ),
];

fn main() -> ExitCode {
    let result = run();
    server::clean_up();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\nfailed: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome {
    let version = std::env::var("PG").ok().and_then(|text| text.parse().ok()).map_or(PgVersion::V18, PgVersion);
    let seconds: u64 = std::env::var("DEMO_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let port = metrics::free_port()?.to_string();
    let settings = [("fsync", "on"), ("pg_trickle.metrics_port", port.as_str()), ("shared_buffers", "512MB")];
    println!("PostgreSQL {}, a server of its own in a temporary directory", version.full()?);
    let server = Server::start(version, &settings)?;
    let result = show(&server, port.parse().unwrap_or(0), seconds);
    if result.is_err() {
        eprintln!("\nserver log:\n{}", server.log_tail(30));
    }
    result
}

fn show(server: &Server, metrics_port: u16, seconds: u64) -> Outcome {
    println!("pgbench -i, scale {SCALE}; customers, products, 200,000 orders …");
    let scale = SCALE.to_string();
    pgtrickle_tests::install::run(server.program("pgbench")?.args(["-i", "-q", "-s", &scale, "postgres"]))?;
    let mut session = server.session()?;
    session.run(SHOP)?;
    println!("\nstream tables, refreshed as soon as changes arrive:");
    for (name, what, query) in STREAMS {
        let started = Instant::now();
        table(name).create(&mut session, query, AT_ONCE)?;
        println!("  {name:<15} {what} ({} ms to create)", started.elapsed().as_millis());
    }
    // Capture has the WAL of all that was loaded to read first; the watch begins when it has.
    STREAMS.iter().try_for_each(|(name, ..)| table(name).refresh(&mut session))?;
    println!("\nload: pgbench TPC-B with 4 clients, {SHOPPERS} writers in the shop, {seconds} seconds");
    println!("to be watched at http://127.0.0.1:{metrics_port}/ meanwhile\n");
    under_load(server, metrics_port, seconds)?;
    audit(&mut session)
}

fn table(name: &str) -> StreamTable {
    StreamTable::new("public", name)
}

fn under_load(server: &Server, metrics_port: u16, seconds: u64) -> Outcome {
    let stop = AtomicBool::new(false);
    let orders = AtomicU64::new(0);
    let lags = Mutex::new(Vec::new());
    let mut pgbench = start_pgbench(server, seconds)?;
    let result = std::thread::scope(|scope| {
        for seed in 0..SHOPPERS {
            let (stop, orders) = (&stop, &orders);
            scope.spawn(move || shop(server, seed, stop, orders));
        }
        let probe = scope.spawn(|| probe(server, &stop, &lags));
        let result = report(metrics_port, seconds, &lags);
        stop.store(true, Ordering::Relaxed);
        result.and(probe.join().expect("the probe panicked").during("the probe"))
    });
    if result.is_err() {
        let _ = pgbench.kill();
    }
    let pgbench = pgbench.wait_with_output()?;
    result?;
    let told = String::from_utf8_lossy(&pgbench.stdout).into_owned();
    let processed = told.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
    let (shop, processed) = (orders.into_inner(), processed.unwrap_or("no"));
    println!("\ncommitted meanwhile: {processed} transactions by pgbench, {shop} in the shop");
    Ok(())
}

fn start_pgbench(server: &Server, seconds: u64) -> Outcome<Child> {
    let mut pgbench = server.program("pgbench")?;
    pgbench.args(["-c", "4", "-j", "1", "-n", "-T", &seconds.to_string(), "postgres"]);
    Ok(pgbench.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?)
}

/// One writer of the shop: orders, cancellations, changed prices, customers that move.
fn shop(server: &Server, seed: u64, stop: &AtomicBool, orders: &AtomicU64) -> Outcome {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut session = server.session()?;
    while !stop.load(Ordering::Relaxed) {
        let (customer, product) = (rng.u32(1..=2000), rng.u32(0..300));
        let sql = match rng.u32(..50) {
            0 => format!("UPDATE products SET price = price + 0.01 WHERE id = {product}"),
            1 => format!("UPDATE customers SET country = 'country {}' WHERE id = {customer}", rng.u32(..12)),
            2..=9 => {
                format!("DELETE FROM orders WHERE id = (SELECT id FROM orders WHERE customer = {customer} LIMIT 1)")
            }
            10..=14 => format!("UPDATE orders SET quantity = quantity % 9 + 1 WHERE id = {}", rng.u32(1..200_000)),
            _ => format!(
                "INSERT INTO orders (customer, product, quantity) VALUES ({customer}, {product}, {})",
                rng.u32(1..9)
            ),
        };
        // Two writers may meet on one row under a deadlock; the shop goes on.
        if session.try_run(&sql).is_ok() {
            orders.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Commits a row and waits for it to be seen: commit to visible, as a user has it.
fn probe(server: &Server, stop: &AtomicBool, lags: &Mutex<Vec<f64>>) -> Outcome {
    let mut session = server.session()?;
    let mut seen = 0;
    while !stop.load(Ordering::Relaxed) {
        session.run("INSERT INTO orders (customer, product, quantity) VALUES (0, 0, 1)")?;
        let committed = Instant::now();
        seen += 1;
        loop {
            let found = session.number("SELECT coalesce(sum(orders), 0) FROM revenue WHERE country = 'probe'")?;
            if found >= seen {
                break;
            }
            if committed.elapsed() > Duration::from_secs(30) {
                return Err(Failure::new("a committed row was not visible after 30 seconds"));
            }
            std::thread::sleep(Duration::from_micros(300));
        }
        lags.lock().unwrap().push(committed.elapsed().as_secs_f64() * 1000.0);
        let _ = wait::until("the next probe", Duration::from_millis(20), || Ok(stop.load(Ordering::Relaxed)));
    }
    Ok(())
}

fn report(metrics_port: u16, seconds: u64, lags: &Mutex<Vec<f64>>) -> Outcome {
    println!("  second    captured rows/s    pending    lag p50 / max, ms    refreshes/s    refresh, ms");
    let started = Instant::now();
    let mut last = Figures::read(metrics_port)?;
    for second in 1..=seconds {
        let next = started + Duration::from_secs(second);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let now = Figures::read(metrics_port)?;
        let (p50, max) = median_and_max(std::mem::take(&mut *lags.lock().unwrap()));
        let refreshes = now.refreshes - last.refreshes;
        println!(
            "  {second:>6}    {:>15}    {:>7}    {p50:>8.1} / {max:>6.1}    {refreshes:>11}    {:>11.1}",
            grouped(now.captured - last.captured),
            now.pending,
            (now.refreshing_ms - last.refreshing_ms) / f64::max(refreshes, 1.0)
        );
        std::io::stdout().flush()?;
        last = now;
    }
    Ok(())
}

/// What the endpoint tells, summed up since the server started; but for what is pending.
struct Figures {
    captured: f64,
    /// Records that are not in their buffers yet.
    pending: f64,
    refreshes: f64,
    refreshing_ms: f64,
}

impl Figures {
    fn read(metrics_port: u16) -> Outcome<Figures> {
        let scrape = Scrape::fetch(metrics_port).during("reading /metrics")?;
        let sum = |name: &str| scrape.sum(&format!("pg_trickle_{name}")).unwrap_or(0.0);
        Ok(Figures {
            captured: sum("wal_decoder_records_total"),
            pending: sum("wal_decoder_pending_records"),
            refreshes: sum("refreshes_total"),
            refreshing_ms: sum("refresh_duration_seconds_sum") * 1000.0,
        })
    }
}

fn median_and_max(mut lags: Vec<f64>) -> (f64, f64) {
    lags.sort_by(f64::total_cmp);
    (lags.get(lags.len() / 2).copied().unwrap_or(0.0), lags.last().copied().unwrap_or(0.0))
}

/// Thousands apart: 1,234,567.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn audit(session: &mut Session) -> Outcome {
    println!("\nverify_stream_table, each against its query at one snapshot:");
    let mut inexact = 0;
    for (name, ..) in STREAMS {
        let (missing, extra) = table(name).verify(session)?;
        println!("  {name:<15} {missing} missing, {extra} extra");
        inexact += missing + extra;
    }
    println!();
    for row in session.rows("SELECT bid, balance FROM top_branches ORDER BY balance DESC")? {
        println!("  branch {:>2} has {}", row[0].as_deref().unwrap_or(""), row[1].as_deref().unwrap_or(""));
    }
    if inexact == 0 { Ok(()) } else { Err(Failure::new("a stream table is not its query")) }
}
