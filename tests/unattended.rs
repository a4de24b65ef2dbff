//! Runs that nobody watches: what they print, what the system's log hears, when they begin, and that one of them
//! is enough.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use common::require;
use common::site::{Run, Site};
use common::trees::{self, Item, Tree};
use rustix::process::{Pid, Signal, kill_process};

fn tree(motd: &str) -> Tree {
    let mut tree = trees::system();
    trees::put(&mut tree, "etc/motd", Item::file(motd));
    tree
}

/// A node one generation behind.
fn behind() -> Site {
    let site = Site::at(&tree("one"));
    site.publish(&tree("two"));
    site
}

#[test]
fn quiet_prints_a_line_where_something_was_changed_and_else_nothing() {
    let site = Site::new();
    site.publish(&tree("one"));
    site.install_node();
    let said = |run: Run, words: &str| {
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{run:#?}");
        let lines: Vec<&str> = run.out.lines().collect();
        assert!(if words.is_empty() { lines.is_empty() } else { lines.len() == 1 }, "{run:#?}");
        assert!(run.out.starts_with(words), "{run:#?}");
    };
    said(site.update(&["--adopt", "--quiet"]), "this tree is recorded as node");
    said(site.update(&["--quiet"]), "");
    site.publish(&tree("two"));
    said(site.update(&["--quiet"]), "updated to node serial ");
    said(site.rollback(&["--quiet"]), "rolled back to serial ");
    let held = site.update(&["--quiet"]);
    assert!(held.code == 12 && held.out.is_empty() && held.err.contains("--unhold"), "{held:#?}");
}

#[test]
fn quiet_does_not_hide_that_the_node_deviates() {
    let site = Site::at(&tree("one"));
    trees::write_text(&site.node().join("etc/motd"), "the node's own");
    let run = site.update(&["--quiet", "--check", "stat", "--drift", "report"]);
    assert_eq!((run.code, run.out.lines().count()), (10, 1), "{run:#?}");
    assert!(run.out.contains("1 deviation"), "{run:#?}");
}

#[test]
fn a_second_run_does_not_wait_for_the_first() {
    let site = behind();
    let lock = fs::File::open(site.node().join("var/lib/systemimager/client/lock")).expect("opens");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("locks");
    let run = site.update(&["--quiet"]);
    assert!(run.code == 7 && run.out.is_empty() && !run.err.is_empty(), "{run:#?}");
    drop(lock);
    site.updated(&[]);
    site.same();
}

/// The system's log, in a mount namespace of the run's own.
struct Journal {
    dir: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Journal {
    fn new() -> Self {
        // The address of a socket has 108 bytes at most.
        let dir = tempfile::tempdir().expect("a directory");
        let socket = UnixDatagram::bind(dir.path().join("socket")).expect("binds");
        socket.set_nonblocking(true).expect("sets");
        Journal { dir, socket }
    }

    /// Runs a command that finds this log at `/dev/log`.
    fn run(&self, command: &Command) -> Run {
        let script = "mkdir -p \"$1/dev\" && mount -t tmpfs dev \"$1/dev\" && cd \"$1/dev\" &&
            for name in null zero random urandom; do touch $name && mount --bind /dev/$name $name; done &&
            ln -s \"$1/socket\" log && mount --rbind . /dev && cd / && shift && exec \"$@\"";
        let mut inside = Command::new("unshare");
        inside.args(["--mount", "sh", "-c", script, "sh"]).arg(self.dir.path());
        inside.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        Run::from_output(inside.output().expect("runs"))
    }

    fn heard(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut bytes = [0; 10_000];
        while let Ok(length) = self.socket.recv(&mut bytes) {
            lines.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
        lines
    }
}

fn with(mut command: Command, more: &[&str]) -> Command {
    command.args(more);
    command
}

#[test]
fn the_log_hears_what_is_said_at_its_level_and_more_than_quiet_prints() {
    require!(Root, Program("unshare"));

    let (site, journal) = (behind(), Journal::new());
    let run = journal.run(&with(site.command(), &["--dry-run"]));
    assert_eq!((run.code, journal.heard()), (0, Vec::new()), "{run:#?}");
    let run = journal.run(&with(site.command(), &["--quiet"]));
    assert_eq!(run.code, 0, "{run:#?}");
    let heard = journal.heard();
    let has = |priority: u8, words: &str| {
        let begin = format!("<{priority}>");
        heard.iter().any(|line| {
            line.starts_with(&begin) && line.contains(" si_updateclient[") && line.contains(words)
        })
    };
    assert!(has(30, "the catalog is not signed"), "a note: {heard:#?}");
    assert!(has(29, "updated to node serial "), "the summary: {heard:#?}");

    fs::remove_file(site.repo().join("node/catalog.toml")).expect("removes");
    let run = journal.run(&with(site.command(), &["--quiet"]));
    assert_eq!(run.code, 4, "{run:#?}");
    let heard = journal.heard();
    assert!(
        heard.iter().any(|line| line.starts_with("<27>") && line.contains("catalog.toml")),
        "{heard:#?}"
    );
}

#[test]
fn a_log_that_is_not_wanted_hears_nothing() {
    require!(Root, Program("unshare"));

    let (site, journal) = (behind(), Journal::new());
    trees::write_text(&site.node().join("etc/systemimager/updateclient.toml"), "syslog = false\n");
    let run = journal.run(&site.command());
    assert_eq!((run.code, journal.heard()), (0, Vec::new()), "{run:#?}");
}

#[test]
fn a_host_waits_for_its_time_and_heeds_a_stop() {
    let site = behind();
    let before = site.snapshot();
    let mut child = site
        .command()
        .args(["--splay", "4000000000"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let line = lines.next().expect("a line").expect("text");
    assert!(line.starts_with("starting in ") && line.contains(" within 4000000000 s"), "{line}");
    let pid = Pid::from_raw(child.id() as i32).expect("a process");
    kill_process(pid, Signal::TERM).expect("is asked to end");
    assert_eq!(child.wait().expect("ends").code(), Some(11));
    site.unchanged_since(&before);

    let dry = site.update(&["--splay", "4000000000", "--dry-run"]);
    assert!(dry.code == 0 && !dry.err.contains("starting in"), "{dry:#?}");
    trees::write_text(&site.node().join("etc/systemimager/updateclient.toml"), "splay = 1\n");
    site.updated(&[]).ended(0, &["starting in 0 s", "updated to node"]);
}

/// What is shipped calls the agent as it is documented, and in the same way.
#[test]
fn the_timer_and_cron_run_the_same() {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    let line = "/usr/sbin/si_updateclient --diff --yes --quiet --splay 3600";
    for file in ["systemd/si-update.service", "cron/si-update"] {
        let text = fs::read_to_string(packaging.join(file)).expect("is there");
        assert!(text.lines().any(|text| text.ends_with(line)), "{file}");
    }
    let timer = fs::read_to_string(packaging.join("systemd/si-update.timer")).expect("is there");
    assert!(timer.contains("OnCalendar=daily") && timer.contains("Persistent=true"), "{timer}");
}
