//! Columns as they are seen above all joins of a query.
//!
//! From PostgreSQL 16 on, each node of a column says which outer joins may have put NULL in its place below it, and the planner
//! relies on that.

#[cfg(not(feature = "pg15"))]
use crate::nodes::pointers;
use pgrx::pg_sys;

/// A column of a query's own level, wherever its node comes from, as an expression above all joins reads it.
///
/// # Safety
/// An analysed query, and a node of its own that nothing else shares.
#[cfg(not(feature = "pg15"))]
pub(super) unsafe fn above_joins(query: *mut pg_sys::Query, var: *mut pg_sys::Var) -> *mut pg_sys::Var {
    // SAFETY: as the caller says; the set is new.
    unsafe {
        (*var).varnullingrels = nulling((*query).jointree.cast(), (*var).varno).unwrap_or(std::ptr::null_mut());
        var
    }
}

/// Nothing is noted here.
///
/// # Safety
/// None is needed.
#[cfg(feature = "pg15")]
pub(super) unsafe fn above_joins(_: *mut pg_sys::Query, var: *mut pg_sys::Var) -> *mut pg_sys::Var {
    var
}

/// The outer joins in this part of FROM that may put NULLs in place of an entry's rows (which may be a join's own); none if the
/// entry is not in it.
#[cfg(not(feature = "pg15"))]
unsafe fn nulling(item: *mut pg_sys::Node, entry: i32) -> Option<*mut pg_sys::Bitmapset> {
    use pg_sys::JoinType::{JOIN_FULL, JOIN_LEFT, JOIN_RIGHT};
    // SAFETY: the tag decides the struct.
    unsafe {
        match (*item).type_ {
            pg_sys::NodeTag::T_RangeTblRef => {
                ((*item.cast::<pg_sys::RangeTblRef>()).rtindex == entry).then_some(std::ptr::null_mut())
            }
            pg_sys::NodeTag::T_FromExpr => {
                let mut items = pointers::<pg_sys::Node>((*item.cast::<pg_sys::FromExpr>()).fromlist);
                items.find_map(|item| nulling(item, entry))
            }
            pg_sys::NodeTag::T_JoinExpr => {
                let join = &*item.cast::<pg_sys::JoinExpr>();
                if join.rtindex == entry {
                    return Some(std::ptr::null_mut());
                }
                let left = nulling(join.larg, entry).map(|set| (set, [JOIN_RIGHT, JOIN_FULL]));
                let (set, outer) = left.or_else(|| Some((nulling(join.rarg, entry)?, [JOIN_LEFT, JOIN_FULL])))?;
                Some(if outer.contains(&join.jointype) { pg_sys::bms_add_member(set, join.rtindex) } else { set })
            }
            _ => None,
        }
    }
}
