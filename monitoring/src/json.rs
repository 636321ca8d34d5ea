//! JSON, as far as it is written here.

/// A string, quoted. `<` too, so that it stays harmless inside of a page.
pub fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' || c == '<' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A number; what JSON has no number for is null.
pub fn number(value: f64) -> String {
    if value.is_finite() { format!("{value}") } else { "null".into() }
}

/// A value or null.
pub fn optional<T>(value: Option<T>, print: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "null".into(), print)
}

/// Printed values between brackets.
pub fn array(values: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", values.into_iter().collect::<Vec<_>>().join(","))
}

/// Names, which need no escapes, and printed values between braces.
pub fn object<const N: usize>(members: [(&str, String); N]) -> String {
    let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", members.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints() {
        assert_eq!(string("a\"b\\c\n<é"), r#""a\"b\\c\u000a\u003cé""#);
        let inner = array([number(1.5), number(f64::NAN), optional(None, number)]);
        assert_eq!(object([("a", string("x")), ("b", inner)]), r#"{"a":"x","b":[1.5,null,null]}"#);
    }
}
