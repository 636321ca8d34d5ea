//! Stream tables that would read themselves.

use crate::analyze::Analysis;
use crate::catalog::{self, StreamTable};
use crate::error::{Error, Result};
use pgrx::PgSqlErrorCode;

/// An error if `st`, given this query, would read itself through other stream tables; it shows the way.
pub fn refuse(st: &StreamTable, analysis: &Analysis) -> Result<()> {
    let all = catalog::all();
    let find = |relid: u32| all.iter().find(|other| other.relid == relid);
    // Ways not yet followed to their end: stream tables, each reading the next.
    let mut ways: Vec<Vec<&StreamTable>> =
        analysis.sources.iter().filter_map(|s| find(s.relid.to_u32())).map(|parent| vec![parent]).collect();
    let mut seen = Vec::new();
    while let Some(way) = ways.pop() {
        let Some(&last) = way.last() else { continue };
        if last.relid == st.relid {
            let path: Vec<String> = way.iter().map(|step| step.label()).collect();
            return Err(Error::new(
                PgSqlErrorCode::ERRCODE_INVALID_OBJECT_DEFINITION,
                format!("stream table {} would read itself", st.label()),
            )
            .detail(format!("{} reads {}.", st.label(), path.join(", which reads "))));
        }
        if !seen.contains(&last.relid) {
            seen.push(last.relid);
            ways.extend(
                last.sources.iter().filter_map(|s| find(s.relid)).map(|next| [way.as_slice(), &[next]].concat()),
            );
        }
    }
    Ok(())
}
