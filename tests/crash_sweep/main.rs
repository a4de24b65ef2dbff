//! Each mutation of a run fails in turn, or the process dies before it. The run's report must be
//! true, and the next run must end in one of the two states, bit for bit.
//!
//! `root::fault` numbers the mutations. One thread stages, in a fixed order, so that the N-th
//! mutation is the same in each repetition. Each sweep ends with a check that no mutation follows
//! the last one. Each test runs in a process of its own. Each death needs a further process: the
//! ignored test `child`, which reads its job from the environment.
//!
//! A plain run samples second deaths and the steps of large trees and full syncs, and tests only
//! after each third step whether the node can continue. `SI_SWEEP=full` covers all steps of the
//! small trees; that takes about half an hour on two processors.

#[path = "../common/mod.rs"]
mod common;
mod downloads;
mod plans;
mod refusals;

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
use plans::{contents, large, types};
use refusals::Errors;
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
    self, AssignmentSource, Excludes, NewerHeads, Report, RollbackRequest, SyncMode, TrustSettings,
    UpdateError, UpdateRequest, UpdateStep,
};
use tempfile::TempDir;

/// Interval, in steps, at which rsync compares the node.
const JUDGED: u32 = 25;
/// Exit code of a child that reached its end alive.
const ALIVE: i32 = 42;

/// Kind of run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Job {
    Update,
    Download,
    Switch,
    Recover,
    Rollback,
}

/// One of the two states of a node without an interrupted transaction.
struct End {
    /// A tree in this state, for rsync.
    tree: PathBuf,
    print: Fingerprint,
    /// The recorded generation.
    generation: Option<GenerationId>,
}

/// A node that can be reset to its state before the run.
struct Scene {
    name: String,
    job: Job,
    request: UpdateRequest,
    /// The target of the undo set that the node has at the start, if any.
    earlier: Option<End>,
    before: End,
    after: End,
    /// A copy of the node before the run, with the agent's state.
    start: PathBuf,
    /// A directory for a copy of the node after a death.
    dead: PathBuf,
    /// Path at which another program creates a file when a reversal begins.
    occupant: Option<PathBuf>,
    /// Counts so far.
    tally: RefCell<Tally>,
    _site: Site,
}

/// Counts for the summary.
#[derive(Default)]
struct Tally {
    faults: u32,
    deaths: u32,
    ends: u32,
    judged: u32,
    /// Mutations of the last run with a fault.
    changes: u32,
}

/// The trees of a scene.
#[derive(Clone, Default)]
struct Plan {
    /// The published generations, oldest first.
    generations: Vec<Tree>,
    /// Index of the node's generation, which it reached by updates from the first.
    start: usize,
    /// Files that only the node has.
    untracked: Tree,
    /// Files of the image that were changed on the node.
    drift: Tree,
    /// Whether the node has recorded its generation; if not, the run is a full sync.
    recorded: bool,
}

/// The number of steps in a plain run and in a full one.
fn steps(ordinary: u32, full: u32) -> u32 {
    let is_full = std::env::var_os("SI_SWEEP").is_some_and(|value| value == "full");
    if is_full { full } else { ordinary }
}

impl Scene {
    /// Creates the node below `place`.
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

        // A full sync without a recorded generation removes untracked files.
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
            occupant: None,
            tally: RefCell::default(),
            _site: site,
        };

        scene.save(&scene.start);

        scene
    }

    /// The rollback of this scene: it starts at the other's end.
    fn into_rollback(mut self) -> Self {
        self.restore(&self.start);
        perform(self.job, &self.request, &Silent).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        self.save(&self.start);
        std::mem::swap(&mut self.before, &mut self.after);
        self.name += ", rolled back";
        self.job = Job::Rollback;
        self.earlier = None;
        self
    }

    fn node(&self) -> &Path {
        &self.request.root
    }

    /// Resets the node to the copy at `from`.
    fn restore(&self, from: &Path) {
        for entry in fs::read_dir(self.node()).expect("the node") {
            let path = entry.expect("an entry").path();
            let is_dir = fs::symlink_metadata(&path).expect("is there").is_dir();
            if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("removes");
        }
        // The root directory stays: the recorded state names its inode.
        copy_tree(&from.join("."), self.node());
    }

    /// Copies the node to another directory.
    fn save(&self, to: &Path) {
        let _ = fs::remove_dir_all(to);
        // It is never run here, and far larger than the rest.
        let _ = fs::remove_file(self.node().join(".si-stage/agent"));
        copy_tree(self.node(), to);
    }

    /// The number of mutations of `job`, which must succeed, and the number before the commit
    /// point.
    #[track_caller]
    fn count(&self, job: Job) -> (u32, u32) {
        fault::disarm();
        let counter = Counter::default();
        perform(job, &self.request, &counter)
            .unwrap_or_else(|e| panic!("{}: {job:?}: {e}", self.name));
        (mutations(), counter.0.load(Ordering::SeqCst))
    }

    /// Runs `job` in a process that dies before its `nth` mutation; false if there is no such
    /// mutation.
    #[track_caller]
    fn kill(&self, job: Job, nth: u32) -> bool {
        self.kill_by(job, nth, None)
    }

    /// As [`Scene::kill`]; with a refusal, its `nth` mutation is refused, and it dies `later`.
    #[track_caller]
    fn kill_by(&self, job: Job, nth: u32, refusal: Option<(Errno, u32)>) -> bool {
        let mut child = Command::new(std::env::current_exe().expect("this program"));
        child.args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"]);
        child.env("SI_SWEEP_NODE", self.node()).env("SI_SWEEP_REPO", repo_of(&self.request));
        child.env("SI_SWEEP_JOB", format!("{job:?}")).env("SI_SWEEP_NTH", nth.to_string());
        if let Some(server) = &self.request.rsync {
            child.env("SI_SWEEP_RSYNC", server.port.to_string());
        }
        if let Some((error, later)) = refusal {
            child.env("SI_SWEEP_ERROR", error.raw_os_error().to_string());
            child.env("SI_SWEEP_LATER", later.to_string());
        }
        if let Some(occupant) = &self.occupant {
            child.env("SI_SWEEP_OCCUPANT", occupant);
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

    /// Runs `job` with a fault at its `nth` mutation; also returns whether the fault was reached.
    fn run_with_fault(
        &self,
        job: Job,
        nth: u32,
        fault: Fault,
    ) -> (bool, Result<Option<Report>, UpdateError>) {
        fault::arm(nth, fault);
        let monitor = OccupantMonitor(self.occupant.clone());
        let done = catch_unwind(AssertUnwindSafe(|| perform(job, &self.request, &monitor)));
        self.tally().changes = fault::changes_since_arming(nth);
        let met = fault::disarm();
        self.tally().faults += u32::from(met);
        (
            met,
            done.unwrap_or_else(|_| panic!("{}: {job:?} panicked at {nth}, {fault:?}", self.name)),
        )
    }

    /// The state that the node reports, which must be true. No transaction may be interrupted.
    #[track_caller]
    fn reported_end(&self, context: &str) -> &End {
        let status = update::status(self.node()).expect("a status");
        assert!(!status.interrupted, "{context}: a transaction is interrupted");
        let recorded = match &status.state {
            LoadedState::Valid(state) => Some(state.generation),
            LoadedState::Missing => None,
            other => panic!("{context}: {other:?}"),
        };
        let end = [&self.after, &self.before].into_iter().find(|end| end.generation == recorded);
        let end = end.unwrap_or_else(|| panic!("{context}: at a third generation, {recorded:?}"));
        self.assert_tree(end, context);
        end
    }

    /// Asserts that the tree equals `end`.
    #[track_caller]
    fn assert_tree(&self, end: &End, context: &str) {
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

    /// Asserts that no stage is left, and that an undo set is complete.
    #[track_caller]
    fn assert_tidy(&self, end: &End, context: &str) {
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

    /// Lets the next run finish or discard the transaction; returns the resulting state.
    #[track_caller]
    fn recover(&self, context: &str) -> &End {
        self.recover_by(Job::Recover, context)
    }

    #[track_caller]
    fn recover_by(&self, job: Job, context: &str) -> &End {
        self.perform(job, context);
        let end = self.reported_end(context);
        self.assert_tidy(end, context);
        end
    }

    #[track_caller]
    fn perform(&self, job: Job, context: &str) {
        perform(job, &self.request, &Silent)
            .unwrap_or_else(|e| panic!("{context}: then {job:?}: {e}"));
    }

    /// Asserts that the job still works from either state, and that a rollback leads back. Runs at
    /// each third step, or at all steps.
    #[track_caller]
    fn assert_usable(&self, from: &End, context: &str) {
        let nth = {
            let mut tally = self.tally();
            tally.ends += 1;
            tally.ends
        };

        if !nth.is_multiple_of(steps(3, 1)) {
            return;
        }

        if !self.is_after(from) {
            if let Some(earlier) = self.earlier.as_ref().filter(|_| nth.is_multiple_of(2)) {
                self.perform(Job::Rollback, context);
                return self.assert_tree(
                    earlier,
                    &format!("{context}: rolled back to the earlier generation"),
                );
            }
            self.perform(self.job, context);
        }

        assert!(
            self.is_after(self.reported_end(context)),
            "{context}: the next run did not reach the target"
        );
        self.assert_tidy(&self.after, context);
        if self.job != Job::Rollback {
            self.perform(Job::Update, context);
            self.assert_no_download(context);
            assert!(
                self.is_after(self.reported_end(context)),
                "{context}: a further update did not stay there"
            );
        } else {
            let again = perform(Job::Update, &self.request, &Silent);
            assert!(
                matches!(again, Err(UpdateError::Pinned { .. })),
                "{context}: the generation that was left is not pinned: {again:?}"
            );
        }

        self.assert_agent_tidy(context);
        self.perform(Job::Rollback, context);

        assert!(
            !self.is_after(self.reported_end(context)),
            "{context}: the rollback did not lead back"
        );
        self.assert_tidy(&self.after, context);
    }

    /// Asserts that the agent's state directory holds no downloads or partial files.
    #[track_caller]
    fn assert_agent_tidy(&self, context: &str) {
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

    /// A sample of about `most` numbers from 1 to `last`, with both ends.
    fn sample(&self, last: u32, most: u32) -> Vec<u32> {
        if last <= most {
            return (1..=last).collect();
        }
        let stride = last.div_ceil(most).max(1);
        let phase =
            1 + u32::try_from(RandomState::new().build_hasher().finish() % u64::from(stride))
                .expect("small");
        let mut sample: Vec<u32> =
            [1, last].into_iter().chain((phase..last).step_by(stride as usize)).collect();

        sample.sort_unstable();
        sample.dedup();
        sample
    }

    /// Fails a sample of `most` mutations, each alone or with all later ones.
    fn sweep_faults(&self, fault: Fault, most: u32) {
        self.restore(&self.start);
        let (last, _) = self.count(self.job);

        assert!(self.is_after(self.reported_end("without a fault")));
        self.assert_tidy(&self.after, "without a fault");
        for nth in self.sample(last, most) {
            self.restore(&self.start);
            let (met, done) = self.run_with_fault(self.job, nth, fault);
            let context = format!(
                "{}: {fault:?} at mutation {nth} of {last}: {:?}",
                self.name,
                done.as_ref().err()
            );
            assert!(met, "{context}: the fault was not reached");
            self.assert_true_report(done, fault, &context);
            let end = self.recover(&context);
            self.assert_usable(end, &context);
        }

        self.restore(&self.start);

        assert!(
            !self.run_with_fault(self.job, last + 1, fault).0,
            "{}: more mutations than were counted",
            self.name
        );
    }

    /// Asserts that the result of a run is true before any recovery.
    #[track_caller]
    fn assert_true_report(
        &self,
        done: Result<Option<Report>, UpdateError>,
        fault: Fault,
        context: &str,
    ) {
        let once = matches!(fault, Fault::Fail(_));
        let interrupted = update::status(self.node()).expect("a status").interrupted;
        match done {
            Ok(_) => self.assert_tree(&self.after, context),
            Err(UpdateError::Interrupted(_) | UpdateError::Unfinished(_)) => {
                // If the journal could neither be made durable nor removed, the state is unknown.
                assert!(interrupted || !once, "{context}: no transaction is interrupted");
            }
            Err(error) => {
                let own_disk = match &error {
                    UpdateError::Node(_)
                    | UpdateError::Refused(_)
                    | UpdateError::DiskSpace(_)
                    | UpdateError::Reversed(_) => true,
                    UpdateError::Fetch(error) => error.side == Side::Node,
                    _ => false,
                };
                assert!(own_disk, "{context}: the wrong side is blamed");
                assert!(
                    !interrupted,
                    "{context}: it reports an unchanged tree, but a transaction is interrupted"
                );
                self.assert_tree(&self.before, context);
                if once {
                    self.assert_tidy(&self.before, context);
                }
            }
        }
    }

    /// Dies before a sample of `most` mutations. Before the commit point the tree must equal the
    /// base; after it, the target.
    fn sweep_deaths(&self, most: u32) {
        self.restore(&self.start);
        let (last, _) = self.count(self.job);
        let mut committed_at = None;
        for nth in self.sample(last, most) {
            self.restore(&self.start);
            let context = format!("{}: died before mutation {nth} of {last}", self.name);
            assert!(self.kill(self.job, nth), "{context}: it did not die");
            let committed = update::status(self.node()).expect("a status").interrupted;
            let end = self.recover(&context);
            let at_target = self.is_after(end);
            assert!(at_target || !committed, "{context}: it was committed");
            assert!(
                at_target || committed_at.is_none(),
                "{context}: committed since {committed_at:?}, but not here"
            );
            committed_at = committed_at.or(at_target.then_some(nth));
            self.assert_usable(end, &context);
        }

        assert!(
            committed_at.is_some_and(|at| at > 1),
            "{}: deaths on both sides of the commit point",
            self.name
        );
        self.restore(&self.start);

        assert!(!self.kill(self.job, last + 1), "{}: more mutations than were counted", self.name);
    }

    /// Dies after the commit point, and again in the recovery, at samples of `firsts` and
    /// `seconds`.
    fn sweep_double_deaths(&self, firsts: u32, seconds: u32) {
        self.restore(&self.start);
        let (last, commit) = self.count(self.job);
        for first in self.sample(last - commit, firsts).into_iter().map(|nth| commit + nth) {
            self.restore(&self.start);
            assert!(self.kill(self.job, first), "{}: it did not die at {first}", self.name);
            self.save(&self.dead);
            let (more, _) = self.count(Job::Recover);
            for second in self.sample(more, seconds) {
                self.restore(&self.dead);
                let context =
                    format!("{}: died at {first} of {last}, then at {second} of {more}", self.name);
                assert!(self.kill(Job::Recover, second), "{context}: it did not die");
                // Any kind of run recovers; a rollback would then roll back again.
                let job = if second % 2 == 0 || self.job == Job::Rollback {
                    Job::Recover
                } else {
                    self.job
                };
                assert!(
                    self.is_after(self.recover_by(job, &context)),
                    "{context}: it was committed"
                );
                self.assert_usable(&self.after, &context);
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
        let detail = format!("from inside, {name}; the tree was compared {} times", tally.judged);
        for (what, count) in [("faults", tally.faults), ("kills", tally.deaths)] {
            if count > 0 {
                common::tally(what, count as usize, &detail);
            }
        }
    }
}

/// Runs the `work` of the test `name` in a process of its own, since a fault applies to a whole
/// process. The program is a copy beside the nodes: a stage stores the program, as a hard link on
/// the same mount.
fn sweep(name: &str, work: impl FnOnce(&Path)) {
    if let Some(place) = std::env::var_os("SI_SWEEP_PLACE") {
        // Several threads would stage in another order each time.
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

/// A directory in memory, if a tmpfs can hold a tree: thousands of runs then need no disk.
fn fast_place() -> TempDir {
    const TMPFS: u64 = 0x0102_1994;
    let memory = Path::new("/dev/shm");
    let fits = rustix::fs::statfs(memory).is_ok_and(|found| found.f_type as u64 == TMPFS)
        && rustix::fs::statvfs(memory)
            .is_ok_and(|found| !found.f_flag.contains(StatVfsMountFlags::NOEXEC));
    if fits
        && std::env::var_os("SI_TEST_DIR").is_none()
        && let Ok(dir) = TempDir::with_prefix_in("si-sweep-", memory)
        // A tmpfs before Linux 6.6 holds no user attributes.
        && rustix::fs::lsetxattr(dir.path(), "user.test", b"", XattrFlags::empty()).is_ok()
    {
        return dir;
    }
    common::scratch()
}

fn repo_of(request: &UpdateRequest) -> String {
    match &request.mode {
        SyncMode::Diffs(repo) => repo.to_string(),
        SyncMode::Rsync(_) | SyncMode::Repair(_) => String::new(),
    }
}

/// The request of a node.
fn request(node: &Path, repo: &str, rsync: Option<u16>) -> UpdateRequest {
    UpdateRequest {
        root: node.to_owned(),
        image: "node".parse().expect("a name"),
        overrides: Vec::new(),
        assignment: AssignmentSource::Configuration,
        mode: SyncMode::Diffs(repo.parse().expect("an URL")),
        rsync: rsync.map(|port| Server { host: "127.0.0.1".to_owned(), port, relay: None }),
        sync_timeout: Duration::from_secs(3600),
        excludes: Excludes { name: "no excludes".to_owned(), rules: Vec::new(), path: None },
        create_directories: Vec::new(),
        seed_files: Vec::new(),
        fstypes: None,
        bootloader: BootLoader::Never,
        program_timeout: Duration::from_secs(60),
        check: Check::default(),
        drift: Drift::Repair,
        purge_untracked: false,
        max_delete: MaxDelete::Percent(100),
        adopt_share: 0.0,
        adopt_only: false,
        // If a call fails, the run must not fall back to another strategy.
        fallback: rsync.is_some(),
        dry_run: false,
        allow_downgrade: false,
        forget_seen: false,
        step: UpdateStep::Whole,
        staged_max_age: Duration::from_secs(86_400),
        rebuild_jobs: 1,
        trust: TrustSettings {
            require_signature: false,
            max_head_age: Duration::from_secs(86_400),
            allow_expired: false,
            keys_from: None,
        },
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
        Job::Download => {
            let step = UpdateStep::DownloadOnly;
            update::run(&UpdateRequest { step, ..request.clone() }, monitor).map(Some)
        }
        Job::Switch => {
            // A question to the server is asked by another thread.
            let step = UpdateStep::FromDownloaded(NewerHeads::DoNotAsk);
            update::run(&UpdateRequest { step, ..request.clone() }, monitor).map(Some)
        }
        Job::Recover => update::recover(&request.root, monitor).map(|_| None),
        Job::Rollback => {
            let UpdateRequest { root, excludes, allow_root_fs, keep_undo, undo_share, .. } =
                request.clone();
            let request = RollbackRequest {
                root,
                excludes,
                dry_run: false,
                skip_filesystems: Vec::new(),
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

/// Records the number of mutations before the commit point.
#[derive(Default)]
struct Counter(AtomicU32);

impl Monitor for Counter {
    fn event(&self, event: Event) {
        if matches!(event, Event::Sealed) {
            self.0.store(mutations(), Ordering::SeqCst);
        }
    }
}

/// Creates a file when a reversal begins, as another program would.
struct OccupantMonitor(Option<PathBuf>);

impl Monitor for OccupantMonitor {
    fn event(&self, event: Event) {
        if let Some(path) = &self.0
            && format!("{event:?}").contains("undoing the update")
        {
            fs::write(path, OCCUPANT).expect("writes");
        }
    }
}

/// Content of the file that another program creates.
const OCCUPANT: &str = "of another program";

fn mutations() -> u32 {
    u32::try_from(fault::changes_made()).expect("a number of mutations")
}

#[test]
#[ignore = "the sweeps start it as a process of its own, which dies"]
fn child() {
    let order = |name: &str| std::env::var(name).ok();
    let (Some(node), Some(repo)) = (order("SI_SWEEP_NODE"), order("SI_SWEEP_REPO")) else { return };
    let job = match order("SI_SWEEP_JOB").as_deref() {
        Some("Update") => Job::Update,
        Some("Download") => Job::Download,
        Some("Switch") => Job::Switch,
        Some("Recover") => Job::Recover,
        Some("Rollback") => Job::Rollback,
        other => panic!("{other:?} is no job"),
    };
    let nth = order("SI_SWEEP_NTH").and_then(|text| text.parse().ok()).expect("a number");
    let port = order("SI_SWEEP_RSYNC").map(|text| text.parse().expect("a port"));

    let number = |name: &str| order(name).map(|text| text.parse::<i32>().expect("a number"));
    let fault = match (number("SI_SWEEP_ERROR"), number("SI_SWEEP_LATER")) {
        (Some(error), Some(later)) => Fault::FailForThenDie {
            error: Errno::from_raw_os_error(error),
            times: refusals::ATTEMPTS,
            later: later.unsigned_abs(),
        },
        _ => Fault::Die,
    };

    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("one thread");
    fault::arm(nth, fault);
    let monitor = OccupantMonitor(order("SI_SWEEP_OCCUPANT").map(PathBuf::from));
    let done = perform(job, &request(Path::new(&node), &repo, port), &monitor);
    assert!(fault != Fault::Die || done.is_ok(), "nothing fails: {done:?}");
    std::process::exit(ALIVE);
}

/// All steps.
const ALL: u32 = u32::MAX;

#[test]
fn fault_during_type_changes_leaves_one_state() {
    sweep("fault_during_type_changes_leaves_one_state", |place| {
        let scene = Scene::new("types", types(), place);
        scene.sweep_faults(Fault::Fail(Errno::IO), ALL);
        scene.sweep_faults(Fault::FailOn(Errno::ROFS), steps(100, ALL));
        scene.sweep_faults(Fault::Fail(Errno::NOSPC), steps(10, ALL));
    });
}

#[test]
fn refusal_during_type_changes_ends_in_new_or_old_tree() {
    sweep("refusal_during_type_changes_ends_in_new_or_old_tree", |place| {
        Scene::new("types", types(), place).sweep_refusals(Errors::All);
    });
}

#[test]
fn refusal_during_content_changes_ends_in_new_or_old_tree() {
    sweep("refusal_during_content_changes_ends_in_new_or_old_tree", |place| {
        Scene::new("contents", contents(), place).sweep_refusals(Errors::Some(3));
    });
}

#[test]
fn refusal_during_rollback_ends_in_new_or_old_tree() {
    sweep("refusal_during_rollback_ends_in_new_or_old_tree", |place| {
        let scene = Scene::new("contents", contents(), place).into_rollback();
        scene.sweep_refusals(Errors::Some(3));
    });
}

#[test]
fn death_during_reversal_restores_old_tree() {
    sweep("death_during_reversal_restores_old_tree", |place| {
        let scene = Scene::new("types", types(), place);
        scene.sweep_deaths_in_reversal(steps(3, 40), steps(12, ALL));
        let scene = Scene::new("contents", contents(), &place.join("contents"));
        scene.sweep_deaths_in_reversal(steps(2, 40), steps(12, ALL));
        scene.into_rollback().sweep_deaths_in_reversal(steps(3, 40), steps(12, ALL));
    });
}

#[test]
fn death_in_reversal_loses_no_file_of_another_program() {
    sweep("death_in_reversal_loses_no_file_of_another_program", |place| {
        let scene = Scene::new("contents", contents(), place);
        scene.sweep_deaths_with_occupant("opt/name-0", steps(60, ALL));
    });
}

#[test]
fn fault_during_content_changes_leaves_one_state() {
    sweep("fault_during_content_changes_leaves_one_state", |place| {
        let scene = Scene::new("contents", contents(), place);
        scene.sweep_faults(Fault::Fail(Errno::IO), ALL);
        scene.sweep_faults(Fault::FailOn(Errno::ROFS), steps(100, ALL));
        scene.sweep_faults(Fault::Fail(Errno::NOSPC), steps(40, ALL));
    });
}

#[test]
fn death_during_type_changes_leaves_one_state() {
    sweep("death_during_type_changes_leaves_one_state", |place| {
        let scene = Scene::new("types", types(), place);
        scene.sweep_deaths(ALL);
        scene.sweep_double_deaths(steps(2, ALL), steps(30, ALL));
    });
}

#[test]
fn death_or_fault_during_download_leaves_tree_alone() {
    sweep("death_or_fault_during_download_leaves_tree_alone", |place| {
        let faults = [Fault::Fail(Errno::IO), Fault::FailOn(Errno::NOSPC)];
        Scene::new("contents", contents(), place).sweep_downloads(steps(8, ALL), &faults);
    });
}

#[test]
fn death_or_fault_during_switch_leaves_one_state() {
    sweep("death_or_fault_during_switch_leaves_one_state", |place| {
        let scene = Scene::new("contents", contents(), place).into_switch();
        scene.sweep_deaths(steps(12, ALL));
        scene.sweep_faults(Fault::Fail(Errno::IO), steps(10, ALL));
        scene.sweep_faults(Fault::FailOn(Errno::NOSPC), steps(6, ALL));
        scene.sweep_double_deaths(steps(1, ALL), steps(3, ALL));
    });
}

#[test]
fn death_during_content_changes_leaves_one_state() {
    sweep("death_during_content_changes_leaves_one_state", |place| {
        let scene = Scene::new("contents", contents(), place);
        scene.sweep_deaths(ALL);
        scene.sweep_double_deaths(1, ALL);
        scene.sweep_double_deaths(steps(10, ALL), steps(4, ALL));
    });
}

#[test]
fn second_update_keeps_or_replaces_the_undo_set() {
    sweep("second_update_keeps_or_replaces_the_undo_set", |place| {
        let scene = Scene::new("a second update", Plan { start: 1, ..contents() }, place);
        scene.sweep_faults(Fault::Fail(Errno::IO), steps(100, ALL));
        scene.sweep_deaths(steps(100, ALL));
    });
}

#[test]
fn rollback_of_type_changes_leaves_one_state() {
    sweep("rollback_of_type_changes_leaves_one_state", |place| {
        let scene = Scene::new("types", types(), place).into_rollback();
        scene.sweep_faults(Fault::Fail(Errno::IO), ALL);
        scene.sweep_deaths(ALL);
        scene.sweep_double_deaths(steps(2, ALL), steps(20, ALL));
    });
}

#[test]
fn rollback_of_content_changes_leaves_one_state() {
    sweep("rollback_of_content_changes_leaves_one_state", |place| {
        let scene = Scene::new("contents", contents(), place).into_rollback();
        scene.sweep_faults(Fault::Fail(Errno::IO), ALL);
        scene.sweep_faults(Fault::FailOn(Errno::ROFS), steps(40, ALL));
        scene.sweep_deaths(ALL);
        scene.sweep_double_deaths(steps(4, ALL), steps(10, ALL));
    });
}

#[test]
fn large_tree_leaves_one_state() {
    sweep("large_tree_leaves_one_state", |place| {
        let scene = Scene::new("a large tree", large(), place);
        scene.sweep_faults(Fault::Fail(Errno::IO), steps(6, 400));
        scene.sweep_deaths(steps(6, 400));
        scene.sweep_double_deaths(steps(2, 20), steps(2, 20));
        let scene = scene.into_rollback();
        scene.sweep_faults(Fault::Fail(Errno::IO), steps(3, 200));
        scene.sweep_deaths(steps(5, 200));
    });
}

#[test]
fn full_sync_leaves_one_state() {
    sweep("full_sync_leaves_one_state", |place| {
        let scene = Scene::new("a full sync", Plan { recorded: false, ..contents() }, place);
        scene.sweep_faults(Fault::Fail(Errno::IO), steps(12, ALL));
        scene.sweep_deaths(steps(12, ALL));
        scene.sweep_double_deaths(steps(2, 40), steps(3, 40));
        let scene = scene.into_rollback();
        scene.sweep_faults(Fault::Fail(Errno::IO), steps(6, ALL));
        scene.sweep_deaths(steps(6, ALL));
    });
}
