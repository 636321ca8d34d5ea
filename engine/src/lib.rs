//! The delta engine: from what a query is to the SQL that keeps its result up to date.
//!
//! Everything here is a pure function of the query: no settings, no catalog, no database, no unsafe code.
//!
//! | step | where |
//! |---|---|
//! | a query is a [`Rel`](ir::Rel) of about ten operators, columns by position | [`ir`] |
//! | constructs that are others in disguise: right and full joins, INTERSECT, EXCEPT | [`lower`] |
//! | joins with a single row that only conditions read | [`single`] |
//! | what only describes groups is joined to them | [`described`] |
//! | groups that nobody asks for are left out | [`demand`] |
//! | filtered scans of which few rows pass are kept, and tables reduced by these | [`selection`], [`reduction`] |
//! | the tree is cut at each stateful operator into stages; what stands above reads a stage's table like a source | [`mod@cut`] |
//! | what changes, as an equation per operator from `Rel` to [`Zset`](zset::Zset) | [`delta`] |
//! | the algebra of aggregates: which parts are kept, how a change is added, when it cannot be | `plan/parts.rs` |
//! | which changes of a source matter | [`relevant`], [`partners`] |
//! | what a stage of any kind can do, and each kind's table and steps | `plan/stage/` |
//! | rows kept as they are: netting their change, finding them, changing them | `plan/kept.rs` |
//! | by which columns rows are found | [`keys`], [`dependencies`] |
//! | of which source's column a column has the values | [`origin`] |
//! | relations and Z-sets as queries | `plan/render.rs`, `plan/presence.rs` |
//! | SQL as a value, and the only quoting of the project | [`mod@sql`] |
//! | the steps of a fill, a refresh, a recomputation | [`program`] |
//!
//! | SQL | is planned as | rule |
//! |---|---|---|
//! | WHERE, HAVING | filter | `delta/filter.rs` |
//! | select list | map | `delta/map.rs` |
//! | inner and cross join, comma | inner join | `delta/inner_join.rs` |
//! | LEFT JOIN; RIGHT, FULL lowered to it | left join | `delta/left_join.rs` |
//! | EXISTS, IN, and their negations | semi and anti join | `delta/semi_join.rs`, `delta/presence.rs` |
//! | functions in FROM, LATERAL ones, set-returning ones in the select list, JSON_TABLE, XMLTABLE | flat map | `delta/flat_map.rs` |
//! | UNION ALL; UNION is DISTINCT over it | union | `delta/union_all.rs` |
//! | GROUP BY, aggregates, DISTINCT | a stage | `plan/parts.rs`, `plan/stage/aggregate/` |
//! | window functions | a stage per PARTITION BY | `plan/stage/window.rs` |
//! | foreign tables, materialised views, unlogged tables | a stage: a copy | `plan/stage/compared.rs` |
//! | ORDER BY with LIMIT, FETCH FIRST | a stage | `plan/stage/top_k.rs` |
//! | DISTINCT ON, LIMIT for each row outside | window, filter by `row_number()` | `plan/stage/window.rs` |
//! | WITH RECURSIVE | a stage | `recursion.rs`, `plan/stage/fixpoint/` |
//! | INTERSECT, EXCEPT, with ALL | counts per row on either side, then a filter or a repeat | `lower.rs`, `delta/repeat.rs` |
//!
//! How it is tested: the rules against an evaluator in memory (`tests/rules.rs`), the SQL on a server with random queries
//! and changes (`tests/postgres.rs`), the SQL as it reads (`tests/plans.rs`).
#![forbid(unsafe_code)]

pub mod cut;
pub mod delta;
pub mod demand;
pub mod dependencies;
pub mod described;
pub mod explain;
pub mod ir;
mod joined;
pub mod keys;
mod liveness;
pub mod lower;
pub mod origin;
pub mod partners;
mod plan;
pub mod program;
pub mod recursion;
pub mod reduction;
pub mod relevant;
pub mod selection;
pub mod single;
pub mod sql;
pub mod zset;
