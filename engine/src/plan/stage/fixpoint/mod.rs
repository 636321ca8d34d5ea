//! Recursion: the least R = B + f(R), kept row by row.
//!
//! B, f are meant at the old state, B′, f′ at the new one; f is [linear](linear()). Over bags + adds up, over sets
//! it unites.
//!
//! ```text
//! Z  = ΔB + Δf(R)                     what has changed around R as it was
//! D  = (Z⁻ ∪ f′(D)) ∩ R               over-deleted: whatever may have lost a derivation
//! K  = R − D                          kept: these rows have all the derivations that they had
//! U  = (B′ + f′(K)) within D          what of D can be derived all the same
//! S  = Z − Δf(R within D)             = ΔB + Δf(K), netted, outside of K (over bags: of D): what is new
//! A  = U + S + f′(A)                  everything that follows, over sets without K
//! R′ = K + A,  ΔR = A − (R within D)
//! ```
//!
//! Why K is part of R′: order rows by the round in which the recursion first found them. A row of K has kept all its
//! derivations, among them one from an earlier row, which is in K too, or the row would be in D. Z⁻ are the negative rows of Z
//! before anything is netted: a row that loses what one row gave it and gets the same from another may now hang on itself.
//!
//! Why it ends whenever the query does: D is within R, and A's rows are rows of R′, with no more copies than there. That would
//! not be so for a recursion over weighted changes: old and new edges together can have a cycle that neither has.
//!
//! Where f is not linear, rows cannot be told apart by hashing, or equal rows of a set may look different, R is recomputed
//! and compared.
//!
//! The relations that a refresh stages for stage i: `pgt_z<i>`, `pgt_d<i>`, `pgt_u<i>`, `pgt_a<i>` as above, `pgt_b<i>` S;
//! `pgt_o<i>` R within D (over bags); `pgt_t<i>` ΔR: `c1..cn, w`, and when recomputed `n`, the copies that are to be there.

mod recompute;
mod refresh;

use super::super::matching::{hashed, image_hash, images_agree, of, row_hash, row_image, same_key};
use super::super::render::named;
use super::super::{Catalog, columns, weighted_columns};
use super::{Place, StagePlan, column_type};
use crate::delta::Changed;
use crate::ir::{Col, Conjunct, Equality, JoinKind, Rel};
use crate::program::{StageInfo, StateTable, Step};
use crate::recursion::linear;
use crate::sql;
use crate::sql::{CreateIndex, CreateTable, Delete, From, Ident, Insert, JoinType, Query, Recursive, Select, Sql};

/// A recursion with its names.
#[derive(Clone, Debug)]
pub(crate) struct FixpointPlan {
    place: Place,
    base: Rel,
    step: Rel,
    all: bool,
    /// Whether its step is.
    linear: bool,
    cols: Vec<Col>,
}

/// The recursion as a query.
pub(crate) fn query(catalog: &Catalog, base: &Rel, step: &Rel, all: bool) -> Query {
    let rel = Rel::Fixpoint { base: Box::new(base.clone()), step: Box::new(step.clone()), all };
    let (n, name) = (base.arity(), working());
    let head = cast(&rel.cols(), catalog.item_of_rel(base));
    let tail = named(columns(n), following(catalog, step));
    Recursive { name, columns: columns(n), head, tail, all }.into()
}

/// The name of a recursion within its statement.
fn working() -> Ident {
    Ident::new("pgt_f")
}

/// What the step makes of the rows of the recursion around.
fn following(catalog: &Catalog, step: &Rel) -> From {
    catalog.meaning(From::Enr { name: working(), alias: None }).item_of_rel(step)
}

/// The columns in exactly their types: WITH RECURSIVE insists.
fn cast(cols: &[Col], from: From) -> Select {
    let column = |(i, col): (usize, &Col)| {
        let value = sql!("{}::{}", Sql::column(i), col.ty.sql);
        let collation = col.ty.collation.as_ref();
        (collation.map_or(value.clone(), |collation| sql!("({} COLLATE {})", value, collation)), Ident::column(i))
    };
    Select::from(from).columns(cols.iter().enumerate().map(column))
}

impl FixpointPlan {
    pub fn new(place: Place, base: &Rel, step: &Rel, all: bool) -> FixpointPlan {
        let rel = Rel::Fixpoint { base: Box::new(base.clone()), step: Box::new(step.clone()), all };
        let linear = linear(&rel).is_ok();
        FixpointPlan { place, base: base.clone(), step: step.clone(), all, linear, cols: rel.cols() }
    }

    fn arity(&self) -> usize {
        self.cols.len()
    }

    fn names(&self) -> Vec<Ident> {
        columns(self.arity())
    }

    /// Whether the rule serves.
    fn by_rule(&self) -> bool {
        self.linear && self.comparable()
    }

    /// Whether rows are found by their hash, and equal rows of a set look alike.
    fn comparable(&self) -> bool {
        self.cols.iter().all(|col| col.ty.hashable && (self.all || col.ty.is_exact()))
    }

    /// Columns of which equal values may look different.
    fn inexact(&self) -> Vec<Ident> {
        let blurred = |(_, col): &(Ident, &Col)| !col.ty.is_exact();
        self.names().into_iter().zip(&self.cols).filter(blurred).map(|(name, _)| name).collect()
    }

    /// Conditions under which two rows are the same.
    fn same(&self, a: &'static str, b: &'static str) -> Sql {
        let (a_row, b_row) = (of(a, &self.names()), of(b, &self.names()));
        if !self.comparable() {
            return sql!("{} = {} AND {}", image_hash(&a_row), image_hash(&b_row), images_agree(&a_row, &b_row));
        }
        let inexact = self.inexact();
        let images = (!inexact.is_empty()).then(|| images_agree(&of(a, &inexact), &of(b, &inexact)));
        Sql::all(same_key(&self.cols, &a_row, &b_row).into_iter().chain(images))
    }

    /// `EXISTS (..)` a row of the other that is the same.
    fn found_in(&self, row: &'static str, other: From, alias: &'static str) -> Sql {
        sql!("EXISTS ({})", Select::from(other).filter(self.same(row, alias)).sql())
    }

    fn stored(&self, alias: &'static str) -> From {
        From::Table { name: self.place.table.clone(), only: false, alias: Some(Ident::new(alias)) }
    }

    /// ΔR
    fn touched(&self) -> Ident {
        self.place.relation("pgt_t")
    }

    /// Identical rows in one, `c1..cn` and the sum of their weights, where that is as it should be; `n` is the number of
    /// rows that come.
    fn netted(&self, rows: Query, having: &'static str, counted: bool) -> Select {
        let from = rows.aliased("x", weighted_columns(self.arity()));
        if self.cols.iter().any(|col| !col.ty.hashable) {
            return self.netted_by_image(from, having);
        }
        let mut select = named(self.names(), from).column("sum(w::integer)", Ident::new("w"));
        if counted {
            select = select.column("count(*) FILTER (WHERE w > 0)", Ident::new("n"));
        }
        let inexact = self.inexact();
        select.group_by = self.names().iter().map(Sql::from).collect();
        select.group_by.extend((!inexact.is_empty()).then(|| row_image(&inexact)));
        select.having = vec![sql!("sum(w::integer) {}", having)];
        select
    }

    fn netted_by_image(&self, from: From, having: &'static str) -> Select {
        let mut columns = weighted_columns(self.arity());
        let image = named(columns.clone(), from).column(row_image(&self.names()), Ident::new("i1"));
        let image = Query::from(image).aliased("x", Vec::new());
        let mut rows = named(self.names(), image)
            .column("sum(w::integer) OVER (PARTITION BY i1)", Ident::new("w"))
            .column("count(*) FILTER (WHERE w > 0) OVER (PARTITION BY i1)", Ident::new("n"));
        rows.distinct_on = vec![sql!("i1")];
        columns.push(Ident::new("n"));
        named(columns, Query::from(rows).aliased("x", Vec::new())).filter(sql!("w {}", having))
    }

    /// All copies of the rows of a staged relation go from the table.
    fn delete(&self, rows: &Ident, expect: Option<Sql>) -> Step {
        let found = From::enr(rows, "d").join(JoinType::Inner, self.stored("s"), self.same("s", "d"));
        let found = Select::from(found).column("s.ctid", Ident::new("i1"));
        let filter = vec![sql!("t.ctid = ANY (ARRAY({}))", found.sql())];
        let delete = Delete { table: self.place.table.clone(), alias: Ident::new("t"), filter };
        let reads = vec![rows.clone()];
        Step::Modify { sql: delete.sql(), skip_if_empty: reads.clone(), reads, expect }
    }

    /// The rows of a staged relation come, as often as `copies` says, if not once.
    fn insert(&self, rows: &Ident, copies: Option<&'static str>) -> Step {
        let mut from = From::enr(rows, "d");
        if let Some(copies) = copies {
            let copies = From::Rows { rows: sql!("generate_series(1, {})", copies), alias: sql!("i1") };
            from = from.join(JoinType::Cross, copies, Sql::default());
        }
        let query = named(self.names(), from).into();
        let insert = Insert { table: self.place.table.clone(), columns: self.names(), query };
        let reads = vec![rows.clone()];
        Step::Modify { sql: insert.sql(), skip_if_empty: reads.clone(), reads, expect: None }
    }

    /// By which rows are found, and by which the step finds what follows from another table's rows.
    fn indexes(&self) -> Vec<Sql> {
        let names = self.names();
        let table = &self.place.table;
        let row = match (self.comparable(), hashed(&self.cols)) {
            (false, _) => vec![image_hash(&names)],
            (true, true) => vec![row_hash(&names)],
            (true, false) => names.iter().map(Sql::from).collect(),
        };
        let unique = self.comparable() && !self.all && !hashed(&self.cols);
        let mut indexes = vec![CreateIndex { table: table.clone(), unique, expressions: row }.sql()];
        let mut lookups = Vec::new();
        if self.by_rule() {
            positions(&self.step, &mut lookups);
        }
        for columns in lookups {
            let found = |c: &usize| Col { not_null: true, ..self.cols[*c].clone() };
            let expressions: Vec<Sql> = columns.iter().map(|c| Sql::from(&names[*c])).collect();
            indexes.push(match hashed(&columns.iter().map(found).collect::<Vec<_>>()) {
                false => CreateIndex { table: table.clone(), unique: false, expressions }.sql(),
                true if self.cols[columns[0]].ty.hashable => {
                    sql!("CREATE INDEX ON {} USING hash ({})", table, expressions[0])
                }
                true => continue,
            });
        }
        indexes
    }
}

/// Where the columns of the recursive reference are among those of a relation on the way to it, if it is on the way; the
/// columns by which a join on the way looks it up are added to `lookups`.
fn positions(rel: &Rel, lookups: &mut Vec<Vec<usize>>) -> Option<Vec<Option<usize>>> {
    match rel {
        Rel::Recursive { cols } => Some((0..cols.len()).map(Some).collect()),
        Rel::Map { input, exprs } => {
            let below = positions(input, lookups)?;
            Some(exprs.iter().map(|expr| below[expr.column?]).collect())
        }
        Rel::Join { kind, left, right, on } => {
            let (l, r) = (left.arity(), right.arity());
            let (found, side): (_, Side) = match positions(left, lookups) {
                Some(found) => (found, |(l, _)| l),
                None => (positions(right, lookups)?, |(_, r)| r),
            };
            note(on, &found, side, lookups);
            let from_left = side((0, 1)) == 0;
            let padding = |n: usize| std::iter::repeat_n(None, n);
            Some(match (kind, from_left) {
                (JoinKind::Semi | JoinKind::Anti, _) => found,
                (_, true) => found.into_iter().chain(padding(r)).collect(),
                (_, false) => padding(l).chain(found).collect(),
            })
        }
        Rel::Filter { input, .. } => positions(input, lookups),
        Rel::FlatMap { input, .. } => {
            let padding = std::iter::repeat_n(None, rel.arity() - input.arity());
            Some(positions(input, lookups)?.into_iter().chain(padding).collect())
        }
        Rel::UnionAll { inputs } if inputs.len() == 1 => positions(&inputs[0], lookups),
        _ => None,
    }
}

/// One of the columns of an equality, the left input's and the right one's.
type Side = fn((usize, usize)) -> usize;

fn note(on: &[Conjunct], found: &[Option<usize>], side: Side, lookups: &mut Vec<Vec<usize>>) {
    let mut columns: Vec<usize> = on.iter().filter_map(|c| c.equi).filter_map(|equi| found[side(equi)]).collect();
    columns.sort_unstable();
    columns.dedup();
    if !columns.is_empty() && !lookups.contains(&columns) {
        lookups.push(columns);
    }
}

impl StagePlan for FixpointPlan {
    fn state_table(&self) -> StateTable {
        let columns = self.names().into_iter().zip(self.cols.iter().map(|col| column_type(&col.ty))).collect();
        let table = CreateTable { name: self.place.table.clone(), columns, with: Vec::new() };
        StateTable { name: self.place.table.clone(), create: table.sql(), indexes: self.indexes() }
    }

    fn fill(&self, catalog: &Catalog) -> Vec<Step> {
        let query = query(catalog, &self.base, &self.step, self.all);
        let insert = Insert { table: self.place.table.clone(), columns: self.names(), query };
        vec![Step::Modify { sql: insert.sql(), reads: Vec::new(), skip_if_empty: Vec::new(), expect: None }]
    }

    fn refresh(&self, catalog: &Catalog, changed: &Changed) -> Option<Vec<Step>> {
        self.refresh_steps(catalog, changed)
    }

    fn recompute(&self, catalog: &Catalog) -> Vec<Step> {
        self.recompute_steps(catalog, Vec::new())
    }

    fn rows(&self) -> Query {
        named(self.names(), From::table(&self.place.table)).into()
    }

    fn change(&self) -> Query {
        named(weighted_columns(self.arity()), From::Enr { name: self.touched(), alias: None }).into()
    }

    fn staged(&self) -> Ident {
        self.touched()
    }

    fn explain(&self) -> StageInfo {
        let rule = if self.by_rule() {
            "what may have lost a derivation is taken back, what can be derived all the same is put back, and what is new is \
             followed from row to row"
                .to_owned()
        } else if !self.linear {
            "recomputed and compared, because a round depends on all rows of the one before".to_owned()
        } else {
            let of_type = |col: &&Col| !col.ty.hashable || !col.ty.is_exact();
            let ty = self.cols.iter().find(of_type).map_or(Sql::default(), |col| col.ty.sql.clone());
            let why = match self.cols.iter().any(|col| col.ty.equality == Equality::None || !col.ty.hashable) {
                true => "whose values cannot be hashed",
                false => "of which equal values may look different",
            };
            format!("recomputed and compared, because of a column of type {ty}, {why}")
        };
        let operator = if self.all { "WITH RECURSIVE … UNION ALL" } else { "WITH RECURSIVE … UNION" };
        StageInfo { operator: operator.to_owned(), rule, state: Some(self.place.table.clone()) }
    }
}
