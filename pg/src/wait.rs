//! Waiting for the process latch and one file descriptor at a time.

use pgrx::pg_sys;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// What a wait may be ended by, besides the latch and the postmaster's death (which ends the process).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// The descriptor has something to read.
    Read,
    /// It has something to read, or room to write.
    ReadWrite,
}

/// A kept wait set of the process latch, the postmaster and one descriptor.
pub struct WaitSet {
    set: *mut pg_sys::WaitEventSet,
    interest: Interest,
}

/// Place of the descriptor in the set.
const DESCRIPTOR: i32 = 2;

impl WaitSet {
    /// For a descriptor that stays open as long as the set lives.
    pub fn new(fd: RawFd) -> Self {
        // SAFETY: the set lives in TopMemoryContext (or is owned by nobody), so it is valid until dropped.
        unsafe {
            #[cfg(any(feature = "pg15", feature = "pg16"))]
            let set = pg_sys::CreateWaitEventSet(pg_sys::TopMemoryContext, 3);
            #[cfg(not(any(feature = "pg15", feature = "pg16")))]
            let set = pg_sys::CreateWaitEventSet(std::ptr::null_mut(), 3);
            let none = pg_sys::PGINVALID_SOCKET;
            let nothing = std::ptr::null_mut();
            pg_sys::AddWaitEventToSet(set, pg_sys::WL_LATCH_SET, none, pg_sys::MyLatch, nothing);
            pg_sys::AddWaitEventToSet(set, pg_sys::WL_EXIT_ON_PM_DEATH, none, std::ptr::null_mut(), nothing);
            pg_sys::AddWaitEventToSet(set, pg_sys::WL_SOCKET_READABLE, fd, std::ptr::null_mut(), nothing);
            WaitSet { set, interest: Interest::Read }
        }
    }

    /// Sleeps until the latch is set, the descriptor is ready or the time is over. The latch is reset: look at
    /// everything that could have set it afterwards.
    pub fn wait(&mut self, interest: Interest, timeout: Option<Duration>) {
        let timeout = timeout.map_or(-1, |t| t.as_millis().try_into().unwrap_or(i64::MAX));
        // SAFETY: the set is alive; `event` is only written to.
        unsafe {
            if interest != self.interest {
                let events = match interest {
                    Interest::Read => pg_sys::WL_SOCKET_READABLE,
                    Interest::ReadWrite => pg_sys::WL_SOCKET_READABLE | pg_sys::WL_SOCKET_WRITEABLE,
                };
                pg_sys::ModifyWaitEvent(self.set, DESCRIPTOR, events, std::ptr::null_mut());
                self.interest = interest;
            }
            let mut event: pg_sys::WaitEvent = std::mem::zeroed();
            pg_sys::WaitEventSetWait(self.set, timeout, &mut event, 1, pg_sys::PG_WAIT_EXTENSION);
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
    }
}

impl Drop for WaitSet {
    fn drop(&mut self) {
        // SAFETY: created by new and freed once.
        unsafe { pg_sys::FreeWaitEventSet(self.set) }
    }
}

/// Sleeps until the latch is set or the time is over, and resets the latch.
pub fn sleep(timeout: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: waits on this process's own latch.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, timeout.as_millis() as i64, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}

/// Lets another thread wake this process's main thread out of [`WaitSet::wait`].
pub struct WakeUp(OwnedFd);

impl WakeUp {
    /// A new one.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a successful call returns a descriptor that nobody else owns.
        unsafe {
            match libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(WakeUp(OwnedFd::from_raw_fd(fd))),
            }
        }
    }

    /// For [`WaitSet::new`].
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// What the other thread calls.
    pub fn waker(&self) -> io::Result<impl Fn() + Send + use<>> {
        let file = File::from(self.0.try_clone()?);
        // A full counter means that a wake-up is pending already.
        Ok(move || drop((&file).write(&1u64.to_ne_bytes())))
    }

    /// Forgets wake-ups so far. Look for their reasons afterwards.
    pub fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: reads at most eight bytes into eight; nothing to read is no harm.
        unsafe { libc::read(self.fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}
