//! What a test of the row outside against a subquery's rows comes to, where an expression uses it as a value.
//!
//! ```text
//! value of x op ANY(S), x op ALL(S)  = by how many rows of S make the test true, false or NULL
//! value of (x, y) op (S)             = value of (SELECT (x, y) op (s1, s2) FROM S)
//! ```

use super::dependent::Dependent;
use super::group_value::{GroupValue, Rows, count_where, first};
use super::node::Node;
use super::scalar::Row;
use super::{Analyzer, Frame, Mapped, map, opaque};
use pgtrickle_engine::ir::{Rel, Scalar, Ty};
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::Sql;
use pgtrickle_pg::expr::{Expr, OuterColumn, Shape, Sublink, SublinkKind};

impl<'q> Analyzer<'q> {
    /// IN, ANY or ALL as a value, which may be NULL: decided by how many rows make the test true, false or NULL.
    pub(super) fn with_truth(&self, frame: &Frame<'_, 'q>, outer: &Node<'q>, sublink: Sublink<'q>) -> Mapped<Rel> {
        let (dependent, test) = self.tests(frame, outer, sublink)?;
        let keyed = dependent.correlation(&outer.cols);
        let own = keyed.keys.len();
        let all = sublink.kind() == SublinkKind::All;
        let (decides, verdict) = if all { ("FALSE", "false") } else { ("TRUE", "true") };
        let otherwise = if all { "true" } else { "false" };
        let counted = |truth: &'static str| count_where(sql!("(({}) IS {})", test.sql, Sql::text(truth)), &test.cols);
        let groups = dependent.rel.aggregate(keyed.keys.clone(), vec![counted(decides), counted("UNKNOWN")])?;
        let text = sql!(
            "CASE WHEN {} > 0 THEN {} WHEN {} > 0 THEN NULL ELSE {} END",
            Sql::column(own),
            Sql::text(verdict),
            Sql::column(own + 1),
            Sql::text(otherwise)
        );
        let value = Scalar { sql: text, ..Scalar::deparsed("", vec![own, own + 1], Ty::new("boolean"), false) };
        let absent = (own > 0).then(|| Sql::text(otherwise));
        self.with_groups(outer, groups, &keyed, GroupValue { value, several: None, absent }, Rows::All)
    }

    /// A row compared with the only row of a subquery; NULL if that has none.
    pub(super) fn with_comparison(&self, frame: &Frame<'_, 'q>, outer: &Node<'q>, sublink: Sublink<'q>) -> Mapped<Rel> {
        let (dependent, test) = self.tests(frame, outer, sublink)?;
        let keyed = dependent.correlation(&outer.cols);
        let own = keyed.keys.len();
        let columns = keyed.keys.iter().cloned().chain([test]).collect();
        let tested = map(dependent.rel, columns)?;
        let aggs = vec![first(own, &tested.cols()[own], &Sql::text("")), super::aggregate::count()];
        let groups = tested.aggregate(keyed.keys.clone(), aggs)?;
        self.with_only_row(outer, groups, &keyed, Rows::All)
    }

    /// A subquery for all rows outside, the columns that the test reads of these in its domain; and the test over its rows.
    fn tests(&self, frame: &Frame<'_, 'q>, outer: &Node<'q>, sublink: Sublink<'q>) -> Mapped<(Dependent, Scalar)> {
        let (query, Some(test)) = (sublink.query(), sublink.test()) else {
            return opaque("it uses the truth of ANY or ALL without a test");
        };
        let mut ids = query.outer_columns();
        ids.extend(test.columns().into_iter().map(|(entry, column)| OuterColumn { levels_up: 1, entry, column }));
        ids.extend(test.outer_columns().into_iter().map(|id| OuterColumn { levels_up: id.levels_up + 1, ..id }));
        ids.sort();
        ids.dedup();
        let wanted: Vec<usize> = (1..=query.column_names().len()).collect();
        let dependent = self.dependent_on(frame, outer, query, &ids, &wanted)?;
        let (cols, own) = (dependent.rel.cols(), dependent.outside.len());
        let domain = |id: OuterColumn| ids.iter().position(|known| *known == id);
        let find = |e: Expr<'q>| match e.shape() {
            Shape::Column { levels_up, entry, column } => {
                domain(OuterColumn { levels_up: levels_up + 1, entry, column })
            }
            _ => e.sublink_column().map(|n| own + n),
        };
        let test = self.scalar(test, &Row { cols: &cols, find: &find })?;
        Ok((dependent, test))
    }
}
