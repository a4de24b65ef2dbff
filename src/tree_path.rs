//! Paths inside a tree: relative, byte-exact, checked once.
//!
//! A [`TreePath`] never has a component `..` or `.`, an empty component or a NUL. So its name alone
//! cannot lead out of the directory that it is joined to. Symbolic links are a matter of
//! [`root`](crate::root), which follows none.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crate::printable::Quoted;

/// Length of the longest path in bytes: Linux's `PATH_MAX` without the terminating NUL.
pub const MAX_PATH: usize = 4095;
/// Length of the longest component in bytes, on every filesystem that Linux can mount as root.
pub const MAX_NAME: usize = 255;

/// A path relative to the root of a tree; the root itself is the empty path.
///
/// The order is *tree order*: by component, that is, `/` sorts below every other byte. So all paths
/// below a directory follow it without a gap.
///
/// All clones share the bytes, since manifests, the change plan and reports name the same paths.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TreePath(Arc<[u8]>);

/// Bytes that are not a [`TreePath`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{} is not a path inside a tree: {why}", Quoted(.bytes))]
pub struct BadPath {
    bytes: Vec<u8>,
    why: &'static str,
}

impl TreePath {
    /// The root of the tree.
    pub fn root() -> Self {
        TreePath(Arc::default())
    }

    /// Checks `bytes`: relative, without `.`, `..`, empty components and NUL, and not too long.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, BadPath> {
        let bytes = bytes.as_ref();
        match fault(bytes) {
            None => Ok(TreePath(bytes.into())),
            Some(why) => Err(BadPath { bytes: bytes.to_vec(), why }),
        }
    }

    /// This path with one more component.
    pub fn join(&self, name: &[u8]) -> Result<Self, BadPath> {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !self.is_root() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);

        if name.contains(&b'/') || name.is_empty() {
            return Err(BadPath { bytes, why: "a component is empty or holds a slash" });
        }
        TreePath::new(bytes)
    }

    /// The bytes, without a slash at either end.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same bytes for the standard library.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// Whether this is the root of the tree.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory of this path; `None` for the root.
    pub fn parent(&self) -> Option<TreePath> {
        if self.is_root() {
            return None;
        }
        let cut = self.0.iter().rposition(|&b| b == b'/').unwrap_or(0);
        Some(TreePath(self.0[..cut].into()))
    }

    /// The bytes of the parent's path; empty for the root and for paths directly in it.
    pub fn directory(&self) -> &[u8] {
        self.0.iter().rposition(|&b| b == b'/').map_or(&[], |slash| &self.0[..slash])
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &[u8] {
        match self.0.iter().rposition(|&b| b == b'/') {
            Some(slash) => &self.0[slash + 1..],
            None => &self.0,
        }
    }

    /// The last component as a path relative to the parent.
    pub fn last_component(&self) -> TreePath {
        TreePath(self.name().into())
    }

    /// The components from the root down.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|c| !c.is_empty())
    }

    /// Whether this path is below `other`, at any depth; a path is not below itself.
    pub fn is_below(&self, other: &TreePath) -> bool {
        if other.is_root() {
            return !self.is_root();
        }
        self.0.len() > other.0.len()
            && self.0.starts_with(&other.0)
            && self.0[other.0.len()] == b'/'
    }
}

fn fault(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return None;
    }
    if bytes.len() > MAX_PATH {
        return Some("it is longer than 4095 bytes");
    }
    if bytes.contains(&0) {
        return Some("it holds a NUL");
    }
    if bytes[0] == b'/' {
        return Some("it begins with a slash");
    }
    for component in bytes.split(|&b| b == b'/') {
        match component {
            b"" => return Some("a component is empty"),
            b"." | b".." => return Some("a component is . or .."),
            long if long.len() > MAX_NAME => return Some("a component is longer than 255 bytes"),
            _ => {}
        }
    }
    None
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        // Equal entries of two manifests mostly share their paths.
        if Arc::ptr_eq(&self.0, &other.0) {
            return Ordering::Equal;
        }
        match first_difference(&self.0, &other.0) {
            None => self.0.len().cmp(&other.0.len()),
            Some(at) => slash_lowest(self.0[at]).cmp(&slash_lowest(other.0[at])),
        }
    }
}

/// Index of the first difference within the common length.
///
/// It compares eight bytes at a time, since searching and merging manifests takes most of its time
/// here.
fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    let (a_chunks, b_chunks) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    let equal = 8 * a_chunks.iter().zip(b_chunks).take_while(|(x, y)| x == y).count();
    let rest = a[equal..].iter().zip(&b[equal..]).position(|(x, y)| x != y);
    rest.map(|at| equal + at)
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Sort key of a byte: no path has a NUL, so `/` takes its place below every other byte.
fn slash_lowest(byte: u8) -> u8 {
    if byte == b'/' { 0 } else { byte }
}

impl fmt::Display for TreePath {
    /// Writes the path for people: absolute, each byte that could harm a terminal as `\ooo`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", Quoted(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(s: &str) -> TreePath {
        TreePath::new(s).expect("a good path")
    }

    #[test]
    fn path_out_of_tree_refused() {
        for bad in ["/etc", "..", "a/../b", "a//b", "a/", "./a", "a/.", "a\0b"] {
            assert!(TreePath::new(bad).is_err(), "{bad:?}");
        }
        assert!(TreePath::new(vec![b'x'; MAX_NAME + 1]).is_err());
        assert!(path("a").join(b"..").is_err());
        assert!(path("a").join(b"b/c").is_err());
        assert!(path("a").join(b"").is_err());
    }

    #[test]
    fn longest_path_accepted() {
        let mut bytes = vec![b'd'; MAX_PATH];
        for slash in (200..MAX_PATH).step_by(201) {
            bytes[slash] = b'/';
        }

        assert!(TreePath::new(bytes.clone()).is_ok());
        bytes.push(b'd');
        assert!(TreePath::new(bytes).is_err());
    }

    #[test]
    fn subtree_follows_directory_without_gap() {
        let mut paths =
            [path("a.b"), path("a/c"), path("a"), path("a-b"), path("b"), TreePath::root()];

        paths.sort();

        let order: Vec<String> = paths.iter().map(|p| p.to_string()).collect();
        assert_eq!(order, ["/", "/a", "/a/c", "/a-b", "/a.b", "/b"]);
    }

    #[test]
    fn is_below_compares_components() {
        assert!(path("a/b").is_below(&path("a")));
        assert!(!path("ab").is_below(&path("a")));
        assert!(!path("a").is_below(&path("a")));
        assert!(path("a").is_below(&TreePath::root()));
        assert_eq!(path("a/b").parent(), Some(path("a")));
        assert_eq!(path("a").parent(), Some(TreePath::root()));
        assert_eq!(path("a/b").name(), b"b");
    }

    #[test]
    fn unusual_name_escaped() {
        let odd = TreePath::new(b"a\n\x1b[1m\xff\\\xc3\xa4").expect("a good path");
        assert_eq!(odd.to_string(), "/a\\012\\033[1m\\377\\134ä");
    }
}
