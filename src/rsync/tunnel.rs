//! An ssh tunnel to daemons of the image server, for sites whose network is not trusted.
//!
//! ssh never outlives the run. [`Tunnel`] terminates and reaps it on drop; if this process is
//! killed, the kernel terminates ssh by the parent death signal. That signal has to be requested by
//! the child before exec, so the child is first this program, which then becomes ssh
//! ([`become_ssh`]). ssh is found in `PATH`; there is no shell in between.

#![allow(clippy::disallowed_methods, reason = "/proc belongs to the kernel, not to a target tree")]

use std::ffi::OsString;
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

pub use super::error::TunnelError;
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
/// Attempts to open a tunnel: another process may take a port between its choice and its use.
const MAX_ATTEMPTS: u32 = 3;
/// Limit of the error output of ssh that is reported.
const MAX_STDERR: u64 = 4096;
/// Exit code of a process that found no ssh program, as in shells.
const NO_PROGRAM: u8 = 127;

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
    /// Local port for each port of the server, in the same order.
    pub ports: Vec<u16>,
}

impl Tunnel {
    /// Opens a tunnel; waits until it is open or `is_cancelled` returns true.
    pub fn open(
        command: &TunnelCommand<'_>,
        is_cancelled: fn() -> bool,
    ) -> Result<Self, TunnelError> {
        let mut attempt = 1;
        loop {
            match Self::try_open(command, is_cancelled) {
                Err(TunnelError::Ended { stderr })
                    if attempt < MAX_ATTEMPTS && stderr.contains("Address already in use") =>
                {
                    attempt += 1
                }
                result => return result,
            }
        }
    }

    fn try_open(
        command: &TunnelCommand<'_>,
        is_cancelled: fn() -> bool,
    ) -> Result<Self, TunnelError> {
        let ports = free_ports(command.ports.len())?;
        let ssh = Command::new("/proc/self/exe")
            .arg(BECOME_SSH)
            .arg(std::process::id().to_string())
            .args(ssh_arguments(command, &ports))
            .env_clear()
            .envs(environment::of_ssh())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut tunnel = Tunnel { ssh, ports };

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

    /// Whether sockets of this user listen on all of the ports.
    ///
    /// A test connection would prove nothing: another user may have taken a port meanwhile, and
    /// would then be mistaken for the server.
    fn is_open(&self) -> io::Result<bool> {
        let uid = rustix::process::geteuid().as_raw();
        let sockets = std::fs::read_to_string("/proc/net/tcp")?;
        Ok(self.ports.iter().all(|&port| sockets.lines().any(|line| is_listener(line, port, uid))))
    }

    /// The error for an ssh that has ended, with its error output in one line.
    fn exit_error(&mut self, code: Option<i32>) -> TunnelError {
        if code == Some(NO_PROGRAM.into()) {
            return TunnelError::NotInstalled;
        }

        let mut bytes = Vec::new();
        if let Some(pipe) = self.ssh.stderr.take() {
            // Children of ssh may still run and keep the pipe open, so no read may block.
            let _ = rustix::io::ioctl_fionbio(&pipe, true);
            let _ = pipe.take(MAX_STDERR).read_to_end(&mut bytes);
        }

        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let stderr =
            lines.join("; ").chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        TunnelError::Ended { stderr }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.ssh.id()).ok().and_then(Pid::from_raw) {
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

fn ssh_arguments(command: &TunnelCommand<'_>, local_ports: &[u16]) -> Vec<OsString> {
    let mut words: Vec<String> = ["-N", "-T", "-a", "-x"].map(String::from).into();

    // A master connection of the user would take over the forwarded ports, and keep them.
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
    for (local, remote) in local_ports.iter().zip(command.ports) {
        words.extend(["-L".to_owned(), format!("{}:{local}:{host}:{remote}", Ipv4Addr::LOCALHOST)]);
    }
    words.extend(["--".to_owned(), server.to_owned()]);
    words.into_iter().map(OsString::from).collect()
}

/// `count` different local ports on which nothing listens.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<io::Result<_>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// Whether a line of `/proc/net/tcp` is a socket of `uid` that listens on 127.0.0.1 and `port`.
fn is_listener(line: &str, port: u16, uid: u32) -> bool {
    const LISTEN: &str = "0A";
    let address = u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets());
    let mut words = line.split_whitespace();

    let is_address = words.nth(1) == Some(&format!("{address:08X}:{port:04X}"));
    is_address && words.nth(1) == Some(LISTEN) && words.nth(3) == Some(&uid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_arguments_have_no_shell_text_and_end_options() {
        let command =
            TunnelCommand { user: "si", server: "fe80::1", ports: &[873, 80], attended: false };

        let words: Vec<String> = ssh_arguments(&command, &[4001, 4002])
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
                " -l si -L 127.0.0.1:4001:[fe80::1]:873 -L 127.0.0.1:4002:[fe80::1]:80 -- fe80::1"
            ),
            "{text}"
        );
        let attended = TunnelCommand { attended: true, ..command };
        assert!(!ssh_arguments(&attended, &[1, 2]).contains(&"BatchMode=yes".into()));
    }

    #[test]
    fn listener_of_other_user_is_refused() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let uid = rustix::process::geteuid().as_raw();
        let has_listener = |port, uid| {
            std::fs::read_to_string("/proc/net/tcp")
                .expect("reads")
                .lines()
                .any(|line| is_listener(line, port, uid))
        };

        assert!(has_listener(port, uid));
        assert!(!has_listener(port, uid + 1));
        drop(listener);
        assert!(!has_listener(port, uid));
    }
}
