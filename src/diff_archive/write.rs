//! Writing archives: reproducibly, without ever holding one in memory.

use std::fs::File;
use std::io::{self, Write};

use crate::catalog::FirstFrame;
use crate::delta::{Effort, MatchedPairs, Opening};
use crate::diff_archive::content_index::IndexRecord;
use crate::diff_archive::delta_plan::{self, Patches};
use crate::diff_archive::frame_writer::{ArchivePart, Body, FrameWriter, Output};
use crate::diff_archive::frames::FrameCompression;
use crate::diff_archive::group::DeltaGroup;
use crate::diff_archive::listing::{Expected, Listing};
use crate::diff_archive::member::{
    END, content_header, entry_header, link_target, own_header, patch_name,
};
use crate::diff_archive::{ArchiveError, ContentProvider, Sources};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::image::ImageName;
use crate::manifest::{self, Manifest};
use crate::report::{Event, Job, Monitor};
use crate::tree_path::TreePath;

/// How an archive is written; the same options give the same bytes.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    compression: FrameCompression,
    level: i32,
    /// Whether the level may rise to those of [`LITTLE`].
    rises: bool,
}

/// So much is compressed in no time also at a level that takes longer: bytes at most and level, the higher first.
const LITTLE: [(u64, i32); 2] = [(256 << 10, 15), (4 << 20, 9)];

impl WriteOptions {
    /// At `level`, held to what [`FrameCompression::levels`] allows; without one, at that of `effort`, and higher where
    /// little travels.
    pub fn new(compression: FrameCompression, effort: Effort, level: Option<i32>) -> Self {
        let levels = compression.levels();
        let held = |level: i32| level.clamp(*levels.start(), *levels.end());
        let own = held(level.unwrap_or(compression.level_of(effort)));
        WriteOptions { compression, level: own, rises: level.is_none() }
    }

    fn level_of(&self, bytes: u64) -> i32 {
        let little = LITTLE.iter().find(|(most, _)| self.rises && bytes <= *most);
        little.map_or(self.level, |(_, level)| {
            self.level.max(*level).min(*self.compression.levels().end())
        })
    }

    /// The compression.
    pub fn compression(&self) -> FrameCompression {
        self.compression
    }
}

/// What it takes to send patches instead of whole files.
#[derive(Clone, Copy)]
pub struct Deltas<'d> {
    /// The contents of the base.
    pub sources: &'d dyn Sources,
    /// An empty file, best one without a name, that holds the patches until the listing is written.
    pub spool: &'d File,
    /// Which contents of the target are made of which of the base, the very two that the diff is between.
    pub pairs: &'d MatchedPairs<'d>,
    /// How much work goes into the patches, whatever compresses the archive.
    pub effort: Effort,
    /// When compressed files are taken apart.
    pub opening: Opening,
    /// By how many deltas the repository makes a content of the base: what has too many serves none.
    pub depth: &'d (dyn Fn(&Digest) -> u32 + Sync),
}

/// What the catalog and the content index have to know about an archive.
#[derive(Clone, Debug)]
#[must_use]
pub struct WrittenArchiveInfo {
    /// In bytes.
    pub size: u64,
    /// Of the whole archive.
    pub sha256: Digest,
    /// Its first frame, which in a diff is the listing.
    pub first_frame: FirstFrame,
    /// Where each content lies.
    pub index: Vec<IndexRecord>,
}

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A file of the image is not what its manifest says.
    #[error("{0} changed while it was read")]
    Changed(TreePath),
    /// A file of the image cannot be read.
    #[error("cannot read {path} of the image: {source}")]
    Content {
        /// Which.
        path: TreePath,
        /// Why.
        source: io::Error,
    },
    /// A file of the base cannot be read.
    #[error("cannot read {path} of the base: {source}")]
    Source {
        /// Which.
        path: TreePath,
        /// Why.
        source: io::Error,
    },
    /// A patch does not make what it was made for.
    #[error(
        "a delta does not make content {0}: either a file changed while it was read, or this program is wrong"
    )]
    Wrong(String),
    /// The compressor failed.
    #[error("cannot compress: {0}")]
    Compress(#[source] io::Error),
    /// The patches cannot be kept.
    #[error("cannot keep patches until the archive is written: {0}")]
    Spool(#[source] io::Error),
    /// The archive cannot be written.
    #[error("cannot write the archive: {0}")]
    Output(#[source] io::Error),
    /// The format cannot express it.
    #[error("cannot describe the diff: {0}")]
    Listing(#[from] ArchiveError),
}

/// Writes the diff that turns `base` into `target`.
///
/// Without `deltas` plain `tar` can unpack it over the base; with them it holds only what a node that
/// has the base needs.
pub fn write_diff(
    (base, target): (&Manifest, &Manifest),
    image: &ImageName,
    content: &dyn ContentProvider,
    deltas: Option<Deltas<'_>>,
    options: WriteOptions,
    to: impl Write,
    monitor: &dyn Monitor,
) -> Result<WrittenArchiveInfo, WriteError> {
    let manifest::ManifestChanges { removed, changed } = manifest::compare(base, target);
    monitor.event(Event::Started { job: Job::Write, total: bytes_to_read(&changed) });
    let known = delta_plan::known(base, &changed, deltas.is_some());
    let Patches { groups, offsets, cost } = match &deltas {
        Some(deltas) => delta_plan::patches(base, target, content, deltas, monitor)?,
        None => Patches::default(),
    };
    let names = (image.clone(), base.id(), target.id());
    let listing =
        Listing::new(names, deltas.is_some(), removed, changed, known, groups)?.costing(cost);

    let mut first = Vec::new();
    listing.write(&mut first)?;
    let mut output = Output::new(to);
    let whole = listing
        .whole()
        .filter_map(Entry::file)
        .fold(0u64, |sum, (size, _)| sum.saturating_add(size));
    let packer = FrameWriter {
        content,
        compression: options.compression,
        level: options.level_of(whole),
        monitor,
    };
    packer.bytes(&first, &mut output)?;
    drop(first);
    let first_frame = FirstFrame { length: output.length, sha256: output.digest() };

    let part = |expected| match expected {
        Expected::Patch(group) => patch_part(group, &offsets, deltas.as_ref()?.spool),
        Expected::Itself(_) | Expected::Link(_) => entry_part(expected),
    };
    let members = (0..).map_while(|at| listing.expected(at)).filter_map(part);
    let mut index = Vec::new();
    packer.parts(members, &mut output, &mut index)?;
    finish(&packer, output, first_frame, index)
}

/// Writes all of `target`: plain `tar` can unpack it.
pub fn write_full(
    target: &Manifest,
    content: &dyn ContentProvider,
    options: WriteOptions,
    to: impl Write,
    monitor: &dyn Monitor,
) -> Result<WrittenArchiveInfo, WriteError> {
    monitor.event(Event::Started { job: Job::Write, total: target.bytes() });
    let packer =
        FrameWriter { content, compression: options.compression, level: options.level, monitor };
    let mut output = Output::new(to);
    let mut index = Vec::new();
    // The top begins the archive, in a frame of its own that has a digest in the catalog.
    let (top, rest) = target.entries().split_at(1);
    let parts = |entries| <[Entry]>::iter(entries).map(Expected::of).filter_map(entry_part);
    packer.parts(parts(top), &mut output, &mut index)?;
    let first_frame = FirstFrame { length: output.length, sha256: output.digest() };
    packer.parts(parts(rest), &mut output, &mut index)?;
    finish(&packer, output, first_frame, index)
}

fn finish(
    packer: &FrameWriter<'_>,
    mut output: Output<impl Write>,
    first_frame: FirstFrame,
    mut index: Vec<IndexRecord>,
) -> Result<WrittenArchiveInfo, WriteError> {
    packer.bytes(&END, &mut output)?;
    packer.monitor.event(Event::Finished { job: Job::Write });
    let (size, sha256) = output.finish().map_err(WriteError::Output)?;
    index.sort_unstable_by(IndexRecord::order);
    index.dedup_by(|again, first| again.digest == first.digest);
    Ok(WrittenArchiveInfo { size, sha256, first_frame, index })
}

fn entry_part(expected: Expected<'_>) -> Option<ArchivePart<'_>> {
    match expected {
        Expected::Itself(entry) => {
            let body = match entry.file() {
                Some((size, digest)) => Body::File { entry, size, digest },
                None => Body::Nothing,
            };
            Some(ArchivePart { header: content_header(entry), body })
        }
        Expected::Link(entry) => {
            Some(ArchivePart { header: entry_header(entry), body: Body::Nothing })
        }
        Expected::Patch(_) => None,
    }
}

fn patch_part<'p>(
    group: &'p DeltaGroup,
    offsets: &[u64],
    spool: &'p File,
) -> Option<ArchivePart<'p>> {
    let at = *offsets.get(usize::try_from(group.number).ok()?)?;
    let header = own_header(&patch_name(group.number), group.patch_length);
    Some(ArchivePart { header, body: Body::Patch { group, spool, at } })
}

/// The bytes of the changed files, each group of links once.
fn bytes_to_read(changed: &[Entry]) -> u64 {
    let itself = |entry: &&Entry| link_target(entry).is_none();
    changed
        .iter()
        .filter(itself)
        .filter_map(Entry::file)
        .fold(0, |sum, (size, _)| sum.saturating_add(size))
}
