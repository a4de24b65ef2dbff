//! A way through ssh to daemons of the image server, for sites where the network between is not trusted.
//!
//! Whatever way the run ends, ssh ends with it: it is killed and reaped when the [`Tunnel`] is dropped, and the
//! kernel ends it where this process is killed. ssh is found by `PATH`, and no shell stands between.

#![allow(
    clippy::disallowed_methods,
    reason = "/proc is the kernel's, no tree that others write to"
)]

use std::ffi::OsString;
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

/// The first argument of a program that is to [`become_ssh`].
pub const BECOME_SSH: &str = "--internal-ssh";

/// A tunnel is looked for so often.
const TICK: Duration = Duration::from_millis(50);
/// So long may it take to come about.
const UNATTENDED: Duration = Duration::from_secs(60);
/// The same where somebody types a password.
const ATTENDED: Duration = Duration::from_secs(300);
/// So long may ssh take to end when it is asked to.
const FAREWELL: Duration = Duration::from_secs(2);
/// Somebody else may take a port that was free a moment ago.
const TRIES: u32 = 3;
/// So much of what ssh says when it fails is told.
const MAX_WORDS: u64 = 4096;

/// Where a tunnel leads, and as whom.
#[derive(Clone, Copy, Debug)]
pub struct TunnelCommand<'w> {
    /// The user there.
    pub user: &'w str,
    /// The server, by the name that ssh knows it by.
    pub server: &'w str,
    /// The ports of its daemons.
    pub ports: &'w [u16],
    /// Whether a person can be asked for a password.
    pub attended: bool,
}

/// An open tunnel; closed when it is dropped.
#[derive(Debug)]
pub struct Tunnel {
    ssh: Child,
    /// The port of this machine that leads to each port of the server, in their order.
    pub ports: Vec<u16>,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// There is no such program.
    #[error("the ssh program is not installed on this node")]
    NotInstalled,
    /// The program could not be run, or not be watched.
    #[error("cannot run the ssh program: {0}")]
    Run(#[from] io::Error),
    /// It ended before the tunnel was open; in its own words.
    #[error("ssh says: {0}")]
    Ended(String),
    /// The tunnel did not come about.
    #[error("ssh did not open the tunnel within {0:?}")]
    TimedOut(Duration),
    /// The run was asked to stop.
    #[error("stopped on request")]
    Stopped,
}

impl Tunnel {
    /// Opens a tunnel, and waits until it is there or the run `is_stopped`.
    pub fn open(way: &TunnelCommand<'_>, is_stopped: fn() -> bool) -> Result<Self, TunnelError> {
        let mut tries = 1;
        loop {
            match Self::try_open(way, is_stopped) {
                Err(TunnelError::Ended(words))
                    if tries < TRIES && words.contains("Address already in use") =>
                {
                    tries += 1
                }
                answer => return answer,
            }
        }
    }

    fn try_open(way: &TunnelCommand<'_>, is_stopped: fn() -> bool) -> Result<Self, TunnelError> {
        let ports = free_ports(way.ports.len())?;
        let mut command = Command::new("/proc/self/exe");
        command.arg(BECOME_SSH).arg(std::process::id().to_string()).args(arguments(way, &ports));
        let ssh =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut tunnel = Tunnel { ssh, ports };
        let patience = if way.attended { ATTENDED } else { UNATTENDED };
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = tunnel.ssh.try_wait()? {
                return Err(tunnel.failure(status.code()));
            }
            if tunnel.is_open()? {
                return Ok(tunnel);
            }
            if is_stopped() {
                return Err(TunnelError::Stopped);
            }
            if Instant::now() >= end {
                return Err(TunnelError::TimedOut(patience));
            }
            thread::sleep(TICK);
        }
    }

    /// Whether something of ours listens on all of the ports. To ask by connecting would be no answer: any user
    /// of this machine could have taken a port meanwhile, and would be taken for the server.
    fn is_open(&self) -> io::Result<bool> {
        let uid = rustix::process::geteuid().as_raw();
        let listening = std::fs::read_to_string("/proc/net/tcp")?;
        Ok(self
            .ports
            .iter()
            .all(|&port| listening.lines().any(|line| is_listener(line, port, uid))))
    }

    fn failure(&mut self, code: Option<i32>) -> TunnelError {
        if code == Some(NO_PROGRAM.into()) {
            return TunnelError::NotInstalled;
        }
        let mut words = Vec::new();
        if let Some(said) = self.ssh.stderr.take() {
            // What ssh started may live on and keep the other end open.
            let _ = rustix::io::ioctl_fionbio(&said, true);
            let _ = said.take(MAX_WORDS).read_to_end(&mut words);
        }
        let words = String::from_utf8_lossy(&words);
        let lines: Vec<&str> =
            words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let words: String =
            lines.join("; ").chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        TunnelError::Ended(if words.is_empty() {
            "nothing, and it ended".to_owned()
        } else {
            words
        })
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.ssh.id()).ok().and_then(Pid::from_raw) {
            // Not reaped yet, so the number is still its own.
            let _ = kill_process(pid, Signal::TERM);
        }
        let end = Instant::now() + FAREWELL;
        while Instant::now() < end {
            if !matches!(self.ssh.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(TICK);
        }
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
    }
}

/// The exit code of a program that could not become ssh, as shells have it.
const NO_PROGRAM: u8 = 127;

/// What a program does that was started with [`BECOME_SSH`], the number of the process that wants the tunnel,
/// and the arguments of ssh: it becomes ssh, and ends when that process does. Returns where it cannot, with the
/// reason and its exit code.
pub fn become_ssh(mut arguments: impl Iterator<Item = OsString>) -> (io::Error, u8) {
    let parent =
        arguments.next().and_then(|number| number.to_str()?.parse().ok()).and_then(Pid::from_raw);
    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        return (error.into(), 1);
    }
    if parent.is_none() || getppid() != parent {
        return (io::Error::other("nobody wants a tunnel any more"), 1);
    }
    // A run of ours receives its signals in a thread of its own, and blocks them; ssh is to end by one.
    if let Err(error) = SigSet::empty().thread_set_mask() {
        return (error.into(), 1);
    }
    let error = Command::new("ssh").args(arguments).exec();
    let code = if error.kind() == io::ErrorKind::NotFound { NO_PROGRAM } else { 1 };
    (error, code)
}

fn arguments(way: &TunnelCommand<'_>, ports: &[u16]) -> Vec<OsString> {
    let mut words: Vec<String> = ["-N", "-T", "-a", "-x"].map(String::from).into();
    // A master connection of the user's would take the forwards over, and keep them.
    let mut options = vec![
        "ExitOnForwardFailure=yes",
        "ServerAliveInterval=15",
        "ControlMaster=no",
        "ControlPath=none",
    ];
    if !way.attended {
        options.extend(["BatchMode=yes", "ConnectTimeout=15"]);
    }
    words.extend(options.into_iter().flat_map(|option| ["-o".to_owned(), option.to_owned()]));
    words.extend(["-l".to_owned(), way.user.to_owned()]);
    let host =
        if way.server.contains(':') { format!("[{}]", way.server) } else { way.server.to_owned() };
    for (local, remote) in ports.iter().zip(way.ports) {
        words.extend(["-L".to_owned(), format!("{}:{local}:{host}:{remote}", Ipv4Addr::LOCALHOST)]);
    }
    words.extend(["--".to_owned(), way.server.to_owned()]);
    words.into_iter().map(OsString::from).collect()
}

/// So many different ones that nobody listens on.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<io::Result<_>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// Whether a line of `/proc/net/tcp` is of a socket of user `uid` that listens on `port` of this machine alone.
fn is_listener(line: &str, port: u16, uid: u32) -> bool {
    const LISTENS: &str = "0A";
    let address = u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets());
    let mut words = line.split_whitespace();
    let local = words.nth(1) == Some(&format!("{address:08X}:{port:04X}"));
    local && words.nth(1) == Some(LISTENS) && words.nth(3) == Some(&uid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_a_list_and_a_server_is_no_option() {
        let way =
            TunnelCommand { user: "si", server: "fe80::1", ports: &[873, 80], attended: false };
        let words: Vec<String> = arguments(&way, &[4001, 4002])
            .into_iter()
            .map(|w| w.into_string().expect("text"))
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
        let way = TunnelCommand { attended: true, ..way };
        assert!(!arguments(&way, &[1, 2]).contains(&"BatchMode=yes".into()));
    }

    #[test]
    fn only_a_listener_of_our_own_is_the_tunnel() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let uid = rustix::process::geteuid().as_raw();
        let found = |port, uid| {
            std::fs::read_to_string("/proc/net/tcp")
                .expect("reads")
                .lines()
                .any(|line| is_listener(line, port, uid))
        };
        assert!(found(port, uid));
        assert!(!found(port, uid + 1));
        drop(listener);
        assert!(!found(port, uid));
    }
}
