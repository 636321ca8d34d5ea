//! Commands that are to be seen before PostgreSQL runs them: those on whole databases, and COMMIT PREPARED.

use crate::bindings::raw;
use pgrx::{PgList, pg_guard, pg_sys};
use std::ffi::{CStr, c_char};
use std::sync::OnceLock;

/// Told the name of a database that nobody may be connected to for the command that follows.
pub type Before = fn(database: &str);

/// Told that a prepared transaction is about to be committed. It must not raise.
pub type Prepared = fn();

static BEFORE: OnceLock<(Before, Prepared, pg_sys::ProcessUtility_hook_type)> = OnceLock::new();

/// Calls `before` ahead of each command that PostgreSQL refuses while somebody is connected to a database, `prepared` ahead
/// of each COMMIT PREPARED. While the library is preloaded, once.
pub fn watch_commands(before: Before, prepared: Prepared) {
    // SAFETY: a plain variable of the postmaster, which has one thread.
    unsafe {
        BEFORE.get_or_init(|| (before, prepared, pg_sys::ProcessUtility_hook));
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}

// Not guarded: of an error that passes through a guard, position and names of objects are lost, and every utility statement
// of every session comes by here. An error jumps over this function, in which nothing needs dropping.
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the statement is a complete one, as everywhere behind the parser; the other arguments are passed on.
    unsafe {
        if let Some(database) = emptied_database((*statement).utilityStmt) {
            run_before(database);
        }
        if let Some((_, prepared, _)) = BEFORE.get().filter(|_| commits_prepared((*statement).utilityStmt)) {
            prepared();
        }
        let next = BEFORE.get().and_then(|(_, _, next)| *next).unwrap_or(raw::standard_ProcessUtility);
        next(statement, text, read_only_tree, context, params, environment, dest, completion)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn run_before(database: *const c_char) {
    // SAFETY: a name in the statement, which outlives its execution.
    let database = unsafe { CStr::from_ptr(database) }.to_string_lossy();
    if let Some((before, _, _)) = BEFORE.get() {
        before(&database);
    }
}

/// # Safety
/// `node` is a parsed utility statement.
unsafe fn commits_prepared(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the cast follows the node's tag.
    unsafe {
        (*node).type_ == pg_sys::NodeTag::T_TransactionStmt
            && (*node.cast::<pg_sys::TransactionStmt>()).kind == pg_sys::TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED
    }
}

/// The database that must have no connections for this command to succeed.
///
/// # Safety
/// `node` is a parsed utility statement.
unsafe fn emptied_database(node: *mut pg_sys::Node) -> Option<*const c_char> {
    use pg_sys::NodeTag;
    // SAFETY: each cast follows the node's tag.
    unsafe {
        let name = match (*node).type_ {
            NodeTag::T_DropdbStmt => (*node.cast::<pg_sys::DropdbStmt>()).dbname,
            NodeTag::T_RenameStmt => {
                let rename = node.cast::<pg_sys::RenameStmt>();
                if (*rename).renameType != pg_sys::ObjectType::OBJECT_DATABASE {
                    return None;
                }
                (*rename).subname
            }
            NodeTag::T_AlterDatabaseStmt => {
                let alter = node.cast::<pg_sys::AlterDatabaseStmt>();
                option((*alter).options, c"tablespace")?;
                (*alter).dbname
            }
            NodeTag::T_CreatedbStmt => {
                let create = node.cast::<pg_sys::CreatedbStmt>();
                let template = option((*create).options, c"template").map(|o| (*o).arg).filter(|arg| !arg.is_null());
                match template {
                    Some(arg) if (*arg).type_ == NodeTag::T_String => (*arg.cast::<pg_sys::String>()).sval,
                    Some(_) => return None,
                    None => c"template1".as_ptr().cast_mut(),
                }
            }
            _ => return None,
        };
        (!name.is_null()).then_some(name.cast_const())
    }
}

unsafe fn option(options: *mut pg_sys::List, name: &CStr) -> Option<*mut pg_sys::DefElem> {
    // SAFETY: options of utility statements are lists of DefElem.
    unsafe {
        let list = PgList::<pg_sys::DefElem>::from_pg(options);
        list.iter_ptr().find(|&element| CStr::from_ptr((*element).defname) == name)
    }
}
