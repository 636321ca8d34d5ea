//! Bindings for the functions of PostgreSQL's headers that pgrx leaves out. The types in their declarations are pgrx's own.

use pgrx_pg_config::{PgConfig, Pgrx};
use std::path::{Path, PathBuf};
use std::{env, error::Error, fs};

/// Called like any other function: each gets a wrapper that turns a PostgreSQL error into a panic.
const FUNCTIONS: &[&str] = &[
    "Async_Notify",
    "CreateTuplestoreDestReceiver",
    "LogLogicalMessage",
    "LogicalDecodingProcessRecord",
    "SetTuplestoreDestReceiverParams",
    "datum_image_eq",
    "get_partition_ancestors",
    "has_subclass",
    "hash_bytes",
    "hash_bytes_extended",
    "toast_flatten_tuple",
];

/// Numbers of the catalogs that pgrx leaves out.
const CONSTANTS: &[&str] =
    &["Anum_pg_aggregate_agg.*fn", "Anum_pg_inherits_.*", "InheritsRelationId", "InheritsRelidSeqnoIndexId"];

/// Given to PostgreSQL as C callbacks, called where no error can be raised, or called for each of many rows within one guard or
/// over frames without destructors: the plain symbols.
const RAW: &[&str] = &[
    "ExecStoreHeapTuple",
    "MemoryContextReset",
    "SetLatch",
    "SignalHandlerForConfigReload",
    "datum_image_hash",
    "die",
    "heap_getnextslot",
    "slot_getsomeattrs_int",
    "standard_ProcessUtility",
    "tuplestore_gettupleslot",
    "tuplestore_puttupleslot",
    "wal_segment_close",
    "wal_segment_open",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=include/pg.h");
    let config = pg_config()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let guarded = bind(&config, FUNCTIONS, CONSTANTS)?
        .replace("unsafe extern \"C-unwind\"", "#[pgrx::pg_guard]\nunsafe extern \"C-unwind\"");
    fs::write(out.join("bindings.rs"), guarded)?;
    fs::write(out.join("raw.rs"), bind(&config, RAW, &[])?)?;
    Ok(())
}

/// The same choice as pgrx makes: what the environment describes, otherwise what `cargo pgrx init` noted for the feature.
fn pg_config() -> Result<PgConfig, Box<dyn Error>> {
    for name in ["PGRX_PG_CONFIG_PATH", "PGRX_PG_CONFIG_AS_ENV", "PGRX_HOME"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let major = (15..=18)
        .find(|major| env::var_os(format!("CARGO_FEATURE_PG{major}")).is_some())
        .ok_or("one of the features pg15, pg16, pg17, pg18 must be chosen")?;
    let config = match PgConfig::from_env() {
        Ok(config) => config,
        Err(_) => Pgrx::from_config()?.get(&format!("pg{major}"))?,
    };
    if config.major_version()? != major {
        return Err(format!("feature pg{major}, but pg_config is of version {}", config.version()?).into());
    }
    Ok(config)
}

fn bind(config: &PgConfig, functions: &[&str], constants: &[&str]) -> Result<String, Box<dyn Error>> {
    let mut builder = bindgen::Builder::default()
        .header("include/pg.h")
        .clang_arg(format!("-I{}", config.includedir_server()?.display()))
        .clang_arg(format!("-I{}", config.pkgincludedir()?.display()))
        .clang_args(config.cppflags()?.to_string_lossy().split_whitespace())
        .blocklist_type(".*")
        .override_abi(bindgen::Abi::CUnwind, ".*")
        .rust_edition(bindgen::RustEdition::Edition2024)
        .size_t_is_usize(true)
        .merge_extern_blocks(true)
        .layout_tests(false)
        .formatter(bindgen::Formatter::None);
    for directory in clang_builtin_includes() {
        builder = builder.clang_arg(format!("-I{}", directory.display()));
    }
    for function in functions {
        builder = builder.allowlist_function(function);
    }
    for constant in constants {
        builder = builder.allowlist_var(constant);
    }
    Ok(builder.generate()?.to_string())
}

/// libclang does not always find the compiler's own headers (`stddef.h`, `emmintrin.h`); they are beside it.
fn clang_builtin_includes() -> Vec<PathBuf> {
    let Some(major) = bindgen::clang_version().parsed.map(|(major, _)| major) else { return Vec::new() };
    [format!("/usr/lib/llvm-{major}/lib/clang/{major}/include"), format!("/usr/lib/clang/{major}/include")]
        .into_iter()
        .map(PathBuf::from)
        .chain(llvm_versioned(major))
        .filter(|path: &PathBuf| Path::new(path).join("stddef.h").exists())
        .take(1)
        .collect()
}

fn llvm_versioned(major: u32) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(format!("/usr/lib/llvm-{major}/lib/clang")) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path().join("include")).collect()
}
