//! Relations and the tracking table as logical decoding sees them: at the moment of the change, not now.

use crate::bindings;
use crate::tuple::Desc;
use pgrx::{FromDatum, pg_sys};
use std::ffi::CStr;
use std::marker::PhantomData;

/// An open relation.
#[derive(Clone, Copy)]
pub struct Relation<'a>(pg_sys::Relation, PhantomData<&'a ()>);

impl<'a> Relation<'a> {
    /// # Safety
    /// `relation` is open for `'a`.
    pub unsafe fn from_raw(relation: pg_sys::Relation) -> Self {
        Relation(relation, PhantomData)
    }

    fn form(&self) -> &'a pg_sys::FormData_pg_class {
        // SAFETY: open relations have a pg_class row.
        unsafe { &*(*self.0).rd_rel }
    }

    /// Its oid.
    #[inline]
    pub fn oid(&self) -> u32 {
        // SAFETY: open for 'a.
        unsafe { (*self.0).rd_id }.to_u32()
    }

    /// Its name, in the database's encoding.
    pub fn name(&self) -> &'a CStr {
        // SAFETY: a NameData always ends with a NUL.
        unsafe { CStr::from_ptr(self.form().relname.data.as_ptr()) }
    }

    /// Its schema's oid.
    pub fn namespace(&self) -> u32 {
        self.form().relnamespace.to_u32()
    }

    /// Its schema's name.
    pub fn namespace_name(&self) -> Vec<u8> {
        // SAFETY: the result is a palloc'd copy, or null if the schema is gone.
        unsafe {
            let name = pg_sys::get_namespace_name(self.form().relnamespace);
            if name.is_null() { Vec::new() } else { CStr::from_ptr(name).to_bytes().to_vec() }
        }
    }

    /// An ordinary table, which a leaf partition is too.
    pub fn is_table(&self) -> bool {
        self.form().relkind as u8 == pg_sys::RELKIND_RELATION
    }

    /// The root or an inner node of a partitioned table.
    pub fn is_partitioned(&self) -> bool {
        self.form().relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE
    }

    /// Whether old rows are logged whole.
    #[inline]
    pub fn has_full_identity(&self) -> bool {
        self.form().relreplident as u8 == pg_sys::REPLICA_IDENTITY_FULL
    }

    /// Its columns.
    #[inline]
    pub fn desc(&self) -> Desc<'a> {
        // SAFETY: an open relation keeps its descriptor.
        unsafe { Desc::from_raw((*self.0).rd_att) }
    }

    /// The partitioned tables above it, nearest first.
    pub fn ancestors(&self) -> Vec<u32> {
        if !self.form().relispartition {
            return Vec::new();
        }
        // SAFETY: the list is a fresh one of oids.
        unsafe {
            let list = bindings::get_partition_ancestors((*self.0).rd_id);
            if list.is_null() {
                return Vec::new();
            }
            let cells = std::slice::from_raw_parts((*list).elements, (*list).length as usize);
            cells.iter().map(|cell| cell.oid_value.to_u32()).collect()
        }
    }
}

/// A relation that is closed when this goes.
pub struct Opened(pg_sys::Relation);

impl Opened {
    /// The relation with this oid, None if there is none.
    pub fn new(oid: u32) -> Option<Self> {
        // SAFETY: takes a reference that Drop gives back.
        let relation = unsafe { pg_sys::RelationIdGetRelation(pg_sys::Oid::from(oid)) };
        (!relation.is_null()).then_some(Opened(relation))
    }

    /// The relation.
    pub fn get(&self) -> Relation<'_> {
        Relation(self.0, PhantomData)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: opened by new, closed once.
        unsafe { pg_sys::RelationClose(self.0) }
    }
}

/// One row of `pgtrickle.pgt_change_tracking`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracked {
    /// Attribute numbers in the buffer's order.
    pub columns: Vec<i16>,
    /// ACTIVE, or why its changes are not wanted.
    pub state: String,
    /// When its capture began (anew), µs since 2000-01-01.
    pub since: i64,
}

/// What the tracking table says of a source, None if nothing. As a user catalog table it can be read while decoding.
pub fn tracked(source: u32) -> Option<Tracked> {
    // SAFETY: only lookups by name; the strings are static.
    let table = unsafe {
        let schema = pg_sys::get_namespace_oid(c"pgtrickle".as_ptr(), true);
        match schema {
            pg_sys::Oid::INVALID => pg_sys::Oid::INVALID,
            schema => pg_sys::get_relname_relid(c"pgt_change_tracking".as_ptr(), schema),
        }
    };
    let table = Opened::new(table.to_u32())?;
    let position = |name: &str| table.get().desc().columns().position(|c| !c.dropped && c.name == name.as_bytes());
    let (source_at, columns_at, state_at) = (position("source_relid")?, position("columns")?, position("state")?);
    let since_at = position("tracked_at")?;
    // SAFETY: the scan is over before the table is closed; datums are copied before the scan moves on.
    unsafe {
        let mut key: pg_sys::ScanKeyData = std::mem::zeroed();
        let source = pg_sys::Datum::from(pg_sys::Oid::from(source));
        let equal = pg_sys::BTEqualStrategyNumber as u16;
        pg_sys::ScanKeyInit(&mut key, source_at as i16 + 1, equal, pg_sys::Oid::from(pg_sys::F_OIDEQ), source);
        let index = pg_sys::RelationGetReplicaIndex(table.0);
        let usable = index != pg_sys::Oid::INVALID;
        let scan = pg_sys::systable_beginscan(table.0, index, usable, std::ptr::null_mut(), 1, &mut key);
        let row = pg_sys::systable_getnext(scan);
        let found = (!row.is_null()).then(|| {
            let value = |at: usize| {
                let mut null = false;
                let datum = pg_sys::heap_getattr(row, at as i32 + 1, (*table.0).rd_att, &mut null);
                (datum, null)
            };
            let ((columns, no_columns), (state, no_state)) = (value(columns_at), value(state_at));
            let columns = Vec::<Option<i16>>::from_datum(columns, no_columns).unwrap_or_default();
            Tracked {
                // No column has the number 0, so what cannot be right is reported by whoever looks for it.
                columns: columns.into_iter().map(Option::unwrap_or_default).collect(),
                state: String::from_datum(state, no_state).unwrap_or_default(),
                since: value(since_at).0.value() as i64,
            }
        });
        pg_sys::systable_endscan(scan);
        found
    }
}

/// Calls `callback` with the oid of each relation whose cache entry becomes invalid, 0 meaning all of them.
/// For the life of the process: register once.
pub fn on_invalidation(callback: fn(u32)) {
    // SAFETY: a fn pointer fits a Datum and is valid for ever.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(run_on_invalidation), pg_sys::Datum::from(callback as usize)) }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn run_on_invalidation(callback: pg_sys::Datum, relid: pg_sys::Oid) {
    // SAFETY: the datum was made from a `fn(u32)` by on_invalidation.
    let callback: fn(u32) = unsafe { std::mem::transmute(callback.value()) };
    callback(relid.to_u32());
}
