//! `cargo pgrx install` as INSTALL.md gives it puts into the system what the tests run on.

use std::path::Path;
use std::process::Command;

use pgtrickle_tests::install::{self, PgVersion};
use pgtrickle_tests::{During, Failure, Outcome};

/// In a namespace of its own, where other directories cover those of the system's PostgreSQL.
pub fn installation(version: PgVersion) -> Outcome {
    let may = Command::new("unshare").args(["-m", "true"]).output();
    if version != PgVersion::V15 || !may.is_ok_and(|output| output.status.success()) {
        eprintln!("cargo pgrx install is not run: that takes root's rights, and PostgreSQL 15");
        return Ok(());
    }
    let page = std::fs::read_to_string(install::root().join("INSTALL.md"))?.replace("\\\n", " ");
    let line = |beginning: &str| {
        let found = page.lines().find(|line| line.starts_with(beginning)).map(|line| line.split('#').next());
        found.flatten().ok_or_else(|| Failure::new(format!("INSTALL.md has no line {beginning}")))
    };
    let install = line("cargo pgrx install")?;
    let pg_config = install.split_whitespace().find(|word| word.ends_with("/pg_config"));
    let pg_config = Path::new(pg_config.ok_or_else(|| Failure::new("no pg_config in INSTALL.md's command"))?);
    let complete = page.split('`').find(|text| text.starts_with("scripts/update_script.sh"));
    let complete = complete.ok_or_else(|| Failure::new("INSTALL.md does not complete the update script"))?;
    let built = std::fs::read_to_string(install::root().join("target/pg_trickle/profile-15"))?;
    let profile = format!("--profile {}", built.trim());

    let place = install::root().join("target/pg_trickle/installed");
    let _ = std::fs::remove_dir_all(&place);
    std::fs::create_dir_all(&place)?;
    let script = format!(
        "mkdir lib extension
         mount --bind lib \"$(pg_config --pkglibdir)\"
         mount --bind extension \"$(pg_config --sharedir)/extension\"
         cd ../../..
         {}
         {complete}",
        install.replace("--sudo", "").replace("--release", &profile)
    );
    let path = format!("{}:{}", pg_config.with_file_name("").display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("unshare");
    command.args(["-m", "bash", "-ec", &script]).current_dir(&place).env("PATH", path);
    install::run(&mut command)?;

    let tree = version.bin_dir()?.with_file_name("lib").join("pg_trickle.so");
    same(&place.join("lib/pg_trickle.so"), &tree)?;
    let ours = std::fs::read_dir(place.join("extension"))?.filter_map(Result::ok).collect::<Vec<_>>();
    if ours.len() < 4 {
        return Err(Failure::new(format!("only {ours:?} were installed")));
    }
    let extension = version.bin_dir()?.join("../../../../share/postgresql/15/extension");
    ours.iter().try_for_each(|file| same(&file.path(), &extension.join(file.file_name())))
}

fn same(installed: &Path, tested: &Path) -> Outcome {
    let read = |path: &Path| std::fs::read(path).during(path.display());
    match read(installed)? == read(tested)? {
        true => Ok(()),
        false => Err(Failure::new(format!("{} is not {}", installed.display(), tested.display()))),
    }
}
