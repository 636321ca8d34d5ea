//! The change buffers as the apply worker sees them: which table rows go to, and whether they fit.
//!
//! A buffer has two segments, tables that inherit from it. Rows go to one of them; when that has grown and the other is
//! empty they change places, so that whoever empties consumed segments always finds one that is not written to.

use pgtrickle_pg::heap::{self, Announced, Misfit, Prefix, RawRow, Slots, Writer};
use pgtrickle_pg::memory::Context;
use pgtrickle_wire::Relation;
use std::collections::HashMap;

/// Blocks from which on a segment is left if the other is empty: 8 MB.
const BLOCKS_MAX: u32 = 1024;
const SCHEMA: &str = "pgtrickle_changes";

/// All buffers that the stream has named.
pub struct Buffers {
    buffers: Vec<Buffer>,
    by_relid: HashMap<u32, usize>,
    /// By the stream's number of the relation.
    by_index: Vec<Option<usize>>,
    slots: Slots,
    scratch: Context,
}

struct Buffer {
    /// The source.
    relid: u32,
    segments: [Option<u32>; 2],
    active: usize,
    writer: Writer,
    announced: Vec<Announced>,
    /// What was announced has not been compared with the table yet.
    unfitted: bool,
    /// Commit of the source transaction whose rows go nowhere, 0 for none: there is no such buffer (any more), or they do not fit.
    closed: u64,
    /// Nor do any others that are written in this transaction.
    given_up: bool,
}

impl Buffers {
    /// None so far.
    pub fn new() -> Self {
        Buffers {
            buffers: Vec::new(),
            by_relid: HashMap::new(),
            by_index: Vec::new(),
            slots: Slots::new(),
            scratch: Context::new(c"pg_trickle rows"),
        }
    }

    fn at(&mut self, relid: u32) -> usize {
        let next = self.buffers.len();
        let at = *self.by_relid.entry(relid).or_insert(next);
        if at == next {
            self.buffers.push(Buffer::new(relid));
        }
        at
    }

    /// The stream tells what the rows of a relation look like.
    pub fn describe(&mut self, relation: &Relation<'_>) {
        let at = self.at(relation.relid);
        let index = relation.index as usize;
        if self.by_index.len() <= index {
            self.by_index.resize(index + 1, None);
        }
        self.by_index[index] = Some(at);
        let buffer = &mut self.buffers[at];
        buffer.writer.flush(&mut self.slots, &mut self.scratch);
        buffer.unfitted = true;
        buffer.announced.clear();
        buffer.announced.extend(relation.attrs.iter().map(|a| Announced {
            attnum: a.attnum,
            type_oid: a.type_oid,
            typmod: a.typmod,
            layout: (a.typlen, a.typalign, a.byval),
        }));
    }

    /// Writes a row, unless there is no buffer for it. When rows do not fit their buffer that is told once.
    #[inline]
    pub fn put(&mut self, index: u32, prefix: &Prefix, row: &RawRow<'_>) -> Result<(), (u32, Misfit)> {
        let Some(at) = self.by_index.get(index as usize).copied().flatten() else { return Ok(()) };
        let buffer = &mut self.buffers[at];
        if buffer.closed == prefix.lsn || buffer.given_up {
            return Ok(());
        }
        if !buffer.writer.is_open() || buffer.unfitted {
            if !buffer.open() {
                buffer.closed = prefix.lsn;
                return Ok(());
            }
            if let Err(misfit) = buffer.fit() {
                buffer.closed = prefix.lsn;
                // The next transaction finds the table open.
                buffer.unfitted = true;
                return Err((buffer.relid, misfit));
            }
        }
        buffer.writer.put(&mut self.slots, &mut self.scratch, prefix, row);
        Ok(())
    }

    /// Writes a row of a prefix alone, unless there is no buffer for it. Of a source that is not known yet, and may not be one,
    /// nothing is kept then.
    pub fn put_marker(&mut self, relid: u32, prefix: &Prefix) {
        if !self.by_relid.contains_key(&relid) && segment(relid, 0).is_none() {
            return;
        }
        let at = self.at(relid);
        let buffer = &mut self.buffers[at];
        let open = buffer.writer.is_open();
        if open || buffer.open() {
            // A row that follows in this transaction finds the table open, which may have other columns by now.
            buffer.unfitted |= !open;
            buffer.writer.put_marker(&mut self.slots, &mut self.scratch, prefix);
        } else {
            buffer.closed = prefix.lsn;
        }
    }

    /// No more rows of a source are written in this transaction.
    pub fn give_up(&mut self, relid: u32) {
        let at = self.at(relid);
        self.buffers[at].given_up = true;
    }

    /// Inserts what was put and closes all tables, before the transaction's end. The sources that have changed are added to
    /// `written`, also where there was no buffer to write to: refreshes find that out and compare.
    pub fn close(&mut self, written: &mut Vec<u32>) {
        for buffer in &mut self.buffers {
            let missed = std::mem::take(&mut buffer.closed) != 0;
            buffer.given_up = false;
            let open = buffer.writer.is_open();
            if open {
                buffer.writer.flush(&mut self.slots, &mut self.scratch);
                buffer.writer.close();
            }
            if open || missed {
                written.push(buffer.relid);
            }
        }
    }

    /// Forgets what an aborted transaction did.
    pub fn forget(&mut self) {
        for buffer in &mut self.buffers {
            buffer.writer.forget();
            buffer.closed = 0;
            buffer.given_up = false;
        }
    }
}

fn segment(relid: u32, number: u32) -> Option<u32> {
    heap::find_table(SCHEMA, &format!("changes_{relid}_{number}"))
}

impl Buffer {
    fn new(relid: u32) -> Self {
        Buffer {
            relid,
            segments: [None; 2],
            active: 0,
            writer: Writer::new(relid),
            announced: Vec::new(),
            unfitted: true,
            closed: 0,
            given_up: false,
        }
    }

    /// Opens the segment to write to. False if there is none.
    #[cold]
    fn open(&mut self) -> bool {
        self.writer.is_open() || self.open_known() || {
            // Never looked up, or dropped and made anew since.
            self.look_up();
            self.open_known()
        }
    }

    fn look_up(&mut self) {
        self.segments = [segment(self.relid, 0), segment(self.relid, 1)];
        self.unfitted = true;
    }

    fn open_known(&mut self) -> bool {
        let [Some(first), Some(second)] = self.segments else { return false };
        let relids = [first, second];
        if self.open_active(relids) {
            return true;
        }
        // Both are locked exclusively, or gone. Waiting is right in the first case and over at once in the other.
        self.writer.open(relids[self.active], true)
    }

    /// Opens one of the two without waiting: the active one, unless it has grown and the other is empty, or it is locked.
    fn open_active(&mut self, relids: [u32; 2]) -> bool {
        let other = 1 - self.active;
        if !self.writer.open(relids[self.active], false) {
            self.active = other;
            return self.writer.open(relids[other], false);
        }
        if self.writer.blocks() > BLOCKS_MAX && heap::blocks_unless_locked(relids[other]) == Some(0) {
            self.writer.close();
            if self.writer.open(relids[other], false) {
                self.active = other;
            } else {
                return self.writer.open(relids[self.active], false);
            }
        }
        true
    }

    fn fit(&mut self) -> Result<(), Misfit> {
        if self.unfitted || !self.writer.fits_still() {
            self.writer.fit(&self.announced)?;
            self.unfitted = false;
        }
        Ok(())
    }
}
