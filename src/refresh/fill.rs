//! The first fill of a stream table, and making its state tables anew.

use super::costs::Clock;
use super::program::{Loaded, Statements};
use super::run::{self, Relations};
use crate::catalog::{self, StreamTable};
use crate::error::Result;
use crate::shmem::Progress;
use pgrx::{Spi, pg_sys};
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::{Ident, Literal, QualifiedName, Sql};
use pgtrickle_pg::class;
use pgtrickle_pg::snapshot::Snapshot;
use pgtrickle_pg::spi::{Connection, RunAs};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Creates the state tables of a program, owned by the stream table's owner, in whose name refreshes run.
pub fn create_state(owner: u32, loaded: &Loaded) {
    for table in loaded.program.state_tables() {
        ddl(&table.create);
        table.indexes.iter().for_each(ddl);
        let role = role_name(owner);
        ddl(&sql!("ALTER TABLE {} OWNER TO {}", table.name, role));
    }
    catalog::execute("SELECT pgtrickle._let_publish()", &[]);
}

/// Makes state tables anew, as another program than theirs is in force. What is in the stream table stays; its index goes
/// if it is of no use any more.
pub fn rebuild_state(st: &StreamTable, loaded: &Loaded) -> Result<()> {
    let _owner = catalog::as_owner();
    drop_other_index(st, loaded);
    drop_state(st.pgt_id);
    create_state(st.owner, loaded);
    Ok(())
}

/// Sees to it that the stream table has the index by which this program finds rows, and none of a program before: a unique
/// one on what was a key is in the way of the rows.
pub fn ensure_index(st: &StreamTable, loaded: &Loaded) {
    drop_other_index(st, loaded);
    let table = QualifiedName::new(&st.schema, &st.name);
    let Some(index) = loaded.program.identity_index().filter(|_| own_index(st.relid).is_none()) else { return };
    ddl(&index);
    let newest: Option<String> = catalog::scalar(
        "SELECT c.relname::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
          WHERE i.indrelid = $1 ORDER BY i.indexrelid DESC LIMIT 1",
        &[pg_sys::Oid::from(st.relid).into()],
    );
    if let Some(name) = newest {
        let name = QualifiedName::new(&st.schema, &name);
        ddl(&sql!("COMMENT ON INDEX {} IS {}", name, Literal::text(mark(&index, &table))));
    }
}

/// Drops the index of a program before, if this one needs another.
pub fn drop_other_index(st: &StreamTable, loaded: &Loaded) {
    let table = QualifiedName::new(&st.schema, &st.name);
    let wanted = loaded.program.identity_index().map(|index| mark(&index, &table));
    if let Some((name, _)) = own_index(st.relid).filter(|(_, mark)| Some(mark) != wanted.as_ref()) {
        ddl(&sql!("DROP INDEX {}", QualifiedName::new(&st.schema, &name)));
    }
}

const MARK: &str = "pg_trickle finds rows by this index";

/// The comment that tells our index from the user's, and for what it was made, whatever the table is called.
fn mark(index: &Sql, table: &QualifiedName) -> String {
    let mut hasher = DefaultHasher::new();
    index.as_str().replace(&table.to_string(), "").hash(&mut hasher);
    format!("{MARK} ({:x})", hasher.finish() as u32)
}

/// Name and comment of our index on a stream table.
fn own_index(relid: u32) -> Option<(String, String)> {
    Spi::connect(|client| {
        let rows = client.select(
            "SELECT c.relname::text, pg_catalog.obj_description(c.oid, 'pg_class')
               FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
              WHERE i.indrelid = $1 AND pg_catalog.starts_with(pg_catalog.obj_description(c.oid, 'pg_class'), $2)
              ORDER BY c.oid LIMIT 1",
            Some(1),
            &[pg_sys::Oid::from(relid).into(), MARK.into()],
        )?;
        let row = rows.into_iter().next();
        row.map(|row| Ok((row.get::<String>(1)?.unwrap_or_default(), row.get::<String>(2)?.unwrap_or_default())))
            .transpose()
    })
    .unwrap_or_else(|e: pgrx::spi::Error| pgrx::error!("{e}"))
}

/// Drops all state tables of a stream table.
pub fn drop_state(pgt_id: i64) {
    for name in state_tables(pgt_id) {
        ddl(&sql!("DROP TABLE {}", QualifiedName { schema: Ident::new("pgtrickle_changes"), name: Ident::new(name) }));
    }
}

/// Names of the state tables of a stream table.
pub fn state_tables(pgt_id: i64) -> Vec<String> {
    Spi::connect(|client| {
        client
            .select(
                "SELECT c.relname::text FROM pg_catalog.pg_class c
                  WHERE c.relnamespace = 'pgtrickle_changes'::regnamespace AND c.relkind = 'r'
                    AND c.relname ~ ('^state_' || $1::text || '_[0-9]+$')",
                None,
                &[pgt_id.into()],
            )
            .unwrap_or_else(|e| pgrx::error!("{e}"))
            .filter_map(|row| row.get::<String>(1).ok().flatten())
            .collect()
    })
}

/// Fills the empty stream table and its empty state tables with the query's result at `snapshot`.
pub fn fill(st: &StreamTable, loaded: &Loaded, snapshot: &Snapshot) -> Result<()> {
    let _connection = Connection::open();
    let _settings = super::local_settings(st);
    let _owner = RunAs::restricted(st.owner);
    let statements = Statements::once(loaded.program.fill());
    let progress = Progress::begin(st.relid, "filling", statements.steps.len());
    run::run(st, &statements, &mut Relations::default(), snapshot, &mut Clock::start(), Some(&progress)).map(drop)
}

/// A role's name, as an identifier.
pub fn role_name(role: u32) -> Ident {
    Ident::new(class::role_name(role))
}

/// Runs a statement that defines something.
pub fn ddl(statement: &Sql) {
    if let Err(error) = Spi::connect_mut(|client| client.update(statement.as_str(), None, &[]).map(drop)) {
        pgrx::error!("{error}");
    }
}
