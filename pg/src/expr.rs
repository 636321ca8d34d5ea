//! Expressions of an analysed query.

use crate::nodes::{integers, pointers, walk};
use crate::query::{Query, Scratch, SortKey, sort_keys};
use crate::types::TypeRef;
use pgrx::pg_sys;
use std::marker::PhantomData;

pub use crate::holes::{Hole, column};
pub use crate::nodes::Walk;
pub use crate::window::WindowCall;

/// An expression of a query.
#[derive(Clone, Copy)]
pub struct Expr<'q> {
    node: *mut pg_sys::Node,
    scratch: PhantomData<&'q Scratch>,
}

/// How far up a column reference is looked for; deeper ones are found to be unknown columns later.
const MAX_LEVELS: i32 = 12;

/// A column of a query around: how many levels up (at least one), of which range table entry, which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OuterColumn {
    pub levels_up: u32,
    pub entry: usize,
    pub column: i16,
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
    Window(WindowCall<'q>),
    /// `ROW(…)`
    Row(Vec<Expr<'q>>),
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
        /// The one that it compares by.
        collation: pg_sys::Oid,
        args: Vec<Expr<'q>>,
    },
    Function {
        function: pg_sys::Oid,
        args: Vec<Expr<'q>>,
        returns_set: bool,
    },
    /// A column of a row value.
    Field(Expr<'q>),
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

    /// Whether both are the same call of the same tree.
    pub fn is(&self, other: Aggregate<'_>) -> bool {
        std::ptr::eq(self.raw, other.raw)
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

    /// ORDER BY inside: what it sorts by, and how.
    pub fn order_by(&self) -> Vec<(Expr<'q>, SortKey)> {
        // SAFETY: sort clauses refer to the call's own targets.
        unsafe {
            let call = self.get();
            let of = |key: &SortKey| Expr::new((*pg_sys::get_sortgroupref_tle(key.sort_group, call.args)).expr.cast());
            sort_keys(call.aggorder).into_iter().map(|key| (of(&key), key)).collect()
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
                #[cfg(not(feature = "pg15"))]
                pg_sys::NodeTag::T_JsonConstructorExpr => match self.cast::<pg_sys::JsonConstructorExpr>().func {
                    // JSON_ARRAYAGG and JSON_OBJECTAGG, which are printed as such.
                    func if !func.is_null() && (*func).type_ == pg_sys::NodeTag::T_Aggref => {
                        Shape::Aggregate(Aggregate { raw: func.cast(), scratch: PhantomData })
                    }
                    _ => Shape::Other,
                },
                pg_sys::NodeTag::T_GroupingFunc => Shape::Grouping(integers(self.cast::<pg_sys::GroupingFunc>().refs)),
                pg_sys::NodeTag::T_WindowFunc => Shape::Window(WindowCall::new(self.node.cast())),
                pg_sys::NodeTag::T_RowExpr => Shape::Row(args(self.cast::<pg_sys::RowExpr>().args)),
                pg_sys::NodeTag::T_SubLink => Shape::Sublink(Sublink { raw: self.node.cast(), scratch: PhantomData }),
                pg_sys::NodeTag::T_BoolExpr => {
                    let bool_expr = self.cast::<pg_sys::BoolExpr>();
                    let mut args = args(bool_expr.args);
                    match bool_expr.boolop {
                        pg_sys::BoolExprType::AND_EXPR => Shape::And(args),
                        pg_sys::BoolExprType::OR_EXPR => Shape::Or(args),
                        _ => Shape::Not(args.remove(0)),
                    }
                }
                pg_sys::NodeTag::T_NullTest | pg_sys::NodeTag::T_BooleanTest | pg_sys::NodeTag::T_DistinctExpr => {
                    Shape::Test
                }
                pg_sys::NodeTag::T_CoalesceExpr => Shape::Coalesce(args(self.cast::<pg_sys::CoalesceExpr>().args)),
                pg_sys::NodeTag::T_RelabelType => {
                    Shape::Relabel(Expr::new(self.cast::<pg_sys::RelabelType>().arg.cast()))
                }
                pg_sys::NodeTag::T_OpExpr => {
                    let op = self.cast::<pg_sys::OpExpr>();
                    match op.opretset {
                        true => Shape::Function { function: op.opfuncid, args: args(op.args), returns_set: true },
                        false => Shape::Operator {
                            operator: op.opno,
                            function: op.opfuncid,
                            collation: op.inputcollid,
                            args: args(op.args),
                        },
                    }
                }
                pg_sys::NodeTag::T_FuncExpr => {
                    let call = self.cast::<pg_sys::FuncExpr>();
                    Shape::Function { function: call.funcid, args: args(call.args), returns_set: call.funcretset }
                }
                pg_sys::NodeTag::T_FieldSelect => {
                    Shape::Field(Expr::new(self.cast::<pg_sys::FieldSelect>().arg.cast()))
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

    /// The same condition of a WHERE, with what the branches of an OR have in common taken out of it: (a ∧ b) ∨ (a ∧ c) is
    /// a ∧ (b ∨ c).
    pub fn canonical(&self) -> Expr<'q> {
        // SAFETY: makes new nodes where it changes something, in the current context, which is the scratch context.
        unsafe {
            let found = pg_sys::canonicalize_qual(self.node.cast(), false);
            if found.is_null() { *self } else { Expr::new(found.cast()) }
        }
    }

    /// What an OR says of one entry alone, if each branch says something of it: (a ∧ b) ∨ (c ∧ d) implies a ∨ c. Only comparisons
    /// with constants are taken: they are evaluated for more rows than in the OR.
    pub fn implied(&self, of: usize) -> Option<Expr<'q>> {
        let Shape::Or(branches) = self.shape() else { return None };
        let says = |term: &Expr<'q>| term.is_compared_column() && term.columns().iter().all(|(entry, _)| *entry == of);
        let branches = branches.iter().map(|branch| {
            let mut terms = branch.conjuncts();
            terms.retain(says);
            (!terms.is_empty()).then_some(terms)
        });
        let branches = branches.collect::<Option<Vec<_>>>()?;
        // SAFETY: makes new nodes above those of this tree, in the current context, which is the scratch context.
        unsafe {
            let list = |nodes: &mut dyn Iterator<Item = *mut pg_sys::Node>| {
                nodes.fold(std::ptr::null_mut(), |list, node| pg_sys::lappend(list, node.cast()))
            };
            let all = |terms: &Vec<Expr<'q>>| match terms.as_slice() {
                [only] => only.node,
                terms => pg_sys::make_andclause(list(&mut terms.iter().map(|term| term.node))).cast(),
            };
            Some(Expr::new(pg_sys::make_orclause(list(&mut branches.iter().map(all))).cast()))
        }
    }

    /// Whether it is an operator over a column and a constant.
    fn is_compared_column(&self) -> bool {
        let Shape::Operator { args, .. } = self.shape() else { return false };
        let is_column = |expr: &Expr<'q>| match expr.shape() {
            Shape::Relabel(inner) => matches!(inner.shape(), Shape::Column { levels_up: 0, .. }),
            shape => matches!(shape, Shape::Column { levels_up: 0, .. }),
        };
        let is_constant = |expr: &Expr<'q>| matches!(expr.shape(), Shape::Constant { .. });
        args.len() == 2 && args.iter().any(is_column) && args.iter().any(is_constant)
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

    /// The expression converted as a branch of a set operation is.
    pub fn coerced(&self, to: TypeRef) -> Expr<'q> {
        // SAFETY: without a parse state the function only builds nodes, or raises the parser's error.
        unsafe {
            Expr::new(pg_sys::coerce_to_common_type(std::ptr::null_mut(), self.node, to.oid, c"set operation".as_ptr()))
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
