//! The first fill of a stream table, and making its state tables anew.

use super::costs::Clock;
use super::program::{Loaded, Statements};
use super::run::{self, Relations};
use crate::catalog::{self, StreamTable};
use crate::error::Result;
use crate::shmem::Progress;
use pgrx::Spi;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::{Ident, QualifiedName, Sql};
use pgtrickle_pg::class;
use pgtrickle_pg::snapshot::Snapshot;
use pgtrickle_pg::spi::{Connection, RunAs};

/// Creates the state tables of a program, owned by the stream table's owner, in whose name refreshes run.
pub fn create_state(owner: u32, loaded: &Loaded) {
    for table in loaded.program.state_tables() {
        ddl(&table.create);
        table.indexes.iter().for_each(ddl);
        let role = role_name(owner);
        ddl(&sql!("ALTER TABLE {} OWNER TO {}", table.name, role));
    }
}

/// Makes state tables and the stream table's own index anew, as another program than theirs is in force. What is in the
/// stream table stays.
pub fn rebuild_state(st: &StreamTable, loaded: &Loaded) -> Result<()> {
    let _owner = catalog::as_owner();
    drop_state(st.pgt_id);
    create_state(st.owner, loaded);
    Ok(())
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
    run::run(st, &statements, &mut Relations::default(), snapshot, &mut Clock::start(), Some(&progress))
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
