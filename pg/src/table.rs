//! What relations are like.

use crate::expr::Expr;
use crate::nodes::{length, pointers, text};
use crate::query::Scratch;
use crate::types::TypeRef;
use pgrx::pg_sys;

/// A relation, as its catalog entries describe it.
#[derive(Debug, Clone)]
pub struct Relation {
    pub relid: pg_sys::Oid,
    pub schema: String,
    pub name: String,
    pub namespace: pg_sys::Oid,
    pub relkind: char,
    pub owner: pg_sys::Oid,
    /// `p`ermanent, `u`nlogged or `t`emporary.
    pub persistence: char,
    /// An ordinary table of another access method than heap.
    pub other_method: bool,
    /// A partition of another table.
    pub is_partition: bool,
    /// May have inheritance children.
    pub has_children: bool,
    /// Row security is enabled on it.
    pub row_security: bool,
    /// By position in the row, dropped columns left out.
    pub columns: Vec<Column>,
    /// The columns of a primary key, by attribute number.
    pub primary_key: Option<Vec<i16>>,
}

/// A column of a relation.
#[derive(Debug, Clone)]
pub struct Column {
    pub number: i16,
    pub name: String,
    pub ty: TypeRef,
    /// Has a NOT NULL constraint that all rows have been checked against.
    pub not_null: bool,
    /// Computed when read (PostgreSQL 18), so never stored nor logged.
    pub generated_virtual: bool,
}

impl Relation {
    /// Describes a relation, which the caller has locked.
    pub fn describe(relid: pg_sys::Oid) -> Relation {
        // SAFETY: the relation is open while it is read; an error in between closes it with the transaction.
        unsafe {
            let relation = pg_sys::relation_open(relid, pg_sys::AccessShareLock as _);
            let class = &*(*relation).rd_rel;
            let described = Relation {
                relid,
                schema: text(pg_sys::get_namespace_name(class.relnamespace)),
                name: text(class.relname.data.as_ptr()),
                namespace: class.relnamespace,
                relkind: class.relkind as u8 as char,
                owner: class.relowner,
                persistence: class.relpersistence as u8 as char,
                other_method: class.relkind as u8 == pg_sys::RELKIND_RELATION
                    && class.relam != pg_sys::HEAP_TABLE_AM_OID,
                is_partition: class.relispartition,
                has_children: class.relhassubclass,
                row_security: class.relrowsecurity,
                columns: columns((*relation).rd_att),
                primary_key: primary_key(relation),
            };
            pg_sys::relation_close(relation, pg_sys::NoLock as _);
            described
        }
    }

    /// A column by attribute number.
    pub fn column(&self, number: i16) -> Option<&Column> {
        self.columns.iter().find(|column| column.number == number)
    }

    /// Lives in pg_catalog, information_schema or a toast schema.
    pub fn is_system(&self) -> bool {
        ["pg_catalog", "information_schema", "pg_toast"].contains(&self.schema.as_str())
    }
}

/// # Safety
/// `descriptor` belongs to an open relation.
unsafe fn columns(descriptor: pg_sys::TupleDesc) -> Vec<Column> {
    // SAFETY: as the caller says; positions stay below natts.
    unsafe {
        (0..(*descriptor).natts as usize)
            .filter_map(|i| {
                let attribute = &*attribute(descriptor, i);
                (!attribute.attisdropped).then(|| Column {
                    number: attribute.attnum,
                    name: text(attribute.attname.data.as_ptr()),
                    ty: TypeRef {
                        oid: attribute.atttypid,
                        typmod: attribute.atttypmod,
                        collation: attribute.attcollation,
                    },
                    not_null: attribute.attnotnull && !null_unchecked(descriptor, i),
                    generated_virtual: attribute.attgenerated as u8 == b'v',
                })
            })
            .collect()
    }
}

#[cfg(feature = "pg18")]
pub(crate) unsafe fn attribute(descriptor: pg_sys::TupleDesc, i: usize) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: the full attributes follow the compact ones, as TupleDescAttr computes it.
    unsafe {
        let compact = (*descriptor).compact_attrs.as_ptr();
        compact.add((*descriptor).natts as usize).cast::<pg_sys::FormData_pg_attribute>().add(i)
    }
}

#[cfg(not(feature = "pg18"))]
pub(crate) unsafe fn attribute(descriptor: pg_sys::TupleDesc, i: usize) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: attrs has natts entries.
    unsafe { (*descriptor).attrs.as_ptr().add(i) }
}

/// PostgreSQL 18 has NOT NULL constraints that were added NOT VALID: old rows may break them.
#[cfg(feature = "pg18")]
unsafe fn null_unchecked(descriptor: pg_sys::TupleDesc, i: usize) -> bool {
    // SAFETY: compact_attrs has natts entries.
    unsafe { (*(*descriptor).compact_attrs.as_ptr().add(i)).attnullability as u8 != b'v' }
}

#[cfg(not(feature = "pg18"))]
unsafe fn null_unchecked(_: pg_sys::TupleDesc, _: usize) -> bool {
    false
}

/// # Safety
/// `relation` is open.
unsafe fn primary_key(relation: pg_sys::Relation) -> Option<Vec<i16>> {
    // SAFETY: the index stays open while its columns are copied.
    unsafe {
        // Fills in rd_pkindex.
        pg_sys::list_free(pg_sys::RelationGetIndexList(relation));
        if (*relation).rd_pkindex == pg_sys::InvalidOid {
            return None;
        }
        let index = pg_sys::index_open((*relation).rd_pkindex, pg_sys::AccessShareLock as _);
        let form = &*(*index).rd_index;
        // WITHOUT OVERLAPS is enforced by an exclusion: its columns need not be unique. Within a transaction those of a key that is
        // deferrable need not be either; from PostgreSQL 17 on it is found here, too.
        let usable = form.indisvalid && form.indimmediate && !form.indisexclusion;
        let columns = form.indkey.values.as_slice(form.indnkeyatts as usize).to_vec();
        pg_sys::index_close(index, pg_sys::NoLock as _);
        usable.then_some(columns)
    }
}

unsafe extern "C-unwind" {
    fn find_all_inheritors(
        parent: pg_sys::Oid,
        lock_mode: pg_sys::LOCKMODE,
        parents: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::List;
}

/// A table and all that inherit from it, locked.
pub fn with_children(relid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    inheritors(relid, pg_sys::AccessShareLock as pg_sys::LOCKMODE)
}

/// A table and all that inherit from it at this moment.
pub fn family(relid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    inheritors(relid, pg_sys::NoLock as pg_sys::LOCKMODE)
}

/// Where a table's rows are: itself, and its partitions. Who writes one of them directly has locked no other.
pub fn parts(relid: u32) -> Vec<pg_sys::Oid> {
    let relid = pg_sys::Oid::from(relid);
    if is_partitioned(relid) { family(relid) } else { vec![relid] }
}

fn inheritors(relid: pg_sys::Oid, mode: pg_sys::LOCKMODE) -> Vec<pg_sys::Oid> {
    // SAFETY: the declaration is that of pg_inherits.h; the list holds OIDs and is freed with its memory context.
    unsafe {
        let list = pg_sys::ffi::pg_guard_ffi_boundary(|| find_all_inheritors(relid, mode, std::ptr::null_mut()));
        let all = (0..length(list)).map(|i| (*(*list).elements.add(i)).oid_value);
        // Temporary ones are seen by their session alone.
        all.filter(|&relid| pg_sys::get_rel_persistence(relid) as u8 != pg_sys::RELPERSISTENCE_TEMP).collect()
    }
}

unsafe extern "C-unwind" {
    fn RelationGetPartitionQual(relation: pg_sys::Relation) -> *mut pg_sys::List;
}

/// The conditions that tell a partition's rows from those of the whole table; its columns are those of range table entry 1.
pub fn partition_condition<'q>(_: &'q Scratch, relid: pg_sys::Oid) -> Vec<Expr<'q>> {
    // SAFETY: the declaration is that of partcache.h; the list is a copy of expressions, made in the scratch context.
    unsafe {
        let relation = pg_sys::relation_open(relid, pg_sys::AccessShareLock as _);
        let list = pg_sys::ffi::pg_guard_ffi_boundary(|| RelationGetPartitionQual(relation));
        pg_sys::relation_close(relation, pg_sys::NoLock as _);
        pointers(list).map(|condition| Expr::new(condition)).collect()
    }
}

/// Whether changes of a table are not in the WAL, or not as those of a heap's rows: a foreign or an unlogged one, or one of another
/// access method.
pub fn leaves_no_wal(relid: pg_sys::Oid) -> bool {
    let relation = Relation::describe(relid);
    relation.relkind == 'f' || relation.persistence == 'u' || relation.other_method
}

/// The expression of a virtual generated column; the table's columns are those of range table entry 1.
#[cfg(feature = "pg18")]
pub fn generation_expression<'q>(_: &'q Scratch, relid: pg_sys::Oid, number: i16) -> Option<Expr<'q>> {
    // SAFETY: the relation stays open while its default is copied into the scratch context.
    unsafe {
        let relation = pg_sys::relation_open(relid, pg_sys::AccessShareLock as _);
        let expr = pg_sys::build_generation_expression(relation, number.into());
        pg_sys::relation_close(relation, pg_sys::NoLock as _);
        Some(Expr::new(expr))
    }
}

/// Older versions have no virtual generated columns.
#[cfg(not(feature = "pg18"))]
pub fn generation_expression<'q>(_: &'q Scratch, _: pg_sys::Oid, _: i16) -> Option<Expr<'q>> {
    None
}

/// The type of a table's rows.
pub fn row_type(relid: pg_sys::Oid) -> TypeRef {
    // SAFETY: reads the catalog.
    TypeRef { oid: unsafe { pg_sys::get_rel_type_id(relid) }, typmod: -1, collation: pg_sys::InvalidOid }
}

/// The topmost table of which this is a partition; itself if it is none.
pub fn partition_root(relid: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: reads the catalog.
    unsafe {
        if !pg_sys::get_rel_relispartition(relid) {
            return relid;
        }
        pgrx::direct_function_call::<pg_sys::Oid>(pg_sys::pg_partition_root, &[Some(pg_sys::Datum::from(relid))])
            .unwrap_or(relid)
    }
}

/// Whether a user may read these columns (all, if none are named).
pub fn may_read(user: pg_sys::Oid, relid: pg_sys::Oid, columns: &[i16]) -> bool {
    // SAFETY: reads the catalog.
    unsafe {
        let ok = pg_sys::AclResult::ACLCHECK_OK;
        let select = pg_sys::ACL_SELECT as pg_sys::AclMode;
        pg_sys::pg_class_aclcheck(relid, user, select) == ok
            || (!columns.is_empty()
                && columns.iter().all(|&c| pg_sys::pg_attribute_aclcheck(relid, c, user, select) == ok))
    }
}

/// Whether a relation is a partition.
pub fn is_partition(relid: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalog.
    unsafe { pg_sys::get_rel_relispartition(relid) }
}

/// Whether a relation is a partitioned table.
pub fn is_partitioned(relid: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalog.
    unsafe { pg_sys::get_rel_relkind(relid) as u8 == pg_sys::RELKIND_PARTITIONED_TABLE }
}

/// Whether a user may have triggers on a relation.
pub fn may_trigger(user: pg_sys::Oid, relid: pg_sys::Oid) -> bool {
    let right = pg_sys::ACL_TRIGGER as pg_sys::AclMode;
    // SAFETY: reads the catalog.
    unsafe { pg_sys::pg_class_aclcheck(relid, user, right) == pg_sys::AclResult::ACLCHECK_OK }
}

/// The user whose rights count now.
pub fn current_user() -> pg_sys::Oid {
    // SAFETY: reads a variable.
    unsafe { pg_sys::GetUserId() }
}

/// A qualified, quoted name.
pub fn qualified_name(relid: pg_sys::Oid) -> String {
    let relation = Relation::describe(relid);
    quoted(&relation.schema, &relation.name)
}

/// `schema.name`, each quoted where SQL asks for it.
pub fn quoted(schema: &str, name: &str) -> String {
    pgrx::spi::quote_qualified_identifier(schema, name)
}
