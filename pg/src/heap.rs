//! Writing change buffers: rows are put together in memory and inserted many at a time.
//!
//! A buffer's rows begin with four 8-byte columns, after which a captured row's bytes follow unchanged. So a row is
//! usually *spliced*: header, prefix, bytes. Only when the captured columns are not exactly the buffer's it is taken
//! apart and formed anew.

use crate::bindings::raw;
use crate::memory::Context;
use crate::tuple::{Column, Desc};
use pgrx::pg_sys::{self, Datum};
use std::ffi::CString;
use std::sync::atomic::{AtomicU32, Ordering};

/// Rows that are inserted together.
const ROWS: usize = 1000;
/// Space for them, in 8-byte words. A larger row has it to itself.
const WORDS: usize = 32 * 1024;
/// Columns in front of the captured ones.
const PREFIX_COLUMNS: u16 = 4;
const PREFIX_BYTES: usize = 8 * PREFIX_COLUMNS as usize;
/// Bytes of a tuple header in front of its null bitmap.
const HEADER: usize = std::mem::offset_of!(pg_sys::HeapTupleHeaderData, t_bits);

/// What stands in front of a captured row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Top-level transaction.
    pub xid: u64,
    /// Its commit.
    pub lsn: u64,
    /// Number of the row in it.
    pub seq: i64,
    /// 1 it came, -1 it went, 0 everything is to be read afresh.
    pub weight: i64,
}

/// A captured row, as it travelled.
#[derive(Debug, Clone, Copy)]
pub struct RawRow<'a> {
    /// Attributes.
    pub natts: u16,
    /// Whether some are of variable width.
    pub varwidth: bool,
    /// Null bitmap, empty if no attribute is null.
    pub bitmap: &'a [u8],
    /// The attributes' bytes.
    pub data: &'a [u8],
}

/// A captured column, as it was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// Attribute number in the source.
    pub attnum: i16,
    /// Type.
    pub type_oid: u32,
    /// Type modifier.
    pub typmod: i32,
    /// Length, alignment, passing: what the bytes depend on.
    pub layout: (i16, u8, bool),
}

/// How captured rows become rows of a buffer.
enum Fit {
    /// Exactly the buffer's columns.
    Splice,
    /// For each column of the buffer, where it is in the captured row.
    Form(Form),
}

struct Form {
    captured: pg_sys::TupleDesc,
    places: Vec<Option<usize>>,
    values: Vec<Datum>,
    nulls: Vec<bool>,
    out: Vec<Datum>,
    out_null: Vec<bool>,
}

/// Slots that rows are put into to be inserted. One set serves all buffers: insertion does not look at their columns.
pub struct Slots(Vec<*mut pg_sys::TupleTableSlot>);

impl Slots {
    /// As many as are inserted together. For the life of the process.
    pub fn new() -> Self {
        // SAFETY: everything is allocated for the life of the process.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            let desc = pg_sys::CreateTemplateTupleDesc(0);
            let slot = |_| pg_sys::MakeSingleTupleTableSlot(desc, &raw const pg_sys::TTSOpsHeapTuple);
            let slots = (0..ROWS).map(slot).collect();
            pg_sys::MemoryContextSwitchTo(before);
            Slots(slots)
        }
    }
}

impl Default for Slots {
    fn default() -> Self {
        Slots::new()
    }
}

/// A table that rows are appended to, from its opening to the end of the transaction.
struct Target {
    relation: pg_sys::Relation,
    bulk: pg_sys::BulkInsertState,
}

/// The source whose rows are being inserted, 0 if none are.
static WRITING: AtomicU32 = AtomicU32::new(0);

/// The source whose rows were being inserted when an error ended the transaction.
pub fn blamed_source() -> Option<u32> {
    Some(WRITING.load(Ordering::Relaxed)).filter(|&relid| relid != 0)
}

/// Rows on their way into one buffer.
pub struct Writer {
    /// Whose changes they are.
    source: u32,
    target: Option<Target>,
    fit: Fit,
    /// The buffer's descriptor when `fit` was found out, and who owns it.
    known: Option<(pg_sys::TupleDesc, Context)>,
    heads: Vec<pg_sys::HeapTupleData>,
    /// The rows' tuples. Never grows while it contains any, as `heads` point into it.
    words: Vec<u64>,
    used: usize,
}

/// Why captured rows cannot be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit(
    /// For the operator.
    pub String,
);

impl Writer {
    /// Of a source's buffer, which is not open.
    pub fn new(source: u32) -> Self {
        Writer {
            source,
            target: None,
            fit: Fit::Splice,
            known: None,
            heads: Vec::with_capacity(ROWS),
            words: Vec::new(),
            used: 0,
        }
    }

    /// Whether rows can be written in this transaction.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.target.is_some()
    }

    /// Opens the table for the rest of the transaction, without waiting for a lock unless told to. False if it is
    /// locked or gone.
    pub fn open(&mut self, relid: u32, wait: bool) -> bool {
        let (relid, mode) = (pg_sys::Oid::from(relid), pg_sys::RowExclusiveLock as i32);
        // SAFETY: the relation stays open until close; the lock belongs to the transaction.
        unsafe {
            if wait {
                pg_sys::LockRelationOid(relid, mode);
            } else if !pg_sys::ConditionalLockRelationOid(relid, mode) {
                return false;
            }
            let relation = pg_sys::try_relation_open(relid, pg_sys::NoLock as i32);
            if relation.is_null() {
                return false;
            }
            let bulk = pg_sys::GetBulkInsertState();
            self.target = Some(Target { relation, bulk });
        }
        true
    }

    /// Blocks of the open table.
    pub fn blocks(&self) -> u32 {
        let Some(target) = &self.target else { return 0 };
        // SAFETY: the relation is open.
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(target.relation, pg_sys::ForkNumber::MAIN_FORKNUM) }
    }

    /// Closes the table, keeping its lock. Rows must have been flushed.
    pub fn close(&mut self) {
        let Some(target) = self.target.take() else { return };
        // SAFETY: opened by `open`, closed once.
        unsafe {
            pg_sys::FreeBulkInsertState(target.bulk);
            pg_sys::relation_close(target.relation, pg_sys::NoLock as i32);
        }
    }

    /// Forgets everything about a transaction that was aborted: its tables are closed already.
    pub fn forget(&mut self) {
        self.target = None;
        self.heads.clear();
        self.used = 0;
    }

    /// Finds out how rows with these columns become rows of the open table.
    pub fn fit(&mut self, announced: &[Announced]) -> Result<(), Misfit> {
        let Some(target) = &self.target else { return Ok(()) };
        let kept = Context::new(c"pg_trickle buffer columns");
        // SAFETY: an open relation keeps its descriptor; the copy is as long-lived as `kept`.
        let (columns, copy) = unsafe {
            let desc = (*target.relation).rd_att;
            let copy = kept.enter(|| pg_sys::CreateTupleDescCopyConstr(desc));
            (Desc::from_raw(desc).columns().collect::<Vec<_>>(), copy)
        };
        let columns = &columns[columns.len().min(PREFIX_COLUMNS.into())..];
        let places = columns.iter().map(|c| place(c, announced)).collect::<Result<Vec<_>, _>>()?;
        let exact = places.len() == announced.len() && places.iter().enumerate().all(|(i, p)| *p == Some(i));
        if !exact && announced.iter().any(|a| base_type(a.type_oid) == 0) {
            return Err(Misfit("the type of a captured column was dropped".into()));
        }
        self.fit = if exact { Fit::Splice } else { form(&kept, announced, places) };
        self.known = Some((copy, kept));
        Ok(())
    }

    /// Whether the open table still looks as it did when its fit was found out.
    pub fn fits_still(&self) -> bool {
        let (Some(target), Some((known, _))) = (&self.target, &self.known) else { return false };
        // SAFETY: the relation is open, the copy is ours.
        unsafe { pg_sys::equalTupleDescs((*target.relation).rd_att, *known) }
    }

    /// Adds a row.
    #[inline]
    pub fn put(&mut self, slots: &mut Slots, scratch: &mut Context, prefix: &Prefix, row: &RawRow<'_>) {
        match self.fit {
            Fit::Splice => self.splice(slots, scratch, prefix, row),
            Fit::Form(_) => self.put_formed(slots, scratch, prefix, row),
        }
    }

    /// Adds a row that has only a prefix.
    pub fn put_marker(&mut self, slots: &mut Slots, scratch: &mut Context, prefix: &Prefix) {
        let nothing = RawRow { natts: 0, varwidth: false, bitmap: &[], data: &[] };
        self.splice(slots, scratch, prefix, &nothing);
    }

    /// Space for a tuple of `len` bytes.
    #[inline]
    fn reserve(&mut self, slots: &mut Slots, scratch: &mut Context, len: usize) -> usize {
        let words = len.div_ceil(8);
        if self.used + words > self.words.len() || self.heads.len() == ROWS {
            self.flush(slots, scratch);
            let wanted = words.max(WORDS);
            if self.words.len() < wanted || self.words.len() > wanted.max(4 * WORDS) {
                self.words = vec![0; wanted];
            }
        }
        let at = self.used;
        self.used += words;
        at
    }

    #[inline]
    fn splice(&mut self, slots: &mut Slots, scratch: &mut Context, prefix: &Prefix, row: &RawRow<'_>) {
        let natts = row.natts + PREFIX_COLUMNS;
        let bitmap = if row.bitmap.is_empty() { 0 } else { usize::from(natts).div_ceil(8) };
        let hoff = (HEADER + bitmap).next_multiple_of(8);
        let len = hoff + PREFIX_BYTES + row.data.len();
        let at = self.reserve(slots, scratch, len);
        let tuple = &mut self.words[at..at + len.div_ceil(8)];
        tuple[..hoff / 8].fill(0);
        let body = hoff / 8;
        tuple[body..body + 4].copy_from_slice(&[prefix.xid, prefix.lsn, prefix.seq as u64, prefix.weight as u64]);
        // SAFETY: `tuple` covers `len` bytes; a u64's bytes may be written one by one; the header is plain data.
        unsafe {
            let bytes = std::slice::from_raw_parts_mut(tuple.as_mut_ptr().cast::<u8>(), len);
            shift_bitmap(row.bitmap, &mut bytes[HEADER..HEADER + bitmap]);
            bytes[hoff + PREFIX_BYTES..].copy_from_slice(row.data);
            let header = &mut *tuple.as_mut_ptr().cast::<pg_sys::HeapTupleHeaderData>();
            header.t_infomask2 = natts;
            header.t_infomask = infomask(row);
            header.t_hoff = hoff as u8;
        }
        self.push(at, len);
    }

    #[inline]
    fn push(&mut self, at: usize, len: usize) {
        self.heads.push(pg_sys::HeapTupleData {
            t_len: len as u32,
            t_data: (&raw mut self.words[at]).cast(),
            ..Default::default()
        });
    }

    fn put_formed(&mut self, slots: &mut Slots, scratch: &mut Context, prefix: &Prefix, row: &RawRow<'_>) {
        // A tuple of the captured columns alone is made first, where PostgreSQL can take it apart.
        let bitmap = row.bitmap.len();
        let hoff = (HEADER + bitmap).next_multiple_of(8);
        let mut words = vec![0u64; (hoff + row.data.len()).div_ceil(8)];
        // SAFETY: as in splice; the header is followed by the bitmap and, from hoff on, the data.
        unsafe {
            let bytes = std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), words.len() * 8);
            bytes[HEADER..HEADER + bitmap].copy_from_slice(row.bitmap);
            bytes[hoff..hoff + row.data.len()].copy_from_slice(row.data);
            let header = &mut *words.as_mut_ptr().cast::<pg_sys::HeapTupleHeaderData>();
            header.t_infomask2 = row.natts;
            header.t_infomask = infomask(row);
            header.t_hoff = hoff as u8;
        }
        let (Fit::Form(form), Some(target)) = (&mut self.fit, &self.target) else { return };
        let mut head = pg_sys::HeapTupleData {
            t_len: (hoff + row.data.len()) as u32,
            t_data: words.as_mut_ptr().cast(),
            ..Default::default()
        };
        let prefix = [prefix.xid, prefix.lsn, prefix.seq as u64, prefix.weight as u64];
        let formed = {
            // SAFETY: the arrays have a place per column of their descriptors; the formed tuple is copied below, before
            // its context is reset.
            unsafe {
                pg_sys::heap_deform_tuple(&mut head, form.captured, form.values.as_mut_ptr(), form.nulls.as_mut_ptr());
                for (to, value) in prefix.into_iter().enumerate() {
                    form.out[to] = Datum::from(value);
                }
                for (i, place) in form.places.iter().enumerate() {
                    let to = i + usize::from(PREFIX_COLUMNS);
                    form.out_null[to] = place.is_none_or(|from| form.nulls[from]);
                    form.out[to] = place.map_or(Datum::from(0usize), |from| form.values[from]);
                }
                let desc = (*target.relation).rd_att;
                scratch.enter(|| pg_sys::heap_form_tuple(desc, form.out.as_mut_ptr(), form.out_null.as_mut_ptr()))
            }
        };
        // SAFETY: a tuple just formed, whose bytes are copied word by word from its aligned start.
        let (bytes, len) = unsafe { ((*formed).t_data.cast::<u8>(), (*formed).t_len as usize) };
        // Flushing resets the scratch context, so make room without it first.
        let copy = unsafe { std::slice::from_raw_parts(bytes, len) }.to_vec();
        let at = self.reserve(slots, scratch, len);
        // SAFETY: reserve made room for `len` bytes at `at`.
        unsafe { std::ptr::copy_nonoverlapping(copy.as_ptr(), self.words.as_mut_ptr().add(at).cast::<u8>(), len) };
        // A formed tuple is marked as a composite value of its type, which a slot without columns would refuse.
        self.words[at..at + 2].fill(0);
        self.push(at, len);
    }

    /// Inserts all rows that were put. `scratch` is emptied.
    pub fn flush(&mut self, slots: &mut Slots, scratch: &mut Context) {
        let (Some(target), false) = (&self.target, self.heads.is_empty()) else { return };
        let count = self.heads.len();
        WRITING.store(self.source, Ordering::Relaxed);
        // SAFETY: each slot holds a tuple of ours until the insertion is over; the table is open; what toasting
        // allocates goes to `scratch`.
        unsafe {
            for (head, slot) in self.heads.iter_mut().zip(&slots.0) {
                raw::ExecStoreHeapTuple(head, *slot, false);
            }
            let cid = pg_sys::GetCurrentCommandId(true);
            let (relation, bulk) = (target.relation, target.bulk);
            let (slots, options) = (slots.0.as_mut_ptr(), pg_sys::TABLE_INSERT_SKIP_FSM as i32);
            scratch.enter(|| pg_sys::heap_multi_insert(relation, slots, count as i32, cid, options, bulk));
        }
        WRITING.store(0, Ordering::Relaxed);
        scratch.reset();
        self.heads.clear();
        self.used = 0;
    }
}

/// Where a column of the buffer is in the captured rows.
fn place(column: &Column, announced: &[Announced]) -> Result<Option<usize>, Misfit> {
    let named = |a: &Announced| !column.dropped && column.name == buffer_column(a.attnum);
    let Some(at) = announced.iter().position(named) else { return Ok(None) };
    let a = &announced[at];
    // Buffers have the types beneath domains, whose constraints are none of theirs.
    let base = base_type(a.type_oid);
    if base == 0
        || ![a.type_oid, base].contains(&column.type_oid)
        || a.layout != (column.len, column.align, column.by_value)
    {
        let name = String::from_utf8_lossy(&column.name);
        return Err(Misfit(format!("column {name} of the change buffer has another type than its source")));
    }
    Ok(Some(at))
}

/// The type beneath a domain, the type itself otherwise; 0 if it exists no more.
fn base_type(type_oid: u32) -> u32 {
    let type_oid = pg_sys::Oid::from(type_oid);
    // SAFETY: only catalog lookups.
    unsafe { if pg_sys::get_typisdefined(type_oid) { pg_sys::getBaseType(type_oid).to_u32() } else { 0 } }
}

fn form(kept: &Context, announced: &[Announced], places: Vec<Option<usize>>) -> Fit {
    let captured = kept.enter(|| {
        // SAFETY: the descriptor has a place per announced column; the types exist, as fit has looked.
        unsafe {
            let desc = pg_sys::CreateTemplateTupleDesc(announced.len() as i32);
            for (i, a) in announced.iter().enumerate() {
                let (at, type_oid) = (i as i16 + 1, pg_sys::Oid::from(a.type_oid));
                pg_sys::TupleDescInitEntry(desc, at, std::ptr::null(), type_oid, a.typmod, 0);
            }
            desc
        }
    });
    let datums = |n| vec![Datum::from(0usize); n];
    let columns = places.len() + usize::from(PREFIX_COLUMNS);
    Fit::Form(Form {
        captured,
        values: datums(announced.len()),
        nulls: vec![false; announced.len()],
        out: datums(columns),
        out_null: vec![false; columns],
        places,
    })
}

/// Name of the buffer's column for an attribute of the source.
fn buffer_column(attnum: i16) -> Vec<u8> {
    format!("c{attnum}").into_bytes()
}

/// The flags that say how a row's bytes are to be read.
#[inline]
fn infomask(row: &RawRow<'_>) -> u16 {
    let nulls = if row.bitmap.is_empty() { 0 } else { pg_sys::HEAP_HASNULL };
    let varwidth = if row.varwidth { pg_sys::HEAP_HASVARWIDTH } else { 0 };
    (nulls | varwidth) as u16
}

/// The null bitmap behind four columns that are never null.
#[inline]
fn shift_bitmap(from: &[u8], to: &mut [u8]) {
    let mut carry = 0x0f;
    for (i, byte) in to.iter_mut().enumerate() {
        let bits = from.get(i).copied().unwrap_or(0);
        *byte = carry | bits << 4;
        carry = bits >> 4;
    }
}

/// Blocks of a table that is not locked exclusively and not gone. In a transaction; the lock is given back at once.
pub fn blocks_unless_locked(relid: u32) -> Option<u32> {
    let (relid, mode) = (pg_sys::Oid::from(relid), pg_sys::AccessShareLock as i32);
    // SAFETY: the lock is taken before the relation is opened, and released with it.
    unsafe {
        if !pg_sys::ConditionalLockRelationOid(relid, mode) {
            return None;
        }
        let relation = pg_sys::try_relation_open(relid, pg_sys::NoLock as i32);
        if relation.is_null() {
            pg_sys::UnlockRelationOid(relid, mode);
            return None;
        }
        let blocks = pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM);
        pg_sys::relation_close(relation, mode);
        Some(blocks)
    }
}

/// Oid of a table in a schema, None if there is none. In a transaction.
pub fn find_table(schema: &str, name: &str) -> Option<u32> {
    let (schema, name) = (CString::new(schema).ok()?, CString::new(name).ok()?);
    // SAFETY: both names are only looked up.
    let oid = unsafe {
        match pg_sys::get_namespace_oid(schema.as_ptr(), true) {
            pg_sys::Oid::INVALID => return None,
            schema => pg_sys::get_relname_relid(name.as_ptr(), schema),
        }
    };
    (oid != pg_sys::Oid::INVALID).then(|| oid.to_u32())
}

#[cfg(test)]
mod tests {
    use super::shift_bitmap;

    #[test]
    fn the_bitmap_moves_by_four() {
        let mut to = [0; 2];
        shift_bitmap(&[0b1010_0101], &mut to);
        assert_eq!(to, [0b0101_1111, 0b0000_1010]);
        let mut to = [0; 1];
        shift_bitmap(&[0b0000_1101], &mut to);
        assert_eq!(to, [0b1101_1111]);
    }
}
