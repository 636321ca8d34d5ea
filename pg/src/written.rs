//! From a text, or a view, to the query that PostgreSQL would plan: in a memory context of its own.

use crate::complete::{complete, settle};
use crate::deparse::Printing;
use crate::memory::Context;
use crate::nodes::{copy, pointers, text};
use crate::place;
use crate::query::{Query, RelationEntry};
use pgrx::pg_sys;
use std::ffi::CString;
use std::marker::PhantomData;

/// A memory context for one analysis.
pub struct Scratch {
    // Neither Send nor Sync: PostgreSQL memory belongs to the backend's only thread.
    _private: PhantomData<*mut ()>,
}

/// Runs `f` in a memory context of its own; nothing that borrows it can leave.
pub fn with_scratch<R>(f: impl for<'q> FnOnce(&'q Scratch) -> R) -> R {
    Context::new(c"pg_trickle analysis").enter(|| f(&Scratch { _private: PhantomData }))
}

/// Why a text is not one query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAQuery {
    /// The text holds this many statements.
    Statements(usize),
    /// The statement is another command, such as `INSERT`.
    Command(String),
    /// `SELECT … INTO`.
    Into,
    /// A NUL byte.
    Nul,
}

impl Scratch {
    /// Parses, analyses and [completes](crate::complete) one SELECT under the caller's search_path. What PostgreSQL itself finds wrong
    /// with it is raised as PostgreSQL's own error.
    pub fn parse(&self, text: &str) -> Result<Written<'_>, NotAQuery> {
        let text = CString::new(text).map_err(|_| NotAQuery::Nul)?;
        // SAFETY: `text` outlives every call; the trees are allocated in the scratch context, which `self` stands for.
        unsafe {
            let raw = place::within(&text, || pg_sys::pg_parse_query(text.as_ptr()));
            let statements: Vec<*mut pg_sys::RawStmt> = pointers(raw).collect();
            let &[statement] = statements.as_slice() else {
                return Err(NotAQuery::Statements(statements.len()));
            };
            check_select((*statement).stmt)?;
            let (none, environment) = (std::ptr::null(), std::ptr::null_mut());
            let query = place::within(&text, || {
                pg_sys::parse_analyze_fixedparams(statement, text.as_ptr(), none, 0, environment)
            });
            complete(self, query);
            Ok(Written { raw: query, scratch: self })
        }
    }

    /// The query of a view.
    pub fn view(&self, view: pg_sys::Oid) -> Written<'_> {
        // SAFETY: the relation stays open while its rule is copied into the scratch context; an error in between
        // releases it with the transaction.
        unsafe {
            let relation = pg_sys::relation_open(view, pg_sys::AccessShareLock as _);
            let query = copy(pg_sys::get_view_query(relation));
            pg_sys::relation_close(relation, pg_sys::NoLock as _);
            Written { raw: query, scratch: self }
        }
    }
}

/// An analysed SELECT as it was written: views are views.
#[derive(Clone, Copy)]
pub struct Written<'q> {
    raw: *mut pg_sys::Query,
    scratch: &'q Scratch,
}

impl<'q> Written<'q> {
    /// The query that PostgreSQL would plan; locks what it reads, as using it would.
    pub fn rewritten(&self) -> Query<'q> {
        // SAFETY: the rewriter gets a copy, in the scratch context.
        unsafe {
            let query = copy(self.raw);
            pg_sys::AcquireRewriteLocks(query, true, false);
            Query::only(pg_sys::QueryRewrite(query))
        }
    }

    /// The same with the choices made that views leave open, if there are any and all that they read is readable.
    pub fn settled(&self, readable: &dyn Fn(&RelationEntry) -> bool) -> Option<Written<'q>> {
        // SAFETY: the copy is nobody else's.
        unsafe {
            let raw = copy(self.raw);
            settle(self.scratch, raw, readable).then_some(Written { raw, scratch: self.scratch })
        }
    }

    /// Its text, which means the same to everybody.
    pub fn text(&self, _: &Printing) -> String {
        // SAFETY: the deparser may change what it prints: it gets a copy.
        unsafe { text(pg_sys::pg_get_querydef(copy(self.raw), false)) }
    }
}

/// # Safety
/// `statement` is the node of a raw statement.
unsafe fn check_select(statement: *mut pg_sys::Node) -> Result<(), NotAQuery> {
    // SAFETY: the tag decides the struct; the leftmost branch of a set operation is a SelectStmt again.
    unsafe {
        if (*statement).type_ != pg_sys::NodeTag::T_SelectStmt {
            let tag = pg_sys::CreateCommandTag(statement);
            return Err(NotAQuery::Command(text(pg_sys::GetCommandTagName(tag))));
        }
        let mut select = statement.cast::<pg_sys::SelectStmt>();
        while !(*select).larg.is_null() {
            select = (*select).larg;
        }
        if (*select).intoClause.is_null() { Ok(()) } else { Err(NotAQuery::Into) }
    }
}
