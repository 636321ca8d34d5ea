//! Set operations over values that are equal but look different: what they show is grouped, so that the look is chosen.
//!
//! ```text
//! A UNION B          = SELECT least_image(k) FROM (A UNION ALL B) GROUP BY k
//! A INTERSECT B      = SELECT least_image(k) FROM (A with true UNION ALL B with false) GROUP BY k HAVING l > 0 AND r > 0
//! A EXCEPT B         = the same HAVING l > 0 AND r = 0
//! A INTERSECT ALL B  = SELECT k FROM (SELECT least_image(k) AS k, least(l, r) AS n FROM … GROUP BY k), generate_series(1, n)
//! A EXCEPT ALL B     = the same with the looks of A, and n = l - r
//! ```
//!
//! with l and r the number of rows of either side. An operation among others becomes a query of its own first.

use super::looks::{complete_keys, is_blurred, next_number};
use super::{add_entry, entry_of, first_column, over, select_like, template, wrap};
use crate::nodes::{Walk, length, pointers, text, walk};
use crate::types::TypeRef;
use pgrx::pg_sys;
use pgrx::pg_sys::SetOperation::{SETOP_INTERSECT, SETOP_UNION};

/// All set operations of a query.
pub(super) unsafe fn complete_sets(query: *mut pg_sys::Query) -> bool {
    // SAFETY: changes a tree of ours.
    unsafe {
        let Some(root) = operation((*query).setOperations) else { return false };
        let chosen = chooses(root);
        if chosen && (*root).op == SETOP_UNION {
            keep_all(root);
        }
        let changed = complete_below(query, root);
        if chosen {
            let clauses = std::mem::replace(&mut (*root).groupClauses, std::ptr::null_mut());
            match (*root).op {
                SETOP_UNION => {
                    wrap(query);
                    group(query, clauses);
                }
                op => counted(query, root, op == SETOP_INTERSECT, clauses),
            }
        }
        chosen || changed
    }
}

unsafe fn operation(node: *mut pg_sys::Node) -> Option<*mut pg_sys::SetOperationStmt> {
    // SAFETY: null or a node of a query's setOperations; the tag decides the struct.
    unsafe {
        let is = !node.is_null() && (*node).type_ == pg_sys::NodeTag::T_SetOperationStmt;
        is.then_some(node.cast())
    }
}

/// Whether an operation shows one of several values that may look different.
unsafe fn chooses(operation: *mut pg_sys::SetOperationStmt) -> bool {
    // SAFETY: the lists have the same length.
    unsafe {
        let of = |list: *mut pg_sys::List, i: usize| *(*list).elements.add(i);
        let ty = |i| TypeRef {
            oid: of((*operation).colTypes, i).oid_value,
            typmod: of((*operation).colTypmods, i).int_value,
            collation: of((*operation).colCollations, i).oid_value,
        };
        !((*operation).op == SETOP_UNION && (*operation).all)
            && (0..length((*operation).colTypes)).any(|i| is_blurred(ty(i)))
    }
}

/// Makes it and the unions right beneath keep all rows.
unsafe fn keep_all(union: *mut pg_sys::SetOperationStmt) {
    // SAFETY: a tree of ours.
    unsafe {
        (*union).all = true;
        for below in [(*union).larg, (*union).rarg].into_iter().filter_map(|node| operation(node)) {
            if (*below).op == SETOP_UNION && !(*below).all {
                keep_all(below);
                (*below).groupClauses = std::ptr::null_mut();
            }
        }
    }
}

/// Makes queries of those operations below this one that choose, and completes them.
unsafe fn complete_below(query: *mut pg_sys::Query, above: *mut pg_sys::SetOperationStmt) -> bool {
    let mut changed = false;
    // SAFETY: changes a tree of ours.
    unsafe {
        for side in [&raw mut (*above).larg, &raw mut (*above).rarg] {
            let Some(below) = operation(*side) else { continue };
            if chooses(below) {
                *side = extracted(query, below).cast();
                lead(query);
                changed = true;
            } else {
                changed |= complete_below(query, below);
            }
        }
    }
    changed
}

/// An operation as a query of its own, complete; the reference to it.
unsafe fn extracted(query: *mut pg_sys::Query, below: *mut pg_sys::SetOperationStmt) -> *mut pg_sys::RangeTblRef {
    // SAFETY: leaves of set operations are references to subqueries; lists hold what their names say.
    unsafe {
        let own = select_like(query);
        (*own).setOperations = below.cast();
        (*own).jointree = pg_sys::makeFromExpr(std::ptr::null_mut(), std::ptr::null_mut());
        let mut leaves: Vec<*mut pg_sys::RangeTblRef> = Vec::new();
        collect_leaves(below.cast(), &mut leaves);
        for leaf in &leaves {
            let entry = entry_at(query, **leaf);
            let moved = pg_sys::palloc0(size_of::<pg_sys::RangeTblEntry>()).cast::<pg_sys::RangeTblEntry>();
            std::ptr::copy_nonoverlapping(entry, moved, 1);
            // Others keep their numbers.
            (*entry).rtekind = pg_sys::RTEKind::RTE_RESULT;
            (*entry).subquery = std::ptr::null_mut();
            pg_sys::IncrementVarSublevelsUp((*moved).subquery.cast(), 1, 1);
            (**leaf).rtindex = (*add_entry(own, moved)).rtindex;
        }
        let names =
            pointers::<pg_sys::String>((*(*entry_at(own, *leaves[0])).eref).colnames).map(|name| text((*name).sval));
        for (i, name) in names.enumerate() {
            let of = |list: *mut pg_sys::List| *(*list).elements.add(i);
            let (oid, typmod) = (of((*below).colTypes).oid_value, of((*below).colTypmods).int_value);
            let var = pg_sys::makeVar(1, i as i16 + 1, oid, typmod, of((*below).colCollations).oid_value, 0);
            let name = std::ffi::CString::new(name).unwrap_or_default();
            let name = pg_sys::pstrdup(name.as_ptr());
            let target = pg_sys::makeTargetEntry(var.cast(), i as i16 + 1, name, false);
            (*own).targetList = pg_sys::lappend((*own).targetList, target.cast());
        }
        complete_sets(own);
        let entry = entry_of(own);
        (*entry).inFromCl = false;
        add_entry(query, entry)
    }
}

unsafe fn entry_at(query: *mut pg_sys::Query, reference: pg_sys::RangeTblRef) -> *mut pg_sys::RangeTblEntry {
    // SAFETY: the reference is the query's.
    unsafe { pointers((*query).rtable).nth(reference.rtindex as usize - 1).expect("an entry") }
}

/// The leaves of a tree of set operations, from left to right.
unsafe fn collect_leaves(node: *mut pg_sys::Node, found: &mut Vec<*mut pg_sys::RangeTblRef>) {
    // SAFETY: what is no operation is a reference.
    unsafe {
        match operation(node) {
            Some(operation) => {
                collect_leaves((*operation).larg, found);
                collect_leaves((*operation).rarg, found);
            }
            None => found.push(node.cast()),
        }
    }
}

/// The columns of a query of set operations are those of its first leaf.
unsafe fn lead(query: *mut pg_sys::Query) {
    // SAFETY: targets of set operations are Vars.
    unsafe {
        let mut leaves = Vec::new();
        collect_leaves((*query).setOperations, &mut leaves);
        for target in pointers::<pg_sys::TargetEntry>((*query).targetList) {
            let var = (*target).expr.cast::<pg_sys::Var>();
            (*var).varno = (*leaves[0]).rtindex as _;
            (*var).varnosyn = (*leaves[0]).rtindex as _;
        }
    }
}

/// Makes a query that selects nothing but columns group by them.
unsafe fn group(query: *mut pg_sys::Query, clauses: *mut pg_sys::List) {
    // SAFETY: there are as many clauses as targets.
    unsafe {
        let targets: Vec<*mut pg_sys::TargetEntry> = pointers((*query).targetList).collect();
        for (target, clause) in targets.into_iter().zip(pointers::<pg_sys::SortGroupClause>(clauses)) {
            if (*target).ressortgroupref == 0 {
                (*target).ressortgroupref = next_number(query);
            }
            (*clause).tleSortGroupRef = (*target).ressortgroupref;
        }
        (*query).groupClause = clauses;
        complete_keys(query);
    }
}

/// INTERSECT and EXCEPT by numbers of rows.
unsafe fn counted(
    query: *mut pg_sys::Query,
    root: *mut pg_sys::SetOperationStmt,
    intersect: bool,
    clauses: *mut pg_sys::List,
) {
    const BOTH: &str = "SELECT pg_catalog.count(*) FILTER (WHERE l) OPERATOR(pg_catalog.>) 0
        AND pg_catalog.count(*) FILTER (WHERE NOT l) OPERATOR(pg_catalog.>) 0 FROM (SELECT true AS l) AS q";
    const LEFT: &str = "SELECT pg_catalog.count(*) FILTER (WHERE l) OPERATOR(pg_catalog.>) 0
        AND pg_catalog.count(*) FILTER (WHERE NOT l) OPERATOR(pg_catalog.=) 0 FROM (SELECT true AS l) AS q";
    const FEWER: &str = "SELECT LEAST(pg_catalog.count(*) FILTER (WHERE l), pg_catalog.count(*) FILTER (WHERE NOT l))
        FROM (SELECT true AS l) AS q";
    const MORE: &str = "SELECT pg_catalog.count(*) FILTER (WHERE l) OPERATOR(pg_catalog.-)
        pg_catalog.count(*) FILTER (WHERE NOT l) FROM (SELECT true AS l) AS q";
    // SAFETY: changes a tree of ours.
    unsafe {
        let all = std::mem::replace(&mut (*root).all, true);
        let width = length(clauses);
        let grouped = if all { wrap(query) } else { query };
        tag(grouped, root);
        wrap(grouped);
        pg_sys::list_truncate((*grouped).targetList, width as i32);
        group(grouped, clauses);
        let rule = first_column(template(match (intersect, all) {
            (true, false) => BOTH,
            (false, false) => LEFT,
            (true, true) => FEWER,
            (false, true) => MORE,
        }));
        refer(rule, width + 1);
        if !all {
            (*grouped).havingQual = rule;
            return;
        }
        if !intersect {
            of_left(grouped, width + 1);
        }
        repeat(query, grouped, rule, width);
    }
}

/// Puts the side of a row beside it.
unsafe fn tag(query: *mut pg_sys::Query, root: *mut pg_sys::SetOperationStmt) {
    // SAFETY: changes a tree of ours.
    unsafe {
        for (side, left) in [(&raw mut (*root).larg, true), (&raw mut (*root).rarg, false)] {
            if let Some(below) = operation(*side) {
                *side = extracted(query, below).cast();
            }
            let entry = entry_at(query, *(*side).cast::<pg_sys::RangeTblRef>());
            let tagged = over((*entry).subquery);
            add_target(tagged, pg_sys::makeBoolConst(left, false));
            (*entry).subquery = tagged;
            let name = pg_sys::makeString(pg_sys::pstrdup(c"pgt_side".as_ptr()));
            (*(*entry).eref).colnames = pg_sys::lappend((*(*entry).eref).colnames, name.cast());
        }
        let number = length((*query).targetList) as i16 + 1;
        let side = pg_sys::makeVar(1, number, pg_sys::BOOLOID, -1, pg_sys::InvalidOid, 0);
        add_target(query, side.cast());
        lead(query);
        (*root).op = SETOP_UNION;
        (*root).colTypes = pg_sys::lappend_oid((*root).colTypes, pg_sys::BOOLOID);
        (*root).colTypmods = pg_sys::lappend_int((*root).colTypmods, -1);
        (*root).colCollations = pg_sys::lappend_oid((*root).colCollations, pg_sys::InvalidOid);
    }
}

/// Appends a column, after all that are selected.
unsafe fn add_target(query: *mut pg_sys::Query, expr: *mut pg_sys::Node) {
    // SAFETY: changes a tree of ours.
    unsafe {
        let number = length((*query).targetList) as i16 + 1;
        let target = pg_sys::makeTargetEntry(expr.cast(), number, pg_sys::pstrdup(c"pgt_side".as_ptr()), false);
        (*query).targetList = pg_sys::lappend((*query).targetList, target.cast());
    }
}

/// Makes the column of a template the one with this number.
unsafe fn refer(expr: *mut pg_sys::Node, column: usize) {
    // SAFETY: changes a tree of ours; the tag decides the struct.
    unsafe {
        walk(expr, &mut |part| {
            if (*part).type_ == pg_sys::NodeTag::T_Var {
                let var = part.cast::<pg_sys::Var>();
                ((*var).varattno, (*var).varattnosyn) = (column as i16, column as i16);
            }
            Walk::Into
        });
    }
}

/// Lets the looks be chosen among those of the left side.
unsafe fn of_left(query: *mut pg_sys::Query, side: usize) {
    // SAFETY: changes a tree of ours; the tag decides the struct.
    unsafe {
        walk((*query).targetList.cast(), &mut |part| {
            if (*part).type_ == pg_sys::NodeTag::T_Aggref {
                let side = pg_sys::makeVar(1, side as i16, pg_sys::BOOLOID, -1, pg_sys::InvalidOid, 0);
                (*part.cast::<pg_sys::Aggref>()).aggfilter = side.cast();
                return Walk::Past;
            }
            Walk::Into
        });
    }
}

/// Lets each row of the subquery come as often as the rule says, in the query around it.
unsafe fn repeat(outer: *mut pg_sys::Query, grouped: *mut pg_sys::Query, rule: *mut pg_sys::Node, width: usize) {
    const SERIES: &str = "SELECT FROM (SELECT 1::pg_catalog.int8 AS n) AS q, LATERAL pg_catalog.generate_series(1::pg_catalog.int8, n) AS i";
    // SAFETY: changes a tree of ours; the template's second entry is the function.
    unsafe {
        // Before the keys, which are not selected.
        let place = width + 1;
        for target in pointers::<pg_sys::TargetEntry>((*grouped).targetList).skip(width) {
            (*target).resno += 1;
        }
        let name = pg_sys::pstrdup(c"pgt_times".as_ptr());
        let times = pg_sys::makeTargetEntry(rule.cast(), place as i16, name, false);
        (*grouped).targetList = pg_sys::list_insert_nth((*grouped).targetList, width as i32, times.cast());
        let entry = pointers::<pg_sys::RangeTblEntry>((*outer).rtable).next().expect("the subquery");
        let names = &mut (*(*entry).eref).colnames;
        *names = pg_sys::lappend(*names, pg_sys::makeString(name).cast());
        let series = pointers::<pg_sys::RangeTblEntry>((*template(SERIES)).rtable).nth(1).expect("the function");
        refer((*series).functions.cast(), place);
        let reference = add_entry(outer, series);
        (*(*outer).jointree).fromlist = pg_sys::lappend((*(*outer).jointree).fromlist, reference.cast());
    }
}
