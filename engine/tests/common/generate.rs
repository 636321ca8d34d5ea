//! Random relations.

use super::random::Random;
use super::tables::{self, ATTNUMS, TABLES, bigint, integer, numeric, other, text};
use pgtrickle_engine::ir::{
    Agg, AggKind, Col, Conjunct, Equality, JoinKind, Limit, Number, Rel, Rows, Scalar, SortKey, SourceId, Ty,
};
use pgtrickle_engine::lower;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::Sql;

/// What may appear.
#[derive(Clone, Copy, Debug)]
pub struct Grammar {
    /// Numeric columns, fractions and arrays, which the evaluator does not know.
    pub decimals: bool,
    /// Aggregates of any kind.
    pub aggregates: bool,
    /// The joins to choose from.
    pub joins: &'static [Joins],
}

/// Joins, also those that are lowered.
#[derive(Clone, Copy, Debug)]
pub enum Joins {
    Kind(JoinKind),
    Right,
    Full,
}

/// Every join, inner ones more often.
pub const ALL_JOINS: &[Joins] = &[
    Joins::Kind(JoinKind::Inner),
    Joins::Kind(JoinKind::Inner),
    Joins::Kind(JoinKind::Inner),
    Joins::Kind(JoinKind::Left),
    Joins::Kind(JoinKind::Semi),
    Joins::Kind(JoinKind::Anti),
    Joins::Right,
    Joins::Full,
];

/// A relation of at most this depth.
pub fn rel(depth: usize, g: &Grammar, r: &mut Random) -> Rel {
    if depth == 0 || r.chance(10) {
        return scan(g, r);
    }
    let below = depth - 1;
    match r.below(if g.aggregates { 19 } else { 7 }) {
        0 | 1 => {
            let input = rel(below, g, r);
            map(input, r)
        }
        2 => {
            let input = rel(below, g, r);
            let predicates = (0..1 + r.below(2)).map(|_| predicate(&input.cols(), r)).collect();
            input.filter(predicates).unwrap()
        }
        3..=5 => join(below, g, r),
        6 if r.chance(50) => series(rel(below, g, r), r),
        6 => {
            let inputs = (0..1 + r.below(2) + 1).map(|_| shape(rel(below, g, r))).collect();
            Rel::union_all(inputs).unwrap()
        }
        7 | 8 => keys_only(rel(below, g, r), r).distinct().unwrap(),
        9 => {
            let (left, right, all) = (shape(rel(below, g, r)), shape(rel(below, g, r)), r.chance(50));
            if r.chance(50) { lower::intersect(left, right, all) } else { lower::except(left, right, all) }.unwrap()
        }
        10 => window(rel(below, g, r), r),
        11 => top_k(rel(below, g, r), r),
        12 => compared(below, g, r),
        13 => asked_for(below, g, r),
        14 => first_of_each(rel(below, g, r), r),
        15 => described(below, g, r),
        _ => aggregate(rel(below, g, r), g, r),
    }
}

/// Some columns, then all others, so that ties are identical rows.
fn total_order(cols: &[Col], r: &mut Random) -> Vec<SortKey> {
    let mut columns = comparable(cols);
    for i in 0..columns.len() {
        let j = i + r.below(columns.len() - i);
        columns.swap(i, j);
    }
    let mut order: Vec<SortKey> = columns.into_iter().map(|c| sort_key(c, &cols[c], r)).collect();
    if !cols.iter().all(|col| col.ty.is_exact()) {
        let row = sql!("ROW({})", Sql::list((0..cols.len()).map(Sql::column)));
        let row = Scalar { sql: row, ..Scalar::deparsed("", (0..cols.len()).collect(), Ty::new("record"), true) };
        order.push(SortKey { by: row, operator: sql!("OPERATOR(pg_catalog.*<)"), nulls_first: false });
    }
    order
}

fn sort_key(c: usize, col: &Col, r: &mut Random) -> SortKey {
    let operator = if r.chance(50) { sql!("OPERATOR(pg_catalog.<)") } else { sql!("OPERATOR(pg_catalog.>)") };
    SortKey { by: Scalar::column(c, col), operator, nulls_first: r.chance(50) }
}

fn by_one(cols: &[Col], r: &mut Random) -> Vec<SortKey> {
    let found = comparable(cols);
    found.first().map(|c| sort_key(*c, &cols[*c], r)).into_iter().collect()
}

fn window(input: Rel, r: &mut Random) -> Rel {
    let cols = input.cols();
    let partition: Vec<usize> = comparable(&cols).into_iter().filter(|_| r.chance(30)).collect();
    let by = partition.iter().map(|c| sql!("c{}", (*c + 1) as i64)).collect::<Vec<_>>();
    let by = if by.is_empty() { Sql::default() } else { sql!("PARTITION BY {} ", Sql::list(by)) };
    let calls = (0..1 + r.below(2)).map(|_| {
        let c = r.below(cols.len());
        let (function, ty, total) = match r.below(4) {
            0 => (sql!("row_number()"), bigint(), true),
            1 => (sql!("lag({})", Sql::column(c)), cols[c].ty.clone(), true),
            2 => (sql!("rank()"), bigint(), false),
            _ => (sql!("count(*)"), bigint(), false),
        };
        let order = if total { total_order(&cols, r) } else { by_one(&cols, r) };
        let order = Sql::list(order.iter().map(SortKey::sql));
        let order = if order.as_str().is_empty() { order } else { sql!("ORDER BY {}", order) };
        let text = sql!("{} OVER ({}{})", function, by, order);
        Scalar { sql: text, ..Scalar::deparsed("", (0..cols.len()).collect(), ty, false) }
    });
    let calls = calls.collect();
    input.window(partition, calls).unwrap()
}

fn top_k(input: Rel, r: &mut Random) -> Rel {
    let cols = input.cols();
    let ties = r.chance(30);
    let order = if ties { by_one(&cols, r) } else { total_order(&cols, r) };
    let ties = ties && !order.is_empty();
    let offset = if ties { 0 } else { r.below(3) as u64 };
    input.top_k(order, Limit { offset, rows: 1 + r.below(4) as u64, ties }).unwrap()
}

/// Rows that compare with the only row of an aggregate, as with a subquery for a value.
fn compared(below: usize, g: &Grammar, r: &mut Random) -> Rel {
    let (left, right) = (rel(below, g, r), rel(below / 2, g, r));
    let calls = (0..1 + r.below(2)).map(|_| agg(&right.cols(), g, r)).collect();
    let value = right.aggregate(vec![], calls).unwrap();
    let (l, all) = (left.cols(), [left.cols(), value.cols()].concat());
    let (ints, values) = (of_kind(&l, is_int), of_kind(&all, is_int));
    let on = match (ints.first(), values.iter().find(|i| **i >= l.len())) {
        (Some(_), Some(v)) => {
            let (i, operator) = (*r.pick(&ints), r.pick(&["<", ">=", "="]));
            let equi = (*operator == "=").then(|| (i, v - l.len()));
            let sql = format!("({} {operator} {})", c(i), c(*v));
            Conjunct { condition: Scalar::deparsed(sql, vec![i, *v], Ty::new("boolean"), false), equi }
        }
        _ => Conjunct { condition: predicate(&all, r), equi: None },
    };
    let joined = left.join(JoinKind::Inner, value, vec![on]).unwrap();
    joined.map(l.iter().enumerate().map(|(i, col)| Scalar::column(i, col)).collect()).unwrap()
}

/// A few rows beside groups of others, as with a subquery for each of them.
fn asked_for(below: usize, g: &Grammar, r: &mut Random) -> Rel {
    let asking = scan(g, r);
    let few = predicate(&asking.cols(), r);
    let (asking, groups) = (asking.filter(vec![few]).unwrap(), rel(below, g, r));
    let (l, cols) = (asking.cols(), groups.cols());
    let equal = |(i, j): &(usize, usize)| l[*i].ty == cols[*j].ty;
    let pairs: Vec<(usize, usize)> =
        (0..l.len()).flat_map(|i| (0..cols.len()).map(move |j| (i, j))).filter(equal).collect();
    if pairs.is_empty() {
        return asking;
    }
    let (i, j) = *r.pick(&pairs);
    let calls = (0..1 + r.below(2)).map(|_| agg(&cols, g, r)).collect();
    let groups = groups.aggregate(vec![Scalar::column(j, &cols[j])], calls).unwrap();
    let kind = *r.pick(&[JoinKind::Inner, JoinKind::Left, JoinKind::Semi, JoinKind::Anti]);
    asking.join(kind, groups, vec![equality(i, 0, l.len())]).unwrap()
}

/// Groups by the row of a table with a key that each of their rows has, and sometimes by something of their own; the table's
/// rows may have others that describe them.
fn described(below: usize, g: &Grammar, r: &mut Random) -> Rel {
    let keyed = |r: &mut Random| loop {
        let table = scan(g, r);
        if table.cols()[0].not_null {
            return table;
        }
    };
    let rows = if r.chance(50) { scan(g, r) } else { rel(below, g, r) };
    let cols = rows.cols();
    let ints: Vec<usize> = (0..cols.len()).filter(|i| cols[*i].ty == integer()).collect();
    if ints.is_empty() {
        return rows;
    }
    let (first, l) = (*r.pick(&ints), cols.len());
    let describing = keyed(r);
    let mut joined = if r.chance(50) {
        rows.join(JoinKind::Inner, describing, vec![equality(first, 0, l)]).unwrap()
    } else {
        let n = describing.arity();
        let tree = describing.join(JoinKind::Inner, rows, vec![equality(0, first, n)]).unwrap();
        let order = (n..n + l).chain(0..n);
        let cols = tree.cols();
        if r.chance(50) {
            return grouped_by_row(tree.clone(), 0, n, n..n + l, g, r);
        }
        tree.map(order.map(|c| Scalar::column(c, &cols[c])).collect()).unwrap()
    };
    if r.chance(40) {
        let (further, l) = (keyed(r), joined.arity());
        joined = joined.join(JoinKind::Inner, further, vec![equality(cols.len() + 1, 0, l)]).unwrap();
    }
    let all = joined.arity();
    grouped_by_row(joined, cols.len(), all, 0..cols.len(), g, r)
}

/// Groups by the column `from`, and some of those after it up to `until`, of aggregates over the columns `of`.
fn grouped_by_row(rel: Rel, from: usize, until: usize, of: std::ops::Range<usize>, g: &Grammar, r: &mut Random) -> Rel {
    let cols = rel.cols();
    let exact = |c: &usize| cols[*c].ty.is_exact();
    let mut keys: Vec<usize> = (from + 1..until).filter(exact).filter(|_| r.chance(40)).collect();
    keys.insert(r.below(keys.len() + 1), from);
    let own = of.clone().filter(|c| cols[*c].not_null && r.chance(30)).collect::<Vec<_>>();
    let keys = keys.into_iter().chain(own).map(|c| Scalar::column(c, &cols[c])).collect();
    let mut seen = cols[..of.end].to_vec();
    seen.iter_mut().enumerate().filter(|(c, _)| !of.contains(c)).for_each(|(_, col)| col.ty = Ty::new("boolean"));
    let aggs = (0..r.below(3)).map(|_| agg(&seen, g, r)).collect();
    rel.aggregate(keys, aggs).unwrap()
}

/// The first rows of each partition, as DISTINCT ON and LIMIT for each row outside are planned.
fn first_of_each(input: Rel, r: &mut Random) -> Rel {
    let cols = input.cols();
    let partition: Vec<usize> = comparable(&cols).into_iter().filter(|_| r.chance(40)).collect();
    let by = partition.iter().map(|c| sql!("c{}", (*c + 1) as i64)).collect::<Vec<_>>();
    let by = if by.is_empty() { Sql::default() } else { sql!("PARTITION BY {} ", Sql::list(by)) };
    let order = Sql::list(total_order(&cols, r).iter().map(SortKey::sql));
    let order = if order.as_str().is_empty() { order } else { sql!("ORDER BY {}", order) };
    let text = sql!("row_number() OVER ({}{})", by, order);
    let number = Scalar { sql: text, ..Scalar::deparsed("", (0..cols.len()).collect(), bigint(), true) };
    let numbered = input.window(partition, vec![number]).unwrap();
    let most = format!("({} <= {})", c(cols.len()), 1 + r.below(2));
    let first = Scalar::deparsed(most, vec![cols.len()], Ty::new("boolean"), false);
    let shown = cols.iter().enumerate().map(|(i, col)| Scalar::column(i, col)).collect();
    numbered.filter(vec![first]).unwrap().map(shown).unwrap()
}

fn comparable(cols: &[Col]) -> Vec<usize> {
    of_kind(cols, |ty| ty.equality != Equality::None)
}

/// Rows beside a short series of numbers, whose length depends on the row.
fn series(input: Rel, r: &mut Random) -> Rel {
    let last = int(&input.cols(), r);
    let item = sql!("ROWS FROM (generate_series(1, ({} % 3)))", last.sql);
    let col = Col::new(last.ty);
    let both = [input.cols(), vec![col.clone()]].concat();
    let outer = r.chance(50).then(|| (0..r.below(2)).map(|_| predicate(&both, r)).collect());
    input.flat_map(Rows { item, reads: last.cols, cols: vec![col], key: Some(vec![0]), outer }).unwrap()
}

fn scan(g: &Grammar, r: &mut Random) -> Rel {
    let table = *r.pick(&TABLES);
    let kept = |i: &usize| g.decimals || *i != 2;
    let columns: Vec<usize> = (0..4).filter(kept).collect();
    let cols = tables::cols(table);
    let attnums = columns.iter().map(|i| ATTNUMS[*i]).collect();
    Rel::scan(SourceId(table), attnums, columns.iter().map(|i| cols[*i].clone()).collect()).unwrap()
}

fn of_kind(cols: &[Col], wanted: impl Fn(&Ty) -> bool) -> Vec<usize> {
    (0..cols.len()).filter(|i| wanted(&cols[*i].ty)).collect()
}

fn is_int(ty: &Ty) -> bool {
    matches!(ty.number, Number::Small | Number::Big)
}

fn is_numeric(ty: &Ty) -> bool {
    matches!(ty.number, Number::Numeric { .. })
}

fn is_text(ty: &Ty) -> bool {
    ty.sql.as_str() == "text"
}

fn c(i: usize) -> String {
    format!("c{}", i + 1)
}

fn constant(n: usize) -> Scalar {
    Scalar::deparsed(n.to_string(), vec![], integer(), true)
}

/// An integer.
fn int(cols: &[Col], r: &mut Random) -> Scalar {
    let ints = of_kind(cols, is_int);
    if ints.is_empty() {
        return constant(r.below(3));
    }
    let (i, j) = (*r.pick(&ints), *r.pick(&ints));
    let both = if [i, j].iter().any(|i| cols[*i].ty == bigint()) { bigint() } else { integer() };
    match r.below(6) {
        0 => Scalar::deparsed(format!("({} + {})", c(i), c(j)), vec![i, j], both, cols[i].not_null && cols[j].not_null),
        1 => Scalar::deparsed(format!("({} % 3)", c(i)), vec![i], cols[i].ty.clone(), cols[i].not_null),
        2 => Scalar::deparsed(format!("COALESCE({}, 0)", c(i)), vec![i], cols[i].ty.clone(), true),
        _ => Scalar::column(i, &cols[i]),
    }
}

fn string(cols: &[Col], r: &mut Random) -> Option<Scalar> {
    let texts = of_kind(cols, is_text);
    let i = *texts.get(r.below(texts.len().max(1)))?;
    Some(match r.below(4) {
        0 => Scalar::deparsed(format!("({} || 'x'::text)", c(i)), vec![i], text(), cols[i].not_null),
        _ => Scalar::column(i, &cols[i]),
    })
}

/// A numeric, of any scale.
fn decimal(cols: &[Col], r: &mut Random) -> Option<Scalar> {
    let decimals = of_kind(cols, is_numeric);
    let i = *decimals.get(r.below(decimals.len().max(1)))?;
    Some(match r.below(4) {
        0 => Scalar::deparsed(format!("({} * {})", c(i), c(i)), vec![i], numeric(), cols[i].not_null),
        _ => Scalar::column(i, &cols[i]),
    })
}

/// A numeric that looks the same whenever it is equal.
fn rounded(cols: &[Col], r: &mut Random) -> Option<Scalar> {
    let d = decimal(cols, r)?;
    Some(Scalar::deparsed(format!("round({}, 2)", d.sql), d.cols, numeric(), d.not_null))
}

/// Something to group by or to take the maximum of.
fn key(cols: &[Col], r: &mut Random) -> Scalar {
    match r.below(6) {
        0 | 1 => string(cols, r).unwrap_or_else(|| int(cols, r)),
        2 => rounded(cols, r).unwrap_or_else(|| int(cols, r)),
        _ => int(cols, r),
    }
}

fn predicate(cols: &[Col], r: &mut Random) -> Scalar {
    let boolean = |sql: String, cols: Vec<usize>| Scalar::deparsed(sql, cols, Ty::new("boolean"), false);
    let (a, b) = (int(cols, r), int(cols, r));
    let both = [a.cols.clone(), b.cols.clone()].concat();
    match r.below(6) {
        0 => boolean(format!("({} > {})", a.sql, r.below(3)), a.cols),
        1 => boolean(format!("({} <= {})", a.sql, b.sql), both),
        2 => boolean(format!("({} IS NULL)", a.sql), a.cols),
        3 => boolean(format!("({} <> {})", a.sql, r.below(3)), a.cols),
        4 => match string(cols, r) {
            Some(s) => boolean(format!("({} >= 'a'::text)", s.sql), s.cols),
            None => boolean(format!("({} < 2)", a.sql), a.cols),
        },
        _ => boolean(format!("(({} IS NOT NULL) OR ({} = 1))", a.sql, b.sql), both),
    }
}

fn map(input: Rel, r: &mut Random) -> Rel {
    let cols = input.cols();
    let n = 1 + r.below(4);
    let mut exprs: Vec<Scalar> = (0..n)
        .map(|_| match r.below(6) {
            0 => decimal(&cols, r).unwrap_or_else(|| int(&cols, r)),
            1 => string(&cols, r).unwrap_or_else(|| int(&cols, r)),
            2 | 3 => {
                let i = r.below(cols.len());
                Scalar::column(i, &cols[i])
            }
            _ => int(&cols, r),
        })
        .collect();
    if r.chance(30) {
        exprs.extend(cols.iter().enumerate().map(|(i, col)| Scalar::column(i, col)));
    }
    input.map(exprs).unwrap()
}

/// Only columns that look the same whenever they are equal.
fn keys_only(input: Rel, r: &mut Random) -> Rel {
    let cols = input.cols();
    let exprs = (0..1 + r.below(3)).map(|_| key(&cols, r)).collect();
    input.map(exprs).unwrap()
}

/// Two columns of fixed types, so that unions agree.
pub fn shape(input: Rel) -> Rel {
    let cols = input.cols();
    let int = of_kind(&cols, is_int).first().map(|i| (c(*i), *i));
    let first = match int {
        Some((name, i)) => Scalar::deparsed(format!("({name})::bigint"), vec![i], bigint(), cols[i].not_null),
        None => Scalar::deparsed("(7)::bigint", vec![], bigint(), true),
    };
    let second = match of_kind(&cols, is_text).first() {
        Some(i) => Scalar::column(*i, &cols[*i]),
        None => Scalar::deparsed("'none'::text", vec![], text(), true),
    };
    input.map(vec![first, second]).unwrap()
}

fn join(depth: usize, g: &Grammar, r: &mut Random) -> Rel {
    let (left, right) = (rel(depth, g, r), rel(depth / 2, g, r));
    let (l, rc) = (left.cols(), right.cols());
    match r.pick(g.joins) {
        Joins::Kind(kind) => left.join(*kind, right, condition(&l, &rc, r)),
        Joins::Right => lower::right_join(left, right, condition(&rc, &l, r)),
        Joins::Full => {
            let (ints, others) = (of_kind(&l, is_int), of_kind(&rc, is_int));
            let pairs =
                if ints.is_empty() || others.is_empty() { vec![] } else { vec![(*r.pick(&ints), *r.pick(&others))] };
            let on = pairs.iter().map(|(a, b)| equality(*a, *b, l.len())).collect();
            let swapped = pairs.iter().map(|(a, b)| equality(*b, *a, rc.len())).collect();
            lower::full_join(left, right, on, swapped)
        }
    }
    .unwrap()
}

fn equality(a: usize, b: usize, left_arity: usize) -> Conjunct {
    let sql = format!("({} = {})", c(a), c(left_arity + b));
    let condition = Scalar::deparsed(sql, vec![a, left_arity + b], Ty::new("boolean"), false);
    Conjunct { condition, equi: Some((a, b)) }
}

fn condition(l: &[Col], rc: &[Col], r: &mut Random) -> Vec<Conjunct> {
    let all: Vec<Col> = [l, rc].concat();
    let mut on = Vec::new();
    for wanted in [is_int as fn(&Ty) -> bool, is_text] {
        let (a, b) = (of_kind(l, wanted), of_kind(rc, wanted));
        if !a.is_empty() && !b.is_empty() && r.chance(60) {
            on.push(equality(*r.pick(&a), *r.pick(&b), l.len()));
        }
    }
    if on.is_empty() && r.chance(80) || r.chance(20) {
        on.push(Conjunct { condition: predicate(&all, r), equi: None });
    }
    on
}

fn aggregate(input: Rel, g: &Grammar, r: &mut Random) -> Rel {
    let cols = input.cols();
    let keys = (0..r.below(3)).map(|_| key(&cols, r)).collect::<Vec<_>>();
    let least = usize::from(keys.is_empty());
    let aggs = (0..least + r.below(4)).map(|_| agg(&cols, g, r)).collect();
    input.aggregate(keys, aggs).unwrap()
}

fn agg(cols: &[Col], g: &Grammar, r: &mut Random) -> Agg {
    let filter = r.chance(25).then(|| predicate(cols, r));
    let suffix = filter.as_ref().map_or(String::new(), |f| format!(" FILTER (WHERE {})", f.sql));
    let make = |call: String, x: Option<Scalar>, ty: Ty, not_null, kind: fn(Scalar) -> AggKind| {
        let mut reads = x.as_ref().map_or(Vec::new(), |x| x.cols.clone());
        reads.extend(filter.iter().flat_map(|f| f.cols.clone()));
        let call = Scalar::deparsed(format!("{call}{suffix}"), reads, ty, not_null);
        Agg { call, kind: x.map_or(AggKind::CountStar, kind), filter: filter.clone() }
    };
    let number = |r: &mut Random| decimal(cols, r).filter(|_| r.chance(60)).unwrap_or_else(|| int(cols, r));
    match r.below(9) {
        0 => make("count(*)".into(), None, bigint(), true, AggKind::Count),
        1 => {
            let x = key(cols, r);
            make(format!("count({})", x.sql), Some(x), bigint(), true, AggKind::Count)
        }
        2 | 3 => {
            let x = number(r);
            let ty = if x.ty.number == Number::Small { bigint() } else { numeric() };
            make(format!("sum({})", x.sql), Some(x), ty, false, AggKind::Sum)
        }
        4 if g.decimals => {
            let x = number(r);
            make(format!("avg({})", x.sql), Some(x), numeric(), false, AggKind::Avg)
        }
        5 | 6 => {
            let x = key(cols, r);
            let ty = x.ty.clone();
            let max = r.chance(50);
            let kind = if max { AggKind::Max } else { AggKind::Min };
            make(format!("{}({})", if max { "max" } else { "min" }, x.sql), Some(x), ty, false, kind)
        }
        7 | 4 => {
            let x = key(cols, r);
            make(format!("count(DISTINCT {})", x.sql), Some(x), bigint(), true, |_| AggKind::Recompute)
        }
        _ if !g.decimals => make("count(*)".into(), None, bigint(), true, AggKind::Count),
        _ => {
            let x = int(cols, r);
            let ty = other(&format!("{}[]", x.ty.sql), Equality::Image);
            make(format!("array_agg({0} ORDER BY {0})", x.sql), Some(x), ty, false, |_| AggKind::Recompute)
        }
    }
}
