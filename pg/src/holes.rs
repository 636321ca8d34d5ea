//! Expressions in which parts are replaced by numbered columns.

use crate::expr::Expr;
use crate::nodes::copy;
use crate::query::Scratch;
use crate::types::TypeRef;
use pgrx::pg_sys;
use std::ffi::c_void;

/// What an expression is replaced by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hole {
    /// Column `position` (from 0) of the only range table entry.
    Column(usize),
    /// NULL of its type.
    Null,
    /// The bigint 0.
    Zero,
    /// A copy of this.
    Node(*mut pg_sys::Node),
    /// Itself, untouched.
    Same,
}

impl<'q> Expr<'q> {
    /// A copy in which every outermost expression that `position` knows has become column `position` (from 0) of the
    /// only range table entry. Other expressions stay as they are. Of a subquery, only the columns that it reads of the
    /// row outside are asked for, as that row's own.
    pub fn with_holes(&self, position: &mut dyn FnMut(Expr<'q>) -> Option<usize>) -> Expr<'q> {
        self.with_parts(&mut |expr| position(expr).map(Hole::Column))
    }

    /// The same, with constants as well.
    pub fn with_parts(&self, part: &mut dyn FnMut(Expr<'q>) -> Option<Hole>) -> Expr<'q> {
        let mut holes = Holes { part, depth: 0, into_queries: true };
        // SAFETY: `mutate` gets back the pointer to `holes`, which outlives the call.
        unsafe { Expr::new(mutate(self.node(), (&raw mut holes).cast())) }
    }

    /// The same with the very subqueries, not with copies.
    pub(crate) fn with_own_parts(&self, part: &mut dyn FnMut(Expr<'q>) -> Option<Hole>) -> Expr<'q> {
        let mut holes = Holes { part, depth: 0, into_queries: false };
        // SAFETY: as above.
        unsafe { Expr::new(mutate(self.node(), (&raw mut holes).cast())) }
    }
}

/// A column reference of the only range table entry, from 0.
pub fn column<'q>(_: &'q Scratch, position: usize, ty: TypeRef) -> Expr<'q> {
    // SAFETY: allocates in the scratch context, which is current as long as the scratch exists.
    unsafe { Expr::new(hole(position, ty).cast()) }
}

unsafe fn hole(position: usize, ty: TypeRef) -> *mut pg_sys::Var {
    // SAFETY: only allocates.
    unsafe { pg_sys::makeVar(1, position as i16 + 1, ty.oid, ty.typmod, ty.collation, 0) }
}

struct Holes<'a, 'q> {
    part: &'a mut dyn FnMut(Expr<'q>) -> Option<Hole>,
    /// How many queries are between here and the row.
    depth: u32,
    into_queries: bool,
}

/// Replaces holes; PostgreSQL's mutator copies all that is around them.
///
/// # Safety
/// `cx` points to a [`Holes`].
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn mutate(node: *mut pg_sys::Node, cx: *mut c_void) -> *mut pg_sys::Node {
    // SAFETY: called by `with_holes` and by PostgreSQL on the children, with the same pointer.
    unsafe {
        if node.is_null() {
            return node;
        }
        let holes = cx.cast::<Holes<'_, '_>>();
        if (*node).type_ == pg_sys::NodeTag::T_Query {
            if !(*holes).into_queries {
                return node;
            }
            (*holes).depth += 1;
            let query = mutate_query(node.cast(), cx);
            (*holes).depth -= 1;
            return query.cast();
        }
        let holes = &mut *holes;
        if holes.depth > 0 {
            return outer_column(node, holes).unwrap_or_else(|| mutate_children(node, cx));
        }
        if is_expression(node)
            && let Some(hole) = (holes.part)(Expr::new(node))
        {
            return fill(node, hole);
        }
        mutate_children(node, cx)
    }
}

/// What stands in a subquery in place of a column of the row outside.
unsafe fn outer_column(node: *mut pg_sys::Node, holes: &mut Holes<'_, '_>) -> Option<*mut pg_sys::Node> {
    // SAFETY: the tag decides the struct; the copy is made in the same context.
    unsafe {
        let var = node.cast::<pg_sys::Var>();
        if (*node).type_ != pg_sys::NodeTag::T_Var || (*var).varlevelsup < holes.depth {
            return None;
        }
        let outside = copy(var);
        (*outside).varlevelsup -= holes.depth;
        let Hole::Column(position) = (holes.part)(Expr::new(outside.cast()))? else { return None };
        let column = hole(position, Expr::new(node).ty());
        (*column).varlevelsup = holes.depth;
        Some(column.cast())
    }
}

/// What stands in place of `node`.
unsafe fn fill(node: *mut pg_sys::Node, with: Hole) -> *mut pg_sys::Node {
    // SAFETY: reads the node, allocates another in the same context.
    unsafe {
        let ty = Expr::new(node).ty();
        match with {
            Hole::Column(position) => explicitly_collated(node, hole(position, ty)),
            Hole::Node(other) => copy(other),
            Hole::Same => copy(node),
            Hole::Null => pg_sys::makeNullConst(ty.oid, ty.typmod, ty.collation).cast(),
            Hole::Zero => {
                let (ty, none, zero) = (pg_sys::INT8OID, pg_sys::InvalidOid, pg_sys::Datum::from(0_i64));
                pg_sys::makeConst(ty, -1, none, 8, zero, false, true).cast()
            }
        }
    }
}

#[cfg(feature = "pg15")]
unsafe fn mutate_children(node: *mut pg_sys::Node, cx: *mut c_void) -> *mut pg_sys::Node {
    type Bound = unsafe extern "C-unwind" fn() -> *mut pg_sys::Node;
    type Real = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> *mut pg_sys::Node;
    // SAFETY: the header of 15 declares the callback without arguments; it is called with these two.
    unsafe {
        let callback = std::mem::transmute::<Real, Bound>(mutate);
        pg_sys::expression_tree_mutator(node, Some(callback), cx)
    }
}

#[cfg(not(feature = "pg15"))]
unsafe fn mutate_children(node: *mut pg_sys::Node, cx: *mut c_void) -> *mut pg_sys::Node {
    // SAFETY: the callback hands `cx` on unchanged.
    unsafe { pg_sys::expression_tree_mutator_impl(node, Some(mutate), cx) }
}

#[cfg(feature = "pg15")]
unsafe fn mutate_query(query: *mut pg_sys::Query, cx: *mut c_void) -> *mut pg_sys::Query {
    type Bound = unsafe extern "C-unwind" fn() -> *mut pg_sys::Node;
    type Real = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> *mut pg_sys::Node;
    // SAFETY: as for the children of an expression.
    unsafe {
        let callback = std::mem::transmute::<Real, Bound>(mutate);
        pg_sys::query_tree_mutator(query, Some(callback), cx, 0)
    }
}

#[cfg(not(feature = "pg15"))]
unsafe fn mutate_query(query: *mut pg_sys::Query, cx: *mut c_void) -> *mut pg_sys::Query {
    // SAFETY: the callback hands `cx` on unchanged.
    unsafe { pg_sys::query_tree_mutator_impl(query, Some(mutate), cx, 0) }
}

/// Lists and target entries are nodes of the tree too, but no expressions.
unsafe fn is_expression(node: *mut pg_sys::Node) -> bool {
    // SAFETY: every node starts with its tag.
    !matches!(
        unsafe { (*node).type_ },
        pg_sys::NodeTag::T_List
            | pg_sys::NodeTag::T_IntList
            | pg_sys::NodeTag::T_OidList
            | pg_sys::NodeTag::T_TargetEntry
            | pg_sys::NodeTag::T_SortGroupClause
            | pg_sys::NodeTag::T_CaseWhen
    )
}

/// An expression with COLLATE in it decides the collation of the operator above; a bare column in its place would
/// not, so the hole gets the COLLATE clause.
unsafe fn explicitly_collated(original: *mut pg_sys::Node, var: *mut pg_sys::Var) -> *mut pg_sys::Node {
    // SAFETY: reads the original, allocates one node in the same context.
    unsafe {
        let explicit = (*var).varcollid != pg_sys::InvalidOid
            && Expr::new(original).any(&mut |e| (*e.node()).type_ == pg_sys::NodeTag::T_CollateExpr);
        if !explicit {
            return var.cast();
        }
        let collate = pg_sys::palloc0(size_of::<pg_sys::CollateExpr>()).cast::<pg_sys::CollateExpr>();
        (*collate).xpr.type_ = pg_sys::NodeTag::T_CollateExpr;
        (*collate).arg = var.cast();
        (*collate).collOid = (*var).varcollid;
        (*collate).location = -1;
        collate.cast()
    }
}
