//! The old row of an update, kept back until its new one is seen.

use super::relevant::{self, Relevant};
use crate::bindings::raw;
use pgrx::pg_sys;

/// A row that goes, kept back until it is known whether the next one is the same again.
pub(super) struct Held {
    /// Its slot, or one for the next row to be read into.
    slot: *mut pg_sys::TupleTableSlot,
    /// The slot of what is held refers to it, as the scan's own is overwritten by the next row.
    tuple: Box<pg_sys::HeapTupleData>,
    full: bool,
    /// Who lets it through.
    readers: u64,
}

impl Held {
    /// # Safety
    /// The descriptor outlives it.
    pub(super) unsafe fn new(desc: pg_sys::TupleDesc) -> Held {
        // SAFETY: the caller's descriptor; a tuple's head of zeros is never looked at.
        unsafe {
            let slot = pg_sys::MakeSingleTupleTableSlot(desc, &raw const pg_sys::TTSOpsBufferHeapTuple);
            Held { slot, tuple: Box::new(std::mem::zeroed()), full: false, readers: 0 }
        }
    }

    /// Holds the row in a scan's slot together with the slot, its pin on the page and what has been taken apart. The scan gets
    /// another slot.
    ///
    /// # Safety
    /// Nothing is held, and the slot, made like this one's, has a tuple on a page.
    pub(super) unsafe fn hold(&mut self, slot: &mut *mut pg_sys::TupleTableSlot, readers: u64) {
        // SAFETY: a slot of these operations is a BufferHeapTupleTableSlot, which does not own its tuple's head. The box does not move,
        // and the other slot, if it refers to it, is filled anew before it is read.
        unsafe {
            let buffered = slot.cast::<pg_sys::BufferHeapTupleTableSlot>();
            *self.tuple = *(*buffered).base.tuple;
            (*buffered).base.tuple = &raw mut *self.tuple;
        }
        std::mem::swap(&mut self.slot, slot);
        (self.full, self.readers) = (true, readers);
    }

    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Who lets it through; nobody if nothing is held.
    pub(super) fn readers(&self) -> u64 {
        if self.full { self.readers } else { relevant::NONE }
    }

    /// To whom the new row in a slot, which these readers let through, makes a difference in place of this one.
    ///
    /// # Safety
    /// The slot has a tuple of the same columns, and a row is held.
    pub(super) unsafe fn differing(&self, slot: *mut pg_sys::TupleTableSlot, readers: u64, relevant: &Relevant) -> u64 {
        // SAFETY: both slots have a tuple and stay pinned.
        self.readers ^ readers | unsafe { relevant.differing(self.slot, slot, self.readers & readers) }
    }

    /// Nothing is held any more; what was is in the store.
    ///
    /// # Safety
    /// The store is alive. To be called within a guard.
    pub(super) unsafe fn put_into(&mut self, store: *mut pg_sys::Tuplestorestate) {
        if self.full {
            // SAFETY: the slot's tuple is complete.
            unsafe { raw::tuplestore_puttupleslot(store, self.slot) };
            self.forget();
        }
    }

    pub(super) fn forget(&mut self) {
        self.full = false;
    }

    /// # Safety
    /// It is not used any more.
    pub(super) unsafe fn end(self) {
        // SAFETY: made by us; its pin is released.
        unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.slot) };
    }
}
