//! Shared memory as plain structs of atomics, and latches that other processes may set.
//!
//! Everything shared is an atomic or an array of them, all zero at start: a reader may see a mix of old and new
//! values, never a torn one, and no lock is held while reading.

use pgrx::pg_sys;
use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::sync::atomic::*;

/// Types that may live in shared memory: no pointers, valid when all bytes are zero, every access atomic.
///
/// # Safety
/// The implementor consists only of atomics, and `ZERO` has all bytes zero.
pub unsafe trait Shareable: Sync + 'static {
    const ZERO: Self;
}

macro_rules! shareable {
    ($($t:ty),*) => { $(
        // SAFETY: a lone atomic, whose zero is all zero bytes.
        unsafe impl Shareable for $t {
            const ZERO: Self = <$t>::new(0);
        }
    )* };
}
shareable!(AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicI32, AtomicI64, AtomicUsize);

// SAFETY: as above; false is zero.
unsafe impl Shareable for AtomicBool {
    const ZERO: Self = AtomicBool::new(false);
}

// SAFETY: an array of shareable values has no padding of its own.
unsafe impl<T: Shareable, const N: usize> Shareable for [T; N] {
    const ZERO: Self = [const { T::ZERO }; N];
}

/// Declares a struct that may live in shared memory; every field must be [`Shareable`].
#[macro_export]
macro_rules! shared_struct {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident: $ty:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty,)* }
        // SAFETY: each field is Shareable, as the initialiser below requires of it.
        unsafe impl $crate::shmem::Shareable for $name {
            const ZERO: Self = Self { $($field: <$ty as $crate::shmem::Shareable>::ZERO,)* };
        }
        // SAFETY: the struct holds atomics alone.
        unsafe impl ::pgrx::PGRXSharedMemory for $name {}
    };
}

/// Declares the one static through which a [`shared_struct!`] is reached; register it with `pg_shmem_init!(NAME = ())`.
#[macro_export]
macro_rules! shared_static {
    ($(#[$meta:meta])* pub static $name:ident: $ty:ty = $label:literal) => {
        $(#[$meta])*
        pub static $name: $crate::shmem::Zeroed<$ty> = $crate::shmem::Zeroed::new($label);
    };
}

/// Shared memory that starts as zeros. They are written in place: as a value of its own it would not fit on the stack.
pub struct Zeroed<T> {
    label: &'static CStr,
    place: UnsafeCell<*mut T>,
}

// SAFETY: the pointer is written once per process, before any thread is there; what it points to is shared by design.
unsafe impl<T: Shareable> Sync for Zeroed<T> {}

impl<T: Shareable> Zeroed<T> {
    /// Nothing yet. The label must be this extension's own and used once.
    pub const fn new(label: &'static CStr) -> Self {
        Zeroed { label, place: UnsafeCell::new(std::ptr::null_mut()) }
    }

    /// The memory; panics unless the library was preloaded.
    pub fn get(&self) -> &'static T {
        // SAFETY: the memory lives as long as the process, and all zeros are a valid value.
        unsafe { self.place.get().read().as_ref().expect("shared memory exists only when the library is preloaded") }
    }
}

/// `AddinShmemInitLock` in the array of named locks, the same in all versions that are supported.
const ADDIN_SHMEM_INIT_LOCK: usize = 21;

impl<T: Shareable> pgrx::PgSharedMemoryInitialization for Zeroed<T> {
    type Value = ();

    unsafe fn on_shmem_request(&'static self) {
        // SAFETY: called by the hook that is made for this.
        unsafe { pg_sys::RequestAddinShmemSpace(size_of::<T>()) }
    }

    unsafe fn on_shmem_startup(&'static self, (): ()) {
        // SAFETY: the lock is that of whoever makes shared memory; what is made has the size and the alignment of a cache line.
        unsafe {
            let lock = &raw mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT_LOCK)).lock;
            pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
            let mut found = false;
            let place = pg_sys::ShmemInitStruct(self.label.as_ptr(), size_of::<T>(), &mut found).cast::<T>();
            assert!(place.is_aligned(), "shared memory is not aligned");
            if !found {
                place.write_bytes(0, 1);
            }
            *self.place.get() = place;
            pg_sys::LWLockRelease(lock);
        }
    }
}

/// A place in shared memory where a process publishes its latch so that others can wake it.
///
/// The pointer stays valid for the life of the server: process latches are part of the PGPROC array in shared memory,
/// mapped at one address in every process. A stale one wakes some other process once, which latches must tolerate.
#[repr(transparent)]
pub struct LatchSlot(AtomicUsize);

// SAFETY: a transparent wrapper of an atomic.
unsafe impl Shareable for LatchSlot {
    const ZERO: Self = LatchSlot(AtomicUsize::new(0));
}

impl LatchSlot {
    /// Makes this process the one that [`LatchSlot::wake`] wakes.
    pub fn publish(&self) {
        // SAFETY: MyLatch is set for the whole life of a process that runs our code.
        self.0.store(unsafe { pg_sys::MyLatch } as usize, Ordering::SeqCst);
    }

    /// As [`LatchSlot::publish`], if the place is free, or was left by a terminated process that had our latch before us. Says
    /// whether it was.
    pub fn try_publish(&self) -> bool {
        // SAFETY: as above.
        let latch = unsafe { pg_sys::MyLatch } as usize;
        self.0.load(Ordering::SeqCst) == latch
            || self.0.compare_exchange(0, latch, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// Nobody is to be woken any more, if it was this process.
    pub fn retract(&self) {
        // SAFETY: as above.
        let latch = unsafe { pg_sys::MyLatch } as usize;
        let _ = self.0.compare_exchange(latch, 0, Ordering::SeqCst, Ordering::Relaxed);
    }

    /// Nobody is to be woken any more.
    pub fn clear(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    /// Wakes the process that published itself, if any. Never blocks.
    pub fn wake(&self) {
        let latch = self.0.load(Ordering::SeqCst) as *mut pg_sys::Latch;
        if !latch.is_null() {
            // SAFETY: see the type's comment; SetLatch neither blocks nor raises.
            unsafe { pg_sys::SetLatch(latch) }
        }
    }
}
