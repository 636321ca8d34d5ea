//! SQL text that knows how it can be made smaller.

use std::fmt::{self, Display, Formatter};

/// Text with the places at which something may be left out or be put more simply.
#[derive(Debug, Clone)]
pub enum Text {
    Plain(String),
    Several(Vec<Text>),
    /// Something that could as well be one of a few smaller things.
    Choice {
        chosen: Box<Text>,
        smaller: Vec<Text>,
    },
    /// A list that makes sense with fewer items, too.
    List {
        items: Vec<Text>,
        separator: &'static str,
    },
}

/// Concatenates strings and texts.
macro_rules! text {
    ($($part:expr),* $(,)?) => {
        $crate::random::text::Text::Several(vec![$($crate::random::text::Text::from($part)),*])
    };
}
pub(super) use text;

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text::Plain(text.to_owned())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text::Plain(text)
    }
}

impl From<&String> for Text {
    fn from(text: &String) -> Text {
        Text::Plain(text.clone())
    }
}

impl From<&Text> for Text {
    fn from(text: &Text) -> Text {
        text.clone()
    }
}

impl Display for Text {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Text::Plain(text) => f.write_str(text),
            Text::Several(parts) => parts.iter().try_for_each(|part| part.fmt(f)),
            Text::Choice { chosen, .. } => chosen.fmt(f),
            Text::List { items, separator } => items.iter().enumerate().try_for_each(|(i, item)| {
                if i > 0 {
                    f.write_str(separator)?;
                }
                item.fmt(f)
            }),
        }
    }
}

impl Text {
    pub fn list(items: impl IntoIterator<Item = Text>, separator: &'static str) -> Text {
        Text::List { items: items.into_iter().collect(), separator }
    }

    /// Text that could be another.
    pub fn or(self, smaller: impl Into<Text>) -> Text {
        Text::Choice { chosen: Box::new(self), smaller: vec![smaller.into()] }
    }

    /// Text that need not be there.
    pub fn optional(self) -> Text {
        self.or("")
    }

    /// Every text that is one reduction smaller, the boldest first; whether it still means something is for others to try.
    pub fn reductions(&self) -> Vec<Text> {
        let mut found = self.inner_queries();
        found.extend(self.replacements());
        found
    }

    /// Queries inside that could stand alone.
    fn inner_queries(&self) -> Vec<Text> {
        let mut found = Vec::new();
        self.each_choice(&mut |chosen| {
            let printed = chosen.to_string();
            if printed.starts_with("SELECT ") || printed.starts_with("WITH ") || printed.starts_with('(') {
                found.push(chosen.clone());
            }
        });
        found
    }

    fn each_choice(&self, see: &mut impl FnMut(&Text)) {
        match self {
            Text::Plain(_) => {}
            Text::Several(parts) | Text::List { items: parts, .. } => {
                parts.iter().for_each(|part| part.each_choice(see))
            }
            Text::Choice { chosen, .. } => {
                see(chosen);
                chosen.each_choice(see);
            }
        }
    }

    fn replacements(&self) -> Vec<Text> {
        match self {
            Text::Plain(_) => Vec::new(),
            Text::Several(parts) => one_replaced(parts).into_iter().map(Text::Several).collect(),
            Text::Choice { chosen, smaller } => {
                let kept = chosen.replacements().into_iter();
                let kept = kept.map(|chosen| Text::Choice { chosen: Box::new(chosen), smaller: smaller.clone() });
                smaller.iter().cloned().chain(kept).collect()
            }
            Text::List { items, separator } => {
                let without = (0..items.len()).filter(|_| items.len() > 1).map(|i| {
                    let mut items = items.clone();
                    items.remove(i);
                    items
                });
                let lists = without.chain(one_replaced(items));
                lists.map(|items| Text::List { items, separator }).collect()
            }
        }
    }
}

fn one_replaced(parts: &[Text]) -> Vec<Vec<Text>> {
    let with = |i: usize, part: Text| {
        let mut parts = parts.to_vec();
        parts[i] = part;
        parts
    };
    parts.iter().enumerate().flat_map(|(i, part)| part.replacements().into_iter().map(move |p| with(i, p))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_go_goes_one_by_one() {
        let columns = Text::list(["a".into(), "b".into()], ", ");
        let inner = text!["SELECT a, b FROM t"].or("TABLE u");
        let query = text!["SELECT ", columns, " FROM (", inner, ") q", text![" WHERE a"].optional()];
        let found: Vec<String> = query.reductions().iter().map(Text::to_string).collect();
        assert_eq!(query.to_string(), "SELECT a, b FROM (SELECT a, b FROM t) q WHERE a");
        assert_eq!(
            found,
            [
                "SELECT a, b FROM t",
                "SELECT b FROM (SELECT a, b FROM t) q WHERE a",
                "SELECT a FROM (SELECT a, b FROM t) q WHERE a",
                "SELECT a, b FROM (TABLE u) q WHERE a",
                "SELECT a, b FROM (SELECT a, b FROM t) q",
            ]
        );
    }
}
