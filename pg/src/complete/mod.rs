//! Completing a query: where SQL leaves a choice among rows that tie, the definition of a stream table makes it, so that
//! the result is a function of the data.
//!
//! The choice is made by one more term after the user's ORDER BY, the *tie-break* `ROW(…) USING OPERATOR(pg_catalog.*<)`:
//! rows in the order of their bytes, in which only identical rows are equal.
//!
//! | construct | is completed by |
//! |---|---|
//! | LIMIT, OFFSET, FETCH FIRST … ONLY | a tie-break over the selected columns |
//! | DISTINCT ON | the same, after its own expressions and ORDER BY |
//! | `row_number`, `ntile`, `lag`, `lead` | a tie-break in the window, over all columns that the query uses |
//! | any function over a ROWS frame | the same |
//! | aggregates that show the order of their rows (`array_agg`, `string_agg`, sums of floats…), `ARRAY(SELECT …)` | their arguments, by value and then by their bytes; before that, if they have no ORDER BY, the order of the subquery that is all of FROM, or where functions give the rows the columns that the query uses and WITH ORDINALITY |
//! | GROUP BY, DISTINCT, UNION, INTERSECT and EXCEPT of values that are equal but look different | the one whose bytes come first, column by column (`looks`) |
//! | `first_value`, `last_value`, `nth_value` and aggregates whose input's order shows (`array_agg`, `string_agg`, sums of floats…) over the whole partition; `first_value` from its start, `last_value` to its end | the same, the frame counted in ROWS |
//!
//! What rests on ties stays as it is: `rank`, `dense_rank`, `percent_rank`, `cume_dist`, frames in RANGE and GROUPS, EXCLUDE
//! GROUP and TIES, WITH TIES. Where two windows of different orders number rows, a choice is left between rows
//! that are alike (which number of the one goes with which of the other), unless a key is among what they sort by. If such a function shares a window with one that is completed, each gets a window of its
//! own. Views leave choices too: `views`. LIMIT and DISTINCT ON without
//! ORDER BY over a subquery, a view or a query of WITH that has one are left alone, as are windows and aggregates over such a subquery: their author relies on that order.

mod aggregates;
mod joins;
mod looks;
mod sets;
mod ties;
mod views;
mod windows;

use crate::expr::Expr;
use crate::json::call_aggregates;
use crate::nodes::{copy, length, pointers};
use crate::query::{Entry, Query, Scratch, with_scratch};
use aggregates::{complete_aggregates, complete_arrays};
use looks::{complete_distinct, complete_keys};
use pgrx::pg_sys;
use sets::complete_sets;
use ties::{append_tie_break, node};
use windows::complete_windows;

pub use aggregates::shows_order;
pub use looks::chosen_look;
pub(crate) use views::settle;
pub use windows::{is_whole, order_matters, peers_matter, tells_apart};

/// Completes a query that has not been rewritten yet, and all queries in it.
///
/// # Safety
/// `query` is a tree of the scratch context that nobody else uses.
pub(crate) unsafe fn complete(_: &Scratch, query: *mut pg_sys::Query) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        let mut changed = call_aggregates(query);
        let all: Vec<*mut pg_sys::Query> = Query::new(query).descendants().iter().map(|q| q.as_node().cast()).collect();
        // Ordering all rows of a recursion that only its LIMIT ends would never end.
        let endless = Query::new(query).limit_may_end_recursion();
        let recursions: Vec<*mut pg_sys::Query> = all.iter().flat_map(|query| recursions(*query)).collect();
        for query in all {
            if (*query).commandType == pg_sys::CmdType::CMD_SELECT && (*query).utilityStmt.is_null() {
                changed |= complete_windows(query);
                changed |= complete_aggregates(query);
                changed |= complete_arrays(query);
                changed |= complete_keys(query);
                changed |= !limit_reads_with(query) && complete_distinct(query);
                changed |= !recursions.contains(&query) && !limit_reads_with(query) && complete_sets(query);
                changed |= complete_distinct_on(query);
                changed |= !endless && complete_limit(query);
            }
        }
        changed
    }
}

/// The recursive queries of a query's WITH.
unsafe fn recursions(query: *mut pg_sys::Query) -> Vec<*mut pg_sys::Query> {
    // SAFETY: cteList holds CommonTableExpr nodes whose query has been analysed.
    unsafe {
        let ctes = pointers::<pg_sys::CommonTableExpr>((*query).cteList);
        ctes.filter(|cte| (**cte).cterecursive).map(|cte| (*cte).ctequery.cast()).collect()
    }
}

/// Completes the query that a view has just been made of.
pub fn complete_view(view: pg_sys::Oid) {
    with_scratch(|scratch| {
        // SAFETY: the rule is copied while the relation is open; replacing it takes the lock that it needs.
        unsafe {
            let relation = pg_sys::relation_open(view, pg_sys::AccessExclusiveLock as _);
            let query = copy(pg_sys::get_view_query(relation));
            pg_sys::relation_close(relation, pg_sys::NoLock as _);
            if complete(scratch, query) {
                let action = pg_sys::lappend(std::ptr::null_mut(), query.cast());
                let (name, select) = (c"_RETURN".as_ptr(), pg_sys::CmdType::CMD_SELECT);
                let replace = || DefineQueryRewrite(name, view, std::ptr::null_mut(), select, true, true, action);
                pg_sys::ffi::pg_guard_ffi_boundary(replace);
                pg_sys::CommandCounterIncrement();
            }
        }
    })
}

/// Whether FROM has a subquery with ORDER BY, or a view or a query of WITH that has one.
unsafe fn reads_ordered(query: *mut pg_sys::Query) -> bool {
    // SAFETY: entries are looked at while the query lives; the rule of a view is copied while that is open.
    unsafe {
        let within = Query::new(query);
        let sorts = |number| match within.entry(number) {
            Entry::Cte { name, levels_up: 0, .. } => within.cte(&name).is_some_and(|cte| cte.query.features().ordered),
            Entry::Relation(view) if view.relkind == 'v' => {
                let view = pg_sys::relation_open(view.relid, pg_sys::AccessShareLock as _);
                let sorts = !(*pg_sys::get_view_query(view)).sortClause.is_null();
                pg_sys::relation_close(view, pg_sys::NoLock as _);
                sorts
            }
            _ => false,
        };
        has_ordered_input(query) || (1..=within.entries()).any(sorts)
    }
}

/// Whether FROM has a subquery with ORDER BY.
unsafe fn has_ordered_input(query: *mut pg_sys::Query) -> bool {
    // SAFETY: the range table holds RangeTblEntry nodes.
    unsafe {
        pointers::<pg_sys::RangeTblEntry>((*query).rtable)
            .any(|entry| !(*entry).subquery.is_null() && !(*(*entry).subquery).sortClause.is_null())
    }
}

/// The expressions of the select list.
unsafe fn selected(query: *mut pg_sys::Query) -> Vec<*mut pg_sys::Node> {
    // SAFETY: targetList holds TargetEntry nodes.
    unsafe {
        let targets = pointers::<pg_sys::TargetEntry>((*query).targetList);
        targets.filter(|target| !(**target).resjunk).map(|target| (*target).expr.cast()).collect()
    }
}

/// Appends a tie-break over the selected columns to ORDER BY.
unsafe fn complete_order(query: *mut pg_sys::Query) {
    // SAFETY: as for the functions called.
    unsafe {
        if let Some(tie_break) = append_tie_break(query, selected(query)) {
            (*query).sortClause = pg_sys::lappend((*query).sortClause, tie_break.cast());
        }
    }
}

unsafe fn complete_distinct_on(query: *mut pg_sys::Query) -> bool {
    // SAFETY: both lists hold SortGroupClause nodes.
    unsafe {
        if !(*query).hasDistinctOn || (*query).hasTargetSRFs {
            return false;
        }
        if (*query).sortClause.is_null() && reads_ordered(query) {
            return false;
        }
        for clause in pointers::<pg_sys::SortGroupClause>((*query).distinctClause).collect::<Vec<_>>() {
            let mut known = pointers::<pg_sys::SortGroupClause>((*query).sortClause);
            if !known.any(|other| (*other).tleSortGroupRef == (*clause).tleSortGroupRef) {
                (*query).sortClause = pg_sys::lappend((*query).sortClause, copy(clause).cast());
            }
        }
        complete_order(query);
        true
    }
}

unsafe fn complete_limit(query: *mut pg_sys::Query) -> bool {
    // SAFETY: reads and changes a tree of ours.
    unsafe {
        let is_null = |node: *mut pg_sys::Node| {
            node.is_null() || (*node).type_ == pg_sys::NodeTag::T_Const && (*node.cast::<pg_sys::Const>()).constisnull
        };
        let unlimited = is_null((*query).limitCount) && is_null((*query).limitOffset);
        let unordered = (*query).sortClause.is_null();
        if unlimited || (*query).hasDistinctOn || unordered && reads_ordered(query) {
            return false;
        }
        let set = !(*query).setOperations.is_null() || !(*query).distinctClause.is_null() || (*query).hasTargetSRFs;
        if (*query).limitOption == pg_sys::LimitOption::LIMIT_OPTION_WITH_TIES {
            if is_null((*query).limitOffset) {
                return false;
            }
            if !can_wrap(query) {
                return false;
            }
            // Rows before the offset are chosen first, then ties are looked for among the rest.
            let inner = wrap(query);
            (*inner).sortClause = copy((*query).sortClause);
            (*inner).limitOffset = (*query).limitOffset;
            (*inner).limitOption = pg_sys::LimitOption::LIMIT_OPTION_COUNT;
            (*query).limitOffset = std::ptr::null_mut();
            complete_limit(inner);
            return true;
        }
        if set && !can_wrap(query) {
            return false;
        }
        if set {
            wrap(query);
        }
        complete_order(query);
        true
    }
}

/// Whether LIMIT has a subquery that may read what WITH computes: it stays outside when a query is wrapped, and WITH goes inside.
unsafe fn limit_reads_with(query: *mut pg_sys::Query) -> bool {
    // SAFETY: both are expressions or missing.
    unsafe {
        let nested = |node: *mut pg_sys::Node| !node.is_null() && pg_sys::checkExprHasSubLink(node);
        !(*query).cteList.is_null() && (nested((*query).limitCount) || nested((*query).limitOffset))
    }
}

unsafe fn can_wrap(query: *mut pg_sys::Query) -> bool {
    // SAFETY: as for the functions called.
    unsafe { !sorts_by_junk(query) && !limit_reads_with(query) }
}

/// Whether ORDER BY has a term that is not selected.
unsafe fn sorts_by_junk(query: *mut pg_sys::Query) -> bool {
    // SAFETY: sort clauses refer to targets.
    unsafe {
        pointers::<pg_sys::SortGroupClause>((*query).sortClause)
            .any(|clause| (*pg_sys::get_sortgroupref_tle((*clause).tleSortGroupRef, (*query).targetList)).resjunk)
    }
}

/// Makes `q ORDER BY … LIMIT …` into `SELECT * FROM (q) ORDER BY … LIMIT …` in place; gives the inner query. What is sorted
/// by but not selected stays inside, so there must be no such thing.
unsafe fn wrap(query: *mut pg_sys::Query) -> *mut pg_sys::Query {
    // SAFETY: all nodes are of the scratch context; the inner query takes over everything that the outer one does not get.
    unsafe {
        let inner = pg_sys::palloc0(size_of::<pg_sys::Query>()).cast::<pg_sys::Query>();
        std::ptr::copy_nonoverlapping(query, inner, 1);
        // What stays with the outer one stays at its level.
        (*inner).sortClause = std::ptr::null_mut();
        ((*inner).limitCount, (*inner).limitOffset) = (std::ptr::null_mut(), std::ptr::null_mut());
        (*inner).limitOption = pg_sys::LimitOption::LIMIT_OPTION_COUNT;
        let outer = over(inner);
        // In LIMIT, perhaps.
        (*outer).hasSubLinks = (*query).hasSubLinks;
        (*outer).sortClause = (*query).sortClause;
        ((*outer).limitCount, (*outer).limitOffset) = ((*query).limitCount, (*query).limitOffset);
        (*outer).limitOption = (*query).limitOption;
        std::ptr::copy_nonoverlapping(outer, query, 1);
        inner
    }
}

/// `SELECT * FROM (q)`
unsafe fn over(inner: *mut pg_sys::Query) -> *mut pg_sys::Query {
    // SAFETY: all nodes are of the scratch context; the inner query is the new one's from now on.
    unsafe {
        let outer = select_like(inner);
        pg_sys::IncrementVarSublevelsUp(inner.cast(), 1, 1);
        for target in pointers::<pg_sys::TargetEntry>((*inner).targetList).filter(|target| !(**target).resjunk) {
            let ty = Expr::new((*target).expr.cast()).ty();
            let var = pg_sys::makeVar(1, (*target).resno, ty.oid, ty.typmod, ty.collation, 0);
            let column =
                pg_sys::makeTargetEntry(var.cast(), (*target).resno, pg_sys::pstrdup((*target).resname), false);
            (*column).ressortgroupref = (*target).ressortgroupref;
            (*outer).targetList = pg_sys::lappend((*outer).targetList, column.cast());
        }
        let from = pg_sys::lappend(std::ptr::null_mut(), add_entry(outer, entry_of(inner)).cast());
        (*outer).jointree = pg_sys::makeFromExpr(from, std::ptr::null_mut());
        outer
    }
}

/// A query of nothing yet.
unsafe fn select_like(other: *mut pg_sys::Query) -> *mut pg_sys::Query {
    // SAFETY: the struct is the tag's.
    unsafe {
        let query = node::<pg_sys::Query>(pg_sys::NodeTag::T_Query);
        (*query).commandType = pg_sys::CmdType::CMD_SELECT;
        (*query).querySource = (*other).querySource;
        (*query).canSetTag = (*other).canSetTag;
        (*query).limitOption = pg_sys::LimitOption::LIMIT_OPTION_COUNT;
        (*query).stmt_location = (*other).stmt_location;
        (*query).stmt_len = (*other).stmt_len;
        query
    }
}

/// A query as an entry of a range table.
unsafe fn entry_of(query: *mut pg_sys::Query) -> *mut pg_sys::RangeTblEntry {
    // SAFETY: the struct is the tag's; targets have names.
    unsafe {
        let entry = node::<pg_sys::RangeTblEntry>(pg_sys::NodeTag::T_RangeTblEntry);
        let mut names = std::ptr::null_mut();
        for target in pointers::<pg_sys::TargetEntry>((*query).targetList).filter(|target| !(**target).resjunk) {
            names = pg_sys::lappend(names, pg_sys::makeString(pg_sys::pstrdup((*target).resname)).cast());
        }
        (*entry).rtekind = pg_sys::RTEKind::RTE_SUBQUERY;
        (*entry).subquery = query;
        (*entry).alias = pg_sys::makeAlias(c"completed".as_ptr(), std::ptr::null_mut());
        (*entry).eref = pg_sys::makeAlias(c"completed".as_ptr(), names);
        (*entry).inFromCl = true;
        entry
    }
}

/// Appends an entry to a range table; the reference to it.
unsafe fn add_entry(query: *mut pg_sys::Query, entry: *mut pg_sys::RangeTblEntry) -> *mut pg_sys::RangeTblRef {
    // SAFETY: the struct is the tag's.
    unsafe {
        (*query).rtable = pg_sys::lappend((*query).rtable, entry.cast());
        let reference = node::<pg_sys::RangeTblRef>(pg_sys::NodeTag::T_RangeTblRef);
        (*reference).rtindex = length((*query).rtable) as i32;
        reference
    }
}

/// What the text of a query of ours means, under any search_path.
unsafe fn template(text: &str) -> *mut pg_sys::Query {
    let text = std::ffi::CString::new(text).expect("no NUL");
    // SAFETY: the text outlives the calls; the text is one statement.
    unsafe {
        let raw = pointers::<pg_sys::RawStmt>(pg_sys::pg_parse_query(text.as_ptr())).next().expect("a statement");
        pg_sys::parse_analyze_fixedparams(raw, text.as_ptr(), std::ptr::null(), 0, std::ptr::null_mut())
    }
}

/// The expression of the first target.
unsafe fn first_column(query: *mut pg_sys::Query) -> *mut pg_sys::Node {
    // SAFETY: targetList holds TargetEntry nodes.
    unsafe { (*pointers::<pg_sys::TargetEntry>((*query).targetList).next().expect("a column")).expr.cast() }
}

unsafe extern "C-unwind" {
    fn DefineQueryRewrite(
        name: *const std::ffi::c_char,
        relation: pg_sys::Oid,
        qualification: *mut pg_sys::Node,
        event: pg_sys::CmdType::Type,
        instead: bool,
        replace: bool,
        action: *mut pg_sys::List,
    ) -> pg_sys::ObjectAddress;
}
