//! What a command drops, as an event trigger learns it before the command runs: from the command itself, however it is written and
//! wherever it stands.

use pgrx::{PgList, pg_sys};
use std::ffi::CStr;

/// What a command names that is to be dropped.
#[derive(Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Extensions by name, and whether by CASCADE.
    Extensions(Vec<String>, bool),
    /// Schemas by name, and whether by CASCADE.
    Schemas(Vec<String>, bool),
    /// All that these roles own.
    OwnedBy(Vec<u32>),
}

/// What the command drops for which an event trigger is called; None if it is another one.
///
/// # Safety
/// `fcinfo` is that of a call by PostgreSQL.
pub unsafe fn dropped(fcinfo: pg_sys::FunctionCallInfo) -> Option<Dropped> {
    // SAFETY: each cast follows the node's tag; the command outlives the call.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_EventTriggerData {
            return None;
        }
        let command = (*context.cast::<pg_sys::EventTriggerData>()).parsetree;
        match (*command).type_ {
            pg_sys::NodeTag::T_DropStmt => {
                let drop = command.cast::<pg_sys::DropStmt>();
                let cascade = (*drop).behavior == pg_sys::DropBehavior::DROP_CASCADE;
                match (*drop).removeType {
                    pg_sys::ObjectType::OBJECT_EXTENSION => Some(Dropped::Extensions(names((*drop).objects), cascade)),
                    pg_sys::ObjectType::OBJECT_SCHEMA => Some(Dropped::Schemas(names((*drop).objects), cascade)),
                    _ => None,
                }
            }
            pg_sys::NodeTag::T_DropOwnedStmt => {
                let roles = PgList::<pg_sys::RoleSpec>::from_pg((*command.cast::<pg_sys::DropOwnedStmt>()).roles);
                Some(Dropped::OwnedBy(roles.iter_ptr().map(|r| pg_sys::get_rolespec_oid(r, true).to_u32()).collect()))
            }
            _ => None,
        }
    }
}

/// # Safety
/// `list` is one of names without qualification.
unsafe fn names(list: *mut pg_sys::List) -> Vec<String> {
    // SAFETY: as the caller says.
    unsafe {
        let names = PgList::<pg_sys::String>::from_pg(list);
        names.iter_ptr().map(|name| CStr::from_ptr((*name).sval).to_string_lossy().into_owned()).collect()
    }
}

/// Defines a C function for event triggers, by the symbol `$symbol`; `$body` is told what the command drops.
#[macro_export]
macro_rules! before_drop_function {
    ($symbol:ident, $info:ident, $body:path) => {
        #[doc(hidden)]
        #[::pgrx::pg_guard]
        unsafe extern "C-unwind" fn before_drop_call(
            fcinfo: ::pgrx::pg_sys::FunctionCallInfo,
        ) -> ::pgrx::pg_sys::Datum {
            // SAFETY: PostgreSQL calls us with the call's own information.
            if let Some(dropped) = unsafe { $crate::drops::dropped(fcinfo) } {
                $body(dropped);
            }
            ::pgrx::pg_sys::Datum::from(0)
        }
        $crate::variadic_function!($symbol, $info, before_drop_call);
    };
}
