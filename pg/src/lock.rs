//! Heavyweight locks on relations and on stream tables.

use crate::table;
use pgrx::pg_sys;

fn oid(relid: u32) -> pg_sys::Oid {
    pg_sys::Oid::from(relid)
}

/// Locks a relation, and what inherits from it or is a partition of it, against DROP, TRUNCATE and rewriting ALTER until the
/// transaction ends; waits for its turn. False when the relation no longer exists.
pub fn access_share(relid: u32) -> bool {
    // SAFETY: any OID may be locked; the syscache then tells whether there is such a relation.
    unsafe {
        pg_sys::LockRelationOid(oid(relid), pg_sys::AccessShareLock as i32);
        relation_exists(relid) && {
            if has_children(relid) {
                table::with_children(oid(relid));
            }
            true
        }
    }
}

/// Locks a relation as whoever writes its rows; waits for its turn.
pub fn row_exclusive(relid: u32) {
    // SAFETY: any OID may be locked.
    unsafe { pg_sys::LockRelationOid(oid(relid), pg_sys::RowExclusiveLock as i32) }
}

/// As [`access_share`], if there is nothing to wait for.
pub fn try_access_share(relid: u32) -> bool {
    // SAFETY: as above.
    let lock = |relid| unsafe { pg_sys::ConditionalLockRelationOid(relid, pg_sys::AccessShareLock as i32) };
    lock(oid(relid))
        && relation_exists(relid)
        && (!has_children(relid) || table::family(oid(relid)).into_iter().all(lock))
}

/// Whether anything inherits, or may do so, from a relation that exists.
fn has_children(relid: u32) -> bool {
    // SAFETY: a syscache lookup of a relation that is locked.
    unsafe { crate::bindings::has_subclass(oid(relid)) }
}

/// Locks a relation exclusively if nobody else uses it at this moment.
pub fn try_access_exclusive(relid: u32) -> bool {
    // SAFETY: any OID may be locked.
    unsafe { pg_sys::ConditionalLockRelationOid(oid(relid), pg_sys::AccessExclusiveLock as i32) }
}

/// Locks a table against writers and against definitions until the transaction ends; readers go on. An error if a statement
/// of this session is at work on it.
pub fn against_writers(relid: u32) {
    // SAFETY: the relation is opened under the lock that was taken first, and closed without giving that back.
    unsafe {
        pg_sys::LockRelationOid(oid(relid), pg_sys::ShareRowExclusiveLock as i32);
        let rel = pg_sys::relation_open(oid(relid), pg_sys::NoLock as i32);
        pg_sys::CheckTableNotInUse(rel, c"pgtrickle.create_stream_table or alter_stream_table".as_ptr());
        pg_sys::relation_close(rel, pg_sys::NoLock as i32);
    }
}

/// Whether a relation with this OID exists.
pub fn relation_exists(relid: u32) -> bool {
    // SAFETY: a syscache probe by OID.
    unsafe {
        pg_sys::SearchSysCacheExists(
            pg_sys::SysCacheIdentifier::RELOID as i32,
            pg_sys::Datum::from(oid(relid)),
            pg_sys::Datum::from(0),
            pg_sys::Datum::from(0),
            pg_sys::Datum::from(0),
        )
    }
}

/// Waits until every transaction that may have written the relation, or a partition of it, before now has ended, as CREATE
/// INDEX CONCURRENTLY does. Takes no lock and blocks nobody.
pub fn wait_for_writers(relid: u32) {
    for part in table::parts(relid) {
        let tag = pg_sys::LOCKTAG {
            locktag_field1: crate::spi::my_database_id(),
            locktag_field2: part.to_u32(),
            locktag_field3: 0,
            locktag_field4: 0,
            locktag_type: pg_sys::LockTagType::LOCKTAG_RELATION as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        };
        // SAFETY: the tag is that of SET_LOCKTAG_RELATION for a relation of this database.
        unsafe { pg_sys::WaitForLockers(tag, pg_sys::ShareLock as i32, false) }
    }
}

/// The lock that one refresh of a stream table holds until its transaction ends: an object lock in the class of the
/// catalog table, so that it can collide with nothing else. Waits for its turn.
pub fn stream_table(catalog_relid: u32, pgt_id: i64) {
    // SAFETY: object locks may name any object; the id serves as the object's number.
    unsafe { pg_sys::LockDatabaseObject(oid(catalog_relid), oid(pgt_id as u32), 0, pg_sys::ExclusiveLock as i32) }
}

/// As [`stream_table`], if there is nothing to wait for.
pub fn try_stream_table(catalog_relid: u32, pgt_id: i64) -> bool {
    // SAFETY: as above.
    unsafe {
        pg_sys::ConditionalLockDatabaseObject(oid(catalog_relid), oid(pgt_id as u32), 0, pg_sys::ExclusiveLock as i32)
    }
}

/// Held until the transaction ends by whoever redefines what a stream table's query means, together with others.
pub fn redefinition(catalog_relid: u32, pgt_id: i64) {
    // SAFETY: as above; the refresh lock is of number 0.
    unsafe { pg_sys::LockDatabaseObject(oid(catalog_relid), oid(pgt_id as u32), 1, pg_sys::ShareLock as i32) }
}

/// Waits until everybody who has redefined what a stream table's query means has told what changed, and hears it. Others see the
/// rows of a transaction (`ProcArrayEndTransaction`) before it sends its invalidations, and only then it gives back its locks.
/// (The lock on its id does not tell: a row may have been written by a subtransaction, whose id is unlocked before.)
pub fn redefinitions_told(catalog_relid: u32, pgt_id: i64) {
    let (class, object, mode) = (oid(catalog_relid), oid(pgt_id as u32), pg_sys::ExclusiveLock as i32);
    // SAFETY: as above. Taking the lock accepts invalidations; it is given back at once.
    unsafe {
        pg_sys::LockDatabaseObject(class, object, 1, mode);
        pg_sys::UnlockDatabaseObject(class, object, 1, mode);
    }
}
