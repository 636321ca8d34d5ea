//! Aggregates whose result shows in which order their rows came, and `ARRAY(SELECT …)`.
//!
//! What users commonly rely on is kept: the order of a subquery that is all of FROM, and the order in which functions in
//! FROM give their rows, for each row of the tables beside them.

use super::joins::above_joins;
use super::ties::Sorted;
use super::{has_ordered_input, reads_ordered};
use crate::expr::{Aggregate, Expr};
use crate::nodes::{Walk, copy, length, pointers, walk};
use crate::query::{Entry, Query};
use crate::types::{TypeRef, base_type, builtin_name, is_image_order};
use pgrx::pg_sys;

/// Whether the result of an aggregate call depends on the order of the rows that it aggregates.
pub fn shows_order(call: &Aggregate<'_>) -> bool {
    call.plain() && !call.star() && !is_orderless(call.function(), &call.args())
}

fn is_orderless(function: pg_sys::Oid, args: &[Expr<'_>]) -> bool {
    const ORDERLESS: [&str; 11] = [
        "count",
        "min",
        "max",
        "bool_and",
        "bool_or",
        "every",
        "bit_and",
        "bit_or",
        "bit_xor",
        "range_agg",
        "regr_count",
    ];
    const EXACT: [pg_sys::Oid; 6] =
        [pg_sys::INT2OID, pg_sys::INT4OID, pg_sys::INT8OID, pg_sys::NUMERICOID, pg_sys::INTERVALOID, pg_sys::MONEYOID];
    let Some(name) = builtin_name(function) else { return false };
    let of_numbers = |start: &str| name.starts_with(start);
    let exact = |ty: TypeRef| EXACT.contains(&base_type(ty).oid);
    ORDERLESS.contains(&name.as_str())
        || name == "range_intersect_agg"
        || ["sum", "avg", "var", "stddev"].iter().any(|start| of_numbers(start))
            && args.iter().all(|arg| exact(arg.ty()))
}

/// Appends to the ORDER BY of such calls what settles it.
pub(super) unsafe fn complete_aggregates(query: *mut pg_sys::Query) -> bool {
    // SAFETY: walks and extends the lists of a tree of ours.
    unsafe {
        let open: Vec<*mut pg_sys::Aggref> = calls(query).into_iter().filter(|call| is_open(*call)).collect();
        if open.is_empty() {
            return false;
        }
        let unordered = open.iter().any(|call| (**call).aggorder.is_null());
        let Some(input) = Order::of_input(query, unordered) else { return false };
        for call in open {
            let mut sorted = Sorted::call(call);
            if !matches!(input, Order::Subquery(_)) || (*call).aggorder.is_null() {
                input.append(&mut sorted);
            }
            sorted.by_values(true);
            ((*call).args, (*call).aggorder) = (sorted.targets, sorted.order);
        }
        true
    }
}

/// The same for the subqueries of `ARRAY(SELECT …)` right within a query. Those that read no table come as functions give
/// them; of LIMIT its own completion takes care.
pub(super) unsafe fn complete_arrays(query: *mut pg_sys::Query) -> bool {
    let mut changed = false;
    // SAFETY: walks the tree, and changes only subqueries whose lists it does not hold.
    unsafe {
        for array in arrays(query) {
            let (within, limited) =
                (Query::new(array), !(*array).limitCount.is_null() || !(*array).limitOffset.is_null());
            if limited || within.reads_no_table() || (*array).hasTargetSRFs || !within.is_select() {
                continue;
            }
            let set = !(*array).setOperations.is_null() || !(*array).distinctClause.is_null();
            // Of groups nothing but what they are selected by is left of the rows' order.
            let rows = !set && !within.features().grouped && (*array).sortClause.is_null();
            let Some(input) = Order::of_input(array, rows) else { continue };
            let mut sorted = Sorted::query(array);
            if rows {
                input.append(&mut sorted);
            }
            sorted.by_values(!set);
            ((*array).targetList, (*array).sortClause) = (sorted.targets, sorted.order);
            changed = true;
        }
    }
    changed
}

/// The order in which rows come from FROM, as far as anyone relies on it.
enum Order {
    None,
    /// By these columns of a subquery, as it sorts by them.
    Subquery(Vec<(*mut pg_sys::Node, *mut pg_sys::SortGroupClause)>),
    /// By the columns that the query uses of tables, then as functions give their rows.
    Functions {
        row: Vec<*mut pg_sys::Node>,
        places: Vec<*mut pg_sys::Node>,
    },
}

impl Order {
    /// None at all if there is an order that cannot be expressed; then, if it is `wanted`, the query is left alone.
    unsafe fn of_input(query: *mut pg_sys::Query, wanted: bool) -> Option<Order> {
        // SAFETY: reads a tree of ours; the functions called extend it.
        unsafe {
            if has_ordered_input(query) {
                return if wanted { of_subquery(query).map(Order::Subquery) } else { Some(Order::None) };
            }
            if wanted && reads_ordered(query) {
                return None;
            }
            if !has_sets(Query::new(query)) {
                return Some(Order::None);
            }
            if has_named_join((*query).jointree.cast()) {
                return None;
            }
            let places = places(query)?;
            Some(Order::Functions { row: used(query), places })
        }
    }

    unsafe fn append(&self, sorted: &mut Sorted) {
        // SAFETY: the expressions are copied.
        unsafe {
            match self {
                Order::None => {}
                Order::Subquery(terms) => terms.iter().for_each(|(value, like)| sorted.by(*value, *like)),
                Order::Functions { row, places } => {
                    if !row.is_empty() {
                        sorted.by_image(row);
                    }
                    sorted.by_image(places);
                }
            }
        }
    }
}

/// The terms of the ORDER BY of a subquery that is all of FROM, as columns of it.
unsafe fn of_subquery(query: *mut pg_sys::Query) -> Option<Vec<(*mut pg_sys::Node, *mut pg_sys::SortGroupClause)>> {
    // SAFETY: reads and extends lists of a tree of ours.
    unsafe {
        let from = (*(*query).jointree).fromlist;
        let only = pointers::<pg_sys::Node>(from).next().filter(|_| length(from) == 1)?;
        if (*only).type_ != pg_sys::NodeTag::T_RangeTblRef {
            return None;
        }
        let number = (*only.cast::<pg_sys::RangeTblRef>()).rtindex;
        let entry = pointers::<pg_sys::RangeTblEntry>((*query).rtable).nth(number as usize - 1)?;
        let subquery = (*entry).subquery;
        if subquery.is_null() {
            return None;
        }
        let clauses: Vec<*mut pg_sys::SortGroupClause> = pointers((*subquery).sortClause).collect();
        let target = |clause: &pg_sys::SortGroupClause| {
            pg_sys::get_sortgroupref_tle(clause.tleSortGroupRef, (*subquery).targetList)
        };
        let of = |target: *mut pg_sys::TargetEntry| Expr::new((*target).expr.cast()).ty();
        // A tie-break is left out, as the calls will have one of their own.
        let clauses: Vec<_> = clauses.into_iter().filter(|clause| !is_image_order((**clause).sortop)).collect();
        if has_whole_row(query, number) && clauses.iter().any(|clause| (*target(&**clause)).resjunk) {
            return None;
        }
        let mut terms = Vec::new();
        for clause in clauses {
            let target = target(&*clause);
            if (*target).resjunk {
                select(entry, target);
            }
            let ty = of(target);
            let column = pg_sys::makeVar(number, (*target).resno, ty.oid, ty.typmod, ty.collation, 0);
            terms.push((column.cast(), clause));
        }
        Some(terms)
    }
}

/// Makes what a subquery is only sorted by one of its columns. What is not selected comes after what is.
unsafe fn select(entry: *mut pg_sys::RangeTblEntry, target: *mut pg_sys::TargetEntry) {
    // SAFETY: the entry's names are those of the subquery's columns, in their order; both lists are ours.
    unsafe {
        let targets = (*(*entry).subquery).targetList;
        let before = pointers::<pg_sys::TargetEntry>(targets).filter(|other| !(**other).resjunk).count() as i16;
        for other in pointers::<pg_sys::TargetEntry>(targets).filter(|other| (**other).resjunk && *other != target) {
            if (*other).resno < (*target).resno && (*other).resno > before {
                (*other).resno += 1;
            }
        }
        let name = std::ffi::CString::new(format!("pgt_order{}", before + 1)).expect("no NUL");
        (*target).resjunk = false;
        (*target).resname = pg_sys::pstrdup(name.as_ptr());
        (*target).resno = before + 1;
        let mut sorted: Vec<*mut pg_sys::TargetEntry> = pointers(targets).collect();
        sorted.sort_by_key(|target| (**target).resno);
        for (i, target) in sorted.into_iter().enumerate() {
            (*(*targets).elements.add(i)).ptr_value = target.cast();
        }
        let names = &mut (*(*entry).eref).colnames;
        *names = pg_sys::lappend(*names, pg_sys::makeString((*target).resname).cast());
    }
}

/// Whether rows of an entry are used as a whole anywhere: these must not get another column.
unsafe fn has_whole_row(query: *mut pg_sys::Query, entry: i32) -> bool {
    // SAFETY: the list holds Var nodes of the tree.
    unsafe {
        let mut vars = pointers::<pg_sys::Var>(pg_sys::pull_vars_of_level(query.cast(), 0));
        vars.any(|var| (*var).varno as i32 == entry && (*var).varattno == 0)
    }
}

/// Whether a join in this part of FROM has a name, which hides those of what it joins.
unsafe fn has_named_join(item: *mut pg_sys::Node) -> bool {
    // SAFETY: the tag decides the struct.
    unsafe {
        match (*item).type_ {
            pg_sys::NodeTag::T_FromExpr => {
                let mut items = pointers::<pg_sys::Node>((*item.cast::<pg_sys::FromExpr>()).fromlist);
                items.any(|item| has_named_join(item))
            }
            pg_sys::NodeTag::T_JoinExpr => {
                let join = &*item.cast::<pg_sys::JoinExpr>();
                !join.alias.is_null() || has_named_join(join.larg) || has_named_join(join.rarg)
            }
            _ => false,
        }
    }
}

/// Whether FROM has rows that functions give.
fn has_sets(query: Query<'_>) -> bool {
    (1..=query.entries()).any(|number| match query.entry(number) {
        Entry::Functions(functions) => functions.returns_set(),
        Entry::Subquery { query, .. } => query.features().target_srfs || has_sets(query),
        _ => false,
    })
}

/// WITH ORDINALITY for all such functions; none if that cannot be said of one of them.
unsafe fn places(query: *mut pg_sys::Query) -> Option<Vec<*mut pg_sys::Node>> {
    // SAFETY: entries are numbered from 1; their lists are ours.
    unsafe {
        let view = Query::new(query);
        let mut found = Vec::new();
        for (i, entry) in pointers::<pg_sys::RangeTblEntry>((*query).rtable).enumerate() {
            match view.entry(i + 1) {
                Entry::Functions(functions) if functions.returns_set() => {
                    if has_whole_row(query, i as i32 + 1) || !functions.are_calls() {
                        return None;
                    }
                    found.push((i + 1, entry));
                }
                Entry::Subquery { query, .. } if query.features().target_srfs || has_sets(query) => return None,
                _ => {}
            }
        }
        Some(found.into_iter().map(|(number, entry)| place(query, number, entry)).collect())
    }
}

unsafe fn place(query: *mut pg_sys::Query, number: usize, entry: *mut pg_sys::RangeTblEntry) -> *mut pg_sys::Node {
    // SAFETY: a function entry; its names are in a list of ours.
    unsafe {
        let functions = pointers::<pg_sys::RangeTblFunction>((*entry).functions);
        let columns: i32 = functions.map(|function| (*function).funccolcount).sum();
        if !(*entry).funcordinality {
            (*entry).funcordinality = true;
            let names = &mut (*(*entry).eref).colnames;
            *names = pg_sys::lappend(*names, pg_sys::makeString(pg_sys::pstrdup(c"ordinality".as_ptr())).cast());
        }
        let place = pg_sys::makeVar(number as i32, columns as i16 + 1, pg_sys::INT8OID, -1, pg_sys::InvalidOid, 0);
        above_joins(query, place).cast()
    }
}

/// The columns of tables that the query uses.
unsafe fn used(query: *mut pg_sys::Query) -> Vec<*mut pg_sys::Node> {
    let view = unsafe { Query::new(query) };
    let mut found: Vec<*mut pg_sys::Node> = Vec::new();
    let mut exprs: Vec<Expr<'_>> = view.targets().iter().map(|target| target.expr).collect();
    for number in 1..=view.entries() {
        if let Entry::Functions(functions) = view.entry(number) {
            exprs.extend(functions.exprs());
        }
    }
    // SAFETY: the lists hold Var nodes of trees of ours, which are copied.
    unsafe {
        for expr in exprs {
            for var in pointers::<pg_sys::Var>(pg_sys::pull_vars_of_level(expr.node(), 0)) {
                let of_function = matches!(view.entry((*var).varno as usize), Entry::Functions(_));
                let known = found.iter().any(|known| {
                    let known = known.cast::<pg_sys::Var>();
                    (*known).varno == (*var).varno && (*known).varattno == (*var).varattno
                });
                if !of_function && !known {
                    let var = copy(var);
                    (*var).varlevelsup = 0;
                    // Between joins, where a function reads it, it may not be NULL yet.
                    found.push(above_joins(query, var).cast());
                }
            }
        }
    }
    found
}

unsafe fn is_open(call: *mut pg_sys::Aggref) -> bool {
    // SAFETY: a live call, whose arguments are TargetEntry nodes.
    unsafe {
        let args = pointers::<pg_sys::TargetEntry>((*call).args).filter(|arg| !(**arg).resjunk);
        let args: Vec<Expr<'_>> = args.map(|arg| Expr::new((*arg).expr.cast())).collect();
        let plain = (*call).aggkind as u8 == b'n' && !(*call).aggstar && (*call).aggdistinct.is_null();
        plain && (*call).agglevelsup == 0 && !is_orderless((*call).aggfnoid, &args)
    }
}

/// The aggregate calls of a query itself.
unsafe fn calls(query: *mut pg_sys::Query) -> Vec<*mut pg_sys::Aggref> {
    let mut found = Vec::new();
    // SAFETY: walks the trees only; the tag decides the struct.
    unsafe {
        for root in [(*query).targetList.cast(), (*query).havingQual] {
            walk(root, &mut |node| match (*node).type_ {
                pg_sys::NodeTag::T_Aggref => {
                    found.push(node.cast());
                    Walk::Past
                }
                pg_sys::NodeTag::T_Query => Walk::Past,
                _ => Walk::Into,
            });
        }
    }
    found
}

/// The subqueries of `ARRAY(SELECT …)` in a query itself.
unsafe fn arrays(query: *mut pg_sys::Query) -> Vec<*mut pg_sys::Query> {
    let mut found = Vec::new();
    // SAFETY: as above; in an analysed query the subselect is a Query.
    unsafe {
        walk(query.cast(), &mut |node| match (*node).type_ {
            pg_sys::NodeTag::T_SubLink => {
                let sublink = node.cast::<pg_sys::SubLink>();
                if (*sublink).subLinkType == pg_sys::SubLinkType::ARRAY_SUBLINK {
                    found.push((*sublink).subselect.cast());
                }
                Walk::Into
            }
            pg_sys::NodeTag::T_Query if node != query.cast() => Walk::Past,
            _ => Walk::Into,
        });
    }
    found
}
