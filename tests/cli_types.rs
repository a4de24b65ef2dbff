//! Every type of entry, and every other type that replaces it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{Mode, OFlags};

use crate::common::site::Site;
use crate::common::trees::{self, Generation, Item, ItemKind, Tree};
use crate::common::{ROOT_AND_RSYNC, require};

fn symlink(target: &str) -> Item {
    Item::new(ItemKind::Symlink(target.as_bytes().to_vec()))
}

/// Adds one of several forms of the directory `top`, with nested types and links between them.
fn shape(tree: &mut Tree, top: &str, number: usize) {
    let mut put = |path: &str, item: Item| trees::put(tree, &format!("{top}/{path}"), item);
    let link = |path: &str| Item::new(ItemKind::Link(format!("{top}/{path}").into_bytes()));
    put("keep", Item::file("is always here"));

    match number {
        0 => put("x/y/z", Item::file("plain")),
        1 => {
            put("w/y/z", Item::file("below the sibling"));
            put("x", symlink("w"));
        }
        2 => {
            put("w", Item::file("a file instead of a directory"));
            put("x", link("w"));
        }
        3 => {
            put("w/y/z", Item::file("linked"));
            put("x/y", symlink("../w/y"));
            put("x/z", link("w/y/z"));
        }
        4 => {
            put("w/y/z/deep/er", Item::file("deep"));
            put("x/y", link("w/y/z/deep/er"));
            put("x/z/y/x", link("w/y/z/deep/er"));
        }
        5 => {
            put("w", symlink("x"));
            put("x/y/z", Item::file("the other way round"));
            put("x/y/z2", link("keep"));
        }
        6 => {
            put("x", Item::new(ItemKind::Fifo));
            put("w", Item::dir().mode(0o2750).owner(1, 2));
        }
        _ => {}
    }
}

#[test]
fn nested_types_change_into_each_other() {
    require!(ROOT_AND_RSYNC);

    const SHAPES: usize = 8;
    let tree = |generation: Generation| {
        let mut tree = trees::system();
        for (from, to) in (0..SHAPES).flat_map(|from| (0..SHAPES).map(move |to| (from, to))) {
            shape(
                &mut tree,
                &format!("s/{from}-{to}"),
                if generation.is_second() { to } else { from },
            );
        }
        tree
    };
    let site = Site::at(&tree(Generation::First));

    for generation in [Generation::Second, Generation::First] {
        site.publish(&tree(generation));
        let check = if generation.is_second() { "touched" } else { "update" };
        site.updated(&["--no-fallback", "--max-delete", "100%", "--check", check]);
        site.same();
    }
}

#[test]
fn each_metadata_change_is_applied_alone() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::everything();
    let site = Site::at(&tree);
    let capability = tree[&b"usr/bin/ping"[..]].xattrs.clone();
    let acl = tree[&b"etc/acl"[..]].xattrs[0].1.clone();
    type Step<'a> = (&'a [u8], &'a dyn Fn(&mut Item));
    let steps: [Step; 14] = [
        (b"etc/dangling", &|item| item.owner = (7, 8)),
        (b"bin", &|item| item.mtime.1 += 1),
        (b"dev/big", &|item| item.kind = ItemKind::Char(4095, 3)),
        (b"dev/sda", &|item| item.kind = ItemKind::Block(8, 1)),
        (b"dev/zero", &|item| item.mode = 0o600),
        (b"run/pipe", &|item| item.owner = (3, 3)),
        (b"usr/bin/su", &|item| item.mode = 0o6755),
        (b"usr/bin/wall", &|item| item.xattrs = capability.clone()),
        (b"usr/bin/ping", &|item| item.xattrs.clear()),
        (b"etc/passwd", &|item| item.xattrs = vec![("system.posix_acl_access", acl.clone())]),
        (b"var/private", &|item| item.xattrs = vec![("system.posix_acl_default", acl.clone())]),
        (b"etc/shadow", &|item| item.owner.1 = 43),
        (b"etc/before-1970", &|item| item.mtime = (-7_000_000_000, 999_999_999)),
        (b"usr/lib/a", &|item| item.owner = (1001, 100)),
    ];
    for (path, change) in steps {
        change(tree.get_mut(path).unwrap_or_else(|| panic!("{path:?}")));
    }

    // The mode of a file with an ACL is the mask of the ACL.
    tree.get_mut(&b"etc/passwd"[..]).expect("is there").mode = 0o640;
    site.publish(&tree);
    site.updated(&["--no-fallback"]);

    site.same();
    site.updated(&["--check", "content"]).ended(0, &["up to date"]);
}

#[test]
fn sparse_files_stay_sparse() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    trees::put(
        &mut tree,
        "var/lib/a",
        Item::new(ItemKind::File { hole: 8 << 20, data: b"end".to_vec() }),
    );
    let site = Site::at(&tree);
    trees::put(
        &mut tree,
        "var/lib/a",
        Item::new(ItemKind::File { hole: 8 << 20, data: b"END".to_vec() }),
    );
    trees::put(
        &mut tree,
        "var/lib/b",
        Item::new(ItemKind::File { hole: 9 << 20, data: trees::noise(5000, 1) }),
    );
    trees::put(
        &mut tree,
        "var/lib/only-hole",
        Item::new(ItemKind::File { hole: 3 << 20, data: Vec::new() }),
    );
    site.publish(&tree);

    site.updated(&["--no-fallback"]);
    site.same();

    for path in ["var/lib/a", "var/lib/b", "var/lib/only-hole"] {
        let blocks = fs::metadata(site.node().join(path)).expect("is there").blocks();
        assert!(blocks <= 64, "{path} takes {blocks} blocks");
    }
}

#[test]
fn excluded_path_keeps_directory_and_refuses_type_change() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    for path in ["srv/a/data", "srv/a/deep/data", "srv/b/data", "srv/b/deep/data"] {
        trees::put(&mut tree, path, Item::file("data"));
    }
    let site = Site::at(&tree);
    let rules = site.dir.path().join("rules");
    fs::write(&rules, "/srv/*/deep/own\n").expect("writes");
    let rules = rules.display().to_string();
    for at in ["srv/a/deep/own", "srv/b/deep/own"] {
        trees::write_text(&site.node().join(at), "the node's own");
    }
    tree.retain(|path, _| !path.starts_with(b"srv/a"));

    site.publish(&tree);
    site.updated(&["--exclude-file", &rules, "--no-fallback"])
        .ended(0, &["srv/a/deep: kept", "srv/a: kept"]);
    assert_eq!(
        fs::read_to_string(site.node().join("srv/a/deep/own")).expect("reads"),
        "the node's own"
    );
    assert!(!site.node().join("srv/a/data").exists());

    for item in [symlink("../etc"), Item::file("a file")] {
        tree.retain(|path, _| !path.starts_with(b"srv/b"));
        trees::put(&mut tree, "srv/b", item);
        site.publish(&tree);
        site.refused(
            &["--exclude-file", &rules, "--no-fallback"],
            5,
            &["/srv/b/deep/own is excluded", "nothing was"],
        );
    }

    fs::remove_file(site.node().join("srv/b/deep/own")).expect("removes");
    site.updated(&["--exclude-file", &rules, "--no-fallback"]);

    crate::common::judge::same(
        &site.image(),
        &site.node(),
        &["/srv/*/deep/own", "/srv/a/deep/", "/srv/a/"],
    );
}

/// Runs `chattr` on a path below a node, and clears the flag on drop.
struct Attribute(std::path::PathBuf, &'static str);

impl Attribute {
    fn set(path: std::path::PathBuf, flag: &'static str) -> Self {
        crate::common::run(Command::new("chattr").arg(format!("+{flag}")).arg(&path));
        Attribute(path, flag)
    }
}

impl Drop for Attribute {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg(format!("-{}", self.1)).arg(&self.0).output();
    }
}

#[test]
fn immutable_path_is_refused_before_seal() {
    require!(ROOT_AND_RSYNC, Program("chattr"));

    let mut tree = trees::system();
    for path in ["srv/removed/f", "srv/converted/f", "srv/kept/f"] {
        trees::put(&mut tree, path, Item::file("data"));
    }
    let site = Site::at(&tree);
    let refused = |change: &dyn Fn(&mut Tree), path: &str, flag: &'static str, named: &str| {
        let mut next = tree.clone();
        change(&mut next);
        site.publish(&next);
        let attribute = Attribute::set(site.node().join(path), flag);
        site.refused(&["--no-fallback"], 5, &[named, "chattr", "nothing was changed"]);
        drop(attribute);
    };
    let remove = |tree: &mut Tree| tree.retain(|path, _| !path.starts_with(b"srv/removed"));
    let turns = |tree: &mut Tree| {
        tree.retain(|path, _| !path.starts_with(b"srv/converted"));
        trees::put(tree, "srv/converted", symlink("kept"));
    };
    let edits = |tree: &mut Tree| trees::put(tree, "etc/passwd", Item::file("another"));
    let time = |tree: &mut Tree| tree.get_mut(&b"etc/passwd"[..]).expect("is there").mtime.0 += 1;
    let mode = |tree: &mut Tree| tree.get_mut(&b"srv/kept"[..]).expect("is there").mode = 0o700;
    refused(&edits, "etc/passwd", "i", "/etc/passwd changes, but");
    refused(&edits, "etc/passwd", "a", "/etc/passwd changes, but");
    refused(&edits, "etc", "i", "/etc change, but it is");
    refused(&time, "etc/passwd", "i", "/etc/passwd changes, but");
    refused(&remove, "srv/removed/f", "i", "/srv/removed/f changes, but");
    refused(&remove, "srv/removed", "i", "/srv/removed ");
    refused(&remove, "srv", "i", "/srv change, but it is");
    refused(&turns, "srv/converted/f", "i", "/srv/converted/f is immutable");
    refused(&turns, "srv/converted", "i", "/srv/converted changes, but");
    refused(&mode, "srv/kept", "i", "/srv/kept changes, but");

    // An immutable path without changes is no obstacle, and its time is no reason to refuse.
    let _file = Attribute::set(site.node().join("usr/bin/tool"), "i");
    trees::write_text(&site.node().join("srv/kept/local"), "moves the time of its directory");
    let _directory = Attribute::set(site.node().join("srv/kept"), "i");
    let mut next = tree.clone();
    edits(&mut next);
    site.publish(&next);
    site.updated(&["--no-fallback"]);
    let left =
        crate::common::judge::same_except_untracked(&site.image(), &site.node(), &["/srv/kept/"]);

    assert!(left.is_empty(), "{left:?}");
}

/// Writes a file with a path of 4,095 bytes below `top`, through descriptors, because one call
/// cannot reach it.
fn write_far_down(top: &Path, first: &str, text: &str) -> Vec<u8> {
    let open = |dir: std::os::fd::BorrowedFd, name: &[u8]| -> OwnedFd {
        let _ = rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755));
        rustix::fs::openat(dir, name, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
            .expect("opens")
    };
    let mut at =
        open(rustix::fs::CWD.as_fd(), std::os::unix::ffi::OsStrExt::as_bytes(top.as_os_str()));
    at = open(at.as_fd(), first.as_bytes());
    let mut path = first.as_bytes().to_vec();

    while path.len() + 1 + 240 < 4095 - 1 {
        let name = [b"\xffd\n".as_slice(), &[b'n'; 237]].concat();
        at = open(at.as_fd(), &name);
        path = [&path[..], b"/", &name].concat();
    }

    let name = vec![b'f'; 4095 - 1 - path.len()];
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC;
    let file =
        rustix::fs::openat(&at, &name[..], flags, Mode::from_raw_mode(0o644)).expect("creates");
    rustix::io::write(&file, text.as_bytes()).expect("writes");

    [&path[..], b"/", &name].concat()
}

/// Digest of a directory as GNU tar archives it; rsync cannot reach as deep.
fn tar_of(top: &Path, name: &str) -> String {
    let mut tar = Command::new("sh");
    tar.args([
        "-c",
        "tar --sort=name --format=posix --pax-option=delete=atime,delete=ctime \
         -C \"$1\" -cf - \"$2\" | sha256sum",
        "sh",
    ]);
    crate::common::run(tar.arg(top).arg(name))
}

#[test]
fn longest_paths_are_installed_changed_and_removed() {
    require!(ROOT_AND_RSYNC, Program("tar"));

    let site = Site::at(&trees::system());
    let far = "far-down";

    for text in ["one", "two"] {
        assert_eq!(write_far_down(&site.image(), far, text).len(), 4095);
        trees::write_text(&site.image().join("etc/round"), text);
        site.publish_image(&[]);
        site.updated(&["--no-fallback", "--max-delete", "100%"]);
        assert_eq!(tar_of(&site.image(), far), tar_of(&site.node(), far));
    }

    // The whole subtree moves with its directory, to a longer path.
    fs::remove_dir_all(site.image().join(far)).expect("removes");
    write_far_down(&site.image(), "a", "three");

    for number in 0..20 {
        trees::write_text(
            &site.image().join(format!("0-{number}")),
            "takes a slot before the others",
        );
    }

    site.publish_image(&[]);
    site.update(&["--no-fallback", "--max-delete", "100%"])
        .ended(5, &["too long to be staged", "nothing was changed"]);
    site.nothing_left();

    for number in 0..20 {
        fs::remove_file(site.image().join(format!("0-{number}"))).expect("removes");
    }
    site.publish_image(&[]);
    site.updated(&["--no-fallback", "--max-delete", "100%"]);

    assert_eq!(tar_of(&site.image(), "a"), tar_of(&site.node(), "a"));

    fs::remove_dir_all(site.image().join("a")).expect("removes");
    std::os::unix::fs::symlink("etc", site.image().join("a")).expect("links");

    for number in 0..20 {
        trees::write_text(
            &site.image().join(format!("0-{number}")),
            "takes a slot before the others",
        );
    }

    site.publish_image(&[]);
    site.updated(&["--no-fallback", "--max-delete", "100%"]);

    site.same();
}
