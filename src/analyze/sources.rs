//! The tables that a query reads. Those that are parts of others are mapped in `family`.

use super::scalar::Row;
use super::{Analyzer, Mapped, map, opaque};
use pgrx::pg_sys;
use pgtrickle_engine::ir::{Col, Rel, Scalar, SourceId, Ty};
use pgtrickle_engine::program::SourceInfo;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::{Ident, QualifiedName, Sql};
use pgtrickle_pg::expr::{Expr, Shape};
use pgtrickle_pg::query::{Query, RelationEntry};
use pgtrickle_pg::table::{self, Relation};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// A table that a query reads, as dependencies record it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its OID; of a partition, the OID of the whole partitioned table.
    pub relid: pg_sys::Oid,
    /// Its name.
    pub name: QualifiedName,
    /// `r`, `p`, `f`, `m`…
    pub relkind: char,
    /// The columns that matter, ascending.
    pub columns: Vec<i16>,
    /// Whether its changes can be read from the WAL.
    pub capture: Capture,
}

/// The number of the column `tableoid`.
pub(super) const TABLE_OID: i16 = pg_sys::TableOidAttributeNumber as i16;
impl Source {
    /// For messages.
    pub fn label(&self) -> String {
        format!("{}.{}", self.name.schema.as_str(), self.name.name.as_str())
    }
}

/// Whether changes of a table can be read from the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    /// They can.
    Wal,
    /// They cannot: what the table is.
    Never(&'static str),
}

/// One copy serves all scans of a compared source: each has all columns that any of them reads.
pub(super) fn unified(rel: &Rel) -> Mapped<Rel> {
    let mut columns: BTreeMap<SourceId, BTreeMap<i16, Col>> = BTreeMap::new();
    rel.visit(&mut |rel| {
        if let Rel::Compared { input } = rel
            && let Rel::Scan { source, columns: numbers, cols } = &**input
        {
            columns.entry(*source).or_default().extend(numbers.iter().copied().zip(cols.iter().cloned()));
        }
    });
    if columns.is_empty() { Ok(rel.clone()) } else { widened(rel, &columns) }
}

fn widened(rel: &Rel, columns: &BTreeMap<SourceId, BTreeMap<i16, Col>>) -> Mapped<Rel> {
    if let Rel::Compared { input } = rel
        && let Rel::Scan { source, columns: wanted, .. } = &**input
    {
        let (numbers, cols): (Vec<i16>, Vec<Col>) = columns[source].iter().map(|(n, col)| (*n, col.clone())).unzip();
        let all = Rel::scan(*source, numbers.clone(), cols.clone())?.compared()?;
        let at = wanted.iter().filter_map(|number| numbers.iter().position(|known| known == number));
        return map(all, at.map(|at| Scalar::column(at, &cols[at])).collect());
    }
    rel.try_map_inputs(&mut |input| widened(input, columns))
}

/// What has been scanned: the tables, and which of their columns.
#[derive(Default)]
pub(super) struct Sources {
    scanned: RefCell<BTreeMap<u32, (Relation, BTreeSet<i16>)>>,
}

impl Sources {
    /// What the engine wants to know of the sources of a relation.
    pub(super) fn infos(&self, root: &Rel) -> Vec<SourceInfo> {
        let scanned = self.scanned.borrow();
        root.sources().iter().map(|id| info(*id, &scanned[&id.0].0)).collect()
    }

    pub(super) fn scanned(&self) -> Vec<Source> {
        self.scanned.borrow().values().map(|(relation, columns)| source(relation, columns)).collect()
    }

    /// The primary keys of what has been scanned.
    pub(super) fn primary_keys(&self) -> BTreeMap<SourceId, Vec<i16>> {
        let scanned = self.scanned.borrow();
        let keys =
            scanned.iter().filter_map(|(id, (relation, _))| Some((SourceId(*id), relation.primary_key.clone()?)));
        keys.collect()
    }

    fn note(&self, relation: &Relation, columns: &[i16]) {
        let mut scanned = self.scanned.borrow_mut();
        let (_, known) = scanned.entry(relation.relid.to_u32()).or_insert_with(|| (relation.clone(), BTreeSet::new()));
        known.extend(columns);
    }
}

fn info(id: SourceId, relation: &Relation) -> SourceInfo {
    SourceInfo {
        id,
        table: QualifiedName::new(&relation.schema, &relation.name),
        only: relation.relkind == 'r' && capture(relation) == Capture::Wal,
        columns: relation.columns.iter().map(|c| (c.number, Ident::new(&c.name))).collect(),
        primary_key: relation.primary_key.clone(),
    }
}

fn source(relation: &Relation, columns: &BTreeSet<i16>) -> Source {
    Source {
        relid: relation.relid,
        name: QualifiedName::new(&relation.schema, &relation.name),
        relkind: relation.relkind,
        columns: columns.iter().copied().collect(),
        capture: capture(relation),
    }
}

pub(super) fn capture(relation: &Relation) -> Capture {
    match (relation.relkind, relation.persistence) {
        ('f', _) => Capture::Never("a foreign table"),
        ('m', _) => Capture::Never("a materialized view"),
        ('S', _) => Capture::Never("a sequence"),
        (_, 'u') => Capture::Never("an unlogged table"),
        _ if relation.other_method => Capture::Never("a table of another access method than heap"),
        ('p', _) if table::with_children(relation.relid).into_iter().any(table::leaves_no_wal) => Capture::Never(
            "a partitioned table with partitions that are foreign, unlogged or of another access method than heap",
        ),
        _ => Capture::Wal,
    }
}

impl<'q> Analyzer<'q> {
    /// The wanted columns of a table, by attribute number; 0 is the whole row.
    pub(super) fn scan(&self, entry: &RelationEntry, wanted: &[i16]) -> Mapped<Rel> {
        let relation = Relation::describe(entry.relid);
        if capture(&relation) == Capture::Wal && !entry.guarded && !entry.tablesample {
            if relation.is_partition {
                return self.partition(entry, &relation, wanted);
            }
            if relation.relkind == 'r' && relation.has_children && entry.inherits {
                return self.with_children(entry, &relation, wanted);
            }
        }
        self.scan_alone(entry, relation, wanted)
    }

    /// The same, whatever it is part of.
    pub(super) fn scan_alone(&self, entry: &RelationEntry, mut relation: Relation, wanted: &[i16]) -> Mapped<Rel> {
        // Nobody enforces constraints of foreign tables, nor a parent's among the rows of its children.
        let with_children = relation.has_children && entry.inherits;
        let enforced = capture(&relation) == Capture::Wal || relation.relkind == 'r' && !with_children;
        if !enforced {
            relation.primary_key = None;
        }
        if wanted.contains(&TABLE_OID) {
            return self.scan_with_oid(entry, relation, wanted);
        }
        let computed: Vec<(i16, Expr<'q>)> = wanted
            .iter()
            .filter(|&&number| relation.column(number).is_some_and(|column| column.generated_virtual))
            .filter_map(|&number| Some((number, table::generation_expression(self.scratch, entry.relid, number)?)))
            .collect();
        let stored = stored(&relation, wanted, &computed);
        if let Some(reason) = no_delta(entry, &relation, &stored, self.user) {
            return opaque(reason);
        }
        self.sources.note(&relation, &stored);
        let cols: Vec<Col> = stored
            .iter()
            .filter_map(|&number| relation.column(number))
            .map(|column| Col { ty: self.types.ty(column.ty), not_null: column.not_null && enforced })
            .collect();
        let scan = Rel::scan(SourceId(entry.relid.to_u32()), stored.clone(), cols.clone())?;
        let scan = if capture(&relation) == Capture::Wal { scan } else { scan.compared()? };
        let position = |number: i16| stored.iter().position(|&known| known == number);
        let find = |expr: Expr<'q>| match expr.shape() {
            Shape::Column { levels_up: 0, entry: 1, column } => position(column),
            _ => None,
        };
        let exprs = wanted
            .iter()
            .map(|&number| match (position(number), computed.iter().find(|(known, _)| *known == number)) {
                (Some(at), _) => Ok(Scalar::column(at, &cols[at])),
                (None, Some((_, expr))) => self.scalar(*expr, &Row { cols: &cols, find: &find }),
                (None, None) => Ok(self.whole_row(&relation, &stored)),
            })
            .collect::<Mapped<_>>()?;
        map(scan, exprs)
    }

    /// The same with `tableoid` among the wanted columns.
    fn scan_with_oid(&self, entry: &RelationEntry, relation: Relation, wanted: &[i16]) -> Mapped<Rel> {
        if relation.relkind == 'p' || relation.has_children && entry.inherits {
            return opaque("it asks in which partition a row is (tableoid)");
        }
        let others: Vec<i16> = wanted.iter().copied().filter(|number| *number != TABLE_OID).collect();
        let rel = self.scan_alone(entry, relation, &others)?;
        let cols = rel.cols();
        let text = sql!("'{}'::oid", i64::from(entry.relid.to_u32()));
        let columns = wanted.iter().map(|number| match others.iter().position(|other| other == number) {
            Some(at) => Scalar::column(at, &cols[at]),
            None => Scalar { sql: text.clone(), ..Scalar::deparsed("", vec![], Ty::new("oid"), true) },
        });
        map(rel, columns.collect())
    }

    pub(super) fn whole_row(&self, relation: &Relation, stored: &[i16]) -> Scalar {
        let ty = self.types.ty(table::row_type(relation.relid));
        let columns = relation.columns.iter().filter_map(|c| stored.iter().position(|&number| number == c.number));
        let row = sql!("ROW({})::{}", Sql::list(columns.clone().map(Sql::column)), ty.sql);
        Scalar { sql: row, ..Scalar::deparsed("", columns.collect(), ty, true) }
    }
}

/// The stored columns that give the wanted ones, ascending.
fn stored(relation: &Relation, wanted: &[i16], computed: &[(i16, Expr<'_>)]) -> Vec<i16> {
    let mut stored: BTreeSet<i16> = wanted.iter().copied().filter(|number| *number > 0).collect();
    if wanted.contains(&0) {
        stored.extend(relation.columns.iter().map(|column| column.number));
    }
    for (number, expr) in computed {
        stored.remove(number);
        stored.extend(expr.columns().into_iter().map(|(_, column)| column));
    }
    stored.into_iter().collect()
}

/// Why changes of a table cannot be followed one by one, if they cannot.
fn no_delta(entry: &RelationEntry, relation: &Relation, stored: &[i16], user: pg_sys::Oid) -> Option<String> {
    let name = table::quoted(&relation.schema, &relation.name);
    if entry.guarded {
        return Some(format!("row security policies apply to {name}"));
    }
    if entry.tablesample {
        return Some(format!("it reads a sample of {name} (TABLESAMPLE)"));
    }
    if stored.iter().any(|number| *number < 0) {
        return Some(format!("a generated column of {name} uses a system column"));
    }
    match capture(relation) {
        Capture::Wal => {
            if let Some(reason) = uncaptured(entry, relation, &name) {
                return Some(reason);
            }
        }
        Capture::Never(what) if relation.has_children && !entry.inherits => {
            return Some(format!("it reads ONLY {name}, {what}"));
        }
        Capture::Never(_) => {}
    }
    if let Some(column) = stored.iter().filter_map(|&n| relation.column(n)).find(|c| c.generated_virtual) {
        return Some(format!(
            "column {} of {name} is a virtual generated column of a virtual one or of a whole row",
            column.name
        ));
    }
    if entry.check_as.is_some_and(|checked| checked != user) && !table::may_read(user, entry.relid, stored) {
        return Some(format!("{name} is read through a view with the rights of the view's owner"));
    }
    None
}

/// Why changes of a captured table are not those of the rows that are read, if so.
fn uncaptured(entry: &RelationEntry, relation: &Relation, name: &str) -> Option<String> {
    match relation.relkind {
        'p' if !entry.inherits => Some(format!("it reads ONLY {name}, which has no rows of its own")),
        'r' | 'p' => None,
        kind => Some(format!("{name} is a relation of kind \"{kind}\"")),
    }
}

/// The tables of a query that is not mapped, with all columns that its text names.
pub(super) fn of_query(query: Query<'_>) -> Vec<Source> {
    let mut found: BTreeMap<u32, (Relation, BTreeSet<i16>)> = BTreeMap::new();
    for entry in query.relations() {
        let read = Relation::describe(entry.relid);
        if read.relkind == 'r' && read.has_children && entry.inherits {
            for child in table::with_children(entry.relid).into_iter().skip(1).map(Relation::describe) {
                let columns = named_columns(&entry, &read, &child);
                found.entry(child.relid.to_u32()).or_insert_with(|| (child, BTreeSet::new())).1.extend(columns);
            }
        }
        let root = table::partition_root(entry.relid);
        let captured = if root == entry.relid { read.clone() } else { Relation::describe(root) };
        let columns = named_columns(&entry, &read, &captured);
        found.entry(root.to_u32()).or_insert_with(|| (captured, BTreeSet::new())).1.extend(columns);
    }
    found.values().map(|(relation, columns)| source(relation, columns)).collect()
}

/// A partition's columns have the names, not always the numbers, of the whole table's.
fn named_columns(entry: &RelationEntry, read: &Relation, captured: &Relation) -> Vec<i16> {
    let computed = |number: i16| read.column(number).is_some_and(|column| column.generated_virtual);
    if entry.selected.iter().any(|&number| number <= 0 || computed(number)) {
        let stored = captured.columns.iter().filter(|column| !column.generated_virtual);
        return stored.map(|column| column.number).collect();
    }
    let names = entry.selected.iter().filter_map(|&number| read.column(number)).map(|column| &column.name);
    names
        .filter_map(|name| captured.columns.iter().find(|column| &column.name == name))
        .map(|column| column.number)
        .collect()
}
