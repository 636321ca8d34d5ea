//! What no stream table can be made of, and what makes a query opaque as a whole.

use super::reliable;
use super::scalar::Types;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys;
use pgtrickle_engine::ir::Ty;
use pgtrickle_engine::sql::Ident;
use pgtrickle_pg::calls::{
    Call, Moment, Volatility, calls, function_signature, has_fleeting_columns, moments, volatility,
};
use pgtrickle_pg::functions::{Computed, reads_immutably};
use pgtrickle_pg::query::{Entry, NotAQuery, Query};
use pgtrickle_pg::table::{Relation, quoted};
use std::fmt;

/// A query that no stream table can be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The text is not one SELECT.
    NotAQuery(NotAQuery),
    /// FOR UPDATE and its like.
    Locking,
    /// A data-modifying statement in WITH.
    ModifyingCte,
    /// A volatile function is called.
    Volatile { function: String },
    /// A temporary table is read.
    Temporary { table: String },
    /// A system catalog is read.
    System { table: String },
    /// The engine's own tables are read.
    OwnTables { table: String },
    /// The stream table would read itself.
    Itself { table: String },
    /// Two columns have the same name.
    DuplicateColumn { name: String },
    /// There are no columns.
    NoColumns,
    /// A column's type is none that a table can have.
    PseudoType { column: String, ty: String },
}

impl Refusal {
    /// The SQLSTATE.
    pub fn code(&self) -> Code {
        match self {
            Refusal::NotAQuery(NotAQuery::Statements(_) | NotAQuery::Nul) => Code::ERRCODE_SYNTAX_ERROR,
            Refusal::NotAQuery(_) => Code::ERRCODE_WRONG_OBJECT_TYPE,
            Refusal::Locking
            | Refusal::ModifyingCte
            | Refusal::Volatile { .. }
            | Refusal::Temporary { .. }
            | Refusal::System { .. }
            | Refusal::OwnTables { .. } => Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            Refusal::Itself { .. } => Code::ERRCODE_INVALID_RECURSION,
            Refusal::DuplicateColumn { .. } => Code::ERRCODE_DUPLICATE_COLUMN,
            Refusal::NoColumns | Refusal::PseudoType { .. } => Code::ERRCODE_INVALID_TABLE_DEFINITION,
        }
    }

    /// What is wrong, beyond the message.
    pub fn detail(&self) -> Option<String> {
        Some(match self {
            Refusal::NotAQuery(NotAQuery::Statements(count)) => format!("The text has {count} statements."),
            Refusal::NotAQuery(NotAQuery::Command(command)) => format!("The statement is {command}."),
            Refusal::NotAQuery(NotAQuery::Into) => "The statement is SELECT INTO.".into(),
            Refusal::NotAQuery(NotAQuery::Nul) => "The text has a NUL character.".into(),
            Refusal::Volatile { function } => {
                format!("{function} is volatile: it may return something else at each call.")
            }
            Refusal::Temporary { table } => {
                format!("{table} is a temporary table, which no other session can read.")
            }
            Refusal::System { table } => {
                format!("Changes of {table} are not available through logical decoding.")
            }
            Refusal::OwnTables { table } => format!("{table} is internal to pg_trickle."),
            Refusal::Itself { table } => format!("The query reads {table}, directly or through views."),
            Refusal::PseudoType { column, ty } => format!("Column \"{column}\" has type {ty}."),
            Refusal::Locking | Refusal::ModifyingCte | Refusal::DuplicateColumn { .. } | Refusal::NoColumns => {
                return None;
            }
        })
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Refusal::NotAQuery(_) => "Give exactly one SELECT (or VALUES, or WITH … SELECT).",
            Refusal::Locking => "Leave out FOR UPDATE, FOR SHARE and the like: a stream table locks nothing.",
            Refusal::ModifyingCte => "Leave out INSERT, UPDATE, DELETE and MERGE in WITH.",
            Refusal::Volatile { .. } => {
                "If the function always returns the same result for the same arguments, declare it IMMUTABLE; \
                 otherwise compute its value outside the stream table."
            }
            Refusal::Temporary { .. } => "Use a permanent table.",
            Refusal::System { .. } => "Copy what you need into a table of your own.",
            Refusal::OwnTables { .. } => "Read the stream tables themselves.",
            Refusal::Itself { .. } => "Use WITH RECURSIVE for a recursive query.",
            Refusal::DuplicateColumn { .. } => "Give the columns different names with AS.",
            Refusal::NoColumns => "Select at least one column.",
            Refusal::PseudoType { .. } => "Cast it to a type that a table's column can have.",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NotAQuery(_) => write!(f, "a stream table is defined by one SELECT"),
            Refusal::Locking => write!(f, "a stream table's query cannot lock rows"),
            Refusal::ModifyingCte => write!(f, "a stream table's query cannot modify data"),
            Refusal::Volatile { function } => write!(f, "a stream table's query cannot call {function}"),
            Refusal::Temporary { table } | Refusal::System { table } | Refusal::OwnTables { table } => {
                write!(f, "a stream table cannot read {table}")
            }
            Refusal::Itself { table } => write!(f, "stream table {table} cannot read itself"),
            Refusal::DuplicateColumn { name } => {
                write!(f, "the stream table would have two columns called \"{name}\"")
            }
            Refusal::NoColumns => write!(f, "the stream table would have no columns"),
            Refusal::PseudoType { column, ty } => {
                write!(f, "column \"{column}\" cannot have type {ty}")
            }
        }
    }
}

/// Checks everything that does not depend on how the query is mapped; gives the columns of the stream table.
pub(super) fn check(query: Query<'_>, types: &Types<'_>) -> Result<Vec<(Ident, Ty)>, Refusal> {
    for part in query.descendants() {
        if part.features().modifying_cte || !part.is_select() {
            return Err(Refusal::ModifyingCte);
        }
        if part.features().locking {
            return Err(Refusal::Locking);
        }
    }
    if let Some(call) = calls(query).iter().find(|call| volatility(call.function) == Volatility::Volatile) {
        return Err(Refusal::Volatile { function: function_signature(call.function) });
    }
    if moments(query) == Some(Moment::NextValue) {
        return Err(Refusal::Volatile { function: "nextval".into() });
    }
    query.relations().iter().try_for_each(|entry| check_table(&Relation::describe(entry.relid)))?;
    columns(query, types)
}

fn check_table(relation: &Relation) -> Result<(), Refusal> {
    let table = quoted(&relation.schema, &relation.name);
    if relation.persistence == 't' {
        return Err(Refusal::Temporary { table });
    }
    if relation.is_system() {
        return Err(Refusal::System { table });
    }
    if ["pgtrickle", "pgtrickle_changes"].contains(&relation.schema.as_str()) {
        return Err(Refusal::OwnTables { table });
    }
    Ok(())
}

fn columns(query: Query<'_>, types: &Types<'_>) -> Result<Vec<(Ident, Ty)>, Refusal> {
    let names = query.column_names();
    if names.is_empty() {
        return Err(Refusal::NoColumns);
    }
    if let Some((i, name)) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
        debug_assert!(i > 0);
        return Err(Refusal::DuplicateColumn { name: name.clone() });
    }
    let mut columns = Vec::new();
    for (name, target) in names.into_iter().zip(query.targets().iter().filter(|target| !target.junk)) {
        let ty = target.expr.ty();
        if types.facts(ty).pseudo && ty.oid != pg_sys::UNKNOWNOID {
            return Err(Refusal::PseudoType { column: name, ty: types.name(ty) });
        }
        columns.push((Ident::new(name), types.ty(ty)));
    }
    Ok(columns)
}

/// Why a query as a whole cannot be maintained by its changes, if it cannot.
pub(super) fn opaque_reason(query: Query<'_>, types: &Types<'_>) -> Option<String> {
    if query.features().row_security {
        return Some("row security policies apply to what it reads".into());
    }
    let unreliable = |call: &&Call| volatility(call.function) == Volatility::Stable && !reliable::is_reliable(call);
    if let Some(call) = calls(query).iter().find(unreliable) {
        let function = function_signature(call.function);
        return Some(format!("it calls {function}, whose result may change with time or other tables"));
    }
    if has_fleeting_columns(query) {
        return Some("it uses a system column, which may change where nothing else of its row does".into());
    }
    if let Some(ty) = query.descendants().iter().find_map(|part| settings_type(*part, types)) {
        return Some(format!("it makes values of type {ty} from JSON or XML, which depends on settings"));
    }
    moments(query).map(|moment| match moment {
        Moment::Json => "it makes JSON from values whose text depends on settings".into(),
        _ => "it uses CURRENT_DATE, CURRENT_USER or another value of the moment".into(),
    })
}

/// The type of a column of XMLTABLE or JSON_TABLE whose values are read from text as settings or the clock say.
fn settings_type(query: Query<'_>, types: &Types<'_>) -> Option<String> {
    (1..=query.entries()).find_map(|number| match query.entry(number) {
        Entry::Functions(functions) if matches!(functions.rows, Computed::Table(_)) => {
            functions.columns.iter().find(|column| !reads_immutably(column.ty)).map(|column| types.name(column.ty))
        }
        _ => None,
    })
}
