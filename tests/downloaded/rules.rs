//! Other runs that meet a downloaded update.

use super::*;
use crate::common::{ROOT_AND_RSYNC, require};

#[test]
fn plain_update_uses_download_that_leads_to_head() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    fs::remove_dir_all(site.repo().join("node/diffs")).expect("removes");
    fs::remove_dir_all(site.repo().join("node/full")).expect("removes");

    site.updated(&[]).ended(0, &["using the downloaded update"]);

    site.same();
    assert!(!store(&site).exists());
}

#[test]
fn plain_update_to_newer_head_replaces_download() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    site.publish(&tree(3));

    site.updated(&[]).ended(0, &["the downloaded update is removed", "serial 3"]);

    site.same();
    assert!(!store(&site).exists());
}

#[test]
fn plain_update_repairs_drift_from_repository() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    fs::write(site.node().join("etc/motd"), "changed on the node").expect("writes");

    site.updated(&[]).ended(0, &["using the downloaded update"]);

    site.same();
}

#[test]
fn status_dry_run_and_recover_show_download_and_keep_it() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    let before = site.snapshot();
    let record = fs::read(store(&site).join("record")).expect("reads");

    client(&site, &["--status"]).ended(0, &["downloaded:  serial 2"]);
    client(&site, &["--status", "--json"]).ended(0, &["\"downloaded\":{\"generation\""]);
    client(&site, &["--recover"]).ended(0, &["downloaded update: serial 2"]);
    site.updated(&["--dry-run"]).ended(0, &["downloaded update: serial 2"]);
    switch(&site, &["--dry-run"]).ended(0, &["would update to node serial 2"]);
    site.updated(&["--download-only", "--dry-run"]);

    assert_eq!(fs::read(store(&site).join("record")).expect("reads"), record);
    site.unchanged_since(&before);
}

#[test]
fn dry_run_forecasts_no_fetch_of_downloaded_contents() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();

    let run = site.updated(&["--dry-run"]);

    run.ended(0, &["would update to node serial 2"]);
    assert!(!run.out.contains("by digest"), "{run:#?}");

    // The content of another path is not downloaded, and is fetched.
    fs::write(site.node().join("etc/motd"), "changed on the node").expect("writes");
    site.updated(&["--dry-run"]).ended(0, &["1 content by digest"]);
}

#[test]
fn verify_in_between_shows_download_and_finds_nothing() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    let before = site.snapshot();

    client(&site, &["--verify", "--repo", &site.repo_url, "--exclude-file", "/dev/null"])
        .ended(0, &["downloaded update: serial 2"]);

    assert!(has_record(&site));
    site.unchanged_since(&before);
}

#[test]
fn download_after_withdrawal_drops_withdrawn_update() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    // The generation of the node is published again.
    site.publish(&tree(1));

    site.updated(&["--download-only", "--dry-run"]);
    assert!(has_record(&site));
    site.updated(&["--download-only"])
        .ended(0, &["the downloaded update is removed", "is up to date"]);

    assert!(!store(&site).exists());
    switch(&site, &[]).ended(0, &["there is no downloaded update"]);
    site.same();
}

#[test]
fn rollback_drops_download() {
    require!(ROOT_AND_RSYNC);
    let site = behind();
    site.updated(&[]);
    site.publish(&tree(3));
    site.updated(&["--download-only"]);
    let undo = site.node().join(".si-undo/way-back");
    assert!(undo.exists(), "the undo set of the last update stays");

    site.rollback(&["--dry-run"]).ended(0, &[]);
    assert!(has_record(&site));
    site.rollback(&[]).ended(0, &["the downloaded update is removed"]);

    assert!(!store(&site).exists());
    switch(&site, &[]).ended(0, &["there is no downloaded update"]);
}

#[test]
fn download_for_other_base_is_dropped() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    fs::remove_file(site.node().join("var/lib/systemimager/client/state.toml")).expect("removes");

    site.refused(&["--from-downloaded"], 5, &["does not lead from the recorded generation"]);

    assert!(!store(&site).exists());
}

#[test]
fn download_under_other_rules_is_dropped() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    let rules = site.dir.path().join("rules");
    fs::write(&rules, "/etc/motd\n").expect("writes");

    let excludes = ["--from-downloaded", "--exclude-file", &rules.display().to_string()];
    site.update(&excludes).ended(5, &["other exclude rules"]);

    assert!(!store(&site).exists());
}

#[test]
fn download_with_other_overrides_is_dropped() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();

    switch(&site, &["--override", "rack"]).ended(5, &["other overrides"]);

    assert!(!store(&site).exists());
}

#[test]
fn download_of_other_agent_is_dropped() {
    require!(ROOT_AND_RSYNC);
    let site = downloaded();
    let record = store(&site).join("record");
    let text = common::read(&record);
    let agent = text.lines().find(|line| line.starts_with("agent")).expect("a line").to_owned();
    fs::write(&record, text.replace(&agent, "agent = \"0.0.1\"")).expect("writes");

    site.updated(&[]).ended(0, &["version 0.0.1 of this program wrote it"]);

    site.same();
}

#[test]
fn pinned_generation_is_neither_downloaded_nor_installed() {
    require!(ROOT_AND_RSYNC);
    let site = behind();
    site.updated(&[]);
    site.rollback(&[]).ended(0, &[]);

    site.update(&["--download-only"]).ended(12, &["--unhold"]);
    assert!(!store(&site).exists());

    site.updated(&["--download-only", "--unhold"]);
    switch(&site, &[]).ended(0, &["serial 2"]);
    site.same();
}
