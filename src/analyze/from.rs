//! FROM and WHERE: entries of the range table, joined.
//!
//! Conditions of WHERE and of inner joins mean the same, so they are collected and each is put as deep as the columns
//! that it reads allow; inputs are joined in an order that follows the conditions, to leave no product that a
//! condition could have avoided.
//!
//! ```text
//! L RIGHT JOIN R = R LEFT JOIN L
//! L FULL JOIN R  = L LEFT JOIN R ⊎ (R anti L) with NULLs for L
//! ```

use super::lateral::lateral;
use super::node::{Condition, Needed, Node, Sides, conditions, take};
use super::scalar::Row;
use super::sources::TABLE_OID;
use super::{Analyzer, Frame, Mapped, Stop, opaque};
use pgrx::pg_sys::{InvalidOid, RECORDOID};
use pgtrickle_engine::ir::{Col, JoinKind, Rel, Scalar};
use pgtrickle_engine::lower::full_join;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::{Ident, Sql};
use pgtrickle_pg::expr::Expr;
use pgtrickle_pg::query::{Entry, From, JoinKind as SqlJoin, Query};
use pgtrickle_pg::types::TypeRef;
use std::collections::BTreeSet;

/// Items of FROM that are joined inwardly, and all conditions on them.
struct InnerJoin<'q> {
    items: Vec<From<'q>>,
    conditions: Vec<Condition<'q>>,
}

impl<'q> InnerJoin<'q> {
    fn new(items: Vec<From<'q>>, mut conditions: Vec<Condition<'q>>) -> Self {
        let mut flat = Vec::new();
        items.into_iter().for_each(|item| flatten(item, &mut flat, &mut conditions));
        let known = |expr: &Expr<'q>| conditions.iter().any(|c| c.expr.equals(*expr));
        let implied: Vec<Expr<'q>> = conditions.iter().flat_map(implied).filter(|expr| !known(expr)).collect();
        conditions.extend(self::conditions(implied));
        InnerJoin { items: flat, conditions }
    }
}

/// What a condition over several entries says of each alone, which filters it before it is joined.
fn implied<'q>(condition: &Condition<'q>) -> Vec<Expr<'q>> {
    let several = condition.entries.len() > 1 && !condition.nested && !condition.correlated;
    let entries = condition.entries.iter().filter(|_| several);
    entries.filter_map(|entry| condition.expr.implied(*entry)).collect()
}

/// Takes inner joins apart.
fn flatten<'q>(item: From<'q>, items: &mut Vec<From<'q>>, found: &mut Vec<Condition<'q>>) {
    match item {
        From::Join { kind: SqlJoin::Inner, left, right, on } => {
            flatten(*left, items, found);
            flatten(*right, items, found);
            found.extend(conditions(on));
        }
        other => items.push(other),
    }
}

/// An outer join in which something is computed from the items before it takes these into its left side:
///
/// ```text
/// A ⋈ (f(A) ⟕ B) = (A ⋈ f(A)) ⟕ B
/// ```
fn with_dependent_joins<'q>(frame: &Frame<'_, 'q>, items: Vec<From<'q>>) -> Vec<From<'q>> {
    let inner =
        |left, right| From::Join { kind: SqlJoin::Inner, left: Box::new(left), right: Box::new(right), on: None };
    let mut before: Vec<From<'q>> = Vec::new();
    for item in items {
        let own = entries(&item);
        let depends = |entry: &usize| lateral(frame, *entry).is_some_and(|l| !l.reads.is_subset(&own));
        match item {
            From::Join { kind: SqlJoin::Left, left, right, on } if own.iter().any(depends) => {
                let left = before.drain(..).chain([*left]).reduce(inner).expect("the left side at least");
                before.push(From::Join { kind: SqlJoin::Left, left: Box::new(left), right, on });
            }
            other => before.push(other),
        }
    }
    before
}

/// Takes out the conditions with subqueries if some input is filtered by a plain one: their change is then computed for
/// the rows that the join with that input leaves, instead of for all.
fn postponed<'q>(items: &[From<'q>], conditions: &mut Vec<Condition<'q>>) -> Vec<Condition<'q>> {
    let filters = |c: &Condition<'q>| !c.nested && !c.correlated && c.entries.len() == 1;
    if items.len() < 2 || !conditions.iter().any(filters) {
        return Vec::new();
    }
    let (later, now) = std::mem::take(conditions).into_iter().partition(|c| c.nested && !c.correlated);
    *conditions = now;
    later
}

/// The entries that an item joins.
fn entries(item: &From<'_>) -> BTreeSet<usize> {
    match item {
        From::Entry(number) => BTreeSet::from([*number]),
        From::Join { left, right, .. } => entries(left).union(&entries(right)).copied().collect(),
    }
}

impl<'q> Analyzer<'q> {
    /// FROM and WHERE of a query, with the columns that it needs. Nothing in it may depend on the query around.
    pub(super) fn from_where(&self, frame: &Frame<'_, 'q>, needed: &Needed) -> Mapped<Node<'q>> {
        let all = conditions(frame.query.filter());
        self.inner_join(frame, InnerJoin::new(frame.query.from(), all), needed)
    }

    /// The same of a subquery, without those conditions that depend on the query around; they come beside.
    pub(super) fn from_where_within(
        &self,
        frame: &Frame<'_, 'q>,
        needed: &Needed,
    ) -> Mapped<(Node<'q>, Vec<Condition<'q>>)> {
        let mut join = InnerJoin::new(frame.query.from(), conditions(frame.query.filter()));
        let (correlated, own) = join.conditions.into_iter().partition(|c| c.correlated);
        join.conditions = own;
        Ok((self.inner_join(frame, join, needed)?, correlated))
    }

    /// Joins the items, one after the other, each as soon as a condition connects it with those before.
    fn inner_join(&self, frame: &Frame<'_, 'q>, join: InnerJoin<'q>, needed: &Needed) -> Mapped<Node<'q>> {
        let InnerJoin { items, mut conditions } = join;
        let items = with_dependent_joins(frame, items);
        let postponed = postponed(&items, &mut conditions);
        let (mut rest, mut laterals) = (Vec::new(), Vec::new());
        for item in items {
            let members = entries(&item);
            if let From::Entry(number) = item
                && let Some(lateral) = lateral(frame, number)
            {
                laterals.push(lateral);
                continue;
            }
            let own = take(&mut conditions, &members, false);
            if let Some(node) = self.item(frame, item, needed, own)? {
                rest.push((members, node));
            }
        }
        let dependent = rest.iter().position(|(_, node): &(BTreeSet<usize>, Node<'q>)| !node.outer.is_empty());
        let (mut members, mut joined) = match &frame.domain {
            // What depends on the row outside has the domain's columns.
            Some(domain) => match dependent {
                Some(first) => rest.remove(first),
                None => (BTreeSet::new(), domain.node()),
            },
            None if rest.is_empty() => (BTreeSet::new(), Node::new(Rel::values(vec![vec![]], vec![])?, [])),
            None => rest.remove(0),
        };
        let domain = frame.domain.is_some();
        while !(rest.is_empty() && laterals.is_empty()) {
            let next = rest.iter().position(|(other, _)| connected(&members, other, &conditions));
            // A lateral one may bring the columns that connect the next, so it goes before a product.
            let ready = laterals.iter().position(|lateral| lateral.reads.is_subset(&members) || rest.is_empty());
            if let (None, Some(ready)) = (next, ready) {
                let lateral = laterals.remove(ready);
                members.insert(lateral.number);
                joined = self.lateral_join(frame, JoinKind::Inner, joined, &lateral, needed, &[])?;
                let own = take(&mut conditions, &members, domain);
                joined = self.filtered(frame, joined, own)?;
                continue;
            }
            let (other, right) = rest.remove(next.unwrap_or(0));
            members.extend(other);
            let (nested, on): (Vec<_>, _) = take(&mut conditions, &members, domain).into_iter().partition(|c| c.nested);
            joined = self.join(JoinKind::Inner, joined, right, &on)?;
            joined = self.filtered(frame, joined, nested)?;
        }
        conditions.extend(postponed);
        self.filtered(frame, joined, conditions)
    }

    /// One item, with the conditions that read nothing else; none if it is the single empty row of a SELECT without
    /// FROM.
    fn item(
        &self,
        frame: &Frame<'_, 'q>,
        item: From<'q>,
        needed: &Needed,
        own: Vec<Condition<'q>>,
    ) -> Mapped<Option<Node<'q>>> {
        let node = match item {
            From::Entry(number) => match self.entry(frame, number, needed)? {
                Some(node) => self.filtered(frame, node, own)?,
                None => return Ok(None),
            },
            From::Join { kind: SqlJoin::Left, left, right, on } => {
                self.left_join(frame, *left, *right, conditions(on), needed, own)?
            }
            From::Join { kind: SqlJoin::Right, left, right, on } => {
                self.left_join(frame, *right, *left, conditions(on), needed, own)?
            }
            From::Join { kind: SqlJoin::Full, left, right, on } => {
                let left = self.side(frame, *left, needed, Vec::new())?;
                let right = self.side(frame, *right, needed, Vec::new())?;
                let on = conditions(on);
                if on.iter().any(|c| c.correlated) || !left.outer.is_empty() || !right.outer.is_empty() {
                    return opaque("a FULL JOIN in a subquery depends on the row outside");
                }
                let full = self.full_join(left, right, &on)?;
                self.filtered(frame, full, own)?
            }
            inner => self.inner_join(frame, InnerJoin::new(vec![inner], own), needed)?,
        };
        Ok(Some(node))
    }

    fn side(
        &self,
        frame: &Frame<'_, 'q>,
        item: From<'q>,
        needed: &Needed,
        own: Vec<Condition<'q>>,
    ) -> Mapped<Node<'q>> {
        match self.item(frame, item, needed, own)? {
            Some(node) => Ok(node),
            None => opaque("an outer join has no table on one side"),
        }
    }

    /// Conditions on the preserved side filter it before the join, as do terms of ON that read the other side only.
    fn left_join(
        &self,
        frame: &Frame<'_, 'q>,
        left: From<'q>,
        right: From<'q>,
        mut on: Vec<Condition<'q>>,
        needed: &Needed,
        mut own: Vec<Condition<'q>>,
    ) -> Mapped<Node<'q>> {
        let left_own = take(&mut own, &entries(&left), false);
        let mut left = self.side(frame, left, needed, left_own)?;
        if let From::Entry(number) = right
            && let Some(lateral) = lateral(frame, number)
        {
            if lateral.reads_outer || on.iter().any(|c| c.correlated) {
                left = self.with_domain(frame, left)?;
            }
            for condition in on.iter().filter(|c| c.nested) {
                left = self.with_values(frame, left, &[condition.expr])?;
            }
            let joined = self.lateral_join(frame, JoinKind::Left, left, &lateral, needed, &on)?;
            return self.filtered(frame, joined, own);
        }
        let right_own = take(&mut on, &entries(&right), false);
        let right = self.side(frame, right, needed, right_own)?;
        if on.iter().any(|c| c.correlated) || !right.outer.is_empty() {
            left = self.with_domain(frame, left)?;
        }
        for condition in on.iter().filter(|c| c.nested) {
            left = self.with_values(frame, left, &[condition.expr])?;
        }
        let joined = self.join(JoinKind::Left, left, right, &on)?;
        self.filtered(frame, joined, own)
    }

    fn full_join(&self, left: Node<'q>, right: Node<'q>, on: &[Condition<'q>]) -> Mapped<Node<'q>> {
        let both = left.beside(&right);
        let swapped = right.beside(&left);
        let width = left.width();
        let sides = Sides { cols: &both.cols, width, left: &|e| left.find(e), right: &|e| right.find(e) };
        let unmatched_sides =
            Sides { cols: &swapped.cols, width: right.width(), left: &|e| right.find(e), right: &|e| left.find(e) };
        let (straight, reverse) = (self.conjuncts(on, &sides)?, self.conjuncts(on, &unmatched_sides)?);
        Ok(both.become_rel(full_join(left.rel, right.rel, straight, reverse)?))
    }

    /// The rows for which the conditions hold.
    pub(super) fn filtered(
        &self,
        frame: &Frame<'_, 'q>,
        node: Node<'q>,
        conditions: Vec<Condition<'q>>,
    ) -> Mapped<Node<'q>> {
        let (nested, plain): (Vec<_>, Vec<_>) = conditions.into_iter().partition(|c| c.nested);
        let node = self.filtered_plainly(node, &plain)?;
        nested.into_iter().try_fold(node, |node, condition| self.filtered_by_subquery(frame, node, condition))
    }

    pub(super) fn filtered_plainly(&self, node: Node<'q>, conditions: &[Condition<'q>]) -> Mapped<Node<'q>> {
        if conditions.is_empty() {
            return Ok(node);
        }
        let row = Row { cols: &node.cols, find: &|expr| node.find(expr) };
        let predicates = conditions.iter().map(|c| self.scalar(c.expr, &row)).collect::<Mapped<Vec<_>>>()?;
        let rel = node.rel.clone().filter(predicates)?;
        Ok(node.become_rel(rel))
    }

    /// An entry of the range table; none if it is the single empty row of a SELECT without FROM.
    fn entry(&self, frame: &Frame<'_, 'q>, number: usize, needed: &Needed) -> Mapped<Option<Node<'q>>> {
        let wanted: Vec<i16> = needed.iter().filter(|id| id.0 == number).map(|id| id.1).collect();
        if wanted.iter().any(|column| *column < 0 && *column != TABLE_OID) {
            return opaque("it uses a system column");
        }
        if wanted.contains(&0) && !matches!(frame.query.entry(number), Entry::Relation(_) | Entry::Functions(_)) {
            let node = self.entry(frame, number, &self.columns_of_row(frame, number, needed))?;
            return node.map(|node| self.with_row(frame, node, number)).transpose();
        }
        let positions: Vec<usize> = wanted.iter().map(|&column| column as usize).collect();
        let rel = match frame.query.entry(number) {
            Entry::Relation(relation) => self.scan(&relation, &wanted)?,
            Entry::Subquery { query, .. } => {
                if lateral(frame, number).is_some() {
                    return opaque("a LATERAL subquery depends on a table that is joined later");
                }
                let node = self.subquery(frame, query, number, &wanted);
                let nothing = Node::new(Rel::values(vec![vec![]], vec![])?, []);
                return match (node, self.beside_subquery(&nothing, (number, query), None)) {
                    (Err(Stop::Opaque(_)), Ok(node)) => Ok(Some(node)),
                    (node, _) => node.map(Some),
                };
            }
            Entry::Values { rows, types, lateral } => {
                if lateral {
                    return opaque("it has a LATERAL VALUES list");
                }
                self.values(&rows, &types, &positions)?
            }
            Entry::Cte { name, recursive: true, .. } => {
                return self.recursive_reference(frame, number, &name, &positions).map(Some);
            }
            Entry::Cte { name, levels_up, .. } => {
                // Also one that depends on nothing may have the domain: all that reads a recursion has it.
                let depends = |query: Query<'q>| query.is_correlated() || frame.inside(query).domain.is_some();
                let own = frame.query.cte(&name).filter(|cte| levels_up == 0 && depends(cte.query));
                match own {
                    Some(cte) if cte.recursive => {
                        let rel = self.recursive(frame, &name, cte, &positions)?;
                        return Ok(Some(self.in_domain(frame, rel, number, &positions)));
                    }
                    Some(cte) => return self.subquery(frame, cte.query, number, &wanted).map(Some),
                    None => self.cte(frame, &name, levels_up, &positions)?,
                }
            }
            Entry::Functions(functions) => {
                if functions.is_lateral() {
                    return opaque("a function in FROM depends on a table that is joined later");
                }
                return self.functions(frame, number, &functions, needed).map(Some);
            }
            Entry::Result => return Ok(None),
            Entry::Other => return opaque("it reads something in FROM that is not a table"),
        };
        Ok(Some(Node::new(rel, wanted.iter().map(|&column| (number, column)))))
    }

    /// What is needed, with all columns of an entry for its whole row.
    pub(super) fn columns_of_row(&self, frame: &Frame<'_, 'q>, number: usize, needed: &Needed) -> Needed {
        let mut all: Needed = needed.iter().copied().filter(|id| *id != (number, 0)).collect();
        all.extend((1..=frame.query.entry_names(number).len()).map(|column| (number, column as i16)));
        all
    }

    /// The node with one more column, the whole row of an entry that is no table: its columns have names in it.
    pub(super) fn with_row(&self, frame: &Frame<'_, 'q>, node: Node<'q>, number: usize) -> Mapped<Node<'q>> {
        let mut read = Vec::new();
        let mut items = Vec::new();
        for (i, name) in frame.query.entry_names(number).iter().enumerate() {
            let Some(&at) = node.layout.get(&(number, i as i16 + 1)) else {
                return opaque("it uses a whole row of a subquery as a value");
            };
            read.push(at);
            items.push(sql!("{} AS {}", Sql::column(at), Ident::new(name)));
        }
        let text = sql!("(SELECT r FROM (SELECT {}) AS r)", Sql::list(items));
        let ty = TypeRef { oid: RECORDOID, typmod: -1, collation: InvalidOid };
        let row = Scalar { sql: text, ..Scalar::deparsed("", read, self.types.ty(ty), true) };
        let mut columns: Vec<Scalar> = node.cols.iter().enumerate().map(|(i, col)| Scalar::column(i, col)).collect();
        columns.push(row);
        let (at, rel) = (node.width(), node.rel.clone().map(columns)?);
        let mut node = node.become_rel(rel);
        node.layout.insert((number, 0), at);
        Ok(node)
    }

    /// A subquery in FROM; if it depends on the query around, it brings that domain's columns along.
    fn subquery(&self, frame: &Frame<'_, 'q>, query: Query<'q>, number: usize, wanted: &[i16]) -> Mapped<Node<'q>> {
        let within = frame.inside(query);
        let positions: Vec<usize> = wanted.iter().map(|&column| column as usize).collect();
        let mut node = Node::new(self.query(&within, &positions)?, []);
        let offset = within.offset();
        node.layout = wanted.iter().enumerate().map(|(i, &column)| ((number, column), offset + i)).collect();
        if within.domain.is_some() {
            node.outer = frame.domain.as_ref().map(|domain| domain.node().outer).unwrap_or_default();
        }
        Ok(node)
    }

    /// A query of WITH that depends on nothing outside.
    fn cte(&self, frame: &Frame<'_, 'q>, name: &str, levels_up: u32, wanted: &[usize]) -> Mapped<Rel> {
        let found = frame.up(levels_up).and_then(|home| Some((home, home.query.cte(name)?)));
        match found {
            Some((home, cte)) if cte.query.is_correlated() || home.inside(cte.query).domain.is_some() => {
                opaque("a query of WITH depends on the row outside")
            }
            Some((home, cte)) if cte.recursive => self.recursive(home, name, cte, wanted),
            Some((home, cte)) => self.query(&home.inside(cte.query), wanted),
            None => opaque(format!("a query of WITH, \"{name}\", is not found")),
        }
    }

    fn values(&self, rows: &[Vec<Expr<'q>>], types: &[TypeRef], wanted: &[usize]) -> Mapped<Rel> {
        let none = Row { cols: &[], find: &|_| None };
        let rows: Vec<Vec<Scalar>> = rows
            .iter()
            .map(|row| wanted.iter().map(|&n| self.scalar(row[n - 1], &none)).collect())
            .collect::<Mapped<_>>()?;
        let cols = wanted
            .iter()
            .enumerate()
            .map(|(i, &n)| Col { ty: self.types.ty(types[n - 1]), not_null: rows.iter().all(|row| row[i].not_null) })
            .collect();
        Ok(Rel::values(rows, cols)?)
    }
}

/// Whether some condition reads both, and nothing else that is not joined yet.
fn connected(left: &BTreeSet<usize>, right: &BTreeSet<usize>, conditions: &[Condition<'_>]) -> bool {
    conditions.iter().any(|c| {
        c.entries.iter().all(|entry| left.contains(entry) || right.contains(entry))
            && (c.correlated || !c.entries.is_disjoint(left))
            && !c.entries.is_disjoint(right)
    })
}
