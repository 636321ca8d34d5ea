//! All groups of a stage computed anew: `t = γ input ⟗ state`, then stored as after any refresh.

use super::super::super::Catalog;
use super::super::super::matching::of;
use super::AggregatePlan;
use crate::program::Step;
use crate::sql;
use crate::sql::{From, Ident, JoinType, Query, Select, Sql};

impl AggregatePlan {
    /// Computes all groups anew and stores the differences.
    pub(super) fn recompute_all(&self, catalog: &Catalog) -> Vec<Step> {
        let (new, old) = (self.new_side(), self.old_side());
        let fresh = Query::from(self.groups(catalog)).aliased("g", new.names());
        let state = From::Table { name: self.place.table.clone(), only: false, alias: Some(Ident::new("s")) };
        let (g, s) = (of("g", &new.keys), of("s", &new.keys));
        let kind = if self.is_grand() { JoinType::Left } else { JoinType::Full };
        let key = |(g, s): (&Sql, &Sql)| sql!("CASE WHEN g.n IS NOT NULL THEN {} ELSE {} END", g, s);
        let keys: Vec<Sql> = g.iter().zip(&s).map(key).collect();

        let select =
            Select::from(fresh.join(kind, state, self.same_group("s", "g"))).columns(keys.into_iter().zip(new.keys));
        let hash = new.hash.into_iter().map(|name| (sql!("coalesce(g.{}, s.{})", name, name), name));
        let select = select.columns(hash.collect::<Vec<_>>()).column("coalesce(g.n, 0)", new.n);
        let select = select.columns(of("g", &new.parts).into_iter().zip(new.parts.clone()));
        let select = select.columns(s.into_iter().zip(old.keys)).column("s.n", old.n);
        let select = select.columns(of("s", &new.parts).into_iter().zip(old.parts));
        let query = select.column("s.ctid", Ident::new("x")).sql();
        let touch = Step::Stage { name: self.touched(), query, reads: Vec::new(), skip_if_empty: Vec::new() };
        vec![touch, self.store()]
    }
}
