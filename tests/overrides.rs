//! Overrides in one pass: the target of an update is the image with its overrides copied over it.
//!
//! The overrides may be published or not.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item, Tree};
use crate::common::{ROOT_AND_RSYNC, copy_tree, judge, read, require};
use proptest::test_runner::{Config, TestRunner};

/// A site with a published image and with overrides.
struct LayeredSite {
    site: Site,
}

impl LayeredSite {
    fn new(image: &Tree) -> Self {
        let site = Site::new().with_rsync();
        site.publish(image);
        site.install_node();
        LayeredSite { site }
    }

    fn override_dir(&self, name: &str) -> PathBuf {
        self.site.dir.path().join("overrides").join(name)
    }

    /// Makes `tree` the override.
    fn write(&self, name: &str, tree: &Tree) {
        let _ = fs::remove_dir_all(self.override_dir(name));
        trees::write(&trees::with_parents(tree.clone()), &self.override_dir(name));
    }

    /// Publishes the override as it is.
    fn publish(&self, name: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
        command.args(["publish", "--quiet", "--override", name, "--repo"]).arg(self.site.repo());
        crate::common::run(
            command.arg("--overrides-dir").arg(self.site.dir.path().join("overrides")),
        );
    }

    fn update(&self, overrides: &[&str], more: &[&str]) -> Run {
        let mut command = self.site.command();
        command.args(overrides.iter().flat_map(|name| ["--override", *name])).args(more);
        Run::from_output(command.output().expect("it runs"))
    }

    /// Composes the image and the overrides with rsync.
    fn composed(&self, overrides: &[&str]) -> PathBuf {
        let composed = self.site.dir.path().join("composed");
        let _ = fs::remove_dir_all(&composed);
        copy_tree(&self.site.image(), &composed);

        for name in overrides {
            let from = format!("{}/", self.override_dir(name).display());

            // A directory replaces any other type, and any other type replaces a directory.
            let mut rsync = Command::new("rsync");

            // Without the window, a pipe or a device keeps its nanoseconds if the second is the
            // same.
            rsync.args(["-aHAXSI", "--modify-window=-1", "--numeric-ids", "--force"]).arg(from);
            let to = format!("{}/", composed.display());

            // rsync -A fails if a directory becomes another type; its second pass succeeds.
            if !rsync.arg(&to).status().expect("rsync runs").success() {
                crate::common::run(&mut rsync);
            }
        }

        composed
    }

    /// Asserts that the node equals the image with these overrides.
    #[track_caller]
    fn assert_composed(&self, overrides: &[&str]) {
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

fn tree_of(files: &[(&str, &str)]) -> Tree {
    let mut tree = Tree::from([(Vec::new(), Item::dir())]);
    for (path, content) in files {
        trees::put(&mut tree, path, Item::file(*content));
    }
    tree
}

#[test]
fn published_override_is_updated_by_diffs() {
    require!(ROOT_AND_RSYNC);

    let layered = LayeredSite::new(&image());
    let mut noise = tree_of(&[("etc/motd", "everybody's"), ("etc/ntp.conf", "server ntp")]);
    trees::put(&mut noise, "opt/blob", Item::file(trees::noise(200_000, 1)));
    layered.write("all", &noise);

    layered.publish("all");

    // Published overrides need no rsync daemon.
    layered
        .update(&["all"], &["--no-fallback", "--server", "127.0.0.1", "--rsync-port", "9"])
        .ended(0, &["updated to node with all"]);

    layered.assert_composed(&["all"]);
    let inode = fs::metadata(layered.node("etc/ntp.conf")).expect("is there").ino();

    // One byte of a large file changes: only a diff is downloaded.
    let mut blob = trees::noise(200_000, 1);
    blob[100_000] ^= 1;
    trees::put(&mut noise, "opt/blob", Item::file(blob));
    layered.write("all", &noise);
    layered.publish("all");
    let full = fs::read_dir(layered.site.repo().join("overrides/all/full")).expect("is there");
    full.for_each(|file| fs::remove_file(file.expect("an entry").path()).expect("removes"));

    layered
        .update(&["all"], &["--no-fallback"])
        .ended(0, &["but its overrides changed", "updated to node with all"]);

    layered.assert_composed(&["all"]);
    assert_eq!(
        fs::metadata(layered.node("etc/ntp.conf")).expect("is there").ino(),
        inode,
        "an unchanged file was replaced"
    );

    // Both change at the same time.
    layered.write("all", &tree_of(&[("etc/motd", "the last")]));
    layered.publish("all");
    let mut next = image();
    trees::put(&mut next, "etc/hosts", Item::file("other hosts"));

    layered.site.publish(&next);
    layered.update(&["all"], &["--no-fallback"]).ended(0, &["following one diff"]);

    layered.assert_composed(&["all"]);
    layered.update(&["all"], &[]).ended(0, &["node with all is up to date"]);
}

#[test]
fn removed_override_restores_image_file() {
    require!(ROOT_AND_RSYNC);

    let layered = LayeredSite::new(&image());
    layered.write("all", &tree_of(&[("etc/motd", "everybody's"), ("etc/ntp.conf", "ntp")]));
    layered.write("gpu", &tree_of(&[("etc/motd", "gpu's"), ("opt/cards/driver", "driver")]));

    layered.publish("gpu");
    layered.update(&["all", "gpu"], &[]).ended(0, &["updated to node with all, gpu"]);

    layered.assert_composed(&["all", "gpu"]);
    assert!(layered.why("/etc/motd").starts_with("override gpu"));
    assert!(layered.why("/etc/ntp.conf").starts_with("override all"));
    assert!(layered.why("/etc/hosts").starts_with("image node "));
    layered.update(&["all"], &[]).ended(0, &[]);

    layered.assert_composed(&["all"]);
    assert_eq!(read(&layered.node("etc/motd")), "everybody's");
    assert!(!layered.node("opt/cards").exists());

    // The order of the overrides matters.
    layered.update(&["gpu", "all"], &[]).ended(0, &[]);

    layered.assert_composed(&["gpu", "all"]);
    layered.update(&[], &[]).ended(0, &[]);

    layered.assert_composed(&[]);
    assert_eq!(read(&layered.node("etc/motd")), "the image's");

    let id = layered.site.catalog().head().generation.to_string();
    assert_eq!(layered.why("/etc/motd"), format!("image node {id}\n"));
}

#[test]
fn unpublished_override_is_fetched_by_rsync() {
    require!(ROOT_AND_RSYNC);

    let layered = LayeredSite::new(&image());
    layered.write("all", &tree_of(&[("etc/motd", "everybody's")]));

    layered.update(&["all"], &["--no-fallback"]).ended(0, &["updated to node with all"]);

    layered.assert_composed(&["all"]);
    layered.update(&["all"], &[]).ended(0, &["up to date"]);

    fs::write(layered.override_dir("all").join("etc/motd"), "edited").expect("writes");
    layered.update(&["all"], &[]).ended(0, &["updated to node with all"]);

    layered.assert_composed(&["all"]);
    assert_eq!(read(&layered.node("etc/motd")), "edited");

    // Drift in a file of an override is repaired, too.
    fs::write(layered.node("etc/motd"), "by hand").expect("writes");
    layered.update(&["all"], &["--check", "stat"]).ended(0, &["repaired: /etc/motd"]);

    layered.assert_composed(&["all"]);

    // Publishing the same override is no change.
    layered.publish("all");
    layered.update(&["all"], &[]).ended(0, &["up to date"]);

    let before = layered.site.snapshot();
    layered.update(&["all", "nowhere"], &[]).ended(4, &["override nowhere", "nothing was changed"]);
    layered.site.unchanged_since(&before);
}

#[test]
fn override_changes_types_of_image_paths() {
    require!(ROOT_AND_RSYNC);

    let layered = LayeredSite::new(&image());

    // A directory over a file, a file over a directory, a symbolic link over a directory.
    let mut over = tree_of(&[("etc/motd/now/a", "directory"), ("usr/share/doc", "file")]);
    trees::put(&mut over, "srv", Item::new(trees::ItemKind::Symlink(b"opt".to_vec())));
    layered.write("odd", &over);

    layered.publish("odd");
    layered.update(&["odd"], &[]).ended(0, &[]);

    layered.assert_composed(&["odd"]);
    layered.update(&[], &[]).ended(0, &[]);

    layered.assert_composed(&[]);
}

#[test]
fn rollback_of_update_with_override_is_pinned() {
    require!(ROOT_AND_RSYNC);

    let layered = LayeredSite::new(&image());
    layered.update(&[], &[]).ended(0, &[]);

    let before = layered.site.snapshot();
    layered.write("all", &tree_of(&[("etc/motd", "everybody's"), ("etc/ntp.conf", "ntp")]));
    layered.publish("all");

    layered.update(&["all"], &[]).ended(0, &["updated to node with all"]);
    layered.site.rollback(&[]).ended(0, &["rolled back", "is pinned"]);
    judge::same(&before, &layered.site.node(), &["/.si-undo"]);
    layered.update(&["all"], &[]).ended(12, &["rolled back"]);

    // Another override is another target.
    layered.update(&[], &[]).ended(0, &["up to date"]);

    layered.write("all", &tree_of(&[("etc/motd", "better")]));
    layered.publish("all");

    layered.update(&["all"], &[]).ended(0, &["updated to node with all"]);

    layered.assert_composed(&["all"]);
}

/// The tree was adopted in the run that applied the override, so a rollback leads to the tree
/// before that run.
#[test]
fn rollback_of_override_on_adopted_tree_is_pinned() {
    require!(ROOT_AND_RSYNC);

    let layered = LayeredSite::new(&image());
    layered.write("all", &tree_of(&[("etc/motd", "everybody's"), ("etc/ntp.conf", "ntp")]));
    let before = layered.site.snapshot();

    layered
        .update(&["all"], &[])
        .ended(0, &["is taken for generation", "updated to node with all"]);
    layered.site.rollback(&[]).ended(0, &["rolled back", "is pinned"]);
    judge::same(&before, &layered.site.node(), &["/.si-undo"]);
    layered.update(&["all"], &[]).ended(12, &["rolled back"]);
    layered.update(&["all"], &["--unhold"]).ended(0, &["updated to node with all"]);

    layered.assert_composed(&["all"]);
}

#[test]
fn node_of_old_client_is_adopted_with_overrides() {
    require!(ROOT_AND_RSYNC);

    let layered = LayeredSite::new(&image());
    layered.write("all", &tree_of(&[("etc/motd", "everybody's"), ("etc/ntp.conf", "ntp")]));
    layered.publish("all");
    let node = format!("{}/", layered.site.node().display());

    crate::common::run(
        Command::new("rsync")
            .args(["-aHAXI", "--numeric-ids"])
            .arg(format!("{}/", layered.override_dir("all").display()))
            .arg(node),
    );
    layered.update(&["all"], &[]).ended(0, &["0 of", "node with all is up to date"]);

    layered.assert_composed(&["all"]);
}

#[test]
fn full_sync_applies_image_and_overrides_at_once() {
    require!(ROOT_AND_RSYNC);

    let layered = LayeredSite::new(&image());
    layered.write("all", &tree_of(&[("etc/motd", "everybody's"), ("etc/ntp.conf", "ntp")]));
    layered.write("gpu", &tree_of(&[("etc/motd", "gpu's")]));
    layered.publish("gpu");
    let _ = fs::remove_dir_all(layered.site.node());
    fs::create_dir(layered.site.node()).expect("makes");

    layered.update(&["all", "gpu"], &[]).ended(0, &["full sync", "updated to node with all, gpu"]);

    layered.assert_composed(&["all", "gpu"]);
}

#[test]
fn excludes_from_override_apply_in_same_run() {
    require!(ROOT_AND_RSYNC);

    let place = "etc/systemimager/updateclient.local.exclude";
    let layered = LayeredSite::new(&image());
    layered.write("rules", &tree_of(&[(place, "/etc/hosts\n")]));
    layered.publish("rules");

    let run = |overrides: &[&str], more: &[&str]| {
        let mut command = layered.site.command_with_node_excludes();
        command.args(overrides.iter().flat_map(|name| ["--override", *name])).args(more);
        Run::from_output(command.output().expect("it runs"))
    };
    run(&[], &[]).ended(0, &[]);

    fs::write(layered.node("etc/hosts"), "the node's own").expect("writes");
    let mut next = image();
    trees::put(&mut next, "etc/hosts", Item::file("new hosts"));

    layered.site.publish(&next);
    run(&["rules"], &[]).ended(0, &["using the exclude rules of", "updated to node with rules"]);
    assert_eq!(read(&layered.node("etc/hosts")), "the node's own");
    assert_eq!(read(&layered.node(place)), "/etc/hosts\n");
    run(&["rules"], &[]).ended(0, &["up to date"]);

    // Other rules uncover the path in the same run.
    layered.write("rules", &tree_of(&[(place, "/srv/*\n")]));
    layered.publish("rules");

    run(&["rules"], &[]).ended(0, &["using the exclude rules of"]);
    assert_eq!(read(&layered.node("etc/hosts")), "new hosts");
}

/// Any image, any two overrides, by any strategy: the node equals rsync's composition.
#[test]
fn any_overrides_on_any_image_match_rsync() {
    require!(ROOT_AND_RSYNC);

    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let strategy = (trees::any_tree(), trees::any_tree(), trees::any_tree(), proptest::bool::ANY);
    let check = |(image, one, two, published)| {
        let layered = LayeredSite::new(&image);
        layered.write("one", &one);
        layered.write("two", &two);
        if published {
            layered.publish("one");
        }
        let any = ["--max-delete", "100000"];
        layered.update(&["one", "two"], &any).ended(0, &[]);
        layered.assert_composed(&["one", "two"]);
        layered.update(&["two"], &any).ended(0, &[]);
        layered.assert_composed(&["two"]);
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
        plain.args(["--override", "two", "--override", "one", "--root"]).arg(layered.site.node());
        plain.args(["--rsync-port", &layered.site.rsync_port().expect("a daemon").to_string()]);
        Run::from_output(plain.output().expect("it runs")).ended(0, &[]);
        layered.assert_composed(&["two", "one"]);
        Ok(())
    };
    TestRunner::new(config).run(&strategy, check).unwrap_or_else(|error| panic!("{error}"));
}
