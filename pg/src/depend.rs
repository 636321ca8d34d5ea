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

/// Makes the relation part of the extension: dumps leave it out, and it goes with the extension.
pub fn join_extension(relid: u32) {
    // SAFETY: the addresses are copied into the catalog row.
    unsafe {
        let extension = pg_sys::ObjectAddress {
            classId: pg_sys::ExtensionRelationId,
            objectId: pg_sys::get_extension_oid(c"pg_trickle".as_ptr(), false),
            objectSubId: 0,
        };
        pg_sys::recordDependencyOn(&relation(relid), &extension, pg_sys::DependencyType::DEPENDENCY_EXTENSION);
    }
}

/// Takes [`join_extension`] back, so that the relation can be dropped alone.
pub fn leave_extension(relid: u32) {
    let kind = pg_sys::DependencyType::DEPENDENCY_EXTENSION as std::ffi::c_char;
    // SAFETY: deletes catalog rows by value.
    unsafe {
        let extension = pg_sys::get_extension_oid(c"pg_trickle".as_ptr(), true);
        let (class, relid) = (pg_sys::RelationRelationId, pg_sys::Oid::from(relid));
        pg_sys::deleteDependencyRecordsForSpecific(class, relid, kind, pg_sys::ExtensionRelationId, extension);
    }
}

/// Makes every process, and logical decoding at this point of the WAL, look at the relation's definition again.
pub fn invalidate(relid: u32) {
    // SAFETY: queues a message that is sent when the transaction commits.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(pg_sys::Oid::from(relid)) }
}
