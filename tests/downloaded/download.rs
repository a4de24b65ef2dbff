//! The download: it keeps contents, and changes nothing else.

use super::*;
use crate::common::{ROOT_AND_RSYNC, judge, require};

#[test]
fn download_changes_no_path_and_switch_fetches_nothing() {
    require!(ROOT_AND_RSYNC);
    let site = Site::at(&trees::everything());
    site.publish(&trees::mutate(&trees::everything(), 1));
    let before = site.snapshot();

    site.updated(&["--download-only"]).ended(0, &["downloaded node serial 2", "on disk"]);
    site.unchanged_since(&before);
    assert!(has_record(&site));
    disconnect(&site);

    switch(&site, &[]).ended(0, &["using the downloaded update", "updated to node serial 2"]);
    site.same();
    assert!(!store(&site).exists());

    site.rollback(&[]).ended(0, &["rolled back"]);
    judge::same(&before, &site.node(), &[]);
}

#[test]
fn download_of_installed_generation_keeps_nothing() {
    require!(ROOT_AND_RSYNC);
    let site = Site::at(&tree(1));

    site.updated(&["--download-only"]).ended(0, &["is up to date"]);

    assert!(!store(&site).exists());
    switch(&site, &[]).ended(0, &["there is no downloaded update"]);
}

#[test]
fn second_download_of_same_target_renews_date_and_keeps_contents() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    set_date(&site, "2020-01-01T00:00:00Z");
    let before = files(&site);
    switch(&site, &[]).ended(5, &["staged_max_age", "--download-only"]);

    site.updated(&["--download-only", "--dry-run"]);
    switch(&site, &[]).ended(5, &["staged_max_age"]);
    site.updated(&["--download-only"]).ended(0, &["downloaded node serial 2"]);

    assert_eq!(files(&site), before);
    disconnect(&site);
    switch(&site, &[]).ended(0, &["updated to node serial 2"]);
    site.same();
}

#[test]
fn second_download_keeps_heads_that_were_written_since() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    let before = files(&site);
    let mut head = site.head();
    head.issued = jiff::Timestamp::now();
    let text = head.to_toml().expect("text");
    fs::write(site.head_path(), &text).expect("writes");

    site.updated(&["--download-only"]).ended(0, &["downloaded node serial 2"]);

    let stored = systemimager::digest::Digest::of(text.as_bytes());
    let now = files(&site);
    assert!(now.contains_key(&format!("data-{stored}")), "{now:?}");
    assert_eq!(now.len(), before.len(), "the old head is removed: {now:?}");
    disconnect(&site);
    switch(&site, &[]).ended(0, &["updated to node serial 2"]);
    site.same();
}

#[test]
fn download_of_newer_head_replaces_older_one_and_uses_its_contents() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    let inode = |path: PathBuf| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).expect("is there").ino()
    };
    let kept = systemimager::digest::Digest::of(b"only 2");
    let before = inode(store(&site).join(format!("{kept}.0")));
    let mut third = tree(3);
    trees::put(&mut third, "opt/only-2", Item::file("only 2"));
    site.publish(&third);

    site.updated(&["--download-only"]).ended(0, &["downloaded node serial 3"]);

    assert_eq!(inode(store(&site).join(format!("{kept}.0"))), before);
    let gone = systemimager::digest::Digest::of(b"version 2");
    assert!(!store(&site).join(format!("{gone}.0")).exists());
    disconnect(&site);
    switch(&site, &[]).ended(0, &["serial 3"]);
    site.same();
}

#[test]
fn download_without_recorded_generation_is_installed() {
    require!(ROOT_AND_RSYNC);
    let site = Site::new();
    site.publish(&tree(1));
    site.install_node();
    site.publish(&tree(2));

    site.updated(&["--download-only"]);
    disconnect(&site);

    switch(&site, &[]).ended(0, &["serial 2"]);
    site.same();
}

#[test]
fn options_of_both_steps_exclude_each_other() {
    require!(ROOT_AND_RSYNC);
    let site = behind();

    for options in [
        &["--diff", "--download-only", "--from-downloaded"][..],
        &["--download-only"],
        &["--from-downloaded"],
        &["--diff", "--download-only", "--adopt"],
    ] {
        client(&site, options).ended(2, &[]);
    }
}

#[test]
fn failed_output_of_download_claims_no_change_of_tree() {
    require!(ROOT_AND_RSYNC);
    let site = behind();
    let mut command = site.command();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("opens");
    command.arg("--download-only").stdout(full);

    let run = Run::from_output(command.output().expect("runs"));

    run.ended(0, &["cannot write to standard output", "the update is downloaded"]);
    assert!(!run.err.contains("its change was made"), "{run:#?}");
    assert!(has_record(&site));
}

#[test]
fn download_runs_at_idle_priority() {
    require!(ROOT_AND_RSYNC);
    let site = behind();
    let hook = site.node().join("etc/systemimager/hooks.d/pre-update.d");
    fs::create_dir_all(&hook).expect("creates");
    common::write_program(&hook.join("10-fail"), "#!/bin/sh\nexit 1\n");

    let mut command = Command::new("strace");
    command.args(["-f", "-e", "trace=setpriority,ioprio_set", "-o"]);
    command.arg(site.dir.path().join("trace")).arg(env!("CARGO_BIN_EXE_si_updateclient"));
    command.args(["--diff", "--download-only", "--yes", "--image", "node", "--repo"]);
    command.args([site.repo_url.as_str(), "--exclude-file", "/dev/null", "--root"]);
    common::run(command.arg(site.node()));

    // No hook runs at the download.
    assert!(has_record(&site));
    let trace = common::read(&site.dir.path().join("trace"));
    assert!(trace.contains("setpriority(PRIO_PROCESS, 0, 19)"), "{trace}");
    assert!(trace.contains("IOPRIO_CLASS_IDLE"), "{trace}");
    switch(&site, &[]).ended(14, &["10-fail"]);
    assert!(has_record(&site));
}
