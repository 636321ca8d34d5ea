//! What has been checked, and how the checked queries were maintained, per construct.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::sync::Mutex;

use super::Generated;
use crate::case::Stream;
use crate::server::Server;
use crate::session::{Session, literal};
use crate::{Failure, Outcome};

/// Counts over all cases of a run.
#[derive(Default)]
pub struct Report {
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    cases: usize,
    queries: usize,
    checks: usize,
    mismatches: usize,
    constructs: BTreeMap<&'static str, Modes>,
    /// How often, and the first query.
    reasons: BTreeMap<String, (usize, String)>,
}

#[derive(Default, Clone, Copy)]
struct Modes {
    differential: usize,
    opaque: usize,
}

impl Report {
    /// Runs a case and counts what it has shown.
    pub fn observe(&self, server: &Server, generated: &Generated) -> Outcome {
        let modes = Mutex::new(BTreeMap::new());
        generated.case.run_observed(server, &|session, schema, stream| {
            let mode = mode(session, schema, stream)?;
            modes.lock().unwrap().insert(stream.name.clone(), mode);
            Ok(())
        })?;
        let modes = modes.into_inner().unwrap();
        let mut counts = self.counts.lock().unwrap();
        counts.cases += 1;
        counts.queries += generated.case.streams.len();
        counts.checks += generated.checks();
        for (stream, constructs) in generated.case.streams.iter().zip(&generated.constructs) {
            let reason = modes.get(&stream.name).cloned().flatten();
            for construct in constructs.iter().copied().chain(["any query"]) {
                let modes = counts.constructs.entry(construct).or_default();
                *if reason.is_none() { &mut modes.differential } else { &mut modes.opaque } += 1;
            }
            if let Some(reason) = reason {
                let first = || (0, format!("{}: {}", generated.case.name, stream.query));
                counts.reasons.entry(unnamed(&reason)).or_insert_with(first).0 += 1;
            }
        }
        Ok(())
    }

    pub fn checks(&self) -> usize {
        self.counts.lock().unwrap().checks
    }

    pub fn mismatches(&self) -> usize {
        self.counts.lock().unwrap().mismatches
    }

    pub fn mismatch(&self) {
        self.counts.lock().unwrap().mismatches += 1;
    }
}

/// Nothing for a query that is maintained by rules, else why it is not.
fn mode(session: &mut Session, schema: &str, stream: &Stream) -> Outcome<Option<String>> {
    let rows = session.rows(&format!(
        "SELECT full_reason FROM pgtrickle.pgt_stream_tables WHERE pgt_schema = {} AND pgt_name = {}",
        literal(schema),
        literal(&stream.name)
    ))?;
    let row = rows.first().ok_or_else(|| Failure::new("not in the catalog"))?;
    Ok(row.first().cloned().flatten())
}

/// A reason without the names of this case's tables.
fn unnamed(reason: &str) -> String {
    let named = |word: &str| word.starts_with("random_seed_") || word.starts_with("\"r");
    reason.split(' ').map(|word| if named(word) { "…" } else { word }).collect::<Vec<_>>().join(" ")
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let counts = self.counts.lock().unwrap();
        writeln!(f, "{:>8} {:>7}  construct", "by rules", "opaque")?;
        for (construct, modes) in &counts.constructs {
            writeln!(f, "{:>8} {:>7}  {construct}", modes.differential, modes.opaque)?;
        }
        for (reason, (count, first)) in &counts.reasons {
            writeln!(f, "opaque {count} times: {reason}\n    {first}")?;
        }
        write!(
            f,
            "{} cases, {} queries: {} query × change cases, {} mismatches",
            counts.cases, counts.queries, counts.checks, counts.mismatches
        )
    }
}
