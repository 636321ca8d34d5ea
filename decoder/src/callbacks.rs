//! PostgreSQL's table of callbacks. Each turns the raw pointers that it is given into views for as long as it runs.

use crate::options::Options;
use crate::session::Session;
use pgrx::{pg_guard, pg_sys};
use pgtrickle_pg::decoding::{Change, Context, Transaction, truncate_flags};
use pgtrickle_pg::relation::Relation;
use pgtrickle_wire::LogicalMessage;
use std::ffi::{CStr, c_char, c_int};

/// Fills in the table for `_PG_output_plugin_init`. No callback for streaming or two-phase decoding is given: both
/// would show changes before it is certain that they commit.
///
/// # Safety
/// `callbacks` is the table that PostgreSQL wants to have filled in.
pub unsafe fn init(callbacks: *mut pg_sys::OutputPluginCallbacks) {
    // SAFETY: the caller's promise.
    let callbacks = unsafe { &mut *callbacks };
    callbacks.startup_cb = Some(startup);
    callbacks.begin_cb = Some(begin);
    callbacks.change_cb = Some(change);
    callbacks.truncate_cb = Some(truncate);
    callbacks.message_cb = Some(message);
    callbacks.commit_cb = Some(commit);
    callbacks.filter_by_origin_cb = Some(filter_by_origin);
}

/// The state that `startup` attached.
pub fn session<'a>(context: Context) -> &'a mut Session {
    // SAFETY: every context that this plugin serves went through `startup`. PostgreSQL runs one callback at a time, and
    // the loop uses the session only between two of them.
    unsafe { context.attached() }
}

#[pg_guard]
unsafe extern "C-unwind" fn startup(
    context: *mut pg_sys::LogicalDecodingContext,
    output: *mut pg_sys::OutputPluginOptions,
    _is_init: bool,
) {
    // SAFETY: PostgreSQL hands over a context that lives until decoding ends, and options to be filled in.
    let context = unsafe {
        (*output).output_type = pg_sys::OutputPluginOutputType::OUTPUT_PLUGIN_BINARY_OUTPUT;
        // The rows of a table that is being rewritten are no changes.
        (*output).receive_rewrites = false;
        Context::from_raw(context)
    };
    let options = Options::parse(&context.options()).unwrap_or_else(|e| e.raise());
    context.attach(Session::new(&options, context.slot_name().to_bytes()));
}

#[pg_guard]
unsafe extern "C-unwind" fn begin(context: *mut pg_sys::LogicalDecodingContext, txn: *mut pg_sys::ReorderBufferTXN) {
    // SAFETY: both are alive while the transaction is delivered.
    let (context, transaction) = unsafe { (Context::from_raw(context), Transaction::from_raw(txn)) };
    session(context).begin(transaction);
}

#[pg_guard]
unsafe extern "C-unwind" fn change(
    context: *mut pg_sys::LogicalDecodingContext,
    _txn: *mut pg_sys::ReorderBufferTXN,
    relation: pg_sys::Relation,
    change: *mut pg_sys::ReorderBufferChange,
) {
    // SAFETY: all are alive and unchanged until this returns.
    let (context, relation, change) =
        unsafe { (Context::from_raw(context), Relation::from_raw(relation), Change::from_raw(change)) };
    session(context).change(context, relation, change);
}

#[pg_guard]
unsafe extern "C-unwind" fn truncate(
    context: *mut pg_sys::LogicalDecodingContext,
    _txn: *mut pg_sys::ReorderBufferTXN,
    count: c_int,
    relations: *mut pg_sys::Relation,
    change: *mut pg_sys::ReorderBufferChange,
) {
    // SAFETY: `relations` holds `count` open relations until this returns.
    let (context, relations, (cascade, restart_identity)) = unsafe {
        let relations = std::slice::from_raw_parts(relations, count as usize);
        let relations: Vec<_> = relations.iter().map(|&relation| Relation::from_raw(relation)).collect();
        (Context::from_raw(context), relations, truncate_flags(change))
    };
    session(context).truncate(context, &relations, cascade, restart_identity);
}

#[pg_guard]
unsafe extern "C-unwind" fn message(
    context: *mut pg_sys::LogicalDecodingContext,
    _txn: *mut pg_sys::ReorderBufferTXN,
    lsn: pg_sys::XLogRecPtr,
    transactional: bool,
    prefix: *const c_char,
    size: pg_sys::Size,
    content: *const c_char,
) {
    // SAFETY: the prefix is NUL-terminated, the content has `size` bytes.
    let (context, message) = unsafe {
        let context = Context::from_raw(context);
        let content = std::slice::from_raw_parts(content.cast::<u8>(), size);
        (context, LogicalMessage { lsn, transactional, prefix: CStr::from_ptr(prefix).to_bytes(), content })
    };
    session(context).message(context, &message);
}

#[pg_guard]
unsafe extern "C-unwind" fn commit(
    context: *mut pg_sys::LogicalDecodingContext,
    txn: *mut pg_sys::ReorderBufferTXN,
    _commit_lsn: pg_sys::XLogRecPtr,
) {
    // SAFETY: both are alive until this returns.
    let (context, transaction) = unsafe { (Context::from_raw(context), Transaction::from_raw(txn)) };
    session(context).commit(context, transaction.end_lsn);
}

#[pg_guard]
unsafe extern "C-unwind" fn filter_by_origin(
    context: *mut pg_sys::LogicalDecodingContext,
    origin: pg_sys::RepOriginId,
) -> bool {
    // SAFETY: alive until this returns.
    session(unsafe { Context::from_raw(context) }).is_own(origin)
}
