//! Relations whose definition changed since it was last asked: what caches of derived things must look at.

use pgrx::{pg_guard, pg_sys};
use std::cell::{Cell, RefCell};

/// More than this many at once are reported as "all".
const MOST: usize = 1024;

#[derive(Default)]
struct Changed {
    relations: Vec<u32>,
    all: bool,
}

/// Who asks. Each is told everything, whatever the others have been told.
#[derive(Clone, Copy)]
pub enum Asker {
    /// The cache of refresh programs.
    Programs,
    /// What is known of stream tables that are maintained at once.
    Immediate,
}

const ASKERS: usize = 2;

thread_local! {
    static CHANGED: RefCell<[Changed; ASKERS]> = RefCell::default();
    static LISTENING: Cell<bool> = const { Cell::new(false) };
}

/// What changed since the last call.
pub enum Invalidated {
    Relations(Vec<u32>),
    /// Too much to tell, or everything.
    All,
}

/// Starts listening in this process. Repeated calls do nothing.
pub fn listen() {
    if !LISTENING.replace(true) {
        // SAFETY: the callbacks live as long as the library; registrations are never removed.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), pg_sys::Datum::from(0));
            // Names, and what roles may do.
            use pg_sys::SysCacheIdentifier::{AUTHMEMMEMROLE, AUTHOID, NAMESPACEOID};
            for cache in [NAMESPACEOID, AUTHOID, AUTHMEMMEMROLE] {
                pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(anything_changed), pg_sys::Datum::from(0));
            }
        }
    }
}

/// Takes what changed since this asker's last call.
pub fn take(asker: Asker) -> Invalidated {
    CHANGED.with_borrow_mut(|all| {
        let c = &mut all[asker as usize];
        let relations = std::mem::take(&mut c.relations);
        if std::mem::take(&mut c.all) { Invalidated::All } else { Invalidated::Relations(relations) }
    })
}

fn note(relid: u32) {
    CHANGED.with_borrow_mut(|all| {
        for c in all {
            if relid == 0 || c.relations.len() >= MOST {
                c.all = true;
                c.relations.clear();
            } else if !c.all {
                c.relations.push(relid);
            }
        }
    });
}

#[pg_guard]
unsafe extern "C-unwind" fn relation_changed(_arg: pg_sys::Datum, relid: pg_sys::Oid) {
    note(relid.to_u32());
}

#[pg_guard]
unsafe extern "C-unwind" fn anything_changed(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    note(0);
}
