//! Relations in the words of SQL, for people.

use crate::ir::{JoinKind, Rel};
use crate::program::SourceInfo;

/// What a stage does.
pub fn construct(stage: &Rel) -> &'static str {
    match stage {
        Rel::Aggregate { aggs, .. } if aggs.is_empty() => "DISTINCT",
        Rel::Aggregate { keys, .. } if keys.is_empty() => "Aggregates over all rows",
        Rel::Aggregate { .. } => "GROUP BY",
        Rel::Window { .. } => "Window functions",
        Rel::TopK { .. } => "ORDER BY … LIMIT",
        Rel::Fixpoint { all: true, .. } => "WITH RECURSIVE … UNION ALL",
        Rel::Fixpoint { .. } => "WITH RECURSIVE … UNION",
        Rel::Compared { .. } => "Copy of a source",
        Rel::Selected { .. } => "Rows that pass",
        _ => "Result",
    }
}

/// What it reads, and by which constructs that keep nothing.
pub fn over(stage: &Rel, sources: &[SourceInfo]) -> String {
    let (mut constructs, mut read) = (Vec::new(), Vec::new());
    let mut note = |rel: &Rel| match rel {
        Rel::Scan { source, .. } => {
            let known = sources.iter().find(|info| info.id == *source);
            read.push(known.map_or_else(|| format!("relation {}", source.0), |info| plain(&info.table)));
        }
        Rel::State { stage, .. } => read.push(format!("stage {}", stage + 1)),
        Rel::Values { .. } => read.push("constants".to_owned()),
        Rel::Filter { .. } => constructs.push("WHERE"),
        Rel::Join { kind: JoinKind::Inner, .. } => constructs.push("JOIN"),
        Rel::Join { kind: JoinKind::Left, .. } => constructs.push("LEFT JOIN"),
        Rel::Join { kind: JoinKind::Semi, .. } => constructs.push("EXISTS"),
        Rel::Join { kind: JoinKind::Anti, .. } => constructs.push("NOT EXISTS"),
        Rel::UnionAll { inputs } if inputs.len() > 1 => constructs.push("UNION ALL"),
        Rel::FlatMap { .. } => constructs.push("functions in FROM"),
        _ => {}
    };
    stage.visit(&mut note);
    let once = |mut all: Vec<String>| {
        let mut seen = Vec::new();
        all.retain(|one| {
            !seen.contains(one) && {
                seen.push(one.clone());
                true
            }
        });
        all.join(", ")
    };
    let constructs = once(constructs.into_iter().map(str::to_owned).collect());
    let read = once(read);
    if constructs.is_empty() { format!("of {read}") } else { format!("of {read} ({constructs})") }
}

/// `schema.name`, with quotes only where they are needed.
pub fn plain(name: &crate::sql::QualifiedName) -> String {
    let part = |ident: &crate::sql::Ident| {
        let text = ident.as_str();
        let simple = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && !text.starts_with(|c: char| c.is_ascii_digit());
        if simple && !text.is_empty() { text.to_owned() } else { crate::sql::Sql::from(ident).to_string() }
    };
    format!("{}.{}", part(&name.schema), part(&name.name))
}
