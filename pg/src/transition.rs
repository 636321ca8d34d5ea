//! Statement triggers and their transition tables: what a statement has done to a table, as weighted rows.

use crate::staging::{Looked, Staged, register};
use pgrx::pg_sys;
use std::collections::BTreeSet;
use std::rc::Rc;

/// One firing of a trigger.
pub struct Firing<'a>(&'a pg_sys::TriggerData);

impl<'a> Firing<'a> {
    pub fn of(data: &'a pg_sys::TriggerData) -> Firing<'a> {
        Firing(data)
    }

    /// The table named in the statement.
    pub fn relid(&self) -> u32 {
        // SAFETY: the relation is open while its triggers fire.
        unsafe { (*self.0.tg_relation).rd_id }.to_u32()
    }

    pub fn is_before(&self) -> bool {
        self.0.tg_event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_BEFORE
    }

    pub fn truncates(&self) -> bool {
        self.0.tg_event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_TRUNCATE
    }

    /// Whether the statement has changed any rows.
    pub fn has_rows(&self) -> bool {
        // SAFETY: the transition tables live until the statement's triggers have fired.
        [self.0.tg_oldtable, self.0.tg_newtable]
            .into_iter()
            .any(|t| !t.is_null() && unsafe { pg_sys::tuplestore_tuple_count(t) } > 0)
    }

    /// Whether it is about one row.
    pub fn is_for_row(&self) -> bool {
        self.0.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0
    }
}

/// When a trigger fires, by what `session_replication_role` says.
#[derive(Clone, Copy)]
pub enum Fires {
    /// Always, even for what replication writes.
    Always,
    /// Only for what replication writes.
    Replica,
}

/// Says when a trigger of a table fires, and those of its partitions that are made of it. The table is locked already.
pub fn set_firing(relid: u32, trigger: &str, when: Fires) {
    let name = std::ffi::CString::new(trigger).unwrap_or_default();
    let when = match when {
        Fires::Always => pg_sys::TRIGGER_FIRES_ALWAYS,
        Fires::Replica => pg_sys::TRIGGER_FIRES_ON_REPLICA,
    } as std::ffi::c_char;
    let mode = pg_sys::ShareRowExclusiveLock as i32;
    // SAFETY: the relation is open and locked; the name is a C string that outlives the call.
    unsafe {
        let rel = pg_sys::relation_open(pg_sys::Oid::from(relid), mode);
        #[cfg(feature = "pg15")]
        pg_sys::EnableDisableTriggerNew(rel, name.as_ptr(), when, false, true, mode);
        #[cfg(not(feature = "pg15"))]
        pg_sys::EnableDisableTrigger(rel, name.as_ptr(), pg_sys::InvalidOid, when, false, true, mode);
        pg_sys::relation_close(rel, pg_sys::NoLock as i32);
        pg_sys::CommandCounterIncrement();
    }
}

/// Changes of one table: column `w`, the weight, then `c1`, `c2`, … by attribute number. A column that is dropped or not
/// looked at is NULL but has its place, so that plans hold when columns come and go.
///
/// It lives until dropped, at the latest until the top-level transaction ends.
pub struct Batch {
    store: *mut pg_sys::Tuplestorestate,
    desc: pg_sys::TupleDesc,
    rows: u64,
}

/// Attributes of a row type: name, number, place, whether it is dropped.
unsafe fn attributes<'d>(desc: pg_sys::TupleDesc) -> impl Iterator<Item = &'d pg_sys::FormData_pg_attribute> {
    // SAFETY: the caller's descriptor outlives the iterator.
    unsafe { (0..(*desc).natts as usize).map(move |at| &*crate::table::attribute(desc, at)) }
}

fn name(attribute: &pg_sys::FormData_pg_attribute) -> &std::ffi::CStr {
    // SAFETY: a name is a C string.
    unsafe { std::ffi::CStr::from_ptr(attribute.attname.data.as_ptr()) }
}

/// Runs `work` with memory and files that last until the top-level transaction ends, whichever subtransaction begins them.
fn for_transaction<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: both are put back; an error in between ends the (sub)transaction, which sets them itself.
    unsafe {
        let (context, owner) =
            (pg_sys::MemoryContextSwitchTo(pg_sys::TopTransactionContext), pg_sys::CurrentResourceOwner);
        pg_sys::CurrentResourceOwner = pg_sys::TopTransactionResourceOwner;
        let result = work();
        pg_sys::CurrentResourceOwner = owner;
        pg_sys::MemoryContextSwitchTo(context);
        result
    }
}

impl Batch {
    /// An empty one for changes of the table.
    pub fn of(relid: u32) -> Batch {
        for_transaction(|| {
            // SAFETY: the relation stays open while its descriptor is read.
            unsafe {
                let rel = pg_sys::relation_open(pg_sys::Oid::from(relid), pg_sys::AccessShareLock as i32);
                let desc = described((*rel).rd_att);
                pg_sys::relation_close(rel, pg_sys::NoLock as i32);
                Batch { store: pg_sys::tuplestore_begin_heap(true, false, pg_sys::work_mem), desc, rows: 0 }
            }
        })
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds what the statement has done, as far as the columns `looked` of the table `of` go: the firing's own table, or the
    /// partitioned table that it is a part of.
    pub fn add(&mut self, firing: &Firing<'_>, of: u32, looked: &BTreeSet<i16>) {
        // SAFETY: the transition tables live until the statement's triggers have fired, the relations stay open; slots are
        // dropped before.
        unsafe {
            let from = (*firing.0.tg_relation).rd_att;
            let rel = pg_sys::relation_open(pg_sys::Oid::from(of), pg_sys::AccessShareLock as i32);
            let columns = Columns::new(from, (*rel).rd_att, looked);
            pg_sys::relation_close(rel, pg_sys::NoLock as i32);
            let mut row = Row::of(self.desc);
            let (mut old, mut new) =
                (Reader::open(firing.0.tg_oldtable, from), Reader::open(firing.0.tg_newtable, from));
            loop {
                match (old.next(), new.next()) {
                    (None, None) => break,
                    (Some(old), Some(new)) if columns.same(old, new) => {}
                    (old, new) => {
                        old.into_iter().for_each(|slot| self.put(&columns, slot, -1, &mut row));
                        new.into_iter().for_each(|slot| self.put(&columns, slot, 1, &mut row));
                    }
                }
                if self.rows & 0xfff == 0xfff {
                    pgrx::check_for_interrupts!();
                }
            }
            old.close();
            new.close();
        }
    }

    /// Adds the netted change of a stream table, columns `c1`..`cn` and `w`, which are its columns of these numbers.
    pub fn add_staged(&mut self, staged: &Staged, numbers: &[i16]) {
        // SAFETY: the store and its descriptor live as long as `staged`; values are copied.
        unsafe {
            let (store, desc) = staged.parts();
            let Some(weight) = attributes(desc).position(|a| name(a) == c"w") else { return };
            let place =
                |at: usize| attributes(desc).position(|a| name(a).to_bytes() == format!("c{}", at + 1).as_bytes());
            let places: Vec<Option<usize>> = (0..numbers.len()).map(place).collect();
            let mut row = Row::of(self.desc);
            let mut reader = Reader::open(store, desc);
            while let Some(slot) = reader.next() {
                pg_sys::slot_getsomeattrs_int(slot, (*desc).natts);
                let (values, nulls) = ((*slot).tts_values, (*slot).tts_isnull);
                row.set(0, *values.add(weight), false);
                for (&number, place) in numbers.iter().zip(&places) {
                    let Some(place) = *place else { continue };
                    row.set(number as usize, *values.add(place), *nulls.add(place));
                }
                self.put_row(&mut row);
            }
            reader.close();
        }
    }

    /// Adds the rows of another batch of the same table.
    pub fn append(&mut self, other: &Batch) {
        // SAFETY: both stores are ours.
        unsafe {
            let mut reader = Reader::open(other.store, other.desc);
            while let Some(slot) = reader.next() {
                pg_sys::tuplestore_puttupleslot(self.store, slot);
                self.rows += 1;
            }
            reader.close();
        }
    }

    /// # Safety
    /// The slot has a row of the columns' table.
    unsafe fn put(&mut self, columns: &Columns, slot: *mut pg_sys::TupleTableSlot, weight: i64, row: &mut Row) {
        row.set(0, pg_sys::Datum::from(weight), false);
        // SAFETY: so many attributes are taken apart.
        unsafe {
            pg_sys::slot_getsomeattrs_int(slot, columns.width);
            for (number, looked) in &columns.looked {
                let (value, null) = (*(*slot).tts_values.add(looked.at), *(*slot).tts_isnull.add(looked.at));
                row.set(*number as usize, value, null);
            }
        }
        self.put_row(row);
    }

    fn put_row(&mut self, row: &mut Row) {
        // SAFETY: as many values as the descriptor has columns; they are copied.
        unsafe { pg_sys::tuplestore_putvalues(self.store, self.desc, row.values.as_mut_ptr(), row.nulls.as_mut_ptr()) };
        self.rows += 1;
    }
}

/// Makes the rows of a batch readable under `name` in the current SPI connection. The planner is told `estimate` rows.
pub fn stage(batch: &Rc<Batch>, name: &str, estimate: f64) -> Staged {
    register(name, batch.store, batch.desc, estimate);
    Staged::borrowed(batch.clone(), batch.store, batch.desc, batch.rows)
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by us; while an error unwinds, the end of the transaction frees memory and files.
            unsafe {
                pg_sys::tuplestore_end(self.store);
                pg_sys::FreeTupleDesc(self.desc);
            }
        }
    }
}

/// The row type of a batch of changes of a table with this one. Domains are their base types, as in change buffers.
unsafe fn described(of: pg_sys::TupleDesc) -> pg_sys::TupleDesc {
    // SAFETY: the caller's descriptor; there is a place for each of its attributes.
    unsafe {
        let desc = pg_sys::CreateTemplateTupleDesc((*of).natts + 1);
        pg_sys::TupleDescInitEntry(desc, 1, c"w".as_ptr(), pg_sys::INT8OID, -1, 0);
        for attribute in attributes(of) {
            let column = std::ffi::CString::new(format!("c{}", attribute.attnum)).unwrap_or_default();
            let (mut ty, mut modifier) = (pg_sys::INT4OID, -1);
            if !attribute.attisdropped {
                modifier = attribute.atttypmod;
                ty = pg_sys::getBaseTypeAndTypmod(attribute.atttypid, &mut modifier);
            }
            let place = attribute.attnum + 1;
            pg_sys::TupleDescInitEntry(desc, place, column.as_ptr(), ty, modifier, 0);
            if !attribute.attisdropped {
                pg_sys::TupleDescInitEntryCollation(desc, place, attribute.attcollation);
            }
        }
        desc
    }
}

/// The columns that readers look at: their numbers, and where the firing's table has them.
struct Columns {
    looked: Vec<(i16, Looked)>,
    /// So many attributes of a row are needed.
    width: i32,
}

impl Columns {
    /// A partition's columns have the names, not always the numbers, of the whole table's.
    ///
    /// # Safety
    /// Both are descriptors of open relations.
    unsafe fn new(from: pg_sys::TupleDesc, of: pg_sys::TupleDesc, looked: &BTreeSet<i16>) -> Columns {
        // SAFETY: the caller's descriptors.
        let looked: Vec<(i16, Looked)> = unsafe {
            attributes(of)
                .filter(|a| !a.attisdropped && looked.contains(&a.attnum))
                .filter_map(|a| {
                    let at = match from == of {
                        true => a.attnum as usize - 1,
                        false => attributes(from).position(|own| !own.attisdropped && name(own) == name(a))?,
                    };
                    Some((a.attnum, Looked { at, by_value: a.attbyval, length: a.attlen }))
                })
                .collect()
        };
        let width = looked.iter().map(|(_, looked)| looked.at as i32 + 1).max().unwrap_or(0);
        Columns { looked, width }
    }

    /// Whether two rows are the same as far as these columns go. An update gives its old and new rows in the same order;
    /// leaving out equal rows of opposite weight is right in any.
    ///
    /// # Safety
    /// The slots have rows of the table.
    unsafe fn same(&self, a: *mut pg_sys::TupleTableSlot, b: *mut pg_sys::TupleTableSlot) -> bool {
        // SAFETY: so many attributes are taken apart in both.
        unsafe {
            pg_sys::slot_getsomeattrs_int(a, self.width);
            pg_sys::slot_getsomeattrs_int(b, self.width);
            self.looked.iter().all(|(_, column)| column.same_in(&*a, &*b))
        }
    }
}

/// The values of one row of a batch, all NULL at first.
struct Row {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Row {
    fn of(desc: pg_sys::TupleDesc) -> Row {
        // SAFETY: the batch's own descriptor.
        let width = unsafe { (*desc).natts } as usize;
        Row { values: vec![pg_sys::Datum::from(0); width], nulls: vec![true; width] }
    }

    fn set(&mut self, at: usize, value: pg_sys::Datum, null: bool) {
        self.values[at] = value;
        self.nulls[at] = null;
    }
}

/// Reads a tuplestore from its beginning with a read pointer of its own.
struct Reader {
    store: *mut pg_sys::Tuplestorestate,
    slot: *mut pg_sys::TupleTableSlot,
    pointer: i32,
}

impl Reader {
    /// A store that is not there is empty.
    ///
    /// # Safety
    /// The store, if there is one, has rows of this type and outlives the reader.
    unsafe fn open(store: *mut pg_sys::Tuplestorestate, desc: pg_sys::TupleDesc) -> Reader {
        let mut reader = Reader { store, slot: std::ptr::null_mut(), pointer: 0 };
        if !store.is_null() {
            // SAFETY: the caller's store; a new pointer leaves those of other readers alone.
            unsafe {
                reader.pointer = pg_sys::tuplestore_alloc_read_pointer(store, pg_sys::EXEC_FLAG_REWIND as i32);
                pg_sys::tuplestore_select_read_pointer(store, reader.pointer);
                pg_sys::tuplestore_rescan(store);
                reader.slot = pg_sys::MakeSingleTupleTableSlot(desc, &raw const pg_sys::TTSOpsMinimalTuple);
            }
        }
        reader
    }

    /// The next row, valid until the next call.
    ///
    /// # Safety
    /// As for [`Reader::open`].
    unsafe fn next(&mut self) -> Option<*mut pg_sys::TupleTableSlot> {
        if self.store.is_null() {
            return None;
        }
        // SAFETY: the slot copies what the store may drop; nobody else moves the pointer in between.
        unsafe {
            pg_sys::tuplestore_select_read_pointer(self.store, self.pointer);
            pg_sys::tuplestore_gettupleslot(self.store, true, true, self.slot).then_some(self.slot)
        }
    }

    /// # Safety
    /// As for [`Reader::open`].
    unsafe fn close(self) {
        if !self.store.is_null() {
            // SAFETY: the slot is ours; the first pointer is the one that a store begins with.
            unsafe {
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
                pg_sys::tuplestore_select_read_pointer(self.store, 0);
            }
        }
    }
}
