//! What the planner is told about staged changes: their columns are distributed as their source's are, but for each value
//! that is unique there an update has two rows.

use pgrx::{pg_guard, pg_sys};
use std::ffi::CStr;
use std::sync::OnceLock;

static BEFORE: OnceLock<pg_sys::get_relation_stats_hook_type> = OnceLock::new();

/// Tells the planner from now on.
pub fn install() {
    // SAFETY: called once, while the library is loaded; hooks are plain variables of the process.
    unsafe {
        if BEFORE.set(pg_sys::get_relation_stats_hook).is_ok() {
            pg_sys::get_relation_stats_hook = Some(statistics);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn statistics(
    root: *mut pg_sys::PlannerInfo,
    rte: *mut pg_sys::RangeTblEntry,
    attnum: pg_sys::AttrNumber,
    vardata: *mut pg_sys::VariableStatData,
) -> bool {
    // SAFETY: the planner's own arguments, valid during the call.
    unsafe {
        if (*rte).rtekind == pg_sys::RTEKind::RTE_NAMEDTUPLESTORE
            && let Some((source, column)) = origin(rte, attnum)
            && let Some(tuple) = of_column(source, column)
        {
            (*vardata).statsTuple = tuple;
            (*vardata).freefunc = Some(free);
            // Whoever reads the change may read its source.
            (*vardata).acl_ok = true;
            return true;
        }
        match BEFORE.get().copied().flatten() {
            Some(before) => before(root, rte, attnum, vardata),
            None => false,
        }
    }
}

/// The source and the number of its column that `pgt_delta_<source>` has under the name `c<number>`.
///
/// # Safety
/// `rte` is an ephemeral relation with a column of this number.
unsafe fn origin(rte: *mut pg_sys::RangeTblEntry, attnum: pg_sys::AttrNumber) -> Option<(pg_sys::Oid, i16)> {
    // SAFETY: the entry's names are C strings, one per column.
    unsafe {
        let name = CStr::from_ptr((*rte).enrname).to_str().ok()?;
        let source: u32 = name.strip_prefix("pgt_delta_")?.parse().ok()?;
        let names = (*(*rte).eref).colnames;
        let column = pg_sys::list_nth(names, i32::from(attnum) - 1).cast::<pg_sys::String>();
        let column = CStr::from_ptr((*column).sval).to_str().ok()?;
        Some((pg_sys::Oid::from(source), column.strip_prefix('c')?.parse().ok()?))
    }
}

/// A copy of a column's statistics, with two rows for each unique value.
fn of_column(source: pg_sys::Oid, column: i16) -> Option<pg_sys::HeapTuple> {
    let search = |inherited: bool| {
        // SAFETY: a lookup in the catalog's cache; what is found is copied and released.
        unsafe {
            let found = pg_sys::SearchSysCache3(
                pg_sys::SysCacheIdentifier::STATRELATTINH as i32,
                source.into(),
                pg_sys::Datum::from(column),
                pg_sys::Datum::from(inherited),
            );
            (!found.is_null()).then(|| {
                let copy = pg_sys::heap_copytuple(found);
                pg_sys::ReleaseSysCache(found);
                copy
            })
        }
    };
    let copy = search(false).or_else(|| search(true))?;
    // SAFETY: a tuple of pg_statistic begins with the fixed part of its columns.
    unsafe {
        let data = (*copy).t_data.cast::<u8>().add(usize::from((*(*copy).t_data).t_hoff));
        let statistics = &mut *data.cast::<pg_sys::FormData_pg_statistic>();
        if statistics.stadistinct < 0.0 {
            statistics.stadistinct /= 2.0;
        }
    }
    Some(copy)
}

#[pg_guard]
unsafe extern "C-unwind" fn free(tuple: pg_sys::HeapTuple) {
    // SAFETY: a copy of ours that the planner is done with.
    unsafe { pg_sys::heap_freetuple(tuple) }
}
