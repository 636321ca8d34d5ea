//! The extension's functions, as tests call them.

use crate::session::{Session, ident, literal};
use crate::{Failure, Outcome};

/// A schedule that never comes due during a test: refreshes happen when the test asks.
pub const BY_HAND: &str = "24h";
/// Refresh as soon as changes arrive.
pub const AT_ONCE: &str = "0s";

/// A stream table's qualified name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamTable {
    pub schema: String,
    pub name: String,
}

impl StreamTable {
    pub fn new(schema: &str, name: &str) -> Self {
        StreamTable { schema: schema.into(), name: name.into() }
    }

    /// As an SQL identifier.
    pub fn quoted(&self) -> String {
        format!("{}.{}", ident(&self.schema), ident(&self.name))
    }

    fn argument(&self) -> String {
        literal(&self.quoted())
    }

    /// The statement that creates it.
    pub fn creation(&self, query: &str, schedule: &str) -> String {
        format!(
            "SELECT pgtrickle.create_stream_table({}, {}, schedule => {})",
            self.argument(),
            literal(query),
            literal(schedule)
        )
    }

    /// The statement that creates it so that whoever writes to its sources maintains it.
    pub fn immediate_creation(&self, query: &str) -> String {
        format!(
            "SELECT pgtrickle.create_stream_table({}, {}, refresh_mode => 'IMMEDIATE')",
            self.argument(),
            literal(query)
        )
    }

    pub fn create(&self, session: &mut Session, query: &str, schedule: &str) -> Outcome {
        session.run(&self.creation(query, schedule))
    }

    /// Brings it up to date with everything committed before the call.
    pub fn refresh(&self, session: &mut Session) -> Outcome {
        session.run(&format!("SELECT pgtrickle.refresh_stream_table({})", self.argument()))
    }

    /// The extension's own audit: what is missing, what is too much.
    pub fn verify(&self, session: &mut Session) -> Outcome<(i64, i64)> {
        let rows = session.rows(&format!("SELECT * FROM pgtrickle.verify_stream_table({})", self.argument()))?;
        let count = |i: usize| rows.first()?.get(i)?.as_deref()?.parse().ok();
        match (count(0), count(1)) {
            (Some(missing), Some(extra)) => Ok((missing, extra)),
            _ => Err(Failure::new(format!("verify_stream_table returned {rows:?}"))),
        }
    }

    /// The audit must find nothing.
    pub fn assert_verified(&self, session: &mut Session) -> Outcome {
        match self.verify(session)? {
            (0, 0) => Ok(()),
            (missing, extra) => {
                Err(Failure::new(format!("{}: verify_stream_table: {missing} missing, {extra} extra", self.quoted())))
            }
        }
    }

    /// If it is maintained by changes, it must look like its completed definition: also where equal values may differ.
    pub fn assert_same_looks(&self, session: &mut Session) -> Outcome {
        if self.mode(session)? != "DIFFERENTIAL" {
            return Ok(());
        }
        let definition = session.text(&format!(
            "SELECT 'pgtrickle.def_' || pgt_id FROM pgtrickle.pgt_stream_tables WHERE pgt_schema = {} AND pgt_name = {}",
            literal(&self.schema),
            literal(&self.name)
        ))?;
        let mut differing = self.different_looks(session, &definition)?;
        if differing > 0 {
            // Its views leave choices, which have been made for it.
            let settled = session.text(&format!(
                "SELECT coalesce(e::json ->> 'settled_query', '') FROM pgtrickle.explain_st({}, format => 'json') AS e",
                self.argument()
            ))?;
            if !settled.is_empty() {
                differing = self.different_looks(session, &format!("({settled})"))?;
            }
        }
        match differing {
            0 => Ok(()),
            n => Err(Failure::new(format!("{}: {n} rows look different from the definition's", self.quoted()))),
        }
    }

    fn different_looks(&self, session: &mut Session, definition: &str) -> Outcome<i64> {
        let rows = |relation: &str| format!("SELECT z::text FROM {relation} AS z");
        let (stored, defined) = (rows(&self.quoted()), rows(definition));
        session.number(&format!(
            "SELECT (SELECT count(*) FROM ({stored} EXCEPT ALL {defined}) x) + (SELECT count(*) FROM ({defined} EXCEPT ALL {stored}) x)"
        ))
    }

    /// How it is maintained: `DIFFERENTIAL` or `FULL`.
    pub fn mode(&self, session: &mut Session) -> Outcome<String> {
        session.text(&format!(
            "SELECT effective_refresh_mode FROM pgtrickle.pgt_stream_tables WHERE pgt_schema = {} AND pgt_name = {}",
            literal(&self.schema),
            literal(&self.name)
        ))
    }

    /// Why it is recomputed; empty if it is not.
    pub fn reason(&self, session: &mut Session) -> Outcome<String> {
        session.text(&format!(
            "SELECT coalesce(full_reason, '') FROM pgtrickle.pgt_stream_tables WHERE pgt_schema = {} AND pgt_name = {}",
            literal(&self.schema),
            literal(&self.name)
        ))
    }

    pub fn drop(&self, session: &mut Session) -> Outcome {
        session.run(&format!("SELECT pgtrickle.drop_stream_table({})", self.argument()))
    }
}

/// Every stream table took up every change by its deltas, and never by a recomputation.
pub fn assert_never_recomputed(session: &mut Session) -> Outcome {
    let rows = session.rows(
        "SELECT s.pgt_name, h.action, count(*) FROM pgtrickle.pgt_refresh_history h JOIN pgtrickle.pgt_stream_tables s USING (pgt_id)
          WHERE h.action IN ('FULL', 'REINITIALIZE') GROUP BY 1, 2 ORDER BY 1",
    )?;
    if rows.is_empty() {
        return Ok(());
    }
    let mut text = String::from("recomputed:");
    rows.iter().for_each(|row| text.push_str(&format!(" {row:?}")));
    Err(Failure::new(text))
}
