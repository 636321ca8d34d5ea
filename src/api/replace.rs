//! Another query for a stream table that exists.
//!
//! If the columns stay the same, old and new rows are compared as in any recomputation: readers and writers are never
//! in each other's way, and stream tables that read this one get the difference. If not, the new contents are
//! computed beside the old ones, and only then is the table locked, its columns changed and its rows exchanged.

use super::capture::Ready;
use super::define::{self, Made, create_view, insert_dependencies};
use super::names::Target;
use super::track;
use crate::analyze::{self, Analysis, Input};
use crate::catalog::{self, StreamTable};
use crate::error::{Error, Result};
use crate::immediate;
use crate::refresh::{fill, local_settings, ours, pinned, program};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::{Ident, QualifiedName, Sql};
use pgtrickle_pg::depend;
use pgtrickle_pg::spi::RunAs;

/// A new definition, not in force yet.
pub struct Draft {
    /// The id that it has until then.
    id: i64,
    relid: u32,
    view: u32,
    query: String,
    mode: String,
    pub analysis: Analysis,
}

/// A column of a relation.
pub struct Column {
    name: String,
    definition: String,
    number: i16,
}

/// The same column, wherever it is.
impl PartialEq for Column {
    fn eq(&self, other: &Column) -> bool {
        self.name == other.name && self.definition == other.definition
    }
}

/// The columns of a relation, in order.
pub fn columns(relid: u32) -> Vec<Column> {
    // Types of other schemas are written with them.
    let _path = catalog::pinned_path();
    Spi::connect(|client| {
        client
            .select(
                "SELECT a.attname::text,
                        pg_catalog.format_type(a.atttypid, a.atttypmod)
                        || CASE WHEN a.attcollation <> 0 AND a.attcollation <> t.typcollation
                                THEN pg_catalog.format(' COLLATE %I.%I', n.nspname, c.collname) ELSE '' END,
                        a.attnum
                   FROM pg_catalog.pg_attribute a
                   JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
                   LEFT JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation
                   LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
                  WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
                None,
                &[pg_sys::Oid::from(relid).into()],
            )
            .unwrap_or_report()
            .map(|row| {
                let text = |i| row.get::<String>(i).unwrap_or_report().unwrap_or_default();
                Column { name: text(1), definition: text(2), number: row.get(3).unwrap_or_report().unwrap_or_default() }
            })
            .collect()
    })
}

/// Makes the new definition view, under an id of its own.
pub fn draft(st: &StreamTable, query: &str, mode: &str) -> Result<Draft> {
    let id = catalog::next_id();
    create_view(id, query, st.owner)?;
    let view = program::view_oid(id)?;
    let analysis = analyze::analyze(Input::View(view.into()))?;
    Ok(Draft { id, relid: st.relid, view, query: query.to_owned(), mode: mode.to_owned(), analysis })
}

impl Draft {
    /// Whether the stream table's columns can stay.
    pub fn same_columns(&self) -> Result<bool> {
        Ok(columns(self.relid) == columns(self.view))
    }
}

fn common(old: &[Column], new: &[Column]) -> usize {
    old.iter().zip(new).take_while(|(o, n)| o == n).count()
}

/// The definition takes the place of the old one; the next refresh compares the rows.
pub fn in_place(st: &StreamTable, draft: &Draft) -> Result<()> {
    take_view(st, draft)?;
    catalog::execute(
        "UPDATE pgtrickle.pgt_stream_tables
            SET defining_query = $2, defining_query_hash = pg_catalog.hashtextextended($2, 0), refresh_mode = $3, settings = $4,
                time_dependent = $5, program_fingerprint = 0, frontier = NULL, needs_reinit = true, consecutive_errors = 0,
                status = CASE WHEN status IN ('SUSPENDED', 'ERROR') THEN 'ACTIVE' ELSE status END
          WHERE pgt_id = $1",
        &[
            st.pgt_id.into(),
            draft.query.as_str().into(),
            draft.mode.as_str().into(),
            pinned::current().into(),
            draft.analysis.restless.into(),
        ],
    );
    catalog::execute("DELETE FROM pgtrickle.pgt_dependencies WHERE pgt_id = $1", &[st.pgt_id.into()]);
    insert_dependencies(st.pgt_id, &draft.analysis);
    Ok(())
}

/// The new view under the name of the old one.
fn take_view(st: &StreamTable, draft: &Draft) -> Result<()> {
    let old = program::view_oid(st.pgt_id)?;
    let _owner = catalog::as_owner();
    depend::release(st.relid, old);
    fill::ddl(&sql!("DROP VIEW {}", program::definition_view(st.pgt_id)));
    let name = program::definition_view(st.pgt_id).name;
    fill::ddl(&sql!("ALTER VIEW {} RENAME TO {}", program::definition_view(draft.id), name));
    depend::needs(st.relid, draft.view);
    Ok(())
}

/// Computes the new contents in a table of their own, then exchanges columns and rows.
pub fn beside(st: &StreamTable, draft: &Draft, ready: Ready) -> Result<()> {
    let target = Target {
        name: QualifiedName { schema: Ident::new("pgtrickle_changes"), name: Ident::new(format!("next_{}", draft.id)) },
    };
    let populated = st.is_populated;
    {
        let _owner = catalog::as_owner();
        let view = program::definition_view(draft.id);
        fill::ddl(&sql!("CREATE TABLE {} AS SELECT * FROM {} WITH NO DATA", target.name, view));
        fill::ddl(&sql!("ALTER TABLE {} OWNER TO {}", target.name, fill::role_name(st.owner)));
    }
    let made = define::complete(draft.id, &target, &draft.query, &st.schedule, &draft.mode, st.owner)?;
    match draft.mode == immediate::MODE {
        true => {
            immediate::maintain::fill(&made.st, &made.loaded)?;
            immediate::maintain::note(st);
        }
        false if populated => define::populate(&made, ready)?,
        false => {}
    }
    fill::drop_other_index(st, &made.loaded);
    exchange_columns(st, draft)?;
    {
        // In the owner's name, as in every refresh: there may be triggers.
        let _settings = local_settings(st);
        let _owner = RunAs::restricted(st.owner);
        let _ours = ours::begin(st.relid);
        let table = QualifiedName::new(&st.schema, &st.name);
        // Not TRUNCATE: those who read with an older snapshot shall see the old rows.
        fill::ddl(&sql!("DELETE FROM {}", table));
        fill::ddl(&sql!("INSERT INTO {} SELECT * FROM {}", table, target.name));
    }
    depend::release(made.st.relid, draft.view);
    take_view(st, draft)?;
    take_state(st, draft);
    take_row(st, &made)?;
    {
        let _owner = catalog::as_owner();
        fill::ddl(&sql!("DROP TABLE {}", target.name));
    }
    tell_children(st)?;
    let now = catalog::by_id(st.pgt_id).ok_or_else(|| Error::no_such_stream_table(&st.label()))?;
    let loaded = program::build_like(&now, &made.loaded)?;
    fill::ensure_index(&now, &loaded);
    catalog::execute(
        "UPDATE pgtrickle.pgt_stream_tables SET program_fingerprint = $2 WHERE pgt_id = $1",
        &[st.pgt_id.into(), loaded.fingerprint.into()],
    );
    Ok(())
}

/// Columns are dropped and added from the first one on that differs, so that they are in the query's order. In the owner's name:
/// a type may have a default, which PostgreSQL computes for the rows that are there.
fn exchange_columns(st: &StreamTable, draft: &Draft) -> Result<()> {
    let (old, new) = (columns(st.relid), columns(draft.view));
    let kept = common(&old, &new);
    refuse_needed(st, &old[kept..])?;
    refuse_rewrite(st, draft.view, &new[kept..])?;
    let table = QualifiedName::new(&st.schema, &st.name);
    let drops = old[kept..].iter().map(|c| sql!("DROP COLUMN {}", Ident::new(&c.name)));
    let adds = new[kept..].iter().map(|c| sql!("ADD COLUMN {} {}", Ident::new(&c.name), Sql::deparsed(&c.definition)));
    let changes: Vec<Sql> = drops.chain(adds).collect();
    if !changes.is_empty() {
        let _path = catalog::pinned_path();
        let _owner = RunAs::restricted(st.owner);
        let _ours = ours::begin(st.relid);
        fill::ddl(&sql!("ALTER TABLE {} {}", table, Sql::list(changes)));
    }
    Ok(())
}

/// Other stream tables keep the columns that they read where they are. (Views are PostgreSQL's own matter.)
fn refuse_needed(st: &StreamTable, dropped: &[Column]) -> Result<()> {
    for column in dropped {
        let reader: Option<String> = catalog::scalar(
            "SELECT s.pgt_relid::text FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_stream_tables s USING (pgt_id)
              WHERE d.source_relid = $1 AND $2 = ANY (d.columns_used) ORDER BY s.pgt_id LIMIT 1",
            &[pg_sys::Oid::from(st.relid).into(), column.number.into()],
        );
        if let Some(reader) = reader {
            return Err(Error::new(
                PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
                format!(
                    "cannot give stream table {} this query: {reader} reads its column \"{}\"",
                    st.label(),
                    column.name
                ),
            )
            .detail("The new query has no column of that name and type in that place.")
            .hint(format!("Keep the column, or change {reader} first.")));
        }
    }
    Ok(())
}

/// To add a column of a domain with constraints PostgreSQL rewrites the table, and then whoever reads it with an older snapshot finds
/// it empty.
fn refuse_rewrite(st: &StreamTable, view: u32, added: &[Column]) -> Result<()> {
    for column in added {
        let constrained: Option<bool> = catalog::scalar(
            "WITH RECURSIVE types (oid) AS (
                 SELECT atttypid FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attnum = $2
                  UNION ALL
                 SELECT t.typbasetype FROM types JOIN pg_catalog.pg_type t USING (oid) WHERE t.typtype = 'd')
             SELECT true FROM types JOIN pg_catalog.pg_type t USING (oid)
              WHERE t.typtype = 'd' AND (t.typnotnull OR EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE contypid = t.oid)) LIMIT 1",
            &[pg_sys::Oid::from(view).into(), column.number.into()],
        );
        if constrained == Some(true) {
            return Err(Error::new(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!(
                    "cannot give stream table {} this query: its new column \"{}\" is of a domain with constraints",
                    st.label(),
                    column.name
                ),
            )
            .detail("Its table would be rewritten, and readers with an older snapshot would find it empty.")
            .hint("Cast the column to the domain's base type, or drop the stream table and create it again."));
        }
    }
    Ok(())
}

/// The state tables of the draft become those of the stream table.
fn take_state(st: &StreamTable, draft: &Draft) {
    let _owner = catalog::as_owner();
    fill::drop_state(st.pgt_id);
    for name in fill::state_tables(draft.id) {
        let number = name.rsplit('_').next().unwrap_or_default();
        let table = QualifiedName { schema: Ident::new("pgtrickle_changes"), name: Ident::new(&name) };
        fill::ddl(&sql!("ALTER TABLE {} RENAME TO {}", table, Ident::new(format!("state_{}_{number}", st.pgt_id))));
    }
}

fn take_row(st: &StreamTable, made: &Made) -> Result<()> {
    let ids = [st.pgt_id.into(), made.st.pgt_id.into()];
    catalog::execute("DELETE FROM pgtrickle.pgt_dependencies WHERE pgt_id = $1", &ids[..1]);
    catalog::execute("UPDATE pgtrickle.pgt_dependencies SET pgt_id = $1 WHERE pgt_id = $2", &ids);
    catalog::execute(
        "UPDATE pgtrickle.pgt_stream_tables AS s
            SET defining_query = n.defining_query, defining_query_hash = n.defining_query_hash, refresh_mode = n.refresh_mode,
                effective_refresh_mode = n.effective_refresh_mode, full_reason = n.full_reason, settings = n.settings,
                time_dependent = n.time_dependent, is_populated = n.is_populated, frontier = n.frontier,
                frontier_lsn = n.frontier_lsn, frontier_xid = n.frontier_xid, generation = n.generation,
                data_timestamp = n.data_timestamp, last_refresh_at = n.last_refresh_at,
                needs_reinit = n.refresh_mode = 'IMMEDIATE' AND s.status = 'PAUSED',
                consecutive_errors = 0, status = CASE WHEN s.status IN ('SUSPENDED', 'ERROR') THEN 'ACTIVE' ELSE s.status END
           FROM pgtrickle.pgt_stream_tables n
          WHERE s.pgt_id = $1 AND n.pgt_id = $2",
        &ids,
    );
    catalog::execute("DELETE FROM pgtrickle.pgt_stream_tables WHERE pgt_id = $1", &ids[1..]);
    Ok(())
}

/// Stream tables that read this one compare at their next refresh; its buffer has the new columns.
fn tell_children(st: &StreamTable) -> Result<()> {
    let children = catalog::execute(
        "UPDATE pgtrickle.pgt_stream_tables SET needs_reinit = true
          WHERE pgt_id IN (SELECT pgt_id FROM pgtrickle.pgt_dependencies WHERE source_relid = $1)",
        &[pg_sys::Oid::from(st.relid).into()],
    );
    track::drop_buffer(st.relid);
    if children > 0 {
        track::create_parent_buffer(st.relid)?;
    }
    Ok(())
}
