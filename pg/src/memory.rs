//! Memory contexts of our own, for work whose garbage is dropped in one stroke.

use pgrx::pg_sys;
use std::ffi::CStr;

/// A memory context that ends with this value.
pub struct Context(pg_sys::MemoryContext);

impl Context {
    /// A new one that no other context's end takes along.
    pub fn new(name: &'static CStr) -> Self {
        let (min, init, max) = (
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        // SAFETY: TopMemoryContext lives as long as the process; the name is static, as the context keeps the pointer.
        Context(unsafe {
            pg_sys::AllocSetContextCreateInternal(pg_sys::TopMemoryContext, name.as_ptr(), min, init, max)
        })
    }

    /// Frees everything in it. Exclusive access proves that nothing borrowed from it is alive.
    pub fn reset(&mut self) {
        // SAFETY: the context is ours and alive.
        unsafe { pg_sys::MemoryContextReset(self.0) }
    }

    /// Runs `work` with this as the current context, which it stops being on every way out.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Leave(pg_sys::MemoryContext);
        impl Drop for Leave {
            fn drop(&mut self) {
                // SAFETY: the context that was current before outlives this frame.
                unsafe { pg_sys::MemoryContextSwitchTo(self.0) };
            }
        }
        // SAFETY: the context is ours and alive.
        let _leave = Leave(unsafe { pg_sys::MemoryContextSwitchTo(self.0) });
        work()
    }

    /// For calls that ask for one.
    pub(crate) fn raw(&self) -> pg_sys::MemoryContext {
        self.0
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: created by new, deleted once, and never the current one here: `enter` has left it.
        unsafe { pg_sys::MemoryContextDelete(self.0) }
    }
}
