//! Rows of tables of ours, read and replaced without planner and executor: to start those takes many times longer than to read
//! a row.

use crate::memory::Context;
use crate::nodes::text;
use crate::snapshot::Snapshot;
use crate::{class, table};
use pgrx::{FromDatum, PgSqlErrorCode, pg_sys};
use std::ffi::CStr;

/// A table of ours.
pub struct Table {
    pub schema: &'static CStr,
    pub name: &'static str,
    /// The columns that are read, best in the table's order.
    pub columns: &'static [&'static CStr],
}

/// The rows that have one of some values in a column, which is the first one of an index of the table's schema.
pub struct Key<'a> {
    pub index: &'static str,
    pub column: &'static CStr,
    pub values: Values<'a>,
}

/// The values of a key.
pub enum Values<'a> {
    Bigint(&'a [i64]),
    Oid(&'a [u32]),
}

/// A row while it is read.
pub struct Row<'a> {
    tuple: &'a pg_sys::HeapTupleData,
    desc: pg_sys::TupleDesc,
    /// Of the columns that are read.
    places: &'a [usize],
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Row<'_> {
    /// The value of the column at this place of [`Table::columns`]; None if it is NULL.
    pub fn get<T: FromDatum>(&self, place: usize) -> Option<T> {
        let at = self.places[place];
        // SAFETY: the caller names the column's type, as it does for the results of a query.
        unsafe { T::from_datum(self.values[at], self.nulls[at]) }
    }

    /// The same value as it is printed.
    pub fn text(&self, place: usize) -> Option<String> {
        let at = self.places[place];
        (!self.nulls[at]).then(|| {
            let (mut print, mut is_varlena) = (pg_sys::InvalidOid, false);
            // SAFETY: the value is of the type whose function prints it; the text is copied.
            unsafe {
                pg_sys::getTypeOutputInfo((*table::attribute(self.desc, at)).atttypid, &mut print, &mut is_varlena);
                text(pg_sys::OidOutputFunctionCall(print, self.values[at]))
            }
        })
    }

    /// The same row with other values in the columns that are read.
    fn with(&self, given: Vec<Option<pg_sys::Datum>>) -> pg_sys::HeapTuple {
        let (mut values, mut nulls) = (self.values.clone(), self.nulls.clone());
        let mut replaced = vec![false; nulls.len()];
        for (&place, value) in self.places.iter().zip(given) {
            (values[place], nulls[place], replaced[place]) = (value.unwrap_or(0.into()), value.is_none(), true);
        }
        let (values, nulls, replaced) = (values.as_mut_ptr(), nulls.as_mut_ptr(), replaced.as_mut_ptr());
        // SAFETY: as many of each as the row has columns; the tuple is copied.
        unsafe {
            pg_sys::heap_modify_tuple(std::ptr::from_ref(self.tuple).cast_mut(), self.desc, values, nulls, replaced)
        }
    }

    /// The transaction that wrote it.
    pub fn xmin(&self) -> u32 {
        // SAFETY: a tuple on a page has this field.
        unsafe { (*self.tuple.t_data).t_choice.t_heap.t_xmin }.into()
    }
}

impl Table {
    /// What `read` makes of the rows with this key, or of all, as a new snapshot shows them and this transaction has written them.
    pub fn read<T>(&self, key: Option<&Key>, read: impl FnMut(&Row<'_>) -> T) -> Vec<T> {
        Snapshot::latest().active(|| self.read_here(key, read))
    }

    /// The same under the active snapshot.
    pub fn read_here<T>(&self, key: Option<&Key>, mut read: impl FnMut(&Row<'_>) -> T) -> Vec<T> {
        let mut rows = Vec::new();
        // SAFETY: nothing but the row is used.
        unsafe { self.visit(key, pg_sys::AccessShareLock, |_, row| rows.push(read(row))) };
        rows
    }

    /// Gives the columns of the row with this key, if there is one, the values that `change` says: they are of the columns' types
    /// and pass the table's constraints. Waits for whoever is changing the row.
    pub fn replace(&self, key: &Key, change: impl Fn(&Row<'_>) -> Vec<Option<pg_sys::Datum>>) {
        // SAFETY: raises the error that the executor would.
        unsafe { pg_sys::PreventCommandIfReadOnly(c"UPDATE".as_ptr()) };
        let mut is_changed_by_other = true;
        while is_changed_by_other {
            is_changed_by_other = false;
            // SAFETY: once the row is locked nobody else can have changed it.
            let replace = |rel: pg_sys::Relation, row: &Row<'_>| unsafe {
                is_changed_by_other = !lock(rel, row.tuple);
                if !is_changed_by_other {
                    let new = row.with(change(row));
                    pg_sys::CatalogTupleUpdate(rel, &mut (*new).t_self, new);
                }
            };
            // SAFETY: as said there.
            Snapshot::latest().active(|| unsafe { self.visit(Some(key), pg_sys::RowExclusiveLock, replace) });
        }
    }

    /// # Safety
    /// Of the relation, `visitor` may change rows that it is shown.
    unsafe fn visit(&self, key: Option<&Key>, mode: u32, mut visitor: impl FnMut(pg_sys::Relation, &Row<'_>)) {
        let (relid, index) = (self.named(self.name), key.map_or(0, |key| self.named(key.index)));
        let garbage = Context::new(c"pg_trickle catalog");
        // SAFETY: the relation is open and locked while it is read; an error closes it with the transaction. A tuple stays pinned
        // until the next is fetched. The keys are of the index's type.
        garbage.enter(|| unsafe {
            let rel = pg_sys::relation_open(relid.into(), mode as i32);
            let (desc, snapshot) = ((*rel).rd_att, pg_sys::GetActiveSnapshot());
            let (places, width) = (self.places(desc), (*desc).natts as usize);
            let mut scan = |keys: &mut [pg_sys::ScanKeyData]| {
                let (count, keyed) = (keys.len() as i32, !keys.is_empty());
                let scan = pg_sys::systable_beginscan(rel, index.into(), keyed, snapshot, count, keys.as_mut_ptr());
                while let Some(tuple) = pg_sys::systable_getnext(scan).as_ref() {
                    let (mut values, mut nulls) = (vec![pg_sys::Datum::from(0); width], vec![true; width]);
                    let (to, are_null) = (values.as_mut_ptr(), nulls.as_mut_ptr());
                    pg_sys::heap_deform_tuple(std::ptr::from_ref(tuple).cast_mut(), desc, to, are_null);
                    visitor(rel, &Row { tuple, desc, places: &places, values, nulls });
                }
                pg_sys::systable_endscan(scan);
            };
            match key {
                None => scan(&mut []),
                Some(key) => key.equal(desc).into_iter().for_each(|key| scan(&mut [key])),
            }
            pg_sys::relation_close(rel, pg_sys::NoLock as i32);
        });
    }

    fn named(&self, name: &str) -> u32 {
        class::named(self.schema, name).unwrap_or_else(|| {
            missing(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, format!("relation pgtrickle.{name} does not exist"))
        })
    }

    /// Where the columns are.
    ///
    /// # Safety
    /// The descriptor is that of the open table.
    unsafe fn places(&self, desc: pg_sys::TupleDesc) -> Vec<usize> {
        let mut from = 0;
        let place = |name: &&CStr| {
            // SAFETY: the caller's descriptor.
            from = unsafe { place_of(desc, name, from) };
            from
        };
        self.columns.iter().map(place).collect()
    }
}

impl Key<'_> {
    /// What a scan of the index takes, for each value.
    ///
    /// # Safety
    /// The descriptor is that of the open table.
    unsafe fn equal(&self, desc: pg_sys::TupleDesc) -> Vec<pg_sys::ScanKeyData> {
        // SAFETY: the caller's descriptor.
        let number = unsafe { place_of(desc, self.column, 0) } as i16 + 1;
        let equals = |function: u32, value: pg_sys::Datum| {
            // SAFETY: zeros are a key to be initialised.
            let mut key = unsafe { std::mem::zeroed() };
            let strategy = pg_sys::BTEqualStrategyNumber as u16;
            // SAFETY: the function compares values of the column's type.
            unsafe { pg_sys::ScanKeyInit(&mut key, number, strategy, function.into(), value) };
            key
        };
        match self.values {
            Values::Bigint(values) => values.iter().map(|&value| equals(pg_sys::F_INT8EQ, value.into())).collect(),
            Values::Oid(values) => values.iter().map(|&value| equals(pg_sys::F_OIDEQ, value.into())).collect(),
        }
    }
}

/// Locks a row for an update; false if somebody else has changed it.
///
/// # Safety
/// A tuple of the open relation.
unsafe fn lock(rel: pg_sys::Relation, tuple: &pg_sys::HeapTupleData) -> bool {
    // SAFETY: the lock fills in a tuple of ours, whose page it pins.
    unsafe {
        let (mut locked, mut buffer, mut failure): (pg_sys::HeapTupleData, pg_sys::Buffer, _) =
            (std::mem::zeroed(), 0, std::mem::zeroed());
        locked.t_self = tuple.t_self;
        let result = pg_sys::heap_lock_tuple(
            rel,
            &mut locked,
            pg_sys::GetCurrentCommandId(true),
            pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
            pg_sys::LockWaitPolicy::LockWaitBlock,
            false,
            &mut buffer,
            &mut failure,
        );
        pg_sys::ReleaseBuffer(buffer);
        result == pg_sys::TM_Result::TM_Ok
    }
}

/// The place of the column of this name, which is looked for from `from` on first.
///
/// # Safety
/// The descriptor is that of an open relation.
unsafe fn place_of(desc: pg_sys::TupleDesc, name: &CStr, from: usize) -> usize {
    // SAFETY: the caller's descriptor; names are C strings.
    let is_named = |at: &usize| unsafe {
        let attribute = &*table::attribute(desc, *at);
        !attribute.attisdropped && CStr::from_ptr(attribute.attname.data.as_ptr()) == name
    };
    // SAFETY: as above.
    let width = unsafe { (*desc).natts } as usize;
    let found = (from..width).chain(0..from).find(is_named);
    found.unwrap_or_else(|| {
        missing(PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN, format!("column {name:?} of the catalog does not exist"))
    })
}

/// The extension's objects are those of another version, or just being dropped.
fn missing(code: PgSqlErrorCode, message: String) -> ! {
    pgrx::ereport!(ERROR, code, message);
}
