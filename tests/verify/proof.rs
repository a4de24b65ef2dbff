//! Proof digests: the node and the repository compute the same string, unless something differs.

use super::*;

/// The proof digest that `si_tardiff` computes from the repository.
#[track_caller]
fn published_proof(site: &Site, more: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
    command.args(["proof", "--image", "node", "--repo"]).arg(site.repo()).args(more);
    common::run(&mut command).trim_end().to_owned()
}

/// The proof digest of the live tree, under the exclude rules of the node itself.
#[track_caller]
fn live_proof(site: &Site) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    command.args(["--verify", "--repo", &site.repo_url, "--root"]).arg(site.node());
    let run = Run::from_output(command.output().expect("runs"));
    assert!([0, 10].contains(&run.code), "{run:#?}");
    proof(&run.out)
}

/// Updates the node under its own exclude rules.
#[track_caller]
fn update(site: &Site, more: &[&str]) {
    let output = site.command_with_node_excludes().args(more).output().expect("runs");
    Run::from_output(output).ended(0, &[]);
}

/// A small system with paths that the built-in exclude list names, and with kernel directories.
fn system() -> Tree {
    let mut tree = trees::system();
    for (path, text) in [
        ("etc/machine-id", "of the golden client\n"),
        ("etc/ssh/ssh_host_rsa_key", "secret"),
        ("etc/ssh/sshd_config", "Port 22\n"),
        ("var/log/syslog", "a line\n"),
        ("lost+found/x", "x"),
        ("run/leftover", "x"),
    ] {
        trees::put(&mut tree, path, Item::file(text));
    }
    for dir in ["proc", "sys", "var/lib/systemimager/client"] {
        trees::put(&mut tree, dir, Item::dir());
    }
    trees::put(&mut tree, "dev/null", Item::new(ItemKind::Char(1, 3)));
    trees::with_parents(tree)
}

#[test]
fn healthy_node_with_default_excludes_has_proof_of_repository() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new();
    site.publish(&system());
    site.install_node();
    update(&site, &["--adopt"]);
    let expected = published_proof(&site, &["--default-excludes"]);
    assert_eq!(live_proof(&site), expected);

    // A node has an identity, logs, and files of its own.
    let node = site.node();
    fs::write(node.join("etc/machine-id"), "of this node\n").expect("writes");
    fs::write(node.join("var/log/syslog"), "other lines\n").expect("writes");
    fs::remove_file(node.join("etc/ssh/ssh_host_rsa_key")).expect("removes");
    trees::write_text(&node.join("etc/local"), "a file of the node");
    assert_eq!(live_proof(&site), expected);
    assert_eq!(proof(&site.status()), expected);

    fs::write(node.join("etc/ssh/sshd_config"), "Port 23\n").expect("writes");
    assert_ne!(live_proof(&site), expected);
    assert_eq!(proof(&site.status()), expected, "the record is not read from the tree");
    assert_ne!(published_proof(&site, &[]), expected);
}

#[test]
fn proof_follows_exclude_file_overrides_and_generation() {
    require!(ROOT_AND_RSYNC);

    let first = system();
    let site = Site::new();
    site.publish(&first);
    site.install_node();
    let mut rack = Tree::new();
    trees::put(&mut rack, "etc/motd", Item::file("rack 1\n"));
    trees::put(&mut rack, "etc/passwd", Item::file("root:x:0:0::/root:/bin/sh\nrack\n"));
    trees::write(&trees::with_parents(rack), &site.dir.path().join("overrides/rack"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
    command.args(["publish", "--quiet", "--override", "rack", "--repo"]).arg(site.repo());
    common::run(command.arg("--overrides-dir").arg(site.dir.path().join("overrides")));
    let excludes = site.dir.path().join("excludes");
    fs::write(&excludes, "+ /var/log/syslog\n/var/log/*\n*.tmp\n/etc/ssh/\n").expect("writes");
    let own = site.node().join("etc/systemimager/updateclient.local.exclude");
    trees::write_text(&own, &common::read(&excludes));
    let rules = ["--exclude-file", excludes.to_str().expect("UTF-8")];

    update(&site, &["--override", "rack"]);
    let with_override = published_proof(&site, &[&rules[..], &["--override", "rack"]].concat());
    assert_eq!(live_proof(&site), with_override);
    assert_ne!(published_proof(&site, &rules), with_override);

    site.publish(&with_file(&first, "usr/bin/tool", "a better tool"));
    let newer = published_proof(&site, &[&rules[..], &["--override", "rack"]].concat());
    assert_ne!(newer, with_override);
    let older = [&rules[..], &["--override", "rack=1", "--generation", "1"]].concat();
    assert_eq!(published_proof(&site, &older), with_override);
    update(&site, &["--override", "rack"]);
    assert_eq!(live_proof(&site), newer);
}

#[test]
fn mounts_of_kernel_do_not_change_proof_and_others_do() {
    require!(ROOT_AND_RSYNC, Program("mount"));

    let site = Site::at(&system());
    let equal = proof(&verify(&site, &[]).out);
    {
        let _kernel = ["dev", "run"].map(|place| Tmpfs::mount(&site.node().join(place)));
        let run = verify(&site, &[]);
        run.ended(0, &["equal to node"]);
        assert_eq!(proof(&run.out), equal);
    }
    let _other = Tmpfs::mount(&site.node().join("usr/lib"));

    let run = verify(&site, &[]);

    run.ended(0, &["3 tracked paths are hidden by mounts and not compared"]);
    assert_ne!(proof(&run.out), equal);
}

/// A mounted filesystem in memory; unmounted on drop.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path) -> Self {
        common::run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(at));
        Tmpfs(at.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}
