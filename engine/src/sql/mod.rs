//! SQL as a value.
//!
//! A [`Sql`] can be made only from `&'static str`, identifiers, literals, other [`Sql`] values and text that PostgreSQL
//! itself printed; so nothing that a user wrote gets into a statement unquoted. Fragments are composed with
//! [`sql!`](crate::sql!), whole statements are structs such as [`Select`] and [`Merge`]; what needs quotes is quoted in one
//! place, `print`.

mod print;
mod recursive;
mod statement;

pub use recursive::Recursive;
pub use statement::{
    CreateIndex, CreateTable, Delete, From, Insert, JoinType, Matched, Merge, Query, Select, Update, With,
};

use std::fmt;
use std::sync::Arc;

/// A piece of SQL, printed. Copies share the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sql(Arc<str>);

impl Sql {
    /// Fixed text.
    pub fn text(text: &'static str) -> Sql {
        Sql(text.into())
    }

    /// Text that PostgreSQL's own deparser or `format_type` printed, or a user's query that is to be run as it is with
    /// the user's own rights. Nothing else.
    pub fn deparsed(text: impl Into<String>) -> Sql {
        Sql(text.into().into())
    }

    /// The name `c<i + 1>` of a relation's column `i`, counted from 0.
    pub fn column(i: usize) -> Sql {
        Ident::column(i).into()
    }

    /// `template` with each `{}` replaced by the next piece. Use [`sql!`](crate::sql!), which checks their number.
    #[doc(hidden)]
    pub fn compose(template: &'static str, pieces: &[&dyn Piece]) -> Sql {
        let mut out = String::with_capacity(template.len() + 16 * pieces.len());
        let mut texts = template.split("{}");
        out.push_str(texts.next().unwrap_or_default());
        for (text, piece) in texts.zip(pieces) {
            piece.print(&mut out);
            out.push_str(text);
        }
        Sql(out.into())
    }

    /// The pieces with `separator` between them.
    pub fn join<P: Piece>(separator: &'static str, pieces: impl IntoIterator<Item = P>) -> Sql {
        let mut out = String::new();
        for (i, piece) in pieces.into_iter().enumerate() {
            if i > 0 {
                out.push_str(separator);
            }
            piece.print(&mut out);
        }
        Sql(out.into())
    }

    /// `a, b, c`
    pub fn list<P: Piece>(pieces: impl IntoIterator<Item = P>) -> Sql {
        Sql::join(", ", pieces)
    }

    /// The conjunction; `true` if there is nothing to fulfil.
    pub fn all<P: Piece>(pieces: impl IntoIterator<Item = P>) -> Sql {
        let text = Sql::join(" AND ", pieces);
        if text.0.is_empty() { Sql::text("true") } else { text }
    }

    /// The disjunction; `false` if there is nothing to choose from.
    pub fn any<P: Piece>(pieces: impl IntoIterator<Item = P>) -> Sql {
        let text = Sql::join(" OR ", pieces);
        if text.0.is_empty() { Sql::text("false") } else { text }
    }

    /// The text for PostgreSQL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What may become part of a [`Sql`].
pub trait Piece {
    /// Appends itself, quoted as needed.
    fn print(&self, out: &mut String);
}

impl Piece for Sql {
    fn print(&self, out: &mut String) {
        out.push_str(&self.0);
    }
}

impl Piece for &'static str {
    fn print(&self, out: &mut String) {
        out.push_str(self);
    }
}

impl Piece for Ident {
    fn print(&self, out: &mut String) {
        print::identifier(&self.0, out);
    }
}

impl Piece for QualifiedName {
    fn print(&self, out: &mut String) {
        self.schema.print(out);
        out.push('.');
        self.name.print(out);
    }
}

impl Piece for Literal {
    fn print(&self, out: &mut String) {
        print::literal(self, out);
    }
}

impl Piece for Param {
    fn print(&self, out: &mut String) {
        out.push('$');
        out.push_str(&self.0.to_string());
    }
}

/// Weights, counts and positions.
impl Piece for i64 {
    fn print(&self, out: &mut String) {
        Literal::Int(*self).print(out);
    }
}

impl<P: Piece> Piece for &P {
    fn print(&self, out: &mut String) {
        (*self).print(out);
    }
}

macro_rules! piece_into_sql {
    ($($ty:ty),*) => {$(
        impl std::convert::From<$ty> for Sql {
            fn from(piece: $ty) -> Sql {
                let mut out = String::new();
                Piece::print(&piece, &mut out);
                Sql(out.into())
            }
        }
    )*};
}

piece_into_sql!(&'static str, Ident, &Ident, QualifiedName, &QualifiedName, Literal, Param, i64, &Sql);

/// The number of holes in a template of [`sql!`](crate::sql!).
#[doc(hidden)]
pub const fn holes(template: &str) -> usize {
    let bytes = template.as_bytes();
    let (mut i, mut found) = (0, 0);
    while i + 1 < bytes.len() {
        if bytes[i] == b'{' && bytes[i + 1] == b'}' {
            found += 1;
            i += 1;
        }
        i += 1;
    }
    found
}

/// A [`Sql`](crate::sql::Sql) from fixed text with a `{}` for each [`Piece`](crate::sql::Piece); their number is checked
/// when it is compiled.
///
/// ```
/// use pgtrickle_engine::{sql, sql::{Ident, Literal}};
/// let name = Ident::new("o'\"clock");
/// let statement = sql!("SELECT {} FROM t WHERE a = {}", name, Literal::text("it's"));
/// assert_eq!(statement.as_str(), r#"SELECT "o'""clock" FROM t WHERE a = 'it''s'"#);
/// ```
#[macro_export]
macro_rules! sql {
    ($template:literal $(, $piece:expr)* $(,)?) => {{
        const _: () = assert!(
            $crate::sql::holes($template) == <[&str]>::len(&[$(stringify!($piece)),*]),
            "as many holes as pieces"
        );
        $crate::sql::Sql::compose($template, &[$(&$piece as &dyn $crate::sql::Piece),*])
    }};
}

/// One identifier, as the catalog spells it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ident(String);

impl Ident {
    /// Any name.
    pub fn new(name: impl Into<String>) -> Ident {
        Ident(name.into())
    }

    /// `prefix<number>`
    pub fn numbered(prefix: &'static str, number: impl fmt::Display) -> Ident {
        Ident(format!("{prefix}{number}"))
    }

    /// `c<i + 1>`, the name of column `i` counted from 0.
    pub fn column(i: usize) -> Ident {
        Ident::numbered("c", i + 1)
    }

    /// Unquoted.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A name with its schema.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QualifiedName {
    /// The schema.
    pub schema: Ident,
    /// The name in it.
    pub name: Ident,
}

impl QualifiedName {
    /// `schema.name`
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> QualifiedName {
        QualifiedName { schema: Ident::new(schema), name: Ident::new(name) }
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.print(&mut out);
        f.write_str(&out)
    }
}

/// A constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Literal {
    /// NULL
    Null,
    /// true or false
    Bool(bool),
    /// An integer; negative ones are parenthesised.
    Int(i64),
    /// A string of unknown type, as any quoted constant is.
    Text(String),
}

impl Literal {
    /// A string constant.
    pub fn text(text: impl Into<String>) -> Literal {
        Literal::Text(text.into())
    }
}

/// `$n`, counted from 1 as SQL does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param(pub u16);
