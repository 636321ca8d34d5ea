//! Running SQL: connections, kept plans, the identity and settings under which statements run.

use crate::snapshot::Snapshot;
use pgrx::pg_sys;
use std::ffi::{CStr, CString};

/// OID of the database that this process is connected to, 0 when there is none.
pub fn my_database_id() -> u32 {
    // SAFETY: a plain variable that PostgreSQL sets once while the process connects.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// An SPI connection. What is staged in it lives as long as it does.
pub struct Connection(());

impl Connection {
    pub fn open() -> Connection {
        // SAFETY: connections nest; each is closed by the matching drop or by the end of the transaction.
        let code = unsafe { pg_sys::SPI_connect() };
        if code != pg_sys::SPI_OK_CONNECT as i32 {
            pgrx::error!("SPI_connect failed with code {code}");
        }
        Connection(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: the innermost connection is ours. While an error unwinds, the abort closes it.
            unsafe { pg_sys::SPI_finish() };
        }
    }
}

/// A statement planned once and kept for the life of the process. It must be made, and run, inside a [`Connection`]
/// in which every ephemeral relation that it reads is registered.
pub struct Plan(pg_sys::SPIPlanPtr);

impl Plan {
    /// Plans `sql`, whose parameters have the types `types`.
    pub fn prepare(sql: &str, types: &[pg_sys::Oid]) -> Plan {
        Plan::prepare_with(sql, types, 0)
    }

    /// The same where workers may take part, as they may in REFRESH MATERIALIZED VIEW: for queries that read much.
    pub fn prepare_for_workers(sql: &str) -> Plan {
        Plan::prepare_with(sql, &[], pg_sys::CURSOR_OPT_PARALLEL_OK as i32)
    }

    fn prepare_with(sql: &str, types: &[pg_sys::Oid], options: i32) -> Plan {
        let text = CString::new(sql).unwrap_or_else(|_| pgrx::error!("a statement contains a zero byte"));
        let mut types = types.to_vec();
        // SAFETY: SPI copies text and types into the plan; SPI_keepplan moves it to a context that outlives us.
        unsafe {
            let plan = pg_sys::SPI_prepare_cursor(text.as_ptr(), types.len() as i32, types.as_mut_ptr(), options);
            if plan.is_null() {
                let code = pg_sys::SPI_result;
                pgrx::error!("could not plan a statement: SPI code {code}");
            }
            pg_sys::SPI_keepplan(plan);
            Plan(plan)
        }
    }

    /// Runs a statement that changes data under `snapshot`; rows that it wrote are seen by the next one.
    /// Returns the number of rows processed; NULL parameters are `None`.
    pub fn execute(&self, snapshot: &Snapshot, values: &[Option<pg_sys::Datum>]) -> u64 {
        let mut datums: Vec<pg_sys::Datum> = values.iter().map(|v| v.unwrap_or(pg_sys::Datum::from(0))).collect();
        let nulls: Vec<u8> = values.iter().map(|v| if v.is_none() { b'n' } else { b' ' }).chain([0]).collect();
        // SAFETY: as many values as the plan has parameters; SPI copies what it keeps.
        unsafe {
            let code = pg_sys::SPI_execute_snapshot(
                self.0,
                datums.as_mut_ptr(),
                nulls.as_ptr().cast(),
                snapshot.as_ptr(),
                std::ptr::null_mut(),
                false,
                true,
                0,
            );
            if code < 0 {
                pgrx::error!("a statement failed with SPI code {code}");
            }
            if !pg_sys::SPI_tuptable.is_null() {
                pg_sys::SPI_freetuptable(pg_sys::SPI_tuptable);
            }
            pg_sys::SPI_processed
        }
    }

    /// Runs a query under `snapshot`; the text of the first column of its first row, None if there is no row or it is
    /// NULL there.
    pub fn first_text(&self, snapshot: &Snapshot) -> Option<String> {
        snapshot.active(|| {
            // SAFETY: the row table is ours until the next SPI call; the text is copied out of it.
            unsafe {
                let code = pg_sys::SPI_execute_plan(self.0, std::ptr::null_mut(), std::ptr::null(), true, 1);
                if code != pg_sys::SPI_OK_SELECT as i32 {
                    pgrx::error!("a query failed with SPI code {code}");
                }
                let table = pg_sys::SPI_tuptable;
                if pg_sys::SPI_processed == 0 {
                    return None;
                }
                let text = pg_sys::SPI_getvalue(*(*table).vals, (*table).tupdesc, 1);
                let copy = (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned());
                pg_sys::SPI_freetuptable(table);
                copy
            }
        })
    }

    /// Runs a query under the active snapshot and sends its rows to `receiver`.
    pub(crate) fn execute_into(&self, receiver: *mut pg_sys::DestReceiver) {
        // SAFETY: the options are read during the call only; the receiver is the caller's.
        unsafe {
            let mut options: pg_sys::SPIExecuteOptions = std::mem::zeroed();
            options.read_only = true;
            options.dest = receiver;
            let code = pg_sys::SPI_execute_plan_extended(self.0, &options);
            if code != pg_sys::SPI_OK_SELECT as i32 {
                pgrx::error!("a query failed with SPI code {code}");
            }
        }
    }

    /// The condition of a query that is a plain scan of `relation`, ready to be evaluated; null if every row fulfils it, or if
    /// the query is not such a scan.
    pub(crate) fn condition_of_scan(&self, relation: u32) -> *mut pg_sys::ExprState {
        // SAFETY: the cached plan is held while looked at and its condition copied. Without a parent, variables of the
        // condition are taken from the context's scan tuple, whose columns are the relation's.
        unsafe {
            let cached = pg_sys::SPI_plan_get_cached_plan(self.0);
            if cached.is_null() {
                return std::ptr::null_mut();
            }
            let planned = pg_sys::list_nth((*cached).stmt_list, 0).cast::<pg_sys::PlannedStmt>();
            let scan = (*planned).planTree.cast::<pg_sys::Scan>();
            let is_scan = (*(*planned).planTree).type_ == pg_sys::NodeTag::T_SeqScan && (*planned).subplans.is_null();
            let read = |scan: *mut pg_sys::Scan| {
                let entry = pg_sys::list_nth((*planned).rtable, (*scan).scanrelid as i32 - 1);
                (*entry.cast::<pg_sys::RangeTblEntry>()).relid.to_u32()
            };
            let condition = if is_scan && read(scan) == relation { (*scan).plan.qual } else { std::ptr::null_mut() };
            let condition = pg_sys::copyObjectImpl(condition.cast()).cast::<pg_sys::List>();
            pg_sys::ReleaseCachedPlan(cached, pg_sys::CurrentResourceOwner);
            pg_sys::ExecInitQual(condition, std::ptr::null_mut())
        }
    }

    /// How many rows the planner expects of the query.
    pub fn expected_rows(&self) -> f64 {
        // SAFETY: the cached plan is held while looked at.
        unsafe {
            let cached = pg_sys::SPI_plan_get_cached_plan(self.0);
            if cached.is_null() {
                return f64::INFINITY;
            }
            let planned = pg_sys::list_nth((*cached).stmt_list, 0).cast::<pg_sys::PlannedStmt>();
            let rows = (*(*planned).planTree).plan_rows;
            pg_sys::ReleaseCachedPlan(cached, pg_sys::CurrentResourceOwner);
            rows
        }
    }

    /// A copy of the row type that the query returns.
    pub(crate) fn result_desc(&self) -> pg_sys::TupleDesc {
        // SAFETY: a plan of one statement has one source, whose descriptor is copied into the current context.
        unsafe {
            let sources = pg_sys::SPI_plan_get_plan_sources(self.0);
            let source = pg_sys::list_nth(sources, 0).cast::<pg_sys::CachedPlanSource>();
            pg_sys::CreateTupleDescCopy((*source).resultDesc)
        }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: kept by us and not freed before. A leaked plan is harmless.
            unsafe { pg_sys::SPI_freeplan(self.0) };
        }
    }
}

/// The role that statements run as, put back when dropped (an aborting transaction puts it back by itself).
pub struct RunAs {
    role: pg_sys::Oid,
    context: i32,
}

impl RunAs {
    /// Run as `role` in a context in which it cannot change session state or define what outlives the statement.
    pub fn restricted(role: u32) -> RunAs {
        Self::switch(role, (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION) as i32)
    }

    /// Run as `role`.
    pub fn role(role: u32) -> RunAs {
        Self::switch(role, pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32)
    }

    fn switch(role: u32, flags: i32) -> RunAs {
        let (mut old, mut context) = (pg_sys::InvalidOid, 0);
        // SAFETY: reads and sets process-wide variables, restored by Drop or by the abort of the transaction.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut old, &mut context);
            pg_sys::SetUserIdAndSecContext(pg_sys::Oid::from(role), context | flags);
        }
        RunAs { role: old, context }
    }
}

impl Drop for RunAs {
    fn drop(&mut self) {
        // SAFETY: the values that were in force before.
        unsafe { pg_sys::SetUserIdAndSecContext(self.role, self.context) }
    }
}

/// Settings that hold until dropped, as those of a function's SET clause.
pub struct LocalSettings(i32);

impl LocalSettings {
    pub fn new(settings: &[(&CStr, &CStr)]) -> LocalSettings {
        // SAFETY: the nest level is left by Drop or by the abort of the transaction.
        unsafe {
            let level = pg_sys::NewGUCNestLevel();
            for (name, value) in settings {
                pg_sys::set_config_option(
                    name.as_ptr(),
                    value.as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
            LocalSettings(level)
        }
    }
}

impl Drop for LocalSettings {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: the level that we opened.
            unsafe { pg_sys::AtEOXact_GUC(true, self.0) }
        }
    }
}

/// The value of a setting as SHOW tells it; None if there is no such setting.
pub fn setting(name: &CStr) -> Option<String> {
    // SAFETY: a null result is checked; the text is copied before anything can change it.
    unsafe {
        let text = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}

/// The setting `work_mem`, in kilobytes.
pub fn work_mem_kb() -> i32 {
    // SAFETY: reads a process-wide variable.
    unsafe { pg_sys::work_mem }
}

/// The role in whose name the current statement runs.
pub fn current_role() -> u32 {
    // SAFETY: reads a process-wide variable.
    unsafe { pg_sys::GetUserId() }.to_u32()
}

/// Whether `role` owns the relation or has the rights of its owner.
pub fn owns_relation(relid: u32, role: u32) -> bool {
    // SAFETY: a catalog lookup.
    unsafe {
        let (relid, role) = (pg_sys::Oid::from(relid), pg_sys::Oid::from(role));
        #[cfg(feature = "pg15")]
        return pg_sys::pg_class_ownercheck(relid, role);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_ownercheck(pg_sys::RelationRelationId, relid, role);
    }
}
