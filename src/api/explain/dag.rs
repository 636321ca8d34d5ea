//! `explain_dag`: which stream table reads what, as a graph.

use crate::catalog;
use crate::error::{Error, Result, or_raise};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use std::collections::BTreeMap;

/// All stream tables and their sources as a graph: `mermaid` for what renders Markdown, `dot` for Graphviz.
#[pg_extern]
fn explain_dag(format: default!(&str, "'mermaid'")) -> String {
    or_raise(graph(format))
}

/// A relation of the graph.
struct Node {
    name: String,
    /// None for a table.
    stream_table: Option<String>,
    healthy: bool,
}

fn graph(format: &str) -> Result<String> {
    let (nodes, edges) = read();
    match format.to_ascii_lowercase().as_str() {
        "mermaid" => Ok(mermaid(&nodes, &edges)),
        "dot" => Ok(dot(&nodes, &edges)),
        _ => Err(Error::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, format!("unknown format: \"{format}\""))
            .hint("Use mermaid or dot.")),
    }
}

fn read() -> (BTreeMap<u32, Node>, Vec<(u32, u32)>) {
    let (mut nodes, mut edges) = (BTreeMap::new(), Vec::new());
    for st in catalog::all() {
        let mode = catalog::scalar::<String>(
            "SELECT effective_refresh_mode FROM pgtrickle.pgt_stream_tables WHERE pgt_id = $1",
            &[st.pgt_id.into()],
        );
        let about = format!("{}, {}, {}", mode.unwrap_or_default(), st.schedule, st.status);
        let healthy = !["ERROR", "SUSPENDED"].contains(&st.status.as_str());
        nodes.insert(st.relid, Node { name: st.label(), stream_table: Some(about), healthy });
        edges.extend(st.sources.iter().map(|source| (source.relid, st.relid)));
    }
    for (source, _) in &edges {
        nodes.entry(*source).or_insert_with(|| Node { name: name(*source), stream_table: None, healthy: true });
    }
    (nodes, edges)
}

/// `schema.name` of a relation.
pub(super) fn name(relid: u32) -> String {
    let found = Spi::connect(|client| {
        client
            .select(
                "SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c
                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
                Some(1),
                &[pg_sys::Oid::from(relid).into()],
            )
            .unwrap_or_report()
            .next()
            .and_then(|row| row.get::<String>(1).unwrap_or_report())
    });
    found.unwrap_or_else(|| format!("relation {relid}"))
}

fn mermaid(nodes: &BTreeMap<u32, Node>, edges: &[(u32, u32)]) -> String {
    let quoted = |text: &str| text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
    let mut lines = vec!["graph TD".to_owned()];
    for (relid, node) in nodes {
        let label = quoted(&node.name);
        lines.push(match (&node.stream_table, node.healthy) {
            (None, _) => format!("    r{relid}[(\"{label}\")]"),
            (Some(about), true) => format!("    r{relid}[\"{label}<br/>{}\"]", quoted(about)),
            (Some(about), false) => format!("    r{relid}[\"{label}<br/>{}\"]:::broken", quoted(about)),
        });
    }
    lines.extend(edges.iter().map(|(from, to)| format!("    r{from} --> r{to}")));
    if nodes.values().any(|node| !node.healthy) {
        lines.push("    classDef broken stroke:#c00,stroke-width:3px".to_owned());
    }
    lines.join("\n")
}

fn dot(nodes: &BTreeMap<u32, Node>, edges: &[(u32, u32)]) -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let mut lines = vec!["digraph stream_tables {".to_owned(), "    node [shape=box]".to_owned()];
    for (relid, node) in nodes {
        let label = quoted(&node.name);
        lines.push(match (&node.stream_table, node.healthy) {
            (None, _) => format!("    r{relid} [label=\"{label}\", shape=cylinder]"),
            (Some(about), true) => format!("    r{relid} [label=\"{label}\\n{}\"]", quoted(about)),
            (Some(about), false) => format!("    r{relid} [label=\"{label}\\n{}\", color=red]", quoted(about)),
        });
    }
    lines.extend(edges.iter().map(|(from, to)| format!("    r{from} -> r{to}")));
    lines.push("}".to_owned());
    lines.join("\n")
}
