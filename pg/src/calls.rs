//! Which functions evaluating a query may call, and how far their results can be relied on.

use crate::bindings;
use crate::expr::Expr;
use crate::nodes::{Walk, pointers, text, walk};
use crate::query::{Entry, Query, SetTree};
use crate::types::{TypeRef, base_type, builtin_name};
use pgrx::pg_sys;
use std::ffi::c_void;

/// A function called somewhere in a query, by an operator, a cast or an aggregate too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub function: pg_sys::Oid,
    /// The types of its arguments, where it is a plain call, an aggregate or a conversion by way of text.
    pub args: Vec<TypeRef>,
    /// The type of its result where it is a plain call, or the types of its columns where FROM defines them.
    pub result: Vec<TypeRef>,
}

/// What makes a query's result depend on more than its tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// CURRENT_DATE, CURRENT_USER and their like.
    SessionValue,
    /// A sequence's next value.
    NextValue,
    /// A JSON constructor or query over values whose text depends on settings.
    Json,
}

/// All calls in a query, subqueries included, each once.
pub fn calls(query: Query<'_>) -> Vec<Call> {
    let mut found = Vec::new();
    // SAFETY: the tree of a live query.
    unsafe { collect(query.as_node(), &columns_of_subqueries(query), &mut found) };
    for part in query.descendants() {
        if let Some(tree) = part.set_operations() {
            conversions(part, &tree, &mut found);
        }
    }
    found
}

/// # Safety
/// `root` is a live node.
unsafe fn collect(root: *mut pg_sys::Node, rows: &[TypeRef], found: &mut Vec<Call>) {
    let mut defined: Option<(*mut pg_sys::Node, Vec<TypeRef>)> = None;
    // SAFETY: walks the tree; the callback gets back the pointer to a vector that outlives the call.
    unsafe {
        walk(root, &mut |node| {
            if (*node).type_ == pg_sys::NodeTag::T_RangeTblFunction {
                let function = node.cast::<pg_sys::RangeTblFunction>();
                let types = crate::functions::definition_types(function);
                defined = (!types.is_empty()).then(|| ((*function).funcexpr, types));
            }
            let mut functions: Vec<pg_sys::Oid> = Vec::new();
            pg_sys::check_functions_in_node(node, Some(note_function), (&raw mut functions).cast());
            let supporting: Vec<pg_sys::Oid> = functions.iter().flat_map(|&f| support_functions(f)).collect();
            for function in functions.into_iter().chain(supporting) {
                let columns = defined.as_ref().filter(|(call, _)| *call == node).map(|(_, types)| types.clone());
                let result = columns.unwrap_or_else(|| result_type(node));
                let call = Call { function, args: argument_types(node, rows), result };
                if !found.contains(&call) {
                    found.push(call);
                }
            }
            Walk::Into
        });
    }
}

/// The calls by which branches of set operations get their common types: PostgreSQL adds these only when it plans.
fn conversions<'q>(query: Query<'q>, tree: &SetTree, found: &mut Vec<Call>) {
    let SetTree::Node { left, right, types, .. } = tree else { return };
    for branch in [left, right] {
        let own = match &**branch {
            SetTree::Node { types, .. } => types.clone(),
            SetTree::Leaf(number) => match query.entry(*number) {
                Entry::Subquery { query, .. } => query.result_types(),
                _ => Vec::new(),
            },
        };
        for (from, to) in
            own.into_iter().zip(types).filter(|(from, to)| from.oid != to.oid && from.oid != pg_sys::UNKNOWNOID)
        {
            // SAFETY: the value is made here.
            unsafe {
                let value: Expr<'q> = Expr::new(pg_sys::makeVar(1, 1, from.oid, from.typmod, from.collation, 0).cast());
                collect(value.coerced(*to).node(), &[], found);
            }
        }
        conversions(query, branch, found);
    }
}

/// The functions that make up a user's aggregate: whatever they are, CREATE AGGREGATE declares the aggregate itself as immutable. Those
/// of PostgreSQL say of themselves what they are.
fn support_functions(function: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    if builtin_name(function).is_some() {
        return Vec::new();
    }
    const PARTS: [u32; 6] = [
        bindings::Anum_pg_aggregate_aggtransfn,
        bindings::Anum_pg_aggregate_aggfinalfn,
        bindings::Anum_pg_aggregate_aggcombinefn,
        bindings::Anum_pg_aggregate_aggmtransfn,
        bindings::Anum_pg_aggregate_aggminvtransfn,
        bindings::Anum_pg_aggregate_aggmfinalfn,
    ];
    // SAFETY: reads the catalog; these columns are never NULL, and the row is looked at before it is released.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::AGGFNOID as i32;
        let row = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(function));
        if row.is_null() {
            return Vec::new();
        }
        let mut null = false;
        let mut part = |number: u32| {
            let value = pg_sys::SysCacheGetAttr(cache, row, number as i16, &mut null);
            pg_sys::Oid::from(value.value() as u32)
        };
        let found = PARTS.map(&mut part);
        pg_sys::ReleaseSysCache(row);
        found.into_iter().filter(|&function| function != pg_sys::InvalidOid).collect()
    }
}

/// What is no function call, but not immutable either.
pub fn moments(query: Query<'_>) -> Option<Moment> {
    let mut found = None;
    // SAFETY: walks the tree; contain_mutable_functions reads an expression node.
    unsafe {
        walk(query.as_node(), &mut |node| {
            found = found.or(match (*node).type_ {
                pg_sys::NodeTag::T_SQLValueFunction => Some(Moment::SessionValue),
                pg_sys::NodeTag::T_NextValueExpr => Some(Moment::NextValue),
                _ if is_unreliable_json(node) => Some(Moment::Json),
                _ => None,
            });
            if found.is_some() { Walk::Stop } else { Walk::Into }
        });
    }
    found
}

/// Whether it reads system columns that change without the row's own: `ctid`, `xmin` and their like, but not `tableoid`.
pub fn has_fleeting_columns(query: Query<'_>) -> bool {
    let mut found = false;
    // SAFETY: walks the tree only; the tag decides the struct.
    unsafe {
        walk(query.as_node(), &mut |node| {
            if (*node).type_ == pg_sys::NodeTag::T_Var {
                let column = i32::from((*node.cast::<pg_sys::Var>()).varattno);
                found |= column < 0 && column != pg_sys::TableOidAttributeNumber;
            }
            if found { Walk::Stop } else { Walk::Into }
        });
    }
    found
}

#[cfg(feature = "pg15")]
unsafe fn is_unreliable_json(_: *mut pg_sys::Node) -> bool {
    false
}

#[cfg(not(feature = "pg15"))]
unsafe fn is_unreliable_json(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the tag decides the struct.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_JsonConstructorExpr => {
                let args = pointers::<pg_sys::Node>((*node.cast::<pg_sys::JsonConstructorExpr>()).args);
                !args.map(|arg| Expr::new(arg).ty()).all(prints_reliably)
            }
            #[cfg(not(feature = "pg16"))]
            pg_sys::NodeTag::T_JsonExpr => pg_sys::contain_mutable_functions(node),
            _ => false,
        }
    }
}

/// # Safety
/// `cx` points to a vector of OIDs.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn note_function(function: pg_sys::Oid, cx: *mut c_void) -> bool {
    // SAFETY: as above.
    unsafe { (*cx.cast::<Vec<pg_sys::Oid>>()).push(function) };
    false
}

/// # Safety
/// `node` is a live node.
unsafe fn result_type(node: *mut pg_sys::Node) -> Vec<TypeRef> {
    // SAFETY: the tag decides the struct.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_FuncExpr => vec![Expr::new(node).ty()],
            _ => Vec::new(),
        }
    }
}

/// # Safety
/// `node` is a live node.
unsafe fn argument_types(node: *mut pg_sys::Node, rows: &[TypeRef]) -> Vec<TypeRef> {
    // SAFETY: the tag decides the struct; argument lists hold expressions, those of aggregates target entries.
    unsafe {
        let args: Vec<*mut pg_sys::Node> = match (*node).type_ {
            pg_sys::NodeTag::T_FuncExpr => pointers((*node.cast::<pg_sys::FuncExpr>()).args).collect(),
            pg_sys::NodeTag::T_OpExpr => pointers((*node.cast::<pg_sys::OpExpr>()).args).collect(),
            pg_sys::NodeTag::T_CoerceViaIO => vec![(*node.cast::<pg_sys::CoerceViaIO>()).arg.cast()],
            pg_sys::NodeTag::T_Aggref => {
                let entries = pointers::<pg_sys::TargetEntry>((*node.cast::<pg_sys::Aggref>()).args);
                entries.filter(|entry| !(**entry).resjunk).map(|entry| (*entry).expr.cast()).collect()
            }
            pg_sys::NodeTag::T_WindowFunc => pointers((*node.cast::<pg_sys::WindowFunc>()).args).collect(),
            _ => Vec::new(),
        };
        args.into_iter().flat_map(|arg| printed_types(arg, rows)).collect()
    }
}

/// What is printed when an expression is: a row of no declared type prints as the values in it do.
///
/// # Safety
/// `node` is an expression.
unsafe fn printed_types(node: *mut pg_sys::Node, rows: &[TypeRef]) -> Vec<TypeRef> {
    // SAFETY: the tag decides the struct.
    unsafe {
        let ty = Expr::new(node).ty();
        match (*node).type_ {
            pg_sys::NodeTag::T_RowExpr if ty.oid == pg_sys::RECORDOID => {
                let values = pointers::<pg_sys::Node>((*node.cast::<pg_sys::RowExpr>()).args);
                values.flat_map(|value| printed_types(value, rows)).collect()
            }
            pg_sys::NodeTag::T_Var if ty.oid == pg_sys::RECORDOID && (*node.cast::<pg_sys::Var>()).varattno == 0 => {
                rows.to_vec()
            }
            _ => vec![ty],
        }
    }
}

/// The types of the columns that a row of no declared type may have: of all that FROM may have but tables.
fn columns_of_subqueries(query: Query<'_>) -> Vec<TypeRef> {
    let mut found: Vec<TypeRef> = Vec::new();
    for part in query.descendants() {
        found.extend(part.result_types());
        for number in 1..=part.entries() {
            match part.entry(number) {
                Entry::Values { types, .. } => found.extend(types),
                Entry::Functions(functions) => found.extend(functions.columns.iter().map(|column| column.ty)),
                _ => {}
            }
        }
    }
    found
}

/// Whether a type's values print the same under the same settings. Most say so by the declaration of their output
/// function; dates, times, money and labels of enums are only declared STABLE. Arrays and ranges print as their elements
/// do, rows as their columns.
pub fn prints_reliably(ty: TypeRef) -> bool {
    const BY_SETTINGS: [pg_sys::Oid; 5] =
        [pg_sys::DATEOID, pg_sys::TIMESTAMPOID, pg_sys::TIMESTAMPTZOID, pg_sys::INTERVALOID, pg_sys::MONEYOID];
    let base = base_type(ty).oid;
    let as_element = |element| prints_reliably(TypeRef { oid: element, ..ty });
    // SAFETY: reads the catalog.
    unsafe {
        let element = pg_sys::get_element_type(base);
        if element != pg_sys::InvalidOid {
            return as_element(element);
        }
        let table = pg_sys::get_typ_typrelid(base);
        if table != pg_sys::InvalidOid {
            let columns = crate::table::Relation::describe(table).columns;
            return columns.iter().all(|column| prints_reliably(column.ty));
        }
        match pg_sys::get_typtype(base) as u8 {
            pg_sys::TYPTYPE_RANGE => return as_element(pg_sys::get_range_subtype(base)),
            pg_sys::TYPTYPE_MULTIRANGE => return as_element(pg_sys::get_multirange_range(base)),
            pg_sys::TYPTYPE_ENUM => return true,
            _ => {}
        }
        let (mut output, mut varlena) = (pg_sys::InvalidOid, false);
        pg_sys::getTypeOutputInfo(base, &mut output, &mut varlena);
        BY_SETTINGS.contains(&base) || pg_sys::func_volatile(output) as u8 == pg_sys::PROVOLATILE_IMMUTABLE
    }
}

/// How a function may change its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Volatility {
    Immutable,
    Stable,
    Volatile,
}

/// A function's declared volatility.
pub fn volatility(function: pg_sys::Oid) -> Volatility {
    // SAFETY: reads the catalog.
    match unsafe { pg_sys::func_volatile(function) } as u8 {
        pg_sys::PROVOLATILE_IMMUTABLE => Volatility::Immutable,
        pg_sys::PROVOLATILE_STABLE => Volatility::Stable,
        _ => Volatility::Volatile,
    }
}

/// `name(argument types)` of a function, for people.
pub fn function_signature(function: pg_sys::Oid) -> String {
    // SAFETY: reads the catalog.
    unsafe { text(pg_sys::format_procedure(function)) }
}
