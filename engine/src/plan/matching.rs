//! Comparing rows: by key, by whole image.

use crate::ir::{Col, Scalar, Ty};
use crate::sql;
use crate::sql::{Ident, Piece, Sql};

/// More arguments than this are too many for one function call of PostgreSQL (FUNC_MAX_ARGS is 100).
const MAX_ARGUMENTS: usize = 90;

/// PostgreSQL's INDEX_MAX_KEYS.
const MAX_INDEX_COLUMNS: usize = 32;

/// Conditions under which two keys are the same, NULL being the same as NULL.
///
/// Keys that cannot be NULL are compared by plain equality, which an index or a hash serves; otherwise a hash of the
/// key serves as such, and the columns decide.
pub(crate) fn same_key(cols: &[Col], a: &[Sql], b: &[Sql]) -> Vec<Sql> {
    let hash = hashed(cols).then(|| sql!("{} = {}", row_hash(a), row_hash(b)));
    hash.into_iter().chain(same_values(cols, a, b)).collect()
}

/// The aggregate that chooses among values that are equal but look different. Of a domain over arrays it gives the array.
pub(crate) fn least_image(value: &Scalar, filter: Option<&'static str>) -> Sql {
    let filter = filter.map(|condition| sql!(" FILTER (WHERE {})", Sql::text(condition))).unwrap_or_default();
    sql!("pgtrickle.least_image({}){}::{}", value.sql, filter, value.ty.sql)
}

/// The same for two values, of which either may be missing.
pub(crate) fn lesser_image(a: &Sql, b: &Sql) -> Sql {
    sql!("coalesce(pgtrickle.lesser_image({}, {}), {}, {})", a, b, a, b)
}

/// The same, column by column.
pub(crate) fn same_values(cols: &[Col], a: &[Sql], b: &[Sql]) -> Vec<Sql> {
    let pairs = cols.iter().zip(a.iter().zip(b));
    pairs.map(|(col, (a, b))| same_value(col, a, b)).collect()
}

/// The same for keys without NULLs: by plain equality alone, which any index of a source serves.
pub(crate) fn same_key_without_null(cols: &[Col], a: &[Sql], b: &[Sql]) -> Vec<Sql> {
    let pairs = cols.iter().zip(a.iter().zip(b));
    pairs.map(|(col, (a, b))| same_value(&Col { not_null: true, ..col.clone() }, a, b)).collect()
}

/// The same for keys that have a NULL, to look for them in a query's input, which has no index on a hash: a hash is
/// computed only where nothing else can be looked up.
pub(crate) fn same_key_with_null(cols: &[Col], a: &[Sql], b: &[Sql]) -> Vec<Sql> {
    if let ([a], [b]) = (a, b) {
        return vec![is_null(a), is_null(b)];
    }
    let hash = cols.iter().all(|col| !col.not_null).then(|| sql!("{} = {}", row_hash(a), row_hash(b)));
    hash.into_iter().chain(same_values(cols, a, b)).collect()
}

/// Whether keys of these columns are found through their hash: when they can be NULL, or would not fit in an index.
pub(crate) fn hashed(cols: &[Col]) -> bool {
    cols.iter().any(|col| !col.not_null) || !fits_in_index(cols.iter().map(|col| &col.ty))
}

/// Whether any values of these types fit together in a btree entry, which is a third of a page.
pub(crate) fn fits_in_index<'t>(types: impl ExactSizeIterator<Item = &'t Ty>) -> bool {
    const ENTRY: usize = 2600;
    types.len() <= MAX_INDEX_COLUMNS && types.map(widest).sum::<Option<usize>>().is_some_and(|bytes| bytes <= ENTRY)
}

/// How many bytes a value has at most, about; `None` where nothing limits it.
fn widest(ty: &Ty) -> Option<usize> {
    let (name, modifier) = ty.sql.as_str().split_once('(').unwrap_or((ty.sql.as_str(), ""));
    let length = || modifier.split([',', ')']).next()?.parse::<usize>().ok();
    match name {
        "bigint"
        | "boolean"
        | "\"char\""
        | "date"
        | "double precision"
        | "integer"
        | "macaddr"
        | "macaddr8"
        | "money"
        | "oid"
        | "pg_lsn"
        | "real"
        | "smallint"
        | "time without time zone"
        | "timestamp with time zone"
        | "timestamp without time zone" => Some(8),
        "cidr" | "inet" | "interval" | "uuid" => Some(24),
        "name" => Some(64),
        // Four digits are two bytes; the first and the last group may be incomplete.
        "numeric" => Some(16 + length()? / 2),
        // Four bytes are the longest character of any encoding of a server.
        "character" | "character varying" => Some(8 + 4 * length()?),
        _ => None,
    }
}

/// Whether a value is NULL. Of rows PostgreSQL's `IS NULL` asks about the columns; of other types the parser makes the same
/// of both, which an index serves.
pub(crate) fn is_null(value: &Sql) -> Sql {
    sql!("{} IS NOT DISTINCT FROM NULL", value)
}

/// Whether a value is not NULL.
pub(crate) fn is_not_null(value: &Sql) -> Sql {
    sql!("{} IS DISTINCT FROM NULL", value)
}

fn same_value(col: &Col, a: &Sql, b: &Sql) -> Sql {
    match (&col.ty.equality_operator, col.not_null) {
        (None, true) => sql!("{} = {}", a, b),
        (Some(equals), true) => sql!("{} {} {}", a, equals, b),
        (None, false) => sql!("{} IS NOT DISTINCT FROM {}", a, b),
        (Some(equals), false) => sql!("({} {} {} OR ({} AND {}))", a, equals, b, is_null(a), is_null(b)),
    }
}

/// A hash of a key, equal for equal keys.
pub(crate) fn row_hash<P: Piece>(values: &[P]) -> Sql {
    call("pgtrickle.row_hash", values)
}

/// A hash of a whole row, equal for identical rows.
pub(crate) fn image_hash<P: Piece>(values: &[P]) -> Sql {
    call("pgtrickle.image_hash", values)
}

/// The bytes of a whole row.
pub(crate) fn row_image<P: Piece>(values: &[P]) -> Sql {
    call("pgtrickle.row_image", values)
}

fn call<P: Piece>(function: &'static str, values: &[P]) -> Sql {
    if values.len() <= MAX_ARGUMENTS {
        return sql!("{}({})", function, Sql::list(values));
    }
    let chunks = values.chunks(MAX_ARGUMENTS).map(|chunk| call(function, chunk)).collect::<Vec<_>>();
    call(function, &chunks)
}

/// Whether two rows differ in any byte.
pub(crate) fn images_differ<P: Piece>(a: &[P], b: &[P]) -> Sql {
    sql!("record_image_ne(ROW({}), ROW({}))", Sql::list(a), Sql::list(b))
}

/// Whether two rows are identical.
pub(crate) fn images_agree<P: Piece>(a: &[P], b: &[P]) -> Sql {
    sql!("record_image_eq(ROW({}), ROW({}))", Sql::list(a), Sql::list(b))
}

/// `alias.name` for each name.
pub(crate) fn of(alias: &'static str, names: &[Ident]) -> Vec<Sql> {
    let alias = Ident::new(alias);
    names.iter().map(|name| sql!("{}.{}", alias, name)).collect()
}
