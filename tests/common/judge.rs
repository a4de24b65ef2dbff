//! The judge of all updates: rsync, which shares no code with the agent.
//!
//! It lists the changes that it would still make to turn the node into the image: content by
//! checksum, types, owners, modes, times to the nanosecond, hard links, ACLs, extended attributes,
//! devices, extra paths. The list must be empty.

use std::path::Path;
use std::process::Command;

/// The agent's own files, which no image has: in the top of each filesystem, and of the tree.
const OWN: [&str; 6] = [
    ".si-stage",
    ".si-undo",
    ".si-downloaded",
    "/.si-*",
    "/var/lib/systemimager/client/",
    "/etc/systemimager/IMAGE_LAST_SYNCED_TO",
];
/// The directories above them. Their times are newer than the image's, because the agent writes
/// there.
const ABOVE_OWN: [&str; 6] =
    ["./", "etc/", "etc/systemimager/", "var/", "var/lib/", "var/lib/systemimager/"];
/// Extended attributes that belong to a machine or its filesystem and are never copied. xfs stores
/// ACLs in the last kind; ACLs are compared as such.
const NEVER_TRAVEL: [&str; 6] = [
    "btrfs.*",
    "security.selinux",
    "security.ima",
    "security.evm",
    "trusted.overlay.*",
    "trusted.SGI_ACL_*",
];

/// Differences between `image` and `node` under exclude rules, in rsync's itemised form.
#[track_caller]
pub fn differences(image: &Path, node: &Path, excludes: &[&str]) -> Vec<String> {
    let mut rsync = Command::new("rsync");
    rsync.args([
        "-aHAXn",
        "--delete",
        "--checksum",
        "--numeric-ids",
        "--modify-window=-1",
        "--itemize-changes",
    ]);
    rsync.args(OWN.iter().chain(excludes).map(|rule| format!("--exclude={rule}")));
    rsync.args(NEVER_TRAVEL.iter().map(|name| format!("--filter=-x {name}")));
    let directory = |path: &Path| format!("{}/", path.display());
    let output = rsync.arg(directory(image)).arg(directory(node)).output().expect("rsync runs");
    let report = String::from_utf8_lossy(&output.stdout);

    assert!(
        output.status.success(),
        "{rsync:?}: {}\n{report}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );

    report.lines().filter(|line| !is_ours(line)).map(str::to_owned).collect()
}

/// Asserts that `node` equals `image` and has no extra path.
#[track_caller]
pub fn same(image: &Path, node: &Path, excludes: &[&str]) {
    let differences = differences(image, node, excludes);
    assert!(differences.is_empty(), "the node is not the image:\n{}", differences.join("\n"));
}

/// Asserts that `node` equals `image` except for untracked paths, and returns these.
#[track_caller]
pub fn same_except_untracked(image: &Path, node: &Path, excludes: &[&str]) -> Vec<String> {
    let (untracked, differences): (Vec<String>, Vec<String>) = differences(image, node, excludes)
        .into_iter()
        .partition(|line| line.starts_with("*deleting"));
    assert!(differences.is_empty(), "the node is not the image:\n{}", differences.join("\n"));
    untracked
        .iter()
        .filter_map(|line| Some(line.split_once(' ')?.1.trim_start().to_owned()))
        .collect()
}

/// Asserts that `node` has exactly the files of `image`, by content and by time within two seconds.
///
/// Filesystems such as vfat store no more than that.
#[track_caller]
pub fn same_contents(image: &Path, node: &Path, excludes: &[&str]) {
    let mut rsync = Command::new("rsync");
    rsync.args(["-rtOnic", "--delete", "--modify-window=2"]);
    rsync.args(OWN.iter().chain(excludes).map(|rule| format!("--exclude={rule}")));
    let directory = |path: &Path| format!("{}/", path.display());
    let report = super::run(rsync.arg(directory(image)).arg(directory(node)));
    let lines: Vec<&str> =
        report.lines().filter(|line| !line.starts_with("skipping non-regular")).collect();
    assert!(lines.is_empty(), "the node is not the image:\n{}", lines.join("\n"));
}

/// Checks if a line reports only a directory above the agent's own files, or its time.
fn is_ours(line: &str) -> bool {
    let without_directory = |prefix| line.strip_prefix(prefix).map(str::trim);
    let path = without_directory(".d..t...... ")
        .or_else(|| without_directory("*deleting "))
        .or_else(|| without_directory("cannot delete non-empty directory: "));
    path.is_some_and(|path| {
        ABOVE_OWN.iter().any(|above| above.trim_end_matches('/') == path.trim_end_matches('/'))
    })
}
