//! Window functions and the clauses that they are called over.

use crate::expr::Expr;
use crate::nodes::pointers;
use crate::query::{Query, Scratch, SortKey, sort_keys};
use pgrx::pg_sys;
use std::marker::PhantomData;

/// A call of a window function, or of an aggregate as one.
#[derive(Clone, Copy)]
pub struct WindowCall<'q> {
    raw: *mut pg_sys::WindowFunc,
    scratch: PhantomData<&'q Scratch>,
}

impl<'q> WindowCall<'q> {
    /// # Safety
    /// `raw` lives in the scratch context.
    pub(crate) unsafe fn new(raw: *mut pg_sys::WindowFunc) -> Self {
        WindowCall { raw, scratch: PhantomData }
    }

    fn get(&self) -> &pg_sys::WindowFunc {
        // SAFETY: made only from a live WindowFunc.
        unsafe { &*self.raw }
    }

    /// The function.
    pub fn function(&self) -> pg_sys::Oid {
        self.get().winfnoid
    }

    /// Whether it is an aggregate.
    pub fn is_aggregate(&self) -> bool {
        self.get().winagg
    }

    /// `count(*)`.
    pub fn star(&self) -> bool {
        self.get().winstar
    }

    /// The number of its window clause.
    pub fn window(&self) -> u32 {
        self.get().winref
    }

    /// The arguments.
    pub fn args(&self) -> Vec<Expr<'q>> {
        // SAFETY: args holds expressions.
        unsafe { pointers(self.get().args).map(|arg| Expr::new(arg)).collect() }
    }

    /// FILTER.
    pub fn filter(&self) -> Option<Expr<'q>> {
        let filter = self.get().aggfilter;
        // SAFETY: a live expression of the same tree.
        (!filter.is_null()).then(|| unsafe { Expr::new(filter.cast()) })
    }

    /// `function(arguments)` as if it were a plain function, which is how it is printed.
    pub fn as_function(&self) -> Expr<'q> {
        let call = self.get();
        // SAFETY: only allocates a node that shares the arguments.
        unsafe {
            let form = pg_sys::CoercionForm::COERCE_EXPLICIT_CALL;
            let (ty, collation) = (call.wintype, call.wincollid);
            let function = pg_sys::makeFuncExpr(call.winfnoid, ty, call.args, collation, call.inputcollid, form);
            Expr::new(function.cast())
        }
    }
}

/// What rows a frame is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameMode {
    Range,
    Rows,
    Groups,
}

/// One end of a frame.
#[derive(Clone, Copy)]
pub enum FrameEnd<'q> {
    UnboundedPreceding,
    Preceding(Expr<'q>),
    CurrentRow,
    Following(Expr<'q>),
    UnboundedFollowing,
}

/// What a frame leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusion {
    Nothing,
    CurrentRow,
    Group,
    Ties,
}

/// A frame.
#[derive(Clone, Copy)]
pub struct Frame<'q> {
    pub mode: FrameMode,
    pub start: FrameEnd<'q>,
    pub end: FrameEnd<'q>,
    pub exclusion: Exclusion,
}

impl<'q> Frame<'q> {
    /// # Safety
    /// The offsets are live expressions where the options say so.
    pub(crate) unsafe fn new(options: i32, start: *mut pg_sys::Node, end: *mut pg_sys::Node) -> Self {
        let has = |flag: u32| options as u32 & flag != 0;
        let mode = if has(pg_sys::FRAMEOPTION_ROWS) {
            FrameMode::Rows
        } else if has(pg_sys::FRAMEOPTION_GROUPS) {
            FrameMode::Groups
        } else {
            FrameMode::Range
        };
        // SAFETY: as the caller says.
        let offset = |node| unsafe { Expr::new(node) };
        let start = if has(pg_sys::FRAMEOPTION_START_UNBOUNDED_PRECEDING) {
            FrameEnd::UnboundedPreceding
        } else if has(pg_sys::FRAMEOPTION_START_OFFSET_PRECEDING) {
            FrameEnd::Preceding(offset(start))
        } else if has(pg_sys::FRAMEOPTION_START_OFFSET_FOLLOWING) {
            FrameEnd::Following(offset(start))
        } else {
            FrameEnd::CurrentRow
        };
        let end = if has(pg_sys::FRAMEOPTION_END_UNBOUNDED_FOLLOWING) {
            FrameEnd::UnboundedFollowing
        } else if has(pg_sys::FRAMEOPTION_END_OFFSET_PRECEDING) {
            FrameEnd::Preceding(offset(end))
        } else if has(pg_sys::FRAMEOPTION_END_OFFSET_FOLLOWING) {
            FrameEnd::Following(offset(end))
        } else {
            FrameEnd::CurrentRow
        };
        let exclusion = if has(pg_sys::FRAMEOPTION_EXCLUDE_CURRENT_ROW) {
            Exclusion::CurrentRow
        } else if has(pg_sys::FRAMEOPTION_EXCLUDE_GROUP) {
            Exclusion::Group
        } else if has(pg_sys::FRAMEOPTION_EXCLUDE_TIES) {
            Exclusion::Ties
        } else {
            Exclusion::Nothing
        };
        Frame { mode, start, end, exclusion }
    }
}

/// A window clause.
pub struct WindowClause<'q> {
    /// The targets that it partitions by, by sort-group number.
    pub partition: Vec<u32>,
    /// ORDER BY.
    pub order: Vec<SortKey>,
    pub frame: Frame<'q>,
}

impl<'q> Query<'q> {
    /// The window clause with this number.
    pub fn window(&self, number: u32) -> Option<WindowClause<'q>> {
        // SAFETY: windowClause holds WindowClause nodes, their lists SortGroupClause nodes.
        unsafe {
            let mut all = pointers::<pg_sys::WindowClause>(self.get().windowClause);
            let clause = all.find(|clause| (**clause).winref == number)?;
            let keys = pointers::<pg_sys::SortGroupClause>((*clause).partitionClause);
            Some(WindowClause {
                partition: keys.map(|key| (*key).tleSortGroupRef).collect(),
                order: sort_keys((*clause).orderClause),
                frame: Frame::new((*clause).frameOptions, (*clause).startOffset, (*clause).endOffset),
            })
        }
    }
}
