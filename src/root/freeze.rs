//! Writes the journal of a filesystem back to its place, for boot loaders that replay no journal.
//!
//! After a sync, data may be in the journal of the filesystem only. xfs leaves it there, and GRUB
//! then finds the old kernel, or none. A freeze (FIFREEZE) writes everything to its place; a thaw
//! follows at once.
//!
//! A process that died between the two would block each writer of the filesystem. So a guard
//! process is started first: a second instance of this program. It thaws the filesystem if the
//! first process ends unexpectedly, or takes too long. If both are killed at once, as at a
//! shutdown, the filesystem stays frozen, but then it is unmounted anyway.

#![allow(
    unsafe_code,
    reason = "FIFREEZE and FITHAW have no safe wrapper; both take a descriptor and nothing else"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::SigSet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::ioctl::{NoArg, Opcode, ioctl, opcode};

use crate::tree_path::TreePath;

use super::fault::change;
use super::procfs::ProcPath;
use super::{Result, Root};

/// The only argument of a program that is to run [`watch`].
pub const WATCH: &str = "--internal-thaw-watch";

const FIFREEZE: Opcode = opcode::read_write::<i32>(b'X', 119);
const FITHAW: Opcode = opcode::read_write::<i32>(b'X', 120);

/// Longest time for freeze and thaw; the filesystem was synced just before.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for the start of the guard process.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two attempts to thaw.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Sent by the guard process when it watches.
const READY: u8 = b'r';
/// Sent to the guard process when it is not needed any more.
const DISMISSED: u8 = b'd';

impl Root {
    /// Writes all data of the root directory's filesystem to its place.
    ///
    /// Returns false if the filesystem, or this process, cannot freeze, or if it is frozen already.
    pub fn flush_journal(&self) -> Result<bool> {
        let fail = |source: std::io::Error| {
            self.error("write back the journal of", &TreePath::root(), source)
        };
        let guard = Guard::start(self.duplicate()?).map_err(fail)?;

        let frozen = change(|| freeze(&self.dir));
        let thawed = if frozen.is_ok() { change(|| thaw(&self.dir)) } else { Ok(()) };
        if thawed.is_ok() {
            guard.dismiss();
        }

        match frozen.and(thawed) {
            Ok(()) => Ok(true),
            Err(
                Errno::OPNOTSUPP
                | Errno::NOTTY
                | Errno::INVAL
                | Errno::PERM
                | Errno::ACCESS
                | Errno::BUSY,
            ) => Ok(false),
            Err(errno) => Err(fail(errno.into())),
        }
    }
}

/// The guard process; it thaws if this is dropped without [`Guard::dismiss`].
struct Guard {
    socket: UnixStream,
    process: Child,
}

impl Guard {
    /// Starts the guard of a tree's filesystem, and waits until it watches.
    fn start(tree: OwnedFd) -> std::io::Result<Self> {
        let (mut socket, guard_socket) = UnixStream::pair()?;
        let errors = File::options().write(true).open("/dev/null");
        // The file of this program may have been replaced: this link leads to the running one.
        let process = ProcPath::new("self/exe").call(|program| {
            let mut command = Command::new(program);
            command
                .arg(WATCH)
                .env_clear()
                .stdin(OwnedFd::from(guard_socket))
                .stdout(tree)
                .stderr(errors.map_or_else(|_| Stdio::inherit(), Stdio::from))
                .process_group(0);
            command.spawn()
        })?;

        socket.set_read_timeout(Some(START_TIMEOUT))?;
        let mut answer = [0];
        let read = socket.read_exact(&mut answer);
        let mut guard = Guard { socket, process };
        if read.is_ok() && answer == [READY] {
            return Ok(guard);
        }
        let _ = guard.process.kill();
        Err(std::io::Error::other("the process that guards the freeze does not start"))
    }

    fn dismiss(mut self) {
        // It fails only if the guard has ended.
        let _ = self.socket.write_all(&[DISMISSED]);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
        let _ = self.process.wait();
    }
}

/// Runs the guard process, that is, a program that was started with [`WATCH`].
///
/// Standard input is the socket to the process that freezes, standard output the root directory.
pub fn watch() {
    // Ctrl-C, and the stop of a service, are meant for the other process.
    let _ = SigSet::all().thread_block();
    let (socket, tree) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    if rustix::io::write(socket, &[READY]).is_err() {
        return;
    }

    let mut timeout = FREEZE_TIMEOUT;
    loop {
        let mut events = [PollFd::new(&socket, PollFlags::IN)];
        let timespec =
            Timespec { tv_sec: timeout.as_secs() as _, tv_nsec: timeout.subsec_nanos() as _ };
        match poll(&mut events, Some(&timespec)) {
            Ok(0) => {
                // If the freeze is not complete yet, one of the next attempts thaws it.
                let _ = thaw_once(tree);
                timeout = RETRY_PAUSE;
            }
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => break,
        }
    }

    let mut message = [0];
    if !matches!(rustix::io::read(socket, &mut message), Ok(1)) || message != [DISMISSED] {
        let _ = thaw(tree);
    }
}

fn freeze(tree: impl AsFd) -> rustix::io::Result<()> {
    // SAFETY: the number is that of FIFREEZE, which accesses no memory of the caller.
    unsafe { ioctl(tree, NoArg::<FIFREEZE>::new()) }
}

fn thaw_once(tree: impl AsFd) -> rustix::io::Result<()> {
    // SAFETY: the number is that of FITHAW, which accesses no memory of the caller.
    unsafe { ioctl(tree, NoArg::<FITHAW>::new()) }
}

/// Thaws until the filesystem is not frozen any more.
fn thaw(tree: impl AsFd) -> rustix::io::Result<()> {
    const MAX_ATTEMPTS: u32 = 100;
    let mut last = Ok(());
    for _ in 0..MAX_ATTEMPTS {
        last = match thaw_once(tree.as_fd()) {
            Ok(()) | Err(Errno::INVAL) => return Ok(()),
            Err(errno) => Err(errno),
        };
        std::thread::sleep(RETRY_PAUSE);
    }
    last
}
