//! The counters that the outside world sees. They may live in shared memory: only references are kept here.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where to count. The gauges are true at every moment and zero when idle; the totals only grow.
#[derive(Debug, Clone, Copy)]
pub struct Counters {
    /// Gauge: rows received and not yet committed (or discarded).
    pub pending_records: &'static AtomicU64,
    /// Highest value that `pending_records` has had.
    pub pending_records_max: &'static AtomicU64,
    /// Gauge: frames that wait in the queue.
    pub queue_depth: &'static AtomicU64,
    /// Gauge: bytes of the frames that are being received, wait in the queue or are in the main thread's hand.
    pub queue_bytes: &'static AtomicU64,
    /// Rows received.
    pub records_total: &'static AtomicU64,
    /// Bytes received, frame headers included.
    pub bytes_total: &'static AtomicU64,
    /// Transactions received completely.
    pub transactions_total: &'static AtomicU64,
}

impl Counters {
    /// Counters of this process alone. They live for ever; meant for tests and tools.
    pub fn local() -> Self {
        let new = || -> &'static AtomicU64 { Box::leak(Box::default()) };
        Counters {
            pending_records: new(),
            pending_records_max: new(),
            queue_depth: new(),
            queue_bytes: new(),
            records_total: new(),
            bytes_total: new(),
            transactions_total: new(),
        }
    }

    /// Nothing is in flight: before the receiver starts (a predecessor may have been killed) and after it stopped.
    pub(crate) fn clear_gauges(&self) {
        for gauge in [self.pending_records, self.queue_depth, self.queue_bytes] {
            gauge.store(0, Relaxed);
        }
    }

    pub(crate) fn received(&self, rows: u64, transactions: u64, bytes: u64) {
        self.records_total.fetch_add(rows, Relaxed);
        self.transactions_total.fetch_add(transactions, Relaxed);
        self.bytes_total.fetch_add(bytes, Relaxed);
        if rows > 0 {
            let now = self.pending_records.fetch_add(rows, Relaxed) + rows;
            self.pending_records_max.fetch_max(now, Relaxed);
        }
        self.queue_depth.fetch_add(1, Relaxed);
    }

    pub(crate) fn settled(&self, rows: u64) {
        if rows > 0 {
            self.pending_records.fetch_sub(rows, Relaxed);
        }
    }
}
