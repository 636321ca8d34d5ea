//! The databases of the cluster, as a worker that is connected to none can see them.

use pgrx::pg_sys;

/// OIDs of all databases that accept connections and are not templates. In a transaction of its own.
pub fn connectable() -> Vec<u32> {
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
                if (*form).datallowconn && !(*form).datistemplate {
                    found.push((*form).oid.to_u32());
                }
            }
            pg_sys::heap_endscan(scan);
            pg_sys::table_close(rel, pg_sys::AccessShareLock as i32);
        }
        found
    })
}
