//! Text to `Case`.

use super::{Case, Expectation, Expected, Statement, Step, Stream};
use crate::{During, Failure, Outcome};

impl Case {
    pub fn parse(name: &str, text: &str) -> Outcome<Case> {
        let mut case = Case { name: name.into(), replay: true, ..Case::default() };
        let mut sections = Vec::<(String, Vec<&str>)>::new();
        for line in text.lines() {
            if let Some(header) = line.strip_prefix("== ") {
                sections.push((header.trim().to_owned(), Vec::new()));
            } else if let Some((_, lines)) = sections.last_mut() {
                lines.push(line);
            } else {
                directive(&mut case, line)?;
            }
        }
        for (header, lines) in sections {
            section(&mut case, &header, &lines).during(format!("== {header}"))?;
        }
        if case.streams.is_empty() {
            return Err(Failure::new("a case needs a stream"));
        }
        Ok(case)
    }
}

fn directive(case: &mut Case, line: &str) -> Outcome {
    if let Some(comment) = line.strip_prefix('#') {
        case.description.push(comment.trim().to_owned());
        return Ok(());
    }
    match line.split_once(':').map(|(key, value)| (key.trim(), value.trim())) {
        None if line.trim().is_empty() => {}
        Some(("versions", list)) => case.versions = list.split_whitespace().filter_map(|v| v.parse().ok()).collect(),
        Some(("replay", value)) => case.replay = value != "no",
        _ => return Err(Failure::new(format!("not a directive: {line}"))),
    }
    Ok(())
}

fn section(case: &mut Case, header: &str, lines: &[&str]) -> Outcome {
    let (kind, rest) = header.split_once(' ').unwrap_or((header, ""));
    match kind {
        "tables" => case.tables.extend(statements(lines)?),
        "stream" => case.streams.push(stream(rest, lines)?),
        "completed" => {
            let named = case.streams.iter_mut().find(|stream| stream.name == rest);
            let stream = named.ok_or_else(|| Failure::new("there is no such stream above"))?;
            stream.completed = Some(lines.join("\n").trim().to_owned());
        }
        "step" => {
            case.steps.push(Step { title: rest.into(), statements: statements(lines)?, expectations: Vec::new() });
        }
        "expect" => {
            let step = case.steps.last_mut().ok_or_else(|| Failure::new("nothing was done before"))?;
            let default = case.streams.first().map(|stream| stream.name.clone()).unwrap_or_default();
            let stream = if rest.is_empty() { default } else { rest.to_owned() };
            let rows = lines.iter().filter(|line| !line.trim().is_empty()).map(|line| line.to_string()).collect();
            step.expectations.push(Expectation { stream, rows });
        }
        other => return Err(Failure::new(format!("unknown section {other}"))),
    }
    Ok(())
}

fn stream(arguments: &str, lines: &[&str]) -> Outcome<Stream> {
    let mut stream = Stream { query: lines.join("\n").trim().to_owned(), ..Stream::default() };
    let mut arguments = arguments.to_owned();
    if let Some((before, reason)) = arguments.clone().split_once(" opaque=\"") {
        let reason = reason.strip_suffix('"').ok_or_else(|| Failure::new("opaque=\"…\" comes last"))?;
        stream.opaque = Some(reason.to_owned());
        arguments = before.to_owned();
    }
    for word in arguments.split_whitespace() {
        match word.split_once('=') {
            None => stream.name = word.into(),
            Some(("mode", mode)) => stream.mode = Some(mode.into()),
            Some(("fails", state)) => stream.fails = Some(state.into()),
            Some(_) => return Err(Failure::new(format!("unknown word {word}"))),
        }
    }
    if stream.name.is_empty() || stream.query.is_empty() {
        return Err(Failure::new("a stream needs a name and a query"));
    }
    Ok(stream)
}

fn statements(lines: &[&str]) -> Outcome<Vec<Statement>> {
    let mut all = Vec::new();
    let mut sql = String::new();
    let mut lines = lines.iter();
    while let Some(line) = lines.next() {
        if sql.is_empty() && (line.trim().is_empty() || line.starts_with("--")) {
            continue;
        }
        sql.push_str(line);
        sql.push('\n');
        let inside_body = sql.matches("$$").count() % 2 == 1;
        if !line.trim_end().ends_with(';') || inside_body {
            continue;
        }
        let mut statement = statement(sql.trim());
        sql.clear();
        if statement.sql.to_uppercase().starts_with("COPY ") && statement.sql.to_uppercase().contains("FROM STDIN") {
            let data = lines.by_ref().take_while(|line| **line != "\\.");
            statement.copy = Some(data.map(|line| format!("{line}\n")).collect());
        }
        all.push(statement);
    }
    if !sql.trim().is_empty() {
        return Err(Failure::new(format!("no ; at the end of: {sql}")));
    }
    Ok(all)
}

fn statement(text: &str) -> Statement {
    let mut statement = Statement { session: 1, ..Statement::default() };
    let mut rest = text;
    if let Some((number, sql)) = rest.strip_prefix('@').and_then(|rest| rest.split_once(' ')) {
        statement.session = number.parse().unwrap_or(1);
        rest = sql;
    }
    if let Some((state, sql)) = rest.strip_prefix('!').and_then(|rest| rest.split_once(' ')) {
        statement.outcome = Expected::Error((!state.is_empty()).then(|| state.to_owned()));
        rest = sql;
    }
    statement.sql = rest.to_owned();
    statement
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Counts.\nversions: 18\n\n== tables\nCREATE TABLE t (a int,\n  b text);\nDO $$ BEGIN\n  NULL;\nEND $$;\n\n\
        == stream st mode=FULL opaque=\"it calls \"f\"\"\nSELECT 1\n== completed st\nSELECT 1 AS one\n== step first\n@2 BEGIN;\n!22012 SELECT 1/0;\nCOPY t FROM stdin;\n1\tx\n\\.\nSELECT 2;\n\
        == expect\n1|2\n\\N|3\n== step second\n== expect st\n";

    #[test]
    fn parses_every_part() {
        let case = Case::parse("a/b", TEXT).unwrap();
        assert_eq!(case.versions, [18]);
        assert_eq!(case.tables.len(), 2);
        assert_eq!(case.streams[0].mode.as_deref(), Some("FULL"));
        assert_eq!(case.streams[0].opaque.as_deref(), Some("it calls \"f\""));
        assert_eq!(case.streams[0].truth(), "SELECT 1 AS one");
        let step = &case.steps[0];
        assert_eq!(step.title, "first");
        assert_eq!(step.statements[0].session, 2);
        assert_eq!(step.statements[1].outcome, Expected::Error(Some("22012".into())));
        assert_eq!(step.statements[2].copy.as_deref(), Some("1\tx\n"));
        assert_eq!(step.statements[3].sql, "SELECT 2;");
        assert_eq!(step.expectations[0].rows, ["1|2", "\\N|3"]);
        assert!(case.steps[1].statements.is_empty() && case.steps[1].expectations[0].rows.is_empty());
    }

    #[test]
    fn printing_and_parsing_agree() {
        let case = Case::parse("a/b", TEXT).unwrap();
        let printed = case.to_string();
        assert_eq!(Case::parse("a/b", &printed).unwrap().to_string(), printed);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert!(Case::parse("x", "== nonsense\n").is_err());
        assert!(Case::parse("x", "== stream st\nSELECT 1\n== step\nSELECT 1\n").is_err());
    }
}
