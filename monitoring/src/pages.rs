//! What is answered: `/metrics`, `/health`, and the status page with its data.

use crate::history::{History, Memory};
use crate::server::Source;
use crate::snapshot::{Reading, Snapshot};
use crate::{health, metrics, status};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

type Answer = Response<Full<Bytes>>;

const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// The page is one file: it may run what is in it and ask the server it came from, nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; frame-ancestors 'none'";

/// Makes the answers.
pub struct Pages {
    snapshot: Source,
    details: fn() -> bool,
    history: RefCell<History>,
}

impl Pages {
    /// From where to take the figures, whether texts of errors may be shown, and where the last minutes are kept.
    pub fn new(snapshot: Source, details: fn() -> bool, memory: Box<dyn Memory>) -> Pages {
        Pages { snapshot, details, history: RefCell::new(History::new(memory)) }
    }

    /// Adds the figures of now to the history.
    pub fn remember(&self) {
        if let Some(snapshot) = self.take(Reading::Look) {
            self.history.borrow_mut().add(&snapshot);
        }
    }

    fn take(&self, reading: Reading) -> Option<Snapshot> {
        catch_unwind(AssertUnwindSafe(|| (self.snapshot)(reading))).ok()
    }

    /// The answer to a request.
    pub fn answer(&self, request: &Request<Incoming>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let reading = match request.uri().path() {
            "/" => return page(),
            "/metrics" => Reading::Scrape,
            "/health" | "/status.json" => Reading::Look,
            _ => return text(StatusCode::NOT_FOUND, PLAIN, "see /, /metrics and /health\n"),
        };
        let Some(snapshot) = self.take(reading) else {
            return text(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "no snapshot\n");
        };
        match request.uri().path() {
            "/metrics" => metrics_page(&snapshot),
            "/health" => health_page(&snapshot),
            _ => {
                let data = status::data(&snapshot, &self.history.borrow(), (self.details)());
                text(StatusCode::OK, JSON, data)
            }
        }
    }
}

fn page() -> Answer {
    let mut response = text(StatusCode::OK, "text/html; charset=utf-8", status::PAGE);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

fn metrics_page(snapshot: &Snapshot) -> Answer {
    match metrics::render(snapshot) {
        Ok(metrics) => text(StatusCode::OK, prometheus::TEXT_FORMAT, metrics),
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{e}\n")),
    }
}

/// 200 unless something keeps the stream tables of some database from being maintained.
fn health_page(snapshot: &Snapshot) -> Answer {
    let errors = health::errors(snapshot);
    let status = if errors.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    text(status, JSON, health::body(&errors, &health::warnings(snapshot)))
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
