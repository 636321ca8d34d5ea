//! Types as the generator sees them: which literals, operators and functions fit.

use fastrand::Rng;

use super::{one_in, pick};

/// A type, or several that behave alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Int,
    Big,
    /// numeric of any scale: equal values may look different, so nothing may be made of their looks.
    Num,
    /// numeric(8,2)
    Fixed,
    /// Multiples of 1/4, so that sums are exact in any order.
    Float,
    Text,
    Bool,
    Date,
    Stamp,
    Ints,
    Json,
    /// The enum `mood`.
    Mood,
}

pub const ALL: &[Kind] = &[
    Kind::Int,
    Kind::Big,
    Kind::Num,
    Kind::Fixed,
    Kind::Float,
    Kind::Text,
    Kind::Bool,
    Kind::Date,
    Kind::Stamp,
    Kind::Ints,
    Kind::Json,
    Kind::Mood,
];

impl Kind {
    /// A type of that kind, for casts.
    pub fn sql(self) -> &'static str {
        match self {
            Kind::Int => "int",
            Kind::Big => "bigint",
            Kind::Num => "numeric",
            Kind::Fixed => "numeric(8,2)",
            Kind::Float => "float8",
            Kind::Text => "text",
            Kind::Bool => "boolean",
            Kind::Date => "date",
            Kind::Stamp => "timestamp",
            Kind::Ints => "int[]",
            Kind::Json => "jsonb",
            Kind::Mood => "mood",
        }
    }

    /// Types of that kind, for columns of tables.
    pub fn declared(self) -> &'static [&'static str] {
        match self {
            Kind::Int => &["int", "int", "smallint"],
            Kind::Text => &["text", "varchar(20)"],
            Kind::Big => &["bigint"],
            Kind::Num => &["numeric"],
            Kind::Fixed => &["numeric(8,2)"],
            Kind::Float => &["float8"],
            Kind::Bool => &["boolean"],
            Kind::Date => &["date"],
            Kind::Stamp => &["timestamp"],
            Kind::Ints => &["int[]"],
            Kind::Json => &["jsonb"],
            Kind::Mood => &["mood"],
        }
    }

    pub fn is_whole(self) -> bool {
        matches!(self, Kind::Int | Kind::Big)
    }

    /// Exact numbers.
    pub fn is_number(self) -> bool {
        matches!(self, Kind::Int | Kind::Big | Kind::Num | Kind::Fixed)
    }

    /// Whether there is `min` of it.
    pub fn has_extrema(self) -> bool {
        !matches!(self, Kind::Bool | Kind::Json)
    }

    /// Whether `a = b` makes sense between columns of the two.
    pub fn compares_with(self, other: Kind) -> bool {
        self == other || self.is_number() && other.is_number()
    }

    /// What a value of it is once typmods are lost.
    pub fn loose(self) -> Kind {
        if self == Kind::Fixed { Kind::Num } else { self }
    }
}

/// A literal of the kind, from a small pool.
pub fn literal(rng: &mut Rng, kind: Kind, nullable: bool) -> String {
    if nullable && one_in(rng, 6) {
        return "NULL".into();
    }
    match kind {
        Kind::Int | Kind::Big => rng.i32(-2..8).to_string(),
        Kind::Num => match rng.u32(..40) {
            0 => "'NaN'::numeric".into(),
            _ => (*pick(rng, &["0", "1", "1.0", "1.5", "1.50", "-2.25", "3", "7.125"])).into(),
        },
        Kind::Fixed => (*pick(rng, &["0", "1", "1.5", "-2.25", "3.75", "7"])).into(),
        Kind::Float => match rng.u32(..40) {
            0 => "'NaN'::float8".into(),
            _ => format!("'{}'::float8", pick(rng, &["0", "1", "1.5", "-2.25", "3.75", "7"])),
        },
        Kind::Text => format!("'{}'", pick(rng, &["", "a", "b", "ab", "Zz", "x y"])),
        Kind::Bool => rng.bool().to_string(),
        Kind::Date => format!("DATE '2024-0{}-{}'", rng.u32(1..3), pick(rng, &["01", "15", "28"])),
        Kind::Stamp => format!(
            "TIMESTAMP '2024-01-{} {}'",
            pick(rng, &["01", "15", "28"]),
            pick(rng, &["00:00:00", "12:30:00", "23:59:59.5"])
        ),
        Kind::Ints => format!("'{}'::int[]", pick(rng, &["{}", "{1}", "{1,2}", "{2,2,NULL}", "{3,0,1}"])),
        Kind::Json => format!(
            "'{}'::jsonb",
            pick(
                rng,
                &[
                    "[1, 2]",
                    "[]",
                    "[\"a\", null]",
                    "{\"a\": 1}",
                    "{\"a\": null, \"b\": [1, 3]}",
                    "{\"a\": \"x\", \"b\": {}}",
                    "null",
                    "3",
                    "\"s\"",
                ]
            )
        ),
        Kind::Mood => format!("'{}'::mood", pick(rng, &["sad", "ok", "happy"])),
    }
}
