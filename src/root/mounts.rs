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
}

/// The mount that holds the top of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The kind of filesystem.
    pub kind: String,
    /// Whether it is read-only.
    pub read_only: bool,
}

/// Kinds of filesystem that hold a system's own files; everything else that is mounted below a
/// tree is foreign to it.
const LOCAL: [&str; 9] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "jfs", "reiserfs"];

impl Mount {
    /// Whether this is a local disk filesystem, which an update may write to.
    pub fn is_local(&self) -> bool {
        LOCAL.contains(&self.kind.as_str())
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

/// The mount that holds `top` and those below it, in tree order; of several at one place the last,
/// which hides the others.
fn parse(mountinfo: &[u8], top: &[u8]) -> (Option<Host>, Vec<Mount>) {
    let mut host: Option<(usize, Host)> = None;
    let mut mounts: Vec<Mount> = Vec::new();
    for line in mountinfo.split(|&b| b == b'\n') {
        let Some((at, kind, read_only)) = fields(line) else { continue };
        if is_at_or_above(&at, top) {
            if host.as_ref().is_none_or(|(length, _)| at.len() >= *length) {
                host = Some((at.len(), Host { kind, read_only }));
            }
        } else if is_at_or_above(top, &at) {
            let below = if top == b"/" { &at[1..] } else { &at[top.len() + 1..] };
            let Ok(at) = TreePath::new(below) else { continue };
            mounts.retain(|m| m.at != at && !m.at.is_below(&at));
            mounts.push(Mount { at, kind, read_only });
        }
    }
    mounts.sort_by(|a, b| a.at.cmp(&b.at));
    (host.map(|(_, host)| host), mounts)
}

/// Mount point, filesystem kind and whether it is read-only, of one line of mountinfo (proc(5)).
fn fields(line: &[u8]) -> Option<(Vec<u8>, String, bool)> {
    let words: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let at = unescape(words.get(4)?);
    let own = words.get(5)?;
    let dash = words.iter().position(|w| *w == b"-")?;
    let kind = String::from_utf8_lossy(words.get(dash + 1)?).into_owned();
    let under = words.get(dash + 3).copied().unwrap_or_default();
    let ro = |options: &[u8]| options.split(|&b| b == b',').any(|o| o == b"ro");
    Some((at, kind, ro(own) || ro(under)))
}

fn is_at_or_above(upper: &[u8], lower: &[u8]) -> bool {
    upper == b"/" || lower == upper || (lower.starts_with(upper) && lower.get(upper.len()) == Some(&b'/'))
}

/// Space, tab, newline and backslash are written as `\ooo`.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, after)) = rest.split_first() {
        let octal = (first == b'\\').then(|| after.get(..3)).flatten();
        let value = octal.and_then(|o| std::str::from_utf8(o).ok()).and_then(|o| u8::from_str_radix(o, 8).ok());
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
        assert_eq!(host, Some(Host { kind: "xfs".to_owned(), read_only: false }));
        let at: Vec<String> = mounts.iter().map(|m| format!("{} {} {}", m.at, m.kind, m.read_only)).collect();
        assert_eq!(at, ["/boot ext4 true"]);
    }

    #[test]
    fn the_running_system_sees_them_all() {
        let (host, mounts) = parse(INFO, b"/");
        assert!(host.is_some_and(|h| h.is_local()));
        let at: Vec<String> = mounts.iter().map(|m| m.at.to_string()).collect();
        assert_eq!(at, ["/proc", "/srv/a b", "/srv/a b/boot"]);
        assert!(!mounts[0].is_local());
    }
}
