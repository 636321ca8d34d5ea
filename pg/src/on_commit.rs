//! What is to be done once the work of now is committed: not when its subtransaction is rolled back (a savepoint, an exception
//! block of PL/pgSQL), nor when the transaction is prepared, which somebody else may roll back.

use pgrx::{pg_guard, pg_sys};
use std::cell::{Cell, RefCell};
use std::ffi::c_void;

type Work = Box<dyn FnOnce()>;

thread_local! {
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
    /// With the subtransaction that each belongs to.
    static PENDING: RefCell<Vec<(u32, Work)>> = const { RefCell::new(Vec::new()) };
}

/// Does `work` after the commit of the current transaction, if it and its current subtransaction commit. It must not raise.
pub fn on_commit(work: impl FnOnce() + 'static) {
    // SAFETY: callbacks of this library, which is never unloaded; the id is read from the state of the transaction.
    let subtransaction = unsafe {
        if !REGISTERED.replace(true) {
            pg_sys::RegisterXactCallback(Some(transaction_ends), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(subtransaction_ends), std::ptr::null_mut());
        }
        pg_sys::GetCurrentSubTransactionId()
    };
    PENDING.with_borrow_mut(|pending| pending.push((subtransaction, Box::new(work))));
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction_ends(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::*;
    match event {
        XACT_EVENT_COMMIT => PENDING.take().into_iter().for_each(|(_, work)| work()),
        XACT_EVENT_ABORT | XACT_EVENT_PREPARE => drop(PENDING.take()),
        _ => {}
    }
}

/// Ids ascend, and only what encloses the work can still end: whoever has its id or a lower one takes it along.
#[pg_guard]
unsafe extern "C-unwind" fn subtransaction_ends(
    event: pg_sys::SubXactEvent::Type,
    id: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        PENDING.with_borrow_mut(|pending| pending.retain(|(of, _)| *of < id));
    }
}
