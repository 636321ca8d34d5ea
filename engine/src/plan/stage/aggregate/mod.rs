//! Groups: what their table looks like, how it is filled, what it keeps and how that has changed.
//!
//! The relations that a refresh stages for stage i (where keys are found by their hash, all of them and the table have it
//! in a column `h`, computed once):
//! - `pgt_g<i>`, *gathered*: per touched group the change summed up: `k1.., n, d1..`; of keys that look different though
//!   they are equal `l1..`, the least that came, and the hashes `h1..` between which those are that went
//! - `pgt_d<i>`, *dirty*: the keys of groups that must be computed anew: `k1..`
//! - `pgt_r<i>`, *recomputed*: those groups from the input's new state: `k1.., n, p1..`
//! - `pgt_t<i>`, *touched*: per group the new state `k1.., n, p1..`, the old `j1.., m, q1..` (`m` is NULL where there was no
//!   group) and `r`, the recomputed number of rows, `x`, where the old one is stored, `y`, whether the group is dirty. The
//!   stage's own change is read from it.

mod recompute;
mod refresh;

use super::super::matching::{hashed, images_differ, least_image, of, row_hash, same_values};
use super::super::parts::{Parts, Row};
use super::super::{Catalog, numbered};
use super::{Place, StagePlan, column_type};
use crate::delta::{Changed, delta};
use crate::ir::{Agg, Col, Rel, Scalar};
use crate::program::{StageInfo, StateTable, Step};
use crate::sql;
use crate::sql::{CreateIndex, CreateTable, From, Ident, Insert, Query, Select, Sql};

/// An aggregate with its names.
#[derive(Clone, Debug)]
pub(super) struct AggregatePlan {
    place: Place,
    input: Rel,
    keys: Vec<Scalar>,
    aggs: Vec<Agg>,
    parts: Parts,
}

/// One side of the touched groups.
struct Side {
    keys: Vec<Ident>,
    hash: Option<Ident>,
    n: Ident,
    parts: Vec<Ident>,
}

impl Side {
    /// Keys, their hash, number of rows, parts.
    fn names(&self) -> Vec<Ident> {
        let hash = self.hash.iter().cloned().collect();
        [self.keys.clone(), hash, vec![self.n.clone()], self.parts.clone()].concat()
    }
}

impl AggregatePlan {
    pub fn new(place: Place, input: &Rel, keys: &[Scalar], aggs: &[Agg]) -> AggregatePlan {
        AggregatePlan { place, input: input.clone(), keys: keys.to_vec(), aggs: aggs.to_vec(), parts: Parts::of(aggs) }
    }

    /// The relation with old and new state of touched groups.
    fn touched(&self) -> Ident {
        self.place.relation("pgt_t")
    }

    /// Without keys there is always exactly one group.
    fn is_grand(&self) -> bool {
        self.keys.is_empty()
    }

    fn key_cols(&self) -> Vec<Col> {
        self.keys.iter().map(Scalar::col).collect()
    }

    fn key_names(&self) -> Vec<Ident> {
        numbered("k", self.keys.len())
    }

    fn hash_name(&self) -> Option<Ident> {
        hashed(&self.key_cols()).then(|| Ident::new("h"))
    }

    /// The hash of the key over the input, under its name.
    fn hash_of_input(&self) -> Option<(Sql, Ident)> {
        let keys: Vec<Sql> = self.keys.iter().map(|key| key.sql.clone()).collect();
        self.hash_name().map(|name| (row_hash(&keys), name))
    }

    /// `alias.h`, under its name.
    fn hash_from(&self, alias: &'static str) -> Option<(Sql, Ident)> {
        self.hash_name().map(|name| (of(alias, std::slice::from_ref(&name)).remove(0), name))
    }

    /// Conditions under which two relations with this stage's keys speak of the same group.
    fn same_group(&self, a: &'static str, b: &'static str) -> Sql {
        let hash = self.hash_from(a).zip(self.hash_from(b)).map(|((a, _), (b, _))| sql!("{} = {}", a, b));
        let keys = same_values(&self.key_cols(), &of(a, &self.key_names()), &of(b, &self.key_names()));
        Sql::all(hash.into_iter().chain(keys))
    }

    /// The state as it is stored, or as it is to be.
    fn new_side(&self) -> Side {
        let parts = numbered("p", self.parts.types().len());
        Side { keys: self.key_names(), hash: self.hash_name(), n: Ident::new("n"), parts }
    }

    /// The state as it was, in the touched groups.
    fn old_side(&self) -> Side {
        let parts = numbered("q", self.parts.types().len());
        Side { keys: numbered("j", self.keys.len()), hash: None, n: Ident::new("m"), parts }
    }

    fn results_of(&self, from: From, side: &Side) -> Select {
        let values = self.outputs(side).into_iter().enumerate();
        Select::from(from).columns(values.map(|(i, value)| (value, Ident::column(i))))
    }

    /// Keys and results.
    fn outputs(&self, side: &Side) -> Vec<Sql> {
        let columns: Vec<Sql> = side.parts.iter().map(Sql::from).collect();
        let row = Row { n: Sql::from(&side.n), columns: &columns, has_rows: !self.is_grand() };
        let results = self.parts.results(&row);
        side.keys.iter().map(Sql::from).chain(results).collect()
    }

    /// Keys that always look the same need no comparison.
    fn results_differ(&self) -> Sql {
        let compared = |side: &Side| {
            let outputs = self.outputs(side);
            let exact = |i: usize| self.keys.get(i).is_some_and(|key| key.ty.is_exact());
            outputs.into_iter().enumerate().filter(|(i, _)| !exact(*i)).map(|(_, value)| value).collect::<Vec<_>>()
        };
        let (new, old) = (compared(&self.new_side()), compared(&self.old_side()));
        match (self.is_grand(), new.is_empty()) {
            (true, true) => sql!("false"),
            (true, false) => images_differ(&new, &old),
            (false, true) => sql!("(m IS NULL OR n = 0)"),
            (false, false) => sql!("(m IS NULL OR n = 0 OR {})", images_differ(&new, &old)),
        }
    }

    fn index(&self) -> Option<CreateIndex> {
        let keys: Vec<Sql> = self.key_names().iter().map(Sql::from).collect();
        let (unique, expressions) = match self.hash_name() {
            Some(hash) => (false, vec![Sql::from(hash)]),
            None => (true, keys),
        };
        (!self.is_grand()).then(|| CreateIndex { table: self.place.table.clone(), unique, expressions })
    }

    /// All groups of the input's new state: `k1.., h, n, p1..`
    fn groups(&self, catalog: &Catalog) -> Select {
        self.grouped(catalog.item_of_rel(&self.input))
    }

    fn grouped(&self, from: From) -> Select {
        let side = self.new_side();
        let inexact = self.inexact_keys();
        let key = |(i, key): (usize, &Scalar)| match inexact.contains(&i) {
            true => least_image(key, None),
            false => key.sql.clone(),
        };
        let keys = self.keys.iter().enumerate().map(key);
        let select = Select::from(from).columns(keys.zip(side.keys)).columns(self.hash_of_input());
        let select = select.column("count(*)", side.n);
        let mut select = select.columns(self.parts.fresh().into_iter().zip(side.parts)).group_by_first(self.keys.len());
        for i in inexact {
            select.group_by[i] = sql!("({})", self.keys[i].sql);
        }
        select
    }

    /// Keys of which equal ones may look different. The stored one is, of those that rows of the group have, the one whose
    /// bytes come first; each key for itself.
    fn inexact_keys(&self) -> Vec<usize> {
        (0..self.keys.len()).filter(|i| self.keys[*i].is_blurred()).collect()
    }
}

impl StagePlan for AggregatePlan {
    fn state_table(&self) -> StateTable {
        let side = self.new_side();
        let keys = self.keys.iter().map(|key| column_type(&key.ty));
        let hash = side.hash.into_iter().map(|name| (name, sql!("bigint NOT NULL")));
        let columns = side.keys.into_iter().zip(keys).chain(hash).chain([(side.n, sql!("bigint NOT NULL"))]);
        let types = self.parts.types();
        let columns = columns.chain(side.parts.into_iter().zip(types.iter().map(column_type))).collect();
        let table = CreateTable { name: self.place.table.clone(), columns, with: vec![sql!("fillfactor = 80")] };
        let indexes = self.index().into_iter().map(|index| index.sql()).collect();
        StateTable { name: self.place.table.clone(), create: table.sql(), indexes }
    }

    fn fill(&self, catalog: &Catalog) -> Vec<Step> {
        let (columns, query) = (self.new_side().names(), self.groups(catalog).into());
        let insert = Insert { table: self.place.table.clone(), columns, query };
        vec![Step::Modify { sql: insert.sql(), reads: Vec::new(), skip_if_empty: Vec::new(), expect: None }]
    }

    fn refresh(&self, catalog: &Catalog, changed: &Changed) -> Option<Vec<Step>> {
        Some(self.apply(catalog, &delta(&self.input, changed)?))
    }

    fn recompute(&self, catalog: &Catalog) -> Vec<Step> {
        self.recompute_all(catalog)
    }

    fn rows(&self) -> Query {
        self.results_of(From::table(&self.place.table), &self.new_side()).into()
    }

    fn change(&self) -> Query {
        let differ = self.results_differ();
        let branch = |side: Side, weight: &'static str, alive: &'static str| {
            let rows = self.results_of(From::Enr { name: self.touched(), alias: None }, &side);
            let rows = rows.column(weight, Ident::new("w")).filter(differ.clone());
            Query::from(if self.is_grand() { rows } else { rows.filter(alive) })
        };
        Query::UnionAll(vec![
            branch(self.new_side(), "1::bigint", "n > 0"),
            branch(self.old_side(), "(-1)::bigint", "m IS NOT NULL"),
        ])
    }

    fn staged(&self) -> Ident {
        self.touched()
    }

    fn explain(&self) -> StageInfo {
        let operator = if self.aggs.is_empty() { "distinct" } else { "aggregate" };
        let again = |agg: &&Agg| Parts::of(std::slice::from_ref(*agg)).always_dirty();
        let again: Vec<&str> = self.aggs.iter().filter(again).map(|agg| agg.call.sql.as_str()).collect();
        let rule = if again.is_empty() {
            "the change is added to the parts of each touched group".to_owned()
        } else {
            format!("touched groups are computed anew, because of {}", again.join(", "))
        };
        StageInfo { operator: operator.to_owned(), rule, state: Some(self.place.table.clone()) }
    }
}
