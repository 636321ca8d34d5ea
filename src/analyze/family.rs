//! Tables that share their rows with others: inheritance parents, partitions read alone.
//!
//! ```text
//! FROM parent    = ONLY parent ⊎ ONLY child₁ ⊎ …     each with its own changes, columns by name
//!                                                     a whole row is one of the parent
//! FROM partition = σ its partition constraint (the whole table)     whose changes are captured
//! ```
//!
//! When a child or a partition comes or goes, an event trigger has the sources looked for anew.

use super::scalar::Row;
use super::sources::{Capture, capture};
use super::{Analyzer, Mapped, map, opaque};
use pgtrickle_engine::ir::{Rel, Scalar};
use pgtrickle_pg::expr::{Expr, Shape};
use pgtrickle_pg::query::RelationEntry;
use pgtrickle_pg::table::{self, Relation};

impl<'q> Analyzer<'q> {
    /// A table and its inheritance children.
    pub(super) fn with_children(&self, entry: &RelationEntry, parent: &Relation, wanted: &[i16]) -> Mapped<Rel> {
        let members = table::with_children(entry.relid);
        let read = self.with_all_columns(parent, wanted);
        let scans = members
            .into_iter()
            .map(|relid| {
                let member = Relation::describe(relid);
                let columns = renumbered(&read, parent, &member)?;
                if relid != entry.relid {
                    self.computed_alike(parent, &member, &read, &columns)?;
                    self.readable_alone(&member, &columns)?;
                }
                let alone = RelationEntry { relid, inherits: false, ..entry.clone() };
                self.named_row(parent, self.scan_alone(&alone, member, &columns)?, &read, wanted)
            })
            .collect::<Mapped<Vec<Rel>>>()?;
        match <[Rel; 1]>::try_from(scans) {
            Ok([only]) => Ok(only),
            Err(several) => Ok(Rel::union_all(several)?),
        }
    }

    /// A partition.
    pub(super) fn partition(&self, entry: &RelationEntry, partition: &Relation, wanted: &[i16]) -> Mapped<Rel> {
        let name = table::quoted(&partition.schema, &partition.name);
        let (wanted, shown) = (&self.with_all_columns(partition, wanted)[..], wanted);
        if partition.relkind == 'p' && !entry.inherits {
            return opaque(format!("it reads ONLY {name}, which has no rows of its own"));
        }
        let root = Relation::describe(table::partition_root(entry.relid));
        if capture(&root) != Capture::Wal {
            return opaque(format!("{name} is a partition of a table whose changes are not all in the WAL"));
        }
        let conditions = table::partition_condition(self.scratch, entry.relid);
        let mut columns = renumbered(wanted, partition, &root)?;
        let read: Vec<i16> = conditions.iter().flat_map(|c| c.columns()).map(|(_, column)| column).collect();
        for column in renumbered(&read, partition, &root)? {
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
        self.computed_alike(partition, &root, wanted, &columns)?;
        self.readable_alone(&root, &columns)?;
        let whole = RelationEntry { relid: root.relid, inherits: true, ..entry.clone() };
        let find = |expr: Expr<'q>| match expr.shape() {
            Shape::Column { levels_up: 0, entry: 1, column } => {
                let number = *renumbered(&[column], partition, &root).ok()?.first()?;
                columns.iter().position(|known| *known == number)
            }
            _ => None,
        };
        let rel = self.scan_alone(&whole, root.clone(), &columns)?;
        let cols = rel.cols();
        let predicates = self.scalars(&conditions, &Row { cols: &cols, find: &find })?;
        let rows = map(rel.filter(predicates)?, (0..wanted.len()).map(|at| Scalar::column(at, &cols[at])).collect())?;
        self.named_row(partition, rows, wanted, shown)
    }

    /// Columns of a table, with all of them in place of the whole row.
    fn with_all_columns(&self, table: &Relation, wanted: &[i16]) -> Vec<i16> {
        let mut read: Vec<i16> = wanted.iter().copied().filter(|column| *column != 0).collect();
        if wanted.contains(&0) {
            let all = table.columns.iter().map(|column| column.number);
            let missing: Vec<i16> = all.filter(|number| !read.contains(number)).collect();
            read.extend(missing);
        }
        read
    }

    /// The wanted columns of what has been read; the whole row is one of the table that the query names, whichever
    /// relative's it was.
    fn named_row(&self, table: &Relation, rel: Rel, read: &[i16], wanted: &[i16]) -> Mapped<Rel> {
        let cols = rel.cols();
        let position = |number: i16| read.iter().position(|known| *known == number);
        let columns = wanted.iter().filter_map(|&number| match number {
            0 => Some(self.whole_row(table, read)),
            number => position(number).map(|at| Scalar::column(at, &cols[at])),
        });
        map(rel, columns.collect())
    }

    /// A virtual column's expression is that of the table that the query names, whichever relative has the row.
    fn computed_alike(&self, named: &Relation, relative: &Relation, columns: &[i16], there: &[i16]) -> Mapped<()> {
        let expression = |table: &Relation, number: i16| {
            let computed = table.column(number).filter(|column| column.generated_virtual);
            computed.and_then(|column| table::generation_expression(self.scratch, table.relid, column.number))
        };
        for (&here, &there) in columns.iter().zip(there).filter(|(here, _)| **here > 0) {
            match (expression(named, here), expression(relative, there)) {
                (None, None) => {}
                (Some(own), Some(other)) if own.equals(other) => {}
                _ => return opaque("a virtual column is computed otherwise in a table's relative"),
            }
        }
        Ok(())
    }

    /// A relative of the table that is named in the query: it is read directly, so its own rights and policies count.
    fn readable_alone(&self, relative: &Relation, columns: &[i16]) -> Mapped<()> {
        let name = table::quoted(&relative.schema, &relative.name);
        if relative.row_security {
            return opaque(format!("row security is enabled on {name}, which would have to be read instead"));
        }
        if !table::may_read(self.user, relative.relid, columns) {
            return opaque(format!("its owner may not read {name}, which would have to be read instead"));
        }
        Ok(())
    }
}

/// Columns of one table as those of the same names in another.
fn renumbered(columns: &[i16], of: &Relation, to: &Relation) -> Mapped<Vec<i16>> {
    let number = |column: &i16| {
        if *column < 0 {
            return Some(*column);
        }
        let name = &of.column(*column)?.name;
        Some(to.columns.iter().find(|known| known.name == *name)?.number)
    };
    match columns.iter().map(number).collect() {
        Some(found) => Ok(found),
        None if of.relid == to.relid => Ok(columns.to_vec()),
        None => opaque("it uses a column that a table's relative does not have"),
    }
}
