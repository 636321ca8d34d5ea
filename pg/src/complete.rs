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
//! | `first_value`, `last_value`, `nth_value` and aggregates whose input's order shows (`array_agg`, `string_agg`, sums of floats…) over the whole partition; `first_value` from its start, `last_value` to its end | the same, the frame counted in ROWS |
//!
//! What rests on ties stays as it is: `rank`, `dense_rank`, `percent_rank`, `cume_dist`, frames in RANGE and GROUPS, EXCLUDE
//! GROUP and TIES, WITH TIES. Where two windows of different orders number rows, a choice is left between rows
//! that are alike (which number of the one goes with which of the other), unless a key is among what they sort by. If such a function shares a window with one that is completed, each gets a window of its
//! own. A query without ORDER BY over a subquery that has one is left alone: its author relies on that order.

use crate::expr::Expr;
use crate::nodes::{Walk, copy, length, pointers, walk};
use crate::query::{Query, Scratch, with_scratch};
use crate::types::{RECORD_IMAGE_LT, builtin_name};
use crate::window::{Exclusion, FrameEnd, FrameMode, WindowCall, WindowClause};
use pgrx::pg_sys;

/// `*=` over rows.
const RECORD_IMAGE_EQ: u32 = 3188;

/// What a window function looks at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Which peers a row has, not their order.
    Rank,
    /// The place of a row among all; frames do not matter.
    Place,
    /// The first, the last, the n-th row of the frame.
    Value,
    /// The rows of the frame in any order, or in the order in which they come.
    Aggregate { any_order: bool },
    /// Nobody knows.
    Other,
}

fn kind(call: &WindowCall<'_>) -> Kind {
    let name = builtin_name(call.function()).unwrap_or_default();
    match name.as_str() {
        "rank" | "dense_rank" | "percent_rank" | "cume_dist" => Kind::Rank,
        "row_number" | "ntile" | "lag" | "lead" => Kind::Place,
        "first_value" | "last_value" | "nth_value" => Kind::Value,
        "count" | "min" | "max" | "bool_and" | "bool_or" | "every" | "bit_and" | "bit_or" | "bit_xor" => {
            Kind::Aggregate { any_order: true }
        }
        "sum" | "avg" | "variance" | "var_pop" | "var_samp" | "stddev" | "stddev_pop" | "stddev_samp" => {
            let exact = [pg_sys::INT2OID, pg_sys::INT4OID, pg_sys::INT8OID, pg_sys::NUMERICOID];
            Kind::Aggregate { any_order: call.args().iter().all(|arg| exact.contains(&arg.ty().oid)) }
        }
        _ if call.is_aggregate() => Kind::Aggregate { any_order: false },
        _ => Kind::Other,
    }
}

/// Whether a frame is the whole partition, but perhaps for the row itself.
pub fn is_whole(clause: &WindowClause<'_>) -> bool {
    let frame = &clause.frame;
    let all_peers = clause.order.is_empty() && frame.mode == FrameMode::Range;
    let start = matches!(frame.start, FrameEnd::UnboundedPreceding) || all_peers;
    let end = matches!(frame.end, FrameEnd::UnboundedFollowing) || all_peers;
    start && end && matches!(frame.exclusion, Exclusion::Nothing | Exclusion::CurrentRow)
}

/// Whether the value of a call over the same rows depends on the order in which they come.
pub fn order_matters(call: &WindowCall<'_>) -> bool {
    !matches!(kind(call), Kind::Rank | Kind::Aggregate { any_order: true })
}

/// Whether which value a row gets depends on how the rows are ordered that its window's ORDER BY leaves equal.
/// Aggregates over whole groups of equals count as independent, though some (sums of floats, say) may show their order.
pub fn peers_matter(call: &WindowCall<'_>, clause: &WindowClause<'_>) -> bool {
    match kind(call) {
        Kind::Rank => false,
        Kind::Place | Kind::Value | Kind::Other => true,
        Kind::Aggregate { .. } => {
            let all = matches!(
                (clause.frame.start, clause.frame.end),
                (FrameEnd::UnboundedPreceding, FrameEnd::UnboundedFollowing)
            );
            clause.frame.mode == FrameMode::Rows && !all
        }
    }
}

/// Whether a call may give different values to rows that are alike: it numbers them, or counts them in its frame.
pub fn tells_apart(call: &WindowCall<'_>, clause: &WindowClause<'_>) -> bool {
    let from_start = matches!(clause.frame.start, FrameEnd::UnboundedPreceding);
    let name = builtin_name(call.function()).unwrap_or_default();
    match kind(call) {
        Kind::Rank => false,
        Kind::Place | Kind::Other => true,
        Kind::Value if name == "first_value" && from_start && clause.frame.exclusion == Exclusion::Nothing => false,
        Kind::Value | Kind::Aggregate { .. } => {
            clause.frame.mode == FrameMode::Rows && !(is_whole(clause) && clause.frame.exclusion == Exclusion::Nothing)
        }
    }
}

/// The frame options of the window that a call gets with a tie-break, if it is to get one. The offsets stay.
fn completed_frame(call: &WindowCall<'_>, clause: &WindowClause<'_>) -> Option<Option<u32>> {
    const ROWS: u32 = pg_sys::FRAMEOPTION_NONDEFAULT | pg_sys::FRAMEOPTION_ROWS | pg_sys::FRAMEOPTION_BETWEEN;
    const FROM_START: u32 = ROWS | pg_sys::FRAMEOPTION_START_UNBOUNDED_PRECEDING;
    const WHOLE: u32 = FROM_START | pg_sys::FRAMEOPTION_END_UNBOUNDED_FOLLOWING;
    let frame = &clause.frame;
    let (kind, plain) = (kind(call), frame.exclusion == Exclusion::Nothing);
    if kind == Kind::Place {
        return Some(Some(pg_sys::FRAMEOPTION_DEFAULTS));
    }
    let by_peers = matches!(frame.exclusion, Exclusion::Group | Exclusion::Ties);
    if matches!(kind, Kind::Rank | Kind::Other) || by_peers {
        return None;
    }
    if is_whole(clause) {
        let own = if plain { 0 } else { pg_sys::FRAMEOPTION_EXCLUDE_CURRENT_ROW };
        return order_matters(call).then_some(Some(WHOLE | own));
    }
    if frame.mode == FrameMode::Rows {
        return Some(None);
    }
    let name = builtin_name(call.function()).unwrap_or_default();
    let from_start = matches!(frame.start, FrameEnd::UnboundedPreceding);
    let past_row = !matches!(frame.end, FrameEnd::Preceding(_));
    let to_end = matches!(frame.end, FrameEnd::UnboundedFollowing);
    let before_row = !matches!(frame.start, FrameEnd::Following(_));
    match name.as_str() {
        "first_value" if plain && from_start && past_row => {
            Some(Some(FROM_START | pg_sys::FRAMEOPTION_END_CURRENT_ROW))
        }
        "last_value" if plain && to_end && before_row => Some(Some(WHOLE)),
        _ => None,
    }
}

/// Completes a query that has not been rewritten yet, and all queries in it.
///
/// # Safety
/// `query` is a tree of the scratch context that nobody else uses.
pub(crate) unsafe fn complete(_: &Scratch, query: *mut pg_sys::Query) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        let all: Vec<*mut pg_sys::Query> = Query::new(query).descendants().iter().map(|q| q.as_node().cast()).collect();
        // Ordering all rows of a recursion that only its LIMIT ends would never end.
        let endless = Query::new(query).limit_may_end_recursion();
        let mut changed = false;
        for query in all {
            if (*query).commandType == pg_sys::CmdType::CMD_SELECT && (*query).utilityStmt.is_null() {
                changed |= complete_windows(query);
                changed |= complete_distinct_on(query);
                changed |= !endless && complete_limit(query);
            }
        }
        changed
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
                pg_sys::ffi::pg_guard_ffi_boundary(|| replace());
                pg_sys::CommandCounterIncrement();
            }
        }
    })
}

/// Whether FROM has a subquery with ORDER BY.
unsafe fn has_ordered_input(query: *mut pg_sys::Query) -> bool {
    // SAFETY: the range table holds RangeTblEntry nodes.
    unsafe {
        pointers::<pg_sys::RangeTblEntry>((*query).rtable)
            .any(|entry| !(*entry).subquery.is_null() && !(*(*entry).subquery).sortClause.is_null())
    }
}

unsafe fn complete_windows(query: *mut pg_sys::Query) -> bool {
    // SAFETY: walks and extends the lists of a tree of ours.
    unsafe {
        if !(*query).hasWindowFuncs {
            return false;
        }
        let ordered_input = has_ordered_input(query);
        let mut made: Vec<((u32, Option<u32>), u32)> = Vec::new();
        let mut tie_break = None;
        for call in window_functions(query) {
            let number = (*call).winref;
            let Some(clause) = Query::new(query).window(number) else { continue };
            let Some(frame) = completed_frame(&WindowCall::new(call), &clause) else { continue };
            if clause.order.is_empty() && ordered_input {
                continue;
            }
            if let Some((_, known)) = made.iter().find(|(from, _)| *from == (number, frame)) {
                (*call).winref = *known;
                continue;
            }
            let used = || used_by_windows(query);
            let Some(tie) = *tie_break.get_or_insert_with(|| append_tie_break(query, used())) else { return false };
            (*call).winref = copy_window(query, number, frame, tie);
            made.push(((number, frame), (*call).winref));
        }
        !made.is_empty()
    }
}

/// The window functions of a query itself.
unsafe fn window_functions(query: *mut pg_sys::Query) -> Vec<*mut pg_sys::WindowFunc> {
    let mut found = Vec::new();
    // SAFETY: walks the tree only; the tag decides the struct.
    unsafe {
        walk((*query).targetList.cast(), &mut |node| match (*node).type_ {
            pg_sys::NodeTag::T_WindowFunc => {
                found.push(node.cast());
                Walk::Past
            }
            pg_sys::NodeTag::T_Query => Walk::Past,
            _ => Walk::Into,
        });
    }
    found
}

/// A copy of a window clause with a tie-break, and perhaps another frame; its number.
unsafe fn copy_window(
    query: *mut pg_sys::Query,
    number: u32,
    frame: Option<u32>,
    tie_break: *mut pg_sys::SortGroupClause,
) -> u32 {
    // SAFETY: windowClause holds WindowClause nodes, one of which has the number.
    unsafe {
        let clauses = || pointers::<pg_sys::WindowClause>((*query).windowClause);
        let last = clauses().map(|clause| (*clause).winref).max().unwrap_or_default();
        let original = clauses().find(|clause| (**clause).winref == number).expect("a window clause");
        let clause = copy(original);
        (*clause).name = std::ptr::null_mut();
        (*clause).refname = std::ptr::null_mut();
        (*clause).copiedOrder = false;
        (*clause).orderClause = pg_sys::lappend((*clause).orderClause, copy(tie_break).cast());
        if let Some(options) = frame {
            (*clause).frameOptions = options as i32;
            (*clause).startOffset = std::ptr::null_mut();
            (*clause).endOffset = std::ptr::null_mut();
        }
        (*clause).winref = last + 1;
        (*query).windowClause = pg_sys::lappend((*query).windowClause, clause.cast());
        last + 1
    }
}

/// What the rows that windows are computed over differ by, as far as the query shows it: group keys and aggregates, or
/// columns.
unsafe fn used_by_windows(query: *mut pg_sys::Query) -> Vec<*mut pg_sys::Node> {
    let mut found: Vec<*mut pg_sys::Node> = Vec::new();
    let mut note = |node: *mut pg_sys::Node| {
        // SAFETY: reads two live trees.
        let known = found.iter().any(|other| unsafe { pg_sys::equal((*other).cast(), node.cast()) });
        if !known {
            found.push(node);
        }
    };
    // SAFETY: the lists hold what their names say; the tags decide the structs.
    unsafe {
        let targets = (*query).targetList;
        if !(*query).hasAggs && (*query).groupClause.is_null() && (*query).groupingSets.is_null() {
            for var in pointers::<pg_sys::Var>(pg_sys::pull_vars_of_level(targets.cast(), 0)) {
                let var = copy(var);
                (*var).varlevelsup = 0;
                note(var.cast());
            }
            return found;
        }
        for clause in pointers::<pg_sys::SortGroupClause>((*query).groupClause) {
            note((*pg_sys::get_sortgroupref_tle((*clause).tleSortGroupRef, targets)).expr.cast());
        }
        walk(targets.cast(), &mut |node| match (*node).type_ {
            pg_sys::NodeTag::T_Aggref if (*node.cast::<pg_sys::Aggref>()).agglevelsup == 0 => {
                note(node);
                Walk::Past
            }
            pg_sys::NodeTag::T_GroupingFunc => {
                note(node);
                Walk::Past
            }
            pg_sys::NodeTag::T_Query => Walk::Past,
            _ => Walk::Into,
        });
    }
    found
}

/// Adds `ROW(values)` to the targets; gives the term that sorts by it, or nothing if there are no values.
unsafe fn append_tie_break(
    query: *mut pg_sys::Query,
    values: Vec<*mut pg_sys::Node>,
) -> Option<*mut pg_sys::SortGroupClause> {
    if values.is_empty() {
        return None;
    }
    // SAFETY: allocates nodes of the types that their tags name; values are copied, so nothing is shared.
    unsafe {
        let row = node::<pg_sys::RowExpr>(pg_sys::NodeTag::T_RowExpr);
        for (i, value) in values.into_iter().enumerate() {
            (*row).args = pg_sys::lappend((*row).args, copy(value).cast());
            let name = std::ffi::CString::new(format!("f{}", i + 1)).expect("no NUL");
            let name = pg_sys::makeString(pg_sys::pstrdup(name.as_ptr()));
            (*row).colnames = pg_sys::lappend((*row).colnames, name.cast());
        }
        (*row).row_typeid = pg_sys::RECORDOID;
        (*row).row_format = pg_sys::CoercionForm::COERCE_EXPLICIT_CALL;
        (*row).location = -1;

        let targets = (*query).targetList;
        let numbers = pointers::<pg_sys::TargetEntry>(targets).map(|target| (*target).ressortgroupref);
        let number = numbers.max().unwrap_or_default() + 1;
        let position = length(targets) as i16 + 1;
        let target = pg_sys::makeTargetEntry(row.cast(), position, std::ptr::null_mut(), true);
        (*target).ressortgroupref = number;
        (*query).targetList = pg_sys::lappend(targets, target.cast());

        let clause = node::<pg_sys::SortGroupClause>(pg_sys::NodeTag::T_SortGroupClause);
        (*clause).tleSortGroupRef = number;
        (*clause).eqop = pg_sys::Oid::from(RECORD_IMAGE_EQ);
        (*clause).sortop = pg_sys::Oid::from(RECORD_IMAGE_LT);
        Some(clause)
    }
}

/// # Safety
/// `T` is the struct of the tag.
unsafe fn node<T>(tag: pg_sys::NodeTag) -> *mut T {
    // SAFETY: every node starts with its tag.
    unsafe {
        let made = pg_sys::palloc0(size_of::<T>()).cast::<pg_sys::Node>();
        (*made).type_ = tag;
        made.cast()
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
        if (*query).sortClause.is_null() && has_ordered_input(query) {
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
        if unlimited || (*query).hasDistinctOn || unordered && has_ordered_input(query) {
            return false;
        }
        let set = !(*query).setOperations.is_null() || !(*query).distinctClause.is_null() || (*query).hasTargetSRFs;
        if (*query).limitOption == pg_sys::LimitOption::LIMIT_OPTION_WITH_TIES {
            if is_null((*query).limitOffset) {
                return false;
            }
            if sorts_by_junk(query) {
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
        if set && sorts_by_junk(query) {
            return false;
        }
        if set {
            wrap(query);
        }
        complete_order(query);
        true
    }
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
        let outer = node::<pg_sys::Query>(pg_sys::NodeTag::T_Query);
        (*outer).commandType = pg_sys::CmdType::CMD_SELECT;
        (*outer).querySource = (*inner).querySource;
        (*outer).canSetTag = (*inner).canSetTag;
        (*outer).sortClause = std::mem::replace(&mut (*inner).sortClause, std::ptr::null_mut());
        (*outer).limitCount = std::mem::replace(&mut (*inner).limitCount, std::ptr::null_mut());
        (*outer).limitOffset = std::mem::replace(&mut (*inner).limitOffset, std::ptr::null_mut());
        (*outer).limitOption = (*inner).limitOption;
        (*outer).stmt_location = (*inner).stmt_location;
        (*outer).stmt_len = (*inner).stmt_len;
        (*inner).limitOption = pg_sys::LimitOption::LIMIT_OPTION_COUNT;
        pg_sys::IncrementVarSublevelsUp(inner.cast(), 1, 1);

        let mut names = std::ptr::null_mut();
        for target in pointers::<pg_sys::TargetEntry>((*inner).targetList).filter(|target| !(**target).resjunk) {
            let ty = Expr::new((*target).expr.cast()).ty();
            let var = pg_sys::makeVar(1, (*target).resno, ty.oid, ty.typmod, ty.collation, 0);
            let name = pg_sys::pstrdup((*target).resname);
            let column = pg_sys::makeTargetEntry(var.cast(), (*target).resno, name, false);
            (*column).ressortgroupref = (*target).ressortgroupref;
            (*outer).targetList = pg_sys::lappend((*outer).targetList, column.cast());
            names = pg_sys::lappend(names, pg_sys::makeString(name).cast());
        }
        let entry = node::<pg_sys::RangeTblEntry>(pg_sys::NodeTag::T_RangeTblEntry);
        (*entry).rtekind = pg_sys::RTEKind::RTE_SUBQUERY;
        (*entry).subquery = inner;
        (*entry).alias = pg_sys::makeAlias(c"completed".as_ptr(), std::ptr::null_mut());
        (*entry).eref = pg_sys::makeAlias(c"completed".as_ptr(), names);
        (*entry).inFromCl = true;
        (*outer).rtable = pg_sys::lappend(std::ptr::null_mut(), entry.cast());
        let reference = node::<pg_sys::RangeTblRef>(pg_sys::NodeTag::T_RangeTblRef);
        (*reference).rtindex = 1;
        let from = pg_sys::lappend(std::ptr::null_mut(), reference.cast());
        (*outer).jointree = pg_sys::makeFromExpr(from, std::ptr::null_mut());
        std::ptr::copy_nonoverlapping(outer, query, 1);
        inner
    }
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
