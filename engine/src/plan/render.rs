//! Relations and Z-sets as queries with columns `c1`..`cn` (and `w`).
//!
//! Every operator is a subquery of its own whose alias renames the columns to what its scalars call them; PostgreSQL
//! flattens them. A join's right side continues the numbering of the left, so its condition needs no rewriting.

use super::stage::fixpoint;
use super::{Catalog, columns, shared, weighted_columns};
use crate::ir::{Col, Conjunct, JoinKind, Rel, Rows, Scalar, SortKey, SourceId};
use crate::program::Program;
use crate::sql;
use crate::sql::{From, Ident, JoinType, Query, Select, Sql};
use crate::zset::{Placed, Zset};

impl Catalog {
    /// A relation at its new state.
    pub fn rel(&self, rel: &Rel) -> Query {
        match rel {
            Rel::Scan { source, columns, .. } => self.scan(*source, columns),
            Rel::State { stage, .. } => self.stages[*stage].rows(),
            Rel::Values { rows, cols } => values(rows, cols),
            Rel::Map { input, exprs } => mapped(exprs, self.item_of_rel(input)).into(),
            Rel::Filter { input, predicates } => {
                filtered(columns(input.arity()), predicates, self.item_of_rel(input)).into()
            }
            Rel::Join { kind, left, right, on } => self.joined(*kind, left, right, on),
            Rel::Repeat { input, times } => {
                let copies = From::Rows { rows: sql!("generate_series(1, {})", times.sql), alias: sql!("i1") };
                let from = self.item_of_rel(input).join(JoinType::Cross, copies, Sql::default());
                named(columns(input.arity()), from).into()
            }
            Rel::FlatMap { input, rows } => {
                let (l, names) = (input.arity(), columns(rel.arity()));
                named(names, flat_mapped(self.item_of_rel(input), l, rows)).into()
            }
            Rel::UnionAll { inputs } => Query::UnionAll(inputs.iter().map(|input| self.rel(input)).collect()),
            Rel::Fixpoint { base, step, all } => fixpoint::query(self, base, step, *all),
            Rel::Recursive { cols } => {
                let rows = self.recursive.clone().expect("a recursive reference is within a recursion");
                named(columns(cols.len()), rows).into()
            }
            Rel::Aggregate { input, keys, aggs } => {
                let values = keys.iter().chain(aggs.iter().map(|agg| &agg.call)).cloned().collect::<Vec<_>>();
                mapped(&values, self.item_of_rel(input)).group_by_first(keys.len()).into()
            }
            Rel::Window { input, calls, .. } => with_calls(input.arity(), calls, self.item_of_rel(input)).into(),
            Rel::Compared { input } | Rel::Selected { input, .. } => self.rel(input),
            Rel::TopK { input, order, limit } => {
                first_rows(named(columns(input.arity()), self.item_of_rel(input)), order, limit.sql()).into()
            }
        }
    }

    /// A relation under the names that the scalars above it use.
    pub fn item_of_rel(&self, rel: &Rel) -> From {
        self.rel(rel).aliased("d", columns(rel.arity()))
    }

    /// A Z-set; its last column is the weight.
    pub fn zset(&self, zset: &Zset) -> Query {
        match zset {
            Zset::Bag(rel) => one_each(rel.arity(), self.item_of_rel(rel)).into(),
            Zset::SourceChange { source, columns, cols } => source_change(*source, columns, cols).into(),
            Zset::StageChange { stage, .. } => self.stages[*stage].change(),
            Zset::Map { input, exprs } => weighted(mapped(exprs, self.item_of_zset(input))).into(),
            Zset::Filter { input, predicates } => {
                filtered(weighted_columns(input.arity()), predicates, self.item_of_zset(input)).into()
            }
            Zset::Join { left, right, on } => self.joined_zset(left, right, on),
            Zset::Product { inputs, on } => self.product(inputs, on),
            Zset::Touched { input, change, on } => self.touched(input, change, on),
            Zset::Shared { number, value } => {
                named(weighted_columns(value.arity()), From::Enr { name: shared(*number), alias: None }).into()
            }
            Zset::Matching { input, right, on, matched } => self.matching(input, right, on, *matched),
            Zset::Presence { right, change, keys, only, left_arity, own } => {
                self.presence((right, own.as_deref()), change, keys, only, *left_arity)
            }
            Zset::Flips { input, right, change, on } => self.flips(input, right, change, on),
            Zset::Netted { input, by } => self.netted(input, by),
            Zset::Repeat { input, times } => {
                let weight = sql!("w * ({})", times.sql);
                named(columns(input.arity()), self.item_of_zset(input)).column(weight, Ident::new("w")).into()
            }
            Zset::FlatMap { input, rows } => {
                let (l, names) = (input.arity(), weighted_columns(zset.arity()));
                named(names, flat_mapped(self.item_of_zset(input), l, rows)).into()
            }
            Zset::UnionAll(inputs) => Query::UnionAll(inputs.iter().map(|input| self.zset(input)).collect()),
            Zset::Negate(input) => {
                named(columns(input.arity()), self.item_of_zset(input)).column("-w", Ident::new("w")).into()
            }
        }
    }

    /// A Z-set under the names that the scalars above it use.
    pub fn item_of_zset(&self, zset: &Zset) -> From {
        self.zset(zset).aliased("d", weighted_columns(zset.arity()))
    }

    fn scan(&self, source: SourceId, attnums: &[i16]) -> Query {
        let info = &self.sources[&source];
        let select = Select::from(From::Table { name: info.table.clone(), only: info.only, alias: None });
        let column = |(i, attnum): (usize, &i16)| (Sql::from(&info.columns[attnum]), Ident::column(i));
        select.columns(attnums.iter().enumerate().map(column)).into()
    }

    fn joined(&self, kind: JoinKind, left: &Rel, right: &Rel, on: &[Conjunct]) -> Query {
        let (l, r) = (left.arity(), right.arity());
        let left = self.rel(left).aliased("l", columns(l));
        let right = self.rel(right).aliased("r", columns(l + r).split_off(l));
        let join = |kind| named(columns(l + r), left.clone().join(kind, right.clone(), condition(on)));
        let exists = |not: &'static str| {
            let partners = Select::from(right.clone()).filter(condition(on));
            named(columns(l), left.clone()).filter(sql!("{}EXISTS ({})", not, partners.sql()))
        };
        match kind {
            JoinKind::Inner => join(JoinType::Inner),
            JoinKind::Left => join(JoinType::Left),
            JoinKind::Semi => exists(""),
            JoinKind::Anti => exists("NOT "),
        }
        .into()
    }

    fn joined_zset(&self, left: &Zset, right: &Zset, on: &[Conjunct]) -> Query {
        let (l, r) = (left.arity(), right.arity());
        let (left, left_weight) = self.side(left, "l", columns(l));
        let (right, right_weight) = self.side(right, "r", columns(l + r).split_off(l));
        let weight = match (left_weight, right_weight) {
            (Some(l), Some(r)) => sql!("{} * {}", l, r),
            (Some(w), None) | (None, Some(w)) => w,
            (None, None) => sql!("1::bigint"),
        };
        named(columns(l + r), left.join(JoinType::Inner, right, condition(on))).column(weight, Ident::new("w")).into()
    }

    /// All factors in one FROM, each under the names of its places.
    fn product(&self, inputs: &[Placed], on: &[Scalar]) -> Query {
        let (mut places, mut weights) = (Vec::new(), Vec::new());
        let mut waiting: Vec<&Scalar> = on.iter().collect();
        let mut select = Select::default();
        for (i, input) in inputs.iter().enumerate() {
            let alias = Ident::numbered("t", i + 1);
            let mut names: Vec<Ident> = input.at.iter().map(|place| Ident::column(*place)).collect();
            let query = match &input.zset {
                Zset::Bag(rel) => self.rel(rel),
                change => {
                    names.push(Ident::new("w"));
                    weights.push(sql!("{}.w", alias));
                    self.zset(change)
                }
            };
            places.extend(&input.at);
            let ready = |c: &&Scalar| c.cols.iter().all(|col| places.contains(col));
            let (due, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(ready);
            let due: Vec<Sql> = due.into_iter().map(|c| sql!("({})", c.sql)).collect();
            waiting = rest;
            let item = query.aliased(alias, names);
            select.from = Some(match select.from.take() {
                None => {
                    select.filter = due;
                    item
                }
                Some(from) => from.join(JoinType::Inner, item, Sql::all(due)),
            });
        }
        places.sort_unstable();
        let columns: Vec<(Sql, Ident)> =
            places.iter().enumerate().map(|(i, place)| (Sql::column(*place), Ident::column(i))).collect();
        select.columns(columns).column(Sql::join(" * ", weights), Ident::new("w")).into()
    }

    /// Rows that have a partner in a change.
    fn touched(&self, input: &Zset, change: &Zset, on: &[Conjunct]) -> Query {
        let l = input.arity();
        let names = weighted_columns(l + change.arity()).split_off(l);
        let partners = Select::from(self.zset(change).aliased("r", names)).filter(condition(on));
        let rows = self.zset(input).aliased("l", weighted_columns(l));
        named(weighted_columns(l), rows).filter(sql!("EXISTS ({})", partners.sql())).into()
    }

    /// One side of a join and its weight, if that is not 1 anyway.
    fn side(&self, side: &Zset, alias: &'static str, names: Vec<Ident>) -> (From, Option<Sql>) {
        match side {
            Zset::Bag(rel) => (self.rel(rel).aliased(alias, names), None),
            _ => {
                let names = names.into_iter().chain([Ident::new("w")]).collect();
                (self.zset(side).aliased(alias, names), Some(sql!("{}.w", Ident::new(alias))))
            }
        }
    }
}

fn source_change(source: SourceId, attnums: &[i16], cols: &[Col]) -> Select {
    let select = Select::from(From::Enr { name: Program::source_delta(source), alias: None });
    let column = |(i, (attnum, col)): (usize, (&i16, &Col))| {
        let value = Sql::from(&Ident::numbered("c", attnum));
        (col.ty.of_base(value), Ident::column(i))
    };
    weighted(select.columns(attnums.iter().zip(cols).enumerate().map(column))).filter("w <> 0")
}

/// Constant rows; without any, a query that returns none but has the types.
fn values(rows: &[Vec<Scalar>], cols: &[Col]) -> Query {
    let branches = rows.iter().map(|row| {
        let values = row.iter().enumerate().map(|(i, value)| (value.sql.clone(), Ident::column(i)));
        Query::from(Select::default().columns(values))
    });
    let nothing = || {
        let nulls = cols.iter().enumerate().map(|(i, col)| (col.ty.null(), Ident::column(i)));
        Query::from(Select::default().columns(nulls).filter("false"))
    };
    if rows.is_empty() { nothing() } else { Query::UnionAll(branches.collect()) }
}

fn mapped(exprs: &[Scalar], from: From) -> Select {
    let column = |(i, expr): (usize, &Scalar)| (expr.sql.clone(), Ident::column(i));
    Select::from(from).columns(exprs.iter().enumerate().map(column))
}

/// The input's columns, and the values of window functions over it.
pub(super) fn with_calls(arity: usize, calls: &[Scalar], from: From) -> Select {
    let values = columns(arity).into_iter().map(Sql::from).chain(calls.iter().map(|call| call.sql.clone()));
    Select::from(from).columns(values.enumerate().map(|(i, value)| (value, Ident::column(i))))
}

/// ORDER BY and what limits the rows. Ordinals would be taken for columns' numbers, so a term is never a bare constant.
pub(super) fn first_rows(mut select: Select, order: &[SortKey], limit: Sql) -> Select {
    select.order_by = order.iter().map(SortKey::sql).collect();
    select.limit = Some(limit);
    select
}

/// An item of FROM, of whose columns the first `l` are the functions' input, beside the functions' rows.
fn flat_mapped(input: From, l: usize, rows: &Rows) -> From {
    let names = columns(l + rows.cols.len()).split_off(l);
    let alias = if names.is_empty() { sql!("f") } else { sql!("f({})", Sql::list(names)) };
    let functions = From::Rows { rows: sql!("LATERAL {}", rows.item), alias };
    match &rows.outer {
        None => input.join(JoinType::Cross, functions, Sql::default()),
        Some(on) => input.join(JoinType::Left, functions, Sql::all(on.iter().map(|on| sql!("({})", on.sql)))),
    }
}

fn filtered(names: Vec<Ident>, predicates: &[Scalar], from: From) -> Select {
    let mut select = named(names, from);
    select.filter = predicates.iter().map(|p| sql!("({})", p.sql)).collect();
    select
}

/// The named columns as they are.
pub(crate) fn named(names: Vec<Ident>, from: From) -> Select {
    let mut select = Select::from(from);
    select.columns = names.into_iter().map(|name| (name.into(), None)).collect();
    select
}

fn weighted(mut select: Select) -> Select {
    select.columns.push((Sql::text("w"), None));
    select
}

fn one_each(arity: usize, from: From) -> Select {
    named(columns(arity), from).column("1::bigint", Ident::new("w"))
}

pub(super) fn condition(on: &[Conjunct]) -> Sql {
    Sql::all(on.iter().map(|c| sql!("({})", c.condition.sql)))
}
