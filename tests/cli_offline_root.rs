//! Updating a system that is not the running one.

mod common;

use std::fs;
use std::process::Command;

use common::site::{Run, Site};
use common::trees::{self, Item};
use common::{Need, judge, require};

const NEEDED: [Need; 3] = [Need::Root, Need::Program("rsync"), Need::Program("unshare")];

/// Runs the client with nothing but `--root`, on a machine whose own configuration would fail any run.
fn updated_by_its_own_configuration(site: &Site) -> Run {
    let poison = site.dir.path().join("running-etc");
    for file in ["updateclient.toml", "client.conf", "updateclient.local.exclude"] {
        trees::write_text(
            &poison.join("systemimager").join(file),
            "image = [ no sense\nrsync_port = none\n: !\n",
        );
    }
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", "mount --bind \"$1\" /etc && shift && exec \"$@\"", "sh"])
        .arg(&poison);
    command
        .arg(env!("CARGO_BIN_EXE_si_updateclient"))
        .args(["--diff", "--yes", "--root"])
        .arg(site.node());
    Run::from_output(command.output().expect("unshare runs"))
}

/// A node and a newer generation that changes an excluded and another path.
fn site() -> Site {
    let mut tree = trees::system();
    trees::put(&mut tree, "etc/own", Item::file("the image's"));
    let site = Site::at(&tree);
    trees::write_text(&site.node().join("etc/own"), "this node's");
    trees::put(&mut tree, "etc/own", Item::file("the image's, newer"));
    trees::put(&mut tree, "usr/bin/tool", Item::file("newer"));
    site.publish(&tree);
    site
}

fn judged(site: &Site) {
    assert_eq!(fs::read_to_string(site.node().join("etc/own")).expect("reads"), "this node's");
    judge::same(&site.image(), &site.node(), &["/etc/own", "/etc/systemimager", "/etc/rules"]);
}

#[test]
fn configuration_and_excludes_are_read_below_the_root() {
    require!(NEEDED);

    let site = site();
    let text = format!("image = \"node\"\nrepo = \"{}\"\n", site.repo_url);
    trees::write_text(&site.node().join("etc/systemimager/updateclient.toml"), &text);
    trees::write_text(
        &site.node().join("etc/systemimager/updateclient.local.exclude"),
        "/etc/own\n",
    );
    updated_by_its_own_configuration(&site).ended(0, &["updated to node"]);
    judged(&site);
}

#[test]
fn the_old_clients_configuration_is_read_below_the_root() {
    require!(NEEDED);

    let site = site();
    let text =
        format!("image = \"node\"\nrepo = \"{}\"\nexclude_file = \"/etc/rules\"\n", site.repo_url);
    trees::write_text(&site.node().join("etc/systemimager/updateclient.toml"), &text);
    trees::write_text(
        &site.node().join("etc/systemimager/client.conf"),
        "IMAGE = another\nRSYNC_PORT = 8730\n",
    );
    trees::write_text(&site.node().join("etc/rules"), "/etc/own\n");
    updated_by_its_own_configuration(&site).ended(0, &["updated to node"]);
    judged(&site);
    // the image comes from it where nothing newer names one
    trees::write_text(
        &site.node().join("etc/systemimager/client.conf"),
        "IMAGE = node\nEXCLUDE_FILE = /etc/rules\n",
    );
    let text = format!("repo = \"{}\"\n", site.repo_url);
    trees::write_text(&site.node().join("etc/systemimager/updateclient.toml"), &text);
    updated_by_its_own_configuration(&site).ended(0, &["up to date"]);
}

#[test]
fn a_configuration_behind_a_symlink_is_not_taken_for_none() {
    require!(NEEDED);

    let site = site();
    let own = site.node().join("etc/systemimager");
    let text = format!("image = \"node\"\nrepo = \"{}\"\n", site.repo_url);
    trees::write_text(&own.join("updateclient.toml"), &text);
    trees::write_text(&site.node().join("etc/rules"), "/etc/own\n");
    std::os::unix::fs::symlink("../rules", own.join("updateclient.local.exclude")).expect("links");
    let run = updated_by_its_own_configuration(&site);
    run.ended(2, &["updateclient.local.exclude", "symlink"]);
    fs::remove_file(own.join("updateclient.local.exclude")).expect("removes");
    fs::rename(&own, site.node().join("etc/elsewhere")).expect("renames");
    std::os::unix::fs::symlink("elsewhere", &own).expect("links");
    updated_by_its_own_configuration(&site).ended(2, &["/etc/systemimager", "symlink"]);
}
