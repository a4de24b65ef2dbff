//! `getaddrinfo` of a static program: it finds no name, and loads no module.
//!
//! The function of the C library loads the modules that the system's `nsswitch.conf` names. In a
//! static program a module of another version ends the process by a signal. Libraries contain calls
//! of it for resolvers that this program does not use. The linker takes the functions of this file
//! before those of the C library, so no path leads to a module. [`names`](super::names) looks names
//! up without them.

#![allow(
    unsafe_code,
    reason = "symbols of the C library are replaced; neither function uses its pointers"
)]

use libc::{addrinfo, c_char, c_int};

/// Reports a failure that is not temporary.
#[unsafe(no_mangle)]
extern "C" fn getaddrinfo(
    _node: *const c_char,
    _service: *const c_char,
    _hints: *const addrinfo,
    _result: *mut *mut addrinfo,
) -> c_int {
    libc::EAI_FAIL
}

/// Frees nothing: there is no result of [`getaddrinfo`].
///
/// The C library has both functions in one object, which the linker would add for this one.
#[unsafe(no_mangle)]
extern "C" fn freeaddrinfo(_result: *mut addrinfo) {}
