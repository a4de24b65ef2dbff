//! Reads an archive of a whole image, as `tar` writes it, into a manifest.
//!
//! Supported are ustar, GNU tar's format and pax, with extended attributes, ACLs and sparse members,
//! and complete archives of `tar --listed-incremental`.
//! Nothing is unpacked and no path is opened: contents are only hashed. If a path occurs twice, the
//! last entry counts, as when unpacking.

mod blocks;
mod pax;
mod sparse;

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::{EntryType, Header};

use self::blocks::Blocks;
use self::pax::Pax;
use super::notice::TardiffNotice;
use crate::acl;
use crate::entry::{Device, Entry, Leaf, LeafKind, Meta, Mtime, Node, Xattrs};
use crate::manifest::{Manifest, ManifestError};
use crate::printable::Quoted;
use crate::report::Monitor;
use crate::tree_path::{BadPath, TreePath};

/// Size limit of a pax header or a long name: the largest entry of a manifest fits.
const MAX_EXTENDED: u64 = 2 << 20;
/// Size limit of the list of a directory's names in an incremental archive: a million names.
const MAX_NAMES: u64 = 256 << 20;
/// Type of a directory in an incremental archive; its body is a list of the names in it.
const DUMP_DIRECTORY: u8 = b'D';

/// An archive of a whole image.
pub struct TarImage {
    /// Its entries.
    pub manifest: Manifest,
    /// Whether times have no fractions of seconds, as in archives that are not pax.
    pub whole_seconds: bool,
}

/// Reason that an archive is not an image.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// Reading failed, or the archive ends too early.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A block is not as `tar` writes it.
    #[error("unsupported or damaged tar format at byte {offset}: {reason}")]
    Format {
        /// Offset of the block.
        offset: u64,
        /// The violated rule.
        reason: &'static str,
    },
    /// A member cannot be part of an image.
    #[error("{}: {reason}", Quoted(.name))]
    Member {
        /// Its name.
        name: Vec<u8>,
        /// The violated rule.
        reason: &'static str,
    },
    /// A name is no path.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// The members together are no image.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// Reads an uncompressed archive to its end.
pub fn read(from: impl Read, monitor: &dyn Monitor) -> Result<TarImage, TarError> {
    let mut image = TarImageBuilder {
        entries: BTreeMap::new(),
        firsts: BTreeMap::new(),
        whole_seconds: true,
        acls: 0,
    };
    let mut blocks = Blocks::new(from);
    let mut extended = Extended::default();

    while let Some(header) = blocks.header()? {
        let size = blocks.number(header.entry_size())?;
        match header.entry_type() {
            EntryType::XHeader => {
                extended.pax = Pax::parse(&blocks.body(size, MAX_EXTENDED)?, &blocks)?;
            }
            EntryType::XGlobalHeader => {
                let records = Pax::parse(&blocks.body(size, MAX_EXTENDED)?, &blocks)?;
                if !records.is_comment() {
                    return Err(blocks.error("global pax records are not supported"));
                }
            }
            EntryType::GNULongName => {
                extended.name = Some(without_nul(blocks.body(size, MAX_EXTENDED)?));
            }
            EntryType::GNULongLink => {
                extended.link = Some(without_nul(blocks.body(size, MAX_EXTENDED)?));
            }
            _ => {
                let member = Member::new(&header, std::mem::take(&mut extended), size, &blocks)?;
                image.add_member(&member, &mut blocks, monitor)?;
            }
        }
    }

    if image.acls > 0 {
        monitor.warn(TardiffNotice::NamedAcls { count: image.acls });
    }
    image.finish(monitor)
}

/// Headers before a member that extend its own header.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Pax,
}

/// Headers of a member, combined.
struct Member<'h> {
    header: &'h Header,
    pax: Pax,
    name: Vec<u8>,
    path: TreePath,
    /// Target of a symlink or a hard link.
    link: Vec<u8>,
    /// Bytes of its body.
    size: u64,
}

impl<'h> Member<'h> {
    /// Pax records have precedence over GNU's long names, and these over the header.
    fn new<R>(
        header: &'h Header,
        extended: Extended,
        size: u64,
        blocks: &Blocks<R>,
    ) -> Result<Self, TarError> {
        let Extended { name, link, pax } = extended;
        let size = pax.number(b"size", blocks)?.unwrap_or(size);
        let name = pax
            .sparse_name()
            .or(pax.bytes(b"path"))
            .map(<[u8]>::to_vec)
            .or(name)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = pax
            .bytes(b"linkpath")
            .map(<[u8]>::to_vec)
            .or(link)
            .or_else(|| header.link_name_bytes().map(|link| link.into_owned()))
            .unwrap_or_default();

        Ok(Member { header, path: tree_path(&name)?, pax, name, link, size })
    }

    fn error(&self, reason: &'static str) -> TarError {
        TarError::Member { name: self.name.clone(), reason }
    }

    fn device(&self) -> Result<Device, TarError> {
        let major = self.header.device_major().ok().flatten();
        let minor = self.header.device_minor().ok().flatten();
        match (major, minor) {
            (Some(major), Some(minor)) => Ok(Device { major, minor }),
            _ => Err(self.error("it has no device number")),
        }
    }

    /// A number of a pax record, or else of the header.
    fn id<R>(
        &self,
        key: &[u8],
        field: io::Result<u64>,
        blocks: &Blocks<R>,
    ) -> Result<u32, TarError> {
        let id = match self.pax.number(key, blocks)? {
            Some(id) => id,
            None => blocks.number(field)?,
        };
        u32::try_from(id).map_err(|_| blocks.error("the number of an owner is too large"))
    }
}

/// Type of a member.
enum MemberType {
    Directory,
    Leaf(LeafKind),
    HardLink,
    /// A type that no image has.
    Unsupported,
}

struct TarImageBuilder {
    entries: BTreeMap<TreePath, Entry>,
    /// First path of the hard-link group, for each further path.
    firsts: BTreeMap<TreePath, TreePath>,
    whole_seconds: bool,
    /// Number of ACLs that name users or groups.
    acls: u64,
}

impl TarImageBuilder {
    fn add_member<R: Read>(
        &mut self,
        member: &Member<'_>,
        blocks: &mut Blocks<R>,
        monitor: &dyn Monitor,
    ) -> Result<(), TarError> {
        let node = match read_body(member, blocks)? {
            MemberType::HardLink => return self.add_hard_link(member),
            MemberType::Unsupported => {
                monitor.warn(TardiffNotice::MemberOmitted { name: &member.name });
                return Ok(());
            }
            MemberType::Directory => Node::Directory,
            MemberType::Leaf(kind) => Node::Leaf(Leaf { kind, group: None }),
        };

        let meta = self.meta(member, &node, blocks)?;
        let path = &member.path;
        self.firsts.remove(path);
        self.entries.insert(path.clone(), Entry::new(path.clone(), meta, node));
        Ok(())
    }

    fn meta<R>(
        &mut self,
        member: &Member<'_>,
        node: &Node,
        blocks: &Blocks<R>,
    ) -> Result<Meta, TarError> {
        let Member { header, pax, .. } = member;
        let mtime = match pax.time(b"mtime", blocks)? {
            Some(time) => {
                self.whole_seconds = false;
                time
            }
            // GNU tar writes times before 1970 as negative numbers in base 256.
            None => Mtime { seconds: blocks.number(header.mtime())? as i64, nanos: 0 },
        };
        let mut xattrs = pax.xattrs();
        for (record, attribute) in
            [(&b"SCHILY.acl.access"[..], acl::ACCESS), (b"SCHILY.acl.default", acl::DEFAULT)]
        {
            let text = pax.bytes(record).filter(|_| !xattrs.contains_key(attribute));
            match text.map(acl::from_text) {
                Some(Some(value)) if attribute == acl::ACCESS && acl::is_minimal(&value) => {}
                Some(Some(value)) => drop(xattrs.insert(attribute.into(), value.into())),
                Some(None) => self.acls += 1,
                None => {}
            }
        }

        let mode = header.mode().map_err(|_| blocks.error("a mode is not a number"))?;
        let is_symlink = matches!(node, Node::Leaf(Leaf { kind: LeafKind::Symlink { .. }, .. }));
        Ok(Meta {
            mode: if is_symlink { 0o777 } else { (mode & 0o7777) as u16 },
            uid: member.id(b"uid", header.uid(), blocks)?,
            gid: member.id(b"gid", header.gid(), blocks)?,
            mtime,
            xattrs,
        })
    }

    fn add_hard_link(&mut self, member: &Member<'_>) -> Result<(), TarError> {
        let path = &member.path;
        let target = tree_path(&member.link)?;
        let first = self.firsts.get(&target).unwrap_or(&target).clone();
        let entry = self
            .entries
            .get(&first)
            .filter(|entry| !entry.is_dir() && first != *path)
            .ok_or_else(|| member.error("it is a hard link to no earlier member"))?
            .at(path.clone());

        self.entries.insert(path.clone(), entry);
        self.firsts.insert(path.clone(), first);
        Ok(())
    }

    fn finish(mut self, monitor: &dyn Monitor) -> Result<TarImage, TarError> {
        self.entries.entry(TreePath::root()).or_insert_with(|| {
            monitor.warn(TardiffNotice::NoTopDirectory);
            let mtime = Mtime { seconds: 0, nanos: 0 };
            let meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime, xattrs: Xattrs::new() };
            Entry::new(TreePath::root(), meta, Node::Directory)
        });

        // A manifest names each hard-link group by its first path in tree order.
        let mut groups: BTreeMap<&TreePath, Vec<TreePath>> = BTreeMap::new();
        for (path, first) in &self.firsts {
            groups.entry(first).or_insert_with(|| vec![first.clone()]).push(path.clone());
        }
        for mut group in groups.into_values() {
            group.sort();
            for path in &group {
                if let Some(entry) = self.entries.get_mut(path)
                    && let Node::Leaf(leaf) = &mut entry.node
                {
                    leaf.group = Some(group[0].clone());
                }
            }
        }

        let manifest = Manifest::new(self.entries.into_values().collect())?;
        Ok(TarImage { manifest, whole_seconds: self.whole_seconds })
    }
}

/// Reads or skips the body of a member, and returns its type.
fn read_body<R: Read>(member: &Member<'_>, blocks: &mut Blocks<R>) -> Result<MemberType, TarError> {
    let Member { header, pax, size, .. } = member;
    let member_type = match header.entry_type() {
        EntryType::Directory => {
            check_complete(pax.bytes(b"GNU.dumpdir").unwrap_or_default(), member)?;
            MemberType::Directory
        }
        other if other.as_byte() == DUMP_DIRECTORY => {
            check_complete(&blocks.body(*size, MAX_NAMES)?, member)?;
            return Ok(MemberType::Directory);
        }
        EntryType::Link => MemberType::HardLink,
        EntryType::Symlink => {
            MemberType::Leaf(LeafKind::Symlink { target: member.link.clone().into() })
        }
        EntryType::Char => MemberType::Leaf(LeafKind::Char(member.device()?)),
        EntryType::Block => MemberType::Leaf(LeafKind::Block(member.device()?)),
        EntryType::Fifo => MemberType::Leaf(LeafKind::Fifo),
        EntryType::Regular | EntryType::Continuous if member.name.ends_with(b"/") => {
            MemberType::Directory
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let (size, digest) = sparse::content(header, pax, *size, blocks)?
                .ok_or_else(|| member.error("its sparse format is not supported"))?;
            return Ok(MemberType::Leaf(LeafKind::File { size, digest }));
        }
        _ => MemberType::Unsupported,
    };

    blocks.skip(*size)?;
    Ok(member_type)
}

/// Refuses an incremental archive that lacks files of a directory.
///
/// `names` is a list of a letter, a name and NUL: `Y` if the file is in the archive, `N` if it has
/// not changed since another one, `D` for a directory.
fn check_complete(names: &[u8], member: &Member<'_>) -> Result<(), TarError> {
    if names.split(|&byte| byte == 0).any(|name| name.starts_with(b"N")) {
        return Err(member.error(
            "the archive is incremental and lacks files of this directory; use one of level 0",
        ));
    }
    Ok(())
}

/// The path of a member: `./a/b/`, `/a/b` and `a/b` are the same.
fn tree_path(name: &[u8]) -> Result<TreePath, BadPath> {
    let parts = name.split(|&b| b == b'/').filter(|part| !matches!(*part, b"" | b"."));
    TreePath::new(parts.collect::<Vec<_>>().join(&b'/'))
}

/// Removes the NUL byte that ends a long name.
fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}

#[cfg(test)]
mod tests;
