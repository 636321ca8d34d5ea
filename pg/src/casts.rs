//! Conversions as text: `a::t` means whatever casts there are when it is read, and those may come and go without asking the views
//! that were made with others.

use crate::expr::Expr;
use crate::nodes::{Walk, walk};
use pgrx::pg_sys;

/// Makes casts by functions of users print as calls of these.
pub(crate) fn spell_out(expr: Expr<'_>) {
    let mut see = |node: *mut pg_sys::Node| {
        // SAFETY: the tag decides the struct; the tree is ours until the scratch context goes.
        unsafe {
            if (*node).type_ == pg_sys::NodeTag::T_FuncExpr {
                let call = node.cast::<pg_sys::FuncExpr>();
                let form = (*call).funcformat;
                let cast = form == pg_sys::CoercionForm::COERCE_EXPLICIT_CAST
                    || form == pg_sys::CoercionForm::COERCE_IMPLICIT_CAST;
                if cast && (*call).funcid.to_u32() >= pg_sys::FirstNormalObjectId {
                    (*call).funcformat = pg_sys::CoercionForm::COERCE_EXPLICIT_CALL;
                }
            }
        }
        Walk::Into
    };
    // SAFETY: the expression is a live tree.
    unsafe { walk(expr.node(), &mut see) }
}

impl Expr<'_> {
    /// Whether it is a conversion by way of text, made when there was no cast for it, and there is one now: printed, it would mean that.
    pub fn is_cast_since(&self) -> bool {
        // SAFETY: the tag decides the struct; the function looks types up.
        unsafe {
            if (*self.node()).type_ != pg_sys::NodeTag::T_CoerceViaIO {
                return false;
            }
            let conversion = self.node().cast::<pg_sys::CoerceViaIO>();
            let (from, to) = (pg_sys::exprType((*conversion).arg.cast()), (*conversion).resulttype);
            // Of built-in types only we convert by way of text what has a cast.
            if from.to_u32().max(to.to_u32()) < pg_sys::FirstNormalObjectId {
                return false;
            }
            let mut function = pg_sys::InvalidOid;
            let path =
                pg_sys::find_coercion_pathway(to, from, pg_sys::CoercionContext::COERCION_EXPLICIT, &mut function);
            path == pg_sys::CoercionPathType::COERCION_PATH_FUNC
                || path == pg_sys::CoercionPathType::COERCION_PATH_RELABELTYPE
        }
    }
}
