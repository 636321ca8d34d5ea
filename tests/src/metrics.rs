//! Reads the Prometheus endpoint as a scraper would.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::{Failure, Outcome};

/// One sample line.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    /// The text between the braces, empty without labels.
    pub labels: String,
    pub value: f64,
}

/// A scrape's samples.
#[derive(Debug, Clone, Default)]
pub struct Scrape(Vec<Sample>);

impl Scrape {
    /// Fetches `/metrics` from this machine.
    pub fn fetch(port: u16) -> Outcome<Scrape> {
        let body = get(port, "/metrics")?;
        Ok(Scrape(body.lines().filter_map(sample).collect()))
    }

    /// The sum over all labels, nothing when there is no such metric.
    pub fn sum(&self, name: &str) -> Option<f64> {
        let values: Vec<f64> = self.0.iter().filter(|sample| sample.name == name).map(|sample| sample.value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// The one sample with all these labels; an error when there is none, or more than one.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Outcome<f64> {
        let has = |sample: &Sample| labels.iter().all(|(l, v)| sample.labels.contains(&format!("{l}=\"{v}\"")));
        let found: Vec<_> = self.0.iter().filter(|sample| sample.name == name && has(sample)).collect();
        match found.as_slice() {
            [one] => Ok(one.value),
            other => Err(Failure::new(format!("{} samples {name} {labels:?}", other.len()))),
        }
    }

    /// How many samples have this label, whatever their names.
    pub fn count_with(&self, label: &str, value: &str) -> usize {
        self.0.iter().filter(|sample| sample.labels.contains(&format!("{label}=\"{value}\""))).count()
    }

    pub fn samples(&self) -> &[Sample] {
        &self.0
    }
}

/// The body of a page that must be there.
pub fn get(port: u16, path: &str) -> Outcome<String> {
    let (head, body) = ask(port, path)?;
    if head.starts_with("HTTP/1.1 200") { Ok(body) } else { Err(Failure::new(format!("{path}: {head}"))) }
}

/// The head and the body of an answer, whatever it is.
pub fn ask(port: u16, path: &str) -> Outcome<(String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| Failure::new(format!("not HTTP: {answer}")))?;
    Ok((head.to_owned(), body.to_owned()))
}

/// A connection that stays open, as a scraper's does.
pub struct Scraper {
    stream: BufReader<TcpStream>,
}

impl Scraper {
    pub fn connect(port: u16) -> Outcome<Scraper> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Scraper { stream: BufReader::new(stream) })
    }

    /// Fetches `/metrics`; returns the bytes of the page.
    pub fn scrape(&mut self) -> Outcome<usize> {
        self.stream.get_mut().write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let (mut line, mut length) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(Failure::new("the connection was closed"));
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(|_| Failure::new(format!("not a length: {line}")))?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(length)
    }
}

fn sample(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    let (id, value) = line.rsplit_once(' ')?;
    let (name, labels) = id.split_once('{').unwrap_or((id, ""));
    Some(Sample { name: name.into(), labels: labels.trim_end_matches('}').into(), value: value.parse().ok()? })
}

/// A TCP port that was free a moment ago.
pub fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_samples() {
        let text = "# HELP a b\na 1\nb{x=\"y z\"} 2.5\nb{x=\"q\"} 1\nnonsense\n";
        let scrape = Scrape(text.lines().filter_map(sample).collect());
        assert_eq!(scrape.sum("a"), Some(1.0));
        assert_eq!(scrape.sum("b"), Some(3.5));
        assert_eq!(scrape.sum("c"), None);
        assert_eq!(scrape.samples()[1].labels, "x=\"y z\"");
    }
}
