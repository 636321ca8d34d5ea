//! Test servers, the case runner, oracles and generators.
//!
//! Everything here is an ordinary client of PostgreSQL: it knows the extension only through SQL, so that what it finds
//! exact is exact for a user too.

pub mod case;
pub mod fault;
pub mod install;
pub mod load;
pub mod metrics;
pub mod nexmark;
pub mod oracle;
pub mod random;
pub mod server;
pub mod session;
pub mod sql_doc;
pub mod stream;
pub mod suite;
pub mod tpch;
pub mod wait;

/// What a test fails with: a message for the person who reads the log.
pub type Outcome<T = ()> = Result<T, Failure>;

/// A failed expectation or an unexpected error, with what led to it.
#[derive(Debug, Clone)]
pub struct Failure(String);

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Failure(message.into())
    }

    /// The same failure, told with what was being done.
    pub fn during(self, what: impl std::fmt::Display) -> Self {
        Failure(format!("{what}: {}", self.0))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure(format!("input/output: {error}"))
    }
}

impl From<postgres::Error> for Failure {
    fn from(error: postgres::Error) -> Self {
        Failure(session::describe(&error))
    }
}

/// Adds the context of an operation to its failure.
pub trait During<T> {
    fn during(self, what: impl std::fmt::Display) -> Outcome<T>;
}

impl<T, E: Into<Failure>> During<T> for Result<T, E> {
    fn during(self, what: impl std::fmt::Display) -> Outcome<T> {
        self.map_err(|error| error.into().during(what))
    }
}
