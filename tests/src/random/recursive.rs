//! WITH RECURSIVE that ends: a counter, or values from a finite set that UNION adds once.

use super::kinds::Kind;
use super::query::{Column, Relation, Source, Writer};
use super::text::{Text, text};

impl Writer<'_> {
    pub fn recursive(&mut self, depth: u32) -> Relation {
        self.note("WITH RECURSIVE");
        let edges = self.base();
        let wholes: Vec<Column> = edges.columns.iter().filter(|column| column.kind == Kind::Int).cloned().collect();
        let below = self.rng.u32(..depth);
        let seeds = self.input_of(below.min(1));
        let starts: Vec<Column> = seeds.columns.iter().filter(|column| column.kind == Kind::Int).cloned().collect();
        if wholes.len() < 2 || starts.is_empty() {
            return self.counting(&seeds);
        }
        // Both terms must have the very same types.
        let int = |x: &Text| text!["(", x, ")::int"];
        let (from, to) = (wholes[0].text.clone(), int(&wholes[1].text));
        let start = int(&self.pick(&starts).text);
        let condition = self.filter(&seeds.columns, 0);
        let name = format!("r{}", self.alias());
        if self.one_in(3) {
            return match self.one_in(2) {
                true => self.cycle(&name, (&from, &to, &edges.from), (&start, &text![&seeds.from, condition])),
                false => self.rounds(&name, (&from, &to, &edges.from), (&start, &text![&seeds.from, condition])),
            };
        }
        let (columns, first, next, rows) = match self.rng.u32(..3) {
            // Reachability: a finite set of numbers.
            0 => ("a", text![&start], text![&to], 30.0),
            // Pairs, also from a finite set.
            1 => ("a, b", text![&start, ", ", &start], text![&to, format!(", {name}.b")], 100.0),
            // With the number of steps, which is bounded.
            _ => ("a, b", text![&start, ", 0"], text![&to, format!(", {name}.b + 1")], 100.0),
        };
        let bound = if columns == "a, b" && next.to_string().ends_with("+ 1") {
            format!(" AND {name}.b < 3")
        } else {
            String::new()
        };
        let more = if self.one_in(3) { text![" AND ", self.term(&edges.columns)].optional() } else { "".into() };
        let term = text![
            "SELECT ",
            next,
            format!(" FROM {name} JOIN "),
            edges.from,
            " ON ",
            from,
            format!(" = {name}.a"),
            " WHERE true",
            bound,
            more
        ];
        let body = text!["SELECT ", first, " FROM ", seeds.from, condition, " UNION ", term];
        self.around(&name, columns, body, rows)
    }

    /// CYCLE ends what UNION ALL would not; SEARCH beside it is only looked at.
    fn cycle(&mut self, name: &str, edge: (&Text, &Text, &Text), seed: (&Text, &Text)) -> Relation {
        let (from, to, edges) = edge;
        self.note("CYCLE");
        let operator = self.pick(&["UNION", "UNION"]);
        let search = self.pick(&["", "", " SEARCH DEPTH FIRST BY a SET seq", " SEARCH BREADTH FIRST BY a, b SET seq"]);
        let clauses = format!("{search} CYCLE a SET again USING path");
        let head = text!["SELECT DISTINCT ", seed.0, ", 0 FROM ", seed.1];
        let term = text![
            "SELECT ",
            to,
            format!(", {name}.b + 1 FROM {name} JOIN "),
            edges,
            " ON ",
            from,
            format!(" = {name}.a AND {name}.b < 4")
        ];
        let alias = self.alias();
        let columns = [
            Column::new(format!("{alias}.a"), Kind::Int),
            Column::new(format!("{alias}.again"), Kind::Bool),
            Column::new(format!("cardinality({alias}.path)"), Kind::Int),
            Column::new(format!("{alias}.path::text"), Kind::Text),
        ];
        let source = Source { from: format!("{name} AS {alias}").into(), columns: columns.to_vec(), rows: 100.0 };
        let outputs = self.some(&columns, 1, 4);
        let outer = self.assemble(&outputs, &source, "");
        let body = text![head, format!(" {operator} "), term];
        Relation {
            sql: text![format!("WITH RECURSIVE {name}(a, b) AS ("), body, format!("){clauses} "), outer.sql],
            ..outer
        }
    }

    /// A step that takes the rows of the round before as a whole.
    fn rounds(&mut self, name: &str, edge: (&Text, &Text, &Text), seed: (&Text, &Text)) -> Relation {
        let (from, to, edges) = edge;
        self.note("recursion over whole rounds");
        let operator = self.pick(&["UNION", "UNION ALL"]);
        let joined =
            text![format!(" FROM {name} JOIN "), edges, " ON ", from, format!(" = {name}.a WHERE {name}.b < 3")];
        let term = match self.rng.u32(..3) {
            0 => text!["SELECT DISTINCT ", to, format!(", {name}.b + 1"), joined],
            1 => text![
                "SELECT g.a, g.b FROM (SELECT p.a, max(p.b) + 1 AS b FROM (SELECT ",
                to,
                format!(" AS a, {name}.b"),
                joined,
                ") p GROUP BY p.a) g"
            ],
            _ => text![
                "SELECT g.a, g.b FROM (SELECT ",
                to,
                format!(" AS a, {name}.b + 1 AS b"),
                joined,
                " ORDER BY 1, 2 LIMIT 5) g"
            ],
        };
        let head = text!["SELECT ", seed.0, ", 0 FROM ", seed.1];
        self.around(name, "a, b", text![head, format!(" {operator} "), term], 60.0)
    }

    /// A recursion that begins with a column of the row outside.
    pub fn recursion_from(&mut self, outside: &[Column]) -> Relation {
        let edges = self.base();
        let wholes: Vec<Column> = edges.columns.iter().filter(|column| column.kind == Kind::Int).cloned().collect();
        let starts: Vec<Column> = outside.iter().filter(|column| column.kind == Kind::Int).cloned().collect();
        let (Some(start), true) = (starts.first(), wholes.len() > 1) else {
            return self.select(&edges, "");
        };
        self.note("recursion for each row outside");
        let name = format!("r{}", self.alias());
        let (start, to) = (text!["(", &start.text, ")::int"], text!["(", &wholes[1].text, ")::int"]);
        let joined = text![format!(" FROM {name} JOIN "), edges.from, " ON ", &wholes[0].text, format!(" = {name}.a")];
        let body = text![
            "SELECT ",
            &start,
            ", 0 UNION SELECT ",
            to,
            format!(", {name}.b + 1"),
            joined,
            format!(" WHERE {name}.b < 3"),
            text![format!(" AND {name}.a <> "), start].optional()
        ];
        self.around(&name, "a, b", body, 20.0)
    }

    /// Each number counts down.
    fn counting(&mut self, seeds: &Source) -> Relation {
        let name = format!("r{}", self.alias());
        let wholes: Vec<Column> = seeds.columns.iter().filter(|column| column.kind.is_whole()).cloned().collect();
        let start: Text = match wholes.first() {
            Some(column) => text!["(abs(", &column.text, ") % 5)::int"],
            None => "4".into(),
        };
        let operator = self.pick(&["UNION", "UNION ALL"]);
        let condition = self.filter(&seeds.columns, 0);
        let body = text![
            "SELECT ",
            start,
            ", 1 FROM ",
            &seeds.from,
            condition,
            format!(" {operator} SELECT {name}.a - 1, {name}.b + 1 FROM {name} WHERE {name}.a > 0")
        ];
        self.around(&name, "a, b", body, seeds.rows * 3.0)
    }

    fn around(&mut self, name: &str, columns: &str, body: Text, rows: f64) -> Relation {
        let alias = self.alias();
        let columns_outside = columns.split(", ").map(|c| Column::new(format!("{alias}.{c}"), Kind::Int)).collect();
        let source = Source { from: format!("{name} AS {alias}").into(), columns: columns_outside, rows };
        let outer = match self.rng.u32(..3) {
            0 => {
                let call = self.aggregate_call(&source.columns);
                let key = source.columns[0].clone();
                self.assemble(&[key.clone(), call], &source, text![" GROUP BY ", key.text])
            }
            _ => {
                let rest = if self.one_in(3) { self.filter(&source.columns, 0) } else { "".into() };
                self.assemble(&source.columns, &source, rest)
            }
        };
        Relation { sql: text![format!("WITH RECURSIVE {name}({columns}) AS ("), body, ") ", outer.sql], ..outer }
    }
}
