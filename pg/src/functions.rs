//! Functions in FROM: calls (ROWS FROM, too), XMLTABLE and JSON_TABLE.

use crate::calls::{Volatility, volatility};
use crate::entry::type_lists;
use crate::expr::{Expr, Shape};
use crate::nodes::{pointers, text};
use crate::query::Query;
use crate::types::{TypeRef, base_type, builtin_name};
use pgrx::pg_sys;

/// An entry of FROM whose rows are computed.
pub struct Functions<'q> {
    pub rows: Computed<'q>,
    /// Its columns, dropped ones of row types left out.
    pub columns: Vec<FunctionColumn>,
    /// The type of its rows as values.
    pub row_type: TypeRef,
}

/// What computes them.
pub enum Computed<'q> {
    /// Functions side by side, each filled up with NULLs to the length of the longest.
    Calls { calls: Vec<FunctionCall<'q>>, ordinality: bool },
    /// XMLTABLE or JSON_TABLE.
    Table(Expr<'q>),
}

/// One call in FROM.
pub struct FunctionCall<'q> {
    pub expr: Expr<'q>,
    /// The column definition list of a function that returns `record`.
    pub definitions: Vec<(String, TypeRef)>,
    /// Returns a set, not one value.
    pub returns_set: bool,
    /// Returns rows, not single values.
    pub returns_rows: bool,
    /// Prints as `name(arguments)`, which is all that ROWS FROM takes.
    pub is_call: bool,
}

/// A column of such an entry.
pub struct FunctionColumn {
    pub number: i16,
    pub name: String,
    pub ty: TypeRef,
}

impl<'q> Functions<'q> {
    /// The expressions that it evaluates.
    pub fn exprs(&self) -> Vec<Expr<'q>> {
        match &self.rows {
            Computed::Calls { calls, .. } => calls.iter().map(|call| call.expr).collect(),
            Computed::Table(table) => vec![*table],
        }
    }

    /// The columns of its own query level that it reads.
    pub fn reads(&self) -> Vec<(usize, i16)> {
        self.exprs().iter().flat_map(|expr| expr.columns()).collect()
    }

    /// Whether it may have more than one row.
    pub fn returns_set(&self) -> bool {
        match &self.rows {
            Computed::Calls { calls, .. } => calls.iter().any(|call| call.returns_set),
            Computed::Table(_) => true,
        }
    }

    /// Whether each is a call that ROWS FROM takes, as WITH ORDINALITY wants it.
    pub fn are_calls(&self) -> bool {
        matches!(&self.rows, Computed::Calls { calls, .. } if calls.iter().all(|call| call.is_call))
    }

    /// Whether it depends on other entries, or on a query around.
    pub fn is_lateral(&self) -> bool {
        !self.reads().is_empty() || self.exprs().iter().any(|expr| expr.reads_outer())
    }

    /// Those of its columns that no two of its rows share, as far as PostgreSQL's own functions are known.
    pub fn key(&self) -> Option<Vec<usize>> {
        const DISTINCT: [&str; 5] =
            ["generate_series", "generate_subscripts", "jsonb_each", "jsonb_each_text", "jsonb_object_keys"];
        match &self.rows {
            Computed::Calls { ordinality: true, .. } => Some(vec![self.columns.len() - 1]),
            Computed::Calls { calls, .. } => match calls.as_slice() {
                [only] if !only.returns_set => Some(Vec::new()),
                [only] => {
                    let Shape::Function { function, .. } = only.expr.shape() else { return None };
                    let known = builtin_name(function).is_some_and(|name| DISTINCT.contains(&name.as_str()));
                    known.then(|| vec![0])
                }
                _ => None,
            },
            Computed::Table(_) => None,
        }
    }
}

impl<'q> Query<'q> {
    /// # Safety
    /// `rte` is an RTE_FUNCTION or RTE_TABLEFUNC of this query.
    pub(crate) unsafe fn functions(&self, rte: *mut pg_sys::RangeTblEntry) -> Functions<'q> {
        // SAFETY: the kind decides which fields are meaningful; lists hold what parsenodes.h says.
        unsafe {
            let (rows, row_type) = if (*rte).rtekind == pg_sys::RTEKind::RTE_TABLEFUNC {
                (Computed::Table(self.flatten((*rte).tablefunc.cast())), record())
            } else {
                let functions = pointers::<pg_sys::RangeTblFunction>((*rte).functions);
                let calls: Vec<_> = functions.map(|function| self.function_call(function)).collect();
                let ordinality = (*rte).funcordinality;
                let row_type = match calls.as_slice() {
                    [only] if only.returns_rows && !ordinality => only.expr.ty(),
                    _ => record(),
                };
                (Computed::Calls { calls, ordinality }, row_type)
            };
            Functions { rows, columns: columns(rte), row_type }
        }
    }

    unsafe fn function_call(&self, function: *mut pg_sys::RangeTblFunction) -> FunctionCall<'q> {
        // SAFETY: the caller passes a live node; the definition lists have equal lengths.
        unsafe {
            let expr = self.flatten((*function).funcexpr);
            let node = expr.node();
            let call = (*node).type_ == pg_sys::NodeTag::T_FuncExpr;
            let plain = |call: *mut pg_sys::FuncExpr| (*call).funcformat == pg_sys::CoercionForm::COERCE_EXPLICIT_CALL;
            FunctionCall {
                definitions: definitions(function),
                returns_set: call && (*node.cast::<pg_sys::FuncExpr>()).funcretset,
                returns_rows: pg_sys::type_is_rowtype(expr.ty().oid),
                is_call: call && plain(node.cast()),
                expr,
            }
        }
    }
}

fn record() -> TypeRef {
    TypeRef { oid: pg_sys::RECORDOID, typmod: -1, collation: pg_sys::InvalidOid }
}

unsafe fn definitions(function: *mut pg_sys::RangeTblFunction) -> Vec<(String, TypeRef)> {
    // SAFETY: four lists of equal length: strings, OIDs, integers, OIDs.
    unsafe {
        let names = pointers::<pg_sys::Node>((*function).funccolnames).map(|name| string(name));
        names.zip(definition_types(function)).collect()
    }
}

/// The types in the column definition list of a call in FROM.
///
/// # Safety
/// `function` is a live node.
pub(crate) unsafe fn definition_types(function: *mut pg_sys::RangeTblFunction) -> Vec<TypeRef> {
    // SAFETY: three lists of equal length: OIDs, integers, OIDs.
    unsafe { type_lists((*function).funccoltypes, (*function).funccoltypmods, (*function).funccolcollations) }
}

unsafe fn string(node: *mut pg_sys::Node) -> String {
    // SAFETY: the caller passes a String node.
    unsafe { text((*node.cast::<pg_sys::String>()).sval) }
}

unsafe fn columns(rte: *mut pg_sys::RangeTblEntry) -> Vec<FunctionColumn> {
    let (mut names, mut vars) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the entry is live; the two lists that come back have equal lengths: strings and Vars.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::expandRTE(rte, 1, 0, -1, false, &mut names, &mut vars);
        #[cfg(feature = "pg18")]
        pg_sys::expandRTE(rte, 1, 0, pg_sys::VarReturningType::VAR_RETURNING_DEFAULT, -1, false, &mut names, &mut vars);
        let names = pointers::<pg_sys::Node>(names).map(|name| string(name));
        let column = |(name, var): (String, *mut pg_sys::Var)| FunctionColumn {
            number: (*var).varattno,
            name,
            ty: TypeRef { oid: (*var).vartype, typmod: (*var).vartypmod, collation: (*var).varcollid },
        };
        names.zip(pointers::<pg_sys::Var>(vars)).map(column).collect()
    }
}

/// Whether a type's values are always read from text in the same way, by the declaration of its input function. Arrays
/// are read as their elements are, rows as their columns.
pub fn reads_immutably(ty: TypeRef) -> bool {
    // SAFETY: reads the catalog.
    unsafe {
        if base_type(ty).oid != ty.oid {
            // A domain's constraints may be anything.
            return false;
        }
        let element = pg_sys::get_element_type(ty.oid);
        if element != pg_sys::InvalidOid {
            return reads_immutably(TypeRef { oid: element, ..ty });
        }
        let table = pg_sys::get_typ_typrelid(ty.oid);
        if table != pg_sys::InvalidOid {
            let columns = crate::table::Relation::describe(table).columns;
            return columns.iter().all(|column| reads_immutably(column.ty));
        }
        let (mut input, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        pg_sys::getTypeInputInfo(ty.oid, &mut input, &mut parameter);
        volatility(input) == Volatility::Immutable
    }
}
