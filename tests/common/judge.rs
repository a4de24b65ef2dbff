//! The judge of all updates: rsync, which has no stake in them.
//!
//! It is asked what it would still do to make the node the image: content by checksum, types, owners,
//! modes, times to the nanosecond, hardlinks, ACLs, extended attributes, devices, paths that are too
//! many. The right answer is nothing.

use std::path::Path;
use std::process::Command;

/// The agent's own files, which no image has: at the top of each filesystem, and of the tree.
const OWN: [&str; 5] = [
    ".si-stage",
    ".si-undo",
    "/.si-*",
    "/var/lib/systemimager/client/",
    "/etc/systemimager/IMAGE_LAST_SYNCED_TO",
];
/// The directories above them: new or newer than the image's, because the agent wrote below them last.
const ABOVE_OWN: [&str; 6] =
    ["./", "etc/", "etc/systemimager/", "var/", "var/lib/", "var/lib/systemimager/"];
/// Extended attributes that belong to a machine or its filesystem and never travel. Those of the last
/// kind are how xfs keeps ACLs, which are compared as such.
const NEVER_TRAVEL: [&str; 6] = [
    "btrfs.*",
    "security.selinux",
    "security.ima",
    "security.evm",
    "trusted.overlay.*",
    "trusted.SGI_ACL_*",
];

/// What still separates `node` from `image` under rsync's exclude rules, in rsync's itemised form.
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
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{rsync:?}: {}\n{said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said.lines().filter(|line| !is_ours(line)).map(str::to_owned).collect()
}

/// Asserts that `node` is `image`, with no path too many.
#[track_caller]
pub fn same(image: &Path, node: &Path, excludes: &[&str]) {
    let differences = differences(image, node, excludes);
    assert!(differences.is_empty(), "the node is not the image:\n{}", differences.join("\n"));
}

/// Asserts that `node` is `image` but for the paths that only the node has, which it returns.
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

/// Asserts that below `node` are the files of `image` with their content and, within two seconds, their
/// times, and no others: as much as vfat and its kin hold.
#[track_caller]
pub fn same_contents(image: &Path, node: &Path, excludes: &[&str]) {
    let mut rsync = Command::new("rsync");
    rsync.args(["-rtOnic", "--delete", "--modify-window=2"]);
    rsync.args(OWN.iter().chain(excludes).map(|rule| format!("--exclude={rule}")));
    let directory = |path: &Path| format!("{}/", path.display());
    let said = super::run(rsync.arg(directory(image)).arg(directory(node)));
    let lines: Vec<&str> =
        said.lines().filter(|line| !line.starts_with("skipping non-regular")).collect();
    assert!(lines.is_empty(), "the node is not the image:\n{}", lines.join("\n"));
}

/// Whether a line is about nothing but a directory above the agent's own files, and its time at most.
fn is_ours(line: &str) -> bool {
    let without_directory = |prefix| line.strip_prefix(prefix).map(str::trim);
    let path = without_directory(".d..t...... ")
        .or_else(|| without_directory("*deleting "))
        .or_else(|| without_directory("cannot delete non-empty directory: "));
    path.is_some_and(|path| {
        ABOVE_OWN.iter().any(|above| above.trim_end_matches('/') == path.trim_end_matches('/'))
    })
}
