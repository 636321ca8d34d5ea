//! Snapshots: taking them, reading what is visible in them, running code under them.

use pgrx::pg_sys;
use std::fmt;
use std::str::FromStr;

/// A registered snapshot, released when dropped.
pub struct Snapshot(pg_sys::Snapshot);

impl Snapshot {
    /// The newest snapshot that can be taken now, at every isolation level.
    pub fn latest() -> Snapshot {
        // SAFETY: RegisterSnapshot copies the static snapshot; the copy lives until it is unregistered.
        Snapshot(unsafe { pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot()) })
    }

    /// As bytes, from which another process of this database makes the same snapshot by [`Snapshot::held_by`]. None if that takes
    /// more bytes than `most`.
    pub fn to_bytes(&self, most: usize) -> Option<Vec<u8>> {
        // SAFETY: the snapshot is a registered copy of our own; as many bytes are written as were asked for.
        unsafe {
            if pg_sys::EstimateSnapshotSpace(self.0) as usize > most {
                // Without its subtransactions it means the same: they are looked up when it is used.
                (*self.0).suboverflowed = true;
            }
            let size = pg_sys::EstimateSnapshotSpace(self.0) as usize;
            (size <= most).then(|| {
                // Of words, as what is written are structs of PostgreSQL's.
                let mut words = vec![0u64; size.div_ceil(8)];
                pg_sys::SerializeSnapshot(self.0, words.as_mut_ptr().cast());
                words.iter().flat_map(|word| word.to_ne_bytes()).take(size).collect()
            })
        }
    }

    /// The snapshot that the process `holder` made into `bytes`, as long as that process holds it: what it shows is kept from
    /// VACUUM without a gap. None when it does no longer. In a transaction that has not used an older snapshot.
    pub fn held_by(holder: i32, bytes: &[u8]) -> Option<Snapshot> {
        let mut words: Vec<u64> = bytes
            .chunks(8)
            .map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_ne_bytes(word)
            })
            .collect();
        // SAFETY: the bytes are those of SerializeSnapshot, which RestoreSnapshot copies into the transaction's memory. The
        // process's entry stays readable after its end; the check of its xmin is PostgreSQL's own for parallel workers, and
        // any holder of such an xmin would do.
        unsafe {
            let process = pg_sys::BackendPidGetProc(holder);
            let snapshot = pg_sys::RestoreSnapshot(words.as_mut_ptr().cast());
            let held = !process.is_null() && pg_sys::ProcArrayInstallRestoredXmin((*snapshot).xmin, process);
            held.then(|| Snapshot(pg_sys::RegisterSnapshot(snapshot)))
        }
    }

    /// The snapshot of the current transaction: of its statement, if it has no snapshot for all of them.
    pub fn of_transaction() -> Snapshot {
        // SAFETY: as above.
        Snapshot(unsafe { pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot()) })
    }

    pub(crate) fn as_ptr(&self) -> pg_sys::Snapshot {
        self.0
    }

    /// Runs `work` with this snapshot active; it sees what this transaction has written so far.
    pub fn active<T>(&self, work: impl FnOnce() -> T) -> T {
        // SAFETY: a copy is pushed, so that advancing its command id leaves ours alone. If `work` panics, the abort of
        // the (sub)transaction pops it.
        unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushCopiedSnapshot(self.0);
            pg_sys::UpdateActiveSnapshotCommandId();
        }
        let result = work();
        // SAFETY: pushed above, and `work` leaves the stack as it found it.
        unsafe { pg_sys::PopActiveSnapshot() };
        result
    }

    /// The transactions whose effects this snapshot shows, as 64-bit ids. A transaction of our own that already has an
    /// id counts as not visible: what it still is going to write must not be taken for known.
    pub fn xids(&self) -> XidSet {
        let mut set = self.active(|| {
            // SAFETY: pg_current_snapshot takes no argument and returns a varlena whose output function prints it.
            let text = unsafe {
                let value = pgrx::direct_function_call_as_datum(pg_sys::pg_current_snapshot, &[]);
                pgrx::direct_function_call::<&std::ffi::CStr>(pg_sys::pg_snapshot_out, &[value])
            };
            let text = text.and_then(|t| t.to_str().ok()).unwrap_or_default();
            text.parse::<XidSet>().unwrap_or_else(|e| pgrx::error!("pg_current_snapshot() gave {text:?}: {e}"))
        });
        if let Some(own) = current_xid() {
            set.exclude(own);
        }
        set
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: registered by us and not yet released. While an error unwinds, the resource owner releases it.
            unsafe { pg_sys::UnregisterSnapshot(self.0) }
        }
    }
}

/// This transaction's 64-bit id, if it has one already.
pub fn current_xid() -> Option<u64> {
    // SAFETY: reads the state of the current transaction.
    let xid = unsafe { pg_sys::GetTopFullTransactionIdIfAny() }.value;
    (xid != 0).then_some(xid)
}

/// This transaction's 64-bit id, assigned now if it had none.
pub fn assign_xid() -> u64 {
    // SAFETY: we are in a transaction that may write.
    unsafe { pg_sys::GetTopFullTransactionId() }.value
}

/// Position of the end of WAL that has been inserted (not necessarily flushed).
pub fn insert_lsn() -> u64 {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::GetXLogInsertRecPtr() }
}

/// The transactions visible in a snapshot: all below `xmin`, none from `xmax` on, and between them those not listed.
/// The text form is that of the type `pg_snapshot`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct XidSet {
    xmin: u64,
    xmax: u64,
    in_progress: Vec<u64>,
}

impl XidSet {
    /// Nothing is visible.
    pub const EMPTY: XidSet = XidSet { xmin: 0, xmax: 0, in_progress: Vec::new() };

    /// Whether the effects of the top-level transaction `xid` are visible.
    pub fn contains(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }

    /// As a value of the type `pg_snapshot`, in the current memory context.
    pub fn to_datum(&self) -> Option<pg_sys::Datum> {
        let text = std::ffi::CString::new(self.to_string()).unwrap_or_default();
        // SAFETY: the type's input function takes a C string.
        unsafe {
            pgrx::direct_function_call_as_datum(pg_sys::pg_snapshot_in, &[Some(pg_sys::Datum::from(text.as_ptr()))])
        }
    }

    fn exclude(&mut self, xid: u64) {
        if self.contains(xid) {
            let at = self.in_progress.binary_search(&xid).unwrap_or_else(|at| at);
            self.in_progress.insert(at, xid);
            self.xmin = self.xmin.min(xid);
        }
    }
}

impl fmt::Display for XidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (i, xid) in self.in_progress.iter().enumerate() {
            write!(f, "{}{xid}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl FromStr for XidSet {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, ':');
        let mut number = || parts.next().and_then(|p| p.parse().ok()).ok_or("expected xmin:xmax:list");
        let (xmin, xmax) = (number()?, number()?);
        let list = text.splitn(3, ':').nth(2).ok_or("expected xmin:xmax:list")?;
        let mut in_progress = list
            .split(',')
            .filter(|x| !x.is_empty())
            .map(|x| x.parse().map_err(|_| "expected a transaction id"))
            .collect::<Result<Vec<u64>, _>>()?;
        in_progress.sort_unstable();
        Ok(XidSet { xmin, xmax, in_progress })
    }
}
