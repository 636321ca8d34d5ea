//! The rows whose keys were staged: what makes the work of a stage proportional to what was touched.

use super::super::Catalog;
use super::super::matching::{is_not_null, is_null, of, same_key, same_key_with_null, same_key_without_null};
use crate::ir::{Col, Rel};
use crate::sql;
use crate::sql::{From, Ident, JoinType, Query, Select, Sql};

/// Staged keys, each once: an ephemeral relation, the names and the types of its columns.
pub(super) struct Keys<'a> {
    pub relation: &'a Ident,
    pub names: &'a [Ident],
    pub cols: &'a [Col],
}

impl Keys<'_> {
    /// What `select` makes of the input's rows whose `keys` (over the input's columns) are among these. The rows of a key
    /// stay together.
    ///
    /// Keys with a NULL are looked up apart, so that plain equality, and with it any index of a source, serves for all
    /// others.
    pub fn of_input(&self, catalog: &Catalog, input: &Rel, keys: &[Sql], select: impl Fn(From) -> Select) -> Query {
        let wanted = of("x", self.names);
        let matching = |on: Vec<Sql>| {
            let keys = From::enr(self.relation, "x");
            select(catalog.item_of_rel(input).join(JoinType::Inner, keys, Sql::all(on)))
        };
        let nullable = || self.cols.iter().zip(&wanted).filter(|(col, _)| !col.not_null).map(|(_, key)| key);
        let mut usual = matching(same_key_without_null(self.cols, keys, &wanted));
        usual.filter = nullable().map(is_not_null).collect();
        if usual.filter.is_empty() {
            return usual.into();
        }
        let with_null = matching(same_key_with_null(self.cols, keys, &wanted));
        let is_null = Sql::any(nullable().map(is_null));
        Query::UnionAll(vec![usual.into(), with_null.filter(sql!("({})", is_null)).into()])
    }

    /// A table of ours joined with them by its columns `keys`, on which it has an index.
    pub fn of_table(&self, table: From, keys: &[Sql]) -> From {
        let on = same_key(self.cols, keys, &of("x", self.names));
        table.join(JoinType::Inner, From::enr(self.relation, "x"), Sql::all(on))
    }
}
