//! Changes of a source as staging leaves them: without what matters to no scan.

use super::oracle::{Weighted, filtered, picked, plus};
use super::tables::{Row, Value};
use pgtrickle_engine::partners::Values;
use pgtrickle_engine::relevant::Relevance;
use std::collections::BTreeMap;

/// What stages keep before a change: a row for each stage.
fn is_kept(stages: &[Weighted], values: &Values, value: &Value) -> bool {
    *value != Value::Null && stages[values.stage].keys().any(|row| row[values.column] == *value)
}

/// What a scan makes of a row: what is used of it, if it gets through.
fn through(scan: &Relevance, row: &Row, stages: &[Weighted]) -> Option<Row> {
    let alone = Weighted::from([(row.clone(), 1)]);
    if filtered(&picked(&alone, scan.columns()), scan.predicates()).is_empty() {
        return None;
    }
    let lacks = |(column, values): &(i16, Values)| {
        picked(&alone, &[*column]).keys().any(|row| !is_kept(stages, values, &row[0]))
    };
    if scan.partners().iter().any(lacks) {
        return None;
    }
    let used: Vec<i16> = scan.used().collect();
    picked(&alone, &used).into_keys().next()
}

/// The rows that matter to some scan while the stages keep these rows, and the numbers of the scans to which none does. Rows that are the same to every scan
/// may cancel out.
pub fn staged(change: &Weighted, scans: &[Relevance], stages: &[Weighted]) -> (Weighted, Vec<usize>) {
    let mut alike: BTreeMap<Vec<Option<Row>>, Weighted> = BTreeMap::new();
    for (row, w) in change {
        let seen = scans.iter().map(|scan| through(scan, row, stages)).collect();
        let rows = alike.entry(seen).or_default();
        *rows = plus(rows, &Weighted::from([(row.clone(), *w)]), 1);
    }
    alike.retain(|seen, rows| seen.iter().any(Option::is_some) && rows.values().sum::<i64>() != 0);
    let net = |scan: &usize| {
        let seen = alike.iter().filter_map(|(seen, rows)| Some((seen[*scan].clone()?, rows.values().sum::<i64>())));
        seen.fold(Weighted::new(), |sum, (row, w)| plus(&sum, &Weighted::from([(row, w)]), 1))
    };
    let idle = (0..scans.len()).filter(|scan| net(scan).is_empty()).collect();
    let rows = alike.values().fold(Weighted::new(), |sum, rows| plus(&sum, rows, 1));
    (rows, idle)
}
