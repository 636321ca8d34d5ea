//! Expressions and types: printed by PostgreSQL, with the columns of the input row as holes.

use super::{Mapped, Stop, opaque};
use pgtrickle_engine::ir::{Col, Equality, Number, Scalar, Ty};
use pgtrickle_engine::sql::Sql;
use pgtrickle_pg::deparse::{Printing, print};
use pgtrickle_pg::expr::{Expr, Shape};
use pgtrickle_pg::types::{self, TypeEquality, TypeFacts, TypeRef};
use std::cell::RefCell;
use std::collections::HashMap;

/// The types met so far.
pub(super) struct Types<'q> {
    printing: &'q Printing,
    known: RefCell<HashMap<(u32, i32, u32), TypeFacts>>,
}

impl<'q> Types<'q> {
    pub(super) fn new(printing: &'q Printing) -> Self {
        Types { printing, known: RefCell::default() }
    }

    pub(super) fn facts(&self, ty: TypeRef) -> TypeFacts {
        let key = (ty.oid.to_u32(), ty.typmod, ty.collation.to_u32());
        self.known.borrow_mut().entry(key).or_insert_with(|| types::facts(self.printing, ty)).clone()
    }

    /// The engine's description of a type.
    pub(super) fn ty(&self, ty: TypeRef) -> Ty {
        let facts = self.facts(ty);
        Ty {
            sql: Sql::deparsed(facts.sql),
            equality: match facts.equality {
                TypeEquality::None => Equality::None,
                TypeEquality::Semantic => Equality::Semantic,
                TypeEquality::Image => Equality::Image,
            },
            equality_operator: facts.equality_operator.map(Sql::deparsed),
            hashable: facts.hashable,
            number: number(ty),
            collation: facts.collation.map(Sql::deparsed),
            domain: facts.domain,
        }
    }

    pub(super) fn name(&self, ty: TypeRef) -> String {
        types::type_name(self.printing, ty)
    }

    pub(super) fn print(&self, expr: Expr<'_>, width: usize) -> String {
        print(self.printing, expr, width)
    }
}

pub(super) fn number(ty: TypeRef) -> Number {
    let base = types::base_type(ty);
    match base.oid {
        pgrx::pg_sys::INT2OID | pgrx::pg_sys::INT4OID => Number::Small,
        pgrx::pg_sys::INT8OID => Number::Big,
        pgrx::pg_sys::NUMERICOID => Number::Numeric { fixed_scale: base.typmod >= 0 },
        _ => Number::No,
    }
}

/// An input row: its columns, and which expressions they are the values of.
pub(super) struct Row<'a, 'q> {
    pub cols: &'a [Col],
    pub find: &'a dyn Fn(Expr<'q>) -> Option<usize>,
}

impl<'q> super::Analyzer<'q> {
    /// An expression over a row.
    pub(super) fn scalar(&self, expr: Expr<'q>, row: &Row<'_, 'q>) -> Mapped<Scalar> {
        self.convert(expr, row, &|_| false)
    }

    /// A whole aggregate call, over the rows that it aggregates.
    pub(super) fn scalar_call(&self, call: Expr<'q>, row: &Row<'_, 'q>) -> Mapped<Scalar> {
        let within = |part: Expr<'q>| match (part.shape(), call.shape()) {
            (Shape::Aggregate(part), Shape::Aggregate(call)) => part.is(call),
            _ => false,
        };
        self.convert(call, row, &|part| part.is(call) || within(part))
    }

    fn convert(&self, expr: Expr<'q>, row: &Row<'_, 'q>, allowed: &dyn Fn(Expr<'q>) -> bool) -> Mapped<Scalar> {
        let (holed, cols) = self.holed(expr, row, allowed)?;
        if let Some(position) = hole(holed)
            && cols == [position]
        {
            return Ok(Scalar::column(position, &row.cols[position]));
        }
        let mut ty = self.types.ty(expr.ty());
        if let Number::Numeric { fixed_scale } = &mut ty.number {
            *fixed_scale |= has_fixed_scale(holed, row.cols);
        }
        let text = self.types.print(holed, row.cols.len());
        Ok(Scalar::deparsed(text, cols, ty, never_null(holed, row.cols)))
    }

    /// The text over a row of what is no scalar: a set-returning call, XMLTABLE or JSON_TABLE; and the columns that it
    /// reads.
    pub(super) fn text(&self, expr: Expr<'q>, row: &Row<'_, 'q>) -> Mapped<(String, Vec<usize>)> {
        let sets = |part: Expr<'q>| matches!(part.shape(), Shape::Function { returns_set: true, .. });
        let inner = |part: Expr<'q>| sets(part) || part.sublink_column().is_some();
        let (holed, cols) = self.holed(expr, row, &|part| part.is(expr) || inner(part))?;
        Ok((self.types.print(holed, row.cols.len()), cols))
    }

    /// An expression with the row's columns as holes, and which they are. What is allowed need not be a scalar itself.
    fn holed(
        &self,
        expr: Expr<'q>,
        row: &Row<'_, 'q>,
        allowed: &dyn Fn(Expr<'q>) -> bool,
    ) -> Mapped<(Expr<'q>, Vec<usize>)> {
        let mut problem = None;
        let mut cols = Vec::new();
        let holed = expr.with_holes(&mut |part| {
            let found = (row.find)(part);
            match found {
                Some(position) => cols.push(position),
                None if allowed(part) => {}
                None => problem = problem.take().or_else(|| unsupported(part)),
            }
            found
        });
        if let Some(reason) = problem {
            return opaque(reason);
        }
        Ok((holed, cols))
    }

    /// Each of the expressions over a row.
    pub(super) fn scalars(&self, exprs: &[Expr<'q>], row: &Row<'_, 'q>) -> Mapped<Vec<Scalar>> {
        exprs.iter().map(|&expr| self.scalar(expr, row)).collect()
    }
}

/// The column that a hole stands for.
fn hole(expr: Expr<'_>) -> Option<usize> {
    match expr.shape() {
        Shape::Column { levels_up: 0, entry: 1, column } if column > 0 => Some(column as usize - 1),
        _ => None,
    }
}

/// Why an expression cannot be part of a scalar, if it cannot. Its children are asked on their own.
fn unsupported(expr: Expr<'_>) -> Option<String> {
    match expr.shape() {
        Shape::Column { levels_up: 1.., .. } => Some("a subquery refers to columns of the query around it".into()),
        Shape::Column { column: 0, .. } => Some("it uses a whole row as a value".into()),
        Shape::Column { column: ..0, .. } => Some("it uses a system column".into()),
        Shape::Column { .. } => Some("it uses a column that is not among its inputs".into()),
        Shape::Sublink(_) => Some("it has a subquery in an expression".into()),
        Shape::Window(_) => Some("it has a window function".into()),
        Shape::Grouping(_) => Some("it uses grouping()".into()),
        Shape::Aggregate(_) => Some("it has an aggregate of an outer query".into()),
        Shape::Function { returns_set: true, .. } => Some("it has a set-returning function in an expression".into()),
        Shape::Parameter => Some("it has a parameter".into()),
        _ if expr.is_cast_since() => {
            Some("it converts a value as it did before CREATE CAST made that something else".into())
        }
        _ => None,
    }
}

/// Whether an expression is never NULL, on the safe side.
fn never_null(expr: Expr<'_>, cols: &[Col]) -> bool {
    match expr.shape() {
        Shape::Constant { null } => !null,
        Shape::Test => true,
        Shape::Coalesce(args) => args.iter().any(|&arg| never_null(arg, cols)),
        Shape::And(args) | Shape::Or(args) => args.iter().all(|&arg| never_null(arg, cols)),
        Shape::Not(arg) | Shape::Relabel(arg) => never_null(arg, cols),
        Shape::Aggregate(call) => types::builtin_name(call.function()).is_some_and(|name| name == "count"),
        Shape::Operator { function, args, .. } | Shape::Function { function, args, .. } => {
            types::builtin_name(function).is_some_and(|name| is_arithmetic(&name))
                && args.iter().all(|&arg| number(arg.ty()) != Number::No && never_null(arg, cols))
        }
        _ => hole(expr).is_some_and(|position| cols[position].not_null),
    }
}

/// Functions of pg_catalog over exact numbers that give a number or an error, but never NULL.
fn is_arithmetic(name: &str) -> bool {
    const NUMERIC: [&str; 7] =
        ["numeric", "numeric_add", "numeric_sub", "numeric_mul", "numeric_div", "numeric_uminus", "numeric_abs"];
    let integer = |rest: &str| ["pl", "mi", "mul", "div"].contains(&rest.trim_start_matches(['2', '4', '8']));
    NUMERIC.contains(&name) || name.strip_prefix("int").is_some_and(integer)
}

/// Whether all values of a numeric expression show the same number of decimals: sums, differences and products of such
/// values do; quotients do not.
fn has_fixed_scale(expr: Expr<'_>, cols: &[Col]) -> bool {
    if let Some(position) = hole(expr) {
        return matches!(cols[position].ty.number, Number::Numeric { fixed_scale: true });
    }
    match expr.shape() {
        Shape::Constant { null } => !null,
        Shape::Relabel(arg) => has_fixed_scale(arg, cols),
        Shape::Operator { function, args, .. } => {
            let keeps = types::builtin_name(function)
                .is_some_and(|name| ["numeric_add", "numeric_sub", "numeric_mul", "numeric_uminus"].contains(&&*name));
            keeps && args.iter().all(|&arg| has_fixed_scale(arg, cols))
        }
        Shape::Function { function, args, .. } => {
            let name = types::builtin_name(function).unwrap_or_default();
            match (name.as_str(), args.as_slice()) {
                ("numeric", [arg, ..]) => matches!(number(arg.ty()), Number::Small | Number::Big),
                // Every field of a date is a whole number.
                ("extract", [_, arg]) => arg.ty().oid == pgrx::pg_sys::DATEOID,
                _ => false,
            }
        }
        _ => false,
    }
}

impl From<String> for Stop {
    fn from(reason: String) -> Stop {
        Stop::Opaque(reason)
    }
}
