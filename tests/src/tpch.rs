//! TPC-H: data from the `tpchgen` crate, the queries of `tests/cases/tpch/queries.case`, refresh functions and updates.
//!
//! Which rows a cycle changes is a function of their keys and of the cycle's number, so that every run is the same.

use std::fmt::Display;
use std::io::Write;

use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};

use crate::case::Case;
use crate::session::Session;
use crate::{During, Outcome};

/// Indexes on foreign keys, as the benchmark allows them, for either side of a comparison.
const INDEXES: &str = "
    CREATE INDEX ON nation (n_regionkey); CREATE INDEX ON supplier (s_nationkey); CREATE INDEX ON customer (c_nationkey);
    CREATE INDEX ON partsupp (ps_suppkey); CREATE INDEX ON orders (o_custkey);
    CREATE INDEX ON lineitem (l_partkey, l_suppkey); CREATE INDEX ON lineitem (l_suppkey);";

/// One query.
#[derive(Debug, Clone)]
pub struct TpchQuery {
    pub name: String,
    pub query: String,
}

/// All 22 queries. They are for this scale factor in what depends on it.
pub fn queries() -> Outcome<Vec<TpchQuery>> {
    let case = Case::named("tpch/queries")?;
    Ok(case.streams.into_iter().map(|stream| TpchQuery { name: stream.name, query: stream.query }).collect())
}

/// The eight tables, filled, with their keys' indexes and statistics.
pub fn load(session: &mut Session, scale: f64) -> Outcome {
    for table in Case::named("tpch/queries")?.tables {
        if table.sql.to_lowercase().starts_with("create table") {
            session.run(&table.sql)?;
        }
    }
    copy(session, "region", RegionGenerator::new(scale, 1, 1).iter())?;
    copy(session, "nation", NationGenerator::new(scale, 1, 1).iter())?;
    copy(session, "part", PartGenerator::new(scale, 1, 1).iter())?;
    copy(session, "supplier", SupplierGenerator::new(scale, 1, 1).iter())?;
    copy(session, "partsupp", PartSuppGenerator::new(scale, 1, 1).iter())?;
    copy(session, "customer", CustomerGenerator::new(scale, 1, 1).iter())?;
    copy(session, "orders", OrderGenerator::new(scale, 1, 1).iter())?;
    copy(session, "lineitem", LineItemGenerator::new(scale, 1, 1).iter())?;
    session.run(INDEXES)?;
    session.run("VACUUM ANALYZE")
}

/// The generators print rows as values with `|` behind each.
fn copy(session: &mut Session, table: &str, rows: impl Iterator<Item = impl Display>) -> Outcome {
    let mut copy = session.client().copy_in(&format!("COPY {table} FROM STDIN (DELIMITER '|')")).during(table)?;
    let mut text = String::new();
    for row in rows {
        text.push_str(row.to_string().trim_end_matches('|'));
        text.push('\n');
        if text.len() > 1 << 16 {
            copy.write_all(text.as_bytes())?;
            text.clear();
        }
    }
    copy.write_all(text.as_bytes())?;
    copy.finish().during(table)?;
    Ok(())
}

/// RF1: a thousandth of new orders, each with its items. They resemble orders that exist.
pub fn insert_orders(cycle: u64) -> String {
    format!(
        "CREATE TEMPORARY TABLE arriving AS
            SELECT o_orderkey AS old, (SELECT max(o_orderkey) FROM orders) + 8 * row_number() OVER (ORDER BY o_orderkey) AS new
              FROM (TABLE orders ORDER BY hashint8extended(o_orderkey, {cycle}) LIMIT {ORDERS}) AS alike;
         INSERT INTO orders
            SELECT new, o_custkey, o_orderstatus, o_totalprice, o_orderdate, o_orderpriority, o_clerk, o_shippriority, o_comment
              FROM orders JOIN arriving ON o_orderkey = old;
         INSERT INTO lineitem
            SELECT new, l_partkey, l_suppkey, l_linenumber, l_quantity, l_extendedprice, l_discount, l_tax, l_returnflag,
                   l_linestatus, l_shipdate, l_commitdate, l_receiptdate, l_shipinstruct, l_shipmode, l_comment
              FROM lineitem JOIN arriving ON l_orderkey = old;
         DROP TABLE arriving"
    )
}

const ORDERS: &str = "(SELECT greatest(count(*) / 1000, 1) FROM orders)";

/// RF2: a thousandth of the orders goes, with their items.
pub fn delete_orders(cycle: u64) -> String {
    format!(
        "CREATE TEMPORARY TABLE leaving AS
            SELECT o_orderkey AS old FROM orders ORDER BY hashint8extended(o_orderkey, 1000 + {cycle}) LIMIT {ORDERS};
         DELETE FROM lineitem USING leaving WHERE l_orderkey = old;
         DELETE FROM orders USING leaving WHERE o_orderkey = old;
         DROP TABLE leaving"
    )
}

/// A hundredth of every table's rows (at least one) gets other values in what queries read, but for keys; of the region
/// of a nation, that too. Of regions, of which one is a fifth, only the comment changes.
pub fn update_all(cycle: u64) -> String {
    let chosen = |key: &str| format!("abs(hashint8extended({key}, {cycle}) % 100) = 0");
    let one = |key: &str, of: u64| format!("{key} = {}", cycle % of);
    [
        format!("UPDATE region SET r_comment = 'as of {cycle}' WHERE {}", one("r_regionkey", 5)),
        format!("UPDATE nation SET n_regionkey = (n_regionkey + 1) % 5 WHERE {}", one("n_nationkey", 25)),
        format!(
            "UPDATE supplier SET s_acctbal = s_acctbal + 1, s_phone = overlay(s_phone PLACING lpad('{cycle}', 4, '0') FROM 12) WHERE {}",
            chosen("s_suppkey")
        ),
        format!("UPDATE part SET p_size = p_size % 50 + 1, p_retailprice = p_retailprice + 1 WHERE {}", chosen("p_partkey")),
        format!(
            "UPDATE partsupp SET ps_supplycost = ps_supplycost + 1, ps_availqty = ps_availqty % 9999 + 1 WHERE {}",
            chosen("ps_partkey * 10000::bigint + ps_suppkey")
        ),
        format!(
            "UPDATE customer SET c_acctbal = c_acctbal - 1, \
             c_mktsegment = CASE c_mktsegment WHEN 'BUILDING' THEN 'MACHINERY' ELSE 'BUILDING' END WHERE {}",
            chosen("c_custkey")
        ),
        format!(
            "UPDATE orders SET o_totalprice = o_totalprice + 1, o_orderstatus = 'F', \
             o_orderpriority = CASE o_orderpriority WHEN '1-URGENT' THEN '2-HIGH' ELSE '1-URGENT' END WHERE {}",
            chosen("o_orderkey")
        ),
        format!(
            "UPDATE lineitem SET l_quantity = l_quantity % 50 + 1, l_extendedprice = l_extendedprice + 1, \
             l_receiptdate = l_receiptdate + 1 WHERE {}",
            chosen("l_orderkey * 10 + l_linenumber")
        ),
    ]
    .join(";\n")
}

/// Everything that one cycle changes, in one transaction.
pub fn change(session: &mut Session, cycle: u64) -> Outcome {
    let all = [insert_orders(cycle), delete_orders(cycle), update_all(cycle)].join(";\n");
    session.run(&format!("BEGIN;\n{all};\nCOMMIT")).during(format!("cycle {cycle}"))
}
