//! Subqueries that depend on the row outside in any way: LATERAL ones, and those whose dependence is no plain condition.
//!
//! The subquery is computed for all rows outside at once. Its *domain* is the distinct values of the columns outside
//! that it reads; the subquery is mapped as if the domain were one more table of its FROM, and keeps the domain's
//! columns in front of its own through grouping, DISTINCT and set operations:
//!
//! ```text
//! L ⋈dependent S(L)  = L ⋈ (D ⋈ S(D)) on D's columns,  D = distinct π(L)
//! ```
//!
//! Of values that are equal but look different the subquery may make different things, so for such columns the domain has a
//! further one: the value as it looks.

use super::group_value::Correlation;
use super::node::Node;
use super::{Analyzer, Frame, Mapped, opaque};
use pgtrickle_engine::ir::{Col, Conjunct, Equality, JoinKind, Rel, Scalar, Ty};
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::Sql;
use pgtrickle_pg::expr::OuterColumn;
use pgtrickle_pg::query::Query;
use std::rc::Rc;

/// The columns outside that a query reads, each combination once.
pub(super) struct Domain {
    pub rel: Rel,
    /// Which columns they are, seen from the query.
    pub ids: Vec<OuterColumn>,
}

impl Domain {
    /// The same domain, seen from a query inside that query.
    pub(super) fn inside(&self) -> Rc<Domain> {
        let deeper = |id: &OuterColumn| OuterColumn { levels_up: id.levels_up + 1, ..*id };
        Rc::new(Domain { rel: self.rel.clone(), ids: self.ids.iter().map(deeper).collect() })
    }

    pub(super) fn width(&self) -> usize {
        self.ids.len()
    }

    /// A node with the domain's columns only.
    pub(super) fn node<'q>(&self) -> Node<'q> {
        let mut node = Node::new(self.rel.clone(), []);
        node.outer = self.ids.iter().copied().enumerate().map(|(at, id)| (id, at)).collect();
        node
    }
}

/// A subquery computed for its domain: the domain's columns, then its own; and where the former are outside.
pub(super) struct Dependent {
    pub rel: Rel,
    pub outside: Vec<usize>,
    /// How many of the former, the last, are how the values outside look.
    looks: usize,
}

/// Stands for how a column's values look. There are no system columns with such numbers.
const LOOK: i16 = -1000;

/// How a column's value looks: its bytes.
fn look(at: usize) -> Sql {
    sql!("pgtrickle.row_image({})", Sql::column(at))
}

impl Dependent {
    /// The conditions that join it to the row outside.
    pub(super) fn on(&self, outer: &[Col]) -> Vec<Conjunct> {
        let cols = self.rel.cols();
        let (pairs, values) = (self.outside.iter().enumerate(), self.outside.len() - self.looks);
        pairs
            .map(|(right, &left)| match right < values {
                true => same(left, &outer[left], outer.len(), right, &cols[right]),
                false => looks_like(left, outer.len() + right),
            })
            .collect()
    }

    /// How its groups by the domain's columns hang on the row outside.
    pub(super) fn correlation(&self, outer: &[Col]) -> Correlation {
        let cols = self.rel.cols();
        let keys = (0..self.outside.len()).map(|i| Scalar::column(i, &cols[i])).collect();
        Correlation { keys, on: self.on(outer) }
    }
}

/// Whether a left column's value looks like what a right column says.
fn looks_like(left: usize, right: usize) -> Conjunct {
    let text = sql!("({} = {})", look(left), Sql::column(right));
    let condition = Scalar { sql: text, ..Scalar::deparsed("", vec![left, right], Ty::new("boolean"), true) };
    Conjunct { condition, equi: None }
}

/// Equality of a left and a right column, where NULL equals NULL.
pub(super) fn same(left: usize, l: &Col, width: usize, right: usize, r: &Col) -> Conjunct {
    let never_null = l.not_null && r.not_null;
    let (a, b) = (Sql::column(left), Sql::column(width + right));
    let equal = l.ty.equality_operator.clone().unwrap_or_else(|| Sql::text("="));
    let text = match (never_null, l.ty.equality_operator.is_some()) {
        (true, _) => sql!("({} {} {})", a, equal, b),
        (false, false) => sql!("({} IS NOT DISTINCT FROM {})", a, b),
        (false, true) => {
            let null = "IS NOT DISTINCT FROM NULL";
            sql!("(({} {} {}) OR ({} {} AND {} {}))", a, equal, b, a, null, b, null)
        }
    };
    let read = vec![left, width + right];
    Conjunct {
        condition: Scalar { sql: text, ..Scalar::deparsed("", read, Ty::new("boolean"), never_null) },
        equi: never_null.then_some((left, right)),
    }
}

impl<'q> Analyzer<'q> {
    /// A subquery (seen from which `outer` is one level up) for all rows of `outer`.
    pub(super) fn dependent(
        &self,
        frame: &Frame<'_, 'q>,
        outer: &Node<'q>,
        query: Query<'q>,
        wanted: &[usize],
    ) -> Mapped<Dependent> {
        self.dependent_on(frame, outer, query, &query.outer_columns(), wanted)
    }

    /// The same, with these columns in the domain.
    pub(super) fn dependent_on(
        &self,
        frame: &Frame<'_, 'q>,
        outer: &Node<'q>,
        query: Query<'q>,
        ids: &[OuterColumn],
        wanted: &[usize],
    ) -> Mapped<Dependent> {
        let mut outside = Vec::new();
        let mut columns = Vec::new();
        for id in ids {
            let Some(at) = outer.find_outer_column(*id) else {
                return opaque("a subquery refers to a column outside that is not among its inputs");
            };
            if outer.cols[at].ty.equality == Equality::None {
                return opaque("a subquery depends on a column whose type has no equality");
            }
            outside.push(at);
            columns.push(Scalar::column(at, &outer.cols[at]));
        }
        if columns.is_empty() {
            return Ok(Dependent { rel: self.query(&frame.inside(query), wanted)?, outside, looks: 0 });
        }
        let mut all = ids.to_vec();
        for (id, at) in ids.iter().zip(outside.clone()).filter(|(_, at)| !outer.cols[*at].ty.is_exact()) {
            all.push(OuterColumn { column: LOOK - id.column, ..*id });
            outside.push(at);
            columns.push(Scalar { sql: look(at), ..Scalar::deparsed("", vec![at], Ty::new("bytea"), true) });
        }
        let rel = outer.rel.clone().map(columns)?.distinct()?;
        let domain = Rc::new(Domain { rel, ids: all });
        let within = Frame { query, around: Some(frame), domain: Some(domain) };
        Ok(Dependent { rel: self.query(&within, wanted)?, looks: outside.len() - ids.len(), outside })
    }

    /// Joins the domain to a node of a query that has one, unless it is there already.
    pub(super) fn with_domain(&self, frame: &Frame<'_, 'q>, node: Node<'q>) -> Mapped<Node<'q>> {
        match &frame.domain {
            Some(domain) if node.outer.is_empty() => self.join(JoinKind::Inner, domain.node(), node, &[]),
            _ => Ok(node),
        }
    }

    /// The conditions under which two nodes with domain columns belong to the same row outside.
    pub(super) fn same_domain(&self, left: &Node<'q>, right: &Node<'q>) -> Vec<Conjunct> {
        let width = left.width();
        let shared = right.outer.iter().filter_map(|(id, r)| Some((*left.outer.get(id)?, *r)));
        shared.map(|(l, r)| same(l, &left.cols[l], width, r, &right.cols[r])).collect()
    }
}
