//! An update that was interrupted after its seal is finished first, by whatever runs first: the unit, the
//! initramfs, or the next run of the agent, whichever it is.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::site::{Run, Site};
use common::trees::{self, Item, Tree, What};
use common::{Need, judge, needs};

const NEEDED: [Need; 3] = [Need::Root, Need::Program("rsync"), Need::Program("strace")];

/// A small system in its first or second generation; what is called the agent is a program in neither.
fn tree(second: bool) -> Tree {
    let mut tree = trees::system();
    for (path, one, two) in [
        ("etc/version", "1", "2"),
        ("usr/bin/tool", "a tool", "a better tool"),
        ("usr/sbin/si_updateclient", "no program", "no program either"),
    ] {
        trees::put(&mut tree, path, Item::file(if second { two } else { one }));
    }
    for dir in ["proc", "dev", "srv/emptied", "opt/app", "root"] {
        trees::put(&mut tree, dir, Item::dir());
    }
    if second {
        trees::put(&mut tree, "etc/a-new/file", Item::file("new"));
        trees::put(&mut tree, "usr/b-new/file", Item::file("new"));
        trees::put(&mut tree, "opt/app", Item::new(What::Symlink(b"../usr/lib/app".to_vec())));
        trees::put(&mut tree, "usr/lib/app/one.py", Item::file("one"));
    } else {
        trees::put(&mut tree, "srv/emptied/file", Item::file("goes"));
        trees::put(&mut tree, "opt/app/file", Item::file("goes"));
    }
    tree
}

/// A node at the first generation, and the second one published.
fn behind() -> Site {
    let site = Site::at(&tree(false));
    site.publish(&tree(true));
    site
}

/// Runs `command` and kills it in the middle of what follows the seal.
#[track_caller]
fn interrupt(node: &Path, command: &Command) {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat2"]);
    // a new path comes by a rename that replaces nothing: before the second of them other changes are made
    strace.args(["-e", "inject=renameat2:signal=KILL:when=2"]);
    strace.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    let run = Run::of(strace.output().expect("strace runs"));
    assert!(node.join(".si-stage/journal").exists(), "it was not interrupted after its seal: {run:#?}");
}

/// A node whose update to the second generation was interrupted after its seal.
#[track_caller]
fn interrupted() -> Site {
    let site = behind();
    interrupt(&site.node(), &site.command());
    let left = judge::differences(&site.image(), &site.node(), &[]);
    assert!(left.iter().any(|line| line.contains("usr/bin/tool")), "nothing is left to do: {left:#?}");
    assert_eq!(read(&site.node().join("etc/version")), "2", "nothing was done: {left:#?}");
    site
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Runs `program` as `--recover --root NODE`.
fn recovered_by(program: &Path, site: &Site) -> Run {
    let mut command = Command::new(program);
    Run::of(command.arg("--recover").arg("--root").arg(site.node()).output().expect("it runs"))
}

#[test]
fn the_agent_that_sealed_lies_beside_the_journal_and_finishes() {
    if !needs(&NEEDED) {
        return;
    }
    let site = interrupted();
    let agent = site.node().join(".si-stage/agent");
    let (found, running) = (fs::metadata(&agent).expect("it is kept"), env!("CARGO_BIN_EXE_si_updateclient"));
    // on one filesystem it costs a name and no bytes
    assert_eq!(found.ino(), fs::metadata(running).expect("is there").ino());
    assert_eq!(fs::metadata(site.node().join(".si-stage")).expect("is there").mode() & 0o7777, 0o700);
    recovered_by(&agent, &site).ended(0, &["finishing an update that was interrupted"]);
    site.same();
    assert_eq!(read(&site.node().join("usr/sbin/si_updateclient")), "no program either");
}

#[test]
fn an_agent_from_another_filesystem_is_copied() {
    if !needs(&[&NEEDED[..], &[Need::Program("mount")]].concat()) {
        return;
    }
    let site = behind();
    // a mount is what a hardlink cannot leave; the place where a symlink was planted is not followed
    let sentinel = site.dir.path().join("sentinel");
    fs::write(&sentinel, "untouched").expect("writes");
    fs::create_dir(site.node().join(".si-stage")).expect("makes");
    std::os::unix::fs::symlink(&sentinel, site.node().join(".si-stage/agent")).expect("links");
    let client = site.command();
    let mut elsewhere = Command::new("unshare");
    let script = "mount --bind \"$1\" \"$1\" && shift && exec \"$@\"";
    elsewhere.args(["--mount", "sh", "-c", script, "sh"]).arg(site.node());
    elsewhere.arg(client.get_program()).args(client.get_args());
    interrupt(&site.node(), &elsewhere);
    let agent = site.node().join(".si-stage/agent");
    let (found, running) = (fs::symlink_metadata(&agent).expect("it is kept"), env!("CARGO_BIN_EXE_si_updateclient"));
    assert!(found.is_file());
    assert_eq!(found.mode() & 0o7777, 0o700);
    assert_ne!(found.ino(), fs::metadata(running).expect("is there").ino());
    assert!(fs::read(&agent).expect("reads") == fs::read(running).expect("reads"), "it is another program");
    assert_eq!(read(&sentinel), "untouched");
    recovered_by(&agent, &site).ended(0, &[]);
    site.same();
}
