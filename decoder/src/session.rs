//! One run of the plugin: what it was asked for, the transaction that is being delivered, what waits to be sent.

use crate::PLUGIN;
use crate::link::Link;
use crate::options::{Options, Tables};
use crate::relations::{Announcements, Capture, Quarantine, Relations, Source};
use pgtrickle_pg::decoding::{Change, Context, REINIT, Transaction, XidWidener};
use pgtrickle_pg::relation::{self, Relation};
use pgtrickle_pg::tuple::{Missing, Tuple, Update};
use pgtrickle_pg::{spi, worker};
use pgtrickle_wire::{
    Abi, Begin, Column, Degraded, Encoding, FrameWriter, Hello, HelloBuf, LogicalMessage, Progress, RawTuple, Reinit,
    Role, RowKind,
};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The physical relation whose change is being handled, 0 if none is: what to blame for an error.
static CURRENT_RELATION: AtomicU32 = AtomicU32::new(0);

/// The relation whose change was being handled when an error ended the run.
pub fn blamed_relation() -> Option<u32> {
    match CURRENT_RELATION.load(Relaxed) {
        0 => None,
        relid => Some(relid),
    }
}

/// What the meaning of raw rows depends on, here.
pub fn abi() -> Abi<'static> {
    Abi {
        server_version: worker::server_version(),
        catalog_version: worker::catalog_version(),
        system_identifier: worker::system_identifier(),
        dboid: spi::my_database_id(),
        arch: Abi::ARCH,
    }
}

/// Where frames go.
enum Destination {
    /// To whoever drives the plugin: the SQL functions, a walsender.
    Caller,
    /// To the apply worker; decoding runs in our own worker.
    Apply(Link),
}

/// What is on its way out.
struct Outgoing {
    writer: FrameWriter,
    /// The transaction that is being delivered; told once it has something to tell.
    transaction: Transaction,
    widener: XidWidener,
    /// To be said before anything else.
    hello: Option<HelloBuf>,
    /// Everything that committed before this has been written.
    told_lsn: u64,
}

impl Outgoing {
    /// For a message between two transactions.
    fn greeted(&mut self) -> &mut FrameWriter {
        if let Some(hello) = self.hello.take() {
            self.writer.hello(&hello.get());
        }
        &mut self.writer
    }

    /// For a change in the transaction.
    #[inline]
    fn in_transaction(&mut self) -> &mut FrameWriter {
        if !self.writer.in_transaction() {
            let Transaction { xid, commit_lsn, commit_time, .. } = self.transaction;
            let begin = Begin { xid: self.widener.widen(xid), commit_lsn, commit_time };
            self.greeted().begin(&begin);
        }
        &mut self.writer
    }
}

/// One run of the plugin.
pub struct Session {
    encoding: Encoding,
    all_messages: bool,
    tracked_only: bool,
    relations: Relations,
    out: Outgoing,
    to: Destination,
    /// Changes that carry this replication origin are ours.
    own_origin: Option<u16>,
    /// Changes in a row of which nothing was told.
    skipped: u32,
}

/// Bytes of a message's reason that are passed on.
const REASON_MAX: usize = 1000;
/// After this many changes of which nothing was told, whoever drives the plugin learns that it is alive.
const SKIPPED_MAX: u32 = 100;

impl Session {
    /// Frames go to whoever drives the plugin.
    pub fn new(options: &Options, slot: &[u8]) -> Self {
        let (role, encoding) = (Role::Producer, options.encoding);
        let hello = Hello { role, encoding, abi: abi(), start_lsn: 0, slot }.to_owned_buf();
        let transaction = Transaction { xid: 0, commit_lsn: 0, end_lsn: 0, commit_time: 0 };
        Session {
            encoding,
            all_messages: options.messages,
            tracked_only: options.tables == Tables::Tracked,
            relations: Relations::new(options.tables.clone()),
            out: Outgoing {
                writer: FrameWriter::new(),
                transaction,
                widener: XidWidener::default(),
                hello: Some(hello),
                told_lsn: 0,
            },
            to: Destination::Caller,
            own_origin: None,
            skipped: 0,
        }
    }

    /// Frames go to the apply worker from now on; what it wrote itself is left out.
    pub fn connect(&mut self, link: Link, own_origin: u16, start_lsn: u64, slot: &[u8]) {
        let (role, encoding) = (Role::Producer, self.encoding);
        self.out.hello = Some(Hello { role, encoding, abi: abi(), start_lsn, slot }.to_owned_buf());
        self.out.told_lsn = start_lsn;
        self.to = Destination::Apply(link);
        self.own_origin = Some(own_origin);
        self.out.greeted();
    }

    /// Treats a relation as one whose changes cannot be told.
    pub fn quarantine(&mut self, quarantine: Quarantine) {
        self.relations.quarantine(quarantine);
    }

    /// Quarantined relations that turned out to be recorded as not captured, since this was last asked.
    pub fn take_released(&mut self) -> Vec<u32> {
        self.relations.take_released()
    }

    /// The socket to the apply worker.
    pub fn link(&mut self) -> Option<&mut Link> {
        match &mut self.to {
            Destination::Apply(link) => Some(link),
            Destination::Caller => None,
        }
    }

    /// Whether changes with this replication origin are to be left out.
    #[inline]
    pub fn is_own(&self, origin: u16) -> bool {
        self.own_origin == Some(origin)
    }

    /// A transaction is going to be delivered.
    #[inline]
    pub fn begin(&mut self, transaction: Transaction) {
        self.out.transaction = transaction;
    }

    /// A row changed.
    #[inline]
    pub fn change(&mut self, context: Context, relation: Relation<'_>, change: Change<'_>) {
        CURRENT_RELATION.store(relation.oid(), Relaxed);
        let (captures, mut announcements) = self.relations.parts(relation);
        for capture in captures {
            if !capture.broken {
                tell(capture, &mut announcements, &mut self.out, self.encoding, relation, &change);
            }
        }
        CURRENT_RELATION.store(0, Relaxed);
        if self.out.writer.is_full() {
            self.send(context);
        } else if !self.out.writer.in_transaction() && matches!(self.to, Destination::Caller) {
            self.skipped += 1;
            if self.skipped >= SKIPPED_MAX {
                self.skipped = 0;
                context.note_alive();
            }
        }
    }

    /// Tables were truncated together.
    pub fn truncate(&mut self, context: Context, relations: &[Relation<'_>], cascade: bool, restart_identity: bool) {
        let oids: Vec<u32> = relations.iter().map(Relation::oid).collect();
        let (mut emptied, mut in_part) = (Vec::new(), Vec::new());
        for relation in relations.iter().filter(|r| r.is_table() || r.is_partitioned()) {
            for relid in self.relations.published(*relation) {
                let whole = oids.contains(&relid);
                let list = if whole { &mut emptied } else { &mut in_part };
                if !list.contains(&relid) {
                    list.push(relid);
                }
            }
        }
        if !emptied.is_empty() {
            self.out.in_transaction().truncate(cascade, restart_identity, &emptied);
        }
        for relid in in_part {
            self.out.in_transaction().reinit(&Reinit { relid, reason: b"a partition was truncated" });
        }
        self.send(context);
    }

    /// A logical message. Anybody can write one, of any size, in the name of anything.
    pub fn message(&mut self, context: Context, message: &LogicalMessage<'_>) {
        let ours = message.prefix == PLUGIN.as_bytes();
        if self.tracked_only && ours && message.transactional {
            let reinit = parse_reinit(message.content).filter(|&(relid, _)| relation::tracked(relid).is_some());
            if let Some((relid, reason)) = reinit {
                let reason = &reason[..reason.len().min(REASON_MAX)];
                self.out.in_transaction().reinit(&Reinit { relid, reason });
            }
        } else if self.all_messages || self.tracked_only && ours {
            if message.transactional {
                self.out.in_transaction().message(message);
            } else {
                // Only that it came matters to our own consumers, and where.
                let content = if self.all_messages { message.content } else { b"" };
                self.out.greeted().message(&LogicalMessage { content, ..*message });
                self.finish(context);
            }
        }
    }

    /// The transaction is complete.
    #[inline]
    pub fn commit(&mut self, context: Context, end_lsn: u64) {
        let told = self.out.writer.in_transaction();
        if told {
            self.out.writer.commit(end_lsn);
            self.out.told_lsn = end_lsn;
        }
        match &self.to {
            // The worker sends when a frame is full or no more WAL is there, which may be many transactions later.
            Destination::Apply(_) if self.out.writer.is_full() => self.send(context),
            Destination::Apply(_) => {}
            // Who drives us may stop after each transaction, so nothing is kept.
            Destination::Caller if told => self.finish(context),
            Destination::Caller => context.note_skipped(),
        }
    }

    /// Tells the apply worker how far we are, unless it knows. Only between two transactions.
    pub fn progress(&mut self, context: Context) {
        let lsn = context.position();
        if lsn > self.out.told_lsn && !self.out.writer.in_transaction() {
            self.out.greeted().progress(&Progress { lsn });
            self.out.told_lsn = lsn;
            self.finish(context);
        }
    }

    /// Sends everything that was written.
    pub fn finish(&mut self, context: Context) {
        self.out.writer.finish();
        self.send(context);
    }

    /// Everything that committed before this has been written.
    pub fn told_lsn(&self) -> u64 {
        self.out.told_lsn
    }

    fn send(&mut self, context: Context) {
        let writer = &mut self.out.writer;
        match &mut self.to {
            Destination::Apply(link) => link.send(writer),
            Destination::Caller => {
                while let Some(frame) = writer.next_frame() {
                    let len = frame.len();
                    context.write(frame);
                    writer.advance(len);
                }
            }
        }
    }
}

/// `reinit <oid> <reason>`
fn parse_reinit(content: &[u8]) -> Option<(u32, &[u8])> {
    let rest = content.strip_prefix(REINIT.as_bytes())?;
    let end = rest.iter().position(|&b| b == b' ').unwrap_or(rest.len());
    let relid = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    Some((relid, rest.get(end + 1..).unwrap_or_default()))
}

/// Writes a change as a published relation sees it, or, once, why it cannot be written.
#[inline]
fn tell(
    capture: &mut Capture,
    announcements: &mut Announcements<'_>,
    out: &mut Outgoing,
    encoding: Encoding,
    relation: Relation<'_>,
    change: &Change<'_>,
) {
    let told = match &mut capture.source {
        Err(reason) => Err(std::mem::take(reason)),
        Ok(source) => {
            let mut row = RowWriter { source, announcements, out, index: capture.index };
            match encoding {
                Encoding::Raw => row.raw(relation, change),
                Encoding::Binary => row.binary(relation, change),
            }
        }
    };
    if let Err(reason) = told {
        capture.broken = true;
        let reason: Vec<u8> = reason.bytes().filter(|&b| b != 0).collect();
        out.in_transaction().degraded(&Degraded { relid: capture.relid, reason: &reason });
    }
}

/// Everything that writing one change needs.
struct RowWriter<'a, 'b> {
    source: &'a mut Source,
    announcements: &'a mut Announcements<'b>,
    out: &'a mut Outgoing,
    index: u32,
}

impl RowWriter<'_, '_> {
    #[inline]
    fn raw(&mut self, relation: Relation<'_>, change: &Change<'_>) -> Result<(), String> {
        let RowWriter { source: Source { projection, description }, announcements, out, index } = self;
        let desc = relation.desc();
        match (change, relation.has_full_identity()) {
            (&Change::Insert(Some(new)), _) => {
                let row = projection.row(desc, new).map_err(why)?;
                let writer = out.in_transaction();
                announcements.announce(description, writer);
                writer.row_raw(RowKind::Insert, false, *index, &raw_tuple(&row));
            }
            (&Change::Delete(Some(old)), true) => {
                let row = projection.row(desc, old).map_err(why)?;
                let writer = out.in_transaction();
                announcements.announce(description, writer);
                writer.row_raw(RowKind::Delete, false, *index, &raw_tuple(&row));
            }
            (&Change::Update(Some(old), Some(new)), true) => {
                if let Update::Rows(old, new) = projection.update(desc, old, new).map_err(why)? {
                    let writer = out.in_transaction();
                    announcements.announce(description, writer);
                    writer.update_raw(*index, &raw_tuple(&old), &raw_tuple(&new));
                }
            }
            (change, full) => return no_row(change, full),
        }
        Ok(())
    }

    fn binary(&mut self, relation: Relation<'_>, change: &Change<'_>) -> Result<(), String> {
        let RowWriter { source: Source { projection, description }, announcements, out, index } = self;
        let desc = relation.desc();
        match (change, relation.has_full_identity()) {
            (&Change::Insert(Some(new)), _) => {
                let row = projection.row_sent(desc, new).map_err(why)?;
                let writer = out.in_transaction();
                announcements.announce(description, writer);
                writer.row_binary(RowKind::Insert, false, *index, sent(&row));
            }
            (&Change::Delete(Some(old)), true) => {
                let row = projection.row_sent(desc, old).map_err(why)?;
                let writer = out.in_transaction();
                announcements.announce(description, writer);
                writer.row_binary(RowKind::Delete, false, *index, sent(&row));
            }
            (&Change::Update(Some(old), Some(new)), true) => {
                if let Some((old, new)) = projection.update_sent(desc, old, new).map_err(why)? {
                    let writer = out.in_transaction();
                    announcements.announce(description, writer);
                    writer.row_binary(RowKind::Delete, true, *index, sent(&old));
                    writer.row_binary(RowKind::Insert, true, *index, sent(&new));
                }
            }
            (change, full) => return no_row(change, full),
        }
        Ok(())
    }
}

fn sent<'c>(row: &'c [Option<&'c [u8]>]) -> impl ExactSizeIterator<Item = Column<'c>> {
    row.iter().map(|value| value.map_or(Column::Null, Column::Value))
}

#[inline]
fn raw_tuple<'t>(tuple: &Tuple<'t>) -> RawTuple<'t> {
    RawTuple::new(tuple.natts(), tuple.has_varwidth(), tuple.bitmap(), tuple.data())
}

fn why(missing: Missing) -> String {
    match missing {
        Missing::UnchangedValue => "a large value that did not change was not logged".into(),
    }
}

#[cold]
fn no_row(change: &Change<'_>, full_identity: bool) -> Result<(), String> {
    match change {
        Change::Other => Ok(()),
        Change::Update(..) | Change::Delete(..) if !full_identity => {
            Err("an UPDATE or DELETE did not log the old row: REPLICA IDENTITY is not FULL".into())
        }
        _ => Err("a change came without its row".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_reinit;

    #[test]
    fn reinit_messages() {
        assert_eq!(parse_reinit(b"reinit 16384 partition attached"), Some((16384, &b"partition attached"[..])));
        assert_eq!(parse_reinit(b"reinit 16384"), Some((16384, &b""[..])));
        assert_eq!(parse_reinit(b"reinit x y"), None);
        assert_eq!(parse_reinit(b"barrier"), None);
    }
}
