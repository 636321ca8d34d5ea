//! Replication slots, as far as they can be seen and changed by SQL.

use pgrx::pg_sys;
use pgrx::prelude::*;

/// Name of our output plugin.
const PLUGIN: &str = "pg_trickle";

/// What there is under a slot's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotState {
    /// Nothing.
    Missing,
    /// A slot that can be decoded.
    Usable {
        /// What was confirmed: the WAL before it may be gone.
        confirmed_lsn: u64,
        /// A primary that this server followed has kept it up to date here.
        synced: bool,
    },
    /// A slot that cannot be decoded (any more), and why.
    Unusable(String),
}

#[cfg(feature = "pg15")]
const STATE: &str = "SELECT plugin::text, datoid, wal_status, NULL::text, \
    (confirmed_flush_lsn - '0/0')::numeric, false FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
#[cfg(feature = "pg16")]
const STATE: &str = "SELECT plugin::text, datoid, wal_status, CASE WHEN conflicting THEN 'conflict' END, \
    (confirmed_flush_lsn - '0/0')::numeric, false FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
const STATE: &str = "SELECT plugin::text, datoid, wal_status, invalidation_reason, \
    (confirmed_flush_lsn - '0/0')::numeric, synced FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";

/// What there is under this name, in this database. In a transaction with a snapshot.
pub fn state(name: &str) -> SlotState {
    let found = Spi::connect(|client| -> spi::Result<Option<SlotState>> {
        let rows = client.select(STATE, Some(1), &[name.into()])?;
        let Some(row) = rows.into_iter().next() else { return Ok(None) };
        let plugin: Option<String> = row.get(1)?;
        let database: Option<pg_sys::Oid> = row.get(2)?;
        let wal_status: Option<String> = row.get(3)?;
        let invalid: Option<String> = row.get(4)?;
        let confirmed: Option<AnyNumeric> = row.get(5)?;
        let synced: Option<bool> = row.get(6)?;
        let confirmed_lsn = confirmed.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        Ok(Some(if plugin.as_deref() != Some(PLUGIN) {
            SlotState::Unusable("it belongs to another output plugin".into())
        } else if database.map(pg_sys::Oid::to_u32) != Some(crate::spi::my_database_id()) {
            SlotState::Unusable("it belongs to another database".into())
        } else if let Some(reason) = invalid {
            SlotState::Unusable(format!("it was invalidated: {reason}"))
        } else if wal_status.as_deref() == Some("lost") || confirmed_lsn == 0 {
            SlotState::Unusable("the WAL that it needs was removed".into())
        } else {
            SlotState::Usable { confirmed_lsn, synced: synced == Some(true) }
        }))
    });
    found.unwrap_or_else(|e| error!("could not look at replication slot {name}: {e}")).unwrap_or(SlotState::Missing)
}

#[cfg(any(feature = "pg15", feature = "pg16"))]
const CREATE: &str =
    "SELECT (lsn - '0/0')::numeric FROM pg_catalog.pg_create_logical_replication_slot($1, $2, false, false)";
/// With failover, so that a promoted standby that synchronises slots goes on where this server stopped.
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
const CREATE: &str =
    "SELECT (lsn - '0/0')::numeric FROM pg_catalog.pg_create_logical_replication_slot($1, $2, false, false, true)";

/// Makes the slot and says from where on it sees changes. Waits for the transactions that are running. In a
/// transaction with a snapshot that has not written anything.
pub fn create(name: &str) -> u64 {
    lsn(name, CREATE, &[name.into(), PLUGIN.into()]).unwrap_or(0)
}

/// Removes the slot. In a transaction with a snapshot.
pub fn drop(name: &str) {
    lsn(name, "SELECT 0::numeric FROM pg_catalog.pg_drop_replication_slot($1)", &[name.into()]);
}

// Only reading, so far as SPI knows: a slot cannot be made in a transaction that has an xid.
fn lsn(name: &str, sql: &str, arguments: &[pgrx::datum::DatumWithOid<'_>]) -> Option<u64> {
    let result = Spi::connect(|client| client.select(sql, Some(1), arguments)?.first().get_one::<AnyNumeric>());
    let lsn = result.unwrap_or_else(|e| error!("replication slot {name}: {e}"));
    lsn.and_then(|n| u64::try_from(n).ok())
}

/// Transactions that have written their commit record but have not committed yet, so far as anybody can ask.
pub struct Committing(Vec<pg_sys::VirtualTransactionId>);

impl Committing {
    /// Those of now. Others that delay a checkpoint may be among them.
    pub fn now() -> Committing {
        let mut count = 0;
        // SAFETY: the result is an array of `count`, in the memory context that is current, copied at once.
        unsafe {
            let found = pg_sys::GetVirtualXIDsDelayingChkpt(&mut count, pg_sys::DELAY_CHKPT_START as i32);
            let copy = std::slice::from_raw_parts(found, count as usize).to_vec();
            pg_sys::pfree(found.cast());
            Committing(copy)
        }
    }

    /// Whether none of them is on its way any more.
    pub fn are_over(&mut self) -> bool {
        let Committing(all) = self;
        // SAFETY: the array is only read.
        unsafe {
            let (first, count) = (all.as_mut_ptr(), all.len() as i32);
            !pg_sys::HaveVirtualXIDsDelayingChkpt(first, count, pg_sys::DELAY_CHKPT_START as i32)
        }
    }
}

/// Transactions that a snapshot taken now does not see. In a transaction with a snapshot.
pub fn running() -> Vec<i64> {
    const RUNNING: &str = "SELECT array_agg(x::text::bigint) \
        FROM pg_catalog.pg_snapshot_xip(pg_catalog.pg_current_snapshot()) AS x";
    let running = Spi::connect(|client| client.select(RUNNING, Some(1), &[])?.first().get_one::<Vec<i64>>());
    running.unwrap_or_else(|e| error!("could not look at running transactions: {e}")).unwrap_or_default()
}

/// Those of them that have committed all the same: they may be waiting for a standby. In a transaction with a snapshot.
pub fn invisible_commits() -> Vec<i64> {
    // SAFETY: ids of transactions that were running a moment ago are never too old to ask for.
    let committed = |xid: &i64| unsafe { pg_sys::TransactionIdDidCommit(pg_sys::TransactionId::from(*xid as u32)) };
    running().into_iter().filter(committed).collect()
}
