//! Patches that are built as a stream: of files too large for memory, and of archives of other
//! files.

use std::collections::HashMap;
use std::io::{self, Read};

use crate::delta::gzip::{self, Decomposed, Decomposition, GzipLimits};
use crate::delta::{
    self, CompressedPair, ContentClass, CopiesWriter, Kind, MAX_CONTENT, MAX_DEPTH, PairGroup,
    ReadAt, RebuildLimit,
};
use crate::diff_archive::delta_plan::in_memory::compute_decomposed;
use crate::diff_archive::delta_plan::planner::{CLEAR_GAIN, Deltas, LEAST_GAIN, Patch, Planner};
use crate::diff_archive::delta_plan::replayed::{self, OpenedContainer, compute_replayed};
use crate::diff_archive::error::WriteError;
use crate::diff_archive::group::DeltaGroup;
use crate::diff_archive::group_contents::{GroupSource, GroupTarget, GzipParts, RebuiltParts};
use crate::diff_archive::similarity::SequentialReader;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::manifest::Manifest;
use crate::replay::file::DecisionWriter;

/// Highest level at which the compressed size of a large file is estimated.
const ESTIMATE_LEVEL: i32 = 9;
/// Number of bytes at the beginning that two compressed files must have in common to be tried.
///
/// Files with a common beginning have more in common: unchanged members of an archive, or the
/// microcode before an initrd. In other compressed files a change leaves nothing in common.
const BEGINNING: u64 = 16 << 10;
const BUFFER: usize = 128 << 10;
/// Largest plain form of an archive that is opened: it is in the memory of the server.
const MAX_OPENED: u64 = 512 << 20;

/// The files of the target that a patch of the kind `copies` may use, by digest.
pub(super) struct CopySources<'m>(HashMap<Digest, &'m Entry>);

impl<'m> CopySources<'m> {
    /// Takes the files that nodes need, and whose delta depth permits one more delta after
    /// `groups`.
    ///
    /// The files of `compressed` are left out, because their patches are not computed yet.
    pub fn new<'g>(
        base: &Manifest,
        target: &'m Manifest,
        groups: impl Iterator<Item = &'g DeltaGroup>,
        compressed: &[CompressedPair<'_>],
        deltas: &Deltas<'_>,
    ) -> Self {
        if compressed.is_empty() {
            return CopySources(HashMap::new());
        }

        // A content that neither the base has nor a group yields is sent whole, so its depth is 0.
        let digest_of = |entry: &Entry| entry.file().map(|(_, digest)| digest);
        let mut depths: HashMap<Digest, u32> =
            target.entries().iter().filter_map(digest_of).map(|digest| (digest, 0)).collect();
        for digest in base.entries().iter().filter_map(digest_of) {
            depths.entry(digest).and_modify(|depth| *depth = (deltas.depth)(&digest));
        }

        for group in groups {
            let deepest = group
                .sources
                .iter()
                .map(|source| (deltas.depth)(&source.digest))
                .max()
                .unwrap_or(0);
            depths.extend(
                group.targets.iter().map(|target| (target.digest, deepest.saturating_add(1))),
            );
        }
        for digest in compressed.iter().filter_map(|pair| digest_of(pair.entry)) {
            depths.remove(&digest);
        }

        let files = target
            .entries()
            .iter()
            .filter_map(|entry| Some((digest_of(entry)?, entry)))
            .filter(|(_, entry)| !deltas.excluded.is_target_excluded(entry))
            .filter(|(digest, _)| depths.get(digest).is_some_and(|depth| *depth < MAX_DEPTH));
        CopySources(files.collect())
    }
}

/// The patch of a content that is too large for a group: in segments, or by blocks if it exceeds
/// memory.
///
/// The smaller patch is taken. A compressed file is tried only if both files begin alike.
pub(super) fn compute_large(
    planner: &Planner<'_>,
    from: &Entry,
    to: &Entry,
) -> Result<Option<Patch>, WriteError> {
    let (Some((old_size, old)), Some((size, digest))) = (from.file(), to.file()) else {
        return Ok(None);
    };
    let source_failed = |source| WriteError::Source { path: from.path.clone(), source };
    let target_failed = |source| WriteError::Content { path: to.path.clone(), source };
    let open = || planner.content.open(to).map_err(target_failed);

    let opened = planner.deltas.sources.open(&old, old_size, &from.path).map_err(source_failed)?;
    let Some(base) = opened else { return Ok(None) };
    if delta::is_compressed_name(to.path.name())
        && !begin_alike(&*base, open()?).map_err(target_failed)?
    {
        planner.report_progress(&[to]);
        return Ok(None);
    }

    let effort = planner.deltas.effort;
    let mut group = planner.new_group(Kind::Segments);
    let path = from.path.clone();
    group.sources.push(GroupSource { digest: old, size: old_size, path, plain: None });
    group.targets.push(GroupTarget { digest, size, rebuilt: None });
    let segments =
        delta::encode_segments(&*base, old_size, open()?, size, effort).map_err(target_failed)?;
    let mut best = Patch::new(group.clone(), segments, 0);

    if size > MAX_CONTENT {
        let signature = delta::blocks::Signature::read(&*base, old_size).map_err(source_failed)?;
        let mut writer = CopiesWriter::new(effort.whole_level()).map_err(WriteError::Compress)?;
        delta::blocks::diff(&signature, open()?, &mut writer).map_err(target_failed)?;
        let blocks = Patch::new(
            DeltaGroup { kind: Kind::Copies, ..group },
            writer.finish().map_err(WriteError::Compress)?,
            0,
        );
        if patch_length(&blocks) < patch_length(&best) {
            best = blocks;
        }
    }
    planner.report_progress(&[to]);

    let Some(patch) = best else { return Ok(None) };
    let length = patch.group.patch_length;
    let is_clear = length <= size / CLEAR_GAIN as u64;
    let saves_enough = is_clear
        || compressed_length(open()?, effort.whole_level()).map_err(target_failed)?
            > length + length / LEAST_GAIN as u64;
    if !saves_enough {
        return Ok(None);
    }
    planner.prove(&patch.group, &patch.patch)?;
    Ok(Some(patch))
}

/// The patch of a large compressed file: of files of the target, of an old plain form, or of the
/// old file.
pub(super) fn compute_compressed(
    planner: &Planner<'_>,
    pair: &CompressedPair<'_>,
    files: &CopySources<'_>,
) -> Result<Option<Patch>, WriteError> {
    let &CompressedPair { source, entry } = pair;
    let is_replayed = delta::is_replayed_name(entry.path.name());

    let mut patch = if is_replayed { None } else { compute_from_files(planner, pair, files)? };
    let may_rebuild = pair.fits_memory() && planner.deltas.rebuild_limit.max_cost() > 0;
    if let (None, Some(source)) = (&patch, source.filter(|_| may_rebuild)) {
        let class = if is_replayed { ContentClass::Replayed } else { ContentClass::Decomposed };
        let group =
            PairGroup { class, sources: vec![source], targets: vec![entry], origins: vec![0] };
        patch = match class {
            ContentClass::Replayed => compute_replayed(planner, &group)?,
            _ => compute_decomposed(planner, &group)?,
        };
    }

    match source {
        // It reports its own progress.
        Some(source) if patch.is_none() => compute_large(planner, source, entry),
        _ => {
            planner.report_progress(&[entry]);
            Ok(patch)
        }
    }
}

/// The form in which an archive is split into its files.
#[allow(clippy::large_enum_variant, reason = "there is one value at a time")]
enum ArchiveForm {
    AsIs,
    Gzip(Decomposition),
    Replayed(OpenedContainer),
}

/// The patch that copies the files of an archive, such as an initrd, from the target and its old
/// version.
fn compute_from_files(
    planner: &Planner<'_>,
    pair: &CompressedPair<'_>,
    CopySources(files): &CopySources<'_>,
) -> Result<Option<Patch>, WriteError> {
    let &CompressedPair { source: old, entry } = pair;
    let Some((size, digest)) = entry.file() else { return Ok(None) };
    let failed = |source| WriteError::Content { path: entry.path.clone(), source };
    let form = choose_form(planner, entry)?;

    let mut group = planner.new_group(Kind::Copies);
    let mut writer =
        CopiesWriter::new(planner.deltas.effort.whole_level()).map_err(WriteError::Compress)?;
    let mut decisions = Vec::new();
    let rebuilt = match &form {
        ArchiveForm::AsIs => None,
        ArchiveForm::Gzip(Decomposition { corrections, plain_length, .. }) => {
            writer.add_literal(corrections).map_err(WriteError::Compress)?;
            let corrections = corrections.len() as u64;
            Some(RebuiltParts::Gzip(GzipParts { corrections, plain: *plain_length }))
        }
        ArchiveForm::Replayed(opened) => {
            match record_archive(planner, opened, old, &mut group)? {
                Some(stream) => decisions = stream,
                None => return Ok(None),
            }
            Some(RebuiltParts::Replayed(opened.plain_form()))
        }
    };

    let content: Box<dyn Read + '_> = match &form {
        ArchiveForm::AsIs => planner.content.open(entry).map_err(failed)?,
        ArchiveForm::Gzip(Decomposition { plain_length, .. }) => {
            let file = planner.content.open(entry).map_err(failed)?;
            Box::new(gzip::gunzip(file, *plain_length).take(*plain_length))
        }
        ArchiveForm::Replayed(opened) => Box::new(&opened.plain[..]),
    };
    let front = read_old_front(planner, old)?;
    let mut numbers: HashMap<Digest, usize> = HashMap::new();
    let opened_sources = group.sources.len();
    delta::cpio::split(
        io::BufReader::with_capacity(BUFFER, content),
        |content| {
            let (file, offset) = match files.get(content) {
                Some(file) => (*file, 0),
                None => (old?, *front.get(content)?),
            };
            let ((size, digest), sources) = (file.file()?, &mut group.sources);
            let number = *numbers.entry(digest).or_insert_with(|| {
                sources.push(GroupSource { digest, size, path: file.path.clone(), plain: None });
                sources.len() - 1
            });
            Some((number, offset))
        },
        &mut writer,
    )
    .map_err(failed)?;
    if group.sources.len() == opened_sources {
        return Ok(None);
    }

    group.targets.push(GroupTarget { digest, size, rebuilt });
    let Some(mut patch) = writer.finish().map_err(WriteError::Compress)? else { return Ok(None) };
    patch.extend_from_slice(&decisions);
    if patch.len() as u64 >= size / 4 * 3 {
        return Ok(None);
    }
    let cost = form.cost();
    replayed::finish(planner, group, (patch, decisions.len() as u64), (size, cost))
}

impl ArchiveForm {
    /// Rebuild cost.
    fn cost(&self) -> u64 {
        match self {
            ArchiveForm::AsIs => 0,
            ArchiveForm::Gzip(parts) => parts.cost,
            ArchiveForm::Replayed(opened) => RebuildLimit::replay_cost(opened.replayed),
        }
    }
}

/// Opens an archive, if its rebuild time is within the limits.
fn choose_form(planner: &Planner<'_>, entry: &Entry) -> Result<ArchiveForm, WriteError> {
    let failed = |source| WriteError::Content { path: entry.path.clone(), source };
    let limit = &planner.deltas.rebuild_limit;
    let Some((size, digest)) = entry.file() else { return Ok(ArchiveForm::AsIs) };
    if limit.max_cost() == 0 {
        return Ok(ArchiveForm::AsIs);
    }

    let mut file = planner.content.open(entry).map_err(failed)?;
    let decomposed =
        gzip::decompose(&mut file, &mut io::sink(), &GzipLimits::default()).map_err(failed)?;
    let form = match decomposed {
        Decomposed::Apart(parts) => ArchiveForm::Gzip(parts),
        Decomposed::Whole(_) if replayed::is_small(entry) => {
            let bytes = planner.read_target(entry, size, &digest)?;
            replayed::open_file(bytes, MAX_OPENED).map_or(ArchiveForm::AsIs, ArchiveForm::Replayed)
        }
        Decomposed::Whole(_) => ArchiveForm::AsIs,
    };
    Ok(if limit.permits_file(form.cost()) { form } else { ArchiveForm::AsIs })
}

/// The decision stream of an archive; its old version becomes a source of the group.
fn record_archive(
    planner: &Planner<'_>,
    opened: &OpenedContainer,
    old: Option<&Entry>,
    group: &mut DeltaGroup,
) -> Result<Option<Vec<u8>>, WriteError> {
    let old = old.filter(|old| {
        let digest = old.file().map(|(_, digest)| digest);
        digest.is_some_and(|digest| (planner.deltas.depth)(&digest) < MAX_DEPTH)
    });
    let old = old.filter(|old| replayed::is_small(old));
    let mut old_file = None;
    if let Some((old, (size, digest))) = old.and_then(|old| Some((old, old.file()?)))
        && let Some(bytes) = planner.read_source(old, size, &digest)?
        && let Ok(file) = replayed::open_file(bytes, MAX_OPENED)
    {
        let plain = Some(file.plain_form());
        group.sources.push(GroupSource { digest, size, path: old.path.clone(), plain });
        old_file = Some(file);
    }

    let mut writer = DecisionWriter::new(planner.deltas.effort.replay_reach());
    let is_recorded = replayed::record(&mut writer, opened, old_file.as_ref().map(|old| (0, old)));
    Ok(is_recorded.then(|| writer.finish()))
}

/// Offsets of the uncompressed members at the beginning of the old archive, by digest.
///
/// Empty if the archive may not be a source of another delta.
fn read_old_front(
    planner: &Planner<'_>,
    old: Option<&Entry>,
) -> Result<HashMap<Digest, u64>, WriteError> {
    let Some((old, (size, digest))) = old.and_then(|old| Some((old, old.file()?))) else {
        return Ok(HashMap::new());
    };
    if (planner.deltas.depth)(&digest) >= MAX_DEPTH {
        return Ok(HashMap::new());
    }

    let failed = |source| WriteError::Source { path: old.path.clone(), source };
    let opened = planner.deltas.sources.open(&digest, size, &old.path).map_err(failed)?;
    let Some(file) = opened else { return Ok(HashMap::new()) };
    let reader = io::BufReader::with_capacity(BUFFER, SequentialReader { file: &*file, at: 0 });
    delta::cpio::read_front(reader.take(size)).map_err(failed)
}

/// Whether two contents have a common beginning longer than any header.
fn begin_alike(old: &dyn ReadAt, new: impl Read) -> io::Result<bool> {
    let (mut before, mut now) = (Vec::new(), Vec::new());
    SequentialReader { file: old, at: 0 }.take(BEGINNING).read_to_end(&mut before)?;
    new.take(BEGINNING).read_to_end(&mut now)?;
    Ok(before == now)
}

fn patch_length(patch: &Option<Patch>) -> u64 {
    patch.as_ref().map_or(u64::MAX, |patch| patch.group.patch_length)
}

/// Length of `content` if it is compressed by itself.
fn compressed_length(mut content: impl Read, level: i32) -> io::Result<u64> {
    let mut encoder = zstd::stream::write::Encoder::new(ByteCount(0), level.min(ESTIMATE_LEVEL))?;
    io::copy(&mut content, &mut encoder)?;
    Ok(encoder.finish()?.0)
}

/// Counts the bytes that are written.
struct ByteCount(u64);

impl io::Write for ByteCount {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
