//! Window functions in all frames. Orders are total unless the function gives peers the same value. Identical rows still
//! have no order among themselves, so of the functions that number rows only one appears: which of two identical rows is
//! the first could be answered differently by two of them.

use super::kinds::Kind;
use super::query::{Column, Relation, Source, Writer, listed};
use super::text::{Text, text};

impl Writer<'_> {
    pub fn window(&mut self, depth: u32) -> Relation {
        self.note("window");
        if self.one_in(5) {
            return self.window_over_aggregate(depth);
        }
        let input = self.input(depth);
        let mut outputs = self.some(&input.columns, 1, 2);
        let mut rest = if self.one_in(3) { self.filter(&input.columns, 0) } else { "".into() };
        let named = self.one_in(4);
        if named {
            let order = self.total_order(&input.columns);
            rest = text![rest, " WINDOW w AS (", self.partition(&input), "ORDER BY ", order, ")"];
            outputs.push(Column::new("row_number() OVER w", Kind::Big));
        }
        let mut numbered = named;
        for _ in 0..self.rng.usize(1..=2) {
            outputs.push(self.call_over(&input, numbered));
            numbered = true;
        }
        self.rng.shuffle(&mut outputs);
        let relation = self.assemble(&outputs, &input, rest);
        if self.one_in(3) {
            return self.filtered_by_rank(relation);
        }
        relation
    }

    /// As top-n per group is written: a condition on what the window says.
    fn filtered_by_rank(&mut self, relation: Relation) -> Relation {
        let source = self.derived(relation);
        let condition = self.filter(&source.columns, 0);
        self.select(&source, condition)
    }

    fn partition(&mut self, input: &Source) -> Text {
        if self.one_in(3) {
            return "".into();
        }
        let keys = self.some(&input.columns, 1, 2);
        text!["PARTITION BY ", listed(&keys), " "].optional()
    }

    /// A call that does not tell identical rows apart if they are numbered already.
    fn call_over(&mut self, input: &Source, numbered: bool) -> Column {
        let partition = self.partition(input);
        match self.rng.u32(..4) {
            0 => self.ranking(input, partition, numbered),
            1 if !numbered => self.neighbour(input, partition),
            _ => self.framed_aggregate(input, partition, numbered),
        }
    }

    /// Peers get the same value: any order will do.
    fn ranking(&mut self, input: &Source, partition: Text, numbered: bool) -> Column {
        let all = [
            ("rank()", Kind::Big),
            ("dense_rank()", Kind::Big),
            ("percent_rank()", Kind::Num),
            ("cume_dist()", Kind::Num),
            ("row_number()", Kind::Big),
            ("ntile(3)", Kind::Int),
        ];
        let (call, kind) = self.pick(if numbered { &all[..4] } else { &all });
        let order = match call {
            "row_number()" | "ntile(3)" => self.total_order(&input.columns),
            _ => {
                let column = self.pick(&input.columns);
                self.ordered(&column)
            }
        };
        let text = text![call, " OVER (", partition, "ORDER BY ", order, ")"];
        Column::new(if kind == Kind::Num { text!["round(", text, "::numeric, 6)"] } else { text }, kind)
    }

    fn neighbour(&mut self, input: &Source, partition: Text) -> Column {
        let column = self.pick(&input.columns);
        let x = &column.text;
        let framed = self.one_in(2);
        let call = match (framed, self.rng.u32(..3)) {
            (false, 0) => text!["lag(", x, ")"],
            (false, 1) => text!["lead(", x, ", 2)"],
            (false, _) => text!["lag(", x, ", 1, ", x, ")"],
            (true, 0) => text!["first_value(", x, ")"],
            (true, 1) => text!["last_value(", x, ")"],
            (true, _) => text!["nth_value(", x, ", 2)"],
        };
        let frame = if framed { self.frame() } else { "".into() };
        let order = self.total_order(&input.columns);
        Column::new(text![call, " OVER (", partition, "ORDER BY ", order, frame, ")"], column.kind.loose())
    }

    fn framed_aggregate(&mut self, input: &Source, partition: Text, numbered: bool) -> Column {
        let column = self.pick(&input.columns);
        let (call, round, kind) = self.window_aggregate(&column);
        let offsets = |kind: Kind| kind.is_number() || matches!(kind, Kind::Float | Kind::Date | Kind::Stamp);
        let measured: Vec<Column> = input.columns.iter().filter(|c| offsets(c.kind)).cloned().collect();
        let order = match self.rng.u32(..if numbered { 3 } else { 5 }) {
            0 => "".into(),
            // The default frame ends with the peers of the current row.
            1 => text!["ORDER BY ", self.ordered(&column)],
            2 if !measured.is_empty() => {
                let key = self.pick(&measured);
                let direction = self.pick(&["", " DESC"]);
                let frame = self.pick(&[
                    " RANGE BETWEEN 1 PRECEDING AND 2 FOLLOWING",
                    " RANGE BETWEEN 2 PRECEDING AND CURRENT ROW EXCLUDE GROUP",
                    " RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING EXCLUDE GROUP",
                    " RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING",
                ]);
                self.note("RANGE frame");
                let days = matches!(key.kind, Kind::Date | Kind::Stamp);
                let frame = if days { frame.replace('1', "'1 day'").replace('2', "'14 days'") } else { frame.into() };
                text!["ORDER BY ", key.text, direction, frame]
            }
            _ if numbered => "".into(),
            _ => {
                let order = self.total_order(&input.columns);
                text!["ORDER BY ", order, self.frame()]
            }
        };
        let text = text![call, " OVER (", partition, order, ")"];
        Column::new(if round { text.rounded() } else { text }, kind)
    }

    fn window_aggregate(&mut self, Column { text: x, kind }: &Column) -> (Text, bool, Kind) {
        let filter = if self.one_in(6) { text![" FILTER (WHERE ", x, " IS NOT NULL)"] } else { "".into() };
        let sum = if *kind == Kind::Int { Kind::Big } else { Kind::Num };
        let (call, round, kind) = match self.rng.u32(..5) {
            0 => (text!["count(*)"], false, Kind::Big),
            1 if kind.is_number() => (text!["avg(", x, ")"], true, Kind::Num),
            2 if kind.has_extrema() && *kind != Kind::Num => (text!["max(", x, ")"], false, kind.loose()),
            3 if kind.has_extrema() && *kind != Kind::Num => (text!["min(", x, ")"], false, kind.loose()),
            _ if kind.is_number() => (text!["sum(", x, ")"], false, sum),
            _ if *kind == Kind::Text && self.version >= 16 => {
                self.note("JSON_OBJECTAGG");
                let key = text!["coalesce(", x, ", '')"];
                (text!["JSON_OBJECTAGG(", &key, " : ", &key, " RETURNING jsonb)"], false, Kind::Json)
            }
            _ if *kind == Kind::Float => (text!["sum(", x, ")"], false, Kind::Float),
            _ => (text!["count(", x, ")"], false, Kind::Big),
        };
        (text![call, filter], round, kind)
    }

    /// A frame that a total order makes definite.
    fn frame(&mut self) -> Text {
        let frame = self.pick(&[
            "",
            " ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
            " ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
            " ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
            " ROWS BETWEEN 3 PRECEDING AND 1 PRECEDING",
            " ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING",
            " ROWS BETWEEN 2 PRECEDING AND 2 FOLLOWING EXCLUDE CURRENT ROW",
            " GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW",
            " GROUPS BETWEEN 1 FOLLOWING AND 2 FOLLOWING",
            " GROUPS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW EXCLUDE GROUP",
            " GROUPS BETWEEN 2 PRECEDING AND 1 FOLLOWING EXCLUDE TIES",
            " RANGE BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING",
        ]);
        if let Some(mode) = frame.split_whitespace().next() {
            self.note(match mode {
                "ROWS" => "ROWS frame",
                "GROUPS" => "GROUPS frame",
                _ => "RANGE frame",
            });
        }
        Text::from(frame).optional()
    }

    fn window_over_aggregate(&mut self, depth: u32) -> Relation {
        self.note("window over aggregate");
        let input = self.input(depth);
        let keys = self.some(&input.columns, 1, 2);
        let over = match self.rng.u32(..3) {
            0 => Column::new(text!["rank() OVER (ORDER BY count(*) DESC)"], Kind::Big),
            1 => Column::new(text!["sum(count(*)) OVER (ORDER BY ", listed(&keys), ")"], Kind::Num),
            _ => Column::new(text!["count(*) OVER (PARTITION BY ", &keys[0].text, ")"], Kind::Big),
        };
        let mut outputs = keys.clone();
        outputs.push(over);
        outputs.push(self.aggregate_call(&input.columns));
        let relation = self.assemble(&outputs, &input, text![" GROUP BY ", listed(&keys)]);
        Relation { rows: input.rows.min(25.0), ..relation }
    }
}
