//! A server of our own: private data directory, private socket, stopped by its process id whatever happens.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use crate::install::{self, PgVersion};
use crate::session::Session;
use crate::{During, Failure, Outcome, wait};

/// How `Server::stop_with` ends a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Disconnects clients, writes a checkpoint.
    Fast,
    /// As `pg_ctl stop -m immediate`: recovery at the next start.
    Immediate,
    /// `kill -9` of the postmaster; its children find out by themselves.
    Kill,
}

/// Everything a test server is started with unless the test says otherwise.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "''"),
    ("unix_socket_permissions", "0777"),
    ("shared_preload_libraries", "'pg_trickle'"),
    ("wal_level", "logical"),
    ("max_worker_processes", "24"),
    ("max_replication_slots", "20"),
    ("max_wal_senders", "10"),
    ("max_prepared_transactions", "50"),
    ("max_connections", "60"),
    ("shared_buffers", "128MB"),
    ("max_wal_size", "2GB"),
    ("fsync", "off"),
    // Tables of a few rows, whose statistics nobody has gathered: compiling would take longer than running.
    ("jit", "off"),
    ("logging_collector", "off"),
    ("log_line_prefix", "'%m [%p] %b %q%d '"),
    ("log_checkpoints", "off"),
    ("timezone", "'UTC'"),
];

/// A running (or stopped) server; dropping it stops it and removes its directory.
pub struct Server {
    version: PgVersion,
    dir: PathBuf,
    port: u16,
    postmaster: Mutex<Option<Child>>,
}

impl Server {
    /// Makes a data directory from the version's template, starts it, and creates the extension in `postgres`.
    pub fn start(version: PgVersion, settings: &[(&str, &str)]) -> Outcome<Server> {
        let server = Server::start_bare(version, settings)?;
        server.session()?.run("CREATE EXTENSION pg_trickle")?;
        Ok(server)
    }

    /// The same without the extension created in any database.
    pub fn start_bare(version: PgVersion, settings: &[(&str, &str)]) -> Outcome<Server> {
        let server = Server::prepare(version, settings)?;
        server.launch()?;
        Ok(server)
    }

    /// A data directory with its configuration, not started.
    pub fn prepare(version: PgVersion, settings: &[(&str, &str)]) -> Outcome<Server> {
        let dir = fresh_dir("server")?;
        let data = dir.join("data");
        install::run(Command::new("cp").arg("-a").arg(template(version)?).arg(&data))?;
        let server = Server { version, dir, port: 5432, postmaster: Mutex::new(None) };
        server.configure(settings)?;
        install::give_to_server_user(&server.dir)?;
        Ok(server)
    }

    /// A copy of a running server, as `pg_basebackup` makes it; not started. `options` are its: `-R` makes a standby.
    pub fn copy_of(origin: &Server, options: &[&str], settings: &[(&str, &str)]) -> Outcome<Server> {
        let server =
            Server { version: origin.version, dir: fresh_dir("copy")?, port: 5432, postmaster: Mutex::new(None) };
        install::run(origin.program("pg_basebackup")?.args(["-c", "fast", "-D"]).arg(server.data_dir()).args(options))?;
        server.set(settings)?;
        Ok(server)
    }

    /// Changes settings of a server that does not run.
    pub fn set(&self, settings: &[(&str, &str)]) -> Outcome {
        let path = self.data_dir().join("postgresql.auto.conf");
        let mut text = std::fs::read_to_string(&path)?;
        text.push_str(&format!("unix_socket_directories = '{}'\n", self.dir.display()));
        settings.iter().for_each(|(name, value)| text.push_str(&format!("{name} = {value}\n")));
        std::fs::write(&path, text)?;
        Ok(())
    }

    fn configure(&self, settings: &[(&str, &str)]) -> Outcome {
        let mut all: Vec<(&str, String)> = SETTINGS.iter().map(|(name, value)| (*name, value.to_string())).collect();
        if self.version.restricts_plugins()? {
            all.push(("output_plugin_libraries", "'pgoutput, test_decoding, wal2json, pg_trickle'".into()));
        }
        all.push(("unix_socket_directories", format!("'{}'", self.dir.display())));
        all.extend(settings.iter().map(|(name, value)| (*name, value.to_string())));
        // The last one of a name counts.
        let text: String = all.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
        std::fs::write(self.data_dir().join("postgresql.auto.conf"), text)?;
        Ok(())
    }

    /// Starts the postmaster and waits until it accepts connections.
    pub fn launch(&self) -> Outcome {
        wait::retry("starting the server", Duration::from_secs(90), || self.try_launch())
    }

    fn try_launch(&self) -> Outcome {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = install::as_server_user(&self.version.bin_dir()?.join("postgres"));
        command.arg("-D").arg(self.data_dir()).arg("-p").arg(self.port.to_string());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = spawn(command)?;
        let answers = wait::poll("the server answers", Duration::from_secs(60), || {
            if let Some(status) = child.try_wait()? {
                return Err(Failure::new(format!("postmaster ended: {status}\n{}", self.log_tail(15))));
            }
            Ok(self.session().ok().map(drop))
        });
        *self.postmaster.lock().unwrap() = Some(child);
        answers
    }

    /// A connection to `postgres`.
    pub fn session(&self) -> Outcome<Session> {
        self.session_in("postgres")
    }

    pub fn session_in(&self, database: &str) -> Outcome<Session> {
        Session::connect(&self.dir, self.port, database)
    }

    pub fn session_as(&self, user: &str) -> Outcome<Session> {
        self.session_as_in(user, "postgres")
    }

    pub fn session_as_in(&self, user: &str, database: &str) -> Outcome<Session> {
        Session::connect_as(&self.dir, self.port, database, user)
    }

    /// A connection as soon as one can be had: after a crash the server needs a moment.
    pub fn session_after_crash(&self) -> Outcome<Session> {
        wait::retry("connecting after a crash", Duration::from_secs(90), || {
            let mut session = self.session()?;
            session.run("SELECT 1")?;
            Ok(session)
        })
    }

    /// Stops the server in the given way and waits until it is gone.
    pub fn stop_with(&self, how: Shutdown) -> Outcome {
        let Some(mut child) = self.postmaster.lock().unwrap().take() else {
            return Ok(());
        };
        let signal = match how {
            Shutdown::Fast => "INT",
            Shutdown::Immediate => "QUIT",
            Shutdown::Kill => "KILL",
        };
        send_signal(child.id(), signal)?;
        let ended = wait::until("the postmaster ends", Duration::from_secs(60), || Ok(child.try_wait()?.is_some()));
        if ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        ended
    }

    /// Crash and recovery.
    pub fn crash_restart(&self, how: Shutdown) -> Outcome {
        self.stop_with(how)?;
        self.launch()
    }

    /// `kill -9` of one process of the given kind, as `pg_stat_activity.backend_type` names it; its id when there was one.
    pub fn kill_backend_type(&self, session: &mut Session, backend_type: &str) -> Outcome<Option<u32>> {
        let sql = format!(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = '{backend_type}' OR application_name = '{backend_type}' \
             ORDER BY random() LIMIT 1"
        );
        let Some(pid) = session.rows(&sql)?.first().and_then(|row| row[0].as_deref()?.parse().ok()) else {
            return Ok(None);
        };
        send_signal(pid, "KILL")?;
        Ok(Some(pid))
    }

    /// How to connect, for threads that do so by themselves.
    pub fn connector(&self) -> Connector {
        Connector { dir: self.dir.clone(), port: self.port }
    }

    pub fn version(&self) -> PgVersion {
        self.version
    }

    /// The directory of the socket (and of the data and the log).
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The whole server log so far.
    pub fn log(&self) -> String {
        std::fs::read(self.log_path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The log's last lines, for a failure's message.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// A program of this installation that talks to this server (`pgbench`, `pg_recvlogical`, `psql`).
    pub fn program(&self, name: &str) -> Outcome<Command> {
        let mut command = install::as_server_user(&self.version.bin_dir()?.join(name));
        command.arg("-h").arg(&self.dir).arg("-p").arg(self.port.to_string()).arg("-U").arg("postgres");
        Ok(command)
    }

    /// Keeps the log when a test has failed: the directory itself goes away.
    pub fn keep_log(&self, name: &str) -> Outcome<PathBuf> {
        let kept = install::root().join("target/test-logs");
        std::fs::create_dir_all(&kept)?;
        let path = kept.join(format!("{name}-pg{}-server.log", self.version));
        std::fs::copy(self.log_path(), &path)?;
        Ok(path)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop_with(Shutdown::Immediate);
        if std::env::var_os("PGTEST_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// What is needed to connect to a server.
#[derive(Debug, Clone)]
pub struct Connector {
    dir: PathBuf,
    port: u16,
}

impl Connector {
    pub fn session(&self) -> Outcome<Session> {
        Session::connect(&self.dir, self.port, "postgres")
    }
}

/// Sends a signal by name to a process.
pub fn send_signal(pid: u32, signal: &str) -> Outcome {
    install::run(Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string())).map(drop)
}

/// A new directory under the temporary directory that the servers' user can enter.
pub fn fresh_dir(purpose: &str) -> Outcome<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = PathBuf::from(format!("/tmp/pgtrickle-{purpose}-{}-{number}", std::process::id()));
    std::fs::create_dir(&dir).during(dir.display())?;
    install::give_to_server_user(&dir)?;
    Ok(dir)
}

/// An initialised data directory to copy: initdb takes a second, a copy a tenth of it.
fn template(version: PgVersion) -> Outcome<PathBuf> {
    static TEMPLATES: LazyLock<Mutex<HashMap<PgVersion, PathBuf>>> = LazyLock::new(Default::default);
    let mut templates = TEMPLATES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(path) = templates.get(&version) {
        return Ok(path.clone());
    }
    let dir = fresh_dir("template")?;
    let data = dir.join("data");
    let mut initdb = install::as_server_user(&version.bin_dir()?.join("initdb"));
    initdb.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "-D"]);
    install::run(initdb.arg(&data))?;
    templates.insert(version, data.clone());
    Ok(data)
}

/// Removes the templates; to be called at the end of a test program.
pub fn clean_up() {
    let own = format!("pgtrickle-template-{}-", std::process::id());
    for entry in std::fs::read_dir("/tmp").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&own) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Starts a process from a thread that lives as long as the program: the death signal that keeps servers from outliving
/// us is sent when the *thread* that started them ends.
fn spawn(command: Command) -> Outcome<Child> {
    type Job = (Command, Sender<std::io::Result<Child>>);
    static SPAWNER: LazyLock<Mutex<Sender<Job>>> = LazyLock::new(|| {
        let (sender, jobs) = channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in jobs {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (answer, child) = channel();
    SPAWNER.lock().unwrap().send((command, answer)).map_err(|_| Failure::new("the spawning thread is gone"))?;
    Ok(child.recv().map_err(|_| Failure::new("the spawning thread is gone"))??)
}
