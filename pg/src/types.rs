//! What types are like: their names, their equality, and the properties of functions and operators.

use crate::deparse::Printing;
use crate::nodes::text;
use pgrx::{IntoDatum, pg_sys};

/// The btree support function that says whether equal values have equal bytes (BTEQUALIMAGE_PROC).
const BTREE_EQUALIMAGE: i16 = 4;

/// The operators `*<` and `*>` over rows, which PostgreSQL has no names for.
pub(crate) const RECORD_IMAGE_LT: u32 = 3190;
const RECORD_IMAGE_GT: u32 = 3191;

/// A type with its modifier and collation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeRef {
    pub oid: pg_sys::Oid,
    pub typmod: i32,
    /// Invalid if the type has none, or if the expression's could not be derived.
    pub collation: pg_sys::Oid,
}

/// How values of a type are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeEquality {
    /// There is no equality operator.
    None,
    /// Equal values may look different: 1.0 and 1.00.
    Semantic,
    /// Values are equal exactly if their bytes are.
    Image,
}

/// What the engine wants to know of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeFacts {
    /// Its name with modifier, qualified unless in pg_catalog.
    pub sql: String,
    pub equality: TypeEquality,
    /// Has a default hash operator class (of the elements too).
    pub hashable: bool,
    /// Has a default ordering.
    pub sortable: bool,
    /// `OPERATOR(schema.=)` if its equality lives outside pg_catalog.
    pub equality_operator: Option<String>,
    /// The qualified collation, if it is not the type's own.
    pub collation: Option<String>,
    /// An array type.
    pub array: bool,
    /// A row type: `IS NULL` asks about its columns, not about itself.
    pub composite: bool,
    /// A domain, which may refuse NULL.
    pub domain: bool,
    /// smallint, integer, bigint or numeric, or a domain over one.
    pub exact_number: bool,
    /// record, unknown, anyarray...: no column can have it.
    pub pseudo: bool,
}

/// Looks a type up.
pub fn facts(printing: &Printing, ty: TypeRef) -> TypeFacts {
    // SAFETY: catalog look-ups by OID; the cache entry is read at once.
    unsafe {
        let base = base_type(ty);
        let wanted = pg_sys::TYPECACHE_EQ_OPR | pg_sys::TYPECACHE_LT_OPR | pg_sys::TYPECACHE_HASH_PROC;
        let cache = pg_sys::lookup_type_cache(base.oid, wanted as i32);
        let eq_opr = (*cache).eq_opr;
        TypeFacts {
            sql: type_name(printing, ty),
            equality: equality(base, eq_opr),
            hashable: (*cache).hash_proc != pg_sys::InvalidOid,
            sortable: (*cache).lt_opr != pg_sys::InvalidOid,
            equality_operator: outside_catalog(eq_opr),
            collation: collation_name(ty),
            array: pg_sys::get_element_type(base.oid) != pg_sys::InvalidOid,
            composite: base.oid == pg_sys::RECORDOID || pg_sys::get_typ_typrelid(base.oid) != pg_sys::InvalidOid,
            domain: base.oid != ty.oid,
            exact_number: [pg_sys::INT2OID, pg_sys::INT4OID, pg_sys::INT8OID, pg_sys::NUMERICOID].contains(&base.oid),
            pseudo: pg_sys::get_typtype(base.oid) as u8 == pg_sys::TYPTYPE_PSEUDO,
        }
    }
}

/// The type's name as SQL that means it under `search_path = pg_catalog`.
pub fn type_name(_: &Printing, ty: TypeRef) -> String {
    // SAFETY: reads the catalog; the result is a fresh C string.
    unsafe { text(pg_sys::format_type_extended(ty.oid, ty.typmod, pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN as _)) }
}

/// The type beneath all domains.
pub fn base_type(ty: TypeRef) -> TypeRef {
    let mut typmod = ty.typmod;
    // SAFETY: reads the catalog.
    let oid = unsafe { pg_sys::getBaseTypeAndTypmod(ty.oid, &mut typmod) };
    TypeRef { oid, typmod, collation: ty.collation }
}

/// How values of a type are compared.
pub(crate) fn equality_of(ty: TypeRef) -> TypeEquality {
    let base = base_type(ty);
    // SAFETY: catalog look-ups by OID; the cache entry is read at once.
    unsafe { equality(base, (*pg_sys::lookup_type_cache(base.oid, pg_sys::TYPECACHE_EQ_OPR as i32)).eq_opr) }
}

/// `base` is no domain, `eq_opr` its equality or invalid.
unsafe fn equality(base: TypeRef, eq_opr: pg_sys::Oid) -> TypeEquality {
    if eq_opr == pg_sys::InvalidOid {
        return TypeEquality::None;
    }
    // Trailing blanks do not count in char(n) but are there; with a length all values are padded alike.
    if base.oid == pg_sys::BPCHAROID && base.typmod < 0 {
        return TypeEquality::Semantic;
    }
    let compared_as = if base.oid == pg_sys::BPCHAROID { pg_sys::TEXTOID } else { base.oid };
    // SAFETY: catalog look-ups; the support function takes the operator class's input type and uses the collation.
    unsafe {
        let class = pg_sys::GetDefaultOpClass(compared_as, pg_sys::BTREE_AM_OID);
        if class == pg_sys::InvalidOid {
            return TypeEquality::Semantic;
        }
        let (family, input) = (pg_sys::get_opclass_family(class), pg_sys::get_opclass_input_type(class));
        let support = pg_sys::get_opfamily_proc(family, input, input, BTREE_EQUALIMAGE);
        if support == pg_sys::InvalidOid {
            return TypeEquality::Semantic;
        }
        if pg_sys::get_typcollation(base.oid) != pg_sys::InvalidOid && base.collation == pg_sys::InvalidOid {
            return TypeEquality::Semantic;
        }
        let arg = pg_sys::Datum::from(input);
        if pg_sys::OidFunctionCall1Coll(support, base.collation, arg).value() != 0 {
            TypeEquality::Image
        } else {
            TypeEquality::Semantic
        }
    }
}

/// `OPERATOR(schema.name)` of an operator.
pub fn operator_name(operator: pg_sys::Oid) -> String {
    // SAFETY: reads the catalog; names are fresh C strings.
    unsafe {
        let schema = text(pg_sys::quote_identifier(pg_sys::get_namespace_name(operator_namespace(operator))));
        format!("OPERATOR({schema}.{})", text(pg_sys::get_opname(operator)))
    }
}

/// # Safety
/// There is such an operator.
unsafe fn operator_namespace(operator: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: the tuple stays pinned while it is read.
    unsafe {
        let key = pg_sys::Datum::from(operator);
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::OPEROID as i32, key);
        assert!(!tuple.is_null(), "operator {} exists", operator.to_u32());
        let namespace = (*pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_operator>(tuple)).oprnamespace;
        pg_sys::ReleaseSysCache(tuple);
        namespace
    }
}

/// `OPERATOR(schema.name)` of an operator that `=` would not find under `search_path = pg_catalog`.
fn outside_catalog(operator: pg_sys::Oid) -> Option<String> {
    if operator == pg_sys::InvalidOid {
        return None;
    }
    // SAFETY: the type cache has found the operator.
    let namespace = unsafe { operator_namespace(operator) };
    (namespace != pg_sys::Oid::from(pg_sys::PG_CATALOG_NAMESPACE)).then(|| operator_name(operator))
}

/// The collation's qualified name, if it is not what a plain column of the type would have.
fn collation_name(ty: TypeRef) -> Option<String> {
    // SAFETY: reads the catalog.
    unsafe {
        if ty.collation == pg_sys::InvalidOid || ty.collation == pg_sys::get_typcollation(ty.oid) {
            return None;
        }
        Some(text(pg_sys::generate_collation_name(ty.collation)))
    }
}

/// The bare name of a function of pg_catalog.
pub fn builtin_name(function: pg_sys::Oid) -> Option<String> {
    // SAFETY: reads the catalog.
    unsafe {
        (pg_sys::get_func_namespace(function) == pg_sys::Oid::from(pg_sys::PG_CATALOG_NAMESPACE))
            .then(|| text(pg_sys::get_func_name(function)))
    }
}

/// The bare name of a function of the extension.
pub fn own_name(function: pg_sys::Oid) -> Option<String> {
    // SAFETY: reads the catalog.
    unsafe {
        let schema = text(pg_sys::get_namespace_name(pg_sys::get_func_namespace(function)));
        (schema == "pgtrickle").then(|| text(pg_sys::get_func_name(function)))
    }
}

/// Whether an operator is the equality of the default btree operator class of its left input type: then `=` of the
/// engine's keys means the same.
pub fn is_default_equality(operator: pg_sys::Oid, ty: TypeRef) -> bool {
    // SAFETY: reads the type cache.
    unsafe {
        let cache = pg_sys::lookup_type_cache(base_type(ty).oid, pg_sys::TYPECACHE_EQ_OPR as i32);
        (*cache).eq_opr == operator
    }
}

/// Whether an operator is the `<` or `>` of the default ordering of a type.
pub fn is_default_order(operator: pg_sys::Oid, ty: TypeRef) -> bool {
    // SAFETY: reads the type cache.
    unsafe {
        let wanted = pg_sys::TYPECACHE_LT_OPR | pg_sys::TYPECACHE_GT_OPR;
        let cache = pg_sys::lookup_type_cache(base_type(ty).oid, wanted as i32);
        (*cache).lt_opr == operator || (*cache).gt_opr == operator
    }
}

/// Whether an operator orders rows by the bytes of their columns, so that only identical ones are equal.
pub fn is_image_order(operator: pg_sys::Oid) -> bool {
    [RECORD_IMAGE_LT, RECORD_IMAGE_GT].contains(&operator.to_u32())
}

/// Whether an operator is usable in hash or merge joins, that is, is an equality.
pub fn is_join_equality(operator: pg_sys::Oid, left: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalog.
    unsafe { pg_sys::op_mergejoinable(operator, left) || pg_sys::op_hashjoinable(operator, left) }
}

/// Whether a function returns NULL as soon as an argument is.
pub fn is_strict(function: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalog.
    unsafe { pg_sys::func_strict(function) }
}

/// The seconds in an interval, as `extract(epoch FROM …)` counts them.
pub fn interval_seconds(text: &str) -> f64 {
    let text = std::ffi::CString::new(text).unwrap_or_default();
    // SAFETY: the input function of intervals takes a C string, no element's type, no modifier; what it gives is an interval.
    unsafe {
        let given =
            [Some(pg_sys::Datum::from(text.as_ptr())), Some(pg_sys::Datum::from(0)), Some(pg_sys::Datum::from(-1))];
        let interval = pgrx::direct_function_call_as_datum(pg_sys::interval_in, &given);
        pgrx::direct_function_call(pg_sys::interval_part, &["epoch".into_datum(), interval]).unwrap_or_default()
    }
}
