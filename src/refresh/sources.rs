//! Staging the changes of sources: which rows of the change buffers a refresh makes visible.

use super::partners::Partners;
use super::program::{Loaded, size_class};
use super::run::Relations;
use crate::catalog::{Frontier, SourceType, StreamTable};
use pgtrickle_engine::ir::SourceId;
use pgtrickle_engine::program::Program;
use pgtrickle_engine::relevant;
use pgtrickle_engine::sql::{Ident, QualifiedName};
use pgtrickle_pg::class;
use pgtrickle_pg::snapshot::{Snapshot, XidSet, current_xid};
use pgtrickle_pg::spi::RunAs;
use pgtrickle_pg::staging::{Filling, Position, Reach, Reader};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

/// Segments of a change buffer.
pub const SEGMENTS: u32 = 2;

/// The change buffer of a source, and its segments.
pub struct Buffer {
    pub relid: u32,
    pub segments: Vec<u32>,
}

/// The change buffer of a source, if it has one.
pub fn buffer_of(source: u32) -> Option<Buffer> {
    let relid = class::named(c"pgtrickle_changes", &format!("changes_{source}"))?;
    let segments =
        (0..SEGMENTS).filter_map(|n| class::named(c"pgtrickle_changes", &format!("changes_{source}_{n}"))).collect();
    Some(Buffer { relid, segments })
}

/// The name of a source's change buffer.
pub fn buffer_name(source: u32) -> QualifiedName {
    QualifiedName { schema: Ident::new("pgtrickle_changes"), name: Ident::new(format!("changes_{source}")) }
}

/// What staging found.
#[derive(Default)]
pub struct Changes {
    /// Sources with changes.
    pub changed: BTreeSet<SourceId>,
    /// Scans of them, by number, to which nothing matters.
    idle: BTreeSet<(SourceId, usize)>,
    /// Sources of whose staged changes all pass the condition of their only scan.
    passed: BTreeSet<SourceId>,
    /// Change rows staged.
    pub rows: u64,
    /// Change rows that make no difference to what the query reads: the frontier moves over them.
    pub cancelled: u64,
    /// Deltas cannot express what happened to a source; recompute.
    pub reinitialise: bool,
    /// Changes are in the buffers that are not visible yet.
    pub leftover: bool,
    /// Commit LSN of the newest change staged, 0 if none.
    pub newest_lsn: u64,
    positions: Vec<((i64, u32), Position)>,
}

thread_local! {
    /// Where the next refresh of a stream table may start reading a segment. Only of refreshes that committed.
    static POSITIONS: RefCell<HashMap<(i64, u32), Position>> = RefCell::default();
}

impl Changes {
    /// Nobody has looked for any, as everything is computed anew.
    pub fn unread() -> Changes {
        Changes { reinitialise: true, leftover: true, ..Changes::default() }
    }

    /// What the program of a refresh depends on: these changes, and sources whose changes it finds out by itself.
    pub fn with_compared(&self, compared: &BTreeSet<SourceId>) -> relevant::Changes {
        relevant::Changes {
            sources: self.changed.union(compared).copied().collect(),
            idle: self.idle.clone(),
            passed: self.passed.clone(),
        }
    }

    /// Once the refresh has committed, the next one may start where this one ended.
    pub fn committed(&self) {
        POSITIONS.with_borrow_mut(|known| known.extend(self.positions.iter().copied()));
    }
}

/// Stages the changes of every source of `st` that are visible in `visible` and not in its frontier. Buffer rows are
/// read under `newest`, as rows written after `visible` was taken describe transactions visible in it.
pub fn stage(
    st: &StreamTable,
    loaded: &Loaded,
    frontier: &Frontier,
    visible: &XidSet,
    newest: &Snapshot,
    into: &mut Relations,
) -> Changes {
    let mut found = Changes::default();
    let own = current_xid();
    // The conditions of scans may call the owner's functions.
    let _settings = super::local_settings(st);
    let _owner = RunAs::restricted(st.owner);
    let mut partners = Partners::default();
    for source in st.sources.iter().filter(|s| s.kind != SourceType::Other) {
        let Some(buffer) = buffer_of(source.relid) else {
            found.reinitialise = true;
            continue;
        };
        let from_parent = source.kind == SourceType::StreamTable;
        let in_order = source.kind == SourceType::Table;
        // Refreshed by this transaction before: what its parents have written since looks like what they had written then.
        found.reinitialise |= from_parent && own == Some(frontier.xid);
        let reach = |xid: u64| {
            if frontier.visible.contains(xid) || (from_parent && xid == frontier.xid) {
                Reach::Known
            } else if visible.contains(xid) || (from_parent && Some(xid) == own) {
                Reach::New
            } else {
                Reach::Later
            }
        };
        let scans = loaded.scans_of(source.relid, &buffer_name(source.relid));
        // A stream table's changes are appended wherever there is room, so the order of its rows says nothing.
        let known = |segment| POSITIONS.with_borrow(|known| known.get(&(st.pgt_id, segment)).copied());
        let segments = buffer.segments.iter().map(|segment| (*segment, known(*segment).filter(|_| in_order)));
        let segments: Vec<(u32, Option<Position>)> = segments.collect();
        let readers = scans.iter().map(|scan| Reader {
            columns: scan.columns.clone(),
            filter: scan.filter.as_deref(),
            partners: partners.of(scan, loaded, newest, &segments),
        });
        let mut filling = Filling::like(buffer.relid, &readers.collect::<Vec<_>>());
        let mut rows = 0;
        for (segment, from) in segments {
            let key = (st.pgt_id, segment);
            let scan = newest.active(|| filling.add(segment, newest, from, reach));
            rows += scan.new_rows;
            found.cancelled += scan.cancelled_rows;
            found.reinitialise |= scan.reinitialise;
            found.leftover |= scan.later_rows > 0;
            found.newest_lsn = found.newest_lsn.max(scan.newest_lsn);
            found.positions.push((key, scan.next));
        }
        let id = SourceId(source.relid);
        let name = Program::source_delta(id);
        let mattered = filling.mattered();
        if filling.is_filtered() {
            found.passed.insert(id);
        }
        let idle = (0..scans.len()).filter(|scan| !mattered.contains(*scan));
        into.insert(name.clone(), filling.register(name.as_str(), size_class(rows).1));
        if rows > 0 {
            found.changed.insert(id);
            found.idle.extend(idle.map(|scan| (id, scan)));
            found.rows += rows;
        }
    }
    found
}
