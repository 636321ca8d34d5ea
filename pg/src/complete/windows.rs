//! Window functions whose value depends on how rows are ordered that tie.

use super::reads_ordered;
use super::ties::append_tie_break;
use crate::nodes::{Walk, copy, pointers, walk};
use crate::query::Query;
use crate::types::builtin_name;
use crate::window::{Exclusion, FrameEnd, FrameMode, WindowCall, WindowClause};
use pgrx::pg_sys;

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

pub(super) unsafe fn complete_windows(query: *mut pg_sys::Query) -> bool {
    // SAFETY: walks and extends the lists of a tree of ours.
    unsafe {
        if !(*query).hasWindowFuncs {
            return false;
        }
        let ordered_input = reads_ordered(query);
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
