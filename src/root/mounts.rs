//! The mounts at and below a tree, from `/proc/self/mountinfo`.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::tree_path::TreePath;

use super::procfs;

/// A mount below the root of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Mount point, relative to the root of the tree.
    pub at: TreePath,
    /// Type of the filesystem.
    pub kind: String,
    /// Whether the mount, or its filesystem, is read-only.
    pub read_only: bool,
    /// Device as `major:minor`; all subvolumes of a btrfs have the same.
    pub device: String,
    /// Directory of the device that is mounted; `/` except for bind mounts and subvolumes.
    pub source: Vec<u8>,
}

/// The mount that contains the root of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootMount {
    /// Type of the filesystem.
    pub kind: String,
    pub read_only: bool,
    /// Device as `major:minor`.
    pub device: String,
    /// Directory of the device that is the root of the tree; `/` only if the root is a mount point.
    pub source: Vec<u8>,
}

/// Types of filesystem that hold a system's own files.
///
/// All other mounts below a tree are foreign to it, except for those of [`LIMITED`] types.
const LOCAL: [&str; 9] =
    ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "jfs", "reiserfs"];

/// Types with names, content and coarse times, but without owners, links and extended attributes.
///
/// An EFI system partition has such a type; `fuseblk` is a disk that a program serves.
const LIMITED: [&str; 4] = ["vfat", "msdos", "exfat", "fuseblk"];

/// Types of filesystem that the kernel or a program makes up; no image has their content.
const PSEUDO: [&str; 25] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "tmpfs",
    "ramfs",
    "mqueue",
    "hugetlbfs",
    "cgroup",
    "cgroup2",
    "cpuset",
    "securityfs",
    "selinuxfs",
    "debugfs",
    "tracefs",
    "configfs",
    "pstore",
    "bpf",
    "efivarfs",
    "binfmt_misc",
    "fusectl",
    "nsfs",
    "rpc_pipefs",
    "nfsd",
    "xenfs",
];

/// Directories at which filesystems of the kernel, or in memory, are mounted on every node.
const KERNEL_PLACES: [&[u8]; 5] = [b"dev", b"proc", b"run", b"sys", b"tmp"];

impl Mount {
    /// Whether the filesystem is the kernel's own, or exists in memory only.
    pub fn is_pseudo(&self) -> bool {
        PSEUDO.contains(&self.kind.as_str())
    }

    /// Whether the filesystem has no owners, links, extended attributes and exact times.
    pub fn is_limited(&self) -> bool {
        LIMITED.contains(&self.kind.as_str())
    }

    /// Whether the mount belongs to the system itself, so that an update may change it.
    pub fn takes_part(&self) -> bool {
        LOCAL.contains(&self.kind.as_str()) || self.is_limited()
    }
}

impl RootMount {
    /// Whether updates are known to be safe on this type of filesystem.
    pub fn is_supported(&self) -> bool {
        LOCAL.contains(&self.kind.as_str())
    }
}

/// Whether `path` is at or below a directory that no image describes on a running node.
pub fn is_in_kernel_place(path: &TreePath) -> bool {
    path.components().next().is_some_and(|first| KERNEL_PLACES.contains(&first))
}

/// Reads the mounts at and below the tree at `location`, a path without symbolic links.
pub fn read(location: &Path) -> io::Result<(Option<RootMount>, Vec<Mount>)> {
    let text = procfs::read("self/mountinfo")?;
    Ok(parse(&text, location.as_os_str().as_bytes()))
}

/// Pairs of paths in a tree that show the same directory.
///
/// These are a bind mount and its source, or two mounts of one disk. The first path of a pair is a
/// mount point or the root.
pub fn aliases(root_mount: Option<&RootMount>, mounts: &[Mount]) -> Vec<(TreePath, TreePath)> {
    let root = root_mount.map(|root| (TreePath::root(), &root.device, &root.source));
    let below = mounts.iter().map(|mount| (mount.at.clone(), &mount.device, &mount.source));
    let all: Vec<(TreePath, &String, &Vec<u8>)> = root.into_iter().chain(below).collect();

    let mut pairs = Vec::new();
    for (at, device, source) in &all {
        let same_device = all.iter().filter(|other| other.1 == *device && other.0 != *at);
        for (other, _, other_source) in same_device {
            let alias = rest_below(other_source, source).and_then(|rest| join(other, rest));
            let Some(alias) = alias else { continue };
            // Another mount may hide the directory at this path, for example the mount at `at`
            // itself.
            let innermost = all.iter().rfind(|(at, ..)| alias == *at || alias.is_below(at));
            if innermost.is_some_and(|(at, ..)| at == other) {
                pairs.push((at.clone(), alias));
            }
        }
    }
    pairs
}

/// The alias of `path` below `to`, if `path` is at or below `from` and both show the same
/// directory.
pub fn alias_of(path: &TreePath, from: &TreePath, to: &TreePath) -> Option<TreePath> {
    if path == from {
        return Some(to.clone());
    }
    let rest = path.is_below(from).then(|| &path.as_bytes()[from.as_bytes().len()..])?;
    join(to, rest.strip_prefix(b"/").unwrap_or(rest))
}

/// The part of the absolute path `lower` below `upper`; empty if they are equal.
fn rest_below<'a>(upper: &[u8], lower: &'a [u8]) -> Option<&'a [u8]> {
    let is_at_or_below = upper == b"/"
        || lower == upper
        || (lower.starts_with(upper) && lower.get(upper.len()) == Some(&b'/'));
    let rest = is_at_or_below.then(|| &lower[upper.len()..])?;
    Some(rest.strip_prefix(b"/").unwrap_or(rest))
}

fn join(at: &TreePath, rest: &[u8]) -> Option<TreePath> {
    match (at.as_bytes(), rest) {
        (_, b"") => Some(at.clone()),
        (b"", rest) => TreePath::new(rest).ok(),
        (at, rest) => TreePath::new([at, b"/", rest].concat()).ok(),
    }
}

/// The mount that contains `root`, and the mounts below it in tree order.
///
/// Of several mounts at one path only the last counts: it hides the others.
fn parse(mountinfo: &[u8], root: &[u8]) -> (Option<RootMount>, Vec<Mount>) {
    // With the length of its mount point: the longest one is the nearest.
    let mut root_mount: Option<(usize, RootMount)> = None;
    let mut mounts: Vec<Mount> = Vec::new();

    for line in mountinfo.split(|&b| b == b'\n') {
        let Some(fields) = MountInfoLine::parse(line) else { continue };
        let MountInfoLine { at, kind, read_only, device, mut source } = fields;

        if let Some(rest) = rest_below(&at, root) {
            if !rest.is_empty() {
                source = [source.strip_suffix(b"/").unwrap_or(&source), b"/", rest].concat();
            }
            if root_mount.as_ref().is_none_or(|(length, _)| at.len() >= *length) {
                root_mount = Some((at.len(), RootMount { kind, read_only, device, source }));
            }
        } else if let Some(Ok(at)) = rest_below(root, &at).map(TreePath::new) {
            mounts.retain(|mount| mount.at != at && !mount.at.is_below(&at));
            mounts.push(Mount { at, kind, read_only, device, source });
        }
    }

    mounts.sort_by(|a, b| a.at.cmp(&b.at));
    (root_mount.map(|(_, mount)| mount), mounts)
}

/// The fields of a line of mountinfo (proc_pid_mountinfo(5)).
struct MountInfoLine {
    at: Vec<u8>,
    kind: String,
    read_only: bool,
    device: String,
    source: Vec<u8>,
}

impl MountInfoLine {
    fn parse(line: &[u8]) -> Option<Self> {
        let words: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
        let mount_options = words.get(5)?;

        // Optional fields end with a dash.
        let dash = words.iter().position(|word| *word == b"-")?;
        let kind = String::from_utf8_lossy(words.get(dash + 1)?).into_owned();
        let super_options = words.get(dash + 3).copied().unwrap_or_default();

        Some(MountInfoLine {
            at: unescape(words.get(4)?),
            kind,
            read_only: has_ro(mount_options) || has_ro(super_options),
            device: String::from_utf8_lossy(words.get(2)?).into_owned(),
            source: unescape(words.get(3)?),
        })
    }
}

fn has_ro(options: &[u8]) -> bool {
    options.split(|&b| b == b',').any(|option| option == b"ro")
}

/// Decodes space, tab, newline and backslash, which are written as `\ooo`.
pub(super) fn unescape(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, after)) = rest.split_first() {
        let octal = (first == b'\\').then(|| after.get(..3)).flatten();
        let byte = octal
            .and_then(|octal| std::str::from_utf8(octal).ok())
            .and_then(|octal| u8::from_str_radix(octal, 8).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[3..] } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &[u8] = b"1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
        2 1 0:5 / /proc rw - proc proc rw\n\
        3 1 8:2 / /srv/a\\040b rw - xfs /dev/sdb rw\n\
        4 3 8:3 / /srv/a\\040b/boot ro,relatime shared:3 - ext4 /dev/sdc rw\n";

    #[test]
    fn mounts_of_tree_relative_to_its_root() {
        let (root_mount, mounts) = parse(MOUNTINFO, b"/srv/a b");

        let root_mount = root_mount.expect("a mount");
        assert_eq!(
            (root_mount.kind.as_str(), root_mount.read_only, root_mount.source.as_slice()),
            ("xfs", false, &b"/"[..])
        );
        let shown: Vec<String> =
            mounts.iter().map(|m| format!("{} {} {}", m.at, m.kind, m.read_only)).collect();
        assert_eq!(shown, ["/boot ext4 true"]);
    }

    #[test]
    fn mounts_of_running_system_complete() {
        let (root_mount, mounts) = parse(MOUNTINFO, b"/");

        assert!(root_mount.is_some_and(|mount| mount.is_supported()));
        let at: Vec<String> = mounts.iter().map(|m| m.at.to_string()).collect();
        assert_eq!(at, ["/proc", "/srv/a b", "/srv/a b/boot"]);
        assert!(!mounts[0].takes_part());
    }

    #[test]
    fn tree_without_mount_point_has_source() {
        let (root_mount, mounts) = parse(MOUNTINFO, b"/srv/a b/c/d");

        assert_eq!(root_mount.expect("a mount").source, b"/c/d");
        assert!(mounts.is_empty());
    }

    /// The aliases of a tree at `/n` of the disk 8:1, with these mounts: device, source, mount
    /// point.
    fn aliases_with(mounts: &[(&str, &str, &str)]) -> Vec<String> {
        let mut mountinfo = b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n".to_vec();
        for (device, source, at) in mounts {
            let line = format!("2 1 {device} {source} {at} rw - ext4 /dev/x rw\n");
            mountinfo.extend(line.bytes());
        }
        let (root_mount, mounts) = parse(&mountinfo, b"/n");
        aliases(root_mount.as_ref(), &mounts).iter().map(|(a, b)| format!("{a} {b}")).collect()
    }

    #[test]
    fn bind_mount_is_alias_of_its_source() {
        // A bind mount within the tree, one disk mounted twice, and a mount that shows the tree
        // itself.
        let bind = aliases_with(&[("8:1", "/n/srv/data", "/n/var/data")]);
        assert_eq!(bind, ["/var/data /srv/data"]);
        let twice = aliases_with(&[("8:2", "/", "/n/a"), ("8:2", "/x", "/n/b")]);
        assert_eq!(twice, ["/b /a/x"]);
        assert_eq!(aliases_with(&[("8:1", "/", "/n/all")]), ["/ /all/n"]);

        // From outside, of another disk, onto itself, and of a directory that another mount hides.
        assert!(aliases_with(&[("8:1", "/elsewhere", "/n/var/data")]).is_empty());
        assert!(aliases_with(&[("8:2", "/n/srv/data", "/n/var/data")]).is_empty());
        assert!(aliases_with(&[("8:1", "/n/usr", "/n/usr")]).is_empty());
        let hidden = [("8:2", "/", "/n/srv"), ("8:1", "/n/srv/data", "/n/var/data")];
        assert!(aliases_with(&hidden).is_empty());
    }
}
