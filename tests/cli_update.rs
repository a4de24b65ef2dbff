//! An update from the command line, from one generation to the next.

mod common;

use std::os::unix::fs::MetadataExt;

use common::site::Site;
use common::trees::{self, Item, ItemKind, Tree};
use common::{ROOT_AND_RSYNC, judge, require};

/// Two generations with everything, the first one recorded on the node.
fn followed() -> (Site, Tree) {
    let site = Site::new().with_rsync();
    let tree = trees::mutate(&trees::everything(), 0);
    site.publish(&tree);
    site.install_node();
    site.updated(&["--adopt"]);
    (site, tree)
}

fn edited(tree: &Tree, path: &[u8], text: &str) -> Tree {
    let mut tree = tree.clone();
    tree.insert(path.to_vec(), Item::file(text));
    tree
}

#[test]
fn every_kind_of_entry_and_of_change_through_five_generations() {
    require!(ROOT_AND_RSYNC);

    let (site, mut tree) = followed();
    for round in 1..6 {
        tree = trees::mutate(&tree, round);
        site.publish(&tree);
        site.updated(&["--no-fallback", "--max-delete", "100%"]);
        site.same();
        site.updated(&[]).ended(0, &["up to date"]);
    }
}

#[test]
fn a_second_run_asks_once_and_touches_nothing() {
    require!(ROOT_AND_RSYNC);

    let (mut site, tree) = followed();
    let server = common::fault_server::FaultServer::serve(&site.repo());
    site.repo_url = server.url();
    site.publish(&edited(&tree, b"etc/new", "new"));
    site.updated(&[]);
    server.calm();
    let state = site.node().join("var/lib/systemimager/client/state.toml");
    let before = std::fs::metadata(&state).expect("a state").ino();
    site.updated(&[]).ended(0, &["up to date"]);
    let seen = server.seen();
    assert_eq!(
        seen.iter().map(|s| (s.path.as_str(), s.status)).collect::<Vec<_>>(),
        [("/node/catalog.toml", 304)]
    );
    assert_eq!(std::fs::metadata(&state).expect("a state").ino(), before);
}

#[test]
fn an_untracked_file_stays_also_where_its_directory_goes() {
    require!(ROOT_AND_RSYNC);

    let (site, mut tree) = followed();
    tree.insert(b"srv/app/data".to_vec(), Item::file("data"));
    tree.insert(b"srv/app".to_vec(), Item::dir());
    tree.insert(b"srv".to_vec(), Item::dir());
    site.publish(&tree);
    site.updated(&[]);
    std::fs::write(site.node().join("srv/app/local"), "mine").expect("writes");
    tree.remove(&b"srv/app/data"[..]);
    tree.remove(&b"srv/app"[..]);
    site.publish(&tree);
    site.updated(&["--no-fallback"]).ended(0, &["srv/app: kept"]);
    assert_eq!(std::fs::read_to_string(site.node().join("srv/app/local")).expect("reads"), "mine");
    assert!(site.status().contains("./srv/app: kept"));
    let left = judge::same_except_untracked(&site.image(), &site.node(), &[]);
    assert!(left.iter().all(|path| path.starts_with("srv/app")), "{left:?}");
    // Once it is empty, the next update takes it away.
    std::fs::remove_file(site.node().join("srv/app/local")).expect("removes");
    site.publish(&edited(&tree, b"etc/more", "more"));
    site.updated(&["--no-fallback"]);
    site.same();
}

#[test]
fn untracked_paths_are_counted_and_purged_only_when_asked() {
    require!(ROOT_AND_RSYNC);

    let (site, tree) = followed();
    std::fs::create_dir_all(site.node().join("home/me/deep")).expect("makes");
    std::fs::write(site.node().join("home/me/deep/file"), "mine").expect("writes");
    site.publish(&edited(&tree, b"etc/new", "new"));
    site.updated(&[]).ended(0, &["1 untracked"]);
    assert!(site.node().join("home/me/deep/file").exists());
    assert!(site.status().contains("untracked:   1"));
    site.update(&["--purge-untracked", "--max-delete", "2"]).ended(9, &["--max-delete"]);
    site.update(&["--purge-untracked", "--max-delete", "2", "--dry-run"])
        .ended(9, &["*deleting   /home/me/deep/file"]);
    assert!(site.node().join("home/me/deep/file").exists());
    site.updated(&["--purge-untracked", "--max-delete", "100%"]);
    site.same();
}

#[test]
fn drift_is_repaired_or_reported() {
    require!(ROOT_AND_RSYNC);

    let (site, tree) = followed();
    let passwd = site.node().join("etc/passwd");
    std::fs::write(&passwd, "tampered").expect("writes");
    // The catalog alone says that nothing is to be done.
    site.publish(&edited(&tree, b"etc/new", "new"));
    site.update(&["--drift", "report"]).ended(10, &["etc/passwd", "content"]);
    assert_eq!(std::fs::read_to_string(&passwd).expect("reads"), "tampered");
    assert!(site.status().contains("./etc/passwd"));
    site.updated(&[]).ended(0, &["up to date"]);
    site.updated(&["--check", "stat"]).ended(0, &["repaired: /etc/passwd"]);
    site.same();
    assert!(site.status().contains("deviations:  0"));
}

#[test]
fn only_a_content_check_sees_an_edit_that_kept_size_and_time() {
    require!(ROOT_AND_RSYNC);

    let (site, _) = followed();
    let passwd = site.node().join("etc/passwd");
    let old = std::fs::metadata(&passwd).expect("is there");
    let text = std::fs::read(&passwd).expect("reads");
    std::fs::write(&passwd, vec![b'x'; text.len()]).expect("writes");
    let time = old.modified().expect("a time");
    std::fs::File::options()
        .write(true)
        .open(&passwd)
        .and_then(|f| f.set_modified(time))
        .expect("sets the time");
    site.updated(&["--check", "stat"]).ended(0, &["up to date"]);
    site.updated(&["--check", "content"]).ended(0, &["repaired: /etc/passwd: content"]);
    site.same();
}

#[test]
fn a_time_that_alone_changes_is_set_in_place() {
    require!(ROOT_AND_RSYNC);

    let (site, tree) = followed();
    let before = std::fs::metadata(site.node().join("etc/passwd")).expect("is there").ino();
    let mut next = tree.clone();
    let item = next.get_mut(&b"etc/passwd"[..]).expect("is there");
    item.mtime = (1_700_000_000, 5);
    site.publish(&next);
    site.updated(&["--no-fallback"]);
    site.same();
    assert_eq!(std::fs::metadata(site.node().join("etc/passwd")).expect("is there").ino(), before);
}

#[test]
fn a_directory_becomes_a_symlink_and_back_while_its_children_change() {
    require!(ROOT_AND_RSYNC);

    let (site, mut tree) = followed();
    let split = |tree: &mut Tree, text: &str| {
        tree.insert(b"merge".to_vec(), Item::dir());
        tree.insert(b"merge/usr".to_vec(), Item::dir());
        tree.insert(b"merge/usr/bin".to_vec(), Item::dir());
        tree.insert(b"merge/usr/bin/b".to_vec(), Item::file("b"));
        tree.insert(b"merge/bin".to_vec(), Item::dir());
        tree.insert(b"merge/bin/a".to_vec(), Item::file(text));
    };
    split(&mut tree, "a");
    site.publish(&tree);
    site.updated(&[]);
    let mut merged = tree.clone();
    merged.remove(&b"merge/bin/a"[..]);
    merged.insert(b"merge/bin".to_vec(), Item::new(ItemKind::Symlink(b"usr/bin".to_vec())));
    merged.insert(b"merge/usr/bin/a".to_vec(), Item::file("a, changed"));
    std::fs::write(site.node().join("merge/bin/local"), "mine\n").expect("writes");
    site.publish(&merged);
    site.updated(&["--no-fallback"])
        .ended(0, &["kept in .si-undo until the next update: /merge/bin/local"]);
    judge::same(&site.image(), &site.node(), &[]);
    let undo = site.node().join(".si-undo");
    let kept = common::run(std::process::Command::new("grep").args(["-rl", "^mine$"]).arg(&undo));
    assert!(kept.trim_end().ends_with("/local"), "{kept}");
    assert_eq!(
        std::fs::read_to_string(undo.join("displaced")).expect("a list"),
        "./merge/bin/local\n"
    );
    site.updated(&["--check", "stat"]);
    assert!(undo.join("displaced").exists(), "a run without changes keeps it");
    split(&mut tree, "a again");
    site.publish(&tree);
    site.updated(&["--no-fallback"]);
    site.same();
}

#[test]
fn a_backup_by_hardlinks_keeps_its_bytes_and_metadata() {
    require!(ROOT_AND_RSYNC);

    let (site, tree) = followed();
    let node = site.node();
    common::run(
        std::process::Command::new("cp").arg("-al").arg(node.join("etc")).arg(node.join("backup")),
    );
    let before = std::fs::read(node.join("backup/passwd")).expect("reads");
    let meta = std::fs::metadata(node.join("backup/passwd")).expect("is there");
    let mut next = edited(&tree, b"etc/passwd", "another text");
    next.get_mut(&b"etc/empty"[..]).expect("is there").mtime = (1_700_000_000, 5);
    let empty = std::fs::metadata(node.join("backup/empty")).expect("is there");
    site.publish(&next);
    site.updated(&["--no-fallback"]);
    assert_eq!(std::fs::read(node.join("backup/passwd")).expect("reads"), before);
    let after = std::fs::metadata(node.join("backup/passwd")).expect("is there");
    assert_eq!((after.mtime(), after.mode(), after.uid()), (meta.mtime(), meta.mode(), meta.uid()));
    assert_eq!(
        std::fs::metadata(node.join("backup/empty")).expect("is there").mtime(),
        empty.mtime()
    );
    let left = judge::same_except_untracked(&site.image(), &node, &[]);
    assert!(left.iter().all(|path| path.starts_with("backup")), "{left:?}");
}

#[test]
fn a_dry_run_tells_all_and_changes_nothing() {
    require!(ROOT_AND_RSYNC);

    let (site, tree) = followed();
    site.publish(&edited(&tree, b"etc/gone", "gone"));
    site.updated(&[]);
    let mut next = edited(&tree, b"etc/passwd", "another text");
    next.insert(b"etc/fresh".to_vec(), Item::file("fresh"));
    let image_before = site.dir.path().join("before");
    common::copy_tree(&site.node(), &image_before);
    site.publish(&next);
    let run = site.updated(&["--dry-run"]);
    run.ended(
        0,
        &[
            "following one diff",
            ">fcs....... /etc/passwd",
            ">f+++++++++ /etc/fresh",
            "*deleting   /etc/gone",
        ],
    );
    judge::same(&image_before, &site.node(), &[]);
    let json = site.updated(&["--dry-run", "--json"]);
    assert!(
        json.out.lines().all(|line| line.starts_with('{') && line.ends_with('}')),
        "{}",
        json.out
    );
    assert!(json.out.contains("\"path\":\"/etc/fresh\""));
}

#[test]
fn there_and_back_and_there_again() {
    require!(ROOT_AND_RSYNC);

    let (site, tree) = followed();
    let other = edited(&tree, b"etc/passwd", "another text");
    for (serial, tree) in [(2, &other), (3, &tree), (4, &other)] {
        site.publish(tree);
        site.updated(&["--no-fallback"]).ended(0, &[&format!("serial {serial}")]);
        site.same();
    }
}

#[test]
fn what_is_excluded_is_neither_changed_nor_deleted() {
    require!(ROOT_AND_RSYNC);

    let (site, tree) = followed();
    let rules = site.dir.path().join("rules");
    std::fs::write(&rules, "/etc/passwd\n/srv/\n*.log\n").expect("writes");
    let rules = rules.display().to_string();
    let node = site.node();
    std::fs::create_dir_all(node.join("srv/x")).expect("makes");
    std::fs::write(node.join("etc/passwd"), "the node's own").expect("writes");
    std::fs::write(node.join("etc/a.log"), "the node's own").expect("writes");
    let mut next = edited(&tree, b"etc/passwd", "the image's");
    next.insert(b"etc/b.log".to_vec(), Item::file("the image's"));
    next.insert(b"etc/fresh".to_vec(), Item::file("fresh"));
    site.publish(&next);
    site.updated(&["--exclude-file", &rules, "--purge-untracked"]);
    assert_eq!(std::fs::read_to_string(node.join("etc/passwd")).expect("reads"), "the node's own");
    assert!(
        node.join("srv/x").exists()
            && node.join("etc/a.log").exists()
            && !node.join("etc/b.log").exists()
    );
    judge::same(&site.image(), &node, &["/etc/passwd", "/srv/", "*.log"]);
    // What the rules no longer cover comes from the repository.
    site.updated(&["--purge-untracked"]);
    site.same();
}
