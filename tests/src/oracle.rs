//! The oracle: a stream table and its query, compared from outside the extension, in both directions, with multiplicity.

use crate::session::{Session, TextRow, ident};
use crate::{During, Failure, Outcome};

/// How many differing rows a failure shows.
const SHOWN: usize = 10;

/// Compares relation and query under one snapshot. Columns whose type knows no equality are compared as text.
pub fn assert_exact(session: &mut Session, relation: &str, query: &str) -> Outcome {
    session.run("BEGIN ISOLATION LEVEL REPEATABLE READ")?;
    let result = compare(session, relation, query);
    session.run("ROLLBACK")?;
    result.during(relation)
}

/// The same in the session's open transaction, whose own changes count. One statement, so at one snapshot at every isolation
/// level; in a transaction that has failed there is nothing to compare.
pub fn assert_exact_within(session: &mut Session, relation: &str, query: &str) -> Outcome {
    session.run("SAVEPOINT within")?;
    compare(session, relation, query).during(relation)?;
    session.run("ROLLBACK TO within; RELEASE within")
}

fn compare(session: &mut Session, relation: &str, query: &str) -> Outcome {
    let columns = Columns::of(session, relation)?;
    let mut rows = session.rows(&format!(
        "WITH stream AS MATERIALIZED ({}), truth AS MATERIALIZED ({}) \
         (SELECT '-', * FROM (TABLE truth EXCEPT ALL TABLE stream) AS missing) \
         UNION ALL (SELECT '+', * FROM (TABLE stream EXCEPT ALL TABLE truth) AS extra)",
        columns.select(&format!("(TABLE {relation})")),
        columns.select(&format!("({query}\n)"))
    ))?;
    if rows.is_empty() {
        return Ok(());
    }
    let is_missing = |row: &TextRow| row.first().is_some_and(|sign| sign.as_deref() == Some("-"));
    let (mut missing, mut extra): (Vec<TextRow>, Vec<TextRow>) = rows.drain(..).partition(is_missing);
    missing.iter_mut().chain(&mut extra).for_each(|row| drop(row.remove(0)));
    Err(Failure::new(format!(
        "not its query: {} missing, {} extra\n{}{}",
        missing.len(),
        extra.len(),
        show("-", &missing),
        show("+", &extra)
    )))
}

/// What an unordered comparison of the two sides selects.
struct Columns {
    aliases: Vec<String>,
    outputs: Vec<String>,
}

impl Columns {
    fn of(session: &mut Session, relation: &str) -> Outcome<Columns> {
        let count = session.number(&format!(
            "SELECT count(*) FROM pg_attribute WHERE attrelid = '{}'::regclass AND attnum > 0 AND NOT attisdropped",
            relation.replace('\'', "''")
        ))?;
        let aliases: Vec<String> = (1..=count).map(|i| format!("x{i}")).collect();
        let mut columns = Columns { outputs: aliases.clone(), aliases };
        if columns.comparable(session, relation, &columns.outputs.join(", "))? {
            return Ok(columns);
        }
        for i in 0..columns.outputs.len() {
            if !columns.comparable(session, relation, &columns.outputs[i])? {
                columns.outputs[i] = format!("{}::text", ident(&columns.aliases[i]));
            }
        }
        Ok(columns)
    }

    /// Whether the outputs can be compared at all; containers of types without equality fail only when it is tried.
    fn comparable(&self, session: &mut Session, relation: &str, outputs: &str) -> Outcome<bool> {
        session.run("SAVEPOINT comparable")?;
        let source = format!("SELECT {outputs} FROM (TABLE {relation}) AS s({})", self.aliases.join(", "));
        let answer = match session.try_run(&format!("{source} EXCEPT ALL {source}")) {
            Ok(()) => true,
            // undefined_function: "could not identify an equality operator"
            Err(Some(state)) if state == "42883" => false,
            Err(state) => return Err(Failure::new(format!("comparing {relation} with itself: {state:?}"))),
        };
        session.run("ROLLBACK TO SAVEPOINT comparable")?;
        Ok(answer)
    }

    fn select(&self, source: &str) -> String {
        format!("SELECT {} FROM {source} AS s({})", self.outputs.join(", "), self.aliases.join(", "))
    }
}

fn show(sign: &str, rows: &[TextRow]) -> String {
    let mut text: String = rows.iter().take(SHOWN).map(|row| format!("  {sign} {}\n", row_text(row))).collect();
    if rows.len() > SHOWN {
        text.push_str(&format!("  {sign} … {} more\n", rows.len() - SHOWN));
    }
    text
}

/// A row as case files write it: values separated by `|`, `\N` for NULL.
pub fn row_text(row: &TextRow) -> String {
    const WIDEST: usize = 200;
    let values = row.iter().map(|value| match value {
        None => "\\N".to_owned(),
        Some(value) if value.len() > WIDEST => format!("{}…", value.chars().take(WIDEST).collect::<String>()),
        Some(value) => value.clone(),
    });
    values.collect::<Vec<_>>().join("|")
}
