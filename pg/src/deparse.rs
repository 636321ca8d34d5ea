//! Printing expressions whose columns are numbered holes: `c1`, `c2`, …

use crate::expr::Expr;
use crate::nodes::text;
use crate::spi::LocalSettings;
use pgrx::pg_sys;
use std::ffi::CStr;

/// Settings under which printed text means the same to everybody who reads it under `search_path = pg_catalog`:
/// everything outside pg_catalog is qualified, and constants do not depend on the session's formats.
const PRINTING: [(&CStr, &CStr); 9] = [
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"DateStyle", c"ISO, YMD"),
    (c"IntervalStyle", c"postgres"),
    (c"TimeZone", c"UTC"),
    (c"extra_float_digits", c"1"),
    (c"quote_all_identifiers", c"off"),
    (c"bytea_output", c"hex"),
    (c"standard_conforming_strings", c"on"),
    (c"array_nulls", c"on"),
];

/// While it lives, [`print()`] and type names are independent of the session's settings.
pub struct Printing(#[allow(dead_code)] LocalSettings);

impl Printing {
    /// Sets them for now.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Printing(LocalSettings::new(&PRINTING))
    }
}

/// The text of an expression over the columns `c1` … `c<width>` of one unnamed row. Casts are all explicit, so that the
/// text has the expression's very type.
pub fn print(_: &Printing, expr: Expr<'_>, width: usize) -> String {
    crate::casts::spell_out(expr);
    // SAFETY: the range table entry and the statement are made here and only read; memory is the scratch context's.
    unsafe {
        let statement = pg_sys::palloc0(size_of::<pg_sys::PlannedStmt>()).cast::<pg_sys::PlannedStmt>();
        (*statement).type_ = pg_sys::NodeTag::T_PlannedStmt;
        (*statement).rtable = pg_sys::lappend(std::ptr::null_mut(), row_entry(width).cast());
        let names = pg_sys::lappend(std::ptr::null_mut(), pg_sys::pstrdup(c"c".as_ptr()).cast());
        let context = pg_sys::deparse_context_for_plan_tree(statement, names);
        text(pg_sys::deparse_expression(expr.node(), context, false, true))
    }
}

/// A range table entry that needs no catalog: a named tuplestore whose columns have our names.
unsafe fn row_entry(width: usize) -> *mut pg_sys::RangeTblEntry {
    // SAFETY: allocates nodes in the current context.
    unsafe {
        let rte = pg_sys::palloc0(size_of::<pg_sys::RangeTblEntry>()).cast::<pg_sys::RangeTblEntry>();
        (*rte).type_ = pg_sys::NodeTag::T_RangeTblEntry;
        (*rte).rtekind = pg_sys::RTEKind::RTE_NAMEDTUPLESTORE;
        (*rte).enrname = pg_sys::pstrdup(c"c".as_ptr());
        (*rte).inFromCl = true;
        let mut names = std::ptr::null_mut();
        for number in 1..=width.max(1) {
            let name = std::ffi::CString::new(format!("c{number}")).expect("no NUL");
            names = pg_sys::lappend(names, pg_sys::makeString(pg_sys::pstrdup(name.as_ptr())).cast());
            // Only names are printed; any type will do.
            (*rte).coltypes = pg_sys::lappend_oid((*rte).coltypes, pg_sys::INT4OID);
            (*rte).coltypmods = pg_sys::lappend_int((*rte).coltypmods, -1);
            (*rte).colcollations = pg_sys::lappend_oid((*rte).colcollations, pg_sys::InvalidOid);
        }
        (*rte).eref = pg_sys::makeAlias(c"c".as_ptr(), names);
        rte
    }
}
