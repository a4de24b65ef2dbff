//! A whole tree as a value, quick enough to read after each of thousands of steps.
//!
//! It does not replace [`super::judge`], which is the authority. Tests that compare fingerprints
//! also ask rsync, for some steps and whenever two fingerprints differ.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The agent's own files, which no image has, relative to the top.
const OWN: [&str; 2] = ["var/lib/systemimager/client", "etc/systemimager/IMAGE_LAST_SYNCED_TO"];
/// The directories above them. The agent changes their times when it writes there.
const ABOVE_OWN: [&str; 6] =
    ["", "etc", "etc/systemimager", "var", "var/lib", "var/lib/systemimager"];

/// Attributes of each path.
#[derive(Clone, Debug, PartialEq)]
pub struct Fingerprint(BTreeMap<PathBuf, Attributes>);

#[derive(Clone, PartialEq)]
struct Attributes {
    /// Type and permissions.
    mode: u32,
    owner: (u32, u32),
    /// Seconds and nanoseconds; `None` if the agent changes it.
    mtime: Option<(i64, i64)>,
    device: u64,
    /// The bytes of a file, or the target of a symbolic link.
    content: Vec<u8>,
    /// Whether the file is sparse.
    holes: bool,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// First path of the hard-link group.
    group: PathBuf,
}

impl Fingerprint {
    /// Reads `top` and everything below it.
    pub fn read(top: &Path) -> Self {
        let mut seen = Fingerprint(BTreeMap::new());
        let mut groups = HashMap::new();
        seen.read_entry(top, Path::new(""), &mut groups);
        seen
    }

    fn read_entry(&mut self, top: &Path, path: &Path, groups: &mut HashMap<(u64, u64), PathBuf>) {
        let place = if path.as_os_str().is_empty() { top.to_owned() } else { top.join(path) };
        let meta =
            fs::symlink_metadata(&place).unwrap_or_else(|e| panic!("{}: {e}", place.display()));
        let kind = meta.file_type();
        let content = match () {
            () if kind.is_file() => fs::read(&place).expect("a file"),
            () if kind.is_symlink() => {
                fs::read_link(&place).expect("a symlink").into_os_string().into_vec()
            }
            () => Vec::new(),
        };
        let above_own = ABOVE_OWN.iter().any(|own| path == Path::new(own));
        let is_device = kind.is_char_device() || kind.is_block_device();
        let group = if kind.is_dir() {
            path.to_owned()
        } else {
            groups.entry((meta.dev(), meta.ino())).or_insert_with(|| path.to_owned()).clone()
        };
        let seen = Attributes {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            mtime: (!above_own).then(|| (meta.mtime(), meta.mtime_nsec())),
            device: if is_device { meta.rdev() } else { 0 },
            content,
            holes: kind.is_file() && is_sparse(&meta) && {
                // Data that is not on the disk yet may have no blocks.
                let synced = fs::File::open(&place)
                    .and_then(|file| file.sync_all())
                    .and_then(|()| fs::metadata(&place));
                is_sparse(&synced.expect("syncs"))
            },
            xattrs: xattrs(&place),
            group,
        };
        self.0.insert(path.to_owned(), seen);

        if kind.is_dir() {
            let mut names: Vec<_> =
                fs::read_dir(&place).expect("a directory").map(|e| e.expect("an entry")).collect();
            names.sort_by_key(|entry| entry.file_name());
            for entry in names {
                let path = path.join(entry.file_name());
                let is_own = OWN.iter().any(|own| path == Path::new(own));
                if !is_own && !path.as_os_str().as_bytes().starts_with(b".si-") {
                    self.read_entry(top, &path, groups);
                }
            }
        }
    }

    /// Paths that differ between the two trees, each with the difference.
    pub fn differences(&self, other: &Fingerprint) -> Vec<String> {
        let mut paths: Vec<&PathBuf> = self.0.keys().chain(other.0.keys()).collect();
        paths.sort_unstable();
        paths.dedup();
        let differs = |path: &&&PathBuf| self.0.get(**path) != other.0.get(**path);
        let tell =
            |path: &PathBuf| format!("{path:?}: {:?}, {:?}", self.0.get(path), other.0.get(path));
        paths.iter().filter(differs).map(|path| tell(path)).collect()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

fn xattrs(place: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(place, &mut names).expect("its attributes");
    let names = names[..length].split(|&b| b == 0).filter(|name| !name.is_empty());
    let mut found: Vec<_> = names
        .map(|name| {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(place, name, &mut value).expect("an attribute");
            (name.to_vec(), value[..length].to_vec())
        })
        .collect();
    found.sort_unstable();

    found
}

impl Debug for Attributes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Attributes { mode, owner: (uid, gid), mtime, device, content, holes, xattrs, group } =
            self;
        let content = format!(
            "{:?} ({} bytes)",
            String::from_utf8_lossy(&content[..content.len().min(40)]),
            content.len()
        );
        let (seconds, nanos) = mtime.unwrap_or_default();
        write!(
            f,
            "{mode:o} {uid}:{gid} {seconds}.{nanos:09} {device:x} {content} holes={holes} {}",
            group.display()
        )?;

        xattrs.iter().try_for_each(|(name, value)| {
            write!(f, " {}={value:x?}", String::from_utf8_lossy(name))
        })
    }
}

fn is_sparse(meta: &fs::Metadata) -> bool {
    meta.blocks() * 512 < meta.size()
}
