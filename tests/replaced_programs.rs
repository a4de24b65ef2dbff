//! Replaced set-id programs and programs with capabilities lose them, also for a user who has the
//! old program open or has another link to it. A rollback sets them again.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::common::site::Site;
use crate::common::trees::{self, Item, ItemKind, Tree};
use crate::common::{ROOT_AND_RSYNC, judge, require};

const ANY: [&str; 2] = ["--max-delete", "100%"];

/// Programs at each kind of change, and one that stays.
fn programs() -> Tree {
    let ping = trees::everything()[&b"usr/bin/ping"[..]].clone();
    let setuid = |text: &str| Item::file(text).mode(0o4755);
    let mut tree = trees::system();
    trees::put(&mut tree, "usr/bin/replaced", setuid("one"));
    trees::put(&mut tree, "usr/bin/replaced-too", Item::file("one").mode(0o2755).owner(0, 5));
    trees::put(&mut tree, "usr/bin/ping", ping.clone());
    trees::put(&mut tree, "usr/bin/removed", setuid("gone"));
    trees::put(&mut tree, "opt/old/bin/removed-with-directory", ping);
    trees::put(&mut tree, "opt/changed/bin/removed-with-type", setuid("gone"));
    trees::put(&mut tree, "usr/bin/kept", setuid("two names"));
    trees::put(&mut tree, "usr/bin/a-name", Item::new(ItemKind::Link(b"usr/bin/kept".to_vec())));
    tree
}

fn without_programs() -> Tree {
    let mut tree = programs();
    tree.retain(|path, _| {
        !path.starts_with(b"opt/old")
            && !path.starts_with(b"opt/changed/")
            && path != b"usr/bin/removed"
    });
    trees::put(&mut tree, "usr/bin/replaced", Item::file("two"));
    trees::put(&mut tree, "usr/bin/replaced-too", Item::file("two").mode(0o2755).owner(0, 5));
    trees::put(&mut tree, "usr/bin/ping", Item::file("two"));
    trees::put(&mut tree, "usr/bin/a-name", Item::file("a file of its own"));
    trees::put(&mut tree, "opt/changed", Item::new(ItemKind::Symlink(b"old".to_vec())));
    tree
}

/// Mode bits and capability of an open program, or of a link to it.
fn privileges(path: &Path) -> (u32, bool) {
    let mode = fs::metadata(path).expect("is there").mode();
    let capability = rustix::fs::getxattr(path, "security.capability", &mut [0_u8; 64]);
    (mode & 0o6000, capability.is_ok())
}

#[test]
fn replaced_programs_lose_privileges_until_rollback() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&programs());
    site.publish(&without_programs());
    let (node, before) = (site.node(), site.snapshot());
    let old: Vec<File> = [
        "usr/bin/replaced",
        "usr/bin/replaced-too",
        "usr/bin/ping",
        "usr/bin/removed",
        "opt/old/bin/removed-with-directory",
        "opt/changed/bin/removed-with-type",
    ]
    .map(|path| File::open(node.join(path)).expect("opens"))
    .into();
    let are_harmless = |programs: &[File]| {
        programs.iter().all(|program| {
            let mode = program.metadata().expect("stat").mode();
            let capability = rustix::fs::fgetxattr(program, "security.capability", &mut [0_u8; 64]);
            mode & 0o6000 == 0 && capability.is_err()
        })
    };

    site.updated(&ANY);
    assert!(are_harmless(&old));
    assert_eq!(privileges(&node.join("usr/bin/kept")), (0o4000, false));
    site.same();
    let new = File::open(node.join("usr/bin/replaced-too")).expect("opens");

    site.rollback(&[]).ended(0, &["rolled back"]);
    judge::same(&before, &node, &[]);
    assert!(site.status().contains("deviations:  0"), "{}", site.status());
    assert!(are_harmless(&[new]), "the rollback replaced it");

    site.rollback(&[]).ended(0, &["rolled back"]);
    assert!(are_harmless(&old));
    site.same();
}

#[test]
fn update_without_undo_set_removes_privileges_too() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&programs());
    site.publish(&without_programs());
    let old = File::open(site.node().join("usr/bin/replaced")).expect("opens");

    let settings = site.node().join("etc/systemimager/updateclient.toml");
    trees::write_text(&settings, "keep_undo = \"never\"\n");

    site.updated(&ANY);

    assert_eq!(old.metadata().expect("stat").mode() & 0o7777, 0o755);
    assert!(!site.node().join(".si-undo").exists());
}

#[test]
fn untracked_link_of_replaced_program_is_reported() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&programs());
    site.publish(&without_programs());
    let node = site.node();
    let link = node.join("var/cache/link-of-a-user");
    fs::hard_link(node.join("usr/bin/replaced"), &link).expect("links");
    let inode = fs::metadata(&link).expect("stat").ino();

    let run = site.updated(&ANY);

    let search = format!("1 untracked links of its inode: find them with find -xdev -inum {inode}");
    assert!(run.err.contains(&search), "{run:#?}");
    assert_eq!(run.err.matches("set-id").count(), 1, "{run:#?}");
    assert_eq!(privileges(&link), (0, false));
}

#[test]
fn displaced_program_of_the_node_keeps_its_mode() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&programs());
    site.publish(&without_programs());
    let own = site.node().join("opt/changed/bin/own");
    trees::write_text(&own, "the node's");
    fs::set_permissions(&own, fs::Permissions::from_mode(0o4755)).expect("chmod");
    let open = File::open(&own).expect("opens");

    site.updated(&ANY).ended(0, &["displaced, kept in .si-undo"]);

    assert_eq!(open.metadata().expect("stat").mode() & 0o7777, 0o4755);
}
