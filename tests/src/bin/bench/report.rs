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

/// What one part of a run has found.
pub struct Report {
    part: &'static str,
    head: String,
    sections: Vec<Section>,
}

struct Section {
    title: String,
    body: Body,
    notes: Vec<String>,
}

enum Body {
    Figures(Vec<Figure>),
    Table { header: Vec<&'static str>, rows: Vec<Vec<String>> },
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
    pub fn new(part: &'static str, effort: &Effort, quick: bool) -> Report {
        let version = effort.version.full().unwrap_or_default();
        let quick = if quick { " BENCH_QUICK=1" } else { "" };
        let head =
            format!("`PG={}{quick} scripts/bench.sh {part}`, PostgreSQL {version}, {}.", effort.version, machine());
        Report { part, head, sections: Vec::new() }
    }

    /// Begins a section of figures.
    pub fn section(&mut self, title: &str) {
        self.sections.push(Section { title: title.to_owned(), body: Body::Figures(Vec::new()), notes: Vec::new() });
    }

    /// Begins a section that is a table of its own form.
    pub fn table(&mut self, title: &str, header: &[&'static str]) {
        let body = Body::Table { header: header.to_vec(), rows: Vec::new() };
        self.sections.push(Section { title: title.to_owned(), body, notes: Vec::new() });
    }

    /// A figure of the section begun last.
    pub fn add(&mut self, figure: Figure) {
        println!("  {}: {} against {} ({:.2})", figure.what, figure.ours, figure.rival, figure.value);
        if let Some(Section { body: Body::Figures(figures), .. }) = self.sections.last_mut() {
            figures.push(figure);
        }
    }

    /// A row of the table begun last.
    pub fn row(&mut self, row: Vec<String>) {
        println!("  {}", row.join("  "));
        if let Some(Section { body: Body::Table { rows, .. }, .. }) = self.sections.last_mut() {
            rows.push(row);
        }
    }

    /// Something to know about the section begun last.
    pub fn note(&mut self, text: String) {
        println!("  {text}");
        if let Some(section) = self.sections.last_mut() {
            section.notes.push(text);
        }
    }

    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for Section { title, body, notes } in &self.sections {
            let _ = write!(text, "\n## {title}\n\n{}\n\n", self.head);
            match body {
                Body::Figures(figures) => write_figures(&mut text, figures),
                Body::Table { header, rows } => write_table(&mut text, header, rows),
            }
            if !notes.is_empty() {
                text.push('\n');
                notes.iter().for_each(|note| text.push_str(&format!("- {note}\n")));
            }
        }
        text
    }

    /// `results` with this part's sections in the place of what it had of them, or at its end.
    pub fn put_into(&self, results: &str) -> String {
        let (begin, end) = (format!("<!-- {} -->\n", self.part), format!("<!-- end of {} -->\n", self.part));
        let own = format!("{begin}{}\n{end}", self.markdown());
        match (results.find(&begin), results.find(&end)) {
            (Some(from), Some(to)) if from < to => {
                format!("{}{own}{}", &results[..from], &results[to + end.len()..])
            }
            _ => format!("{results}\n{own}"),
        }
    }
}

fn write_figures(text: &mut String, figures: &[Figure]) {
    let row = |figure: &Figure| {
        let (goal, verdict) = match figure.goal {
            Some(goal) => (goal.text(), if goal.met(figure.value) { "met" } else { "**missed**" }),
            None => (String::new(), ""),
        };
        let Figure { what, ours, rival, value, .. } = figure;
        vec![what.clone(), ours.clone(), rival.clone(), format!("{value:.2}"), goal, verdict.to_owned()]
    };
    let rows: Vec<_> = figures.iter().map(row).collect();
    write_table(text, &["what", "ours", "against", "ratio or value", "goal", ""], &rows);
}

fn write_table(text: &mut String, header: &[&str], rows: &[Vec<String>]) {
    let _ = writeln!(text, "| {} |\n|{}", header.join(" | "), "---|".repeat(header.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
}

fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("unknown CPU");
    format!("{cpus} cores of {model}")
}

/// The middle one, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (half, even) = (values.len() / 2, values.len().is_multiple_of(2));
    let at = |i: usize| values.get(i).copied().unwrap_or(f64::NAN);
    if even { (at(half.wrapping_sub(1)) + at(half)) / 2.0 } else { at(half) }
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
