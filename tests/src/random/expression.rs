//! Expressions and conditions over the columns in scope.

use super::kinds::{Kind, literal};
use super::query::{Column, Writer};
use super::text::{Text, text};

impl Writer<'_> {
    pub fn literal(&mut self, kind: Kind) -> String {
        literal(self.rng, kind, false)
    }

    /// Something made of a column, of whatever kind.
    pub fn expression(&mut self, column: &Column, columns: &[Column]) -> Column {
        let x = &column.text;
        let value = self.literal(column.kind);
        let made = match self.rng.u32(..6) {
            0 => Column::new(text!["coalesce(", x, format!(", {value})")], column.kind.loose()),
            1 => Column::new(text!["(", x, format!(" IS NOT DISTINCT FROM {value})")], Kind::Bool),
            2 => {
                let (condition, other) = (self.term(columns), self.literal(column.kind));
                let cases = text!["CASE WHEN ", condition, " THEN ", x, format!(" ELSE {other} END")];
                Column::new(cases, column.kind.loose())
            }
            _ => self.function(column),
        };
        Column { text: made.text.or(x), kind: made.kind }
    }

    fn function(&mut self, column: &Column) -> Column {
        match column.kind {
            Kind::Int | Kind::Big => self.of_whole(column),
            Kind::Num | Kind::Fixed | Kind::Float => self.of_fraction(column),
            Kind::Text => self.of_text(column),
            Kind::Date | Kind::Stamp => self.of_time(column),
            Kind::Bool | Kind::Mood | Kind::Ints | Kind::Json => self.of_other(column),
        }
    }

    fn of_whole(&mut self, Column { text: x, kind }: &Column) -> Column {
        let n = self.rng.i32(1..4);
        match self.rng.u32(..7) {
            0 => Column::new(text!["(", x, format!(" + {n})")], *kind),
            1 => Column::new(text!["(abs(", x, ") % 3)"], *kind),
            2 => Column::new(text!["(12 / nullif(", x, format!(" % {}, 0))", n + 1)], *kind),
            3 => Column::new(text![x, "::text"], Kind::Text),
            4 => Column::new(
                text!["CASE WHEN ", x, format!(" > {n} THEN 'high' WHEN "), x, " IS NULL THEN 'none' END"],
                Kind::Text,
            ),
            5 => Column::new(text!["(", x, format!(" / {n}.0)")].rounded(), Kind::Num),
            _ => Column::new(text!["greatest(", x, format!(", {n})")], *kind),
        }
    }

    fn of_fraction(&mut self, Column { text: x, kind }: &Column) -> Column {
        let loose = kind.loose();
        match self.rng.u32(..4) {
            0 => Column::new(text!["(", x, " * 2)"], loose),
            1 => Column::new(text!["floor(", x, ")"], loose),
            2 => Column::new(text!["(", x, format!(" + {})", self.literal(*kind))], loose),
            _ => Column::new(text![x, "::numeric"], Kind::Num),
        }
    }

    fn of_text(&mut self, Column { text: x, .. }: &Column) -> Column {
        let value = self.literal(Kind::Text);
        match self.rng.u32(..6) {
            0 => Column::new(text!["(", x, format!(" || {value})")], Kind::Text),
            1 => Column::new(text!["length(", x, ")"], Kind::Int),
            2 => Column::new(text!["upper(", x, ")"], Kind::Text),
            3 => Column::new(text!["substr(", x, ", 1, 1)"], Kind::Text),
            4 => Column::new(text!["(", x, " LIKE '%b')"], Kind::Bool),
            _ => Column::new(text!["nullif(", x, format!(", {value})")], Kind::Text),
        }
    }

    fn of_time(&mut self, Column { text: x, kind }: &Column) -> Column {
        match (kind, self.rng.u32(..4)) {
            (Kind::Date, 0) => Column::new(text!["(", x, " + 1)"], Kind::Date),
            (Kind::Date, 1) => Column::new(text!["(", x, " - DATE '2024-01-01')"], Kind::Int),
            (Kind::Date, _) => Column::new(text!["date_trunc('month', ", x, "::timestamp)"], Kind::Stamp),
            (_, 0) => Column::new(text!["(", x, " + INTERVAL '1 day')"], Kind::Stamp),
            (_, 1) => Column::new(text!["extract(hour FROM ", x, ")"], Kind::Num),
            (_, 2) => Column::new(text![x, "::date"], Kind::Date),
            _ => Column::new(text!["date_trunc('day', ", x, ")"], Kind::Stamp),
        }
    }

    fn of_other(&mut self, Column { text: x, kind }: &Column) -> Column {
        match (kind, self.rng.u32(..4)) {
            (Kind::Bool, 0) => Column::new(text![x, "::int"], Kind::Int),
            (Kind::Bool, 1) => Column::new(text!["(", x, " IS TRUE)"], Kind::Bool),
            (Kind::Bool, _) => Column::new(text!["(NOT ", x, ")"], Kind::Bool),
            (Kind::Ints, 0) => Column::new(text!["cardinality(", x, ")"], Kind::Int),
            (Kind::Ints, 1) => Column::new(text!["(", x, ")[1]"], Kind::Int),
            (Kind::Ints, 2) => Column::new(text!["(", x, " || 2)"], Kind::Ints),
            (Kind::Ints, _) => Column::new(text!["(2 = ANY (", x, "))"], Kind::Bool),
            (Kind::Json, 0) => Column::new(text!["(", x, " ->> 'a')"], Kind::Text),
            (Kind::Json, 1) => Column::new(text!["(", x, " -> 'b')"], Kind::Json),
            (Kind::Json, 2) => Column::new(text!["jsonb_typeof(", x, ")"], Kind::Text),
            (Kind::Json, _) => Column::new(text!["(", x, " @> '{\"a\": 1}')"], Kind::Bool),
            _ => Column::new(text!["(", x, " >= 'ok'::mood)"], Kind::Bool),
        }
    }

    /// A condition of a few terms; with depth left, now and then one with a subquery.
    pub fn condition(&mut self, columns: &[Column], depth: u32) -> Text {
        let first =
            if depth > 0 && self.one_in(5) { self.subquery_condition(columns, depth) } else { self.term(columns) };
        match self.rng.u32(..6) {
            0 => text!["(", Text::list([first, self.term(columns)], " OR "), ")"],
            1 | 2 => text!["(", Text::list([first, self.term(columns)], " AND "), ")"],
            3 => text!["NOT (", first, ")"],
            _ => first,
        }
    }

    /// One comparison.
    pub fn term(&mut self, columns: &[Column]) -> Text {
        let Column { text: x, kind } = self.pick(columns);
        let value = self.literal(kind);
        match (kind, self.rng.u32(..10)) {
            (_, 0) => text![x, " IS NULL"],
            (_, 1) => text![x, " IS NOT NULL"],
            (Kind::Bool, 2..=6) => x,
            (_, 2) => text![x, format!(" IN ({value}, {})", self.literal(kind))],
            (_, 3) => text![x, format!(" <= {value}")],
            (_, 4) => text![x, format!(" IS DISTINCT FROM {value}")],
            (_, 5) => self.comparison(&x, kind, columns),
            (Kind::Text, 6) => text![x, " LIKE 'a%'"],
            (Kind::Int, 6 | 7) => text![x, " % 2 = 0"],
            (_, 6) => text![x, format!(" BETWEEN {value} AND {}", self.literal(kind))],
            (_, 7) => text![x, format!(" <> {value}")],
            _ => text![x, format!(" = {value}")],
        }
    }

    /// Two columns compared.
    fn comparison(&mut self, x: &Text, kind: Kind, columns: &[Column]) -> Text {
        let others: Vec<Column> = columns.iter().filter(|other| other.kind.compares_with(kind)).cloned().collect();
        let other = self.pick(&others);
        let operator = self.pick(&["=", "<>", "<", ">=", "IS NOT DISTINCT FROM"]);
        text![x, format!(" {operator} "), other.text]
    }
}

impl Text {
    /// A quotient, of which only as many digits count as every way of dividing agrees on.
    pub fn rounded(self) -> Text {
        text!["round(", self, ", 4)"]
    }
}
