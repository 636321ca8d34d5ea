//! The transactions of a worker that writes in batches: begun and ended where its loop says, not around a function.

use pgrx::pg_sys;
use std::marker::PhantomData;

/// A transaction of a worker that writes many rows. Ended by [`Transaction::commit`], or by dropping it as an abort.
pub struct Transaction(PhantomData<*mut ()>);

impl Transaction {
    /// Starts one; none is open.
    pub fn start() -> Self {
        // SAFETY: outside of any transaction.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
        }
        Transaction(PhantomData)
    }

    /// Commits it.
    pub fn commit(self) {
        std::mem::forget(self);
        // SAFETY: the transaction that start began.
        unsafe { pg_sys::CommitTransactionCommand() }
    }

    /// Runs `work` with a snapshot, for SQL.
    pub fn with_snapshot<T>(&self, work: impl FnOnce() -> T) -> T {
        // SAFETY: push and pop pair up; on an error the transaction is aborted, which pops it.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
        let result = work();
        // SAFETY: as above.
        unsafe { pg_sys::PopActiveSnapshot() };
        result
    }

    /// Makes sure that its commit is logged even if it wrote nothing else.
    pub fn assign_xid(&self) {
        // SAFETY: inside of a transaction.
        unsafe { pg_sys::GetTopTransactionId() };
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // During an error's unwinding the process's own handler aborts; aborting twice is harmless, but not here.
        if !std::thread::panicking() {
            // SAFETY: the transaction that start began.
            unsafe { pg_sys::AbortCurrentTransaction() }
        }
    }
}
