//! Exclude rules that an image or override has in place of the node's own exclude file.
//!
//! An administrator may ship the exclude file with the image. Its rules then apply in the same run
//! that installs it: otherwise the run could remove paths that the new rules exclude.

use std::collections::BTreeMap;
use std::io::Read;

use crate::apply::stage::live_source::LiveSource;
use crate::diff_archive::Sources;
use crate::digest::Digest;
use crate::entry::{Entry, EntryKind};
use crate::fetch::{FetchErrorKind, FetchOptions, Repository};
use crate::filter::{Filter, MAX_EXCLUDE_FILE};
use crate::full_sync::{Received, Server};
use crate::host::Drift;
use crate::image::Layer;
use crate::manifest::{Manifest, path_text};
use crate::tree_path::TreePath;
use crate::update::error::UpdateError;
use crate::update::notice::UpdateNotice;
use crate::update::request::Excludes;
use crate::update::run::Run;
use crate::update::source::overrides::{LayerSource, OverrideLayer};
use crate::update::source::published::PublishedImage;

/// Places in which the content of a small file is looked up.
pub(in crate::update) struct ContentSources<'a> {
    pub live: LiveSource<'a>,
    pub published: &'a PublishedImage,
    pub overrides: &'a [OverrideLayer],
}

/// Rules and deviations of a recorded state.
pub(in crate::update) struct RecordedRules<'a> {
    /// Digest of the filter.
    pub filter: &'a Digest,
    pub deviations: &'a BTreeMap<String, String>,
}

/// Returns the rules of the exclude file in `target`, if they differ from those in effect.
///
/// `installed` is the recorded tree. If the image did not change the file and drift is only
/// reported, the node keeps its version. An excluded file is not in `target`.
pub(in crate::update) fn find_in_target(
    run: &Run<'_>,
    sources: &ContentSources<'_>,
    target: &Manifest,
    installed: Option<&Manifest>,
) -> Result<Option<Vec<u8>>, UpdateError> {
    let Some(path) = &run.excludes.path else { return Ok(None) };
    let entry = target.get(path);
    let Some((size, digest)) = entry.and_then(Entry::file) else { return Ok(None) };
    if digest == Digest::of(&run.excludes.rules) {
        return Ok(None);
    }
    let is_unchanged = installed.and_then(|installed| installed.get(path)) == entry;
    if is_unchanged && run.request.drift == Drift::Report {
        return Ok(None);
    }

    // A file above the limit is read up to the limit, and then refused by the filter.
    let rules = sources.read(run, digest, size.min(MAX_EXCLUDE_FILE as u64 + 1))?;
    if rules.is_none() {
        run.monitor.warn(UpdateNotice::ExcludesUnavailable { path });
    }
    Ok(rules)
}

/// Finds the exclude file in effect, if it was edited and its edited rules exclude it.
///
/// The edit would hide itself. `expected` is the tree that the node should have. Rules under which
/// the state was recorded are no edit, unless the state has the deviation.
pub(in crate::update) fn find_hidden_edit<'e>(
    excludes: &'e Excludes,
    filter: &Filter,
    expected: Option<&Entry>,
    recorded: &RecordedRules<'_>,
) -> Option<&'e TreePath> {
    let path = excludes.path.as_ref()?;
    let (_, digest) = expected?.file()?;
    let is_hidden = || {
        let reason = filter.excludes(path, EntryKind::Other);
        reason.is_some_and(|reason| reason.is_configured())
    };
    let is_edited = digest != Digest::of(&excludes.rules) && is_hidden();
    let is_known = || recorded.deviations.contains_key(&path_text(path));
    (is_edited && (*recorded.filter != filter.digest() || is_known())).then_some(path)
}

/// Returns the exclude file of the image or of an override, if it differs from that in effect.
///
/// For an rsync-only sync: the file is read from the modules of the rsync daemon.
pub(in crate::update) fn find_in_modules(
    run: &Run<'_>,
    server: &Server,
) -> Result<Option<Excludes>, UpdateError> {
    let Some(path) = &run.excludes.path else { return Ok(None) };
    if run.filter.excludes(path, EntryKind::Other).is_some() {
        return Ok(None);
    }
    let Ok(file) = std::str::from_utf8(path.as_bytes()) else { return Ok(None) };

    // The last override that has the file hides all others.
    let overrides = run.request.overrides.iter().rev().cloned().map(Layer::Override);
    for layer in overrides.chain([Layer::Image(run.request.image.clone())]) {
        let inside = format!("{}/", layer.repository_path());
        let options =
            FetchOptions { deadline: Some(run.rsync_deadline()), ..run.request.fetch.clone() };
        let module =
            Repository::open_module(server.address(&inside), server.relay.clone(), &options)?;

        match module.fetch_unverified(file, MAX_EXCLUDE_FILE as u64) {
            Err(error) if error.kind == FetchErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
            Ok(rules) if rules == run.excludes.rules => return Ok(None),
            Ok(rules) => return Ok(Some(Excludes::from_image(path, rules))),
        }
    }
    Ok(None)
}

impl ContentSources<'_> {
    /// Reads a content of `size` bytes from the received overrides, the tree, or a repository.
    pub fn read(
        &self,
        run: &Run<'_>,
        digest: Digest,
        size: u64,
    ) -> Result<Option<Vec<u8>>, UpdateError> {
        for layer in self.overrides {
            if let LayerSource::Received(received) = &layer.source
                && let Some(bytes) = read_received(received, &layer.manifest, digest, size)
            {
                return Ok(Some(bytes));
            }
        }

        if let Some(downloaded) = &run.downloaded
            && let Ok(Some(bytes)) = downloaded.read_content(&digest, size, run.monitor)
            && Digest::of(&bytes) == digest
        {
            return Ok(Some(bytes));
        }
        if let Ok(Some(bytes)) = self.live.read(&digest, size, &TreePath::root())
            && Digest::of(&bytes) == digest
        {
            return Ok(Some(bytes));
        }

        let overrides = self.overrides.iter().filter_map(OverrideLayer::published);
        for published in overrides.chain([self.published]) {
            let text = published.read_content(run, &self.live, (digest, size))?;
            if text.is_some() {
                return Ok(text);
            }
        }
        Ok(None)
    }
}

fn read_received(
    received: &Received,
    manifest: &Manifest,
    digest: Digest,
    size: u64,
) -> Option<Vec<u8>> {
    let entry = manifest
        .entries()
        .iter()
        .find(|entry| entry.file().is_some_and(|(_, found)| found == digest))?;
    let file = received.tree.open_file(&entry.path).ok()?;
    let mut bytes = Vec::new();
    file.take(size + 1).read_to_end(&mut bytes).ok()?;
    (Digest::of(&bytes) == digest).then_some(bytes)
}
