//! The switch: keys, heads, age, drift, and contents that were changed on the node.

use std::time::{Duration, Instant};

use super::*;
use crate::common::{ROOT_AND_RSYNC, judge, require};

#[test]
fn switch_repairs_drift_from_content_at_hand() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    fs::write(site.node().join("etc/version"), "local").expect("writes");
    fs::remove_file(site.node().join("usr/lib/moved-1")).expect("removes");
    common::run(Command::new("chmod").arg("600").arg(site.node().join("etc/motd")));
    disconnect(&site);

    switch(&site, &[]).ended(0, &["updated to node serial 2"]);

    site.same();
}

#[test]
fn drift_without_content_at_hand_is_left_out_and_repaired_by_networked_run() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    fs::write(site.node().join("etc/motd"), "changed on the node").expect("writes");
    disconnect(&site);

    switch(&site, &[]).ended(15, &["/etc/motd", "not on this node", "left out"]);
    judge::same(&site.image(), &site.node(), &["/etc/motd"]);
    reconnect(&site);

    site.updated(&[]);
    site.same();
}

#[test]
fn damaged_contents_are_refused_and_tree_is_unchanged() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    let content = systemimager::digest::Digest::of(b"version 2");
    fs::write(store(&site).join(format!("{content}.0")), "version X").expect("writes");

    site.refused(&["--from-downloaded"], 5, &["/etc/version", "--download-only"]);

    site.updated(&[]);
    site.same();
}

#[test]
fn content_with_other_times_is_read_again() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    for entry in fs::read_dir(store(&site)).expect("lists") {
        let path = entry.expect("an entry").path();
        common::run(Command::new("touch").arg(path));
    }
    disconnect(&site);

    switch(&site, &[]).ended(0, &[]);
    site.same();
}

#[test]
fn paused_head_means_not_now() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    let mut head = site.head();
    head.paused = true;
    fs::write(site.head_path(), head.to_toml().expect("text")).expect("writes");

    site.refused(&["--from-downloaded"], 16, &["paused updates of image node"]);

    assert!(has_record(&site));
}

#[test]
fn superseded_head_means_not_now() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    site.publish(&tree(3));

    site.refused(&["--from-downloaded"], 16, &["serial 3", "published since"]);
    assert!(has_record(&site));

    // Without an answer, the newest head that an earlier run has seen counts. The question records nothing.
    disconnect(&site);
    switch(&site, &[]).ended(0, &[]);
}

#[test]
fn newer_head_seen_before_means_not_now_without_server() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    site.publish(&tree(3));
    let hooks = site.node().join("etc/systemimager/hooks.d/pre-update.d");
    fs::create_dir_all(&hooks).expect("creates");
    common::write_program(&hooks.join("10-fail"), "#!/bin/sh\nexit 1\n");
    site.update(&[]).ended(14, &[]);
    disconnect(&site);

    switch(&site, &[]).ended(16, &["serial 3", "published since"]);

    assert!(has_record(&site));
}

#[test]
fn silent_server_delays_switch_by_one_second() {
    require!(ROOT_AND_RSYNC);
    let mut site = downloaded();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    site.repo_url = format!("http://{}/", listener.local_addr().expect("an address"));

    let start = Instant::now();
    switch(&site, &[]).ended(0, &["did not say in time"]);

    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    site.same();
}

#[test]
fn failed_question_for_newer_head_names_its_reason() {
    require!(ROOT_AND_RSYNC);
    type Question<'a> = (&'a dyn Fn(&mut Site), &'a str);
    let questions: [Question; 3] = [
        (&|site| site.repo_url = "http://127.0.0.1:1/".to_owned(), "connection refused"),
        (&|site| fs::remove_file(site.head_path()).expect("removes"), "there is no such file"),
        (&|site| fs::write(site.head_path(), "junk").expect("writes"), "the server's head"),
    ];
    for (change, reason) in questions {
        let mut site = downloaded();
        change(&mut site);

        let run = switch(&site, &[]);

        run.ended(0, &[reason, "installing it", "updated to node serial 2"]);
        assert!(!format!("{}{}", run.out, run.err).contains("in time"), "{run:#?}");
    }
}

#[test]
fn old_download_is_refused() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    let config = site.node().join("etc/systemimager/updateclient.toml");
    fs::create_dir_all(config.parent().expect("a parent")).expect("creates");
    fs::write(&config, "staged_max_age = 0\n").expect("writes");

    switch(&site, &[]).ended(5, &["staged_max_age", "--download-only"]);
    fs::write(&config, "staged_max_age = 5\n").expect("writes");
    set_date(&site, "2020-01-01T00:00:00Z");
    switch(&site, &[]).ended(5, &["more than 5 seconds ago", "staged_max_age"]);
    site.updated(&["--download-only"]);
    fs::write(&config, "staged_max_age = 60\n").expect("writes");
    switch(&site, &[]).ended(0, &[]);
}

#[test]
fn revoked_key_stops_switch() {
    require!(ROOT_AND_RSYNC);
    let site = Site::at(&tree(1));
    let key = site.dir.path().join("site");
    let tardiff = |arguments: &[&str]| {
        common::run(Command::new(env!("CARGO_BIN_EXE_si_tardiff")).args(arguments));
    };
    tardiff(&["keygen", "--no-passphrase", "--out", &key.display().to_string()]);
    let keys = site.node().join("etc/systemimager/keys");
    fs::create_dir_all(keys.join("revoked")).expect("creates");
    fs::copy(key.with_extension("pub"), keys.join("site.pub")).expect("copies");
    let _ = fs::remove_dir_all(site.image());
    trees::write(&tree(2), &site.image());
    let secret = key.with_extension("key").display().to_string();
    site.publish_image(&["--sign-key", &secret]);
    site.updated(&["--download-only"]);

    fs::copy(key.with_extension("pub"), keys.join("revoked/site.pub")).expect("copies");
    site.refused(&["--from-downloaded"], 3, &["the server is not trusted"]);

    fs::remove_file(keys.join("revoked/site.pub")).expect("removes");
    disconnect(&site);
    switch(&site, &[]).ended(0, &["updated to node serial 2"]);
}

#[test]
fn lost_directory_is_left_out_and_repaired_by_networked_run() {
    require!(ROOT_AND_RSYNC);
    let perl = |round: u64| {
        let mut tree = tree(round);
        for at in 0..6 {
            let path = format!("usr/share/perl5/Error/Simple-{at}.pm");
            trees::put(&mut tree, &path, Item::file(format!("package {at}")));
            let path = format!("usr/share/perl5/Error/deep/linked-{at}");
            let first = b"usr/share/perl5/Error/deep/first".to_vec();
            trees::put(&mut tree, &path, Item::new(trees::ItemKind::Link(first)));
        }
        trees::put(&mut tree, "usr/share/perl5/Error/deep/first", Item::file("linked"));
        trees::put(&mut tree, "usr/share/perl5/Error/new", Item::file(format!("new {round}")));
        trees::with_parents(tree)
    };
    let losses: [PathChange; 5] = [
        ("removed", &|path| fs::remove_dir_all(path).expect("removes")),
        ("moved", &|path| fs::rename(path, path.with_extension("old")).expect("renames")),
        ("file", &|path| {
            fs::remove_dir_all(path).expect("removes");
            fs::write(path, "file").expect("writes");
        }),
        ("symlink", &|path| {
            fs::rename(path, path.with_extension("old")).expect("renames");
            std::os::unix::fs::symlink("Error.old", path).expect("links");
        }),
        ("parent removed", &|path| {
            fs::remove_dir_all(path.parent().expect("a parent")).expect("removes");
        }),
    ];
    for (kind, lose) in losses {
        let site = Site::at(&perl(1));
        site.publish(&perl(2));
        site.updated(&["--download-only"]);
        lose(&site.node().join("usr/share/perl5/Error"));
        disconnect(&site);

        switch(&site, &[]).ended(15, &["Error/Simple-0.pm", "not on this node", "left out"]);
        let directory = site.node().join("usr/share/perl5/Error");
        assert!(fs::symlink_metadata(&directory).expect("is there").is_dir(), "{kind}");
        assert_eq!(common::read(&directory.join("new")), "new 2", "{kind}");
        assert!(!directory.join("Simple-0.pm").exists(), "{kind}");
        reconnect(&site);

        site.updated(&[]);
        let _ = fs::remove_dir_all(directory.with_extension("old"));
        judge::same(&site.image(), &site.node(), &["/usr/share/perl5"]);
        judge::same(
            &site.image().join("usr/share/perl5/Error"),
            &site.node().join("usr/share/perl5/Error"),
            &[],
        );
    }
}

#[test]
fn damaged_content_below_lost_directory_is_refused() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    let content = systemimager::digest::Digest::of(b"version 2");
    fs::write(store(&site).join(format!("{content}.0")), "version X").expect("writes");
    fs::remove_dir_all(site.node().join("etc")).expect("removes");

    site.refused(&["--from-downloaded"], 5, &["/etc/version", "--download-only"]);
}

#[test]
fn whole_lost_directory_of_root_is_left_out() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    fs::remove_dir_all(site.node().join("etc")).expect("removes");
    disconnect(&site);

    switch(&site, &[]).ended(15, &["/etc/motd", "left out"]);
    assert_eq!(common::read(&site.node().join("etc/version")), "version 2");
    reconnect(&site);

    site.updated(&[]);
    site.same();
}
