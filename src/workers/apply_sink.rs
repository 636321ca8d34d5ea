//! Writing a checked change stream to the change buffers.

use super::apply_buffers::Buffers;
use super::capture::{alert, json_string};
use crate::settings;
use crate::shmem::DbShared;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;
use pgtrickle_apply::{At, Sink, StreamError};
use pgtrickle_pg::batch::Transaction;
use pgtrickle_pg::heap::{Prefix, RawRow};
use pgtrickle_pg::{class, decoding, depend, origin, wal, worker};
use pgtrickle_wire::{
    Begin, Body, Commit, Degraded, LogicalMessage, Progress, RawTuple, Reinit, Relation, Row, RowKind, Truncate,
};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// An apply transaction ends with the first source transaction after this many rows...
const ROWS_MAX: u64 = 50_000;
/// ...or after this time.
const TIME_MAX: Duration = Duration::from_millis(20);
/// A position that came without changes is made durable when it is this far ahead...
const IDLE_BYTES: u64 = 16 << 20;
/// ...or this far, once in a while. Making it durable writes WAL, so an idle server must not need it.
const IDLE_BYTES_SLOW: u64 = 64 << 10;
const IDLE_TIME: Duration = Duration::from_secs(60);

/// Crossings of the threshold for pending records that follow each other faster are one.
const CALM: Duration = Duration::from_secs(10);

/// Unless it is captured anew since: what was missed before is made up for.
const DEGRADE: &str = "UPDATE pgtrickle.pgt_change_tracking SET state = 'DEGRADED', detail = $2 \
    WHERE source_relid = $1 AND tracked_at <= $3";

/// Where the stream is written to, and how far it has got.
pub struct Applier {
    db: &'static DbShared,
    buffers: Buffers,
    /// The open apply transaction and when it began.
    open: Option<(Transaction, Instant)>,
    /// Rows delivered since the last commit.
    rows: u64,
    /// Sources whose buffers the transaction that is being committed wrote to.
    written: Vec<u32>,
    /// End and commit time of the last source transaction in the open apply transaction.
    reached: Option<(u64, i64)>,
    /// What the open source transaction's rows begin with, and when it committed.
    prefix: Prefix,
    commit_time: i64,
    /// Progress of the origin: what is committed, though perhaps not yet flushed.
    progress: u64,
    progress_at: Instant,
    /// Rows whose commit has not been passed on.
    settled_rows: u64,
    flushing: Flushing,
    /// Payloads that wait for the end of the open transaction.
    alerts: Vec<String>,
    /// That too many records are pending has been told, and since when they have been far fewer.
    told_pending: bool,
    calm_since: Option<Instant>,
}

/// Commits on their way to disk: the position where each commit's own WAL ends, and the position that it makes durable.
///
/// The WAL writer flushes them; waiting would only compete with the writers for the disk. What is seen before it is
/// flushed does no harm: a refresh that builds on it commits behind it in the same WAL, so a crash takes both or none.
#[derive(Debug, Default)]
struct Flushing {
    first: Option<(u64, u64)>,
    last: Option<(u64, u64)>,
}

impl Flushing {
    fn add(&mut self, commit_end: u64, lsn: u64) {
        let commit = Some((commit_end, lsn));
        if self.first.is_none() {
            self.first = commit;
        } else {
            self.last = commit;
        }
    }

    fn take_durable(&mut self, flushed: u64) -> Option<u64> {
        let mut durable = None;
        while let Some((_, lsn)) = self.first.filter(|(commit_end, _)| *commit_end <= flushed) {
            durable = Some(lsn);
            self.first = self.last.take();
        }
        durable
    }
}

impl Applier {
    /// Nothing is open; the buffers are at `progress`.
    pub fn new(db: &'static DbShared, progress: u64) -> Self {
        db.advance_applied(progress);
        // A predecessor may have been killed between a commit and telling of it.
        db.note_change_of_all();
        Applier {
            db,
            buffers: Buffers::new(),
            open: None,
            rows: 0,
            written: Vec::new(),
            reached: None,
            prefix: Prefix { xid: 0, lsn: 0, seq: 0, weight: 0 },
            commit_time: 0,
            progress,
            progress_at: Instant::now(),
            settled_rows: 0,
            flushing: Flushing::default(),
            alerts: Vec::new(),
            told_pending: false,
            calm_since: None,
        }
    }

    /// All that committed before this is in the buffers.
    pub fn progress(&self) -> u64 {
        self.progress
    }

    /// Rows that have been committed since this was last asked.
    pub fn take_settled_rows(&mut self) -> u64 {
        std::mem::take(&mut self.settled_rows)
    }

    /// A position that has become durable since this was last asked.
    pub fn take_durable(&mut self) -> Option<u64> {
        self.flushing.take_durable(decoding::flushed().lsn)
    }

    /// Whether a committed position is not durable yet.
    pub fn is_flushing(&self) -> bool {
        self.flushing.first.is_some()
    }

    /// Forgets what is not committed.
    pub fn abort(&mut self) {
        self.buffers.forget();
        self.open = None;
        self.written.clear();
        self.rows = 0;
        self.reached = None;
    }

    /// Commits what is open. Only between two source transactions.
    pub fn commit(&mut self) {
        let Some((transaction, _)) = self.open.take() else { return };
        self.buffers.close(&mut self.written);
        if let Some((end_lsn, commit_time)) = self.reached {
            // Rows for buffers that are gone write nothing, but the position must be kept.
            transaction.assign_xid();
            origin::advance(end_lsn, commit_time);
        }
        transaction.commit();
        self.settled_rows += std::mem::take(&mut self.rows);
        if let Some((end_lsn, commit_time)) = self.reached.take() {
            self.note_progress(end_lsn);
            // Who finds the position reached finds the counts moved.
            self.written.drain(..).for_each(|relid| self.db.note_source_change(relid));
            self.db.advance_applied(end_lsn);
            self.db.note_commit(end_lsn, commit_time);
        }
        self.send_alerts();
    }

    /// In a transaction of their own: that nobody takes alerts (the queue of NOTIFY is full) stops no capture.
    fn send_alerts(&mut self) {
        if !self.alerts.is_empty() {
            super::or_warn("alerts could not be sent", || self.alerts.iter().for_each(|payload| alert(payload)));
            self.alerts.clear();
        }
    }

    /// Tells what was written since this was last called, unless a transaction is open, which counts its rows itself until it ends.
    pub fn report_statistics(&self) {
        if self.open.is_none() {
            worker::report_statistics();
        }
    }

    fn note_progress(&mut self, lsn: u64) {
        self.progress = lsn;
        self.progress_at = Instant::now();
        self.flushing.add(wal::last_commit_end(), lsn);
    }

    fn transaction(&mut self) -> &Transaction {
        &self.open.get_or_insert_with(|| (Transaction::start(), Instant::now())).0
    }

    /// Everything before `lsn` has been delivered.
    fn passed(&mut self, lsn: u64) {
        self.commit();
        self.db.advance_applied(lsn);
        let ahead = lsn.saturating_sub(self.progress);
        if ahead >= IDLE_BYTES || ahead >= IDLE_BYTES_SLOW && self.progress_at.elapsed() >= IDLE_TIME {
            let transaction = Transaction::start();
            transaction.assign_xid();
            origin::advance(lsn, worker::now_us());
            transaction.commit();
            self.note_progress(lsn);
        }
    }

    /// Warns when too many records wait, and again only after it has been calm for a while: a busy queue rises and falls
    /// many times a second.
    pub fn watch_pending(&mut self) {
        let threshold = settings::PENDING_RECORDS_ALERT_THRESHOLD.get() as u64;
        let pending = self.db.pending_records.load(Relaxed);
        if pending <= threshold / 2 {
            self.calm_since.get_or_insert_with(Instant::now);
        } else if pending > threshold {
            let calm = self.calm_since.take();
            if !self.told_pending || calm.is_some_and(|since| since.elapsed() >= CALM) {
                self.told_pending = true;
                pgrx::warning!("pg_trickle: {pending} captured records wait to be applied (threshold {threshold})");
                let event = "pending_records_warning";
                self.tell(format!(r#"{{"event":"{event}","pending_records":{pending},"threshold":{threshold}}}"#));
            }
        }
    }

    /// Sends an alert now, or after the open transaction.
    fn tell(&mut self, payload: String) {
        self.alerts.push(payload);
        if self.open.is_none() {
            self.send_alerts();
        }
    }

    /// Writes the row that says that everything is to be read afresh.
    fn mark(&mut self, at: &At, relid: u32) {
        self.transaction();
        let prefix = Prefix { seq: at.seq as i64, weight: 0, ..self.prefix };
        self.buffers.put_marker(relid, &prefix);
    }

    /// Changes are missing from here on, unless the source has been captured anew since.
    fn degrade(&mut self, at: &At, relid: u32, reason: &str) {
        self.mark(at, relid);
        let committed = TimestampWithTimeZone::try_from(self.commit_time).ok();
        let arguments = [pg_sys::Oid::from(relid).into(), reason.into(), committed.into()];
        let update = || Spi::connect_mut(|client| client.update(DEGRADE, None, &arguments).map(|rows| rows.len()));
        let known = self.transaction().with_snapshot(update);
        let known = known.unwrap_or_else(|e| error!("could not write pgtrickle.pgt_change_tracking: {e}"));
        if class::owner(relid).is_some() {
            // So that the plugin looks at what was just written.
            depend::invalidate(relid);
        }
        if known > 0 {
            self.buffers.give_up(relid);
            pgrx::warning!("pg_trickle: changes of relation {relid} cannot be captured any more: {reason}");
            let reason = json_string(reason);
            self.alerts.push(format!(r#"{{"event":"reinitialize_needed","source_relid":{relid},"reason":{reason}}}"#));
        }
    }
}

impl Sink for Applier {
    type Error = StreamError;

    fn relation(&mut self, relation: &Relation<'_>) -> Result<(), StreamError> {
        self.buffers.describe(relation);
        Ok(())
    }

    #[inline]
    fn begin(&mut self, begin: &Begin) -> Result<(), StreamError> {
        self.prefix = Prefix { xid: begin.xid, lsn: begin.commit_lsn, seq: 0, weight: 0 };
        self.commit_time = begin.commit_time;
        self.transaction();
        Ok(())
    }

    #[inline]
    fn row(&mut self, at: &At, row: &Row<'_>) -> Result<(), StreamError> {
        self.rows += 1;
        let Body::Raw(tuple) = row.body else { return Err(StreamError::Order { what: "row in another encoding" }) };
        let weight = if row.kind == RowKind::Insert { 1 } else { -1 };
        let prefix = Prefix { seq: at.seq as i64, weight, ..self.prefix };
        let varwidth = tuple.flags & RawTuple::HAS_VARWIDTH != 0;
        let raw = RawRow { natts: tuple.natts, varwidth, bitmap: tuple.bitmap, data: tuple.data };
        if let Err((relid, misfit)) = self.buffers.put(row.rel, &prefix, &raw) {
            self.degrade(at, relid, &misfit.0);
        }
        Ok(())
    }

    fn truncate(&mut self, at: &At, truncate: &Truncate<'_>) -> Result<(), StreamError> {
        truncate.relids().for_each(|relid| self.mark(at, relid));
        Ok(())
    }

    fn degraded(&mut self, at: &At, degraded: &Degraded<'_>) -> Result<(), StreamError> {
        self.degrade(at, degraded.relid, &String::from_utf8_lossy(degraded.reason));
        Ok(())
    }

    fn reinit(&mut self, at: &At, reinit: &Reinit<'_>) -> Result<(), StreamError> {
        self.mark(at, reinit.relid);
        Ok(())
    }

    fn message(&mut self, message: &LogicalMessage<'_>) -> Result<(), StreamError> {
        if !message.transactional {
            self.passed(message.lsn);
        }
        Ok(())
    }

    #[inline]
    fn commit(&mut self, begin: &Begin, commit: &Commit) -> Result<(), StreamError> {
        self.reached = Some((commit.end_lsn, begin.commit_time));
        let full = |(_, started): &(Transaction, Instant)| self.rows >= ROWS_MAX || started.elapsed() >= TIME_MAX;
        if self.open.as_ref().is_some_and(full) {
            Applier::commit(self);
        }
        Ok(())
    }

    fn progress(&mut self, progress: &Progress) -> Result<(), StreamError> {
        self.passed(progress.lsn);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Flushing;

    #[test]
    fn positions_become_durable_in_order_and_the_newest_counts() {
        let mut flushing = Flushing::default();
        assert_eq!(flushing.take_durable(100), None);
        flushing.add(10, 1);
        flushing.add(20, 2);
        flushing.add(30, 3);
        assert_eq!(flushing.take_durable(9), None);
        assert_eq!(flushing.take_durable(25), Some(1));
        assert_eq!(flushing.take_durable(25), None);
        assert_eq!(flushing.take_durable(30), Some(3));
        assert_eq!(flushing.take_durable(99), None);
    }
}
