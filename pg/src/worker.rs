//! Background workers: starting, signals, identity, exit.

use crate::bindings::raw;
use crate::spi::setting;
use pgrx::pg_sys;
use std::ffi::{CStr, c_int};
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

/// Whether the server is loading `shared_preload_libraries` right now.
pub fn preloading() -> bool {
    // SAFETY: a plain variable of the postmaster.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Whether the server is being upgraded by pg_upgrade, which wants nothing to run.
pub fn upgrading() -> bool {
    // SAFETY: a plain variable of the postmaster, inherited by every process.
    unsafe { pg_sys::IsBinaryUpgrade }
}

/// Whether the server is a standby, or recovering.
pub fn in_recovery() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// First thing in a worker: SIGTERM ends it at the next check for interrupts, SIGHUP asks for a config reload.
pub fn handle_signals() {
    // SAFETY: both handlers are PostgreSQL's own, made for this; nothing here can raise.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        use pg_sys::pqsignal as set;
        #[cfg(feature = "pg18")]
        use pg_sys::pqsignal_be as set;
        set(libc::SIGTERM, Some(raw::die));
        set(libc::SIGHUP, Some(raw::SignalHandlerForConfigReload));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// Connects the worker to a database, as the bootstrap superuser, even if it allows nobody else.
pub fn connect(dboid: u32) {
    let flags = pg_sys::BGWORKER_BYPASS_ALLOWCONN;
    // SAFETY: called once per worker, before any other use of the database.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(pg_sys::Oid::from(dboid), pg_sys::Oid::INVALID, flags) }
}

/// Ends this worker, which had nothing to do.
pub fn end() -> ! {
    // SAFETY: runs what is to be run at exit; Rust values on the stack are given up with the process.
    unsafe { pg_sys::proc_exit(0) };
    #[allow(unreachable_code)]
    {
        unreachable!("the process has ended")
    }
}

/// Asks another process of this server to end, as `pg_terminate_backend` does.
pub fn terminate(pid: i32) {
    // SAFETY: sends a signal; that the process may be gone is fine.
    unsafe { libc::kill(pid, libc::SIGTERM) };
}

/// Whether a process of this server with this id is there.
pub fn is_backend(pid: i32) -> bool {
    // SAFETY: looks into shared memory.
    unsafe { !pg_sys::BackendPidGetProc(pid).is_null() }
}

/// Takes a place in shared memory that is held by process id, where 0 is free. Who was terminated has not given its place back.
pub fn take_place(holder: &AtomicI32) -> bool {
    let pid = holder.load(Acquire);
    if pid != 0 && !is_backend(pid) {
        let _ = holder.compare_exchange(pid, 0, AcqRel, Relaxed);
    }
    holder.compare_exchange(0, self::pid(), AcqRel, Relaxed).is_ok()
}

/// Sets a setting for the life of this process, with a superuser's rights.
pub fn set_config(name: &CStr, value: &CStr) {
    // SAFETY: both strings are copied; an unknown name is an error that becomes a panic.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
        );
    }
}

/// Settings that a database or role may carry and that must not reach a worker: it acts in nobody else's name, its transactions are
/// as long as the data wants, they write, and an error is not the end.
pub fn neutralise_settings() {
    set_config(c"role", c"none");
    set_config(c"exit_on_error", c"off");
    set_config(c"row_security", c"on");
    if setting(c"restrict_nonsystem_relation_kind").is_some() {
        set_config(c"restrict_nonsystem_relation_kind", c"");
    }
    for name in [c"lock_timeout", c"statement_timeout", c"transaction_timeout"] {
        if setting(name).is_some() {
            set_config(name, c"0");
        }
    }
    set_config(c"default_transaction_read_only", c"off");
    set_config(c"default_transaction_deferrable", c"off");
    set_config(c"default_transaction_isolation", c"read committed");
    set_config(c"search_path", c"pg_catalog");
}

/// Commits of this process do not wait for the disk, nor for standbys.
pub fn commit_asynchronously() {
    set_config(c"synchronous_commit", c"off");
}

/// What `pg_stat_activity` shows as the worker's query, and whether it is busy with it.
pub fn report_activity(text: &CStr, busy: bool) {
    let state = if busy { pg_sys::BackendState::STATE_RUNNING } else { pg_sys::BackendState::STATE_IDLE };
    // SAFETY: the text is copied into the worker's own status entry.
    unsafe { pg_sys::pgstat_report_activity(state, text.as_ptr()) }
}

/// Handles what is due: an interrupt becomes an error or the end of the process, a pending SIGHUP a config reload.
/// Says whether the configuration was read again.
pub fn attend() -> bool {
    pgrx::check_for_interrupts!();
    // SAFETY: the flag is written by a signal handler of this process, hence volatile.
    unsafe {
        let pending = &raw mut pg_sys::ConfigReloadPending;
        if pending.read_volatile() == 0 {
            return false;
        }
        pending.write_volatile(0);
        pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
    }
    true
}

/// Runs `callback` when this process exits, while shared memory is still attached. It must not raise errors.
pub fn before_exit(callback: fn()) {
    // SAFETY: a fn pointer fits a Datum and is valid for ever.
    unsafe { pg_sys::before_shmem_exit(Some(run_before_exit), pg_sys::Datum::from(callback as usize)) }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn run_before_exit(_code: c_int, callback: pg_sys::Datum) {
    // SAFETY: the datum was made from a `fn()` by before_exit.
    let callback: fn() = unsafe { std::mem::transmute(callback.value()) };
    callback();
}

/// Runs `spawn` with all signals blocked, so that a thread which it starts never runs a signal handler.
pub fn with_signals_blocked<T>(spawn: impl FnOnce() -> T) -> T {
    /// Restores the mask on every way out.
    struct Restore(libc::sigset_t);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: a mask that pthread_sigmask itself filled in.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
        }
    }
    // SAFETY: both sets are filled in before they are read.
    let _restore = unsafe {
        let mut all = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        Restore(before)
    };
    spawn()
}

/// Runs `work` in a transaction of its own, with a snapshot. An error in it leaves the transaction to the worker's exit.
pub fn in_transaction<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the calls pair up; no transaction is open, as the worker's loops are outside of any.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    }
    let result = work();
    // SAFETY: as above.
    unsafe {
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
    }
    result
}

/// This process's pid.
pub fn pid() -> i32 {
    // SAFETY: a plain variable, set once when the process starts.
    unsafe { pg_sys::MyProcPid }
}

/// Microseconds since 2000-01-01.
pub fn now_us() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Version of the running server, as in `server_version_num`.
pub fn server_version() -> u32 {
    setting(c"server_version_num").and_then(|text| text.parse().ok()).unwrap_or(pg_sys::PG_VERSION_NUM)
}

/// Version of the system catalogs for which this was built.
pub fn catalog_version() -> u32 {
    pg_sys::CATALOG_VERSION_NO
}

/// The cluster's system identifier.
pub fn system_identifier() -> u64 {
    // SAFETY: reads the control data, which every process has.
    unsafe { pg_sys::GetSystemIdentifier() }
}

/// Tells whoever listens on `channel`, once the current transaction commits.
pub fn notify(channel: &CStr, payload: &CStr) {
    // SAFETY: both are copied.
    unsafe { crate::bindings::Async_Notify(channel.as_ptr(), payload.as_ptr()) }
}

/// Passes the statistics of the tables that this process uses on, as often as PostgreSQL wants them. Outside of any
/// transaction.
pub fn report_statistics() {
    // SAFETY: no transaction is open.
    unsafe { pg_sys::pgstat_report_stat(false) };
}
