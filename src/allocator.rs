//! Settings of the C library's allocator.

/// Returns large blocks to the system as soon as they are freed, and lets all threads share two
/// arenas.
///
/// By default glibc raises the size of a *large* block each time that it frees one. The holes
/// between long-lived blocks then stay in the heap: a third more memory at the peak of an update.
/// glibc also gives each thread an arena of its own, whose free blocks no other thread can use.
/// With a single arena threads wait for each other: reading a manifest takes a third longer.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(
    unsafe_code,
    reason = "mallopt has no safe wrapper; it sets a number, before any thread starts"
)]
pub fn tune() {
    /// Default of glibc; setting it keeps glibc from raising it.
    const MMAP_THRESHOLD: libc::c_int = 128 << 10;
    const ARENAS: libc::c_int = 2;

    for (parameter, value) in
        [(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD), (libc::M_ARENA_MAX, ARENAS)]
    {
        // SAFETY: mallopt takes two integers, and ignores values that it does not accept.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Returns free memory within the heap to the system.
///
/// One step of a run needs many small blocks, a later one few large ones. Without this call the run
/// would hold the memory of both.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(
    unsafe_code,
    reason = "malloc_trim has no safe wrapper; it changes no memory that is in use"
)]
pub fn trim() {
    // SAFETY: malloc_trim takes the allocator's locks, and changes only free memory.
    unsafe { libc::malloc_trim(0) };
}

/// Does nothing: other C libraries return memory by themselves, or have no such setting.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn tune() {}

/// Does nothing: other C libraries return memory by themselves, or have no such setting.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn trim() {}
