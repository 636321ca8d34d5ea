//! Walking PostgreSQL's trees, and reading its lists, sets and strings.

use pgrx::pg_sys;
use std::ffi::{CStr, c_void};

/// How a walk goes on from the node just seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// Into its children.
    Into,
    /// Past its children.
    Past,
    /// No further.
    Stop,
}

/// Visits `node` and all below it, subqueries included.
///
/// # Safety
/// `node` is a live query or expression tree, or null.
pub(crate) unsafe fn walk(node: *mut pg_sys::Node, see: &mut dyn FnMut(*mut pg_sys::Node) -> Walk) {
    let mut visit = Visit { see };
    // SAFETY: `step` gets back the pointer to `visit`, which outlives the call.
    unsafe { step(node, (&raw mut visit).cast()) };
}

struct Visit<'a> {
    see: &'a mut dyn FnMut(*mut pg_sys::Node) -> Walk,
}

/// # Safety
/// `cx` points to a [`Visit`].
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn step(node: *mut pg_sys::Node, cx: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: called by `walk` and by PostgreSQL on the children, with the same pointer.
    unsafe {
        match ((*cx.cast::<Visit<'_>>()).see)(node) {
            Walk::Stop => true,
            Walk::Past => false,
            Walk::Into if (*node).type_ == pg_sys::NodeTag::T_Query => {
                let flags = pg_sys::QTW_IGNORE_JOINALIASES as i32;
                pg_sys::query_tree_walker(node.cast(), Some(step), cx, flags)
            }
            Walk::Into => pg_sys::expression_tree_walker(node, Some(step), cx),
        }
    }
}

/// # Safety
/// `set` is a live bitmap set of attribute numbers shifted by the lowest system column, or null.
pub(crate) unsafe fn attribute_numbers(set: *mut pg_sys::Bitmapset) -> Vec<i16> {
    let mut found = Vec::new();
    let mut member = -1;
    loop {
        // SAFETY: as the caller says.
        member = unsafe { pg_sys::bms_next_member(set, member) };
        if member < 0 {
            return found;
        }
        found.push((member + pg_sys::FirstLowInvalidHeapAttributeNumber) as i16);
    }
}

/// # Safety
/// `node` is a node of type `T` or null.
pub(crate) unsafe fn copy<T>(node: *mut T) -> *mut T {
    // SAFETY: as the caller says.
    unsafe { pg_sys::copyObjectImpl(node.cast()).cast() }
}

/// # Safety
/// `list` is a list or null.
pub(crate) unsafe fn length(list: *mut pg_sys::List) -> usize {
    // SAFETY: as the caller says.
    if list.is_null() { 0 } else { unsafe { (*list).length as usize } }
}

/// The numbers in a list of (non-negative) integers.
///
/// # Safety
/// `list` is null or a list of integers.
pub(crate) unsafe fn integers(list: *mut pg_sys::List) -> Vec<u32> {
    // SAFETY: as the caller says.
    unsafe { (0..length(list)).map(|i| (*(*list).elements.add(i)).int_value as u32).collect() }
}

/// The pointers in a list.
///
/// # Safety
/// `list` is null or a list of pointers to `T` that is not changed while the iterator is in use.
pub(crate) unsafe fn pointers<T>(list: *mut pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: as the caller says; the index stays below the length.
    unsafe { (0..length(list)).map(move |i| (*(*list).elements.add(i)).ptr_value.cast()) }
}

/// # Safety
/// `string` is a C string or null (read as empty).
pub(crate) unsafe fn text(string: *const std::ffi::c_char) -> String {
    // SAFETY: as the caller says.
    if string.is_null() { String::new() } else { unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned() }
}
