//! `JSON_OBJECTAGG` and the JSON constructors over windows are other names for aggregates that are functions. As these they
//! can have an ORDER BY, and be printed piece by piece.

/// Calls the functions in the select lists and HAVING of a query and of those in it.
///
/// # Safety
/// `query` is a tree that nobody else uses.
#[cfg(feature = "pg15")]
pub(crate) unsafe fn call_aggregates(_: *mut pgrx::pg_sys::Query) -> bool {
    false
}

#[cfg(not(feature = "pg15"))]
pub(crate) use constructors::call_aggregates;

#[cfg(not(feature = "pg15"))]
mod constructors {
    use crate::expr::{Expr, Hole};
    use crate::nodes::{copy, pointers};
    use crate::query::Query;
    use pgrx::pg_sys;
    use pgrx::pg_sys::NodeTag;

    /// Calls the functions in the select lists and HAVING of a query and of those in it.
    ///
    /// # Safety
    /// `query` is a tree that nobody else uses.
    pub(crate) unsafe fn call_aggregates(query: *mut pg_sys::Query) -> bool {
        // SAFETY: as the caller says. Those within others come first, as what is around them is copied.
        unsafe {
            let all = Query::new(query).descendants();
            all.iter().rev().fold(false, |changed, query| call_own(query.as_node().cast()) || changed)
        }
    }

    unsafe fn call_own(query: *mut pg_sys::Query) -> bool {
        // SAFETY: targetList holds TargetEntry nodes.
        unsafe {
            let targets: Vec<*mut pg_sys::TargetEntry> = pointers((*query).targetList).collect();
            let mut changed = false;
            let places =
                targets.iter().map(|target| (&raw mut (**target).expr).cast()).chain([&raw mut (*query).havingQual]);
            for place in places.filter(|place: &*mut *mut pg_sys::Node| !(**place).is_null()) {
                let mut found = false;
                Expr::new(*place).any(&mut |part| {
                    found |= called(part).is_some();
                    found
                });
                if found {
                    *place = as_call(Expr::new(*place)).node();
                    changed = true;
                }
            }
            changed
        }
    }

    /// An expression with calls in place of such constructors.
    fn as_call<'q>(expr: Expr<'q>) -> Expr<'q> {
        // SAFETY: what `called` gives is a constructor with a call; the coercion stands around a place for its value.
        unsafe {
            expr.with_own_parts(&mut |part| {
                let constructor = called(part)?;
                let call = copy((*constructor).func.cast::<pg_sys::Node>());
                unformat(call);
                let call = as_call(Expr::new(call)).node();
                if (*constructor).coercion.is_null() {
                    return Some(Hole::Node(call));
                }
                let coerced = Expr::new((*constructor).coercion.cast()).with_own_parts(&mut |part| {
                    ((*part.node()).type_ == NodeTag::T_CaseTestExpr).then_some(Hole::Node(call))
                });
                Some(Hole::Node(coerced.node()))
            })
        }
    }

    /// The constructor that an expression is, if it is one of those.
    fn called(expr: Expr<'_>) -> Option<*mut pg_sys::JsonConstructorExpr> {
        // SAFETY: the tag decides the struct.
        unsafe {
            let constructor = expr.node().cast::<pg_sys::JsonConstructorExpr>();
            if (*expr.node()).type_ != NodeTag::T_JsonConstructorExpr || (*constructor).func.is_null() {
                return None;
            }
            let objects = (*constructor).type_ == pg_sys::JsonConstructorType::JSCTOR_JSON_OBJECTAGG;
            let kind = (*(*constructor).func).type_;
            (kind == NodeTag::T_WindowFunc || kind == NodeTag::T_Aggref && objects).then_some(constructor)
        }
    }

    /// Leaves `FORMAT JSON` of a call's arguments out: only constructors have it.
    unsafe fn unformat(call: *mut pg_sys::Node) {
        // SAFETY: the tags decide the structs; the call is a copy.
        unsafe {
            let plain = |place: *mut *mut pg_sys::Node| {
                if (**place).type_ == NodeTag::T_JsonValueExpr {
                    *place = (*(*place).cast::<pg_sys::JsonValueExpr>()).formatted_expr.cast();
                }
            };
            if (*call).type_ == NodeTag::T_WindowFunc {
                let args = (*call.cast::<pg_sys::WindowFunc>()).args;
                (0..(*args).length as usize)
                    .for_each(|i| plain((&raw mut (*(*args).elements.add(i)).ptr_value).cast()));
                return;
            }
            for arg in pointers::<pg_sys::TargetEntry>((*call.cast::<pg_sys::Aggref>()).args) {
                plain((&raw mut (*arg).expr).cast());
            }
        }
    }
}
