//! How the C library's allocator keeps memory.

/// Has everything large returned to the system as soon as it is freed, and everything small taken from two places
/// by all threads.
///
/// glibc raises the size from which it does so whenever something larger was freed, and then keeps the holes
/// between what lives longer: a third more memory at the peak of an update. It also gives each thread a place
/// of its own, where what one of them freed is of no use to the next. With a single one they wait for each other:
/// reading a manifest takes a third longer.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "a call that sets a number of the allocator, before any thread begins")]
pub fn return_what_is_large() {
    /// glibc's own default, which setting it makes stay.
    const THRESHOLD: libc::c_int = 128 << 10;
    for (what, value) in [(libc::M_MMAP_THRESHOLD, THRESHOLD), (libc::M_ARENA_MAX, 2)] {
        // SAFETY: mallopt takes two integers; what it refuses it leaves as it is.
        unsafe { libc::mallopt(what, value) };
    }
}

/// Other C libraries do this, or nothing can be said to them.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn return_what_is_large() {}
