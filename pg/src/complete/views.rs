//! Views that leave a choice: their queries, completed, in their place.
//!
//! ```text
//! SELECT … FROM v  =  SELECT … FROM (query of v, completed) v
//! ```
//!
//! Only for those who may read what the view reads: its owner's rights do not come with its text.

use super::complete;
use crate::nodes::{Walk, copy, pointers, text, walk};
use crate::query::{Entry, Query, RelationEntry, Scratch};
use pgrx::pg_sys;

/// Puts the queries of views in their place where completing them changes something. Nothing, if that is nowhere, or if somebody
/// who may not read all of it is to run the result.
///
/// # Safety
/// `query` is a tree of the scratch context that nobody else uses, completed and not rewritten.
pub(crate) unsafe fn settle(
    scratch: &Scratch,
    query: *mut pg_sys::Query,
    readable: &dyn Fn(&RelationEntry) -> bool,
) -> bool {
    // SAFETY: the tree is ours; entries belong to the queries that they are found in.
    unsafe {
        let mut changed = false;
        for within in Query::new(query).descendants() {
            let within: *mut pg_sys::Query = within.as_node().cast();
            for entry in pointers::<pg_sys::RangeTblEntry>((*within).rtable).collect::<Vec<_>>() {
                if let Some(inner) = completed(scratch, entry, readable) {
                    put(entry, inner);
                    changed = true;
                }
            }
        }
        changed && !uses_whole_rows(query)
    }
}

/// The query of an entry that is a view, if it leaves a choice that may be made here.
unsafe fn completed(
    scratch: &Scratch,
    entry: *mut pg_sys::RangeTblEntry,
    readable: &dyn Fn(&RelationEntry) -> bool,
) -> Option<*mut pg_sys::Query> {
    // SAFETY: the rule is copied while the view is open; its lock is kept, as using the view would.
    unsafe {
        let is_view = (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION && (*entry).relkind as u8 == b'v';
        // A view's own query has entries for the view itself, OLD and NEW, before 16.
        if !is_view
            || !(*entry).inFromCl
            || pg_sys::get_rel_namespace((*entry).relid) == pg_sys::Oid::from(pg_sys::PG_CATALOG_NAMESPACE)
        {
            return None;
        }
        let view = pg_sys::relation_open((*entry).relid, pg_sys::AccessShareLock as _);
        let query = copy(pg_sys::get_view_query(view));
        pg_sys::relation_close(view, pg_sys::NoLock as _);
        let deeper = settle(scratch, query, readable);
        let here = complete(scratch, query);
        let may = |query: &Query<'_>| {
            (1..=query.entries()).all(|n| match query.entry(n) {
                Entry::Relation(entry) => !entry.guarded && readable(&entry),
                _ => true,
            })
        };
        ((deeper || here) && Query::new(query).descendants().iter().all(may)).then_some(query)
    }
}

/// Makes an entry for a view one for a subquery, whose columns are called as the view's.
unsafe fn put(entry: *mut pg_sys::RangeTblEntry, query: *mut pg_sys::Query) {
    // SAFETY: the entry and the query are trees of ours; eref has a name for each column.
    unsafe {
        let names = pointers::<pg_sys::String>((*(*entry).eref).colnames).map(|name| text((*name).sval));
        let targets = pointers::<pg_sys::TargetEntry>((*query).targetList).filter(|target| !(**target).resjunk);
        for (name, target) in names.zip(targets) {
            let name = std::ffi::CString::new(name).expect("no NUL");
            (*target).resname = pg_sys::pstrdup(name.as_ptr());
        }
        let made = super::entry_of(query);
        (*made).alias = (*entry).alias;
        (*made).eref = (*entry).eref;
        (*made).lateral = (*entry).lateral;
        (*made).inFromCl = (*entry).inFromCl;
        std::ptr::copy_nonoverlapping(made, entry, 1);
    }
}

/// Whether a view's row is used as a value: a subquery's row is of another type.
unsafe fn uses_whole_rows(query: *mut pg_sys::Query) -> bool {
    let mut found = false;
    // SAFETY: walks the tree only; the tag decides the struct.
    unsafe {
        walk(query.cast(), &mut |node| {
            if (*node).type_ == pg_sys::NodeTag::T_Var && (*node.cast::<pg_sys::Var>()).varattno == 0 {
                let relation = pg_sys::get_typ_typrelid((*node.cast::<pg_sys::Var>()).vartype);
                found |= relation != pg_sys::InvalidOid && pg_sys::get_rel_relkind(relation) as u8 == b'v';
            }
            if found { Walk::Stop } else { Walk::Into }
        });
    }
    found
}
