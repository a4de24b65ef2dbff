//! Updates of a system that is not the running one.

use std::fs;
use std::process::Command;

use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item};
use crate::common::{Need, judge, require};

const NEEDED: [Need; 3] = [Need::Root, Need::Program("rsync"), Need::Program("unshare")];

/// Runs the client with only `--root`, on a machine whose own configuration would make any run
/// fail.
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

/// A node, and a newer generation that changes an excluded path and another one.
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

fn matches_image(site: &Site) {
    assert_eq!(fs::read_to_string(site.node().join("etc/own")).expect("reads"), "this node's");
    judge::same(&site.image(), &site.node(), &["/etc/own", "/etc/systemimager", "/etc/rules"]);
}

#[test]
fn offline_root_uses_its_own_configuration() {
    require!(NEEDED);

    let site = site();
    let text = format!("image = \"node\"\nrepo = \"{}\"\n", site.repo_url);
    trees::write_text(&site.node().join("etc/systemimager/updateclient.toml"), &text);
    trees::write_text(
        &site.node().join("etc/systemimager/updateclient.local.exclude"),
        "/etc/own\n",
    );

    updated_by_its_own_configuration(&site).ended(0, &["updated to node"]);

    matches_image(&site);
}

#[test]
fn offline_root_uses_its_old_client_configuration() {
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

    matches_image(&site);

    // The old configuration names the image if no newer file names one.
    trees::write_text(
        &site.node().join("etc/systemimager/client.conf"),
        "IMAGE = node\nEXCLUDE_FILE = /etc/rules\n",
    );
    let text = format!("repo = \"{}\"\n", site.repo_url);
    trees::write_text(&site.node().join("etc/systemimager/updateclient.toml"), &text);

    updated_by_its_own_configuration(&site).ended(0, &["up to date"]);
}

#[test]
fn configuration_behind_symlink_is_refused() {
    require!(NEEDED);

    let site = site();
    let directory = site.node().join("etc/systemimager");
    let text = format!("image = \"node\"\nrepo = \"{}\"\n", site.repo_url);
    trees::write_text(&directory.join("updateclient.toml"), &text);
    trees::write_text(&site.node().join("etc/rules"), "/etc/own\n");
    std::os::unix::fs::symlink("../rules", directory.join("updateclient.local.exclude"))
        .expect("links");
    let run = updated_by_its_own_configuration(&site);

    run.ended(2, &["updateclient.local.exclude", "symlink"]);

    fs::remove_file(directory.join("updateclient.local.exclude")).expect("removes");
    fs::rename(&directory, site.node().join("etc/elsewhere")).expect("renames");
    std::os::unix::fs::symlink("elsewhere", &directory).expect("links");

    updated_by_its_own_configuration(&site).ended(2, &["/etc/systemimager", "symlink"]);
}

#[test]
fn damaged_configuration_is_ignored_on_request() {
    require!(NEEDED);

    let site = site();
    for name in ["updateclient.toml", "client.conf"] {
        let path = site.node().join("etc/systemimager").join(name);
        trees::write_text(&path, "image = [ no sense\nrsync_port = none\n");
    }
    trees::write_text(
        &site.node().join("etc/systemimager/updateclient.local.exclude"),
        "/etc/own\n",
    );

    let run = |more: &[&str]| {
        let mut command = site.command_with_node_excludes();
        Run::from_output(command.args(more).output().expect("runs"))
    };

    run(&[]).ended(2, &["updateclient.toml"]);
    run(&["--ignore-config"]).ended(0, &["updated to node"]);
    matches_image(&site);
}

#[test]
fn list_of_filesystems_has_disks_of_fstab_that_are_not_mounted() {
    let dir = crate::common::scratch();
    let fstab = "UUID=1 / ext4 defaults 0 1\nUUID=4 /var/log xfs noatime,nofail 0 0\n\
        UUID=3 /var ext4 defaults 0 2\nUUID=5 none swap sw 0 0\nserver:/home /home nfs defaults\n\
        tmpfs /tmp tmpfs defaults\nUUID=6 /link ext4 defaults\nUUID=7 /link/below ext4 defaults\n\
        UUID=8 /file ext4 defaults\n/dev/sdb1 /srv/a\\040b auto ro 0 0\n";
    trees::write_text(&dir.path().join("etc/fstab"), fstab);
    fs::create_dir(dir.path().join("var")).expect("creates");
    trees::write_text(&dir.path().join("file"), "");
    std::os::unix::fs::symlink("/etc", dir.path().join("link")).expect("links");

    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    command.args(["--list-filesystems", "--root"]).arg(dir.path());
    let run = Run::from_output(command.output().expect("runs"));

    // A link or a file at a mount point is named without its disk, so that nothing is mounted there.
    let expected = "/file\n/link\n/link/below\n/srv/a\\0040b /dev/sdb1 auto rw\n\
        /var UUID=3 ext4 rw\n/var/log UUID=4 xfs rw,noatime\n";
    run.ended(0, &[]);
    assert_eq!(run.out, expected);
}
