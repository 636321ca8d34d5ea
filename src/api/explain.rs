//! `explain_st`: how a stream table is maintained.

use crate::catalog::{self, Frontier, SourceType};
use crate::error::{Error, or_raise};
use crate::refresh::program;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgtrickle_engine::ir::SourceId;
use pgtrickle_engine::program::Step;
use std::collections::BTreeSet;

/// How a stream table is maintained: its mode and why, its stages and their rules, the statements of a refresh in which
/// every source has changed, and what refreshes have cost so far.
#[pg_extern]
fn explain_st(name: &str) -> SetOfIterator<'static, String> {
    let st = or_raise(catalog::by_name(name));
    let allowed = pgtrickle_pg::spi::owns_relation(st.relid, pgtrickle_pg::spi::current_role());
    if !allowed {
        Error::not_owner(&st.label()).raise();
    }
    let loaded = or_raise(program::load(&st));
    let mut lines = vec![format!("Stream table {}", st.label())];
    lines.push(match &loaded.full_reason {
        None => "Mode: DIFFERENTIAL".to_owned(),
        Some(reason) => format!("Mode: FULL (recompute and apply the difference), because {reason}"),
    });
    lines.push(format!("Schedule: {}; status: {}", st.schedule, st.status));
    let frontier = st.frontier.as_ref().unwrap_or(Frontier::EMPTY);
    lines.push(match frontier.lsn {
        0 => "Frontier: none yet; the next refresh compares everything".to_owned(),
        lsn => format!("Frontier: snapshot {} at {:X}/{:X}", frontier.visible, lsn >> 32, lsn as u32),
    });
    lines.push("Stages:".to_owned());
    for (number, stage) in loaded.program.explain().iter().enumerate() {
        let state = stage.state.as_ref().map(|s| format!(", state in {s}")).unwrap_or_default();
        lines.push(format!("  {}. {}: {}{state}", number + 1, stage.operator, stage.rule));
    }
    let mut changed: BTreeSet<SourceId> =
        st.sources.iter().filter(|s| s.kind != SourceType::Other).map(|s| SourceId(s.relid)).collect();
    changed.extend(loaded.program.compared());
    let (title, steps) = match loaded.program.is_differential() {
        true => ("Statements when every source has changed:", loaded.program.refresh(&changed)),
        false => ("Statements:", loaded.program.recompute()),
    };
    lines.push(title.to_owned());
    lines.extend(steps.iter().map(|step| match step {
        Step::Stage { name, query, .. } => format!("  {} := {query}", name.as_str()),
        Step::Modify { sql, .. } => format!("  {sql}"),
        Step::Check { query, .. } => format!("  check: {query}"),
    }));
    lines.extend(cost(st.pgt_id));
    SetOfIterator::new(lines)
}

fn cost(pgt_id: i64) -> Vec<String> {
    Spi::connect(|client| {
        client
            .select(
                "SELECT pg_catalog.format('Cost so far: %s %s refreshes, %s rows changed, last took %s ms',
                            sum(refreshes), action, sum(delta_row_count),
                            round((extract(epoch FROM (pg_catalog.array_agg(duration ORDER BY refresh_id DESC))[1]) * 1000)::numeric, 2))
                   FROM pgtrickle.pgt_refresh_history WHERE pgt_id = $1 AND status = 'COMPLETED'
                  GROUP BY action ORDER BY action",
                None,
                &[pgt_id.into()],
            )
            .unwrap_or_report()
            .filter_map(|row| row.get::<String>(1).unwrap_or_report())
            .collect()
    })
}
