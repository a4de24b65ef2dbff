//! Routes to root beside the update by diffs: each is signed, or refused.

use super::*;
use crate::common::{ROOT_AND_RSYNC, require};

/// Text of a `cluster.txt` that assigns `image` to the node of a test.
fn cluster_text(image: &str) -> String {
    format!("# global_override=::\nnode1:all:{image}:\n")
}

/// Publishes a `cluster.txt`.
fn publish_cluster(site: &Site, text: &str, more: &[&str]) -> common::site::Run {
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
