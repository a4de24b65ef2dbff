//! Times of directories in which the agent makes its own files.
//!
//! They must be the image's times, or the times before the run.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::disk::{self, Disk};
use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item, Tree};
use crate::common::{Need, judge, require, rounds};

const NEEDED: [Need; 3] = [Need::Root, Need::Program("rsync"), Need::Program("strace")];

fn time(path: &Path) -> (i64, i64) {
    let meta = fs::metadata(path).expect("is there");
    (meta.mtime(), meta.mtime_nsec())
}

fn generations() -> [Tree; 2] {
    let mut one = trees::system();
    one.insert(Vec::new(), Item::dir().mtime(1_111_111_111, 11));
    trees::put(&mut one, "etc/systemimager", Item::dir().mtime(1_222_222_222, 22));
    trees::put(&mut one, "usr/share/doc/old", Item::file("old"));
    let mut two = one.clone();
    two.remove(b"usr/share/doc/old".as_slice());
    trees::put(&mut two, "usr/share/doc/new", Item::file("new"));
    two.insert(Vec::new(), Item::dir().mtime(1_333_333_333, 33));
    [one, two]
}

#[test]
fn directory_times_match_image_after_each_run() {
    require!(NEEDED);

    disk::enter_mount_namespace();
    let [one, two] = generations();
    let site = Site::at(&one);
    let usr = site.dir.path().join("usr");
    fs::rename(site.node().join("usr"), &usr).expect("moves");
    let _disk = Disk::new("ext4", site.dir.path().join("disk"), &site.node().join("usr"));
    fs::remove_dir(site.node().join("usr/lost+found")).expect("removes");
    crate::common::run(
        Command::new("cp").arg("-a").arg(usr.join(".")).arg(site.node().join("usr/")),
    );
    fs::remove_dir_all(usr).expect("removes");
    crate::common::run(Command::new("touch").arg("-r").arg(site.image()).arg(site.node()));
    site.publish(&two);
    let places = ["", "usr", "etc/systemimager"];
    let are = |tree: &Path| places.map(|place| time(&tree.join(place)));
    let before = site.snapshot();

    site.updated(&["--no-fallback", "--max-delete", "100%"]);
    assert_eq!(are(&site.node()), are(&site.image()));
    site.rollback(&[]).ended(0, &[]);
    assert_eq!(are(&site.node()), are(&before));
    judge::same(&before, &site.node(), &[]);
    site.rollback(&[]).ended(0, &[]);
    assert_eq!(are(&site.node()), are(&site.image()));
    site.same();
}

#[test]
fn kill_at_any_step_leaves_times_of_one_generation() {
    require!(NEEDED);

    let [one, two] = generations();
    let site = Site::at(&one);
    site.publish(&two);
    let before = site.snapshot();
    crate::common::run(Command::new("touch").arg("-r").arg(&before).arg(site.node()));
    let (old, new) = (time(&before), time(&site.image()));
    let mut ends = [0, 0];

    for call in ["mkdirat", "renameat", "renameat2", "unlinkat", "utimensat"] {
        let most = rounds("SI_STEPS", 6) as u32;
        for nth in (1..).take(10 * most as usize).step_by(if call == "unlinkat" { 5 } else { 1 }) {
            let _ = fs::remove_dir_all(site.node());
            crate::common::copy_tree(&before, &site.node());
            site.updated(&["--adopt"]);
            crate::common::run(Command::new("touch").arg("-r").arg(&before).arg(site.node()));
            let mut strace = Command::new("strace");
            strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
            strace.args(["-e", &format!("inject={call}:signal=KILL:when={nth}")]);
            let update = site.command();
            strace.arg(update.get_program()).args(update.get_args()).args([
                "--no-fallback",
                "--max-delete",
                "100%",
            ]);
            let killed =
                !strace.stdin(Stdio::null()).output().expect("strace runs").status.success();
            let mut recover = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));

            let recover =
                recover.arg("--recover").arg("--root").arg(site.node()).output().expect("runs");
            Run::from_output(recover).ended(0, &[]);

            let done = site.node().join("usr/share/doc/new").exists();
            ends[usize::from(done)] += 1;

            assert_eq!(time(&site.node()), if done { new } else { old }, "{call} {nth}");

            if !killed {
                break;
            }
        }
    }

    assert!(ends[0] > 5 && ends[1] > 5, "{ends:?}");
}
