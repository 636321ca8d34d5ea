//! The quoting of identifiers and literals: the only one of the project.

use super::Literal;

/// Appends an identifier, quoted unless it is of a shape that no keyword has and that needs no quotes: the names that
/// the engine itself gives (`c12`, `w`, `pgt_delta_16384`, `pgtrickle`).
pub(super) fn identifier(name: &str, out: &mut String) {
    if is_plain(name) {
        out.push_str(name);
    } else {
        quoted('"', name, out);
    }
}

fn is_plain(name: &str) -> bool {
    let bytes = name.as_bytes();
    let simple = bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_');
    let starts = bytes.first().is_some_and(u8::is_ascii_lowercase);
    let ours = bytes.len() == 1 || name.starts_with("pgt") || bytes.last().is_some_and(u8::is_ascii_digit);
    simple && starts && ours
}

/// Appends a constant.
pub(super) fn literal(literal: &Literal, out: &mut String) {
    match literal {
        Literal::Null => out.push_str("NULL"),
        Literal::Bool(true) => out.push_str("true"),
        Literal::Bool(false) => out.push_str("false"),
        Literal::Int(n) if *n < 0 => out.push_str(&format!("({n})")),
        Literal::Int(n) => out.push_str(&n.to_string()),
        Literal::Text(text) => string(text, out),
    }
}

/// A backslash means itself or an escape depending on `standard_conforming_strings`; the E form means the same in both.
fn string(text: &str, out: &mut String) {
    if text.contains('\\') {
        out.push_str(" E");
        quoted('\'', &text.replace('\\', "\\\\"), out);
    } else {
        quoted('\'', text, out);
    }
}

fn quoted(quote: char, text: &str, out: &mut String) {
    out.push(quote);
    for c in text.chars() {
        if c == quote {
            out.push(quote);
        }
        out.push(c);
    }
    out.push(quote);
}
