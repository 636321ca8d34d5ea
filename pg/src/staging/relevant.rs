//! What matters to the readers of a source: the rows that they let through, and the columns that they look at.

use super::FIXED_COLUMNS;
use super::partners::Values;
use crate::bindings::raw;
use crate::spi::Plan;
use pgrx::pg_sys;
use std::cell::Cell;
use std::rc::Rc;

/// One reader of a source.
pub struct Reader<'a> {
    /// The numbers of the columns in which a difference matters to it.
    pub columns: Vec<i16>,
    /// A query over the buffer alone whose condition says which rows it lets through; all without one.
    pub filter: Option<&'a Plan>,
    /// Columns by number, and the values that a row must have one of in each.
    pub partners: Vec<(i16, Rc<Values>)>,
}

/// As a set of readers: every one.
pub(super) const ALL: u64 = u64::MAX;
/// As a set of readers: none.
pub(super) const NONE: u64 = 0;

/// The readers that staged rows matter to.
#[derive(Clone, Copy, Default)]
pub struct Mattered(u64);

impl Mattered {
    /// Whether something matters to the reader with this number.
    pub fn contains(&self, reader: usize) -> bool {
        reader >= u64::BITS as usize || self.0 & 1 << reader != 0
    }

    pub(super) fn to(&mut self, readers: u64) {
        self.0 |= readers;
    }
}

/// The readers, ready to be asked. Without any, everything matters.
pub(super) struct Relevant {
    tests: Vec<Test>,
    context: *mut pg_sys::ExprContext,
}

struct Test {
    columns: Vec<Looked>,
    /// Which of them told two rows apart the last time.
    telling: Cell<usize>,
    /// Null if all rows pass.
    condition: *mut pg_sys::ExprState,
    partners: Vec<(Looked, Rc<Values>)>,
}

/// Where a column is in the buffer's rows, and how its values are stored.
pub(crate) struct Looked {
    pub(crate) at: usize,
    pub(crate) by_value: bool,
    pub(crate) length: i16,
}

impl Relevant {
    /// # Safety
    /// `desc` describes the buffer's rows.
    pub(super) unsafe fn new(buffer: u32, desc: pg_sys::TupleDesc, readers: &[Reader]) -> Relevant {
        // More than a set of readers can tell apart: then everything matters.
        let readers = if readers.len() < u64::BITS as usize { readers } else { &[] };
        // SAFETY: the caller's descriptor; the context and the conditions are allocated in the SPI connection's context.
        unsafe {
            let among = |columns: &[i16]| {
                (0..(*desc).natts as usize).filter_map(|at| Looked::find(desc, at, columns)).collect::<Vec<_>>()
            };
            let partners = |(column, values): &(i16, Rc<Values>)| {
                among(&[*column]).into_iter().map(|looked| (looked, values.clone())).collect::<Vec<_>>()
            };
            let tests = readers.iter().map(|reader| Test {
                columns: among(&reader.columns),
                telling: Cell::new(0),
                condition: reader.filter.map_or(std::ptr::null_mut(), |plan| plan.condition_of_scan(buffer)),
                partners: reader.partners.iter().flat_map(partners).collect(),
            });
            Relevant { tests: tests.collect(), context: pg_sys::CreateStandaloneExprContext() }
        }
    }

    /// Whether there is one reader, who has a condition.
    pub(super) fn is_one_condition(&self) -> bool {
        matches!(self.tests.as_slice(), [test] if !test.condition.is_null())
    }

    /// Who lets the row in a slot through.
    ///
    /// # Safety
    /// The slot has a tuple of the buffer. To be called within a guard.
    pub(super) unsafe fn readers_of(&self, slot: *mut pg_sys::TupleTableSlot) -> u64 {
        if self.tests.is_empty() {
            return ALL;
        }
        // SAFETY: columns and condition are those of the buffer's rows.
        let passes = |test: &Test| unsafe {
            (test.condition.is_null() || fulfils(test.condition, self.context)) && test.may_have_partners(slot)
        };
        // SAFETY: the context is ours, the slot the caller's. What the last row's conditions have allocated goes.
        unsafe {
            let memory = (*self.context).ecxt_per_tuple_memory;
            if !(*memory).isReset || !(*memory).firstchild.is_null() {
                raw::MemoryContextReset(memory);
            }
            (*self.context).ecxt_scantuple = slot;
        }
        self.tests.iter().enumerate().filter(|(_, test)| passes(test)).fold(NONE, |set, (i, _)| set | 1 << i)
    }

    /// Those of the readers for whom two rows differ in what they look at.
    ///
    /// # Safety
    /// The slots have tuples of the buffer. To be called within a guard.
    pub(super) unsafe fn differing(
        &self,
        old: *mut pg_sys::TupleTableSlot,
        new: *mut pg_sys::TupleTableSlot,
        readers: u64,
    ) -> u64 {
        if self.tests.is_empty() {
            return readers;
        }
        let differ = |(i, test): &(usize, &Test)| readers & 1 << i != 0 && !test.looks_alike(old, new);
        self.tests.iter().enumerate().filter(differ).fold(NONE, |set, (i, _)| set | 1 << i)
    }
}

/// Whether a condition is true in a context, as `ExecQual` tells.
///
/// # Safety
/// The condition is ready for what is in the context. To be called within a guard.
unsafe fn fulfils(condition: *mut pg_sys::ExprState, context: *mut pg_sys::ExprContext) -> bool {
    let mut is_null = false;
    // SAFETY: the caller's; an error puts the memory context back.
    unsafe {
        let Some(evaluate) = (*condition).evalfunc else { return false };
        let before = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = (*context).ecxt_per_tuple_memory;
        let value = evaluate(condition, context, &mut is_null);
        pg_sys::CurrentMemoryContext = before;
        value.value() != 0
    }
}

/// Takes rows apart up to a column.
///
/// # Safety
/// The slots have tuples of this column's table. To be called within a guard.
unsafe fn take_apart(slots: [*mut pg_sys::TupleTableSlot; 2], column: &Looked) {
    let needed = column.at as i32 + 1;
    for slot in slots {
        // SAFETY: the caller's slots.
        unsafe {
            if i32::from((*slot).tts_nvalid) < needed {
                raw::slot_getsomeattrs_int(slot, needed);
            }
        }
    }
}

impl Test {
    /// Whether nothing says that the row in a slot finds no partner.
    ///
    /// # Safety
    /// The slot has a tuple of the buffer. To be called within a guard.
    unsafe fn may_have_partners(&self, slot: *mut pg_sys::TupleTableSlot) -> bool {
        self.partners.iter().all(|(column, values)| {
            // SAFETY: so many attributes are taken apart; what is equal to NULL finds no partner.
            unsafe {
                if usize::try_from((*slot).tts_nvalid).is_ok_and(|valid| valid <= column.at) {
                    raw::slot_getsomeattrs_int(slot, column.at as i32 + 1);
                }
                let is_null = *(*slot).tts_isnull.add(column.at);
                !is_null && values.may_contain(*(*slot).tts_values.add(column.at), column.by_value, column.length)
            }
        })
    }

    /// Updates mostly change what the last one has changed: rows that differ there need not be taken apart any further.
    fn looks_alike(&self, old: *mut pg_sys::TupleTableSlot, new: *mut pg_sys::TupleTableSlot) -> bool {
        let (Some(telling), Some(last)) = (self.columns.get(self.telling.get()), self.columns.last()) else {
            return true;
        };
        // SAFETY: called with slots of the buffer's rows; so many attributes are taken apart in both, and both stay pinned.
        unsafe {
            take_apart([old, new], telling);
            if !telling.same_in(&*old, &*new) {
                return false;
            }
            take_apart([old, new], last);
            let differing = self.columns.iter().position(|column| !column.same_in(&*old, &*new));
            self.telling.set(differing.unwrap_or(self.telling.get()));
            differing.is_none()
        }
    }
}

impl Looked {
    /// The column at this place of a buffer, if its name is that of one of these numbers.
    ///
    /// # Safety
    /// `desc` is a descriptor with so many columns.
    unsafe fn find(desc: pg_sys::TupleDesc, at: usize, columns: &[i16]) -> Option<Looked> {
        // SAFETY: the caller's descriptor.
        let attribute = unsafe { &*crate::table::attribute(desc, at) };
        // SAFETY: a name is a C string.
        let name = unsafe { std::ffi::CStr::from_ptr(attribute.attname.data.as_ptr()) }.to_str().ok()?;
        let number: i16 = name.strip_prefix('c')?.parse().ok()?;
        let looked = Looked { at, by_value: attribute.attbyval, length: attribute.attlen };
        (at >= FIXED_COLUMNS && columns.contains(&number)).then_some(looked)
    }

    /// Whether two rows have it stored in the same bytes, or NULL both.
    ///
    /// # Safety
    /// Both are rows of this column's table, taken apart this far.
    pub(crate) unsafe fn same_in(&self, a: &pg_sys::TupleTableSlot, b: &pg_sys::TupleTableSlot) -> bool {
        // SAFETY: the caller's rows.
        unsafe {
            match (*a.tts_isnull.add(self.at), *b.tts_isnull.add(self.at)) {
                (false, false) => self.same(*a.tts_values.add(self.at), *b.tts_values.add(self.at)),
                (a, b) => a == b,
            }
        }
    }

    /// Whether two values are stored in the same bytes.
    ///
    /// # Safety
    /// Both are values of this column, not NULL.
    unsafe fn same(&self, a: pg_sys::Datum, b: pg_sys::Datum) -> bool {
        if self.by_value {
            return a == b;
        }
        // SAFETY: a value by reference has as many bytes as its type says, or as its header.
        unsafe {
            let bytes = |value: pg_sys::Datum| {
                let start = value.cast_mut_ptr::<u8>();
                let length = match self.length {
                    -1 => pgrx::varlena::varsize_any(start.cast()),
                    -2 => std::ffi::CStr::from_ptr(start.cast()).count_bytes(),
                    length => length as usize,
                };
                std::slice::from_raw_parts(start, length)
            };
            bytes(a) == bytes(b)
        }
    }
}
