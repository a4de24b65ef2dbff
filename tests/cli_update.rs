//! An update from the command line, from one generation to the next.

use std::os::unix::fs::MetadataExt;

use crate::common::site::Site;
use crate::common::trees::{self, Item, ItemKind, Tree};
use crate::common::{ROOT_AND_RSYNC, judge, require};

/// A node with the first of two generations that have every kind of entry.
fn recorded_node() -> (Site, Tree) {
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
fn five_generations_apply_every_kind_of_change() {
    require!(ROOT_AND_RSYNC);

    let (site, mut tree) = recorded_node();
    for round in 1..6 {
        tree = trees::mutate(&tree, round);
        site.publish(&tree);
        site.updated(&["--no-fallback", "--max-delete", "100%"]);
        site.same();
        site.updated(&[]).ended(0, &["up to date"]);
    }
}

/// A tree with three files in xz, and one in zstd, of a generation.
fn with_compressed_files(tree: &Tree, generation: u32) -> Tree {
    let mut tree = tree.clone();
    for (name, program) in [("a.xz", "xz"), ("b.xz", "xz"), ("c.xz", "xz"), ("d.zst", "zstd")] {
        let lines = (0..20_000u32).map(|n| format!("{name} {}\n", n.wrapping_mul(2_654_435_761)));
        let text: String = lines.chain([format!("generation {generation}\n")]).rev().collect();
        let mut child = std::process::Command::new(program)
            .arg("-c")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut input = child.stdin.take().expect("a pipe");
        let writer = std::thread::spawn(move || {
            std::io::Write::write_all(&mut input, text.as_bytes()).expect("it reads")
        });
        let output = child.wait_with_output().expect("it ends");
        writer.join().expect("written");
        tree.insert(format!("usr/{name}").into_bytes(), Item::file(output.stdout));
    }
    tree
}

#[test]
fn compressed_files_are_rebuilt_from_their_old_versions() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new().with_rsync();
    let tree = trees::mutate(&trees::everything(), 0);
    site.publish(&with_compressed_files(&tree, 1));
    site.install_node();
    site.updated(&["--adopt"]);
    site.publish(&with_compressed_files(&tree, 2));
    let needs = "needs = [\"xz-replay-1\", \"zstd-replay-1\"]";
    assert!(site.catalog_text().contains(needs), "{}", site.catalog_text());

    let run = site.updated(&["--no-fallback", "--rebuild-jobs", "2"]);

    run.ended(0, &["recompressing 4 files", "with 2 at a time"]);
    site.same();
}

#[test]
fn compressed_file_whose_old_version_drifted_is_fetched_whole() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new().with_rsync();
    let tree = trees::mutate(&trees::everything(), 0);
    site.publish(&with_compressed_files(&tree, 1));
    site.install_node();
    site.updated(&["--adopt"]);
    site.publish(&with_compressed_files(&tree, 2));
    let file = site.node().join("usr/b.xz");
    let mut bytes = std::fs::read(&file).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&file, bytes).expect("written");

    let run = site.updated(&[]);

    run.ended(0, &["by digest"]);
    site.same();
}

#[test]
fn second_run_sends_one_request_and_changes_nothing() {
    require!(ROOT_AND_RSYNC);

    let (mut site, tree) = recorded_node();
    let server = crate::common::fault_server::FaultServer::serve(&site.repo());
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
        [("/node/head.toml", 304)]
    );
    assert_eq!(std::fs::metadata(&state).expect("a state").ino(), before);
}

#[test]
fn untracked_file_keeps_its_removed_directory() {
    require!(ROOT_AND_RSYNC);

    let (site, mut tree) = recorded_node();
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
    assert!(site.status().contains("/srv/app: kept"));

    let left = judge::same_except_untracked(&site.image(), &site.node(), &[]);
    assert!(left.iter().all(|path| path.starts_with("srv/app")), "{left:?}");

    // When it is empty, the next update removes it.
    std::fs::remove_file(site.node().join("srv/app/local")).expect("removes");
    site.publish(&edited(&tree, b"etc/more", "more"));
    site.updated(&["--no-fallback"]);

    site.same();
}

#[test]
fn untracked_paths_are_purged_only_on_request() {
    require!(ROOT_AND_RSYNC);

    let (site, tree) = recorded_node();
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

    let (site, tree) = recorded_node();
    let passwd = site.node().join("etc/passwd");
    std::fs::write(&passwd, "tampered").expect("writes");

    // The catalog alone shows that nothing is to be done.
    site.publish(&edited(&tree, b"etc/new", "new"));
    site.update(&["--drift", "report"]).ended(10, &["etc/passwd", "content"]);
    assert_eq!(std::fs::read_to_string(&passwd).expect("reads"), "tampered");
    assert!(site.status().contains("/etc/passwd"));
    site.updated(&[]).ended(0, &["up to date"]);
    site.updated(&["--check", "stat"]).ended(0, &["repaired: /etc/passwd"]);
    site.same();
    assert!(site.status().contains("deviations:  0"));
}

#[test]
fn edit_with_same_size_and_time_needs_content_check() {
    require!(ROOT_AND_RSYNC);

    let (site, _) = recorded_node();
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
fn changed_time_alone_is_set_in_place() {
    require!(ROOT_AND_RSYNC);

    let (site, tree) = recorded_node();
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
fn directory_becomes_symlink_and_back() {
    require!(ROOT_AND_RSYNC);

    let (site, mut tree) = recorded_node();
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
    let kept =
        crate::common::run(std::process::Command::new("grep").args(["-rl", "^mine$"]).arg(&undo));

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
fn hardlinked_backup_keeps_content_and_metadata() {
    require!(ROOT_AND_RSYNC);

    let (site, tree) = recorded_node();
    let node = site.node();
    crate::common::run(
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
fn dry_run_reports_all_and_changes_nothing() {
    require!(ROOT_AND_RSYNC);

    let (site, tree) = recorded_node();
    site.publish(&edited(&tree, b"etc/gone", "gone"));
    site.updated(&[]);
    let mut next = edited(&tree, b"etc/passwd", "another text");
    next.insert(b"etc/fresh".to_vec(), Item::file("fresh"));
    let image_before = site.dir.path().join("before");
    crate::common::copy_tree(&site.node(), &image_before);
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
fn generations_that_alternate_are_followed() {
    require!(ROOT_AND_RSYNC);

    let (site, tree) = recorded_node();
    let other = edited(&tree, b"etc/passwd", "another text");

    for (serial, tree) in [(2, &other), (3, &tree), (4, &other)] {
        site.publish(tree);
        site.updated(&["--no-fallback"]).ended(0, &[&format!("serial {serial}")]);
        site.same();
    }
}

#[test]
fn excluded_paths_are_not_changed() {
    require!(ROOT_AND_RSYNC);

    let (site, tree) = recorded_node();
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

    // Content of paths that are no longer excluded is fetched from the repository.
    site.updated(&["--purge-untracked"]);
    site.same();
}
