//! Overrides, `cluster.txt`, exclude rules of the image, and further filesystems.

use super::*;
use crate::common::disk::{self, Disk};
use crate::common::{Need, ROOT_AND_RSYNC, judge, require};

/// Writes the override `rack`, which replaces the version and adds a file.
fn write_override(site: &Site, text: &str) {
    let directory = site.dir.path().join("overrides/rack");
    let _ = fs::remove_dir_all(&directory);
    let mut tree = Tree::from([(Vec::new(), Item::dir())]);
    trees::put(&mut tree, "etc/version", Item::file(text));
    trees::put(&mut tree, "etc/rack", Item::file(format!("rack {text}")));
    trees::write(&trees::with_parents(tree), &directory);
}

/// Asserts that the node is the image with the override.
#[track_caller]
fn assert_layered(site: &Site, text: &str) {
    judge::same(&site.image(), &site.node(), &["/etc/version", "/etc/rack"]);
    assert_eq!(common::read(&site.node().join("etc/version")), text);
    assert_eq!(common::read(&site.node().join("etc/rack")), format!("rack {text}"));
}

#[test]
fn published_override_is_downloaded_and_installed() {
    require!(ROOT_AND_RSYNC);
    let site = behind();
    write_override(&site, "of the rack");
    let mut publish = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
    publish.args(["publish", "--quiet", "--override", "rack", "--repo"]).arg(site.repo());
    common::run(publish.arg("--overrides-dir").arg(site.dir.path().join("overrides")));

    site.updated(&["--download-only", "--override", "rack"]);
    disconnect(&site);

    switch(&site, &["--override", "rack"]).ended(0, &["serial 2"]);
    assert_layered(&site, "of the rack");
}

#[test]
fn received_override_is_downloaded_and_installed() {
    require!(ROOT_AND_RSYNC);
    let mut site = Site::new().with_rsync();
    site.publish(&tree(1));
    site.install_node();
    site.updated(&["--adopt"]);
    site.publish(&tree(2));
    write_override(&site, "by rsync");

    site.updated(&["--download-only", "--override", "rack"]);
    site.stop_rsync();
    disconnect(&site);

    switch(&site, &["--override", "rack"]).ended(0, &["serial 2"]);
    assert_layered(&site, "by rsync");
}

#[test]
fn switch_takes_names_of_cluster_from_download() {
    require!(ROOT_AND_RSYNC);
    let mut site = Site::new().with_rsync();
    let mut first = tree(1);
    trees::put(&mut first, "etc/hostname", Item::file("node1\n"));
    site.publish(&first);
    site.install_node();
    site.updated(&["--adopt"]);
    let mut second = tree(2);
    trees::put(&mut second, "etc/hostname", Item::file("node1\n"));
    site.publish(&second);
    write_override(&site, "of the cluster");
    fs::create_dir_all(site.dir.path().join("scripts")).expect("creates");
    let text = "# global_override=::\nnode1:all:node:rack\n";
    fs::write(site.dir.path().join("scripts/cluster.txt"), text).expect("writes");
    let port = site.rsync_port().expect("a port").to_string();
    let (repo, excludes) = (site.repo_url.clone(), ["--exclude-file", "/dev/null", "--yes"]);
    let server = ["--server", "127.0.0.1", "--rsync-port", &port, "--repo", &repo];

    let download = [&["--diff", "--download-only"], &server[..], &excludes].concat();
    client(&site, &download).ended(0, &["assigns image node"]);
    site.stop_rsync();
    disconnect(&site);

    // Neither the image nor the server is named.
    client(&site, &[&["--diff", "--from-downloaded"], &excludes[..]].concat())
        .ended(0, &["serial 2"]);
    assert_layered(&site, "of the cluster");
}

#[test]
fn exclude_rules_of_image_apply_to_download_and_switch() {
    require!(ROOT_AND_RSYNC);
    let with_rules = |round, rules: &str| {
        let mut tree = tree(round);
        trees::put(
            &mut tree,
            "etc/systemimager/updateclient.local.exclude",
            Item::file(rules.to_owned()),
        );
        trees::with_parents(tree)
    };
    let site = Site::new();
    site.publish(&with_rules(1, "/nothing\n"));
    site.install_node();
    let run = |more: &[&str]| {
        let mut command = site.command_with_node_excludes();
        Run::from_output(command.args(more).output().expect("runs"))
    };
    run(&["--adopt"]).ended(0, &[]);
    site.publish(&with_rules(2, "/etc/version\n"));

    run(&["--download-only"]).ended(0, &["using the exclude rules"]);
    disconnect(&site);
    run(&["--from-downloaded"]).ended(0, &["using the exclude rules", "serial 2"]);

    judge::same(&site.image(), &site.node(), &["/etc/version"]);
    assert_eq!(common::read(&site.node().join("etc/version")), "version 1");
}

#[test]
fn contents_are_kept_on_filesystem_that_needs_them() {
    require!(ROOT_AND_RSYNC, Need::LoopDevice, Need::Program("mkfs.ext4"));
    disk::enter_mount_namespace();
    let with_boot = |round: u64| {
        let mut tree = tree(round);
        trees::put(&mut tree, "boot/file", Item::file(format!("boot {round}")));
        trees::with_parents(tree)
    };
    let site = Site::new();
    site.publish(&with_boot(1));
    let mut disk = Disk::new("ext4", site.dir.path().join("disk"), &site.node().join("boot"));
    common::run(Command::new("cp").arg("-aT").args([site.image(), site.node()]));
    site.updated(&["--adopt"]);
    site.publish(&with_boot(2));

    site.updated(&["--download-only"]);
    let content = systemimager::digest::Digest::of(b"boot 2");
    assert!(site.node().join(format!("boot/.si-downloaded/{content}.0")).exists());
    disconnect(&site);
    disk.unmount();
    switch(&site, &[]).ended(5, &["boot"]);
    disk.mount();

    switch(&site, &[]).ended(0, &["serial 2"]);
    judge::same(&site.image(), &site.node(), &["lost+found"]);
    assert!(!site.node().join("boot/.si-downloaded").exists());
}
