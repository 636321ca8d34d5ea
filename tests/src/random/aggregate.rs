//! Aggregates of every family, with and without groups.

use super::kinds::Kind;
use super::query::{Column, Relation, Source, Writer, listed};
use super::text::{Text, text};

impl Writer<'_> {
    pub fn aggregate(&mut self, depth: u32) -> Relation {
        let input = self.input(depth);
        let keys = self.keys(&input, 0);
        let mut outputs = keys.clone();
        for _ in 0..self.rng.usize(1..=3) {
            outputs.push(self.aggregate_call(&input.columns));
        }
        self.note(if keys.is_empty() { "aggregate without groups" } else { "GROUP BY" });
        let mut rest = if self.one_in(3) { self.filter(&input.columns, depth - 1) } else { "".into() };
        if !keys.is_empty() {
            rest = text![rest, " GROUP BY ", listed(&keys)];
        }
        if self.one_in(4) {
            rest = text![rest, self.having(&input, depth)];
        }
        self.rng.shuffle(&mut outputs);
        let rows = if keys.is_empty() { 1.0 } else { input.rows.min(25.0) };
        Relation { rows, ..self.assemble(&outputs, &input, rest) }
    }

    fn having(&mut self, input: &Source, depth: u32) -> Text {
        self.note("HAVING");
        let condition = match self.rng.u32(..4) {
            0 => {
                let inner = self.base();
                text!["count(*) > ", self.number_of(&[Column::new("1", Kind::Int)], inner)]
            }
            1 if depth > 1 => {
                let x = self.pick(&input.columns);
                text!["bool_or(", x.text, " IS NULL)"]
            }
            _ => format!("count(*) > {}", self.rng.u32(0..3)).into(),
        };
        text![" HAVING ", condition].optional()
    }

    /// What to group by: columns, and now and then an expression.
    fn keys(&mut self, input: &Source, least: usize) -> Vec<Column> {
        let keys = self.some(&input.columns, least, 2);
        let key = |this: &mut Self, column: Column| {
            if this.one_in(4) { this.expression(&column, &input.columns) } else { column }
        };
        keys.into_iter().map(|column| key(self, column)).collect()
    }

    pub fn grouping_sets(&mut self, depth: u32) -> Relation {
        let input = self.input(depth);
        let keys = self.some(&input.columns, 2, 3);
        if keys.len() < 2 {
            return self.aggregate(depth);
        }
        let (a, b) = (&keys[0].text, &keys[1].text);
        let (clause, name): (Text, _) = match self.rng.u32(..5) {
            0 => (text!["ROLLUP (", listed(&keys), ")"], "ROLLUP"),
            1 => (text!["CUBE (", listed(&keys), ")"], "CUBE"),
            2 => (text!["GROUPING SETS ((", a, ", ", b, "), (", b, "), ())"], "GROUPING SETS"),
            3 => (text!["GROUPING SETS ((", a, "), (", b, "))"], "GROUPING SETS"),
            _ => (text![a, ", ROLLUP (", b, ")"], "ROLLUP"),
        };
        self.note(name);
        let mut outputs = keys[..2].to_vec();
        if self.one_in(2) {
            self.note("grouping()");
            outputs.push(Column::new(text!["grouping(", a, ", ", b, ")"], Kind::Int));
        }
        for _ in 0..self.rng.usize(1..=2) {
            outputs.push(self.aggregate_call(&input.columns));
        }
        let mut clause = text![" GROUP BY ", clause];
        if keys.len() == 3 && name == "GROUPING SETS" {
            clause = text![clause, ", ", &keys[2].text];
        }
        clause = match self.rng.u32(..10) {
            0 | 1 => text![clause, self.having(&input, depth)],
            2 => text![clause, " HAVING grouping(", b, ") = 0 OR ", a, " IS NULL"],
            _ => clause,
        };
        Relation { rows: 60.0, ..self.assemble(&outputs, &input, clause) }
    }

    /// One aggregate.
    pub fn aggregate_call(&mut self, columns: &[Column]) -> Column {
        let column = self.pick(columns);
        let (call, wrap, kind) = self.plain_call(&column, columns);
        let call = if self.one_in(5) {
            self.note("FILTER");
            let condition = self.condition(columns, 0);
            text![call, text![" FILTER (WHERE ", condition, ")"].optional()]
        } else {
            call
        };
        let text = match wrap {
            Wrap::Nothing => call,
            Wrap::Round => call.rounded(),
            Wrap::Numeric => text![call, "::numeric"],
            Wrap::Shown => text![call, "::text"],
            Wrap::Trim => text!["trim_scale(", call, ")"],
            Wrap::Cardinality => text!["cardinality(", call, ")"],
            // Off the middle between two rounded values, where simple fractions are.
            Wrap::Float => text!["round(", call, "::numeric + 0.0000123, 4)"],
        };
        Column { text: text.or("count(*)"), kind }
    }

    fn plain_call(&mut self, column: &Column, columns: &[Column]) -> (Text, Wrap, Kind) {
        let x = &column.text;
        let kind = column.kind;
        match self.rng.u32(..16) {
            0 => (Text::from("count(*)"), Wrap::Nothing, Kind::Big),
            1 => (text!["count(", x, ")"], Wrap::Nothing, Kind::Big),
            2 => (text!["count(DISTINCT ", x, ")"], Wrap::Nothing, Kind::Big),
            3 | 4 if kind.has_extrema() => {
                let function = self.pick(&["min", "max"]);
                (text![format!("{function}("), x, ")"], Wrap::of_one(kind), kind.loose())
            }
            5 if kind != Kind::Json => self.ordered_set(column),
            6 if kind.is_whole() => self.hypothetical(x),
            7 => self.collected(column),
            8 if kind.is_number() || kind == Kind::Float => self.regression(x, columns),
            _ if kind.is_number() => self.arithmetic(column),
            _ => self.of_kind(column),
        }
    }

    fn arithmetic(&mut self, Column { text: x, kind }: &Column) -> (Text, Wrap, Kind) {
        let sum = if *kind == Kind::Int { Kind::Big } else { Kind::Num };
        match self.rng.u32(..10) {
            0..=3 => (text!["sum(", x, ")"], Wrap::Nothing, sum),
            4 => (text!["sum(DISTINCT ", x, ")"], Wrap::of_one(*kind), sum),
            5 | 6 => (text!["avg(", x, ")"], Wrap::Round, Kind::Num),
            7 => (text!["avg(DISTINCT ", x, ")"], Wrap::Round, Kind::Num),
            8 => {
                self.note("variance");
                let function = self.pick(&["var_pop", "var_samp", "stddev_pop", "stddev_samp", "variance", "stddev"]);
                (text![format!("{function}("), x, ")"], Wrap::Round, Kind::Num)
            }
            _ if kind.is_whole() => {
                let function = self.pick(&["bit_and", "bit_or", "bit_xor"]);
                (text![format!("{function}("), x, ")"], Wrap::Nothing, *kind)
            }
            _ => (text!["sum(", x, " * 2)"], Wrap::Nothing, Kind::Num),
        }
    }

    /// Aggregates that only some types have.
    fn of_kind(&mut self, Column { text: x, kind }: &Column) -> (Text, Wrap, Kind) {
        match kind {
            Kind::Bool => {
                let function = self.pick(&["bool_and", "bool_or", "every"]);
                (text![format!("{function}("), x, ")"], Wrap::Nothing, Kind::Bool)
            }
            Kind::Float if self.one_in(2) => (text!["avg(", x, ")"], Wrap::Numeric, Kind::Num),
            Kind::Float => (text!["sum(", x, ")"], Wrap::Nothing, Kind::Float),
            Kind::Text => {
                self.note("ORDER BY inside");
                let distinct = self.pick(&["", "DISTINCT "]);
                let text = text![format!("string_agg({distinct}"), x, ", '/' ORDER BY ", x, ")"];
                (text, Wrap::Nothing, Kind::Text)
            }
            Kind::Json => (text!["count(DISTINCT ", x, " -> 'a')"], Wrap::Nothing, Kind::Big),
            Kind::Ints => {
                self.note("user-defined aggregate");
                (text!["total(cardinality(", x, "))"], Wrap::Nothing, Kind::Big)
            }
            _ => (text!["max(", x, ")"], Wrap::Nothing, *kind),
        }
    }

    /// Values in a container.
    fn collected(&mut self, Column { text: x, kind }: &Column) -> (Text, Wrap, Kind) {
        self.note("ORDER BY inside");
        match kind {
            Kind::Int => {
                let distinct = self.pick(&["", "DISTINCT "]);
                (
                    text![format!("array_agg({distinct}("), x, ")::int ORDER BY (", x, ")::int DESC)"],
                    Wrap::Nothing,
                    Kind::Ints,
                )
            }
            Kind::Big | Kind::Text if self.version >= 16 && self.one_in(3) => {
                self.note("JSON_ARRAYAGG");
                (text!["JSON_ARRAYAGG(", x, " ORDER BY ", x, " RETURNING jsonb)"], Wrap::Nothing, Kind::Json)
            }
            Kind::Big if self.one_in(3) => {
                self.note("range_agg");
                // Multiranges are the same in any order.
                let small = text!["(", x, " % 1000)::int"];
                let range = text!["range_agg(int4range(", &small, ", ", &small, ", '[]'))"];
                (range, Wrap::Shown, Kind::Text)
            }
            Kind::Text if self.one_in(3) => {
                self.note("jsonb_object_agg");
                let key = text!["coalesce(", x, ", '')"];
                (text!["jsonb_object_agg(", &key, ", ", &key, ")"], Wrap::Nothing, Kind::Json)
            }
            Kind::Big | Kind::Text if self.version >= 16 && self.one_in(2) => {
                self.note("JSON_OBJECTAGG");
                // Rows of one key must have one value.
                let key = text!["coalesce(", x, "::text, '')"];
                let text = text!["JSON_OBJECTAGG(", &key, " : ", &key, " RETURNING jsonb)"];
                (text, Wrap::Nothing, Kind::Json)
            }
            Kind::Big | Kind::Bool | Kind::Text => {
                (text!["jsonb_agg(", x, " ORDER BY ", x, ")"], Wrap::Nothing, Kind::Json)
            }
            Kind::Date | Kind::Stamp | Kind::Mood => {
                (text!["array_agg(DISTINCT ", x, ")"], Wrap::Cardinality, Kind::Int)
            }
            _ => (text!["count(DISTINCT ", x, ")"], Wrap::Nothing, Kind::Big),
        }
    }

    fn ordered_set(&mut self, Column { text: x, kind }: &Column) -> (Text, Wrap, Kind) {
        self.note("ordered-set aggregate");
        let share = self.pick(&["0.25", "0.5", "1"]);
        match self.rng.u32(..3) {
            0 if matches!(kind, Kind::Int | Kind::Float) => {
                let text = text![format!("percentile_cont({share}) WITHIN GROUP (ORDER BY "), x, "::float8)"];
                (text, Wrap::Nothing, Kind::Float)
            }
            1 => (text!["mode() WITHIN GROUP (ORDER BY ", x, ")"], Wrap::of_one(*kind), kind.loose()),
            _ => {
                let text = text![format!("percentile_disc({share}) WITHIN GROUP (ORDER BY "), x, " DESC)"];
                (text, Wrap::of_one(*kind), kind.loose())
            }
        }
    }

    fn hypothetical(&mut self, x: &Text) -> (Text, Wrap, Kind) {
        self.note("hypothetical-set aggregate");
        let (function, wrap, kind) = self.pick(&[
            ("rank", Wrap::Nothing, Kind::Big),
            ("dense_rank", Wrap::Nothing, Kind::Big),
            ("percent_rank", Wrap::Float, Kind::Num),
            ("cume_dist", Wrap::Float, Kind::Num),
        ]);
        (text![format!("{function}(2) WITHIN GROUP (ORDER BY "), x, ")"], wrap, kind)
    }

    /// Rounded: in floating point the last digits depend on the order of the rows.
    fn regression(&mut self, x: &Text, columns: &[Column]) -> (Text, Wrap, Kind) {
        self.note("regression");
        let numbers: Vec<Column> =
            columns.iter().filter(|c| c.kind.is_number() || c.kind == Kind::Float).cloned().collect();
        let y = self.pick(&numbers).text;
        let function = self.pick(&[
            "corr",
            "covar_pop",
            "covar_samp",
            "regr_avgx",
            "regr_avgy",
            "regr_count",
            "regr_intercept",
            "regr_r2",
            "regr_slope",
            "regr_sxx",
            "regr_sxy",
            "regr_syy",
        ]);
        // Small whole numbers: what shall be zero is then zero in any order.
        let small = |x: &Text| text!["floor(mod((", x, ")::numeric, 100))::float8"];
        (text![format!("{function}("), small(x), ", ", small(&y), ")"], Wrap::Float, Kind::Num)
    }
}

/// What has to be done with a result lest it depend on the way it was computed.
#[derive(Clone, Copy)]
enum Wrap {
    Nothing,
    Round,
    Numeric,
    Shown,
    Cardinality,
    Float,
    Trim,
}

impl Wrap {
    /// Of the result that is one of several equal values.
    fn of_one(kind: Kind) -> Wrap {
        if kind == Kind::Num { Wrap::Trim } else { Wrap::Nothing }
    }
}
