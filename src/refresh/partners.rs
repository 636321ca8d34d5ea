//! The values that changes of a source must have one of so as to find a partner, where looking for them is worth it.

use super::program::{Loaded, ScanOf};
use crate::settings;
use pgtrickle_engine::partners;
use pgtrickle_pg::class;
use pgtrickle_pg::snapshot::Snapshot;
use pgtrickle_pg::staging::{self, Position, Values};
use std::collections::HashMap;
use std::rc::Rc;

/// Changes are to be so many times as large as the table with the values.
const WORTH: u32 = 4;

/// What is known of partners while the sources of a stream table are staged.
#[derive(Default)]
pub struct Partners(HashMap<partners::Values, Rc<Values>>);

impl Partners {
    /// What is asked of a scan's changes, which are in these segments: nothing that would take longer than what it saves.
    pub fn of(
        &mut self,
        scan: &ScanOf,
        loaded: &Loaded,
        newest: &Snapshot,
        segments: &[(u32, Option<Position>)],
    ) -> Vec<(i16, Rc<Values>)> {
        if scan.partners.is_empty() {
            return Vec::new();
        }
        let unread = segments.iter().map(|(segment, from)| staging::unread(*segment, *from)).sum();
        let known =
            |(column, wanted): &(i16, partners::Values)| Some((*column, self.kept(wanted, loaded, newest, unread)?));
        scan.partners.iter().filter_map(known).collect()
    }

    fn kept(
        &mut self,
        wanted: &partners::Values,
        loaded: &Loaded,
        newest: &Snapshot,
        unread: u32,
    ) -> Option<Rc<Values>> {
        if let Some(known) = self.0.get(wanted) {
            return Some(known.clone());
        }
        let (query, table) = loaded.kept_values(wanted)?;
        if class::blocks(table).saturating_mul(WORTH) > unread && !settings::DEBUG_SELECTIONS.get() {
            return None;
        }
        let values = Rc::new(Values::of(&query, newest));
        self.0.insert(wanted.clone(), values.clone());
        Some(values)
    }
}
