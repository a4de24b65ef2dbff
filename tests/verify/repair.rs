//! `--repair`: paths are put back to the recorded generation, in one transaction.

use super::*;
use crate::common::fingerprint::Fingerprint;
use crate::common::judge;

/// Repairs the node of the site.
pub fn repair(site: &Site, more: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    command.arg("--repair").args(more).arg("--root").arg(site.node()).stdin(Stdio::null());
    command.args(["--exclude-file", "/dev/null", "--yes"]);
    if !more.contains(&"--repo") {
        command.args(["--repo", &site.repo_url]);
    }
    if let Some(port) = site.rsync_port() {
        command.args(["--server", "127.0.0.1", "--rsync-port", &port.to_string()]);
    }
    Run::from_output(command.output().expect("si_updateclient runs"))
}

/// Damages every kind of entry of [`kinds`], each by the change of another test.
fn damage(top: &Path) {
    for (name, change, _) in CHANGES {
        // The others change the same paths.
        let first = ["content", "mode", "owner", "group", "mtime", "capability", "ACL"];
        let second = ["missing directory", "device number", "broken hard link"];
        if first.contains(&name) || second.contains(&name) {
            change(top);
        }
    }
}

#[test]
fn whole_tree_becomes_recorded_generation_again() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&kinds());
    trees::write_text(&site.node().join("etc/local"), "a file of the node");
    damage(&site.node());
    verify(&site, &[]).ended(10, &["deviations"]);

    repair(&site, &[]).ended(0, &["repaired node serial 1"]);

    verify(&site, &[]).ended(0, &["equal to node"]);
    judge::same_except_untracked(&site.image(), &site.node(), &[]);
    assert!(site.node().join("etc/local").exists());
    repair(&site, &[]).ended(0, &["nothing to repair in node serial 1"]);
}

#[test]
fn repair_of_one_path_leaves_all_others_as_they_are() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&kinds());
    damage(&site.node());
    trees::write_text(&site.node().join("etc/local"), "a file of the node");
    let before = Fingerprint::read(&site.node());

    repair(&site, &["/etc/passwd"]).ended(0, &["repaired node", "1 path changed"]);

    let after = Fingerprint::read(&site.node());
    let differences = before.differences(&after);
    assert_eq!(differences.len(), 1, "{differences:#?}");
    assert!(differences[0].contains("etc/passwd"), "{differences:#?}");
    verify(&site, &["/etc/passwd"]).ended(0, &["equal to node"]);
    verify(&site, &["/usr"]).ended(10, &["/usr/bin/su"]);
}

#[test]
fn repair_keeps_recorded_deviations_of_other_paths() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::system());
    let node = site.node();
    fs::write(node.join("etc/passwd"), "edited").expect("writes");
    fs::write(node.join("etc/hostname"), "edited").expect("writes");
    site.update(&["--check", "content", "--drift", "report"]).ended(10, &[]);

    repair(&site, &["/etc/passwd"]).ended(0, &[]);

    let status = site.status();
    assert!(status.contains("/etc/hostname: content"), "{status}");
    assert!(!status.contains("/etc/passwd"), "{status}");
}

#[test]
fn content_of_the_tree_is_enough_without_network() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    trees::put(&mut tree, "usr/share/copy", Item::file("a tool"));
    let site = Site::at(&tree);
    let node = site.node();
    let offline = ["--repo", "http://127.0.0.1:9/"];
    let config = node.join("etc/systemimager/updateclient.toml");
    trees::write_text(&config, "[download]\nattempts = 1\n");
    fs::remove_file(node.join("usr/bin/tool")).expect("removes");
    set_mode(&node.join("etc/passwd"), 0o600);

    repair(&site, &offline).ended(0, &["repaired node"]);

    verify(&site, &[]).ended(0, &["equal to node"]);
    // No other path has this content.
    fs::write(node.join("etc/passwd"), "edited").expect("writes");
    let before = inodes(&node.join("etc"));
    repair(&site, &offline).ended(4, &["127.0.0.1:9", "nothing was changed"]);
    let dry_run = repair(&site, &[&["/etc/passwd", "--dry-run"], &offline[..]].concat());
    dry_run.ended(4, &["would repair node", ">fcst...... /etc/passwd", "127.0.0.1:9"]);
    assert_eq!(inodes(&node.join("etc")), before);
}

#[test]
fn content_of_an_untracked_or_edited_path_is_found_without_network() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    for name in ["a", "b", "c"] {
        trees::put(&mut tree, &format!("usr/share/{name}"), Item::file(format!("the text {name}")));
    }
    let site = Site::at(&tree);
    let node = site.node();
    let config = node.join("etc/systemimager/updateclient.toml");
    trees::write_text(&config, "[download]\nattempts = 1\n");
    let offline = ["--repo", "http://127.0.0.1:9/"];
    fs::rename(node.join("usr/share/a"), node.join("root-copy")).expect("renames");
    // Each has the content of the other one.
    fs::write(node.join("usr/share/b"), "the text c").expect("writes");
    fs::write(node.join("usr/share/c"), "the text b").expect("writes");

    repair(&site, &[&["/usr/share/a"], &offline[..]].concat()).ended(0, &["repaired node"]);
    assert_eq!(common::read(&node.join("usr/share/a")), "the text a");
    repair(&site, &offline).ended(0, &["2 paths changed"]);
    verify(&site, &[]).ended(0, &["equal to node"]);

    // An excluded path is no source.
    fs::remove_file(node.join("usr/share/a")).expect("removes");
    let rules = site.dir.path().join("rules");
    fs::write(&rules, "/root-copy\n").expect("writes");
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    command.args(["--repair", "--yes", "--exclude-file"]).arg(&rules).args(offline);
    command.arg("--root").arg(&node);
    Run::from_output(command.output().expect("runs")).ended(4, &["nothing was changed"]);
}

#[test]
fn newer_head_is_not_installed_by_repair() {
    require!(ROOT_AND_RSYNC);

    let first = trees::with_parents(trees::system());
    let site = Site::at(&first);
    site.publish(&with_file(&first, "etc/passwd", "newer"));
    fs::write(site.node().join("etc/passwd"), "edited").expect("writes");

    repair(&site, &[]).ended(0, &["repaired node serial 1"]);

    assert_eq!(common::read(&site.node().join("etc/passwd")), "root:x:0:0::/root:/bin/sh\n");
    assert!(site.status().contains("serial:      1"));
    // The next update still leads to the head.
    site.updated(&[]);
    site.same();
}

#[test]
fn expired_head_does_not_shut_repair_out() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::system());
    site.publish_image(&["--expires", "1s"]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    fs::write(site.node().join("etc/passwd"), "edited").expect("writes");
    site.update(&[]).ended(3, &["expired"]);

    repair(&site, &["/etc"]).ended(0, &["1 path changed"]);

    site.same();
}

#[test]
fn rsync_supplies_what_the_repository_lacks() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::system()).with_rsync();
    fs::write(site.node().join("etc/passwd"), "edited").expect("writes");
    fs::remove_dir_all(site.repo().join("node/content")).expect("removes the content index");

    repair(&site, &["/etc"]).ended(0, &["repaired node"]);

    site.same();
    // Nobody has the content any more.
    fs::write(site.node().join("etc/passwd"), "edited").expect("writes");
    let mut offline = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    offline.args(["--repair", "--dry-run", "--exclude-file", "/dev/null", "--repo"]);
    offline.arg(&site.repo_url).arg("--root").arg(site.node());
    let dry_run = Run::from_output(offline.output().expect("runs"));
    dry_run.ended(8, &["would repair node", "/etc/passwd"]);
    fs::write(site.image().join("etc/passwd"), "another image").expect("writes");
    repair(&site, &["/etc"]).ended(8, &["/etc/passwd", "nothing was changed"]);
}

#[test]
fn every_name_of_a_hard_link_group_is_repaired() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&kinds());
    fs::write(site.node().join("usr/lib/a"), "edited through one of three names").expect("writes");

    repair(&site, &["/opt/c"]).ended(0, &["3 paths changed"]);

    verify(&site, &[]).ended(0, &["equal to node"]);
}

#[test]
fn options_that_a_repair_cannot_obey_are_refused() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::system());

    repair(&site, &["--purge-untracked"]).ended(2, &["--purge-untracked", "--repair"]);
    repair(&site, &["--drift", "report"]).ended(2, &["--drift report", "--repair"]);
    repair(&site, &["--drift", "save-aside"]).ended(0, &["nothing to repair"]);
}

#[test]
fn refused_repairs_change_nothing() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::system());
    fs::remove_dir_all(site.node().join("usr/lib/app")).expect("removes");
    fs::write(site.node().join("etc/local"), "local").expect("writes");
    let before = Fingerprint::read(&site.node());

    repair(&site, &["/usr/lib/app/one.py"]).ended(5, &["/usr/lib/app above it is missing"]);
    repair(&site, &["/etc/local"]).ended(2, &["it belongs to the node"]);
    repair(&site, &["--dry-run"]).ended(0, &["would repair node", "cd+++++++++ /usr/lib/app/"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    command.args(["--repair", "--repo", &site.repo_url, "--root"]).arg(site.node());
    let run = Run::from_output(command.stdin(Stdio::null()).output().expect("runs"));
    run.ended(2, &["refusing to repair", "--yes"]);

    assert_eq!(before.differences(&Fingerprint::read(&site.node())), Vec::<String>::new());
}

#[test]
fn rollback_still_undoes_last_update_after_repair() {
    require!(ROOT_AND_RSYNC);

    let first = trees::with_parents(trees::system());
    let site = Site::at(&first);
    let before = site.dir.path().join("before");
    copy_tree(&site.node(), &before);
    site.publish(&with_file(&first, "etc/hostname", "silver\n"));
    site.updated(&[]);
    fs::write(site.node().join("etc/passwd"), "edited").expect("writes");

    repair(&site, &["/etc"]).ended(0, &["1 path changed"]);

    site.rollback(&[]).ended(0, &["rolled back to serial 1"]);
    judge::same(&before, &site.node(), &[]);
}

#[test]
fn damaged_exclude_file_does_not_expose_files_of_the_node() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    let excludes = "etc/systemimager/updateclient.local.exclude";
    trees::put(&mut tree, excludes, Item::file("/etc/hostname\n"));
    let site = Site::new();
    site.publish(&tree);
    site.install_node();
    let adopt = site.command_with_node_excludes().arg("--adopt").output().expect("runs");
    Run::from_output(adopt).ended(0, &[]);
    let node = site.node();
    fs::write(node.join("etc/hostname"), "of the node").expect("writes");
    fs::write(node.join("etc/passwd"), "edited").expect("writes");
    fs::write(node.join(excludes), "").expect("writes");

    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    command.args(["--repair", "--yes", "--repo", &site.repo_url, "--root"]).arg(&node);
    Run::from_output(command.output().expect("runs")).ended(0, &["2 paths changed"]);

    assert_eq!(common::read(&node.join("etc/hostname")), "of the node");
    assert_eq!(common::read(&node.join(excludes)), "/etc/hostname\n");
}

/// Exclude file of a node.
const EXCLUDES: &str = "etc/systemimager/updateclient.local.exclude";

/// A node whose image ships `rules` as its exclude file.
fn site_with_excludes(rules: &str) -> Site {
    let mut tree = trees::system();
    trees::put(&mut tree, EXCLUDES, Item::file(rules));
    let site = Site::new();
    site.publish(&tree);
    site.install_node();
    let adopt = site.command_with_node_excludes().arg("--adopt").output().expect("runs");
    Run::from_output(adopt).ended(0, &[]);
    site
}

/// Runs the program under the exclude file of the node.
fn run_with_excludes(site: &Site, more: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    command.args(more).args(["--yes", "--repo", &site.repo_url, "--root"]).arg(site.node());
    Run::from_output(command.stdin(Stdio::null()).output().expect("runs"))
}

#[test]
fn edited_exclude_file_cannot_hide_its_own_edit() {
    require!(ROOT_AND_RSYNC);

    for rules in ["*\n", "/etc\n", "/etc/systemimager/*\n", "updateclient.local.exclude\n"] {
        let site = site_with_excludes("/etc/hostname\n");
        let node = site.node();
        let line = format!("/{EXCLUDES}");
        fs::write(node.join(EXCLUDES), rules).expect("writes");
        fs::write(node.join("etc/hostname"), "of the node").expect("writes");
        fs::write(node.join("etc/motd"), "of the node").expect("writes");
        fs::write(node.join("etc/passwd"), "edited").expect("writes");

        let verified = run_with_excludes(&site, &["--verify"]);
        verified.ended(10, &[&line, "(content, time"]);
        // The edited rules apply to all other paths.
        let hides_passwd = matches!(rules, "*\n" | "/etc\n");
        assert_eq!(verified.out.contains("/etc/passwd"), !hides_passwd, "{verified:#?}");
        // An update reports the edit, then and later.
        let update = ["--diff", "--image", "node", "--check", "content"];
        run_with_excludes(&site, &update).ended(0, &[&format!("deviates: {line}")]);
        run_with_excludes(&site, &update).ended(0, &[&format!("deviates: {line}")]);
        run_with_excludes(&site, &[&update[..], &["--drift", "report"]].concat()).ended(10, &[]);
        run_with_excludes(&site, &["--verify"]).ended(10, &[&line]);

        // The recorded rules apply to the repair.
        fs::write(node.join("etc/hostname"), "of the node").expect("writes");
        fs::write(node.join("etc/passwd"), "edited").expect("writes");
        run_with_excludes(&site, &["--repair", &line]).ended(0, &["1 path changed"]);
        assert_eq!(common::read(&node.join(EXCLUDES)), "/etc/hostname\n");
        assert_eq!(common::read(&node.join("etc/hostname")), "of the node");
        run_with_excludes(&site, &["--verify"]).ended(10, &["/etc/passwd", "1 deviation"]);
        run_with_excludes(&site, &["--repair"]).ended(0, &["1 path changed"]);
        run_with_excludes(&site, &["--verify"]).ended(0, &["equal to node"]);
    }
}

#[test]
fn exclude_file_that_recorded_rules_leave_to_the_node_is_no_deviation() {
    require!(ROOT_AND_RSYNC);

    let site = site_with_excludes("updateclient.local.exclude\n");
    let edited = "updateclient.local.exclude\n/etc/hostname\n";
    fs::write(site.node().join(EXCLUDES), edited).expect("writes");

    run_with_excludes(&site, &["--repair"]).ended(0, &["nothing to repair"]);
    let update = run_with_excludes(&site, &["--diff", "--image", "node", "--check", "content"]);
    update.ended(0, &["up to date"]);
    assert!(!update.out.contains("deviates"), "{update:#?}");
    run_with_excludes(&site, &["--verify"]).ended(0, &["equal to node"]);
    assert_eq!(common::read(&site.node().join(EXCLUDES)), edited);
}
