//! Download of an update: its contents are kept on this node, and nothing of the tree is changed.
//!
//! The stage is filled as for a transaction, but it is not sealed. No hook runs.

use std::collections::BTreeMap;

use crate::allocator;
use crate::apply::Untouched;
use crate::apply::downloaded::{
    self, DataFile, DownloadRecord, DownloadWriter, DownloadedUpdate, FoundDownload, LayerRecord,
    RecordedCheck,
};
use crate::apply::error::DownloadedFault;
use crate::apply::plan::{ChangePlan, CheckLevel};
use crate::apply::stage::Stage;
use crate::image::{Layer, LayerKind};
use crate::manifest::{Manifest, path_text};
use crate::update::downloaded::{recorded_id, rules_digest};
use crate::update::error::{Refusal, UpdateError};
use crate::update::installed::recorded::compress_manifest;
use crate::update::report::{Report, UpdateOutcome};
use crate::update::request::SignedFiles;
use crate::update::source::overrides::{LayerSource, OverrideLayer};
use crate::update::transaction::UpdateTransaction;
use crate::update::transaction::commit::clean_up;
use crate::update::transaction::error::TransactionError;
use crate::update::transaction::target::Target;

/// Keeps the contents of a plan as a downloaded update; `fill` supplies them.
pub(super) fn download(
    transaction: &UpdateTransaction<'_>,
    target: &Target,
    plan: &ChangePlan,
    fill: impl FnOnce(&Stage) -> Result<(), TransactionError>,
) -> Result<Report, TransactionError> {
    let target_id = transaction.composed_id(&target.image);
    let recorded = transaction.installed.map(|installed| installed.composed_id());
    if plan.is_empty() && recorded == Some(target_id) {
        return Ok(transaction.report(target, plan, UpdateOutcome::UpToDate));
    }
    allocator::trim();

    let session = transaction.run.session;
    let kept = transaction
        .record_adoption()
        .map_err(TransactionError::from)
        .and_then(|()| stage_and_keep(transaction, target, plan, fill));
    clean_up(&session.root, &plan.filesystems);
    match kept {
        // Of the paths nothing is reported: none has changed.
        Ok(record) => Ok(Report {
            generation: Some(record.generation),
            serial: Some(record.serial),
            bytes: record.bytes,
            ..Report::new(UpdateOutcome::Downloaded, target.route.to_string())
        }),
        Err(error) => {
            // Contents without a record are of no use, and may have filled the disk.
            let found = DownloadedUpdate::find(&session.root, &plan.filesystems);
            if matches!(found, Ok(FoundDownload::Unusable(_))) {
                // If this fails, the next run that changes the tree retries.
                let _ = downloaded::discard(&session.root, &plan.filesystems);
            }
            Err(error)
        }
    }
}

fn stage_and_keep(
    transaction: &UpdateTransaction<'_>,
    target: &Target,
    plan: &ChangePlan,
    fill: impl FnOnce(&Stage) -> Result<(), TransactionError>,
) -> Result<DownloadRecord, TransactionError> {
    let run = transaction.run;
    let root = &run.session.root;
    let stage = Stage::create_for_download(root, &plan.filesystems, plan, run.monitor)?;
    transaction.fill_stage(target, &stage, fill)?;

    let mut record = new_record(transaction, target)?;
    let mut writer = stage.keep_downloaded()?;
    add_layers(transaction, target, &mut writer, &mut record).map_err(convert_fault)?;
    if run.monitor.is_cancelled() {
        return Err(Untouched::Cancelled.into());
    }
    Ok(writer.finish(record).map_err(convert_fault)?)
}

/// Records that the catalogs of a downloaded update are those that this run has found fresh.
///
/// The heads may be others: a head is signed again when its publisher renews the expiry.
pub(in crate::update) fn renew(
    transaction: &UpdateTransaction<'_>,
    downloaded: &DownloadedUpdate,
) -> Result<DownloadRecord, UpdateError> {
    let overrides = transaction.overrides.iter().map(OverrideLayer::published);
    let published = std::iter::once(transaction.published).chain(overrides);
    let trees = downloaded.record.layers.iter().filter(|layer| layer.kind != LayerKind::Cluster);
    let mut files: Vec<&[u8]> = Vec::new();
    let mut layers = Vec::new();
    for (layer, published) in trees.zip(published) {
        let mut layer = layer.clone();
        if let Some(SignedFiles { head, catalog, .. }) = published.map(|layer| &layer.signed) {
            files.extend([head.as_slice(), catalog]);
            (layer.head, layer.catalog) = (Some(DataFile::of(head)), Some(DataFile::of(catalog)));
        }
        layers.push(layer);
    }
    if let Some(cluster) = transaction.run.request.assignment.signed_cluster() {
        files.extend([cluster.head.as_slice(), &cluster.catalog]);
        let add = |bytes: &[u8]| Ok(DataFile::of(bytes));
        layers.push(layer_record(add, &Layer::Cluster, Some(cluster)).map_err(convert_fault)?);
    }

    let seen = transaction.publish.and_then(|publish| publish.seen);
    let repository = seen.map(|seen| seen.repo.clone()).unwrap_or_default();
    let record = downloaded.record.renewed(layers, repository);
    downloaded.renew(&record, &files).map_err(convert_fault)?;
    Ok(record)
}

/// Record of the update, without its layers.
fn new_record(
    transaction: &UpdateTransaction<'_>,
    target: &Target,
) -> Result<DownloadRecord, UpdateError> {
    let run = transaction.run;
    let serial = transaction.publish.map_or(0, |publish| publish.serial);
    let id = transaction.composed_id(&target.image);
    let mut record = DownloadRecord::new(id, target.image.id(), serial);
    record.tree_identity = run.session.root.identity().map_err(Untouched::from)?;
    record.base = recorded_id(&run.session.root)?;
    record.rules = rules_digest(run.request)?;
    let seen = transaction.publish.and_then(|publish| publish.seen);
    record.repository = seen.map(|seen| seen.repo.clone()).unwrap_or_default();

    // A switch plans from the record alone. If this run planned from an adopted tree, or found
    // differences that no stat shows, the switch has to compare contents too.
    let is_recorded = transaction
        .installed
        .is_some_and(|installed| installed.is_listed() && installed.overruled_record().is_none());
    let is_by_content = target.policy.check_level == CheckLevel::Content;
    if is_by_content || !is_recorded {
        record.check = RecordedCheck::Content;
    }
    Ok(record)
}

/// Writes heads, catalogs and manifests of all layers.
fn add_layers(
    transaction: &UpdateTransaction<'_>,
    target: &Target,
    writer: &mut DownloadWriter<'_>,
    record: &mut DownloadRecord,
) -> Result<(), DownloadedFault> {
    let image = Layer::Image(transaction.run.request.image.clone());
    let manifest = writer.add_data(target.compressed_manifest())?;
    let signed = transaction.published.map(|published| &published.signed);
    let mut layer = layer_record(|bytes| writer.add_data(bytes), &image, signed)?;
    (layer.manifest, layer.generation) = (Some(manifest), Some(target.image.id()));
    record.layers.push(layer);

    for layer in transaction.overrides {
        record.layers.push(override_record(writer, layer)?);
    }
    if let Some(cluster) = transaction.run.request.assignment.signed_cluster() {
        record.layers.push(layer_record(
            |bytes| writer.add_data(bytes),
            &Layer::Cluster,
            Some(cluster),
        )?);
    }
    Ok(())
}

fn override_record(
    writer: &mut DownloadWriter<'_>,
    layer: &OverrideLayer,
) -> Result<LayerRecord, DownloadedFault> {
    let name = Layer::Override(layer.name.clone());
    let signed = layer.published().map(|published| &published.signed);
    let record = layer_record(|bytes| writer.add_data(bytes), &name, signed)?;
    let unheld = match &layer.source {
        LayerSource::Received(received) => Some(&received.unheld_times),
        LayerSource::Stored { unheld_times } => Some(unheld_times),
        LayerSource::Published(_) | LayerSource::Recorded => None,
    };
    let unheld = unheld.into_iter().flatten();
    let unheld = unheld.map(|(path, reason)| (path_text(path), reason.clone())).collect();
    Ok(LayerRecord {
        generation: Some(layer.manifest.id()),
        manifest: Some(add_manifest(writer, &layer.manifest)?),
        unheld,
        ..record
    })
}

/// Record of a layer whose head and catalog `add` writes.
fn layer_record(
    mut add: impl FnMut(&[u8]) -> Result<DataFile, DownloadedFault>,
    layer: &Layer,
    signed: Option<&SignedFiles>,
) -> Result<LayerRecord, DownloadedFault> {
    let mut add = |bytes: Option<&Vec<u8>>| bytes.map(|bytes| add(bytes)).transpose();
    Ok(LayerRecord {
        kind: layer.kind(),
        name: layer.name().clone(),
        generation: None,
        head: add(signed.map(|signed| &signed.head))?,
        catalog: add(signed.map(|signed| &signed.catalog))?,
        manifest: None,
        unheld: BTreeMap::new(),
    })
}

fn add_manifest(
    writer: &mut DownloadWriter<'_>,
    manifest: &Manifest,
) -> Result<DataFile, DownloadedFault> {
    writer.add_data(&compress_manifest(manifest))
}

/// Converts a fault of writing: a full filesystem is its most likely reason.
fn convert_fault(fault: DownloadedFault) -> UpdateError {
    match fault {
        DownloadedFault::Root(error) => Untouched::from_root(error).into(),
        fault => Refusal::DownloadNotKept(fault).into(),
    }
}
