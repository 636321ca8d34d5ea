//! Checks that frames add up to transactions: order, pairing, record count, checksum, known relations.

use crate::error::StreamError;
use pgtrickle_wire::transaction::CRC_LEN;
use pgtrickle_wire::{Begin, Body, Commit, Hello, HelloBuf, Message, MessageReader, Relation, Row, RowKind};

/// Relation numbers are small; a larger one is damage.
const RELATIONS_MAX: u32 = 1 << 20;

type Result<T> = std::result::Result<T, StreamError>;

/// What a frame contains.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Row messages.
    pub rows: u64,
    /// Transactions that end in it.
    pub transactions: u64,
    /// Whether it ends inside a transaction.
    pub inside: bool,
    /// The Hello it began with; only in the first frame.
    pub hello: Option<HelloBuf>,
}

/// State of one stream from its Hello on.
#[derive(Debug, Default)]
pub struct Assembler {
    greeted: bool,
    /// Columns of each relation by its number.
    relations: Vec<Option<u16>>,
    open: Option<Open>,
    last_commit_lsn: u64,
}

#[derive(Debug)]
struct Open {
    begin: Begin,
    records: u64,
    crc: u32,
    /// The relation whose paired Insert must come next.
    half: Option<u32>,
}

fn order<T>(what: &'static str) -> Result<T> {
    Err(StreamError::Order { what })
}

impl Assembler {
    /// Before a stream's first frame.
    pub fn new() -> Self {
        Assembler::default()
    }

    /// Checks the next frame. After an error the stream cannot be continued.
    pub fn check(&mut self, payload: &[u8]) -> Result<Facts> {
        let mut facts = Facts::default();
        let mut reader = MessageReader::new(payload);
        // From here on the payload's bytes are not in the open transaction's checksum yet.
        let mut from = 0;
        loop {
            let start = reader.offset();
            let Some(message) = reader.next() else { break };
            match message? {
                Message::Row(row) => {
                    self.row(&row)?;
                    facts.rows += 1;
                }
                Message::Begin(begin) => {
                    self.begin(begin)?;
                    from = start;
                }
                Message::Commit(commit) => {
                    self.commit(&commit, &payload[from..reader.offset() - CRC_LEN])?;
                    facts.transactions += 1;
                }
                Message::Hello(hello) => facts.hello = Some(self.hello(&hello)?),
                other => self.other(&other)?,
            }
        }
        if let Some(open) = &mut self.open {
            open.crc = crc32c::crc32c_append(open.crc, &payload[from..]);
            facts.inside = true;
        }
        Ok(facts)
    }

    fn hello(&mut self, hello: &Hello<'_>) -> Result<HelloBuf> {
        if self.greeted {
            return order("second Hello");
        }
        self.greeted = true;
        Ok(hello.to_owned_buf())
    }

    fn begin(&mut self, begin: Begin) -> Result<()> {
        if !self.greeted {
            return order("Begin before Hello");
        }
        if self.open.is_some() {
            return order("Begin inside a transaction");
        }
        if begin.commit_lsn <= self.last_commit_lsn {
            return Err(StreamError::Backwards { lsn: begin.commit_lsn, after: self.last_commit_lsn });
        }
        self.open = Some(Open { begin, records: 0, crc: 0, half: None });
        Ok(())
    }

    #[inline]
    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        let Some(open) = &mut self.open else {
            return order("Row outside a transaction");
        };
        open.records += 1;
        let columns = match row.body {
            Body::Raw(tuple) => tuple.natts,
            Body::Binary(tuple) => tuple.columns,
        };
        match self.relations.get(row.rel as usize) {
            Some(Some(known)) if columns <= *known => {}
            _ => return Err(StreamError::Relation { index: row.rel }),
        }
        let half = open.half.take();
        match (row.kind, row.paired, half) {
            (_, false, None) => {}
            (RowKind::Delete, true, None) => open.half = Some(row.rel),
            (RowKind::Insert, true, Some(rel)) if rel == row.rel => {}
            _ => return order("half of an UPDATE without the other"),
        }
        Ok(())
    }

    fn commit(&mut self, commit: &Commit, tail: &[u8]) -> Result<()> {
        let Some(open) = self.open.take() else {
            return order("Commit outside a transaction");
        };
        if open.half.is_some() {
            return order("half of an UPDATE without the other");
        }
        if open.begin.commit_lsn != commit.commit_lsn || commit.end_lsn <= commit.commit_lsn {
            return order("Commit does not belong to its Begin");
        }
        if open.records != commit.records {
            return Err(StreamError::Count { announced: commit.records, received: open.records });
        }
        if crc32c::crc32c_append(open.crc, tail) != commit.crc32c {
            return Err(StreamError::Checksum { commit_lsn: commit.commit_lsn });
        }
        self.last_commit_lsn = commit.commit_lsn;
        Ok(())
    }

    fn relation(&mut self, relation: &Relation<'_>) -> Result<()> {
        let columns = u16::try_from(relation.attrs.len());
        let (Ok(columns), true) = (columns, relation.index < RELATIONS_MAX) else {
            return Err(StreamError::Relation { index: relation.index });
        };
        let index = relation.index as usize;
        if self.relations.len() <= index {
            self.relations.resize(index + 1, None);
        }
        self.relations[index] = Some(columns);
        Ok(())
    }

    fn other(&mut self, message: &Message<'_>) -> Result<()> {
        if !self.greeted {
            return order("message before Hello");
        }
        if self.open.as_ref().is_some_and(|open| open.half.is_some()) {
            return order("half of an UPDATE without the other");
        }
        match (message, self.open.is_some()) {
            (Message::Relation(relation), _) => self.relation(relation),
            (Message::Progress(_), true) => order("Progress inside a transaction"),
            (Message::Message(m), inside) if m.transactional != inside => {
                order("logical message on the wrong side of a transaction's bounds")
            }
            (Message::Truncate(_) | Message::Degraded(_) | Message::Reinit(_), false) => {
                order("change outside a transaction")
            }
            _ => Ok(()),
        }
    }
}
