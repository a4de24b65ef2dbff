//! A node whose update was interrupted after its seal, at a known step.

use std::path::Path;
use std::process::{Command, Stdio};

use super::site::{Run, Site};
use super::trees::{self, Generation, Item, ItemKind, Tree};
use super::{Need, judge, read};

/// Needs of a test that interrupts an update.
pub const STRACE: [Need; 3] = [Need::Root, Need::Program("rsync"), Need::Program("strace")];

/// A small system in its first or second generation. The agent in it is not a real program.
pub fn tree(generation: Generation) -> Tree {
    let second = generation.is_second();
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
        trees::put(&mut tree, "opt/app", Item::new(ItemKind::Symlink(b"../usr/lib/app".to_vec())));
        trees::put(&mut tree, "usr/lib/app/one.py", Item::file("one"));
    } else {
        trees::put(&mut tree, "srv/emptied/file", Item::file("goes"));
        trees::put(&mut tree, "opt/app/file", Item::file("goes"));
    }

    tree
}

/// A node with the first generation, and a publish of the second one.
#[track_caller]
pub fn behind() -> Site {
    let site = Site::at(&tree(Generation::First));
    site.publish(&tree(Generation::Second));
    site
}

/// A node whose update from the first generation to the second was interrupted.
#[track_caller]
pub fn interrupted_site() -> Site {
    let site = behind();
    interrupt_node(&site);
    site
}

/// Runs `command`, which updates the tree at `node`, and kills it in the middle of the roll
/// forward.
#[track_caller]
pub fn interrupt(node: &Path, command: &Command) {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat2"]);

    // A new path is installed by a rename that replaces nothing. Before the second rename of that
    // kind, the run makes other changes.
    strace.args(["-e", "inject=renameat2:signal=KILL:when=2"]);
    strace.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    let run = Run::from_output(strace.output().expect("strace runs"));

    assert!(
        node.join(".si-stage/journal").exists(),
        "it was not interrupted after its seal: {run:#?}"
    );
}

/// Interrupts the update of a node that is one generation behind.
#[track_caller]
pub fn interrupt_node(site: &Site) {
    interrupt(&site.node(), &site.command());
    let left = judge::differences(&site.image(), &site.node(), &[]);
    assert!(
        left.iter().any(|line| line.contains("usr/bin/tool")),
        "nothing is left to do: {left:#?}"
    );
    assert_eq!(read(&site.node().join("etc/version")), "2", "nothing was done: {left:#?}");
}
