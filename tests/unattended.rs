//! Unattended runs: output, messages in the system log, splay, and a second run at the same time.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::require;
use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item, Tree};
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
fn quiet_prints_one_line_if_node_was_changed() {
    let site = Site::new();
    site.publish(&tree("one"));
    site.install_node();
    let assert_printed = |run: Run, words: &str| {
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{run:#?}");
        let lines: Vec<&str> = run.out.lines().collect();
        assert!(if words.is_empty() { lines.is_empty() } else { lines.len() == 1 }, "{run:#?}");
        assert!(run.out.starts_with(words), "{run:#?}");
    };

    assert_printed(site.update(&["--adopt", "--quiet"]), "this tree is recorded as node");
    assert_printed(site.update(&["--quiet"]), "");

    site.publish(&tree("two"));
    assert_printed(site.update(&["--quiet"]), "updated to node serial ");
    assert_printed(site.rollback(&["--quiet"]), "rolled back to serial ");

    let pinned = site.update(&["--quiet"]);
    assert!(
        pinned.code == 12 && pinned.out.is_empty() && pinned.err.contains("--unhold"),
        "{pinned:#?}"
    );
}

#[test]
fn quiet_reports_deviations() {
    let site = Site::at(&tree("one"));
    trees::write_text(&site.node().join("etc/motd"), "the node's own");
    let run = site.update(&["--quiet", "--check", "stat", "--drift", "report"]);
    assert_eq!((run.code, run.out.lines().count()), (10, 1), "{run:#?}");
    assert!(run.out.contains("1 deviation"), "{run:#?}");
}

#[test]
fn second_run_does_not_wait_for_first() {
    let site = behind();
    let lock = fs::File::open(site.node().join("var/lib/systemimager/client/lock")).expect("opens");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("locks");

    let run = site.update(&["--quiet"]);
    assert!(run.code == 7 && run.out.is_empty() && !run.err.is_empty(), "{run:#?}");

    drop(lock);
    site.updated(&[]);

    site.same();
}

/// A receiver for the system log, in the mount namespace of a run.
struct SystemLog {
    dir: tempfile::TempDir,
    socket: UnixDatagram,
}

impl SystemLog {
    fn new() -> Self {
        // The address of a socket has at most 108 bytes.
        let dir = tempfile::tempdir().expect("a directory");
        let socket = UnixDatagram::bind(dir.path().join("socket")).expect("binds");
        socket.set_nonblocking(true).expect("sets");
        SystemLog { dir, socket }
    }

    /// Runs a command whose `/dev/log` is this receiver.
    fn run(&self, command: &Command) -> Run {
        let script = "mkdir -p \"$1/dev\" && mount -t tmpfs dev \"$1/dev\" && cd \"$1/dev\" &&
            for name in null zero random urandom; do
                touch $name && mount --bind /dev/$name $name
            done &&
            ln -s \"$1/socket\" log && mount --rbind . /dev && cd / && shift && exec \"$@\"";
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c", script, "sh"]).arg(self.dir.path());
        unshare.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        Run::from_output(unshare.output().expect("runs"))
    }

    fn messages(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut bytes = [0; 10_000];
        while let Ok(length) = self.socket.recv(&mut bytes) {
            lines.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
        lines
    }
}

fn with_arguments(mut command: Command, more: &[&str]) -> Command {
    command.args(more);
    command
}

#[test]
fn log_receives_messages_of_its_level() {
    require!(Root, Program("unshare"));

    let (site, journal) = (behind(), SystemLog::new());
    let run = journal.run(&with_arguments(site.command(), &["--dry-run"]));

    assert_eq!((run.code, journal.messages()), (0, Vec::new()), "{run:#?}");

    let run = journal.run(&with_arguments(site.command(), &["--quiet"]));
    assert_eq!(run.code, 0, "{run:#?}");

    let heard = journal.messages();
    let has = |priority: u8, words: &str| {
        let begin = format!("<{priority}>");
        heard.iter().any(|line| {
            line.starts_with(&begin) && line.contains(" si_updateclient[") && line.contains(words)
        })
    };

    assert!(has(30, "this node has no public key"), "a note: {heard:#?}");
    assert!(has(29, "updated to node serial "), "the summary: {heard:#?}");

    fs::remove_file(site.repo().join("node/head.toml")).expect("removes");
    let run = journal.run(&with_arguments(site.command(), &["--quiet"]));

    assert_eq!(run.code, 4, "{run:#?}");

    let heard = journal.messages();
    assert!(
        heard.iter().any(|line| line.starts_with("<27>") && line.contains("cannot find image")),
        "{heard:#?}"
    );
}

#[test]
fn disabled_log_receives_nothing() {
    require!(Root, Program("unshare"));

    let (site, journal) = (behind(), SystemLog::new());
    trees::write_text(&site.node().join("etc/systemimager/updateclient.toml"), "syslog = false\n");
    let run = journal.run(&site.command());
    assert_eq!((run.code, journal.messages()), (0, Vec::new()), "{run:#?}");
}

#[test]
fn splay_delays_run_but_not_cancellation() {
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

/// A mount namespace would hide the node's mounts from the agent, and copy the others.
#[test]
fn update_unit_has_no_mount_namespace() {
    for unit in [
        include_str!("../packaging/systemd/si-update.service"),
        include_str!("../packaging/systemd/si-download.service"),
        include_str!("../packaging/systemd/si-switch.service"),
    ] {
        check_restrictions(unit);
    }
}

fn check_restrictions(unit: &str) {
    let settings: Vec<&str> =
        unit.lines().filter(|line| !line.starts_with('#')).filter_map(setting_name).collect();

    // All directives of systemd.exec(5) that make one, and some that close devices or change files.
    let forbidden = [
        "BindPaths",
        "BindReadOnlyPaths",
        "DeviceAllow",
        "DevicePolicy",
        "DynamicUser",
        "ExecPaths",
        "ExtensionDirectories",
        "ExtensionImages",
        "InaccessiblePaths",
        "MountAPIVFS",
        "MountFlags",
        "MountImages",
        "NoExecPaths",
        "PrivateDevices",
        "PrivateIPC",
        "PrivateMounts",
        "PrivateNetwork",
        "PrivateTmp",
        "PrivateUsers",
        "ProcSubset",
        "ProtectClock",
        "ProtectControlGroups",
        "ProtectHome",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "ProtectProc",
        "ProtectSystem",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "RestrictSUIDSGID",
        "RootDirectory",
        "RootImage",
        "TemporaryFileSystem",
        "UMask",
    ];
    assert!(settings.contains(&"CapabilityBoundingSet"), "{settings:?}");
    let found: Vec<_> = settings.iter().filter(|name| forbidden.contains(name)).collect();
    assert!(found.is_empty(), "{found:?}");
}

fn setting_name(line: &str) -> Option<&str> {
    Some(line.split_once('=')?.0)
}

/// The shipped units and the cron file call the agent as documented, and in the same way.
#[test]
fn timer_and_cron_run_same_command() {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    let line = "/usr/sbin/si_updateclient --diff --yes --quiet --splay 3600";

    for file in ["systemd/si-update.service", "cron/si-update"] {
        let text = fs::read_to_string(packaging.join(file)).expect("is there");
        assert!(text.lines().any(|text| text.ends_with(line)), "{file}");
    }

    let steps = [
        ("systemd/si-download.service", "--diff --download-only --yes --quiet --splay 3600"),
        ("systemd/si-switch.service", "--diff --from-downloaded --yes --quiet"),
    ];
    for (file, arguments) in steps {
        let line = format!("ExecStart=/usr/sbin/si_updateclient {arguments}");
        let text = fs::read_to_string(packaging.join(file)).expect("is there");
        assert!(text.lines().any(|text| text == line), "{file}");
        let cron = fs::read_to_string(packaging.join("cron/si-update")).expect("is there");
        assert!(cron.contains(arguments), "{cron}");
    }

    let timer = fs::read_to_string(packaging.join("systemd/si-update.timer")).expect("is there");
    assert!(timer.contains("OnCalendar=daily") && timer.contains("Persistent=true"), "{timer}");
}
