//! The few expressions that the generator writes, evaluated.

use super::tables::{Row, Value};

/// The value of `text` over a row.
pub fn evaluate(text: &str, row: &Row) -> Value {
    let mut parser = Parser { tokens: tokens(text), at: 0, row };
    let value = parser.disjunction();
    assert_eq!(parser.at, parser.tokens.len(), "the rest of {text}");
    value
}

fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let start = i;
        let end = |i: usize, more: fn(char) -> bool| (i..chars.len()).find(|j| !more(chars[*j])).unwrap_or(chars.len());
        i = match chars[i] {
            ' ' => {
                i += 1;
                continue;
            }
            '\'' => (i + 1..).find(|j| chars[*j] == '\'').expect("a closing quote") + 1,
            c if c.is_alphanumeric() => end(i, char::is_alphanumeric),
            c if "<>|:".contains(c) => end(i, |c| "<>=|:".contains(c)),
            _ => i + 1,
        };
        found.push(chars[start..i].iter().collect());
    }
    found
}

struct Parser<'a> {
    tokens: Vec<String>,
    at: usize,
    row: &'a Row,
}

impl Parser<'_> {
    fn peek(&self) -> &str {
        self.tokens.get(self.at).map_or("", String::as_str)
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.peek() == token;
        self.at += usize::from(found);
        found
    }

    fn next(&mut self) -> String {
        self.at += 1;
        self.tokens[self.at - 1].clone()
    }

    fn disjunction(&mut self) -> Value {
        let mut value = self.conjunction();
        while self.take("OR") {
            let other = self.conjunction();
            value = match (value, other) {
                (Value::Bool(true), _) | (_, Value::Bool(true)) => Value::Bool(true),
                (Value::Null, _) | (_, Value::Null) => Value::Null,
                _ => Value::Bool(false),
            };
        }
        value
    }

    fn conjunction(&mut self) -> Value {
        let mut value = self.comparison();
        while self.take("AND") {
            let other = self.comparison();
            value = match (value, other) {
                (Value::Bool(false), _) | (_, Value::Bool(false)) => Value::Bool(false),
                (Value::Null, _) | (_, Value::Null) => Value::Null,
                _ => Value::Bool(true),
            };
        }
        value
    }

    fn comparison(&mut self) -> Value {
        let left = self.sum();
        if self.take("IS") {
            let wanted = !self.take("NOT");
            assert!(self.take("NULL"));
            return Value::Bool((left == Value::Null) == wanted);
        }
        let operator = self.peek().to_owned();
        if !["=", "<>", "<", "<=", ">", ">="].contains(&operator.as_str()) {
            return left;
        }
        self.at += 1;
        let right = self.sum();
        if left == Value::Null || right == Value::Null {
            return Value::Null;
        }
        Value::Bool(match operator.as_str() {
            "=" => left == right,
            "<>" => left != right,
            "<" => left < right,
            "<=" => left <= right,
            ">" => left > right,
            _ => left >= right,
        })
    }

    fn sum(&mut self) -> Value {
        let mut value = self.product();
        loop {
            value = if self.take("+") {
                arithmetic(value, self.product(), |a, b| a.wrapping_add(b))
            } else if self.take("-") {
                arithmetic(value, self.product(), |a, b| a.wrapping_sub(b))
            } else if self.take("||") {
                match (value, self.product()) {
                    (Value::Text(a), Value::Text(b)) => Value::Text(a + &b),
                    _ => Value::Null,
                }
            } else {
                return value;
            };
        }
    }

    fn product(&mut self) -> Value {
        let mut value = self.primary();
        loop {
            value = if self.take("%") {
                arithmetic(value, self.primary(), |a, b| a % b)
            } else if self.take("*") {
                arithmetic(value, self.primary(), |a, b| a.wrapping_mul(b))
            } else {
                return value;
            };
        }
    }

    fn primary(&mut self) -> Value {
        let token = self.next();
        let value = match token.as_str() {
            "(" => {
                let value = self.disjunction();
                assert!(self.take(")"));
                value
            }
            "COALESCE" | "round" | "LEAST" | "GREATEST" => self.function(&token),
            "true" | "false" => Value::Bool(token == "true"),
            "NULL" => Value::Null,
            _ if token.starts_with('\'') => Value::Text(token[1..token.len() - 1].to_owned()),
            _ if token.starts_with('c') => self.row[token[1..].parse::<usize>().expect("a column") - 1].clone(),
            _ => Value::Int(token.parse().expect("an integer")),
        };
        if self.take("::") {
            self.at += 1;
        }
        value
    }

    /// Over integers, rounding does nothing.
    fn function(&mut self, name: &str) -> Value {
        assert!(self.take("("));
        let value = self.disjunction();
        assert!(self.take(","));
        let other = self.disjunction();
        assert!(self.take(")"));
        match name {
            "COALESCE" if value == Value::Null => other,
            "LEAST" => value.min(other),
            "GREATEST" => value.max(other),
            _ => value,
        }
    }
}

fn arithmetic(a: Value, b: Value, f: fn(i64, i64) -> i64) -> Value {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(f(a, b)),
        _ => Value::Null,
    }
}
