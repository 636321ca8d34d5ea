//! Joins of every kind, and LATERAL.

use super::kinds::Kind;
use super::query::{Column, MANY, Named, Relation, Source, Writer, listed};
use super::text::{Text, text};

impl Writer<'_> {
    pub fn join(&mut self, depth: u32) -> Relation {
        let (left, right) = self.sides(depth);
        if self.one_in(6)
            && let Some(relation) = self.join_using(&left, &right)
        {
            return relation;
        }
        let mut source = self.joined(&left, &right, depth);
        if self.one_in(4) && source.rows < 200.0 {
            let third = self.base();
            source = self.joined(&source, &third, 0);
        }
        let rest = if self.one_in(3) { self.filter(&source.columns, depth - 1) } else { "".into() };
        self.select(&source, rest)
    }

    /// Two inputs whose join stays small.
    fn sides(&mut self, depth: u32) -> (Source, Source) {
        let (mut left, mut right) = (self.input(depth), self.input(depth));
        if left.rows * right.rows / 6.0 > MANY {
            right = self.base();
        }
        if left.rows * right.rows / 6.0 > MANY {
            left = self.base();
        }
        (left, right)
    }

    fn joined(&mut self, left: &Source, right: &Source, depth: u32) -> Source {
        let columns: Vec<Column> = left.columns.iter().chain(&right.columns).cloned().collect();
        let small = left.rows * right.rows < MANY;
        let pair = self.matching(&left.columns, &right.columns);
        let (kind, on, share) = match (pair, self.rng.u32(..12)) {
            (None, _) if !small => return left.clone(),
            (None, _) | (_, 0) if small => ("CROSS JOIN", Text::from(""), 1.0),
            (None, _) => return left.clone(),
            (Some(_), 1) if small && self.one_in(3) => ("FULL JOIN", text![" ON ", self.pick(&["true", "false"])], 1.0),
            (Some(_), 1) if small => {
                let kind = self.pick(&["LEFT JOIN", "RIGHT JOIN", "JOIN"]);
                (kind, text![" ON ", self.condition(&columns, depth.saturating_sub(1))], 0.6)
            }
            (Some((a, b)), 2) if small => {
                let operator = self.pick(&["<", ">=", "<>"]);
                (self.pick(&["LEFT JOIN", "RIGHT JOIN", "JOIN"]), text![" ON ", a, format!(" {operator} "), b], 0.6)
            }
            (Some((a, b)), 3) => {
                (self.pick(&["LEFT JOIN", "JOIN"]), text![" ON ", a, " IS NOT DISTINCT FROM ", b], 0.2)
            }
            (Some((a, b)), _) => {
                let mut on = text![a, " = ", b];
                if self.one_in(3) {
                    let more = if self.one_in(2) {
                        self.term(&columns)
                    } else {
                        self.condition(&columns, depth.saturating_sub(1))
                    };
                    on = Text::list([on, more], " AND ");
                }
                let kind = self.pick(&["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
                (kind, text![" ON ", on], 0.17)
            }
        };
        self.note(match kind {
            "CROSS JOIN" => "cross join",
            "LEFT JOIN" => "left join",
            "RIGHT JOIN" => "right join",
            "FULL JOIN" => "full join",
            _ => "inner join",
        });
        let rows = (left.rows * right.rows * share).max(left.rows);
        let from = text![&left.from, format!(" {kind} "), &right.from, on].or(&left.from);
        Source { from, columns, rows }
    }

    /// A pair of columns that can be equal, if there is any.
    pub fn matching(&mut self, left: &[Column], right: &[Column]) -> Option<(Text, Text)> {
        let fits = |l: &Column, r: &Column| l.kind.compares_with(r.kind);
        let pairs: Vec<(Text, Text)> = left
            .iter()
            .flat_map(|l| right.iter().filter(|r| fits(l, r)).map(|r| (l.text.clone(), r.text.clone())))
            .collect();
        (!pairs.is_empty()).then(|| self.pick(&pairs))
    }

    /// USING and NATURAL: both sides get a column of the same name.
    fn join_using(&mut self, left: &Source, right: &Source) -> Option<Relation> {
        let key = left.columns.iter().find(|l| right.columns.iter().any(|r| r.kind == l.kind))?.kind;
        let (a, b) = (self.renamed(left, key, "l")?, self.renamed(right, key, "r")?);
        let kind = self.pick(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let from = if self.one_in(2) {
            self.note("natural join");
            text![a.from, format!(" NATURAL {kind} "), b.from]
        } else {
            self.note("join using");
            text![a.from, format!(" {kind} "), b.from, " USING (k)"]
        };
        let mut columns: Vec<Column> = a.columns.into_iter().chain(b.columns).collect();
        columns.push(Column::new("k", key));
        let rows = left.rows * right.rows / 6.0;
        Some(self.select(&Source { from, columns, rows }, ""))
    }

    /// A source with its first column of a kind as `k`, up to two others as `l1`, `l2`.
    fn renamed(&mut self, source: &Source, key: Kind, letter: &str) -> Option<Source> {
        let k = source.columns.iter().find(|column| column.kind == key)?.clone();
        let others = self.some(&source.columns, 1, 2);
        let name = |(i, c): (usize, &Column)| (format!("{letter}{}", i + 1), c.kind);
        let names: Vec<(String, Kind)> = others.iter().enumerate().map(name).collect();
        let outputs = others.iter().zip(&names).map(|(c, (name, _))| text![&c.text, format!(" AS {name}")]);
        let list = Text::list([text![k.text, " AS k"]].into_iter().chain(outputs), ", ");
        let alias = self.alias();
        let from = text!["(SELECT ", list, " FROM ", &source.from, format!(") AS {alias}")];
        let columns = names.into_iter().map(|(name, kind)| Column::new(format!("{alias}.{name}"), kind)).collect();
        Some(Source { from, columns, rows: source.rows })
    }

    /// A subquery in FROM that depends on what stands before it.
    pub fn lateral(&mut self, depth: u32) -> Relation {
        self.note("lateral subquery");
        let (left, inner) = self.sides(depth);
        let inside = self.correlated(&left.columns, inner.clone());
        let mut rows = left.rows * 2.0;
        let relation = match self.rng.u32(..5) {
            0 => {
                let call = self.aggregate_call(&inner.columns);
                self.assemble(&[call], &inner, inside)
            }
            4 => self.recursion_from(&left.columns),
            1 => {
                let order = self.total_order(&inner.columns);
                let outputs = self.some(&inner.columns, 1, 3);
                self.note("lateral top-k");
                let limit = self.rng.u32(1..3);
                self.assemble(&outputs, &inner, text![inside, " ORDER BY ", order, format!(" LIMIT {limit}")])
            }
            _ => {
                rows = left.rows * inner.rows / 4.0;
                self.select(&inner, inside)
            }
        };
        let right = self.derived(relation);
        let joined =
            self.pick(&[(", LATERAL ", ""), (" CROSS JOIN LATERAL ", ""), (" LEFT JOIN LATERAL ", " ON true")]);
        let from = text![&left.from, joined.0, right.from, joined.1];
        let columns = left.columns.into_iter().chain(right.columns).collect();
        self.select(&Source { from, columns, rows }, "")
    }

    /// A WHERE clause that ties rows inside to the row outside.
    pub fn correlated(&mut self, outside: &[Column], inner: Source) -> Text {
        let tie = match self.matching(outside, &inner.columns) {
            Some((a, b)) => {
                let operator = self.pick(&["=", "=", "=", "<", "IS NOT DISTINCT FROM"]);
                text![a, format!(" {operator} "), b]
            }
            None => self.term(outside),
        };
        let more = if self.one_in(3) { vec![tie, self.term(&inner.columns)] } else { vec![tie] };
        text![" WHERE ", Text::list(more, " AND ")].optional()
    }

    /// WITH: a query that is named and used once or several times.
    pub fn common_table(&mut self, depth: u32) -> Relation {
        let below = self.rng.u32(..depth);
        let shared = self.relation(below);
        let name = format!("w{}", self.alias());
        let columns: Vec<(String, Kind)> =
            shared.kinds.iter().enumerate().map(|(i, k)| (format!("x{}", i + 1), *k)).collect();
        let table = Named { name: name.clone(), columns, rows: shared.rows, traits: vec![] };
        let hint = self.pick(&["", "", " MATERIALIZED", " NOT MATERIALIZED"]);
        let used = if self.one_in(3) { self.used_once(&table) } else { self.used_twice(&table) };
        let simpler = Text::from(format!("SELECT {} FROM {}", listed_names(&table), self.sources[0].name));
        let sql = text![format!("WITH {name} AS{hint} ("), shared.sql.or(simpler), ") ", used.sql];
        Relation { sql, ..used }
    }

    fn used_once(&mut self, table: &Named) -> Relation {
        self.note("CTE used once");
        let source = self.of(table);
        let rest = self.filter(&source.columns, 0);
        self.select(&source, rest)
    }

    fn used_twice(&mut self, table: &Named) -> Relation {
        self.note("CTE used twice");
        let (left, right) = (self.of(table), self.of(table));
        if left.rows * right.rows / 6.0 < MANY && self.one_in(2) {
            let source = self.joined(&left, &right, 0);
            return self.select(&source, "");
        }
        let (a, b) = (self.filter(&left.columns, 0), self.filter(&right.columns, 0));
        let operator = self.pick(&["UNION ALL", "UNION", "EXCEPT ALL", "INTERSECT"]);
        let sql = text![
            text!["SELECT ", listed(&left.columns), " FROM ", left.from, a],
            format!(" {operator} "),
            text!["SELECT ", listed(&right.columns), " FROM ", right.from, b],
        ];
        let outer = self.derived(Relation {
            sql,
            kinds: table.columns.iter().map(|(_, k)| *k).collect(),
            rows: left.rows * 2.0,
        });
        self.select(&outer, "")
    }

    fn of(&mut self, table: &Named) -> Source {
        let alias = self.alias();
        let columns = table.columns.iter().map(|(name, kind)| Column::new(format!("{alias}.{name}"), *kind)).collect();
        Source { from: format!("{} AS {alias}", table.name).into(), columns, rows: table.rows }
    }
}

fn listed_names(table: &Named) -> String {
    let name = |(name, kind): &(String, Kind)| format!("NULL::{} AS {name}", kind.sql());
    table.columns.iter().map(name).collect::<Vec<_>>().join(", ")
}
