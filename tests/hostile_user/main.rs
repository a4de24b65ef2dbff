//! A local user attacks updates, rollbacks, full syncs and recoveries.
//!
//! He owns a directory of the image, and may write to a sticky one. He gains no privileges, nothing
//! outside the tree is touched, and no run leaves the tree between two generations for longer than
//! one retry. When he stops, one more run makes the node equal to the image.
//!
//! `SI_HOSTILE_RUNS` sets the number of runs. A failure prints its seed; with
//! `SI_HOSTILE_SEED=NUMBER` that one round is run again.

#[path = "../common/mod.rs"]
mod common;
mod mallory;
mod mounts;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::site::{Run, Site};
use common::trees::{self, Generation, Item, ItemKind, Tree};
use common::{ROOT_AND_RSYNC, judge, require, rounds, tally};
use mallory::Blockers;
use mounts::HostileMounts;

/// Number of the user and of his group.
const USER: u32 = 65_534;
/// Time of the files that nobody may touch.
const BIRTH: i64 = 1_500_000_000;
/// Longest time of a run; the agent has to answer within it under any attack.
const LIMIT: Duration = Duration::from_secs(90);
/// Beginning of each set-id file of the image.
const PRIVILEGED: &[u8] = b"ROOT";

/// Exit codes that a run under attack may end with.
///
/// Done; refused on this node; full sync impossible; deviations; cancelled by nobody, so not 11;
/// updated with paths left out. 6 has a check of its own.
const CODES: [i32; 4] = [0, 5, 8, 15];

/// splitmix64: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Job that the user attacks.
#[derive(Clone, Copy, Debug)]
enum Attacked {
    Update,
    FullSync,
    Rollback,
    /// The update is killed, and `--recover` follows.
    Recovery,
}

/// A full sync takes longer than the others, so it is attacked less often.
const JOBS: [Attacked; 8] = [
    Attacked::Update,
    Attacked::Update,
    Attacked::Update,
    Attacked::Rollback,
    Attacked::Rollback,
    Attacked::Recovery,
    Attacked::Recovery,
    Attacked::FullSync,
];

/// An image in which a user owns a directory.
fn tree(generation: Generation) -> Tree {
    let second = generation.is_second();
    let number = if second { 2 } else { 1 };
    let mut tree = trees::system();
    let mut put = |path: &str, item: Item| trees::put(&mut tree, path, item);

    put("etc/version", Item::file(format!("version {number}")));
    for n in 0..60 {
        put(&format!("usr/lib/f{n:02}"), Item::file(format!("file {n} of {number} ").repeat(9)));
    }
    put("usr/bin/su", Item::file(format!("ROOT su {number}")).mode(0o4755));
    put("usr/bin/wall", Item::file(format!("ROOT wall {number}")).mode(0o2755).owner(0, 5));
    put("tmp", Item::dir().mode(0o1777));
    put("tmp/readme", Item::file(format!("readme {number}")));

    let own = |item: Item| item.owner(USER, USER);
    let home = |path: &str| format!("home/mallory/{path}");
    put("home/mallory", own(Item::dir()));
    for path in ["d", "d/sub", "g", "e"] {
        put(&home(path), own(Item::dir()));
    }
    for path in [".profile", "d/f1", "d/f2", "d/sub/f", "big"] {
        let text = format!("{path} {number} ").repeat(if path == "big" { 4000 } else { 3 });
        put(&home(path), own(Item::file(text)));
    }
    put(&home("link"), own(Item::new(ItemKind::Symlink(format!("d/f{number}").into_bytes()))));
    if second {
        put(&home("g/s"), own(Item::dir()));
        put(&home("g/s/y"), own(Item::file("new")));
        put("tmp/new", Item::dir());
    } else {
        put(&home("e/x"), own(Item::file("old")));
    }

    // A set-id file in his directory, which gets a second name outside of it.
    put(&home("tool"), Item::file("ROOT tool").mode(0o4755));
    put(&home("shared"), own(Item::file("shared")));
    if second {
        put("usr/bin/tool2", Item::new(ItemKind::Link(home("tool").into_bytes())));
        put("usr/lib/shared", Item::new(ItemKind::Link(home("shared").into_bytes())));
    }

    // Directories that root takes away from him.
    for n in 0..mallory::TAKEN {
        let directory = Item::dir();
        let directory = if second { directory.mode(0o6755) } else { own(directory) };
        put(&home(&format!("s{n}")), directory);
    }
    tree
}

/// Site of all rounds, and the tree in which each begins.
struct Scene {
    site: Site,
    base: PathBuf,
    outside: PathBuf,
    untouched: Vec<String>,
}

impl Scene {
    fn new() -> Self {
        let site = Site::new().with_rsync();
        site.publish(&tree(Generation::First));
        site.install_node();
        site.updated(&["--adopt"]);
        site.publish(&tree(Generation::Second));
        let base = site.snapshot();

        // The user may look, and nobody may change anything.
        let outside = site.dir.path().join("outside");
        fs::create_dir_all(outside.join("dir")).expect("makes");
        for (name, text) in [("file", "sentinel"), ("setid", "ROOT sentinel"), ("dir/f", "inside")]
        {
            fs::write(outside.join(name), text).expect("writes");
        }
        for name in ["setid", "file", "dir/f", "dir", ""] {
            let mode = if name == "setid" { 0o4755 } else { 0o755 };
            let path = outside.join(name);
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))
                .expect("sets");
            mallory::set_birth(&path);
        }
        open_to_all(site.dir.path());
        let untouched = list(&outside);
        Scene { site, base, outside, untouched }
    }

    /// Restores the tree of the beginning; its top stays the same directory.
    fn restore(&self) {
        let node = self.site.node();
        common::run(Command::new("find").arg(&node).args(["-xdev", "-mindepth", "1", "-delete"]));
        common::run(
            Command::new("cp").args(["-a", "--reflink=auto", "-T"]).arg(&self.base).arg(&node),
        );
    }

    fn command(&self, job: Attacked) -> Command {
        match job {
            Attacked::Update | Attacked::Recovery => {
                let mut command = self.site.command();
                command.args(["--max-delete", "100000"]);
                command
            }
            Attacked::FullSync => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
                let port = self.site.rsync_port().expect("a daemon").to_string();
                command.args(["--yes", "--image", "node", "--exclude-file", "/dev/null"]);
                command.args(["--max-delete", "100000", "--server", "127.0.0.1", "--rsync-port"]);
                command.arg(port).arg("--root").arg(self.site.node());
                command
            }
            Attacked::Rollback => self.site.rollback_command(),
        }
    }

    /// One attack.
    fn round(&self, seed: u64) {
        let mut random = Random(seed);
        self.restore();
        let job = JOBS[random.below(JOBS.len() as u64) as usize];
        if matches!(job, Attacked::Rollback) {
            self.site.updated(&["--max-delete", "100000"]);
        }

        let blockers = match job {
            Attacked::FullSync => Blockers::NotMade,
            _ => Blockers::Made,
        };
        let user = mallory::start(&self.site.node(), &self.outside, random.next(), blockers);
        let user = KilledOnDrop(user);
        let mounts = HostileMounts::start(&self.site.node(), random.next());
        let run = self.attacked_run(job, &mut random);
        assert!(CODES.contains(&run.code), "{job:?}: {run:#?}");
        drop(user);
        self.check_privileges(job, &run);
        drop(mounts);

        self.check_privileges(job, &run);
        let last = self.site.update(&["--unhold", "--check", "content", "--max-delete", "100000"]);
        assert_eq!(last.code, 0, "{job:?}: {run:#?}, then {last:#?}");
        let mut differences = judge::differences(&self.site.image(), &self.site.node(), &[]);
        differences.retain(|line| !is_left_to_user(line));
        assert!(differences.is_empty(), "{job:?}: {differences:#?}: {run:#?}, then {last:#?}");
        self.check_privileges(job, &last);
    }

    /// Runs the job under attack; a run that was interrupted is repeated once.
    fn attacked_run(&self, job: Attacked, random: &mut Random) -> Run {
        if matches!(job, Attacked::Recovery) {
            let mut killed = self.command(job);
            killed.stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = KilledOnDrop(killed.spawn().expect("starts"));
            thread::sleep(Duration::from_millis(random.below(150)));
            child.0.kill().expect("it is not reaped");
            drop(child);
        }

        let mut command = match job {
            Attacked::Recovery => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
                command.arg("--recover").arg("--root").arg(self.site.node());
                command
            }
            _ => self.command(job),
        };
        let run = timed(&mut command);
        assert!(!run.err.contains("panicked"), "{job:?}: {run:#?}");
        if run.code != 6 {
            return run;
        }

        let again = timed(&mut self.command(Attacked::Update));
        assert!(!again.err.contains("panicked"), "{job:?}: {again:#?}");
        assert_ne!(again.code, 6, "{job:?}: {run:#?}, then {again:#?}");
        again
    }

    /// Asserts that the user has gained nothing, and that nothing outside was touched.
    fn check_privileges(&self, job: Attacked, run: &Run) {
        let mut open = vec![self.site.node()];
        while let Some(directory) = open.pop() {
            // A mount of the user's cannot be read.
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for path in entries.flatten().map(|entry| entry.path()) {
                let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
                if metadata.is_dir() {
                    open.push(path);
                } else if metadata.is_file() {
                    check_file(&path, &metadata, &format!("{job:?}: {run:#?}"));
                }
            }
        }
        assert_eq!(list(&self.outside), self.untouched, "{job:?}: something outside was touched");
    }
}

/// Asserts that no file with privileges has the user's content, and that his files stay his.
fn check_file(path: &Path, metadata: &fs::Metadata, context: &str) {
    let is_set_id = metadata.mode() & 0o6000 != 0;
    // His own content is short; a grown file is a hole, or the image's.
    let begin = read_begin(path);
    let is_his_content = begin.starts_with(mallory::CONTENT);
    let is_his = metadata.uid() == USER && metadata.gid() == USER;

    let shown = path.display();
    assert!(!is_his_content || is_his, "{shown} is his, and belongs to root: {context}");
    let is_privileged = is_set_id && !is_his;
    assert!(!is_privileged || begin.starts_with(PRIVILEGED), "{shown} has set-id bits: {context}");
}

fn read_begin(path: &Path) -> Vec<u8> {
    use std::io::Read;
    let mut begin = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        let _ = file.take(16).read_to_end(&mut begin);
    }
    begin
}

/// Lets every user pass through the directories above the tree.
fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for directory in directory.ancestors() {
        let mode = fs::metadata(directory).expect("is there").mode();
        if mode & 0o001 == 0 {
            fs::set_permissions(directory, fs::Permissions::from_mode(mode | 0o011)).expect("sets");
        }
    }
}

/// Everything about the files below `directory` that an update could change.
fn list(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        let m = fs::symlink_metadata(&path).expect("is there");
        let text = if m.is_file() { fs::read(&path).expect("reads") } else { Vec::new() };
        assert!(!m.file_type().is_fifo());
        // The user may link its files, which changes nothing but their number of links and ctime.
        lines.push(format!(
            "{} {} {:o} {}:{} {}.{} {text:?}",
            path.display(),
            m.ino(),
            m.mode(),
            m.uid(),
            m.gid(),
            m.mtime(),
            m.mtime_nsec()
        ));
        if m.is_dir() {
            open.extend(fs::read_dir(&path).expect("lists").flatten().map(|entry| entry.path()));
        }
    }
    lines.sort();
    lines
}

/// Whether a difference is an untracked path of the user's, or the mtime of a directory with one.
fn is_left_to_user(line: &str) -> bool {
    let path = ["*deleting ", ".d..t...... "].iter().find_map(|kind| line.strip_prefix(kind));
    let path = path.unwrap_or_default().trim_start();
    ["home/mallory/", "tmp/"].iter().any(|directory| path.starts_with(directory))
}

/// Runs a command, which must end within the limit.
#[track_caller]
fn timed(command: &mut Command) -> Run {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let (pid, begin) = (child.id(), Instant::now());
    let waiting = thread::spawn(move || child.wait_with_output());
    while !waiting.is_finished() {
        if begin.elapsed() > LIMIT {
            let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            let output = waiting.join().expect("waits").expect("ends");
            panic!("no end within {LIMIT:?}: {:#?}", Run::from_output(output));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Run::from_output(waiting.join().expect("waits").expect("ends"))
}

/// A process that is killed and reaped on drop.
struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Prints the seed of a round that fails.
struct SeedOnPanic(u64);

impl Drop for SeedOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("SI_HOSTILE_SEED={}", self.0);
        }
    }
}

#[test]
fn user_under_update_gains_nothing_and_delays_one_run_at_most() {
    require!(ROOT_AND_RSYNC);

    let scene = Scene::new();
    let runs = rounds("SI_HOSTILE_RUNS", 50);
    let seeds: Vec<u64> = match std::env::var("SI_HOSTILE_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => {
            let mut random = Random((common::random() * 1e15) as u64);
            (0..runs).map(|_| random.next()).collect()
        }
    };

    for seed in &seeds {
        let _seed = SeedOnPanic(*seed);
        scene.round(*seed);
    }
    tally("attacks", seeds.len(), "a hostile user");
}
