//! Power cuts at random moments of a run, on real filesystems: only durable data survives. After a
//! cut and a recovery, the tree is exactly the base or exactly the target, the recorded state is
//! true, and the next update produces the image.
//!
//! Model of the power cut:
//!
//! - **ext4 and xfs** are shut down by an ioctl made for such tests, without a flush of their log.
//!   Nothing is written to the disk after the ioctl; the next mount replays the journal. Dirty pages
//!   and uncommitted metadata are lost. A disk that loses writes from its own cache is not modelled:
//!   all writes that the filesystem submitted before the shutdown survive.
//! - **btrfs** has no such ioctl. Its disk is a file on an xfs filesystem, which can clone the file
//!   atomically while the update runs, even in the middle of a commit. The clone holds all writes
//!   that btrfs had submitted, in the order of their completion. A disk that loses an earlier write
//!   and keeps a later one is not modelled.
//!
//! The judge compares by checksum, so that an empty file or a file of zeros is a difference. No
//! difference is tolerated.
//!
//! `SI_CUTS` sets the number of cuts on each filesystem, if more than the default are wanted.

mod common;

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use common::disk;
use common::power::{Kind, MountedDisk, PowerSwitch};
use common::site::{Run, Site};
use common::trees::{self, Generation, Item, ItemKind, Tree, noise};
use common::{Need, judge, random, require, rounds, run, scratch, tally};
use tempfile::TempDir;

/// Enough cuts to combine each strategy with each operation.
const DEFAULT_CUTS: usize = 21;
/// Far above the duration of any run here, even on a busy machine.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);
/// Paths that belong to the filesystem itself.
const FOREIGN_PATHS: [&str; 1] = ["/lost+found"];

/// Kind of update.
#[derive(Clone, Copy, Debug, PartialEq)]
enum UpdateKind {
    /// Changes hundreds of paths, which one syncfs of the filesystem makes durable.
    Diff,
    /// Changes a few paths, each of which has its own fsync.
    SmallDiff,
    FullSync,
}

/// Operation that runs during the power cut.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    Update,
    /// `--rollback`, after the update.
    Rollback,
    /// `--recover`, after the update was killed beyond its seal.
    Recovery,
    /// `--download-only`.
    Download,
    /// `--from-downloaded`, after a download.
    Switch,
}

/// Part of the run from which the moment of the cut is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
enum CutWindow {
    Anywhere,
    AfterSeal,
}

/// Each filesystem cycles through both tables. Their lengths have no common divisor, so that every
/// combination occurs.
const UPDATE_KINDS: [UpdateKind; 3] =
    [UpdateKind::Diff, UpdateKind::SmallDiff, UpdateKind::FullSync];
const OPERATIONS: [(Operation, CutWindow); 7] = [
    (Operation::Update, CutWindow::Anywhere),
    (Operation::Update, CutWindow::AfterSeal),
    (Operation::Rollback, CutWindow::Anywhere),
    // A recovery runs entirely after the seal.
    (Operation::Recovery, CutWindow::Anywhere),
    (Operation::Update, CutWindow::AfterSeal),
    (Operation::Rollback, CutWindow::AfterSeal),
    (Operation::Update, CutWindow::Anywhere),
];

/// Operations of an update in two steps.
const STEPS: [(Operation, CutWindow); 4] = [
    (Operation::Download, CutWindow::Anywhere),
    (Operation::Switch, CutWindow::Anywhere),
    (Operation::Download, CutWindow::Anywhere),
    (Operation::Switch, CutWindow::AfterSeal),
];
/// Cuts of an update in two steps.
const DEFAULT_STEP_CUTS: usize = 8;

/// Tree with every kind of entry, and enough other files for a run of measurable length.
fn large_tree(generation: Generation) -> Tree {
    let second = generation.is_second();
    let mut tree = trees::everything();
    if second {
        tree = trees::mutate(&tree, 1);
    }

    // The device numbers of this entry are too large for xfs.
    tree.remove(&b"dev/big"[..]);
    let mut put = |path: String, item: Item| trees::put(&mut tree, &path, item);
    for number in 0..600 {
        let (dir, changed) = (number % 20, second && number % 3 == 0);
        let item = Item::file(format!("file {number} {changed} ").repeat(1 + number % 90));
        match number % 11 {
            5 if second => {}
            6 if second => put(format!("srv/{dir:02}/renamed-{number:03}"), item),
            7 if second => put(format!("srv/{dir:02}/new/below/{number:03}"), item),
            8 => put(
                format!("srv/{dir:02}/{number:03}"),
                item.mtime(1_600_000_000 + i64::from(second), 5),
            ),
            9 => put(format!("srv/{dir:02}/{number:03}"), item.owner(7 * u32::from(second), 0)),
            _ => put(format!("srv/{dir:02}/{number:03}"), item),
        }
    }

    for number in 0..3 {
        let mut data = noise(1_000_000, number);
        if second {
            data[500_000..500_500].copy_from_slice(&noise(500, 99));
        }
        put(format!("srv/large-{number}"), Item::file(data));
    }

    tree
}

/// Small system tree with few changes, among them every kind of change.
fn small_tree(generation: Generation) -> Tree {
    let second = generation.is_second();
    let mut tree = trees::system();
    let mut put = |path: &str, item: Item| trees::put(&mut tree, path, item);
    put("usr/lib/app/link", Item::new(ItemKind::Link(b"usr/lib/app/one.py".to_vec())));
    put("usr/lib/app/data", Item::file(noise(100_000 + usize::from(second), 1)));
    if !second {
        put("srv/dir/in/file", Item::file("in a directory"));
        put("srv/file", Item::file("no directory"));
        put("srv/stale", Item::file("stale"));
        return tree;
    }

    put("etc/hostname", Item::file("golden 2\n"));
    put("usr/lib/app/one.py", Item::file("1, newer"));
    put("usr/lib/app/two.py", Item::file("2").owner(7, 7));
    put("srv/dir", Item::new(ItemKind::Symlink(b"new".to_vec())));
    put("srv/file/now/a", Item::file("in a directory"));
    put("srv/new/in/file", Item::file("new"));
    put("srv/pipe", Item::new(ItemKind::Fifo));
    put("srv/device", Item::new(ItemKind::Char(1, 3)));
    put("srv/text", Item::new(ItemKind::Symlink(b"a symlink's text".repeat(10))));

    tree
}

/// Directory of the disk images of a test.
struct Store {
    kind: Kind,
    copies: Cell<usize>,
    mounted: Option<MountedDisk>,
    dir: TempDir,
}

impl Store {
    fn new(kind: Kind) -> Self {
        let dir = scratch();
        let mounted = (kind == Kind::Btrfs).then(|| {
            let below = dir.path().join("store.img");
            Kind::Xfs.make(&below, 2048);
            Kind::Xfs.mount(&below, &dir.path().join("store"))
        });
        Store { kind, copies: Cell::new(0), mounted, dir }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.mounted.as_ref().map_or(self.dir.path(), MountedDisk::at).join(name)
    }

    /// Copies a disk image; on btrfs atomically, even while it is written. Each copy has a new
    /// name, because a loop device can still hold an older copy open.
    fn copy(&self, from: &Path) -> PathBuf {
        self.copies.set(self.copies.get() + 1);
        let to = self.place(&format!("copy-{}", self.copies.get()));
        let how: &[&str] =
            if self.mounted.is_some() { &["--reflink=always"] } else { &["--sparse=always"] };
        run(Command::new("cp").args(how).arg(from).arg(&to));
        to
    }
}

/// A node on a disk of its own, before and after an update.
struct Scene<'a> {
    update_kind: UpdateKind,
    store: &'a Store,
    site: Site,
    /// Snapshot of the tree before the update.
    base: PathBuf,
    /// Disks right before the update and right before its rollback.
    update: Start,
    rollback: Start,
    /// Disk right before a switch.
    switch: Start,
}

/// Disk that a run starts from, and the duration of the run.
#[derive(Default)]
struct Start {
    /// The node's disk, unmounted.
    disk: PathBuf,
    whole: Duration,
    /// Part of `whole` that follows the seal.
    after_seal: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Base,
    Target,
}

/// Progress that a run had reported before the power cut.
#[derive(Debug, Default)]
struct Progress {
    sealed: bool,
    done: bool,
}

impl<'a> Scene<'a> {
    fn new(store: &'a Store, update_kind: UpdateKind) -> Self {
        let (tree, site): (fn(Generation) -> Tree, _) = match update_kind {
            UpdateKind::Diff => (large_tree, Site::new()),
            UpdateKind::SmallDiff => (small_tree, Site::new()),
            UpdateKind::FullSync => (large_tree, Site::new().with_rsync()),
        };

        let disk = store.place(&format!("{update_kind:?}"));
        store.kind.make(&disk, 320);
        let mounted = store.kind.mount(&disk, &site.node());
        site.publish(&tree(Generation::First));
        run(Command::new("cp").args(["-a", "-T"]).arg(site.image()).arg(site.node()));
        if update_kind == UpdateKind::FullSync {
            fs::remove_dir_all(site.repo()).expect("removes");
        } else {
            site.updated(&["--adopt"]);
        }

        let base = site.snapshot();
        mounted.unmount();
        site.publish(&tree(Generation::Second));
        let update = Start { disk, ..Start::default() };
        let (rollback, switch) = (Start::default(), Start::default());
        Scene { update_kind, store, site, base, update, rollback, switch }
    }

    /// Measures an update and its rollback.
    fn with_rollback(mut self) -> Self {
        self.rollback.disk = self.measure(Operation::Update);
        self.measure(Operation::Rollback);
        self
    }

    /// Measures a download and its switch.
    fn with_steps(mut self) -> Self {
        self.switch.disk = self.measure(Operation::Download);
        self.measure(Operation::Switch);
        self
    }

    /// Measures the durations of one undisturbed run. Returns the disk after the run.
    fn measure(&mut self, operation: Operation) -> PathBuf {
        let mounted = self.mount(operation);
        let begin = Instant::now();
        let mut child = self.start(operation);
        self.wait_for_seal(&mut child);
        let sealed = begin.elapsed();

        assert!(wait_for_end(&mut child).success(), "{}", self.log_text());
        let whole = begin.elapsed();
        let by_full_sync = self.log_text().contains("\"way\":\"full sync");

        assert_eq!(
            by_full_sync,
            (self.update_kind, operation) == (UpdateKind::FullSync, Operation::Update),
            "{}",
            self.log_text()
        );
        assert_eq!(self.end("with the power on"), operation.result());
        let disk = mounted.file().to_owned();
        mounted.unmount();
        let start = match operation {
            Operation::Rollback => &mut self.rollback,
            Operation::Switch => &mut self.switch,
            _ => &mut self.update,
        };
        (start.whole, start.after_seal) = (whole, whole - sealed);

        disk
    }

    fn start_of(&self, operation: Operation) -> &Start {
        match operation {
            Operation::Rollback => &self.rollback,
            Operation::Switch => &self.switch,
            _ => &self.update,
        }
    }

    /// Mounts a new copy of the disk that `operation` starts from as the node.
    fn mount(&self, operation: Operation) -> MountedDisk {
        self.store.kind.mount(&self.store.copy(&self.start_of(operation).disk), &self.site.node())
    }

    fn log(&self) -> PathBuf {
        self.site.dir.path().join("log")
    }

    fn log_text(&self) -> String {
        fs::read_to_string(self.log()).expect("reads")
    }

    fn start(&self, operation: Operation) -> Child {
        let mut command = match operation {
            Operation::Update | Operation::Download | Operation::Switch => self.site.command(),
            Operation::Rollback => self.site.rollback_command(),
            Operation::Recovery => self.recovery(),
        };
        match operation {
            Operation::Update => command.args(["--max-delete", "100%"]),
            Operation::Download => command.arg("--download-only"),
            Operation::Switch => command.arg("--from-downloaded"),
            Operation::Rollback | Operation::Recovery => &mut command,
        };

        let log = fs::File::create(self.log()).expect("a log");
        let errors = log.try_clone().expect("a log");
        command.arg("--json").stdout(log).stderr(errors).spawn().expect("si_updateclient runs")
    }

    fn is_sealed(&self) -> bool {
        self.site.node().join(".si-stage/journal").exists()
    }

    fn wait_for_seal(&self, child: &mut Child) {
        while !self.is_sealed() && child.try_wait().expect("waits").is_none() {
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// Progress that the log contains so far.
    fn progress(&self, status: Option<ExitStatus>) -> Progress {
        Progress {
            sealed: self.log_text().contains("\"event\":\"sealed\""),
            done: status.is_some_and(|status| status.success()),
        }
    }

    /// Kills an update after its seal, and returns the mounted disk, which needs a recovery.
    fn kill_after_seal(&self) -> MountedDisk {
        for _ in 0..20 {
            let mounted = self.mount(Operation::Update);
            let mut child = self.start(Operation::Update);
            self.wait_for_seal(&mut child);
            thread::sleep(self.update.after_seal.mul_f64(random() * 0.5));
            child.kill().and_then(|()| child.wait()).expect("dies");
            if self.is_sealed() {
                return mounted;
            }

            mounted.discard();
        }

        panic!("20 updates were all done before they could be killed");
    }

    /// Cuts the power once, recovers and updates. Returns whether the transaction was sealed at the
    /// cut, and the tree that the recovery produced.
    fn cut(&self, operation: Operation, window: CutWindow) -> (bool, End) {
        let mounted = if operation == Operation::Recovery {
            self.kill_after_seal()
        } else {
            self.mount(operation)
        };
        let power = Power::of(self.store, &mounted);
        let mut child = self.start(operation);
        let start = self.start_of(operation);
        let moment = match (operation, window) {
            (Operation::Recovery, _) => {
                (start.after_seal + Duration::from_millis(10)).mul_f64(random())
            }
            (_, CutWindow::Anywhere) => start.whole.mul_f64(random()),
            (_, CutWindow::AfterSeal) => {
                self.wait_for_seal(&mut child);
                start.after_seal.mul_f64(random())
            }
        };

        thread::sleep(moment);
        let (progress, mounted) = power.cut(self, child, mounted);
        let sealed = self.is_sealed();
        let context = format!(
            "{operation:?} of {:?}, cut {window:?} after {moment:?}, sealed {sealed}, {progress:?}",
            self.update_kind
        );
        let recovered = Run::from_output(self.recovery().output().expect("runs"));

        assert_eq!(recovered.code, 0, "{context}: {recovered:#?}");
        let end = self.end(&context);
        let must_finish =
            sealed || progress.sealed || progress.done || operation == Operation::Recovery;

        assert!(!must_finish || end == operation.result(), "{context}: it ended in {end:?}");
        assert!(operation != Operation::Download || end == End::Base, "{context}");

        // The recorded state is true down to the content: nothing has to be repaired.
        let run =
            self.site.update(&["--max-delete", "100%", "--check=content", "--unhold", "--json"]);

        assert_eq!(run.code, 0, "{context}: {run:#?}");
        assert!(run.out.contains("\"repaired\":0,\"deviations\":{}"), "{context}: {run:#?}");
        assert_eq!(self.end(&context), End::Target, "{context}");
        let downloaded = self.site.node().join(".si-downloaded");
        assert!(!downloaded.exists(), "{context}: the download was left behind");
        mounted.discard();

        (sealed || progress.sealed, end)
    }

    fn recovery(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
        command.arg("--recover").arg("--root").arg(self.site.node());
        command
    }

    /// Asserts that the node is one of the two trees, is recorded as it, and has no leftovers.
    /// Returns which of the trees it is.
    #[track_caller]
    fn end(&self, context: &str) -> End {
        let node = self.site.node();
        let base = judge::differences(&self.base, &node, &FOREIGN_PATHS);
        let target = judge::differences(&self.site.image(), &node, &FOREIGN_PATHS);
        let end = match (base.is_empty(), target.is_empty()) {
            (true, _) => End::Base,
            (false, true) => End::Target,
            _ => panic!("{context}: neither the base: {base:#?}\nnor the target: {target:#?}"),
        };

        self.site.nothing_left();
        let publishes = self.site.catalog().publishes;

        // The base of a full sync is neither published nor recorded.
        let expected = match end {
            End::Target => publishes.last(),
            End::Base => publishes.iter().rev().nth(1),
        };

        let expected = expected.map(|publish| publish.generation.to_string());
        let status = self.status();
        let recorded = status["state"]["generation"].as_str();

        assert_eq!(recorded, expected.as_deref(), "{context}: the record of {end:?} is {status:#}");

        end
    }

    fn status(&self) -> serde_json::Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
        let text = run(command.args(["--status", "--json", "--root"]).arg(self.site.node()));
        serde_json::from_str(&text).expect("JSON")
    }
}

impl Operation {
    fn result(self) -> End {
        match self {
            Operation::Rollback | Operation::Download => End::Base,
            Operation::Update | Operation::Recovery | Operation::Switch => End::Target,
        }
    }
}

/// Method of a power cut.
enum Power {
    Switch(PowerSwitch),
    Copy,
}

impl Power {
    fn of(store: &Store, mounted: &MountedDisk) -> Self {
        if store.kind == Kind::Btrfs { Power::Copy } else { Power::Switch(mounted.switch()) }
    }

    /// Cuts the power while `child` runs, and mounts the disk again.
    fn cut(self, scene: &Scene, mut child: Child, mounted: MountedDisk) -> (Progress, MountedDisk) {
        match self {
            Power::Switch(switch) => {
                switch.cut();

                // The run gets an I/O error from every call and ends by itself. If it reports
                // success even now, the report has to be true.
                let status = wait_for_end(&mut child);
                (scene.progress(Some(status)), mounted.remount())
            }
            Power::Copy => {
                // Reports after the copy need not be true of the copy: read the log first.
                let status = child.try_wait().expect("waits");
                let progress = scene.progress(status);
                let copy = scene.store.copy(mounted.file());
                child.kill().and_then(|()| child.wait()).expect("dies");
                mounted.discard();
                (progress, scene.store.kind.mount(&copy, &scene.site.node()))
            }
        }
    }
}

fn wait_for_end(child: &mut Child) -> ExitStatus {
    let begin = Instant::now();
    loop {
        match child.try_wait().expect("waits") {
            Some(status) => return status,
            None if begin.elapsed() > RUN_TIMEOUT => {
                let _ = child.kill().and_then(|()| child.wait());
                panic!("the run does not end");
            }
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn test_power_cuts(kind: Kind) {
    let programs = ["rsync", "xfs_io", "findmnt", Kind::Xfs.mkfs(), kind.mkfs()].map(Need::Program);
    require!(Root, LoopDevice, programs);

    disk::enter_mount_namespace();
    let store = Store::new(kind);
    let scenes = UPDATE_KINDS.map(|kind| Scene::new(&store, kind).with_rollback());
    let (cuts, mut sealed, mut in_base) = (rounds("SI_CUTS", DEFAULT_CUTS), 0, 0);

    for round in 0..cuts {
        let (operation, window) = OPERATIONS[round % OPERATIONS.len()];
        let (was_sealed, end) = scenes[round % scenes.len()].cut(operation, window);
        sealed += usize::from(was_sealed);
        in_base += usize::from(end == End::Base);
    }

    let in_target = cuts - in_base;
    let name = kind.name();
    let ends = format!(
        "{sealed} met a sealed transaction, {in_base} ended in the base, {in_target} in the target"
    );
    tally("power cuts", cuts, &format!("{name}; {ends}"));
    if cuts >= DEFAULT_CUTS {
        assert!(sealed > 0 && in_base > 0, "{name}: {ends}: the cuts did not cover the run");
    }
}

#[test]
fn power_cut_during_download_or_switch_leaves_base_or_target() {
    let kind = Kind::Ext4;
    let programs = ["rsync", "xfs_io", "findmnt", kind.mkfs()].map(Need::Program);
    require!(Root, LoopDevice, programs);

    disk::enter_mount_namespace();
    let store = Store::new(kind);
    let scene = Scene::new(&store, UpdateKind::SmallDiff).with_steps();
    let cuts = rounds("SI_CUTS", DEFAULT_STEP_CUTS);
    for round in 0..cuts {
        let (operation, window) = STEPS[round % STEPS.len()];
        scene.cut(operation, window);
    }
    tally("power cuts", cuts, "ext4; of downloads and switches");
}

#[test]
fn power_cut_on_ext4_leaves_base_or_target() {
    test_power_cuts(Kind::Ext4);
}

#[test]
fn power_cut_on_xfs_leaves_base_or_target() {
    test_power_cuts(Kind::Xfs);
}

#[test]
fn power_cut_on_btrfs_leaves_base_or_target() {
    test_power_cuts(Kind::Btrfs);
}
