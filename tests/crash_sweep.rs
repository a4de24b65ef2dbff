//! Each change that a run makes fails in turn, or is the one before which the program dies: what the run
//! says is true, and the next run ends in one state or the other, bit for bit, never in between.
//!
//! Changes are numbered by `root::fault`. One thread stages, and contents are staged in a fixed order, so
//! the `nth` change of a run is the same one whenever it is run again; each sweep ends with the check
//! that the change after the last one is never met. Each test goes on in a process of its own; each death
//! needs a further one, the ignored test `child`. They find their orders in the environment.
//!
//! An ordinary run leaves out most second deaths and most steps of the large tree and of full syncs, and
//! tries at every third step only whether the node can go on. `SI_SWEEP=full` leaves out nothing of the
//! small trees; that takes about half an hour on two processors.

mod common;

use std::cell::{RefCell, RefMut};
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::fingerprint::Fingerprint;
use common::site::Site;
use common::trees::{self, Item, ItemKind, Tree, noise};
use common::{ROOT_AND_RSYNC, copy_tree, judge, require};
use rustix::fs::{StatVfsMountFlags, XattrFlags};
use rustix::io::Errno;
use systemimager::fetch::{FetchOptions, Side};
use systemimager::full_sync::Server;
use systemimager::generation::GenerationId;
use systemimager::host::{BootLoader, Check, Drift, KeepUndo, MaxDelete};
use systemimager::report::{Event, Monitor, Silent};
use systemimager::root::fault::{self, Fault};
use systemimager::state::LoadedState;
use systemimager::update::{
    self, Excludes, Report, RollbackRequest, SyncMode, UpdateError, UpdateRequest,
};
use tempfile::TempDir;

/// rsync looks at the node after every so many steps.
const JUDGED: u32 = 25;
/// The child says with this code that it met its end alive.
const ALIVE: i32 = 42;

/// What a run is asked to do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Job {
    Update,
    Recover,
    Rollback,
}

/// One of the two states that a node may be in when nothing waits to be finished.
struct End {
    /// A tree that is in this state, for rsync.
    tree: PathBuf,
    print: Fingerprint,
    /// What is recorded of it.
    generation: Option<GenerationId>,
}

/// A node that can be brought back to where it was before the run, again and again.
struct Scene {
    name: String,
    job: Job,
    request: UpdateRequest,
    /// What the undo set that the node begins with leads back to, if it has one.
    earlier: Option<End>,
    before: End,
    after: End,
    /// The node as it was before the run, with what the agent knows of it.
    start: PathBuf,
    /// A place for the node as a dead run left it.
    dead: PathBuf,
    /// What was seen so far.
    tally: RefCell<Tally>,
    _site: Site,
}

/// For the numbers in the end.
#[derive(Default)]
struct Tally {
    faults: u32,
    deaths: u32,
    ends: u32,
    judged: u32,
}

/// What the trees of a scene are made of.
#[derive(Clone, Default)]
struct Plan {
    /// The generations that are published, one after the other.
    generations: Vec<Tree>,
    /// Which of them the node is at; it came there by updates from the first.
    start: usize,
    /// What the node has beside them.
    untracked: Tree,
    /// What on the node is not as the image has it.
    drift: Tree,
    /// Whether the node knows its generation; else rsync brings what is new.
    recorded: bool,
}

/// So many in an ordinary run, so many in a full one.
fn much(ordinary: u32, full: u32) -> u32 {
    let is_full = std::env::var_os("SI_SWEEP").is_some_and(|value| value == "full");
    if is_full { full } else { ordinary }
}

/// Every kind of entry at a path of its own, `0` to `6`.
fn kind(tree: &mut Tree, path: &str, kind: usize, text: &str) {
    let item = match kind {
        0 => Item::dir(),
        1 => Item::file(format!("{path} {text}")),
        2 => Item::new(ItemKind::Symlink(format!("../{path}{text}").into_bytes())),
        3 => Item::new(ItemKind::Fifo),
        4 => Item::new(ItemKind::Char(1, 3)),
        5 => Item::new(ItemKind::Block(7, 1)),
        _ => Item::new(ItemKind::Link(b"etc/leader".to_vec())),
    };
    if kind == 0 {
        trees::put(tree, &format!("{path}/child"), Item::file(format!("in {path}")));
    }
    trees::put(tree, path, item);
}

/// A tree with the directories that the agent's own files lie in.
fn bare() -> Tree {
    let mut tree = Tree::from([(Vec::new(), Item::dir())]);
    trees::put(&mut tree, "etc/leader", Item::file("one inode, many names"));
    trees::put(&mut tree, "etc/systemimager", Item::dir());
    trees::put(&mut tree, "var/lib/systemimager", Item::dir());
    tree
}

/// Each kind becomes each other kind. So many are staged that they are made durable together.
fn types() -> Plan {
    let round = |second: bool| {
        let mut tree = bare();
        for (from, to) in
            (0..7).flat_map(|from| (0..7).map(move |to| (from, to))).filter(|(from, to)| from != to)
        {
            kind(&mut tree, &format!("types/{from}-{to}"), if second { to } else { from }, "");
        }
        tree
    };
    let mut untracked = Tree::new();
    trees::put(&mut untracked, "own/file", Item::file("the node's"));
    Plan {
        generations: vec![round(false), round(true)],
        untracked,
        recorded: true,
        ..Plan::default()
    }
}

/// Everything that can change without a change of type, over two diffs. So few are staged that each is
/// made durable by itself.
fn contents() -> Plan {
    let generations = (0..3).map(content).collect();
    let (mut untracked, mut drift) = (Tree::new(), Tree::new());
    trees::put(&mut untracked, "etc/of-the-node", Item::file("the node's").owner(7, 7));
    trees::put(&mut drift, "etc/drifted", Item::file("edited here").mode(0o600));
    Plan { generations, start: 0, untracked, drift, recorded: true }
}

fn content(round: u8) -> Tree {
    let mut tree = bare();
    let mut put = |path: &str, item: Item| trees::put(&mut tree, path, item);
    let text = |what: &str| format!("{what} in round {round}");
    let mut large = noise(40_000, 1);
    large[20_000..20_050].copy_from_slice(&noise(50, u64::from(round) + 2));
    put("etc/drifted", Item::file("as the image has it"));
    put("usr/large", Item::file(large));
    put("usr/text", Item::file(text("text")).mode(0o755));
    put("usr/sparse", Item::new(ItemKind::File { hole: 64 << 10, data: text("end").into_bytes() }));
    put("usr/mode", Item::file("mode").mode(0o600 + u32::from(round)));
    put("usr/owner", Item::file("owner").owner(round.into(), 5).mode(0o4755));
    put("usr/note", Item::file("note").xattr("user.note", text("note")));
    put("usr/time", Item::file("time").mtime(1_600_000_000 + i64::from(round), 5));
    put("usr/both", Item::file("both").mtime(1_600_000_000, i64::from(round)));
    put("usr/both-too", Item::new(ItemKind::Link(b"usr/both".to_vec())));
    put(
        "usr/link",
        Item::new(ItemKind::Symlink(text("target").into_bytes())).mtime(9, round.into()),
    );
    put("usr/null", Item::new(ItemKind::Char(1, 3 + u32::from(round))));
    put("usr/pipe", Item::new(ItemKind::Fifo).mode(0o600 + u32::from(round)));
    put("usr/dir-mode", Item::dir().mode(0o700 + u32::from(round)).owner(round.into(), 0));
    put("usr/dir-time", Item::dir().mtime(1_600_000_000, round.into()));
    put("usr/dir-note", Item::dir().xattr("user.note", text("note")));
    put("opt/stays", Item::file("stays"));
    put(&format!("opt/name-{round}"), Item::file("the same under another name".repeat(9)));
    put(&format!("opt/only-{round}/deep/file"), Item::file(text("only")).xattr("user.x", "y"));
    put("opt/first", Item::file(text("a group")).owner(1000, 100));
    put(&format!("opt/member-{round}"), Item::new(ItemKind::Link(b"opt/first".to_vec())));
    let everything = trees::everything();
    for (path, once) in [("etc/acl", 1), ("usr/bin/ping", 2)] {
        let mut item = everything[path.as_bytes()].clone();
        if round == once {
            item.xattrs.clear();
        }
        put(path, item);
    }
    tree
}

/// Some thousand entries, of which some hundred change; among them every kind that there is.
fn large() -> Plan {
    let round = |round: u32| {
        let mut tree =
            (0..round).fold(trees::everything(), |tree, round| trees::mutate(&tree, round));
        tree.extend(bare());
        for (dir, file) in (0..40).flat_map(|dir| (0..40).map(move |file| (dir, file))) {
            let text = format!("file {dir} {file} {} ", if file % 7 == 0 { round } else { 0 });
            let name = if file == 9 { 9 * round } else { file };
            trees::put(&mut tree, &format!("many/{dir:02}/{name:02}"), Item::file(text.repeat(30)));
        }
        tree
    };
    Plan { generations: vec![round(1), round(2)], recorded: true, ..Plan::default() }
}

impl Scene {
    /// The node is made below `place`.
    fn new(name: &str, plan: Plan, place: &Path) -> Self {
        let mut site = Site::new();
        if !plan.recorded {
            site = site.with_rsync();
        }
        let node = place.join("node");
        let Plan { generations, start, untracked, drift, recorded } = plan;
        let tree = |parts: &[&Tree]| {
            trees::with_parents(parts.iter().flat_map(|part| (*part).clone()).collect())
        };
        let end = |name: &str, parts: &[&Tree], generation| {
            let place = place.join(name);
            trees::write(&tree(parts), &place);
            End { print: Fingerprint::read(&place), tree: place, generation }
        };
        let request = request(&node, &site.repo_url, site.rsync_port());
        trees::write(&tree(&[&generations[0], &untracked]), &node);
        let last = generations.len() - 1;
        let mut ids = Vec::new();
        for (nth, generation) in
            generations.iter().enumerate().filter(|(nth, _)| recorded || *nth == last)
        {
            let _ = fs::remove_dir_all(site.image());
            trees::write(&tree(&[generation]), &site.image());
            site.publish_image(&["--diffs", "1"]);
            ids.push(site.catalog().head().generation);
            if recorded && nth <= start {
                let request = UpdateRequest { adopt_only: nth == 0, ..request.clone() };
                update::run(&request, &Silent)
                    .unwrap_or_else(|e| panic!("{name}: generation {nth}: {e}"));
            }
        }
        trees::write(&drift, &node);
        // What the node does not know to be untracked goes with a full sync.
        let kept = if recorded { untracked.clone() } else { Tree::new() };
        let earlier = start.checked_sub(1).map(|nth| (&generations[nth], ids[nth]));
        let scene = Scene {
            name: name.to_owned(),
            job: Job::Update,
            earlier: earlier
                .map(|(tree, id)| end("earlier", &[tree, &untracked, &drift], Some(id))),
            before: end(
                "before",
                &[&generations[start], &untracked, &drift],
                recorded.then(|| ids[start]),
            ),
            after: end("after", &[&generations[last], &kept], ids.last().copied()),
            request,
            start: place.join("start"),
            dead: place.join("dead"),
            tally: RefCell::default(),
            _site: site,
        };
        scene.keep(&scene.start);
        scene
    }

    /// The way back: where it leads to, this one begins.
    fn undone(mut self) -> Self {
        self.restore(&self.start);
        perform(self.job, &self.request, &Silent).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        self.keep(&self.start);
        std::mem::swap(&mut self.before, &mut self.after);
        self.name += ", undone";
        self.job = Job::Rollback;
        self.earlier = None;
        self
    }

    fn node(&self) -> &Path {
        &self.request.root
    }

    /// Makes the node what it was before the run, or what is at another place.
    fn restore(&self, from: &Path) {
        for entry in fs::read_dir(self.node()).expect("the node") {
            let path = entry.expect("an entry").path();
            let is_dir = fs::symlink_metadata(&path).expect("is there").is_dir();
            if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("removes");
        }
        // The top itself stays: the state is of that inode.
        copy_tree(&from.join("."), self.node());
    }

    /// Keeps the node as it is now at another place.
    fn keep(&self, to: &Path) {
        let _ = fs::remove_dir_all(to);
        // Nobody runs it here, and it is far larger than all the rest.
        let _ = fs::remove_file(self.node().join(".si-stage/agent"));
        copy_tree(self.node(), to);
    }

    /// How many changes `job` makes from where the node is now, which has to go well, and how many of
    /// them before the seal.
    #[track_caller]
    fn count(&self, job: Job) -> (u32, u32) {
        fault::disarm();
        let counter = Counter::default();
        perform(job, &self.request, &counter)
            .unwrap_or_else(|e| panic!("{}: {job:?}: {e}", self.name));
        (made(), counter.0.load(Ordering::SeqCst))
    }

    /// Does `job` in a process that dies before its `nth` change; false where it has no such change.
    #[track_caller]
    fn killed(&self, job: Job, nth: u32) -> bool {
        let mut child = Command::new(std::env::current_exe().expect("this program"));
        child.args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"]);
        child.env("SI_SWEEP_NODE", self.node()).env("SI_SWEEP_REPO", repo_of(&self.request));
        child.env("SI_SWEEP_JOB", format!("{job:?}")).env("SI_SWEEP_NTH", nth.to_string());
        if let Some(server) = &self.request.rsync {
            child.env("SI_SWEEP_RSYNC", server.port.to_string());
        }
        let output = child.output().expect("runs");
        let killed = output.status.signal() == Some(9);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            killed || output.status.code() == Some(ALIVE),
            "{}: {job:?} {nth}: {output:?}\n{said}",
            self.name
        );
        self.tally().deaths += u32::from(killed);
        killed
    }

    /// Does `job` with a fault at its `nth` change.
    fn failing(
        &self,
        job: Job,
        nth: u32,
        fault: Fault,
    ) -> (bool, Result<Option<Report>, UpdateError>) {
        fault::arm(nth, fault);
        let done = catch_unwind(AssertUnwindSafe(|| perform(job, &self.request, &Silent)));
        let met = fault::disarm();
        self.tally().faults += u32::from(met);
        (
            met,
            done.unwrap_or_else(|_| panic!("{}: {job:?} panicked at {nth}, {fault:?}", self.name)),
        )
    }

    /// The end that the node says it is at, which has to be true; nothing may wait to be finished.
    #[track_caller]
    fn end(&self, context: &str) -> &End {
        let status = update::status(self.node()).expect("a status");
        assert!(!status.interrupted, "{context}: something waits to be finished");
        let recorded = match &status.state {
            LoadedState::Valid(state) => Some(state.generation),
            LoadedState::Missing => None,
            other => panic!("{context}: {other:?}"),
        };
        let end = [&self.after, &self.before].into_iter().find(|end| end.generation == recorded);
        let end = end.unwrap_or_else(|| panic!("{context}: at a third generation, {recorded:?}"));
        self.is(end, context);
        end
    }

    /// Asserts that the tree is as at `end`.
    #[track_caller]
    fn is(&self, end: &End, context: &str) {
        let found = Fingerprint::read(self.node());
        let mut differences = end.print.differences(&found);
        differences.truncate(20);
        let turn = {
            let mut tally = self.tally();
            tally.judged += 1;
            tally.judged.is_multiple_of(JUDGED)
        };
        if turn || !differences.is_empty() {
            let mut judged = judge::differences(&end.tree, self.node(), &[]);
            judged.truncate(20);
            assert!(
                judged.is_empty() && differences.is_empty(),
                "{context}: rsync sees {judged:#?}, the fingerprint {differences:#?}"
            );
        }
    }

    /// Asserts that nothing of a stage lies about, and that an undo set is one.
    #[track_caller]
    fn is_tidy(&self, end: &End, context: &str) {
        for left in [".si-stage", ".si-full"] {
            assert!(!self.node().join(left).exists(), "{context}: {left} was left behind");
        }
        let undo = self.node().join(".si-undo");
        let expected = self.is_after(end) || self.start.join(".si-undo").exists();
        assert_eq!(undo.exists(), expected, "{context}: whether there is an undo set");
        assert!(!expected || undo.join("way-back").exists(), "{context}: .si-undo is no undo set");
    }

    fn is_after(&self, end: &End) -> bool {
        std::ptr::eq(end, &self.after)
    }

    /// Whatever was left, the next run finishes or drops it; returns at which end.
    #[track_caller]
    fn recovers(&self, context: &str) -> &End {
        self.recovers_by(Job::Recover, context)
    }

    #[track_caller]
    fn recovers_by(&self, job: Job, context: &str) -> &End {
        self.does(job, context);
        let end = self.end(context);
        self.is_tidy(end, context);
        end
    }

    #[track_caller]
    fn does(&self, job: Job, context: &str) {
        perform(job, &self.request, &Silent)
            .unwrap_or_else(|e| panic!("{context}: then {job:?}: {e}"));
    }

    /// From either end the job can be done and leads to the other, from where there is a way back; tried
    /// at every third step, or at all.
    #[track_caller]
    fn goes_on(&self, from: &End, context: &str) {
        let nth = {
            let mut tally = self.tally();
            tally.ends += 1;
            tally.ends
        };
        if !nth.is_multiple_of(much(3, 1)) {
            return;
        }
        if !self.is_after(from) {
            if let Some(earlier) = self.earlier.as_ref().filter(|_| nth.is_multiple_of(2)) {
                self.does(Job::Rollback, context);
                return self.is(earlier, &format!("{context}: back to what was before the start"));
            }
            self.does(self.job, context);
        }
        assert!(self.is_after(self.end(context)), "{context}: the next run did not get there");
        self.is_tidy(&self.after, context);
        if self.job == Job::Update {
            self.does(Job::Update, context);
            assert!(self.is_after(self.end(context)), "{context}: there is no staying there");
        } else {
            let again = perform(Job::Update, &self.request, &Silent);
            assert!(
                matches!(again, Err(UpdateError::Pinned { .. })),
                "{context}: what was fled from is not held: {again:?}"
            );
        }
        self.agent_is_tidy(context);
        self.does(Job::Rollback, context);
        assert!(!self.is_after(self.end(context)), "{context}: there is no way back");
        self.is_tidy(&self.after, context);
    }

    /// Nothing that was fetched or half written is left among the agent's own files.
    #[track_caller]
    fn agent_is_tidy(&self, context: &str) {
        let agent = self.node().join("var/lib/systemimager/client");
        for dir in [agent.join("spool"), agent] {
            for entry in fs::read_dir(&dir).expect("the agent's own") {
                let name = entry.expect("an entry").file_name().into_string().expect("a name");
                let left = dir.ends_with("spool") || name.ends_with(".new");
                assert!(!left, "{context}: {name} was left in {}", dir.display());
            }
        }
    }

    fn tally(&self) -> RefMut<'_, Tally> {
        self.tally.borrow_mut()
    }

    /// About `most` of the numbers from 1 to `last`, both ends among them.
    fn some(&self, last: u32, most: u32) -> Vec<u32> {
        if last <= most {
            return (1..=last).collect();
        }
        let stride = last.div_ceil(most).max(1);
        let phase =
            1 + u32::try_from(RandomState::new().build_hasher().finish() % u64::from(stride))
                .expect("small");
        let mut some: Vec<u32> =
            [1, last].into_iter().chain((phase..last).step_by(stride as usize)).collect();
        some.sort_unstable();
        some.dedup();
        some
    }

    /// Each of about `most` changes fails once, or that and all after it.
    fn fails(&self, fault: Fault, most: u32) {
        self.restore(&self.start);
        let (last, _) = self.count(self.job);
        assert!(self.is_after(self.end("without a fault")));
        self.is_tidy(&self.after, "without a fault");
        for nth in self.some(last, most) {
            self.restore(&self.start);
            let (met, done) = self.failing(self.job, nth, fault);
            let context = format!(
                "{}: {fault:?} at change {nth} of {last}: {:?}",
                self.name,
                done.as_ref().err()
            );
            assert!(met, "{context}: it was not met");
            let once = matches!(fault, Fault::Fail(_));
            self.was_true(done, once, &context);
            let end = self.recovers(&context);
            self.goes_on(end, &context);
        }
        self.restore(&self.start);
        assert!(
            !self.failing(self.job, last + 1, fault).0,
            "{}: more changes than were counted",
            self.name
        );
    }

    /// What a run said of its end holds before anybody mends anything.
    #[track_caller]
    fn was_true(&self, done: Result<Option<Report>, UpdateError>, once: bool, context: &str) {
        let interrupted = update::status(self.node()).expect("a status").interrupted;
        match done {
            Ok(_) => self.is(&self.after, context),
            Err(UpdateError::Interrupted(_) | UpdateError::Unfinished(_)) => {
                // Where a journal could neither be made durable nor be taken back, nobody can know.
                assert!(interrupted || !once, "{context}: nothing waits to be finished");
            }
            Err(error) => {
                let own_disk = match &error {
                    UpdateError::Node(_) | UpdateError::Refused(_) | UpdateError::NoRoom(_) => true,
                    UpdateError::Fetch(error) => error.side == Side::Node,
                    _ => false,
                };
                assert!(own_disk, "{context}: the wrong side is blamed");
                assert!(
                    !interrupted,
                    "{context}: it says that nothing was changed, and that is not settled"
                );
                self.is(&self.before, context);
                if once {
                    self.is_tidy(&self.before, context);
                }
            }
        }
    }

    /// The program dies before each of about `most` changes. Before the seal the tree is what it was; after
    /// it, what it is to be.
    fn dies(&self, most: u32) {
        self.restore(&self.start);
        let (last, _) = self.count(self.job);
        let mut sealed_at = None;
        for nth in self.some(last, most) {
            self.restore(&self.start);
            let context = format!("{}: died before change {nth} of {last}", self.name);
            assert!(self.killed(self.job, nth), "{context}: it did not");
            let sealed = update::status(self.node()).expect("a status").interrupted;
            let end = self.recovers(&context);
            let arrived = self.is_after(end);
            assert!(arrived || !sealed, "{context}: it was sealed");
            assert!(
                arrived || sealed_at.is_none(),
                "{context}: sealed since {sealed_at:?}, and not any more"
            );
            sealed_at = sealed_at.or(arrived.then_some(nth));
            self.goes_on(end, &context);
        }
        assert!(
            sealed_at.is_some_and(|at| at > 1),
            "{}: deaths on both sides of the seal",
            self.name
        );
        self.restore(&self.start);
        assert!(!self.killed(self.job, last + 1), "{}: more changes than were counted", self.name);
    }

    /// The program dies behind the seal, and what recovers dies as well, each of `seconds` at a time.
    fn dies_twice(&self, firsts: u32, seconds: u32) {
        self.restore(&self.start);
        let (last, sealed) = self.count(self.job);
        for first in self.some(last - sealed, firsts).into_iter().map(|nth| sealed + nth) {
            self.restore(&self.start);
            assert!(self.killed(self.job, first), "{}: it did not die at {first}", self.name);
            self.keep(&self.dead);
            let (more, _) = self.count(Job::Recover);
            for second in self.some(more, seconds) {
                self.restore(&self.dead);
                let context =
                    format!("{}: died at {first} of {last}, then at {second} of {more}", self.name);
                assert!(self.killed(Job::Recover, second), "{context}: it did not");
                // Any run recovers, not only one that is asked for nothing else; a rollback would then go on.
                let job = if second % 2 == 0 || self.job == Job::Rollback {
                    Job::Recover
                } else {
                    self.job
                };
                assert!(self.is_after(self.recovers_by(job, &context)), "{context}: it was sealed");
                self.goes_on(&self.after, &context);
            }
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let (name, tally) = (&self.name, self.tally());
        let detail = format!("from inside, {name}; the tree was looked at {} times", tally.judged);
        for (what, count) in [("faults", tally.faults), ("kills", tally.deaths)] {
            if count > 0 {
                common::tally(what, count as usize, &detail);
            }
        }
    }
}

/// Does the `work` of the test `name` in a process of its own, since a fault is armed for a whole process,
/// and from a copy of this program beside the nodes: a stage keeps the program that seals it, and on one
/// mount that is a link.
fn sweep(name: &str, work: impl FnOnce(&Path)) {
    if let Some(place) = std::env::var_os("SI_SWEEP_PLACE") {
        // What is staged at the same time would be staged in another order each time.
        rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("one thread");
        return work(Path::new(&place));
    }
    require!(ROOT_AND_RSYNC);

    let place = fast_place();
    let program = place.path().join("sweep");
    common::copy_program(&std::env::current_exe().expect("this program"), &program);
    let mut command = Command::new(program);
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("SI_SWEEP_PLACE", place.path());
    let status = command.status().expect("runs");
    assert!(status.success(), "{name}: {status}");
}

/// A directory in memory where there is one that can hold a tree: thousands of runs wait for no disk.
fn fast_place() -> TempDir {
    const TMPFS: u64 = 0x0102_1994;
    let memory = Path::new("/dev/shm");
    let fits = rustix::fs::statfs(memory).is_ok_and(|found| found.f_type as u64 == TMPFS)
        && rustix::fs::statvfs(memory)
            .is_ok_and(|found| !found.f_flag.contains(StatVfsMountFlags::NOEXEC));
    if fits
        && std::env::var_os("SI_TEST_DIR").is_none()
        && let Ok(dir) = TempDir::with_prefix_in("si-sweep-", memory)
        // Before Linux 6.6 it holds none of these.
        && rustix::fs::lsetxattr(dir.path(), "user.test", b"", XattrFlags::empty()).is_ok()
    {
        return dir;
    }
    common::scratch()
}

fn repo_of(request: &UpdateRequest) -> String {
    match &request.mode {
        SyncMode::Diffs(repo) => repo.to_string(),
        SyncMode::Rsync(_) => String::new(),
    }
}

/// What a node would be told to do.
fn request(node: &Path, repo: &str, rsync: Option<u16>) -> UpdateRequest {
    UpdateRequest {
        root: node.to_owned(),
        image: "node".parse().expect("a name"),
        overrides: Vec::new(),
        mode: SyncMode::Diffs(repo.parse().expect("an URL")),
        rsync: rsync.map(|port| Server { host: "127.0.0.1".to_owned(), port, through: None }),
        sync_timeout: Duration::from_secs(3600),
        excludes: Excludes { name: "no excludes".to_owned(), rules: Vec::new(), path: None },
        fstypes: None,
        bootloader: BootLoader::Never,
        program_timeout: Duration::from_secs(60),
        check: Check::default(),
        drift: Drift::Repair,
        purge_untracked: false,
        max_delete: MaxDelete::Percent(100),
        adopt_share: 0.0,
        adopt_only: false,
        // A diff that cannot be followed because a call failed must not end in anything else.
        fallback: rsync.is_some(),
        dry_run: false,
        allow_downgrade: false,
        unhold: false,
        keep_undo: KeepUndo::Always,
        undo_share: 1.0,
        allow_root_fs: vec!["tmpfs".to_owned()],
        fetch: FetchOptions::default(),
        spool_limit: u64::MAX,
    }
}

fn perform(
    job: Job,
    request: &UpdateRequest,
    monitor: &dyn Monitor,
) -> Result<Option<Report>, UpdateError> {
    match job {
        Job::Update => update::run(request, monitor).map(Some),
        Job::Recover => update::recover(&request.root, monitor).map(|()| None),
        Job::Rollback => {
            let UpdateRequest { root, allow_root_fs, keep_undo, undo_share, .. } = request.clone();
            let request = RollbackRequest {
                root,
                dry_run: false,
                allow_root_fs,
                keep_undo,
                undo_share,
                bootloader: BootLoader::Never,
                program_timeout: Duration::from_secs(60),
            };
            update::rollback(&request, monitor).map(|_| None)
        }
    }
}

/// Remembers how many changes there were before the seal.
#[derive(Default)]
struct Counter(AtomicU32);

impl Monitor for Counter {
    fn event(&self, event: Event) {
        if matches!(event, Event::Sealed) {
            self.0.store(made(), Ordering::SeqCst);
        }
    }
}

fn made() -> u32 {
    u32::try_from(fault::changes_made()).expect("a number of changes")
}

#[test]
#[ignore = "the sweeps start it as a process of its own, which dies"]
fn child() {
    let order = |name: &str| std::env::var(name).ok();
    let (Some(node), Some(repo)) = (order("SI_SWEEP_NODE"), order("SI_SWEEP_REPO")) else { return };
    let job = match order("SI_SWEEP_JOB").as_deref() {
        Some("Update") => Job::Update,
        Some("Recover") => Job::Recover,
        Some("Rollback") => Job::Rollback,
        other => panic!("{other:?} is no job"),
    };
    let nth = order("SI_SWEEP_NTH").and_then(|text| text.parse().ok()).expect("a number");
    let port = order("SI_SWEEP_RSYNC").map(|text| text.parse().expect("a port"));
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("one thread");
    fault::arm(nth, Fault::Die);
    perform(job, &request(Path::new(&node), &repo, port), &Silent).expect("nothing fails");
    std::process::exit(ALIVE);
}

/// Every step there is.
const ALL: u32 = u32::MAX;

#[test]
fn a_change_of_types_fails() {
    sweep("a_change_of_types_fails", |place| {
        let scene = Scene::new("types", types(), place);
        scene.fails(Fault::Fail(Errno::IO), ALL);
        scene.fails(Fault::FailOn(Errno::ROFS), much(100, ALL));
        scene.fails(Fault::Fail(Errno::NOSPC), much(10, ALL));
    });
}

#[test]
fn a_change_of_contents_fails() {
    sweep("a_change_of_contents_fails", |place| {
        let scene = Scene::new("contents", contents(), place);
        scene.fails(Fault::Fail(Errno::IO), ALL);
        scene.fails(Fault::FailOn(Errno::ROFS), much(100, ALL));
        scene.fails(Fault::Fail(Errno::NOSPC), much(40, ALL));
    });
}

#[test]
fn killed_while_types_change() {
    sweep("killed_while_types_change", |place| {
        let scene = Scene::new("types", types(), place);
        scene.dies(ALL);
        scene.dies_twice(much(2, ALL), much(30, ALL));
    });
}

#[test]
fn killed_while_contents_change() {
    sweep("killed_while_contents_change", |place| {
        let scene = Scene::new("contents", contents(), place);
        scene.dies(ALL);
        scene.dies_twice(1, ALL);
        scene.dies_twice(much(10, ALL), much(4, ALL));
    });
}

#[test]
fn a_second_update_and_the_way_back_from_the_first() {
    sweep("a_second_update_and_the_way_back_from_the_first", |place| {
        let scene = Scene::new("a second update", Plan { start: 1, ..contents() }, place);
        scene.fails(Fault::Fail(Errno::IO), much(100, ALL));
        scene.dies(much(100, ALL));
    });
}

#[test]
fn a_rollback_of_types_fails_or_is_killed() {
    sweep("a_rollback_of_types_fails_or_is_killed", |place| {
        let scene = Scene::new("types", types(), place).undone();
        scene.fails(Fault::Fail(Errno::IO), ALL);
        scene.dies(ALL);
        scene.dies_twice(much(2, ALL), much(20, ALL));
    });
}

#[test]
fn a_rollback_of_contents_fails_or_is_killed() {
    sweep("a_rollback_of_contents_fails_or_is_killed", |place| {
        let scene = Scene::new("contents", contents(), place).undone();
        scene.fails(Fault::Fail(Errno::IO), ALL);
        scene.fails(Fault::FailOn(Errno::ROFS), much(40, ALL));
        scene.dies(ALL);
        scene.dies_twice(much(4, ALL), much(10, ALL));
    });
}

#[test]
fn a_large_tree_on_a_bad_day() {
    sweep("a_large_tree_on_a_bad_day", |place| {
        let scene = Scene::new("a large tree", large(), place);
        scene.fails(Fault::Fail(Errno::IO), much(6, 400));
        scene.dies(much(6, 400));
        scene.dies_twice(much(2, 20), much(2, 20));
        let scene = scene.undone();
        scene.fails(Fault::Fail(Errno::IO), much(3, 200));
        scene.dies(much(5, 200));
    });
}

#[test]
fn a_full_sync_on_a_bad_day() {
    sweep("a_full_sync_on_a_bad_day", |place| {
        let scene = Scene::new("a full sync", Plan { recorded: false, ..contents() }, place);
        scene.fails(Fault::Fail(Errno::IO), much(12, ALL));
        scene.dies(much(12, ALL));
        scene.dies_twice(much(2, 40), much(3, 40));
        let scene = scene.undone();
        scene.fails(Fault::Fail(Errno::IO), much(6, ALL));
        scene.dies(much(6, ALL));
    });
}
