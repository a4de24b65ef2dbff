//! How the C library's allocator keeps memory.

/// Has everything large returned to the system as soon as it is freed, and everything small taken from two places
/// by all threads.
///
/// glibc raises the size from which it does so whenever something larger was freed, and then keeps the holes
/// between what lives longer: a third more memory at the peak of an update. It also gives each thread a place
/// of its own, where what one of them freed is of no use to the next. With a single one they wait for each other:
/// reading a manifest takes a third longer.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(
    unsafe_code,
    reason = "a call that sets a number of the allocator, before any thread begins"
)]
pub fn tune() {
    /// glibc's own default, which setting it makes stay.
    const THRESHOLD: libc::c_int = 128 << 10;
    for (what, value) in [(libc::M_MMAP_THRESHOLD, THRESHOLD), (libc::M_ARENA_MAX, 2)] {
        // SAFETY: mallopt takes two integers; what it refuses it leaves as it is.
        unsafe { libc::mallopt(what, value) };
    }
}

/// Returns to the system what is free in between: what an earlier step of a run held in many pieces is of no use
/// to a later one that works with few and large ones.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(
    unsafe_code,
    reason = "a call that has no arguments to be wrong, and changes nothing that is in use"
)]
pub fn trim() {
    // SAFETY: malloc_trim takes the allocator's own locks, and touches only what is free.
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries do this, or nothing can be said to them.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn tune() {}

/// Other C libraries do this, or nothing can be said to them.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn trim() {}
