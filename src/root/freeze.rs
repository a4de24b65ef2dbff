//! Writes the journal of a filesystem back, for boot loaders that do not replay one.
//!
//! What a sync makes durable may be in the journal alone: xfs leaves it there, and GRUB then finds the
//! old kernel, or none. A freeze writes everything to its place, and a thaw follows at once. A process
//! that died between the two would leave every writer of that filesystem hanging. So a second process is
//! started before: a copy of this program that thaws when the first one ends without a word, or does not
//! come to its thaw in time. Both killed at once, as a machine that goes down does, is the one case left,
//! and there the filesystem is unmounted anyway.

#![allow(
    unsafe_code,
    reason = "FIFREEZE and FITHAW have no safe wrapper; both take a descriptor and nothing else"
)]

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
use super::{Result, Root};

/// The one argument of a program that is to [`watch`].
pub const WATCH: &str = "--internal-thaw-watch";

const FIFREEZE: Opcode = opcode::read_write::<i32>(b'X', 119);
const FITHAW: Opcode = opcode::read_write::<i32>(b'X', 120);

/// So long may a freeze take, with its thaw; the filesystem was synced just before.
const LONGEST: Duration = Duration::from_secs(10);
/// So long may the second process take to begin.
const BEGINNING: Duration = Duration::from_secs(10);
/// Between two tries to thaw.
const PAUSE: Duration = Duration::from_millis(100);

/// The second process is there.
const READY: u8 = b'r';
/// It is not needed any more.
const DISMISSED: u8 = b'd';

impl Root {
    /// Writes everything on the filesystem that holds the top of this tree to its place; false where
    /// that filesystem, or this process, cannot freeze, or where somebody else has frozen it.
    pub fn write_back(&self) -> Result<bool> {
        let fail = |source: std::io::Error| {
            self.error("write back the journal of", &TreePath::root(), source)
        };
        let watch = Watch::start(self.duplicate()?).map_err(fail)?;
        let frozen = change(|| freeze(&self.dir));
        let thawed = if frozen.is_ok() { change(|| thaw(&self.dir)) } else { Ok(()) };
        if thawed.is_ok() {
            watch.dismiss();
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
            Err(error) => Err(fail(error.into())),
        }
    }
}

/// The second process; it thaws when this is dropped without [`Watch::dismiss`].
struct Watch {
    line: UnixStream,
    process: Child,
}

impl Watch {
    /// Starts it for the filesystem of `tree`, and waits until it watches.
    fn start(tree: OwnedFd) -> std::io::Result<Self> {
        let (mut line, theirs) = UnixStream::pair()?;
        // The agent itself may be what was replaced: the link leads to what runs, whatever its name is.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(WATCH)
            .stdin(OwnedFd::from(theirs))
            .stdout(tree)
            .stderr(Stdio::null())
            .process_group(0);
        let process = command.spawn()?;
        // It holds their end of the line, which has to close when the second process ends.
        drop(command);
        line.set_read_timeout(Some(BEGINNING))?;
        let mut said = [0];
        let ready = line.read_exact(&mut said);
        let mut watch = Watch { line, process };
        if ready.is_ok() && said == [READY] {
            return Ok(watch);
        }
        let _ = watch.process.kill();
        Err(std::io::Error::other("the process that guards the freeze does not start"))
    }

    fn dismiss(mut self) {
        // Where it is gone, it needs no word.
        let _ = self.line.write_all(&[DISMISSED]);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.line.shutdown(std::net::Shutdown::Write);
        let _ = self.process.wait();
    }
}

/// What a program that was started with [`WATCH`] does: standard input is the line to the process that
/// freezes, standard output the directory that it freezes by.
pub fn watch() {
    // Ctrl-C and a service that is stopped mean the other one.
    let _ = SigSet::all().thread_block();
    let (line, tree) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    let mut patience = LONGEST;
    if rustix::io::write(line, &[READY]).is_err() {
        return;
    }
    loop {
        let mut heard = [PollFd::new(&line, PollFlags::IN)];
        let timeout =
            Timespec { tv_sec: patience.as_secs() as _, tv_nsec: patience.subsec_nanos() as _ };
        match poll(&mut heard, Some(&timeout)) {
            Ok(0) => {
                // A freeze that is not complete yet is met by one of the next tries.
                let _ = thaw_once(tree);
                patience = PAUSE;
            }
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => break,
        }
    }
    let mut word = [0];
    if !matches!(rustix::io::read(line, &mut word), Ok(1)) || word != [DISMISSED] {
        let _ = thaw(tree);
    }
}

fn freeze(tree: impl AsFd) -> rustix::io::Result<()> {
    // SAFETY: the number is that of FIFREEZE, which reads and writes no memory of the caller.
    unsafe { ioctl(tree, NoArg::<FIFREEZE>::new()) }
}

fn thaw_once(tree: impl AsFd) -> rustix::io::Result<()> {
    // SAFETY: the number is that of FITHAW, which reads and writes no memory of the caller.
    unsafe { ioctl(tree, NoArg::<FITHAW>::new()) }
}

/// Thaws, however often that takes; what is not frozen is thawed.
fn thaw(tree: impl AsFd) -> rustix::io::Result<()> {
    const TRIES: u32 = 100;
    let mut last = Ok(());
    for _ in 0..TRIES {
        last = match thaw_once(tree.as_fd()) {
            Ok(()) | Err(Errno::INVAL) => return Ok(()),
            Err(error) => Err(error),
        };
        std::thread::sleep(PAUSE);
    }
    last
}
