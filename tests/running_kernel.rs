//! The modules and files of the kernel that runs stay until another one does: the node is the root of
//! everything here, and the kernel calls itself by another release when the node has "booted" again.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::fault_server::FaultServer;
use common::interrupted::read;
use common::site::{Run, Site};
use common::trees::{self, Item, ItemKind, Tree};
use common::{Need, judge, machine, require, run};

const AGENT: &str = env!("CARGO_BIN_EXE_si_updateclient");
/// What a node needs to run the agent by itself.
const EQUIPMENT: [&str; 3] = ["/bin", "/lib", "/lib64"];
const KEPT: &str = "the running kernel's, kept until the next boot";

const NEEDED: [&[Need]; 2] =
    [&machine::PROGRAMS, &[Need::Program("rsync"), Need::Program("setarch")]];

/// Which kernel runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Booted {
    /// This machine's.
    First,
    /// This machine's, under the name by which it calls itself for programs from the days of Linux 2.6.
    Second,
}

impl Booted {
    fn command(self, program: &Command) -> Command {
        let mut command = Command::new(match self {
            Booted::First => "env",
            Booted::Second => "setarch",
        });
        command.args((self == Booted::Second).then_some("--uname-2.6"));
        command.arg(program.get_program()).args(program.get_args()).stdin(Stdio::null());
        command
    }

    fn release(self) -> String {
        let mut uname = Command::new("uname");
        run(&mut self.command(uname.arg("-r"))).trim().to_owned()
    }
}

/// A node that runs its agent by itself.
struct Node {
    site: Site,
    server: FaultServer,
}

impl Node {
    /// At the first generation, with the second one published.
    fn behind(first: &Tree, second: &Tree) -> Self {
        Node::of(Site::at(first), second)
    }

    fn of(site: Site, second: &Tree) -> Self {
        site.publish(second);
        machine::install(Path::new(AGENT), &site.node(), "bin/agent");
        machine::install(&machine::program("rsync"), &site.node(), "bin/rsync");
        let server = FaultServer::serve(&site.repo());
        Node { site, server }
    }

    fn agent(&self, booted: Booted, arguments: &[&str]) -> Command {
        let mut command = machine::chroot_command(&self.site.node());
        command.arg("/bin/agent").args(arguments);
        booted.command(&command)
    }

    /// The command that updates the node.
    fn command(&self, booted: Booted, more: &[&str]) -> Command {
        let url = self.server.url();
        let arguments =
            ["--diff", "--yes", "--image", "node", "--repo", &url, "--exclude-file", "/dev/null"];
        let rsync = self.site.rsync_port().map_or_else(Vec::new, |port| {
            vec![
                "--server".to_owned(),
                "127.0.0.1".to_owned(),
                "--rsync-port".to_owned(),
                port.to_string(),
            ]
        });
        let mut command = self.agent(booted, &arguments);
        command.args(rsync).args(more);
        command
    }

    fn update(&self, booted: Booted, more: &[&str]) -> Run {
        Run::from_output(self.command(booted, more).output().expect("it runs"))
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        self.site.node().join(path)
    }

    fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.at(path)).is_ok()
    }

    /// What only the node has.
    #[track_caller]
    fn beyond_the_image(&self) -> Vec<String> {
        judge::same_except_untracked(
            &self.site.image(),
            &self.site.node(),
            &[&EQUIPMENT[..], &["/proc"]].concat(),
        )
    }
}

/// A system with one kernel and its modules, below `usr/lib` or `lib`.
fn with_kernel(release: &str) -> Tree {
    let mut tree = trees::system();
    for dir in ["proc", "dev", "bin", "lib64", "usr/lib/modules"] {
        trees::put(&mut tree, dir, Item::dir());
    }
    add_kernel(&mut tree, release);
    tree
}

fn add_kernel(tree: &mut Tree, release: &str) {
    for path in [
        "boot/vmlinuz-R",
        "boot/initramfs-R.img",
        "usr/lib/modules/R/modules.dep",
        "usr/lib/modules/R/fs/xfs.ko",
    ] {
        trees::put(tree, &path.replace('R', release), Item::file(format!("{path} of {release}")));
    }
    trees::put(
        tree,
        &format!("usr/lib/modules/{release}/build"),
        Item::new(ItemKind::Symlink(b"/usr/src".to_vec())),
    );
}

/// The paths of a kernel that `with_kernel` put there, without directories.
fn files_of(release: &str) -> [String; 5] {
    [
        "boot/vmlinuz-R",
        "boot/initramfs-R.img",
        "usr/lib/modules/R/modules.dep",
        "usr/lib/modules/R/fs/xfs.ko",
        "usr/lib/modules/R/build",
    ]
    .map(|path| path.replace('R', release))
}

#[test]
fn what_the_running_kernel_needs_goes_with_the_first_run_after_the_next_boot() {
    require!(NEEDED);

    let (first, second) = (Booted::First.release(), Booted::Second.release());
    assert_ne!(first, second);
    let mut base = with_kernel(&first);
    // of a kernel that does not run nothing is kept
    add_kernel(&mut base, "1.2.3-other");
    let node = Node::behind(&base, &with_kernel(&second));
    // what the node alone has there is its own, then and later
    let own = format!("usr/lib/modules/{first}/updates/dkms/own.ko");
    trees::write_text(&node.at(&own), "built here");
    // five files and three directories of the other kernel go, and nothing else counts
    let run =
        node.update(Booted::First, &["--no-fallback", "--max-delete", "7", "--drift", "report"]);
    assert_eq!(run.code, 0, "{run:#?}");
    for path in files_of(&first).iter().chain(&files_of(&second)) {
        assert!(node.has(path), "{path}");
    }
    for path in files_of("1.2.3-other") {
        assert!(!node.has(&path), "{path}");
    }
    let status = node.site.status();
    for top in ["boot/vmlinuz-R", "boot/initramfs-R.img", "usr/lib/modules/R"] {
        assert!(status.contains(&format!("./{}: {KEPT}", top.replace('R', &first))), "{status}");
    }
    assert!(status.contains("deviations:  3\n"), "{status}");
    // no later run repairs it, counts it or removes it, as long as that kernel runs
    for more in [
        &["--drift", "report"][..],
        &["--check", "stat"],
        &["--check", "content", "--max-delete", "0"],
    ] {
        let before = node.server.seen().len();
        node.update(Booted::First, more).ended(0, &["is up to date", KEPT]);
        if !more.contains(&"--check") {
            assert_eq!(
                node.server.seen()[before..].iter().map(|seen| seen.status).collect::<Vec<_>>(),
                [304]
            );
        }
    }
    assert!(files_of(&first).iter().all(|path| node.has(path)));
    // the other kernel runs: at once, though the catalog has nothing new
    let seen = node.server.seen().len();
    let run = node.update(Booted::Second, &["--max-delete", "0"]);
    run.ended(0, &["updated to node"]);
    assert!(node.server.seen()[seen..].iter().all(|seen| !seen.path.contains("/diffs/")));
    let mut left = node.beyond_the_image();
    left.retain(|path| !path.ends_with('/'));
    assert_eq!(left, [own.as_str()]);
    assert_eq!(read(&node.at(&own)), "built here");
    let status = node.site.status();
    assert!(!status.contains(KEPT), "{status}");
    let before = node.server.seen().len();
    node.update(Booted::Second, &[]).ended(0, &["is up to date"]);
    assert_eq!(
        node.server.seen()[before..].iter().map(|seen| seen.status).collect::<Vec<_>>(),
        [304]
    );
    // the directory goes when its last file does
    fs::remove_dir_all(node.at(&format!("usr/lib/modules/{first}/updates"))).expect("removes");
    node.update(Booted::Second, &["--check", "stat"]).ended(0, &[]);
    assert_eq!(node.beyond_the_image(), [""; 0]);
}

#[test]
fn purged_is_what_the_running_kernel_needs_after_the_next_boot() {
    require!(NEEDED);

    let (first, second) = (Booted::First.release(), Booted::Second.release());
    let node = Node::behind(&with_kernel(&first), &with_kernel(&second));
    let own = format!("usr/lib/modules/{first}/updates/dkms/own.ko");
    trees::write_text(&node.at(&own), "built here");
    trees::write_text(&node.at("srv/own"), "the node's");
    let site = &node.site;
    // the equipment of this test is not to be purged
    let rules = site.dir.path().join("node/rules");
    fs::write(&rules, "/bin\n/lib\n/lib64\n/rules\n").expect("writes");
    let purge = ["--purge-untracked", "--exclude-file", "/rules", "--max-delete", "50%"];
    node.update(Booted::First, &purge).ended(0, &["updated to node"]);
    assert!(node.has(&own) && !node.has("srv/own"));
    assert!(files_of(&first).iter().all(|path| node.has(path)));
    node.update(Booted::Second, &["--exclude-file", "/rules"]).ended(0, &["updated to node"]);
    let left = judge::differences(
        &site.image(),
        &site.node(),
        &[&EQUIPMENT[..], &["/rules", "/proc"]].concat(),
    );
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn a_full_sync_keeps_it_as_well() {
    require!(NEEDED);

    let (first, second) = (Booted::First.release(), Booted::Second.release());
    for known in [true, false] {
        let site = Site::new().with_rsync();
        site.publish(&with_kernel(&first));
        site.install_node();
        if known {
            site.updated(&["--adopt"]);
        } else {
            fs::remove_dir_all(site.repo()).expect("removes");
        }
        let mut target = with_kernel(&second);
        // too far from anything that is published
        for number in 0..30 {
            trees::put(
                &mut target,
                &format!("usr/share/{number}"),
                Item::file(format!("new {number}")),
            );
        }
        let node = Node::of(site, &target);
        if known {
            node.site
                .archives("diffs")
                .into_iter()
                .for_each(|diff| fs::remove_file(diff).expect("removes"));
        }
        fs::write(node.at("rules"), "/bin\n/lib\n/lib64\n/rules\n").expect("writes");
        let rules = ["--exclude-file", "/rules", "--max-delete", "20%"];
        node.update(Booted::First, &rules).ended(0, &["full sync", KEPT]);
        for path in files_of(&first).iter().chain(&files_of(&second)) {
            assert!(node.has(path), "{path}");
        }
        node.update(Booted::First, &rules).ended(0, &["is up to date", KEPT]);
        node.update(Booted::Second, &rules).ended(0, &["updated to node"]);
        let excludes = [&EQUIPMENT[..], &["/rules", "/proc"]].concat();
        judge::same(&node.site.image(), &node.site.node(), &excludes);
        assert!(!node.site.status().contains(KEPT));
    }
}

#[test]
fn a_system_that_does_not_run_has_no_running_kernel() {
    require!(NEEDED);

    let (first, second) = (Booted::First.release(), Booted::Second.release());
    let node = Node::behind(&with_kernel(&first), &with_kernel(&second));
    node.site.updated(&["--no-fallback", "--max-delete", "90%"]);
    assert_eq!(node.beyond_the_image(), [""; 0]);
    // nor does it wait for anything that a kernel needed which ran there before
    let mut back = with_kernel(&first);
    trees::put(&mut back, "etc/passwd", Item::file("newer"));
    node.site.publish(&back);
    node.update(Booted::Second, &["--no-fallback", "--max-delete", "90%"]).ended(0, &[KEPT]);
    assert!(files_of(&second).iter().all(|path| node.has(path)));
    node.site.updated(&[]);
    assert_eq!(node.beyond_the_image(), [""; 0]);
}

#[test]
fn the_image_has_it_again_before_the_next_boot() {
    require!(NEEDED);

    let (first, second) = (Booted::First.release(), Booted::Second.release());
    let node = Node::behind(&with_kernel(&first), &with_kernel(&second));
    node.update(Booted::First, &["--no-fallback"]).ended(0, &[KEPT]);
    let mut both = with_kernel(&second);
    add_kernel(&mut both, &first);
    trees::put(&mut both, &format!("boot/vmlinuz-{first}"), Item::file("rebuilt"));
    node.site.publish(&both);
    node.update(Booted::First, &["--no-fallback"]).ended(0, &["updated to node"]);
    assert_eq!(node.beyond_the_image(), [""; 0]);
    assert!(!node.site.status().contains(KEPT));
    node.update(Booted::Second, &[]).ended(0, &["is up to date"]);
    assert_eq!(node.beyond_the_image(), [""; 0]);
}

#[test]
fn a_directory_that_becomes_a_symlink_takes_it_along_and_says_so() {
    require!(NEEDED);

    let (first, second) = (Booted::First.release(), Booted::Second.release());
    let mut base = trees::system();
    for dir in ["proc", "dev", "bin", "lib64"] {
        trees::put(&mut base, dir, Item::dir());
    }
    let mut target = base.clone();
    trees::put(&mut base, &format!("opt/lib/modules/{first}/x.ko"), Item::file("not the kernel's"));
    trees::put(&mut base, &format!("usr/lib/modules/{first}/x.ko"), Item::file("x"));
    trees::put(&mut target, &format!("opt/modules/{second}/x.ko"), Item::file("y"));
    trees::put(
        &mut target,
        "usr/lib/modules",
        Item::new(ItemKind::Symlink(b"../../opt/modules".to_vec())),
    );
    let node = Node::behind(&base, &target);
    let told = format!(
        "/usr/lib/modules/{first} belongs to the running kernel and is removed: its directory"
    );
    node.update(Booted::First, &["--no-fallback"]).ended(0, &[&told, "becomes a link"]);
    assert_eq!(node.beyond_the_image(), [""; 0]);
}

#[test]
fn a_rollback_brings_the_old_kernel_back_and_keeps_the_one_that_runs() {
    require!(NEEDED);

    let (first, second) = (Booted::First.release(), Booted::Second.release());
    let node = Node::behind(&with_kernel(&first), &with_kernel(&second));
    let before = node.site.snapshot();
    let same = |tree: &Path| {
        let excludes = [&EQUIPMENT[..], &["/proc"]].concat();
        judge::same_except_untracked(tree, &node.site.node(), &excludes)
    };
    node.update(Booted::First, &["--no-fallback"]).ended(0, &["updated to node"]);
    // The new kernel runs and the old one goes, as a repair: the way back knows it still.
    node.update(Booted::Second, &[]).ended(0, &["updated to node"]);
    assert!(files_of(&first).iter().all(|path| !node.has(path)));
    let rollback = |booted| {
        Run::from_output(node.agent(booted, &["--rollback", "--yes"]).output().expect("it runs"))
    };
    rollback(Booted::Second).ended(0, &["rolled back"]);
    let mut beyond = same(&before);
    beyond.retain(|path| !path.ends_with('/'));
    beyond.sort();
    let mut kept = files_of(&second).to_vec();
    kept.sort();
    assert_eq!(beyond, kept);
    assert!(node.site.status().contains(KEPT));
    // Booted into the old kernel, nothing more is known of the new one than before the update, once it is
    // updated again: here by a generation without it.
    let mut third = with_kernel(&first);
    trees::put(&mut third, "etc/version", Item::file("three"));
    node.site.publish(&third);
    node.update(Booted::First, &["--no-fallback"]).ended(0, &["updated to node"]);
    assert_eq!(node.beyond_the_image(), [""; 0]);
}

#[test]
fn killed_while_the_old_kernel_goes() {
    require!(NEEDED, Program("strace"));

    let (first, second) = (Booted::First.release(), Booted::Second.release());
    let node = Node::behind(&with_kernel(&first), &with_kernel(&second));
    let before = node.site.snapshot();
    node.update(Booted::First, &["--no-fallback"]).ended(0, &[KEPT]);
    let waiting = node.site.dir.path().join("waiting");
    common::copy_tree(&node.site.node(), &waiting);
    for (call, at) in [("renameat2", 2), ("renameat2", 5), ("unlinkat", 12), ("fsync", 12)] {
        run(Command::new("rm").arg("-rf").arg(node.site.node()));
        common::copy_tree(&waiting, &node.site.node());
        let command = node.command(Booted::Second, &[]);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
        strace.args(["-e", &format!("inject={call}:signal=KILL:when={at}")]);
        strace.arg(command.get_program()).args(command.get_args());
        let killed = Run::from_output(strace.stdin(Stdio::null()).output().expect("strace runs"));
        node.update(Booted::Second, &[]).ended(0, &[]);
        assert_eq!(node.beyond_the_image(), [""; 0], "{call} {at}: {killed:#?}");
        Run::from_output(
            node.agent(Booted::First, &["--rollback", "--yes"]).output().expect("it runs"),
        )
        .ended(0, &[]);
        judge::same(&before, &node.site.node(), &[&EQUIPMENT[..], &["/proc", "/dev"]].concat());
    }
}

/// A backup of the running kernel's files needs a slot that nothing else of the rollback uses.
#[test]
fn rollback_with_removals_backs_up_the_running_kernel() {
    require!(NEEDED);

    let (first, second) = (Booted::First.release(), Booted::Second.release());
    // The path that gets the first slot is replaced in one case, and new in the other.
    for first_slot_is_restored in [true, false] {
        let mut base = with_kernel(&first);
        let mut target = with_kernel(&second);
        if first_slot_is_restored {
            trees::put(&mut base, "boot/a", Item::file("first"));
        }
        trees::put(&mut target, "boot/a", Item::file("second"));
        trees::put(&mut target, "etc/hostname", Item::file("edited"));
        let node = Node::behind(&base, &target);
        node.update(Booted::First, &["--no-fallback"]).ended(0, &["updated to node"]);

        let rollback = Run::from_output(
            node.agent(Booted::Second, &["--rollback", "--yes"]).output().expect("it runs"),
        );

        rollback.ended(0, &["rolled back"]);
        assert!(files_of(&second).iter().all(|path| node.has(path)));
        let undo_log = read(&node.at(".si-undo/way-back"));
        for path in files_of(&second) {
            let backup = |line: &str| line.starts_with("stood ") && line.ends_with(&path);
            assert!(undo_log.lines().any(backup), "{path} has no backup:\n{undo_log}");
        }
    }
}
