//! An ssh tunnel to daemons of the image server, for sites whose network is not trusted.
//!
//! ssh listens on Unix sockets in a directory that only this user can enter, and never on a port:
//! any local user could take the port after ssh has ended, and would be mistaken for the server. A
//! connection to the socket of an ssh that has ended is refused. rsync connects by
//! [`relay`](super::relay), the HTTP client by itself.
//!
//! ssh never outlives the run. [`Tunnel`] terminates and reaps it on drop; if this process is
//! killed, the kernel terminates ssh by the parent death signal. That signal has to be requested by
//! the child before exec, so the child is first this program, which then becomes ssh
//! ([`become_ssh`]). ssh is found in `PATH`; there is no shell in between.

#![allow(clippy::disallowed_methods, reason = "/proc belongs to the kernel, not to a target tree")]

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getppid, kill_process, set_parent_process_death_signal,
    waitid,
};

pub use super::error::TunnelError;
use super::socket_dir::SocketDir;
use crate::process::environment;

/// First argument of a process that is to call [`become_ssh`].
pub const BECOME_SSH: &str = "--internal-ssh";

/// Interval between two checks of a tunnel.
const TICK: Duration = Duration::from_millis(50);
/// Time limit for opening a tunnel.
const UNATTENDED_LIMIT: Duration = Duration::from_secs(60);
/// Time limit if a person may have to type a password.
const ATTENDED_LIMIT: Duration = Duration::from_secs(300);
/// Time for ssh to end after SIGTERM, before it is killed.
const TERMINATION_LIMIT: Duration = Duration::from_secs(2);
/// Limit of the error output of ssh that is reported.
const MAX_STDERR: usize = 4096;
/// Exit code of a process that found no ssh program, as in shells.
const NO_PROGRAM: u8 = 127;
/// Words of an ssh before OpenSSH 6.7, which forwards ports only.
const PORTS_ONLY: &str = "Bad local forwarding specification";

/// Destination of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct TunnelCommand<'w> {
    /// User on the server.
    pub user: &'w str,
    /// The server, by the name that ssh knows.
    pub server: &'w str,
    /// Ports of its daemons.
    pub ports: &'w [u16],
    /// Whether a person can be asked for a password.
    pub attended: bool,
}

/// An open tunnel; closed on drop.
#[derive(Debug)]
pub struct Tunnel {
    ssh: Child,
    /// A socket for each port of the server, in the same order.
    pub sockets: Vec<PathBuf>,
    /// Removed after the end of ssh.
    _directory: SocketDir,
}

impl Tunnel {
    /// Opens a tunnel; waits until it is open or `is_cancelled` returns true.
    pub fn open(
        command: &TunnelCommand<'_>,
        is_cancelled: fn() -> bool,
    ) -> Result<Self, TunnelError> {
        let directory = SocketDir::create().map_err(TunnelError::SocketDir)?;
        let sockets: Vec<PathBuf> =
            (0..command.ports.len()).map(|n| directory.path().join(n.to_string())).collect();
        let ssh = Command::new("/proc/self/exe")
            .arg(BECOME_SSH)
            .arg(std::process::id().to_string())
            .args(ssh_arguments(command, &sockets))
            .env_clear()
            .envs(environment::of_ssh())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut tunnel = Tunnel { ssh, sockets, _directory: directory };

        let limit = if command.attended { ATTENDED_LIMIT } else { UNATTENDED_LIMIT };
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = tunnel.ssh.try_wait()? {
                return Err(tunnel.exit_error(status.code()));
            }
            if tunnel.is_open()? {
                return Ok(tunnel);
            }
            if is_cancelled() {
                return Err(TunnelError::Cancelled);
            }
            if Instant::now() >= deadline {
                return Err(TunnelError::TimedOut(limit));
            }
            thread::sleep(TICK);
        }
    }

    /// Whether ssh has ended, after which no connection reaches the server.
    pub fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = self.pid().map(|pid| waitid(WaitId::Pid(pid), options));
        matches!(status, Some(Ok(Some(_))))
    }

    /// Error output of an ssh that has ended, in one line.
    pub fn end_reason(&self) -> String {
        read_reason(self.ssh.stderr.as_ref())
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.ssh.id()).ok().and_then(Pid::from_raw)
    }

    /// Whether a process listens on all of the sockets.
    ///
    /// A test connection would be seen by the server.
    fn is_open(&self) -> io::Result<bool> {
        let sockets = std::fs::read_to_string("/proc/net/unix")?;
        Ok(self.sockets.iter().all(|path| sockets.lines().any(|line| is_listener(line, path))))
    }

    /// The error for an ssh that ended before the tunnel was open.
    fn exit_error(&self, code: Option<i32>) -> TunnelError {
        if code == Some(NO_PROGRAM.into()) {
            return TunnelError::NotInstalled;
        }

        let stderr = self.end_reason();
        if stderr.contains(PORTS_ONLY) {
            return TunnelError::PortsOnly { stderr };
        }
        TunnelError::Ended { stderr }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            // The child is not reaped yet, so its number cannot belong to another process.
            let _ = kill_process(pid, Signal::TERM);
        }

        let deadline = Instant::now() + TERMINATION_LIMIT;
        while Instant::now() < deadline {
            if !matches!(self.ssh.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(TICK);
        }

        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
    }
}

/// Makes this process ssh, which ends with its parent; returns only the reason and exit code of a
/// failure.
///
/// The arguments after [`BECOME_SSH`] are the process number of the parent and the arguments of
/// ssh.
pub fn become_ssh(mut arguments: impl Iterator<Item = OsString>) -> (io::Error, u8) {
    let parent =
        arguments.next().and_then(|number| number.to_str()?.parse().ok()).and_then(Pid::from_raw);

    // The parent may have ended before the request; then no signal will follow.
    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        return (error.into(), 1);
    }
    if parent.is_none() || getppid() != parent {
        return (io::Error::other("the process that wanted the tunnel has ended"), 1);
    }

    // The parent blocks its signals and reads them in a thread; ssh has to be ended by them.
    if let Err(error) = SigSet::empty().thread_set_mask() {
        return (error.into(), 1);
    }

    let error = Command::new("ssh").args(arguments).exec();
    let code = if error.kind() == io::ErrorKind::NotFound { NO_PROGRAM } else { 1 };
    (error, code)
}

fn ssh_arguments(command: &TunnelCommand<'_>, sockets: &[PathBuf]) -> Vec<OsString> {
    let mut words: Vec<String> = ["-N", "-T", "-a", "-x"].map(String::from).into();

    // A master connection of the user would take over the forwarded sockets, and keep them.
    let mut options = vec![
        "ExitOnForwardFailure=yes",
        "ServerAliveInterval=15",
        "ControlMaster=no",
        "ControlPath=none",
    ];
    if !command.attended {
        options.extend(["BatchMode=yes", "ConnectTimeout=15"]);
    }
    words.extend(options.into_iter().flat_map(|option| ["-o".to_owned(), option.to_owned()]));

    words.extend(["-l".to_owned(), command.user.to_owned()]);
    let server = command.server;
    let host = if server.contains(':') { format!("[{server}]") } else { server.to_owned() };
    for (socket, port) in sockets.iter().zip(command.ports) {
        words.extend(["-L".to_owned(), format!("{}:{host}:{port}", socket.display())]);
    }
    words.extend(["--".to_owned(), server.to_owned()]);
    words.into_iter().map(OsString::from).collect()
}

/// Whether a line of `/proc/net/unix` is a listening socket at `path`.
fn is_listener(line: &str, path: &Path) -> bool {
    const ACCEPTS_CONNECTIONS: &str = "00010000";
    let mut words = line.split_whitespace();

    words.nth(3) == Some(ACCEPTS_CONNECTIONS) && words.nth(3).map(Path::new) == Some(path)
}

/// The error output of ssh in one line.
fn read_reason(stderr: Option<&ChildStderr>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = stderr {
        // Children of ssh may still run and keep the pipe open, so no read may block.
        let _ = rustix::io::ioctl_fionbio(pipe, true);
        let mut buffer = [0; MAX_STDERR];
        while bytes.len() < MAX_STDERR {
            match rustix::io::read(pipe, &mut buffer[bytes.len()..]) {
                Ok(count) if count > 0 => {
                    let from = bytes.len();
                    bytes.extend_from_slice(&buffer[from..from + count]);
                }
                _ => break,
            }
        }
    }

    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ").chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn ssh_arguments_have_no_shell_text_and_end_options() {
        let command =
            TunnelCommand { user: "si", server: "fe80::1", ports: &[873, 80], attended: false };
        let sockets = ["/run/x/873".into(), "/run/x/80".into()];

        let words: Vec<String> = ssh_arguments(&command, &sockets)
            .into_iter()
            .map(|word| word.into_string().expect("text"))
            .collect();

        let text = words.join(" ");
        assert!(
            text.starts_with("-N -T -a -x -o ExitOnForwardFailure=yes -o ServerAliveInterval=15 "),
            "{text}"
        );
        assert!(text.contains(" -o BatchMode=yes "), "{text}");
        assert!(
            text.ends_with(
                " -l si -L /run/x/873:[fe80::1]:873 -L /run/x/80:[fe80::1]:80 -- fe80::1"
            ),
            "{text}"
        );
        let attended = TunnelCommand { attended: true, ..command };
        assert!(!ssh_arguments(&attended, &sockets).contains(&"BatchMode=yes".into()));
    }

    #[test]
    fn socket_counts_as_open_while_a_process_listens() {
        let directory = SocketDir::create().expect("a directory");
        let path = directory.path().join("80");
        let is_open = || {
            let sockets = std::fs::read_to_string("/proc/net/unix").expect("reads");
            sockets.lines().any(|line| is_listener(line, &path))
        };

        assert!(!is_open());
        let listener = UnixListener::bind(&path).expect("listens");
        assert!(is_open());
        drop(listener);
        assert!(path.exists() && !is_open());
    }
}
