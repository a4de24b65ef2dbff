//! Errors of the catalog, and their wording.

use super::FORMAT;
use crate::catalog::RepoPath;
use crate::image::{ImageName, Layer};
use crate::printable::one_line;

/// Bytes that are not a catalog that this program can use.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error(
        "the catalog has format {format}, this program reads format {FORMAT}; update the agent"
    )]
    UnknownFormat { format: i64 },
    #[error("the catalog is that of {found}, not that of {wanted}")]
    OtherLayer { wanted: Layer, found: Layer },
    #[error("the catalog is not valid: {0}")]
    Invalid(#[from] CatalogFault),
}

/// Reason that a word names no generation of a catalog.
#[derive(Debug, thiserror::Error)]
pub enum GenerationWordError {
    #[error("{layer} has no generation {word:?}")]
    Unknown { layer: Layer, word: String },
    #[error("several generations of {layer} have an id that begins with {word:?}")]
    Ambiguous { layer: Layer, word: String },
}

/// Clause of the format that a catalog breaks.
#[derive(Debug, thiserror::Error)]
pub enum CatalogFault {
    #[error(transparent)]
    NotUtf8(#[from] std::str::Utf8Error),
    #[error("{}", one_line(.0.message()))]
    Toml(#[from] toml::de::Error),
    #[error(transparent)]
    Unwritable(#[from] toml::ser::Error),
    #[error("the head is longer than {limit} bytes")]
    LongHead { limit: u64 },
    #[error("the head names a catalog of more than 16 MiB")]
    LongCatalog,
    #[error("it is not the catalog that the head describes")]
    OtherHead,
    #[error("the name of {file} does not have the first digits of its digest")]
    NameWithoutDigest { file: RepoPath },
    #[error("a part of it is longer than {limit} bytes")]
    LongSection { limit: usize },
    #[error("it names more than one content index")]
    TwoIndexes,
    #[error("it describes neither generations alone nor one file of a cluster alone")]
    ClusterFile,
    #[error("the kind cluster has the name cluster, not {name}")]
    ClusterName { name: ImageName },
    #[error("it lists no publish")]
    NoPublish,
    #[error("its serial is not the one of its last publish")]
    OtherSerial,
    #[error("its publishes are not in the order of their serials")]
    SerialOrder,
    #[error("an archive leads to a generation that it does not list")]
    UnknownTarget,
    #[error("the first frame of a file is longer than the file")]
    FrameTooLong,
    #[error("a file claims to be larger than 16 TiB")]
    FileTooLarge,
    #[error("an archive of kind {kind:?} has the wrong fields")]
    ArchiveFields { kind: String },
    #[error("{text:?} is not a path of a repository")]
    Path { text: String },
}
