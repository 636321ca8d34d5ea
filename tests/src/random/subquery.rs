//! Subqueries as conditions and as values.

use super::kinds::Kind;
use super::query::{Column, MANY, Relation, Source, Writer};
use super::text::{Text, text};

impl Writer<'_> {
    pub fn with_subquery_condition(&mut self, depth: u32) -> Relation {
        let input = self.input(depth);
        let first = self.subquery_condition(&input.columns, depth);
        let terms = match self.rng.u32(..4) {
            0 => Text::list([first, self.term(&input.columns)], " AND "),
            1 => {
                self.note("subquery under OR");
                text!["(", Text::list([first, self.term(&input.columns)], " OR "), ")"]
            }
            _ => first,
        };
        self.select(&input, text![" WHERE ", terms].optional())
    }

    /// EXISTS, IN, ANY, ALL, or a comparison with a scalar subquery.
    pub fn subquery_condition(&mut self, outside: &[Column], depth: u32) -> Text {
        let inner = self.inner(depth);
        match self.rng.u32(..9) {
            0..=2 => self.exists(outside, inner, depth),
            3..=5 => self.membership(outside, inner),
            6 => self.row_membership(outside, inner),
            7 => self.row_comparison(outside, inner),
            _ => self.scalar_comparison(outside, inner),
        }
    }

    /// What a subquery reads: correlated ones run once per row outside, so it stays small.
    fn inner(&mut self, depth: u32) -> Source {
        let below = self.rng.u32(..depth.max(1));
        let source = self.input_of(below.min(2));
        if source.rows > MANY / 8.0 { self.base() } else { source }
    }

    fn exists(&mut self, outside: &[Column], inner: Source, depth: u32) -> Text {
        let negated = self.one_in(2);
        self.note(if negated { "NOT EXISTS" } else { "EXISTS" });
        let mut tie = self.correlated(outside, inner.clone());
        if depth > 1 && self.one_in(3) {
            self.note("subquery in a correlated subquery");
            let both: Vec<Column> = outside.iter().chain(&inner.columns).cloned().collect();
            let deeper = self.subquery_condition(&both, depth - 1);
            tie = text![tie, text![" AND ", deeper].optional()];
        }
        text![if negated { "NOT EXISTS (" } else { "EXISTS (" }, "SELECT 1 FROM ", inner.from, tie, ")"]
    }

    fn membership(&mut self, outside: &[Column], inner: Source) -> Text {
        let Some((a, b)) = self.matching(outside, &inner.columns) else {
            return self.exists(outside, inner, 0);
        };
        let rest = match self.rng.u32(..3) {
            0 => "".into(),
            1 => self.filter(&inner.columns, 0),
            _ => {
                self.note("correlated IN");
                self.correlated(outside, inner.clone())
            }
        };
        let (operator, name) = self.pick(&[
            (" IN (", "IN"),
            (" IN (", "IN"),
            (" NOT IN (", "NOT IN"),
            (" NOT IN (", "NOT IN"),
            (" = ANY (", "= ANY"),
            (" <> ALL (", "<> ALL"),
            (" < ANY (", "< ANY"),
            (" >= ALL (", ">= ALL"),
        ]);
        self.note(name);
        text![a, operator, "SELECT ", b, " FROM ", inner.from, rest, ")"]
    }

    fn row_membership(&mut self, outside: &[Column], inner: Source) -> Text {
        let (first, second) = (self.matching(outside, &inner.columns), self.matching(outside, &inner.columns));
        let (Some((a, b)), Some((c, d))) = (first, second) else {
            return self.exists(outside, inner, 0);
        };
        let operator = self.pick(&["IN", "NOT IN"]);
        self.note("rows IN");
        text!["(", a, ", ", c, format!(") {operator} (SELECT "), b, ", ", d, " FROM ", inner.from, ")"]
    }

    /// A row compared with the only row of a subquery.
    fn row_comparison(&mut self, outside: &[Column], inner: Source) -> Text {
        let extrema: Vec<Column> = inner.columns.iter().filter(|column| column.kind.has_extrema()).cloned().collect();
        let (first, second) = (self.matching(outside, &extrema), self.matching(outside, &extrema));
        let (Some((a, b)), Some((c, d))) = (first, second) else {
            return self.exists(outside, inner, 0);
        };
        self.note("rows compared");
        let operator = self.pick(&["=", "<", ">=", "<>"]);
        let tie = if self.one_in(2) { "".into() } else { self.correlated(outside, inner.clone()) };
        text!["(", a, ", ", c, format!(") {operator} (SELECT max("), b, "), min(", d, ") FROM ", inner.from, tie, ")"]
    }

    fn scalar_comparison(&mut self, outside: &[Column], inner: Source) -> Text {
        let wholes: Vec<Column> = outside.iter().filter(|column| column.kind.is_number()).cloned().collect();
        if wholes.is_empty() {
            return self.exists(outside, inner, 0);
        }
        let column = self.pick(&wholes);
        let operator = self.pick(&["=", "<", ">=", "<>"]);
        text![column.text, format!(" {operator} "), self.number_of(outside, inner)]
    }

    /// A scalar subquery with a number.
    pub fn number_of(&mut self, outside: &[Column], inner: Source) -> Text {
        self.note("scalar subquery");
        let numbers: Vec<Column> = inner.columns.iter().filter(|column| column.kind.is_number()).cloned().collect();
        let tie = if self.one_in(3) { "".into() } else { self.correlated(outside, inner.clone()) };
        let value = match numbers.is_empty() {
            true => "count(*)".into(),
            false => {
                let function = self.pick(&["count", "sum", "min", "max"]);
                text![format!("{function}("), self.pick(&numbers).text, ")"]
            }
        };
        text!["(SELECT ", value, " FROM ", inner.from, tie, ")"].or("0")
    }

    /// Scalar subqueries in the select list.
    pub fn with_scalar_subqueries(&mut self, depth: u32) -> Relation {
        let input = self.input(depth);
        let mut outputs = self.some(&input.columns, 0, 2);
        for _ in 0..self.rng.usize(1..=2) {
            let inner = self.inner(depth);
            outputs.push(self.value_of(&input.columns, inner));
        }
        let rest = if self.one_in(3) { self.filter(&input.columns, 0) } else { "".into() };
        self.assemble(&outputs, &input, rest)
    }

    fn value_of(&mut self, outside: &[Column], inner: Source) -> Column {
        match self.rng.u32(..9) {
            8 => {
                self.note("rows compared as a value");
                Column::new(text!["(", self.row_comparison(outside, inner), ")"], Kind::Bool)
            }
            0 => {
                self.note("EXISTS as a value");
                Column::new(self.exists(outside, inner, 0), Kind::Bool)
            }
            1 => {
                self.note("IN as a value");
                Column::new(text!["(", self.membership(outside, inner), ")"], Kind::Bool)
            }
            2 => self.array_of(outside, inner),
            3 => {
                self.note("scalar subquery with LIMIT");
                let column = self.pick(&inner.columns);
                let tie = self.correlated(outside, inner.clone());
                let mut order = vec![self.ordered(&column)];
                order.push(self.total_order(&inner.columns));
                let order = Text::list(order, ", ");
                let text = text!["(SELECT ", column.text, " FROM ", inner.from, tie, " ORDER BY ", order, " LIMIT 1)"];
                Column::new(text, column.kind.loose())
            }
            4 | 5 => {
                self.note("scalar subquery");
                let call = self.aggregate_call(&inner.columns);
                let tie = self.correlated(outside, inner.clone());
                Column::new(text!["(SELECT ", call.text, " FROM ", inner.from, tie, ")"], call.kind)
            }
            _ => Column::new(text!["(", self.number_of(outside, inner), " + 0.0)"], Kind::Num),
        }
    }

    fn array_of(&mut self, outside: &[Column], inner: Source) -> Column {
        let ints: Vec<Column> = inner.columns.iter().filter(|column| column.kind == Kind::Int).cloned().collect();
        if ints.is_empty() {
            return Column::new(self.exists(outside, inner, 0), Kind::Bool);
        }
        let x = self.pick(&ints).text;
        let tie = self.correlated(outside, inner.clone());
        let distinct = if self.one_in(3) { "DISTINCT " } else { "" };
        let limit = if self.one_in(3) { format!(" LIMIT {}", self.rng.u32(1..4)) } else { String::new() };
        self.note(match (distinct, limit.as_str()) {
            ("", "") => "ARRAY(SELECT)",
            ("", _) => "ARRAY(SELECT … LIMIT)",
            _ => "ARRAY(SELECT DISTINCT)",
        });
        let select = text![format!("ARRAY(SELECT {distinct}("), &x, ")::int FROM ", inner.from, tie];
        Column::new(text![select, " ORDER BY (", x, ")::int", limit, ")"], Kind::Ints)
    }
}
