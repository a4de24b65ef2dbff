//! What a run says, also in the system's log: nobody watches a run that a timer starts.
//!
//! One datagram a line to `/dev/log`, which the journal listens to as well as any syslog daemon. It is sent
//! without waiting, and lost where nobody takes it: a log that is full, or none at all, is no reason to wait or
//! to fail. The crates for this block on the socket (`syslog`, which also tells local time only in a program of
//! one thread), or log what `tracing` hears and the journal alone takes (`tracing-journald`).

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::report::{Event, Monitor};

/// Where the system's log listens.
pub const SOCKET: &str = "/dev/log";
/// How this program is called there.
const IDENTITY: &str = "si_updateclient";
/// The facility of what runs in the background, in the place where a priority has it.
const DAEMON: u8 = 3 << 3;
/// Longer lines are cut: rsyslog takes 8 KiB by default.
const MAX_LINE: usize = 8000;
/// Of a longer text only the beginning is logged: a list of what would be deleted may have thousands of lines.
const MAX_LINES: usize = 100;

/// How much it matters, in syslog's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The run failed.
    Error = 3,
    /// It went on, though something is wrong.
    Warning = 4,
    /// Something was changed.
    Notice = 5,
    /// Anything else.
    Info = 6,
}

/// The system's log, as far as it is wanted.
pub struct Log {
    on: AtomicBool,
    socket: Option<UnixDatagram>,
    place: PathBuf,
    /// What is printed comes into the journal by itself.
    printed_is_logged: bool,
}

impl Log {
    /// Opens the log whose socket is at `place`; one that is not `wanted` hears nothing.
    pub fn open(place: &Path, wanted: bool) -> Self {
        let socket = UnixDatagram::unbound()
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        let place = place.to_owned();
        Log {
            on: AtomicBool::new(wanted),
            socket: socket.ok(),
            place,
            printed_is_logged: is_journal(),
        }
    }

    /// Hears nothing from now on.
    pub fn close(&self) {
        self.on.store(false, Ordering::Relaxed);
    }

    /// Logs `text`, line by line; `printed` is what was also written to standard output or error.
    pub fn say(&self, level: Level, text: &str, printed: bool) {
        let Some(socket) = &self.socket else { return };
        if !self.on.load(Ordering::Relaxed) || printed && self.printed_is_logged {
            return;
        }
        for line in text.lines().take(MAX_LINES) {
            // Lost where nobody listens.
            let _ = socket.send_to(&message(level, line), &self.place);
        }
    }
}

/// A line in the form in which the C library's `syslog` sends it.
fn message(level: Level, line: &str) -> Vec<u8> {
    let now = jiff::Zoned::now().strftime("%b %e %H:%M:%S").to_string();
    let line: String = line.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let end =
        (0..=line.len().min(MAX_LINE)).rev().find(|&end| line.is_char_boundary(end)).unwrap_or(0);
    let (priority, pid) = (DAEMON | level as u8, std::process::id());
    format!("<{priority}>{now} {IDENTITY}[{pid}]: {}", &line[..end]).into_bytes()
}

/// Whether standard error is the journal's, which says of which file that is.
fn is_journal() -> bool {
    let Some(said) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let error = rustix::fs::fstat(std::io::stderr());
    error.is_ok_and(|stat| said.to_str() == Some(&format!("{}:{}", stat.st_dev, stat.st_ino)))
}

/// Tells another monitor, and the log what is said in words.
pub struct Logged<'l> {
    monitor: Box<dyn Monitor>,
    log: &'l Log,
    /// Whether the other one prints notes.
    notes_are_printed: bool,
}

impl<'l> Logged<'l> {
    /// Tells `monitor`, which prints notes or does not, and `log`.
    pub fn new(monitor: Box<dyn Monitor>, notes_are_printed: bool, log: &'l Log) -> Self {
        Logged { monitor, log, notes_are_printed }
    }
}

impl Monitor for Logged<'_> {
    fn event(&self, event: Event) {
        match &event {
            Event::Note { text } => self.log.say(Level::Info, text, self.notes_are_printed),
            Event::Warning { text } => self.log.say(Level::Warning, text, true),
            _ => {}
        }
        self.monitor.event(event);
    }

    fn is_stopped(&self) -> bool {
        self.monitor.is_stopped()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Silent;

    fn listening() -> (tempfile::TempDir, UnixDatagram) {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = UnixDatagram::bind(dir.path().join("log")).expect("binds");
        socket.set_nonblocking(true).expect("sets");
        (dir, socket)
    }

    fn heard(socket: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 10_000];
        let length = socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).expect("UTF-8"))
    }

    #[test]
    fn each_line_is_a_datagram_at_its_level() {
        let (dir, socket) = listening();
        let log = Log::open(&dir.path().join("log"), true);
        let monitor: Box<dyn Monitor> = Box::new(Silent);
        let logged = Logged::new(monitor, false, &log);
        let monitor: &dyn Monitor = &logged;
        monitor.note("a note");
        monitor.warn("a \x1b[31mwarning");
        log.say(Level::Error, "one\ntwo", true);
        log.say(Level::Notice, &"ä".repeat(MAX_LINE), true);
        for (priority, end) in
            [(30, ": a note"), (28, ": a ?[31mwarning"), (27, ": one"), (27, ": two"), (29, "ää")]
        {
            let line = heard(&socket).expect("a line");
            assert!(line.starts_with(&format!("<{priority}>")) && line.ends_with(end), "{line}");
            assert!(
                line.contains(&format!(" si_updateclient[{}]: ", std::process::id())),
                "{line}"
            );
            assert!(line.len() < MAX_LINE + 100);
        }
        assert_eq!(heard(&socket), None);
    }

    #[test]
    fn a_log_that_is_closed_full_or_absent_costs_nothing() {
        let (dir, socket) = listening();
        let log = Log::open(&dir.path().join("log"), true);
        for _ in 0..10_000 {
            log.say(Level::Info, "nobody takes this", false);
        }
        while heard(&socket).is_some() {}
        log.close();
        log.say(Level::Info, "closed", false);
        Log::open(&dir.path().join("log"), false).say(Level::Info, "not wanted", false);
        assert_eq!(heard(&socket), None);
        Log::open(&dir.path().join("absent"), true).say(Level::Info, "nobody is there", false);
    }
}
