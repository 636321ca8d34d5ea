//! What a query reads: FROM, the range table, WITH, the branches of set operations.

use crate::expr::Expr;
use crate::functions::Functions;
use crate::nodes::{Walk, attribute_numbers, length, pointers, text, walk};
use crate::query::Query;
use crate::types::TypeRef;
use pgrx::pg_sys;

/// One item of the FROM clause.
pub enum From<'q> {
    /// An entry of the range table, numbered from 1.
    Entry(usize),
    /// A join of two items.
    Join { kind: JoinKind, left: Box<From<'q>>, right: Box<From<'q>>, on: Option<Expr<'q>> },
}

/// The joins that SQL can spell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinKind {
    Inner,
    Left,
    Right,
    Full,
}

/// What a range table entry is.
pub enum Entry<'q> {
    /// A table, view, matview, foreign table...
    Relation(RelationEntry),
    /// A subquery in FROM or an inlined view (then with the view's OID).
    Subquery { query: Query<'q>, lateral: bool },
    /// VALUES with more than one row.
    Values { rows: Vec<Vec<Expr<'q>>>, types: Vec<TypeRef>, lateral: bool },
    /// A reference to WITH, so many query levels up.
    Cte { name: String, levels_up: u32, recursive: bool },
    /// Functions, XMLTABLE, JSON_TABLE.
    Functions(Functions<'q>),
    /// A FROM-less SELECT.
    Result,
    /// A join's own entry, PostgreSQL 18's group entry, and what cannot be in FROM.
    Other,
}

/// A relation in the range table.
#[derive(Debug, Clone)]
pub struct RelationEntry {
    pub relid: pg_sys::Oid,
    pub relkind: char,
    /// Includes children; false for ONLY.
    pub inherits: bool,
    pub tablesample: bool,
    /// Row security or a security-barrier condition is attached.
    pub guarded: bool,
    /// Whose rights are checked, if not the current user's: the owner of the view that it is read through.
    pub check_as: Option<pg_sys::Oid>,
    /// Columns read, by attribute number; 0 stands for all of them.
    pub selected: Vec<i16>,
}

/// A set operation or a leaf of it.
pub enum SetTree {
    /// A range table entry, always a subquery.
    Leaf(usize),
    /// Two branches.
    Node { op: SetOp, all: bool, left: Box<SetTree>, right: Box<SetTree>, types: Vec<TypeRef> },
}

/// The set operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetOp {
    Union,
    Intersect,
    Except,
}

/// A named query of WITH.
#[derive(Clone, Copy)]
pub struct Cte<'q> {
    pub query: Query<'q>,
    pub recursive: bool,
}

impl<'q> Query<'q> {
    /// FROM: its items are joined with each other.
    pub fn from(&self) -> Vec<From<'q>> {
        // SAFETY: the items of a FromExpr are RangeTblRef and JoinExpr nodes.
        unsafe { pointers::<pg_sys::Node>((*self.get().jointree).fromlist).map(|item| self.from_item(item)).collect() }
    }

    /// # Safety
    /// `item` is a node of this query's join tree.
    unsafe fn from_item(&self, item: *mut pg_sys::Node) -> From<'q> {
        // SAFETY: the tag decides the struct.
        unsafe {
            if (*item).type_ == pg_sys::NodeTag::T_RangeTblRef {
                return From::Entry((*item.cast::<pg_sys::RangeTblRef>()).rtindex as usize);
            }
            let join = item.cast::<pg_sys::JoinExpr>();
            From::Join {
                kind: match (*join).jointype {
                    pg_sys::JoinType::JOIN_LEFT => JoinKind::Left,
                    pg_sys::JoinType::JOIN_RIGHT => JoinKind::Right,
                    pg_sys::JoinType::JOIN_FULL => JoinKind::Full,
                    _ => JoinKind::Inner,
                },
                left: Box::new(self.from_item((*join).larg)),
                right: Box::new(self.from_item((*join).rarg)),
                on: self.flatten_opt((*join).quals),
            }
        }
    }

    /// The conditions of all joins in FROM.
    pub fn join_conditions(&self) -> Vec<Expr<'q>> {
        fn gather<'q>(item: From<'q>, found: &mut Vec<Expr<'q>>) {
            if let From::Join { left, right, on, .. } = item {
                gather(*left, found);
                gather(*right, found);
                found.extend(on);
            }
        }
        let mut found = Vec::new();
        self.from().into_iter().for_each(|item| gather(item, &mut found));
        found
    }

    /// The subqueries in its FROM clause, inlined views among them.
    pub fn subqueries(&self) -> Vec<Query<'q>> {
        (1..=self.entries())
            .filter_map(|number| match self.entry(number) {
                Entry::Subquery { query, .. } => Some(query),
                _ => None,
            })
            .collect()
    }

    /// The columns of its own level that functions in its FROM clause read.
    pub fn function_arguments(&self) -> Vec<(usize, i16)> {
        let arguments = |number| match self.entry(number) {
            Entry::Functions(functions) => functions.reads(),
            _ => Vec::new(),
        };
        (1..=self.entries()).flat_map(arguments).collect()
    }

    /// The tree of set operations, if the query is one.
    pub fn set_operations(&self) -> Option<SetTree> {
        let root = self.get().setOperations;
        // SAFETY: setOperations is a tree of SetOperationStmt and RangeTblRef nodes.
        (!root.is_null()).then(|| unsafe { set_tree(root) })
    }

    /// The types of the columns of its set operation, if it is one.
    pub fn set_types(&self) -> Vec<TypeRef> {
        match self.set_operations() {
            Some(SetTree::Node { types, .. }) => types,
            _ => Vec::new(),
        }
    }

    /// The number of entries in the range table.
    pub fn entries(&self) -> usize {
        // SAFETY: rtable is a list or null.
        unsafe { length(self.get().rtable) }
    }

    /// An entry of the range table, numbered from 1.
    pub fn entry(&self, number: usize) -> Entry<'q> {
        // SAFETY: numbers come from this query's own tree; the kind decides which fields are meaningful.
        unsafe {
            let rte = pointers::<pg_sys::RangeTblEntry>(self.get().rtable).nth(number - 1).expect("entry exists");
            match (*rte).rtekind {
                pg_sys::RTEKind::RTE_RELATION => Entry::Relation(self.relation_entry(rte)),
                pg_sys::RTEKind::RTE_SUBQUERY => {
                    Entry::Subquery { query: Query::new((*rte).subquery), lateral: (*rte).lateral }
                }
                pg_sys::RTEKind::RTE_VALUES => Entry::Values {
                    rows: pointers::<pg_sys::List>((*rte).values_lists)
                        .map(|row| pointers(row).map(|e| self.flatten(e)).collect())
                        .collect(),
                    types: type_lists((*rte).coltypes, (*rte).coltypmods, (*rte).colcollations),
                    lateral: (*rte).lateral,
                },
                pg_sys::RTEKind::RTE_CTE => Entry::Cte {
                    name: text((*rte).ctename),
                    levels_up: (*rte).ctelevelsup,
                    recursive: (*rte).self_reference,
                },
                pg_sys::RTEKind::RTE_FUNCTION | pg_sys::RTEKind::RTE_TABLEFUNC => Entry::Functions(self.functions(rte)),
                pg_sys::RTEKind::RTE_RESULT => Entry::Result,
                _ => Entry::Other,
            }
        }
    }

    /// # Safety
    /// `rte` is an RTE_RELATION of this query.
    unsafe fn relation_entry(&self, rte: *mut pg_sys::RangeTblEntry) -> RelationEntry {
        // SAFETY: as the caller says; the permission entry of 16 and newer belongs to the same query.
        unsafe {
            let (check_as, selected) = self.permissions(rte);
            RelationEntry {
                relid: (*rte).relid,
                relkind: (*rte).relkind as u8 as char,
                inherits: (*rte).inh,
                tablesample: !(*rte).tablesample.is_null(),
                guarded: !(*rte).securityQuals.is_null(),
                check_as: (check_as != pg_sys::InvalidOid).then_some(check_as),
                selected: attribute_numbers(selected),
            }
        }
    }

    #[cfg(feature = "pg15")]
    unsafe fn permissions(&self, rte: *mut pg_sys::RangeTblEntry) -> (pg_sys::Oid, *mut pg_sys::Bitmapset) {
        // SAFETY: the caller passes a live entry.
        unsafe { ((*rte).checkAsUser, (*rte).selectedCols) }
    }

    #[cfg(not(feature = "pg15"))]
    unsafe fn permissions(&self, rte: *mut pg_sys::RangeTblEntry) -> (pg_sys::Oid, *mut pg_sys::Bitmapset) {
        // SAFETY: perminfoindex is 0 or an index into this query's rteperminfos.
        unsafe {
            if (*rte).perminfoindex == 0 {
                return (pg_sys::InvalidOid, std::ptr::null_mut());
            }
            let info = pg_sys::getRTEPermissionInfo(self.get().rteperminfos, rte);
            ((*info).checkAsUser, (*info).selectedCols)
        }
    }

    /// Whether a LIMIT may be what ends a recursion: without an order, PostgreSQL computes no more rows than it returns.
    /// A recursion in a view is seen only once that has been expanded.
    pub fn limit_may_end_recursion(&self) -> bool {
        let reads = |query: Query<'_>, itself: bool| {
            let wanted = |entry: Entry<'_>| matches!(entry, Entry::Cte { recursive, .. } if recursive || !itself);
            query.descendants().iter().any(|query| (1..=query.entries()).any(|n| wanted(query.entry(n))))
        };
        let cut_short = |query: &Query<'_>| {
            let features = query.features();
            features.limited && !features.ordered && reads(*query, false)
        };
        reads(*self, true) && self.descendants().iter().any(cut_short)
    }

    /// Whether it reads a recursion that it is part of, not one that is part of it.
    pub fn reads_recursion(&self) -> bool {
        self.reads_recursion_beyond(0)
    }

    fn reads_recursion_beyond(&self, levels: u32) -> bool {
        let beyond =
            |entry: Entry<'_>| matches!(entry, Entry::Cte { recursive: true, levels_up, .. } if levels_up > levels);
        (1..=self.entries()).any(|n| beyond(self.entry(n)))
            || self.children().iter().any(|query| query.reads_recursion_beyond(levels + 1))
    }

    /// The names of the columns of an entry. Those of what was a view, whose row is used, are the view's own: they may have been
    /// renamed since it was made.
    pub fn entry_names(&self, number: usize) -> Vec<String> {
        let view = self.row_relation(number);
        // SAFETY: numbers come from this query's own tree; colnames holds String nodes; names of attributes are C strings or null.
        unsafe {
            let rte = pointers::<pg_sys::RangeTblEntry>(self.get().rtable).nth(number - 1).expect("entry exists");
            let names = pointers::<pg_sys::String>((*(*rte).eref).colnames).map(|name| text((*name).sval));
            let now = |column: i16| view.map(|view| pg_sys::get_attname(view, column, true)).filter(|n| !n.is_null());
            names.zip(1..).map(|(name, column)| now(column).map_or(name, |now| text(now))).collect()
        }
    }

    /// The relation whose row type a whole row of this entry has.
    fn row_relation(&self, number: usize) -> Option<pg_sys::Oid> {
        let mut found = None;
        // SAFETY: walks this level of the tree only; the tag decides the struct.
        unsafe {
            walk(self.as_node(), &mut |node| {
                if (*node).type_ == pg_sys::NodeTag::T_Query && node != self.as_node() {
                    return Walk::Past;
                }
                if (*node).type_ == pg_sys::NodeTag::T_Var {
                    let var = &*node.cast::<pg_sys::Var>();
                    if var.varno as usize == number && var.varattno == 0 && var.varlevelsup == 0 {
                        found = Some(pg_sys::get_typ_typrelid(var.vartype)).filter(|&r| r != pg_sys::InvalidOid);
                    }
                }
                Walk::Into
            });
        }
        found
    }

    /// A query of this level's WITH.
    pub fn cte(&self, name: &str) -> Option<Cte<'q>> {
        // SAFETY: cteList holds CommonTableExpr nodes whose query has been analysed.
        unsafe {
            pointers::<pg_sys::CommonTableExpr>(self.get().cteList)
                .find(|cte| text((**cte).ctename) == name)
                .map(|cte| Cte { query: Query::new((*cte).ctequery.cast()), recursive: (*cte).cterecursive })
        }
    }
}

/// # Safety
/// `node` is part of a query's setOperations.
unsafe fn set_tree(node: *mut pg_sys::Node) -> SetTree {
    // SAFETY: the tag decides the struct.
    unsafe {
        if (*node).type_ == pg_sys::NodeTag::T_RangeTblRef {
            return SetTree::Leaf((*node.cast::<pg_sys::RangeTblRef>()).rtindex as usize);
        }
        let stmt = node.cast::<pg_sys::SetOperationStmt>();
        SetTree::Node {
            op: match (*stmt).op {
                pg_sys::SetOperation::SETOP_INTERSECT => SetOp::Intersect,
                pg_sys::SetOperation::SETOP_EXCEPT => SetOp::Except,
                _ => SetOp::Union,
            },
            all: (*stmt).all,
            left: Box::new(set_tree((*stmt).larg)),
            right: Box::new(set_tree((*stmt).rarg)),
            types: type_lists((*stmt).colTypes, (*stmt).colTypmods, (*stmt).colCollations),
        }
    }
}

/// # Safety
/// Three lists of equal length: OIDs, integers, OIDs.
pub(crate) unsafe fn type_lists(
    types: *mut pg_sys::List,
    typmods: *mut pg_sys::List,
    collations: *mut pg_sys::List,
) -> Vec<TypeRef> {
    // SAFETY: as the caller says.
    unsafe {
        (0..length(types))
            .map(|i| TypeRef {
                oid: (*(*types).elements.add(i)).oid_value,
                typmod: (*(*typmods).elements.add(i)).int_value,
                collation: (*(*collations).elements.add(i)).oid_value,
            })
            .collect()
    }
}
