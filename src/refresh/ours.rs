//! Whether what this process does to stream tables at this moment is the extension's own work.

use std::cell::Cell;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// As long as it lives, stream tables may be changed. An error unwinds, and so drops it.
pub struct Work(());

/// Begins work of our own.
pub fn begin() -> Work {
    DEPTH.set(DEPTH.get() + 1);
    Work(())
}

/// Whether such work is being done.
pub fn working() -> bool {
    DEPTH.get() > 0
}

impl Drop for Work {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}
