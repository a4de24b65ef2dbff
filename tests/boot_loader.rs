//! Files that a boot loader without journal replay reads after an update.
//!
//! The freeze of the boot flush must never outlast its process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::disk::{self, Disk};
use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item, Tree, noise};
use crate::common::{Need, judge, require, run, updateclient};

const NEEDED: [Need; 6] = [
    Need::Root,
    Need::LoopDevice,
    Need::Program("rsync"),
    Need::Program("strace"),
    Need::Program("mkfs.xfs"),
    Need::Program("grub-fstest"),
];

fn generation(number: u64) -> Tree {
    let mut tree = trees::system();
    trees::put(&mut tree, "etc/issue", Item::file(format!("{number}")));
    trees::put(&mut tree, &format!("boot/vmlinuz-{number}"), Item::file(noise(3_000_000, number)));
    trees::put(&mut tree, "boot/grub/grub.cfg", Item::file(format!("linux /vmlinuz-{number}\n")));
    tree
}

/// A node at generation 1, with a filesystem of this kind at `at`.
fn site_with(kind: &str, at: &str) -> (Site, Disk) {
    let site = Site::new();
    site.publish(&generation(1));
    let disk = Disk::new(kind, site.dir.path().join("disk"), &site.node().join(at));
    run(Command::new("cp").arg("-aT").args([site.image(), site.node()]));
    site.updated(&["--adopt"]);
    (site, disk)
}

/// Reads a file as grub does from the mounted disk, without the journal.
///
/// The result is empty if grub finds no file.
fn read_by_grub(disk: &Disk, path: &str) -> Vec<u8> {
    let copy = disk.image.with_extension("copy");
    run(Command::new("cp").arg("--sparse=always").args([&disk.image, &copy]));
    Command::new("grub-fstest")
        .arg(&copy)
        .args(["cat", path])
        .output()
        .expect("grub-fstest runs")
        .stdout
}

/// Updates a node to generation 2, and asserts that grub reads the new boot files.
///
/// The filesystem of this kind is mounted at `at`.
#[track_caller]
fn grub_reads_updated_files(kind: &str, at: &str) -> (Site, Disk) {
    let (site, disk) = site_with(kind, at);
    site.publish(&generation(2));

    site.updated(&["--no-fallback"]).ended(0, &["updated"]);

    for path in ["boot/vmlinuz-2", "boot/grub/grub.cfg"] {
        let path_on_disk = path.strip_prefix(at).expect("a path below the mount point");
        let found = read_by_grub(&disk, &format!("/{}", path_on_disk.trim_start_matches('/')));
        assert!(
            found == fs::read(site.image().join(path)).expect("reads"),
            "{path}: {} bytes",
            found.len()
        );
    }

    (site, disk)
}

/// The command under strace, with a log and `options`.
fn traced(command: &Command, log: &Path, options: &[&str]) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=ioctl", "-o"]).arg(log).args(options);
    strace.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    strace
}

/// Updates the node; returns the index of the thaw among the ioctls of the process, or 0.
fn thawing_ioctl(site: &Site) -> usize {
    let log = site.dir.path().join("log");
    run(&mut traced(&site.command(), &log, &[]));
    let text = fs::read_to_string(&log).expect("a log");
    let Some(first) = text.lines().find(|line| line.contains("FITHAW")) else { return 0 };
    let process = first.split(' ').next().expect("a process id");
    let calls: Vec<&str> = text.lines().filter(|line| line.starts_with(process)).collect();
    let thaw = calls.iter().position(|line| line.contains("FITHAW")).expect("a thaw");

    assert!(calls[thaw - 1].contains("FIFREEZE"), "{text}");
    thaw + 1
}

#[test]
fn boot_partition_on_xfs_is_readable_without_log() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let (site, disk) = grub_reads_updated_files("xfs", "boot");

    // Control experiment: this reader does not find a file that was only synced.
    let control = site.node().join("boot/control");
    fs::write(&control, noise(100_000, 3)).expect("writes");
    run(Command::new("sync").arg("-f").arg(&control));

    assert_eq!(
        read_by_grub(&disk, "/control").len(),
        0,
        "grub finds a file after a sync alone, so this test proves nothing"
    );
}

#[test]
fn root_on_xfs_is_readable_without_log() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    grub_reads_updated_files("xfs", "");
}

#[test]
fn boot_partition_on_ext4_is_readable_without_journal() {
    require!(NEEDED, Program("mkfs.ext4"));

    disk::enter_mount_namespace();
    grub_reads_updated_files("ext4", "boot");
}

#[test]
fn foreign_or_unchanged_boot_is_not_frozen() {
    require!(NEEDED);

    disk::enter_mount_namespace();

    // A plain directory, and a bind mount of one.
    let site = Site::at(&generation(1));
    site.publish(&generation(2));

    assert_eq!(thawing_ioctl(&site), 0);

    let boot = site.node().join("boot");
    let bound = disk::Mounted::bind(&boot, &boot);
    site.publish(&generation(3));

    assert_eq!(thawing_ioctl(&site), 0);
    site.updated(&[]).ended(0, &["up to date"]);

    drop(bound);

    // An update that does not change the kernel.
    let (site, _disk) = site_with("xfs", "boot");
    let mut tree = generation(1);
    trees::put(&mut tree, "etc/issue", Item::file("newer"));

    site.publish(&tree);
    assert_eq!(thawing_ioctl(&site), 0);

    site.publish(&generation(2));
    assert!(thawing_ioctl(&site) > 0);
}

/// A process that writes a file, and blocks if the filesystem is frozen.
struct Writer(Child);

impl Writer {
    fn new(file: &Path) -> Self {
        Writer(Command::new("touch").arg(file).spawn().expect("touch runs"))
    }

    /// Checks if the process ends within this time.
    fn ends_within(&mut self, time: Duration) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < time {
            if self.0.try_wait().expect("waits").is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

/// Thaws on drop, so that a failed test leaves no blocked process.
struct ThawOnDrop(PathBuf);

impl Drop for ThawOnDrop {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.0).output();
    }
}

/// A node whose next update freezes the filesystem of `/boot`.
struct FreezingNode {
    // Dropped first: a frozen filesystem cannot be unmounted.
    _thaw: ThawOnDrop,
    _disk: Disk,
    site: Site,
    /// Index of the thaw among the ioctls of the update.
    thaw_index: usize,
}

impl FreezingNode {
    fn new() -> Self {
        let (site, disk) = site_with("xfs", "boot");
        let boot = site.node().join("boot");
        fs::write(boot.join("written"), "").expect("writes");
        site.publish(&generation(2));
        let thaw_index = thawing_ioctl(&site);
        site.publish(&generation(1));

        FreezingNode { _thaw: ThawOnDrop(boot), _disk: disk, site, thaw_index }
    }

    /// The update under strace, with an injection.
    fn update_with(&self, injection: &str) -> Command {
        traced(&self.site.command(), &self.log(), &["-e", injection])
    }

    fn log(&self) -> PathBuf {
        self.site.dir.path().join("injection-log")
    }

    /// Starts a process that writes below `/boot`.
    fn writer(&self) -> Writer {
        Writer::new(&self.site.node().join("boot/written"))
    }

    /// Asserts that the node equals its image, except for the file of the writer.
    #[track_caller]
    fn is_updated(&self) {
        let untracked = judge::same_except_untracked(
            &self.site.image(),
            &self.site.node(),
            &[".si-stage", ".si-undo"],
        );
        assert_eq!(untracked, ["boot/written"]);
    }
}

#[test]
fn killed_boot_flush_leaves_filesystem_thawed() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let node = FreezingNode::new();
    let injection = format!("inject=ioctl:signal=KILL:when={}", node.thaw_index);

    let killed = Run::from_output(node.update_with(&injection).output().expect("strace runs"));

    assert_eq!(killed.code, -1, "{killed:#?}");

    let text = fs::read_to_string(node.log()).expect("a log");
    assert!(text.lines().any(|line| line.contains("FIFREEZE") && line.ends_with("= 0")), "{text}");
    assert!(node.writer().ends_within(Duration::from_secs(20)), "the writer is blocked: {text}");

    let mut recover = Command::new(updateclient());
    recover.arg("--recover").arg("--root").arg(node.site.node());

    Run::from_output(recover.output().expect("runs")).ended(0, &["completing an update"]);

    node.is_updated();
}

#[test]
fn stopped_process_does_not_keep_filesystem_frozen() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let node = FreezingNode::new();

    // Unlike a kill, a stop lets the call return: the call before the thaw.
    let injection = format!("inject=ioctl:signal=STOP:when={}", node.thaw_index - 1);

    let mut strace = node.update_with(&injection).spawn().expect("strace runs");

    let begin = Instant::now();
    let mut writer = loop {
        assert!(begin.elapsed() < Duration::from_secs(30), "the filesystem is never frozen");
        let mut writer = node.writer();
        if !writer.ends_within(Duration::from_secs(2)) {
            break writer;
        }
    };

    assert!(writer.ends_within(Duration::from_secs(30)), "the writer is blocked");

    let children = format!("/proc/{0}/task/{0}/children", strace.id());
    let stopped = fs::read_to_string(children).expect("a child");
    let child = stopped.split_whitespace().next().and_then(|pid| pid.parse().ok());
    let child = child.and_then(rustix::process::Pid::from_raw).expect("a child");
    rustix::process::kill_process(child, rustix::process::Signal::CONT).expect("is stopped");

    assert!(strace.wait().expect("ends").success());

    node.is_updated();
}
