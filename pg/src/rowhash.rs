//! Hash and image of a row of values of any types, by which rows without a key are found again.

use crate::bindings;
use crate::nodes::pointers;
use pgrx::pg_sys;

/// Mixes the hash of one more value into that of a row. The multiplier is 2^64 divided by the golden ratio.
fn mix(hash: u64, value: u64) -> u64 {
    (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// What is known of an argument's type.
struct Argument {
    by_value: bool,
    length: i16,
    /// Its own: arguments of several collations have none in common.
    collation: pg_sys::Oid,
    entry: *mut pg_sys::TypeCacheEntry,
}

/// The arguments of a call of a function declared `VARIADIC "any"`: `None` for NULL.
///
/// # Safety
/// `fcinfo` is that of the running call.
unsafe fn arguments(fcinfo: pg_sys::FunctionCallInfo) -> Vec<(Argument, Option<pg_sys::Datum>)> {
    // SAFETY: PostgreSQL fills nargs entries; type cache entries live as long as the process.
    unsafe {
        let flags = pg_sys::TYPECACHE_HASH_EXTENDED_PROC_FINFO | pg_sys::TYPECACHE_EQ_OPR;
        (0..(*fcinfo).nargs as usize)
            .map(|i| {
                let typ = pg_sys::get_fn_expr_argtype((*fcinfo).flinfo, i as i32);
                if typ == pg_sys::InvalidOid || typ == pg_sys::UNKNOWNOID {
                    pgrx::error!("could not determine the type of argument {}", i + 1);
                }
                let entry = pg_sys::lookup_type_cache(typ, flags as i32);
                let argument = Argument {
                    by_value: (*entry).typbyval,
                    length: (*entry).typlen,
                    collation: collation(fcinfo, i),
                    entry,
                };
                let value = &(*fcinfo).args.as_slice((*fcinfo).nargs as usize)[i];
                (argument, (!value.isnull).then_some(value.value))
            })
            .collect()
    }
}

/// The collation of the call's argument `i`.
unsafe fn collation(fcinfo: pg_sys::FunctionCallInfo, i: usize) -> pg_sys::Oid {
    // SAFETY: where an argument's type is known, the function was called by an expression of this kind.
    unsafe {
        let call = (*(*fcinfo).flinfo).fn_expr.cast::<pg_sys::FuncExpr>();
        match pg_sys::exprCollation(pointers((*call).args).nth(i).unwrap_or(std::ptr::null_mut())) {
            pg_sys::InvalidOid => pg_sys::DEFAULT_COLLATION_OID,
            own => own,
        }
    }
}

impl Argument {
    /// Hash of the value's bytes, whatever form it is stored in.
    unsafe fn image_hash(&self, value: pg_sys::Datum) -> u64 {
        // SAFETY: length and passing are those of the value's type.
        u64::from(unsafe { bindings::datum_image_hash(value, self.by_value, i32::from(self.length)) })
    }

    /// A hash that is the same for all values that the type calls equal.
    unsafe fn hash(&self, value: pg_sys::Datum) -> u64 {
        // SAFETY: the support function takes the value and a seed.
        unsafe {
            let function = &raw mut (*self.entry).hash_extended_proc_finfo;
            if (*function).fn_oid != pg_sys::InvalidOid {
                pg_sys::FunctionCall2Coll(function, self.collation, value, pg_sys::Datum::from(0)).value() as u64
            } else if (*self.entry).eq_opr != pg_sys::InvalidOid {
                // Equality without hashing: every value is a candidate.
                1
            } else {
                self.image_hash(value)
            }
        }
    }

    /// Appends the value's bytes, with their length where it varies.
    unsafe fn append_image(&self, value: pg_sys::Datum, to: &mut Vec<u8>) {
        // SAFETY: length and passing are those of the value's type; a detoasted copy lives in the call's context.
        unsafe {
            if self.by_value {
                to.extend_from_slice(&(value.value() as u64).to_ne_bytes());
            } else if self.length > 0 {
                to.extend_from_slice(std::slice::from_raw_parts(value.cast_mut_ptr::<u8>(), self.length as usize));
            } else if self.length == -1 {
                let plain = pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr());
                let bytes = pgrx::varlena_to_byte_slice(plain);
                to.extend_from_slice(&(bytes.len() as u32).to_ne_bytes());
                to.extend_from_slice(bytes);
            } else {
                let bytes = std::ffi::CStr::from_ptr(value.cast_mut_ptr()).to_bytes_with_nul();
                to.extend_from_slice(bytes);
            }
        }
    }
}

/// Hash of a row by its types' equality.
///
/// # Safety
/// `fcinfo` is that of the running call.
pub unsafe fn row_hash(fcinfo: pg_sys::FunctionCallInfo) -> i64 {
    // SAFETY: passed on from the caller.
    unsafe {
        let values = arguments(fcinfo);
        values.iter().fold(0, |hash, (arg, value)| mix(hash, value.map_or(0, |v| arg.hash(v)))) as i64
    }
}

/// Hash of a row by the bytes of its values.
///
/// # Safety
/// `fcinfo` is that of the running call.
pub unsafe fn image_hash(fcinfo: pg_sys::FunctionCallInfo) -> i64 {
    // SAFETY: passed on from the caller.
    unsafe {
        let values = arguments(fcinfo);
        values.iter().fold(0, |hash, (arg, value)| mix(hash, value.map_or(0, |v| arg.image_hash(v)))) as i64
    }
}

/// The bytes of a row's values, such that different rows have different bytes.
///
/// # Safety
/// `fcinfo` is that of the running call.
pub unsafe fn row_image(fcinfo: pg_sys::FunctionCallInfo) -> Vec<u8> {
    let mut image = Vec::with_capacity(64);
    // SAFETY: passed on from the caller.
    unsafe {
        for (argument, value) in arguments(fcinfo) {
            image.push(u8::from(value.is_some()));
            if let Some(value) = value {
                argument.append_image(value, &mut image);
            }
        }
    }
    image
}

/// Of two values of one type the one whose bytes come first.
///
/// # Safety
/// `fcinfo` is that of the running call of a strict function.
pub unsafe fn lesser_image(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: passed on from the caller; a strict function gets no NULL.
    unsafe {
        let values = arguments(fcinfo);
        let [(argument, Some(a)), (_, Some(b))] = values.as_slice() else { unreachable!("two arguments, none NULL") };
        let image = |value: pg_sys::Datum| {
            let mut image = Vec::with_capacity(32);
            argument.append_image(value, &mut image);
            image
        };
        if image(*b) < image(*a) { *b } else { *a }
    }
}

/// Defines a C function of version 1 that PostgreSQL can call by the symbol `$symbol`.
#[macro_export]
macro_rules! variadic_function {
    ($symbol:ident, $info:ident, $body:path) => {
        #[doc(hidden)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $info() -> &'static ::pgrx::pg_sys::Pg_finfo_record {
            const V1: ::pgrx::pg_sys::Pg_finfo_record = ::pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }

        #[doc(hidden)]
        #[unsafe(no_mangle)]
        #[::pgrx::pg_guard]
        pub unsafe extern "C-unwind" fn $symbol(fcinfo: ::pgrx::pg_sys::FunctionCallInfo) -> ::pgrx::pg_sys::Datum {
            // SAFETY: PostgreSQL calls us with the call's own information.
            ::pgrx::IntoDatum::into_datum(unsafe { $body(fcinfo) }).unwrap_or(::pgrx::pg_sys::Datum::from(0))
        }
    };
}
