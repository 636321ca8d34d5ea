//! The databases of the cluster, who owns them and who is connected to them.

use pgrx::pg_sys;
use std::ffi::{CStr, CString};

/// OIDs of all databases that can have stream tables: not those that come with every server to be copied. In a transaction
/// of its own, in a process that may be connected to none of them.
pub fn all() -> Vec<u32> {
    crate::worker::in_transaction(|| {
        let mut found = Vec::new();
        // SAFETY: pg_database is a shared catalog, readable without a database; its rows begin with the fixed struct.
        unsafe {
            let rel = pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
            let scan = pg_sys::table_beginscan_catalog(rel, 0, std::ptr::null_mut());
            loop {
                let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
                if tuple.is_null() {
                    break;
                }
                let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
                let comes_with_server = (*form).datistemplate && (*form).oid.to_u32() < pg_sys::FirstNormalObjectId;
                // A DROP DATABASE was interrupted.
                let invalid = (*form).datconnlimit == pg_sys::DATCONNLIMIT_INVALID_DB;
                if !comes_with_server && !invalid {
                    found.push((*form).oid.to_u32());
                }
            }
            pg_sys::heap_endscan(scan);
            pg_sys::table_close(rel, pg_sys::AccessShareLock as i32);
        }
        found
    })
}

/// The database of this name, if the current user owns it. In a transaction.
pub fn owned(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: catalog lookups with values of our own.
    unsafe {
        let dboid = pg_sys::get_database_oid(name.as_ptr(), true);
        if dboid == pg_sys::Oid::INVALID {
            return None;
        }
        #[cfg(feature = "pg15")]
        let owner = pg_sys::pg_database_ownercheck(dboid, pg_sys::GetUserId());
        #[cfg(not(feature = "pg15"))]
        let owner = pg_sys::object_ownercheck(pg_sys::DatabaseRelationId, dboid, pg_sys::GetUserId());
        owner.then_some(dboid.to_u32())
    }
}

/// Background workers with such an `application_name` that are connected to a database now.
pub fn workers(dboid: u32, prefix: &CStr) -> Vec<i32> {
    // SAFETY: the entries are copies of our own, valid until the next one is asked for; their texts end with NUL.
    unsafe {
        pg_sys::pgstat_clear_backend_activity_snapshot();
        let entries = (1..=pg_sys::pgstat_fetch_stat_numbackends()).map(|i| {
            #[cfg(feature = "pg15")]
            let entry = pg_sys::pgstat_fetch_stat_local_beentry(i);
            #[cfg(not(feature = "pg15"))]
            let entry = pg_sys::pgstat_get_local_beentry_by_index(i);
            &(*entry).backendStatus
        });
        let wanted = |status: &&pg_sys::PgBackendStatus| {
            status.st_databaseid.to_u32() == dboid
                && status.st_backendType == pg_sys::BackendType::B_BG_WORKER
                && CStr::from_ptr(status.st_appname).to_bytes().starts_with(prefix.to_bytes())
        };
        entries.filter(wanted).map(|status| status.st_procpid).collect()
    }
}

/// Whether names and messages of the current database are UTF-8, or bytes of which nothing is known.
pub fn speaks_utf8() -> bool {
    // SAFETY: reads a process-wide variable.
    let encoding = unsafe { pg_sys::GetDatabaseEncoding() };
    [pg_sys::pg_enc::PG_UTF8, pg_sys::pg_enc::PG_SQL_ASCII].contains(&(encoding as _))
}
