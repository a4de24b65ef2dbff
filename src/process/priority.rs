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

/// Lowest priority of this thread, until it is dropped.
///
/// Without the right to raise it again (CAP_SYS_NICE) the priority stays low.
#[must_use]
pub struct LoweredThread {
    before: Option<i32>,
}

impl LoweredThread {
    /// Gives this thread the lowest priority.
    pub fn begin() -> Self {
        // The system call acts on the calling thread (see setpriority(2), C library differences).
        let before = rustix::process::getpriority_process(None).ok();
        let _ = rustix::process::setpriority_process(None, LOWEST);
        LoweredThread { before }
    }
}

impl Drop for LoweredThread {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            let _ = rustix::process::setpriority_process(None, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowered_thread_gets_its_priority_back() {
        std::thread::spawn(|| {
            let priority = || rustix::process::getpriority_process(None).ok();
            let before = priority();
            let lowered = LoweredThread::begin();
            assert_eq!(priority(), Some(LOWEST));
            drop(lowered);
            assert_eq!(priority(), before);
        })
        .join()
        .expect("ends");
    }

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
