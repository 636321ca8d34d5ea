//! Figures, compared with what they are to be, as Markdown.

use std::fmt::Write as _;

use crate::Effort;

/// One comparison.
pub struct Figure {
    pub what: String,
    pub ours: String,
    pub rival: String,
    /// Ours over the rival's, where more is better; or the bare figure where there is no rival.
    pub value: f64,
    pub goal: Option<Goal>,
}

/// What a figure is held against.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// All figures of a run.
pub struct Report {
    head: String,
    sections: Vec<(String, Vec<Figure>)>,
    notes: Vec<String>,
}

impl Goal {
    fn met(self, value: f64) -> bool {
        match self {
            Goal::AtLeast(goal) => value >= goal,
            Goal::AtMost(goal) => value <= goal,
        }
    }

    fn text(self) -> String {
        match self {
            Goal::AtLeast(goal) => format!("≥ {goal}"),
            Goal::AtMost(goal) => format!("≤ {goal}"),
        }
    }
}

impl Report {
    pub fn new(effort: &Effort, quick: bool) -> Report {
        let version = effort.version.full().unwrap_or_default();
        let command = if quick { "BENCH_QUICK=1 make bench" } else { "make bench" };
        let head = format!(
            "# Measurements\n\n`PG={} {command}`, PostgreSQL {version}, {}.\nMedians of {} turns; the contenders take turns in one \
             run. fsync is on.\n",
            effort.version,
            machine(),
            effort.rounds
        );
        Report { head, sections: Vec::new(), notes: Vec::new() }
    }

    pub fn section(&mut self, title: &str) {
        self.sections.push((title.to_owned(), Vec::new()));
    }

    pub fn add(&mut self, figure: Figure) {
        println!("  {}: {} against {} ({:.2})", figure.what, figure.ours, figure.rival, figure.value);
        if let Some((_, figures)) = self.sections.last_mut() {
            figures.push(figure);
        }
    }

    pub fn note(&mut self, text: String) {
        println!("  {text}");
        self.notes.push(text);
    }

    pub fn markdown(&self) -> String {
        let mut text = self.head.clone();
        for (title, figures) in &self.sections {
            let _ = write!(
                text,
                "\n## {title}\n\n| what | ours | against | ratio or value | goal | |\n|---|---|---|---|---|---|\n"
            );
            for figure in figures {
                let (goal, verdict) = match figure.goal {
                    Some(goal) => (goal.text(), if goal.met(figure.value) { "met" } else { "**missed**" }),
                    None => (String::new(), ""),
                };
                let Figure { what, ours, rival, value, .. } = figure;
                let _ = writeln!(text, "| {what} | {ours} | {rival} | {value:.2} | {goal} | {verdict} |");
            }
        }
        if !self.notes.is_empty() {
            text.push_str("\n## Notes\n\n");
            self.notes.iter().for_each(|note| text.push_str(&format!("- {note}\n")));
        }
        text
    }
}

fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("unknown CPU");
    format!("{cpus} cores of {model}")
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    percentile(&mut values, 0.5)
}

/// The value that so large a part stays below.
pub fn percentile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
}

/// Millions of rows per second, for reading.
pub fn rate(rows_per_second: f64) -> String {
    format!("{:.3} M rows/s", rows_per_second / 1e6)
}
