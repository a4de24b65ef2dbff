//! Patches of files with parts of xz or zstd: of their plain forms, with a decision stream.

use std::io::{self, Read};

use crate::delta::{self, Kind, MAX_PATCH, PairGroup, RebuildLimit};
use crate::diff_archive::delta_plan::planner::{LEAST_GAIN, Patch, Planner};
use crate::diff_archive::error::WriteError;
use crate::diff_archive::group::DeltaGroup;
use crate::diff_archive::group_contents::{
    Container, GroupSource, GroupTarget, PlainForm, RebuiltParts,
};
use crate::diff_archive::old_files::MAX_DICTIONARY;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::replay::file::{DecisionWriter, Forms, OldFile, OpenLimits, PlainReader};
use crate::replay::prediction::Reach;

/// The plain form of a file, and the forms of its parts.
pub(super) struct OpenedContainer {
    pub bytes: Vec<u8>,
    pub plain: Vec<u8>,
    pub forms: Forms,
    /// Bytes of the plain form that are replayed.
    pub replayed: u64,
}

/// An opened file, or the bytes of one that has no plain form.
type MaybeOpened = Result<OpenedContainer, Vec<u8>>;

/// Opens a file with a plain form of at most `limit` bytes; returns its bytes if it has none.
pub(super) fn open_file(bytes: Vec<u8>, limit: u64) -> Result<OpenedContainer, Vec<u8>> {
    let mut plain = Vec::new();
    let mut reader = PlainReader::new(&bytes[..], limits(limit));
    match reader.read_to_end(&mut plain) {
        Ok(_) => {
            let (forms, replayed) = (reader.forms(), reader.replayed());
            Ok(OpenedContainer { bytes, plain, forms, replayed })
        }
        Err(_) => Err(bytes),
    }
}

/// Limits for a plain form of at most `plain` bytes.
pub(super) fn limits(plain: u64) -> OpenLimits {
    OpenLimits { dictionary: MAX_DICTIONARY, plain }
}

/// A target of a group: size, digest, and its opened content, or its bytes if it has no plain form
/// or must be sent as it is.
struct PlannedTarget {
    size: u64,
    digest: Digest,
    content: MaybeOpened,
}

/// The patch of the plain forms of files; one that cannot be replayed is used as it is.
///
/// `None` if no file can be replayed, or if that saves too little.
pub(super) fn compute_replayed(
    planner: &Planner<'_>,
    pair: &PairGroup<'_>,
) -> Result<Option<Patch>, WriteError> {
    let most = planner.deltas.effort.max_replayed();
    let Some(sources) = open_sources(planner, pair, most)? else { return Ok(None) };
    let mut targets = open_targets(planner, pair, most)?;
    let reach = planner.deltas.effort.replay_reach();
    let Some(decisions) = record_all((pair, reach), &sources, &mut targets) else {
        return Ok(None);
    };

    let mut group = planner.new_group(Kind::Operations);
    let (mut source, mut output, mut cost, mut packed) = (Vec::new(), Vec::new(), 0, 0);
    for (entry, opened) in pair.sources.iter().zip(&sources) {
        let Some((size, digest)) = entry.file() else { return Ok(None) };
        let (form, plain) = match opened {
            Ok(opened) => (&opened.plain, Some(opened.plain_form())),
            Err(bytes) => (bytes, None),
        };
        source.extend_from_slice(form);
        group.sources.push(GroupSource { digest, size, path: entry.path.clone(), plain });
    }
    for PlannedTarget { size, digest, content } in &targets {
        let (form, rebuilt) = match content {
            Ok(opened) => (&opened.plain, Some(RebuiltParts::Replayed(opened.plain_form()))),
            Err(bytes) => (bytes, None),
        };
        let replayed = content.as_ref().map_or(0, |opened| opened.replayed);
        output.extend_from_slice(form);
        cost += RebuildLimit::replay_cost(replayed);
        packed += size;
        group.targets.push(GroupTarget { digest: *digest, size: *size, rebuilt });
    }
    drop((sources, targets));
    if source.len() as u64 > delta::MAX_GROUP || output.len() as u64 > delta::MAX_GROUP {
        return Ok(None);
    }

    let level = planner.deltas.effort.replay_level();
    let mut patch =
        delta::encode_operations(&source, &output, level).map_err(WriteError::Compress)?;
    drop((source, output));
    patch.extend_from_slice(&decisions);
    finish(planner, group, (patch, decisions.len() as u64), (packed, cost))
}

/// Opens the targets of a group whose rebuild time is permitted.
fn open_targets(
    planner: &Planner<'_>,
    pair: &PairGroup<'_>,
    most: u64,
) -> Result<Vec<PlannedTarget>, WriteError> {
    let limit = planner.deltas.rebuild_limit;
    let mut targets = Vec::new();
    for entry in &pair.targets {
        let Some((size, digest)) = entry.file() else { continue };
        let opened = open_file(planner.read_target(entry, size, &digest)?, most);
        let content = opened.and_then(|opened| {
            let is_permitted = limit.permits_file(RebuildLimit::replay_cost(opened.replayed));
            if is_permitted { Ok(opened) } else { Err(opened.bytes) }
        });
        targets.push(PlannedTarget { size, digest, content });
    }
    Ok(targets)
}

/// Records the decisions of all targets that can be made again; the others become their bytes.
///
/// `None` if there is none.
fn record_all(
    (pair, reach): (&PairGroup<'_>, Reach),
    sources: &[MaybeOpened],
    targets: &mut [PlannedTarget],
) -> Option<Vec<u8>> {
    'attempt: loop {
        let mut writer = DecisionWriter::new(reach);
        let mut is_empty = true;
        for (target, origin) in targets.iter_mut().zip(&pair.origins) {
            let Ok(opened) = &mut target.content else { continue };
            let old = sources.get(*origin).and_then(|source| source.as_ref().ok());
            let old = old.zip(u32::try_from(*origin).ok()).map(|(old, number)| (number, old));
            if !record(&mut writer, opened, old) {
                // Its decisions have spoilt the stream for all others.
                target.content = Err(std::mem::take(&mut opened.bytes));
                continue 'attempt;
            }
            is_empty = false;
        }
        return (!is_empty).then(|| writer.finish());
    }
}

/// Accepts a patch with its decision stream if it saves enough of `packed` bytes.
pub(super) fn finish(
    planner: &Planner<'_>,
    mut group: DeltaGroup,
    (patch, decisions): (Vec<u8>, u64),
    (packed, cost): (u64, u64),
) -> Result<Option<Patch>, WriteError> {
    group.patch_length = patch.len() as u64;
    group.decisions = decisions;
    let saved = packed.saturating_sub(group.patch_length);
    let pays = saved >= packed / LEAST_GAIN as u64
        && planner.deltas.rebuild_limit.pays(saved, cost)
        && group.patch_length <= MAX_PATCH;
    if !pays {
        return Ok(None);
    }
    planner.prove(&group, &patch)?;
    Ok(Some(Patch { group, patch, cost }))
}

/// The sources of a group, each opened if it can be; `None` if one was lost.
fn open_sources(
    planner: &Planner<'_>,
    pair: &PairGroup<'_>,
    most: u64,
) -> Result<Option<Vec<MaybeOpened>>, WriteError> {
    let mut opened = Vec::new();
    for entry in &pair.sources {
        let Some((size, digest)) = entry.file() else { return Ok(None) };
        let Some(bytes) = planner.read_source(entry, size, &digest)? else { return Ok(None) };
        opened.push(open_file(bytes, most));
    }
    Ok(Some(opened))
}

/// Adds a file to a decision stream; false if its decisions do not make it again.
pub(super) fn record(
    writer: &mut DecisionWriter,
    file: &OpenedContainer,
    old: Option<(u32, &OpenedContainer)>,
) -> bool {
    let mut old = old.map(|(number, old)| {
        (number, OldFile::new(Box::new(&old.bytes[..]), limits(old.plain.len() as u64)))
    });
    let old = old.as_mut().map(|(number, old)| (*number, old));
    let mut made = FileComparison { rest: &file.bytes, is_equal: true };
    let most = file.plain.len() as u64;
    let added = writer.add(&mut &file.bytes[..], &file.plain, old, limits(most), &mut made);
    added.is_ok() && made.is_equal && made.rest.is_empty()
}

/// Compares what is written with a file.
struct FileComparison<'f> {
    rest: &'f [u8],
    is_equal: bool,
}

impl io::Write for FileComparison<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.rest.strip_prefix(bytes) {
            Some(rest) => self.rest = rest,
            None => self.is_equal = false,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl OpenedContainer {
    /// Description of the plain form.
    pub fn plain_form(&self) -> PlainForm {
        PlainForm { length: self.plain.len() as u64, container: Container::Replayed(self.forms) }
    }
}

/// Whether the entry is a file that may be opened in memory.
pub(super) fn is_small(entry: &Entry) -> bool {
    entry.file().is_some_and(|(size, _)| size <= delta::MAX_CONTENT)
}
