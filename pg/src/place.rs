//! Errors about a text say where in it. PostgreSQL's own position is for the statement that the client sent, and is lost on
//! the way through Rust.

use crate::xact::Failure;
use pgrx::PgTryBuilder;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::panic::AssertUnwindSafe;

/// How much of a line is shown.
const SHOWN: usize = 40;

thread_local! {
    /// Of the last error, counted in characters from one; 0 if it has none.
    static POSITION: Cell<usize> = const { Cell::new(0) };
}

/// Puts the list of callbacks back, however `noting` ends.
struct Previous(*mut pg_sys::ErrorContextCallback);

impl Drop for Previous {
    fn drop(&mut self) {
        // SAFETY: whoever pushed callbacks since has popped them.
        unsafe { pg_sys::error_context_stack = self.0 };
    }
}

/// Runs `work`, which parses or analyses `text`.
pub fn within<R>(text: &CStr, work: impl FnOnce() -> R) -> R {
    POSITION.set(0);
    PgTryBuilder::new(AssertUnwindSafe(|| noting(work)))
        .catch_others(|error| match place(&text.to_string_lossy(), POSITION.take()) {
            Some(place) => {
                let failure = Failure::from_caught(error);
                let detail = failure.detail.into_iter().chain([place]).collect::<Vec<_>>().join("\n");
                Failure { detail: Some(detail), ..failure }.raise()
            }
            None => error.rethrow(),
        })
        .execute()
}

/// Runs `work`; the position of an error in it is noted.
fn noting<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: the callback outlives `_previous`, which takes it off the list, also when an error unwinds.
    unsafe {
        let previous = pg_sys::error_context_stack;
        let mut callback = pg_sys::ErrorContextCallback { previous, callback: Some(note), arg: std::ptr::null_mut() };
        pg_sys::error_context_stack = &raw mut callback;
        let _previous = Previous(previous);
        work()
    }
}

/// Called by PostgreSQL while it puts an error together.
unsafe extern "C-unwind" fn note(_: *mut c_void) {
    // SAFETY: an error is being put together.
    POSITION.set(usize::try_from(unsafe { pg_sys::geterrposition() }).unwrap_or(0));
}

/// The line of the character at this position, counted from one, and what stands there.
fn place(text: &str, position: usize) -> Option<String> {
    let (at, _) = text.char_indices().chain([(text.len(), '\n')]).nth(position.checked_sub(1)?)?;
    let (before, after) = text.split_at(at);
    let line = before.matches('\n').count() + 1;
    let rest = after.lines().next().unwrap_or_default();
    let shown: String = rest.chars().take(SHOWN).collect();
    let more = if shown.len() < rest.len() { "…" } else { "" };
    Some(match rest {
        "" => format!("At the end of line {line} of the query."),
        _ => format!("In line {line} of the query, at: {shown}{more}"),
    })
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn the_line_and_what_stands_there() {
        let text = "SELECT ä,\n  b FROM t,\n";
        let at = |position| place(text, position);
        assert_eq!(at(8).as_deref(), Some("In line 1 of the query, at: ä,"));
        assert_eq!(at(13).as_deref(), Some("In line 2 of the query, at: b FROM t,"));
        assert_eq!(at(23).as_deref(), Some("At the end of line 3 of the query."));
        assert_eq!((at(0), at(24)), (None, None));
        let long = place(&format!("SELECT {}", "x".repeat(90)), 8);
        assert_eq!(long, Some(format!("In line 1 of the query, at: {}…", "x".repeat(40))));
    }
}
