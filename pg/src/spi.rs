//! Running SQL, and the process-wide facts that go with it.

use pgrx::pg_sys;

/// OID of the database that this process is connected to, 0 when there is none.
pub fn my_database_id() -> u32 {
    // SAFETY: a plain variable that PostgreSQL sets once while the process connects.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}
