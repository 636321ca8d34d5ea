//! Pausing and resuming.

use crate::catalog;
use crate::error::or_raise;
use pgrx::prelude::*;

/// Stops refreshing a stream table by itself. Its changes are kept until it is resumed.
#[pg_extern]
fn pause_stream_table(name: &str) {
    set_status(name, "PAUSED");
}

/// Goes on refreshing a stream table that was paused or suspended.
#[pg_extern]
fn resume_stream_table(name: &str) {
    let st = set_status(name, "ACTIVE");
    super::alert("resumed", Some(&st), "");
}

fn set_status(name: &str, status: &str) -> catalog::StreamTable {
    let st = or_raise(catalog::by_name_owned(name));
    catalog::execute(
        "UPDATE pgtrickle.pgt_stream_tables SET status = $2, consecutive_errors = 0 WHERE pgt_id = $1",
        &[st.pgt_id.into(), status.into()],
    );
    catalog::changed();
    st
}

/// Pauses every stream table that the caller owns; returns their number.
#[pg_extern]
fn pause_all() -> i64 {
    set_all("ACTIVE", "PAUSED")
}

/// Resumes every stream table that the caller owns and that is paused; returns their number.
#[pg_extern]
fn resume_all() -> i64 {
    set_all("PAUSED", "ACTIVE")
}

fn set_all(from: &str, to: &str) -> i64 {
    let caller = pgtrickle_pg::spi::current_role();
    let mine =
        catalog::all().into_iter().filter(|st| st.status == from && pgtrickle_pg::spi::owns_relation(st.relid, caller));
    let mut number = 0;
    for st in mine {
        number += catalog::execute(
            "UPDATE pgtrickle.pgt_stream_tables SET status = $2 WHERE pgt_id = $1",
            &[st.pgt_id.into(), to.into()],
        ) as i64;
        if to == "ACTIVE" {
            super::alert("resumed", Some(&st), "");
        }
    }
    catalog::changed();
    number
}
