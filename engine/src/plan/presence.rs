//! Who has got a partner and who has lost the last: the changes behind semi, anti and outer joins.
//!
//! Both forms count partners twice: in the change (`i1`) and in the new state (`i2`). What has none now has lost its last;
//! what has exactly those that came had none before.

use super::matching::{images_agree, of, row_image, same_key, same_key_without_null};
use super::render::{condition, named};
use super::{Catalog, columns, weighted_columns};
use crate::ir::{Col, Conjunct, Rel};
use crate::sql;
use crate::sql::{From, Ident, JoinType, Query, Select, Sql};
use crate::zset::Zset;

impl Catalog {
    /// Rows that have a partner at the new state, or that have none.
    pub(super) fn matching(&self, input: &Zset, right: &Rel, on: &[Conjunct], matched: bool) -> Query {
        let l = input.arity();
        let partners = Select::from(self.numbered_from(right, "r", l)).filter(condition(on));
        let not = if matched { "" } else { "NOT " };
        let rows = self.zset(input).aliased("l", weighted_columns(l));
        named(weighted_columns(l), rows).filter(sql!("{}EXISTS ({})", not, partners.sql())).into()
    }

    /// The change of which keys a relation has. One that more rows have left than come is gone if none is left; one that more
    /// have come to is new if these are all. Where rows are known by columns of their `own`, no row may be there that has not
    /// come, nor one have left: then the first that is found decides, instead of a count of all.
    pub(super) fn presence(
        &self,
        (right, own): (&Rel, Option<&[usize]>),
        change: &Zset,
        keys: &[usize],
        only: &[Conjunct],
        l: usize,
    ) -> Query {
        let cols = right.cols();
        let names: Vec<Ident> = keys.iter().map(|k| Ident::column(l + k)).collect();
        let key_cols: Vec<Col> = keys.iter().map(|k| cols[*k].clone()).collect();
        let touched = |having: &'static str| {
            let touched = named(names.clone(), self.numbered_change(change, "d", l)).filter(condition(only));
            let mut touched = touched.column("sum(w::integer)", Ident::new("i1")).group_by_first(keys.len());
            touched.having = vec![sql!("{}", having)];
            Query::from(touched).aliased("k", Vec::new())
        };
        let partners = || named(names.clone(), self.numbered_from(right, "d", l)).filter(condition(only));
        let partner = |select: Select| Query::from(select).aliased("r", Vec::new());
        let on = Sql::all(same_key_without_null(&key_cols, &of("k", &names), &of("r", &names)));
        let value = |(i, col): (usize, &Col)| match keys.contains(&i) {
            true => (Sql::column(l + i), Ident::column(i)),
            false => (col.ty.null(), Ident::column(i)),
        };
        let values: Vec<(Sql, Ident)> = cols.iter().enumerate().map(value).collect();
        let left = Select::from(partner(partners())).filter(on.clone());
        let gone = Select::from(touched("sum(w::integer) < 0")).columns(values.clone());
        let gone = gone.column("(-1)::bigint", Ident::new("w")).filter(sql!("NOT EXISTS ({})", left.sql()));
        let come = match own {
            Some(own) => {
                let own: Vec<Ident> = own.iter().map(|c| Ident::column(l + c)).collect();
                let come = named(own.clone(), self.numbered_change(change, "d", l)).filter(condition(only));
                let known = sql!("({}) NOT IN ({})", Sql::list(own), come.filter("w > 0").sql());
                let others = partner(partners().filter(known));
                let others = Select::from(others).filter(on);
                Select::from(touched("min(w::integer) > 0")).filter(sql!("NOT EXISTS ({})", others.sql()))
            }
            None => {
                let present = partner(partners().column("true", Ident::new("i2")));
                let counted = counted(touched("sum(w::integer) > 0").join(JoinType::Left, present, on), &names, &[]);
                Select::from(counted).filter("i2 = i1")
            }
        };
        Query::UnionAll(vec![gone.into(), come.columns(values).column("1::bigint", Ident::new("w")).into()])
    }

    /// The rows that have got their first partner or lost their last, by any condition.
    pub(super) fn flips(&self, input: &Zset, right: &Rel, change: &Zset, on: &[Conjunct]) -> Query {
        let (l, cols) = (input.arity(), input.cols());
        let mut read: Vec<usize> =
            on.iter().flat_map(|c| c.condition.cols.iter().copied()).filter(|c| *c < l).collect();
        read.sort_unstable();
        read.dedup();
        let names: Vec<Ident> = read.iter().map(|c| Ident::column(*c)).collect();
        let read: Vec<Col> = read.iter().map(|c| cols[*c].clone()).collect();
        let inexact = inexact(&names, &read);

        let mut rows = named(names.clone(), self.item_of_zset(input));
        rows.group_by = by_image(&names, &inexact);
        let rows = Query::from(rows).aliased("k", Vec::new());
        let mut touched =
            named(names.clone(), rows.join(JoinType::Inner, self.numbered_change(change, "r", l), condition(on)));
        touched = touched.column("sum(w::integer)", Ident::new("i1"));
        touched.group_by = by_image(&names, &inexact);
        touched.having = vec![sql!("sum(w::integer) <> 0")];
        let touched = Query::from(touched).aliased("k", Vec::new());
        let partners = named(columns(l + right.arity()).split_off(l), self.numbered_from(right, "d", l));
        let partners = Query::from(partners.column("true", Ident::new("i2"))).aliased("r", Vec::new());
        let counted = counted(touched.join(JoinType::Left, partners, condition(on)), &names, &inexact);
        let flips = Query::from(flipped(named(names.clone(), counted))).aliased("f", Vec::new());

        let mut same = same_key(&read, &of("x", &names), &of("f", &names));
        if !inexact.is_empty() {
            same.push(images_agree(&of("x", &inexact), &of("f", &inexact)));
        }
        let rows = self.zset(input).aliased("x", weighted_columns(l));
        let mut select = Select::from(rows.join(JoinType::Inner, flips, Sql::all(same)));
        select.columns = of("x", &columns(l)).into_iter().map(|column| (column, None)).collect();
        select.column("x.w * f.w", Ident::new("w")).into()
    }

    /// Weights added up over the rows that agree in these columns.
    pub(super) fn netted(&self, input: &Zset, by: &[usize]) -> Query {
        let column = |(i, col): (usize, &Col)| match by.contains(&i) {
            true => (Sql::column(i), Ident::column(i)),
            false => (col.ty.null(), Ident::column(i)),
        };
        let columns: Vec<(Sql, Ident)> = input.cols().iter().enumerate().map(column).collect();
        let mut select = Select::from(self.item_of_zset(input)).columns(columns);
        select = select.column("sum(w::integer)", Ident::new("w"));
        select.group_by = by.iter().map(|c| Sql::column(*c)).collect();
        select.having = vec![sql!("sum(w::integer) <> 0")];
        select.into()
    }

    /// A relation on the right of `l` columns.
    fn numbered_from(&self, right: &Rel, alias: &'static str, l: usize) -> From {
        self.rel(right).aliased(alias, columns(l + right.arity()).split_off(l))
    }

    /// A change of a relation on the right of `l` columns.
    fn numbered_change(&self, change: &Zset, alias: &'static str, l: usize) -> From {
        self.zset(change).aliased(alias, weighted_columns(l + change.arity()).split_off(l))
    }
}

/// Columns whose equal values may look different: a condition may tell them apart.
fn inexact(names: &[Ident], cols: &[Col]) -> Vec<Ident> {
    let blurred = |(_, col): &(&Ident, &Col)| !col.ty.is_exact();
    names.iter().zip(cols).filter(blurred).map(|(name, _)| name.clone()).collect()
}

fn by_image(names: &[Ident], inexact: &[Ident]) -> Vec<Sql> {
    let mut terms: Vec<Sql> = names.iter().map(Sql::from).collect();
    if !inexact.is_empty() {
        terms.push(row_image(inexact));
    }
    terms
}

/// Per touched key the number of partners now.
fn counted(joined: From, names: &[Ident], inexact: &[Ident]) -> From {
    let mut select = Select::from(joined);
    let keys = of("k", names);
    select.columns = keys.iter().map(|key| (key.clone(), None)).collect();
    select = select.column("k.i1", Ident::new("i1")).column("count(r.i2)", Ident::new("i2"));
    select.group_by = keys.into_iter().chain([sql!("k.i1")]).collect();
    if !inexact.is_empty() {
        select.group_by.push(row_image(&of("k", inexact)));
    }
    Query::from(select).aliased("d", Vec::new())
}

fn flipped(select: Select) -> Select {
    let weight = "CASE WHEN i2 = 0 THEN (-1)::bigint ELSE 1::bigint END";
    select.column(weight, Ident::new("w")).filter("(i2 = 0 OR i2 = i1)")
}
