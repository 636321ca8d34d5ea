//! The steps that carry a change of the input through a stage.
//!
//! ```text
//! g = γ Δinput                       summed up per group
//! t = g ⟕ state                      old and new state of each touched group
//! d = groups of t that are dirty     by what is stored and what was gathered
//! r = γ (input restricted to d)      at the new state
//! t = t ⟕ r                          if any is dirty
//! state' = state − old(t) + new(t)
//! ```
//!
//! Where every group is dirty, d = g, and t = g ⟕ state ⟕ r at once.

use super::super::super::matching::{image_hash, images_differ, least_image, lesser_image, of};
use super::super::super::parts::Row;
use super::super::super::render::named;
use super::super::super::{Catalog, numbered};
use super::super::lookup::Keys;
use super::AggregatePlan;
use crate::program::Step;
use crate::sql;
use crate::sql::{From, Ident, JoinType, Matched, Merge, Query, Select, Sql};
use crate::zset::Zset;

impl AggregatePlan {
    fn gathered(&self) -> Ident {
        self.place.relation("pgt_g")
    }

    fn dirty(&self) -> Ident {
        self.place.relation("pgt_d")
    }

    fn recomputed(&self) -> Ident {
        self.place.relation("pgt_r")
    }

    /// The steps for a change of the input.
    pub(super) fn apply(&self, catalog: &Catalog, change: &Zset) -> Vec<Step> {
        let mut steps = vec![self.gather(catalog, change)];
        if self.parts.always_dirty() {
            steps.extend([self.recompute(catalog, &self.gathered()), self.touch(Some(&self.recomputed()))]);
        } else {
            steps.push(self.touch(None));
            if self.dirtiness().is_some() {
                steps.extend([self.find_dirty(), self.recompute(catalog, &self.dirty()), self.touch_again()]);
            }
        }
        steps.extend([self.check(), self.store()]);
        steps
    }

    fn gather(&self, catalog: &Catalog, change: &Zset) -> Step {
        let reads = catalog.enrs(&change.staged());
        let keys = self.keys.iter().map(|key| key.sql.clone()).zip(self.key_names());
        let select = Select::from(catalog.item_of_zset(change)).columns(keys).columns(self.hash_of_input());
        let select = select.column("coalesce(sum(w::integer), 0)", Ident::new("n"));
        let changes = self.parts.gathered();
        let names = numbered("d", changes.len());
        let select = select.columns(changes.into_iter().zip(names)).columns(self.looks());
        let query = select.group_by_first(self.keys.len()).sql();
        Step::Stage { name: self.gathered(), query, skip_if_empty: reads.clone(), reads }
    }

    /// How the keys of rows looked: the least look that came, the range of hashes of the looks that went.
    fn looks(&self) -> Vec<(Sql, Ident)> {
        let inexact = self.inexact_keys().into_iter().enumerate();
        let of_key = |(nth, i): (usize, usize)| {
            let key = &self.keys[i];
            let hash = image_hash(std::slice::from_ref(&key.sql));
            let [look, from, to] = Self::look_names(nth);
            [
                (least_image(key, Some("w > 0")), look),
                (sql!("min({}) FILTER (WHERE w < 0)", hash), from),
                (sql!("max({}) FILTER (WHERE w < 0)", hash), to),
            ]
        };
        inexact.flat_map(of_key).collect()
    }

    fn look_names(nth: usize) -> [Ident; 3] {
        [Ident::numbered("l", nth + 1), Ident::numbered("h", 2 * nth + 1), Ident::numbered("h", 2 * nth + 2)]
    }

    /// When the look of a key may be gone, or one that came has gone again.
    fn lost_look(&self) -> Vec<Sql> {
        let inexact = self.inexact_keys().into_iter().enumerate();
        let lost = |(nth, i): (usize, usize)| {
            let [look, from, to] = Self::look_names(nth);
            let within = |value: Sql| sql!("{} BETWEEN g.{} AND g.{}", image_hash(&[value]), from, to);
            let (stored, came) = (sql!("s.{}", Ident::numbered("k", i + 1)), sql!("g.{}", look));
            sql!("(g.{} IS NOT NULL AND (s.n IS NULL OR {} OR {}))", from, within(stored), within(came))
        };
        inexact.map(lost).collect()
    }

    fn gathered_columns(&self) -> Vec<Sql> {
        of("g", &numbered("d", self.parts.gathered().len()))
    }

    /// The condition under which a group of `g` with state `s` must be computed anew, if there is such a thing.
    fn dirtiness(&self) -> Option<Sql> {
        let (stored, gathered) = (of("s", &self.new_side().parts), self.gathered_columns());
        let has_rows = !self.is_grand();
        let stored = Row { n: sql!("s.n"), columns: &stored, has_rows };
        let parts = self.parts.dirty(&stored, &Row { n: sql!("g.n"), columns: &gathered, has_rows });
        let conditions: Vec<Sql> = parts.into_iter().chain(self.lost_look()).collect();
        (!conditions.is_empty()).then(|| sql!("({})", Sql::any(conditions)))
    }

    fn with_state(&self) -> From {
        let state = From::Table { name: self.place.table.clone(), only: false, alias: Some(Ident::new("s")) };
        From::enr(&self.gathered(), "g").join(JoinType::Left, state, self.same_group("s", "g"))
    }

    fn new_count() -> Sql {
        sql!("(coalesce(s.n, 0) + g.n)")
    }

    fn find_dirty(&self) -> Step {
        let select = named(self.key_names(), From::Enr { name: self.touched(), alias: None }).filter("y");
        let reads = vec![self.touched()];
        // Without keys a row says that the one group is dirty.
        let select = if self.is_grand() { select.column("true", Ident::new("y")) } else { select };
        Step::Stage { name: self.dirty(), query: select.sql(), skip_if_empty: reads.clone(), reads }
    }

    /// The groups whose keys this relation has.
    fn recompute(&self, catalog: &Catalog, wanted: &Ident) -> Step {
        let query =
            if self.is_grand() { self.recompute_grand(catalog, wanted) } else { self.recompute_keyed(catalog, wanted) };
        let reads = vec![wanted.clone()];
        Step::Stage { name: self.recomputed(), query: query.sql(), skip_if_empty: reads.clone(), reads }
    }

    fn recompute_keyed(&self, catalog: &Catalog, wanted: &Ident) -> Query {
        let (names, cols) = (self.key_names(), self.key_cols());
        let wanted = Keys { relation: wanted, names: &names, cols: &cols };
        let keys: Vec<Sql> = self.keys.iter().map(|key| sql!("({})", key.sql)).collect();
        wanted.of_input(catalog, &self.input, &keys, |from| self.grouped(from))
    }

    /// The one group if it is dirty: WHERE saves reading the input otherwise, HAVING the row that would come all the same.
    fn recompute_grand(&self, catalog: &Catalog, wanted: &Ident) -> Query {
        let dirty = sql!("EXISTS (SELECT FROM {})", wanted);
        let mut select = self.groups(catalog).filter(dirty.clone());
        select.having = vec![dirty];
        select.into()
    }

    /// Old and new state of each touched group, with what was recomputed if that is there already. What is dirty says so
    /// in `y`.
    fn touch(&self, recomputed: Option<&Ident>) -> Step {
        let (new, old) = (self.new_side(), self.old_side());
        let (stored, gathered) = (of("s", &new.parts), self.gathered_columns());
        let row = |n, columns| Row { n, columns, has_rows: !self.is_grand() };
        let mut parts = self.parts.merged(&row(sql!("s.n"), &stored), &row(sql!("g.n"), &gathered));
        let mut keys = self.lasting_keys();
        let (mut from, mut reads, mut recounted) = (self.with_state(), vec![self.gathered()], sql!("NULL::bigint"));
        if let Some(recomputed) = recomputed {
            from = from.join(JoinType::Left, From::enr(recomputed, "r"), self.same_group("r", "g"));
            parts = recomputed_or(&of("r", &new.parts), &parts);
            for i in self.inexact_keys() {
                keys[i] = recomputed_or(&of("r", &new.keys[i..=i]), &keys[i..=i]).remove(0);
            }
            recounted = sql!("r.n");
            reads.push(recomputed.clone());
        }
        let select = Select::from(from).columns(keys.into_iter().zip(new.keys.clone())).columns(self.hash_from("g"));
        let select = select.column(Self::new_count(), new.n).columns(parts.into_iter().zip(new.parts));
        let select = select.columns(of("s", &new.keys).into_iter().zip(old.keys));
        let select = select.column("s.n", old.n).columns(stored.into_iter().zip(old.parts));
        let mut select = select.column(recounted, Ident::new("r")).column("s.ctid", Ident::new("x"));
        if recomputed.is_none()
            && let Some(dirty) = self.dirtiness()
        {
            let dirty = if self.is_grand() { dirty } else { sql!("{} AND {} > 0", dirty, Self::new_count()) };
            select = select.column(dirty, Ident::new("y"));
        }
        Step::Stage { name: self.touched(), query: select.sql(), skip_if_empty: vec![self.gathered()], reads }
    }

    /// The touched groups with those that were dirty as they were recomputed.
    fn touch_again(&self) -> Step {
        let (new, old) = (self.new_side(), self.old_side());
        let recomputed = |names: &[Ident]| recomputed_or(&of("r", names), &of("g", names));
        let inexact = self.inexact_keys();
        let key = |(i, name): (usize, &Ident)| match inexact.contains(&i) {
            true => recomputed(std::slice::from_ref(name)).remove(0),
            false => of("g", std::slice::from_ref(name)).remove(0),
        };
        let keys: Vec<Sql> = new.keys.iter().enumerate().map(key).collect();
        let from = From::enr(&self.touched(), "g");
        let from = from.join(JoinType::Left, From::enr(&self.recomputed(), "r"), self.same_group("r", "g"));
        let select = Select::from(from).columns(keys.into_iter().zip(new.keys.clone())).columns(self.hash_from("g"));
        let select = select.column("g.n", new.n).columns(recomputed(&new.parts).into_iter().zip(new.parts.clone()));
        let old = [old.keys, vec![old.n], old.parts].concat();
        let select = select.columns(of("g", &old).into_iter().zip(old));
        let query = select.column("r.n", Ident::new("r")).column("g.x", Ident::new("x")).column("g.y", Ident::new("y"));
        let reads = vec![self.touched(), self.recomputed()];
        Step::Restage { name: self.touched(), query: query.sql(), reads, skip_if_empty: vec![self.dirty()] }
    }

    /// The key as it is stored, or as it looks from now on.
    fn lasting_keys(&self) -> Vec<Sql> {
        let (g, s) = (of("g", &self.key_names()), of("s", &self.key_names()));
        let inexact = self.inexact_keys();
        let lasting = |(i, g): (usize, Sql)| match inexact.iter().position(|key| *key == i) {
            None => g,
            Some(nth) => lesser_image(&s[i], &sql!("g.{}", Self::look_names(nth)[0])),
        };
        g.into_iter().enumerate().map(lasting).collect()
    }

    /// A group cannot have fewer than no rows, nor other rows than the input has.
    fn check(&self) -> Step {
        let mut wrong = vec![sql!("n < 0"), sql!("r <> n")];
        if self.is_grand() {
            wrong.push(sql!("m IS NULL"));
        }
        let what = sql!("'the stored state of a group contradicts its changes'::text");
        let select = Select::from(From::Enr { name: self.touched(), alias: None }).filter(Sql::any(wrong));
        let query = select.column(what, Ident::new("wrong")).sql();
        let reads = vec![self.touched()];
        Step::Check { query, skip_if_empty: reads.clone(), reads }
    }

    /// Brings the table up to date with the touched groups.
    pub(super) fn store(&self) -> Step {
        let (new, old) = (self.new_side(), self.old_side());
        let inexact = self.inexact_keys();
        let lasting = |keys: &[Ident], parts: &[Ident]| -> Vec<Ident> {
            inexact.iter().map(|i| keys[*i].clone()).chain(parts.iter().cloned()).collect()
        };
        let (new_values, old_values) = (lasting(&new.keys, &new.parts), lasting(&old.keys, &old.parts));
        let mut changed = vec![sql!("m IS NULL"), sql!("n <> m")];
        if !new_values.is_empty() {
            changed.push(images_differ(&new_values, &old_values));
        }
        let names = new.names();
        let with_place: Vec<Ident> = names.iter().cloned().chain([Ident::new("x")]).collect();
        let source = named(with_place.clone(), From::Enr { name: self.touched(), alias: None });
        let source = Query::from(source.filter(sql!("({})", Sql::any(changed)))).aliased("t", with_place);
        let set = |names: Vec<Ident>| names.iter().cloned().zip(of("t", &names)).collect::<Vec<_>>();
        let update = Matched::Update { condition: None, set: set([vec![new.n], new_values].concat()) };
        let insert = |condition| Matched::Insert { condition, columns: set(names.clone()) };
        let when = if self.is_grand() {
            vec![update, insert(None)]
        } else {
            let gone = Matched::Delete { condition: Some(sql!("t.n = 0")) };
            vec![gone, update, insert(Some(sql!("t.n > 0")))]
        };
        // Nobody else writes the table, so the row is still where it was found.
        let on = vec![if self.is_grand() { self.same_group("s", "t") } else { sql!("s.ctid = t.x") }];
        let merge = Merge { table: self.place.table.clone(), alias: Ident::new("s"), source, on, when };
        let touched = vec![self.touched()];
        Step::Modify { sql: merge.sql(), reads: touched.clone(), skip_if_empty: touched, expect: None }
    }
}

fn recomputed_or(recomputed: &[Sql], merged: &[Sql]) -> Vec<Sql> {
    let choice = |(r, m): (&Sql, &Sql)| sql!("CASE WHEN r.n IS NOT NULL THEN {} ELSE {} END", r, m);
    recomputed.iter().zip(merged).map(choice).collect()
}
