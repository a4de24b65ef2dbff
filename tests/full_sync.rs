//! Full syncs from the repository alone: any state of a tree becomes the published generation.
//!
//! No site here has an rsync daemon, unless the test is about it. The judge compares each result.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::common::fault_server::{Fault, FaultServer};
use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item, Tree, noise};
use crate::common::{ROOT_AND_RSYNC, judge, require, wait_until};

/// Tree of `count` files of 20,000 bytes that no compression makes smaller, and a few small ones.
fn tree(count: u64) -> Tree {
    let mut tree = Tree::from([(Vec::new(), Item::dir())]);
    for directory in ["etc", "usr", "usr/lib"] {
        tree.insert(directory.into(), Item::dir());
    }
    for number in 0..count {
        let path = format!("usr/lib/file-{number:03}");
        tree.insert(path.into_bytes(), Item::file(noise(20_000, number + 1)).owner(7, 7));
    }
    for number in 0..20 {
        tree.insert(format!("etc/{number}").into_bytes(), Item::file(format!("setting {number}")));
    }
    tree
}

/// A site whose repository is on a web server, and whose node has the image without a record.
struct WebSite {
    site: Site,
    server: FaultServer,
}

impl WebSite {
    fn new(tree: &Tree) -> Self {
        WebSite::of(Site::new(), tree)
    }

    fn of(mut site: Site, tree: &Tree) -> Self {
        site.publish(tree);
        site.install_node();
        let server = FaultServer::serve(&site.repo());
        site.repo_url = server.url();
        WebSite { site, server }
    }

    /// A file of the node.
    fn file(&self, path: &str) -> PathBuf {
        self.site.node().join(path)
    }

    /// Makes the node so different from the image that it resembles no generation.
    fn make_foreign(&self) {
        for number in 0..20 {
            fs::write(self.file(&format!("etc/{number}")), "another text").expect("writes");
        }
        for number in 0..200 {
            fs::write(self.file(&format!("other-{number}")), "of another image").expect("writes");
        }
    }

    fn sync(&self, more: &[&str]) -> Run {
        self.site.update(&[&["--max-delete", "1000"], more].concat())
    }

    #[track_caller]
    fn synced(&self, more: &[&str]) -> Run {
        let run = self.sync(more);
        run.ended(0, &["full sync"]);
        self.site.same();
        run
    }

    /// URL path of the only full archive.
    fn full_archive(&self) -> String {
        let archive = self.site.archives("full").remove(0);
        let path = archive.strip_prefix(self.site.repo()).expect("a file of the repository");
        format!("/{}", path.display())
    }

    /// Bytes of ranges of archives that the server sent.
    fn sent_frames(&self) -> u64 {
        let seen = self.server.seen();
        let frames = seen.iter().filter(|seen| seen.path.contains("/full/"));
        frames.map(|seen| seen.sent).sum()
    }
}

/// Turns one bit at a place of a file and keeps its mtime.
fn damage(path: &Path) {
    let before = fs::metadata(path).expect("a file");
    let mut bytes = fs::read(path).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("writes");
    let time = before.modified().expect("a time");
    fs::File::options().write(true).open(path).expect("opens").set_modified(time).expect("sets");
}

#[test]
fn empty_tree_is_filled_over_http_with_one_full_archive() {
    require!(ROOT_AND_RSYNC);

    let web = WebSite::new(&trees::mutate(&trees::everything(), 0));
    fs::remove_dir_all(web.site.node()).expect("removes");
    fs::create_dir(web.site.node()).expect("makes");

    web.synced(&[]);

    let full = fs::metadata(&web.site.archives("full")[0]).expect("an archive").size();
    let sent = web.sent_frames();
    assert!(sent <= full, "{sent} of {full}");
}

#[test]
fn empty_tree_is_filled_from_each_kind_of_repository() {
    require!(ROOT_AND_RSYNC);

    for is_daemon in [false, true] {
        let site = if is_daemon { Site::new().with_rsync_repository() } else { Site::new() };
        site.publish(&tree(10));
        fs::create_dir(site.node()).expect("makes");
        if is_daemon {
            // The repository has all contents, so that the module of the image is not needed.
            fs::rename(site.image(), site.dir.path().join("away")).expect("renames");
        }

        site.updated(&["--max-delete", "1000"]).ended(0, &["full sync"]);

        if is_daemon {
            fs::rename(site.dir.path().join("away"), site.image()).expect("renames");
        }
        site.same();
    }
}

#[test]
fn damaged_files_are_repaired_by_their_frames_alone() {
    require!(ROOT_AND_RSYNC);

    let web = WebSite::new(&tree(300));
    web.make_foreign();
    let mut damaged = 0;
    for number in (0..300).filter(|number| number % 10 < 3) {
        let path = web.file(&format!("usr/lib/file-{number:03}"));
        damaged += fs::metadata(&path).expect("a file").size();
        damage(&path);
    }

    let forecast = web.sync(&["--dry-run"]);
    forecast.ended(0, &["full sync", "more to fetch for 110 contents by digest"]);
    let head = web.sent_frames();
    assert!(head < 20_000, "a dry run fetched {head} bytes of archives");
    web.synced(&[]);

    // Noise is stored as it is. The frames hold some neighbours of each damaged file.
    let sent = web.sent_frames();
    assert!(damaged < sent && sent < damaged * 35 / 10, "{sent} for {damaged}");
}

#[test]
fn renamed_files_are_found_in_tree() {
    require!(ROOT_AND_RSYNC);

    let web = WebSite::new(&tree(100));
    web.make_foreign();
    fs::create_dir(web.file("moved")).expect("makes");
    for number in 0..50 {
        let name = format!("file-{number:03}");
        fs::rename(web.file("usr/lib").join(&name), web.file("moved").join(format!("{name}.old")))
            .expect("renames");
    }
    // Two files that are each other's content.
    let (one, two) = (web.file("usr/lib/file-060"), web.file("usr/lib/file-061"));
    let third = web.file("third");
    fs::rename(&one, &third).and_then(|()| fs::rename(&two, &one)).expect("renames");
    fs::rename(&third, &two).expect("renames");

    web.synced(&[]);

    let sent = web.sent_frames();
    assert!(sent < 100_000, "{sent} bytes although no content of a large file was missing");
}

#[test]
fn excluded_paths_and_overrides_are_respected() {
    require!(ROOT_AND_RSYNC);

    let web = WebSite::new(&tree(20));
    let overrides = web.site.dir.path().join("overrides");
    let mut layer = Tree::from([(Vec::new(), Item::dir()), (b"etc".to_vec(), Item::dir())]);
    layer.insert(b"etc/0".to_vec(), Item::file("of the override"));
    trees::write(&layer, &overrides.join("gpu"));
    let mut publish = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
    publish.args(["publish", "--quiet", "--override", "gpu", "--repo"]).arg(web.site.repo());
    crate::common::run(publish.arg("--overrides-dir").arg(&overrides));
    web.make_foreign();
    fs::write(web.file("usr/lib/file-000"), "the node's own").expect("writes");
    fs::remove_file(web.file("usr/lib/file-001")).expect("removes");
    let rules = web.site.dir.path().join("rules");
    fs::write(&rules, "/usr/lib/file-000\n").expect("writes");
    let rules = rules.display().to_string();

    let run = web.sync(&["--override", "gpu", "--exclude-file", &rules]);

    run.ended(0, &["full sync"]);
    assert_eq!(crate::common::read(&web.file("etc/0")), "of the override");
    assert_eq!(crate::common::read(&web.file("usr/lib/file-000")), "the node's own");
    judge::same(&web.site.image(), &web.site.node(), &["/etc/0", "/usr/lib/file-000"]);
}

#[test]
fn content_that_repository_lacks_is_received_by_rsync() {
    require!(ROOT_AND_RSYNC);

    let mut web = WebSite::of(Site::new().with_rsync(), &tree(50));
    web.make_foreign();
    fs::remove_file(web.file("usr/lib/file-020")).expect("removes");
    fs::remove_file(web.site.repo().join(&web.full_archive()[1..])).expect("removes");

    web.synced(&[]).ended(0, &["does not have the content", "rsync is asked"]);

    // Without a daemon the run names both sources.
    web.make_foreign();
    fs::remove_file(web.file("usr/lib/file-020")).expect("removes");
    web.site.stop_rsync();
    let both = ["the repository does not have the content", "rsync, the next source, fails"];
    web.site.refused(&["--max-delete", "1000", "--check", "content"], 8, &both);
}

#[test]
fn content_that_is_nowhere_leaves_tree_unchanged() {
    require!(ROOT_AND_RSYNC);

    let web = WebSite::new(&tree(50));
    web.make_foreign();
    fs::remove_file(web.file("usr/lib/file-020")).expect("removes");
    let archive = web.site.repo().join(&web.full_archive()[1..]);
    fs::remove_file(archive).expect("removes");

    let words = [
        "a file of the repository cannot be used: full/",
        "the repository does not have the content",
        "no rsync server is configured",
    ];
    web.site.refused(&["--max-delete", "1000"], 8, &words);
}

#[test]
fn damaged_content_index_is_named() {
    require!(ROOT_AND_RSYNC);

    let web = WebSite::new(&tree(50));
    web.make_foreign();
    fs::remove_file(web.file("usr/lib/file-020")).expect("removes");
    let index = web.site.archives("content").pop().expect("an index");
    let bytes = fs::read(&index).expect("reads");
    let mut damaged = bytes.clone();
    let last = damaged.len() - 4;
    damaged[last] ^= 1;

    for damage in [Some(damaged), None] {
        match damage {
            Some(damaged) => fs::write(&index, damaged).expect("writes"),
            None => fs::remove_file(&index).expect("removes"),
        }
        let words =
            ["a file of the repository cannot be used: ", "content/", "nothing was changed"];
        web.site.refused(&["--max-delete", "1000"], 8, &words);
    }

    fs::write(&index, bytes).expect("writes");
    web.synced(&[]).ended(0, &["full sync"]);
}

#[test]
fn damaged_or_dying_repository_is_replaced_by_rsync() {
    require!(ROOT_AND_RSYNC);

    let mut tree = tree(50);
    tree.insert(b"etc/systemimager".to_vec(), Item::dir());
    let config = Item::file("[download]\nattempts = 1\n");
    tree.insert(b"etc/systemimager/updateclient.toml".to_vec(), config);
    let mut web = WebSite::of(Site::new().with_rsync(), &tree);
    let make_foreign = |web: &WebSite| {
        // Without a state, each run is a full sync.
        let _ = fs::remove_dir_all(web.file("var"));
        web.make_foreign();
        fs::remove_file(web.file("usr/lib/file-020")).expect("removes");
    };
    for fault in [Fault::FlipFirstBit, Fault::Status(404, None), Fault::Status(503, None)] {
        make_foreign(&web);
        web.server.always(&web.full_archive(), fault);

        web.synced(&[]).ended(0, &["rsync is asked"]);

        web.server.calm();
    }

    make_foreign(&web);
    web.server.always(&web.full_archive(), Fault::Status(503, None));
    web.site.stop_rsync();
    web.site.refused(&["--max-delete", "1000"], 8, &["rsync, the next source, fails"]);
}

#[test]
fn forbidden_fallback_also_forbids_sync_from_repository() {
    require!(ROOT_AND_RSYNC);

    let web = WebSite::new(&tree(20));
    web.make_foreign();

    web.site.refused(&["--no-fallback"], 8, &["--no-fallback forbids it"]);

    assert_eq!(web.sent_frames(), 0);
}

#[test]
fn killed_download_leaves_old_tree_and_next_run_completes() {
    require!(ROOT_AND_RSYNC);

    let web = WebSite::new(&tree(50));
    web.make_foreign();
    for number in 0..30 {
        damage(&web.file(&format!("usr/lib/file-{number:03}")));
    }
    let before = web.site.snapshot();
    web.server.always(&web.full_archive(), Fault::Stall(30_000));
    let mut command = web.site.command();
    let mut child = command.args(["--max-delete", "1000"]).spawn().expect("runs");
    wait_until("the server stalls", || web.site.node().join(".si-stage").exists());
    std::thread::sleep(Duration::from_millis(100));
    child.kill().and_then(|()| child.wait()).expect("ends");
    web.server.calm();

    let mut recover = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    crate::common::run(recover.args(["--recover", "--root"]).arg(web.site.node()));

    web.site.unchanged_since(&before);
    web.synced(&[]);
}

/// A damaged tree whose generation is recorded: `--check=content` repairs it without a full sync.
#[test]
fn one_damaged_file_costs_few_requests() {
    require!(ROOT_AND_RSYNC);

    let web = WebSite::new(&tree(300));
    web.site.updated(&["--adopt"]);
    web.server.calm();
    damage(&web.file("usr/lib/file-123"));

    web.site.updated(&["--check", "content"]).ended(0, &["by digest"]);

    web.site.same();
    let seen = web.server.seen();
    let paths: HashSet<&str> = seen.iter().map(|seen| seen.path.as_str()).collect();
    assert!(paths.len() <= 4 && seen.len() <= 7, "{seen:#?}");
}
