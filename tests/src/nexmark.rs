//! Nexmark: an auction site's events from the `nexmark` crate, and its queries q0 to q9 as stream tables.
//!
//! Windows of time are groups by `date_bin`; what the original emits as time passes, a stream table shows as it stands.

use std::io::Write;

use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::Event;

use crate::Outcome;
use crate::session::Session;

/// 1 January 2024, ms: event time starts there in every run.
const BASE_TIME_MS: u64 = 1_704_067_200_000;

const TABLES: &str = "
    CREATE TABLE person (id bigint PRIMARY KEY, name text NOT NULL, email_address text NOT NULL, credit_card text NOT NULL,
        city text NOT NULL, state text NOT NULL, date_time timestamp NOT NULL, extra text NOT NULL);
    CREATE TABLE auction (id bigint PRIMARY KEY, item_name text NOT NULL, description text NOT NULL, initial_bid bigint NOT NULL,
        reserve bigint NOT NULL, date_time timestamp NOT NULL, expires timestamp NOT NULL, seller bigint NOT NULL,
        category bigint NOT NULL, extra text NOT NULL);
    CREATE TABLE bid (auction bigint NOT NULL, bidder bigint NOT NULL, price bigint NOT NULL, channel text NOT NULL, url text NOT NULL,
        date_time timestamp NOT NULL, extra text NOT NULL);
    CREATE INDEX ON auction (seller);
    CREATE INDEX ON bid (auction);
    CREATE INDEX ON bid (date_bin('10 s', date_time, timestamp '2000-01-01'));";

/// Name and query of each stream table.
pub const QUERIES: [(&str, &str); 10] = [
    ("q0", "SELECT auction, bidder, price, date_time, extra FROM bid"),
    ("q1", "SELECT auction, bidder, 0.908 * price AS price, date_time, extra FROM bid"),
    ("q2", "SELECT auction, price FROM bid WHERE auction % 123 = 0"),
    (
        "q3",
        "SELECT p.name, p.city, p.state, a.id FROM auction a JOIN person p ON a.seller = p.id \
         WHERE a.category = 10 AND p.state IN ('or', 'id', 'ca')",
    ),
    (
        "q4",
        "SELECT category, avg(final) AS average FROM (\
            SELECT a.category, max(b.price) AS final FROM auction a JOIN bid b ON a.id = b.auction \
            WHERE b.date_time BETWEEN a.date_time AND a.expires GROUP BY a.id, a.category) AS q \
         GROUP BY category",
    ),
    (
        "q5",
        "WITH counts AS (\
            SELECT b.auction, date_bin('2 s', b.date_time, timestamp '2000-01-01') - hop.n * interval '2 s' AS begins, count(*) AS num \
            FROM bid b CROSS JOIN (VALUES (0), (1), (2), (3), (4)) AS hop (n) GROUP BY 1, 2) \
         SELECT c.begins, c.auction, c.num FROM counts c \
         JOIN (SELECT begins, max(num) AS most FROM counts GROUP BY begins) AS m ON m.begins = c.begins WHERE c.num >= m.most",
    ),
    (
        "q6",
        "SELECT seller, id, avg(final) OVER (PARTITION BY seller ORDER BY expires, id ROWS BETWEEN 10 PRECEDING AND CURRENT ROW) AS average \
         FROM (SELECT a.id, a.seller, a.expires, max(b.price) AS final FROM auction a JOIN bid b ON a.id = b.auction \
               WHERE b.date_time BETWEEN a.date_time AND a.expires GROUP BY a.id, a.seller, a.expires) AS q",
    ),
    (
        "q7",
        "SELECT b.auction, b.price, b.bidder, b.date_time FROM bid b \
         JOIN (SELECT date_bin('10 s', date_time, timestamp '2000-01-01') AS begins, max(price) AS highest FROM bid GROUP BY 1) AS m \
           ON date_bin('10 s', b.date_time, timestamp '2000-01-01') = m.begins AND b.price = m.highest",
    ),
    (
        "q8",
        "SELECT p.id, p.name, p.begins \
         FROM (SELECT id, name, date_bin('10 s', date_time, timestamp '2000-01-01') AS begins FROM person GROUP BY 1, 2, 3) AS p \
         JOIN (SELECT seller, date_bin('10 s', date_time, timestamp '2000-01-01') AS begins FROM auction GROUP BY 1, 2) AS a \
           ON p.id = a.seller AND p.begins = a.begins",
    ),
    (
        "q9",
        "SELECT DISTINCT ON (a.id) a.id, a.item_name, a.seller, a.category, b.bidder, b.price, b.date_time \
         FROM auction a JOIN bid b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires \
         ORDER BY a.id, b.price DESC, b.date_time",
    ),
];

/// Makes the three tables.
pub fn create_tables(session: &mut Session) -> Outcome {
    session.run(TABLES)
}

/// The events, one after the other.
pub struct Feed {
    events: EventGenerator,
    batches: u64,
}

impl Default for Feed {
    fn default() -> Feed {
        let config = NexmarkConfig { base_time: BASE_TIME_MS, ..NexmarkConfig::default() };
        Feed { events: EventGenerator::new(config), batches: 0 }
    }
}

impl Feed {
    /// Commits the next events in one transaction, whose id it returns; every tenth also raises some of the latest bids and moves an auction to another category.
    pub fn commit(&mut self, session: &mut Session, events: usize) -> Outcome<String> {
        let (mut persons, mut auctions, mut bids) = (String::new(), String::new(), String::new());
        let mut last_auction = 0;
        for event in self.events.by_ref().take(events) {
            match event {
                Event::Person(p) => line(
                    &mut persons,
                    &[
                        &p.id.to_string(),
                        &p.name,
                        &p.email_address,
                        &p.credit_card,
                        &p.city,
                        &p.state,
                        &timestamp(p.date_time),
                        &p.extra,
                    ],
                ),
                Event::Auction(a) => {
                    last_auction = a.id;
                    line(
                        &mut auctions,
                        &[
                            &a.id.to_string(),
                            &a.item_name,
                            &a.description,
                            &a.initial_bid.to_string(),
                            &a.reserve.to_string(),
                            &timestamp(a.date_time),
                            &timestamp(a.expires),
                            &a.seller.to_string(),
                            &a.category.to_string(),
                            &a.extra,
                        ],
                    );
                }
                Event::Bid(b) => line(
                    &mut bids,
                    &[
                        &b.auction.to_string(),
                        &b.bidder.to_string(),
                        &b.price.to_string(),
                        &b.channel,
                        &b.url,
                        &timestamp(b.date_time),
                        &b.extra,
                    ],
                ),
            }
        }
        session.run("BEGIN")?;
        for (table, text) in [("person", persons), ("auction", auctions), ("bid", bids)] {
            let mut copy = session.client().copy_in(&format!("COPY {table} FROM STDIN"))?;
            copy.write_all(text.as_bytes())?;
            copy.finish()?;
        }
        self.batches += 1;
        if self.batches.is_multiple_of(10) {
            session.run(&format!(
                "UPDATE bid SET price = price + 1 WHERE auction BETWEEN {0} - 3 AND {0} AND bidder % 10 = 0;
                 UPDATE auction SET category = 10 + (category - 9) % 5 WHERE id = {0}",
                last_auction
            ))?;
        }
        let xid = session.text("SELECT pg_current_xact_id()")?;
        session.run("COMMIT")?;
        Ok(xid)
    }
}

fn line(to: &mut String, values: &[&str]) {
    to.push_str(&values.join("\t"));
    to.push('\n');
}

/// Milliseconds since 1970 as PostgreSQL reads them.
fn timestamp(ms: u64) -> String {
    let (days, ms_of_day) = (ms / 86_400_000, ms % 86_400_000);
    // Julian day 2440588 is 1 January 1970.
    let (hours, minutes, seconds) = (ms_of_day / 3_600_000, ms_of_day / 60_000 % 60, ms_of_day / 1000 % 60);
    format!("J{} {hours:02}:{minutes:02}:{seconds:02}.{:03}", days + 2_440_588, ms % 1000)
}
