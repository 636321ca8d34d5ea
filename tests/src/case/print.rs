//! `Case` to text, so that whatever a generator finds is already a test.

use std::fmt::{Display, Formatter, Result};

use super::{Case, Expected, Statement, Step, Stream};

impl Display for Case {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for line in &self.description {
            writeln!(f, "# {line}")?;
        }
        if !self.versions.is_empty() {
            let list: Vec<String> = self.versions.iter().map(u32::to_string).collect();
            writeln!(f, "versions: {}", list.join(" "))?;
        }
        if !self.replay {
            writeln!(f, "replay: no")?;
        }
        writeln!(f, "\n== tables")?;
        print_statements(f, &self.tables)?;
        self.streams.iter().try_for_each(|stream| print_stream(f, stream))?;
        self.steps.iter().try_for_each(|step| print_step(f, step))
    }
}

fn print_stream(f: &mut Formatter<'_>, stream: &Stream) -> Result {
    write!(f, "\n== stream {}", stream.name)?;
    if let Some(mode) = &stream.mode {
        write!(f, " mode={mode}")?;
    }
    if let Some(reason) = &stream.opaque {
        write!(f, " opaque=\"{reason}\"")?;
    }
    if let Some(state) = &stream.fails {
        write!(f, " fails={state}")?;
    }
    writeln!(f, "\n{}", stream.query)?;
    match &stream.completed {
        Some(query) => writeln!(f, "\n== completed {}\n{query}", stream.name),
        None => Ok(()),
    }
}

fn print_step(f: &mut Formatter<'_>, step: &Step) -> Result {
    writeln!(f, "\n{}", format!("== step {}", step.title).trim_end())?;
    print_statements(f, &step.statements)?;
    for expectation in &step.expectations {
        writeln!(f, "\n== expect {}", expectation.stream)?;
        expectation.rows.iter().try_for_each(|row| writeln!(f, "{row}"))?;
    }
    Ok(())
}

fn print_statements(f: &mut Formatter<'_>, statements: &[Statement]) -> Result {
    for statement in statements {
        if statement.session != 1 {
            write!(f, "@{} ", statement.session)?;
        }
        if let Expected::Error(state) = &statement.outcome {
            write!(f, "!{} ", state.as_deref().unwrap_or_default())?;
        }
        writeln!(f, "{}", statement.sql)?;
        if let Some(data) = &statement.copy {
            writeln!(f, "{data}\\.")?;
        }
    }
    Ok(())
}
