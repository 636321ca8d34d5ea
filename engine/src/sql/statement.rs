//! Statements as structs. Each `sql()` prints itself; expressions in them are [`Sql`] fragments.

use super::{Ident, QualifiedName, Recursive, Sql};
use crate::sql;

/// A query: what can stand in FROM, in WITH, in INSERT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// One SELECT.
    Select(Box<Select>),
    /// Bag union of at least one query.
    UnionAll(Vec<Query>),
    /// Constant rows, at least one.
    Values(Vec<Vec<Sql>>),
    /// WITH RECURSIVE
    Recursive(Box<Recursive>),
}

impl std::convert::From<Select> for Query {
    fn from(select: Select) -> Query {
        Query::Select(Box::new(select))
    }
}

impl Query {
    /// Its text.
    pub fn sql(&self) -> Sql {
        match self {
            Query::Select(select) => select.sql(),
            Query::UnionAll(queries) => Sql::join(" UNION ALL ", queries.iter().map(Query::branch)),
            Query::Recursive(recursive) => recursive.sql(),
            Query::Values(rows) => {
                sql!("VALUES {}", Sql::list(rows.iter().map(|row| sql!("({})", Sql::list(row)))))
            }
        }
    }

    /// As a branch of UNION ALL, whose ORDER BY and limit would be the union's.
    fn branch(&self) -> Sql {
        match self {
            Query::Select(select) if select.limit.is_some() || !select.order_by.is_empty() => sql!("({})", self.sql()),
            Query::Recursive(_) => sql!("({})", self.sql()),
            _ => self.sql(),
        }
    }

    /// As an item of FROM.
    pub fn aliased(self, alias: impl Into<Ident>, columns: Vec<Ident>) -> From {
        From::Subquery { query: Box::new(self), lateral: false, alias: alias.into(), columns }
    }
}

impl std::convert::From<&'static str> for Ident {
    fn from(name: &'static str) -> Ident {
        Ident::new(name)
    }
}

/// `SELECT`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Select {
    /// WITH
    pub with: Vec<With>,
    /// DISTINCT ON
    pub distinct_on: Vec<Sql>,
    /// The select list; a name where it matters.
    pub columns: Vec<(Sql, Option<Ident>)>,
    /// FROM
    pub from: Option<From>,
    /// WHERE, a conjunction
    pub filter: Vec<Sql>,
    /// GROUP BY, mostly by position
    pub group_by: Vec<Sql>,
    /// HAVING, a conjunction
    pub having: Vec<Sql>,
    /// ORDER BY
    pub order_by: Vec<Sql>,
    /// OFFSET, FETCH FIRST
    pub limit: Option<Sql>,
}

impl Select {
    /// `SELECT .. FROM from`
    pub fn from(from: From) -> Select {
        Select { from: Some(from), ..Select::default() }
    }

    /// Adds a column.
    pub fn column(mut self, value: impl Into<Sql>, name: impl Into<Ident>) -> Select {
        self.columns.push((value.into(), Some(name.into())));
        self
    }

    /// Adds columns.
    pub fn columns(mut self, columns: impl IntoIterator<Item = (Sql, Ident)>) -> Select {
        self.columns.extend(columns.into_iter().map(|(value, name)| (value, Some(name))));
        self
    }

    /// Adds a condition.
    pub fn filter(mut self, condition: impl Into<Sql>) -> Select {
        self.filter.push(condition.into());
        self
    }

    /// GROUP BY the first `n` columns.
    pub fn group_by_first(mut self, n: usize) -> Select {
        self.group_by = (1..=n as i64).map(Sql::from).collect();
        self
    }

    /// Its text.
    pub fn sql(&self) -> Sql {
        let mut clauses = Vec::new();
        if !self.with.is_empty() {
            clauses.push(sql!("WITH {}", Sql::list(self.with.iter().map(With::sql))));
        }
        let columns = Sql::list(self.columns.iter().map(|(value, name)| match name {
            Some(name) => sql!("{} AS {}", value, name),
            None => value.clone(),
        }));
        clauses.push(match (self.distinct_on.is_empty(), columns.as_str()) {
            (true, "") => Sql::text("SELECT"),
            (true, _) => sql!("SELECT {}", columns),
            (false, _) => sql!("SELECT DISTINCT ON ({}) {}", Sql::list(&self.distinct_on), columns),
        });
        if let Some(from) = &self.from {
            clauses.push(sql!("FROM {}", from.sql()));
        }
        if !self.filter.is_empty() {
            clauses.push(sql!("WHERE {}", Sql::all(&self.filter)));
        }
        if !self.group_by.is_empty() {
            clauses.push(sql!("GROUP BY {}", Sql::list(&self.group_by)));
        }
        if !self.having.is_empty() {
            clauses.push(sql!("HAVING {}", Sql::all(&self.having)));
        }
        if !self.order_by.is_empty() {
            clauses.push(sql!("ORDER BY {}", Sql::list(&self.order_by)));
        }
        clauses.extend(self.limit.clone());
        Sql::join(" ", clauses)
    }
}

/// One entry of WITH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct With {
    /// Its name.
    pub name: Ident,
    /// Whether it must be evaluated once, on its own.
    pub materialized: bool,
    /// The query.
    pub query: Query,
}

impl With {
    fn sql(&self) -> Sql {
        match self.materialized {
            true => sql!("{} AS MATERIALIZED ({})", self.name, self.query.sql()),
            false => sql!("{} AS ({})", self.name, self.query.sql()),
        }
    }
}

/// An item of FROM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// A table, a view, anything in the catalog.
    Table { name: QualifiedName, only: bool, alias: Option<Ident> },
    /// An ephemeral named relation.
    Enr { name: Ident, alias: Option<Ident> },
    /// A subquery with names for its columns (none: as the query says).
    Subquery { query: Box<Query>, lateral: bool, alias: Ident, columns: Vec<Ident> },
    /// A join.
    Join { kind: JoinType, left: Box<From>, right: Box<From>, on: Sql },
    /// Anything else that yields rows, such as a function call, with its alias.
    Rows { rows: Sql, alias: Sql },
}

/// How two items of FROM are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinType {
    /// JOIN
    Inner,
    /// LEFT JOIN
    Left,
    /// FULL JOIN
    Full,
    /// CROSS JOIN LATERAL; its condition is ignored.
    Cross,
}

impl From {
    /// A table under its own name.
    pub fn table(name: &QualifiedName) -> From {
        From::Table { name: name.clone(), only: false, alias: None }
    }

    /// An ephemeral named relation under an alias.
    pub fn enr(name: &Ident, alias: impl Into<Ident>) -> From {
        From::Enr { name: name.clone(), alias: Some(alias.into()) }
    }

    /// Joined to another item.
    pub fn join(self, kind: JoinType, right: From, on: impl Into<Sql>) -> From {
        From::Join { kind, left: Box::new(self), right: Box::new(right), on: on.into() }
    }

    /// Its text.
    pub fn sql(&self) -> Sql {
        match self {
            From::Table { name, only, alias } => {
                let only = if *only { "ONLY " } else { "" };
                with_alias(sql!("{}{}", only, name), alias.as_ref())
            }
            From::Enr { name, alias } => with_alias(name.into(), alias.as_ref()),
            From::Subquery { query, lateral, alias, columns } => {
                let lateral = if *lateral { "LATERAL " } else { "" };
                let columns = if columns.is_empty() { Sql::default() } else { sql!("({})", Sql::list(columns)) };
                sql!("{}({}) AS {}{}", lateral, query.sql(), alias, columns)
            }
            From::Join { kind: JoinType::Cross, left, right, .. } => {
                sql!("{} CROSS JOIN {}", left.sql(), right.nested())
            }
            From::Join { kind, left, right, on } => {
                sql!("{} {} {} ON ({})", left.sql(), kind.keyword(), right.nested(), on)
            }
            From::Rows { rows, alias } => sql!("{} AS {}", rows, alias),
        }
    }

    /// As the right side of a join.
    fn nested(&self) -> Sql {
        match self {
            From::Join { .. } => sql!("({})", self.sql()),
            _ => self.sql(),
        }
    }
}

fn with_alias(name: Sql, alias: Option<&Ident>) -> Sql {
    match alias {
        Some(alias) => sql!("{} AS {}", name, alias),
        None => name,
    }
}

impl JoinType {
    fn keyword(self) -> &'static str {
        match self {
            JoinType::Inner => "JOIN",
            JoinType::Left => "LEFT JOIN",
            JoinType::Full => "FULL JOIN",
            JoinType::Cross => "CROSS JOIN",
        }
    }
}

/// `INSERT INTO table (columns) query`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insert {
    /// Where to.
    pub table: QualifiedName,
    /// Which columns; none: all.
    pub columns: Vec<Ident>,
    /// What.
    pub query: Query,
}

impl Insert {
    /// Its text.
    pub fn sql(&self) -> Sql {
        if self.columns.is_empty() {
            return sql!("INSERT INTO {} {}", self.table, self.query.sql());
        }
        sql!("INSERT INTO {} ({}) {}", self.table, Sql::list(&self.columns), self.query.sql())
    }
}

/// `UPDATE ONLY table AS alias SET .. FROM .. WHERE ..`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Which table.
    pub table: QualifiedName,
    /// Its alias.
    pub alias: Ident,
    /// Assignments.
    pub set: Vec<(Ident, Sql)>,
    /// FROM
    pub from: Option<From>,
    /// WHERE, a conjunction
    pub filter: Vec<Sql>,
}

impl Update {
    /// Its text.
    pub fn sql(&self) -> Sql {
        let from = self.from.as_ref().map_or(Sql::default(), |from| sql!(" FROM {}", from.sql()));
        sql!(
            "UPDATE ONLY {} AS {} SET {}{} WHERE {}",
            self.table,
            self.alias,
            assignments(&self.set),
            from,
            Sql::all(&self.filter)
        )
    }
}

/// `DELETE FROM ONLY table AS alias WHERE ..`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// Where from.
    pub table: QualifiedName,
    /// Its alias.
    pub alias: Ident,
    /// WHERE, a conjunction
    pub filter: Vec<Sql>,
}

impl Delete {
    /// Its text.
    pub fn sql(&self) -> Sql {
        sql!("DELETE FROM ONLY {} AS {} WHERE {}", self.table, self.alias, Sql::all(&self.filter))
    }
}

/// `MERGE INTO ONLY table AS alias USING source ON .. WHEN ..`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Where to.
    pub table: QualifiedName,
    /// Its alias.
    pub alias: Ident,
    /// The source, unique per target row.
    pub source: From,
    /// ON, a conjunction
    pub on: Vec<Sql>,
    /// The actions, in order.
    pub when: Vec<Matched>,
}

/// An action of [`Merge`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matched {
    /// WHEN MATCHED [AND condition] THEN DELETE
    Delete { condition: Option<Sql> },
    /// WHEN MATCHED [AND condition] THEN UPDATE SET
    Update { condition: Option<Sql>, set: Vec<(Ident, Sql)> },
    /// WHEN NOT MATCHED [AND condition] THEN INSERT
    Insert { condition: Option<Sql>, columns: Vec<(Ident, Sql)> },
}

impl Merge {
    /// Its text.
    pub fn sql(&self) -> Sql {
        sql!(
            "MERGE INTO ONLY {} AS {} USING {} ON {} {}",
            self.table,
            self.alias,
            self.source.sql(),
            Sql::all(&self.on),
            Sql::join(" ", self.when.iter().map(Matched::sql))
        )
    }
}

impl Matched {
    fn sql(&self) -> Sql {
        let and = |condition: &Option<Sql>| condition.as_ref().map_or(Sql::default(), |c| sql!(" AND {}", c));
        match self {
            Matched::Delete { condition } => sql!("WHEN MATCHED{} THEN DELETE", and(condition)),
            Matched::Update { condition, set } => {
                sql!("WHEN MATCHED{} THEN UPDATE SET {}", and(condition), assignments(set))
            }
            Matched::Insert { condition, columns } => sql!(
                "WHEN NOT MATCHED{} THEN INSERT ({}) VALUES ({})",
                and(condition),
                Sql::list(columns.iter().map(|(name, _)| name)),
                Sql::list(columns.iter().map(|(_, value)| value))
            ),
        }
    }
}

fn assignments(set: &[(Ident, Sql)]) -> Sql {
    Sql::list(set.iter().map(|(name, value)| sql!("{} = {}", name, value)))
}

/// `CREATE TABLE name (columns)`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateTable {
    /// Its name.
    pub name: QualifiedName,
    /// Columns with type, collation and constraints.
    pub columns: Vec<(Ident, Sql)>,
    /// Storage parameters.
    pub with: Vec<Sql>,
}

impl CreateTable {
    /// Its text.
    pub fn sql(&self) -> Sql {
        let columns = Sql::list(self.columns.iter().map(|(name, ty)| sql!("{} {}", name, ty)));
        let with = if self.with.is_empty() { Sql::default() } else { sql!(" WITH ({})", Sql::list(&self.with)) };
        sql!("CREATE TABLE {} ({}){}", self.name, columns, with)
    }
}

/// `CREATE [UNIQUE] INDEX ON table (expressions)`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateIndex {
    /// Of which table.
    pub table: QualifiedName,
    /// Whether it is unique.
    pub unique: bool,
    /// Columns, or expressions in parentheses.
    pub expressions: Vec<Sql>,
}

impl CreateIndex {
    /// Its text.
    pub fn sql(&self) -> Sql {
        let unique = if self.unique { "UNIQUE " } else { "" };
        sql!("CREATE {}INDEX ON {} ({})", unique, self.table, Sql::list(&self.expressions))
    }
}
