//! A stage: what its hidden table looks like, how it is filled, and the steps that carry a change through it.
//!
//! The relations that it stages, for stage i:
//! - `pgt_g<i>`, *gathered*: per touched group the change summed up: `k1.., n, d1..`
//! - `pgt_d<i>`, *dirty*: the keys of groups that must be computed anew: `k1..`
//! - `pgt_r<i>`, *recomputed*: those groups from the input's new state: `k1.., n, p1..`
//! - `pgt_t<i>`, *touched*: per group the new parts and the old: `k1.., n, p1.., m, q1..` (`m` is NULL where there was no
//!   group) and `r`, the recomputed number of rows. The stage's own change is read from it.

use super::matching::{
    hashed, images_differ, of, row_hash, same_key, same_key_with_null, same_key_without_null,
};
use super::parts::{Parts, Row};
use super::{Catalog, numbered};
use crate::cut::Stage;
use crate::ir::{Agg, Col, Equality};
use crate::program::{StageInfo, StateTable, Step};
use crate::sql;
use crate::sql::{
    CreateIndex, CreateTable, From, Ident, Insert, JoinType, Matched, Merge, QualifiedName, Query,
    Select, Sql,
};
use crate::zset::Zset;

/// A stage with its names.
#[derive(Clone, Debug)]
pub(crate) struct StagePlan {
    number: usize,
    pub stage: Stage,
    pub table: QualifiedName,
    pub parts: Parts,
}

impl StagePlan {
    /// The plan of the stage with this index.
    pub fn new(index: usize, stage: Stage, table: QualifiedName) -> StagePlan {
        let parts = Parts::of(&stage.aggs);
        StagePlan {
            number: index + 1,
            stage,
            table,
            parts,
        }
    }

    /// The relation with old and new parts of touched groups.
    pub fn touched(&self) -> Ident {
        Ident::numbered("pgt_t", self.number)
    }

    fn gathered(&self) -> Ident {
        Ident::numbered("pgt_g", self.number)
    }

    fn dirty(&self) -> Ident {
        Ident::numbered("pgt_d", self.number)
    }

    fn recomputed(&self) -> Ident {
        Ident::numbered("pgt_r", self.number)
    }

    /// Without keys there is always exactly one group.
    fn is_grand(&self) -> bool {
        self.stage.keys.is_empty()
    }

    fn keys(&self) -> Vec<Ident> {
        numbered("k", self.stage.keys.len())
    }

    fn key_cols(&self) -> Vec<Col> {
        self.stage.key_cols()
    }

    fn key_exprs(&self) -> Vec<Sql> {
        self.stage
            .keys
            .iter()
            .map(|key| sql!("({})", key.sql))
            .collect()
    }

    fn part_names(&self, prefix: &'static str) -> Vec<Ident> {
        numbered(prefix, self.parts.types().len())
    }

    /// How it is maintained.
    pub fn explain(&self) -> StageInfo {
        let operator = if self.stage.aggs.is_empty() {
            "distinct"
        } else {
            "aggregate"
        };
        let again = |agg: &&Agg| Parts::of(std::slice::from_ref(*agg)).always_dirty();
        let again: Vec<&str> = self
            .stage
            .aggs
            .iter()
            .filter(again)
            .map(|agg| agg.call.sql.as_str())
            .collect();
        let rule = if again.is_empty() {
            "the change is added to the parts of each touched group".to_owned()
        } else {
            format!(
                "touched groups are computed anew, because of {}",
                again.join(", ")
            )
        };
        StageInfo {
            operator: operator.to_owned(),
            rule,
            state: Some(self.table.clone()),
        }
    }

    /// What the stage keeps, as a relation `c1`..`cn`.
    pub fn state(&self) -> Query {
        let (n, parts) = (sql!("n"), self.part_names("p"));
        self.rows(From::table(&self.table), n, &parts).into()
    }

    /// The change of what it keeps, `c1`..`cn` and `w`: old rows go, new rows come, unchanged ones do neither.
    pub fn change(&self) -> Query {
        let (new, old) = (self.part_names("p"), self.part_names("q"));
        let branch = |n, parts: &[Ident], weight: &'static str, alive: &'static str| {
            let rows = self.rows(
                From::Enr {
                    name: self.touched(),
                    alias: None,
                },
                n,
                parts,
            );
            let rows = rows
                .column(weight, Ident::new("w"))
                .filter(self.results_differ());
            Query::from(if self.is_grand() {
                rows
            } else {
                rows.filter(alive)
            })
        };
        Query::UnionAll(vec![
            branch(sql!("n"), &new, "1::bigint", "n > 0"),
            branch(sql!("m"), &old, "(-1)::bigint", "m IS NOT NULL"),
        ])
    }

    fn rows(&self, from: From, n: Sql, parts: &[Ident]) -> Select {
        let results = self.results(n, parts);
        let values = self.keys().into_iter().map(Sql::from).chain(results);
        let named = values
            .enumerate()
            .map(|(i, value)| (value, Ident::column(i)));
        Select::from(from).columns(named)
    }

    fn results(&self, n: Sql, parts: &[Ident]) -> Vec<Sql> {
        let columns: Vec<Sql> = parts.iter().map(Sql::from).collect();
        self.parts.results(&Row {
            n,
            columns: &columns,
        })
    }

    fn results_differ(&self) -> Sql {
        let new = self.results(sql!("n"), &self.part_names("p"));
        let old = self.results(sql!("m"), &self.part_names("q"));
        match (self.is_grand(), new.is_empty()) {
            (true, true) => sql!("false"),
            (true, false) => images_differ(&new, &old),
            (false, true) => sql!("(m IS NULL OR n = 0)"),
            (false, false) => sql!("(m IS NULL OR n = 0 OR {})", images_differ(&new, &old)),
        }
    }

    /// Its table.
    pub fn state_table(&self) -> StateTable {
        let keys = self
            .stage
            .keys
            .iter()
            .map(|key| column_type(&key.ty.sql, key.ty.collation.as_ref()));
        let parts = self.parts.types();
        let parts = parts
            .iter()
            .map(|ty| column_type(&ty.sql, ty.collation.as_ref()));
        let columns = self.keys().into_iter().zip(keys);
        let columns = columns.chain([(Ident::new("n"), sql!("bigint NOT NULL"))]);
        let columns = columns
            .chain(self.part_names("p").into_iter().zip(parts))
            .collect();
        let with = vec![sql!("fillfactor = 80")];
        StateTable {
            name: self.table.clone(),
            create: CreateTable {
                name: self.table.clone(),
                columns,
                with,
            }
            .sql(),
            indexes: self.index().into_iter().map(|index| index.sql()).collect(),
        }
    }

    fn index(&self) -> Option<CreateIndex> {
        let keys: Vec<Sql> = self.keys().iter().map(Sql::from).collect();
        let hashed = hashed(&self.key_cols());
        let expressions = if hashed { vec![row_hash(&keys)] } else { keys };
        (!self.is_grand()).then(|| CreateIndex {
            table: self.table.clone(),
            unique: !hashed,
            expressions,
        })
    }

    /// The first fill.
    pub fn fill(&self, catalog: &Catalog) -> Step {
        let names = self
            .keys()
            .into_iter()
            .chain([Ident::new("n")])
            .chain(self.part_names("p"));
        let insert = Insert {
            table: self.table.clone(),
            columns: names.collect(),
            query: self.groups(catalog).into(),
        };
        Step::Modify {
            sql: insert.sql(),
            reads: Vec::new(),
            skip_if_empty: Vec::new(),
            expect: None,
        }
    }

    /// All groups of the input's new state: `k1.., n, p1..`
    fn groups(&self, catalog: &Catalog) -> Select {
        let keys = self.stage.keys.iter().map(|key| key.sql.clone());
        self.grouped(catalog.from_rel(&self.stage.input), keys)
    }

    fn grouped(&self, from: From, keys: impl Iterator<Item = Sql>) -> Select {
        let select = Select::from(from)
            .columns(keys.zip(self.keys()))
            .column("count(*)", Ident::new("n"));
        let parts = self.parts.fresh().into_iter().zip(self.part_names("p"));
        select.columns(parts).group_by_first(self.stage.keys.len())
    }

    /// The steps that carry a change of the input through the stage.
    pub fn refresh(&self, catalog: &Catalog, change: &Zset) -> Vec<Step> {
        let mut steps = vec![self.gather(catalog, change)];
        if let Some(dirty) = self.find_dirty() {
            steps.extend([dirty, self.recompute_dirty(catalog)]);
        }
        steps.extend([self.touch(), self.check(), self.store(vec![self.touched()])]);
        steps
    }

    fn gather(&self, catalog: &Catalog, change: &Zset) -> Step {
        let reads = catalog.enrs(&change.staged());
        let keys = self
            .stage
            .keys
            .iter()
            .map(|key| key.sql.clone())
            .zip(self.keys());
        let select = Select::from(catalog.from_zset(change)).columns(keys);
        let select = select.column("coalesce(sum(w), 0)::bigint", Ident::new("n"));
        let changes = self.parts.gathered();
        let names = numbered("d", changes.len());
        let query = select
            .columns(changes.into_iter().zip(names))
            .group_by_first(self.stage.keys.len())
            .sql();
        Step::Stage {
            name: self.gathered(),
            query,
            skip_if_empty: reads.clone(),
            reads,
        }
    }

    fn gathered_with_state(&self) -> From {
        let (g, s) = (of("g", &self.keys()), of("s", &self.keys()));
        let state = From::Table {
            name: self.table.clone(),
            only: false,
            alias: Some(Ident::new("s")),
        };
        let on = Sql::all(same_key(&self.key_cols(), &s, &g));
        From::enr(&self.gathered(), "g").join(JoinType::Left, state, on)
    }

    /// The key as it is stored if it is: an equal key may look different.
    fn lasting_keys(&self) -> Vec<Sql> {
        let (g, s) = (of("g", &self.keys()), of("s", &self.keys()));
        let lasting = |((col, g), s): ((Col, Sql), Sql)| match col.ty.equality {
            Equality::Image => g,
            _ => sql!("CASE WHEN s.n IS NOT NULL THEN {} ELSE {} END", s, g),
        };
        self.key_cols()
            .into_iter()
            .zip(g)
            .zip(s)
            .map(lasting)
            .collect()
    }

    fn new_count() -> Sql {
        sql!("(coalesce(s.n, 0) + g.n)")
    }

    fn find_dirty(&self) -> Option<Step> {
        let (stored, gathered) = (of("s", &self.part_names("p")), self.gathered_columns());
        let stored = Row {
            n: sql!("s.n"),
            columns: &stored,
        };
        let dirty = self.parts.dirty(
            &stored,
            &Row {
                n: sql!("g.n"),
                columns: &gathered,
            },
        )?;
        let mut select = Select::from(self.gathered_with_state())
            .columns(self.lasting_keys().into_iter().zip(self.keys()));
        if !self.is_grand() {
            select = select.filter(sql!("{} > 0", Self::new_count()));
        }
        if !self.parts.always_dirty() {
            select = select.filter(sql!("({})", dirty));
        }
        let reads = vec![self.gathered()];
        Some(Step::Stage {
            name: self.dirty(),
            query: select.sql(),
            skip_if_empty: reads.clone(),
            reads,
        })
    }

    fn gathered_columns(&self) -> Vec<Sql> {
        of("g", &numbered("d", self.parts.gathered().len()))
    }

    fn recompute_dirty(&self, catalog: &Catalog) -> Step {
        let query = if self.is_grand() {
            self.recompute_grand(catalog)
        } else {
            self.recompute_keyed(catalog)
        };
        let reads = vec![self.dirty()];
        Step::Stage {
            name: self.recomputed(),
            query: query.sql(),
            skip_if_empty: reads.clone(),
            reads,
        }
    }

    /// Groups whose key has a NULL are looked up apart, so that plain equality, and with it any index of a source,
    /// serves for all others.
    fn recompute_keyed(&self, catalog: &Catalog) -> Query {
        let (cols, keys, dirty) = (self.key_cols(), self.key_exprs(), of("x", &self.keys()));
        let nullable = || {
            cols.iter()
                .zip(&dirty)
                .filter(|(col, _)| !col.not_null)
                .map(|(_, key)| key)
        };
        let mut usual =
            self.recompute_matching(catalog, same_key_without_null(&cols, &keys, &dirty));
        usual.filter = nullable().map(|key| sql!("{} IS NOT NULL", key)).collect();
        if usual.filter.is_empty() {
            return usual.into();
        }
        let with_null = self.recompute_matching(catalog, same_key_with_null(&cols, &keys, &dirty));
        let is_null = Sql::any(nullable().map(|key| sql!("{} IS NULL", key)));
        Query::UnionAll(vec![
            usual.into(),
            with_null.filter(sql!("({})", is_null)).into(),
        ])
    }

    fn recompute_matching(&self, catalog: &Catalog, on: Vec<Sql>) -> Select {
        let input = catalog.from_rel(&self.stage.input);
        let input = input.join(JoinType::Inner, From::enr(&self.dirty(), "x"), Sql::all(on));
        self.grouped(input, of("x", &self.keys()).into_iter())
    }

    /// The one group if it is dirty: WHERE saves reading the input otherwise, HAVING the row that would come all the same.
    fn recompute_grand(&self, catalog: &Catalog) -> Query {
        let dirty = sql!("EXISTS (SELECT FROM {})", self.dirty());
        let mut select = self.groups(catalog).filter(dirty.clone());
        select.having = vec![dirty];
        select.into()
    }

    fn touch(&self) -> Step {
        let stored = of("s", &self.part_names("p"));
        let gathered = self.gathered_columns();
        let row = |n, columns| Row { n, columns };
        let (stored_row, gathered_row) = (
            row(sql!("s.n"), &stored[..]),
            row(sql!("g.n"), &gathered[..]),
        );
        let mut merged = self.parts.merged(&stored_row, &gathered_row);
        let mut from = self.gathered_with_state();
        let mut reads = vec![self.gathered()];
        let mut recounted = sql!("NULL::bigint");
        if self.parts.dirty(&stored_row, &gathered_row).is_some() {
            let again = of("r", &self.part_names("p"));
            merged = merged
                .iter()
                .zip(&again)
                .map(|(merged, again)| {
                    sql!(
                        "CASE WHEN r.n IS NOT NULL THEN {} ELSE {} END",
                        again,
                        merged
                    )
                })
                .collect();
            let on = Sql::all(same_key(
                &self.key_cols(),
                &of("r", &self.keys()),
                &of("g", &self.keys()),
            ));
            from = from.join(JoinType::Left, From::enr(&self.recomputed(), "r"), on);
            recounted = sql!("r.n");
            reads.push(self.recomputed());
        }
        let select = Select::from(from).columns(self.lasting_keys().into_iter().zip(self.keys()));
        let select = select
            .column(Self::new_count(), Ident::new("n"))
            .columns(merged.into_iter().zip(self.part_names("p")));
        let select = select
            .column("s.n", Ident::new("m"))
            .columns(stored.iter().cloned().zip(self.part_names("q")));
        let query = select.column(recounted, Ident::new("r")).sql();
        Step::Stage {
            name: self.touched(),
            query,
            skip_if_empty: vec![self.gathered()],
            reads,
        }
    }

    /// A group cannot have fewer than no rows, nor other rows than the input has.
    fn check(&self) -> Step {
        let mut wrong = vec![sql!("n < 0"), sql!("r <> n")];
        if self.is_grand() {
            wrong.push(sql!("m IS NULL"));
        }
        let what = sql!("'the stored state of a group contradicts its changes'::text");
        let select = Select::from(From::Enr {
            name: self.touched(),
            alias: None,
        })
        .filter(Sql::any(wrong));
        let query = select.column(what, Ident::new("wrong")).sql();
        let reads = vec![self.touched()];
        Step::Check {
            query,
            skip_if_empty: reads.clone(),
            reads,
        }
    }

    /// Brings the table up to date with the touched groups.
    fn store(&self, skip_if_empty: Vec<Ident>) -> Step {
        let (n, parts) = (Ident::new("n"), self.part_names("p"));
        let mut changed = vec![sql!("m IS NULL"), sql!("n <> m")];
        if !parts.is_empty() {
            changed.push(images_differ(&parts, &self.part_names("q")));
        }
        let names: Vec<Ident> = self
            .keys()
            .into_iter()
            .chain([n.clone()])
            .chain(parts.clone())
            .collect();
        let source = super::render::named(
            names.clone(),
            From::Enr {
                name: self.touched(),
                alias: None,
            },
        );
        let source = Query::from(source.filter(sql!("({})", Sql::any(changed))));
        let set = |names: Vec<Ident>| {
            names
                .iter()
                .cloned()
                .zip(of("t", &names))
                .collect::<Vec<_>>()
        };
        let update = Matched::Update {
            condition: None,
            set: set([vec![n], parts].concat()),
        };
        let insert = |condition| Matched::Insert {
            condition,
            columns: set(names.clone()),
        };
        let when = if self.is_grand() {
            vec![update, insert(None)]
        } else {
            let gone = Matched::Delete {
                condition: Some(sql!("t.n = 0")),
            };
            vec![gone, update, insert(Some(sql!("t.n > 0")))]
        };
        let on = same_key(
            &self.key_cols(),
            &of("s", &self.keys()),
            &of("t", &self.keys()),
        );
        let merge = Merge {
            table: self.table.clone(),
            alias: Ident::new("s"),
            source: source.aliased("t", names),
            on,
            when,
        };
        Step::Modify {
            sql: merge.sql(),
            reads: vec![self.touched()],
            skip_if_empty,
            expect: None,
        }
    }

    /// Computes all groups anew and stores the differences.
    pub fn recompute(&self, catalog: &Catalog) -> Vec<Step> {
        let names: Vec<Ident> = self
            .keys()
            .into_iter()
            .chain([Ident::new("n")])
            .chain(self.part_names("p"))
            .collect();
        let fresh = Query::from(self.groups(catalog)).aliased("g", names);
        let state = From::Table {
            name: self.table.clone(),
            only: false,
            alias: Some(Ident::new("s")),
        };
        let (g, s) = (of("g", &self.keys()), of("s", &self.keys()));
        let on = Sql::all(same_key(&self.key_cols(), &s, &g));
        let kind = if self.is_grand() {
            JoinType::Left
        } else {
            JoinType::Full
        };
        let keys = g
            .iter()
            .zip(&s)
            .map(|(g, s)| sql!("CASE WHEN s.n IS NOT NULL THEN {} ELSE {} END", s, g));
        let select = Select::from(fresh.join(kind, state, on)).columns(keys.zip(self.keys()));
        let select = select.column("coalesce(g.n, 0)", Ident::new("n"));
        let select = select.columns(
            of("g", &self.part_names("p"))
                .into_iter()
                .zip(self.part_names("p")),
        );
        let select = select.column("s.n", Ident::new("m"));
        let select = select.columns(
            of("s", &self.part_names("p"))
                .into_iter()
                .zip(self.part_names("q")),
        );
        let touch = Step::Stage {
            name: self.touched(),
            query: select.sql(),
            reads: Vec::new(),
            skip_if_empty: Vec::new(),
        };
        vec![touch, self.store(vec![self.touched()])]
    }
}

fn column_type(ty: &Sql, collation: Option<&Sql>) -> Sql {
    match collation {
        Some(collation) => sql!("{} COLLATE {}", ty, collation),
        None => ty.clone(),
    }
}
