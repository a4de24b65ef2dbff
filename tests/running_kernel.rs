//! Kernel paths: modules and files of the running kernel are kept until another kernel runs. The
//! agent runs with the node as root directory. A reboot is simulated by another kernel release,
//! which setarch(8) makes uname(2) return.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::fault_server::FaultServer;
use crate::common::read;
use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item, ItemKind, Tree};
use crate::common::{Need, judge, machine, require, run, write_program};

const AGENT: &str = env!("CARGO_BIN_EXE_si_updateclient");
/// Directories with the programs and libraries that a node needs to run the agent.
const EQUIPMENT: [&str; 3] = ["/bin", "/lib", "/lib64"];
const KEPT: &str = "the running kernel's, kept until the next boot";

const NEEDED: [&[Need]; 2] =
    [&machine::PROGRAMS, &[Need::Program("rsync"), Need::Program("setarch")]];

/// Kernel that runs on the node.
#[derive(Clone, Copy, Debug, PartialEq)]
enum RunningKernel {
    /// Kernel of this machine with the release that it reports to programs written for Linux 2.6.
    First,
    /// Kernel of this machine, which is newer.
    Second,
}

impl RunningKernel {
    fn command(self, program: &Command) -> Command {
        let mut command = Command::new(match self {
            RunningKernel::First => "setarch",
            RunningKernel::Second => "env",
        });
        command.args((self == RunningKernel::First).then_some("--uname-2.6"));
        command.arg(program.get_program()).args(program.get_args()).stdin(Stdio::null());
        command
    }

    fn release(self) -> String {
        let mut uname = Command::new("uname");
        run(&mut self.command(uname.arg("-r"))).trim().to_owned()
    }
}

/// Node on which the agent runs in a chroot.
struct Node {
    site: Site,
    server: FaultServer,
}

impl Node {
    /// Node at the first generation, with the second one published.
    fn before_update(first: &Tree, second: &Tree) -> Self {
        Node::from_site(Site::at(first), second)
    }

    fn from_site(site: Site, second: &Tree) -> Self {
        site.publish(second);
        machine::install(Path::new(AGENT), &site.node(), "bin/agent");
        machine::install(&machine::program("rsync"), &site.node(), "bin/rsync");
        let server = FaultServer::serve(&site.repo());
        Node { site, server }
    }

    fn agent(&self, kernel: RunningKernel, arguments: &[&str]) -> Command {
        let mut command = machine::chroot_command(&self.site.node());
        command.arg("/bin/agent").args(arguments);
        kernel.command(&command)
    }

    /// Command that updates the node.
    fn command(&self, kernel: RunningKernel, more: &[&str]) -> Command {
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
        let mut command = self.agent(kernel, &arguments);
        command.args(rsync).args(more);
        command
    }

    fn update(&self, kernel: RunningKernel, more: &[&str]) -> Run {
        Run::from_output(self.command(kernel, more).output().expect("it runs"))
    }

    fn rollback(&self, kernel: RunningKernel, more: &[&str]) -> Run {
        let mut command = self.agent(kernel, &["--rollback", "--yes"]);
        Run::from_output(command.args(more).output().expect("it runs"))
    }

    /// Installs a shell script as a program of the node.
    fn script(&self, name: &str, lines: &str) {
        machine::install_busybox(&self.site.node(), &["sh", "ls", "sort", "rm", "mkdir"]);
        write_program(&self.path(&format!("bin/{name}")), &format!("#!/bin/sh\n{lines}\n"));
    }

    /// Installs a grub that lists the newest kernel first; `default` is a line of its menu.
    fn install_grub(&self, default: &str) {
        fs::create_dir_all(self.path("boot/grub")).expect("makes");
        self.script("grub-set-default", "echo \"saved_entry=$1\" >/boot/grub/grubenv");
        self.script("grub-editenv", "[ \"$*\" = '- unset saved_entry' ] && : >/boot/grub/grubenv");
        self.script(
            "update-grub",
            &format!(
                "cd /boot && {{ echo '{default}'
                for image in $(ls | sort -r); do
                    case $image in vmlinu?-*) ;; *) continue ;; esac
                    echo \"menuentry '$image' --id 'linux-${{image#vmlinu?-}}' {{\"
                    echo \"  linux /boot/$image\"
                    echo \"}}\"
                done; }} >grub/grub.cfg"
            ),
        );
    }

    /// Images in the boot menu, the first one first.
    fn boot_menu(&self) -> Vec<String> {
        let menu = read(&self.path("boot/grub/grub.cfg"));
        let images = menu.lines().filter_map(|line| line.trim().strip_prefix("linux /boot/"));
        images.map(str::to_owned).collect()
    }

    /// Content of grub's environment.
    fn grub_environment(&self) -> String {
        fs::read_to_string(self.path("boot/grub/grubenv")).unwrap_or_default().trim().to_owned()
    }

    /// Whether the record of a default entry exists.
    fn has_recorded_default(&self) -> bool {
        self.has("var/lib/systemimager/client/boot-default")
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.site.node().join(path)
    }

    fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// Same as [`Node::paths_beyond_image`], without the files of grub.
    #[track_caller]
    fn paths_beyond_grub(&self) -> Vec<String> {
        let mut paths = self.paths_beyond_image();
        paths.retain(|path| !path.starts_with("boot/grub"));
        paths
    }

    /// Whether an image of the boot menu exists.
    fn can_boot(&self) -> bool {
        self.boot_menu().iter().any(|image| self.has(&format!("boot/{image}")))
    }

    /// Paths of the node that the image lacks; all others must equal the image.
    #[track_caller]
    fn paths_beyond_image(&self) -> Vec<String> {
        judge::same_except_untracked(
            &self.site.image(),
            &self.site.node(),
            &[&EQUIPMENT[..], &["/proc"]].concat(),
        )
    }
}

/// System tree with one kernel and its modules.
fn tree_with_kernel(release: &str) -> Tree {
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

/// Paths that [`add_kernel`] adds, without directories.
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

/// Modules among [`files_of`]: they are kept after a rollback.
fn modules_of(release: &str) -> Vec<String> {
    files_of(release).into_iter().filter(|path| path.starts_with("usr/lib")).collect()
}

/// Boot files among [`files_of`].
fn boot_files_of(release: &str) -> Vec<String> {
    files_of(release).into_iter().filter(|path| path.starts_with("boot")).collect()
}

#[test]
fn kernel_paths_are_removed_by_first_run_after_reboot() {
    require!(NEEDED);

    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
    assert_ne!(first, second);

    let mut base = tree_with_kernel(&first);
    // Files of a kernel that does not run are not kept.
    add_kernel(&mut base, "1.2.3-other");
    let node = Node::before_update(&base, &tree_with_kernel(&second));

    // An untracked module is kept throughout.
    let local_module = format!("usr/lib/modules/{first}/updates/dkms/own.ko");
    trees::write_text(&node.path(&local_module), "built here");

    // Only paths of the other kernel are removed and count as deletions.
    let run = node
        .update(RunningKernel::First, &["--no-fallback", "--max-delete", "7", "--drift", "report"]);
    assert_eq!(run.code, 0, "{run:#?}");
    for path in files_of(&first).iter().chain(&files_of(&second)) {
        assert!(node.has(path), "{path}");
    }

    for path in files_of("1.2.3-other") {
        assert!(!node.has(&path), "{path}");
    }
    let status = node.site.status();
    for top in ["boot/vmlinuz-R", "boot/initramfs-R.img", "usr/lib/modules/R"] {
        assert!(status.contains(&format!("/{}: {KEPT}", top.replace('R', &first))), "{status}");
    }
    assert!(status.contains("deviations:  3\n"), "{status}");

    // Later runs neither repair, count nor remove the kernel paths while that kernel runs.
    for more in [
        &["--drift", "report"][..],
        &["--check", "stat"],
        &["--check", "content", "--max-delete", "0"],
    ] {
        let before = node.server.seen().len();
        node.update(RunningKernel::First, more).ended(0, &["is up to date", KEPT]);
        if !more.contains(&"--check") {
            assert_eq!(
                node.server.seen()[before..].iter().map(|seen| seen.status).collect::<Vec<_>>(),
                [304]
            );
        }
    }
    assert!(files_of(&first).iter().all(|path| node.has(path)));

    // The first run under another kernel removes them, although the catalog has not changed.
    let seen = node.server.seen().len();
    let run = node.update(RunningKernel::Second, &["--max-delete", "0"]);

    run.ended(0, &["updated to node"]);
    assert!(node.server.seen()[seen..].iter().all(|seen| !seen.path.contains("/diffs/")));

    let mut left = node.paths_beyond_image();
    left.retain(|path| !path.ends_with('/'));
    assert_eq!(left, [local_module.as_str()]);
    assert_eq!(read(&node.path(&local_module)), "built here");

    let status = node.site.status();
    assert!(!status.contains(KEPT), "{status}");

    let before = node.server.seen().len();
    node.update(RunningKernel::Second, &[]).ended(0, &["is up to date"]);
    assert_eq!(
        node.server.seen()[before..].iter().map(|seen| seen.status).collect::<Vec<_>>(),
        [304]
    );

    // The directory is removed after its last untracked file.
    fs::remove_dir_all(node.path(&format!("usr/lib/modules/{first}/updates"))).expect("removes");
    node.update(RunningKernel::Second, &["--check", "stat"]).ended(0, &[]);

    assert_eq!(node.paths_beyond_image(), [""; 0]);
}

#[test]
fn purge_removes_kernel_paths_after_reboot() {
    require!(NEEDED);

    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
    let node = Node::before_update(&tree_with_kernel(&first), &tree_with_kernel(&second));
    let local_module = format!("usr/lib/modules/{first}/updates/dkms/own.ko");
    trees::write_text(&node.path(&local_module), "built here");
    trees::write_text(&node.path("srv/own"), "the node's");
    let site = &node.site;

    // The programs that the test installed are excluded from the purge.
    let rules = site.dir.path().join("node/rules");
    fs::write(&rules, "/bin\n/lib\n/lib64\n/rules\n").expect("writes");
    let purge = ["--purge-untracked", "--exclude-file", "/rules", "--max-delete", "50%"];

    node.update(RunningKernel::First, &purge).ended(0, &["updated to node"]);
    assert!(node.has(&local_module) && !node.has("srv/own"));
    assert!(files_of(&first).iter().all(|path| node.has(path)));

    node.update(RunningKernel::Second, &["--exclude-file", "/rules"])
        .ended(0, &["updated to node"]);
    let left = judge::differences(
        &site.image(),
        &site.node(),
        &[&EQUIPMENT[..], &["/rules", "/proc"]].concat(),
    );
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn full_sync_keeps_kernel_paths() {
    require!(NEEDED);

    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
    for is_recorded in [true, false] {
        let site = Site::new().with_rsync();
        site.publish(&tree_with_kernel(&first));
        site.install_node();
        if is_recorded {
            site.updated(&["--adopt"]);
        } else {
            fs::remove_dir_all(site.repo()).expect("removes");
        }

        let mut target = tree_with_kernel(&second);
        // Many new files make the node resemble no generation.
        for number in 0..30 {
            trees::put(
                &mut target,
                &format!("usr/share/{number}"),
                Item::file(format!("new {number}")),
            );
        }

        let node = Node::from_site(site, &target);
        if is_recorded {
            node.site
                .archives("diffs")
                .into_iter()
                .for_each(|diff| fs::remove_file(diff).expect("removes"));
        }

        fs::write(node.path("rules"), "/bin\n/lib\n/lib64\n/rules\n").expect("writes");
        let rules = ["--exclude-file", "/rules", "--max-delete", "20%"];
        node.update(RunningKernel::First, &rules).ended(0, &["full sync", KEPT]);
        for path in files_of(&first).iter().chain(&files_of(&second)) {
            assert!(node.has(path), "{path}");
        }

        node.update(RunningKernel::First, &rules).ended(0, &["is up to date", KEPT]);
        node.update(RunningKernel::Second, &rules).ended(0, &["updated to node"]);
        let excludes = [&EQUIPMENT[..], &["/rules", "/proc"]].concat();
        judge::same(&node.site.image(), &node.site.node(), &excludes);
        assert!(!node.site.status().contains(KEPT));
    }
}

#[test]
fn offline_update_keeps_no_kernel_paths() {
    require!(NEEDED, Program("busybox"));

    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
    let node = Node::before_update(&tree_with_kernel(&first), &tree_with_kernel(&second));
    node.install_grub("set default=\"0\"");
    node.site.updated(&["--no-fallback", "--max-delete", "90%"]);

    assert_eq!(node.paths_beyond_grub(), [""; 0]);
    // Offline updates also remove kernel paths that an earlier run kept.
    let mut back = tree_with_kernel(&first);
    trees::put(&mut back, "etc/passwd", Item::file("newer"));
    node.site.publish(&back);

    node.update(RunningKernel::Second, &["--no-fallback", "--max-delete", "90%"]).ended(0, &[KEPT]);
    assert!(modules_of(&second).iter().all(|path| node.has(path)));

    node.site.updated(&[]);
    assert_eq!(node.paths_beyond_grub(), [""; 0]);
}

#[test]
fn kernel_published_again_is_tracked_again() {
    require!(NEEDED);

    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
    let node = Node::before_update(&tree_with_kernel(&first), &tree_with_kernel(&second));
    node.update(RunningKernel::First, &["--no-fallback"]).ended(0, &[KEPT]);

    let mut both = tree_with_kernel(&second);
    add_kernel(&mut both, &first);
    trees::put(&mut both, &format!("boot/vmlinuz-{first}"), Item::file("rebuilt"));
    node.site.publish(&both);

    node.update(RunningKernel::First, &["--no-fallback"]).ended(0, &["updated to node"]);
    assert_eq!(node.paths_beyond_image(), [""; 0]);
    assert!(!node.site.status().contains(KEPT));

    node.update(RunningKernel::Second, &[]).ended(0, &["is up to date"]);
    assert_eq!(node.paths_beyond_image(), [""; 0]);
}

#[test]
fn replaced_module_directory_removes_kernel_paths_with_warning() {
    require!(NEEDED);

    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
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
    let node = Node::before_update(&base, &target);
    let message = format!(
        "/usr/lib/modules/{first} belongs to the running kernel and is removed: its directory"
    );

    node.update(RunningKernel::First, &["--no-fallback"]).ended(0, &[&message, "becomes a link"]);
    assert_eq!(node.paths_beyond_image(), [""; 0]);
}

#[test]
fn rollback_restores_old_kernel_and_keeps_running_one() {
    require!(NEEDED, Program("busybox"));

    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
    let node = Node::before_update(&tree_with_kernel(&first), &tree_with_kernel(&second));
    node.install_grub("set default=\"0\"");
    let before = node.site.snapshot();
    let compare = |tree: &Path| {
        let excludes = [&EQUIPMENT[..], &["/proc", "/dev", "/boot/grub"]].concat();
        judge::same_except_untracked(tree, &node.site.node(), &excludes)
    };

    node.update(RunningKernel::First, &["--no-fallback"]).ended(0, &["updated to node"]);
    // Under the new kernel, a repair removes the old kernel; the undo set still has it.
    node.update(RunningKernel::Second, &[]).ended(0, &["updated to node"]);

    assert!(files_of(&first).iter().all(|path| !node.has(path)));
    node.rollback(RunningKernel::Second, &[]).ended(0, &["rolled back"]);
    let mut untracked = compare(&before);
    untracked.retain(|path| !path.ends_with('/'));
    untracked.sort();
    let mut expected = modules_of(&second);
    expected.sort();
    assert_eq!(untracked, expected);
    assert!(node.site.status().contains(KEPT));

    // After a boot of the old kernel, an update to a generation without the new kernel removes the
    // new kernel.
    let mut third = tree_with_kernel(&first);
    trees::put(&mut third, "etc/version", Item::file("three"));
    node.site.publish(&third);

    node.update(RunningKernel::First, &["--no-fallback"]).ended(0, &["updated to node"]);
    assert_eq!(node.paths_beyond_grub(), [""; 0]);
}

#[test]
fn kill_during_removal_of_kernel_paths_is_recovered() {
    require!(NEEDED, Program("strace"));

    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
    let node = Node::before_update(&tree_with_kernel(&first), &tree_with_kernel(&second));
    let before = node.site.snapshot();

    node.update(RunningKernel::First, &["--no-fallback"]).ended(0, &[KEPT]);
    let waiting = node.site.dir.path().join("waiting");
    crate::common::copy_tree(&node.site.node(), &waiting);
    for (call, at) in [("renameat2", 2), ("renameat2", 5), ("unlinkat", 12), ("fsync", 12)] {
        run(Command::new("rm").arg("-rf").arg(node.site.node()));
        crate::common::copy_tree(&waiting, &node.site.node());
        let command = node.command(RunningKernel::Second, &[]);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
        strace.args(["-e", &format!("inject={call}:signal=KILL:when={at}")]);
        strace.arg(command.get_program()).args(command.get_args());
        let killed = Run::from_output(strace.stdin(Stdio::null()).output().expect("strace runs"));

        node.update(RunningKernel::Second, &[]).ended(0, &[]);
        assert_eq!(node.paths_beyond_image(), [""; 0], "{call} {at}: {killed:#?}");

        node.rollback(RunningKernel::First, &[]).ended(0, &[]);
        judge::same(&before, &node.site.node(), &[&EQUIPMENT[..], &["/proc", "/dev"]].concat());
    }
}

/// A backup of the running kernel's files needs a slot that nothing else of the rollback uses.
#[test]
fn rollback_with_removals_backs_up_the_running_kernel() {
    require!(NEEDED, Program("busybox"));

    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
    // The path that gets the first slot is replaced in one case, and new in the other.
    for first_slot_is_restored in [true, false] {
        let mut base = tree_with_kernel(&first);
        let mut target = tree_with_kernel(&second);
        if first_slot_is_restored {
            trees::put(&mut base, "boot/a", Item::file("first"));
        }
        trees::put(&mut target, "boot/a", Item::file("second"));
        trees::put(&mut target, "etc/hostname", Item::file("edited"));
        let node = Node::before_update(&base, &target);
        node.install_grub("set default=\"0\"");
        node.update(RunningKernel::First, &["--no-fallback"]).ended(0, &["updated to node"]);

        let rollback = node.rollback(RunningKernel::Second, &[]);

        rollback.ended(0, &["rolled back"]);
        assert!(modules_of(&second).iter().all(|path| node.has(path)));
        let undo_log = read(&node.path(".si-undo/way-back"));
        for path in files_of(&second) {
            let backup = |line: &str| line.starts_with("stood ") && line.ends_with(&path);
            assert!(undo_log.lines().any(backup), "{path} has no backup:\n{undo_log}");
        }
    }
}

/// The way of a node that gets a new kernel, boots it, and is rolled back for good or not.
#[test]
fn node_boots_old_kernel_after_rollback_and_new_one_after_its_undo() {
    require!(NEEDED, Program("busybox"));

    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
    let node = Node::before_update(&tree_with_kernel(&first), &tree_with_kernel(&second));
    node.install_grub("set default=\"0\"");
    let before = node.site.snapshot();
    let excludes = [&EQUIPMENT[..], &["/proc", "/dev"]].concat();
    let [old_menu, new_menu] = [&first, &second].map(|release| [format!("vmlinuz-{release}")]);

    // The first kernel stays in the menu as a safety net, until the second one has booted.
    node.update(RunningKernel::First, &["--no-fallback"]).ended(0, &[KEPT]);
    assert_eq!(node.boot_menu(), [&new_menu[0], &old_menu[0]].map(String::clone));
    node.update(RunningKernel::Second, &[]).ended(0, &["updated to node"]);
    assert_eq!(node.boot_menu(), new_menu);

    // The rollback makes the changes that the dry run listed.
    let forecast = node.rollback(RunningKernel::Second, &["--dry-run"]);
    forecast.ended(0, &["would be pinned", &format!("/usr/lib/modules/{second}: {KEPT}")]);
    assert_eq!(forecast.out.matches(KEPT).count(), 1, "{forecast:#?}");
    for path in boot_files_of(&second) {
        assert!(forecast.out.contains(&format!("*deleting   /{path}\n")), "{forecast:#?}");
    }
    assert!(files_of(&second).iter().all(|path| node.has(path)));

    let rollback = node.rollback(RunningKernel::Second, &[]);
    rollback.ended(0, &["rolled back", "is pinned", "update-grub"]);
    assert_eq!(rollback.out.matches(KEPT).count(), 1, "{rollback:#?}");
    assert_eq!(node.boot_menu(), old_menu);
    assert!(modules_of(&second).iter().all(|path| node.has(path)));

    // The node is pinned. It removes the modules after the boot, and keeps its way forward.
    node.update(RunningKernel::Second, &[]).ended(12, &["--unhold", "nothing was installed"]);
    assert!(modules_of(&second).iter().all(|path| node.has(path)));
    node.update(RunningKernel::First, &[]).ended(12, &["removed", &second, "--unhold"]);
    judge::same(&before, &node.site.node(), &[&excludes[..], &["/boot/grub"]].concat());
    assert!(!node.site.status().contains(KEPT));
    let again = node.update(RunningKernel::First, &[]);
    again.ended(12, &["--unhold"]);
    assert!(!again.err.contains("removed"), "{again:#?}");

    let undo = node.rollback(RunningKernel::First, &[]);
    undo.ended(0, &["rolled back"]);
    assert_eq!(node.boot_menu(), [&new_menu[0], &old_menu[0]].map(String::clone));
    assert!(modules_of(&first).iter().all(|path| node.has(path)));
    node.update(RunningKernel::Second, &["--unhold"]).ended(0, &[]);
    assert_eq!(node.boot_menu(), new_menu);
    let mut untracked = node.paths_beyond_image();
    untracked.retain(|path| !path.starts_with("boot/grub"));
    assert_eq!(untracked, [""; 0]);
}

#[test]
fn image_published_backwards_boots_its_kernel() {
    require!(NEEDED, Program("busybox"));

    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
    let node = Node::before_update(&tree_with_kernel(&second), &tree_with_kernel(&first));
    node.install_grub("set default=\"0\"");

    node.update(RunningKernel::Second, &["--no-fallback"]).ended(0, &["updated to node", KEPT]);

    assert_eq!(node.boot_menu(), [format!("vmlinuz-{first}")]);
    assert!(modules_of(&second).iter().all(|path| node.has(path)));
    node.update(RunningKernel::First, &[]).ended(0, &["updated to node"]);
    let mut untracked = node.paths_beyond_image();
    untracked.retain(|path| !path.starts_with("boot/grub"));
    assert_eq!(untracked, [""; 0]);
}

#[test]
fn kept_kernel_files_are_no_changes_of_a_rollback() {
    require!(NEEDED);

    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
    let node = Node::before_update(&tree_with_kernel(&first), &tree_with_kernel(&second));
    let before = node.site.snapshot();
    node.update(RunningKernel::First, &["--no-fallback"]).ended(0, &[KEPT]);

    let forecast = node.rollback(RunningKernel::First, &["--dry-run"]);
    let rollback = node.rollback(RunningKernel::First, &[]);

    forecast.ended(0, &["would roll back"]);
    assert!(!forecast.out.contains(&first), "{forecast:#?}");
    rollback.ended(0, &["rolled back"]);
    judge::same(&before, &node.site.node(), &[&EQUIPMENT[..], &["/proc", "/dev"]].concat());
}

const SAVED_DEFAULT: &str = "set default=\"${saved_entry}\"";

/// Node that was rolled back under the newer kernel, of which the boot menu keeps an image that
/// nobody tracks. The result is the rollback.
fn node_with_untracked_image(default: &str, saved_entry: &str) -> (Node, Run) {
    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
    let node = Node::before_update(&tree_with_kernel(&first), &tree_with_kernel(&second));
    node.install_grub(default);
    trees::write_text(&node.path("boot/grub/grubenv"), saved_entry);
    node.update(RunningKernel::First, &["--no-fallback"]).ended(0, &["updated to node"]);
    trees::write_text(&node.path(&format!("boot/vmlinux-{second}")), "built here");

    let rollback = node.rollback(RunningKernel::Second, &[]);

    (node, rollback)
}

#[test]
fn kernel_that_stays_in_boot_menu_is_overruled_until_a_newer_one() {
    require!(NEEDED, Program("busybox"));

    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
    let wrong = format!("kernel {second} cannot be removed from the boot menu");
    for former in ["", "saved_entry=own"] {
        let (node, rollback) = node_with_untracked_image(SAVED_DEFAULT, former);
        rollback.ended(0, &[&wrong, &format!("/boot/vmlinux-{second}"), "is pinned"]);
        assert_eq!(node.grub_environment(), format!("saved_entry=linux-{first}"));
        assert!(node.has_recorded_default());

        // An update without a new kernel does not change the order of the menu.
        let mut third = tree_with_kernel(&first);
        trees::put(&mut third, "etc/version", Item::file("three"));
        node.site.publish(&third);
        node.update(RunningKernel::First, &["--no-fallback"]).ended(0, &["updated to node"]);
        assert_eq!(node.grub_environment(), format!("saved_entry=linux-{first}"));

        add_kernel(&mut third, "99.1-third");
        node.site.publish(&third);
        node.update(RunningKernel::First, &["--no-fallback"]).ended(0, &["is cleared"]);

        assert_eq!(node.boot_menu()[0], "vmlinuz-99.1-third");
        assert_eq!(node.grub_environment(), former);
        assert!(!node.has_recorded_default());
    }
}

#[test]
fn unhold_clears_default_entry() {
    require!(NEEDED, Program("busybox"));

    let (node, rollback) = node_with_untracked_image(SAVED_DEFAULT, "saved_entry=own");
    rollback.ended(0, &["default boot entry"]);

    node.update(RunningKernel::First, &["--unhold"]).ended(0, &["is cleared"]);

    assert_eq!(node.grub_environment(), "saved_entry=own");
    assert!(!node.has_recorded_default());
}

#[test]
fn default_entry_that_somebody_replaced_is_kept() {
    require!(NEEDED, Program("busybox"));

    let (node, rollback) = node_with_untracked_image(SAVED_DEFAULT, "");
    rollback.ended(0, &["default boot entry"]);
    trees::write_text(&node.path("boot/grub/grubenv"), "saved_entry=mine\n");

    node.update(RunningKernel::First, &["--unhold"]).ended(0, &["updated to node"]);

    assert_eq!(node.grub_environment(), "saved_entry=mine");
    assert!(!node.has_recorded_default());
}

#[test]
fn kernel_that_cannot_be_overruled_is_reported() {
    require!(NEEDED, Program("busybox"));

    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
    let (node, rollback) = node_with_untracked_image("set default=\"0\"", "");

    let message = format!("the next boot starts kernel {second}");
    rollback.ended(13, &[&message, &format!("not {first}"), "GRUB_DEFAULT=saved", "remove /boot"]);
    assert!(!rollback.out.contains("is pinned"), "{rollback:#?}");
    assert!(!node.has_recorded_default());
    assert_eq!(node.grub_environment(), "");

    let failing = node_with_untracked_image(SAVED_DEFAULT, "").0;
    failing.script("grub-set-default", "echo no room; exit 1");
    failing.update(RunningKernel::Second, &["--unhold"]).ended(0, &[]);
    let rollback = failing.rollback(RunningKernel::Second, &[]);
    rollback.ended(13, &[&message, "no room"]);
    assert!(!failing.has_recorded_default());
}

#[test]
fn pinned_node_repeats_boot_loader_tool() {
    require!(NEEDED, Program("busybox"));

    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
    let node = Node::before_update(&tree_with_kernel(&first), &tree_with_kernel(&second));
    node.install_grub("set default=\"0\"");
    node.update(RunningKernel::First, &["--no-fallback"]).ended(0, &["updated to node"]);
    node.script("update-grub", "echo broken; exit 1");
    node.rollback(RunningKernel::Second, &[]).ended(13, &["broken"]);

    node.update(RunningKernel::Second, &[]).ended(12, &["broken", "--unhold"]);
    node.install_grub("set default=\"0\"");
    node.update(RunningKernel::Second, &[]).ended(12, &["update-grub", "--unhold"]);

    assert_eq!(node.boot_menu(), [format!("vmlinuz-{first}")]);
    let again = node.update(RunningKernel::Second, &[]);
    again.ended(12, &["--unhold"]);
    assert!(!again.err.contains("update-grub"), "{again:#?}");
}

/// Until the boot loader's tool has run, the menu has no other kernel than the one that is left.
#[test]
fn node_can_be_booted_if_rollback_dies_before_the_boot_menu_is_written() {
    require!(NEEDED, Program("busybox"));

    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
    let node = Node::before_update(&tree_with_kernel(&first), &tree_with_kernel(&second));
    node.install_grub("set default=\"0\"");
    let update_grub = read(&node.path("bin/update-grub"));
    node.update(RunningKernel::First, &["--no-fallback"]).ended(0, &["updated to node"]);
    node.update(RunningKernel::Second, &[]).ended(0, &["updated to node"]);
    let menu_of_second = [format!("vmlinuz-{second}")];
    assert_eq!(node.boot_menu(), menu_of_second);

    // The first run of the tool adds the old kernel, the second one removes the new one.
    let second_run_dies = "if [ -e /survived ]; then kill -9 $PPID; exit 1; fi; : >/survived";
    for (death, menu) in [("kill -9 $PPID; exit 1", &menu_of_second[..]), (second_run_dies, &[])] {
        let updated = node.site.snapshot();
        node.script("update-grub", &format!("{death}\n{update_grub}"));
        let killed = node.rollback(RunningKernel::Second, &[]);

        assert!(node.can_boot(), "{:?} {killed:#?}", node.boot_menu());
        if !menu.is_empty() {
            assert_eq!(node.boot_menu(), menu);
        }

        // The next run, under the kernel that is still the first of the menu, finishes the work.
        node.install_grub("set default=\"0\"");
        node.update(RunningKernel::Second, &[]).ended(12, &["update-grub"]);
        assert_eq!(node.boot_menu(), [format!("vmlinuz-{first}")]);
        assert!(boot_files_of(&second).iter().all(|path| !node.has(path)));
        assert!(modules_of(&second).iter().all(|path| node.has(path)));
        run(Command::new("rm").arg("-rf").arg(node.site.node()));
        crate::common::copy_tree(&updated, &node.site.node());
    }
}

#[test]
fn boot_files_stay_if_no_boot_loader_tool_may_run() {
    require!(NEEDED, Program("busybox"));

    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
    let node = Node::before_update(&tree_with_kernel(&first), &tree_with_kernel(&second));
    node.install_grub("set default=\"0\"");
    node.update(RunningKernel::First, &["--no-fallback"]).ended(0, &["updated to node"]);
    node.update(RunningKernel::Second, &[]).ended(0, &["updated to node"]);

    let rollback = node.rollback(RunningKernel::Second, &["--no-bootloader"]);

    let warning = format!("the boot files of kernel {second} stay in /boot");
    rollback.ended(0, &["rolled back", &warning]);
    assert!(node.can_boot());
    node.update(RunningKernel::Second, &[]).ended(12, &["update-grub"]);
    assert_eq!(node.boot_menu(), [format!("vmlinuz-{first}")]);
}

#[test]
fn kernel_of_next_boot_is_verified_under_each_kernel() {
    require!(NEEDED, Program("busybox"));

    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
    let node = Node::before_update(&tree_with_kernel(&first), &tree_with_kernel(&second));
    node.install_grub(SAVED_DEFAULT);
    node.update(RunningKernel::First, &["--no-fallback"]).ended(0, &["updated to node"]);
    trees::write_text(&node.path(&format!("boot/vmlinux-{second}")), "built here");

    // The new kernel was not booted yet.
    let rollback = node.rollback(RunningKernel::First, &[]);

    let wrong = format!("kernel {second} cannot be removed from the boot menu");
    rollback.ended(0, &["rolled back", &wrong]);
    assert_eq!(node.grub_environment(), format!("saved_entry=linux-{first}"));
}

/// kernel-install removes the lists of a kernel's modules together with its boot entries.
#[test]
fn modules_of_running_kernel_can_be_loaded_after_rollback() {
    require!(NEEDED, Program("busybox"));

    let (first, second) = (RunningKernel::First.release(), RunningKernel::Second.release());
    let [base, target] = [&first, &second].map(|release| {
        let mut tree = tree_with_kernel(release);
        for path in boot_files_of(release) {
            tree.remove(path.as_bytes());
        }
        trees::put(&mut tree, "boot/loader/entries", Item::dir());
        let image = format!("usr/lib/modules/{release}/vmlinuz");
        trees::put(&mut tree, &image, Item::file("image"));
        tree
    });
    let node = Node::before_update(&base, &target);
    node.script(
        "kernel-install",
        "echo \"$*\" >>/kernel-install.log
        [ $1 = remove ] && rm -f /usr/lib/modules/$2/modules.dep; :",
    );
    node.script("depmod", "echo made again >/usr/lib/modules/$1/modules.dep");
    node.update(RunningKernel::First, &["--no-fallback"]).ended(0, &["updated to node"]);
    node.update(RunningKernel::Second, &[]).ended(0, &["updated to node"]);

    node.rollback(RunningKernel::Second, &[]).ended(0, &["depmod"]);

    let log = read(&node.path("kernel-install.log"));
    assert!(log.ends_with(&format!("remove {second}\n")), "{log}");
    assert!(!node.has(&format!("usr/lib/modules/{second}/vmlinuz")));
    let list = read(&node.path(&format!("usr/lib/modules/{second}/modules.dep")));
    assert_eq!(list, "made again\n");
    let old_list = read(&node.path(&format!("usr/lib/modules/{first}/modules.dep")));
    assert!(old_list.contains(&first), "{old_list}");
}
