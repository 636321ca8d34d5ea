//! UNION, INTERSECT, EXCEPT, DISTINCT, DISTINCT ON.

use super::kinds::Kind;
use super::query::{Column, Relation, Writer, listed};
use super::text::{Text, text};

impl Writer<'_> {
    pub fn set_operation(&mut self, depth: u32) -> Relation {
        let below = self.rng.u32(..depth);
        let left = self.relation(below);
        let kinds = left.kinds.clone();
        let mut branches = vec![left.sql];
        let mut rows = left.rows;
        for _ in 0..self.rng.usize(1..=2) {
            let branch = self.branch(&kinds, depth);
            rows += branch.rows;
            branches.push(branch.sql);
        }
        let mut sql = text!["(", branches.remove(0), ")"];
        for branch in branches {
            let operator =
                self.pick(&["UNION ALL", "UNION ALL", "UNION", "INTERSECT", "INTERSECT ALL", "EXCEPT", "EXCEPT ALL"]);
            self.note(operator);
            let branch = text!["(", branch, ")"];
            // Parentheses, lest INTERSECT bind more tightly than what stands before it.
            sql = text!["((", sql, format!(") {operator} "), branch, ")"];
        }
        let kinds = kinds.into_iter().map(Kind::loose).collect();
        let united = Relation { sql, kinds, rows };
        let source = self.derived(united);
        self.assemble(&source.columns.clone(), &source, "")
    }

    /// Another query with columns of the same kinds, mostly of the same values.
    fn branch(&mut self, kinds: &[Kind], depth: u32) -> Relation {
        let input = self.input(depth);
        let columns: Vec<Column> = kinds.iter().map(|kind| self.column_of(&input.columns, *kind)).collect();
        let rest = self.filter(&input.columns, 0);
        self.assemble(&columns, &input, rest)
    }

    fn column_of(&mut self, columns: &[Column], kind: Kind) -> Column {
        let fitting: Vec<Column> = columns.iter().filter(|column| column.kind == kind).cloned().collect();
        let text = match fitting.is_empty() {
            true => self.literal(kind).into(),
            false => self.pick(&fitting).text,
        };
        Column::new(text!["(", text, format!(")::{}", kind.sql())], kind)
    }

    pub fn distinct(&mut self, depth: u32) -> Relation {
        self.note("DISTINCT");
        let input = self.input(depth);
        let outputs = self.some(&input.columns, 1, 3);
        let rest = if self.one_in(3) { self.filter(&input.columns, 0) } else { "".into() };
        let selected = self.assemble(&outputs, &input, rest);
        let source = self.derived(selected);
        let sql = text!["SELECT DISTINCT ", super::query::select_list(&source.columns), " FROM ", source.from];
        Relation { sql, kinds: outputs.iter().map(|column| column.kind).collect(), rows: input.rows.min(40.0) }
    }

    /// The first row of each group in a total order.
    pub fn distinct_on(&mut self, depth: u32) -> Relation {
        self.note("DISTINCT ON");
        let input = self.input(depth);
        let keys = self.some(&input.columns, 1, 2);
        let first: Vec<Text> = keys.iter().map(|key| self.ordered(key)).collect();
        let order = self.total_order(&input.columns);
        let outputs = self.some(&input.columns, 1, 4);
        let limit = if self.one_in(6) { format!(" LIMIT {}", self.rng.u32(1..4)) } else { String::new() };
        let sql = text![
            "SELECT DISTINCT ON (",
            listed(&keys),
            ") ",
            super::query::select_list(&outputs),
            " FROM ",
            &input.from,
            " ORDER BY ",
            Text::list(first, ", "),
            ", ",
            order,
            limit
        ];
        Relation { sql, kinds: outputs.iter().map(|column| column.kind).collect(), rows: input.rows.min(20.0) }
    }

    /// ORDER BY … LIMIT in a total order, or WITH TIES.
    pub fn top_k(&mut self, depth: u32) -> Relation {
        let input = self.input(depth);
        let count = self.rng.u32(1..8);
        let limit = match self.rng.u32(..7) {
            0 => {
                self.note("WITH TIES");
                let column = self.pick(&input.columns);
                text![" ORDER BY ", self.ordered(&column), format!(" FETCH FIRST {count} ROWS WITH TIES")]
            }
            1 | 2 => {
                self.note("OFFSET");
                let order = self.total_order(&input.columns);
                text![" ORDER BY ", order, format!(" LIMIT {count} OFFSET {}", self.rng.u32(1..5))]
            }
            3 => {
                self.note("OFFSET");
                text![" ORDER BY ", self.total_order(&input.columns), format!(" OFFSET {count}")]
            }
            4 => {
                self.note("LIMIT of a subquery");
                let (order, clause) = (self.total_order(&input.columns), self.pick(&["LIMIT", "OFFSET"]));
                let number = text!["(SELECT count(*) / 4 FROM ", self.base().from, ")"].or(count.to_string());
                text![" ORDER BY ", order, format!(" {clause} "), number]
            }
            _ => {
                self.note("LIMIT");
                text![" ORDER BY ", self.total_order(&input.columns), format!(" LIMIT {count}")]
            }
        };
        let condition = if self.one_in(3) { self.filter(&input.columns, 0) } else { "".into() };
        let outputs = self.some(&input.columns, 1, 4);
        let limited = self.assemble(&outputs, &input, text![condition, limit.optional()]);
        Relation { rows: f64::from(count), ..limited }
    }
}
