//! The first rows by an order.
//!
//! Of k = offset + limit rows that decide, and m > k, the table keeps T, the first rows of the input R:
//!
//! ```text
//! |T| < k   ⟹  T = R                             else T = all rows of R up to T's last, in the order
//! T'         = T + ΔR up to T's last row          all of ΔR if |T| < k
//!            = the first m rows of R              if that would leave |T'| < k ≤ |T|
//! Δrows      = first(T') − first(T)               identical rows cancel
//! ```
//!
//! So changes behind T are ignored, and the input is read again only after deletions have used up the m − k rows in
//! reserve. Cost: |T| + |ΔR|.
//!
//! The relations that a refresh stages: `pgt_g<i>`, *gathered*: identical rows of T and ΔR in one, `o` of them in T, `n` in T';
//! `pgt_r<i>`, *refill*: empty unless T has to be filled again; `pgt_t<i>`: the change of T as `w`, that of the first rows as `v`.

use super::super::kept::Kept;
use super::super::render::{first_rows, named};
use super::super::{Catalog, columns};
use super::{Place, StagePlan};
use crate::delta::{Changed, delta};
use crate::ir::{Limit, Rel, SortKey};
use crate::keys::{KnownKeys, key};
use crate::program::{StageInfo, StateTable, Step};
use crate::sql;
use crate::sql::{From, Ident, Query, Select, Sql};
use crate::zset::Zset;

/// How many rows are kept in reserve: as many again as are wanted, within these bounds.
const RESERVE: (u64, u64) = (10, 1000);

/// The first rows, with their names.
#[derive(Clone, Debug)]
pub(super) struct TopKPlan {
    place: Place,
    input: Rel,
    order: Vec<SortKey>,
    limit: Limit,
    kept: Kept,
}

impl TopKPlan {
    pub fn new(place: Place, stage: &Rel, known: &KnownKeys) -> TopKPlan {
        let Rel::TopK { input, order, limit } = stage else { unreachable!("a plan for the first rows") };
        let kept = Kept::stage(&place, stage.cols(), key(input, known));
        TopKPlan { place, input: (**input).clone(), order: order.clone(), limit: *limit, kept }
    }

    fn gathered(&self) -> Ident {
        self.place.relation("pgt_g")
    }

    fn refill(&self) -> Ident {
        self.place.relation("pgt_r")
    }

    fn columns(&self) -> Vec<Ident> {
        columns(self.kept.cols.len())
    }

    /// k
    fn deciding(&self) -> i64 {
        i64::try_from(self.limit.first()).unwrap_or(i64::MAX)
    }

    /// m
    fn most(&self) -> u64 {
        let reserve = self.limit.first().clamp(RESERVE.0, RESERVE.1);
        self.limit.first().saturating_add(reserve)
    }

    /// The first m rows of the input.
    fn first(&self, catalog: &Catalog) -> Select {
        let rows = named(self.columns(), catalog.item_of_rel(&self.input));
        first_rows(rows, &self.order, Limit::clause(0, self.most(), self.limit.ties))
    }

    /// The number of rows, counted by `count`, from a row (and its equals) to the end of the order.
    fn rest(&self, count: &'static str) -> Sql {
        let order = Sql::list(self.order.iter().map(SortKey::sql));
        let by = if self.order.is_empty() { Sql::default() } else { sql!("ORDER BY {} ", order) };
        sql!("sum({}::integer) OVER ({}RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)", count, by)
    }

    /// T and ΔR, identical rows in one, and what of them T' has. Of rows identical to T's last there may be more in R, so
    /// more of them may go than T has.
    fn gather(&self, catalog: &Catalog, change: &Zset) -> Step {
        let (o, n, w) = (Ident::new("o"), Ident::new("n"), Ident::new("w"));
        let stored = self.kept.stored().column("1", o.clone()).column("0::bigint", w.clone());
        let change_of = catalog.item_of_zset(change);
        let changed = named(self.columns(), change_of).column("0", o.clone()).column("w", w.clone());
        let both = Query::UnionAll(vec![stored.into(), changed.into()]).aliased("d", Vec::new());
        let summed = Query::from(self.kept.summed(both, &[o.clone(), w])).aliased("d", Vec::new());
        let placed = named(self.columns(), summed).column("o", o.clone()).column("o + w", n.clone());
        let placed =
            placed.column("sum(o::integer) OVER ()", Ident::new("i1")).column(self.rest("o"), Ident::new("i2"));
        let placed = Query::from(placed).aliased("d", Vec::new());
        let k = self.deciding();
        let kept = sql!("CASE WHEN i1 < {} OR i2 > 0 THEN GREATEST(n, 0) ELSE 0 END", k);
        let beyond = if self.limit.ties { sql!("i2 > 0") } else { sql!("i2 > o") };
        let wrong = sql!("n < 0 AND (i1 < {} OR {})", k, beyond);
        let query = named(self.columns(), placed).column("o", o).column(kept, n).column(wrong, Ident::new("i1")).sql();
        let reads = catalog.enrs(&change.staged());
        Step::Stage { name: self.gathered(), query, skip_if_empty: reads.clone(), reads }
    }

    fn check(&self) -> Step {
        let what = sql!("'the stored first rows contradict their changes'::text");
        let rows = Select::from(From::Enr { name: self.gathered(), alias: None }).filter("i1");
        let query = rows.column(what, Ident::new("wrong")).sql();
        let reads = vec![self.gathered()];
        Step::Check { query, skip_if_empty: reads.clone(), reads }
    }

    /// Whether T has to be filled again, as a subquery that is run once.
    fn depleted(&self) -> Sql {
        let k = self.deciding();
        sql!("(SELECT sum(o) >= {} AND sum(n) < {} FROM {})", k, k, self.gathered())
    }

    fn fill_again(&self, catalog: &Catalog) -> Step {
        let query = self.first(catalog).filter(self.depleted()).sql();
        let reads = vec![self.gathered()];
        Step::Stage { name: self.refill(), query, skip_if_empty: reads.clone(), reads }
    }

    fn change_rows(&self) -> Step {
        let (o, n) = (Ident::new("o"), Ident::new("n"));
        let kept = sql!("CASE WHEN {} THEN 0 ELSE n END", self.depleted());
        let gathered = named(self.columns(), From::Enr { name: self.gathered(), alias: None });
        let gathered = gathered.column("o", o.clone()).column(kept, n.clone()).filter("(o > 0 OR n > 0)");
        let refill = named(self.columns(), From::Enr { name: self.refill(), alias: None });
        let refill = refill.column("0", o.clone()).column("1", n.clone());
        let both = Query::UnionAll(vec![gathered.into(), refill.into()]).aliased("d", Vec::new());
        let summed = Query::from(self.kept.summed(both, &[o.clone(), n.clone()])).aliased("d", Vec::new());
        let before = |count: &'static str| sql!("sum({}::integer) OVER () - {}", count, self.rest(count));
        let placed = named(self.columns(), summed).column("o", o).column("n", n);
        let placed = placed.column(before("o"), Ident::new("i1")).column(before("n"), Ident::new("i2"));
        let placed = Query::from(placed).aliased("d", Vec::new());
        let stored = sql!("{} - o", self.within("n", "i2", 0, self.most(), self.limit.ties));
        let shown = |count, before| self.within(count, before, self.limit.offset, self.limit.first(), self.limit.ties);
        let shown = sql!("{} - {}", shown("n", "i2"), shown("o", "i1"));
        let weighed = named(self.columns(), placed).column(stored, Ident::new("w")).column(shown, Ident::new("v"));
        let names = self.columns().into_iter().chain([Ident::new("w"), Ident::new("v")]).collect();
        let changes = named(names, Query::from(weighed).aliased("d", Vec::new())).filter("(w <> 0 OR v <> 0)");
        let reads = vec![self.gathered(), self.refill()];
        Step::Stage { name: self.staged(), query: changes.sql(), skip_if_empty: reads.clone(), reads }
    }

    /// How many of `count` identical rows with `before` rows before them are between two positions.
    fn within(&self, count: &'static str, before: &'static str, from: u64, to: u64, ties: bool) -> Sql {
        let position = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        if ties {
            return sql!("CASE WHEN {} < {} THEN {} ELSE 0 END", before, position(to), count);
        }
        let end = sql!("LEAST({} + {}, {})", before, count, position(to));
        sql!("GREATEST({} - GREATEST({}, {}), 0)", end, before, position(from))
    }
}

impl StagePlan for TopKPlan {
    fn state_table(&self) -> StateTable {
        self.kept.state_table()
    }

    fn fill(&self, catalog: &Catalog) -> Vec<Step> {
        vec![self.kept.fill(self.first(catalog).into())]
    }

    fn refresh(&self, catalog: &Catalog, changed: &Changed) -> Option<Vec<Step>> {
        let change = delta(&self.input, changed)?;
        let steps = [self.gather(catalog, &change), self.check(), self.fill_again(catalog), self.change_rows()];
        Some(steps.into_iter().chain(self.kept.apply()).collect())
    }

    fn recompute(&self, catalog: &Catalog) -> Vec<Step> {
        self.kept.recompute(self.first(catalog).into())
    }

    fn rows(&self) -> Query {
        first_rows(self.kept.stored(), &self.order, self.limit.sql()).into()
    }

    fn change(&self) -> Query {
        let change = From::Enr { name: self.staged(), alias: None };
        named(self.columns(), change).column("v", Ident::new("w")).filter("v <> 0").into()
    }

    fn staged(&self) -> Ident {
        self.kept.change.clone()
    }

    fn explain(&self) -> StageInfo {
        let (first, most, kept) = (self.limit.first(), self.most(), self.kept.explain());
        let rule = format!(
            "the first {most} rows are kept, of which {first} decide; changes behind them are passed over; they are read \
             again when fewer than {first} are left; {kept}"
        );
        StageInfo { operator: "top k".to_owned(), rule, state: Some(self.kept.table.clone()) }
    }
}
