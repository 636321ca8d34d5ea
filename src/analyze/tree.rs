//! Relations as indented text, for people.

use pgtrickle_engine::ir::{Agg, AggKind, Conjunct, JoinKind, Rel, Scalar};
use pgtrickle_engine::program::{Definition, SourceInfo};

/// The tree of a definition, one line per operator.
pub fn lines(definition: &Definition) -> Vec<String> {
    let mut tree = Tree { sources: &definition.sources, lines: Vec::new() };
    tree.add(&definition.root, 0);
    tree.lines
}

struct Tree<'a> {
    sources: &'a [SourceInfo],
    lines: Vec<String>,
}

impl Tree<'_> {
    fn add(&mut self, rel: &Rel, depth: usize) {
        let line = format!("{}{}", "  ".repeat(depth), self.describe(rel));
        self.lines.push(line);
        rel.inputs().into_iter().for_each(|input| self.add(input, depth + 1));
    }

    fn describe(&self, rel: &Rel) -> String {
        match rel {
            Rel::Scan { source, columns, .. } => {
                let info = self.sources.iter().find(|info| info.id == *source);
                let name = info.map_or_else(|| source.0.to_string(), |info| info.table.to_string());
                let columns = columns.iter().map(|number| {
                    info.and_then(|info| info.columns.get(number)).map_or("?".to_owned(), |name| name.as_str().into())
                });
                format!("Scan {name} ({})", list(columns))
            }
            Rel::State { stage, .. } => format!("State of stage {stage}"),
            Rel::Values { rows, .. } => {
                let rows = rows.iter().map(|row| format!("({})", scalars(row)));
                format!("Values {}", list(rows))
            }
            Rel::Map { exprs, .. } => format!("Map {}", scalars(exprs)),
            Rel::Filter { predicates, .. } => format!("Filter {}", scalars(predicates)),
            Rel::Join { kind, on, .. } => format!("{} {}", join(*kind), conjuncts(on)).trim_end().to_owned(),
            Rel::Repeat { times, .. } => format!("Repeat {}", times.sql),
            Rel::FlatMap { rows, .. } => {
                let join = if rows.outer.is_some() { "Functions per row, or NULLs" } else { "Functions per row" };
                format!("{join} {}", rows.item)
            }
            Rel::Selected { .. } => "Rows that pass, kept".into(),
            Rel::Compared { .. } => "Compared with a copy".into(),
            Rel::UnionAll { .. } => "Union all".into(),
            Rel::Aggregate { keys, aggs, .. } if aggs.is_empty() => format!("Distinct by ({})", scalars(keys)),
            Rel::Aggregate { keys, aggs, .. } => {
                format!("Aggregate by ({}): {}", scalars(keys), list(aggs.iter().map(aggregate)))
            }
            Rel::Fixpoint { all, .. } => format!("Recursion{}", if *all { " with all copies" } else { "" }),
            Rel::Recursive { .. } => "Rows of the recursion".into(),
            #[allow(unreachable_patterns)]
            _ => format!("{rel:?}"),
        }
    }
}

fn join(kind: JoinKind) -> &'static str {
    match kind {
        JoinKind::Inner => "Join",
        JoinKind::Left => "Left join",
        JoinKind::Semi => "Semi join",
        JoinKind::Anti => "Anti join",
    }
}

fn conjuncts(on: &[Conjunct]) -> String {
    list(on.iter().map(|c| match c.equi {
        Some((l, r)) => format!("left c{} = right c{}", l + 1, r + 1),
        None => c.condition.sql.to_string(),
    }))
}

fn aggregate(agg: &Agg) -> String {
    let rule = match agg.kind {
        AggKind::Recompute => "recomputed per touched group",
        AggKind::Min(_) | AggKind::Max(_) => "rescanned if the extreme is deleted",
        AggKind::CountStar | AggKind::Count(_) | AggKind::Sum(_) | AggKind::Avg(_) => "by addition",
    };
    format!("{} [{rule}]", agg.call.sql)
}

fn scalars(scalars: &[Scalar]) -> String {
    list(scalars.iter().map(|scalar| scalar.sql.to_string()))
}

fn list(items: impl IntoIterator<Item = String>) -> String {
    items.into_iter().collect::<Vec<_>>().join(", ")
}
