//! What is mounted below a tree, as the kernel's mountinfo tells it.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::tree_path::TreePath;

/// Something mounted below the top of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where, relative to the top of the tree.
    pub at: TreePath,
    /// The kind of filesystem.
    pub kind: String,
    /// Whether it, or the filesystem under it, is read-only.
    pub read_only: bool,
    /// The disk, as `major:minor`; all subvolumes of a btrfs have the same.
    pub device: String,
    /// The directory of that disk which is seen there: `/` but for bind mounts and subvolumes.
    pub source: Vec<u8>,
}

/// The mount that holds the top of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// The kind of filesystem.
    pub kind: String,
    /// Whether it is read-only.
    pub read_only: bool,
    /// The disk, as `major:minor`.
    pub device: String,
    /// The directory of that disk which is the top of the tree: `/` only where the top is a mount point.
    pub source: Vec<u8>,
}

/// Kinds of filesystem that hold a system's own files; everything else that is mounted below a
/// tree is foreign to it, but for [`PLAIN`].
const LOCAL: [&str; 9] =
    ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "jfs", "reiserfs"];

/// Kinds that hold names, content and coarse times, and nothing else: an EFI system partition, and what a
/// program mounts from a disk.
const PLAIN: [&str; 4] = ["vfat", "msdos", "exfat", "fuseblk"];

impl Mount {
    /// Whether it holds names, content and coarse times, and nothing else.
    pub fn is_plain(&self) -> bool {
        PLAIN.contains(&self.kind.as_str())
    }

    /// Whether this is a disk of the system's own, which an update may write to.
    pub fn takes_part(&self) -> bool {
        LOCAL.contains(&self.kind.as_str()) || self.is_plain()
    }
}

impl Host {
    /// Whether updates are known to be safe here.
    pub fn is_local(&self) -> bool {
        LOCAL.contains(&self.kind.as_str())
    }
}

/// Reads what is mounted at and below the tree at `top`, a path without symlinks.
pub fn read(top: &Path) -> io::Result<(Option<Host>, Vec<Mount>)> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse(&text, top.as_os_str().as_bytes()))
}

/// The pairs of places in a tree that show one directory: a bind mount and its source, or a disk that is
/// mounted twice. The first of a pair is a mount point, or the top.
pub fn twins(host: Option<&Host>, mounts: &[Mount]) -> Vec<(TreePath, TreePath)> {
    let top = host.map(|host| (TreePath::root(), &host.device, &host.source));
    let below = mounts.iter().map(|mount| (mount.at.clone(), &mount.device, &mount.source));
    let all: Vec<(TreePath, &String, &Vec<u8>)> = top.into_iter().chain(below).collect();
    let mut twins = Vec::new();
    for (at, device, source) in &all {
        for (other, _, shown) in all.iter().filter(|other| other.1 == *device && other.0 != *at) {
            let Some(place) = rest(shown, source).and_then(|rest| joined(other, rest)) else {
                continue;
            };
            // Another mount may hide it, not least the one that is looked at.
            let innermost = all.iter().rfind(|(at, ..)| place == *at || place.is_below(at));
            if innermost.is_some_and(|(at, ..)| at == other) {
                twins.push((at.clone(), place));
            }
        }
    }
    twins
}

/// Where `path` is seen at `to`, if it is `from` or below it: both show one directory.
pub fn twin(path: &TreePath, from: &TreePath, to: &TreePath) -> Option<TreePath> {
    if path == from {
        return Some(to.clone());
    }
    let rest = path.is_below(from).then(|| &path.as_bytes()[from.as_bytes().len()..])?;
    joined(to, rest.strip_prefix(b"/").unwrap_or(rest))
}

/// What of the absolute path `lower` lies below `upper`.
fn rest<'a>(upper: &[u8], lower: &'a [u8]) -> Option<&'a [u8]> {
    is_at_or_above(upper, lower)
        .then(|| lower[upper.len()..].strip_prefix(b"/").unwrap_or(&lower[upper.len()..]))
}

fn joined(at: &TreePath, rest: &[u8]) -> Option<TreePath> {
    match (at.as_bytes(), rest) {
        (_, b"") => Some(at.clone()),
        (b"", rest) => TreePath::new(rest).ok(),
        (at, rest) => TreePath::new([at, b"/", rest].concat()).ok(),
    }
}

/// The mount that holds `top` and those below it, in tree order; of several at one place the last,
/// which hides the others.
fn parse(mountinfo: &[u8], top: &[u8]) -> (Option<Host>, Vec<Mount>) {
    let mut host: Option<(usize, Host)> = None;
    let mut mounts: Vec<Mount> = Vec::new();
    for line in mountinfo.split(|&b| b == b'\n') {
        let Some(MountInfoLine { at, kind, read_only, device, mut source }) = fields(line) else {
            continue;
        };
        if let Some(rest) = rest(&at, top) {
            if !rest.is_empty() {
                source = [source.strip_suffix(b"/").unwrap_or(&source), b"/", rest].concat();
            }
            if host.as_ref().is_none_or(|(length, _)| at.len() >= *length) {
                host = Some((at.len(), Host { kind, read_only, device, source }));
            }
        } else if let Some(Ok(at)) = rest(top, &at).map(TreePath::new) {
            mounts.retain(|m| m.at != at && !m.at.is_below(&at));
            mounts.push(Mount { at, kind, read_only, device, source });
        }
    }
    mounts.sort_by(|a, b| a.at.cmp(&b.at));
    (host.map(|(_, host)| host), mounts)
}

/// What one line of mountinfo (proc(5)) tells.
struct MountInfoLine {
    at: Vec<u8>,
    kind: String,
    read_only: bool,
    device: String,
    source: Vec<u8>,
}

fn fields(line: &[u8]) -> Option<MountInfoLine> {
    let words: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let device = String::from_utf8_lossy(words.get(2)?).into_owned();
    let source = unescape(words.get(3)?);
    let at = unescape(words.get(4)?);
    let own = words.get(5)?;
    let dash = words.iter().position(|w| *w == b"-")?;
    let kind = String::from_utf8_lossy(words.get(dash + 1)?).into_owned();
    let under = words.get(dash + 3).copied().unwrap_or_default();
    let ro = |options: &[u8]| options.split(|&b| b == b',').any(|o| o == b"ro");
    Some(MountInfoLine { at, kind, read_only: ro(own) || ro(under), device, source })
}

fn is_at_or_above(upper: &[u8], lower: &[u8]) -> bool {
    upper == b"/"
        || lower == upper
        || (lower.starts_with(upper) && lower.get(upper.len()) == Some(&b'/'))
}

/// Space, tab, newline and backslash are written as `\ooo`.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, after)) = rest.split_first() {
        let octal = (first == b'\\').then(|| after.get(..3)).flatten();
        let value = octal
            .and_then(|o| std::str::from_utf8(o).ok())
            .and_then(|o| u8::from_str_radix(o, 8).ok());
        match value {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &[u8] = b"1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
        2 1 0:5 / /proc rw - proc proc rw\n\
        3 1 8:2 / /srv/a\\040b rw - xfs /dev/sdb rw\n\
        4 3 8:3 / /srv/a\\040b/boot ro,relatime shared:3 - ext4 /dev/sdc rw\n";

    #[test]
    fn mounts_are_seen_from_the_top_of_the_tree() {
        let (host, mounts) = parse(INFO, b"/srv/a b");
        let host = host.expect("a host");
        assert_eq!(
            (host.kind.as_str(), host.read_only, host.source.as_slice()),
            ("xfs", false, &b"/"[..])
        );
        let at: Vec<String> =
            mounts.iter().map(|m| format!("{} {} {}", m.at, m.kind, m.read_only)).collect();
        assert_eq!(at, ["/boot ext4 true"]);
    }

    #[test]
    fn the_running_system_sees_them_all() {
        let (host, mounts) = parse(INFO, b"/");
        assert!(host.is_some_and(|h| h.is_local()));
        let at: Vec<String> = mounts.iter().map(|m| m.at.to_string()).collect();
        assert_eq!(at, ["/proc", "/srv/a b", "/srv/a b/boot"]);
        assert!(!mounts[0].takes_part());
    }

    #[test]
    fn a_tree_that_is_no_mount_point_has_a_source() {
        let (host, mounts) = parse(INFO, b"/srv/a b/c/d");
        assert_eq!((host.expect("a host").source.as_slice(), mounts.len()), (&b"/c/d"[..], 0));
    }

    /// The twins of a tree at `/n` of the disk 8:1, with these mounts: device, source, place.
    fn twins_of(mounts: &[(&str, &str, &str)]) -> Vec<String> {
        let mut info = b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n".to_vec();
        for (device, source, at) in mounts {
            info.extend(format!("2 1 {device} {source} {at} rw - ext4 /dev/x rw\n").bytes());
        }
        let (host, mounts) = parse(&info, b"/n");
        twins(host.as_ref(), &mounts).iter().map(|(a, b)| format!("{a} {b}")).collect()
    }

    #[test]
    fn a_bind_mount_and_its_source_are_twins() {
        assert_eq!(twins_of(&[("8:1", "/n/srv/data", "/n/var/data")]), ["/var/data /srv/data"]);
        // from outside, of another disk, onto itself, of what another mount hides
        assert!(twins_of(&[("8:1", "/elsewhere", "/n/var/data")]).is_empty());
        assert!(twins_of(&[("8:2", "/n/srv/data", "/n/var/data")]).is_empty());
        assert!(twins_of(&[("8:1", "/n/usr", "/n/usr")]).is_empty());
        assert!(
            twins_of(&[("8:2", "/", "/n/srv"), ("8:1", "/n/srv/data", "/n/var/data")]).is_empty()
        );
        // a disk that is mounted twice, and one that shows the tree itself
        assert_eq!(twins_of(&[("8:2", "/", "/n/a"), ("8:2", "/x", "/n/b")]), ["/b /a/x"]);
        assert_eq!(twins_of(&[("8:1", "/", "/n/all")]), ["/ /all/n"]);
    }
}
