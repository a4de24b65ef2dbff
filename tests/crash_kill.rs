//! The program dies, or a call fails, at any moment of an update: the tree is what it was or what it is
//! to be, never anything else, and the next run ends at the image.
//!
//! `SI_KILLS` asks for more kills at random moments than the few of an ordinary test run, `SI_STEPS` for more
//! of the system calls of each kind, spread evenly, at which the program is killed or the call fails.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::site::{Run, Site};
use common::trees::{Item, ItemKind, Tree, noise};
use common::{Need, ROOT_AND_RSYNC, judge, random, require, rounds, tally};

const TRACED: [Need; 3] = [Need::Root, Need::Program("rsync"), Need::Program("strace")];

/// `dirs` directories with `files` files each; the second round changes, adds, removes, renames, and
/// lets every kind become another.
fn tree(second: bool, dirs: usize, files: usize) -> Tree {
    let mut tree = Tree::from([(Vec::new(), Item::dir())]);
    let mut put = |path: String, item: Item| drop(tree.insert(path.into_bytes(), item));
    for dir in 0..dirs {
        put(format!("d{dir:02}"), Item::dir());
        for file in 0..files {
            let changed = second && file % 3 == 0;
            let text = format!("file {dir} {file} {changed} ");
            let item =
                Item::file(text.repeat(20)).owner(if second && file % 7 == 1 { 7 } else { 0 }, 0);
            match file % 11 {
                5 if second => {}
                6 if second => put(format!("d{dir:02}/renamed-{file:03}"), item),
                8 => put(
                    format!("d{dir:02}/f{file:03}"),
                    item.mtime(1_600_000_000 + i64::from(second), 5),
                ),
                _ => put(format!("d{dir:02}/f{file:03}"), item),
            }
        }
        let kinds = [dir % 5, (dir + 1 + dir / 5) % 5];
        put_kind(&mut put, &format!("d{dir:02}/kind"), kinds[usize::from(second)]);
        if second {
            put(format!("d{dir:02}/new/below/file"), Item::file(noise(3_000, dir as u64)));
        }
    }
    put(format!("only-{second}"), Item::file("x"));
    tree
}

fn put_kind(put: &mut impl FnMut(String, Item), path: &str, kind: usize) {
    match kind {
        0 => {
            put(path.to_owned(), Item::dir());
            put(format!("{path}/inside/f"), Item::file("inside"));
            put(format!("{path}/inside"), Item::dir());
        }
        1 => put(path.to_owned(), Item::file("a file")),
        2 => put(path.to_owned(), Item::new(ItemKind::Symlink(b"../d00".to_vec()))),
        3 => put(path.to_owned(), Item::new(ItemKind::Link(b"d00/f000".to_vec()))),
        _ => put(path.to_owned(), Item::new(ItemKind::Fifo)),
    }
}

/// A node before an update, which can be brought back there again and again.
struct Scene {
    site: Site,
    base: PathBuf,
    way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Diff,
    Full,
    /// Without `--diff`, as the old client.
    Rsync,
}

impl Scene {
    fn new(way: Way, dirs: usize, files: usize) -> Self {
        let site = Site::new().with_rsync();
        site.publish(&tree(false, dirs, files));
        site.install_node();
        match way {
            Way::Diff => drop(site.updated(&["--adopt"])),
            Way::Full => fs::remove_dir_all(site.repo()).expect("removes"),
            Way::Rsync => {}
        }
        site.publish(&tree(true, dirs, files));
        let base = site.snapshot();
        Scene { site, base, way }
    }

    fn command(&self) -> Command {
        let mut command = match self.way {
            Way::Diff | Way::Full => self.site.command(),
            Way::Rsync => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
                command.args([
                    "--yes",
                    "--image",
                    "node",
                    "--exclude-file",
                    "/dev/null",
                    "--server",
                    "127.0.0.1",
                ]);
                command.args([
                    "--rsync-port",
                    &self.site.rsync_port().expect("a daemon").to_string(),
                    "--root",
                ]);
                command.arg(self.site.node()).stdin(Stdio::null());
                command
            }
        };
        command
            .args(["--max-delete", "100%", "--quiet"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Makes the node what it was.
    fn restore(&self) {
        let dir = |path: &Path| format!("{}/", path.display());
        let mut rsync = Command::new("rsync");
        common::run(
            // These trees have no ACLs, and rsync -A stumbles where a directory becomes a hardlink.
            rsync
                .args(["-aHX", "--delete", "--checksum"])
                .args([dir(&self.base), dir(&self.site.node())]),
        );
    }

    fn is_base(&self) -> bool {
        judge::differences(&self.base, &self.site.node(), &[]).is_empty()
    }

    fn is_target(&self) -> bool {
        judge::differences(&self.site.image(), &self.site.node(), &[]).is_empty()
    }

    fn is_sealed(&self) -> bool {
        self.site.node().join(".si-stage/journal").exists()
    }

    /// The tree is whole, one way or the other, as soon as the interrupted run is finished, and the
    /// next run ends at the image.
    #[track_caller]
    fn ends_well(&self, context: &str) {
        let sealed = self.is_sealed();
        let recovered = self.recover();
        assert_eq!(recovered.code, 0, "{context}: {recovered:#?}");
        let (base, target) = (self.is_base(), self.is_target());
        let node = self.site.node();
        assert!(
            if sealed { target } else { base || target },
            "{context}: sealed {sealed}, base {:#?}, target {:#?}",
            judge::differences(&self.base, &node, &[]),
            judge::differences(&self.site.image(), &node, &[])
        );
        self.site.nothing_left();
        let run = self.site.update(&["--max-delete", "100%"]);
        assert_eq!(run.code, 0, "{context}: {run:#?}");
        self.site.same();
    }

    fn recover(&self) -> Run {
        Run::from_output(self.recovery().output().expect("runs"))
    }

    fn recovery(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
        command.arg("--recover").arg("--root").arg(self.site.node());
        command
    }
}

/// Kills at random moments of a run of `way`.
fn killed_at_random(way: Way, few: usize) {
    let scene = Scene::new(way, 30, 60);
    let begin = Instant::now();
    assert!(scene.command().status().expect("runs").success());
    let whole = begin.elapsed();
    scene.site.same();
    let (mut sealed, kills) = (0, rounds("SI_KILLS", few));
    for nth in 0..kills {
        scene.restore();
        let mut moment = whole.mul_f64(random());
        let mut child = scene.command().spawn().expect("runs");
        // The part behind the seal is short: every second kill is aimed at it.
        if nth % 2 == 1 {
            while !scene.is_sealed() && child.try_wait().expect("waits").is_none() {
                std::hint::spin_loop();
            }
            moment = Duration::from_millis(50).mul_f64(random() * random());
        }
        thread::sleep(moment);
        child.kill().and_then(|()| child.wait()).expect("dies");
        sealed += usize::from(scene.is_sealed());
        scene.ends_well(&format!("{way:?}, killed after {moment:?} of {whole:?}"));
    }
    assert!(sealed > 0, "no kill met a sealed transaction");
    tally(
        "kills",
        kills,
        &format!("{way:?}, at random moments; {sealed} met a sealed transaction"),
    );
}

#[test]
fn a_diff_killed_at_random_moments() {
    require!(ROOT_AND_RSYNC);

    killed_at_random(Way::Diff, 25);
}

#[test]
fn a_full_sync_killed_at_random_moments() {
    require!(ROOT_AND_RSYNC);

    killed_at_random(Way::Full, 6);
}

#[test]
fn a_run_by_rsync_alone_killed_at_random_moments() {
    require!(ROOT_AND_RSYNC);

    killed_at_random(Way::Rsync, 6);
}

/// Runs `command` under strace, which injects `what` into the `nth` of `call`.
fn injected(command: &Command, call: &str, what: &str, nth: usize) -> Run {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null"]);
    // With it, strace 6.1 injects no signal.
    if what.starts_with("error") {
        strace.arg("--seccomp-bpf");
    }
    strace.args([
        "-e",
        &format!("trace={call}"),
        "-e",
        &format!("inject={call}:{what}:when={nth}"),
    ]);
    strace.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    Run::from_output(strace.output().expect("strace runs"))
}

/// How often one thread of `command` makes each of `calls`.
fn counted(scene: &Scene, calls: &[&'static str]) -> Vec<(&'static str, usize)> {
    let log = scene.site.dir.path().join("trace");
    let (command, mut strace) = (scene.command(), Command::new("strace"));
    strace
        .args(["-f", "-qq", "--seccomp-bpf", "-e", &format!("trace={}", calls.join(",")), "-o"])
        .arg(&log);
    common::run(strace.arg(command.get_program()).args(command.get_args()));
    let text = fs::read_to_string(log).expect("a log");
    let most = |call: &str| {
        let mut threads = std::collections::HashMap::<&str, usize>::new();
        for line in text.lines().filter(|line| line.contains(&format!(" {call}("))) {
            *threads.entry(line.split(' ').next().unwrap_or_default()).or_default() += 1;
        }
        threads.into_values().max().unwrap_or(0)
    };
    calls.iter().map(|call| (*call, most(call))).collect()
}

/// At most `most` numbers from 1 to `last`, with both ends; none where there are none.
fn spread(last: usize, most: usize) -> Vec<usize> {
    let steps = most.min(last);
    let mut all: Vec<usize> =
        (0..steps).map(|at| 1 + at * last.saturating_sub(1) / (steps - 1).max(1)).collect();
    all.dedup();
    all
}

/// What changes a tree, and makes it durable.
const STEPS: [&str; 9] = [
    "renameat2",
    "renameat",
    "linkat",
    "unlinkat",
    "mkdirat",
    "fsync",
    "fdatasync",
    "syncfs",
    "utimensat",
];
/// What comes by the hundred: every path is opened, all content written.
const OFTEN: [&str; 3] = ["openat2", "write", "pwrite64"];

#[test]
fn killed_at_a_step_and_killed_again_while_recovering() {
    require!(TRACED);

    let scene = Scene::new(Way::Diff, 5, 15);
    let (mut kills, mut sealed) = (0, 0);
    for (call, last) in counted(&scene, &[&STEPS[..], &OFTEN].concat()) {
        for nth in spread(last, rounds("SI_STEPS", 4)) {
            scene.restore();
            let killed = injected(&scene.command(), call, "signal=KILL", nth);
            let context = format!("killed at {call} {nth} of {last}");
            // threads share the work anew in each run: one that made a call so often need not do so again
            if killed.code == 0 {
                assert!(nth > 1 && scene.is_target(), "{context}: {killed:#?}");
                continue;
            }
            assert_eq!(killed.code, -1, "{context}: {killed:#?}");
            kills += 1;
            if scene.is_sealed() {
                sealed += 1;
                injected(&scene.recovery(), call, "signal=KILL", 1 + nth % 4);
                injected(&scene.recovery(), "unlinkat", "signal=KILL", 1 + nth % 7);
            }
            scene.ends_well(&context);
        }
    }
    tally(
        "kills",
        kills,
        &format!(
            "at system calls; {sealed} were sealed, and killed again while they were recovered"
        ),
    );
}

/// One call fails: what the exit code says is true.
fn failed(calls: &[&'static str], error: &str, few: usize) {
    let scene = Scene::new(Way::Diff, 5, 15);
    let mut faults = 0;
    for (call, last) in counted(&scene, calls) {
        for nth in spread(last, rounds("SI_STEPS", few)) {
            faults += 1;
            scene.restore();
            let run = injected(&scene.command(), call, &format!("error={error}"), nth);
            let context = format!("{error} at {call} {nth} of {last}: {run:#?}");
            assert!(!run.err.contains("panicked"), "{context}");
            match run.code {
                0 => assert!(scene.is_target(), "{context}"),
                // it did not even get to read its configuration
                2 => assert!(scene.is_base(), "{context}"),
                5 => {
                    assert!(run.err.contains("nothing was changed"), "{context}");
                    assert!(scene.is_base(), "{context}");
                    if call != "unlinkat" {
                        scene.site.nothing_left();
                    }
                }
                // the update is made, and only what follows it failed
                13 => assert!(
                    scene.is_target() && run.err.contains("hooks cannot be read"),
                    "{context}"
                ),
                6 => assert!(scene.is_sealed() || scene.is_target(), "{context}"),
                _ => panic!("{context}"),
            }
            if run.code == 0 {
                // What could not be tidied up is by the next run.
                assert_eq!(scene.recover().code, 0, "{context}");
            }
            scene.ends_well(&context);
        }
    }
    tally("faults", faults, &format!("system calls that failed with {error}"));
}

#[test]
fn a_call_fails_with_an_io_error() {
    require!(TRACED);

    failed(&[&STEPS[..], &OFTEN, &["openat"]].concat(), "EIO", 3);
}

#[test]
fn a_call_fails_for_want_of_room() {
    require!(TRACED);

    let rest = ["openat2", "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "syncfs"];
    failed(&[&["renameat2", "renameat", "mkdirat", "linkat"], &rest[..]].concat(), "ENOSPC", 2);
}

/// As on a filesystem that turns read-only because of an error.
#[test]
fn a_call_fails_because_the_filesystem_is_read_only_now() {
    require!(TRACED);

    failed(&[&STEPS[..], &OFTEN].concat(), "EROFS", 2);
}

/// The spread is what it says.
#[test]
fn a_spread_has_both_ends() {
    assert_eq!(spread(1, 6), [1]);
    assert!(spread(0, 6).is_empty());
    assert_eq!(spread(10, 3), [1, 5, 10]);
}
