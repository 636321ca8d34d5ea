//! Hash and image of a row of values of any types, by which rows without a key are found again.

use crate::bindings::raw;
use crate::nodes::pointers;
use pgrx::pg_sys::{Datum, FunctionCallInfo, NullableDatum};
use pgrx::{IntoDatum, pg_guard, pg_sys};
use std::mem::{offset_of, size_of};

/// Mixes the hash of one more value into that of a row. The multiplier is 2^64 divided by the golden ratio.
pub(crate) fn mix(hash: u64, value: u64) -> u64 {
    (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// What is known of an argument's type. Arrays of them are kept with the place of a call, whose memory PostgreSQL frees: they
/// have no destructor.
#[derive(Clone, Copy)]
struct Argument {
    by_value: bool,
    length: i16,
    /// Its own: arguments of several collations have none in common.
    collation: pg_sys::Oid,
    /// Lives as long as the process.
    entry: *mut pg_sys::TypeCacheEntry,
}

/// What is known of the arguments of a call of a function declared `VARIADIC "any"`; looked up at the first one in its place.
///
/// # Safety
/// `fcinfo` is that of the running call. Errors pass over this frame and the caller's, which has no destructors.
unsafe fn arguments(fcinfo: FunctionCallInfo) -> *const Argument {
    // SAFETY: nobody else writes to the place that a function has in its call's `FmgrInfo`.
    unsafe {
        match (*(*fcinfo).flinfo).fn_extra {
            unknown if unknown.is_null() => look_up(fcinfo),
            known => known.cast(),
        }
    }
}

#[cold]
#[pg_guard]
unsafe extern "C-unwind" fn look_up(fcinfo: FunctionCallInfo) -> *const Argument {
    // SAFETY: the array has room for as many as the call has, and lives as long as what refers to it.
    unsafe {
        let (flinfo, number) = ((*fcinfo).flinfo, (*fcinfo).nargs as usize);
        let memory = pg_sys::MemoryContextAlloc((*flinfo).fn_mcxt, number * size_of::<Argument>());
        for i in 0..number {
            memory.cast::<Argument>().add(i).write(Argument::of(fcinfo, i));
        }
        (*flinfo).fn_extra = memory;
        memory.cast()
    }
}

/// The values of a call beside what is known of them: `None` for NULL.
///
/// # Safety
/// `fcinfo` is that of the running call, `known` what is known of its arguments.
unsafe fn values(fcinfo: FunctionCallInfo, known: *const Argument) -> impl Iterator<Item = (Argument, Option<Datum>)> {
    // SAFETY: PostgreSQL fills nargs entries, and as many arguments are known.
    unsafe {
        let values = (&raw const (*fcinfo).args).cast::<NullableDatum>();
        (0..(*fcinfo).nargs as usize).map(move |i| {
            let NullableDatum { value, isnull } = *values.add(i);
            (*known.add(i), (!isnull).then_some(value))
        })
    }
}

/// The collation of the call's argument `i`.
unsafe fn collation(fcinfo: FunctionCallInfo, i: usize) -> pg_sys::Oid {
    // SAFETY: where an argument's type is known, the function was called by an expression of this kind.
    unsafe {
        let call = (*(*fcinfo).flinfo).fn_expr.cast::<pg_sys::FuncExpr>();
        match pg_sys::exprCollation(pointers((*call).args).nth(i).unwrap_or(std::ptr::null_mut())) {
            pg_sys::InvalidOid => pg_sys::DEFAULT_COLLATION_OID,
            own => own,
        }
    }
}

/// A call with two arguments, whose number `FunctionCallInfoBaseData` leaves open.
#[repr(C)]
struct CallOfTwo {
    base: pg_sys::FunctionCallInfoBaseData,
    args: [NullableDatum; 2],
}

const _: () = assert!(offset_of!(CallOfTwo, args) == offset_of!(pg_sys::FunctionCallInfoBaseData, args));

impl Argument {
    unsafe fn of(fcinfo: FunctionCallInfo, i: usize) -> Argument {
        // SAFETY: passed on from the caller.
        unsafe {
            let typ = pg_sys::get_fn_expr_argtype((*fcinfo).flinfo, i as i32);
            if typ == pg_sys::InvalidOid || typ == pg_sys::UNKNOWNOID {
                pgrx::error!("could not determine the type of argument {}", i + 1);
            }
            let flags = pg_sys::TYPECACHE_HASH_EXTENDED_PROC_FINFO | pg_sys::TYPECACHE_EQ_OPR;
            let entry = pg_sys::lookup_type_cache(typ, flags as i32);
            let (by_value, length) = ((*entry).typbyval, (*entry).typlen);
            Argument { by_value, length, collation: collation(fcinfo, i), entry }
        }
    }

    /// Hash of the value's bytes, whatever form it is stored in. Errors pass over it.
    unsafe fn image_hash(&self, value: Datum) -> u64 {
        // SAFETY: length and passing are those of the value's type.
        u64::from(unsafe { raw::datum_image_hash(value, self.by_value, i32::from(self.length)) })
    }

    /// A hash that is the same for all values that the type calls equal. Errors pass over it.
    unsafe fn hash(&self, value: Datum) -> u64 {
        // SAFETY: the entry lives as long as the process.
        unsafe {
            if (*self.entry).hash_extended_proc_finfo.fn_oid != pg_sys::InvalidOid {
                self.hash_by_type(value)
            } else if (*self.entry).eq_opr != pg_sys::InvalidOid {
                // Equality without hashing: every value is a candidate.
                1
            } else {
                self.image_hash(value)
            }
        }
    }

    /// By the type's support function, called as `FunctionCall2Coll` does it, but without a guard of its own.
    unsafe fn hash_by_type(&self, value: Datum) -> u64 {
        // SAFETY: the function takes the value and a seed; what it is called with need not outlive the call.
        unsafe {
            let flinfo = &raw mut (*self.entry).hash_extended_proc_finfo;
            let argument = |value| NullableDatum { value, isnull: false };
            let mut call = CallOfTwo { base: std::mem::zeroed(), args: [argument(value), argument(Datum::from(0))] };
            call.base.flinfo = flinfo;
            call.base.fncollation = self.collation;
            call.base.nargs = 2;
            let Some(function) = (*flinfo).fn_addr else { return no_hash((*flinfo).fn_oid) };
            let hash = function((&raw mut call).cast());
            if call.base.isnull { no_hash((*flinfo).fn_oid) } else { hash.value() as u64 }
        }
    }

    /// Appends the value's bytes, with their length where it varies.
    unsafe fn append_image(&self, value: Datum, to: &mut Vec<u8>) {
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

#[cold]
#[pg_guard]
unsafe extern "C-unwind" fn no_hash(function: pg_sys::Oid) -> u64 {
    pgrx::error!("function {} returned NULL", function.to_u32())
}

/// The hashes of a row's values, mixed. Errors pass over this frame and those below it, which have no destructors: the guards
/// against them would cost more than the hashes.
unsafe fn mixed(fcinfo: FunctionCallInfo, hash: unsafe fn(&Argument, Datum) -> u64) -> Datum {
    let mut row = 0;
    // SAFETY: passed on from the caller; the values are those of the arguments.
    unsafe {
        for (argument, value) in values(fcinfo, arguments(fcinfo)) {
            let hashed = if let Some(value) = value { hash(&argument, value) } else { 0 };
            row = mix(row, hashed);
        }
    }
    Datum::from(row)
}

/// Hash of a row by its types' equality.
///
/// # Safety
/// `fcinfo` is that of the running call.
pub unsafe extern "C-unwind" fn row_hash(fcinfo: FunctionCallInfo) -> Datum {
    // SAFETY: passed on from the caller.
    unsafe { mixed(fcinfo, Argument::hash) }
}

/// Hash of a row by the bytes of its values.
///
/// # Safety
/// `fcinfo` is that of the running call.
pub unsafe extern "C-unwind" fn image_hash(fcinfo: FunctionCallInfo) -> Datum {
    // SAFETY: passed on from the caller.
    unsafe { mixed(fcinfo, Argument::image_hash) }
}

/// The bytes of a row's values, such that different rows have different bytes.
///
/// # Safety
/// `fcinfo` is that of the running call.
pub unsafe extern "C-unwind" fn row_image(fcinfo: FunctionCallInfo) -> Datum {
    // SAFETY: passed on from the caller.
    unsafe { guarded_row_image(fcinfo, arguments(fcinfo)) }
}

#[pg_guard]
unsafe extern "C-unwind" fn guarded_row_image(fcinfo: FunctionCallInfo, known: *const Argument) -> Datum {
    let mut image = Vec::with_capacity(64);
    // SAFETY: passed on from the caller.
    unsafe {
        for (argument, value) in values(fcinfo, known) {
            image.push(u8::from(value.is_some()));
            if let Some(value) = value {
                argument.append_image(value, &mut image);
            }
        }
    }
    image.into_datum().expect("bytes are not NULL")
}

/// Of two values of one type the one whose bytes come first.
///
/// # Safety
/// `fcinfo` is that of the running call of a strict function.
pub unsafe extern "C-unwind" fn lesser_image(fcinfo: FunctionCallInfo) -> Datum {
    // SAFETY: passed on from the caller.
    unsafe { guarded_lesser_image(fcinfo, arguments(fcinfo)) }
}

#[pg_guard]
unsafe extern "C-unwind" fn guarded_lesser_image(fcinfo: FunctionCallInfo, known: *const Argument) -> Datum {
    // SAFETY: passed on from the caller; a strict function gets no NULL.
    unsafe {
        let mut values = values(fcinfo, known);
        let (Some((argument, Some(a))), Some((_, Some(b)))) = (values.next(), values.next()) else {
            unreachable!("two arguments, none NULL")
        };
        let image = |value: Datum| {
            let mut image = Vec::with_capacity(32);
            argument.append_image(value, &mut image);
            image
        };
        if image(b) < image(a) { b } else { a }
    }
}

/// Defines a C function of version 1 that PostgreSQL can call by the symbol `$symbol`. `$body` is either guarded or has neither
/// panics nor destructors.
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
        pub unsafe extern "C-unwind" fn $symbol(fcinfo: ::pgrx::pg_sys::FunctionCallInfo) -> ::pgrx::pg_sys::Datum {
            // SAFETY: PostgreSQL calls us with the call's own information.
            unsafe { $body(fcinfo) }
        }
    };
}
