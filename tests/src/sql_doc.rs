//! `docs/SQL.md`: what happens to each construct of SQL, made of the map in `engine/src/lib.rs` and of the cases that prove
//! it. With UPDATE_DOCS=1 the test writes it anew, otherwise it must be current.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::case::{Case, Stream};
use crate::{Failure, Outcome};

/// Which cases prove the rules of which line of the map: a word of the line, and the beginnings of the cases' names.
const PROOFS: &[(&str, &[&str])] = &[
    ("WHERE, HAVING", &["filter/", "aggregate/filter_having"]),
    ("select list", &["map/", "scan/", "types/"]),
    ("inner and cross join", &["join/"]),
    ("LEFT JOIN", &["join/outer", "opaque/outer_joins"]),
    ("EXISTS, IN", &["subquery/", "opaque/semi_and_anti_joins"]),
    ("functions in FROM", &["set_returning/"]),
    ("UNION ALL", &["union/union_all", "distinct/union"]),
    ("GROUP BY", &["aggregate/", "distinct/", "opaque/grouping_sets", "opaque/under_aggregate"]),
    ("window functions", &["window/"]),
    ("foreign tables", &["source/"]),
    ("ORDER BY with LIMIT", &["top_k/"]),
    ("DISTINCT ON", &["distinct_on/", "top_k/elsewhere"]),
    ("WITH RECURSIVE", &["recursive/"]),
    ("INTERSECT, EXCEPT", &["union/operations", "opaque/set_operations"]),
];

/// Cases about something else than a construct: capture, stream tables over stream tables, whole workloads, refusals.
#[cfg(test)]
const OTHERS: &[&str] = &[
    "capture/",
    "ddl/",
    "cascade/",
    "refused/",
    "tpch/",
    "nexmark/",
    "view/",
    "random/",
    "opaque/stable_functions",
    "opaque/reasons",
    "found/",
];

/// A line of the map.
struct Line {
    sql: String,
    plan: String,
    rules: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The map of `engine/src/lib.rs`.
fn map() -> Outcome<Vec<Line>> {
    let text = std::fs::read_to_string(root().join("engine/src/lib.rs"))?;
    let rows = text.lines().skip_while(|line| !line.starts_with("//! | SQL |")).skip(2);
    let cells = |line: &str| -> Vec<String> {
        line.trim_start_matches("//! |").trim_end_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()
    };
    rows.take_while(|line| line.starts_with("//! |"))
        .map(|line| match cells(line).as_slice() {
            [sql, plan, rule] => {
                let rules = rule.split(", ").map(|file| file.trim_matches('`').to_owned()).collect();
                Ok(Line { sql: sql.clone(), plan: plan.clone(), rules })
            }
            _ => Err(Failure::new(format!("a line of the map that is no row of three: {line}"))),
        })
        .collect()
}

fn proves(case: &Case, beginnings: &[&str]) -> bool {
    beginnings.iter().any(|beginning| case.name.starts_with(beginning))
}

fn link(case: &Case) -> String {
    format!("[{0}](../tests/cases/{0}.case)", case.name)
}

fn rule_links(line: &Line) -> Outcome<String> {
    let mut links = Vec::new();
    for rule in &line.rules {
        let path = format!("engine/src/{rule}");
        if !root().join(&path).exists() {
            return Err(Failure::new(format!("engine/src/lib.rs names {rule}, which does not exist")));
        }
        links.push(format!("[{rule}](../{path})"));
    }
    Ok(links.join(", "))
}

/// The whole page.
pub fn page(cases: &[Case]) -> Outcome<String> {
    let mut out = String::from(
        "# What happens to your SQL\n\n\
         <!-- Made by `UPDATE_DOCS=1 cargo test -p pgtrickle-tests --lib sql_doc`; a test fails when it is out of date. -->\n\n\
         Every SELECT that is allowed in a stream table is exact. What differs is the work of a refresh: *differential* work follows \
         the change, *recomputed* work follows the tables.\n\n\
         ## Differential\n\n\
         Any nesting of these. Each rule's file begins with its equation; each case is run step by step and in one step, compared \
         with the query after every change.\n\n\
         | SQL | is planned as | rule | streams shown | cases |\n|---|---|---|---|---|\n",
    );
    for line in map()? {
        let Some((_, beginnings)) = PROOFS.iter().find(|(word, _)| line.sql.starts_with(word)) else {
            return Err(Failure::new(format!("no cases are named for \"{}\" in tests/src/sql_doc.rs", line.sql)));
        };
        let proofs: Vec<&Case> = cases.iter().filter(|case| proves(case, beginnings)).collect();
        if proofs.is_empty() {
            return Err(Failure::new(format!("no case proves \"{}\"", line.sql)));
        }
        let differential = |stream: &&Stream| stream.mode.as_deref() == Some("DIFFERENTIAL");
        let shown = proofs.iter().flat_map(|case| &case.streams).filter(differential).count();
        let links: Vec<String> = proofs.iter().map(|case| link(case)).collect();
        writeln!(out, "| {} | {} | {} | {shown} | {} |", line.sql, line.plan, rule_links(&line)?, links.join(", "))
            .expect("a String can be written to");
    }
    choices(&mut out)?;
    recomputed(&mut out, cases);
    reasons(&mut out)?;
    refused(&mut out, cases);
    Ok(out)
}

/// How choices are made that SQL leaves open, from the head of the module that makes them.
fn choices(out: &mut String) -> Outcome {
    out.push_str(
        "\n## Choices that SQL leaves open\n\nWhere the result would depend on the plan, the definition of a stream table makes the \
         choice, mostly by a *tie-break*: rows in the order of their bytes. So the result is a function of the data.\n\n",
    );
    let source = std::fs::read_to_string(root().join("pg/src/complete/mod.rs"))?;
    source.lines().filter_map(|line| line.strip_prefix("//! |")).for_each(|row| out.push_str(&format!("|{row}\n")));
    out.push_str(
        "\nChoices that views leave open are made in the same way, for this stream table alone, if its owner may read what the view reads and nobody \
         takes the view's rows as a whole; the view itself stays as it is. Refreshes that recompute by `refresh_mode => 'FULL'` take what the view gives. Not \
         made: choices inside recursions, and within views that are a security barrier; which of several equal values `min`, `max`, ordered-set aggregates and \
         DISTINCT inside sums show, where these look different (1.0 and 1.00).\n",
    );
    Ok(())
}

/// What is opaque, by its reason.
fn recomputed(out: &mut String, cases: &[Case]) {
    out.push_str(
        "\n## Recomputed\n\nThese are computed anew at each refresh that finds a change, and only the difference is applied. \
         `preview_stream_table(query)` says the reason beforehand, `explain_st(name)` afterwards.\n\n| because | for example | case |\n|---|---|---|\n",
    );
    let mut reasons: BTreeMap<&str, Vec<(&Case, &Stream)>> = BTreeMap::new();
    for case in cases {
        for stream in &case.streams {
            if let Some(reason) = &stream.opaque {
                reasons.entry(reason).or_default().push((case, stream));
            }
        }
    }
    for (reason, shown) in reasons {
        let (case, stream) = shown[0];
        let query = stream.query.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        writeln!(out, "| {} | `{query}` | {} |", reason.replace('|', "\\|"), link(case))
            .expect("a String can be written to");
    }
}

/// All reasons that the analysis can give, from its source. Some are only why one way to plan a query is not taken.
fn reasons(out: &mut String) -> Outcome {
    out.push_str(
        "\nAll reasons that the analysis knows, where one way of planning a query fails and no other is left:\n\n",
    );
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(root().join("src/analyze"))?.map(|file| Ok(file?.path())).collect::<Outcome<_>>()?;
    files.sort();
    for file in files {
        let source = std::fs::read_to_string(&file)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        for found in source.split("opaque(").skip(1) {
            let literal = found.trim_start().trim_start_matches("format!(").trim_start();
            let Some(text) = literal.strip_prefix('"') else { continue };
            let text = text.replace("\\\"", "\u{1}");
            let Some((reason, _)) = text.split_once('"') else { continue };
            let reason = reason.replace('\u{1}', "\"").replace("\\\n", "");
            let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
            writeln!(out, "- {reason} ([{name}](../src/analyze/{name}))").expect("a String can be written to");
        }
    }
    Ok(())
}

fn refused(out: &mut String, cases: &[Case]) {
    out.push_str("\n## Refused\n\nWith an error that says why and what to do instead.\n\n| query | SQLSTATE | case |\n|---|---|---|\n");
    for case in cases {
        for stream in &case.streams {
            if let Some(state) = &stream.fails {
                let query = stream.query.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
                writeln!(out, "| `{query}` | {state} | {} |", link(case)).expect("a String can be written to");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_current() {
        let wanted = page(&Case::all().expect("cases parse")).expect("a page");
        let path = root().join("docs/SQL.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(root().join("docs")).expect("a directory for the page");
            std::fs::write(&path, wanted).expect("the page can be written");
            return;
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == wanted,
            "docs/SQL.md is out of date: UPDATE_DOCS=1 cargo test -p pgtrickle-tests --lib sql_doc"
        );
    }

    #[test]
    fn every_case_shows_something_or_is_about_something_else() {
        let all = Case::all().expect("cases parse");
        let known: Vec<&str> = PROOFS.iter().flat_map(|(_, cases)| *cases).chain(OTHERS).copied().collect();
        let lost: Vec<&str> = all.iter().filter(|case| !proves(case, &known)).map(|case| case.name.as_str()).collect();
        assert!(lost.is_empty(), "name these cases in tests/src/sql_doc.rs: {lost:?}");
    }

    #[test]
    fn whatever_is_recomputed_says_why() {
        let all = Case::all().expect("cases parse");
        let streams = all.iter().flat_map(|case| case.streams.iter().map(move |stream| (case, stream)));
        let silent = streams.filter(|(_, stream)| stream.mode.as_deref() == Some("FULL") && stream.opaque.is_none());
        let silent: Vec<String> = silent.map(|(case, stream)| format!("{} {}", case.name, stream.name)).collect();
        assert!(silent.is_empty(), "mode=FULL without opaque=\"reason\": {silent:?}");
    }
}
