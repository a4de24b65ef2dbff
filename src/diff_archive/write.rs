//! Writers of archives: reproducible, and without an archive in memory.

use std::io::{self, Seek, SeekFrom, Write};

use crate::catalog::FirstFrame;
use crate::delta::Effort;
use crate::diff_archive::changes::{DeltaMode, ListingParts};
use crate::diff_archive::compression::FrameCompression;
use crate::diff_archive::content_index::IndexRecord;
use crate::diff_archive::delta_plan::{self, AcceptedPatches, Deltas};
use crate::diff_archive::error::WriteError;
use crate::diff_archive::frame_table::FrameTable;
use crate::diff_archive::frame_writer::{FrameWriter, MemberBody, OutgoingMember, WrittenFrames};
use crate::diff_archive::group::DeltaGroup;
use crate::diff_archive::limits::{MAX_FRAME_HEAD, MAX_RAW_FRAME};
use crate::diff_archive::listing::{Expected, Listing};
use crate::diff_archive::member::{
    AclRecords, END, content_header, entry_header, link_target, own_header, patch_name,
};
use crate::diff_archive::sources::ContentProvider;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::image::ImageName;
use crate::manifest::{self, Manifest, ManifestChanges};
use crate::report::{Event, Job, Monitor};

/// Compression of an archive; the same options give the same bytes.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    compression: FrameCompression,
    level: i32,
    /// Whether the level is raised to those of [`SMALL_DIFF_LEVELS`].
    raise_level: bool,
}

/// Levels for small diffs, which compress quickly at any level: largest size in bytes, and level.
const SMALL_DIFF_LEVELS: [(u64, i32); 2] = [(256 << 10, 15), (4 << 20, 9)];

/// Raw bytes until which members of a full archive share a frame: a repair fetches frames.
///
/// Together with [`FULL_LEVELS`] a full archive is 6 % larger than with frames of 1 MiB.
const FULL_GROUP: u64 = 96 << 10;
/// Levels by which a full archive exceeds the effort, since small frames compress less.
const FULL_LEVELS: i32 = 2;
/// Number of frames of a full archive above which its members share larger frames.
const MANY_FRAMES: u64 = 1 << 19;

impl WriteOptions {
    /// Uses `level`, limited to [`FrameCompression::levels`].
    ///
    /// Without a level, that of `effort` is used, and a higher one for a small diff.
    pub fn new(compression: FrameCompression, effort: Effort, level: Option<i32>) -> Self {
        let levels = compression.levels();
        let wanted = level.unwrap_or(compression.level_for(effort));
        WriteOptions {
            compression,
            level: wanted.clamp(*levels.start(), *levels.end()),
            raise_level: level.is_none(),
        }
    }

    /// The level for a diff with `bytes` of whole contents.
    fn level_for(&self, bytes: u64) -> i32 {
        SMALL_DIFF_LEVELS
            .iter()
            .find(|(most, _)| self.raise_level && bytes <= *most)
            .map_or(self.level, |(_, level)| {
                self.level.max(*level).min(*self.compression.levels().end())
            })
    }

    /// The level for a full archive.
    fn full_level(&self) -> i32 {
        let raised = if self.raise_level { self.level + FULL_LEVELS } else { self.level };
        raised.min(*self.compression.levels().end())
    }

    /// The compression.
    pub fn compression(&self) -> FrameCompression {
        self.compression
    }
}

/// Input of a diff.
#[derive(Clone, Copy)]
pub struct DiffInput<'d> {
    /// Name of the image.
    pub image: &'d ImageName,
    /// The generation that the diff applies to.
    pub base: &'d Manifest,
    /// The generation that the diff yields.
    pub target: &'d Manifest,
    /// The files of the target.
    pub content: &'d dyn ContentProvider,
    /// Sources of deltas; without them plain `tar` can unpack the archive over the base.
    pub deltas: Option<Deltas<'d>>,
}

/// Facts about a written archive, for the catalog and the content index.
#[derive(Clone, Debug)]
#[must_use]
pub struct WrittenArchiveInfo {
    /// Size in bytes.
    pub size: u64,
    /// The head: frame table, and in a diff the listing.
    pub first_frame: FirstFrame,
    /// Location of each content.
    pub index: Vec<IndexRecord>,
}

/// Writes the diff that turns the base into the target.
///
/// With deltas it holds only the contents that a node with the base lacks.
pub fn write_diff(
    input: &DiffInput<'_>,
    options: WriteOptions,
    to: impl Write + Seek,
    monitor: &dyn Monitor,
) -> Result<WrittenArchiveInfo, WriteError> {
    let DiffInput { image, base, target, content, deltas } = *input;
    let mode = if deltas.is_some() { DeltaMode::WithDeltas } else { DeltaMode::WithoutDeltas };
    let ManifestChanges { removed, changed } = manifest::compare(base, target);
    monitor.event(Event::Started { job: Job::Write, total: bytes_to_read(&changed) });

    let excluded = deltas.map(|deltas| deltas.excluded);
    let known = delta_plan::find_known_contents(base, &changed, mode, excluded);
    let AcceptedPatches { groups, offsets, cost } = match &deltas {
        Some(deltas) => delta_plan::compute_patches(base, target, content, deltas, monitor)?,
        None => AcceptedPatches::default(),
    };
    let listing = Listing::new(ListingParts {
        image: image.clone(),
        base: base.id(),
        target: target.id(),
        mode,
        removed,
        changed,
        known,
        groups,
    })?
    .with_rebuild_cost(cost);

    let whole_bytes = listing
        .whole()
        .filter_map(Entry::file)
        .fold(0u64, |sum, (size, _)| sum.saturating_add(size));
    let writer = FrameWriter {
        content,
        compression: options.compression,
        level: options.level_for(whole_bytes),
        group_limit: MAX_RAW_FRAME as u64,
        monitor,
    };
    let mut text = Vec::new();
    listing.write(&mut text)?;
    let members = || {
        let expected = (0..).map_while(|at| listing.expected(at));
        expected.filter_map(|expected| match expected {
            Expected::Patch(group) => patch_member(group, &offsets, deltas.as_ref()?),
            Expected::Itself(_) | Expected::Link(_) => {
                entry_member(expected, listing.header().acl_records())
            }
        })
    };

    // Without members the end of the archive is part of the head.
    if listing.has_members() {
        write_archive(&writer, &text, || with_end(members()), to)
    } else {
        text.extend_from_slice(&END);
        write_archive(&writer, &text, std::iter::empty, to)
    }
}

/// Writes the full archive of `target`, which plain `tar` can unpack.
pub fn write_full(
    target: &Manifest,
    content: &dyn ContentProvider,
    options: WriteOptions,
    to: impl Write + Seek,
    monitor: &dyn Monitor,
) -> Result<WrittenArchiveInfo, WriteError> {
    monitor.event(Event::Started { job: Job::Write, total: target.bytes() });
    let members = || {
        let expected = target.entries().iter().map(Expected::from_entry);
        with_end(expected.filter_map(|expected| entry_member(expected, AclRecords::Omitted)))
    };

    let (compression, level) = (options.compression, options.full_level());
    let mut writer = FrameWriter { content, compression, level, group_limit: FULL_GROUP, monitor };
    while writer.count_frames(members()) > MANY_FRAMES && writer.group_limit < MAX_RAW_FRAME as u64
    {
        writer.group_limit *= 2;
    }
    write_archive(&writer, &[], members, to)
}

/// Writes an archive: the space of the table, `listing`, the frames of `members`, then the table.
fn write_archive<'p, M: Iterator<Item = OutgoingMember<'p>>>(
    writer: &FrameWriter<'p>,
    listing: &[u8],
    members: impl Fn() -> M,
    mut to: impl Write + Seek,
) -> Result<WrittenArchiveInfo, WriteError> {
    let count = writer.count_frames(members());
    let table_length = FrameTable::encoded_length(writer.compression, count);
    let table_length = table_length.ok_or(WriteError::HeadTooLong)?;
    let listing = writer.compress_all(listing)?;
    let head_length = table_length + listing.len() as u64;
    if head_length > MAX_FRAME_HEAD {
        return Err(WriteError::HeadTooLong);
    }

    to.seek(SeekFrom::Start(head_length)).map_err(WriteError::Output)?;
    let WrittenFrames { frames, mut index } = writer.write_members(members(), &mut to)?;
    let mut head = FrameTable::encode(writer.compression, &frames);
    head.extend_from_slice(&listing);
    if head.len() as u64 != head_length {
        let error = io::Error::other("the number of its frames has changed");
        return Err(WriteError::Output(error));
    }
    to.seek(SeekFrom::Start(0))
        .and_then(|_| to.write_all(&head))
        .and_then(|()| to.flush())
        .map_err(WriteError::Output)?;
    writer.monitor.event(Event::Finished { job: Job::Write });

    index.sort_unstable_by(IndexRecord::compare);
    index.dedup_by(|again, first| again.digest == first.digest);
    let size = frames.iter().fold(head_length, |sum, frame| sum + u64::from(frame.length));
    let first_frame = FirstFrame { length: head_length, sha256: Digest::of(&head) };
    Ok(WrittenArchiveInfo { size, first_frame, index })
}

fn with_end<'p>(
    members: impl Iterator<Item = OutgoingMember<'p>>,
) -> impl Iterator<Item = OutgoingMember<'p>> {
    members.chain(std::iter::once_with(OutgoingMember::end))
}

fn entry_member(expected: Expected<'_>, acls: AclRecords) -> Option<OutgoingMember<'_>> {
    match expected {
        Expected::Itself(entry) => {
            let body = match entry.file() {
                Some((size, digest)) => MemberBody::File { entry, size, digest },
                None => MemberBody::Empty,
            };
            Some(OutgoingMember { header: content_header(entry, acls), body })
        }
        Expected::Link(entry) => {
            Some(OutgoingMember { header: entry_header(entry, acls), body: MemberBody::Empty })
        }
        Expected::Patch(_) => None,
    }
}

/// `offsets` has the offset of each patch in the scratch file.
fn patch_member<'p>(
    group: &'p DeltaGroup,
    offsets: &[u64],
    deltas: &Deltas<'p>,
) -> Option<OutgoingMember<'p>> {
    let at = *offsets.get(usize::try_from(group.number).ok()?)?;
    let header = own_header(&patch_name(group.number), group.patch_length);
    Some(OutgoingMember { header, body: MemberBody::Patch { group, spool: deltas.spool, at } })
}

/// Bytes of the changed files, each hard-link group once.
fn bytes_to_read(changed: &[Entry]) -> u64 {
    changed
        .iter()
        .filter(|entry| link_target(entry).is_none())
        .filter_map(Entry::file)
        .fold(0, |sum, (size, _)| sum.saturating_add(size))
}
