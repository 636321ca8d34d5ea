//! Relations by name and OID, through the system caches.

use crate::nodes::text;
use pgrx::{IntoDatum, pg_sys};
use std::ffi::{CStr, CString};

/// OID of the relation `schema.name`, if there is one.
pub fn named(schema: &CStr, name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: catalog lookups by NUL-terminated names.
    unsafe {
        let namespace = pg_sys::get_namespace_oid(schema.as_ptr(), true);
        if namespace == pg_sys::InvalidOid {
            return None;
        }
        let relid = pg_sys::get_relname_relid(name.as_ptr(), namespace).to_u32();
        (relid != 0).then_some(relid)
    }
}

/// OID of the relation that a text names by the search path, as `to_regclass` finds it.
pub fn by_text(name: &str) -> Option<u32> {
    // SAFETY: a function of one text.
    let found = unsafe { pgrx::direct_function_call::<pg_sys::Oid>(pg_sys::to_regclass, &[name.into_datum()]) };
    found.map(|relid| relid.to_u32())
}

/// Learns of what other transactions have defined meanwhile; without, caches may still say that it is not there.
pub fn accept_changes() {
    // SAFETY: may be called at any time within a transaction.
    unsafe { pg_sys::AcceptInvalidationMessages() }
}

/// Whether a relation has triggers besides the one of this name.
pub fn has_triggers_besides(relid: u32, ours: &CStr) -> bool {
    // SAFETY: the relation, and with it what its triggers are, stays open while their names are compared.
    unsafe {
        let rel = pg_sys::relation_open(pg_sys::Oid::from(relid), pg_sys::AccessShareLock as i32);
        let described = (*rel).trigdesc.as_ref();
        let triggers =
            described.map_or(&[][..], |d| std::slice::from_raw_parts(d.triggers, d.numtriggers.max(0) as usize));
        let others = triggers.iter().any(|trigger| CStr::from_ptr(trigger.tgname) != ours);
        pg_sys::relation_close(rel, pg_sys::NoLock as i32);
        others
    }
}

/// What `read` makes of a relation's row in pg_class, if the relation exists.
fn of_class<T>(relid: u32, read: impl FnOnce(&pg_sys::FormData_pg_class) -> T) -> Option<T> {
    // SAFETY: the tuple stays valid until it is released; pg_class tuples begin with the fixed struct.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::RELOID as i32,
            pg_sys::Datum::from(pg_sys::Oid::from(relid)),
        );
        if tuple.is_null() {
            return None;
        }
        let value = read(&*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>());
        pg_sys::ReleaseSysCache(tuple);
        Some(value)
    }
}

/// The role that owns a relation, if the relation exists.
pub fn owner(relid: u32) -> Option<u32> {
    of_class(relid, |class| class.relowner.to_u32())
}

/// What a relation is called, and whose it is.
pub struct Named {
    pub schema: String,
    pub name: String,
    pub owner: u32,
}

/// The names and the owner of a relation, if the relation exists.
pub fn named_as(relid: u32) -> Option<Named> {
    let named = of_class(relid, |class| {
        // SAFETY: names of the catalog's rows are C strings.
        unsafe {
            let schema = pg_sys::get_namespace_name(class.relnamespace);
            (!schema.is_null()).then(|| Named {
                schema: text(schema),
                name: text(class.relname.data.as_ptr()),
                owner: class.relowner.to_u32(),
            })
        }
    });
    named.flatten()
}

/// The schema of a relation, if the relation exists.
pub fn namespace(relid: u32) -> Option<u32> {
    // SAFETY: a syscache lookup by OID.
    let schema = unsafe { pg_sys::get_rel_namespace(pg_sys::Oid::from(relid)) }.to_u32();
    (schema != 0).then_some(schema)
}

/// Blocks of a relation's main fork. The caller holds a lock on it.
pub fn blocks(relid: u32) -> u32 {
    // SAFETY: opened and closed here, under a lock that the caller keeps.
    unsafe {
        let rel = pg_sys::relation_open(pg_sys::Oid::from(relid), pg_sys::AccessShareLock as i32);
        let blocks = pg_sys::RelationGetNumberOfBlocksInFork(rel, pg_sys::ForkNumber::MAIN_FORKNUM);
        pg_sys::relation_close(rel, pg_sys::NoLock as i32);
        blocks
    }
}

/// The planner's estimate of a relation's rows; -1 when it was never analysed.
pub fn estimated_rows(relid: u32) -> f64 {
    // SAFETY: as in `owner`.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::RELOID as i32,
            pg_sys::Datum::from(pg_sys::Oid::from(relid)),
        );
        if tuple.is_null() {
            return -1.0;
        }
        let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
        let rows = f64::from((*form).reltuples);
        pg_sys::ReleaseSysCache(tuple);
        rows
    }
}

/// The name of a role; raises an error if there is no such role.
pub fn role_name(role: u32) -> String {
    // SAFETY: the name is a palloc'd copy, copied again here.
    unsafe {
        let name = pg_sys::GetUserNameFromId(pg_sys::Oid::from(role), false);
        CStr::from_ptr(name).to_string_lossy().into_owned()
    }
}

/// Whether a relation has this name in this schema, now.
pub fn is_named(relid: u32, schema: &str, name: &str) -> bool {
    let same = |text: *mut std::ffi::c_char, expected: &str| {
        // SAFETY: a string of the current memory context, checked for null.
        !text.is_null() && unsafe { CStr::from_ptr(text) }.to_bytes() == expected.as_bytes()
    };
    // SAFETY: catalog lookups.
    unsafe {
        let relid = pg_sys::Oid::from(relid);
        same(pg_sys::get_rel_name(relid), name)
            && same(pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relid)), schema)
    }
}
