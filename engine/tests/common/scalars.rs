//! The few expressions that the generator writes, evaluated. Each text is parsed once.

use super::tables::{Row, Value};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// The value of `text` over a row.
pub fn evaluate(text: &str, row: &Row) -> Value {
    parsed(text).value(row)
}

thread_local! {
    static PARSED: RefCell<HashMap<String, Rc<Expr>>> = RefCell::default();
}

/// More texts than this are not kept: a run of a hundred thousand cases has no end of them.
const KEPT: usize = 10_000;

fn parsed(text: &str) -> Rc<Expr> {
    if let Some(known) = PARSED.with_borrow(|all| all.get(text).cloned()) {
        return known;
    }
    let mut parser = Parser { tokens: tokens(text), at: 0 };
    let expr = Rc::new(parser.disjunction());
    assert_eq!(parser.at, parser.tokens.len(), "the rest of {text}");
    PARSED.with_borrow_mut(|all| {
        if all.len() > KEPT {
            all.clear();
        }
        all.insert(text.to_owned(), expr.clone())
    });
    expr
}

enum Expr {
    Column(usize),
    Constant(Value),
    Or(Box<Expr>, Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    IsNull(Box<Expr>, bool),
    Compare(String, Box<Expr>, Box<Expr>),
    Arithmetic(fn(i64, i64) -> i64, Box<Expr>, Box<Expr>),
    Concat(Box<Expr>, Box<Expr>),
    Function(String, Box<Expr>, Box<Expr>),
}

impl Expr {
    fn value(&self, row: &Row) -> Value {
        match self {
            Expr::Column(i) => row[*i].clone(),
            Expr::Constant(value) => value.clone(),
            Expr::Or(a, b) => connected(a.value(row), b.value(row), true),
            Expr::And(a, b) => connected(a.value(row), b.value(row), false),
            Expr::IsNull(a, wanted) => Value::Bool((a.value(row) == Value::Null) == *wanted),
            Expr::Compare(operator, a, b) => compared(operator, a.value(row), b.value(row)),
            Expr::Arithmetic(f, a, b) => match (a.value(row), b.value(row)) {
                (Value::Int(a), Value::Int(b)) => Value::Int(f(a, b)),
                _ => Value::Null,
            },
            Expr::Concat(a, b) => match (a.value(row), b.value(row)) {
                (Value::Text(a), Value::Text(b)) => Value::Text(a + &b),
                _ => Value::Null,
            },
            // Over integers, rounding does nothing.
            Expr::Function(name, a, b) => match (name.as_str(), a.value(row)) {
                ("COALESCE", Value::Null) => b.value(row),
                ("LEAST", value) => value.min(b.value(row)),
                ("GREATEST", value) => value.max(b.value(row)),
                (_, value) => value,
            },
        }
    }
}

/// OR if `decisive` is true, AND if it is false.
fn connected(a: Value, b: Value, decisive: bool) -> Value {
    match (a, b) {
        (a, b) if a == Value::Bool(decisive) || b == Value::Bool(decisive) => Value::Bool(decisive),
        (Value::Null, _) | (_, Value::Null) => Value::Null,
        _ => Value::Bool(!decisive),
    }
}

fn compared(operator: &str, a: Value, b: Value) -> Value {
    if a == Value::Null || b == Value::Null {
        return Value::Null;
    }
    Value::Bool(match operator {
        "=" => a == b,
        "<>" => a != b,
        "<" => a < b,
        "<=" => a <= b,
        ">" => a > b,
        _ => a >= b,
    })
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

struct Parser {
    tokens: Vec<String>,
    at: usize,
}

impl Parser {
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

    fn disjunction(&mut self) -> Expr {
        let mut expr = self.conjunction();
        while self.take("OR") {
            expr = Expr::Or(Box::new(expr), Box::new(self.conjunction()));
        }
        expr
    }

    fn conjunction(&mut self) -> Expr {
        let mut expr = self.comparison();
        while self.take("AND") {
            expr = Expr::And(Box::new(expr), Box::new(self.comparison()));
        }
        expr
    }

    fn comparison(&mut self) -> Expr {
        let left = Box::new(self.sum());
        if self.take("IS") {
            let not = self.take("NOT");
            let distinct = self.take("DISTINCT");
            assert!(!distinct || self.take("FROM"));
            assert!(self.take("NULL"));
            return Expr::IsNull(left, not == distinct);
        }
        let operator = self.peek().to_owned();
        if !["=", "<>", "<", "<=", ">", ">="].contains(&operator.as_str()) {
            return *left;
        }
        self.at += 1;
        Expr::Compare(operator, left, Box::new(self.sum()))
    }

    fn sum(&mut self) -> Expr {
        let mut expr = self.product();
        loop {
            expr = if self.take("+") {
                Expr::Arithmetic(i64::wrapping_add, Box::new(expr), Box::new(self.product()))
            } else if self.take("-") {
                Expr::Arithmetic(i64::wrapping_sub, Box::new(expr), Box::new(self.product()))
            } else if self.take("||") {
                Expr::Concat(Box::new(expr), Box::new(self.product()))
            } else {
                return expr;
            };
        }
    }

    fn product(&mut self) -> Expr {
        let mut expr = self.primary();
        loop {
            expr = if self.take("%") {
                Expr::Arithmetic(|a, b| a % b, Box::new(expr), Box::new(self.primary()))
            } else if self.take("*") {
                Expr::Arithmetic(i64::wrapping_mul, Box::new(expr), Box::new(self.primary()))
            } else {
                return expr;
            };
        }
    }

    fn primary(&mut self) -> Expr {
        let token = self.next();
        let expr = match token.as_str() {
            "(" => {
                let expr = self.disjunction();
                assert!(self.take(")"));
                expr
            }
            "COALESCE" | "round" | "LEAST" | "GREATEST" => self.function(token),
            "true" | "false" => Expr::Constant(Value::Bool(token == "true")),
            "NULL" => Expr::Constant(Value::Null),
            _ if token.starts_with('\'') => Expr::Constant(Value::Text(token[1..token.len() - 1].to_owned())),
            _ if token.starts_with('c') => Expr::Column(token[1..].parse::<usize>().expect("a column") - 1),
            _ => Expr::Constant(Value::Int(token.parse().expect("an integer"))),
        };
        if self.take("::") {
            self.at += 1;
        }
        expr
    }

    fn function(&mut self, name: String) -> Expr {
        assert!(self.take("("));
        let first = self.disjunction();
        assert!(self.take(","));
        let second = self.disjunction();
        assert!(self.take(")"));
        Expr::Function(name, Box::new(first), Box::new(second))
    }
}
