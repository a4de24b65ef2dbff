//! Notices and warnings of the jobs of the image server, and their wording.

use std::fmt;
use std::io;
use std::path::Path;

use crate::catalog::RepoPath;
use crate::image::Layer;
use crate::printable::Quoted;
use crate::publish::SignedPart;
use crate::signature::{KeyId, SignatureError};
use crate::tree_path::TreePath;

/// Something that the publisher should know.
#[derive(Debug)]
pub(crate) enum TardiffNotice<'n> {
    /// The times of the base are not exact enough for a node.
    BaseInWholeSeconds { path: &'n Path },
    /// The base has neither extended attributes nor hard links.
    BaseWithoutAttributes { path: &'n Path },
    /// ACLs of the archive name users instead of numbers.
    NamedAcls { count: u64 },
    /// A member has a type that no image has.
    MemberOmitted { name: &'n [u8] },
    /// The archive has no entry for its top directory.
    NoTopDirectory,
    /// Pruning kept more generations than requested.
    MoreGenerationsKept { count: usize },
    /// The next scan cannot use the results of this one.
    ScanCacheUnwritable { path: &'n Path, error: io::Error },
    /// The contents of the head cannot be cloned for the next publish.
    HeadNotCloned(io::Error),
    /// The image has secrets, and everyone can read the repository.
    PrivateFiles { first: &'n TreePath, more: usize },
    /// A file of the repository is not listed by the catalog.
    NotInCatalog { file: &'n RepoPath },
    /// The deltas of an archive cannot be verified.
    DeltasNotVerified { file: &'n RepoPath },
    /// The public key of the program that signs is not known.
    SignaturesNotVerified,
    /// Nodes do not accept heads for so long, unless they are configured to.
    LongValidity { max_days: u32 },
    /// A key signs that has not signed the head or catalog before.
    NewKey { layer: &'n Layer, part: SignedPart, key: KeyId },
    /// A publish continues a catalog that another key has signed, or none.
    CatalogOfOtherKey { layer: &'n Layer, error: SignatureError },
}

impl fmt::Display for TardiffNotice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TardiffNotice::BaseInWholeSeconds { path } => write!(
                f,
                "{} has times in whole seconds, so no node has recorded this base, although tar \
                 can unpack the diff; create the archive with tar --format=pax",
                path.display()
            ),
            TardiffNotice::BaseWithoutAttributes { path } => write!(
                f,
                "{} has neither extended attributes nor hard links, so paths with either count as \
                 different, and no node has recorded this base, although tar can unpack the diff; \
                 write the manifest with --canonical",
                path.display()
            ),
            TardiffNotice::NamedAcls { count } => write!(
                f,
                "the archive has {count} ACLs that name users or groups, which count as different; \
                 create it with tar --numeric-owner"
            ),
            TardiffNotice::MemberOmitted { name } => {
                write!(f, "{} has a type that no image has, and is left out", Quoted(name))
            }
            TardiffNotice::NoTopDirectory => f.write_str(
                "the archive does not have the top directory itself, which counts as different",
            ),
            TardiffNotice::MoreGenerationsKept { count } => write!(
                f,
                "keeping {count} more generations: their archives have content of the head"
            ),
            TardiffNotice::ScanCacheUnwritable { path, error } => write!(
                f,
                "cannot write {}: {error}; the next scan will read every file",
                path.display()
            ),
            TardiffNotice::HeadNotCloned(error) => write!(
                f,
                "cannot clone the files of the head: {error}; the next publish will read its base \
                 from the archives"
            ),
            TardiffNotice::PrivateFiles { first, more } => {
                write!(f, "everyone on this server can read the archives, with {first}")?;
                if *more > 0 {
                    write!(f, " and {more} more password files and private keys")?;
                }
                f.write_str(
                    "; set repository_mode in tardiff.toml to \"group\" or \"private\", or to \
                     \"open\" if that is intended",
                )
            }
            TardiffNotice::NotInCatalog { file } => {
                write!(f, "{file} is in the repository, but not in the catalog; prune removes it")
            }
            TardiffNotice::DeltasNotVerified { file } => write!(
                f,
                "{file}: the deltas are not verified, since only nodes have the content of the base"
            ),
            TardiffNotice::SignaturesNotVerified => f.write_str(
                "the signatures of the command are not verified, since its public key is not known: \
                 pass --sign-public, or set sign_public in tardiff.toml",
            ),
            TardiffNotice::LongValidity { max_days } => write!(
                f,
                "nodes refuse heads that are valid for more than {max_days} days: shorten \
                 --expires, raise max_head_age on the nodes, or update them with --allow-expired"
            ),
            TardiffNotice::NewKey { layer, part, key } => write!(
                f,
                "key {key} has not signed the {part} of {layer} before: nodes without this key \
                 refuse the new {part}; bring the key to them in an image first"
            ),
            TardiffNotice::CatalogOfOtherKey { layer, error } => write!(
                f,
                "the catalog of {layer} before this publish is not from this publisher: {error}; \
                 the older generations that it lists were taken over"
            ),
        }
    }
}
