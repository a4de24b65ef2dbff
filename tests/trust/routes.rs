//! Routes to root beside the update by diffs: each is signed, or refused.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::common::{ROOT_AND_RSYNC, require};

/// Text of a `cluster.txt` that assigns `image` to the node of a test.
pub(crate) fn cluster_text(image: &str) -> String {
    format!("# global_override=::\nnode1:all:{image}:\n")
}

/// Publishes a `cluster.txt`.
pub(crate) fn publish_cluster(site: &Site, text: &str, more: &[&str]) -> common::site::Run {
    let file = site.dir.path().join("cluster.txt");
    fs::write(&file, text).expect("writes");
    tardiff(site, &[&["publish", "--cluster", &file.display().to_string()], more].concat())
}

fn cluster_head(site: &Site) -> Head {
    let bytes = fs::read(site.repo().join("cluster/head.toml")).expect("reads");
    let text = SignedText::split(&bytes).expect("divides").unverified_text();
    Head::parse(text, &systemimager::image::Layer::Cluster).expect("parses")
}

#[test]
fn cluster_is_published_like_an_image() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let sign = ["--sign-key", &key.secret()];

    publish_cluster(&site, &cluster_text("node"), &sign)
        .ended(0, &["published cluster.txt serial 1"]);
    publish_cluster(&site, &cluster_text("node"), &sign).ended(0, &["has not changed"]);
    publish_cluster(&site, &cluster_text("other"), &[]).ended(1, &["its catalog is signed"]);
    publish_cluster(&site, "node1:all:../other:\n", &sign).ended(1, &["cluster.txt:1: "]);
    publish_cluster(&site, &cluster_text("other"), &sign).ended(0, &["serial 2"]);
    publish_cluster(&site, &cluster_text("other"), &[&sign[..], &["--serial", "9"]].concat())
        .ended(0, &["serial 9"]);

    let cluster = site.repo().join("cluster");
    let file = |text: &str| {
        let sha256 = systemimager::digest::Digest::of(text.as_bytes()).to_string();
        cluster.join(format!("files/{}.txt", &sha256[..32]))
    };
    let published = fs::read_to_string(file(&cluster_text("other"))).expect("reads");
    assert_eq!(published, cluster_text("other"));
    tardiff(&site, &["list"]).ended(0, &["cluster.txt: ", "serial 9", "catalog signed by"]);
    tardiff(&site, &["verify"]).ended(0, &["0 faults"]);
}

#[test]
fn cluster_is_signed_refreshed_and_pruned() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let sign = ["--sign-key", &key.secret()];
    publish_cluster(&site, &cluster_text("node"), &[]).ended(0, &[]);

    tardiff(&site, &[&["sign", "--cluster", "--expires", "2h"], &sign[..]].concat())
        .ended(0, &["signed the head of cluster.txt: serial 1.1"]);
    let before = cluster_head(&site);
    tardiff(&site, &[&["refresh", "--cluster"], &sign[..]].concat()).ended(0, &["refreshed"]);
    assert!(cluster_head(&site).expires > before.expires);

    publish_cluster(&site, &cluster_text("other"), &sign).ended(0, &["serial 2"]);
    let prune = ["prune", "--cluster", "--keep", "1", "--grace", "0"];
    tardiff(&site, &[&prune[..], &sign[..]].concat()).ended(0, &["0 generations, 3 files"]);
    tardiff(&site, &["verify", "--cluster"]).ended(0, &["1 content of the head: 0 faults"]);

    let files = fs::read_dir(site.repo().join("cluster/files")).expect("reads");
    let file = files.map(|file| file.expect("a file").path()).next().expect("a file");
    fs::write(file, "node1:all:evil:\n").expect("writes");
    tardiff(&site, &["verify"]).ended(1, &["FAULT: cluster.txt: "]);
}

/// Runs the client with the repository and the rsync daemon of the site, and `words`.
pub(crate) fn client(site: &Site, words: &[&str]) -> common::site::Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    command.args(["--yes", "--exclude-file", "/dev/null", "--repo", &site.repo_url, "--root"]);
    command.arg(site.node());
    if let Some(port) = site.rsync_port() {
        command.args(["--server", "127.0.0.1", "--rsync-port", &port.to_string()]);
    }
    common::site::Run::from_output(command.args(words).output().expect("runs"))
}

/// Asserts that a run is refused for trust, with `words`, and changes nothing.
#[track_caller]
fn client_refused(site: &Site, arguments: &[&str], words: &[&str]) {
    let before = site.snapshot();
    client(site, arguments).ended(3, words);
    site.unchanged_since(&before);
}

/// A signed site with a `cluster.txt` in the module `scripts`, and node `node1`.
fn site_with_scripts(assigned: &str) -> (Site, SiteKey) {
    let (site, key) = signed_site();
    let scripts = site.dir.path().join("scripts");
    fs::create_dir(&scripts).expect("creates");
    fs::write(scripts.join("cluster.txt"), cluster_text(assigned)).expect("writes");
    fs::write(site.node().join("etc/hostname"), "node1\n").expect("writes");
    (site.with_rsync(), key)
}

/// Replaces the head of the cluster.
fn write_cluster_head(site: &Site, head: &Head, key: &SiteKey) {
    let bytes = key.sign(&head.to_toml().expect("text"));
    fs::write(site.repo().join("cluster/head.toml"), bytes).expect("writes");
}

#[test]
fn signed_cluster_replaces_that_of_daemon() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = site_with_scripts("evil");
    client_refused(&site, &["--diff"], &["cluster.txt is not published", "--cluster FILE"]);
    publish_cluster(&site, &cluster_text("node"), &[]).ended(0, &[]);
    client_refused(&site, &["--diff"], &["the head of cluster.txt: it is not signed"]);
    let sign = ["sign", "--cluster", "--sign-key", &key.secret()];
    tardiff(&site, &sign).ended(0, &["signed the head"]);
    publish(&site, &tree(2), &["--sign-key", &key.secret()]);

    client(&site, &["--diff"]).ended(0, &["cluster.txt assigns image node"]);
    site.same_except(&["/etc/systemimager", "/etc/hostname"]);
}

#[test]
fn cluster_attacks_are_refused() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = site_with_scripts("node");
    let cluster = site.repo().join("cluster");
    publish_cluster(&site, &cluster_text("old"), &["--sign-key", &key.secret()]).ended(0, &[]);
    let old = cluster_head(&site);
    publish_cluster(&site, &cluster_text("node"), &["--sign-key", &key.secret()]).ended(0, &[]);
    client(&site, &["--diff"]).ended(0, &[]);
    let genuine = fs::read(cluster.join("head.toml")).expect("reads");

    // A head of before, with the time of today.
    write_cluster_head(&site, &Head { issued: jiff::Timestamp::now(), ..old }, &key);
    client_refused(&site, &["--diff"], &["serial 1 of cluster.txt", "has seen 2"]);

    let mallory = SiteKey::new(&site, "mallory");
    let text = SignedText::split(&genuine).expect("divides").unverified_text().to_vec();
    fs::write(cluster.join("head.toml"), mallory.sign(&String::from_utf8(text).expect("text")))
        .expect("writes");
    client_refused(&site, &["--diff"], &["not trusted here"]);

    // The image in place of the cluster, and the cluster in place of the image.
    let away = site.dir.path().join("away");
    fs::rename(&cluster, &away).expect("renames");
    common::copy_tree(&site.repo().join("node"), &cluster);
    client_refused(&site, &["--diff"], &["of image node, not that of cluster.txt"]);
    fs::remove_dir_all(&cluster).expect("removes");
    fs::rename(&away, &cluster).expect("renames");
    let image = fs::read(site.head_path()).expect("reads");
    fs::write(site.head_path(), &genuine).expect("writes");
    client_refused(&site, &["--diff", "--image", "node"], &["of cluster.txt, not that of image"]);
    fs::write(site.head_path(), image).expect("writes");

    fs::write(cluster.join("head.toml"), &genuine).expect("writes");
    client(&site, &["--diff"]).ended(0, &[]);
}

/// Issues the head of the cluster as it was three weeks ago, for one week.
fn expire_cluster(site: &Site, key: &SiteKey) {
    let issued = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24 * 21);
    let expires = Some(issued + jiff::SignedDuration::from_hours(24 * 7));
    write_cluster_head(site, &Head { issued, expires, ..cluster_head(site) }, key);
}

#[test]
fn expired_cluster_repairs_recorded_generation_and_installs_no_other() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = site_with_scripts("node");
    let sign = ["--sign-key", &key.secret()];
    let first = fs::read(site.head_path()).expect("reads");
    let version = site.node().join("etc/version");
    publish_cluster(&site, &cluster_text("other"), &sign).ended(0, &[]);
    expire_cluster(&site, &key);
    let checked = ["--diff", "--image", "node", "--check=content"];
    client(&site, &checked).ended(0, &["repaired: /etc/hostname"]);

    // The newest image is the recorded one, then a newer one, then one of a mirror that is behind.
    for round in 1..=3 {
        if round == 2 {
            publish(&site, &tree(2), &sign);
        } else if round == 3 {
            fs::write(site.head_path(), &first).expect("writes");
        }
        for mode in [&["--diff"][..], &[]] {
            let checked = [mode, &["--check=content"]].concat();
            let words =
                ["cluster.txt expired at", "--allow-expired", "keeps its recorded image node"];
            client_refused(&site, mode, &words);
            client_refused(&site, &checked, &words);
            fs::write(&version, "damaged").expect("writes");
            client(&site, &checked).ended(0, &["cluster.txt expired at", "only compared"]);
            assert_eq!(fs::read_to_string(&version).expect("reads"), "version 1");
        }
    }
    client_refused(&site, &["--directory", "/etc"], &["cluster.txt expired at"]);
    client_refused(&site, &["--diff", "--adopt"], &["cluster.txt expired at"]);
    fs::write(site.node().join("etc/hostname"), "node1\n").expect("writes");
    client(&site, &["--diff", "--allow-expired"]).ended(4, &["assigns image other"]);
}

#[test]
fn cluster_that_is_not_fresh_needs_record_or_image() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = site_with_scripts("node");
    let sign = ["--sign-key", &key.secret()];
    publish_cluster(&site, &cluster_text("old"), &sign).ended(0, &[]);
    let old = cluster_head(&site);
    publish_cluster(&site, &cluster_text("node"), &sign).ended(0, &[]);
    let newest = cluster_head(&site);
    client(&site, &["--diff"]).ended(0, &[]);
    fs::remove_file(site.node().join("var/lib/systemimager/client/state.toml")).expect("removes");

    write_cluster_head(&site, &old, &key);
    for mode in [&["--diff"][..], &[]] {
        client_refused(&site, mode, &["older cluster.txt", "pass --image"]);
    }
    write_cluster_head(&site, &newest, &key);
    publish_cluster(&site, &cluster_text("other"), &sign).ended(0, &[]);
    expire_cluster(&site, &key);
    for mode in [&["--diff"][..], &[]] {
        client_refused(&site, mode, &["the head of cluster.txt expired at", "pass --image"]);
        client(&site, &[mode, &["--image", "node"]].concat()).ended(0, &[]);
        fs::remove_file(site.node().join("var/lib/systemimager/client/state.toml"))
            .expect("removes");
    }
}

#[test]
fn stale_cluster_keeps_recorded_assignment() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = site_with_scripts("node");
    let sign = ["--sign-key", &key.secret()];
    publish_cluster(&site, &cluster_text("old"), &sign).ended(0, &[]);
    let old = cluster_head(&site);
    publish_cluster(&site, &cluster_text("node"), &sign).ended(0, &[]);
    client(&site, &["--diff"]).ended(0, &[]);

    write_cluster_head(&site, &old, &key);
    for (round, mode) in [(2, &["--diff"][..]), (3, &[])] {
        publish(&site, &tree(round), &sign);
        client(&site, mode).ended(0, &["nothing new", "keeps its recorded image node"]);
        site.same_except(&["/etc/systemimager", "/etc/hostname"]);
        client(&site, mode).ended(0, &["keeps its recorded image node"]);
        fs::write(site.node().join("etc/hostname"), "node1\n").expect("writes");
    }
}

#[test]
fn altered_cluster_file_is_refused() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = site_with_scripts("node");
    publish_cluster(&site, &cluster_text("node"), &["--sign-key", &key.secret()]).ended(0, &[]);
    let sha256 = systemimager::digest::Digest::of(cluster_text("node").as_bytes()).to_string();
    let file = site.repo().join(format!("cluster/files/{}.txt", &sha256[..32]));
    fs::write(file, cluster_text("evil")).expect("writes");

    client_refused(&site, &["--diff"], &["digest"]);
}

#[test]
fn node_without_key_asks_daemon_for_cluster_first() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = site_with_scripts("node");
    key.distrust(&site);
    publish_cluster(&site, &cluster_text("other"), &["--sign-key", &key.secret()]).ended(0, &[]);

    client(&site, &["--diff"]).ended(0, &["assigns image node"]);

    // Without a daemon in the configuration, the published one is used.
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    command.args(["--yes", "--diff", "--exclude-file", "/dev/null", "--repo", &site.repo_url]);
    let output = command.arg("--root").arg(site.node()).output().expect("runs");
    common::site::Run::from_output(output).ended(4, &["assigns image other"]);
}

#[test]
fn sync_without_diff_installs_signed_generation() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let site = site.with_rsync();
    publish(&site, &tree(2), &["--sign-key", &key.secret()]);
    fs::write(site.node().join("etc/untracked"), "of the node").expect("writes");
    client(&site, &["--image", "node", "--dry-run"]).ended(0, &["etc/version", "etc/untracked"]);
    assert!(site.node().join("etc/untracked").exists());

    client(&site, &["--image", "node"]).ended(0, &["the newest signed generation"]);

    site.same_except(&["/etc/systemimager"]);
    assert!(site.status().contains("serial:      2"), "{}", site.status());
    site.updated(&[]).ended(0, &["is up to date: serial 2"]);
}

#[test]
fn unsigned_changes_of_rsync_module_are_not_installed() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let site = site.with_rsync();
    publish(&site, &tree(2), &["--sign-key", &key.secret()]);
    let published = site.dir.path().join("published");
    common::copy_tree(&site.image(), &published);
    let image = site.image();
    fs::write(image.join("etc/version"), "version 6").expect("writes");
    fs::write(image.join("etc/backdoor"), "of an attacker").expect("writes");
    common::run(Command::new("chmod").arg("4777").arg(image.join("etc/version")));
    common::run(Command::new("chmod").arg("0777").arg(image.join("etc")));
    let overruled = image.join("etc/systemimager/updateclient.local.exclude");
    fs::create_dir_all(overruled.parent().expect("a parent")).expect("creates");
    fs::write(overruled, "/etc\n").expect("writes");

    client(&site, &["--image", "node"]).ended(0, &["the newest signed generation"]);

    common::judge::same(&published, &site.node(), &["/etc/systemimager"]);
}

#[test]
fn sync_without_diff_needs_a_signed_image() {
    require!(ROOT_AND_RSYNC);
    let site = Site::at(&tree(1)).with_rsync();
    let key = SiteKey::new(&site, "site");
    key.trust(&site, "");

    client_refused(&site, &["--image", "node"], &["the head of image node: it is not signed"]);
    client_refused(&site, &["--image", "other"], &["image other is not published in file://"]);

    let port = site.rsync_port().expect("a daemon").to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    command.args(["--yes", "--server", "127.0.0.1:1", "--rsync-port", &port, "--image", "node"]);
    let before = site.snapshot();
    let run = common::site::Run::from_output(
        command.arg("--root").arg(site.node()).output().expect("runs"),
    );
    run.ended(3, &["the image server has no repository that could be signed", "--repo"]);
    site.unchanged_since(&before);
}

#[test]
fn signed_sync_obeys_directory_and_no_delete() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let site = site.with_rsync();
    let mut next = tree(2);
    trees::put(&mut next, "usr/version", Item::file("version 2"));
    trees::put(&mut next, "usr/lib/app/one.py", Item::file("one"));
    trees::put(&mut next, "usr/lib", Item::dir().mode(0o700));
    publish(&site, &next, &["--sign-key", &key.secret()]);
    let node = site.node();
    fs::write(node.join("etc/untracked"), "of the node").expect("writes");

    client(&site, &["--image", "node", "--directory", "/wonder"]).ended(2, &["no such directory"]);
    client(&site, &["--image", "node", "--directory", "/etc", "--no-delete"]).ended(0, &[]);
    let version = fs::read_to_string(node.join("etc/version")).expect("reads");
    assert_eq!(version, "version 2");
    assert!(node.join("etc/untracked").exists() && !node.join("usr/version").exists());
    // The tree has parts of two generations.
    assert!(site.status().contains("nothing is recorded"), "{}", site.status());

    // Directories above the requested one keep their metadata.
    client(&site, &["--image", "node", "--directory", "/usr/lib/app"]).ended(0, &[]);
    assert_eq!(fs::read_to_string(node.join("usr/lib/app/one.py")).expect("reads"), "one");
    let mode = fs::metadata(node.join("usr/lib")).expect("exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);

    client(&site, &["--image", "node", "--directory", "/etc"]).ended(0, &[]);
    assert!(!node.join("etc/untracked").exists() && !node.join("usr/version").exists());
    client(&site, &["--image", "node"]).ended(0, &[]);
    site.same_except(&["/etc/systemimager"]);
}

#[test]
fn exclude_file_comes_from_signed_manifest() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let site = site.with_rsync();
    let file = "etc/systemimager/updateclient.local.exclude";
    let mut next = tree(2);
    trees::put(&mut next, "etc/systemimager", Item::dir());
    trees::put(&mut next, file, Item::file("/srv/\n"));
    publish(&site, &next, &["--sign-key", &key.secret()]);
    fs::write(site.image().join(file), "/etc/\n/srv/\n").expect("writes");
    let port = site.rsync_port().expect("a daemon").to_string();

    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    command.args(["--yes", "--server", "127.0.0.1", "--rsync-port", &port, "--image", "node"]);
    command.args(["--repo", &site.repo_url, "--root"]).arg(site.node());
    let run = common::site::Run::from_output(command.output().expect("runs"));

    run.ended(0, &["exclude"]);
    assert_eq!(fs::read_to_string(site.node().join(file)).expect("reads"), "/srv/\n");
    let version = fs::read_to_string(site.node().join("etc/version")).expect("reads");
    assert_eq!(version, "version 2");
}

#[test]
fn override_of_signed_sync_has_to_be_signed() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let overrides = site.dir.path().join("overrides");
    fs::create_dir_all(overrides.join("gpu/etc")).expect("creates");
    fs::write(overrides.join("gpu/etc/gpu"), "a driver").expect("writes");
    let site = site.with_rsync();
    let arguments = ["--image", "node", "--override", "gpu"];
    let hint = ["override gpu is not published", "publish --override gpu"];
    client_refused(&site, &arguments, &hint);
    client_refused(&site, &[&["--diff"], &arguments[..]].concat(), &hint);

    let directory = overrides.display().to_string();
    let words = ["publish", "--override", "gpu", "--overrides-dir", &directory];
    tardiff(&site, &words).ended(0, &[]);
    client_refused(&site, &arguments, &["the head of override gpu: it is not signed"]);
    tardiff(&site, &["sign", "--override", "gpu", "--sign-key", &key.secret()]).ended(0, &[]);

    client(&site, &arguments).ended(0, &["node with gpu, serial 1"]);
    assert_eq!(fs::read_to_string(site.node().join("etc/gpu")).expect("reads"), "a driver");
}

#[test]
fn dry_run_with_signed_cluster_changes_nothing() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = site_with_scripts("node");
    publish_cluster(&site, &cluster_text("node"), &["--sign-key", &key.secret()]).ended(0, &[]);
    publish(&site, &tree(2), &["--sign-key", &key.secret()]);
    let before = site.snapshot();

    client(&site, &["--diff", "--dry-run"]).ended(0, &["assigns image node", "etc/version"]);

    site.unchanged_since(&before);
}

#[test]
fn sync_without_diff_needs_a_fresh_head() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let site = site.with_rsync();
    let old = fs::read(site.head_path()).expect("reads");
    publish(&site, &tree(2), &["--sign-key", &key.secret()]);
    let head = read_head(&site);
    let past = |hours| jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours);
    write_head(&site, &Head { issued: past(2), expires: Some(past(1)), ..head.clone() }, &key);

    client_refused(&site, &["--image", "node"], &["expired", "--allow-expired"]);
    client(&site, &["--image", "node", "--allow-expired"]).ended(0, &[]);
    site.same_except(&["/etc/systemimager"]);

    // A mirror that is behind, and a replayed head with the time of today.
    write_head(&site, &head, &key);
    client(&site, &["--image", "node"]).ended(0, &[]);
    fs::write(site.head_path(), &old).expect("writes");
    client(&site, &["--image", "node"]).ended(0, &["this node has seen a newer one"]);
    let issued = jiff::Timestamp::now();
    let text = SignedText::split(&old).expect("divides").unverified_text();
    let replayed = Head { issued, ..Head::parse(text, &layer()).expect("parses") };
    write_head(&site, &replayed, &key);
    client_refused(&site, &["--image", "node"], &["offers serial 1 of image node"]);
}

#[test]
fn signed_sync_leaves_pinned_generation_out() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let site = site.with_rsync();
    publish(&site, &tree(2), &["--sign-key", &key.secret()]);
    client(&site, &["--image", "node"]).ended(0, &[]);
    site.rollback(&["--exclude-file", "/dev/null"]).ended(0, &[]);

    client(&site, &["--image", "node"]).ended(12, &["--unhold"]);
    client(&site, &["--image", "node", "--unhold"]).ended(0, &[]);

    site.same_except(&["/etc/systemimager"]);
}
