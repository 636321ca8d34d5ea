//! Well-formedness, and what is known of a relation's columns and keys.

mod common;

use common::tables::{integer, numeric, text};
use pgtrickle_engine::ir::{Agg, AggKind, Col, Conjunct, JoinKind, Number, Rel, Scalar, SourceId, Ty};
use pgtrickle_engine::keys::{KnownKeys, key};
use pgtrickle_engine::{cut, lower};

/// A table with key column 1 and a nullable column 2.
fn table(id: u32) -> Rel {
    Rel::scan(SourceId(id), vec![1, 2], vec![Col::not_null(integer()), Col::new(text())]).unwrap()
}

fn known() -> KnownKeys {
    KnownKeys { sources: [(SourceId(1), vec![1]), (SourceId(2), vec![1])].into(), stages: vec![] }
}

fn equal(l: usize, r: usize, left_arity: usize) -> Conjunct {
    let sql = format!("(c{} = c{})", l + 1, left_arity + r + 1);
    let condition = Scalar::deparsed(sql, vec![l, left_arity + r], Ty::new("boolean"), false);
    Conjunct { condition, equi: Some((l, r)) }
}

fn column(rel: &Rel, i: usize) -> Scalar {
    Scalar::column(i, &rel.cols()[i])
}

#[test]
fn malformed_relations_are_refused() {
    let beyond = Scalar::deparsed("c9", vec![8], integer(), false);
    assert!(Rel::scan(SourceId(1), vec![1], vec![]).is_err());
    assert!(table(1).map(vec![beyond.clone()]).is_err());
    assert!(table(1).filter(vec![beyond.clone()]).is_err());
    assert!(table(1).repeat(beyond.clone()).is_err());
    assert!(table(1).aggregate(vec![beyond.clone()], vec![]).is_err());
    assert!(table(1).join(JoinKind::Inner, table(2), vec![equal(0, 7, 2)]).is_err());
    assert!(Rel::union_all(vec![]).is_err());
    assert!(Rel::union_all(vec![table(1), table(1).map(vec![]).unwrap()]).is_err());
    assert!(table(1).map(vec![]).unwrap().distinct().is_err());
    assert!(Rel::values(vec![vec![beyond]], vec![Col::new(integer())]).is_err());
    let error = table(1).map(vec![Scalar::deparsed("c3", vec![2], integer(), false)]).unwrap_err();
    assert_eq!(error.to_string(), "malformed relation: map reads column 3 of 2: c3");
}

#[test]
fn an_inner_join_needs_only_the_key_of_its_many_side() {
    let joined = |l, r| table(1).join(JoinKind::Inner, table(2), vec![equal(l, r, 2)]).unwrap();
    assert_eq!(key(&joined(1, 0), &known()), Some(vec![0]));
    assert_eq!(key(&joined(0, 1), &known()), Some(vec![2]));
    assert_eq!(key(&joined(1, 1), &known()), Some(vec![0, 2]));
    let left = table(1).join(JoinKind::Left, table(2), vec![equal(0, 1, 2)]).unwrap();
    assert_eq!(key(&left, &known()), Some(vec![0, 2]));
    let semi = table(1).join(JoinKind::Semi, table(2), vec![equal(1, 1, 2)]).unwrap();
    assert_eq!(key(&semi, &known()), Some(vec![0]));
}

#[test]
fn a_key_lives_as_long_as_all_its_columns() {
    let rel = table(1);
    let (id, name) = (column(&rel, 0), column(&rel, 1));
    assert_eq!(key(&rel.clone().map(vec![name.clone(), id.clone()]).unwrap(), &known()), Some(vec![1]));
    assert_eq!(key(&rel.clone().map(vec![name]).unwrap(), &known()), None);
    assert_eq!(key(&Rel::union_all(vec![rel.clone(), rel.clone()]).unwrap(), &known()), None);
    assert_eq!(key(&rel.aggregate(vec![], vec![]).unwrap(), &known()), Some(vec![]));
    assert_eq!(key(&table(3), &known()), None);
}

#[test]
fn what_was_found_equal_is_not_null() {
    let on = |kind| table(1).join(kind, table(2), vec![equal(1, 1, 2)]).unwrap();
    let not_null = |rel: Rel| rel.cols().iter().map(|col| col.not_null).collect::<Vec<_>>();
    assert_eq!(not_null(on(JoinKind::Inner)), [true, true, true, true]);
    assert_eq!(not_null(on(JoinKind::Left)), [true, false, false, false]);
    let full = lower::full_join(table(1), table(2), vec![equal(0, 0, 2)], vec![equal(0, 0, 2)]).unwrap();
    assert_eq!(not_null(full), [false, false, false, false]);
}

#[test]
fn a_union_knows_what_all_its_branches_know() {
    let fixed = Ty { number: Number::Numeric { fixed_scale: true }, ..numeric() };
    let scan = |ty: &Ty| Rel::scan(SourceId(1), vec![1], vec![Col::not_null(ty.clone())]).unwrap();
    let union = Rel::union_all(vec![scan(&fixed), scan(&fixed)]).unwrap();
    assert!(union.cols()[0].ty.is_exact());
    let mixed = Rel::union_all(vec![scan(&fixed), scan(&numeric())]).unwrap();
    assert!(!mixed.cols()[0].ty.is_exact());
    assert!(mixed.cols()[0].not_null);
}

#[test]
fn every_aggregate_becomes_a_stage_below_what_reads_it() {
    let count = Scalar::deparsed("count(*)", vec![], Ty::bigint(), true);
    let count = Agg { call: count, kind: AggKind::CountStar, filter: None };
    let rel = table(1);
    let name = column(&rel, 1);
    let inner = rel.aggregate(vec![name], vec![count.clone()]).unwrap();
    let n = column(&inner, 1);
    let outer = inner.aggregate(vec![n], vec![count]).unwrap();
    let stages = cut::cut(&outer).unwrap();
    assert_eq!(stages.stages.len(), 2);
    assert!(matches!(stages.stages[1].inputs()[..], [Rel::State { stage: 0, .. }]));
    assert!(matches!(stages.root, Rel::State { stage: 1, .. }));
}

#[test]
fn what_follows_from_a_key_is_no_part_of_it() {
    let group_key = |rel: &Rel, columns: &[usize]| {
        let keys = columns.iter().map(|i| column(rel, *i)).collect();
        key(&rel.clone().aggregate(keys, vec![]).unwrap(), &known()).unwrap()
    };
    let joined = table(1).join(JoinKind::Inner, table(2), vec![equal(0, 0, 2)]).unwrap();
    assert_eq!(group_key(&joined, &[1, 0, 3]), [1]);
    assert_eq!(group_key(&joined, &[3, 2]), [1]);
    assert_eq!(group_key(&joined, &[1, 3]), [0, 1]);
    let left = table(1).join(JoinKind::Left, table(2), vec![equal(0, 0, 2)]).unwrap();
    assert_eq!(group_key(&left, &[0, 3]), [0, 1]);
    assert_eq!(group_key(&left, &[2, 3]), [0]);
    assert_eq!(group_key(&table(3), &[0]), [0]);
}

#[test]
fn what_is_read_twice_is_kept_once() {
    let rel = table(1);
    let name = column(&rel, 1);
    let names = rel.map(vec![name]).unwrap().distinct().unwrap();
    let full = lower::full_join(names.clone(), names, vec![equal(0, 0, 1)], vec![equal(0, 0, 1)]).unwrap();
    assert_eq!(cut::cut(&full).unwrap().stages.len(), 1);
}

#[test]
fn what_no_table_can_keep_has_no_rule() {
    let row = Scalar::deparsed("ROW(c1, c2)", vec![0, 1], Ty::new("record"), true);
    let groups = table(1).aggregate(vec![row], vec![]).unwrap();
    assert_eq!(cut::cut(&groups).unwrap_err().to_string(), "aggregate with a column of pseudo-type record");
}
