//! Permits for bytes: what bounds the queue's memory.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Lets bytes in while they fit. What is larger than the capacity passes when it is alone.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    capacity: usize,
    gauge: &'static AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    held: usize,
    closed: bool,
}

/// Bytes that were let in, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    gate: Arc<Gate>,
    bytes: usize,
}

impl Gate {
    pub(crate) fn new(capacity: usize, gauge: &'static AtomicU64) -> Arc<Self> {
        Arc::new(Gate { state: Mutex::default(), changed: Condvar::new(), capacity, gauge })
    }

    // The state is two plain values, right at every moment, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `bytes` fit; None once the gate is closed.
    pub(crate) fn enter(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        let full = |s: &mut State| !s.closed && s.held > 0 && s.held.saturating_add(bytes) > self.capacity;
        let mut state = self.changed.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return None;
        }
        state.held += bytes;
        self.gauge.store(state.held as u64, Relaxed);
        Some(Permit { gate: Arc::clone(self), bytes })
    }

    /// Ends all waiting for ever.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.held -= self.bytes;
        self.gate.gauge.store(state.held as u64, Relaxed);
        drop(state);
        self.gate.changed.notify_one();
    }
}
