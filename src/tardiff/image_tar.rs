//! Reads an archive of a whole image, as `tar` writes it, into a manifest.
//!
//! Understood are ustar, GNU tar's own format and pax, with extended attributes and sparse members.
//! Nothing is unpacked and no path is followed: contents go through the digest and nowhere else. Of a
//! path that occurs twice the last one counts, as it would when unpacking.

mod blocks;
mod pax;
mod sparse;

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::{EntryType, Header};

use self::blocks::Blocks;
use self::pax::Pax;
use crate::entry::{Device, Entry, Leaf, LeafKind, Meta, Mtime, Node, Xattrs};
use crate::manifest::{Manifest, ManifestError};
use crate::report::Monitor;
use crate::tree_path::{BadPath, Quoted, TreePath};

/// A pax header or a long name may have this many bytes: the largest entry of a manifest fits.
const MAX_EXTENDED: u64 = 2 << 20;

/// What an archive of a whole image holds.
pub struct TarImage {
    /// Its entries.
    pub manifest: Manifest,
    /// Whether times are known to the second only, as in archives that are not pax.
    pub whole_seconds: bool,
}

/// Why an archive is not an image.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// It could not be read, or ends too early.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A block is not what tar writes.
    #[error("it is not a tar archive that this program reads: at byte {at}: {why}")]
    Format {
        /// The offset of the block.
        at: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// A member cannot be part of an image.
    #[error("{}: {why}", Quoted(.name))]
    Member {
        /// Its name.
        name: Vec<u8>,
        /// What is wrong.
        why: &'static str,
    },
    /// A name is not a path.
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
                extended.pax = Pax::parse(&blocks.body(size, MAX_EXTENDED)?, &blocks)?
            }
            EntryType::XGlobalHeader => {
                let records = Pax::parse(&blocks.body(size, MAX_EXTENDED)?, &blocks)?;
                if !records.is_comment() {
                    return Err(blocks.fault("global pax records are not understood"));
                }
            }
            EntryType::GNULongName => {
                extended.name = Some(trimmed(blocks.body(size, MAX_EXTENDED)?))
            }
            EntryType::GNULongLink => {
                extended.link = Some(trimmed(blocks.body(size, MAX_EXTENDED)?))
            }
            _ => {
                let extended = std::mem::take(&mut extended);
                image.member(&header, extended, size, &mut blocks, monitor)?;
            }
        }
    }
    if image.acls > 0 {
        monitor.warn(format!(
            "{} ACLs are in the archive as text and are taken as different",
            image.acls
        ));
    }
    image.finish(monitor)
}

/// What goes before a member and belongs to it.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Pax,
}

struct TarImageBuilder {
    entries: BTreeMap<TreePath, Entry>,
    /// The path that each hardlink was made to.
    firsts: BTreeMap<TreePath, TreePath>,
    whole_seconds: bool,
    acls: u64,
}

impl TarImageBuilder {
    fn member<R: Read>(
        &mut self,
        header: &Header,
        extended: Extended,
        size: u64,
        blocks: &mut Blocks<R>,
        monitor: &dyn Monitor,
    ) -> Result<(), TarError> {
        let Extended { name, link, pax } = extended;
        let size = pax.number(b"size", blocks)?.unwrap_or(size);
        let name = pax.sparse_name().or(pax.bytes(b"path")).map(<[u8]>::to_vec).or(name);
        let name = name.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = pax.bytes(b"linkpath").map(<[u8]>::to_vec).or(link);
        let link =
            link.or_else(|| header.link_name_bytes().map(|l| l.into_owned())).unwrap_or_default();
        let path = tree_path(&name)?;
        let member = |why| TarError::Member { name: name.clone(), why };
        let device = || -> Result<Device, TarError> {
            let (major, minor) = (header.device_major(), header.device_minor());
            let numbers = (major.ok().flatten(), minor.ok().flatten());
            let (Some(major), Some(minor)) = numbers else {
                return Err(member("it has no device number"));
            };
            Ok(Device { major, minor })
        };
        let kind = match header.entry_type() {
            EntryType::Directory => None,
            EntryType::Link => {
                blocks.skip(size)?;
                return self.hardlink(path, &link, &name);
            }
            EntryType::Symlink => Some(LeafKind::Symlink { target: link.into() }),
            EntryType::Char => Some(LeafKind::Char(device()?)),
            EntryType::Block => Some(LeafKind::Block(device()?)),
            EntryType::Fifo => Some(LeafKind::Fifo),
            EntryType::Regular | EntryType::Continuous if name.ends_with(b"/") => None,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let (size, digest) = sparse::content(header, &pax, size, blocks)?
                    .ok_or_else(|| member("its holes are not understood"))?;
                Some(LeafKind::File { size, digest })
            }
            _ => {
                monitor.warn(format!(
                    "{} is of a kind that no image holds and is left out",
                    Quoted(&name)
                ));
                return blocks.skip(size);
            }
        };
        if !matches!(kind, Some(LeafKind::File { .. })) {
            blocks.skip(size)?;
        }
        let meta =
            self.meta(header, &pax, blocks, matches!(kind, Some(LeafKind::Symlink { .. })))?;
        let node = kind.map_or(Node::Directory, |kind| Node::Leaf(Leaf { kind, group: None }));
        self.firsts.remove(&path);
        self.entries.insert(path.clone(), Entry::new(path, meta, node));
        Ok(())
    }

    fn meta<R>(
        &mut self,
        header: &Header,
        pax: &Pax,
        blocks: &Blocks<R>,
        symlink: bool,
    ) -> Result<Meta, TarError> {
        let id = |key: &[u8], field: io::Result<u64>| -> Result<u32, TarError> {
            let id = match pax.number(key, blocks)? {
                Some(id) => id,
                None => blocks.number(field)?,
            };
            u32::try_from(id).map_err(|_| blocks.fault("an owner is not a number that Linux has"))
        };
        let mtime = match pax.time(b"mtime", blocks)? {
            Some(time) => {
                self.whole_seconds = false;
                time
            }
            // GNU tar writes times before the epoch as a negative number in base 256.
            None => Mtime { seconds: blocks.number(header.mtime())? as i64, nanos: 0 },
        };
        self.acls += u64::from(
            pax.bytes(b"SCHILY.acl.access").is_some() || pax.bytes(b"SCHILY.acl.default").is_some(),
        );
        let mode =
            (header.mode().map_err(|_| blocks.fault("a mode is not a number"))? & 0o7777) as u16;
        Ok(Meta {
            mode: if symlink { 0o777 } else { mode },
            uid: id(b"uid", header.uid())?,
            gid: id(b"gid", header.gid())?,
            mtime,
            xattrs: pax.xattrs(),
        })
    }

    fn hardlink(&mut self, path: TreePath, link: &[u8], name: &[u8]) -> Result<(), TarError> {
        let to = tree_path(link)?;
        let first = self.firsts.get(&to).unwrap_or(&to).clone();
        let entry = self.entries.get(&first).filter(|entry| !entry.is_dir() && first != path);
        let Some(entry) = entry else {
            return Err(TarError::Member {
                name: name.to_vec(),
                why: "it is a hardlink to nothing before it",
            });
        };
        let entry = entry.at(path.clone());
        self.entries.insert(path.clone(), entry);
        self.firsts.insert(path, first);
        Ok(())
    }

    fn finish(mut self, monitor: &dyn Monitor) -> Result<TarImage, TarError> {
        self.entries.entry(TreePath::root()).or_insert_with(|| {
            monitor.warn(
                "the archive does not hold the top directory itself, which is taken as different",
            );
            let mtime = Mtime { seconds: 0, nanos: 0 };
            let meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime, xattrs: Xattrs::new() };
            Entry::new(TreePath::root(), meta, Node::Directory)
        });
        let mut members: BTreeMap<&TreePath, Vec<&TreePath>> = BTreeMap::new();
        for (path, first) in &self.firsts {
            members.entry(first).or_insert_with(|| vec![first]).push(path);
        }
        let groups: Vec<Vec<TreePath>> =
            members.into_values().map(|m| m.into_iter().cloned().collect()).collect();
        for mut group in groups {
            group.sort();
            for path in &group {
                if let Some(Node::Leaf(leaf)) =
                    self.entries.get_mut(path).map(|entry| &mut entry.node)
                {
                    leaf.group = Some(group[0].clone());
                }
            }
        }
        let manifest = Manifest::new(self.entries.into_values().collect())?;
        Ok(TarImage { manifest, whole_seconds: self.whole_seconds })
    }
}

/// `./a/b/`, `/a/b` and `a/b` are the same member.
fn tree_path(name: &[u8]) -> Result<TreePath, BadPath> {
    let parts = name.split(|&b| b == b'/').filter(|part| !matches!(*part, b"" | b"."));
    TreePath::new(parts.collect::<Vec<_>>().join(&b'/'))
}

fn trimmed(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}

#[cfg(test)]
mod tests;
