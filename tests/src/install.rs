//! Where the PostgreSQL installations under test are, and as whom their servers run.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{During, Failure, Outcome};

/// A major version that the suites run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PgVersion(pub u32);

impl PgVersion {
    pub const V15: PgVersion = PgVersion(15);
    pub const V18: PgVersion = PgVersion(18);

    /// The versions to test: those named in `PGTEST_VERSIONS` ("15 18"), else both.
    pub fn under_test() -> Vec<PgVersion> {
        match std::env::var("PGTEST_VERSIONS") {
            Ok(list) => list.split_whitespace().filter_map(|v| v.parse().ok().map(PgVersion)).collect(),
            Err(_) => vec![PgVersion::V15, PgVersion::V18],
        }
    }

    /// The directory of this version's programs, in the installation that `scripts/build.sh` made.
    pub fn bin_dir(self) -> Outcome<PathBuf> {
        let note = root().join(format!("target/pg_trickle/bin-{}", self.0));
        let path = std::fs::read_to_string(&note)
            .map_err(|_| Failure::new(format!("no build for PostgreSQL {self}: run `scripts/build.sh {self}`")))?;
        Ok(PathBuf::from(path.trim()))
    }

    /// The version with its minor number, as `15.20`.
    pub fn full(self) -> Outcome<String> {
        let output = Command::new(self.bin_dir()?.join("postgres")).arg("--version").output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_whitespace()
            .nth(2)
            .map(str::to_owned)
            .ok_or_else(|| Failure::new("no version in its output"))
            .during(text)
    }

    /// Whether this minor has the setting `output_plugin_libraries`.
    pub fn restricts_plugins(self) -> Outcome<bool> {
        let full = self.full()?;
        let minor: u32 = full.split('.').nth(1).and_then(|m| m.parse().ok()).unwrap_or(0);
        Ok(match self.0 {
            15 => minor >= 19,
            16 => minor >= 15,
            17 => minor >= 11,
            18 => minor >= 6,
            newer => newer > 18,
        })
    }
}

impl std::fmt::Display for PgVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The checkout's root.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The user that servers run as when we are root: PostgreSQL refuses to run as root.
const SERVER_USER: &str = "postgres";

/// Whether we are root and so have to change user.
pub fn are_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// A command that runs as the servers' user and is killed when we die, however we die.
pub fn as_server_user(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if are_root() {
        command.args(["--reuid", SERVER_USER, "--regid", SERVER_USER, "--init-groups"]);
    }
    command.arg("--").arg(program);
    // A developer's own PGPORT or PGDATA is not for these servers.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC").current_dir("/tmp");
    command
}

/// Gives a directory to the servers' user.
pub fn give_to_server_user(path: &Path) -> Outcome {
    if are_root() {
        run(Command::new("chown").arg("-R").arg(format!("{SERVER_USER}:{SERVER_USER}")).arg(path))?;
    }
    Ok(())
}

/// Runs a command to its end; its output becomes the message if it fails.
pub fn run(command: &mut Command) -> Outcome<String> {
    let output = command.output().during(format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(Failure::new(format!("{command:?}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr))))
}

#[cfg(test)]
mod tests {
    use super::root;

    fn file(path: &str) -> String {
        std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The first block of shell commands in INSTALL.md, continued lines joined.
    fn building() -> String {
        let page = file("INSTALL.md");
        let block = page.split("```bash\n").nth(1).and_then(|rest| rest.split("```").next());
        block.expect("INSTALL.md says how to build").replace("\\\n", " ")
    }

    fn line<'a>(block: &'a str, beginning: &str) -> Vec<&'a str> {
        let found = block.lines().find_map(|line| line.trim().strip_prefix(beginning));
        let found = found.unwrap_or_else(|| panic!("no line with {beginning}"));
        found.split('#').next().unwrap_or_default().split_whitespace().collect()
    }

    #[test]
    fn it_is_built_as_the_scripts_build_it() {
        let (block, setup, env) = (building(), file("scripts/setup.sh"), file("scripts/env.sh"));
        let build = file("scripts/build.sh").replace("\\\n", " ");
        let packages = line(&block, "apt-get install");
        let listed: Vec<&str> = setup.split_whitespace().collect();
        assert!(packages.len() > 4 && packages.iter().all(|package| listed.contains(package)), "{packages:?}");
        let version = line(&env, "PGRX_VERSION=").concat();
        assert_eq!(line(&block, "cargo install"), ["cargo-pgrx", "--version", &version, "--locked"]);
        assert!(setup.contains("cargo-pgrx --version \"$PGRX_VERSION\" --locked"));
        assert!(file("Cargo.toml").contains(&format!("pgrx = {{ version = \"={version}\"")));
        assert!(file("INSTALL.md").contains(&format!("`cargo-pgrx` {version} exactly")));
        let pg_config = line(&env, "15) echo")[0];
        assert_eq!(line(&block, "cargo pgrx init"), ["--pg15", pg_config]);
        // `package` puts into a directory what `install` puts into the system.
        let options = |words: &[&str]| -> Vec<String> {
            let own = ["--pg-config", "--no-default-features", "--features"];
            words.iter().filter(|word| own.contains(word)).map(|word| (*word).to_owned()).collect()
        };
        let install = line(&block, "cargo pgrx install");
        assert_eq!(options(&install), options(&line(&build, "cargo pgrx package")));
        assert!(install.contains(&pg_config) && install.contains(&"pg15") && install.contains(&"--release"));
    }

    #[test]
    fn what_the_page_names_exists() {
        let page = file("INSTALL.md");
        for script in page.split("scripts/").skip(1).filter_map(|rest| rest.split(['`', ' ', '"']).next()) {
            assert!(root().join("scripts").join(script).exists(), "scripts/{script}");
        }
        let makefile = file("Makefile");
        for target in page.split("`make ").skip(1).filter_map(|rest| rest.split(['`', ' ']).next()) {
            assert!(makefile.lines().any(|line| line.starts_with(&format!("{target}:"))), "make {target}");
        }
        let version = file("Cargo.toml").lines().find_map(|line| line.strip_prefix("version = ").map(str::to_owned));
        let version = version.expect("the package has a version").replace('"', "");
        assert!(page.contains(&format!("`pg_trickle--{version}.sql`")), "{version}");
    }
}
