//! Prints a change stream readably.
//!
//! ```sh
//! pg_recvlogical -d mydb --slot=s --create-slot --plugin=pg_trickle
//! pg_recvlogical -d mydb --slot=s --start -f - | cargo run -p pgtrickle-wire --example print_stream
//! psql -XAtq mydb -c "SELECT encode(data, 'hex') FROM pg_logical_slot_peek_binary_changes('s', NULL, NULL)" |
//!     xxd -r -p | cargo run -p pgtrickle-wire --example print_stream -- --plain
//! ```
//!
//! `pg_recvlogical` puts a newline behind each frame; `--plain` expects none.

use pgtrickle_wire::{Attr, Body, Column, FrameReader, Message, MessageReader, RawTuple, Relation, Row, RowKind};
use std::collections::HashMap;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let frames = match std::env::args().nth(1).as_deref() {
        None => FrameReader::recvlogical(),
        Some("--plain") => FrameReader::new(),
        Some(_) => {
            eprintln!("usage: print_stream [--plain] < stream");
            return ExitCode::from(2);
        }
    };
    match print_all(&frames) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("print_stream: {e}");
            ExitCode::FAILURE
        }
    }
}

fn print_all(frames: &FrameReader) -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut printer = Printer { out: BufWriter::new(io::stdout().lock()), relations: HashMap::new(), number: 0 };
    while let Some(payload) = frames.next(&mut input)? {
        for message in MessageReader::new(&payload) {
            printer.message(&message.map_err(io::Error::other)?)?;
        }
        printer.out.flush()?;
    }
    Ok(())
}

struct Printer<W> {
    out: W,
    relations: HashMap<u32, Table>,
    /// Number of the next row in its transaction.
    number: u64,
}

struct Table {
    name: String,
    columns: Vec<Layout>,
}

struct Layout {
    name: String,
    type_oid: u32,
    typlen: i16,
    align: usize,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn lsn(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn as u32)
}

impl From<Attr<'_>> for Layout {
    fn from(attr: Attr<'_>) -> Self {
        let align = match attr.typalign {
            b'c' => 1,
            b's' => 2,
            b'i' => 4,
            _ => 8,
        };
        Layout { name: text(attr.name), type_oid: attr.type_oid, typlen: attr.typlen, align }
    }
}

impl<W: Write> Printer<W> {
    fn message(&mut self, message: &Message<'_>) -> io::Result<()> {
        match message {
            Message::Row(row) => return self.row(row),
            Message::Relation(m) => return self.relation(m),
            _ => {}
        }
        let out = &mut self.out;
        match message {
            Message::Hello(m) => writeln!(
                out,
                "HELLO {:?} from server {} on {}, database {}, slot {}, start {}",
                m.encoding,
                m.abi.server_version,
                text(m.abi.arch),
                m.abi.dboid,
                text(m.slot),
                lsn(m.start_lsn)
            ),
            Message::Begin(m) => {
                self.number = 0;
                let seconds = m.commit_time as f64 / 1e6;
                writeln!(out, "BEGIN {} at {}, {seconds} s since 2000-01-01", m.xid, lsn(m.commit_lsn))
            }
            Message::Commit(m) => {
                writeln!(out, "COMMIT {} records, end {}, crc32c {:08x}", m.records, lsn(m.end_lsn), m.crc32c)
            }
            Message::Truncate(m) => {
                let relids: Vec<_> = m.relids().map(|relid| relid.to_string()).collect();
                writeln!(out, "  TRUNCATE {}{}", relids.join(", "), if m.cascade { " CASCADE" } else { "" })
            }
            Message::Message(m) => {
                let (at, content) = (lsn(m.lsn), m.content.escape_ascii());
                writeln!(out, "MESSAGE {} at {at}: {content}", text(m.prefix))
            }
            Message::Degraded(m) => {
                writeln!(out, "  DEGRADED relation {}: {}", m.relid, text(m.reason))
            }
            Message::Reinit(m) => {
                writeln!(out, "  REINIT relation {}: {}", m.relid, text(m.reason))
            }
            Message::Progress(m) => writeln!(out, "PROGRESS {}", lsn(m.lsn)),
            Message::Optional { tag, body } => {
                writeln!(out, "OPTIONAL 0x{tag:02x}, {} bytes", body.len())
            }
            Message::Row(_) | Message::Relation(_) => Ok(()),
        }
    }

    fn relation(&mut self, m: &Relation<'_>) -> io::Result<()> {
        let name = format!("{}.{}", text(m.namespace), text(m.name));
        let columns: Vec<Layout> = m.attrs.iter().map(Layout::from).collect();
        let list: Vec<_> = columns.iter().map(|c| format!("{} {}", c.name, c.type_oid)).collect();
        let (index, relid, version) = (m.index, m.relid, m.schema_version);
        writeln!(self.out, "  RELATION {index} = {name} ({relid}), version {version}: {}", list.join(", "))?;
        self.relations.insert(m.index, Table { name, columns });
        Ok(())
    }

    fn row(&mut self, row: &Row<'_>) -> io::Result<()> {
        let Some(table) = self.relations.get(&row.rel) else {
            return Err(io::Error::other(format!("row of unknown relation {}", row.rel)));
        };
        let sign = if row.kind == RowKind::Insert { '+' } else { '-' };
        let pair = if row.paired { "*" } else { "" };
        write!(self.out, "  {sign}{pair} #{} {}", self.number, table.name)?;
        self.number += 1;
        let values = match row.body {
            Body::Raw(tuple) => raw_values(&table.columns, &tuple),
            Body::Binary(tuple) => {
                table.columns.iter().zip(tuple.iter()).map(|(c, v)| binary_value(c.type_oid, &v)).collect()
            }
        };
        for (column, value) in table.columns.iter().zip(values) {
            write!(self.out, " {}={value}", column.name)?;
        }
        writeln!(self.out)
    }
}

/// Takes a heap tuple's data apart. What does not fit is shown as `?`.
fn raw_values(columns: &[Layout], tuple: &RawTuple<'_>) -> Vec<String> {
    let mut at = 0;
    let value = |(i, column): (usize, &Layout)| {
        if !tuple.is_present(i) {
            return "NULL".into();
        }
        // A short varlena (its first byte is not padding) is not aligned.
        let short = column.typlen == -1 && tuple.data.get(at).is_some_and(|&b| b != 0);
        if !short {
            at = at.next_multiple_of(column.align);
        }
        let rest = tuple.data.get(at..).unwrap_or(&[]);
        let Some((size, value)) = raw_value(column, rest) else {
            return "?".into();
        };
        at += size;
        value
    };
    columns.iter().enumerate().map(value).collect()
}

/// The size of the value at the beginning of `rest`, and the value.
fn raw_value(column: &Layout, rest: &[u8]) -> Option<(usize, String)> {
    match column.typlen {
        -1 => {
            let first = *rest.first()?;
            if first & 1 != 0 {
                let size = usize::from(first >> 1).max(1);
                return Some((size, show(column.type_oid, rest.get(1..size)?)));
            }
            let header = u32::from_le_bytes(*rest.first_chunk()?);
            let size = (header >> 2) as usize;
            let body = rest.get(4..size)?;
            let value = if header & 2 != 0 {
                format!("<{} compressed bytes>", body.len())
            } else {
                show(column.type_oid, body)
            };
            Some((size, value))
        }
        -2 => {
            let end = rest.iter().position(|&b| b == 0)?;
            Some((end + 1, show(column.type_oid, &rest[..end])))
        }
        len => {
            let size = usize::try_from(len).ok()?;
            let mut bytes = rest.get(..size)?.to_vec();
            // The send functions' byte order.
            if is_number(column.type_oid) {
                bytes.reverse();
            }
            Some((size, show(column.type_oid, &bytes)))
        }
    }
}

fn binary_value(type_oid: u32, column: &Column<'_>) -> String {
    match column {
        Column::Null => "NULL".into(),
        Column::Unchanged => "<unchanged>".into(),
        Column::Value(bytes) => show(type_oid, bytes),
    }
}

fn is_number(type_oid: u32) -> bool {
    matches!(type_oid, 20 | 21 | 23 | 26 | 700 | 701 | 1082 | 1114 | 1184)
}

/// A few built-in types by their meaning, all others as bytes.
fn show(type_oid: u32, bytes: &[u8]) -> String {
    let signed =
        || bytes.iter().fold(if bytes.first() >= Some(&0x80) { -1i64 } else { 0 }, |n, &b| n << 8 | i64::from(b));
    match (type_oid, bytes.len()) {
        (16, 1) => (bytes[0] != 0).to_string(),
        (20 | 21 | 23, 1..=8) => signed().to_string(),
        (26, 4) => (signed() as u32).to_string(),
        (700, 4) => f32::from_bits(signed() as u32).to_string(),
        (701, 8) => f64::from_bits(signed() as u64).to_string(),
        (1082, 4) => format!("day {}", signed()),
        (1114 | 1184, 8) => format!("{} µs", signed()),
        (18 | 19 | 25 | 1042 | 1043 | 114, _) => format!("'{}'", text(bytes)),
        _ => bytes.iter().fold(String::from("\\x"), |hex, b| hex + &format!("{b:02x}")),
    }
}
