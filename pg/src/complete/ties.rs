//! The tie-break: by value where the type has an order, then rows in the order of their bytes.

use crate::expr::Expr;
use crate::nodes::{copy, length, pointers};
use crate::types::{RECORD_IMAGE_LT, TypeEquality, base_type, equality_of};
use pgrx::pg_sys;

/// `*=` over rows.
const RECORD_IMAGE_EQ: u32 = 3188;

/// A list of targets, of a query or of an aggregate call, and what it is sorted by.
pub(super) struct Sorted {
    pub targets: *mut pg_sys::List,
    pub order: *mut pg_sys::List,
}

impl Sorted {
    /// # Safety
    /// `query` is a live query.
    pub unsafe fn query(query: *mut pg_sys::Query) -> Sorted {
        // SAFETY: as the caller says.
        unsafe { Sorted { targets: (*query).targetList, order: (*query).sortClause } }
    }

    /// # Safety
    /// `call` is a live aggregate call.
    pub unsafe fn call(call: *mut pg_sys::Aggref) -> Sorted {
        // SAFETY: as the caller says.
        unsafe { Sorted { targets: (*call).args, order: (*call).aggorder } }
    }

    /// Sorts by these expressions, none of which need be among the targets, in the order of their bytes.
    pub unsafe fn by_image(&mut self, values: &[*mut pg_sys::Node]) {
        // SAFETY: allocates nodes; values are copied, so nothing is shared.
        unsafe {
            let number = self.add(row_of(values));
            self.order = pg_sys::lappend(self.order, image_order(number).cast());
        }
    }

    /// Sorts by an expression with this operator.
    pub unsafe fn by(&mut self, value: *mut pg_sys::Node, like: *mut pg_sys::SortGroupClause) {
        // SAFETY: as above.
        unsafe {
            let clause = copy(like);
            (*clause).tleSortGroupRef = self.add(copy(value));
            self.order = pg_sys::lappend(self.order, clause.cast());
        }
    }

    /// Sorts by the values of its own targets, then, where equal values may look different or have no order, by their
    /// bytes; constants sort nothing.
    pub unsafe fn by_values(&mut self, images: bool) {
        // SAFETY: targets are TargetEntry nodes.
        unsafe {
            let own = pointers::<pg_sys::TargetEntry>(self.targets);
            let constant = |node: *mut pg_sys::Expr| (*node).type_ == pg_sys::NodeTag::T_Const;
            let own: Vec<_> = own.filter(|target| !(**target).resjunk && !constant((**target).expr)).collect();
            let mut blurred = false;
            for target in &own {
                let ty = Expr::new((**target).expr.cast()).ty();
                blurred |= equality_of(ty) != TypeEquality::Image;
                // Whether rows of no declared type have an order is known only when they are compared.
                let nameless = [pg_sys::RECORDOID, pg_sys::RECORDARRAYOID].contains(&ty.oid);
                let Some(clause) = value_order(base_type(ty).oid).filter(|_| !nameless) else { continue };
                if (**target).ressortgroupref == 0 {
                    (**target).ressortgroupref = self.next_number();
                }
                (*clause).tleSortGroupRef = (**target).ressortgroupref;
                let mut known = pointers::<pg_sys::SortGroupClause>(self.order);
                if !known.any(|known| (*known).tleSortGroupRef == (*clause).tleSortGroupRef) {
                    self.order = pg_sys::lappend(self.order, clause.cast());
                }
            }
            if blurred && images {
                let values: Vec<_> = own.iter().map(|target| (**target).expr.cast()).collect();
                self.by_image(&values);
            }
        }
    }

    unsafe fn next_number(&self) -> u32 {
        // SAFETY: targets are TargetEntry nodes.
        unsafe {
            let numbers = pointers::<pg_sys::TargetEntry>(self.targets).map(|target| (*target).ressortgroupref);
            numbers.max().unwrap_or_default() + 1
        }
    }

    /// One more target, which is not selected; what it is sorted by.
    unsafe fn add(&mut self, value: *mut pg_sys::Node) -> u32 {
        // SAFETY: allocates a node.
        unsafe {
            let number = self.next_number();
            let position = length(self.targets) as i16 + 1;
            let target = pg_sys::makeTargetEntry(value.cast(), position, std::ptr::null_mut(), true);
            (*target).ressortgroupref = number;
            self.targets = pg_sys::lappend(self.targets, target.cast());
            number
        }
    }
}

/// Adds `ROW(values)` to the targets; gives the term that sorts by it, or nothing if there are no values.
pub(super) unsafe fn append_tie_break(
    query: *mut pg_sys::Query,
    values: Vec<*mut pg_sys::Node>,
) -> Option<*mut pg_sys::SortGroupClause> {
    if values.is_empty() {
        return None;
    }
    // SAFETY: the query is a tree of ours; values are copied, so nothing is shared.
    unsafe {
        let mut sorted = Sorted::query(query);
        let number = sorted.add(row_of(&values));
        (*query).targetList = sorted.targets;
        Some(image_order(number))
    }
}

/// `ROW(values)`
unsafe fn row_of(values: &[*mut pg_sys::Node]) -> *mut pg_sys::Node {
    // SAFETY: allocates nodes of the types that their tags name.
    unsafe {
        let row = node::<pg_sys::RowExpr>(pg_sys::NodeTag::T_RowExpr);
        for (i, value) in values.iter().enumerate() {
            (*row).args = pg_sys::lappend((*row).args, copy(*value).cast());
            let name = std::ffi::CString::new(format!("f{}", i + 1)).expect("no NUL");
            let name = pg_sys::makeString(pg_sys::pstrdup(name.as_ptr()));
            (*row).colnames = pg_sys::lappend((*row).colnames, name.cast());
        }
        (*row).row_typeid = pg_sys::RECORDOID;
        (*row).row_format = pg_sys::CoercionForm::COERCE_EXPLICIT_CALL;
        (*row).location = -1;
        row.cast()
    }
}

unsafe fn image_order(number: u32) -> *mut pg_sys::SortGroupClause {
    // SAFETY: allocates a node.
    unsafe {
        let clause = node::<pg_sys::SortGroupClause>(pg_sys::NodeTag::T_SortGroupClause);
        (*clause).tleSortGroupRef = number;
        (*clause).eqop = pg_sys::Oid::from(RECORD_IMAGE_EQ);
        (*clause).sortop = pg_sys::Oid::from(RECORD_IMAGE_LT);
        clause
    }
}

/// The default order of a type, if it has one.
unsafe fn value_order(ty: pg_sys::Oid) -> Option<*mut pg_sys::SortGroupClause> {
    // SAFETY: reads the type cache, allocates a node.
    unsafe {
        let wanted = pg_sys::TYPECACHE_EQ_OPR | pg_sys::TYPECACHE_LT_OPR | pg_sys::TYPECACHE_HASH_PROC;
        let cache = pg_sys::lookup_type_cache(ty, wanted as i32);
        if (*cache).lt_opr == pg_sys::InvalidOid || (*cache).eq_opr == pg_sys::InvalidOid {
            return None;
        }
        let clause = node::<pg_sys::SortGroupClause>(pg_sys::NodeTag::T_SortGroupClause);
        (*clause).eqop = (*cache).eq_opr;
        (*clause).sortop = (*cache).lt_opr;
        (*clause).hashable = (*cache).hash_proc != pg_sys::InvalidOid;
        Some(clause)
    }
}

/// # Safety
/// `T` is the struct of the tag.
pub(super) unsafe fn node<T>(tag: pg_sys::NodeTag) -> *mut T {
    // SAFETY: every node starts with its tag.
    unsafe {
        let made = pg_sys::palloc0(size_of::<T>()).cast::<pg_sys::Node>();
        (*made).type_ = tag;
        made.cast()
    }
}
