//! Expressions of an analysed query.

use crate::query::{Query, Scratch, integers, pointers};
use crate::types::TypeRef;
use pgrx::pg_sys;
use std::ffi::c_void;
use std::marker::PhantomData;

/// An expression of a query.
#[derive(Clone, Copy)]
pub struct Expr<'q> {
    node: *mut pg_sys::Node,
    scratch: PhantomData<&'q Scratch>,
}

/// How far up a column reference is looked for; deeper ones are found to be unknown columns later.
const MAX_LEVELS: i32 = 4;

/// What an expression is replaced by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hole {
    /// Column `position` (from 0) of the only range table entry.
    Column(usize),
    /// NULL of its type.
    Null,
    /// The bigint 0.
    Zero,
}

/// A column of a query around: how many levels up (at least one), of which range table entry, which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OuterColumn {
    pub levels_up: u32,
    pub entry: usize,
    pub column: i16,
}

/// How a walk goes on from the node just seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// Into its children.
    Into,
    /// Past its children.
    Past,
    /// No further.
    Stop,
}

/// What an expression is, as far as anybody asks.
pub enum Shape<'q> {
    /// A column: of the range table entry `entry`, so many query levels up. Column 0 is the whole row, negative ones
    /// are system columns.
    Column {
        levels_up: u32,
        entry: usize,
        column: i16,
    },
    Constant {
        null: bool,
    },
    Parameter,
    Aggregate(Aggregate<'q>),
    /// `grouping(…)` over these keys, by their sort-group numbers.
    Grouping(Vec<u32>),
    Window,
    Sublink(Sublink<'q>),
    And(Vec<Expr<'q>>),
    Or(Vec<Expr<'q>>),
    Not(Expr<'q>),
    /// `IS [NOT] NULL`, `IS TRUE`..., `IS DISTINCT FROM`: never null themselves.
    Test,
    /// COALESCE.
    Coalesce(Vec<Expr<'q>>),
    /// A change of type that leaves the value as it is.
    Relabel(Expr<'q>),
    /// A binary or unary operator.
    Operator {
        operator: pg_sys::Oid,
        function: pg_sys::Oid,
        args: Vec<Expr<'q>>,
    },
    Function {
        function: pg_sys::Oid,
        args: Vec<Expr<'q>>,
        returns_set: bool,
    },
    /// CURRENT_DATE, CURRENT_USER and their like.
    SessionValue,
    /// nextval behind an identity column.
    NextValue,
    Other,
}

/// An aggregate call.
#[derive(Clone, Copy)]
pub struct Aggregate<'q> {
    raw: *mut pg_sys::Aggref,
    scratch: PhantomData<&'q Scratch>,
}

impl<'q> Aggregate<'q> {
    fn get(&self) -> &pg_sys::Aggref {
        // SAFETY: made only from a live Aggref by `Expr::shape`.
        unsafe { &*self.raw }
    }

    /// The aggregate function.
    pub fn function(&self) -> pg_sys::Oid {
        self.get().aggfnoid
    }

    /// Which query level it belongs to; 0 is the one that it stands in.
    pub fn levels_up(&self) -> u32 {
        self.get().agglevelsup
    }

    /// `count(*)`.
    pub fn star(&self) -> bool {
        self.get().aggstar
    }

    /// DISTINCT inside.
    pub fn distinct(&self) -> bool {
        !self.get().aggdistinct.is_null()
    }

    /// ORDER BY inside.
    pub fn ordered(&self) -> bool {
        !self.get().aggorder.is_null()
    }

    /// Neither ordered-set nor hypothetical-set.
    pub fn plain(&self) -> bool {
        self.get().aggkind as u8 == b'n'
    }

    /// The aggregated arguments, sort keys left out.
    pub fn args(&self) -> Vec<Expr<'q>> {
        // SAFETY: args holds TargetEntry nodes.
        unsafe {
            pointers::<pg_sys::TargetEntry>(self.get().args)
                .filter(|entry| !(**entry).resjunk)
                .map(|entry| Expr::new((*entry).expr.cast()))
                .collect()
        }
    }

    /// FILTER.
    pub fn filter(&self) -> Option<Expr<'q>> {
        let filter = self.get().aggfilter;
        // SAFETY: a live expression of the same tree.
        (!filter.is_null()).then(|| unsafe { Expr::new(filter.cast()) })
    }
}

/// The kinds of subquery in an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SublinkKind {
    Exists,
    All,
    Any,
    RowCompare,
    Scalar,
    Array,
    Other,
}

/// A subquery in an expression.
#[derive(Clone, Copy)]
pub struct Sublink<'q> {
    raw: *mut pg_sys::SubLink,
    scratch: PhantomData<&'q Scratch>,
}

impl<'q> Sublink<'q> {
    /// Which kind it is.
    pub fn kind(&self) -> SublinkKind {
        // SAFETY: made only from a live SubLink by `Expr::shape`.
        match unsafe { (*self.raw).subLinkType } {
            pg_sys::SubLinkType::EXISTS_SUBLINK => SublinkKind::Exists,
            pg_sys::SubLinkType::ALL_SUBLINK => SublinkKind::All,
            pg_sys::SubLinkType::ANY_SUBLINK => SublinkKind::Any,
            pg_sys::SubLinkType::ROWCOMPARE_SUBLINK => SublinkKind::RowCompare,
            pg_sys::SubLinkType::EXPR_SUBLINK => SublinkKind::Scalar,
            pg_sys::SubLinkType::ARRAY_SUBLINK => SublinkKind::Array,
            _ => SublinkKind::Other,
        }
    }

    /// The subquery.
    pub fn query(&self) -> Query<'q> {
        // SAFETY: in an analysed query the subselect is a Query.
        unsafe { Query::new((*self.raw).subselect.cast()) }
    }

    /// What ANY and ALL test: an expression in which the subquery's columns appear as [`Expr::sublink_column`].
    pub fn test(&self) -> Option<Expr<'q>> {
        // SAFETY: null or a live expression.
        unsafe { (!(*self.raw).testexpr.is_null()).then(|| Expr::new((*self.raw).testexpr)) }
    }
}

impl<'q> Expr<'q> {
    /// # Safety
    /// `node` is not null and lives in the scratch context.
    pub(crate) unsafe fn new(node: *mut pg_sys::Node) -> Self {
        Expr { node, scratch: PhantomData }
    }

    pub(crate) fn node(&self) -> *mut pg_sys::Node {
        self.node
    }

    /// # Safety
    /// The node is a `T`.
    unsafe fn cast<T>(&self) -> &T {
        // SAFETY: as the caller says; the node outlives self.
        unsafe { &*self.node.cast::<T>() }
    }

    /// What it is.
    pub fn shape(&self) -> Shape<'q> {
        // SAFETY: the tag decides the struct, and lists of arguments hold expressions.
        unsafe {
            let args = |list| pointers(list).map(|n| Expr::new(n)).collect::<Vec<_>>();
            match (*self.node).type_ {
                pg_sys::NodeTag::T_Var => {
                    let var = self.cast::<pg_sys::Var>();
                    Shape::Column { levels_up: var.varlevelsup, entry: var.varno as usize, column: var.varattno }
                }
                pg_sys::NodeTag::T_Const => Shape::Constant { null: self.cast::<pg_sys::Const>().constisnull },
                pg_sys::NodeTag::T_Param => Shape::Parameter,
                pg_sys::NodeTag::T_Aggref => {
                    Shape::Aggregate(Aggregate { raw: self.node.cast(), scratch: PhantomData })
                }
                pg_sys::NodeTag::T_GroupingFunc => Shape::Grouping(integers(self.cast::<pg_sys::GroupingFunc>().refs)),
                pg_sys::NodeTag::T_WindowFunc => Shape::Window,
                pg_sys::NodeTag::T_SubLink => {
                    Shape::Sublink(Sublink { raw: self.node.cast(), scratch: PhantomData })
                }
                pg_sys::NodeTag::T_BoolExpr => {
                    let bool_expr = self.cast::<pg_sys::BoolExpr>();
                    let mut args = args(bool_expr.args);
                    match bool_expr.boolop {
                        pg_sys::BoolExprType::AND_EXPR => Shape::And(args),
                        pg_sys::BoolExprType::OR_EXPR => Shape::Or(args),
                        _ => Shape::Not(args.remove(0)),
                    }
                }
                pg_sys::NodeTag::T_NullTest
                | pg_sys::NodeTag::T_BooleanTest
                | pg_sys::NodeTag::T_DistinctExpr => Shape::Test,
                pg_sys::NodeTag::T_CoalesceExpr => Shape::Coalesce(args(self.cast::<pg_sys::CoalesceExpr>().args)),
                pg_sys::NodeTag::T_RelabelType => {
                    Shape::Relabel(Expr::new(self.cast::<pg_sys::RelabelType>().arg.cast()))
                }
                pg_sys::NodeTag::T_OpExpr => {
                    let op = self.cast::<pg_sys::OpExpr>();
                    Shape::Operator { operator: op.opno, function: op.opfuncid, args: args(op.args) }
                }
                pg_sys::NodeTag::T_FuncExpr => {
                    let call = self.cast::<pg_sys::FuncExpr>();
                    Shape::Function { function: call.funcid, args: args(call.args), returns_set: call.funcretset }
                }
                pg_sys::NodeTag::T_SQLValueFunction => Shape::SessionValue,
                pg_sys::NodeTag::T_NextValueExpr => Shape::NextValue,
                _ => Shape::Other,
            }
        }
    }

    /// For a test of ANY or ALL: which column of the subquery this stands for, from 0.
    pub fn sublink_column(&self) -> Option<usize> {
        // SAFETY: the tag decides the struct.
        unsafe {
            if (*self.node).type_ != pg_sys::NodeTag::T_Param {
                return None;
            }
            let param = self.cast::<pg_sys::Param>();
            (param.paramkind == pg_sys::ParamKind::PARAM_SUBLINK).then(|| param.paramid as usize - 1)
        }
    }

    /// Its type, typmod and collation.
    pub fn ty(&self) -> TypeRef {
        // SAFETY: the three functions accept any expression node.
        unsafe {
            TypeRef {
                oid: pg_sys::exprType(self.node),
                typmod: pg_sys::exprTypmod(self.node),
                collation: pg_sys::exprCollation(self.node),
            }
        }
    }

    /// Equality of the trees, as PostgreSQL decides whether an expression is a grouping key.
    pub fn equals(&self, other: Expr<'_>) -> bool {
        // SAFETY: reads both trees.
        unsafe { pg_sys::equal(self.node.cast(), other.node.cast()) }
    }

    /// The terms of a conjunction.
    pub fn conjuncts(&self) -> Vec<Expr<'q>> {
        match self.shape() {
            Shape::And(terms) => terms.iter().flat_map(|term| term.conjuncts()).collect(),
            _ => vec![*self],
        }
    }

    /// The columns of its own query level that it reads, in subqueries too: entry and attribute number.
    pub fn columns(&self) -> Vec<(usize, i16)> {
        // SAFETY: the list holds Var nodes of the tree.
        unsafe {
            let vars = pointers::<pg_sys::Var>(pg_sys::pull_vars_of_level(self.node, 0));
            vars.map(|var| ((*var).varno as usize, (*var).varattno)).collect()
        }
    }

    /// Whether it reads columns of a query around its own.
    pub fn reads_outer(&self) -> bool {
        // SAFETY: walks the tree only.
        (1..=MAX_LEVELS).any(|level| unsafe { pg_sys::contain_vars_of_level(self.node, level) })
    }

    /// The columns of queries around that it reads.
    pub fn outer_columns(&self) -> Vec<OuterColumn> {
        // SAFETY: walks the tree only.
        unsafe { outer_columns(self.node) }
    }

    /// Whether both are the same node of the same tree.
    pub fn is(&self, other: Expr<'_>) -> bool {
        std::ptr::eq(self.node, other.node)
    }

    /// Visits this and every expression inside it, but nothing inside a subquery.
    pub fn visit(&self, see: &mut dyn FnMut(Expr<'q>) -> Walk) {
        // SAFETY: walks the tree only; nodes met live as long as this one.
        unsafe {
            walk(self.node, &mut |node| {
                if (*node).type_ == pg_sys::NodeTag::T_Query { Walk::Past } else { see(Expr::new(node)) }
            });
        }
    }

    /// Whether `test` holds for this or for an expression inside it, subqueries excepted.
    pub fn any(&self, test: &mut dyn FnMut(Expr<'q>) -> bool) -> bool {
        let mut found = false;
        self.visit(&mut |expr| {
            found |= test(expr);
            if found { Walk::Stop } else { Walk::Into }
        });
        found
    }

    /// A copy in which every outermost expression that `position` knows has become column `position` (from 0) of the
    /// only range table entry. Other expressions stay as they are.
    pub fn with_holes(&self, position: &mut dyn FnMut(Expr<'q>) -> Option<usize>) -> Expr<'q> {
        self.with_parts(&mut |expr| position(expr).map(Hole::Column))
    }

    /// The same, with constants as well.
    pub fn with_parts(&self, part: &mut dyn FnMut(Expr<'q>) -> Option<Hole>) -> Expr<'q> {
        let mut holes = Holes { part };
        // SAFETY: `mutate` gets back the pointer to `holes`, which outlives the call.
        unsafe { Expr::new(mutate(self.node, (&raw mut holes).cast())) }
    }

    /// The expression converted as a branch of a set operation is.
    pub fn coerced(&self, to: TypeRef) -> Expr<'q> {
        // SAFETY: without a parse state the function only builds nodes, or raises the parser's error.
        unsafe {
            Expr::new(pg_sys::coerce_to_common_type(
                std::ptr::null_mut(),
                self.node,
                to.oid,
                c"set operation".as_ptr(),
            ))
        }
    }
}

/// The columns of queries around that a query (or an expression) reads, each once, ascending.
///
/// # Safety
/// `node` is a live query or expression.
pub(crate) unsafe fn outer_columns(node: *mut pg_sys::Node) -> Vec<OuterColumn> {
    let mut found = Vec::new();
    for level in 1..=MAX_LEVELS {
        // SAFETY: the list holds Var nodes of the tree.
        let vars = unsafe { pointers::<pg_sys::Var>(pg_sys::pull_vars_of_level(node, level)) };
        found.extend(vars.map(|var| {
            // SAFETY: as above.
            let (entry, column) = unsafe { ((*var).varno as usize, (*var).varattno) };
            OuterColumn { levels_up: level as u32, entry, column }
        }));
    }
    found.sort();
    found.dedup();
    found
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
}

/// Replaces holes; PostgreSQL's mutator copies all that is around them.
///
/// # Safety
/// `cx` points to a [`Holes`].
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn mutate(node: *mut pg_sys::Node, cx: *mut c_void) -> *mut pg_sys::Node {
    // SAFETY: called by `with_holes` and by PostgreSQL on the children, with the same pointer.
    unsafe {
        if node.is_null() || (*node).type_ == pg_sys::NodeTag::T_Query {
            return node;
        }
        let holes = &mut *cx.cast::<Holes<'_, '_>>();
        if is_expression(node)
            && let Some(hole) = (holes.part)(Expr::new(node))
        {
            return fill(node, hole);
        }
        mutate_children(node, cx)
    }
}

/// What stands in place of `node`.
unsafe fn fill(node: *mut pg_sys::Node, with: Hole) -> *mut pg_sys::Node {
    // SAFETY: reads the node, allocates another in the same context.
    unsafe {
        let ty = Expr::new(node).ty();
        match with {
            Hole::Column(position) => explicitly_collated(node, hole(position, ty)),
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
            && Expr::new(original).any(&mut |e| (*e.node).type_ == pg_sys::NodeTag::T_CollateExpr);
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

/// Visits `node` and all below it, subqueries included.
///
/// # Safety
/// `node` is a live query or expression tree, or null.
pub(crate) unsafe fn walk(node: *mut pg_sys::Node, see: &mut dyn FnMut(*mut pg_sys::Node) -> Walk) {
    let mut visit = Visit { see };
    // SAFETY: `step` gets back the pointer to `visit`, which outlives the call.
    unsafe { step(node, (&raw mut visit).cast()) };
}

struct Visit<'a> {
    see: &'a mut dyn FnMut(*mut pg_sys::Node) -> Walk,
}

/// # Safety
/// `cx` points to a [`Visit`].
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn step(node: *mut pg_sys::Node, cx: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: called by `walk` and by PostgreSQL on the children, with the same pointer.
    unsafe {
        match ((*cx.cast::<Visit<'_>>()).see)(node) {
            Walk::Stop => true,
            Walk::Past => false,
            Walk::Into if (*node).type_ == pg_sys::NodeTag::T_Query => {
                let flags = pg_sys::QTW_IGNORE_JOINALIASES as i32;
                pg_sys::query_tree_walker(node.cast(), Some(step), cx, flags)
            }
            Walk::Into => pg_sys::expression_tree_walker(node, Some(step), cx),
        }
    }
}
