//! Tuples, their descriptors, and choosing some of a tuple's columns, as views that cannot outlive what they look at.

use crate::memory::Context;
use pgrx::pg_sys::{self, Datum};
use pgrx::varlena;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// A heap tuple.
#[derive(Clone, Copy)]
pub struct Tuple<'a>(NonNull<pg_sys::HeapTupleData>, PhantomData<&'a ()>);

impl<'a> Tuple<'a> {
    /// # Safety
    /// `tuple` is null or points to a well-formed heap tuple that stays unchanged for `'a`.
    pub unsafe fn from_raw(tuple: pg_sys::HeapTuple) -> Option<Self> {
        NonNull::new(tuple).map(|tuple| Tuple(tuple, PhantomData))
    }

    fn header(&self) -> &'a pg_sys::HeapTupleHeaderData {
        // SAFETY: from_raw's caller promised a well-formed tuple for 'a.
        unsafe { &*self.0.as_ref().t_data }
    }

    /// How many attributes it stores; the table may have gained more since.
    #[inline]
    pub fn natts(&self) -> u16 {
        self.header().t_infomask2 & pg_sys::HEAP_NATTS_MASK as u16
    }

    #[inline]
    fn has(&self, flag: u32) -> bool {
        self.header().t_infomask & flag as u16 != 0
    }

    /// Whether some value is stored outside of the tuple.
    #[inline]
    pub fn has_external(&self) -> bool {
        self.has(pg_sys::HEAP_HASEXTERNAL)
    }

    /// Whether some attribute is of variable width.
    #[inline]
    pub fn has_varwidth(&self) -> bool {
        self.has(pg_sys::HEAP_HASVARWIDTH)
    }

    /// The null bitmap, with what follows it up to the data; None if no attribute is null.
    #[inline]
    pub fn bitmap(&self) -> Option<&'a [u8]> {
        let header = self.header();
        let start = std::mem::offset_of!(pg_sys::HeapTupleHeaderData, t_bits);
        // SAFETY: a tuple with HEAP_HASNULL has its bitmap between the fixed header and t_hoff.
        self.has(pg_sys::HEAP_HASNULL).then(|| unsafe {
            let from = std::ptr::from_ref(header).cast::<u8>().add(start);
            std::slice::from_raw_parts(from, usize::from(header.t_hoff) - start)
        })
    }

    /// The bytes of its attributes.
    #[inline]
    pub fn data(&self) -> &'a [u8] {
        let header = self.header();
        let hoff = usize::from(header.t_hoff);
        // SAFETY: t_len covers header and data of a well-formed tuple.
        unsafe {
            let len = self.0.as_ref().t_len as usize - hoff;
            std::slice::from_raw_parts(std::ptr::from_ref(header).cast::<u8>().add(hoff), len)
        }
    }

    /// Whether both store the same attributes as the same bytes. False may still mean equal values.
    #[inline]
    pub fn same_bytes(&self, other: &Tuple<'_>) -> bool {
        self.natts() == other.natts() && self.bitmap() == other.bitmap() && self.data() == other.data()
    }
}

/// What a catalog row says about one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Attribute number.
    pub attnum: i16,
    /// Name, in the database's encoding.
    pub name: Vec<u8>,
    /// Type oid.
    pub type_oid: u32,
    /// Type modifier.
    pub typmod: i32,
    /// `attlen`.
    pub len: i16,
    /// `attalign`.
    pub align: u8,
    /// `attbyval`.
    pub by_value: bool,
    /// `attnotnull`.
    pub not_null: bool,
    /// `attisdropped`.
    pub dropped: bool,
    /// Generated and stored.
    pub generated_stored: bool,
    /// Generated when read: no tuple carries it.
    pub generated_virtual: bool,
}

/// A tuple descriptor.
#[derive(Clone, Copy)]
pub struct Desc<'a>(NonNull<pg_sys::TupleDescData>, PhantomData<&'a ()>);

impl<'a> Desc<'a> {
    /// # Safety
    /// `desc` points to a descriptor that stays unchanged for `'a`.
    pub unsafe fn from_raw(desc: pg_sys::TupleDesc) -> Self {
        // SAFETY: the caller's promise.
        Desc(unsafe { NonNull::new_unchecked(desc) }, PhantomData)
    }

    /// For calls that ask for one.
    pub fn as_ptr(&self) -> pg_sys::TupleDesc {
        self.0.as_ptr()
    }

    /// Number of columns, dropped ones included.
    pub fn len(&self) -> usize {
        // SAFETY: alive for 'a.
        unsafe { self.0.as_ref().natts as usize }
    }

    /// Whether it has no column.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The column at position `i`, from 0.
    pub fn column(&self, i: usize) -> Column {
        assert!(i < self.len(), "column {i} of {}", self.len());
        // SAFETY: the position was checked; the attribute lives as long as the descriptor.
        let a = unsafe { &*attribute(self.0.as_ptr(), i) };
        // SAFETY: a NameData always ends with a NUL.
        let name = unsafe { CStr::from_ptr(a.attname.data.as_ptr()) };
        Column {
            attnum: a.attnum,
            name: name.to_bytes().to_vec(),
            type_oid: a.atttypid.to_u32(),
            typmod: a.atttypmod,
            len: a.attlen,
            align: a.attalign as u8,
            by_value: a.attbyval,
            not_null: a.attnotnull,
            dropped: a.attisdropped,
            generated_stored: a.attgenerated as u8 == b's',
            generated_virtual: a.attgenerated as u8 == b'v',
        }
    }

    /// All columns in order.
    pub fn columns(&self) -> impl Iterator<Item = Column> + use<'a> {
        let this = *self;
        (0..this.len()).map(move |i| this.column(i))
    }
}

unsafe fn attribute(desc: pg_sys::TupleDesc, i: usize) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: the caller checked the position.
    unsafe {
        #[cfg(feature = "pg18")]
        return pg_sys::TupleDescAttr(desc, i as i32);
        #[cfg(not(feature = "pg18"))]
        return (*desc).attrs.as_ptr().add(i);
    }
}

/// Why a row cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A large value was not logged because it did not change, and there is no old row to take it from.
    UnchangedValue,
}

/// What an UPDATE comes to once only some columns count.
pub enum Update<'a> {
    /// None of them changed.
    Nothing,
    /// The old and the new row.
    Rows(Tuple<'a>, Tuple<'a>),
}

#[derive(Clone, Copy)]
struct Pick {
    /// Position in the source row.
    from: usize,
    by_value: bool,
    len: i16,
}

/// One row taken apart: first all of the source's columns, then the chosen ones.
struct Side {
    source: Vec<Datum>,
    source_null: Vec<bool>,
    chosen: Vec<Datum>,
    chosen_null: Vec<bool>,
}

impl Side {
    fn new(source: usize, chosen: usize) -> Self {
        let datums = |n| vec![Datum::from(0usize); n];
        Side {
            source: datums(source),
            source_null: vec![false; source],
            chosen: datums(chosen),
            chosen_null: vec![false; chosen],
        }
    }
}

/// Chooses columns of a table's tuples, in an order of its own.
///
/// Holds what has to be computed once per table, and the space in which rows are taken apart. A result lives until
/// the next call.
pub struct Projection {
    picks: Vec<Pick>,
    desc: pg_sys::TupleDesc,
    /// When a tuple with exactly this many attributes, all of them inside of it, already is its own projection.
    verbatim_natts: Option<u16>,
    old: Side,
    new: Side,
    /// Send functions of the chosen columns, looked up at first use.
    senders: Vec<pg_sys::FmgrInfo>,
    scratch: Context,
    /// Owns `desc` and what the send functions keep.
    kept: Context,
}

impl Projection {
    /// Of the columns at `positions` (from 0) of `source`.
    pub fn new(source: Desc<'_>, positions: &[usize]) -> Self {
        let kept = Context::new(c"pg_trickle projection");
        let desc = kept.enter(|| {
            // SAFETY: positions lie within the source, as column() below asserts too; both descriptors are alive.
            unsafe {
                let desc = pg_sys::CreateTemplateTupleDesc(positions.len() as i32);
                for (to, &from) in positions.iter().enumerate() {
                    pg_sys::TupleDescCopyEntry(desc, to as i16 + 1, source.as_ptr(), from as i16 + 1);
                }
                desc
            }
        });
        let columns = positions.iter().map(|&i| (i, source.column(i)));
        let picks: Vec<_> = columns.map(|(from, c)| Pick { from, by_value: c.by_value, len: c.len }).collect();
        let whole = positions.len() == source.len() && positions.iter().enumerate().all(|(i, &p)| i == p);
        let side = || Side::new(source.len(), picks.len());
        Projection {
            verbatim_natts: whole.then_some(positions.len() as u16),
            old: side(),
            new: side(),
            senders: Vec::new(),
            scratch: Context::new(c"pg_trickle change"),
            picks,
            desc,
            kept,
        }
    }

    /// Whether the tuple needs no work at all.
    #[inline]
    pub fn is_verbatim(&self, tuple: &Tuple<'_>) -> bool {
        self.verbatim_natts == Some(tuple.natts()) && !tuple.has_external()
    }

    /// The chosen columns of a row that came or went. `source` is what the table looks like now.
    pub fn row<'a>(&'a mut self, source: Desc<'_>, tuple: Tuple<'a>) -> Result<Tuple<'a>, Missing> {
        if self.is_verbatim(&tuple) {
            return Ok(tuple);
        }
        self.take(source, tuple)?;
        Ok(form(&self.scratch, self.desc, &mut self.new))
    }

    /// The chosen columns before and after an UPDATE.
    pub fn update<'a>(&'a mut self, source: Desc<'_>, old: Tuple<'a>, new: Tuple<'a>) -> Result<Update<'a>, Missing> {
        if self.is_verbatim(&old) && self.is_verbatim(&new) {
            return Ok(if old.same_bytes(&new) { Update::Nothing } else { Update::Rows(old, new) });
        }
        if !self.take_both(source, old, new)? {
            return Ok(Update::Nothing);
        }
        let Projection { scratch, desc, old, new, .. } = self;
        Ok(Update::Rows(form(scratch, *desc, old), form(scratch, *desc, new)))
    }

    /// As [`Projection::row`], as the output of the columns' send functions; None is NULL.
    pub fn row_sent<'a>(&'a mut self, source: Desc<'_>, tuple: Tuple<'_>) -> Result<Vec<Option<&'a [u8]>>, Missing> {
        self.take(source, tuple)?;
        self.find_senders();
        Ok(send(&self.scratch, &mut self.senders, &self.new))
    }

    /// As [`Projection::update`], as the output of the columns' send functions; None if nothing changed.
    #[allow(clippy::type_complexity)]
    pub fn update_sent<'a>(
        &'a mut self,
        source: Desc<'_>,
        old: Tuple<'_>,
        new: Tuple<'_>,
    ) -> Result<Option<(Vec<Option<&'a [u8]>>, Vec<Option<&'a [u8]>>)>, Missing> {
        if !self.take_both(source, old, new)? {
            return Ok(None);
        }
        self.find_senders();
        let old = send(&self.scratch, &mut self.senders, &self.old);
        Ok(Some((old, send(&self.scratch, &mut self.senders, &self.new))))
    }

    fn take(&mut self, source: Desc<'_>, tuple: Tuple<'_>) -> Result<(), Missing> {
        self.scratch.reset();
        deform(source, tuple, &mut self.new);
        let Projection { picks, new, scratch, .. } = self;
        scratch.enter(|| picks.iter().enumerate().try_for_each(|(to, pick)| choose(*pick, to, new, None)))
    }

    /// Takes both rows apart; whether any chosen column differs.
    fn take_both(&mut self, source: Desc<'_>, old: Tuple<'_>, new: Tuple<'_>) -> Result<bool, Missing> {
        self.scratch.reset();
        deform(source, old, &mut self.old);
        deform(source, new, &mut self.new);
        let Projection { picks, old, new, scratch, .. } = self;
        scratch.enter(|| {
            let mut changed = false;
            for (to, pick) in picks.iter().enumerate() {
                choose(*pick, to, old, None)?;
                choose(*pick, to, new, Some(old))?;
                changed = changed || !same(*pick, to, old, new);
            }
            Ok(changed)
        })
    }

    fn find_senders(&mut self) {
        if self.senders.len() == self.picks.len() {
            return;
        }
        let count = self.picks.len();
        // SAFETY: the descriptor has `count` attributes; what fmgr keeps goes to the context that this value owns.
        self.senders = (0..count)
            .map(|i| unsafe {
                let (mut function, mut varlena) = (pg_sys::Oid::INVALID, false);
                pg_sys::getTypeBinaryOutputInfo((*attribute(self.desc, i)).atttypid, &mut function, &mut varlena);
                let mut info = std::mem::zeroed();
                pg_sys::fmgr_info_cxt(function, &mut info, self.kept.raw());
                info
            })
            .collect();
    }
}

fn deform(source: Desc<'_>, tuple: Tuple<'_>, into: &mut Side) {
    assert_eq!(source.len(), into.source.len(), "the table changed under its projection");
    let (values, nulls) = (into.source.as_mut_ptr(), into.source_null.as_mut_ptr());
    // SAFETY: both arrays have one place per column of the descriptor, as asserted.
    unsafe { pg_sys::heap_deform_tuple(tuple.0.as_ptr(), source.as_ptr(), values, nulls) }
}

/// Puts one column of a row in its place, with values from outside the tuple fetched. An unchanged value that was not
/// logged comes from the old row.
fn choose(pick: Pick, to: usize, row: &mut Side, old: Option<&Side>) -> Result<(), Missing> {
    row.chosen_null[to] = row.source_null[pick.from];
    row.chosen[to] = row.source[pick.from];
    if row.chosen_null[to] || pick.len != -1 {
        return Ok(());
    }
    let value = row.chosen[to].cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: a non-null value of a varlena column points to a varlena.
    unsafe {
        if !varlena::varatt_is_1b_e(value) {
            return Ok(());
        }
        if (*value.cast::<pg_sys::varattrib_1b_e>()).va_tag as u32 == pg_sys::vartag_external::VARTAG_ONDISK {
            let old = old.ok_or(Missing::UnchangedValue)?;
            (row.chosen[to], row.chosen_null[to]) = (old.chosen[to], old.chosen_null[to]);
            return Ok(());
        }
        row.chosen[to] = Datum::from(pg_sys::detoast_external_attr(value));
    }
    Ok(())
}

/// Whether a chosen column has the same image in both rows.
fn same(pick: Pick, i: usize, a: &Side, b: &Side) -> bool {
    if a.chosen_null[i] || b.chosen_null[i] {
        return a.chosen_null[i] == b.chosen_null[i];
    }
    let (a, b) = (a.chosen[i], b.chosen[i]);
    if pick.by_value || a.value() == b.value() {
        return a.value() == b.value();
    }
    // SAFETY: both are non-null values by reference of a type with this length.
    unsafe {
        match pick.len {
            -2 => CStr::from_ptr(a.cast_mut_ptr()) == CStr::from_ptr(b.cast_mut_ptr()),
            -1 => same_varlena(a.cast_mut_ptr(), b.cast_mut_ptr()),
            n => bytes(a.cast_mut_ptr(), n as usize) == bytes(b.cast_mut_ptr(), n as usize),
        }
    }
}

unsafe fn bytes<'a>(from: *const u8, len: usize) -> &'a [u8] {
    // SAFETY: the caller knows the value's length.
    unsafe { std::slice::from_raw_parts(from, len) }
}

unsafe fn same_varlena(a: *mut pg_sys::varlena, b: *mut pg_sys::varlena) -> bool {
    // SAFETY: the caller passes varlenas inside of their tuples, perhaps compressed.
    unsafe {
        let content = |v| bytes(varlena::vardata_any(v).cast(), varlena::varsize_any_exhdr(v));
        if !varlena::varatt_is_4b_c(a) && !varlena::varatt_is_4b_c(b) {
            return content(a) == content(b);
        }
        let whole = |v| bytes(v as *const u8, varlena::varsize_any(v));
        whole(a) == whole(b) || content(pg_sys::detoast_attr(a)) == content(pg_sys::detoast_attr(b))
    }
}

/// The chosen columns as a tuple in `scratch`.
fn form<'a>(scratch: &'a Context, desc: pg_sys::TupleDesc, row: &mut Side) -> Tuple<'a> {
    let (values, nulls) = (row.chosen.as_mut_ptr(), row.chosen_null.as_mut_ptr());
    // SAFETY: the arrays have one place per attribute of the descriptor; the result is as long-lived as `scratch`'s
    // content, which is reset only through the exclusive borrow of its owner.
    let tuple = scratch.enter(|| unsafe { pg_sys::heap_form_tuple(desc, values, nulls) });
    // SAFETY: heap_form_tuple never returns null.
    Tuple(unsafe { NonNull::new_unchecked(tuple) }, PhantomData)
}

fn send<'a>(scratch: &'a Context, senders: &mut [pg_sys::FmgrInfo], row: &Side) -> Vec<Option<&'a [u8]>> {
    let column = |(i, sender): (usize, &mut pg_sys::FmgrInfo)| {
        if row.chosen_null[i] {
            return None;
        }
        // SAFETY: the function is the send function of the value's type; it returns an uncompressed bytea.
        unsafe {
            let sent = pg_sys::SendFunctionCall(sender, row.chosen[i]).cast::<pg_sys::varlena>();
            Some(bytes(varlena::vardata_any(sent).cast(), varlena::varsize_any_exhdr(sent)))
        }
    };
    scratch.enter(|| senders.iter_mut().enumerate().map(column).collect())
}
