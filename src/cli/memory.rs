//! How the C library's allocator keeps memory.

/// Has everything large returned to the system as soon as it is freed.
///
/// glibc raises the size from which it does so whenever something larger was freed, and then keeps the holes
/// between what lives longer: a third more memory at the peak of an update.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "a call that sets one number of the allocator, before any thread begins")]
pub fn return_what_is_large() {
    /// glibc's own default, which setting it makes stay.
    const THRESHOLD: libc::c_int = 128 << 10;
    // SAFETY: mallopt takes two integers; what it refuses it leaves as it is.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, THRESHOLD) };
}

/// Other C libraries do this, or nothing can be said to them.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn return_what_is_large() {}
