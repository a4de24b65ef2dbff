//! Keys that come with the image: exactly those of the image, and never none that is needed.

use std::os::unix::fs::symlink;

use super::routes::{client, cluster_text, publish_cluster};
use super::*;
use crate::common::site::Run;
use crate::common::{ROOT_AND_RSYNC, require};

/// A node at an image with the first of two keys, which has signed it.
fn rotating_site() -> (Site, SiteKey, SiteKey) {
    let site = Site::new();
    let (old, new) = (SiteKey::new(&site, "old"), SiteKey::new(&site, "new"));
    publish(&site, &with_keys(1, &[("old.pub", &old)]), &["--sign-key", &old.secret()]);
    site.install_node();
    site.updated(&["--adopt"]);
    (site, old, new)
}

/// Names of the key files of the node.
fn keys_of_node(site: &Site) -> Vec<String> {
    let top = site.node().join(KEYS);
    let mut names = Vec::new();
    for dir in ["", "head/", "revoked/"] {
        let Ok(entries) = fs::read_dir(top.join(dir)) else { continue };
        let files = entries.map(|entry| entry.expect("reads").file_name());
        let files = files.map(|name| format!("{dir}{}", name.to_string_lossy()));
        names.extend(files.filter(|name| name.ends_with(".pub")));
    }
    names.sort();
    names
}

/// Writes the exclude file of a node, and returns the arguments that use it.
fn exclude(site: &Site, rules: &str) -> [String; 2] {
    let path = site.dir.path().join("excludes");
    fs::write(&path, rules).expect("writes");
    ["--exclude-file".to_owned(), path.display().to_string()]
}

fn update(site: &Site, more: &[String]) -> Run {
    site.update(&more.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn keys_of_node_become_those_of_image_under_any_excludes() {
    require!(ROOT_AND_RSYNC);
    let rules = [
        "",
        "/etc/systemimager/*\n",
        "/etc/systemimager/\n",
        "/etc/systemimager/keys\n",
        "/etc/systemimager/keys/head/\n/etc/systemimager/**\n",
        "/etc/\n",
        "/etc/***\n",
        "systemimager\n",
        "*.pub\n",
    ];
    for rules in rules {
        let (site, old, new) = rotating_site();
        let excludes = exclude(&site, rules);
        SiteKey::new(&site, "stray").trust(&site, "");
        old.trust(&site, "head");
        let own = site.node().join(KEYS).join("node.key");
        fs::write(&own, "secret of the node").expect("writes");

        let both = [("old.pub", &old), ("new.pub", &new), ("head/new.pub", &new)];
        publish(&site, &with_keys(2, &both), &["--sign-key", &old.secret()]);
        update(&site, &excludes).ended(0, &[]);
        assert_eq!(keys_of_node(&site), ["head/new.pub", "new.pub", "old.pub"], "{rules}");

        publish(&site, &with_keys(3, &[("new.pub", &new)]), &["--sign-key", &new.secret()]);
        update(&site, &excludes).ended(0, &[]);
        assert_eq!(keys_of_node(&site), ["new.pub"], "{rules}");
        assert!(!site.node().join(KEYS).join("head").exists(), "{rules}");
        assert_eq!(fs::read_to_string(&own).expect("reads"), "secret of the node");
        let version = fs::read_to_string(site.node().join("etc/version")).expect("reads");
        let is_excluded = rules.starts_with("/etc/\n") || rules.starts_with("/etc/***");
        assert_eq!(version, if is_excluded { "version 1" } else { "version 3" }, "{rules}");
    }
}

#[test]
fn other_excluded_files_of_key_directory_stay() {
    require!(ROOT_AND_RSYNC);
    let (site, old, _) = rotating_site();
    let excludes = exclude(&site, "/etc/systemimager/*\n");
    let mut image = with_keys(2, &[("old.pub", &old)]);
    trees::put(&mut image, &format!("{KEYS}/node.key"), Item::file("of the golden client"));
    trees::put(&mut image, "etc/systemimager/client.conf", Item::file("of the golden client"));
    publish(&site, &image, &["--sign-key", &old.secret()]);

    update(&site, &excludes).ended(0, &[]);

    assert!(!site.node().join(KEYS).join("node.key").exists());
    assert!(!site.node().join("etc/systemimager/client.conf").exists());
}

#[test]
fn image_without_directory_of_keys_changes_none() {
    require!(ROOT_AND_RSYNC);
    let (site, old, _) = rotating_site();

    publish(&site, &tree(2), &["--sign-key", &old.secret()]);
    site.updated(&[]);

    assert_eq!(keys_of_node(&site), ["old.pub"]);
}

#[test]
fn sync_without_diff_makes_keys_those_of_image() {
    require!(ROOT_AND_RSYNC);
    let (site, old, new) = rotating_site();
    let site = site.with_rsync();
    SiteKey::new(&site, "stray").trust(&site, "");
    let keys = [("old.pub", &old), ("head/new.pub", &new)];
    publish(&site, &with_keys(2, &keys), &["--sign-key", &old.secret()]);

    let only = format!("/{KEYS}/head");
    client(&site, &["--image", "node", "--directory", &only]).ended(0, &[]);
    assert_eq!(keys_of_node(&site), ["head/new.pub", "old.pub", "stray.pub"]);
    client(&site, &["--image", "node"]).ended(0, &[]);
    assert_eq!(keys_of_node(&site), ["head/new.pub", "old.pub"]);
}

#[test]
fn unsigned_sync_brings_keys_of_image() {
    require!(ROOT_AND_RSYNC);
    let site = Site::at(&tree(1)).with_rsync();
    let new = SiteKey::new(&site, "new");
    let _ = fs::remove_dir_all(site.image());
    trees::write(&with_keys(2, &[("new.pub", &new)]), &site.image());

    client(&site, &["--image", "node"]).ended(0, &["this node has no public key"]);

    assert_eq!(keys_of_node(&site), ["new.pub"]);
    // From now on the node requires signatures.
    client(&site, &["--image", "node"]).ended(3, &["the head of image node: it is not signed"]);
}

#[test]
fn edited_key_is_repaired_at_any_drift_policy() {
    require!(ROOT_AND_RSYNC);
    let (site, old, new) = rotating_site();
    let both = [("old.pub", &old), ("new.pub", &new)];
    publish(&site, &with_keys(2, &both), &["--sign-key", &old.secret()]);
    site.updated(&[]);
    let stray = SiteKey::new(&site, "stray");
    let edited = site.node().join(KEYS).join("new.pub");
    fs::copy(stray.out.with_extension("pub"), &edited).expect("copies");

    publish(&site, &with_keys(3, &both), &["--sign-key", &old.secret()]);
    site.updated(&["--drift", "report"]);

    let text = fs::read(new.out.with_extension("pub")).expect("reads");
    assert_eq!(fs::read(edited).expect("reads"), text);
}

/// Publishes an image that the publisher would refuse: another key signs it afterwards.
fn publish_signed_by(site: &Site, tree: &Tree, image_key: &SiteKey, key: &SiteKey) {
    publish(site, tree, &["--sign-key", &image_key.secret()]);
    write_catalog(site, &read_catalog(site), (key, key));
}

/// Publishes a directory of files as an override, which brings keys as well.
fn publish_override(site: &Site, write: impl FnOnce(&Path), key: &SiteKey) {
    let source = site.dir.path().join("overrides");
    let tree = source.join("gpu");
    let _ = fs::remove_dir_all(&tree);
    fs::create_dir_all(tree.join(KEYS)).expect("creates");
    write(&tree);
    let (dir, secret) = (source.display().to_string(), key.secret());
    let words = ["publish", "--override", "gpu", "--overrides-dir", &dir, "--sign-key", &secret];
    tardiff(site, &words).ended(0, &[]);
}

#[test]
fn image_without_key_of_its_own_head_is_refused() {
    require!(ROOT_AND_RSYNC);
    let (site, old, new) = rotating_site();
    let revoked = [("old.pub", &old), ("new.pub", &new), ("revoked/old.pub", &old)];
    let refused = [
        (with_keys(2, &[("new.pub", &new)]), "not trusted here"),
        (with_keys(3, &revoked), "has been revoked"),
    ];
    for (image, words) in refused {
        publish_signed_by(&site, &image, &new, &old);

        let words = ["could not verify the head of image node any more", words];
        site.refused(&[], 3, &words);
        site.update(&["--dry-run"]).ended(3, &words);
    }
    assert_eq!(keys_of_node(&site), ["old.pub"]);

    publish(&site, &with_keys(4, &[("old.pub", &old)]), &["--sign-key", &old.secret()]);
    site.updated(&[]);
}

#[test]
fn image_that_drops_all_keys_is_refused() {
    require!(ROOT_AND_RSYNC);
    let (site, old, _) = rotating_site();

    // This program does not sign such an image.
    fs::remove_dir_all(site.repo()).expect("removes");
    publish(&site, &with_keys(2, &[]), &["--serial", "2"]);
    write_catalog(&site, &read_catalog(&site), (&old, &old));

    site.refused(&[], 3, &["could not verify the head of image node any more"]);
}

#[test]
fn publish_refuses_image_without_the_key_that_signs_it() {
    require!(ROOT_AND_RSYNC);
    let (site, old, new) = rotating_site();
    let head = fs::read(site.head_path()).expect("reads");
    let images = site.image().parent().expect("a parent").display().to_string();
    let (old_secret, new_secret) = (old.secret(), new.secret());
    let run = |more: &[&str]| {
        let words = ["publish", "--image", "node", "--images-dir", &images];
        tardiff(&site, &[&words, more].concat())
    };
    let _ = fs::remove_dir_all(site.image());
    trees::write(&with_keys(2, &[("new.pub", &new)]), &site.image());

    run(&["--sign-key", &old_secret]).ended(1, &["nodes would refuse it", "not trusted here"]);
    let keys = ["--sign-key", &new_secret, "--head-key", &old_secret, "--expires", "7d"];
    run(&keys).ended(1, &["nodes would refuse it", "not trusted here"]);
    assert_eq!(fs::read(site.head_path()).expect("reads"), head);

    run(&["--sign-key", &new_secret]).ended(0, &["serial 2"]);
    fs::write(site.image().join(KEYS).join("broken.pub"), "no key").expect("writes");
    run(&["--sign-key", &new_secret]).ended(1, &["broken.pub"]);
}

#[test]
fn publish_refuses_image_whose_key_directory_has_no_publish_key() {
    require!(ROOT_AND_RSYNC);
    let site = Site::new();
    let key = SiteKey::new(&site, "site");
    let images = site.image().parent().expect("a parent").display().to_string();
    let publish = ["publish", "--image", "node", "--images-dir", &images];
    let ca_file = format!("{KEYS}/ca.pem");
    let mut with_ca_file = with_keys(1, &[]);
    trees::put(&mut with_ca_file, &ca_file, Item::file("a certificate"));

    // Nodes of the last two images would require a signature, and could verify none.
    for (image, unsigned) in [
        (with_keys(1, &[]), 0),
        (with_ca_file, 0),
        (with_keys(1, &[("head/site.pub", &key)]), 1),
        (with_keys(1, &[("revoked/site.pub", &key)]), 1),
    ] {
        for directory in [site.image(), site.repo()] {
            let _ = fs::remove_dir_all(directory);
        }
        trees::write(&image, &site.image());

        let run = tardiff(&site, &[&publish[..], &["--sign-key", &key.secret()]].concat());
        run.ended(1, &["nodes make their keys exactly those", "add the NAME.pub"]);
        assert!(!site.head_path().exists());
        tardiff(&site, &publish).ended(unsigned, &[]);
    }
}

#[test]
fn keys_that_cannot_be_read_are_refused() {
    require!(ROOT_AND_RSYNC);
    let (site, old, _) = rotating_site();
    let write_bad = |top: PathBuf| fs::write(top.join("bad.pub"), "no key").expect("writes");
    let link_bad = |top: PathBuf| symlink("old.pub", top.join("bad.pub")).expect("links");
    let broken: [(&dyn Fn(PathBuf), &str); 2] =
        [(&write_bad, "bad.pub"), (&link_bad, "it is no regular file")];
    for (write, words) in broken {
        publish_override(&site, |top| write(top.join(KEYS)), &old);

        let words = ["cannot install the key", words];
        site.refused(&["--override", "gpu"], 3, &words);
        site.update(&["--override", "gpu", "--dry-run"]).ended(3, &words);
    }
}

#[test]
fn first_keys_have_to_verify_the_head_that_brings_them() {
    require!(ROOT_AND_RSYNC);
    let site = Site::at(&tree(1));
    let key = SiteKey::new(&site, "site");

    let image = with_keys(2, &[("site.pub", &key)]);
    publish_signed_by(&site, &image, &key, &SiteKey::new(&site, "other"));
    site.refused(&[], 3, &["could not verify the head of image node", "not trusted here"]);

    publish(&site, &with_keys(3, &[("site.pub", &key)]), &["--sign-key", &key.secret()]);
    site.updated(&[]);
    assert_eq!(keys_of_node(&site), ["site.pub"]);
    publish(&site, &with_keys(4, &[("site.pub", &key)]), &["--sign-key", &key.secret()]);
    site.updated(&[]);
}

#[test]
fn key_of_override_is_needed_too() {
    require!(ROOT_AND_RSYNC);
    let (site, old, new) = rotating_site();
    let write = |text: &'static str| {
        move |top: &Path| fs::write(top.join("etc/gpu"), text).expect("writes")
    };
    publish_override(&site, write("on"), &old);
    let both = [("old.pub", &old), ("new.pub", &new)];
    publish(&site, &with_keys(2, &both), &["--sign-key", &old.secret()]);
    site.updated(&["--override", "gpu"]);

    publish(&site, &with_keys(3, &[("new.pub", &new)]), &["--sign-key", &new.secret()]);
    site.refused(&["--override", "gpu"], 3, &["could not verify the head of override gpu"]);

    publish_override(&site, write("off"), &new);
    site.updated(&["--override", "gpu"]);
    assert_eq!(keys_of_node(&site), ["new.pub"]);
}

#[test]
fn image_without_key_of_cluster_is_refused() {
    require!(ROOT_AND_RSYNC);
    let (site, old, new) = rotating_site();
    let assign = |key: &SiteKey| {
        publish_cluster(&site, &cluster_text("node"), &["--sign-key", &key.secret()])
            .ended(0, &["published cluster.txt"]);
    };
    let host = |mut tree: Tree| {
        trees::put(&mut tree, "etc/hostname", Item::file("node1\n"));
        tree
    };
    let both = host(with_keys(2, &[("old.pub", &old), ("new.pub", &new)]));
    publish(&site, &both, &["--sign-key", &old.secret()]);
    site.updated(&[]);
    assign(&old);
    publish(&site, &host(with_keys(3, &[("new.pub", &new)])), &["--sign-key", &new.secret()]);
    let before = site.snapshot();

    let words = ["could not verify the head of cluster.txt any more", "not trusted here"];
    client(&site, &["--diff"]).ended(3, &words);
    client(&site, &["--diff", "--dry-run"]).ended(3, &words);
    site.unchanged_since(&before);

    let keys = ["--sign-key", &new.secret(), "--trusted-key", &old.public()];
    tardiff(&site, &[&["sign", "--cluster"], &keys[..]].concat()).ended(0, &[]);
    client(&site, &["--diff"]).ended(0, &[]);
    assert_eq!(keys_of_node(&site), ["new.pub"]);
    client(&site, &["--diff"]).ended(0, &[]);
}

#[test]
fn rollback_keeps_key_of_newest_head_and_revocations() {
    require!(ROOT_AND_RSYNC);
    let (site, old, new) = rotating_site();
    let stolen = SiteKey::new(&site, "stolen");
    let all = [("old.pub", &old), ("next.pub", &new), ("site.pub", &stolen)];
    publish(&site, &with_keys(2, &all), &["--sign-key", &old.secret()]);
    site.updated(&[]);
    // The new key takes the place of another one, so that a rollback would replace it.
    let rotated = [("site.pub", &new), ("revoked/stolen.pub", &stolen)];
    publish(&site, &with_keys(3, &rotated), &["--sign-key", &new.secret()]);
    site.updated(&[]);
    assert_eq!(keys_of_node(&site), ["revoked/stolen.pub", "site.pub"]);

    site.rollback(&[]).ended(0, &[]);

    assert_eq!(keys_of_node(&site), ["next.pub", "old.pub", "revoked/stolen.pub", "site.pub"]);
    let kept = fs::read(site.node().join(KEYS).join("site.pub")).expect("reads");
    assert_eq!(kept, fs::read(new.out.with_extension("pub")).expect("reads"));
    let version = fs::read_to_string(site.node().join("etc/version")).expect("reads");
    assert_eq!(version, "version 2");

    publish(&site, &with_keys(4, &rotated), &["--sign-key", &new.secret()]);
    site.updated(&[]);
    site.same();
}

#[test]
fn old_image_that_is_published_again_keeps_key_of_newest_head() {
    require!(ROOT_AND_RSYNC);
    let (site, old, new) = rotating_site();
    let stolen = SiteKey::new(&site, "stolen");
    let rotated = [("new.pub", &new), ("revoked/stolen.pub", &stolen)];
    let both = [("old.pub", &old), ("new.pub", &new)];
    publish(&site, &with_keys(2, &both), &["--sign-key", &old.secret()]);
    site.updated(&[]);
    publish(&site, &with_keys(3, &rotated), &["--sign-key", &new.secret()]);
    site.updated(&[]);

    // The image of the first publish has neither the new key nor the revocation.
    publish(&site, &with_keys(1, &[("old.pub", &old)]), &["--sign-key", &new.secret()]);
    site.updated(&[]);
    assert_eq!(keys_of_node(&site), ["new.pub", "old.pub", "revoked/stolen.pub"]);
    let version = fs::read_to_string(site.node().join("etc/version")).expect("reads");
    assert_eq!(version, "version 1");

    publish(&site, &with_keys(5, &rotated), &["--sign-key", &new.secret()]);
    site.updated(&[]);
    site.same();
}

#[test]
fn downgrade_keeps_key_of_newest_head() {
    require!(ROOT_AND_RSYNC);
    let (site, old, new) = rotating_site();
    publish(&site, &with_keys(2, &[("old.pub", &old)]), &["--sign-key", &old.secret()]);
    site.updated(&[]);
    let older = fs::read(site.head_path()).expect("reads");
    new.trust(&site, "");
    let both = [("old.pub", &old), ("new.pub", &new)];
    publish(&site, &with_keys(3, &both), &["--sign-key", &new.secret()]);
    site.updated(&[]);

    fs::write(site.head_path(), older).expect("writes");
    site.updated(&["--allow-downgrade"]);

    assert_eq!(keys_of_node(&site), ["new.pub", "old.pub"]);
}

#[test]
fn revocation_by_administrator_survives_updates() {
    require!(ROOT_AND_RSYNC);
    let (site, old, new) = rotating_site();
    let stolen = SiteKey::new(&site, "stolen");
    stolen.trust(&site, "revoked");
    let keys = [("old.pub", &old), ("new.pub", &new), ("revoked/lost.pub", &stolen)];

    publish(&site, &with_keys(2, &keys), &["--sign-key", &old.secret()]);
    site.updated(&[]);
    assert_eq!(
        keys_of_node(&site),
        ["new.pub", "old.pub", "revoked/lost.pub", "revoked/stolen.pub"]
    );

    // One that came with an image is removed by a newer image.
    publish(&site, &with_keys(3, &keys[..2]), &["--sign-key", &old.secret()]);
    site.updated(&[]);
    assert_eq!(keys_of_node(&site), ["new.pub", "old.pub", "revoked/stolen.pub"]);
}
