//! Whether what this process does to a stream table at this moment is the extension's own work.

use crate::error::{Error, Result};
use pgtrickle_pg::xact::trigger_depth;
use std::cell::Cell;

thread_local! {
    static WORK: Cell<Option<On>> = const { Cell::new(None) };
}

/// What is worked on: a table, by statements of this depth of triggers.
#[derive(Clone, Copy, PartialEq, Eq)]
struct On {
    relid: u32,
    depth: i32,
}

/// As long as it lives, the table may be changed. An error unwinds, and so drops it.
pub struct Work {
    before: Option<On>,
}

/// Begins work of our own on a table. What the triggers of users do meanwhile is none.
pub fn begin(relid: u32) -> Work {
    Work { before: WORK.replace(Some(On { relid, depth: trigger_depth() })) }
}

/// An error while it is: what is computed in the midst of that would be of changes that are not all told yet, and these would then
/// be applied twice.
pub fn must_rest() -> Result<()> {
    if WORK.get().is_some() { Err(Error::refreshing()) } else { Ok(()) }
}

/// Whether this is such work on a table, and not what a trigger does meanwhile.
pub fn working_on(relid: u32) -> bool {
    WORK.get() == Some(On { relid, depth: trigger_depth() })
}

/// Whether a trigger of this table was fired by such work.
pub fn fired(relid: u32) -> bool {
    WORK.get() == Some(On { relid, depth: trigger_depth() - 1 })
}

impl Drop for Work {
    fn drop(&mut self) {
        WORK.set(self.before);
    }
}
