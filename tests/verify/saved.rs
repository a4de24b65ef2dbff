//! `drift = "save-aside"`: edited files are copied before they are replaced.

use super::*;
use crate::common::judge;

/// Directory of the copies.
fn saved(site: &Site) -> PathBuf {
    site.node().join("var/lib/systemimager/client/saved")
}

/// Updates the node; edited files are saved.
fn update(site: &Site, more: &[&str]) -> Run {
    site.update(&[&["--drift", "save-aside", "--check", "content"], more].concat())
}

#[test]
fn edited_file_is_copied_before_it_is_repaired() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::system());
    let node = site.node();
    fs::write(node.join("etc/passwd"), "edited").expect("writes");
    set_mode(&node.join("etc/passwd"), 0o4600);
    chown(node.join("etc/passwd"), Some(7), Some(8)).expect("chown");
    set_mode(&node.join("etc/passwd"), 0o4600);
    set_time(&node.join("etc/passwd"), 5);
    set_mode(&node.join("usr/bin/tool"), 0o700);

    update(&site, &[]).ended(0, &["saved the edited /etc/passwd as ", "2 paths changed"]);

    site.same();
    let copy = saved(&site).join("1/etc/passwd");
    assert_eq!(common::read(&copy), "edited");
    let meta = fs::metadata(&copy).expect("inspects");
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o4600, 7, 8));
    assert_eq!(meta.mtime(), 5);
    // Nobody else can reach a set-id program among the copies.
    assert_eq!(fs::metadata(saved(&site)).expect("inspects").mode() & 0o7777, 0o700);
    assert!(!saved(&site).join("1/usr").exists(), "no content of the tool was changed");
}

#[test]
fn copies_are_kept_once_and_never_replaced() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::system());
    for text in ["first edit", "second edit", "first edit"] {
        fs::write(site.node().join("etc/passwd"), text).expect("writes");
        update(&site, &[]).ended(0, &["saved the edited /etc/passwd"]);
    }

    assert_eq!(common::read(&saved(&site).join("1/etc/passwd")), "first edit");
    assert_eq!(common::read(&saved(&site).join("2/etc/passwd")), "second edit");
    assert!(!saved(&site).join("3").exists());
    site.updated(&["--purge-untracked", "--check", "content"]);
    assert!(saved(&site).join("2/etc/passwd").exists());
    verify(&site, &[]).ended(0, &["equal to node"]);
}

#[test]
fn file_that_an_update_replaces_or_removes_is_copied_if_it_was_edited() {
    require!(ROOT_AND_RSYNC);

    let first = with_file(&trees::with_parents(trees::system()), "etc/cron.d/job", "old");
    let site = Site::at(&first);
    let mut second = with_file(&first, "etc/passwd", "new\n");
    second = with_file(&second, "etc/hostname", "silver\n");
    second.remove(&b"etc/cron.d/job"[..]);
    site.publish(&second);
    let node = site.node();
    fs::write(node.join("etc/passwd"), "edited").expect("writes");
    fs::write(node.join("etc/cron.d/job"), "edited job").expect("writes");

    site.update(&["--drift", "save-aside"]).ended(0, &["saved the edited /etc/passwd"]);

    judge::same(&site.image(), &node, &[]);
    assert_eq!(common::read(&saved(&site).join("1/etc/passwd")), "edited");
    assert_eq!(common::read(&saved(&site).join("1/etc/cron.d/job")), "edited job");
    // It was as recorded.
    assert!(!saved(&site).join("1/etc/hostname").exists());
    assert!(!node.join("etc/cron.d/job").exists());
}

#[test]
fn other_policies_copy_nothing() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::system());
    fs::write(site.node().join("etc/passwd"), "edited").expect("writes");

    site.update(&["--drift", "save-aside", "--check", "content", "--dry-run"]).ended(0, &[]);
    site.update(&["--drift", "report", "--check", "content"]).ended(10, &[]);
    site.updated(&["--check", "content"]);

    assert!(!saved(&site).exists());
}

#[test]
fn repair_copies_edited_files_by_configuration() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::system());
    let config = site.node().join("etc/systemimager/updateclient.toml");
    trees::write_text(&config, "drift = \"save-aside\"\n");
    fs::write(site.node().join("etc/passwd"), "edited").expect("writes");
    fs::write(site.node().join("etc/hostname"), "edited").expect("writes");

    repair::repair(&site, &["/etc/passwd"]).ended(0, &["saved the edited /etc/passwd"]);

    assert_eq!(common::read(&saved(&site).join("1/etc/passwd")), "edited");
    assert!(!saved(&site).join("1/etc/hostname").exists());
}
