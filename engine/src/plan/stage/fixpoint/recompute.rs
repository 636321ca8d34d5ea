//! The whole recursion anew: `t = R′ − R` netted, then each row of t as often as it is to be.

use super::super::super::Catalog;
use super::super::super::render::named;
use super::{FixpointPlan, query};
use crate::program::Step;
use crate::sql::{Ident, Query};

impl FixpointPlan {
    /// Computes everything anew and stores the differences; only if one of `changed` is not empty, unless there are none.
    pub(super) fn recompute_steps(&self, catalog: &Catalog, changed: Vec<Ident>) -> Vec<Step> {
        let fresh = query(catalog, &self.base, &self.step, self.all).aliased("x", self.names());
        let fresh = named(self.names(), fresh).column("1::bigint", Ident::new("w"));
        let gone = named(self.names(), self.stored("s")).column("(-1)::bigint", Ident::new("w"));
        let netted = self.netted(Query::UnionAll(vec![fresh.into(), gone.into()]), "<> 0", true);
        let (name, touched) = (self.touched(), self.touched());
        let touch = Step::Stage { name, query: netted.sql(), reads: Vec::new(), skip_if_empty: changed };
        vec![touch, self.delete(&touched, None), self.insert(&touched, Some("n"))]
    }
}
