//! Overrides in one pass: the target of an update is the image with its overrides laid over it, whether they
//! are published or not.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::site::{Run, Site};
use common::trees::{self, Item, Tree};
use common::{ROOT_AND_RSYNC, copy_tree, judge, require};
use proptest::test_runner::{Config, TestRunner};

/// A site whose image is published, and whose overrides may be.
struct Laid {
    site: Site,
}

impl Laid {
    fn new(image: &Tree) -> Self {
        let site = Site::new().with_rsync();
        site.publish(image);
        site.install_node();
        Laid { site }
    }

    fn over(&self, name: &str) -> PathBuf {
        self.site.dir.path().join("overrides").join(name)
    }

    /// Makes `tree` the override.
    fn write(&self, name: &str, tree: &Tree) {
        let _ = fs::remove_dir_all(self.over(name));
        trees::write(&trees::with_parents(tree.clone()), &self.over(name));
    }

    /// Publishes the override as it is.
    fn publish(&self, name: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
        command.args(["publish", "--quiet", "--override", name, "--repo"]).arg(self.site.repo());
        common::run(command.arg("--overrides-dir").arg(self.site.dir.path().join("overrides")));
    }

    fn update(&self, overrides: &[&str], more: &[&str]) -> Run {
        let mut command = self.site.command();
        command.args(overrides.iter().flat_map(|name| ["--override", *name])).args(more);
        Run::from_output(command.output().expect("it runs"))
    }

    /// What rsync makes of the image and the overrides.
    fn composed(&self, overrides: &[&str]) -> PathBuf {
        let composed = self.site.dir.path().join("composed");
        let _ = fs::remove_dir_all(&composed);
        copy_tree(&self.site.image(), &composed);
        for name in overrides {
            let from = format!("{}/", self.over(name).display());
            // What is no directory makes way for one, and a directory for what is none.
            let mut rsync = Command::new("rsync");
            // Without the window a pipe or a device of the same second keeps its nanoseconds.
            rsync.args(["-aHAXSI", "--modify-window=-1", "--numeric-ids", "--force"]).arg(from);
            let to = format!("{}/", composed.display());
            // rsync -A stumbles where a directory becomes something else, and is done at the second pass.
            if !rsync.arg(&to).status().expect("rsync runs").success() {
                common::run(&mut rsync);
            }
        }
        composed
    }

    #[track_caller]
    fn is(&self, overrides: &[&str]) {
        judge::same(&self.composed(overrides), &self.site.node(), &[]);
        self.site.nothing_left();
    }

    fn node(&self, path: &str) -> PathBuf {
        self.site.node().join(path)
    }

    fn why(&self, path: &str) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
        command.arg("--root").arg(self.site.node()).args([
            "--exclude-file",
            "/dev/null",
            "--why",
            path,
        ]);
        Run::from_output(command.output().expect("it runs")).ended(0, &[]).out.clone()
    }
}

fn image() -> Tree {
    let mut tree = trees::system();
    for (path, content) in
        [("etc/hosts", "hosts"), ("etc/motd", "the image's"), ("usr/share/doc/x", "x")]
    {
        trees::put(&mut tree, path, Item::file(content));
    }
    trees::put(&mut tree, "usr/bin/large", Item::file(trees::noise(300_000, 7)));
    trees::with_parents(tree)
}

fn small(files: &[(&str, &str)]) -> Tree {
    let mut tree = Tree::from([(Vec::new(), Item::dir())]);
    for (path, content) in files {
        trees::put(&mut tree, path, Item::file(*content));
    }
    tree
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_published_override_comes_by_diffs() {
    require!(ROOT_AND_RSYNC);

    let laid = Laid::new(&image());
    let mut noise = small(&[("etc/motd", "everybody's"), ("etc/ntp.conf", "server ntp")]);
    trees::put(&mut noise, "opt/blob", Item::file(trees::noise(200_000, 1)));
    laid.write("all", &noise);
    laid.publish("all");
    // No rsync daemon is needed for what is published.
    laid.update(&["all"], &["--no-fallback", "--server", "127.0.0.1", "--rsync-port", "9"])
        .ended(0, &["updated to node with all"]);
    laid.is(&["all"]);
    let inode = fs::metadata(laid.node("etc/ntp.conf")).expect("is there").ino();
    // A byte of a large file changes: what travels is a diff.
    let mut blob = trees::noise(200_000, 1);
    blob[100_000] ^= 1;
    trees::put(&mut noise, "opt/blob", Item::file(blob));
    laid.write("all", &noise);
    laid.publish("all");
    let full = fs::read_dir(laid.site.repo().join("overrides/all/full")).expect("is there");
    full.for_each(|file| fs::remove_file(file.expect("an entry").path()).expect("removes"));
    laid.update(&["all"], &["--no-fallback"])
        .ended(0, &["but its overrides changed", "updated to node with all"]);
    laid.is(&["all"]);
    assert_eq!(
        fs::metadata(laid.node("etc/ntp.conf")).expect("is there").ino(),
        inode,
        "what stays was replaced"
    );
    // Both change at once.
    laid.write("all", &small(&[("etc/motd", "the last")]));
    laid.publish("all");
    let mut next = image();
    trees::put(&mut next, "etc/hosts", Item::file("other hosts"));
    laid.site.publish(&next);
    laid.update(&["all"], &["--no-fallback"]).ended(0, &["following one diff"]);
    laid.is(&["all"]);
    laid.update(&["all"], &[]).ended(0, &["node with all is up to date"]);
}

#[test]
fn an_override_that_goes_away_gives_the_images_file_back() {
    require!(ROOT_AND_RSYNC);

    let laid = Laid::new(&image());
    laid.write("all", &small(&[("etc/motd", "everybody's"), ("etc/ntp.conf", "ntp")]));
    laid.write("gpu", &small(&[("etc/motd", "gpu's"), ("opt/cards/driver", "driver")]));
    laid.publish("gpu");
    laid.update(&["all", "gpu"], &[]).ended(0, &["updated to node with all, gpu"]);
    laid.is(&["all", "gpu"]);
    assert!(laid.why("/etc/motd").starts_with("override gpu"));
    assert!(laid.why("/etc/ntp.conf").starts_with("override all"));
    assert!(laid.why("/etc/hosts").starts_with("image node "));
    laid.update(&["all"], &[]).ended(0, &[]);
    laid.is(&["all"]);
    assert_eq!(read(&laid.node("etc/motd")), "everybody's");
    assert!(!laid.node("opt/cards").exists());
    // The order decides.
    laid.update(&["gpu", "all"], &[]).ended(0, &[]);
    laid.is(&["gpu", "all"]);
    laid.update(&[], &[]).ended(0, &[]);
    laid.is(&[]);
    assert_eq!(read(&laid.node("etc/motd")), "the image's");
    let id = laid.site.catalog().head().generation.to_string();
    assert_eq!(laid.why("/etc/motd"), format!("image node {id}\n"));
}

#[test]
fn an_override_that_is_not_published_comes_by_rsync_and_again_when_it_is_edited() {
    require!(ROOT_AND_RSYNC);

    let laid = Laid::new(&image());
    laid.write("all", &small(&[("etc/motd", "everybody's")]));
    laid.update(&["all"], &["--no-fallback"]).ended(0, &["updated to node with all"]);
    laid.is(&["all"]);
    laid.update(&["all"], &[]).ended(0, &["up to date"]);
    fs::write(laid.over("all").join("etc/motd"), "edited").expect("writes");
    laid.update(&["all"], &[]).ended(0, &["updated to node with all"]);
    laid.is(&["all"]);
    assert_eq!(read(&laid.node("etc/motd")), "edited");
    // Drift of what an override has is put right, too.
    fs::write(laid.node("etc/motd"), "by hand").expect("writes");
    laid.update(&["all"], &["--check", "stat"]).ended(0, &["repaired: /etc/motd"]);
    laid.is(&["all"]);
    // Published, the same thing is no change.
    laid.publish("all");
    laid.update(&["all"], &[]).ended(0, &["up to date"]);
    let before = laid.site.snapshot();
    laid.update(&["all", "nowhere"], &[]).ended(4, &["override nowhere", "nothing was changed"]);
    laid.site.unchanged_since(&before);
}

#[test]
fn types_change_between_image_and_override() {
    require!(ROOT_AND_RSYNC);

    let laid = Laid::new(&image());
    // A directory over a file, a file over a directory, a symlink over a directory.
    let mut over = small(&[("etc/motd/now/a", "directory"), ("usr/share/doc", "file")]);
    trees::put(&mut over, "srv", Item::new(trees::ItemKind::Symlink(b"opt".to_vec())));
    laid.write("odd", &over);
    laid.publish("odd");
    laid.update(&["odd"], &[]).ended(0, &[]);
    laid.is(&["odd"]);
    laid.update(&[], &[]).ended(0, &[]);
    laid.is(&[]);
}

#[test]
fn an_update_that_laid_something_over_the_image_is_undone_and_held() {
    require!(ROOT_AND_RSYNC);

    let laid = Laid::new(&image());
    laid.update(&[], &[]).ended(0, &[]);
    let before = laid.site.snapshot();
    laid.write("all", &small(&[("etc/motd", "everybody's"), ("etc/ntp.conf", "ntp")]));
    laid.publish("all");
    laid.update(&["all"], &[]).ended(0, &["updated to node with all"]);
    laid.site.rollback(&[]).ended(0, &["rolled back", "is pinned"]);
    judge::same(&before, &laid.site.node(), &["/.si-undo"]);
    laid.update(&["all"], &[]).ended(12, &["rolled back"]);
    // Another override is another thing.
    laid.update(&[], &[]).ended(0, &["up to date"]);
    laid.write("all", &small(&[("etc/motd", "better")]));
    laid.publish("all");
    laid.update(&["all"], &[]).ended(0, &["updated to node with all"]);
    laid.is(&["all"]);
}

/// The tree was recognised in the run that laid the override over it: the way back leads to what it was.
#[test]
fn a_rollback_of_what_was_laid_over_an_adopted_tree_is_held() {
    require!(ROOT_AND_RSYNC);

    let laid = Laid::new(&image());
    laid.write("all", &small(&[("etc/motd", "everybody's"), ("etc/ntp.conf", "ntp")]));
    let before = laid.site.snapshot();
    laid.update(&["all"], &[]).ended(0, &["is taken for generation", "updated to node with all"]);
    laid.site.rollback(&[]).ended(0, &["rolled back", "is pinned"]);
    judge::same(&before, &laid.site.node(), &["/.si-undo"]);
    laid.update(&["all"], &[]).ended(12, &["rolled back"]);
    laid.update(&["all"], &["--unhold"]).ended(0, &["updated to node with all"]);
    laid.is(&["all"]);
}

#[test]
fn a_node_that_the_old_client_left_is_adopted_with_its_overrides() {
    require!(ROOT_AND_RSYNC);

    let laid = Laid::new(&image());
    laid.write("all", &small(&[("etc/motd", "everybody's"), ("etc/ntp.conf", "ntp")]));
    laid.publish("all");
    let node = format!("{}/", laid.site.node().display());
    common::run(
        Command::new("rsync")
            .args(["-aHAXI", "--numeric-ids"])
            .arg(format!("{}/", laid.over("all").display()))
            .arg(node),
    );
    laid.update(&["all"], &[]).ended(0, &["0 of", "node with all is up to date"]);
    laid.is(&["all"]);
}

#[test]
fn a_full_sync_lays_the_overrides_over_the_image_at_once() {
    require!(ROOT_AND_RSYNC);

    let laid = Laid::new(&image());
    laid.write("all", &small(&[("etc/motd", "everybody's"), ("etc/ntp.conf", "ntp")]));
    laid.write("gpu", &small(&[("etc/motd", "gpu's")]));
    laid.publish("gpu");
    let _ = fs::remove_dir_all(laid.site.node());
    fs::create_dir(laid.site.node()).expect("makes");
    laid.update(&["all", "gpu"], &[]).ended(0, &["full sync", "updated to node with all, gpu"]);
    laid.is(&["all", "gpu"]);
}

#[test]
fn excludes_that_come_with_an_override_count_at_once() {
    require!(ROOT_AND_RSYNC);

    let place = "etc/systemimager/updateclient.local.exclude";
    let laid = Laid::new(&image());
    laid.write("rules", &small(&[(place, "/etc/hosts\n")]));
    laid.publish("rules");
    let run = |overrides: &[&str], more: &[&str]| {
        let mut command = laid.site.command_with_node_excludes();
        command.args(overrides.iter().flat_map(|name| ["--override", *name])).args(more);
        Run::from_output(command.output().expect("it runs"))
    };
    run(&[], &[]).ended(0, &[]);
    fs::write(laid.node("etc/hosts"), "the node's own").expect("writes");
    let mut next = image();
    trees::put(&mut next, "etc/hosts", Item::file("new hosts"));
    laid.site.publish(&next);
    run(&["rules"], &[]).ended(0, &["using the exclude rules of", "updated to node with rules"]);
    assert_eq!(read(&laid.node("etc/hosts")), "the node's own");
    assert_eq!(read(&laid.node(place)), "/etc/hosts\n");
    run(&["rules"], &[]).ended(0, &["up to date"]);
    // Other rules uncover the path in the same run.
    laid.write("rules", &small(&[(place, "/srv/*\n")]));
    laid.publish("rules");
    run(&["rules"], &[]).ended(0, &["using the exclude rules of"]);
    assert_eq!(read(&laid.node("etc/hosts")), "new hosts");
}

/// Any image, any two overrides, by any route: what rsync makes of them.
#[test]
fn any_overrides_over_any_image() {
    require!(ROOT_AND_RSYNC);

    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let strategy = (trees::any_tree(), trees::any_tree(), trees::any_tree(), proptest::bool::ANY);
    let check = |(image, one, two, published)| {
        let laid = Laid::new(&image);
        laid.write("one", &one);
        laid.write("two", &two);
        if published {
            laid.publish("one");
        }
        let any = ["--max-delete", "100000"];
        laid.update(&["one", "two"], &any).ended(0, &[]);
        laid.is(&["one", "two"]);
        laid.update(&["two"], &any).ended(0, &[]);
        laid.is(&["two"]);
        let mut plain = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
        plain
            .args([
                "--server",
                "127.0.0.1",
                "--image",
                "node",
                "--yes",
                "--exclude-file",
                "/dev/null",
            ])
            .args(any);
        plain.args(["--override", "two", "--override", "one", "--root"]).arg(laid.site.node());
        plain.args(["--rsync-port", &laid.site.rsync_port().expect("a daemon").to_string()]);
        Run::from_output(plain.output().expect("it runs")).ended(0, &[]);
        laid.is(&["two", "one"]);
        Ok(())
    };
    TestRunner::new(config).run(&strategy, check).unwrap_or_else(|error| panic!("{error}"));
}
