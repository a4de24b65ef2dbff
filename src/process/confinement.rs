//! Confinement of a child process: its writes stay in one directory, by Landlock.
//!
//! Landlock restricts a thread and the children that it starts. So a thread of its own is
//! restricted, starts the program, and ends. All other code of this process runs unrestricted, and
//! nothing runs between fork and exec.
//!
//! Landlock covers contents and names. It does not cover owners, modes, times and attributes of
//! existing files.

use std::io;
use std::os::fd::BorrowedFd;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, RulesetAttr,
    RulesetCreatedAttr, RulesetError,
};

/// A child was started without confinement, since the kernel has none.
static WAS_OMITTED: AtomicBool = AtomicBool::new(false);

/// Directory to which a child may write.
#[derive(Clone, Copy, Debug)]
pub enum WriteAccess<'a> {
    /// As this process.
    Everywhere,
    /// Only below this directory; the child also gains no privileges by exec.
    Below(BorrowedFd<'a>),
    /// Nowhere.
    Nowhere,
}

/// Whether a child ran without its confinement since the last call.
pub fn take_omission() -> bool {
    WAS_OMITTED.swap(false, Ordering::Relaxed)
}

/// Starts a command with restricted access.
pub(super) fn spawn(command: &mut Command, access: WriteAccess<'_>) -> io::Result<Child> {
    let directory = match access {
        WriteAccess::Everywhere => return command.spawn(),
        WriteAccess::Below(directory) => Some(directory),
        WriteAccess::Nowhere => None,
    };

    thread::scope(|scope| {
        let starter = thread::Builder::new().spawn_scoped(scope, || {
            rustix::thread::set_no_new_privs(true)?;
            if restrict(directory).is_err() {
                WAS_OMITTED.store(true, Ordering::Relaxed);
            }
            command.spawn()
        })?;
        starter.join().unwrap_or_else(|_| Err(io::Error::other("the starting thread failed")))
    })
}

/// Restricts the calling thread to writes below `directory`.
///
/// The second version of the interface is required: with the first one no file can be linked or
/// renamed to another directory. Some kernels report a version and refuse its use with EINVAL; that
/// is an error here, as an absent interface is.
fn restrict(directory: Option<BorrowedFd<'_>>) -> Result<(), RulesetError> {
    let write = AccessFs::from_write(ABI::V2);
    let truncate: BitFlags<AccessFs> = AccessFs::Truncate.into();
    let mut rules = landlock::Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(write)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(truncate | AccessFs::IoctlDev)?
        .create()?;

    if let Some(directory) = directory {
        rules = rules.add_rule(PathBeneath::new(directory, write | truncate))?;
    }
    // Programs discard output there.
    if let Ok(null) = PathFd::new("/dev/null") {
        rules = rules.add_rule(PathBeneath::new(null, truncate | AccessFs::WriteFile))?;
    }
    rules.restrict_self()?;
    Ok(())
}
