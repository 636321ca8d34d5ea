//! A report as lines that read well in psql.

use super::{Report, Stage, layout};

const WIDTH: usize = 110;

pub(super) fn lines(report: &Report) -> Vec<String> {
    let mut lines = vec![report.title.clone()];
    let widest = report.facts.iter().map(|(word, _)| word.len()).max().unwrap_or(0) + 2;
    let mut before = "";
    for (word, value) in &report.facts {
        let shown = if *word == before { "" } else { word };
        lines.extend(hanging(&format!("  {shown:widest$}"), value));
        before = word;
    }
    lines.push(String::new());
    lines.push("Stages, each fed by those above it:".to_owned());
    report.stages.iter().enumerate().for_each(|(number, stage)| lines.extend(stage_lines(number + 1, stage)));
    if report.stages.iter().any(|stage| !stage.statements.is_empty()) {
        lines.push(String::new());
        lines.push("SQL, when every source has changed:".to_owned());
        for (delta, source) in &report.deltas {
            lines.push(format!(
                "  -- {delta}: the changes of {source}; w is 1 for a row that came, -1 for one that went"
            ));
        }
    }
    for (number, stage) in report.stages.iter().enumerate() {
        for (what, sql) in &stage.statements {
            lines.push(format!("  -- stage {}: {what}", number + 1));
            lines.extend(layout::lines(&format!("{sql};"), 2));
        }
    }
    lines
}

fn stage_lines(number: usize, stage: &Stage) -> Vec<String> {
    let mut lines = hanging(&format!("  {number}. "), &format!("{} {}", stage.construct, stage.over));
    let mut say = |word: &str, text: String| lines.extend(hanging(&format!("     {word:6} "), &text));
    say("rule", stage.rule.clone());
    if let Some(state) = &stage.state {
        say("state", format!("{}: {}, {}", state.table, count(state.rows, "row"), bytes(state.bytes)));
    }
    if let Some(cost) = &stage.cost {
        let each = duration(cost.ms / cost.calls.max(1) as f64);
        let (calls, rows, total) = (count(cost.calls, "call"), count(cost.rows, "row"), duration(cost.ms));
        say("cost", format!("{calls}, {rows} changed, {total} in all, {each} each"));
    }
    if let Some((rows, ms)) = stage.now {
        say("now", format!("{} changed, {}", count(rows, "row"), duration(ms)));
    }
    lines
}

/// Text behind a label, wrapped, its further lines under the first.
fn hanging(label: &str, text: &str) -> Vec<String> {
    let indent = label.chars().count();
    let mut lines = vec![label.to_owned()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("there is a first line");
        let used = last.chars().count();
        if used > indent && used + 1 + word.chars().count() > WIDTH {
            lines.push(format!("{}{word}", " ".repeat(indent)));
        } else {
            if used > indent {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}

/// A number with its noun.
pub(super) fn count(number: i64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Milliseconds in a unit that fits.
pub(super) fn duration(ms: f64) -> String {
    match ms {
        ..1.0 => format!("{:.0} µs", ms * 1000.0),
        ..1000.0 => format!("{ms:.1} ms"),
        ..120_000.0 => format!("{:.1} s", ms / 1000.0),
        ..7_200_000.0 => format!("{:.0} min", ms / 60_000.0),
        _ => format!("{:.1} h", ms / 3_600_000.0),
    }
}

fn bytes(bytes: i64) -> String {
    match bytes {
        ..10_240 => format!("{bytes} bytes"),
        10_240..10_485_760 => format!("{} kB", bytes >> 10),
        10_485_760..10_737_418_240 => format!("{} MB", bytes >> 20),
        _ => format!("{} GB", bytes >> 30),
    }
}
