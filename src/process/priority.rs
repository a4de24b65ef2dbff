//! Priority of this process: a download must not slow down the jobs of the node.

#![allow(
    unsafe_code,
    reason = "ioprio_set has no safe wrapper; its arguments are numbers without a memory address"
)]

/// The nice value of the lowest priority.
const LOWEST: i32 = 19;
/// `IOPRIO_WHO_PROCESS`.
const WHO_PROCESS: libc::c_int = 1;
/// `IOPRIO_CLASS_IDLE`, in the upper bits of a priority.
const CLASS_IDLE: libc::c_int = 3 << 13;

/// Gives this thread, and all that it starts from now on, the lowest priority.
///
/// The kernel and a sandbox may refuse it. The run is as correct then, only not as quiet.
pub fn lower() {
    let _ = rustix::process::setpriority_process(None, LOWEST);
    // SAFETY: the call reads no memory of this process; 0 names the calling thread.
    unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_has_idle_priority_and_its_threads_inherit_it() {
        let priorities = || {
            // SAFETY: the call reads no memory of this process; 0 names the calling thread.
            let io = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) };
            (rustix::process::getpriority_process(None).ok(), io as libc::c_int)
        };

        let lowered = std::thread::spawn(move || {
            lower();
            let inherited = std::thread::spawn(priorities).join().expect("ends");
            (priorities(), inherited)
        });
        let (own, inherited) = lowered.join().expect("ends");

        assert_eq!(own, (Some(LOWEST), CLASS_IDLE));
        assert_eq!(inherited, own);
    }
}
