//! Dependencies between objects, and effects of definition changes that SQL cannot ask for.

use pgrx::pg_sys;

fn relation(relid: u32) -> pg_sys::ObjectAddress {
    pg_sys::ObjectAddress { classId: pg_sys::RelationRelationId, objectId: pg_sys::Oid::from(relid), objectSubId: 0 }
}

/// `dependent` cannot outlive `on`: dropping `on` needs CASCADE and drops it, too.
pub fn needs(dependent: u32, on: u32) {
    let kind = pg_sys::DependencyType::DEPENDENCY_NORMAL;
    // SAFETY: both addresses are copied into the catalog row.
    unsafe { pg_sys::recordDependencyOn(&relation(dependent), &relation(on), kind) }
}

/// Takes [`needs`] back.
pub fn release(dependent: u32, from: u32) {
    let class = pg_sys::RelationRelationId;
    let kind = pg_sys::DependencyType::DEPENDENCY_NORMAL as std::ffi::c_char;
    // SAFETY: deletes catalog rows by value.
    unsafe {
        let (dependent, from) = (pg_sys::Oid::from(dependent), pg_sys::Oid::from(from));
        pg_sys::deleteDependencyRecordsForSpecific(class, dependent, kind, class, from);
    }
}

/// Makes every process, and logical decoding at this point of the WAL, look at the relation's definition again.
pub fn invalidate(relid: u32) {
    // SAFETY: queues a message that is sent when the transaction commits.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(pg_sys::Oid::from(relid)) }
}
