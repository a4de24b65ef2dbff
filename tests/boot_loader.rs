//! What a boot loader that does not replay journals reads after an update, and that the freeze which sees
//! to that never outlives its process.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::disk::{self, Disk};
use common::site::{Run, Site};
use common::trees::{self, Item, Tree, noise};
use common::{Need, judge, require, run};

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

/// What the boot loader's own code reads from the disk as it is, mounted, with what the log holds left
/// aside; nothing where it finds nothing.
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

#[track_caller]
fn is_bootable(site: &Site, disk: &Disk, at: &str, number: u64) {
    for path in [format!("boot/vmlinuz-{number}"), "boot/grub/grub.cfg".to_owned()] {
        let inside = path.strip_prefix(at).expect("is there");
        let seen = read_by_grub(disk, &format!("/{}", inside.trim_start_matches('/')));
        assert!(
            seen == fs::read(site.image().join(&path)).expect("reads"),
            "{path}: {} bytes",
            seen.len()
        );
    }
}

/// The command under strace, which logs and injects as `options` say.
fn traced(command: &Command, log: &Path, options: &[&str]) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=ioctl", "-o"]).arg(log).args(options);
    strace.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    strace
}

/// Updates the node; the place among its process's ioctls at which it thaws, or 0.
fn thawing_ioctl(site: &Site) -> usize {
    let log = site.dir.path().join("log");
    run(&mut traced(&site.command(), &log, &[]));
    let text = fs::read_to_string(&log).expect("a log");
    let Some(first) = text.lines().find(|line| line.contains("FITHAW")) else { return 0 };
    let process = first.split(' ').next().expect("its number");
    let own: Vec<&str> = text.lines().filter(|line| line.starts_with(process)).collect();
    let at = own.iter().position(|line| line.contains("FITHAW")).expect("was found");
    assert!(own[at - 1].contains("FIFREEZE"), "{text}");
    at + 1
}

#[test]
fn a_boot_partition_on_xfs_is_read_without_its_log() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let (site, disk) = site_with("xfs", "boot");
    site.publish(&generation(2));
    site.updated(&["--no-fallback"]).ended(0, &["updated"]);
    is_bootable(&site, &disk, "boot", 2);
    // this reader would have noticed: what is merely synced, it does not find
    let control = site.node().join("boot/control");
    fs::write(&control, noise(100_000, 3)).expect("writes");
    run(Command::new("sync").arg("-f").arg(&control));
    assert_eq!(
        read_by_grub(&disk, "/control").len(),
        0,
        "sync alone is enough here: this test shows nothing"
    );
}

#[test]
fn a_root_on_xfs_is_read_without_its_log() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let (site, disk) = site_with("xfs", "");
    site.publish(&generation(2));
    site.updated(&["--no-fallback"]).ended(0, &["updated"]);
    is_bootable(&site, &disk, "", 2);
}

#[test]
fn a_boot_partition_on_ext4_is_read_without_its_journal() {
    require!(NEEDED, Program("mkfs.ext4"));

    disk::enter_mount_namespace();
    let (site, disk) = site_with("ext4", "boot");
    site.publish(&generation(2));
    site.updated(&["--no-fallback"]).ended(0, &["updated"]);
    is_bootable(&site, &disk, "boot", 2);
}

#[test]
fn nothing_is_frozen_that_is_not_the_trees_own_or_that_did_not_change() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    // a plain directory, and a bind mount of one
    let site = Site::at(&generation(1));
    site.publish(&generation(2));
    assert_eq!(thawing_ioctl(&site), 0);
    let boot = site.node().join("boot");
    let bound = disk::Mounted::bind(&boot, &boot);
    site.publish(&generation(3));
    assert_eq!(thawing_ioctl(&site), 0);
    site.updated(&[]).ended(0, &["up to date"]);
    drop(bound);
    // a kernel that stays
    let (site, _disk) = site_with("xfs", "boot");
    let mut tree = generation(1);
    trees::put(&mut tree, "etc/issue", Item::file("newer"));
    site.publish(&tree);
    assert_eq!(thawing_ioctl(&site), 0);
    site.publish(&generation(2));
    assert!(thawing_ioctl(&site) > 0);
}

/// Someone who writes a file, and hangs where that is frozen.
struct Writer(Child);

impl Writer {
    fn new(file: &Path) -> Self {
        Writer(Command::new("touch").arg(file).spawn().expect("touch runs"))
    }

    /// Whether it ends within this time.
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

/// Thaws, so that a failed test leaves nothing that hangs.
struct Thawed<'a>(&'a Path);

impl Drop for Thawed<'_> {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(self.0).output();
    }
}

#[test]
fn a_kill_while_it_is_frozen_leaves_it_thawed() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let (site, _disk) = site_with("xfs", "boot");
    let boot = site.node().join("boot");
    fs::write(boot.join("written"), "").expect("writes");
    site.publish(&generation(2));
    let nth = thawing_ioctl(&site);
    site.publish(&generation(1));
    let _thawed = Thawed(&boot);
    let log = site.dir.path().join("log");
    let kill = format!("inject=ioctl:signal=KILL:when={nth}");
    let killed = Run::from_output(
        traced(&site.command(), &log, &["-e", &kill]).output().expect("strace runs"),
    );
    assert_eq!(killed.code, -1, "{killed:#?}");
    let text = fs::read_to_string(&log).expect("a log");
    assert!(text.lines().any(|line| line.contains("FIFREEZE") && line.ends_with("= 0")), "{text}");
    assert!(
        Writer::new(&boot.join("written")).ends_within(Duration::from_secs(20)),
        "it hangs: {text}"
    );
    let mut recover = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    Run::from_output(
        recover.arg("--recover").arg("--root").arg(site.node()).output().expect("runs"),
    )
    .ended(0, &["finishing an update"]);
    let untracked =
        judge::same_except_untracked(&site.image(), &site.node(), &[".si-stage", ".si-undo"]);
    assert_eq!(untracked, ["boot/written"]);
}

#[test]
fn a_process_that_stops_while_it_is_frozen_does_not_hold_it_for_long() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let (site, _disk) = site_with("xfs", "boot");
    let boot = site.node().join("boot");
    fs::write(boot.join("written"), "").expect("writes");
    site.publish(&generation(2));
    let nth = thawing_ioctl(&site);
    site.publish(&generation(1));
    let _thawed = Thawed(&boot);
    let log = site.dir.path().join("log-of-the-stop");
    // unlike a kill, this lets the call return: the one before the thaw
    let stop = format!("inject=ioctl:signal=STOP:when={}", nth - 1);
    let mut strace = traced(&site.command(), &log, &["-e", &stop]).spawn().expect("strace runs");
    let begin = Instant::now();
    let mut writer = loop {
        assert!(begin.elapsed() < Duration::from_secs(30), "it is never frozen");
        let mut writer = Writer::new(&boot.join("written"));
        if !writer.ends_within(Duration::from_secs(2)) {
            break writer;
        }
    };
    assert!(writer.ends_within(Duration::from_secs(30)), "it hangs");
    let children = format!("/proc/{0}/task/{0}/children", strace.id());
    let stopped = fs::read_to_string(children).expect("a child");
    run(Command::new("kill").arg("-CONT").arg(stopped.split_whitespace().next().expect("a child")));
    assert!(strace.wait().expect("ends").success());
    let untracked =
        judge::same_except_untracked(&site.image(), &site.node(), &[".si-stage", ".si-undo"]);
    assert_eq!(untracked, ["boot/written"]);
}
