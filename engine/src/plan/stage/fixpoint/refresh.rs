//! The steps that carry changes through a recursion; the equations are in the module above.

use super::super::super::matching::{images_agree, of};
use super::super::super::matching::{is_not_null, is_null, row_image, same_key_with_null, same_key_without_null};
use super::super::super::render::named;
use super::super::super::{Catalog, weighted_columns};
use super::{FixpointPlan, cast, following, working};
use crate::delta::{Changed, delta};
use crate::ir::Rel;
use crate::program::Step;
use crate::sql;
use crate::sql::{From, Ident, JoinType, Query, Recursive, Select, Sql};
use crate::zset::Zset;

impl FixpointPlan {
    pub(super) fn refresh_steps(&self, catalog: &Catalog, changed: &Changed) -> Option<Vec<Step>> {
        if !self.by_rule() {
            let read = Zset::sum([&self.base, &self.step].map(|rel| around(rel, changed)))?;
            return Some(self.recompute_steps(catalog, catalog.enrs(&read.staged())));
        }
        let step = delta(&self.step, &changed.apart());
        let change = Zset::sum([delta(&self.base, changed), step.clone()])?;
        let sources = catalog.enrs(&change.staged());
        let mut steps = vec![self.change_around(catalog, &change, &sources), self.over_delete(catalog)];
        steps.extend(self.all.then(|| self.copies_of_deleted()));
        steps.extend([
            self.delete(&self.deleted(), Some(self.number_of_old())),
            self.derive_again(catalog),
            self.begin(catalog, step.as_ref(), sources),
            self.follow(catalog),
            self.insert(&self.added(), None),
            self.touch(),
        ]);
        Some(steps)
    }

    fn around(&self) -> Ident {
        self.place.relation("pgt_z")
    }

    fn deleted(&self) -> Ident {
        self.place.relation("pgt_d")
    }

    /// R within D.
    fn old(&self) -> Ident {
        if self.all { self.place.relation("pgt_o") } else { self.deleted() }
    }

    fn derived_again(&self) -> Ident {
        self.place.relation("pgt_u")
    }

    fn begun(&self) -> Ident {
        self.place.relation("pgt_b")
    }

    fn added(&self) -> Ident {
        self.place.relation("pgt_a")
    }

    fn number_of_old(&self) -> Sql {
        Select::from(From::Enr { name: self.old(), alias: None }).column("count(*)", Ident::new("n")).sql()
    }

    /// Z = ΔB + Δf(R)
    fn change_around(&self, catalog: &Catalog, change: &Zset, sources: &[Ident]) -> Step {
        let query = catalog.meaning(self.stored("s")).zset(change).sql();
        Step::Stage { name: self.around(), query, reads: sources.to_vec(), skip_if_empty: sources.to_vec() }
    }

    /// D = (Z⁻ ∪ f′(D)) ∩ R. Where equal rows may look different, a further column tells them apart.
    fn over_delete(&self, catalog: &Catalog) -> Step {
        let mut columns = self.names();
        let stored = |row: &'static str| self.found_in(row, self.stored("s"), "s");
        let lost = From::enr(&self.around(), "d");
        let mut head = cast(&self.cols, lost).filter("w < 0").filter(stored("d"));
        let mut tail = named(self.names(), following(catalog, &self.step)).filter(stored("d"));
        let inexact = self.inexact();
        if !inexact.is_empty() {
            columns.push(Ident::new("i1"));
            head = head.column(row_image(&inexact), Ident::new("i1"));
            tail = tail.column(row_image(&inexact), Ident::new("i1"));
        }
        let query = Query::from(Recursive { name: working(), columns, head, tail, all: false }).sql();
        let reads = vec![self.around()];
        Step::Stage { name: self.deleted(), query, skip_if_empty: reads.clone(), reads }
    }

    /// R within D, with all copies.
    fn copies_of_deleted(&self) -> Step {
        let found = From::enr(&self.deleted(), "d").join(JoinType::Inner, self.stored("s"), self.same("s", "d"));
        let mut select = Select::from(found);
        select.columns = of("s", &self.names()).into_iter().map(|column| (column, None)).collect();
        let reads = vec![self.deleted()];
        Step::Stage { name: self.old(), query: select.sql(), skip_if_empty: reads.clone(), reads }
    }

    /// U = (B′ + f′(K)) within D; the table holds K now. Rows with a NULL are looked for apart, so that plain equality, and
    /// with it any index, serves for all others.
    fn derive_again(&self, catalog: &Catalog) -> Step {
        let after = catalog.meaning(self.stored("s"));
        let nullable = || self.cols.iter().zip(of("d", &self.names())).filter(|(col, _)| !col.not_null).map(|(_, d)| d);
        let mut branches = Vec::new();
        for rel in [&self.base, &self.step] {
            let mut usual = self.derived(&after, rel, same_key_without_null);
            usual.filter = nullable().map(|d| is_not_null(&d)).collect();
            branches.push(usual.into());
            if nullable().next().is_some() {
                let with_null = self.derived(&after, rel, same_key_with_null);
                let is_null = Sql::any(nullable().map(|d| is_null(&d)));
                branches.push(with_null.filter(sql!("({})", is_null)).into());
            }
        }
        let reads = vec![self.deleted()];
        let query = Query::UnionAll(branches).sql();
        Step::Stage { name: self.derived_again(), query, skip_if_empty: reads.clone(), reads }
    }

    fn derived(&self, catalog: &Catalog, rel: &Rel, same: SameKey) -> Select {
        let (x, d) = (of("x", &self.names()), of("d", &self.names()));
        let mut on = same(&self.cols, &x, &d);
        let inexact = self.inexact();
        if !inexact.is_empty() {
            on.push(images_agree(&of("x", &inexact), &of("d", &inexact)));
        }
        let rows = catalog.rel(rel).aliased("x", self.names());
        let from = From::enr(&self.deleted(), "d").join(JoinType::Inner, rows, Sql::all(on));
        let mut select = Select::from(from);
        select.columns = x.into_iter().map(|column| (column, None)).collect();
        select
    }

    /// S = Z − Δf(R within D), netted, outside of K; over bags outside of D, where U counts everything.
    fn begin(&self, catalog: &Catalog, step: Option<&Zset>, sources: Vec<Ident>) -> Step {
        let around = named(weighted_columns(self.arity()), From::Enr { name: self.around(), alias: None });
        let (mut rows, mut reads) = (vec![Query::from(around)], vec![self.around(), self.deleted()]);
        if let Some(step) = step {
            let within = catalog.meaning(From::enr(&self.old(), "s"));
            rows.push(within.zset(&step.clone().negate()));
            reads.push(self.old());
            reads.extend(sources);
        }
        let known = match self.all {
            true => self.found_in("x", From::enr(&self.deleted(), "d"), "d"),
            false => self.found_in("x", self.stored("s"), "s"),
        };
        let netted = self.netted(Query::UnionAll(rows), "> 0", false).filter(sql!("NOT {}", known));
        Step::Stage { name: self.begun(), query: netted.sql(), reads, skip_if_empty: vec![self.around()] }
    }

    /// A = U + S + f′(A), over sets without K.
    fn follow(&self, catalog: &Catalog) -> Step {
        let mut begun = From::enr(&self.begun(), "d");
        if self.all {
            let copies = From::Rows { rows: sql!("generate_series(1, d.w)"), alias: sql!("i1") };
            begun = begun.join(JoinType::Cross, copies, Sql::default());
        }
        let again = named(self.names(), From::enr(&self.derived_again(), "d"));
        let both = Query::UnionAll(vec![named(self.names(), begun).into(), again.into()]);
        let head = cast(&self.cols, both.aliased("d", self.names()));
        let mut tail = named(self.names(), following(catalog, &self.step));
        if !self.all {
            tail = tail.filter(sql!("NOT {}", self.found_in("d", self.stored("s"), "s")));
        }
        let recursive = Recursive { name: working(), columns: self.names(), head, tail, all: self.all };
        let reads = vec![self.begun(), self.derived_again()];
        let query = Query::from(recursive).sql();
        Step::Stage { name: self.added(), query, skip_if_empty: reads.clone(), reads }
    }

    /// ΔR = A − (R within D)
    fn touch(&self) -> Step {
        let weighted = |name: Ident, w: &'static str| {
            Query::from(named(self.names(), From::Enr { name, alias: None }).column(w, Ident::new("w")))
        };
        let rows = vec![weighted(self.added(), "1::bigint"), weighted(self.old(), "(-1)::bigint")];
        let query = self.netted(Query::UnionAll(rows), "<> 0", false).sql();
        let reads = vec![self.added(), self.old()];
        Step::Stage { name: self.touched(), query, skip_if_empty: reads.clone(), reads }
    }
}

/// One of the ways to compare keys.
type SameKey = fn(&[crate::ir::Col], &[Sql], &[Sql]) -> Vec<Sql>;

/// The changes of all that a relation reads, whatever it makes of them.
fn around(rel: &Rel, changed: &Changed) -> Option<Zset> {
    match rel.inputs().as_slice() {
        [] => delta(rel, changed),
        inputs => Zset::sum(inputs.iter().map(|input| around(input, changed))),
    }
}
