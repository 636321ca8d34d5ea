//! Which queries can be maintained at once: never by computing them anew for each statement.

use super::MODE;
use crate::analyze::{Analysis, Analyzed, Capture, Source};
use crate::catalog;
use crate::error::{Error, Result};
use pgrx::PgSqlErrorCode as Code;

/// An error with the reason unless the query can be maintained by its writers.
pub fn check(analysis: &Analysis) -> Result<()> {
    let reason = match &analysis.plan {
        Analyzed::Opaque { reason } => {
            Some(format!("it would have to be recomputed at each statement because {reason}"))
        }
        Analyzed::Differential(_) => analysis.sources.iter().find_map(unfit),
    };
    match reason {
        None => Ok(()),
        Some(reason) => Err(Error::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, "the query cannot be maintained at once")
            .detail(format!("With refresh_mode {MODE} {reason}."))
            .hint("Use refresh_mode => 'AUTO'.")),
    }
}

/// Why writers of a source cannot tell of their changes, or not in time.
fn unfit(source: &Source) -> Option<String> {
    let name = source.label();
    if let Capture::Never(what) = source.capture {
        return Some(format!("{name} cannot be read: it is {what}, whose changes nobody tells"));
    }
    if let Some(parent) = catalog::by_relid(source.relid.to_u32()) {
        return (!parent.is_immediate())
            .then(|| format!("only stream tables of that mode can be read, and {name} has {}", parent.refresh_mode));
    }
    let what = catalog::scalar::<String>(
        "SELECT CASE
             WHEN c.relkind = 'r' AND NOT c.relispartition
                  AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE c.oid IN (i.inhparent, i.inhrelid))
             THEN 'is part of an inheritance tree: statements on one of its tables change others'
             WHEN EXISTS (SELECT FROM pg_catalog.pg_index x WHERE x.indrelid = c.oid AND x.indisprimary AND NOT x.indimmediate)
             THEN 'has a deferrable primary key, which need not hold before the commit'
             WHEN EXISTS (SELECT FROM pg_catalog.pg_subscription_rel s WHERE s.srrelid = c.oid)
             THEN 'is filled by a subscription, whose changes fire no statement triggers'
         END FROM pg_catalog.pg_class c WHERE c.oid = $1",
        &[source.relid.into()],
    );
    what.map(|what| format!("{name} cannot be read: it {what}"))
}
