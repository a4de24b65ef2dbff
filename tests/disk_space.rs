//! Disk space. An update that does not fit is refused before any archive is fetched. If another
//! process fills the disk during the update, the update leaves nothing behind; after the seal it
//! is completed from the space reserve.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::fault_server::FaultServer;
use crate::common::judge;
use crate::common::site::{Run, Site};
use crate::common::small_disk::{DISK, SmallDisk};
use crate::common::trees::{self, Generation, Item, Tree};
use crate::common::{Need, require};

const AGENT: &str = env!("CARGO_BIN_EXE_si_updateclient");

const NEEDED: [&[Need]; 2] = [&DISK, &[Need::Program("strace"), Need::Program("strip")]];

/// Tree whose second generation adds files to new and old directories, and edits and removes
/// others.
fn tree(generation: Generation) -> Tree {
    let second = generation.is_second();
    let mut tree = trees::system();
    for number in 0..60 {
        let text =
            format!("file {number}{}", if second && number % 3 == 0 { " edited" } else { "" });
        if !(second && number % 7 == 1) {
            trees::put(&mut tree, &format!("usr/lib/old/{number}"), Item::file(text));
        }
    }

    if second {
        for number in 0..40 {
            // The names are long enough to make directories grow.
            let name = format!("{number:0>200}");
            trees::put(
                &mut tree,
                &format!("usr/lib/app/{name}"),
                Item::file(format!("new {number}")),
            );
            trees::put(
                &mut tree,
                &format!("usr/new/{number}/{name}"),
                Item::file(format!("new {number}")),
            );
        }
        trees::put(&mut tree, "usr/large", Item::file(trees::noise(1_500_000, 3)));
    }

    tree
}

/// Node on a disk of its own, with a pending update.
struct Node {
    site: Site,
    disk: SmallDisk,
}

impl Node {
    fn new(mib: u32, inodes: u32) -> Self {
        let site = Site::at(&tree(Generation::First));
        site.publish(&tree(Generation::Second));
        let disk = SmallDisk::for_node(&site, mib, inodes);
        site.updated(&["--adopt"]);
        Node { site, disk }
    }

    /// Command line of an agent on the node's own disk. As on a real node, the transaction needs no
    /// copy of the agent.
    fn command(&self) -> Command {
        let agent = self.site.node().join("var/lib/systemimager/client/agent");
        if !agent.exists() {
            crate::common::run(Command::new("strip").arg("-o").arg(&agent).arg(AGENT));
        }
        let client = self.site.command();
        let mut command = Command::new(agent);
        command.args(client.get_args()).arg("--no-fallback").stdin(Stdio::null());
        command
    }

    /// Runs the update with each `call` delayed by `delay` ms. When `reached` is true, the update
    /// is stopped by a signal while `disturb` runs, and then continued.
    #[track_caller]
    fn run_disturbed(
        &self,
        call: &str,
        delay: u64,
        reached: impl Fn() -> bool,
        disturb: impl FnOnce(),
    ) -> Run {
        let command = self.command();
        let mut strace = Command::new("strace");
        strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
        strace.args(["-e", &format!("inject={call}:delay_enter={}", delay * 1000)]);
        strace.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        let mut child =
            strace.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let begin = Instant::now();
        while !reached() {
            if begin.elapsed() > Duration::from_secs(20)
                || child.try_wait().expect("waits").is_some()
            {
                let _ = child.kill();
                panic!(
                    "the update never reached the point: {:#?}",
                    Run::from_output(child.wait_with_output().expect("waits"))
                );
            }
            sleep(Duration::from_millis(1));
        }

        signal(&child, Signal::SIGSTOP);

        // A system call in progress ends in this time.
        sleep(Duration::from_millis(20));
        disturb();
        signal(&child, Signal::SIGCONT);

        Run::from_output(child.wait_with_output().expect("it ends"))
    }

    fn has(&self, path: &str) -> bool {
        self.site.node().join(path).exists()
    }

    fn staged(&self) -> usize {
        fs::read_dir(self.site.node().join(".si-stage/new")).map_or(0, Iterator::count)
    }

    /// Files in the spool directory, or the reserve files in the client's own directory.
    fn client_files(&self, directory: &str) -> Vec<String> {
        let own = self.site.node().join("var/lib/systemimager/client").join(directory);
        let listed = fs::read_dir(own)
            .expect("it is there")
            .map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> =
            listed.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names.retain(|name| directory == "spool" || name.starts_with("reserve"));
        names
    }

    /// Uses up all free inodes.
    fn fill_inodes(&self) {
        let dir = self.site.node().join("filler-inodes");
        fs::create_dir(&dir).expect("makes");
        for number in 0.. {
            if fs::write(dir.join(number.to_string()), "").is_err() {
                return;
            }
        }
    }

    fn free_filler_inodes(&self) {
        fs::remove_dir_all(self.site.node().join("filler-inodes")).expect("removes");
    }

    /// Removes the space reserves of a run.
    fn remove_reserves(&self) {
        let own = self.site.node().join("var/lib/systemimager/client");
        for reserve in self.client_files("") {
            fs::remove_file(own.join(reserve)).expect("removes");
        }
        for number in 0..4 {
            let _ = fs::remove_file(self.site.node().join(format!(".si-stage/reserve-{number}")));
        }
    }

    /// Asserts that the run was refused for lack of space and left the node as `before`.
    #[track_caller]
    fn assert_refused(&self, run: &Run, before: &Path, context: &str) {
        assert!(!self.has(".si-stage/journal"), "{context}: {run:#?}");
        assert_eq!(run.code, 5, "{context}: {run:#?}");
        assert!(
            run.err.contains("no room on this node") && run.err.contains("nothing was changed"),
            "{context}: {run:#?}"
        );
        judge::same(before, &self.site.node(), &["/filler*"]);
        self.site.nothing_left();
        let left = (self.client_files("spool"), self.client_files(""));
        assert_eq!(left, (vec![], vec![]), "{context}: {run:#?}");
    }
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).expect("signals");
}

/// Parses the free and the needed number of `unit` that a refusal reports for `place`.
#[track_caller]
fn parse_shortage(run: &Run, place: &str, unit: &str) -> (u64, u64) {
    let refusal =
        run.err.split("no room on this node: ").nth(1).unwrap_or_else(|| panic!("{run:#?}"));
    let shortage = refusal
        .split("; ")
        .find(|part| part.starts_with(&format!("{place} has ")) && part.contains(unit));
    let shortage =
        shortage.unwrap_or_else(|| panic!("nothing about the {unit} of {place}: {run:#?}"));
    let shortage = shortage.replacen(place, "", 1);

    let mut numbers = shortage
        .split(' ')
        .filter_map(|word| word.trim_matches(|c: char| !c.is_ascii_digit()).parse().ok());
    let (free, needed) =
        (numbers.next().expect("the free number"), numbers.next().expect("the needed number"));
    assert!(needed > free, "{shortage}");

    (free, needed)
}

/// Serves the repository to the node by a server that records the requests.
fn serve_recorded(site: &mut Site) -> FaultServer {
    let server = FaultServer::serve(&site.repo());
    site.repo_url = server.url();
    server
}

/// Asserts that the node fetched the listings of archives, and nothing else of them.
#[track_caller]
fn assert_only_listings_fetched(site: &Site, server: &FaultServer) {
    let catalog = site.catalog();
    for seen in server
        .seen()
        .iter()
        .filter(|seen| seen.path.contains("/diffs/") || seen.path.contains("/full/"))
    {
        let archive =
            catalog.archives.iter().find(|archive| seen.path.ends_with(archive.file.file.as_str()));
        assert!(seen.sent <= archive.expect("it is listed").first_frame.length, "{seen:#?}");
    }
    assert!(
        server.seen().iter().any(|seen| seen.path.contains("/diffs/")),
        "no listing was fetched"
    );
}

/// Node at the first generation with a pending update: four megabytes in one file below each of
/// `paths`, and a hundred small files.
fn site_with_large_update(paths: &[&str]) -> Site {
    let mut tree = tree(Generation::First);
    let site = Site::at(&tree);
    for (number, path) in paths.iter().enumerate() {
        let data = trees::noise(4_000_000 / paths.len(), number as u64);
        trees::put(&mut tree, &format!("{path}/bulk"), Item::file(data));
    }

    for number in 0..100 {
        trees::put(&mut tree, &format!("usr/many/{number}"), Item::file(format!("small {number}")));
    }
    site.publish(&tree);
    site
}

#[test]
fn too_large_update_is_refused_before_archive_download() {
    require!(NEEDED);

    let mut site = site_with_large_update(&["usr"]);
    let disk = SmallDisk::for_node(&site, 48, 2000);
    site.updated(&["--adopt"]);
    let server = serve_recorded(&mut site);
    let place = site.node().canonicalize().expect("is there").display().to_string();

    // The new content would fit, but not together with the archive.
    disk.fill(7_000_000);
    let before = site.snapshot();

    let run = site.update(&["--no-fallback"]);
    run.ended(5, &["nothing was changed"]);

    let (free, needed) = parse_shortage(&run, &place, "bytes");
    assert!(
        free.abs_diff(disk.free()) < 100_000,
        "{free} is not the number of statvfs: {}",
        disk.free()
    );

    // Content, archive, a hundred small files, and the reserve.
    assert!((9_500_000..11_000_000).contains(&needed), "{needed}");
    assert_only_listings_fetched(&site, &server);
    site.unchanged_since(&before);

    disk.drain();
    // Inodes are needed for the hundred new files, and for the reserve.
    let names = site.node().join("filler");
    fs::create_dir(&names).expect("makes");
    for number in 0..disk.free_inodes() - 150 {
        fs::write(names.join(number.to_string()), "").expect("writes");
    }

    let before = site.snapshot();
    server.calm();
    let run = site.update(&["--no-fallback"]);

    run.ended(5, &["nothing was changed"]);
    let (free, needed) = parse_shortage(&run, &place, "inodes");
    assert!((140..=150).contains(&free) && (160..200).contains(&needed), "{free} {needed}");
    assert_only_listings_fetched(&site, &server);
    site.unchanged_since(&before);

    // A dry run reports the same shortage.
    parse_shortage(&site.update(&["--no-fallback", "--dry-run"]), &place, "inodes");

    fs::remove_dir_all(&names).expect("removes");
    site.updated(&["--no-fallback"]);
    site.same();
}

#[test]
fn too_small_filesystem_refuses_its_content_or_archive() {
    require!(NEEDED);

    // Mount that receives the content, and mount that is too small: for content or for the archive.
    for (content, small) in [("usr", "usr"), ("srv", "var"), ("boot", "boot")] {
        let mut site = site_with_large_update(&[content]);
        fs::create_dir_all(site.node().join(small)).expect("makes");
        let root = SmallDisk::for_node(&site, 64, 3000);
        let part = SmallDisk::for_path(&site, small, 6, 500);

        site.updated(&["--adopt"]);
        let before = site.snapshot();
        let server = serve_recorded(&mut site);

        let run = site.update(&["--no-fallback"]);
        run.ended(5, &["nothing was changed"]);

        let place = part.at.canonicalize().expect("is there").display().to_string();
        parse_shortage(&run, &place, "bytes");
        assert!(
            !run.err.contains(&format!("{} has", root.at.display())),
            "the root has enough: {run:#?}"
        );
        assert_only_listings_fetched(&site, &server);
        site.unchanged_since(&before);

        drop(part);
    }
}

#[test]
fn low_space_removes_undo_set_unless_always_kept() {
    require!(NEEDED);

    let mut tree = tree(Generation::First);
    for number in 0..2 {
        trees::put(
            &mut tree,
            &format!("usr/bulk-{number}"),
            Item::file(trees::noise(6_000_000, number)),
        );
    }

    let mut site = Site::at(&tree);
    let disk = SmallDisk::for_node(&site, 64, 2000);
    site.updated(&["--adopt"]);

    // Twelve megabytes are replaced by twelve others.
    for number in 0..2 {
        trees::put(
            &mut tree,
            &format!("usr/bulk-{number}"),
            Item::file(trees::noise(6_000_000, 10 + number)),
        );
    }

    site.publish(&tree);
    trees::write_text(
        &site.node().join("etc/systemimager/updateclient.toml"),
        "undo_share = 0.9\n",
    );

    site.updated(&["--no-fallback"]);
    assert!(site.status().contains("undo:"), "{}", site.status());

    trees::put(&mut tree, "usr/bulk-2", Item::file(trees::noise(6_000_000, 20)));
    site.publish(&tree);
    let server = serve_recorded(&mut site);
    let undo = site.node().join(".si-undo");

    // Removing the undo set would not free enough: it is kept.
    disk.fill(512 << 10);
    let before = site.snapshot();
    let place = site.node().canonicalize().expect("is there").display().to_string();
    parse_shortage(&site.update(&["--no-fallback"]), &place, "bytes");
    judge::same(&before, &site.node(), &[]);
    assert!(undo.exists() && site.status().contains("undo:"));

    disk.drain();
    disk.fill(6 << 20);

    // Removing it would free enough, but the configuration forbids it.
    let configuration = site.node().join("etc/systemimager/updateclient.toml");
    trees::write_text(&configuration, "keep_undo = \"always\"\n");

    let run = site.update(&["--no-fallback"]);
    run.ended(
        5,
        &["the undo set is in the way, and keep_undo = \"always\" keeps it", "nothing was changed"],
    );
    assert_only_listings_fetched(&site, &server);
    assert!(undo.exists() && site.status().contains("undo:"));

    // A dry run removes nothing.
    trees::write_text(&configuration, "undo_share = 0.9\n");
    site.update(&["--no-fallback", "--dry-run"]).ended(0, &["would update to node"]);

    assert!(undo.exists());
    let run = site.updated(&["--no-fallback"]);
    run.ended(
        0,
        &["bytes free and the update needs", "the undo set,", "is in the way and is removed"],
    );
    judge::same(&site.image(), &site.node(), &["/filler", "/etc/systemimager"]);

    // The new undo set is small, and is kept.
    assert!(site.status().contains("undo:"), "{}", site.status());
}

/// Resource that another process uses up.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Resource {
    Bytes,
    Inodes,
}

impl Resource {
    const ALL: [Resource; 2] = [Resource::Bytes, Resource::Inodes];

    fn use_up(self, node: &Node) {
        match self {
            Resource::Bytes => node.disk.fill(0),
            Resource::Inodes => node.fill_inodes(),
        }
    }

    fn release(self, node: &Node) {
        match self {
            Resource::Bytes => node.disk.drain(),
            Resource::Inodes => node.free_filler_inodes(),
        }
    }
}

/// Step of an update before the seal, at which the disk gets full.
#[derive(Clone, Copy, Debug)]
enum Step {
    Staging,
    UndoLog,
    Reserve,
    Journal,
}

impl Step {
    const ALL: [Step; 4] = [Step::Staging, Step::UndoLog, Step::Reserve, Step::Journal];

    /// System call that is delayed, and its delay in ms.
    fn delayed_call(self) -> (&'static str, u64) {
        match self {
            Step::Staging => ("fchown", 10),
            Step::UndoLog => ("linkat", 20),
            Step::Reserve | Step::Journal => ("fsync", 100),
        }
    }

    fn is_reached(self, node: &Node) -> bool {
        let count = |path| fs::read_dir(node.site.node().join(path)).map_or(0, Iterator::count);
        match self {
            Step::Staging => node.staged() > 20,
            Step::UndoLog => count(".si-stage/old") > 5,
            Step::Reserve => node.has("var/lib/systemimager/client/reserve-0"),
            Step::Journal => node.has(".si-stage/directories.mtree"),
        }
    }
}

#[test]
fn full_disk_before_seal_leaves_no_change() {
    require!(NEEDED);

    let node = Node::new(96, 4000);
    let before = node.site.snapshot();

    let cases =
        Resource::ALL.into_iter().flat_map(|resource| Step::ALL.map(|step| (resource, step)));
    for (resource, step) in cases {
        let (call, delay) = step.delayed_call();
        let run =
            node.run_disturbed(call, delay, || step.is_reached(&node), || resource.use_up(&node));

        node.assert_refused(&run, &before, &format!("{resource:?} at {step:?}"));
        resource.release(&node);
    }

    // With free space again, the next update succeeds.
    Run::from_output(node.command().output().expect("it runs")).ended(0, &["updated to node"]);
    node.site.same_except(&["/filler*"]);
}

#[test]
fn full_disk_after_seal_completes_update() {
    require!(NEEDED);

    for resource in Resource::ALL {
        let node = Node::new(96, 4000);
        let sealed = || node.has(".si-stage/journal");

        let run = node.run_disturbed("renameat2", 30, sealed, || resource.use_up(&node));

        run.ended(0, &["updated to node"]);
        node.site.same_except(&["/filler*"]);
        assert!(node.site.status().contains("serial:      2"), "{}", node.site.status());
        assert_eq!((node.client_files("spool"), node.client_files("")), (vec![], vec![]));
    }
}

/// The rollback creates directories again.
#[test]
fn update_completed_on_full_disk_can_be_rolled_back() {
    require!(NEEDED);

    for resource in Resource::ALL {
        let node = Node::new(96, 4000);
        let before = node.site.snapshot();
        let sealed = || node.has(".si-stage/journal");
        node.run_disturbed("renameat2", 30, sealed, || resource.use_up(&node))
            .ended(0, &["updated to node"]);
        resource.release(&node);

        let mut rollback = Command::new(node.command().get_program());
        rollback.args(["--rollback", "--yes", "--root"]).arg(node.site.node());
        Run::from_output(rollback.output().expect("it runs")).ended(0, &[]);

        judge::same(&before, &node.site.node(), &[]);
    }
}

#[test]
fn full_disk_without_reserve_is_finished_by_next_run() {
    require!(NEEDED);

    for resource in Resource::ALL {
        let node = Node::new(96, 4000);
        let sealed = || node.has(".si-stage/journal");
        let run = || Run::from_output(node.command().output().expect("it runs"));

        let first = node.run_disturbed("renameat2", 30, sealed, || {
            node.remove_reserves();
            resource.use_up(&node);
        });
        let second = run();
        resource.release(&node);
        let third = run();

        first.ended(6, &["No space left on device", "the next run of si_updateclient completes"]);
        second.ended(6, &["No space left on device"]);
        third.ended(0, &["the interrupted update was finished"]);
        node.site.same_except(&["/filler*"]);
    }
}
