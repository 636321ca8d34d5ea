//! `WITH RECURSIVE`

use super::{From, Ident, Query, Select, Sql};
use crate::sql;

/// `WITH RECURSIVE name(columns) AS (head UNION [ALL] tail) SELECT .. FROM name`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recursive {
    /// By which the tail refers to it.
    pub name: Ident,
    /// Its columns, all of which it selects in the end.
    pub columns: Vec<Ident>,
    /// Where it begins.
    pub head: Select,
    /// How it goes on.
    pub tail: Select,
    /// UNION ALL instead of UNION.
    pub all: bool,
}

impl Recursive {
    /// Its text.
    pub fn sql(&self) -> Sql {
        let union = if self.all { "UNION ALL" } else { "UNION" };
        let mut select = Select::from(From::Enr { name: self.name.clone(), alias: None });
        select.columns = self.columns.iter().map(|column| (column.into(), None)).collect();
        sql!(
            "WITH RECURSIVE {}({}) AS ({} {} {}) {}",
            self.name,
            Sql::list(&self.columns),
            self.head.sql(),
            union,
            self.tail.sql(),
            select.sql()
        )
    }
}

impl std::convert::From<Recursive> for Query {
    fn from(recursive: Recursive) -> Query {
        Query::Recursive(Box::new(recursive))
    }
}
