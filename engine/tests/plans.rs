//! Plan in, SQL out: each query below is planned and its statements compared with `tests/plans/<name>.sql`.
//! `UPDATE_PLANS=1` writes what comes out now; read the difference before committing it.

use pgtrickle_engine::ir::{
    Agg, AggKind, Col, Conjunct, Equality, JoinKind, Limit, Number, Rel, Rows, Scalar, SortKey, SourceId, Ty,
};
use pgtrickle_engine::lower;
use pgtrickle_engine::program::{Definition, Identity, Program, SourceInfo, Step, Target};
use pgtrickle_engine::selection::{Choice, selections};
use pgtrickle_engine::sql::{Ident, QualifiedName, Sql};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

const ORDERS: SourceId = SourceId(100);
const CUSTOMERS: SourceId = SourceId(200);

fn integer() -> Ty {
    Ty::new("integer").with_number(Number::Small)
}

fn money() -> Ty {
    let exact = Number::Numeric { fixed_scale: true };
    Ty::new("numeric(12,2)").with_equality(Equality::Semantic).with_number(exact)
}

/// orders(id primary key, customer_id not null, amount)
fn orders() -> Rel {
    let cols = vec![Col::not_null(integer()), Col::not_null(integer()), Col::new(money())];
    Rel::scan(ORDERS, vec![1, 2, 3], cols).unwrap()
}

/// customers(id primary key, region not null, name)
fn customers() -> Rel {
    let cols = vec![Col::not_null(integer()), Col::not_null(integer()), Col::new(Ty::new("text"))];
    Rel::scan(CUSTOMERS, vec![1, 2, 3], cols).unwrap()
}

fn source(id: SourceId, name: &str, columns: [&str; 3]) -> SourceInfo {
    SourceInfo {
        id,
        table: QualifiedName::new("public", name),
        only: false,
        columns: (1..).zip(columns.map(Ident::new)).collect(),
        primary_key: Some(vec![1]),
    }
}

fn column(rel: &Rel, i: usize) -> Scalar {
    Scalar::column(i, &rel.cols()[i])
}

fn joined() -> Rel {
    let condition = Scalar::deparsed("(c2 = c4)", vec![1, 3], Ty::new("boolean"), true);
    orders().join(JoinKind::Inner, customers(), vec![Conjunct { condition, equi: Some((1, 0)) }]).unwrap()
}

fn agg(call: &str, ty: Ty, kind: AggKind) -> Agg {
    let reads = kind_reads(&kind);
    Agg { call: Scalar::deparsed(call, reads, ty, false), kind, filter: None }
}

fn kind_reads(kind: &AggKind) -> Vec<usize> {
    match kind {
        AggKind::Sum(x) | AggKind::Max(x) => x.cols.clone(),
        _ => vec![],
    }
}

fn check(name: &str, root: Rel, changed: &[SourceId], identity: &Identity) {
    let columns = root.cols().into_iter().enumerate();
    let columns = columns.map(|(i, col)| (Ident::new(["Region", "total", "n", "d"][i]), col.ty)).collect();
    let sources = vec![
        source(ORDERS, "orders", ["id", "customer_id", "amount"]),
        source(CUSTOMERS, "customers", ["id", "region", "name"]),
    ];
    let target = Target { table: QualifiedName::new("public", "st"), pgt_id: 1 };
    let definition = Definition { root, columns, sources };
    let kept = if name.starts_with("few_rows_kept") { selections(&definition) } else { Vec::new() };
    let program = Program::choosing(&definition, &target, &Choice { kept, ..Choice::default() }).unwrap();
    assert_eq!(program.identity(), identity, "{name}");
    let mut found = String::new();
    for state in program.state_tables() {
        let _ = writeln!(found, "{};", state.create);
        state.indexes.iter().for_each(|index| writeln!(found, "{index};").unwrap());
    }
    program.identity_index().iter().for_each(|index| writeln!(found, "{index};").unwrap());
    let changed: BTreeSet<SourceId> = changed.iter().copied().collect();
    for (title, steps) in
        [("fill", program.fill()), ("refresh", program.refresh(&changed)), ("recompute", program.recompute())]
    {
        let _ = writeln!(found, "\n-- {title}");
        steps.iter().for_each(|step| found.push_str(&printed(step)));
    }
    let _ = writeln!(found, "\n-- where columns come from");
    for (relation, origins) in program.origins(&changed.iter().copied().collect()) {
        let origin = |origin: &Option<(SourceId, i16)>| origin.map_or("-".into(), |(s, c)| format!("{}.{c}", s.0));
        let _ = writeln!(found, "-- {relation}: {}", origins.iter().map(origin).collect::<Vec<_>>().join(" "));
    }
    compare(name, &found);
}

fn printed(step: &Step) -> String {
    let names = |enrs: &[Ident]| enrs.iter().map(Ident::as_str).collect::<Vec<_>>().join(" ");
    match step {
        Step::Stage { name, query, skip_if_empty, .. } => {
            format!("-- stage {} unless empty: {}\n{query};\n", name.as_str(), names(skip_if_empty))
        }
        Step::Restage { name, query, skip_if_empty, .. } => {
            format!("-- stage {} again unless empty: {}\n{query};\n", name.as_str(), names(skip_if_empty))
        }
        Step::Modify { sql, skip_if_empty, expect, .. } => {
            let expect = expect.as_ref().map_or(String::new(), |e| format!("-- as many as {e}\n"));
            format!("-- modify unless empty: {}\n{expect}{sql};\n", names(skip_if_empty))
        }
        Step::Check { query, skip_if_empty, .. } => {
            format!("-- check unless empty: {}\n{query};\n", names(skip_if_empty))
        }
    }
}

fn compare(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans").join(format!("{name}.sql"));
    if std::env::var_os("UPDATE_PLANS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{}", path.display());
}

#[test]
fn filter_and_map_keep_the_primary_key() {
    let rel = orders();
    let positive = Scalar::deparsed("(c3 > 0::numeric)", vec![2], Ty::new("boolean"), false);
    let exprs = vec![column(&rel, 0), column(&rel, 2)];
    let root = rel.filter(vec![positive]).unwrap().map(exprs).unwrap();
    check("filter_map", root, &[ORDERS], &Identity::Key { columns: vec![0] });
}

#[test]
fn a_table_without_its_key_is_a_bag() {
    let rel = orders();
    let exprs = vec![column(&rel, 1), column(&rel, 2)];
    check("bag", rel.map(exprs).unwrap(), &[ORDERS], &Identity::Bag);
}

#[test]
fn an_inner_join_needs_the_key_of_the_many_side_only() {
    let rel = joined();
    let exprs = vec![column(&rel, 0), column(&rel, 5)];
    check("join", rel.map(exprs).unwrap(), &[ORDERS, CUSTOMERS], &Identity::Key { columns: vec![0] });
}

#[test]
fn union_all_has_no_key() {
    let root = Rel::union_all(vec![orders(), orders()]).unwrap();
    check("union_all", root, &[ORDERS], &Identity::Bag);
}

#[test]
fn sums_over_a_join_add_up() {
    let rel = joined();
    let (region, amount) = (column(&rel, 4), column(&rel, 2));
    let sum = agg("sum(c3)", Ty::numeric(), AggKind::Sum(amount));
    let count = agg("count(*)", Ty::bigint(), AggKind::CountStar);
    let root = rel.aggregate(vec![region], vec![sum, count]).unwrap();
    check("aggregate_join", root, &[ORDERS], &Identity::Key { columns: vec![0] });
}

#[test]
fn a_deleted_maximum_makes_its_group_dirty() {
    let rel = orders();
    let (customer, amount) = (column(&rel, 1), column(&rel, 2));
    let max = agg("max(c3)", money(), AggKind::Max(amount));
    let root = rel.aggregate(vec![customer], vec![max]).unwrap();
    check("max", root, &[ORDERS], &Identity::Key { columns: vec![0] });
}

#[test]
fn an_aggregate_over_an_aggregate_reads_its_change() {
    let rel = customers();
    let region = column(&rel, 1);
    let inner = rel.aggregate(vec![region], vec![agg("count(*)", Ty::bigint(), AggKind::CountStar)]).unwrap();
    let root = inner.aggregate(vec![], vec![agg("max(c2)", Ty::bigint(), AggKind::Recompute)]).unwrap();
    check("nested", root, &[CUSTOMERS], &Identity::Key { columns: vec![] });
}

#[test]
fn distinct_over_nullable_text_is_found_by_hash() {
    let rel = customers();
    let name = column(&rel, 2);
    let root = rel.map(vec![name]).unwrap().distinct().unwrap();
    check("distinct", root, &[CUSTOMERS], &Identity::Key { columns: vec![0] });
}

#[test]
fn an_opaque_query_is_recomputed_and_compared() {
    let target = Target { table: QualifiedName::new("public", "st"), pgt_id: 1 };
    let columns = [(Ident::new("doc"), Ty::new("json").with_equality(Equality::None)), (Ident::new("n"), integer())];
    let view = QualifiedName::new("pgtrickle", "def_1");
    let program = Program::opaque(&view, &columns, &target);
    assert!(!program.is_differential());
    assert_eq!(program.refresh(&BTreeSet::from([ORDERS])), program.recompute());
    let steps: String = program.fill().iter().chain(&program.recompute()).map(printed).collect();
    compare("opaque", &steps);
}

/// customers joined to their orders, column 4 being the order's customer.
fn by_customer(kind: JoinKind) -> Rel {
    let condition = Scalar::deparsed("(c1 = c5)", vec![0, 4], Ty::new("boolean"), true);
    customers().join(kind, orders(), vec![Conjunct { condition, equi: Some((0, 1)) }]).unwrap()
}

#[test]
fn a_left_join_counts_the_partners_of_touched_keys() {
    let rel = by_customer(JoinKind::Left);
    let exprs = vec![column(&rel, 0), column(&rel, 3), column(&rel, 5)];
    check("left_join", rel.map(exprs).unwrap(), &[ORDERS], &Identity::Key { columns: vec![0, 1] });
}

#[test]
fn an_anti_join_on_equality_is_driven_by_both_changes() {
    let root = by_customer(JoinKind::Anti);
    check("anti_join", root, &[ORDERS, CUSTOMERS], &Identity::Key { columns: vec![0] });
}

#[test]
fn a_semi_join_on_any_condition_counts_per_value_that_it_reads() {
    let condition = Scalar::deparsed("(c2 < c5)", vec![1, 4], Ty::new("boolean"), true);
    let on = vec![Conjunct { condition, equi: None }];
    let root = customers().join(JoinKind::Semi, orders(), on).unwrap();
    check("semi_join", root, &[ORDERS], &Identity::Key { columns: vec![0] });
}

/// customers beside the words of their names, numbered.
fn words(outer: Option<Vec<Scalar>>) -> Rel {
    let item = Sql::text("ROWS FROM (regexp_split_to_table(c3, ' '::text)) WITH ORDINALITY");
    let cols = vec![Col::new(Ty::new("text")), Col::not_null(Ty::bigint())];
    customers().flat_map(Rows { item, reads: vec![2], cols, key: Some(vec![1]), outer }).unwrap()
}

#[test]
fn functions_run_for_changed_rows_only() {
    let rel = words(None);
    let exprs = vec![column(&rel, 0), column(&rel, 4), column(&rel, 3)];
    check("flat_map", rel.map(exprs).unwrap(), &[CUSTOMERS], &Identity::Key { columns: vec![0, 1] });
}

#[test]
fn an_outer_join_with_functions_pads_within_the_row() {
    let short = Scalar::deparsed("(c5 < c1)", vec![4, 0], Ty::new("boolean"), true);
    let rel = words(Some(vec![short]));
    let exprs = vec![column(&rel, 0), column(&rel, 4), column(&rel, 3)];
    check("flat_map_outer", rel.map(exprs).unwrap(), &[CUSTOMERS], &Identity::Key { columns: vec![0, 1] });
}

#[test]
fn except_all_repeats_rows_by_their_counts() {
    let keys = |rel: Rel| {
        let key = column(&rel, 0);
        rel.map(vec![key]).unwrap()
    };
    let root = lower::except(keys(customers()), keys(orders()), true).unwrap();
    check("except_all", root, &[CUSTOMERS], &Identity::Bag);
}

/// Customers as edges from id to region: which follow from which.
fn reach(all: bool) -> Rel {
    let edges = |rel: Rel| {
        let (from, to) = (column(&rel, 0), column(&rel, 1));
        rel.map(vec![from, to]).unwrap()
    };
    let cols = vec![Col::not_null(integer()), Col::new(integer())];
    let condition = Scalar::deparsed("(c2 = c3)", vec![1, 2], Ty::new("boolean"), false);
    let on = vec![Conjunct { condition, equi: Some((1, 0)) }];
    let step = Rel::Recursive { cols }.join(JoinKind::Inner, edges(customers()), on).unwrap();
    let exprs = vec![column(&step, 0), column(&step, 3)];
    Rel::fixpoint(edges(orders()), step.map(exprs).unwrap(), all).unwrap()
}

#[test]
fn a_recursion_over_sets_deletes_and_derives_again() {
    check("recursion", reach(false), &[ORDERS, CUSTOMERS], &Identity::Key { columns: vec![0, 1] });
}

#[test]
fn a_recursion_over_bags_keeps_copies_apart() {
    check("recursion_all", reach(true), &[CUSTOMERS], &Identity::Bag);
}

#[test]
fn a_recursion_over_whole_rounds_is_computed_anew() {
    let cols = vec![Col::new(integer())];
    let reference = Rel::Recursive { cols };
    let step = reference.clone().map(vec![column(&reference, 0)]).unwrap().distinct().unwrap();
    let base = customers();
    let base = base.clone().map(vec![column(&base, 0)]).unwrap();
    check("recursion_recomputed", Rel::fixpoint(base, step, true).unwrap(), &[CUSTOMERS], &Identity::Bag);
}

#[test]
fn a_recomputed_query_keeps_its_key_but_no_state() {
    let root = {
        let rel = customers();
        let region = column(&rel, 1);
        rel.map(vec![region]).unwrap().distinct().unwrap()
    };
    let columns = vec![(Ident::new("region"), integer())];
    let sources = vec![source(CUSTOMERS, "customers", ["id", "region", "name"])];
    let target = Target { table: QualifiedName::new("public", "st"), pgt_id: 1 };
    let view = QualifiedName::new("pgtrickle", "def_1");
    let program = Program::recomputed(&Definition { root, columns, sources }, &view, &target);
    assert!(!program.is_differential() && program.state_tables().is_empty());
    assert_eq!(program.identity(), &Identity::Key { columns: vec![0] });
}

fn big(rel: Rel, column: &str, at: usize) -> Rel {
    let big = Scalar::deparsed(format!("({column} > 100)"), vec![at], Ty::new("boolean"), false);
    rel.filter(vec![big]).unwrap()
}

#[test]
fn few_rows_that_pass_are_kept() {
    let condition = Scalar::deparsed("(c2 = c4)", vec![1, 3], Ty::new("boolean"), true);
    let on = vec![Conjunct { condition, equi: Some((1, 0)) }];
    let root = big(orders(), "c3", 2).join(JoinKind::Inner, customers(), on).unwrap();
    let exprs = vec![column(&root, 0), column(&root, 4)];
    check("few_rows_kept", root.map(exprs).unwrap(), &[ORDERS, CUSTOMERS], &Identity::Key { columns: vec![0] });
}

#[test]
fn few_rows_are_found_by_the_keys_of_groups_that_are_computed_anew() {
    let condition = Scalar::deparsed("(c2 = c4)", vec![1, 3], Ty::new("boolean"), true);
    let on = vec![Conjunct { condition, equi: Some((1, 0)) }];
    let rel = big(orders(), "c3", 2).join(JoinKind::Inner, customers(), on).unwrap();
    let keys = vec![column(&rel, 1), column(&rel, 2)];
    let call = Scalar::deparsed("count(DISTINCT c5)", vec![4], Ty::bigint(), true);
    let distinct = Agg { call, kind: AggKind::Recompute, filter: None };
    let root = rel.aggregate(keys, vec![distinct]).unwrap();
    check("few_rows_kept_for_groups", root, &[ORDERS], &Identity::Key { columns: vec![0, 1] });
}

#[test]
fn a_table_is_reduced_to_what_a_filter_of_another_leaves() {
    let equal = |left: usize, right: usize, of_right: usize| {
        let text = format!("(c{} = c{})", left + 1, right + 1);
        let condition = Scalar::deparsed(text, vec![left, right], Ty::new("boolean"), true);
        vec![Conjunct { condition, equi: Some((left, of_right)) }]
    };
    let rel = orders().join(JoinKind::Inner, customers(), equal(1, 3, 0)).unwrap();
    let root = rel.join(JoinKind::Inner, big(orders(), "c3", 2), equal(3, 6, 0)).unwrap();
    let exprs = vec![column(&root, 0), column(&root, 4), column(&root, 8)];
    check(
        "few_rows_kept_of_another",
        root.map(exprs).unwrap(),
        &[CUSTOMERS, ORDERS],
        &Identity::Key { columns: vec![0] },
    );
}

#[test]
fn only_groups_that_are_asked_for_are_kept() {
    let rel = orders();
    let key = column(&rel, 1);
    let latest = agg("max(c1)", integer(), AggKind::Max(column(&rel, 0)));
    let latest = rel.aggregate(vec![key], vec![latest]).unwrap();
    let condition = Scalar::deparsed("(c1 = c4)", vec![0, 3], Ty::new("boolean"), true);
    let on = vec![Conjunct { condition, equi: Some((0, 0)) }];
    let root = big(customers(), "c2", 1).join(JoinKind::Inner, latest, on).unwrap();
    let exprs = vec![column(&root, 0), column(&root, 4)];
    check("demand", root.map(exprs).unwrap(), &[ORDERS], &Identity::Key { columns: vec![0] });
}

#[test]
fn what_describes_groups_is_joined_to_them() {
    let condition = Scalar::deparsed("(c2 = c4)", vec![1, 3], Ty::new("boolean"), true);
    let on = vec![Conjunct { condition, equi: Some((1, 0)) }];
    let rel = orders().join(JoinKind::Inner, customers(), on).unwrap();
    let keys = vec![column(&rel, 4), column(&rel, 3)];
    let total = agg("sum(c3)", Ty::bigint(), AggKind::Sum(column(&rel, 2)));
    let root = rel.aggregate(keys, vec![total]).unwrap();
    check("described_groups", root, &[ORDERS, CUSTOMERS], &Identity::Key { columns: vec![1] });
}

#[test]
fn what_lies_between_old_and_new_value_changes() {
    let largest = agg("max(c1)", integer(), AggKind::Max(column(&customers(), 0)));
    let largest = customers().aggregate(Vec::new(), vec![largest]).unwrap();
    let condition = Scalar::deparsed("(c2 < c4)", vec![1, 3], Ty::new("boolean"), false);
    let root = orders().join(JoinKind::Inner, largest, vec![Conjunct { condition, equi: None }]).unwrap();
    let exprs = vec![column(&root, 0)];
    check("compared_with_a_value", root.map(exprs).unwrap(), &[ORDERS, CUSTOMERS], &Identity::Key { columns: vec![0] });
}

#[test]
fn what_a_scan_passes_over_does_not_matter() {
    let root = big(orders(), "c2", 1);
    let exprs = vec![column(&root, 0)];
    let root = root.map(exprs).unwrap();
    let columns = vec![(Ident::new("id"), integer())];
    let sources = vec![source(ORDERS, "orders", ["id", "customer_id", "amount"])];
    let target = Target { table: QualifiedName::new("public", "st"), pgt_id: 1 };
    let program = Program::new(&Definition { root, columns, sources }, &target).unwrap();
    let [scan] = program.relevant(ORDERS).unwrap() else { panic!("one scan") };
    assert_eq!(scan.used().collect::<Vec<_>>(), [1]);
    let buffer = QualifiedName::new("changes", "b");
    let wanted =
        "SELECT true AS w FROM (SELECT c1 AS c1, c2 AS c2, c3 AS c3 FROM ONLY \"changes\".b) AS d WHERE ((c2 > 100))";
    assert_eq!(scan.query(&buffer).unwrap().to_string(), wanted);
}

fn sort_key(rel: &Rel, i: usize) -> SortKey {
    SortKey { by: column(rel, i), operator: Sql::text("OPERATOR(pg_catalog.<)"), nulls_first: false }
}

#[test]
fn windows_are_recomputed_for_touched_partitions() {
    let rel = orders();
    let text = "sum(c3) OVER (PARTITION BY c2 ORDER BY c1 USING OPERATOR(pg_catalog.<) NULLS LAST)";
    let call = Scalar::deparsed(text, vec![0, 1, 2], Ty::numeric(), false);
    let root = rel.window(vec![1], vec![call]).unwrap();
    let exprs = vec![column(&root, 0), column(&root, 3)];
    check("window", root.map(exprs).unwrap(), &[ORDERS], &Identity::Key { columns: vec![0] });
}

#[test]
fn the_first_rows_are_kept_with_some_in_reserve() {
    let rel = orders();
    let order = vec![sort_key(&rel, 2), sort_key(&rel, 0)];
    let root = rel.top_k(order, Limit { offset: 2, rows: 3, ties: false }).unwrap();
    check("top_k", root, &[ORDERS], &Identity::Key { columns: vec![0] });
}

#[test]
fn with_ties_whole_groups_of_equals_are_kept() {
    let rel = orders();
    let exprs = vec![column(&rel, 1), column(&rel, 2)];
    let rel = rel.map(exprs).unwrap();
    let order = vec![sort_key(&rel, 0)];
    let root = rel.top_k(order, Limit { offset: 0, rows: 3, ties: true }).unwrap();
    check("top_k_ties", root, &[ORDERS], &Identity::Bag);
}
