//! Transactions: hooks on their end, and running work in one whose failure is an ordinary value.

use pgrx::pg_sys::panic::{CaughtError, ErrorReport};
use pgrx::{PgLogLevel, PgSqlErrorCode, PgTryBuilder, pg_guard, pg_sys};
use std::ffi::c_void;
use std::panic::AssertUnwindSafe;

/// How many triggers of users' or ours are running, one within another.
pub fn trigger_depth() -> i32 {
    // SAFETY: it takes no arguments and reads a variable of the process.
    unsafe { pgrx::direct_function_call(pg_sys::pg_trigger_depth, &[]).unwrap_or(0) }
}

/// Calls `callback` after every commit of this backend and of those forked from it. It must be quick and must not raise.
pub fn after_commit(callback: fn()) {
    // SAFETY: a fn pointer is as wide as a data pointer and valid for ever.
    unsafe { pg_sys::RegisterXactCallback(Some(run_after_commit), callback as *mut c_void) }
}

#[pg_guard]
unsafe extern "C-unwind" fn run_after_commit(event: pg_sys::XactEvent::Type, callback: *mut c_void) {
    if event == pg_sys::XactEvent::XACT_EVENT_COMMIT {
        // SAFETY: made from a fn() by after_commit.
        let callback: fn() = unsafe { std::mem::transmute(callback) };
        callback();
    }
}

/// Calls `callback` at the end of every transaction of this backend, however it ends. The same conditions.
pub fn at_end(callback: fn()) {
    // SAFETY: as above.
    unsafe { pg_sys::RegisterXactCallback(Some(run_at_end), callback as *mut c_void) }
}

#[pg_guard]
unsafe extern "C-unwind" fn run_at_end(event: pg_sys::XactEvent::Type, callback: *mut c_void) {
    use pg_sys::XactEvent::*;
    if matches!(event, XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE) {
        // SAFETY: made from a fn() by at_end.
        let callback: fn() = unsafe { std::mem::transmute(callback) };
        callback();
    }
}

/// What happens to the current transaction or to one of its subtransactions, which has this nesting level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The transaction is about to commit or to be prepared, which an error still prevents.
    Ending,
    /// It has ended, whichever way.
    Ended,
    SubCommitted(i32),
    SubAborted(i32),
}

/// Calls `callback` at each end of a transaction or subtransaction of this backend from now on.
pub fn at_ends(callback: fn(End)) {
    // SAFETY: a fn pointer is as wide as a data pointer and valid for ever.
    unsafe {
        pg_sys::RegisterXactCallback(Some(run_at_ends), callback as *mut c_void);
        pg_sys::RegisterSubXactCallback(Some(run_at_sub_end), callback as *mut c_void);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn run_at_ends(event: pg_sys::XactEvent::Type, callback: *mut c_void) {
    use pg_sys::XactEvent::*;
    let end = match event {
        XACT_EVENT_PRE_COMMIT | XACT_EVENT_PARALLEL_PRE_COMMIT | XACT_EVENT_PRE_PREPARE => End::Ending,
        _ => End::Ended,
    };
    // SAFETY: made from a fn(End) by at_ends.
    let callback: fn(End) = unsafe { std::mem::transmute(callback) };
    callback(end);
}

#[pg_guard]
unsafe extern "C-unwind" fn run_at_sub_end(
    event: pg_sys::SubXactEvent::Type,
    _own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    callback: *mut c_void,
) {
    // SAFETY: made from a fn(End) by at_ends.
    let callback: fn(End) = unsafe { std::mem::transmute(callback) };
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => callback(End::SubCommitted(nesting())),
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => callback(End::SubAborted(nesting())),
        _ => {}
    }
}

/// The nesting level of the current (sub)transaction; 1 is the transaction itself.
pub fn nesting() -> i32 {
    // SAFETY: reads the state of the current transaction.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() }
}

/// Whether all statements of the current transaction see one snapshot.
pub fn has_one_snapshot() -> bool {
    // SAFETY: reads a process-wide variable.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Calls `callback` whenever this backend prepares a transaction for two-phase commit. The same conditions.
pub fn after_prepare(callback: fn()) {
    // SAFETY: as above.
    unsafe { pg_sys::RegisterXactCallback(Some(run_after_prepare), callback as *mut c_void) }
}

#[pg_guard]
unsafe extern "C-unwind" fn run_after_prepare(event: pg_sys::XactEvent::Type, callback: *mut c_void) {
    if event == pg_sys::XactEvent::XACT_EVENT_PREPARE {
        // SAFETY: made from a fn() by after_prepare.
        let callback: fn() = unsafe { std::mem::transmute(callback) };
        callback();
    }
}

/// Why a transaction was rolled back.
#[derive(Clone, Debug)]
pub struct Failure {
    pub code: PgSqlErrorCode,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl Failure {
    /// Raises it as a PostgreSQL error.
    pub fn raise(self) -> ! {
        let mut report = ErrorReport::new(self.code, self.message, "pg_trickle");
        if let Some(detail) = self.detail {
            report = report.set_detail(detail);
        }
        if let Some(hint) = self.hint {
            report = report.set_hint(hint);
        }
        report.report(PgLogLevel::ERROR);
        unreachable!("reporting an error does not return")
    }

    /// What is told of a caught error.
    pub fn from_caught(error: CaughtError) -> Failure {
        let (CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. }) = error;
        Failure {
            code: report.sql_error_code(),
            message: report.message().to_owned(),
            detail: report.detail().map(str::to_owned),
            hint: report.hint().map(str::to_owned),
        }
    }
}

/// The SQLSTATE of an error that was caught.
pub fn failure_code(error: &CaughtError) -> PgSqlErrorCode {
    let (CaughtError::PostgresError(report)
    | CaughtError::ErrorReport(report)
    | CaughtError::RustPanic { ereport: report, .. }) = error;
    report.sql_error_code()
}

/// Runs `work` in a transaction of its own, with a snapshot; any error, PostgreSQL's or the work's own, rolls it back.
/// For worker processes, outside of any transaction.
pub fn attempt<T, E: Into<Failure>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, Failure> {
    let result = PgTryBuilder::new(AssertUnwindSafe(|| {
        // SAFETY: the calls pair up, or the abort below makes up for them.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        let value = work().map_err(Into::into)?;
        // SAFETY: as above.
        unsafe {
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
        }
        Ok(value)
    }))
    .catch_others(|error| Err(Failure::from_caught(error)))
    .catch_rust_panic(|error| Err(Failure::from_caught(error)))
    .execute();
    if result.is_err() {
        // SAFETY: harmless when no transaction is open.
        unsafe { pg_sys::AbortCurrentTransaction() };
    }
    result
}

/// Runs `work`; an error of PostgreSQL becomes what `tell` makes of it, with which the transaction must still end.
pub fn telling<T, E>(work: impl FnOnce() -> Result<T, E>, tell: impl FnOnce(Failure) -> E) -> Result<T, E> {
    let caught = PgTryBuilder::new(AssertUnwindSafe(|| Ok(work())))
        .catch_others(|error| Err(Failure::from_caught(error)))
        .execute();
    caught.unwrap_or_else(|failure| Err(tell(failure)))
}

/// Runs `work` in a subtransaction and rolls that back: locks that it took are released, what it wrote is undone.
pub fn undone<T>(work: impl FnOnce() -> T) -> T {
    let subtransaction = Subtransaction::begin();
    let result = std::panic::catch_unwind(AssertUnwindSafe(work));
    subtransaction.roll_back();
    result.unwrap_or_else(|error| std::panic::resume_unwind(error))
}

/// Runs `work` in a subtransaction, which any error rolls back: the work's own, within, or PostgreSQL's, without.
pub fn or_undone<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<Result<T, E>, Box<CaughtError>> {
    let subtransaction = Subtransaction::begin();
    let result = PgTryBuilder::new(AssertUnwindSafe(|| Ok(work())))
        .catch_others(|error| Err(Box::new(error)))
        .catch_rust_panic(|error| Err(Box::new(error)))
        .execute();
    match result {
        Ok(Ok(_)) => subtransaction.release(),
        _ => subtransaction.roll_back(),
    }
    result
}

/// One that was begun, with what is the caller's again at its end, as PL/pgSQL restores it.
struct Subtransaction {
    context: pg_sys::MemoryContext,
    owner: pg_sys::ResourceOwner,
}

impl Subtransaction {
    fn begin() -> Subtransaction {
        // SAFETY: whoever begins it ends it, however the work in between ends.
        unsafe {
            let begun = Subtransaction { context: pg_sys::CurrentMemoryContext, owner: pg_sys::CurrentResourceOwner };
            pg_sys::BeginInternalSubTransaction(std::ptr::null());
            pg_sys::MemoryContextSwitchTo(begun.context);
            begun
        }
    }

    fn release(self) {
        // SAFETY: it is the innermost one, as all that was begun in it has ended.
        unsafe { pg_sys::ReleaseCurrentSubTransaction() };
        self.restore();
    }

    fn roll_back(self) {
        // SAFETY: as above.
        unsafe { pg_sys::RollbackAndReleaseCurrentSubTransaction() };
        self.restore();
    }

    fn restore(self) {
        // SAFETY: both were current when it was begun, and outlive it.
        unsafe {
            pg_sys::MemoryContextSwitchTo(self.context);
            pg_sys::CurrentResourceOwner = self.owner;
        }
    }
}
