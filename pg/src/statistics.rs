//! What the planner is told about staged changes, and about what is kept between refreshes: their columns are distributed as
//! those of the sources that their values come from.
//!
//! A change has two rows for each row that was updated. What is kept has few of the values that there could be, so that few
//! of others' rows have a partner there.

use crate::class;
use crate::nodes::pointers;
use pgrx::{pg_guard, pg_sys};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;
use std::rc::Rc;
use std::sync::OnceLock;

/// By a relation's name the source's oid and the number of its column for each column, from the first.
pub type Origins = HashMap<String, Vec<Option<(u32, i16)>>>;

thread_local! {
    static TOLD: RefCell<Rc<Origins>> = RefCell::default();
}

/// Until dropped, the planner is told about these.
pub struct Told {
    before: Rc<Origins>,
}

impl Told {
    pub fn of(origins: Rc<Origins>) -> Told {
        Told { before: TOLD.replace(origins) }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        TOLD.replace(std::mem::take(&mut self.before));
    }
}

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
        let found = match (*rte).rtekind {
            // A whole row.
            _ if attnum < 1 => None,
            pg_sys::RTEKind::RTE_NAMEDTUPLESTORE if is_staged(rte) => of_staged(rte, attnum),
            pg_sys::RTEKind::RTE_RELATION => of_kept(rte, attnum),
            pg_sys::RTEKind::RTE_SUBQUERY if (*rte).inh && !(*vardata).rel.is_null() => {
                of_sides(root, rte, attnum, (*(*vardata).rel).tuples)
            }
            _ => None,
        };
        if let Some(tuple) = found {
            (*vardata).statsTuple = tuple;
            (*vardata).freefunc = Some(free);
            // Whoever reads the change, or what is kept, may read its source.
            (*vardata).acl_ok = true;
            // There could be more values than rows.
            (*vardata).isunique = false;
            return true;
        }
        match BEFORE.get().copied().flatten() {
            Some(before) => before(root, rte, attnum, vardata),
            None => false,
        }
    }
}

/// Whether it is an ephemeral relation of ours. A trigger's transition tables have whatever names users give them, but the OID of
/// their table; ours have none.
///
/// # Safety
/// `rte` is an entry of a range table.
unsafe fn is_staged(rte: *mut pg_sys::RangeTblEntry) -> bool {
    // SAFETY: as the caller says.
    unsafe { (*rte).rtekind == pg_sys::RTEKind::RTE_NAMEDTUPLESTORE && (*rte).relid == pg_sys::InvalidOid }
}

/// Statistics of a column of an ephemeral relation, in which each value that is unique in the source comes twice.
///
/// # Safety
/// `rte` is an ephemeral relation with a column of this number.
unsafe fn of_staged(rte: *mut pg_sys::RangeTblEntry, attnum: pg_sys::AttrNumber) -> Option<pg_sys::HeapTuple> {
    // SAFETY: the entry's names are C strings, one per column.
    unsafe {
        let name = CStr::from_ptr((*rte).enrname).to_str().ok()?;
        let names = (*(*rte).eref).colnames;
        let column = pg_sys::list_nth(names, i32::from(attnum) - 1).cast::<pg_sys::String>();
        let column = number_in(CStr::from_ptr((*column).sval))?;
        let (source, column) = match name.strip_prefix("pgt_delta_") {
            Some(source) => (source.parse().ok()?, column),
            None => told(name, column)?,
        };
        let tuple = statistics_of(source, column)?;
        let updated = (*rte).enrtuples / 2.0;
        set_distinct(tuple, |distinct| {
            let all = absolute(distinct, source);
            if all > 0.0 { (all * -(-updated / all).exp_m1()).max(1.0) } else { distinct / 2.0 }
        });
        Some(tuple)
    }
}

/// Statistics of a column of a stage's change, so many new and old rows that are staged side by side: a value comes on either
/// side.
///
/// # Safety
/// `rte` is an entry of this planner's range table that stands for a UNION ALL with a column of this number.
unsafe fn of_sides(
    root: *mut pg_sys::PlannerInfo,
    rte: *mut pg_sys::RangeTblEntry,
    attnum: pg_sys::AttrNumber,
    rows: f64,
) -> Option<pg_sys::HeapTuple> {
    // SAFETY: the planner's arrays have an entry for each relation, and a branch has an expression for each column.
    unsafe {
        let entry = |number: u32| *(*root).simple_rte_array.add(number as usize);
        let mut branches = pointers::<pg_sys::AppendRelInfo>((*root).append_rel_list);
        let branch = branches.find(|branch| entry((**branch).parent_relid) == rte)?;
        let child = (*branch).child_relid;
        let column = pg_sys::list_nth((*branch).translated_vars, i32::from(attnum) - 1).cast::<pg_sys::Var>();
        let of_child = (*column).xpr.type_ == pg_sys::NodeTag::T_Var && (*column).varno as u32 == child;
        if !of_child || !is_staged(entry(child)) || (*column).varattno < 1 {
            return None;
        }
        let tuple = of_staged(entry(child), (*column).varattno)?;
        set_distinct(tuple, |distinct| if distinct > 0.0 && distinct < rows / 2.0 { distinct } else { -0.5 });
        Some(tuple)
    }
}

/// Statistics of a column of a table that is kept between refreshes: its own if there are any, with as many values as there
/// could be.
///
/// # Safety
/// `rte` is a relation.
unsafe fn of_kept(rte: *mut pg_sys::RangeTblEntry, attnum: pg_sys::AttrNumber) -> Option<pg_sys::HeapTuple> {
    if TOLD.with_borrow(|told| told.is_empty()) {
        return None;
    }
    // SAFETY: the names that the catalog's cache has are C strings; they are NULL where there is no such thing.
    unsafe {
        let relid = (*rte).relid;
        let name = pg_sys::get_rel_name(relid);
        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relid));
        let column = pg_sys::get_attname(relid, attnum, true);
        if name.is_null() || schema.is_null() || column.is_null() || CStr::from_ptr(schema) != c"pgtrickle_changes" {
            return None;
        }
        let (source, column) = told(CStr::from_ptr(name).to_str().ok()?, number_in(CStr::from_ptr(column))?)?;
        let of_source = statistics_of(source, column)?;
        let mut all = 0.0;
        set_distinct(of_source, |distinct| {
            all = absolute(distinct, source);
            all
        });
        let Some(own) = statistics_of(relid.to_u32(), attnum) else { return Some(of_source) };
        set_distinct(own, |distinct| if all > 0.0 { all } else { distinct });
        Some(own)
    }
}

/// The number that a column's name ends in.
fn number_in(column: &CStr) -> Option<i16> {
    column.to_str().ok()?.strip_prefix(['c', 'k', 'j'])?.parse().ok()
}

fn told(relation: &str, column: i16) -> Option<(u32, i16)> {
    let place = usize::try_from(column).ok()?.checked_sub(1)?;
    TOLD.with_borrow(|told| told.get(relation)?.get(place).copied().flatten())
}

/// As many values as a source's column has: PostgreSQL counts many of them per row. 0 if unknown.
fn absolute(distinct: f64, source: u32) -> f64 {
    if distinct < 0.0 { -distinct * class::estimated_rows(source).max(0.0) } else { distinct }
}

/// A copy of a column's statistics.
fn statistics_of(relid: u32, column: i16) -> Option<pg_sys::HeapTuple> {
    let search = |inherited: bool| {
        // SAFETY: a lookup in the catalog's cache; what is found is copied and released.
        unsafe {
            let found = pg_sys::SearchSysCache3(
                pg_sys::SysCacheIdentifier::STATRELATTINH as i32,
                pg_sys::Datum::from(pg_sys::Oid::from(relid)),
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
    search(false).or_else(|| search(true))
}

/// # Safety
/// `tuple` is a row of pg_statistic that nobody else has.
unsafe fn set_distinct(tuple: pg_sys::HeapTuple, change: impl FnOnce(f64) -> f64) {
    // SAFETY: a tuple of pg_statistic begins with the fixed part of its columns.
    unsafe {
        let data = (*tuple).t_data.cast::<u8>().add(usize::from((*(*tuple).t_data).t_hoff));
        let statistics = &mut *data.cast::<pg_sys::FormData_pg_statistic>();
        statistics.stadistinct = change(f64::from(statistics.stadistinct)) as f32;
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn free(tuple: pg_sys::HeapTuple) {
    // SAFETY: a copy of ours that the planner is done with.
    unsafe { pg_sys::heap_freetuple(tuple) }
}
