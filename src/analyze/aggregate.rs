//! GROUP BY, aggregates and HAVING.
//!
//! The aggregate outputs its keys, then its aggregates; what stands above refers to them by position. An expression is
//! a key if its tree equals the key's, as PostgreSQL itself decides. Several grouping sets are as many aggregates:
//!
//! ```text
//! GROUPING SETS (A, B)  = π(A ∪ NULL for B∖A, grouping(…) = constant)(group by A) ⊎ the same of B
//! ```

use super::dependent::{Domain, same};
use super::node::{Node, conditions};
use super::order::{has_ordered_sets, ordered_input};
use super::scalar::Row;
use super::target::{needed_below, needed_by};
use super::value::may_fail;
use super::window::window_inputs;
use super::{Analyzer, Frame, Mapped, map, opaque};
use pgtrickle_engine::ir::{Agg, AggKind, Equality, JoinKind, Number, Rel, Scalar, Ty};
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::Sql;
use pgtrickle_pg::complete::{chosen_look, shows_order};
use pgtrickle_pg::expr::{Aggregate, Expr, Hole, Shape, Walk};
use pgtrickle_pg::query::Target;
use pgtrickle_pg::types;
use std::collections::BTreeSet;

/// What a grouped query computes per group.
#[derive(Default)]
pub(super) struct Groups<'q> {
    pub keys: Vec<Expr<'q>>,
    pub calls: Vec<Expr<'q>>,
    /// Calls that choose the look of a key, and which.
    looks: Vec<(Expr<'q>, usize)>,
    /// Keys that are shown as they are.
    shown: BTreeSet<usize>,
    /// Uses of `grouping(…)`.
    bits: Vec<Expr<'q>>,
    /// The keys of GROUP BY: sort-group number and position. Keys beyond depend on these.
    numbers: Vec<(u32, usize)>,
}

impl<'q> Groups<'q> {
    /// The position in the aggregate's output of an expression's value.
    pub(super) fn find(&self, expr: Expr<'q>) -> Option<usize> {
        let key = self.keys.iter().position(|key| key.equals(expr)).or_else(|| self.look(expr));
        let call = || Some(self.keys.len() + self.calls.iter().position(|call| call.equals(expr))?);
        let bits = || Some(self.keys.len() + self.calls.len() + self.bits.iter().position(|bits| bits.equals(expr))?);
        key.or_else(call).or_else(bits)
    }

    /// The position of a key of which a call chooses the look: it is the one that a group keeps.
    fn look(&self, expr: Expr<'q>) -> Option<usize> {
        let Shape::Aggregate(call) = expr.shape() else { return None };
        let chosen = chosen_look(&call)?;
        self.keys.iter().position(|key| key.equals(chosen))
    }

    /// Where the values of all keys and aggregates are.
    fn values(&self, offset: usize) -> Vec<(Expr<'q>, usize)> {
        let all = self.keys.iter().chain(&self.calls).chain(&self.bits);
        let looks = self.looks.iter().map(|(expr, key)| (*expr, offset + key));
        all.enumerate().map(|(at, expr)| (*expr, offset + at)).chain(looks).collect()
    }

    /// Notes the aggregates that an expression above the groups uses, and the columns that are none of the keys: they
    /// depend on a primary key among the keys, so grouping by them as well changes nothing.
    pub(super) fn collect(&mut self, expr: Expr<'q>) {
        expr.visit(&mut |part| {
            if let Some(key) = self.look(part) {
                self.looks.push((part, key));
            }
            if let Some(found) = self.find(part) {
                self.shown.extend((self.look(part).is_none() && found < self.keys.len()).then_some(found));
                return Walk::Past;
            }
            match part.shape() {
                Shape::Aggregate(call) if call.levels_up() == 0 => self.calls.push(part),
                Shape::Grouping(_) => self.bits.push(part),
                Shape::Column { levels_up: 0, .. } => self.keys.push(part),
                _ => return Walk::Into,
            }
            Walk::Past
        });
    }
}

impl<'q> Analyzer<'q> {
    pub(super) fn grouped(&self, frame: &Frame<'_, 'q>, targets: &[Target<'q>], exprs: &[Expr<'q>]) -> Mapped<Rel> {
        let windowed = window_inputs(frame.query, exprs);
        let groups = groups(frame, targets, &[exprs, &windowed].concat());
        let mut needed = needed_by(&groups.keys);
        needed.extend(needed_by(&groups.calls));
        needed.extend(needed_below(frame));
        let from = self.from_where(frame, &needed)?;
        let from = self.with_values(frame, from, &groups.keys)?;
        let from = self.with_values(frame, from, &groups.calls)?;
        let from = self.with_sets(frame, from, &groups.keys)?;
        let row = Row { cols: &from.cols, find: &|expr| from.find(expr) };
        let keys = self.scalars(&groups.keys, &row)?;
        if keys.iter().any(|key| key.ty.equality == Equality::None) {
            return opaque("it groups by a column whose type has no equality");
        }
        if groups.shown.iter().any(|key| keys[*key].is_blurred()) {
            return opaque(
                "GROUP BY chooses among values that are equal but look different, in a recursion, or in a view whose choices cannot be made for it",
            );
        }
        let sets = groups.sets(frame.query.grouping_sets());
        if sets.len() > 1
            && groups
                .has_lookalikes(&[exprs, &windowed, &frame.query.having().into_iter().collect::<Vec<_>>()].concat())
        {
            return opaque(
                "it groups by sets of columns that look the same, or by a constant that it uses elsewhere, too",
            );
        }
        let front = self.front(frame, &from);
        let calls: Vec<Agg> =
            groups.calls.iter().map(|&call| self.aggregate(frame, call, &from.rel, &row)).collect::<Mapped<_>>()?;
        let grouped = sets
            .iter()
            .map(|set| {
                let Some(domain) = frame.domain.as_ref().filter(|_| set.is_empty()) else {
                    return by_set(from.rel.clone(), &front, &keys, &calls, &groups, set);
                };
                // Tells whether there is a group.
                let calls: Vec<Agg> = calls.iter().cloned().chain([count()]).collect();
                self.for_all(domain, by_set(from.rel.clone(), &front, &keys, &calls, &groups, set)?, &groups)
            })
            .collect::<Mapped<Vec<_>>>()?;
        let grouped = match <[Rel; 1]>::try_from(grouped) {
            Ok([only]) => only,
            Err(several) => Rel::union_all(several)?,
        };
        self.above_groups(frame, grouped, &groups, exprs)
    }

    /// HAVING and the select list.
    fn above_groups(&self, frame: &Frame<'_, 'q>, rel: Rel, groups: &Groups<'q>, exprs: &[Expr<'q>]) -> Mapped<Rel> {
        let offset = frame.offset();
        let mut node = Node::new(rel, []);
        let ids = frame.domain.iter().flat_map(|domain| &domain.ids);
        node.outer = ids.enumerate().map(|(at, id)| (*id, at)).collect();
        // Subqueries may read those keys that are plain columns.
        for (at, key) in groups.keys.iter().enumerate() {
            if let Shape::Column { levels_up: 0, entry, column } = key.shape() {
                node.layout.insert((entry, column), offset + at);
            }
        }
        node.values = groups.values(offset);
        node = self.filtered(frame, node, conditions(frame.query.having()))?;
        node = self.with_windows(frame, node, exprs)?;
        node = self.with_values(frame, node, exprs)?;
        node = self.with_sets(frame, node, exprs)?;
        let exprs = self.scalars(exprs, &Row { cols: &node.cols, find: &|expr| node.find(expr) })?;
        self.output(frame, node, exprs)
    }

    /// The domain's columns among those of FROM.
    fn front(&self, frame: &Frame<'_, 'q>, from: &Node<'q>) -> Vec<Scalar> {
        let ids = frame.domain.iter().flat_map(|domain| &domain.ids);
        ids.filter_map(|id| from.outer.get(id)).map(|&at| Scalar::column(at, &from.cols[at])).collect()
    }

    /// The rows of an aggregation without keys, one for each row of the domain even if there was nothing to aggregate.
    fn for_all(&self, domain: &Domain, rows: Rel, groups: &Groups<'q>) -> Mapped<Rel> {
        let width = domain.width();
        let (outer, cols) = (domain.rel.cols(), rows.cols());
        let on = (0..width).map(|i| same(i, &outer[i], width, i, &cols[i])).collect();
        let joined = domain.rel.clone().join(JoinKind::Left, rows, on)?;
        let cols = joined.cols();
        let mut columns: Vec<Scalar> = (0..width).map(|i| Scalar::column(i, &cols[i])).collect();
        columns.extend(groups.keys.iter().enumerate().map(|(key, _)| {
            let at = 2 * width + key;
            Scalar::column(at, &cols[at])
        }));
        for (call, expr) in groups.calls.iter().enumerate() {
            let at = 2 * width + groups.keys.len() + call;
            let column = Scalar::column(at, &cols[at]);
            columns.push(match over_nothing(*expr) {
                Some(Hole::Null) => column,
                Some(_) => {
                    let text = sql!("COALESCE({}, 0::bigint)", Sql::column(at));
                    Scalar { sql: text, not_null: true, column: None, ..column }
                }
                None => {
                    let (found, nothing) =
                        (2 * width + groups.keys.len() + groups.calls.len(), self.of_nothing(*expr)?);
                    let text =
                        sql!("CASE WHEN {} IS NULL THEN {} ELSE {} END", Sql::column(found), nothing, column.sql);
                    Scalar { sql: text, cols: vec![found, at], not_null: false, column: None, ..column }
                }
            });
        }
        columns.extend(groups.bits.iter().map(|&bits| constant(groups.bits_of(bits, &[]))));
        map(joined, columns)
    }

    /// One aggregate call over the rows of FROM.
    pub(super) fn aggregate(&self, frame: &Frame<'_, 'q>, expr: Expr<'q>, rel: &Rel, row: &Row<'_, 'q>) -> Mapped<Agg> {
        let Shape::Aggregate(call) = expr.shape() else { return opaque("it has an unknown aggregate") };
        let kind = self.aggregate_kind(call, row)?;
        if shows_order(&call) && !self.is_settled(call, rel, row) {
            if ordered_input(frame) {
                return opaque(
                    "an aggregate's result depends on the order of a subquery in FROM: an ORDER BY of its own settles it",
                );
            }
            let name = types::builtin_name(call.function());
            if has_ordered_sets(frame.query) && name.as_deref().is_none_or(is_list) {
                return opaque("an aggregate without ORDER BY depends on the order in which a function gives its rows");
            }
            if name.as_deref().is_some_and(is_list) {
                return opaque(
                    "an aggregate's result depends on an order of its rows that is left open: an ORDER BY without ties settles it",
                );
            }
        }
        // The call itself is no hole; what is in it are columns of the input.
        let call_text = self.scalar_call(expr, row)?;
        let filter = call.filter().map(|filter| self.scalar(filter, row)).transpose()?;
        Ok(Agg { call: call_text, kind, filter })
    }

    /// Whether the order in which an aggregate gets its arguments is no matter of choice.
    fn is_settled(&self, call: Aggregate<'q>, rel: &Rel, row: &Row<'_, 'q>) -> bool {
        let args: Vec<Expr<'q>> = call.args();
        if call.distinct() {
            return args.iter().all(|arg| self.types.ty(arg.ty()).is_exact());
        }
        let args: Vec<Expr<'q>> =
            args.into_iter().filter(|arg| !matches!(arg.shape(), Shape::Constant { .. })).collect();
        let Ok(values) = self.scalars(&args, row) else { return false };
        let width = row.cols.len();
        let columns = row.cols.iter().enumerate().map(|(i, col)| Scalar::column(i, col)).chain(values).collect();
        let Ok(with_args) = rel.clone().map(columns) else { return false };
        let find = |expr: Expr<'q>| {
            let arg = args.iter().position(|arg| arg.equals(expr)).map(|at| width + at);
            arg.or_else(|| (row.find)(expr))
        };
        let used = (width..width + args.len()).collect();
        self.is_total(&with_args, &find, &[], &call.order_by(), Some(&used))
    }

    fn aggregate_kind(&self, call: Aggregate<'q>, row: &Row<'_, 'q>) -> Mapped<AggKind> {
        let Some(name) = types::builtin_name(call.function()) else { return Ok(AggKind::Recompute) };
        if !call.plain() {
            return Ok(AggKind::Recompute);
        }
        if call.star() {
            return Ok(AggKind::CountStar);
        }
        let args = call.args();
        let &[arg] = args.as_slice() else { return Ok(AggKind::Recompute) };
        if self.types.facts(arg.ty()).composite {
            // A row with a NULL in it counts, but is not "IS NOT NULL".
            return Ok(AggKind::Recompute);
        }
        let argument = || self.scalar(arg, row);
        Ok(match name.as_str() {
            // The order of equal extremes is no matter, and DISTINCT changes nothing about them.
            "min" if self.types.facts(arg.ty()).sortable => AggKind::Min(argument()?),
            "max" if self.types.facts(arg.ty()).sortable => AggKind::Max(argument()?),
            _ if call.distinct() => AggKind::Recompute,
            "count" => AggKind::Count(argument()?),
            "sum" if self.types.facts(arg.ty()).exact_number => AggKind::Sum(argument()?),
            "avg" if self.types.facts(arg.ty()).exact_number => AggKind::Avg(argument()?),
            _ => AggKind::Recompute,
        })
    }
}

impl<'q> Analyzer<'q> {
    /// What PostgreSQL says that an aggregate call gives over no rows.
    pub(super) fn of_nothing(&self, expr: Expr<'q>) -> Mapped<Sql> {
        let Shape::Aggregate(call) = expr.shape() else { return opaque("it has an unknown aggregate") };
        let column = |part: Expr<'q>| matches!(part.shape(), Shape::Column { .. } | Shape::Sublink(_));
        let empty = expr.with_parts(&mut |part| column(part).then_some(Hole::Null));
        if !call.plain() && types::builtin_name(call.function()).is_none() || empty.any(&mut may_fail) {
            return opaque("a subquery uses an aggregate whose value over no rows is not known");
        }
        let text = self.scalar_call(empty, &Row { cols: &[], find: &|_| None })?.sql;
        Ok(sql!("(SELECT {} WHERE false)", text))
    }
}

/// What an aggregate call gives over no rows: NULL or zero, if that is known.
pub(super) fn over_nothing(call: Expr<'_>) -> Option<Hole> {
    let Shape::Aggregate(call) = call.shape() else { return None };
    let name = types::builtin_name(call.function()).filter(|_| call.plain())?;
    Some(if name == "count" || name == "regr_count" { Hole::Zero } else { Hole::Null })
}

/// The groups of one grouping set: the domain's columns, then one for each key, aggregate and use of `grouping(…)`.
fn by_set(
    input: Rel,
    front: &[Scalar],
    keys: &[Scalar],
    calls: &[Agg],
    groups: &Groups<'_>,
    set: &[usize],
) -> Mapped<Rel> {
    let own: Vec<Scalar> = front.iter().chain(set.iter().map(|&key| &keys[key])).cloned().collect();
    let width = front.len();
    let mut aggs = calls.to_vec();
    if own.is_empty() && aggs.is_empty() {
        // One row there must be, even if nothing is asked of it.
        aggs.push(count());
    }
    let rel = input.aggregate(own, aggs)?;
    let cols = rel.cols();
    let mut columns: Vec<Scalar> = (0..width).map(|at| Scalar::column(at, &cols[at])).collect();
    for (key, scalar) in keys.iter().enumerate() {
        columns.push(match set.iter().position(|&member| member == key) {
            Some(at) => Scalar::column(width + at, &cols[width + at]),
            None => Scalar::null(&scalar.ty),
        });
    }
    let first = width + set.len();
    columns.extend((first..first + calls.len()).map(|at| Scalar::column(at, &cols[at])));
    columns.extend(groups.bits.iter().map(|&bits| constant(groups.bits_of(bits, set))));
    map(rel, columns)
}

/// `count(*)`
pub(super) fn count() -> Agg {
    let call = Scalar::deparsed("count(*)", vec![], Ty::bigint(), true);
    Agg { call, kind: AggKind::CountStar, filter: None }
}

fn constant(value: i32) -> Scalar {
    let integer = Ty::new("integer").with_number(Number::Small);
    Scalar { sql: sql!("{}", i64::from(value)), ..Scalar::deparsed("", vec![], integer, true) }
}

impl Groups<'_> {
    /// The grouping sets as positions of keys; without GROUPING SETS one of them all.
    fn sets(&self, sets: Option<Vec<Vec<u32>>>) -> Vec<Vec<usize>> {
        let all = (0..self.keys.len()).collect();
        let Some(sets) = sets else { return vec![all] };
        let dependent = (0..self.keys.len()).filter(|key| self.numbers.iter().all(|(_, at)| at != key));
        let positions = |set: Vec<u32>| {
            let named = set.iter().filter_map(|number| self.position(*number));
            let mut positions: Vec<usize> = named.chain(dependent.clone()).collect();
            positions.sort_unstable();
            positions.dedup();
            positions
        };
        sets.into_iter().map(positions).collect()
    }

    /// Whether several names stand for one key, or a constant that is a key is found elsewhere: where a set lacks the key, only what
    /// GROUP BY names is NULL.
    fn has_lookalikes(&self, above: &[Expr<'_>]) -> bool {
        let is_used = |key: &Expr<'_>| {
            let whole = above.iter().filter(|expr| expr.equals(*key)).count();
            whole > 1 || above.iter().any(|expr| !expr.equals(*key) && expr.any(&mut |part| part.equals(*key)))
        };
        let names: BTreeSet<u32> = self.numbers.iter().map(|(number, _)| *number).collect();
        let named: BTreeSet<usize> = self.numbers.iter().map(|(_, key)| *key).collect();
        let mut constants = self.keys.iter().filter(|key| matches!(key.shape(), Shape::Constant { .. }));
        names.len() > named.len() || constants.any(is_used)
    }

    fn position(&self, number: u32) -> Option<usize> {
        self.numbers.iter().find(|(known, _)| *known == number).map(|(_, at)| *at)
    }

    /// The value of a `grouping(…)`: a bit per argument, set if the set lacks it, the last argument's lowest.
    fn bits_of(&self, bits: Expr<'_>, set: &[usize]) -> i32 {
        let Shape::Grouping(numbers) = bits.shape() else { return 0 };
        numbers.iter().fold(0, |value, number| {
            let lacking = self.position(*number).is_none_or(|key| !set.contains(&key));
            value * 2 + i32::from(lacking)
        })
    }
}

fn groups<'q>(frame: &Frame<'_, 'q>, targets: &[Target<'q>], exprs: &[Expr<'q>]) -> Groups<'q> {
    let mut groups = Groups::default();
    for number in frame.query.group_by() {
        let key = targets.iter().find(|target| target.sort_group == number).expect("a key is in the select list").expr;
        let known = groups.keys.iter().position(|known| known.equals(key));
        groups.numbers.push((number, known.unwrap_or(groups.keys.len())));
        if known.is_none() {
            groups.keys.push(key);
        }
    }
    exprs.iter().copied().chain(frame.query.having()).for_each(|expr| groups.collect(expr));
    groups
}

/// Whether the result of an aggregate of pg_catalog is a list of its arguments, or one of them; in sums of floats only the
/// last digits show in which order they came.
fn is_list(name: &str) -> bool {
    ["array_agg", "string_agg", "xmlagg", "any_value"].contains(&name) || name.starts_with("json")
}
