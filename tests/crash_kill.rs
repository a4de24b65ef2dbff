//! Kills and failing system calls at any moment of an update. After a recovery the tree is exactly
//! the base or exactly the target, and the next update produces the image.
//!
//! `SI_KILLS` sets the number of kills at random moments. `SI_STEPS` sets the number of calls of
//! each kind, evenly spaced, at which the program is killed or the call fails.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::site::{Run, Site};
use common::trees::{Generation, Item, ItemKind, Tree, noise};
use common::{Need, ROOT_AND_RSYNC, judge, random, require, rounds, tally};

const TRACED: [Need; 3] = [Need::Root, Need::Program("rsync"), Need::Program("strace")];

/// Tree of `dirs` directories with `files` files each. The second generation changes, adds, removes
/// and renames files, and replaces every kind of entry by another.
fn tree(generation: Generation, dirs: usize, files: usize) -> Tree {
    let second = generation.is_second();
    let mut tree = Tree::from([(Vec::new(), Item::dir())]);
    let mut put = |path: String, item: Item| {
        tree.insert(path.into_bytes(), item);
    };
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

/// Node before an update; `restore` returns it to that state after each round.
struct Scene {
    site: Site,
    base: PathBuf,
    kind: UpdateKind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum UpdateKind {
    Diff,
    Full,
    /// Without `--diff`, as the old client.
    Rsync,
}

impl Scene {
    fn new(kind: UpdateKind, dirs: usize, files: usize) -> Self {
        let site = Site::new().with_rsync();
        site.publish(&tree(Generation::First, dirs, files));
        site.install_node();
        match kind {
            UpdateKind::Diff => drop(site.updated(&["--adopt"])),
            UpdateKind::Full => fs::remove_dir_all(site.repo()).expect("removes"),
            UpdateKind::Rsync => {}
        }
        site.publish(&tree(Generation::Second, dirs, files));
        let base = site.snapshot();
        Scene { site, base, kind }
    }

    fn command(&self) -> Command {
        let mut command = match self.kind {
            UpdateKind::Diff | UpdateKind::Full => self.site.command(),
            UpdateKind::Rsync => {
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

    /// Restores the tree from before the update.
    fn restore(&self) {
        let dir = |path: &Path| format!("{}/", path.display());
        let mut rsync = Command::new("rsync");
        common::run(
            // No -A: these trees have no ACLs, and rsync -A fails if a hard link replaces a
            // directory.
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

    /// Asserts that a recovery leaves the base or the target, and that the next update produces the
    /// image.
    #[track_caller]
    fn assert_recovers(&self, context: &str) {
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

/// Kills runs of `kind` at random moments.
fn test_random_kills(kind: UpdateKind, default_rounds: usize) {
    let scene = Scene::new(kind, 30, 60);
    let begin = Instant::now();

    assert!(scene.command().status().expect("runs").success());
    let whole = begin.elapsed();
    scene.site.same();
    let (mut sealed, kills) = (0, rounds("SI_KILLS", default_rounds));
    for round in 0..kills {
        scene.restore();
        let mut moment = whole.mul_f64(random());
        let mut child = scene.command().spawn().expect("runs");

        // The part after the seal is short: every second kill waits for it.
        if round % 2 == 1 {
            while !scene.is_sealed() && child.try_wait().expect("waits").is_none() {
                std::hint::spin_loop();
            }
            moment = Duration::from_millis(50).mul_f64(random() * random());
        }

        thread::sleep(moment);
        child.kill().and_then(|()| child.wait()).expect("dies");
        sealed += usize::from(scene.is_sealed());
        scene.assert_recovers(&format!("{kind:?}, killed after {moment:?} of {whole:?}"));
    }

    assert!(sealed > 0, "no kill met a sealed transaction");
    tally(
        "kills",
        kills,
        &format!("{kind:?}, at random moments; {sealed} met a sealed transaction"),
    );
}

#[test]
fn diff_update_killed_at_random_is_recovered() {
    require!(ROOT_AND_RSYNC);

    test_random_kills(UpdateKind::Diff, 13);
}

#[test]
fn full_sync_killed_at_random_is_recovered() {
    require!(ROOT_AND_RSYNC);

    test_random_kills(UpdateKind::Full, 6);
}

#[test]
fn rsync_only_sync_killed_at_random_is_recovered() {
    require!(ROOT_AND_RSYNC);

    test_random_kills(UpdateKind::Rsync, 6);
}

/// Runs `command` under strace, which injects `fault` into the `nth` of `call`.
fn run_with_fault(command: &Command, call: &str, fault: &str, nth: usize) -> Run {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null"]);

    // strace 6.1 injects no signal together with --seccomp-bpf.
    if fault.starts_with("error") {
        strace.arg("--seccomp-bpf");
    }

    strace.args([
        "-e",
        &format!("trace={call}"),
        "-e",
        &format!("inject={call}:{fault}:when={nth}"),
    ]);
    strace.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    Run::from_output(strace.output().expect("strace runs"))
}

/// Largest number of times that one thread of the update makes each of `calls`.
fn count_calls(scene: &Scene, calls: &[&'static str]) -> Vec<(&'static str, usize)> {
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

/// At most `most` evenly spaced numbers from 1 to `last`, with both ends; none if `last` is 0.
fn evenly_spaced(last: usize, most: usize) -> Vec<usize> {
    let steps = most.min(last);
    let mut all: Vec<usize> =
        (0..steps).map(|at| 1 + at * last.saturating_sub(1) / (steps - 1).max(1)).collect();
    all.dedup();
    all
}

/// System calls that change a tree or make it durable.
const STEP_CALLS: [&str; 9] = [
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
/// System calls made hundreds of times: every path is opened, and all content is written.
const FREQUENT_CALLS: [&str; 3] = ["openat2", "write", "pwrite64"];

#[test]
fn kill_at_a_step_and_in_recovery_is_recovered() {
    require!(TRACED);

    let scene = Scene::new(UpdateKind::Diff, 5, 15);
    let (mut kills, mut sealed) = (0, 0);
    for (call, last) in count_calls(&scene, &[&STEP_CALLS[..], &FREQUENT_CALLS].concat()) {
        for nth in evenly_spaced(last, rounds("SI_STEPS", 4)) {
            scene.restore();
            let killed = run_with_fault(&scene.command(), call, "signal=KILL", nth);
            let context = format!("killed at {call} {nth} of {last}");
            // Each run distributes the work differently among threads: it may be that no
            // thread makes this number of calls.
            if killed.code == 0 {
                assert!(nth > 1 && scene.is_target(), "{context}: {killed:#?}");
                continue;
            }
            assert_eq!(killed.code, -1, "{context}: {killed:#?}");
            kills += 1;
            if scene.is_sealed() {
                sealed += 1;
                run_with_fault(&scene.recovery(), call, "signal=KILL", 1 + nth % 4);
                run_with_fault(&scene.recovery(), "unlinkat", "signal=KILL", 1 + nth % 7);
            }
            scene.assert_recovers(&context);
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

/// Makes single calls fail, and asserts that the exit code is true.
fn test_failing_calls(calls: &[&'static str], error: &str, default_rounds: usize) {
    let scene = Scene::new(UpdateKind::Diff, 5, 15);
    let mut faults = 0;
    for (call, last) in count_calls(&scene, calls) {
        for nth in evenly_spaced(last, rounds("SI_STEPS", default_rounds)) {
            faults += 1;
            scene.restore();
            let run = run_with_fault(&scene.command(), call, &format!("error={error}"), nth);
            let context = format!("{error} at {call} {nth} of {last}: {run:#?}");
            assert!(!run.err.contains("panicked"), "{context}");
            match run.code {
                0 => assert!(scene.is_target(), "{context}"),
                // The run failed to read its configuration.
                2 => assert!(scene.is_base(), "{context}"),
                5 => {
                    assert!(run.err.contains("nothing was changed"), "{context}");
                    assert!(scene.is_base(), "{context}");
                    if call != "unlinkat" {
                        scene.site.nothing_left();
                    }
                }
                // The update is complete; only a step after it failed.
                13 => assert!(
                    scene.is_target() && run.err.contains("hooks cannot be read"),
                    "{context}"
                ),
                6 => assert!(scene.is_sealed() || scene.is_target(), "{context}"),
                _ => panic!("{context}"),
            }
            if run.code == 0 {
                // The next run removes leftovers.
                assert_eq!(scene.recover().code, 0, "{context}");
            }
            scene.assert_recovers(&context);
        }
    }

    tally("faults", faults, &format!("system calls that failed with {error}"));
}

#[test]
fn io_error_of_any_call_leaves_base_or_target() {
    require!(TRACED);

    test_failing_calls(&[&STEP_CALLS[..], &FREQUENT_CALLS, &["openat"]].concat(), "EIO", 3);
}

#[test]
fn full_disk_at_any_call_leaves_base_or_target() {
    require!(TRACED);

    let rest = ["openat2", "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "syncfs"];
    test_failing_calls(
        &[&["renameat2", "renameat", "mkdirat", "linkat"], &rest[..]].concat(),
        "ENOSPC",
        2,
    );
}

/// ext4 can become read-only because of an error.
#[test]
fn read_only_filesystem_at_any_call_leaves_base_or_target() {
    require!(TRACED);

    test_failing_calls(&[&STEP_CALLS[..], &FREQUENT_CALLS].concat(), "EROFS", 2);
}

#[test]
fn evenly_spaced_has_both_ends() {
    assert_eq!(evenly_spaced(1, 6), [1]);
    assert!(evenly_spaced(0, 6).is_empty());
    assert_eq!(evenly_spaced(10, 3), [1, 5, 10]);
}
