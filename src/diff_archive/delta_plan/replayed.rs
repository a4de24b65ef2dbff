//! Patches of files with parts of xz or zstd: of their plain forms, with a decision stream.

use std::collections::HashSet;
use std::io::{self, Read};

use crate::delta::{self, Kind};
use crate::delta::{MAX_PATCH, PairGroup};
use crate::diff_archive::delta_plan::planner::{LEAST_GAIN, Patch, Planner};
use crate::diff_archive::error::WriteError;
use crate::diff_archive::group::{
    Container, DeltaGroup, GroupSource, GroupTarget, PlainForm, RebuiltParts,
};
use crate::diff_archive::old_files::MAX_DICTIONARY;
use crate::entry::Entry;
use crate::replay::file::{DecisionWriter, Forms, OldFile, OpenLimits, PlainReader};

/// The plain form of a file, and the forms of its parts.
pub(super) struct OpenedFile {
    pub bytes: Vec<u8>,
    pub plain: Vec<u8>,
    pub forms: Forms,
    /// Bytes of the plain form that are replayed.
    pub replayed: u64,
}

/// Opens a file with a plain form of at most `limit` bytes; returns its bytes if it has none.
pub(super) fn open_file(bytes: Vec<u8>, limit: u64) -> Result<OpenedFile, Vec<u8>> {
    let mut plain = Vec::new();
    let mut reader = PlainReader::new(&bytes[..], limits(limit));
    match reader.read_to_end(&mut plain) {
        Ok(_) => {
            let (forms, replayed) = (reader.forms(), reader.replayed());
            Ok(OpenedFile { bytes, plain, forms, replayed })
        }
        Err(_) => Err(bytes),
    }
}

/// Limits for a plain form of at most `plain` bytes.
pub(super) fn limits(plain: u64) -> OpenLimits {
    OpenLimits { dictionary: MAX_DICTIONARY, plain }
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
    let mut targets = Vec::new();
    for entry in &pair.targets {
        let Some((size, digest)) = entry.file() else { return Ok(None) };
        targets.push((size, digest, open_file(planner.read_target(entry, size, &digest)?, most)));
    }

    let mut as_is: HashSet<usize> = HashSet::new();
    for (number, (_, _, target)) in targets.iter().enumerate() {
        let limit = planner.deltas.rebuild_limit;
        let cost = target.as_ref().map(|target| limit.replay_cost(target.replayed));
        if !cost.is_ok_and(|cost| limit.permits_file(cost)) {
            as_is.insert(number);
        }
    }

    // A file whose decisions do not make it again would spoil the stream of all others.
    let decisions = loop {
        if as_is.len() == targets.len() {
            return Ok(None);
        }
        let mut writer = DecisionWriter::default();
        let mut failed = None;
        for (number, (_, _, target)) in targets.iter().enumerate() {
            let Some(target) = target.as_ref().ok().filter(|_| !as_is.contains(&number)) else {
                continue;
            };
            let origin = pair.origins.get(number).copied().unwrap_or(0);
            let old = sources.get(origin).and_then(|source| source.as_ref().ok());
            if !record(&mut writer, target, old.map(|old| (origin as u32, old))) {
                failed = Some(number);
                break;
            }
        }
        match failed {
            Some(number) => as_is.insert(number),
            None => break writer.finish(),
        };
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
    for (number, (size, digest, target)) in targets.iter().enumerate() {
        let rebuilt = match target {
            Ok(target) if !as_is.contains(&number) => {
                output.extend_from_slice(&target.plain);
                cost += planner.deltas.rebuild_limit.replay_cost(target.replayed);
                Some(RebuiltParts::Replayed(target.plain_form()))
            }
            Ok(OpenedFile { bytes, .. }) | Err(bytes) => {
                output.extend_from_slice(bytes);
                None
            }
        };
        packed += size;
        group.targets.push(GroupTarget { digest: *digest, size: *size, rebuilt });
    }
    drop((sources, targets));
    if group.sources.iter().map(GroupSource::length).sum::<u64>() > delta::MAX_GROUP
        || output.len() as u64 > delta::MAX_GROUP
    {
        return Ok(None);
    }

    let level = planner.deltas.effort.replay_level();
    let mut patch =
        delta::encode_operations(&source, &output, level).map_err(WriteError::Compress)?;
    drop((source, output));
    patch.extend_from_slice(&decisions);
    finish(planner, group, (patch, decisions.len() as u64), (packed, cost))
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
) -> Result<Option<Vec<Result<OpenedFile, Vec<u8>>>>, WriteError> {
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
    file: &OpenedFile,
    old: Option<(u32, &OpenedFile)>,
) -> bool {
    let mut old = old.map(|(number, old)| {
        (number, OldFile::new(Box::new(&old.bytes[..]), limits(old.plain.len() as u64)))
    });
    let old = old.as_mut().map(|(number, old)| (*number, old));
    let mut made = Comparison { rest: &file.bytes, is_equal: true };
    let most = file.plain.len() as u64;
    let added = writer.add(&mut &file.bytes[..], &file.plain, old, limits(most), &mut made);
    added.is_ok() && made.is_equal && made.rest.is_empty()
}

/// Compares what is written with a file.
struct Comparison<'f> {
    rest: &'f [u8],
    is_equal: bool,
}

impl io::Write for Comparison<'_> {
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

impl OpenedFile {
    /// Description of the plain form.
    pub fn plain_form(&self) -> PlainForm {
        PlainForm { length: self.plain.len() as u64, container: Container::Replayed(self.forms) }
    }
}

/// Whether the entry is a file that may be opened in memory.
pub(super) fn is_small(entry: &Entry) -> bool {
    entry.file().is_some_and(|(size, _)| size <= delta::MAX_CONTENT)
}
