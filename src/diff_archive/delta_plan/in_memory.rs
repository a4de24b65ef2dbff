//! Patches that are built in memory: of files, or of the plain forms of gzip files.

use std::io::Read;

use crate::delta::gzip::{self, Decomposed, GzipLimits};
use crate::delta::{ContentClass, Kind, MAX_GROUP, PairGroup};
use crate::diff_archive::delta_plan::planner::{LEAST_GAIN, Patch, Planner};
use crate::diff_archive::delta_plan::replayed::compute_replayed;
use crate::diff_archive::error::WriteError;
use crate::diff_archive::group::DeltaGroup;
use crate::diff_archive::group_contents::{
    Container, GroupSource, GroupTarget, GzipParts, PlainForm, RebuiltParts,
};

/// The patch of a group; `None` if its targets are better sent whole.
pub(super) fn compute_group(
    planner: &Planner<'_>,
    pair: &PairGroup<'_>,
) -> Result<Option<Patch>, WriteError> {
    let patch = match pair.class {
        ContentClass::Decomposed => match compute_decomposed(planner, pair)? {
            Some(patch) => Some(patch),
            None => compute_as_is(planner, pair)?,
        },
        ContentClass::Replayed => match compute_replayed(planner, pair)? {
            Some(patch) => Some(patch),
            None => compute_as_is(planner, pair)?,
        },
        ContentClass::Plain | ContentClass::Compressed => compute_as_is(planner, pair)?,
    };
    planner.report_progress(&pair.targets);
    Ok(patch)
}

/// The patch of the contents as they are.
fn compute_as_is(planner: &Planner<'_>, pair: &PairGroup<'_>) -> Result<Option<Patch>, WriteError> {
    let kind = match pair.class {
        ContentClass::Plain => planner.deltas.effort.patch_kind(),
        ContentClass::Compressed | ContentClass::Decomposed | ContentClass::Replayed => {
            Kind::Prefix
        }
    };
    let mut group = planner.new_group(kind);

    let mut source = Vec::new();
    for entry in &pair.sources {
        let Some((size, digest)) = entry.file() else { continue };
        let Some(bytes) = planner.read_source(entry, size, &digest)? else { return Ok(None) };
        source.extend_from_slice(&bytes);
        group.sources.push(GroupSource { digest, size, path: entry.path.clone(), plain: None });
    }

    let mut output = Vec::new();
    for entry in &pair.targets {
        let Some((size, digest)) = entry.file() else { continue };
        output.extend_from_slice(&planner.read_target(entry, size, &digest)?);
        group.targets.push(GroupTarget { digest, size, rebuilt: None });
    }

    match planner.encode(&mut group, &source, &output)? {
        Some(patch) if planner.saves_enough(&patch, &output)? => {
            Ok(Some(Patch { group, patch, cost: 0 }))
        }
        _ => Ok(None),
    }
}

/// The patch of the plain forms of gzip files; a file that cannot be decomposed is used as it is.
pub(super) fn compute_decomposed(
    planner: &Planner<'_>,
    pair: &PairGroup<'_>,
) -> Result<Option<Patch>, WriteError> {
    // Most of the text is equal, so the suffix array of bsdiff would not pay.
    let mut group = planner.new_group(Kind::Prefix);
    let TargetForms { output, compressed, cost } = read_target_forms(planner, pair, &mut group)?;
    let Some(source) = read_source_forms(planner, pair, &mut group)? else { return Ok(None) };
    if source.len() as u64 > MAX_GROUP || output.len() as u64 > MAX_GROUP {
        return Ok(None);
    }

    if pair.targets.len() == 1 && !planner.deltas.rebuild_limit.permits_file(cost) {
        return Ok(None);
    }

    let Some(patch) = planner.encode(&mut group, &source, &output)? else { return Ok(None) };
    let saved = compressed.saturating_sub(group.patch_length);
    let pays =
        saved >= compressed / LEAST_GAIN as u64 && planner.deltas.rebuild_limit.pays(saved, cost);
    Ok(pays.then_some(Patch { group, patch, cost }))
}

/// The forms of the targets of a group.
struct TargetForms {
    /// The forms, concatenated: the output of the patch.
    output: Vec<u8>,
    /// Bytes of the files themselves.
    compressed: u64,
    /// Rebuild cost.
    cost: u64,
}

fn read_target_forms(
    planner: &Planner<'_>,
    pair: &PairGroup<'_>,
    group: &mut DeltaGroup,
) -> Result<TargetForms, WriteError> {
    let limits = GzipLimits { plain: MAX_GROUP, ..GzipLimits::default() };
    let mut forms = TargetForms { output: Vec::new(), compressed: 0, cost: 0 };

    for entry in &pair.targets {
        let Some((size, digest)) = entry.file() else { continue };
        let bytes = planner.read_target(entry, size, &digest)?;
        let mut plain = Vec::new();
        let decomposed =
            gzip::decompose(&mut &bytes[..], &mut plain, &limits).map_err(WriteError::Compress)?;

        let rebuilt = match decomposed {
            Decomposed::Apart(parts) => {
                forms.output.extend_from_slice(&parts.corrections);
                forms.output.extend_from_slice(&plain);
                forms.cost = forms.cost.saturating_add(parts.cost);
                let corrections = parts.corrections.len() as u64;
                Some(RebuiltParts::Gzip(GzipParts { corrections, plain: plain.len() as u64 }))
            }
            Decomposed::Whole(_) => {
                forms.output.extend_from_slice(&bytes);
                None
            }
        };
        forms.compressed += bytes.len() as u64;
        group.targets.push(GroupTarget { digest, size, rebuilt });
    }
    Ok(forms)
}

/// The forms of the sources, concatenated; `None` if a source was lost.
fn read_source_forms(
    planner: &Planner<'_>,
    pair: &PairGroup<'_>,
    group: &mut DeltaGroup,
) -> Result<Option<Vec<u8>>, WriteError> {
    let mut source = Vec::new();

    for entry in &pair.sources {
        let Some((size, digest)) = entry.file() else { continue };
        let Some(bytes) = planner.read_source(entry, size, &digest)? else { return Ok(None) };

        // A plain form has little in common with a compressed file.
        let before = source.len();
        let is_gzip = gzip::gunzip(&bytes[..], MAX_GROUP).read_to_end(&mut source).is_ok();
        if !is_gzip {
            source.truncate(before);
            source.extend_from_slice(&bytes);
        }
        let length = (source.len() - before) as u64;
        let plain = is_gzip.then_some(PlainForm { length, container: Container::Gzip });
        group.sources.push(GroupSource { digest, size, path: entry.path.clone(), plain });
    }
    Ok(Some(source))
}
