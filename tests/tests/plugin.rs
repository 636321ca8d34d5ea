//! The output plugin by hand: its stream, read with the reader crate and replayed into a bag of rows, gives the tables.

use std::collections::HashMap;
use std::io::Read;

use pgtrickle_tests::case::{Case, Statement};
use pgtrickle_tests::random;
use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::{Session, ident, literal};
use pgtrickle_tests::suite::{self, Shared};
use pgtrickle_tests::{During, Failure, Outcome};
use pgtrickle_wire::{Body, Column, FrameReader, Message, MessageReader, RowKind};

const SETTINGS: &[(&str, &str)] = &[("logical_decoding_work_mem", "'64kB'")];

fn main() {
    let first = fastrand::u64(..1 << 40);
    suite::main(1, |version| {
        let shared = Shared::new(version, SETTINGS);
        let replayable = |case: &Case| case.runs_on(version) && !changes_layout(case);
        let mut trials: Vec<_> = Case::all()?
            .into_iter()
            .filter(replayable)
            .map(without_streams)
            .map(|case| shared.trial(&format!("replay/{}", case.name), move |server| replay(server, &case)))
            .collect();
        let random = (first..).map(|seed| (seed, without_streams(random::generate(seed, version.0).case)));
        let whole = |case: &Case| !case.tables.iter().any(|statement| statement.sql.contains("PARTITION"));
        let random = random.filter(|(_, case)| !changes_layout(case) && whole(case)).take(20);
        trials.extend(
            random
                .map(|(seed, case)| shared.trial(&format!("replay/seed_{seed}"), move |server| replay(server, &case))),
        );
        trials.push(shared.trial("options", options));
        trials.push(shared.trial("recvlogical", recvlogical));
        Ok(trials)
    })
}

/// A case without what its steps do to stream tables.
fn without_streams(mut case: Case) -> Case {
    for step in &mut case.steps {
        step.statements.retain(|statement| !statement.sql.contains("pgtrickle."));
    }
    case
}

/// Rows of two layouts cannot be compared byte by byte, and partitions that come and go have no row changes.
fn changes_layout(case: &Case) -> bool {
    let in_steps = ["ALTER TABLE", "ALTER TYPE", "PARTITION", "MATERIALIZED", "CREATE TABLE"];
    let anywhere = ["INHERITS", "TEMP", "UNLOGGED"];
    let says = |statement: &Statement, words: &[&str]| words.iter().any(|word| statement.sql.contains(word));
    let mut steps = case.steps.iter().flat_map(|step| &step.statements);
    case.name.starts_with("refused/")
        || case.tables.iter().any(|statement| says(statement, &anywhere))
        || steps.any(|statement| says(statement, &in_steps))
}

/// A row: the bytes of each column's send function.
type Row = Vec<Option<Vec<u8>>>;

/// How often each row is there.
type Bag = HashMap<Row, i64>;

const SLOT: &str = "by_hand";

fn replay(server: &Server, case: &Case) -> Outcome {
    let mut session = server.session()?;
    let schema = format!("plugin_{}", case.name.replace(|c: char| !c.is_ascii_alphanumeric(), "_"));
    // One that failed may have left it.
    session.each(&format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
    ))?;
    let mut bags = case.run_without_streams(server, &schema, || {
        let mut bags = HashMap::new();
        for table in tables(&mut session, &schema)? {
            session.run(&format!("ALTER TABLE {}.{} REPLICA IDENTITY FULL", ident(&schema), ident(&table)))?;
            bags.insert(table.clone(), contents(&mut session, &schema, &table)?);
        }
        session.run(&format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'pg_trickle')"))?;
        Ok(bags)
    })?;
    // Only what has been flushed is decoded; this commit sees to what was committed asynchronously.
    session.run("SELECT pg_logical_emit_message(true, 'flush', '')")?;
    let stream = changes(&mut session);
    session.run(&format!("SELECT pg_drop_replication_slot('{SLOT}')"))?;
    // A TRUNCATE names tables by their oids only, and may be the first that is heard of them.
    let mut relids = HashMap::new();
    for table in tables(&mut session, &schema)? {
        let oid = session
            .number(&format!("SELECT {}::regclass::oid", literal(&format!("{}.{}", ident(&schema), ident(&table)))))?;
        relids.insert(oid as u32, table);
    }
    Replay { schema: &schema, bags: &mut bags, names: HashMap::new(), relids }.apply(&stream?)?;
    for table in tables(&mut session, &schema)? {
        let truth = contents(&mut session, &schema, &table)?;
        let replayed = bags.entry(table.clone()).or_default();
        replayed.retain(|_, count| *count != 0);
        if *replayed != truth {
            let differing = replayed.iter().filter(|(row, count)| truth.get(*row) != Some(*count)).count();
            return Err(Failure::new(format!(
                "{table}: {} distinct rows replayed, {} in the table, {differing} of the replayed are not there",
                replayed.len(),
                truth.len()
            )));
        }
    }
    session.run(&format!("SET client_min_messages = error; DROP SCHEMA {} CASCADE", ident(&schema)))
}

fn tables(session: &mut Session, schema: &str) -> Outcome<Vec<String>> {
    let sql = format!(
        "SELECT relname FROM pg_class WHERE relnamespace = {}::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition",
        literal(&ident(schema))
    );
    Ok(session.rows(&sql)?.into_iter().filter_map(|mut row| row[0].take()).collect())
}

/// The table's rows in the same bytes as the plugin's, by COPY BINARY.
fn contents(session: &mut Session, schema: &str, table: &str) -> Outcome<Bag> {
    let name = format!("{}.{}", ident(schema), ident(table));
    let columns = session.rows(&format!(
        "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = {}::regclass AND attnum > 0 AND NOT attisdropped \
         AND attgenerated <> 'v' ORDER BY attnum",
        literal(&name)
    ))?;
    let columns: Vec<String> = columns.into_iter().filter_map(|mut row| row[0].take()).collect();
    let mut bytes = Vec::new();
    let sql = format!("COPY (SELECT {} FROM {name}) TO STDOUT (FORMAT binary)", columns.join(", "));
    session.client().copy_out(&sql).during(&sql)?.read_to_end(&mut bytes)?;
    parse_copy(&bytes).ok_or_else(|| Failure::new("COPY BINARY in an unknown form"))
}

fn parse_copy(bytes: &[u8]) -> Option<Bag> {
    const HEADER: usize = 19;
    let mut rest = bytes.get(HEADER..)?;
    let mut bag = Bag::new();
    loop {
        let (count, after) = rest.split_first_chunk::<2>()?;
        let count = i16::from_be_bytes(*count);
        if count < 0 {
            return Some(bag);
        }
        rest = after;
        let mut row = Row::new();
        for _ in 0..count {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let length = usize::try_from(i32::from_be_bytes(*length)).ok();
            let (value, after) = after.split_at_checked(length.unwrap_or(0))?;
            row.push(length.map(|_| value.to_vec()));
            rest = after;
        }
        *bag.entry(row).or_default() += 1;
    }
}

/// Everything in the slot.
fn changes(session: &mut Session) -> Outcome<Vec<u8>> {
    let sql = format!("SELECT data FROM pg_logical_slot_get_binary_changes('{SLOT}', NULL, NULL)");
    let rows = session.client().query(&sql, &[]).during(&sql)?;
    Ok(rows.iter().flat_map(|row| row.get::<_, Vec<u8>>(0)).collect())
}

/// Applies a stream to bags of rows.
struct Replay<'a> {
    schema: &'a str,
    bags: &'a mut HashMap<String, Bag>,
    /// The table of each number that rows use.
    names: HashMap<u32, Option<String>>,
    relids: HashMap<u32, String>,
}

impl Replay<'_> {
    fn apply(&mut self, stream: &[u8]) -> Outcome {
        let mut input = stream;
        while let Some(frame) = FrameReader::new().next(&mut input)? {
            for message in MessageReader::new(&frame) {
                self.message(&message.map_err(|error| Failure::new(format!("unreadable: {error}")))?)?;
            }
        }
        Ok(())
    }

    fn message(&mut self, message: &Message<'_>) -> Outcome {
        match message {
            Message::Relation(relation) => {
                let name = String::from_utf8_lossy(relation.name).into_owned();
                let ours = relation.namespace == self.schema.as_bytes();
                self.names.insert(relation.index, ours.then_some(name));
            }
            Message::Row(row) => {
                let Some(Some(name)) = self.names.get(&row.rel) else { return Ok(()) };
                let Body::Binary(tuple) = row.body else { return Err(Failure::new("not the encoding asked for")) };
                let values: Outcome<Row> = tuple.iter().map(value).collect();
                let weight = if row.kind == RowKind::Insert { 1 } else { -1 };
                *self.bags.entry(name.clone()).or_default().entry(values?).or_default() += weight;
            }
            Message::Truncate(truncate) => {
                for relid in truncate.relids() {
                    if let Some(bag) = self.relids.get(&relid).and_then(|name| self.bags.get_mut(name)) {
                        bag.clear();
                    }
                }
            }
            Message::Degraded(degraded) => {
                return Err(Failure::new(format!("degraded: {}", String::from_utf8_lossy(degraded.reason))));
            }
            _ => {}
        }
        Ok(())
    }
}

fn value(column: Column<'_>) -> Outcome<Option<Vec<u8>>> {
    match column {
        Column::Null => Ok(None),
        Column::Value(bytes) => Ok(Some(bytes.to_vec())),
        Column::Unchanged => Err(Failure::new("a value was left out under REPLICA IDENTITY FULL")),
    }
}

/// Malformed options are refused, each with a clear error.
fn options(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.run(&format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'pg_trickle')"))?;
    for (options, state, part) in [
        ("'nonsense', '1'", "22023", "nonsense"),
        ("'format_version', '999'", "0A000", "999"),
        ("'format_version', 'x'", "22023", "format_version"),
        ("'encoding', 'xml'", "22023", "encoding"),
        ("'tables', ''", "22023", "tables"),
        ("'tables', 'unqualified'", "22023", "tables"),
        ("'tables', 'a.b', 'tracked', 'on'", "22023", "tracked"),
        ("'messages', 'perhaps'", "22023", "messages"),
    ] {
        let sql = format!("SELECT count(*) FROM pg_logical_slot_get_binary_changes('{SLOT}', NULL, NULL, {options})");
        let (found, text) = session.error(&sql)?;
        if found != state || !text.contains(part) || !text.contains("hint") {
            return Err(Failure::new(format!("{options}: expected {state} with a hint about {part}, got {text}")));
        }
    }
    // What it writes is binary.
    session.error(&format!("SELECT * FROM pg_logical_slot_get_changes('{SLOT}', NULL, NULL)"))?;
    session.run(&format!("SELECT pg_drop_replication_slot('{SLOT}')"))
}

/// Through a walsender, and printed by the example client.
fn recvlogical(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.run(
        "CREATE TABLE by_walsender (id int PRIMARY KEY, a text); ALTER TABLE by_walsender REPLICA IDENTITY FULL",
    )?;
    session.run(&format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'pg_trickle')"))?;
    session.run("INSERT INTO by_walsender SELECT i, 'a' || i FROM generate_series(1, 100) i; DELETE FROM by_walsender WHERE id > 50")?;
    let end = session.text("SELECT pg_current_wal_lsn()")?;
    session.run("SELECT pg_logical_emit_message(true, 'end', 'end'); SELECT pg_switch_wal()")?;
    let mut command = server.program("pg_recvlogical")?;
    command.args(["-d", "postgres", "-S", SLOT, "--start", "-E", &end, "-f", "-", "-o", "tables=public.by_walsender"]);
    let output = command.output()?;
    session.run(&format!("SELECT pg_drop_replication_slot('{SLOT}')"))?;
    if !output.status.success() {
        return Err(Failure::new(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let reader = FrameReader::recvlogical();
    let mut input = output.stdout.as_slice();
    let mut rows = 0;
    while let Some(frame) = reader.next(&mut input)? {
        for message in MessageReader::new(&frame) {
            rows += usize::from(matches!(message, Ok(Message::Row(_))));
        }
    }
    if rows == 150 { Ok(()) } else { Err(Failure::new(format!("{rows} rows where 150 were written"))) }
}
