//! The system log: notes, warnings, errors and results of a run that a timer started.
//!
//! Each line is one datagram to `/dev/log`, the socket of the journal and of every syslog daemon.
//! It is sent without waiting. A line is lost if the log is full or absent, since neither may delay
//! a run or let it fail. The crate `syslog` blocks on the socket, and has the local time only in
//! a program of one thread. `tracing-journald` supports the journal alone.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::terminal::Verbosity;
use crate::printable;
use crate::report::{Event, Monitor};

/// Socket of the system log.
pub const SOCKET: &str = "/dev/log";
/// Name of this program in the log.
const IDENTITY: &str = "si_updateclient";
/// The facility `daemon`, as a part of the priority.
const DAEMON: u8 = 3 << 3;
/// Length limit of a line; rsyslog accepts 8 KiB by default.
const MAX_LINE: usize = 8000;
/// Number of logged lines of one text: a list of deletions may have thousands.
const MAX_LINES: usize = 100;

/// Severity, by syslog's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The run failed.
    Error = 3,
    /// The run continues, but needs attention.
    Warning = 4,
    /// The tree was changed.
    Notice = 5,
    /// Anything else.
    Info = 6,
}

/// Other output of a logged text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Only the log has the text.
    LogOnly,
    /// The text is also printed. The journal gets it through standard error already.
    LogAndPrint,
}

/// The system log; disabled for runs that only report.
pub struct Log {
    is_enabled: AtomicBool,
    socket: Option<UnixDatagram>,
    path: PathBuf,
    /// Whether standard error is connected to the journal.
    stderr_is_journal: bool,
}

impl Log {
    /// Opens the log whose socket is at `path`.
    pub fn open(path: &Path) -> Self {
        let socket = UnixDatagram::unbound()
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        Log {
            is_enabled: AtomicBool::new(true),
            socket: socket.ok(),
            path: path.to_owned(),
            stderr_is_journal: stderr_is_journal(),
        }
    }

    /// A log that drops everything.
    pub fn disabled() -> Self {
        Log {
            is_enabled: AtomicBool::new(false),
            socket: None,
            path: PathBuf::new(),
            stderr_is_journal: false,
        }
    }

    /// Drops everything from now on.
    pub fn close(&self) {
        self.is_enabled.store(false, Ordering::Relaxed);
    }

    /// Logs each line of `text`, except if the journal gets it through standard error.
    pub fn write(&self, level: Level, text: &str, channel: Channel) {
        let Some(socket) = &self.socket else { return };
        let is_duplicate = channel == Channel::LogAndPrint && self.stderr_is_journal;
        if is_duplicate || !self.is_enabled.load(Ordering::Relaxed) {
            return;
        }

        for line in text.lines().take(MAX_LINES) {
            // A full or absent log loses the line.
            let _ = socket.send_to(&message(level, line), &self.path);
        }
    }
}

/// A line in the form of the C library's `syslog`.
fn message(level: Level, line: &str) -> Vec<u8> {
    let now = jiff::Zoned::now().strftime("%b %e %H:%M:%S");
    let line = printable::text(line);
    let line = printable::one_line(&line);
    let end =
        (0..=line.len().min(MAX_LINE)).rev().find(|&end| line.is_char_boundary(end)).unwrap_or(0);

    let (priority, pid) = (DAEMON | level as u8, std::process::id());
    format!("<{priority}>{now} {IDENTITY}[{pid}]: {}", &line[..end]).into_bytes()
}

/// Compares standard error with the journal's stream, which systemd names by device and inode.
fn stderr_is_journal() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let stderr = rustix::fs::fstat(std::io::stderr());
    stderr.is_ok_and(|stat| stream.to_str() == Some(&format!("{}:{}", stat.st_dev, stat.st_ino)))
}

/// A monitor that also logs notes and warnings.
pub struct Logged<'l> {
    monitor: Box<dyn Monitor>,
    log: &'l Log,
    verbosity: Verbosity,
}

impl<'l> Logged<'l> {
    /// Passes events on to `monitor`, which prints according to `verbosity`.
    pub fn new(monitor: Box<dyn Monitor>, verbosity: Verbosity, log: &'l Log) -> Self {
        Logged { monitor, log, verbosity }
    }
}

impl Monitor for Logged<'_> {
    fn event(&self, event: Event) {
        match &event {
            Event::Note { text } if self.verbosity.is_quiet() => {
                self.log.write(Level::Info, text, Channel::LogOnly);
            }
            Event::Note { text } => self.log.write(Level::Info, text, Channel::LogAndPrint),
            Event::Warning { text } => {
                self.log.write(Level::Warning, text, Channel::LogAndPrint);
            }
            _ => {}
        }
        self.monitor.event(event);
    }

    fn is_cancelled(&self) -> bool {
        self.monitor.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Silent;

    fn listen() -> (tempfile::TempDir, UnixDatagram) {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = UnixDatagram::bind(dir.path().join("log")).expect("binds");
        socket.set_nonblocking(true).expect("sets");
        (dir, socket)
    }

    fn receive(socket: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 10_000];
        let length = socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).expect("UTF-8"))
    }

    #[test]
    fn each_line_is_one_datagram_with_its_level() {
        let (dir, socket) = listen();
        let log = Log::open(&dir.path().join("log"));
        let logged = Logged::new(Box::new(Silent), Verbosity::Quiet, &log);
        let monitor: &dyn Monitor = &logged;

        monitor.note("a note");
        monitor.warn("a \x1b[31mwarning");
        log.write(Level::Error, "one\ntwo", Channel::LogAndPrint);
        log.write(Level::Notice, &"ä".repeat(MAX_LINE), Channel::LogAndPrint);

        let sender = format!(" si_updateclient[{}]: ", std::process::id());
        for (priority, end) in [
            (30, ": a note"),
            (28, ": a \\033[31mwarning"),
            (27, ": one"),
            (27, ": two"),
            (29, "ää"),
        ] {
            let line = receive(&socket).expect("a line");
            assert!(line.starts_with(&format!("<{priority}>")) && line.ends_with(end), "{line}");
            assert!(line.contains(&sender), "{line}");
            assert!(line.len() < MAX_LINE + 100);
        }
        assert_eq!(receive(&socket), None);
    }

    #[test]
    fn closed_full_or_absent_log_is_ignored() {
        let (dir, socket) = listen();
        let log = Log::open(&dir.path().join("log"));

        for _ in 0..10_000 {
            log.write(Level::Info, "a line of many", Channel::LogOnly);
        }
        while receive(&socket).is_some() {}
        log.close();
        log.write(Level::Info, "closed", Channel::LogOnly);
        Log::disabled().write(Level::Info, "disabled", Channel::LogOnly);
        Log::open(&dir.path().join("absent")).write(Level::Info, "absent", Channel::LogOnly);

        assert_eq!(receive(&socket), None);
    }
}
