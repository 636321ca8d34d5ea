//! Values that are equal but look different: 1.0 and 1.00, 0 and -0, '1 day' and '24 hours', jsonb, other cases of a letter.
//!
//! Which of them GROUP BY and DISTINCT show for a group is a matter of plan. Here it becomes the one whose bytes come first,
//! column by column:
//!
//! ```text
//! SELECT k, … GROUP BY k            = SELECT least_image(k), … GROUP BY k
//! SELECT k, … GROUP BY ROLLUP (k)   = SELECT CASE WHEN grouping(k) = 0 THEN least_image(k) END, … GROUP BY ROLLUP (k)
//! SELECT DISTINCT k FROM S          = SELECT least_image(k) FROM (SELECT k FROM S) GROUP BY k
//! ```

use super::ties::node;
use super::{first_column, template, wrap};
use crate::expr::{Aggregate, Expr, Hole, Shape};
use crate::nodes::{Walk, copy, length, pointers, walk};
use crate::query::flatten_groups;
use crate::types::{TypeEquality, TypeRef, base_type, equality_of, own_name};
use pgrx::pg_sys;

/// What an aggregate call chooses among by looks, if it does, and among those of a whole group.
pub fn chosen_look<'q>(call: &Aggregate<'q>) -> Option<Expr<'q>> {
    let chooses = own_name(call.function()).is_some_and(|name| name == "least_image") && call.filter().is_none();
    call.args().first().copied().filter(|_| chooses)
}

/// Whether equal values of a type may look different.
pub(super) fn is_blurred(ty: TypeRef) -> bool {
    let base = base_type(ty);
    let scaled = base.oid == pg_sys::NUMERICOID && base.typmod >= 0;
    equality_of(ty) == TypeEquality::Semantic && !scaled && ty.oid != pg_sys::RECORDOID
}

/// GROUP BY and HAVING.
pub(super) unsafe fn complete_keys(query: *mut pg_sys::Query) -> bool {
    // SAFETY: walks and extends the lists of a tree of ours; sort clauses refer to targets.
    unsafe {
        if (*query).groupClause.is_null() || !(*query).distinctClause.is_null() || reads_itself(query) {
            return false;
        }
        let targets: Vec<*mut pg_sys::TargetEntry> = pointers((*query).targetList).collect();
        let keys: Vec<*mut pg_sys::TargetEntry> = pointers::<pg_sys::SortGroupClause>((*query).groupClause)
            .map(|clause| pg_sys::get_sortgroupref_tle((*clause).tleSortGroupRef, (*query).targetList))
            .collect();
        let of = |target: &*mut pg_sys::TargetEntry| Expr::new((**target).expr.cast());
        // A constant has one look; where it is no key of a grouping set, those like it elsewhere are still there.
        let constant = |key: &*mut pg_sys::TargetEntry| {
            let value = flatten_groups(query, copy((**key).expr.cast()));
            matches!(Expr::new(value).shape(), Shape::Constant { .. })
        };
        let blurred = |key: &*mut pg_sys::TargetEntry| is_blurred(of(key).ty()) && !constant(key);
        if !keys.iter().any(blurred) {
            return false;
        }
        let varying = keys.iter().filter(|key| !constant(key));
        let numbered = varying.map(|key| (of(key), (**key).ressortgroupref));
        let looks = Looks { query, keys: numbered.collect() };
        for target in targets {
            match keys.iter().position(|key| *key == target) {
                None => (*target).expr = looks.shown(of(&target)).node().cast(),
                Some(_) if !blurred(&target) || (*target).resjunk && sorting(query, target).is_empty() => {}
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

pub(super) unsafe fn next_number(query: *mut pg_sys::Query) -> u32 {
    // SAFETY: targetList holds TargetEntry nodes.
    unsafe {
        let targets = pointers::<pg_sys::TargetEntry>((*query).targetList);
        targets.map(|target| (*target).ressortgroupref).max().unwrap_or_default() + 1
    }
}

/// What of ORDER BY and of windows refers to a target.
unsafe fn sorting(query: *mut pg_sys::Query, target: *mut pg_sys::TargetEntry) -> Vec<*mut pg_sys::SortGroupClause> {
    // SAFETY: lists of SortGroupClause and WindowClause nodes.
    unsafe {
        let windows = pointers::<pg_sys::WindowClause>((*query).windowClause);
        let lists = windows.flat_map(|window| [(*window).partitionClause, (*window).orderClause]);
        let all = lists.chain([(*query).sortClause]).flat_map(|list| pointers::<pg_sys::SortGroupClause>(list));
        all.filter(|clause| (**clause).tleSortGroupRef == (*target).ressortgroupref).collect()
    }
}

/// Whether it reads the recursion that it is the step of, beside which no aggregate may stand.
unsafe fn reads_itself(query: *mut pg_sys::Query) -> bool {
    // SAFETY: the range table holds RangeTblEntry nodes.
    unsafe { pointers::<pg_sys::RangeTblEntry>((*query).rtable).any(|entry| (*entry).self_reference) }
}

/// The keys of a query, with their sort-group numbers.
struct Looks<'q> {
    query: *mut pg_sys::Query,
    keys: Vec<(Expr<'q>, u32)>,
}

impl<'q> Looks<'q> {
    /// An expression with the chosen look in place of keys that are not exact. Aggregates see each row's own.
    unsafe fn shown(&self, expr: Expr<'q>) -> Expr<'q> {
        expr.with_own_parts(&mut |part| {
            if let Some((key, number)) = self.keys.iter().find(|(key, _)| key.equals(part)) {
                // SAFETY: allocates in the scratch context.
                let look = || Hole::Node(unsafe { self.look(*key, *number) });
                return Some(if is_blurred(key.ty()) { look() } else { Hole::Same });
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
            let (number, sorting) = (next_number(self.query), sorting(self.query, target));
            (*key).ressortgroupref = std::mem::replace(&mut (*target).ressortgroupref, number);
            sorting.into_iter().for_each(|clause| (*clause).tleSortGroupRef = number);
            (*target).expr = self.look(Expr::new((*key).expr.cast()), (*key).ressortgroupref).cast();
            (*self.query).targetList = pg_sys::lappend((*self.query).targetList, key.cast());
        }
    }

    /// What a group shows of a key: nothing, if its grouping set is one without the key.
    unsafe fn look(&self, key: Expr<'q>, number: u32) -> *mut pg_sys::Node {
        const CASE: &str =
            "SELECT CASE WHEN GROUPING(a) OPERATOR(pg_catalog.=) 0 THEN 1 END FROM (SELECT 1 AS a) AS q GROUP BY a";
        // SAFETY: changes a tree that is made here; the tags decide the structs.
        unsafe {
            let least = self.least(key);
            if (*self.query).groupingSets.is_null() {
                return least;
            }
            let case = first_column(template(CASE)).cast::<pg_sys::CaseExpr>();
            walk(case.cast(), &mut |part| {
                if (*part).type_ == pg_sys::NodeTag::T_GroupingFunc {
                    let grouping = part.cast::<pg_sys::GroupingFunc>();
                    let argument = flatten_groups(self.query, copy(key.node()));
                    (*grouping).args = pg_sys::lappend(std::ptr::null_mut(), argument.cast());
                    (*grouping).refs = pg_sys::lappend_int(std::ptr::null_mut(), number as i32);
                    return Walk::Past;
                }
                Walk::Into
            });
            let ty = key.ty();
            ((*case).casetype, (*case).casecollid) = (ty.oid, ty.collation);
            (*case).defresult = pg_sys::makeNullConst(ty.oid, ty.typmod, ty.collation).cast();
            let when = pointers::<pg_sys::CaseWhen>((*case).args).next().expect("one case");
            (*when).result = least.cast();
            case.cast()
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
