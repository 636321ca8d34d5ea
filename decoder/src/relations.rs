//! Which relations are captured and how, cached until PostgreSQL says that they changed.
//!
//! A change belongs to a *physical* relation and is told of each *published* one that it is part of: a table itself,
//! or the partitioned tables above it. What is known of a physical relation is valid as long as no invalidation has hit
//! it or any relation above it. The invalidation callback only counts, so it can run at any moment.

use crate::options::Tables;
use pgtrickle_pg::relation::{self, Opened, Relation, Tracked};
use pgtrickle_pg::tuple::{Column, Projection};
use pgtrickle_wire::relation::RelationHead;
use pgtrickle_wire::{Attr, FrameWriter};
use std::collections::HashMap;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Schemas whose tables are never wanted unless they are named.
const OWN_SCHEMAS: [&[u8]; 5] = [b"pg_catalog", b"information_schema", b"pg_toast", b"pgtrickle", b"pgtrickle_changes"];

/// Physical relations that are kept: of those that come and go every day, too, which no invalidation tells of any more.
const ENTRIES_MAX: usize = 16384;

const BUCKETS: usize = 1024;
static INVALIDATED: [AtomicU32; BUCKETS] = [const { AtomicU32::new(0) }; BUCKETS];
static ALL_INVALIDATED: AtomicU32 = AtomicU32::new(0);
static REGISTER: Once = Once::new();

fn invalidated(relid: u32) {
    let counter = if relid == 0 { &ALL_INVALIDATED } else { &INVALIDATED[relid as usize % BUCKETS] };
    counter.fetch_add(1, Relaxed);
}

/// Changes whenever one of the relations may have changed.
#[inline]
fn stamp(relids: &[u32]) -> u32 {
    let one = |relid: &u32| INVALIDATED[*relid as usize % BUCKETS].load(Relaxed);
    relids.iter().map(one).fold(ALL_INVALIDATED.load(Relaxed), u32::wrapping_add)
}

/// How a published relation gets its rows from a physical one.
pub struct Source {
    /// Chooses and orders the columns.
    pub projection: Projection,
    /// What consumers are told of it.
    pub description: Description,
}

/// What consumers are told of a published relation.
pub struct Description {
    relid: u32,
    namespace: Vec<u8>,
    name: Vec<u8>,
    columns: Vec<Column>,
    fingerprint: u64,
    announced: bool,
}

/// A published relation that a physical one is part of.
pub struct Capture {
    /// The published relation.
    pub relid: u32,
    /// The number by which rows name it.
    pub index: u32,
    /// Its rows, or why they cannot be told.
    pub source: Result<Source, String>,
    /// Its consumers know that rows are missing; no more of them are sent.
    pub broken: bool,
}

/// What the stream has said of a published relation.
#[derive(Clone, Copy)]
struct Announced {
    index: u32,
    version: u32,
    fingerprint: Option<u64>,
}

struct Entry {
    /// The physical relation and those above it.
    relids: Vec<u32>,
    stamp: u32,
    captures: Vec<Capture>,
}

/// A relation whose changes made capture fail again and again: a physical one that could not be decoded, or a published one that
/// could not be written. It is over for captures that began later.
#[derive(Clone, Debug)]
pub struct Quarantine {
    /// The relation.
    pub relid: u32,
    /// When it last failed, µs since 2000-01-01.
    pub at: i64,
    /// What its consumers are told.
    pub reason: String,
}

/// All that is known.
pub struct Relations {
    wanted: Tables,
    entries: Vec<Entry>,
    /// Places in `entries`, by the physical relation.
    places: HashMap<u32, usize>,
    /// The relation that was asked for last and its place: changes come in runs.
    last: (u32, usize),
    announced: HashMap<u32, Announced>,
    quarantined: HashMap<u32, Quarantine>,
    released: Vec<u32>,
}

impl Relations {
    /// Of a run that wants these tables.
    pub fn new(wanted: Tables) -> Self {
        REGISTER.call_once(|| relation::on_invalidation(invalidated));
        Relations {
            wanted,
            entries: Vec::new(),
            places: HashMap::new(),
            last: (0, 0),
            announced: HashMap::new(),
            quarantined: HashMap::new(),
            released: Vec::new(),
        }
    }

    /// Treats a relation as one whose changes cannot be told.
    pub fn quarantine(&mut self, quarantine: Quarantine) {
        invalidated(quarantine.relid);
        self.quarantined.insert(quarantine.relid, quarantine);
    }

    /// Quarantined relations that turned out to be captured no more, or anew, since this was last asked.
    pub fn take_released(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.released)
    }

    /// The place of what is known of a relation, known anew if need be.
    #[inline]
    fn place(&mut self, relation: Relation<'_>) -> usize {
        let relid = relation.oid();
        if self.last.0 != relid {
            if self.entries.len() >= ENTRIES_MAX && !self.places.contains_key(&relid) {
                self.entries.clear();
                self.places.clear();
            }
            let next = self.entries.len();
            self.last = (relid, *self.places.entry(relid).or_insert(next));
        }
        let place = self.last.1;
        let valid = self.entries.get(place).is_some_and(|e| e.stamp == stamp(&e.relids));
        if !valid {
            // Should looking fail, the place must not belong to the relation.
            self.last = (0, 0);
            self.places.remove(&relid);
            let entry = self.look_up(relation);
            match self.entries.get_mut(place) {
                Some(old) => *old = entry,
                None => self.entries.push(entry),
            }
            self.places.insert(relid, place);
            self.last = (relid, place);
        }
        place
    }

    /// The published relations that a physical one, or a partitioned one, is part of.
    pub fn published(&self, relation: Relation<'_>) -> Vec<u32> {
        self.wanted_of(relation).into_iter().map(|(relid, _)| relid).collect()
    }

    #[cold]
    fn look_up(&mut self, relation: Relation<'_>) -> Entry {
        let mut relids = relation.ancestors();
        relids.push(relation.oid());
        // Taken before looking, so that an invalidation while we look is noticed.
        let stamp = stamp(&relids);
        let wanted = if relation.is_table() { self.wanted_of(relation) } else { Vec::new() };
        for relid in &relids {
            let anew = |q: &Quarantine| wanted.iter().all(|(_, tracked)| since(tracked) >= q.at);
            if self.quarantined.get(relid).is_some_and(anew) {
                self.quarantined.remove(relid);
                self.released.push(*relid);
            }
        }
        let captures = wanted.into_iter().map(|(relid, tracked)| self.capture(relation, relid, tracked)).collect();
        Entry { relids, stamp, captures }
    }

    fn capture(&mut self, physical: Relation<'_>, relid: u32, tracked: Option<Tracked>) -> Capture {
        let next = self.announced.len() as u32;
        let announced = self.announced.entry(relid);
        let index = announced.or_insert(Announced { index: next, version: 0, fingerprint: None }).index;
        let quarantines = [physical.oid(), relid].map(|relid| self.quarantined.get(&relid));
        let source = match quarantines.into_iter().flatten().find(|q| since(&tracked) < q.at) {
            Some(quarantine) => Err(quarantine.reason.clone()),
            None => source(physical, relid, tracked),
        };
        Capture { relid, index, source, broken: false }
    }

    fn wanted_of(&self, relation: Relation<'_>) -> Vec<(u32, Option<Tracked>)> {
        let mut candidates = vec![relation.oid()];
        candidates.extend(relation.ancestors());
        match &self.wanted {
            Tables::Tracked => candidates
                .into_iter()
                .filter_map(|relid| Some((relid, relation::tracked(relid)?)))
                .filter(|(_, tracked)| tracked.state != "DEGRADED")
                .map(|(relid, tracked)| (relid, Some(tracked)))
                .collect(),
            Tables::Named(names) => {
                let named = |relation: Relation<'_>| {
                    let (schema, name) = (relation.namespace_name(), relation.name().to_bytes());
                    names.iter().any(|(s, n)| s.as_bytes() == schema && n.as_bytes() == name)
                };
                let wanted = candidates.into_iter().filter(|&relid| Opened::new(relid).is_some_and(|o| named(o.get())));
                wanted.map(|relid| (relid, None)).collect()
            }
            Tables::All if OWN_SCHEMAS.contains(&relation.namespace_name().as_slice()) => Vec::new(),
            Tables::All => candidates.last().map(|&root| (root, None)).into_iter().collect(),
        }
    }

    /// What a physical relation is part of (nothing if nobody wants it), and what announcing that needs.
    #[inline]
    pub fn parts(&mut self, relation: Relation<'_>) -> (&mut [Capture], Announcements<'_>) {
        let place = self.place(relation);
        (&mut self.entries[place].captures, Announcements(&mut self.announced))
    }
}

/// When the capture of a relation began.
fn since(tracked: &Option<Tracked>) -> i64 {
    tracked.as_ref().map_or(i64::MAX, |tracked| tracked.since)
}

/// Remembers what was announced.
pub struct Announcements<'a>(&'a mut HashMap<u32, Announced>);

impl Announcements<'_> {
    /// Writes what consumers must know before a relation's rows, unless they know it.
    #[inline]
    pub fn announce(&mut self, description: &mut Description, writer: &mut FrameWriter) {
        if !description.announced {
            self.write(description, writer);
        }
    }

    #[cold]
    fn write(&mut self, source: &mut Description, writer: &mut FrameWriter) {
        source.announced = true;
        let Some(said) = self.0.get_mut(&source.relid) else { return };
        if said.fingerprint == Some(source.fingerprint) {
            return;
        }
        said.fingerprint = Some(source.fingerprint);
        said.version += 1;
        let head = RelationHead {
            index: said.index,
            relid: source.relid,
            schema_version: said.version,
            fingerprint: source.fingerprint,
            namespace: &source.namespace,
            name: &source.name,
        };
        let attrs: Vec<_> = source.columns.iter().map(attr).collect();
        writer.relation(&head, &attrs);
    }
}

fn attr(column: &Column) -> Attr<'_> {
    Attr {
        attnum: column.attnum,
        name: &column.name,
        type_oid: column.type_oid,
        typmod: column.typmod,
        typlen: column.len,
        typalign: column.align,
        byval: column.by_value,
        flags: (u8::from(column.not_null) * Attr::NOT_NULL) | (u8::from(column.generated_stored) * Attr::GENERATED),
    }
}

fn source(physical: Relation<'_>, relid: u32, tracked: Option<Tracked>) -> Result<Source, String> {
    let root = if relid == physical.oid() { None } else { Opened::new(relid) };
    let published = root.as_ref().map_or(physical, Opened::get);
    let all: Vec<Column> = published.desc().columns().collect();
    let columns = match tracked {
        Some(tracked) => tracked_columns(&all, &tracked.columns)?,
        None => all.into_iter().filter(|c| !c.dropped && !c.generated_virtual).collect(),
    };
    let positions = columns.iter().map(|c| position(physical, published, c)).collect::<Result<Vec<_>, _>>()?;
    let (namespace, name) = (published.namespace_name(), published.name().to_bytes().to_vec());
    let fingerprint = fingerprint(&namespace, &name, &columns);
    Ok(Source {
        projection: Projection::new(physical.desc(), &positions),
        description: Description { relid, namespace, name, columns, fingerprint, announced: false },
    })
}

/// Those that were dropped are left out: PostgreSQL lets nobody drop a column that a query names.
fn tracked_columns(all: &[Column], attnums: &[i16]) -> Result<Vec<Column>, String> {
    let find = |&attnum: &i16| match all.iter().find(|c| c.attnum == attnum) {
        None => Some(Err(format!("tracked column number {attnum} does not exist"))),
        Some(c) if c.dropped => None,
        Some(c) if c.generated_virtual => {
            let name = String::from_utf8_lossy(&c.name);
            Some(Err(format!("column {name} is generated when read, so it is not in the WAL")))
        }
        Some(c) => Some(Ok(c.clone())),
    };
    attnums.iter().filter_map(find).collect()
}

/// Where the physical relation has a published column; a partition may have them in another order.
fn position(physical: Relation<'_>, published: Relation<'_>, column: &Column) -> Result<usize, String> {
    if physical.oid() == published.oid() {
        return Ok(column.attnum as usize - 1);
    }
    let here = physical.desc().columns().position(|c| !c.dropped && c.name == column.name);
    here.ok_or_else(|| {
        let (name, partition) = (String::from_utf8_lossy(&column.name), physical.name().to_string_lossy());
        format!("partition {partition} has no column {name}")
    })
}

/// FNV-1a over all that a consumer of the rows relies on.
fn fingerprint(namespace: &[u8], name: &[u8], columns: &[Column]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut take = |bytes: &[u8]| {
        for byte in (bytes.len() as u32).to_le_bytes().iter().chain(bytes) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    take(namespace);
    take(name);
    for c in columns {
        take(&c.name);
        take(&c.attnum.to_le_bytes());
        take(&c.type_oid.to_le_bytes());
        take(&c.typmod.to_le_bytes());
        take(&c.len.to_le_bytes());
        take(&[c.align, u8::from(c.by_value), u8::from(c.not_null)]);
    }
    hash
}
