//! The power goes at any moment of a run, on real filesystems: what was not made durable is gone. The
//! tree is then wholly what it was or what it is to be, what is recorded of it is true, and the next run
//! ends at the image.
//!
//! How the power goes:
//!
//! - **ext4 and xfs** are shut down by the ioctl that exists for such tests, without their log being
//!   flushed. Nothing reaches the disk after it; at the next mount the journal is replayed. Dirty pages,
//!   and whatever metadata was not committed, are gone. What it does not model is a disk that loses, from
//!   its own cache, writes which it was given and not yet told to flush: those of a shut-down filesystem
//!   all stay.
//! - **btrfs** has no such ioctl. Its disk is a file on an xfs filesystem, which clones that file in one
//!   step, at whatever moment, while the update runs on: also halfway through a commit. The clone is what
//!   btrfs had given to the disk by then, in the order of completion; it does not model a disk that loses
//!   an earlier write and keeps a later one.
//!
//! A file of zero length, or with zeros for content, is a difference to the judge, who compares by
//! checksum: none is tolerated.
//!
//! `SI_CUTS` asks for more cuts on each filesystem than the few of an ordinary test run.

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
use common::trees::{self, Item, ItemKind, Tree, noise};
use common::{Need, judge, random, require, rounds, run, scratch, tally};
use tempfile::TempDir;

/// So that each way meets each act.
const FEW: usize = 21;
/// What each of these takes is well below it, also on a busy machine.
const TOO_LONG: Duration = Duration::from_secs(120);
/// Of the filesystem itself.
const NOT_OURS: [&str; 1] = ["/lost+found"];

/// Which update it is about.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// One of hundreds of paths, which is made durable with its whole filesystem.
    Diff,
    /// One of a few paths, each of which is made durable by itself.
    SmallDiff,
    FullSync,
}

/// What is running when the power goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Update,
    /// `--rollback`, after the update.
    Rollback,
    /// `--recover`, after a kill of the update behind its seal.
    Recovery,
}

/// At which moments it goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Aim {
    Anywhere,
    BehindTheSeal,
}

/// Of these and of those each filesystem gets one after another, again and again: as their numbers have no
/// common divisor, each meets each.
const WAYS: [Way; 3] = [Way::Diff, Way::SmallDiff, Way::FullSync];
const ACTS: [(Act, Aim); 7] = [
    (Act::Update, Aim::Anywhere),
    (Act::Update, Aim::BehindTheSeal),
    (Act::Rollback, Aim::Anywhere),
    // It begins behind the seal.
    (Act::Recovery, Aim::Anywhere),
    (Act::Update, Aim::BehindTheSeal),
    (Act::Rollback, Aim::BehindTheSeal),
    (Act::Update, Aim::Anywhere),
];

/// Everything that an image can hold, and so many files more that a run takes its time.
fn large(second: bool) -> Tree {
    let mut tree = trees::everything();
    if second {
        tree = trees::mutate(&tree, 1);
    }
    // The numbers of this device are too large for xfs.
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

/// A small system, of which little changes, but of every kind.
fn small(second: bool) -> Tree {
    let mut tree = trees::system();
    let mut put = |path: &str, item: Item| trees::put(&mut tree, path, item);
    put("usr/lib/app/link", Item::new(ItemKind::Link(b"usr/lib/app/one.py".to_vec())));
    put("usr/lib/app/data", Item::file(noise(100_000 + usize::from(second), 1)));
    if !second {
        put("srv/dir/in/file", Item::file("in a directory"));
        put("srv/file", Item::file("no directory"));
        put("srv/goes", Item::file("goes"));
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

/// Where the disks of a test lie.
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

    /// Copies a disk; on btrfs at one instant, whatever is being written to it. Never over an older copy:
    /// a loop device may hold on to that for a while.
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
    way: Way,
    store: &'a Store,
    site: Site,
    /// What the node is before.
    base: PathBuf,
    /// What starts right before the update, and right before its rollback.
    update: Start,
    rollback: Start,
}

/// What a run starts from, and how long it takes.
#[derive(Default)]
struct Start {
    /// The node's disk, unmounted.
    disk: PathBuf,
    whole: Duration,
    /// How long that is of it which comes after the seal.
    behind: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Base,
    Target,
}

/// What a run had said when the power went.
#[derive(Debug, Default)]
struct Promise {
    sealed: bool,
    done: bool,
}

impl<'a> Scene<'a> {
    fn new(store: &'a Store, way: Way) -> Self {
        let (tree, site): (fn(bool) -> Tree, _) = match way {
            Way::Diff => (large, Site::new()),
            Way::SmallDiff => (small, Site::new()),
            Way::FullSync => (large, Site::new().with_rsync()),
        };
        let disk = store.place(&format!("{way:?}"));
        store.kind.make(&disk, 320);
        let mounted = store.kind.mount(&disk, &site.node());
        site.publish(&tree(false));
        run(Command::new("cp").args(["-a", "-T"]).arg(site.image()).arg(site.node()));
        if way == Way::FullSync {
            fs::remove_dir_all(site.repo()).expect("removes");
        } else {
            site.updated(&["--adopt"]);
        }
        let base = site.snapshot();
        mounted.unmount();
        site.publish(&tree(true));
        let (update, rollback) = (Start { disk, ..Start::default() }, Start::default());
        let mut scene = Scene { way, store, site, base, update, rollback };
        scene.rollback.disk = scene.time(Act::Update);
        scene.time(Act::Rollback);
        scene
    }

    /// Runs it once with the power on, to know how long what takes. Returns the disk after it.
    fn time(&mut self, act: Act) -> PathBuf {
        let mounted = self.mount(act);
        let begin = Instant::now();
        let mut child = self.start(act);
        self.wait_for_the_seal(&mut child);
        let sealed = begin.elapsed();
        assert!(finished(&mut child).success(), "{}", self.said());
        let whole = begin.elapsed();
        let by_full_sync = self.said().contains("\"way\":\"full sync");
        assert_eq!(
            by_full_sync,
            (self.way, act) == (Way::FullSync, Act::Update),
            "{}",
            self.said()
        );
        assert_eq!(self.end("with the power on"), act.leads_to());
        let disk = mounted.file().to_owned();
        mounted.unmount();
        let start = if act == Act::Rollback { &mut self.rollback } else { &mut self.update };
        (start.whole, start.behind) = (whole, whole - sealed);
        disk
    }

    fn before(&self, act: Act) -> &Start {
        if act == Act::Rollback { &self.rollback } else { &self.update }
    }

    /// A fresh copy of the disk that `act` starts from, mounted as the node.
    fn mount(&self, act: Act) -> MountedDisk {
        self.store.kind.mount(&self.store.copy(&self.before(act).disk), &self.site.node())
    }

    fn log(&self) -> PathBuf {
        self.site.dir.path().join("log")
    }

    fn said(&self) -> String {
        fs::read_to_string(self.log()).expect("reads")
    }

    fn start(&self, act: Act) -> Child {
        let mut command = match act {
            Act::Update => self.site.command(),
            Act::Rollback => self.site.rollback_command(),
            Act::Recovery => self.recovery(),
        };
        if act == Act::Update {
            command.args(["--max-delete", "100%"]);
        }
        let log = fs::File::create(self.log()).expect("a log");
        let errors = log.try_clone().expect("a log");
        command.arg("--json").stdout(log).stderr(errors).spawn().expect("si_updateclient runs")
    }

    fn is_sealed(&self) -> bool {
        self.site.node().join(".si-stage/journal").exists()
    }

    fn wait_for_the_seal(&self, child: &mut Child) {
        while !self.is_sealed() && child.try_wait().expect("waits").is_none() {
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// What the run in the log has said so far.
    fn promise(&self, status: Option<ExitStatus>) -> Promise {
        Promise {
            sealed: self.said().contains("\"event\":\"sealed\""),
            done: status.is_some_and(|status| status.success()),
        }
    }

    /// Kills an update behind the seal; what is mounted then waits to be recovered.
    fn killed(&self) -> MountedDisk {
        for _ in 0..20 {
            let mounted = self.mount(Act::Update);
            let mut child = self.start(Act::Update);
            self.wait_for_the_seal(&mut child);
            thread::sleep(self.update.behind.mul_f64(random() * 0.5));
            child.kill().and_then(|()| child.wait()).expect("dies");
            if self.is_sealed() {
                return mounted;
            }
            mounted.discard();
        }
        panic!("20 updates were all done before they could be killed");
    }

    /// One cut, and all that comes after it. Says whether it met a sealed transaction, and how it ended.
    fn cut(&self, act: Act, aim: Aim) -> (bool, End) {
        let mounted = if act == Act::Recovery { self.killed() } else { self.mount(act) };
        let power = Power::of(self.store, &mounted);
        let mut child = self.start(act);
        let start = self.before(act);
        let moment = match (act, aim) {
            (Act::Recovery, _) => (start.behind + Duration::from_millis(10)).mul_f64(random()),
            (_, Aim::Anywhere) => start.whole.mul_f64(random()),
            (_, Aim::BehindTheSeal) => {
                self.wait_for_the_seal(&mut child);
                start.behind.mul_f64(random())
            }
        };
        thread::sleep(moment);
        let (promise, mounted) = power.cut(self, child, mounted);
        let sealed = self.is_sealed();
        let context = format!(
            "{act:?} of {:?}, cut {aim:?} after {moment:?}, sealed {sealed}, {promise:?}",
            self.way
        );
        let recovered = Run::from_output(self.recovery().output().expect("runs"));
        assert_eq!(recovered.code, 0, "{context}: {recovered:#?}");
        let end = self.end(&context);
        let must = sealed || promise.sealed || promise.done || act == Act::Recovery;
        assert!(!must || end == act.leads_to(), "{context}: it ended in {end:?}");
        // What was recorded, compared down to the content, was true: nothing has to be repaired.
        let run =
            self.site.update(&["--max-delete", "100%", "--check=content", "--unhold", "--json"]);
        assert_eq!(run.code, 0, "{context}: {run:#?}");
        assert!(run.out.contains("\"repaired\":0,\"deviations\":{}"), "{context}: {run:#?}");
        assert_eq!(self.end(&context), End::Target, "{context}");
        mounted.discard();
        (sealed || promise.sealed, end)
    }

    fn recovery(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
        command.arg("--recover").arg("--root").arg(self.site.node());
        command
    }

    /// Which of the two trees the node is, with nothing beside it, and recorded as that.
    #[track_caller]
    fn end(&self, context: &str) -> End {
        let node = self.site.node();
        let base = judge::differences(&self.base, &node, &NOT_OURS);
        let target = judge::differences(&self.site.image(), &node, &NOT_OURS);
        let end = match (base.is_empty(), target.is_empty()) {
            (true, _) => End::Base,
            (false, true) => End::Target,
            _ => panic!("{context}: neither the base: {base:#?}\nnor the target: {target:#?}"),
        };
        self.site.nothing_left();
        let publishes = self.site.catalog().publishes;
        // Before a full sync nothing is published of the base, and nothing recorded.
        let expected = match end {
            End::Target => publishes.last(),
            End::Base => publishes.iter().rev().nth(1),
        };
        let expected = expected.map(|publish| publish.generation.to_string());
        let status = self.status();
        let recorded = status["state"]["generation"].as_str();
        assert_eq!(recorded, expected.as_deref(), "{context}: of {end:?} is recorded {status:#}");
        end
    }

    fn status(&self) -> serde_json::Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
        let text = run(command.args(["--status", "--json", "--root"]).arg(self.site.node()));
        serde_json::from_str(&text).expect("JSON")
    }
}

impl Act {
    fn leads_to(self) -> End {
        if self == Act::Rollback { End::Base } else { End::Target }
    }
}

/// How the power of a disk is cut.
enum Power {
    Switch(PowerSwitch),
    Copy,
}

impl Power {
    fn of(store: &Store, mounted: &MountedDisk) -> Self {
        if store.kind == Kind::Btrfs { Power::Copy } else { Power::Switch(mounted.switch()) }
    }

    /// Cuts it while `child` runs, and brings it back.
    fn cut(self, scene: &Scene, mut child: Child, mounted: MountedDisk) -> (Promise, MountedDisk) {
        match self {
            Power::Switch(switch) => {
                switch.cut();
                // It meets errors everywhere, and ends by itself; what it says of success has to be true
                // also now.
                let status = finished(&mut child);
                (scene.promise(Some(status)), mounted.remount())
            }
            Power::Copy => {
                // What it says later may be true only later.
                let status = child.try_wait().expect("waits");
                let promise = scene.promise(status);
                let copy = scene.store.copy(mounted.file());
                child.kill().and_then(|()| child.wait()).expect("dies");
                mounted.discard();
                (promise, scene.store.kind.mount(&copy, &scene.site.node()))
            }
        }
    }
}

fn finished(child: &mut Child) -> ExitStatus {
    let begin = Instant::now();
    loop {
        match child.try_wait().expect("waits") {
            Some(status) => return status,
            None if begin.elapsed() > TOO_LONG => {
                let _ = child.kill().and_then(|()| child.wait());
                panic!("it does not end");
            }
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn cuts_on(kind: Kind) {
    let programs = ["rsync", "xfs_io", "findmnt", Kind::Xfs.mkfs(), kind.mkfs()].map(Need::Program);
    require!(Root, LoopDevice, programs);

    disk::enter_mount_namespace();
    let store = Store::new(kind);
    let scenes = WAYS.map(|way| Scene::new(&store, way));
    let (cuts, mut sealed, mut in_base) = (rounds("SI_CUTS", FEW), 0, 0);
    for nth in 0..cuts {
        let (act, aim) = ACTS[nth % ACTS.len()];
        let (met, end) = scenes[nth % scenes.len()].cut(act, aim);
        sealed += usize::from(met);
        in_base += usize::from(end == End::Base);
    }
    let in_target = cuts - in_base;
    let name = kind.name();
    let ends = format!(
        "{sealed} met a sealed transaction, {in_base} ended in the base, {in_target} in the target"
    );
    tally("power cuts", cuts, &format!("{name}; {ends}"));
    if cuts >= FEW {
        assert!(sealed > 0 && in_base > 0, "{name}: {ends}: these were not all moments");
    }
}

#[test]
fn the_power_goes_on_ext4() {
    cuts_on(Kind::Ext4);
}

#[test]
fn the_power_goes_on_xfs() {
    cuts_on(Kind::Xfs);
}

#[test]
fn the_power_goes_on_btrfs() {
    cuts_on(Kind::Btrfs);
}
