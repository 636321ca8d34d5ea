//! Logical decoding: what an output plugin is given, and the loop that reads WAL and drives the plugin in process.

use crate::bindings::{self, raw};
use crate::tuple::Tuple;
use pgrx::memcxt::PgMemoryContexts;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};

/// How a message begins that says that a relation changed in a way that rows do not tell.
pub const REINIT: &str = "reinit ";

/// A decoding context, as the plugin's callbacks get it.
#[derive(Clone, Copy)]
pub struct Context(*mut pg_sys::LogicalDecodingContext);

impl Context {
    /// # Safety
    /// `context` is alive for as long as the result is used.
    pub unsafe fn from_raw(context: *mut pg_sys::LogicalDecodingContext) -> Self {
        Context(context)
    }

    /// Name of the slot that is decoded.
    pub fn slot_name(&self) -> &CStr {
        // SAFETY: a context has its slot, whose name ends with a NUL.
        unsafe { CStr::from_ptr((*(*self.0).slot).data.name.data.as_ptr()) }
    }

    /// The options that the plugin was given, in order; a value may be missing.
    pub fn options(&self) -> Vec<(String, Option<String>)> {
        let text = |p: *const c_char| {
            // SAFETY: option names and values are NUL-terminated.
            unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned()
        };
        // SAFETY: the option list consists of DefElem nodes.
        unsafe {
            let list = (*self.0).output_plugin_options;
            if list.is_null() {
                return Vec::new();
            }
            let cells = std::slice::from_raw_parts((*list).elements, (*list).length as usize);
            let option = |cell: &pg_sys::ListCell| {
                let option = cell.ptr_value.cast::<pg_sys::DefElem>();
                let value = (!(*option).arg.is_null()).then(|| text(pg_sys::defGetString(option)));
                (text((*option).defname), value)
            };
            cells.iter().map(option).collect()
        }
    }

    /// Keeps the plugin's own state until the context ends, however it ends.
    pub fn attach<T>(&self, state: T) {
        // SAFETY: the state is dropped with the context's memory, after which no callback runs.
        unsafe {
            let state = PgMemoryContexts::For((*self.0).context).leak_and_drop_on_delete(state);
            (*self.0).output_plugin_private = state.cast();
        }
    }

    /// The state that [`Context::attach`] keeps.
    ///
    /// # Safety
    /// A `T` was attached, and no other reference to it is in use.
    pub unsafe fn attached<'a, T>(&self) -> &'a mut T {
        // SAFETY: the caller's promise.
        unsafe { &mut *(*self.0).output_plugin_private.cast::<T>() }
    }

    /// Hands bytes to whoever drives the plugin. Only inside of a callback that may write.
    pub fn write(&self, bytes: &[u8]) {
        // SAFETY: StringInfo takes at most a gigabyte and raises an error beyond.
        unsafe {
            pg_sys::OutputPluginPrepareWrite(self.0, true);
            pg_sys::appendBinaryStringInfo((*self.0).out, bytes.as_ptr().cast(), bytes.len() as c_int);
            pg_sys::OutputPluginWrite(self.0, true);
        }
    }

    /// Tells whoever drives the plugin that there was nothing to write for a transaction.
    pub fn note_skipped(&self) {
        // SAFETY: called inside of a callback.
        unsafe { pg_sys::OutputPluginUpdateProgress(self.0, true) }
    }

    /// Lets whoever drives the plugin keep its connection alive through changes that nobody wants.
    pub fn note_alive(&self) {
        // SAFETY: called inside of a callback.
        unsafe { pg_sys::OutputPluginUpdateProgress(self.0, false) }
    }

    /// Just behind the last record that was decoded completely.
    pub fn position(&self) -> u64 {
        // SAFETY: a context has its reader.
        unsafe { (*(*self.0).reader).EndRecPtr }
    }
}

/// The bounds of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// Its top-level xid.
    pub xid: u32,
    /// Where its commit record begins.
    pub commit_lsn: u64,
    /// Just behind its commit record.
    pub end_lsn: u64,
    /// Microseconds since 2000-01-01.
    pub commit_time: i64,
}

impl Transaction {
    /// # Safety
    /// `txn` is a transaction that is being delivered.
    pub unsafe fn from_raw(txn: *mut pg_sys::ReorderBufferTXN) -> Self {
        // SAFETY: the caller's promise; a subtransaction points to its top-level transaction.
        let txn = unsafe { if (*txn).toptxn.is_null() { &*txn } else { &*(*txn).toptxn } };
        Transaction {
            xid: txn.xid.into_inner(),
            commit_lsn: txn.final_lsn,
            end_lsn: txn.end_lsn,
            // SAFETY: delivered transactions have committed, so this arm of the union is set.
            commit_time: unsafe { txn.xact_time.commit_time },
        }
    }
}

/// What happened to a row.
pub enum Change<'a> {
    /// It came.
    Insert(Option<Tuple<'a>>),
    /// It was changed. The old row is there as far as the replica identity says.
    Update(Option<Tuple<'a>>, Option<Tuple<'a>>),
    /// It went.
    Delete(Option<Tuple<'a>>),
    /// Nothing that a change callback is given.
    Other,
}

impl<'a> Change<'a> {
    /// # Safety
    /// `change` is what a change callback is given, for `'a`.
    pub unsafe fn from_raw(change: *mut pg_sys::ReorderBufferChange) -> Self {
        // SAFETY: for the three actions below `tp` is the arm in use.
        unsafe {
            let (old, new) = ((*change).data.tp.oldtuple, (*change).data.tp.newtuple);
            match (*change).action {
                pg_sys::ReorderBufferChangeType::REORDER_BUFFER_CHANGE_INSERT => Change::Insert(tuple(new)),
                pg_sys::ReorderBufferChangeType::REORDER_BUFFER_CHANGE_UPDATE => Change::Update(tuple(old), tuple(new)),
                pg_sys::ReorderBufferChangeType::REORDER_BUFFER_CHANGE_DELETE => Change::Delete(tuple(old)),
                _ => Change::Other,
            }
        }
    }
}

/// # Safety
/// Null or a tuple that stays unchanged for `'a`.
#[cfg(any(feature = "pg15", feature = "pg16"))]
unsafe fn tuple<'a>(tuple: *mut pg_sys::ReorderBufferTupleBuf) -> Option<Tuple<'a>> {
    // SAFETY: the caller's promise.
    (!tuple.is_null()).then(|| unsafe { Tuple::from_raw(&raw mut (*tuple).tuple) }).flatten()
}

/// # Safety
/// Null or a tuple that stays unchanged for `'a`.
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
unsafe fn tuple<'a>(tuple: pg_sys::HeapTuple) -> Option<Tuple<'a>> {
    // SAFETY: the caller's promise.
    unsafe { Tuple::from_raw(tuple) }
}

/// CASCADE and RESTART IDENTITY of a TRUNCATE.
///
/// # Safety
/// `change` is what a truncate callback is given.
pub unsafe fn truncate_flags(change: *mut pg_sys::ReorderBufferChange) -> (bool, bool) {
    // SAFETY: for a TRUNCATE this arm is in use.
    unsafe { ((*change).data.truncate.cascade, (*change).data.truncate.restart_seqs) }
}

/// Widens transaction ids by their epoch.
#[derive(Debug, Default)]
pub struct XidWidener(u64);

impl XidWidener {
    /// The 64-bit form of a transaction id that decoding has just met. Ids that are met one after the other are
    /// never 2^31 apart, as PostgreSQL stops assigning them long before.
    pub fn widen(&mut self, xid: u32) -> u64 {
        if self.0 == 0 {
            // SAFETY: reads shared memory under its lock.
            self.0 = unsafe { pg_sys::ReadNextFullTransactionId() }.value;
        }
        self.0 = self.0.wrapping_add_signed(i64::from(xid.wrapping_sub(self.0 as u32) as i32));
        self.0
    }
}

/// Where the server's WAL may be read up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flushed {
    /// Everything before this is on disk.
    pub lsn: u64,
    /// The timeline that it is on.
    pub timeline: u32,
}

/// How far the WAL is flushed now.
pub fn flushed() -> Flushed {
    let mut timeline = 0;
    // SAFETY: reads shared memory.
    let lsn = unsafe { pg_sys::GetFlushRecPtr(&mut timeline) };
    Flushed { lsn, timeline }
}

/// Flushes the WAL up to here, as an asynchronous commit leaves that to the WAL writer's pace.
pub fn flush_wal(lsn: u64) {
    // SAFETY: the LSN is that of a record which was inserted.
    unsafe { pg_sys::XLogFlush(lsn) }
}

/// Everything before this LSN is durable where it has to be: the slot's WAL and catalog rows may go.
pub fn confirm(lsn: u64) {
    // SAFETY: this process holds the slot.
    unsafe { pg_sys::LogicalConfirmReceivedLocation(lsn) }
}

/// Waits for more WAL.
pub trait WalSource {
    /// Returns once the WAL is flushed at least up to `wanted`.
    fn wait(&mut self, context: Context, wanted: u64) -> Flushed;
}

thread_local! {
    /// The one running decoding of this process; PostgreSQL's callback has no place for a pointer of ours.
    static SOURCE: RefCell<Option<(Box<dyn WalSource>, Flushed)>> = const { RefCell::new(None) };
}

/// Decoding of a slot, in this process, outside of any transaction.
pub struct Decoding(*mut pg_sys::LogicalDecodingContext);

impl Decoding {
    /// Takes the slot and starts the plugin. Transactions that committed before `start_lsn` are left out.
    pub fn start(slot: &CStr, start_lsn: u64, options: &[(&CStr, CString)], source: Box<dyn WalSource>) -> Self {
        SOURCE.set(Some((source, Flushed { lsn: 0, timeline: 0 })));
        // SAFETY: the routine is copied; the option list lives in TopMemoryContext, as long as the context.
        unsafe {
            #[cfg(feature = "pg18")]
            pg_sys::ReplicationSlotAcquire(slot.as_ptr(), true, true);
            #[cfg(not(feature = "pg18"))]
            pg_sys::ReplicationSlotAcquire(slot.as_ptr(), true);
            let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            let mut list = std::ptr::null_mut();
            for (name, value) in options {
                let value = pg_sys::makeString(pg_sys::pstrdup(value.as_ptr()));
                let option = pg_sys::makeDefElem(pg_sys::pstrdup(name.as_ptr()), value.cast(), -1);
                list = pg_sys::lappend(list, option.cast());
            }
            let mut routine = pg_sys::XLogReaderRoutine {
                page_read: Some(page_read),
                segment_open: Some(raw::wal_segment_open),
                segment_close: Some(raw::wal_segment_close),
            };
            let context = pg_sys::CreateDecodingContext(start_lsn, list, false, &mut routine, None, None, None);
            pg_sys::MemoryContextSwitchTo(before);
            pg_sys::XLogBeginRead((*context).reader, (*pg_sys::MyReplicationSlot).data.restart_lsn);
            Decoding(context)
        }
    }

    /// The context, to reach the plugin's state between two steps.
    pub fn context(&self) -> Context {
        Context(self.0)
    }

    /// Reads one WAL record, waiting for it if need be, and runs the plugin on what it brings.
    #[inline]
    pub fn step(&mut self) {
        // SAFETY: the context is alive and used by nobody else; both calls turn errors into panics.
        unsafe {
            let reader = (*self.0).reader;
            let mut message: *mut c_char = std::ptr::null_mut();
            let record = pg_sys::XLogReadRecord(reader, &mut message);
            if !message.is_null() {
                let message = CStr::from_ptr(message).to_string_lossy().into_owned();
                pgrx::ereport!(
                    ERROR,
                    pgrx::PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                    format!("could not read WAL for decoding: {message}")
                );
            }
            if !record.is_null() {
                bindings::LogicalDecodingProcessRecord(self.0, reader);
            }
        }
    }
}

const PAGE: u64 = pg_sys::XLOG_BLCKSZ as u64;

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn page_read(
    reader: *mut pg_sys::XLogReaderState,
    page: u64,
    wanted: c_int,
    _record: u64,
    into: *mut c_char,
) -> c_int {
    let until = page + wanted as u64;
    let flushed = SOURCE.with_borrow_mut(|source| {
        let (source, flushed) = source.as_mut().expect("WAL is read only while decoding runs");
        if until > flushed.lsn {
            // SAFETY: CreateDecodingContext made itself the reader's private data.
            let context = Context(unsafe { (*reader).private_data }.cast());
            *flushed = source.wait(context, until);
        }
        *flushed
    });
    // SAFETY: `into` holds a page; the reader is the one that asks.
    unsafe {
        pg_sys::XLogReadDetermineTimeline(reader, page, wanted as u32, flushed.timeline);
        let timeline = (*reader).currTLI;
        // A timeline that ended is read up to where the next one branched off.
        let end = if timeline == flushed.timeline { flushed.lsn } else { (*reader).currTLIValidUntil };
        let count = (end - page).min(PAGE);
        let mut error: pg_sys::WALReadError = std::mem::zeroed();
        if !pg_sys::WALRead(reader, into, page, count as usize, timeline, &mut error) {
            pg_sys::WALReadRaiseError(&mut error);
        }
        count as c_int
    }
}
