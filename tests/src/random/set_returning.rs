//! Set-returning functions, in FROM and in the select list.

use super::kinds::Kind;
use super::query::{Column, Named, Relation, Source, Writer};
use super::text::{Text, text};

impl Writer<'_> {
    pub fn functions_in_from(&mut self, depth: u32) -> Relation {
        self.note("function in FROM");
        let input = if self.version >= 17 && self.one_in(2) { self.documents(depth) } else { self.input(depth) };
        let documents: Vec<Column> = input.columns.iter().filter(|c| c.kind == Kind::Json).cloned().collect();
        let document = !documents.is_empty() && self.version >= 17 && !self.one_in(3);
        let alias = self.alias();
        let mut columns = input.columns.clone();
        let counted = document || self.one_in(3);
        let (call, kind, second) = if document {
            let document = self.pick(&documents);
            self.json_table(&document.text)
        } else {
            let column = self.pick(&input.columns);
            let (call, kind) = self.set_of(&column);
            (call, kind, Kind::Big)
        };
        columns.push(Column::new(format!("{alias}.v"), kind));
        let names = if counted { "(v, n)" } else { "(v)" };
        if counted {
            columns.push(Column::new(format!("{alias}.n"), second));
        }
        let counted = counted && !document;
        if counted {
            self.note("WITH ORDINALITY");
        }
        let ordinality = if counted { " WITH ORDINALITY" } else { "" };
        let (before, after) = self.pick(&[
            (", ", ""),
            (" CROSS JOIN LATERAL ", ""),
            (" LEFT JOIN LATERAL ", " ON true"),
            (" LEFT JOIN ", " ON true"),
        ]);
        let from = text![&input.from, before, call, format!("{ordinality} AS {alias}{names}"), after];
        let source = Source { from, columns, rows: input.rows * 2.0 };
        match self.rng.u32(..3) {
            0 => {
                let keys = self.some(&source.columns, 1, 1);
                let call = self.aggregate_call(&source.columns);
                self.assemble(&[keys[0].clone(), call], &source, text![" GROUP BY ", &keys[0].text])
            }
            _ => {
                let rest = if self.one_in(3) { self.filter(&source.columns, 0) } else { "".into() };
                self.select(&source, rest)
            }
        }
    }

    /// A source with documents, if there is one.
    fn documents(&mut self, depth: u32) -> Source {
        let has = |source: &Named| source.columns.iter().any(|(_, kind)| *kind == Kind::Json);
        let with: Vec<Named> = self.sources.iter().filter(|source| has(source)).cloned().collect();
        if with.is_empty() { self.input(depth) } else { self.one_of(&with) }
    }

    pub fn functions_in_select_list(&mut self, depth: u32) -> Relation {
        self.note("function in the select list");
        let input = self.input(depth);
        let mut outputs = self.some(&input.columns, 0, 2);
        for _ in 0..self.rng.usize(1..=2) {
            let column = self.pick(&input.columns);
            let (call, kind) = self.set_of(&column);
            outputs.push(Column::new(call, kind));
        }
        let rest = if self.one_in(3) { self.filter(&input.columns, 0) } else { "".into() };
        let relation = self.assemble(&outputs, &input, rest);
        Relation { rows: input.rows * 2.0, ..relation }
    }

    /// JSON_TABLE with two columns, and their kinds. Values of the wrong kind become NULL.
    fn json_table(&mut self, x: &Text) -> (Text, Kind, Kind) {
        self.note("JSON_TABLE");
        let (columns, first, second) = self.pick(&[
            ("'$[*]' COLUMNS (v text PATH '$', n FOR ORDINALITY)", Kind::Text, Kind::Int),
            ("'$' COLUMNS (v int PATH '$.a' DEFAULT 7 ON EMPTY, n boolean EXISTS PATH '$.b')", Kind::Int, Kind::Bool),
            ("'$.b[*]' COLUMNS (v int PATH '$', n jsonb PATH '$')", Kind::Int, Kind::Json),
            ("'$' COLUMNS (v text PATH '$.a', NESTED PATH '$.b[*]' COLUMNS (n int PATH '$'))", Kind::Text, Kind::Int),
            ("'$[*] ? (@ != 2)' COLUMNS (v int PATH '$', n FOR ORDINALITY)", Kind::Int, Kind::Int),
        ]);
        (text!["JSON_TABLE(", x, format!(", {columns})")], first, second)
    }

    /// A few rows made of a value.
    fn set_of(&mut self, Column { text: x, kind }: &Column) -> (Text, Kind) {
        match (kind, self.rng.u32(..3)) {
            (Kind::Int | Kind::Big, 0) => (text!["generate_series(1, least(abs(", x, "), 3))"], *kind),
            (Kind::Int | Kind::Big, _) => (text!["generate_series(0, (abs(", x, ") % 4)::int)"], Kind::Int),
            (Kind::Ints, _) => (text!["unnest(", x, ")"], Kind::Int),
            (Kind::Text, 0) => (text!["regexp_split_to_table(", x, ", '')"], Kind::Text),
            (Kind::Text, _) => (text!["unnest(string_to_array(", x, ", ' '))"], Kind::Text),
            (Kind::Json, 0) => {
                (text!["jsonb_object_keys(CASE jsonb_typeof(", x, ") WHEN 'object' THEN ", x, " END)"], Kind::Text)
            }
            (Kind::Json, 1) => (
                text!["jsonb_array_elements_text(CASE jsonb_typeof(", x, ") WHEN 'array' THEN ", x, " END)"],
                Kind::Text,
            ),
            (Kind::Json, _) => {
                (text!["jsonb_array_elements(CASE jsonb_typeof(", x, ") WHEN 'array' THEN ", x, " END)"], Kind::Json)
            }
            (Kind::Date, _) => (
                text!["generate_series(", x, "::timestamp, ", x, " + INTERVAL '2 days', INTERVAL '1 day')"],
                Kind::Stamp,
            ),
            (kind, _) => (text!["unnest(ARRAY[", x, format!(", NULL::{}])", kind.sql())], kind.loose()),
        }
    }
}
