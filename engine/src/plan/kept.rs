//! Rows kept in a table as they are, the stream table's and those of some stages: netting their change, finding them,
//! applying the change to them.
//!
//! ```text
//! Δrows = Σ weights per identical row, where not 0
//! ```
//!
//! A stream table's column names are any identifiers; they appear only in the outermost statements.

use super::matching::{hashed, image_hash, images_agree, images_differ, of, row_hash, row_image, same_key};
use super::render::named;
use super::stage::{Place, column_type};
use super::{Catalog, columns, weighted_columns};
use crate::ir::{Col, Equality, Ty};
use crate::program::{Identity, Program, StateTable, Step, Target};
use crate::sql;
use crate::sql::{
    CreateIndex, CreateTable, Delete, From, Ident, Insert, JoinType, Matched, Merge, QualifiedName, Query, Select, Sql,
};
use crate::zset::Zset;

/// A table of rows.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub table: QualifiedName,
    pub names: Vec<Ident>,
    pub cols: Vec<Col>,
    pub identity: Identity,
    /// The ephemeral relation with their netted change: `c1`..`cn` and `w`, and whatever else; rows of weight 0 are passed
    /// over.
    pub change: Ident,
}

impl Kept {
    /// The stream table of this target.
    pub fn root(target: &Target, columns: &[(Ident, Ty)], cols: Vec<Col>, identity: Identity) -> Kept {
        let names = columns.iter().map(|(name, _)| name.clone()).collect();
        Kept { table: target.table.clone(), names, cols, identity, change: Program::root_delta() }
    }

    /// The hidden table of a stage that keeps its rows as they are.
    pub fn stage(place: &Place, cols: Vec<Col>, key: Option<Vec<usize>>) -> Kept {
        let identity = key.map_or(Identity::Bag, |columns| Identity::Key { columns });
        let names = columns(cols.len());
        Kept { table: place.table.clone(), names, cols, identity, change: place.relation("pgt_t") }
    }

    /// That table, with the index by which rows are found.
    pub fn state_table(&self) -> StateTable {
        let columns = self.names.iter().cloned().zip(self.cols.iter().map(|col| column_type(&col.ty))).collect();
        let table = CreateTable { name: self.table.clone(), columns, with: vec![sql!("fillfactor = 80")] };
        StateTable { name: self.table.clone(), create: table.sql(), indexes: self.index().into_iter().collect() }
    }

    /// How its rows are found.
    pub fn explain(&self) -> String {
        match self.key() {
            Some(([], _)) => "a single row".to_owned(),
            Some((columns, cols)) => {
                let names: Vec<&str> = columns.iter().map(|c| self.names[*c].as_str()).collect();
                let how = if hashed(&cols) { "the hash of the key" } else { "the key" };
                format!("rows found by {how} ({})", names.join(", "))
            }
            None => "rows found by their image".to_owned(),
        }
    }

    fn arity(&self) -> usize {
        self.cols.len()
    }

    fn key(&self) -> Option<(&[usize], Vec<Col>)> {
        match &self.identity {
            Identity::Key { columns } => Some((columns, columns.iter().map(|c| self.cols[*c].clone()).collect())),
            Identity::Bag => None,
        }
    }

    /// The index by which rows are found.
    pub fn index(&self) -> Option<Sql> {
        let (unique, expressions) = match self.key() {
            Some((columns, cols)) => {
                let names: Vec<Sql> = columns.iter().map(|c| Sql::from(&self.names[*c])).collect();
                let hashed = hashed(&cols);
                (!hashed, if hashed { vec![row_hash(&names)] } else { names })
            }
            None if self.names.is_empty() => return None,
            None => (false, vec![image_hash(&self.names)]),
        };
        let index = CreateIndex { table: self.table.clone(), unique, expressions };
        (!index.expressions.is_empty()).then(|| index.sql())
    }

    /// The first fill.
    pub fn fill(&self, query: Query) -> Step {
        let from = query.aliased("d", columns(self.arity()));
        let select = named(columns(self.arity()), from);
        let insert = Insert { table: self.table.clone(), columns: self.names.clone(), query: select.into() };
        Step::Modify { sql: insert.sql(), reads: Vec::new(), skip_if_empty: Vec::new(), expect: None }
    }

    /// Stages the change of the root and applies it.
    pub fn refresh(&self, catalog: &Catalog, change: &Zset) -> Vec<Step> {
        let reads = catalog.enrs(&change.staged());
        let query = if self.is_netted(change) { catalog.zset(change).sql() } else { self.netted(catalog.zset(change)) };
        let stage = Step::Stage { name: self.change.clone(), query, skip_if_empty: reads.clone(), reads };
        std::iter::once(stage).chain(self.apply()).collect()
    }

    /// Compares the query's new state with what is stored and applies the difference.
    pub fn recompute(&self, query: Query) -> Vec<Step> {
        let query = self.difference(query, self.stored());
        let stage = Step::Stage { name: self.change.clone(), query, reads: Vec::new(), skip_if_empty: Vec::new() };
        std::iter::once(stage).chain(self.apply()).collect()
    }

    /// The same where another program has stored the rows, which need not have this one's key: each once, and without NULL.
    pub fn adopt(&self, query: Query) -> Vec<Step> {
        Kept { identity: Identity::Bag, ..self.clone() }.recompute(query)
    }

    /// All rows as they are stored, `c1`..`cn`.
    pub fn stored(&self) -> Select {
        let stored = Select::from(From::Table { name: self.table.clone(), only: true, alias: None });
        stored.columns(self.names.iter().map(Sql::from).zip(columns(self.arity())))
    }

    /// What was staged, `c1`..`cn` and `w`.
    pub fn staged_change(&self) -> Query {
        let change = From::Enr { name: self.change.clone(), alias: None };
        named(weighted_columns(self.arity()), change).filter("w <> 0").into()
    }

    /// The netted change from old rows to new ones.
    pub fn difference(&self, new: Query, old: Select) -> Sql {
        match self.key() {
            Some((columns, cols)) => self.difference_by_key(new, old, columns, &cols),
            None => self.difference_of_bags(new, old),
        }
    }

    fn difference_of_bags(&self, new: Query, old: Select) -> Sql {
        let n = self.arity();
        let new = named(columns(n), new.aliased("d", columns(n))).column("1::bigint", Ident::new("w"));
        let old = old.column("(-1)::bigint", Ident::new("w"));
        self.netted(Query::UnionAll(vec![new.into(), old.into()]))
    }

    /// Each key's new row beside its stored row; where they differ, the one comes and the other goes.
    fn difference_by_key(&self, new: Query, old: Select, key: &[usize], key_cols: &[Col]) -> Sql {
        let n = self.arity();
        let key: Vec<Ident> = key.iter().map(|c| Ident::column(*c)).collect();
        let marked = |select: Select| Query::from(select.column("true", Ident::new("i1")));
        let new = marked(named(columns(n), new.aliased("d", columns(n)))).aliased("a", Vec::new());
        let old = marked(old).aliased("b", Vec::new());
        let on = Sql::all(same_key(key_cols, &of("a", &key), &of("b", &key)));
        let weights = Query::Values(vec![vec![sql!("1::bigint")], vec![sql!("(-1)::bigint")]]);
        let weights = weights.aliased("v", vec![Ident::new("w")]);
        let (a, b) = (of("a", &columns(n)), of("b", &columns(n)));
        let value = |(a, b): (&Sql, &Sql)| sql!("CASE WHEN v.w > 0 THEN {} ELSE {} END", a, b);
        let values: Vec<Sql> = a.iter().zip(&b).map(value).collect();
        let from = new.join(JoinType::Full, old, on).join(JoinType::Cross, weights, Sql::default());
        let select = Select::from(from).columns(values.into_iter().zip(columns(n))).column("v.w", Ident::new("w"));
        let differ = sql!("(a.i1 IS NULL OR b.i1 IS NULL OR {})", images_differ(&a, &b));
        select.filter(differ).filter("CASE WHEN v.w > 0 THEN a.i1 ELSE b.i1 END").sql()
    }

    /// A stage's own change has at most one old and one new row per key; what maps and filters them keeps it so.
    fn is_netted(&self, change: &Zset) -> bool {
        let one_stage = |mut change: &Zset| loop {
            match change {
                Zset::StageChange { .. } => return true,
                Zset::Map { input, .. } | Zset::Filter { input, .. } => change = input,
                _ => return false,
            }
        };
        self.key().is_some() && one_stage(change)
    }

    /// Identical rows in one, with their weights added up, where these do not cancel.
    pub fn netted(&self, change: Query) -> Sql {
        let n = self.arity();
        let mut summed = self.summed(change.aliased("d", weighted_columns(n)), &[Ident::new("w")]);
        if summed.distinct_on.is_empty() {
            summed.having = vec![sql!("sum(w::integer) <> 0")];
            return summed.sql();
        }
        named(weighted_columns(n), Query::from(summed).aliased("d", Vec::new())).filter("w <> 0").sql()
    }

    /// Identical rows in one, with the sums of some integers beside them. Rows are grouped by their columns where those
    /// have equality, and by their image where equal values may look different; rows with a column that cannot be
    /// compared at all by image alone.
    pub fn summed(&self, from: From, integers: &[Ident]) -> Select {
        let n = self.arity();
        let sums = integers.iter().map(|name| (sql!("sum({}::integer)", name), name.clone()));
        if self.cols.iter().any(|col| col.ty.equality == Equality::None) {
            let all = columns(n).into_iter().chain(integers.iter().cloned()).collect();
            let image = named(all, from).column(row_image(&columns(n)), Ident::new("i1"));
            let image = Query::from(image).aliased("d", Vec::new());
            let sums = sums.map(|(sum, name)| (sql!("{} OVER (PARTITION BY i1)", sum), name));
            let mut rows = named(columns(n), image).columns(sums);
            rows.distinct_on = vec![sql!("i1")];
            return rows;
        }
        let blurred = |(_, col): &(Ident, &Col)| !col.ty.is_exact();
        let inexact: Vec<Ident> =
            columns(n).into_iter().zip(&self.cols).filter(blurred).map(|(name, _)| name).collect();
        let mut select = named(columns(n), from).columns(sums).group_by_first(n);
        if !inexact.is_empty() {
            select.group_by.push(row_image(&inexact));
        }
        select
    }

    /// Brings the table up to date with the staged change.
    pub fn apply(&self) -> Vec<Step> {
        match self.key() {
            Some((columns, cols)) => vec![self.merge(columns, &cols)],
            None => vec![self.delete_copies(), self.insert_copies()],
        }
    }

    fn modify(&self, sql: Sql, expect: Option<Sql>) -> Step {
        let root = vec![self.change.clone()];
        Step::Modify { sql, reads: root.clone(), skip_if_empty: root, expect }
    }

    /// Per key the row that comes, else the row that goes.
    fn merge(&self, key: &[usize], key_cols: &[Col]) -> Step {
        let n = self.arity();
        let key_of = |alias| of(alias, &key.iter().map(|c| Ident::column(*c)).collect::<Vec<_>>());
        let root = |alias: &'static str| From::enr(&self.change, alias);
        let comes = named(weighted_columns(n), root("a")).filter("w > 0");
        let mut replaced = Select::from(root("a")).filter("a.w > 0");
        replaced.filter.extend(same_key(key_cols, &key_of("a"), &key_of("b")));
        let goes = named(weighted_columns(n), root("b")).filter("w < 0");
        let goes = goes.filter(sql!("NOT EXISTS ({})", replaced.sql()));
        let source = Query::UnionAll(vec![comes.into(), goes.into()]).aliased("d", weighted_columns(n));

        let target: Vec<Sql> = of("t", &key.iter().map(|c| self.names[*c].clone()).collect::<Vec<_>>());
        let all: Vec<(Ident, Sql)> = self.names.iter().cloned().zip(of("d", &columns(n))).collect();
        let fixed = |c: &usize| key.contains(c) && self.cols[*c].ty.is_exact();
        let set = all.iter().enumerate().filter(|(c, _)| !fixed(c)).map(|(_, set)| set.clone()).collect::<Vec<_>>();
        let mut when = vec![Matched::Delete { condition: Some(sql!("d.w < 0")) }];
        if !set.is_empty() {
            when.push(Matched::Update { condition: None, set });
        }
        when.push(Matched::Insert { condition: Some(sql!("d.w > 0")), columns: all });
        let on = same_key(key_cols, &target, &key_of("d"));
        let merge = Merge { table: self.table.clone(), alias: Ident::new("t"), source, on, when };
        self.modify(merge.sql(), None)
    }

    /// Of each row that goes, as many copies as its weight says.
    fn delete_copies(&self) -> Step {
        let n = self.arity();
        let goes = named(weighted_columns(n), From::enr(&self.change, "d")).filter("w < 0");
        let goes = Query::from(goes.column("row_number() OVER ()", Ident::new("i1"))).aliased("d", Vec::new());
        let (stored, gone) = (of("t", &self.names), of("d", &columns(n)));
        let mut on = vec![images_agree(&stored, &gone)];
        if n > 0 {
            on.insert(0, sql!("{} = {}", image_hash(&stored), image_hash(&gone)));
        }
        let target = From::Table { name: self.table.clone(), only: true, alias: Some(Ident::new("t")) };
        let copies = Select::from(goes.join(JoinType::Inner, target, Sql::all(on)))
            .column("t.ctid", Ident::new("i1"))
            .column("row_number() OVER (PARTITION BY d.i1)", Ident::new("i2"))
            .column("d.w", Ident::new("w"));
        let chosen = named(vec![Ident::new("i1")], Query::from(copies).aliased("d", Vec::new())).filter("i2 <= -w");
        let filter = vec![sql!("t.ctid = ANY (ARRAY({}))", chosen.sql())];
        let delete = Delete { table: self.table.clone(), alias: Ident::new("t"), filter };
        let number = sql!("coalesce(-sum(w::integer) FILTER (WHERE w < 0), 0)");
        let expect = Select::from(From::Enr { name: self.change.clone(), alias: None }).column(number, Ident::new("n"));
        self.modify(delete.sql(), Some(expect.sql()))
    }

    /// Of each row that comes, as many copies as its weight says.
    fn insert_copies(&self) -> Step {
        let copies = From::Rows { rows: sql!("generate_series(1, d.w)"), alias: sql!("i1") };
        let from = From::enr(&self.change, "d").join(JoinType::Cross, copies, Sql::default());
        let query = named(columns(self.arity()), from).filter("d.w > 0").into();
        let insert = Insert { table: self.table.clone(), columns: self.names.clone(), query };
        self.modify(insert.sql(), None)
    }
}
