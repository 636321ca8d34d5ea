//! A report as JSON.

use super::{Report, Stage};
use std::fmt::Write as _;

pub(super) fn report(report: &Report) -> String {
    let mut facts: Vec<(String, Vec<String>)> = Vec::new();
    for (word, value) in &report.facts {
        let key = word.to_lowercase().replace(' ', "_");
        match facts.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) => values.push(string(value)),
            None => facts.push((key, vec![string(value)])),
        }
    }
    let one_or_more = |values: Vec<String>| if values.len() == 1 { values.concat() } else { array(values) };
    let mut members = vec![("name".to_owned(), string(&report.title))];
    members.extend(facts.into_iter().map(|(key, values)| (key, one_or_more(values))));
    members.push(("stages".to_owned(), array(report.stages.iter().map(stage).collect())));
    object(members)
}

fn stage(stage: &Stage) -> String {
    let mut members =
        vec![("construct", string(stage.construct)), ("over", string(&stage.over)), ("rule", string(&stage.rule))];
    if let Some(state) = &stage.state {
        members.push(("state_table", string(&state.table)));
        members.push(("state_rows", state.rows.to_string()));
        members.push(("state_bytes", state.bytes.to_string()));
    }
    if let Some(cost) = &stage.cost {
        members.push(("calls", cost.calls.to_string()));
        members.push(("rows_changed", cost.rows.to_string()));
        members.push(("total_ms", format!("{:.3}", cost.ms)));
        members.push(("mean_ms", format!("{:.3}", cost.ms / cost.calls.max(1) as f64)));
    }
    if let Some((rows, ms)) = stage.now {
        members.push(("now_rows_changed", rows.to_string()));
        members.push(("now_ms", format!("{ms:.3}")));
    }
    let statement =
        |(what, sql): &(String, String)| object(vec![("what".into(), string(what)), ("sql".into(), string(sql))]);
    members.push(("statements", array(stage.statements.iter().map(statement).collect())));
    object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn object(members: Vec<(String, String)>) -> String {
    let members: Vec<String> = members.into_iter().map(|(key, value)| format!("{}: {value}", string(&key))).collect();
    format!("{{{}}}", members.join(", "))
}

fn array(values: Vec<String>) -> String {
    format!("[{}]", values.join(", "))
}

fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
