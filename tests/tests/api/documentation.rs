//! `docs/API.md` is made of what the server says about functions, views and settings and of the comments in the code. With
//! UPDATE_DOCS=1 it is written anew, otherwise it must be current.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, install};

use crate::Test;

pub const TESTS: &[Test] =
    &[("api_documentation", api_documentation), ("settings_in_install_guide", settings_in_install_guide)];

/// What the names of all settings begin with.
const PREFIX: &str = "pg_trickle.";

/// Functions in groups, in the order of the page. What is in none of them is told at the end.
const GROUPS: &[(&str, &[&str])] = &[
    (
        "Making, changing, dropping",
        &[
            "create_stream_table",
            "create_stream_table_if_not_exists",
            "create_or_replace_stream_table",
            "alter_stream_table",
            "drop_stream_table",
            "pause_stream_table",
            "resume_stream_table",
            "pause_all",
            "resume_all",
            "drain",
            "is_drained",
        ],
    ),
    ("Refreshing", &["refresh_stream_table", "refresh_if_stale", "wait_for_stream_table", "reinitialize_stream_table"]),
    (
        "Auditing and repairing",
        &["verify_stream_table", "repair_stream_table", "pg_trickle_repair_stream_table", "validate_recovery"],
    ),
    (
        "Looking",
        &[
            "health_check",
            "health_summary",
            "pgt_status",
            "st_refresh_stats",
            "get_refresh_history",
            "refresh_timeline",
            "get_staleness",
            "freshness",
            "change_buffer_sizes",
            "slot_health",
            "check_cdc_health",
            "worker_pool_status",
            "parallel_job_status",
            "dependency_tree",
            "diamond_groups",
            "list_sources",
            "cache_stats",
            "reliability_counters",
            "metrics_summary",
        ],
    ),
    (
        "Understanding",
        &[
            "validate_query",
            "preview_stream_table",
            "explain_st",
            "explain_refresh_mode",
            "explain_delta",
            "explain_dag",
            "export_definition",
            "preflight",
            "version",
            "version_check",
            "error_catalog",
        ],
    ),
];

fn api_documentation(server: &Server) -> Outcome {
    let page = page(&mut server.session()?)?;
    let path = install::root().join("docs/API.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        return Ok(std::fs::write(path, page)?);
    }
    if std::fs::read_to_string(&path)? == page {
        return Ok(());
    }
    Err(Failure::new(
        "docs/API.md is out of date: UPDATE_DOCS=1 cargo test -p pgtrickle-tests --test api -- api_documentation",
    ))
}

fn page(session: &mut Session) -> Outcome<String> {
    let comments = comments_in_code(&install::root().join("src/api"))?;
    let mut functions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let sql = "SELECT p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), obj_description(p.oid, 'pg_proc')
                 FROM pg_proc p WHERE p.pronamespace = 'pgtrickle'::regnamespace AND p.proname !~ '^_' ORDER BY 1, 2";
    for row in session.rows(sql)? {
        let [name, arguments, result, comment] = row.map_text();
        let comment = if comment.is_empty() { comments.get(&name).cloned().unwrap_or_default() } else { comment };
        if comment.is_empty() {
            return Err(Failure::new(format!("{name} has no comment")));
        }
        let entry =
            format!("### `{name}`\n\n```sql\n{name}({arguments}) → {result}\n```\n\n{}\n\n", sentence(&comment));
        functions.entry(name).or_default().push(entry);
    }
    let mut page = String::from(
        "# Functions, views and settings\n\nEverything is in schema `pgtrickle`. Names of stream tables are resolved as names of tables are: by the search \
         path, unless they are qualified.\nThis page is made of the comments in the code.\n\n",
    );
    for (title, names) in GROUPS {
        let _ = write!(page, "## {title}\n\n");
        names.iter().filter_map(|name| functions.remove(*name)).flatten().for_each(|entry| page += &entry);
    }
    page +=
        "## For generated statements\n\nUsed by the statements of refreshes and by indexes; of little use by hand.\n\n";
    functions.into_values().flatten().for_each(|entry| page += &entry);
    page += &views(session)?;
    page += &settings(session)?;
    Ok(page)
}

fn views(session: &mut Session) -> Outcome<String> {
    let mut text = String::from("## Views\n\n| view | columns | shows |\n|---|---|---|\n");
    let sql = "SELECT c.relname, string_agg(a.attname, ', ' ORDER BY a.attnum), obj_description(c.oid, 'pg_class')
                 FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
                WHERE c.relnamespace = 'pgtrickle'::regnamespace AND c.relkind = 'v' AND c.relname !~ '^(def)?_'
                GROUP BY c.oid, c.relname ORDER BY 1";
    for row in session.rows(sql)? {
        let [name, columns, comment] = row.map_text();
        if comment.is_empty() {
            return Err(Failure::new(format!("view {name} has no comment")));
        }
        let _ = writeln!(text, "| `{name}` | {columns} | {} |", sentence(&comment));
    }
    Ok(text + "\n")
}

fn settings(session: &mut Session) -> Outcome<String> {
    let mut text = String::from("## Settings\n\n| setting | default | changed by | effect |\n|---|---|---|---|\n");
    let sql = "SELECT name, boot_val || coalesce(' ' || unit, ''), context, short_desc FROM pg_settings
                WHERE name LIKE 'pg\\_trickle.%' ORDER BY name";
    for row in session.rows(sql)? {
        let [name, default, context, description] = row.map_text();
        let by = if context == "sighup" { "configuration file, reload" } else { "superuser, `SET`" };
        let _ = writeln!(text, "| `{name}` | {default} | {by} | {description} |");
    }
    Ok(text)
}

/// INSTALL.md's table has a row for each setting there is, and no other.
fn settings_in_install_guide(server: &Server) -> Outcome {
    let guide = std::fs::read_to_string(install::root().join("INSTALL.md"))?;
    let table = guide.split("\n## Settings\n").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap_or_default();
    let told: BTreeSet<&str> =
        table.lines().filter_map(|row| row.strip_prefix("| `")?.split('`').next()).filter(|&n| n != PREFIX).collect();
    let sql = "SELECT name FROM pg_settings WHERE name LIKE 'pg\\_trickle.%'";
    let there: BTreeSet<String> = server.session()?.rows(sql)?.into_iter().flatten().flatten().collect();
    let there: BTreeSet<&str> = there.iter().filter_map(|name| name.strip_prefix(PREFIX)).collect();
    if told == there {
        return Ok(());
    }
    let differ: Vec<_> = told.symmetric_difference(&there).collect();
    Err(Failure::new(format!("INSTALL.md and the server do not have the same settings: {differ:?}")))
}

/// A row's texts, NULL as nothing.
trait MapText {
    fn map_text<const N: usize>(self) -> [String; N];
}

impl MapText for Vec<Option<String>> {
    fn map_text<const N: usize>(self) -> [String; N] {
        let mut texts = self.into_iter().map(Option::unwrap_or_default);
        std::array::from_fn(|_| texts.next().unwrap_or_default())
    }
}

fn sentence(comment: &str) -> String {
    let end = if comment.ends_with(['.', '!']) { "" } else { "." };
    format!("{comment}{end}").replace("[`", "`").replace("`]", "`").replace("  ", " ")
}

/// The documentation of each function that is made an SQL function of: the `///` lines before `#[pg_extern]`.
fn comments_in_code(dir: &Path) -> Outcome<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for file in std::fs::read_dir(dir)? {
        let path = file?.path();
        if path.is_dir() {
            found.extend(comments_in_code(&path)?);
            continue;
        }
        let text = std::fs::read_to_string(path)?;
        let (mut comment, mut exported, mut renamed) = (Vec::new(), false, None);
        for line in text.lines() {
            if let Some(more) = line.strip_prefix("///") {
                comment.push(more.trim().to_owned());
            } else if line.starts_with("#[pg_extern") {
                exported = true;
                renamed = line.split_once("name = \"").and_then(|(_, rest)| rest.split('"').next()).map(str::to_owned);
            } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| exported && !line.starts_with(' ')) {
                let name = rest.split(['(', '<']).next().unwrap_or_default().to_owned();
                found.insert(renamed.take().unwrap_or(name), comment.join(" "));
                exported = false;
                comment.clear();
            } else if !line.starts_with('#') {
                comment.clear();
            }
        }
    }
    Ok(found)
}
