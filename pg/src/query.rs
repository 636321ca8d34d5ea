//! PostgreSQL's analysed and rewritten queries, seen through views that cannot outlive them.
//!
//! Everything lives in a [`Scratch`] memory context; a [`Query`] or an [`Expr`] borrows it, so the compiler keeps
//! them from being used after the context is gone. Differences between PostgreSQL versions end here.

use crate::expr::{Expr, OuterColumn, outer_columns};
use crate::json::call_aggregates;
use crate::nodes::{Walk, integers, pointers, text, walk};
use crate::records::as_text;
use crate::types::TypeRef;
use pgrx::pg_sys;
use std::marker::PhantomData;

pub use crate::entry::{Cte, Entry, From, JoinKind, RelationEntry, SetOp, SetTree};
pub use crate::written::{NotAQuery, Scratch, Written, with_scratch};

/// An analysed and rewritten SELECT.
#[derive(Clone, Copy)]
pub struct Query<'q> {
    raw: *mut pg_sys::Query,
    scratch: PhantomData<&'q Scratch>,
}

/// One column of a query's result, or of its sort and group keys if `junk`.
#[derive(Clone, Copy)]
pub struct Target<'q> {
    /// The expression, free of join aliases and of PostgreSQL 18's group columns.
    pub expr: Expr<'q>,
    /// Position in the result, from 1.
    pub number: usize,
    /// What GROUP BY, DISTINCT and ORDER BY refer to it by; 0 if they do not.
    pub sort_group: u32,
    /// Not part of the result.
    pub junk: bool,
}

/// A term of ORDER BY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SortKey {
    /// Which target it sorts by.
    pub sort_group: u32,
    /// The `<` or `>` to sort by.
    pub operator: pg_sys::Oid,
    pub nulls_first: bool,
}

/// LIMIT and OFFSET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// How many rows; all, if there is no limit.
    pub rows: Option<i64>,
    /// After how many.
    pub offset: i64,
    /// WITH TIES.
    pub ties: bool,
}

/// What a query has beyond SELECT … FROM … WHERE.
#[derive(Debug, Clone, Copy, Default)]
pub struct Features {
    /// Aggregates or HAVING or GROUP BY.
    pub grouped: bool,
    /// GROUPING SETS, ROLLUP, CUBE.
    pub grouping_sets: bool,
    /// Window functions.
    pub windows: bool,
    /// Set-returning functions in the select list.
    pub target_srfs: bool,
    /// DISTINCT.
    pub distinct: bool,
    /// DISTINCT ON.
    pub distinct_on: bool,
    /// ORDER BY.
    pub ordered: bool,
    /// LIMIT, OFFSET or FETCH.
    pub limited: bool,
    /// Limited to this constant number of rows, from the first, without ties.
    pub limit: Option<i64>,
    /// FOR UPDATE and the like.
    pub locking: bool,
    /// A data-modifying statement in WITH.
    pub modifying_cte: bool,
    /// Row security policies apply to what it reads.
    pub row_security: bool,
}

impl<'q> Query<'q> {
    /// # Safety
    /// `list` holds queries of the scratch context; a SELECT rewrites to exactly one.
    pub(crate) unsafe fn only(list: *mut pg_sys::List) -> Self {
        let queries: Vec<*mut pg_sys::Query> = unsafe { pointers(list) }.collect();
        assert_eq!(queries.len(), 1, "a SELECT is rewritten to one query");
        // SAFETY: as the caller says.
        unsafe {
            call_aggregates(queries[0]);
            as_text(queries[0]);
            Self::new(queries[0])
        }
    }

    /// # Safety
    /// `raw` is a query tree that lives in the scratch context.
    pub(crate) unsafe fn new(raw: *mut pg_sys::Query) -> Self {
        Query { raw, scratch: PhantomData }
    }

    pub(crate) fn as_node(self) -> *mut pg_sys::Node {
        self.raw.cast()
    }

    pub(crate) fn get(&self) -> &pg_sys::Query {
        // SAFETY: a Query is only made from live trees, which we never modify.
        unsafe { &*self.raw }
    }

    /// What clauses it has.
    pub fn features(&self) -> Features {
        let q = self.get();
        Features {
            grouped: q.hasAggs || !q.groupClause.is_null() || !q.groupingSets.is_null() || !q.havingQual.is_null(),
            grouping_sets: !q.groupingSets.is_null(),
            windows: q.hasWindowFuncs,
            target_srfs: q.hasTargetSRFs,
            distinct: !q.distinctClause.is_null() && !q.hasDistinctOn,
            distinct_on: q.hasDistinctOn,
            ordered: !q.sortClause.is_null(),
            limited: !q.limitCount.is_null() || !q.limitOffset.is_null(),
            limit: self.limit().filter(|limit| limit.offset == 0 && !limit.ties).and_then(|limit| limit.rows),
            locking: !q.rowMarks.is_null(),
            modifying_cte: q.hasModifyingCTE,
            row_security: q.hasRowSecurity,
        }
    }

    /// Whether it is a SELECT (a statement in WITH may be another command).
    pub fn is_select(&self) -> bool {
        self.get().commandType == pg_sys::CmdType::CMD_SELECT && self.get().utilityStmt.is_null()
    }

    /// The select list, junk included.
    pub fn targets(&self) -> Vec<Target<'q>> {
        // SAFETY: targetList holds TargetEntry nodes with expressions.
        unsafe {
            pointers::<pg_sys::TargetEntry>(self.get().targetList)
                .map(|entry| Target {
                    expr: self.flatten((*entry).expr.cast()),
                    number: (*entry).resno as usize,
                    sort_group: (*entry).ressortgroupref,
                    junk: (*entry).resjunk,
                })
                .collect()
        }
    }

    /// The names of the result's columns.
    pub fn column_names(&self) -> Vec<String> {
        // SAFETY: resname is a C string or null.
        unsafe {
            pointers::<pg_sys::TargetEntry>(self.get().targetList)
                .filter(|entry| !(**entry).resjunk)
                .map(|entry| text((*entry).resname))
                .collect()
        }
    }

    /// The sort-group numbers of GROUP BY.
    pub fn group_by(&self) -> Vec<u32> {
        // SAFETY: groupClause holds SortGroupClause nodes.
        unsafe { pointers::<pg_sys::SortGroupClause>(self.get().groupClause).map(|c| (*c).tleSortGroupRef).collect() }
    }

    /// ORDER BY.
    pub fn order_by(&self) -> Vec<SortKey> {
        // SAFETY: sortClause holds SortGroupClause nodes.
        unsafe { sort_keys(self.get().sortClause) }
    }

    /// The sort-group numbers of DISTINCT or DISTINCT ON.
    pub fn distinct_on(&self) -> Vec<u32> {
        let clauses = self.get().distinctClause;
        // SAFETY: distinctClause holds SortGroupClause nodes.
        unsafe { pointers::<pg_sys::SortGroupClause>(clauses).map(|clause| (*clause).tleSortGroupRef).collect() }
    }

    /// LIMIT and OFFSET, where both are constants.
    pub fn limit(&self) -> Option<Limit> {
        let q = self.get();
        let ties = self.with_ties();
        // SAFETY: both are null or expressions of type bigint.
        unsafe {
            let (rows, offset) = (constant(q.limitCount)?, constant(q.limitOffset)?);
            Some(Limit { rows, offset: offset.unwrap_or(0), ties })
        }
    }

    /// WITH TIES.
    pub fn with_ties(&self) -> bool {
        self.get().limitOption == pg_sys::LimitOption::LIMIT_OPTION_WITH_TIES
    }

    /// LIMIT, whatever it is.
    pub fn limit_count(&self) -> Option<Expr<'q>> {
        self.flatten_opt(self.get().limitCount)
    }

    /// OFFSET, whatever it is.
    pub fn offset(&self) -> Option<Expr<'q>> {
        self.flatten_opt(self.get().limitOffset)
    }

    /// The grouping sets, expanded, each a list of sort-group numbers; none without GROUPING SETS, ROLLUP or CUBE.
    pub fn grouping_sets(&self) -> Option<Vec<Vec<u32>>> {
        let q = self.get();
        if q.groupingSets.is_null() {
            return None;
        }
        // SAFETY: the declaration is that of parse_agg.h; without a limit (-1) the function only builds lists.
        unsafe {
            let sets = pg_sys::ffi::pg_guard_ffi_boundary(|| expand_grouping_sets(q.groupingSets, q.groupDistinct, -1));
            Some(pointers::<pg_sys::List>(sets).map(|set| integers(set)).collect())
        }
    }

    /// WHERE.
    pub fn filter(&self) -> Option<Expr<'q>> {
        // SAFETY: a SELECT has a FromExpr as its join tree.
        unsafe { self.flatten_opt((*self.get().jointree).quals) }.map(|filter| filter.canonical())
    }

    /// HAVING.
    pub fn having(&self) -> Option<Expr<'q>> {
        self.flatten_opt(self.get().havingQual)
    }

    /// The types of its columns.
    pub fn result_types(&self) -> Vec<TypeRef> {
        self.targets().iter().filter(|target| !target.junk).map(|target| target.expr.ty()).collect()
    }

    /// Whether it refers to columns of a query around it.
    pub fn is_correlated(&self) -> bool {
        !self.outer_columns().is_empty()
    }

    /// The columns of queries around that it reads.
    pub fn outer_columns(&self) -> Vec<OuterColumn> {
        // SAFETY: walks the tree only.
        unsafe { outer_columns(self.as_node()) }
    }

    /// All relations of this query and of those inside it (views that the rewriter has expanded excepted).
    pub fn relations(&self) -> Vec<RelationEntry> {
        let mut found = Vec::new();
        for query in self.descendants() {
            for number in 1..=query.entries() {
                if let Entry::Relation(entry) = query.entry(number)
                    && entry.relkind != 'v'
                {
                    found.push(entry);
                }
            }
        }
        found
    }

    /// Whether it reads no table, so that its rows depend on nothing but the columns that it reads of queries around.
    pub fn reads_no_table(&self) -> bool {
        let mut free = true;
        // SAFETY: walks the tree only; the tag decides the struct.
        unsafe {
            walk(self.as_node(), &mut |node| {
                free &= match (*node).type_ {
                    pg_sys::NodeTag::T_Query => Query::new(node.cast()).has_no_table(),
                    // One that belongs to a query around is computed there.
                    pg_sys::NodeTag::T_Aggref => (*node.cast::<pg_sys::Aggref>()).agglevelsup == 0,
                    pg_sys::NodeTag::T_GroupingFunc => (*node.cast::<pg_sys::GroupingFunc>()).agglevelsup == 0,
                    _ => true,
                };
                if free { Walk::Into } else { Walk::Stop }
            });
        }
        free
    }

    fn has_no_table(&self) -> bool {
        let computed = |number| {
            matches!(
                self.entry(number),
                Entry::Subquery { .. } | Entry::Values { .. } | Entry::Functions(_) | Entry::Result | Entry::Other
            )
        };
        self.is_select() && !self.features().locking && (1..=self.entries()).all(computed)
    }

    /// The query as an expression, which is only good for being printed.
    pub fn as_expr(&self) -> Expr<'q> {
        // SAFETY: allocates a node in the scratch context, which lives as long as the query.
        unsafe {
            let sublink = pg_sys::palloc0(size_of::<pg_sys::SubLink>()).cast::<pg_sys::SubLink>();
            (*sublink).xpr.type_ = pg_sys::NodeTag::T_SubLink;
            (*sublink).subLinkType = pg_sys::SubLinkType::EXPR_SUBLINK;
            (*sublink).subselect = self.as_node();
            (*sublink).location = -1;
            Expr::new(sublink.cast())
        }
    }

    /// This query and all queries in it: subqueries, CTEs, sublinks.
    pub fn descendants(&self) -> Vec<Query<'q>> {
        let mut all = Vec::new();
        // SAFETY: walks the tree only; every Query node met lives as long as this one.
        unsafe {
            walk(self.as_node(), &mut |node| {
                if (*node).type_ == pg_sys::NodeTag::T_Query {
                    all.push(Query::new(node.cast()));
                }
                Walk::Into
            });
        }
        all
    }

    /// The queries right inside it.
    pub(crate) fn children(&self) -> Vec<Query<'q>> {
        let mut found = Vec::new();
        // SAFETY: as above.
        unsafe {
            walk(self.as_node(), &mut |node| {
                if (*node).type_ != pg_sys::NodeTag::T_Query || node == self.as_node() {
                    return Walk::Into;
                }
                found.push(Query::new(node.cast()));
                Walk::Past
            });
        }
        found
    }

    pub(crate) fn flatten_opt(&self, node: *mut pg_sys::Node) -> Option<Expr<'q>> {
        // SAFETY: callers pass expressions of this query.
        (!node.is_null()).then(|| unsafe { self.flatten(node) })
    }

    /// The expression over the columns of base entries: PostgreSQL 18's group columns and join aliases replaced.
    ///
    /// # Safety
    /// `node` is an expression of this query.
    pub(crate) unsafe fn flatten(&self, node: *mut pg_sys::Node) -> Expr<'q> {
        // SAFETY: both functions copy what they change.
        unsafe { Expr::new(flatten_joins(self.raw, flatten_groups(self.raw, node))) }
    }
}

/// # Safety
/// `clauses` is null or holds SortGroupClause nodes.
pub(crate) unsafe fn sort_keys(clauses: *mut pg_sys::List) -> Vec<SortKey> {
    // SAFETY: as the caller says.
    unsafe {
        pointers::<pg_sys::SortGroupClause>(clauses)
            .map(|clause| SortKey {
                sort_group: (*clause).tleSortGroupRef,
                operator: (*clause).sortop,
                nulls_first: (*clause).nulls_first,
            })
            .collect()
    }
}

/// The value of a constant expression of type bigint: none if it is no constant, `Some(None)` if it is NULL or missing.
///
/// # Safety
/// `expr` is null or such an expression.
unsafe fn constant(expr: *mut pg_sys::Node) -> Option<Option<i64>> {
    if expr.is_null() {
        return Some(None);
    }
    // SAFETY: folding copies; the tag decides the struct; bigint is passed by value.
    unsafe {
        let folded = pg_sys::eval_const_expressions(std::ptr::null_mut(), expr);
        let constant = folded.cast::<pg_sys::Const>();
        let known = (*folded).type_ == pg_sys::NodeTag::T_Const;
        known.then(|| (!(*constant).constisnull).then(|| (*constant).constvalue.value() as i64))
    }
}

/// Raises PostgreSQL's error before a deeply nested query exhausts the stack.
pub fn check_depth() {
    // SAFETY: compares the stack pointer with the limit.
    unsafe { pg_sys::check_stack_depth() }
}

#[cfg(feature = "pg18")]
pub(crate) unsafe fn flatten_groups(query: *mut pg_sys::Query, node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: without a planner root the function only replaces Vars of the group entry, in a copy.
    unsafe { if (*query).hasGroupRTE { pg_sys::flatten_group_exprs(std::ptr::null_mut(), query, node) } else { node } }
}

#[cfg(not(feature = "pg18"))]
pub(crate) unsafe fn flatten_groups(_: *mut pg_sys::Query, node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    node
}

/// Columns of joins replaced by what they are made of, unless the row of a join is among them: of that only its own node knows the
/// names of its columns, and whether an outer join has made it NULL.
unsafe fn flatten_joins(query: *mut pg_sys::Query, node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: replaces Vars of join entries in a copy; a null root is what the parser itself passes. Entries are numbered from 1.
    unsafe {
        let entries: Vec<*mut pg_sys::RangeTblEntry> = pointers((*query).rtable).collect();
        let mut vars = pointers::<pg_sys::Var>(pg_sys::pull_vars_of_level(node, 0));
        let is_join = |number: usize| (*entries[number - 1]).rtekind == pg_sys::RTEKind::RTE_JOIN;
        if vars.any(|var| (*var).varattno == 0 && is_join((*var).varno as usize)) {
            return node;
        }
        #[cfg(feature = "pg15")]
        return pg_sys::flatten_join_alias_vars(query, node);
        #[cfg(not(feature = "pg15"))]
        pg_sys::flatten_join_alias_vars(std::ptr::null_mut(), query, node)
    }
}

unsafe extern "C-unwind" {
    fn expand_grouping_sets(sets: *mut pg_sys::List, distinct: bool, limit: std::ffi::c_int) -> *mut pg_sys::List;
}
