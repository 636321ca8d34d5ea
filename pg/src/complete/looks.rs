//! Values that are equal but look different: 1.0 and 1.00, 0 and -0, '1 day' and '24 hours', jsonb, other cases of a letter.
//!
//! Which of them GROUP BY, DISTINCT and UNION show for a group is a matter of plan. Here it becomes the one whose bytes come
//! first, column by column:
//!
//! ```text
//! SELECT k, … GROUP BY k     = SELECT least_image(k), … GROUP BY k
//! SELECT DISTINCT k FROM S   = SELECT least_image(k) FROM (SELECT k FROM S) GROUP BY k
//! A UNION B                  = SELECT least_image(k) FROM (A UNION ALL B) GROUP BY k
//! ```

use super::ties::node;
use super::wrap;
use crate::expr::{Aggregate, Expr, Hole, Shape};
use crate::nodes::{copy, length, pointers};
use crate::query::{Query, flatten_groups};
use crate::types::{TypeEquality, TypeRef, base_type, equality_of, own_name};
use pgrx::pg_sys;

/// What an aggregate call chooses among by looks, if it does.
pub fn chosen_look<'q>(call: &Aggregate<'q>) -> Option<Expr<'q>> {
    let chooses = own_name(call.function()).is_some_and(|name| name == "least_image");
    call.args().first().copied().filter(|_| chooses)
}

/// Whether equal values of a type may look different.
fn is_blurred(ty: TypeRef) -> bool {
    let base = base_type(ty);
    let scaled = base.oid == pg_sys::NUMERICOID && base.typmod >= 0;
    equality_of(ty) == TypeEquality::Semantic && !scaled && ty.oid != pg_sys::RECORDOID
}

/// GROUP BY and HAVING.
pub(super) unsafe fn complete_keys(query: *mut pg_sys::Query) -> bool {
    // SAFETY: walks and extends the lists of a tree of ours; sort clauses refer to targets.
    unsafe {
        let plain = !(*query).groupClause.is_null()
            && (*query).groupingSets.is_null()
            && (*query).distinctClause.is_null()
            && !reads_itself(query);
        if !plain {
            return false;
        }
        let targets: Vec<*mut pg_sys::TargetEntry> = pointers((*query).targetList).collect();
        let keys: Vec<*mut pg_sys::TargetEntry> = pointers::<pg_sys::SortGroupClause>((*query).groupClause)
            .map(|clause| pg_sys::get_sortgroupref_tle((*clause).tleSortGroupRef, (*query).targetList))
            .collect();
        let of = |target: &*mut pg_sys::TargetEntry| Expr::new((**target).expr.cast());
        if !keys.iter().any(|key| is_blurred(of(key).ty())) {
            return false;
        }
        let exprs: Vec<Expr<'_>> = keys.iter().map(of).collect();
        let looks = Looks { query, keys: &exprs };
        for target in targets {
            match keys.iter().position(|key| *key == target) {
                None => (*target).expr = looks.shown(of(&target)).node().cast(),
                Some(_) if !is_blurred(of(&target).ty()) || (*target).resjunk && !sorts_by(query, target) => {}
                Some(_) => looks.split(target),
            }
        }
        if !(*query).havingQual.is_null() {
            (*query).havingQual = looks.shown(Expr::new((*query).havingQual)).node();
        }
        (*query).hasAggs = true;
        true
    }
}

/// DISTINCT.
pub(super) unsafe fn complete_distinct(query: *mut pg_sys::Query) -> bool {
    // SAFETY: as above.
    unsafe {
        if (*query).distinctClause.is_null() || (*query).hasDistinctOn {
            return false;
        }
        let blurred = |clause: *mut pg_sys::SortGroupClause| {
            let target = pg_sys::get_sortgroupref_tle((*clause).tleSortGroupRef, (*query).targetList);
            is_blurred(Expr::new((*target).expr.cast()).ty())
        };
        if !pointers::<pg_sys::SortGroupClause>((*query).distinctClause).any(blurred) {
            return false;
        }
        let inner = wrap(query);
        (*query).groupClause = std::mem::replace(&mut (*inner).distinctClause, std::ptr::null_mut());
        complete_keys(query)
    }
}

/// UNION, unless it is a recursion's.
pub(super) unsafe fn complete_union(query: *mut pg_sys::Query) -> bool {
    // SAFETY: the tag decides the struct; the lists of a set operation are of equal length.
    unsafe {
        let Some(union) = distinct_union((*query).setOperations) else { return false };
        let types = Query::new(query).set_types();
        if !types.into_iter().any(is_blurred) {
            return false;
        }
        let clauses = (*union).groupClauses;
        keep_all(union);
        wrap(query);
        let targets: Vec<*mut pg_sys::TargetEntry> = pointers((*query).targetList).collect();
        for (target, clause) in targets.into_iter().zip(pointers::<pg_sys::SortGroupClause>(clauses)) {
            if (*target).ressortgroupref == 0 {
                (*target).ressortgroupref = next_number(query);
            }
            (*clause).tleSortGroupRef = (*target).ressortgroupref;
        }
        (*query).groupClause = clauses;
        complete_keys(query)
    }
}

/// UNION without ALL.
unsafe fn distinct_union(node: *mut pg_sys::Node) -> Option<*mut pg_sys::SetOperationStmt> {
    // SAFETY: null or a node of a query's setOperations; the tag decides the struct.
    unsafe {
        if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_SetOperationStmt {
            return None;
        }
        let operation = node.cast::<pg_sys::SetOperationStmt>();
        ((*operation).op == pg_sys::SetOperation::SETOP_UNION && !(*operation).all).then_some(operation)
    }
}

/// Makes it and the unions right beneath keep all rows.
unsafe fn keep_all(union: *mut pg_sys::SetOperationStmt) {
    // SAFETY: a tree of ours.
    unsafe {
        (*union).all = true;
        (*union).groupClauses = std::ptr::null_mut();
        for below in [(*union).larg, (*union).rarg] {
            if let Some(below) = distinct_union(below) {
                keep_all(below);
            }
        }
    }
}

unsafe fn next_number(query: *mut pg_sys::Query) -> u32 {
    // SAFETY: targetList holds TargetEntry nodes.
    unsafe {
        let targets = pointers::<pg_sys::TargetEntry>((*query).targetList);
        targets.map(|target| (*target).ressortgroupref).max().unwrap_or_default() + 1
    }
}

/// Whether ORDER BY or a window refers to a target.
unsafe fn sorts_by(query: *mut pg_sys::Query, target: *mut pg_sys::TargetEntry) -> bool {
    // SAFETY: lists of SortGroupClause and WindowClause nodes.
    unsafe {
        let refers = |clauses: *mut pg_sys::List| {
            pointers::<pg_sys::SortGroupClause>(clauses).any(|c| (*c).tleSortGroupRef == (*target).ressortgroupref)
        };
        let mut windows = pointers::<pg_sys::WindowClause>((*query).windowClause);
        refers((*query).sortClause)
            || windows.any(|window| refers((*window).partitionClause) || refers((*window).orderClause))
    }
}

/// Whether it reads the recursion that it is the step of, beside which no aggregate may stand.
unsafe fn reads_itself(query: *mut pg_sys::Query) -> bool {
    // SAFETY: the range table holds RangeTblEntry nodes.
    unsafe { pointers::<pg_sys::RangeTblEntry>((*query).rtable).any(|entry| (*entry).self_reference) }
}

/// The keys of a query.
struct Looks<'a, 'q> {
    query: *mut pg_sys::Query,
    keys: &'a [Expr<'q>],
}

impl<'q> Looks<'_, 'q> {
    /// An expression with the chosen look in place of keys that are not exact. Aggregates see each row's own.
    unsafe fn shown(&self, expr: Expr<'q>) -> Expr<'q> {
        expr.with_parts(&mut |part| {
            if let Some(key) = self.keys.iter().find(|key| key.equals(part)) {
                // SAFETY: allocates in the scratch context.
                return Some(if is_blurred(key.ty()) { Hole::Node(unsafe { self.least(*key) }) } else { Hole::Same });
            }
            matches!(part.shape(), Shape::Aggregate(_) | Shape::Grouping(_)).then_some(Hole::Same)
        })
    }

    /// Of a key that is selected or sorted by, one target to group by and another to show.
    unsafe fn split(&self, target: *mut pg_sys::TargetEntry) {
        // SAFETY: the target is one of the query's.
        unsafe {
            let position = length((*self.query).targetList) as i16 + 1;
            let key = pg_sys::makeTargetEntry(copy((*target).expr), position, std::ptr::null_mut(), true);
            (*key).ressortgroupref = next_number(self.query);
            for clause in pointers::<pg_sys::SortGroupClause>((*self.query).groupClause) {
                if (*clause).tleSortGroupRef == (*target).ressortgroupref {
                    (*clause).tleSortGroupRef = (*key).ressortgroupref;
                }
            }
            (*target).expr = self.least(Expr::new((*target).expr.cast())).cast();
            (*self.query).targetList = pg_sys::lappend((*self.query).targetList, key.cast());
        }
    }

    /// `least_image(key)`
    unsafe fn least(&self, key: Expr<'q>) -> *mut pg_sys::Node {
        // SAFETY: allocates nodes; the aggregate is part of the extension.
        unsafe {
            let ty = key.ty();
            let schema = pg_sys::makeString(pg_sys::pstrdup(c"pgtrickle".as_ptr()));
            let name = pg_sys::makeString(pg_sys::pstrdup(c"least_image".as_ptr()));
            let name = pg_sys::lappend(pg_sys::lappend(std::ptr::null_mut(), schema.cast()), name.cast());
            let any = pg_sys::ANYELEMENTOID;
            let argument = flatten_groups(self.query, copy(key.node()));
            let argument = pg_sys::makeTargetEntry(argument.cast(), 1, std::ptr::null_mut(), false);
            let call = node::<pg_sys::Aggref>(pg_sys::NodeTag::T_Aggref);
            (*call).aggfnoid = pg_sys::LookupFuncName(name, 1, &raw const any, false);
            (*call).aggtype = ty.oid;
            (*call).aggcollid = ty.collation;
            (*call).inputcollid = ty.collation;
            (*call).aggargtypes = pg_sys::lappend_oid(std::ptr::null_mut(), ty.oid);
            (*call).args = pg_sys::lappend(std::ptr::null_mut(), argument.cast());
            (*call).aggkind = b'n' as std::ffi::c_char;
            (*call).aggno = -1;
            (*call).aggtransno = -1;
            (*call).location = -1;
            call.cast()
        }
    }
}
