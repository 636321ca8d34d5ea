//! Nexmark: an auction site's events from the `nexmark` crate, and its queries q0 to q9 as stream tables.
//!
//! The queries are those of github.com/nexmark/nexmark. Windows of time are groups by `date_bin`; what the original emits as time
//! passes, a stream table shows as it stands, hence q5 also shows which window, q6 which auction each row is of, and auctions
//! count for q4, q6 and q9 from their first bid on. Where the original leaves ties open (q6, q9) further columns order them.

use std::io::Write;

use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::{Auction, Bid, Event, Person};

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
        "SELECT b.auction, b.bidder, b.price, b.date_time, b.extra FROM bid b \
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
        "SELECT id, item_name, description, initial_bid, reserve, date_time, expires, seller, category, extra, \
                auction, bidder, price, bid_date_time, bid_extra \
         FROM (SELECT a.*, b.auction, b.bidder, b.price, b.date_time AS bid_date_time, b.extra AS bid_extra, \
                      row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time, b.bidder, b.extra) AS place \
               FROM auction a JOIN bid b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires) AS q \
         WHERE place <= 1",
    ),
];

/// Makes the three tables.
pub fn create_tables(session: &mut Session) -> Outcome {
    session.run(TABLES)
}

/// The events, one after the other.
pub struct Feed {
    events: EventGenerator,
    transactions: u64,
    last_auction: usize,
    last_person: usize,
}

/// The rows of a transaction, as COPY reads them.
#[derive(Default)]
struct Rows {
    persons: String,
    auctions: String,
    bids: String,
}

impl Default for Feed {
    fn default() -> Feed {
        let config = NexmarkConfig { base_time: BASE_TIME_MS, ..NexmarkConfig::default() };
        Feed { events: EventGenerator::new(config), transactions: 0, last_auction: 0, last_person: 0 }
    }
}

impl Feed {
    /// Commits the next events in one transaction, whose id it returns. It also raises bids on a recent auction; every tenth
    /// moves an auction to another category and its seller to another state.
    pub fn commit(&mut self, session: &mut Session, events: usize) -> Outcome<String> {
        let rows = self.next_rows(events);
        session.run("BEGIN")?;
        for (table, text) in [("person", &rows.persons), ("auction", &rows.auctions), ("bid", &rows.bids)] {
            let mut copy = session.client().copy_in(&format!("COPY {table} FROM STDIN"))?;
            copy.write_all(text.as_bytes())?;
            copy.finish()?;
        }
        self.transactions += 1;
        let (auction, person) = (self.last_auction.saturating_sub(20), self.last_person.saturating_sub(5));
        session.run(&format!("UPDATE bid SET price = price + 1 WHERE auction = {auction} AND bidder % 3 = 0"))?;
        if self.transactions.is_multiple_of(10) {
            session.run(&format!(
                "UPDATE auction SET category = 10 + (category - 9) % 5 WHERE id = {auction};
                 UPDATE person SET state = CASE state WHEN 'or' THEN 'az' ELSE 'or' END WHERE id = {person}"
            ))?;
        }
        let xid = session.text("SELECT pg_current_xact_id()")?;
        session.run("COMMIT")?;
        Ok(xid)
    }

    fn next_rows(&mut self, events: usize) -> Rows {
        let mut rows = Rows::default();
        for event in self.events.by_ref().take(events) {
            match event {
                Event::Person(p) => {
                    self.last_person = p.id;
                    rows.person(&p);
                }
                Event::Auction(a) => {
                    self.last_auction = a.id;
                    rows.auction(&a);
                }
                Event::Bid(b) => rows.bid(&b),
            }
        }
        rows
    }
}

impl Rows {
    fn person(&mut self, p: &Person) {
        let (id, time) = (p.id.to_string(), timestamp(p.date_time));
        let values = [&id, &p.name, &p.email_address, &p.credit_card, &p.city, &p.state, &time, &p.extra];
        line(&mut self.persons, values);
    }

    fn auction(&mut self, a: &Auction) {
        let [id, bid, reserve, seller, category] =
            [a.id, a.initial_bid, a.reserve, a.seller, a.category].map(|number| number.to_string());
        let [time, expires] = [a.date_time, a.expires].map(timestamp);
        let values = [&id, &a.item_name, &a.description, &bid, &reserve, &time, &expires, &seller, &category, &a.extra];
        line(&mut self.auctions, values);
    }

    fn bid(&mut self, b: &Bid) {
        let [auction, bidder, price] = [b.auction, b.bidder, b.price].map(|number| number.to_string());
        let time = timestamp(b.date_time);
        line(&mut self.bids, [&auction, &bidder, &price, &b.channel, &b.url, &time, &b.extra]);
    }
}

fn line<const N: usize>(to: &mut String, values: [&String; N]) {
    to.push_str(&values.map(String::as_str).join("\t"));
    to.push('\n');
}

/// Milliseconds since 1970 as PostgreSQL reads them.
fn timestamp(ms: u64) -> String {
    let (days, ms_of_day) = (ms / 86_400_000, ms % 86_400_000);
    // Julian day 2440588 is 1 January 1970.
    let (hours, minutes, seconds) = (ms_of_day / 3_600_000, ms_of_day / 60_000 % 60, ms_of_day / 1000 % 60);
    format!("J{} {hours:02}:{minutes:02}:{seconds:02}.{:03}", days + 2_440_588, ms % 1000)
}
