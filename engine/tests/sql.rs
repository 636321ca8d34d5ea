//! SQL as a value: what is quoted, and how.

use pgtrickle_engine::sql;
use pgtrickle_engine::sql::{
    CreateIndex, Delete, From, Ident, Insert, JoinType, Literal, Matched, Merge, Param, QualifiedName, Query, Select,
    Sql, Update, With,
};

fn check(sql: impl Into<Sql>, expected: &str) {
    assert_eq!(sql.into().as_str(), expected);
}

#[test]
fn identifiers_are_quoted_unless_no_keyword_can_look_like_them() {
    for (name, expected) in [
        ("c12", "c12"),
        ("w", "w"),
        ("pgtrickle", "pgtrickle"),
        ("pgt_delta_16384", "pgt_delta_16384"),
        ("changes_16384", "changes_16384"),
        ("select", "\"select\""),
        ("user", "\"user\""),
        ("C1", "\"C1\""),
        ("1c", "\"1c\""),
        ("a b1", "\"a b1\""),
        ("Käse2", "\"Käse2\""),
        ("say \"hi\"", "\"say \"\"hi\"\"\""),
        ("", "\"\""),
    ] {
        check(Ident::new(name), expected);
    }
    check(QualifiedName::new("My schema", "c1"), "\"My schema\".c1");
}

#[test]
fn literals_mean_the_same_whatever_the_settings() {
    check(Literal::text("it's"), "'it''s'");
    check(Literal::text(r"back\slash'"), r" E'back\\slash'''");
    check(Literal::Int(-5), "(-5)");
    check(Literal::Int(i64::MIN), "(-9223372036854775808)");
    check(Literal::Bool(true), "true");
    check(Literal::Null, "NULL");
    check(Param(3), "$3");
}

#[test]
fn pieces_fill_holes_in_order_and_are_never_read_as_holes() {
    let tricky = Literal::text("{}");
    check(sql!("f({}, {})", tricky, 1i64), "f('{}', 1)");
    check(Sql::all(Vec::<Sql>::new()), "true");
    check(Sql::any(Vec::<Sql>::new()), "false");
    check(Sql::all([sql!("a"), sql!("b")]), "a AND b");
}

#[test]
fn queries_print_their_clauses_in_order() {
    let inner = Query::Values(vec![vec![sql!("1"), sql!("2")]]).aliased("v", vec![Ident::new("a"), Ident::new("b")]);
    let table = From::Table { name: QualifiedName::new("public", "t"), only: true, alias: Some(Ident::new("t")) };
    let both = From::enr(&Ident::new("pgt_root"), "d").join(
        JoinType::Left,
        inner.join(JoinType::Cross, table, sql!("")),
        "true",
    );
    let mut select = Select::from(both).column("count(*)", "n").filter("a > 1").group_by_first(1);
    select.with = vec![With { name: Ident::new("q"), materialized: true, query: Select::default().into() }];
    select.having = vec![sql!("count(*) > 1")];
    select.order_by = vec![sql!("1 DESC")];
    check(
        select.sql(),
        "WITH q AS MATERIALIZED (SELECT) SELECT count(*) AS n FROM pgt_root AS d LEFT JOIN ((VALUES (1, 2)) AS v(a, b) \
         CROSS JOIN ONLY \"public\".t AS t) ON (true) WHERE a > 1 GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 DESC",
    );
}

#[test]
fn statements_that_write_name_their_columns() {
    let table = QualifiedName::new("s1", "t1");
    let (a, b) = (Ident::new("a"), Ident::new("order"));
    let source = Query::from(Select::default().column("1", "a")).aliased("d", Vec::new());
    let when = vec![
        Matched::Delete { condition: Some(sql!("d.w < 0")) },
        Matched::Update { condition: None, set: vec![(b.clone(), sql!("d.b"))] },
        Matched::Insert { condition: None, columns: vec![(a.clone(), sql!("d.a")), (b.clone(), sql!("d.b"))] },
    ];
    let merge = Merge { table: table.clone(), alias: Ident::new("t"), source, on: vec![sql!("t.a = d.a")], when };
    check(
        merge.sql(),
        "MERGE INTO ONLY s1.t1 AS t USING (SELECT 1 AS a) AS d ON t.a = d.a WHEN MATCHED AND d.w < 0 THEN DELETE \
         WHEN MATCHED THEN UPDATE SET \"order\" = d.b WHEN NOT MATCHED THEN INSERT (a, \"order\") VALUES (d.a, d.b)",
    );
    let insert =
        Insert { table: table.clone(), columns: vec![b.clone()], query: Select::default().column("1", "a").into() };
    check(insert.sql(), "INSERT INTO s1.t1 (\"order\") SELECT 1 AS a");
    let set = vec![(b.clone(), Sql::from(Param(1)))];
    let update =
        Update { table: table.clone(), alias: Ident::new("t"), set, from: None, filter: vec![sql!("t.a = 1")] };
    check(update.sql(), "UPDATE ONLY s1.t1 AS t SET \"order\" = $1 WHERE t.a = 1");
    let delete = Delete { table: table.clone(), alias: Ident::new("t"), filter: Vec::new() };
    check(delete.sql(), "DELETE FROM ONLY s1.t1 AS t WHERE true");
    let index = CreateIndex { table, unique: true, expressions: vec![Sql::from(b)] };
    check(index.sql(), "CREATE UNIQUE INDEX ON s1.t1 (\"order\")");
}

#[test]
fn copies_share_their_text() {
    let sql = sql!("SELECT {}", Ident::new("a"));
    assert!(std::ptr::eq(sql.as_str(), sql.clone().as_str()));
}
