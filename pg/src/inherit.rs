//! Inheritance between tables: as it was before the current command; partitions that are about to leave.

use crate::bindings;
use pgrx::pg_sys;

/// What a table inherited from, a partition from its partitioned table, even if the current command has dropped it.
pub fn parents_before_drop(relid: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    // SAFETY: the scan ends before the catalog is closed; the parent is an oid and never null. Any version of a row
    // counts, deleted ones included, hence the snapshot.
    unsafe {
        let lock = pg_sys::AccessShareLock as i32;
        let catalog = pg_sys::table_open(pg_sys::Oid::from(bindings::InheritsRelationId), lock);
        let mut key: pg_sys::ScanKeyData = std::mem::zeroed();
        let (attnum, equal) = (bindings::Anum_pg_inherits_inhrelid as i16, pg_sys::BTEqualStrategyNumber as u16);
        let child = pg_sys::Datum::from(pg_sys::Oid::from(relid));
        pg_sys::ScanKeyInit(&mut key, attnum, equal, pg_sys::Oid::from(pg_sys::F_OIDEQ), child);
        let index = pg_sys::Oid::from(bindings::InheritsRelidSeqnoIndexId);
        let snapshot = &raw mut pg_sys::SnapshotAnyData;
        let scan = pg_sys::systable_beginscan(catalog, index, true, snapshot, 1, &mut key);
        loop {
            let row = pg_sys::systable_getnext(scan);
            if row.is_null() {
                break;
            }
            let (attnum, mut null) = (bindings::Anum_pg_inherits_inhparent as i32, false);
            let parent = pg_sys::heap_getattr(row, attnum, (*catalog).rd_att, &mut null);
            parents.push(parent.value() as u32);
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, lock);
    }
    parents
}

/// Whether DETACH PARTITION CONCURRENTLY is under way (or was cancelled) somewhere below a partitioned table: the partition
/// has left for snapshots that are newer than its first transaction, though no command has ended yet. The caller holds a lock on
/// the table.
pub fn is_detaching(relid: u32) -> bool {
    // SAFETY: the relation is closed again; its partition descriptor lives as long as it is open.
    unsafe {
        let lock = pg_sys::AccessShareLock as i32;
        let relation = pg_sys::try_relation_open(pg_sys::Oid::from(relid), lock);
        if relation.is_null() {
            return false;
        }
        let partitioned = (*(*relation).rd_rel).relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE;
        let detaching = partitioned && {
            let partitions = &*pg_sys::RelationGetPartitionDesc(relation, false);
            let below = (0..partitions.nparts as usize)
                .filter(|&i| !*partitions.is_leaf.add(i))
                .map(|i| (*partitions.oids.add(i)).to_u32());
            partitions.detached_exist || below.into_iter().any(is_detaching)
        };
        pg_sys::relation_close(relation, 0);
        detaching
    }
}
