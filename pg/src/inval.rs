//! Relations whose definition changed since it was last asked: what caches of derived things must look at.

use pgrx::{pg_guard, pg_sys};
use std::cell::RefCell;

/// More than this many at once are reported as "all".
const MOST: usize = 1024;

#[derive(Default)]
struct Changed {
    relations: Vec<u32>,
    all: bool,
    registered: bool,
}

thread_local! {
    static CHANGED: RefCell<Changed> = RefCell::default();
}

/// What changed since the last call.
pub enum Invalidated {
    Relations(Vec<u32>),
    /// Too much to tell, or everything.
    All,
}

/// Starts listening in this process. Repeated calls do nothing.
pub fn listen() {
    let first = CHANGED.with_borrow_mut(|c| !std::mem::replace(&mut c.registered, true));
    if first {
        // SAFETY: the callbacks live as long as the library; registrations are never removed.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), pg_sys::Datum::from(0));
            pg_sys::CacheRegisterSyscacheCallback(
                pg_sys::SysCacheIdentifier::NAMESPACEOID as i32,
                Some(namespace_changed),
                pg_sys::Datum::from(0),
            );
        }
    }
}

/// Takes what changed since the last call.
pub fn take() -> Invalidated {
    CHANGED.with_borrow_mut(|c| {
        let relations = std::mem::take(&mut c.relations);
        if std::mem::take(&mut c.all) { Invalidated::All } else { Invalidated::Relations(relations) }
    })
}

fn note(relid: u32) {
    CHANGED.with_borrow_mut(|c| {
        if relid == 0 || c.relations.len() >= MOST {
            c.all = true;
            c.relations.clear();
        } else if !c.all {
            c.relations.push(relid);
        }
    });
}

#[pg_guard]
unsafe extern "C-unwind" fn relation_changed(_arg: pg_sys::Datum, relid: pg_sys::Oid) {
    note(relid.to_u32());
}

#[pg_guard]
unsafe extern "C-unwind" fn namespace_changed(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    note(0);
}
