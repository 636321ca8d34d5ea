//! Staging: change rows and query results in tuplestores that later statements read as ephemeral named relations.

mod held;
mod partners;
mod relevant;

pub use partners::Values;
pub(crate) use relevant::Looked;
pub use relevant::{Mattered, Reader};

use crate::bindings::{self, raw};
use crate::snapshot::Snapshot;
use crate::spi::Plan;
use crate::transition::Batch;
use held::Held;
use pgrx::pg_sys;
use relevant::Relevant;
use std::ffi::CString;
use std::rc::Rc;

/// Number of the four fixed columns of a change buffer: xid, lsn, seq, w.
const FIXED_COLUMNS: usize = 4;

/// So many rows are read before interrupts are looked for.
const ROWS_WITHIN_GUARD: usize = 4096;

/// A tuplestore registered under a name with the SPI connection in which it was made; it ends with that connection.
pub struct Staged {
    store: *mut pg_sys::Tuplestorestate,
    desc: pg_sys::TupleDesc,
    /// Whose store it is, if not its own.
    lender: Option<Rc<Batch>>,
    /// Rows in it.
    pub rows: u64,
}

impl Staged {
    fn own(store: *mut pg_sys::Tuplestorestate, desc: pg_sys::TupleDesc, rows: u64) -> Staged {
        Staged { store, desc, lender: None, rows }
    }

    /// One that another keeps and that is left as it is.
    pub(crate) fn borrowed(
        lender: Rc<Batch>,
        store: *mut pg_sys::Tuplestorestate,
        desc: pg_sys::TupleDesc,
        rows: u64,
    ) -> Staged {
        Staged { store, desc, lender: Some(lender), rows }
    }

    /// How many rows come and how many go, as its last column, a bigint, says.
    pub fn come_and_gone(&self) -> (i64, i64) {
        let (mut come, mut gone) = (0, 0);
        // SAFETY: the descriptor lives as long as the store.
        let columns = unsafe { (*self.desc).natts } as usize;
        self.each(columns, |slot| {
            // SAFETY: so many columns are taken apart.
            let weight = unsafe { *(*slot).tts_values.add(columns - 1) }.value() as i64;
            come += weight.max(0);
            gone -= weight.min(0);
        });
        (come, gone)
    }

    /// Calls `visit`, which has no destructors on its frames, with each row, so many columns of which are taken apart.
    fn each(&self, columns: usize, mut visit: impl FnMut(*mut pg_sys::TupleTableSlot)) {
        // SAFETY: nobody else uses the store's first pointer, or reads it meanwhile; within the guard, no frame has a destructor.
        unsafe {
            let slot = pg_sys::MakeSingleTupleTableSlot(self.desc, &raw const pg_sys::TTSOpsMinimalTuple);
            pg_sys::tuplestore_select_read_pointer(self.store, 0);
            pg_sys::tuplestore_rescan(self.store);
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                while raw::tuplestore_gettupleslot(self.store, true, false, slot) {
                    raw::slot_getsomeattrs_int(slot, columns as i32);
                    visit(slot);
                }
            });
            pg_sys::ExecDropSingleTupleTableSlot(slot);
        }
    }

    /// The rows and their type, both as long-lived as this value.
    pub(crate) fn parts(&self) -> (*mut pg_sys::Tuplestorestate, pg_sys::TupleDesc) {
        (self.store, self.desc)
    }
}

/// What to do with a change row, by the transaction that made it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Visible in the previous frontier: already in the stream table.
    Known,
    /// Becomes visible with this refresh.
    New,
    /// Not yet visible in the refresh's snapshot.
    Later,
}

/// Where reading of one buffer segment may start: everything before was `Known` for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// The segment's storage; another one means that the segment was emptied since.
    pub filenode: u32,
    pub block: u32,
}

/// The block at which reading a segment starts that has this storage and so many blocks.
fn start(from: Option<Position>, filenode: u32, blocks: u32) -> u32 {
    from.filter(|position| position.filenode == filenode).map_or(0, |position| position.block.min(blocks))
}

/// How many blocks of a segment are still to be read.
pub fn unread(segment: u32, from: Option<Position>) -> u32 {
    // SAFETY: opened and closed here; the lock is kept until the transaction ends.
    unsafe {
        let rel = pg_sys::relation_open(pg_sys::Oid::from(segment), pg_sys::AccessShareLock as i32);
        let blocks = pg_sys::RelationGetNumberOfBlocksInFork(rel, pg_sys::ForkNumber::MAIN_FORKNUM);
        let unread = blocks - start(from, filenode(rel), blocks);
        pg_sys::relation_close(rel, pg_sys::NoLock as i32);
        unread
    }
}

/// What a scan of one segment found.
#[derive(Clone, Copy, Debug, Default)]
pub struct SegmentScan {
    pub new_rows: u64,
    /// Rows that no reader lets through, or that come and go in one update which changes nothing that any of them looks at;
    /// not among the new ones.
    pub cancelled_rows: u64,
    pub later_rows: u64,
    /// A change that deltas cannot express (TRUNCATE and the like) becomes visible.
    pub reinitialise: bool,
    /// Largest commit LSN among the new rows.
    pub newest_lsn: u64,
    /// Where the next refresh may start if this one commits.
    pub next: Position,
}

/// What is to be done with a transaction's rows, of which many follow each other.
struct Verdict<F> {
    last: Option<(u64, Reach)>,
    reach: F,
}

impl<F: FnMut(u64) -> Reach> Verdict<F> {
    fn on(&mut self, xid: u64) -> Reach {
        match self.last {
            Some((known, reach)) if known == xid => reach,
            _ => {
                let reach = (self.reach)(xid);
                self.last = Some((xid, reach));
                reach
            }
        }
    }
}

/// A tuplestore that is being filled with change rows.
pub struct Filling {
    store: *mut pg_sys::Tuplestorestate,
    desc: pg_sys::TupleDesc,
    relevant: Relevant,
    mattered: Mattered,
    rows: u64,
}

/// The number of a relation's storage, which changes when it is truncated or rewritten.
///
/// # Safety
/// `rel` is an open relation.
unsafe fn filenode(rel: pg_sys::Relation) -> u32 {
    // SAFETY: the caller's relation.
    unsafe {
        #[cfg(feature = "pg15")]
        return (*rel).rd_node.relNode.to_u32();
        #[cfg(not(feature = "pg15"))]
        return (*rel).rd_locator.relNumber.to_u32();
    }
}

/// The block of the tuple in a slot.
///
/// # Safety
/// `slot` holds a tuple of a table.
unsafe fn slot_block(slot: *const pg_sys::TupleTableSlot) -> u32 {
    // SAFETY: the caller's slot.
    let block = unsafe { (*slot).tts_tid.ip_blkid };
    (u32::from(block.bi_hi) << 16) | u32::from(block.bi_lo)
}

/// The fixed columns of a change row.
///
/// # Safety
/// `slot` holds a tuple of a buffer on a page.
#[inline]
unsafe fn fixed_columns(slot: *const pg_sys::TupleTableSlot) -> [u64; FIXED_COLUMNS] {
    // SAFETY: they are the first, of eight aligned bytes each and never NULL, so that they are where a tuple's data starts.
    unsafe {
        let tuple = (*(*slot.cast::<pg_sys::BufferHeapTupleTableSlot>()).base.tuple).t_data;
        *tuple.cast::<u8>().add(usize::from((*tuple).t_hoff)).cast()
    }
}

fn new_store() -> *mut pg_sys::Tuplestorestate {
    // SAFETY: allocated in the SPI connection's context; spills to temporary files beyond work_mem.
    unsafe { pg_sys::tuplestore_begin_heap(true, false, pg_sys::work_mem) }
}

impl Filling {
    /// Starts a store with the columns of the buffer table `buffer`, for what matters to one of the readers (none given:
    /// everything does). Their conditions are evaluated with the rights of the current role.
    pub fn like(buffer: u32, readers: &[Reader]) -> Filling {
        // SAFETY: the relation is opened under a lock that is kept until the transaction ends; the descriptor is copied.
        unsafe {
            let rel = pg_sys::relation_open(pg_sys::Oid::from(buffer), pg_sys::AccessShareLock as i32);
            let desc = pg_sys::CreateTupleDescCopy((*rel).rd_att);
            pg_sys::relation_close(rel, pg_sys::NoLock as i32);
            let relevant = Relevant::new(buffer, desc, readers);
            Filling { store: new_store(), desc, relevant, mattered: Mattered::default(), rows: 0 }
        }
    }

    /// Adds the rows of one segment that `reach` calls new, as seen by `snapshot`.
    pub fn add(
        &mut self,
        segment: u32,
        snapshot: &Snapshot,
        from: Option<Position>,
        reach: impl FnMut(u64) -> Reach,
    ) -> SegmentScan {
        // SAFETY: the relation stays open and locked while scanned. Errors abort the transaction, which closes scan, slot and
        // relation; where one is raised within the guard, no frame has a destructor.
        unsafe {
            let rel = pg_sys::relation_open(pg_sys::Oid::from(segment), pg_sys::AccessShareLock as i32);
            let filenode = filenode(rel);
            let blocks = pg_sys::RelationGetNumberOfBlocksInFork(rel, pg_sys::ForkNumber::MAIN_FORKNUM);
            let start = start(from, filenode, blocks);
            let mut found = SegmentScan { next: Position { filenode, block: start }, ..Default::default() };
            if blocks > start {
                let flags = pg_sys::ScanOptions::SO_TYPE_SEQSCAN
                    | pg_sys::ScanOptions::SO_ALLOW_STRAT
                    | pg_sys::ScanOptions::SO_ALLOW_PAGEMODE;
                let scan = pg_sys::heap_beginscan(
                    rel,
                    snapshot.as_ptr(),
                    0,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                    flags,
                );
                pg_sys::heap_setscanlimits(scan, start, blocks - start);
                let mut slot =
                    pg_sys::MakeSingleTupleTableSlot((*rel).rd_att, &raw const pg_sys::TTSOpsBufferHeapTuple);
                let mut held = Held::new((*rel).rd_att);
                let mut verdict = Verdict { last: None, reach };
                // One guard for many rows: to set one up takes longer than most of what is called for a row.
                while pg_sys::ffi::pg_guard_ffi_boundary(|| {
                    self.add_some(scan, &mut slot, &mut verdict, &mut held, &mut found)
                }) {
                    pgrx::check_for_interrupts!();
                }
                pg_sys::ffi::pg_guard_ffi_boundary(|| self.release(&mut held));
                held.end();
                pg_sys::ExecDropSingleTupleTableSlot(slot);
                pg_sys::heap_endscan(scan);
            }
            pg_sys::relation_close(rel, pg_sys::NoLock as i32);
            found.new_rows -= found.cancelled_rows;
            self.rows += found.new_rows;
            found
        }
    }

    /// Adds some of a scan's next rows; says whether there may be more.
    ///
    /// # Safety
    /// The slot is for the scan's rows, which are those of a buffer. To be called within a guard.
    unsafe fn add_some<F: FnMut(u64) -> Reach>(
        &mut self,
        scan: pg_sys::TableScanDesc,
        slot: &mut *mut pg_sys::TupleTableSlot,
        verdict: &mut Verdict<F>,
        held: &mut Held,
        found: &mut SegmentScan,
    ) -> bool {
        for _ in 0..ROWS_WITHIN_GUARD {
            // SAFETY: the caller's scan and slot, whose page stays pinned until the next call.
            unsafe {
                if !raw::heap_getnextslot(scan, pg_sys::ScanDirection::ForwardScanDirection, *slot) {
                    return false;
                }
                let [xid, lsn, _, weight] = fixed_columns(*slot);
                let verdict = verdict.on(xid);
                // Rows are appended: none comes to lie before the last one. Pages behind it may be empty yet.
                if found.later_rows == 0 {
                    found.next.block = slot_block(*slot);
                }
                match verdict {
                    Reach::Known => {}
                    Reach::Later => found.later_rows += 1,
                    Reach::New => {
                        found.newest_lsn = found.newest_lsn.max(lsn);
                        self.take(slot, weight as i64, held, found);
                    }
                }
            }
        }
        true
    }

    /// Adds a row that becomes visible, if it matters. One that goes is held until it is known whether the next takes its place.
    ///
    /// # Safety
    /// The slot holds a row of a buffer, of this weight. To be called within a guard.
    #[inline]
    unsafe fn take(
        &mut self,
        slot: &mut *mut pg_sys::TupleTableSlot,
        weight: i64,
        held: &mut Held,
        found: &mut SegmentScan,
    ) {
        found.new_rows += 1;
        found.reinitialise |= weight == 0;
        // SAFETY: the caller's slot; the store is ours.
        unsafe {
            let readers = if weight == 0 { relevant::ALL } else { self.relevant.readers_of(*slot) };
            if readers == relevant::NONE {
                self.release(held);
                found.cancelled_rows += 1;
            } else if weight == -1 {
                self.release(held);
                held.hold(slot, readers);
            } else if weight == 1 && held.is_full() {
                let differing = held.differing(*slot, readers, &self.relevant);
                if differing == relevant::NONE {
                    held.forget();
                    found.cancelled_rows += 2;
                } else {
                    held.put_into(self.store);
                    raw::tuplestore_puttupleslot(self.store, *slot);
                    self.mattered.to(differing);
                }
            } else {
                self.release(held);
                raw::tuplestore_puttupleslot(self.store, *slot);
                self.mattered.to(readers);
            }
        }
    }

    /// A row that goes, and that none follows which could take its place.
    ///
    /// # Safety
    /// To be called within a guard.
    unsafe fn release(&mut self, held: &mut Held) {
        self.mattered.to(held.readers());
        // SAFETY: the store is ours; what is held is complete.
        unsafe { held.put_into(self.store) };
    }

    /// Whether there is one reader, whose condition every row fulfils.
    pub fn is_filtered(&self) -> bool {
        self.relevant.is_one_condition()
    }

    /// Which readers the rows matter to.
    pub fn mattered(&self) -> Mattered {
        self.mattered
    }

    /// Makes the rows readable under `name`. The planner is told `estimate` rows.
    pub fn register(self, name: &str, estimate: f64) -> Staged {
        register(name, self.store, self.desc, estimate);
        Staged::own(self.store, self.desc, self.rows)
    }
}

/// Runs a query under `snapshot` and registers its result under `name`; `estimate` turns its row count into what the
/// planner is told.
pub fn stage_query(plan: &Plan, snapshot: &Snapshot, name: &str, estimate: impl FnOnce(u64) -> f64) -> Staged {
    let staged = stored(plan, snapshot);
    register(name, staged.store, staged.desc, estimate(staged.rows));
    staged
}

/// Registers a relation under `name` that has the columns of a query and no rows.
pub fn stage_nothing(plan: &Plan, name: &str, estimate: f64) -> Staged {
    let staged = Staged::own(new_store(), plan.result_desc(), 0);
    register(name, staged.store, staged.desc, estimate);
    staged
}

/// The same in place of a relation that is registered under that name, which the query may read.
pub fn restage_query(plan: &Plan, snapshot: &Snapshot, name: &str, estimate: impl FnOnce(u64) -> f64) -> Staged {
    let staged = stored(plan, snapshot);
    let c_name = CString::new(name).unwrap_or_default();
    // SAFETY: only the registration goes; the old store ends when its owner drops it.
    unsafe { pg_sys::SPI_unregister_relation(c_name.as_ptr()) };
    register(name, staged.store, staged.desc, estimate(staged.rows));
    staged
}

fn stored(plan: &Plan, snapshot: &Snapshot) -> Staged {
    let store = new_store();
    // SAFETY: the receiver copies rows into the store, which outlives it; both end with the SPI connection.
    unsafe {
        let receiver = bindings::CreateTuplestoreDestReceiver();
        bindings::SetTuplestoreDestReceiverParams(
            receiver,
            store,
            pg_sys::CurrentMemoryContext,
            false,
            std::ptr::null_mut(),
            std::ptr::null(),
        );
        snapshot.active(|| plan.execute_into(receiver));
        Staged::own(store, plan.result_desc(), pg_sys::tuplestore_tuple_count(store) as u64)
    }
}

pub(crate) fn register(name: &str, store: *mut pg_sys::Tuplestorestate, desc: pg_sys::TupleDesc, estimate: f64) {
    let c_name = CString::new(name).unwrap_or_default();
    // SAFETY: everything is allocated in the SPI connection's context, where the registration also lives.
    unsafe {
        let enr = pg_sys::palloc0(std::mem::size_of::<pg_sys::EphemeralNamedRelationData>())
            .cast::<pg_sys::EphemeralNamedRelationData>();
        (*enr).md.name = pg_sys::pstrdup(c_name.as_ptr());
        (*enr).md.reliddesc = pg_sys::InvalidOid;
        (*enr).md.tupdesc = desc;
        (*enr).md.enrtype = pg_sys::EphemeralNameRelationType::ENR_NAMED_TUPLESTORE;
        (*enr).md.enrtuples = estimate;
        (*enr).reldata = store.cast();
        let code = pg_sys::SPI_register_relation(enr);
        if code != pg_sys::SPI_OK_REL_REGISTER as i32 {
            pgrx::error!("could not register the staged relation {name}: SPI code {code}");
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.lender.is_none() && !std::thread::panicking() {
            // SAFETY: made by us; while an error unwinds, the end of the transaction frees memory and files.
            unsafe { pg_sys::tuplestore_end(self.store) }
        }
    }
}
