//! Errors of archives, listings, patches and the content index, with their wording.

use std::{fmt, io};

use crate::delta::DeltaError;
use crate::delta::gzip::RebuildError;
use crate::diff_archive::limits::{FORMAT, MAX_FRAME_HEAD, MAX_RAW_FRAME, MAX_STORED_FRAME};
use crate::digest::Digest;
use crate::generation::GenerationId;
use crate::manifest::ManifestError;
use crate::printable::one_line;
use crate::replay::file::ReplayError;
use crate::tree_path::TreePath;

/// Reason why an archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be read or decompressed.
    #[error("cannot read the archive: {0}")]
    Io(#[from] io::Error),
    /// Its head or one of its frames cannot be used.
    #[error("cannot read the archive: {0}")]
    Frames(#[from] FrameFault),
    /// It ends too early.
    #[error("the archive is cut off")]
    CutOff,
    /// A newer program wrote it; the number of the format.
    #[error("the archive has format {0}, this program reads format {FORMAT}; update the agent")]
    UnknownFormat(i64),
    /// It applies to a generation other than the one given.
    #[error("the archive applies to generation {}, not to {}", wanted.short(), found.short())]
    OtherBase {
        /// The generation that it applies to.
        wanted: GenerationId,
        /// The generation that was given.
        found: GenerationId,
    },
    /// Its listing contradicts itself or the format.
    #[error("the archive's listing is not valid: {0}")]
    Listing(#[from] ListingDefect),
    /// A member is not the expected one.
    #[error("the archive does not hold {name} as listed: {defect}")]
    Member {
        /// Path of the expected member.
        name: String,
        /// Difference from it.
        defect: MemberDefect,
    },
    /// A member is not followed by zeros up to the next block.
    #[error("the archive has bytes other than zeros after a member")]
    Padding,
    /// Bytes follow its end.
    #[error("the archive continues after its end")]
    Trailing,
    /// The file of this path has another content than listed.
    #[error("the content of {0} in the archive does not have the digest that is listed")]
    Digest(TreePath),
    /// A content that is listed is another one.
    #[error("the archive does not hold content {0} as listed")]
    Content(Digest),
    /// A delta group does not yield its targets.
    #[error("cannot use delta group {group} of the archive: {fault}")]
    Patch {
        /// Number of the group.
        group: u64,
        /// Reason.
        #[source]
        fault: PatchFault,
    },
}

/// Reason why the frames of a file cannot be used; frames are counted from 0 after the head.
#[derive(Debug, thiserror::Error)]
pub enum FrameFault {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[source] io::Error),
    /// It does not begin with a frame table.
    #[error("it has no frame table; publish it again by this version")]
    NoTable,
    /// A newer program wrote the table; its version.
    #[error("its frame table has version {0}, this program reads version 1; update the agent")]
    UnknownTable(u8),
    /// The table does not have its one form.
    #[error("its frame table is not valid")]
    Table,
    /// The table states more frames than fit in a head.
    #[error("its frame table lists more frames than the format allows")]
    TooManyFrames,
    /// The head exceeds its limit.
    #[error("its head is longer than {MAX_FRAME_HEAD} bytes")]
    HeadTooLong,
    /// The head is not the one of the catalog.
    #[error("its head is not the one that the catalog names")]
    OtherHead,
    /// Head and frames do not add up to the size of the file.
    #[error("its frame table does not match its size")]
    OtherSize,
    /// The table has a frame that is empty or exceeds the limit.
    #[error("frame {0} of its frame table is empty or longer than {MAX_STORED_FRAME} bytes")]
    Length(usize),
    /// The file ends within a frame.
    #[error("it is cut off")]
    CutOff,
    /// Bytes follow the last frame.
    #[error("it continues after its last frame")]
    Trailing,
    /// A frame is not the one of the table.
    #[error("frame {0} does not have the digest of the frame table")]
    Digest(usize),
    /// A frame with the right digest cannot be decoded.
    #[error("frame {number} {fault}")]
    Decode {
        /// Number of the frame.
        number: usize,
        /// Reason.
        fault: DecodeFault,
    },
    /// A frame of the head cannot be decoded.
    #[error("a frame of its head {0}")]
    InHead(DecodeFault),
}

/// Reason why a frame cannot be decoded, although it has the right digest.
#[derive(Debug, thiserror::Error)]
pub enum DecodeFault {
    /// The decompressor refuses it.
    #[error("cannot be decompressed: {0}")]
    Decompress(#[source] io::Error),
    /// It holds nothing, or too much.
    #[error("holds nothing or more than {MAX_RAW_FRAME} bytes")]
    RawLength,
    /// Bytes follow it that belong to no frame.
    #[error("is followed by other bytes")]
    Trailing,
}

impl From<FrameFault> for io::Error {
    fn from(fault: FrameFault) -> Self {
        let kind = match fault {
            FrameFault::Io(error) => return error,
            FrameFault::CutOff => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, fault)
    }
}

/// Difference of a member from the expected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberDefect {
    /// A member of the listing is missing or out of order.
    OutOfOrder,
    /// A member of the listing exceeds its limit.
    TooLarge,
    /// A member after the listing is not the one that the listing names next.
    NotListed,
}

impl fmt::Display for MemberDefect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MemberDefect::OutOfOrder => "it is missing or out of order",
            MemberDefect::TooLarge => "it is larger than the format allows",
            MemberDefect::NotListed => "another member is at its position",
        })
    }
}

/// Defect of a listing; the clauses are those of the format.
#[derive(Debug, thiserror::Error)]
pub enum ListingDefect {
    /// `header.toml` is not UTF-8.
    #[error("header.toml: {0}")]
    HeaderText(#[from] std::str::Utf8Error),
    /// `header.toml` does not have the keys of clause 7.
    #[error("header.toml: {}", one_line(.0.message()))]
    HeaderToml(#[from] toml::de::Error),
    /// `header.toml` cannot be written.
    #[error("header.toml: {0}")]
    HeaderEncoding(#[from] toml::ser::Error),
    /// `header.toml` has other counts than the listing gives.
    #[error("header.toml does not have the counts of the listing")]
    HeaderCounts,
    /// A fragment of a manifest is not valid.
    #[error("{name}: {source}")]
    Fragment {
        /// Name of the member.
        name: &'static str,
        /// Reason.
        source: ManifestError,
    },
    /// A line of `sources` is not valid; its number.
    #[error("sources: line {0} is not valid")]
    SourcesLine(u64),
    /// The changes cannot be applied to the base.
    #[error("it does not fit its base: {0}")]
    OtherBase(#[source] ManifestError),
    /// The changes give a generation other than the target.
    #[error("it does not yield the generation that it names")]
    OtherTarget,
    /// A path of the image begins with `.si-diff`.
    #[error("{0} is a reserved name")]
    ReservedPath(TreePath),
    /// A path is both removed and changed.
    #[error("{0} is both removed and changed")]
    RemovedAndChanged(TreePath),
    /// Two entries with one digest have different sizes; the path of the second.
    #[error("{0} has the digest of a file of another size")]
    OtherSize(TreePath),
    /// Indices of entries have 32 bits.
    #[error("it has more than {} entries", u32::MAX)]
    TooManyEntries,
    /// Clause 10: no groups without deltas.
    #[error("it has delta groups, but states that it has none")]
    UnexpectedGroups,
    /// Clause 10: every content is either known or in the archive.
    #[error("a content is neither known nor in the archive, or both")]
    KnownAndWhole,
    /// Clause 9: known contents are sorted by digest.
    #[error("the known contents are not in order")]
    KnownOrder,
    /// Clause 9: groups are numbered from 0; the number that is out of order.
    #[error("delta group {0} is out of order")]
    GroupOrder(u64),
    /// Clause 9: groups of the kind `copies` are last.
    #[error("a group that copies precedes one that does not")]
    CopiesOrder,
    /// A group contradicts the format.
    #[error("delta group {number} {defect}")]
    Group {
        /// Number of the group.
        number: u64,
        /// Reason.
        defect: GroupDefect,
    },
    /// A known or built content belongs to no changed file.
    #[error("content {digest} belongs to no changed file of {size} bytes")]
    UnusedContent {
        /// Digest of the content.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// A content is known or built twice.
    #[error("content {0} is listed twice")]
    DuplicateContent(Digest),
}

/// Defect of a delta group by itself (clause 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupDefect {
    /// It has no source or no target.
    Empty,
    /// A length exceeds its limit.
    TooLarge,
    /// A streamed kind with several targets, or with a source in plain form.
    NotStreamable,
    /// The kind `segments` with several sources.
    SeveralSources,
    /// Replayed targets without a decision stream, or the other way round.
    Decisions,
}

impl fmt::Display for GroupDefect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GroupDefect::Empty => "is empty",
            GroupDefect::TooLarge => "is larger than the format allows",
            GroupDefect::NotStreamable => "cannot be decoded as a stream",
            GroupDefect::SeveralSources => "has more than one source",
            GroupDefect::Decisions => "has not the decision stream that its targets need",
        })
    }
}

/// Reason why a delta group does not yield its targets.
#[derive(Debug, thiserror::Error)]
pub enum PatchFault {
    /// The patch cannot be decoded.
    #[error(transparent)]
    Delta(#[from] DeltaError),
    /// A gzip file cannot be rebuilt.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// A compressed file cannot be rebuilt from its decisions.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// A source or the patch cannot be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// The patch copies from a number that the group does not list.
    #[error("it copies from a source that is not listed")]
    UnlistedSource,
    /// A source does not exist, or has another size.
    #[error("its source {0} is missing")]
    MissingSource(TreePath),
    /// A source in plain form has another length.
    #[error("its source {0} is not as listed")]
    OtherSource(TreePath),
    /// A target is another content than listed.
    #[error("it does not yield content {0}")]
    OtherTarget(Digest),
}

/// Reason why an archive cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A file of the image is not as its manifest says.
    #[error("{0} changed while it was read")]
    Changed(TreePath),
    /// A file of the image cannot be read.
    #[error("cannot read {path} of the image: {source}")]
    Content {
        /// Path of the file.
        path: TreePath,
        /// Reason.
        source: io::Error,
    },
    /// A file of the base cannot be read.
    #[error("cannot read {path} of the base: {source}")]
    Source {
        /// Path of the file.
        path: TreePath,
        /// Reason.
        source: io::Error,
    },
    /// A patch does not yield its targets; their digests.
    #[error(
        "a delta does not yield content {}: a file changed while it was read, or this is a bug",
        short_digests(.0)
    )]
    WrongPatch(Vec<Digest>),
    /// The compressor failed.
    #[error("cannot compress: {0}")]
    Compress(#[source] io::Error),
    /// The scratch file of patches cannot be used.
    #[error("cannot store patches until the archive is written: {0}")]
    Spool(#[source] io::Error),
    /// The archive cannot be written.
    #[error("cannot write the archive: {0}")]
    Output(#[source] io::Error),
    /// The head of the archive would be too long for a reader.
    #[error("cannot write the archive: its head would be longer than {MAX_FRAME_HEAD} bytes")]
    HeadTooLong,
    /// The format cannot express the diff.
    #[error("cannot describe the diff: {0}")]
    Listing(#[from] ArchiveError),
}

/// Reason why a content index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// It cannot be read or decompressed.
    #[error("cannot read the content index: {0}")]
    Io(#[from] io::Error),
    /// Its head or one of its blocks cannot be used.
    #[error("cannot read the content index: {0}")]
    Frames(#[from] FrameFault),
    /// A line is not valid; its number.
    #[error("the content index is not valid: line {0}")]
    Line(u64),
    /// Its blocks are not those that its head lists.
    #[error("the content index is not valid: its blocks are not those of its head")]
    Blocks,
}

fn short_digests(digests: &[Digest]) -> String {
    let short: Vec<String> = digests.iter().map(Digest::short).collect();
    short.join(", ")
}
