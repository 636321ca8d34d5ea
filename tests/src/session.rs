//! A connection, with the few ways of asking that tests need.

use std::path::Path;
use std::time::Duration;

use postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::{During, Failure, Outcome};

/// A row as PostgreSQL prints it.
pub type TextRow = Vec<Option<String>>;

/// One connection to a test server.
pub struct Session {
    client: Client,
}

impl Session {
    pub fn connect(socket_dir: &Path, port: u16, database: &str) -> Outcome<Session> {
        Session::connect_as(socket_dir, port, database, "postgres")
    }

    pub fn connect_as(socket_dir: &Path, port: u16, database: &str, user: &str) -> Outcome<Session> {
        let client = Config::new()
            .host_path(socket_dir)
            .port(port)
            .user(user)
            .dbname(database)
            .application_name("pgtrickle-tests")
            .connect_timeout(Duration::from_secs(10))
            .connect(NoTls)?;
        Ok(Session { client })
    }

    /// Runs statements one by one, as someone would type them: each is a transaction of its own outside of BEGIN … COMMIT.
    /// There must be no semicolon inside any of them.
    pub fn each(&mut self, sql: &str) -> Outcome {
        sql.split(';').filter(|statement| !statement.trim().is_empty()).try_for_each(|statement| self.run(statement))
    }

    /// Runs one or more statements, without a look at what they return; together they are one transaction.
    pub fn run(&mut self, sql: &str) -> Outcome {
        self.client.batch_execute(sql).during(abridged(sql))
    }

    /// The rows of the last statement in `sql`, as text.
    pub fn rows(&mut self, sql: &str) -> Outcome<Vec<TextRow>> {
        let mut rows = Vec::new();
        for message in self.client.simple_query(sql).during(abridged(sql))? {
            match message {
                SimpleQueryMessage::RowDescription(_) => rows.clear(),
                SimpleQueryMessage::Row(row) => {
                    rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
                }
                _ => {}
            }
        }
        Ok(rows)
    }

    /// The only value of the only row, NULL as an empty string.
    pub fn text(&mut self, sql: &str) -> Outcome<String> {
        let rows = self.rows(sql)?;
        let [row] = rows.as_slice() else {
            return Err(Failure::new(format!("{}: {} rows where one was expected", abridged(sql), rows.len())));
        };
        row.first().cloned().flatten().map_or(Ok(String::new()), Ok)
    }

    /// The only value of the only row, as a number.
    pub fn number(&mut self, sql: &str) -> Outcome<i64> {
        let text = self.text(sql)?;
        text.parse().map_err(|_| Failure::new(format!("{}: not a whole number: {text:?}", abridged(sql))))
    }

    /// The only value of the only row, as a truth value.
    pub fn holds(&mut self, sql: &str) -> Outcome<bool> {
        Ok(self.text(sql)? == "t")
    }

    /// Expects an error, and returns its SQLSTATE and its whole text.
    pub fn error(&mut self, sql: &str) -> Outcome<(String, String)> {
        match self.client.simple_query(sql) {
            Ok(_) => Err(Failure::new(format!("succeeded, but should not: {}", abridged(sql)))),
            Err(error) => match error.code() {
                Some(code) => Ok((code.code().to_owned(), describe(&error))),
                None => Err(error.into()),
            },
        }
    }

    /// The SQLSTATE with which `sql` fails, or nothing when it succeeds.
    pub fn try_run(&mut self, sql: &str) -> Result<(), Option<String>> {
        self.client.batch_execute(sql).map_err(|error| error.code().map(|code| code.code().to_owned()))
    }

    /// The only value of the only row, or the SQLSTATE with which `sql` fails.
    pub fn answer(&mut self, sql: &str) -> Result<String, Option<String>> {
        let messages = self.client.simple_query(sql).map_err(|error| error.code().map(|c| c.code().to_owned()))?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok(row.unwrap_or_default().to_owned())
    }

    /// The process that serves this connection.
    pub fn backend_pid(&mut self) -> Outcome<u32> {
        Ok(self.number("SELECT pg_backend_pid()")? as u32)
    }

    /// The payloads of what has been notified so far.
    pub fn notifications(&mut self) -> Outcome<Vec<String>> {
        use postgres::fallible_iterator::FallibleIterator;
        // What is under way is told with the answer.
        self.run("SELECT 1")?;
        Ok(self.client.notifications().iter().map(|n| Ok(n.payload().to_owned())).collect()?)
    }

    /// The driver's own client, for COPY and notifications.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// The server's report in full: severity, state, message, detail, hint and context.
pub fn describe(error: &postgres::Error) -> String {
    let Some(report) = error.as_db_error() else {
        return format!("connection: {error}");
    };
    let mut text = format!("{} {}: {}", report.severity(), report.code().code(), report.message());
    for (label, part) in [("detail", report.detail()), ("hint", report.hint()), ("where", report.where_())] {
        if let Some(part) = part {
            text.push_str(&format!("\n  {label}: {part}"));
        }
    }
    text
}

/// A statement's beginning: enough to find it, short enough for a log.
pub fn abridged(sql: &str) -> String {
    const LIMIT: usize = 300;
    let flat = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    match flat.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &flat[..end]),
        None => flat,
    }
}

/// Quotes a name.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a string.
pub fn literal(text: &str) -> String {
    if text.contains('\\') {
        return format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
    }
    format!("'{}'", text.replace('\'', "''"))
}
