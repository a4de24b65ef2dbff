//! Connections of rsync to a Unix socket of an ssh tunnel.
//!
//! rsync connects to ports only. With `RSYNC_CONNECT_PROG` in its environment it does not connect:
//! it runs that command, and its standard input and output are the connection. The command is this
//! program, which copies between them and the socket ([`run`]).

use std::ffi::OsString;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// First argument of a process that is to call [`run`].
pub const RELAY: &str = "--internal-relay";

/// Beginning of the message of a relay that cannot connect.
pub(super) const NOT_CONNECTED: &str = "cannot connect to the ssh tunnel";

/// Variable that replaces rsync's own connection.
pub(super) const VARIABLE: &str = "RSYNC_CONNECT_PROG";
/// Bytes of one read.
const BUFFER: usize = 64 << 10;

/// Socket of a tunnel, through which rsync reaches its daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    socket: PathBuf,
}

impl Relay {
    /// The socket's path has no character that is special to a shell.
    pub fn new(socket: PathBuf) -> Self {
        Relay { socket }
    }

    /// The command for [`VARIABLE`]. rsync runs it by a shell, which inherits the descriptor.
    pub(super) fn command(&self, program: &RelayProgram) -> OsString {
        let program = format!("/proc/self/fd/{}", program.0.as_raw_fd());
        format!("{program} {RELAY} {}", self.socket.display()).into()
    }
}

/// This program, as a descriptor that children inherit.
///
/// The file may have been replaced, so its path does not do. `/proc/PID/exe` does not do either:
/// Landlock denies a confined rsync all such links of processes outside its confinement.
pub(super) struct RelayProgram(OwnedFd);

impl RelayProgram {
    /// Opens the running program.
    #[allow(clippy::disallowed_methods, reason = "a link of the kernel to this program")]
    pub(super) fn open() -> io::Result<Self> {
        // Without CLOEXEC. With O_PATH a child that inherits it by chance can only run it.
        Ok(RelayProgram(rustix::fs::open("/proc/self/exe", OFlags::PATH, Mode::empty())?))
    }
}

/// Connects standard input and output to `socket`, until the server closes the connection.
pub fn run(socket: &Path) -> io::Result<()> {
    let stream = UnixStream::connect(socket).map_err(|error| {
        io::Error::new(error.kind(), format!("{NOT_CONNECTED}: {error}; ssh may have ended"))
    })?;

    let outgoing = stream.try_clone()?;
    thread::spawn(move || {
        let _ = copy(rustix::stdio::stdin(), &outgoing);
        let _ = outgoing.shutdown(Shutdown::Write);
    });
    copy(&stream, rustix::stdio::stdout())
}

/// Copies all bytes up to the end of `from`.
fn copy(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match rustix::io::read(&from, &mut buffer[..]) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };

        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            match rustix::io::write(&to, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_has_no_character_that_is_special_to_shell() {
        let program = RelayProgram::open().expect("this program");
        let command = Relay::new("/run/si-tunnel-0/873".into()).command(&program);
        let text = command.to_str().expect("text");

        assert!(text.contains(" --internal-relay /run/si-tunnel-0/873"), "{text}");
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/ -".contains(&byte)));
    }
}
