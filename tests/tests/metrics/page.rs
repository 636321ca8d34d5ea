//! The status page in a browser: Debian's chromium, without a head.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use libtest_mimic::Trial;
use pgtrickle_tests::install::{self, PgVersion};
use pgtrickle_tests::{Failure, Outcome, metrics, server, wait};

use crate::bench::{Bench, assert, trial};

pub fn trials(version: PgVersion) -> Vec<Trial> {
    vec![trial(version, "status_page", status_page)]
}

/// What to look at it with.
struct Look {
    name: &'static str,
    size: &'static str,
    dark: bool,
}

const LOOKS: &[Look] = &[
    Look { name: "wide-light", size: "1280,1000", dark: false },
    Look { name: "wide-dark", size: "1280,1000", dark: true },
    Look { name: "phone", size: "500,1600", dark: false },
];

fn browse(port: u16, look: &Look, what: &[&str]) -> Outcome<String> {
    let profile = server::fresh_dir("browser")?;
    let output = Command::new("timeout")
        .args(["60", "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
        .args(["--disable-dev-shm-usage", "--no-first-run", "--disable-extensions", "--disable-background-networking"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--window-size={}", look.size))
        .arg(format!("--blink-settings=preferredColorScheme={}", if look.dark { 0 } else { 1 }))
        .arg("--virtual-time-budget=5000")
        .args(what)
        .arg(format!("http://127.0.0.1:{port}/"))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Failure::new(format!("chromium (scripts/setup.sh installs it): {e}")))?;
    let _ = std::fs::remove_dir_all(profile);
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(Failure::new(format!("chromium: {}", String::from_utf8_lossy(&output.stderr)))),
    }
}

/// Where the screenshots are kept, for people to look at.
fn picture(version: PgVersion, look: &Look) -> Outcome<PathBuf> {
    let kept = install::root().join("target/test-logs");
    std::fs::create_dir_all(&kept)?;
    Ok(kept.join(format!("status-page-pg{version}-{}.png", look.name)))
}

/// Points of the age of changes that the page's sparkline has.
fn lags(port: u16) -> Outcome<usize> {
    let data = metrics::get(port, "/status.json")?;
    let series = data.split_once(r#""lag_p95_seconds":["#).and_then(|(_, rest)| rest.split(']').next());
    Ok(series.unwrap_or_default().split(',').filter(|point| point.parse::<f64>().is_ok()).count())
}

/// The launcher's end takes nothing from the page.
fn after_a_restart(b: &mut Bench) -> Outcome {
    let before = lags(b.port)?;
    let launcher = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_trickle_launcher'";
    let pid = b.session.text(launcher)?;
    b.terminate("pg_trickle_launcher")?;
    let after = wait::retry("the page is back", wait::PATIENCE, || {
        let other = b.session.text(launcher)?;
        assert(other != pid, "the old launcher is still there")?;
        lags(b.port)
    })?;
    assert(after >= before, format!("{after} of {before} points are left"))?;
    wait::retry("the page shows it again", wait::PATIENCE, || {
        let page = browse(b.port, &LOOKS[0], &["--dump-dom"])?;
        assert(
            page.contains("by_region") && page.contains("1 stream table failing"),
            format!("after a restart:\n{page}"),
        )
    })
}

fn status_page(version: PgVersion) -> Outcome {
    let mut b = Bench::start(
        version,
        &[("pg_trickle.max_consecutive_errors", "2")],
        "CREATE SCHEMA sales; CREATE TABLE sales.orders (id int PRIMARY KEY, region int, amount numeric); \
         CREATE TABLE sales.regions (id int PRIMARY KEY, name text); CREATE TABLE rates (a int); \
         INSERT INTO sales.regions SELECT i, 'region ' || i FROM generate_series(1, 5) i; \
         SELECT pgtrickle.create_stream_table('sales.by_region', 'SELECT r.name, sum(o.amount) AS total FROM sales.orders o JOIN sales.regions r ON r.id = o.region GROUP BY r.name', schedule => '1s'); \
         SELECT pgtrickle.create_stream_table('sales.large', 'SELECT id, amount FROM sales.orders WHERE amount > 50', schedule => '1h'); \
         SELECT pgtrickle.create_stream_table('sales.top', 'SELECT count(*) AS n FROM sales.by_region WHERE total > 100', schedule => '1s'); \
         SELECT pgtrickle.create_stream_table('inverse', 'SELECT 1 / a AS x FROM rates', schedule => '0s'); \
         SELECT pgtrickle.create_stream_table('resting', 'SELECT a FROM rates', schedule => '1s'); SELECT pgtrickle.pause_stream_table('resting'); \
         INSERT INTO rates VALUES (0)",
    )?;
    let mut i = 0;
    wait::until("the sparklines have points", wait::PATIENCE, || {
        b.session.each(&format!(
            "INSERT INTO sales.orders SELECT i, i % 5 + 1, i % 100 FROM generate_series({i} * 20, {i} * 20 + 19) i"
        ))?;
        i += 1;
        Ok(lags(b.port)? >= 4)
    })?;
    wait::until("one is suspended", wait::PATIENCE, || {
        b.session.holds("SELECT count(*) = 1 FROM pgtrickle.pgt_stream_tables WHERE status = 'SUSPENDED'")
    })?;
    wait::until("the page's data says so", wait::PATIENCE, || {
        Ok(metrics::get(b.port, "/status.json")?.contains("SUSPENDED"))
    })?;
    let page = browse(b.port, &LOOKS[0], &["--dump-dom"])?;
    for part in [
        "by_region",
        "orders",
        "inverse",
        "suspended",
        "paused",
        "SQLSTATE 22012",
        "resume_stream_table",
        "1 stream table failing",
        "<path class=",
    ] {
        assert(page.contains(part), format!("the page does not show {part}:\n{page}"))?;
    }
    assert(!page.contains("division by zero"), "the page shows texts of errors")?;
    for look in LOOKS {
        let picture = picture(version, look)?;
        browse(b.port, look, &[&format!("--screenshot={}", picture.display())])?;
        assert(std::fs::metadata(&picture)?.len() > 20_000, format!("{} is empty", picture.display()))?;
    }
    b.set("pg_trickle.status_page_details", "on")?;
    wait::until("the text is shown", wait::PATIENCE, || {
        Ok(metrics::get(b.port, "/status.json")?.contains("division by zero"))
    })?;
    after_a_restart(&mut b)
}
