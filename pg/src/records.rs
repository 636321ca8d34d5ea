//! Rows of no declared type in the columns of recursive queries, as SEARCH and CYCLE make them, become text.
//!
//! No table can have a column of type `record` or `record[]`, so what a recursion keeps would have to be computed anew each
//! time. Where all that is done with such rows is to collect them, to look for one among them, to count and to print them,
//! their text serves as well: it is the same for two rows exactly if they are equal, as long as that holds for each column.
//!
//! | PostgreSQL's rewriting of SEARCH and CYCLE | becomes |
//! |---|---|
//! | `ARRAY[ROW(x, y)]`, `path \|\| ARRAY[ROW(x, y)]` | `ARRAY[ROW(x, y)::text]`, `path \|\| …` |
//! | `ROW(x, y) = ANY (path)` | `ROW(x, y)::text = ANY (path)` |
//! | `ROW(depth, x)`, `seq.depth` | `ROW(depth, x)::text`, the number in front of it |
//!
//! An order of rows is not the order of their texts: a query that needs one is left as it is.

use crate::expr::Expr;
use crate::nodes::{Walk, length, pointers, walk};
use crate::query::Query;
use crate::types::{TypeEquality, builtin_name, equality_of};
use pgrx::pg_sys;

const RECORD_EQ: u32 = 2988;
const SPLIT_PART: u32 = 2088;
const TEXT_EQ: u32 = 98;
const DEFAULT_COLLATION: u32 = 100;

/// Functions of an array for which only the number of its elements matters.
const COUNTING: [&str; 4] = ["array_length", "array_upper", "array_ndims", "cardinality"];

/// Changes a rewritten query in place, or leaves it alone.
///
/// # Safety
/// `query` is a tree of the scratch context that nobody else uses yet.
pub(crate) unsafe fn as_text(query: *mut pg_sys::Query) {
    // SAFETY: as the caller says; the second pass changes only what the first has recognised.
    unsafe {
        let all: Vec<*mut pg_sys::Query> = Query::new(query).descendants().iter().map(|q| q.as_node().cast()).collect();
        let mut selected = pointers::<pg_sys::TargetEntry>((*query).targetList).filter(|target| !(**target).resjunk);
        if !all.iter().any(|query| ctes(*query).any(|cte| has_rows((*cte).ctecoltypes)))
            || selected.any(|target| is_row_typed((*target).expr.cast()))
        {
            return;
        }
        let mut uses = Uses { rows: Vec::new(), understood: !all.iter().any(|query| orders_rows(*query)) };
        all.iter().for_each(|query| uses.note_columns(*query));
        walk(query.cast(), &mut |node| {
            uses.note(node);
            if uses.understood { Walk::Into } else { Walk::Stop }
        });
        if !uses.understood || !uses.rows.iter().all(|row| is_told_by_text(*row)) {
            return;
        }
        uses.rows.iter().for_each(|row| replace(*row));
        walk(query.cast(), &mut |node| {
            retype(node);
            Walk::Into
        });
        all.iter().for_each(|query| retype_columns(*query));
    }
}

/// Where rows are, as pointers to what points to them, and whether all that is done with them is understood.
struct Uses {
    rows: Vec<*mut *mut pg_sys::Node>,
    understood: bool,
}

impl Uses {
    /// The columns of recursive queries that are rows.
    unsafe fn note_columns(&mut self, query: *mut pg_sys::Query) {
        // SAFETY: reads lists of nodes of the tree; the branches of a recursive query are subqueries of its range table.
        unsafe {
            for cte in ctes(query).filter(|cte| has_rows((**cte).ctecoltypes)) {
                let union = (*cte).ctequery.cast::<pg_sys::Query>();
                for branch in
                    pointers::<pg_sys::RangeTblEntry>((*union).rtable).filter(|rte| !(**rte).subquery.is_null())
                {
                    for target in pointers::<pg_sys::TargetEntry>((*(*branch).subquery).targetList) {
                        if !(*target).resjunk && is_row((*target).expr.cast()) {
                            self.rows.push((&raw mut (*target).expr).cast());
                        }
                    }
                }
            }
        }
    }

    /// Looks at what an expression does with rows right beneath it.
    unsafe fn note(&mut self, node: *mut pg_sys::Node) {
        // SAFETY: the tag decides the struct.
        unsafe {
            match (*node).type_ {
                pg_sys::NodeTag::T_ArrayExpr
                    if (*node.cast::<pg_sys::ArrayExpr>()).array_typeid == pg_sys::RECORDARRAYOID =>
                {
                    self.note_rows((*node.cast::<pg_sys::ArrayExpr>()).elements);
                }
                pg_sys::NodeTag::T_ScalarArrayOpExpr => {
                    let test = node.cast::<pg_sys::ScalarArrayOpExpr>();
                    if (*test).opno == pg_sys::Oid::from(RECORD_EQ) {
                        let list = (*test).args;
                        let cell = (&raw mut (*(*list).elements).ptr_value).cast::<*mut pg_sys::Node>();
                        self.understood &= is_row(*cell);
                        self.rows.push(cell);
                    }
                }
                pg_sys::NodeTag::T_FuncExpr => {
                    let call = node.cast::<pg_sys::FuncExpr>();
                    let name = builtin_name((*call).funcid).unwrap_or_default();
                    let known = name == "array_cat" || COUNTING.contains(&name.as_str());
                    self.understood &= known || !has_row_typed((*call).args);
                }
                pg_sys::NodeTag::T_FieldSelect => {
                    let field = node.cast::<pg_sys::FieldSelect>();
                    let of_column = (*(*field).arg).type_ == pg_sys::NodeTag::T_Var && (*field).fieldnum == 1;
                    self.understood &= of_column || !is_row_typed((*field).arg.cast());
                }
                pg_sys::NodeTag::T_OpExpr => self.understood &= !has_row_typed((*node.cast::<pg_sys::OpExpr>()).args),
                // A column, a column's value in the select list, a test for NULL, a conversion to text.
                pg_sys::NodeTag::T_Var | pg_sys::NodeTag::T_TargetEntry | pg_sys::NodeTag::T_NullTest => {}
                pg_sys::NodeTag::T_CoerceViaIO => {}
                // No expressions.
                pg_sys::NodeTag::T_Query | pg_sys::NodeTag::T_CommonTableExpr => {}
                pg_sys::NodeTag::T_List | pg_sys::NodeTag::T_FromExpr => {}
                _ => self.understood &= !children_have_rows(node),
            }
        }
    }

    unsafe fn note_rows(&mut self, elements: *mut pg_sys::List) {
        // SAFETY: a list of expressions.
        unsafe {
            for i in 0..length(elements) {
                let cell = (&raw mut (*(*elements).elements.add(i)).ptr_value).cast::<*mut pg_sys::Node>();
                self.understood &= is_row(*cell);
                self.rows.push(cell);
            }
        }
    }
}

/// Whether the columns of a row are such that equal rows, and only these, print alike.
unsafe fn is_told_by_text(row: *mut *mut pg_sys::Node) -> bool {
    // SAFETY: points to a RowExpr.
    unsafe {
        pointers::<pg_sys::Node>((*(*row).cast::<pg_sys::RowExpr>()).args).all(|column| {
            let ty = Expr::new(column).ty();
            equality_of(ty) == TypeEquality::Image && crate::calls::prints_reliably(ty)
        })
    }
}

/// Puts a row's text in its place.
unsafe fn replace(row: *mut *mut pg_sys::Node) {
    // SAFETY: allocates a node; FieldSelect nodes in the row are replaced in its own list.
    unsafe {
        for argument in pointers::<pg_sys::Node>((*(*row).cast::<pg_sys::RowExpr>()).args) {
            if (*argument).type_ == pg_sys::NodeTag::T_FuncExpr {
                let list = (*argument.cast::<pg_sys::FuncExpr>()).args;
                for i in 0..length(list) {
                    let cell = (&raw mut (*(*list).elements.add(i)).ptr_value).cast::<*mut pg_sys::Node>();
                    if (**cell).type_ == pg_sys::NodeTag::T_FieldSelect
                        && is_row_typed((*(*cell).cast::<pg_sys::FieldSelect>()).arg.cast())
                    {
                        *cell = number_in_front((*(*cell).cast::<pg_sys::FieldSelect>()).arg.cast());
                    }
                }
            }
        }
        *row = converted(*row, pg_sys::TEXTOID);
    }
}

/// A conversion by way of text.
unsafe fn converted(node: *mut pg_sys::Node, to: pg_sys::Oid) -> *mut pg_sys::Node {
    // SAFETY: allocates a node in the scratch context.
    unsafe {
        let made = pg_sys::palloc0(size_of::<pg_sys::CoerceViaIO>()).cast::<pg_sys::CoerceViaIO>();
        (*made).xpr.type_ = pg_sys::NodeTag::T_CoerceViaIO;
        (*made).arg = node.cast();
        (*made).resulttype = to;
        (*made).resultcollid =
            if to == pg_sys::TEXTOID { pg_sys::Oid::from(DEFAULT_COLLATION) } else { pg_sys::InvalidOid };
        (*made).coerceformat = pg_sys::CoercionForm::COERCE_EXPLICIT_CAST;
        (*made).location = -1;
        made.cast()
    }
}

/// The depth: the first column of a row's text `(depth,…)`.
unsafe fn number_in_front(row: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: allocates nodes in the scratch context.
    unsafe {
        let collation = pg_sys::Oid::from(DEFAULT_COLLATION);
        let call = |function: u32, args: *mut pg_sys::List| {
            let form = pg_sys::CoercionForm::COERCE_EXPLICIT_CALL;
            pg_sys::makeFuncExpr(pg_sys::Oid::from(function), pg_sys::TEXTOID, args, collation, collation, form)
        };
        let constant = |value: &std::ffi::CStr| {
            let datum = pg_sys::Datum::from(pg_sys::cstring_to_text(value.as_ptr()));
            pg_sys::makeConst(pg_sys::TEXTOID, -1, collation, -1, datum, false, false).cast::<std::ffi::c_void>()
        };
        let integer = |value: i32| {
            let datum = pg_sys::Datum::from(value);
            pg_sys::makeConst(pg_sys::INT4OID, -1, pg_sys::InvalidOid, 4, datum, false, true).cast::<std::ffi::c_void>()
        };
        let list = |items: &[*mut std::ffi::c_void]| {
            items.iter().fold(std::ptr::null_mut(), |list, item| pg_sys::lappend(list, *item))
        };
        let before_comma = call(SPLIT_PART, list(&[row.cast(), constant(c","), integer(1)]));
        let after_bracket = call(SPLIT_PART, list(&[before_comma.cast(), constant(c"("), integer(2)]));
        converted(after_bracket.cast(), pg_sys::INT8OID)
    }
}

/// Gives an expression the type that it has now.
unsafe fn retype(node: *mut pg_sys::Node) {
    // SAFETY: the tag decides the struct.
    unsafe {
        let collation = pg_sys::Oid::from(DEFAULT_COLLATION);
        match (*node).type_ {
            pg_sys::NodeTag::T_Var => {
                let var = node.cast::<pg_sys::Var>();
                if let Some(ty) = text_type((*var).vartype) {
                    (*var).vartype = ty;
                    (*var).varcollid = collation;
                }
            }
            pg_sys::NodeTag::T_ArrayExpr => {
                let array = node.cast::<pg_sys::ArrayExpr>();
                if let Some(ty) = text_type((*array).array_typeid) {
                    (*array).array_typeid = ty;
                    (*array).element_typeid = pg_sys::TEXTOID;
                    (*array).array_collid = collation;
                }
            }
            pg_sys::NodeTag::T_FuncExpr => {
                let call = node.cast::<pg_sys::FuncExpr>();
                if let Some(ty) = text_type((*call).funcresulttype) {
                    (*call).funcresulttype = ty;
                    (*call).funccollid = collation;
                    (*call).inputcollid = collation;
                }
            }
            pg_sys::NodeTag::T_ScalarArrayOpExpr => {
                let test = node.cast::<pg_sys::ScalarArrayOpExpr>();
                if (*test).opno == pg_sys::Oid::from(RECORD_EQ) {
                    (*test).opno = pg_sys::Oid::from(TEXT_EQ);
                    (*test).opfuncid = pg_sys::InvalidOid;
                    (*test).inputcollid = collation;
                }
            }
            _ => {}
        }
    }
}

/// The same for the columns of a query's range table, WITH and set operations.
unsafe fn retype_columns(query: *mut pg_sys::Query) {
    // SAFETY: lists of type OIDs and collation OIDs of equal length.
    unsafe {
        for cte in ctes(query) {
            retype_list((*cte).ctecoltypes, (*cte).ctecolcollations);
        }
        for entry in pointers::<pg_sys::RangeTblEntry>((*query).rtable) {
            if (*entry).rtekind == pg_sys::RTEKind::RTE_CTE {
                retype_list((*entry).coltypes, (*entry).colcollations);
            }
        }
        let operations = (*query).setOperations;
        if !operations.is_null() && (*operations).type_ == pg_sys::NodeTag::T_SetOperationStmt {
            let operations = operations.cast::<pg_sys::SetOperationStmt>();
            retype_list((*operations).colTypes, (*operations).colCollations);
        }
    }
}

unsafe fn retype_list(types: *mut pg_sys::List, collations: *mut pg_sys::List) {
    // SAFETY: as the caller says.
    unsafe {
        for i in 0..length(types) {
            let cell = (*types).elements.add(i);
            if let Some(ty) = text_type((*cell).oid_value) {
                (*cell).oid_value = ty;
                (*(*collations).elements.add(i)).oid_value = pg_sys::Oid::from(DEFAULT_COLLATION);
            }
        }
    }
}

/// The type of the text of rows.
fn text_type(ty: pg_sys::Oid) -> Option<pg_sys::Oid> {
    match ty {
        pg_sys::RECORDOID => Some(pg_sys::TEXTOID),
        pg_sys::RECORDARRAYOID => Some(pg_sys::TEXTARRAYOID),
        _ => None,
    }
}

/// Whether a query needs an order of rows: by windows, or by a LIMIT.
unsafe fn orders_rows(query: *mut pg_sys::Query) -> bool {
    // SAFETY: sort clauses refer to targets of the same query.
    unsafe {
        let by_rows = |clauses: *mut pg_sys::List| {
            pointers::<pg_sys::SortGroupClause>(clauses).any(|clause| {
                let target = pg_sys::get_sortgroupref_tle((*clause).tleSortGroupRef, (*query).targetList);
                is_row_typed((*target).expr.cast()) && !is_row((*target).expr.cast())
            })
        };
        let cut = !(*query).limitCount.is_null() || !(*query).limitOffset.is_null() || (*query).hasDistinctOn;
        cut && by_rows((*query).sortClause)
            || pointers::<pg_sys::WindowClause>((*query).windowClause).any(|window| by_rows((*window).orderClause))
    }
}

unsafe fn ctes(query: *mut pg_sys::Query) -> impl Iterator<Item = *mut pg_sys::CommonTableExpr> {
    // SAFETY: cteList holds CommonTableExpr nodes.
    unsafe { pointers::<pg_sys::CommonTableExpr>((*query).cteList).filter(|cte| (**cte).cterecursive) }
}

unsafe fn has_rows(types: *mut pg_sys::List) -> bool {
    // SAFETY: a list of OIDs or null.
    unsafe { (0..length(types)).any(|i| text_type((*(*types).elements.add(i)).oid_value).is_some()) }
}

/// `ROW(…)` of no declared type.
unsafe fn is_row(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the tag decides the struct.
    unsafe {
        (*node).type_ == pg_sys::NodeTag::T_RowExpr && (*node.cast::<pg_sys::RowExpr>()).row_typeid == pg_sys::RECORDOID
    }
}

unsafe fn is_row_typed(node: *mut pg_sys::Node) -> bool {
    // SAFETY: an expression.
    unsafe { text_type(pg_sys::exprType(node)).is_some() }
}

unsafe fn has_row_typed(args: *mut pg_sys::List) -> bool {
    // SAFETY: a list of expressions.
    unsafe { pointers::<pg_sys::Node>(args).any(|arg| is_row_typed(arg)) }
}

/// Whether rows are right beneath a node of any other kind.
unsafe fn children_have_rows(node: *mut pg_sys::Node) -> bool {
    let mut found = false;
    // SAFETY: walks the tree only; lists and such are passed through, expressions are looked at and not entered.
    unsafe {
        let top = node;
        walk(node, &mut |node| {
            if node == top || (*node).type_ == pg_sys::NodeTag::T_List {
                return Walk::Into;
            }
            found |= match (*node).type_ {
                pg_sys::NodeTag::T_Var | pg_sys::NodeTag::T_ArrayExpr | pg_sys::NodeTag::T_FuncExpr => {
                    is_row_typed(node)
                }
                pg_sys::NodeTag::T_TargetEntry => is_row_typed((*node.cast::<pg_sys::TargetEntry>()).expr.cast()),
                _ => false,
            };
            Walk::Past
        });
    }
    found
}
