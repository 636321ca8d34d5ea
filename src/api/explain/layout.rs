//! Statements laid out for reading: a clause begins a line, a subquery that does not fit into one is indented. Only white space
//! changes, so what is shown can be run.

/// Wider lines are broken where there is a place for it.
const WIDTH: usize = 110;

/// Words that begin a line, if they stand where clauses do.
const CLAUSES: &[&str] = &[
    "FROM",
    "WHERE",
    "GROUP BY",
    "HAVING",
    "ORDER BY",
    "LIMIT",
    "UNION",
    "EXCEPT",
    "INTERSECT",
    "JOIN",
    "LEFT JOIN",
    "RIGHT JOIN",
    "FULL JOIN",
    "CROSS JOIN",
    "INNER JOIN",
    "USING (",
    "WHEN MATCHED",
    "WHEN NOT MATCHED",
    "SET",
    "SELECT",
    "RETURNING",
];

/// A piece of a statement: something without clauses of its own, or a subquery in parentheses.
enum Piece {
    Text(String),
    Query(Vec<Piece>),
}

/// The statement in lines, each indented by `indent` at least.
pub(super) fn lines(sql: &str, indent: usize) -> Vec<String> {
    let mut rest = tokens(sql).into_iter();
    let mut out = Lines { done: Vec::new(), line: " ".repeat(indent), indent };
    out.put_all(&pieces(&mut rest), indent);
    out.end(indent);
    out.done
}

/// Words, quoted things and parentheses, each with the space before it.
fn tokens(sql: &str) -> Vec<String> {
    let (mut tokens, mut token, mut quote) = (Vec::new(), String::new(), None);
    for c in sql.chars() {
        match quote {
            Some(open) => {
                token.push(c);
                if c == open {
                    quote = None;
                }
                continue;
            }
            None if c == ' ' || c == '\n' => {
                tokens.push(std::mem::take(&mut token));
                token.push(' ');
                continue;
            }
            None if c == '(' || c == ')' => {
                tokens.push(std::mem::take(&mut token));
                tokens.push(c.to_string());
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            None => {}
        }
        token.push(c);
    }
    tokens.push(token);
    // A space that stands alone belongs to what follows it.
    let (mut joined, mut space) = (Vec::<String>::new(), "");
    for token in tokens.into_iter().filter(|token| !token.is_empty()) {
        if token == " " {
            space = " ";
        } else {
            joined.push(format!("{}{token}", if token.starts_with(' ') { "" } else { space }));
            space = "";
        }
    }
    joined
}

/// Up to the parenthesis that closes what is being read.
fn pieces(rest: &mut std::vec::IntoIter<String>) -> Vec<Piece> {
    let mut found = Vec::new();
    while let Some(token) = rest.next() {
        match token.trim() {
            ")" => break,
            "(" => {
                let inner = pieces(rest);
                let begins = |word: &str| matches!(inner.first(), Some(Piece::Text(text)) if text.trim() == word);
                if begins("SELECT") || begins("VALUES") {
                    found.push(Piece::Text(token));
                    found.push(Piece::Query(inner));
                } else {
                    // Arguments and conditions stay together, whatever is in them.
                    found.push(Piece::Text(format!("{token}{})", flat(&inner))));
                }
            }
            _ => found.push(Piece::Text(token)),
        }
    }
    found
}

fn flat(pieces: &[Piece]) -> String {
    let print = |piece: &Piece| match piece {
        Piece::Text(text) => text.clone(),
        Piece::Query(inner) => format!("{})", flat(inner)),
    };
    pieces.iter().map(print).collect()
}

struct Lines {
    done: Vec<String>,
    line: String,
    /// Of the line that is being written.
    indent: usize,
}

impl Lines {
    fn end(&mut self, next: usize) {
        let line = std::mem::replace(&mut self.line, " ".repeat(next));
        if !line.trim().is_empty() {
            self.done.push(line.trim_end().to_owned());
        }
        self.indent = next;
    }

    fn put(&mut self, text: &str) {
        let begun = self.line.len() > self.indent;
        self.line.push_str(if begun { text } else { text.trim_start() });
    }

    /// A query whose clauses begin at this indent.
    fn put_all(&mut self, all: &[Piece], indent: usize) {
        if self.line.chars().count() + flat(all).chars().count() <= WIDTH {
            return self.put(&flat(all));
        }
        let mut before = "";
        for (at, piece) in all.iter().enumerate() {
            match piece {
                Piece::Text(text) => {
                    let follows = flat(&all[at..(at + 3).min(all.len())]);
                    if before != "DISTINCT" && begins_clause(follows.trim_start()) && !joins(before) {
                        self.end(indent);
                    } else if self.line.chars().count() + follows.chars().count() > WIDTH && may_break(before, text) {
                        self.end(indent + 4);
                    }
                    self.put(text);
                    before = text.trim();
                }
                Piece::Query(inner) => {
                    let whole = format!("{})", flat(inner));
                    if self.line.chars().count() + whole.chars().count() <= WIDTH {
                        self.put(&whole);
                    } else {
                        self.end(indent + 4);
                        self.put_all(inner, indent + 4);
                        self.put(")");
                    }
                    before = ")";
                }
            }
        }
    }
}

fn begins_clause(text: &str) -> bool {
    let fits = |clause: &&&str| {
        text.strip_prefix(**clause)
            .is_some_and(|rest| rest.is_empty() || !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    CLAUSES.iter().find(fits).is_some()
}

/// Between items of a list and before a condition there is a place for the end of a line.
fn may_break(before: &str, text: &str) -> bool {
    before.ends_with(',') || matches!(text.trim(), "ON" | "AND" | "OR" | "VALUES")
}

/// Words that belong to the next one: they have begun the line.
fn joins(word: &str) -> bool {
    matches!(word, "LEFT" | "RIGHT" | "FULL" | "CROSS" | "INNER" | "INSERT" | "UPDATE")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_statements_stay_in_one_line() {
        assert_eq!(
            lines("SELECT a FROM t WHERE b IN (SELECT c FROM u)", 2),
            ["  SELECT a FROM t WHERE b IN (SELECT c FROM u)"]
        );
    }

    #[test]
    fn clauses_begin_lines_and_subqueries_are_indented() {
        let sql = "SELECT coalesce(sum(a), 0) AS first_sum, 'it''s (SELECT not) FROM here' AS text FROM (SELECT x.a, x.b FROM some_table AS x LEFT JOIN another_table AS y ON x.a IS NOT DISTINCT FROM y.a WHERE x.b > 10) AS d(a, b) UNION ALL SELECT 1, 'x' FROM u GROUP BY 1";
        assert_eq!(
            lines(sql, 0).join("\n"),
            "SELECT coalesce(sum(a), 0) AS first_sum, 'it''s (SELECT not) FROM here' AS text
FROM (
    SELECT x.a, x.b
    FROM some_table AS x
    LEFT JOIN another_table AS y ON x.a IS NOT DISTINCT FROM y.a
    WHERE x.b > 10) AS d(a, b)
UNION ALL
SELECT 1, 'x'
FROM u
GROUP BY 1"
        );
    }

    #[test]
    fn only_white_space_changes() {
        let sql = format!(
            "MERGE INTO t USING (SELECT {} FROM \"a b\") AS d ON t.a = d.a WHEN MATCHED THEN UPDATE SET a = (d.b) WHEN NOT MATCHED THEN INSERT (a) VALUES (d.b)",
            vec!["column_name"; 30].join(", ")
        );
        let bare = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
        let laid = lines(&sql, 2);
        assert_eq!(bare(&laid.concat()), bare(&sql));
        assert!(laid.len() > 5 && laid.iter().all(|line| line.len() <= WIDTH + 20), "{laid:#?}");
    }
}
