//! Content that no chain brings: by digest from the repository, or from what rsync brought of overrides.

use std::collections::HashSet;
use std::io::{BufReader, Read};

use crate::apply::stage::live_source::LiveSource;
use crate::apply::stage::{Stage, StageError};
use crate::diff_archive::Sources;
use crate::diff_archive::content_index::ContentIndex;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::fetch::content::{ContentError, ContentStore, Sink};
use crate::filter::MAX_EXCLUDE_FILE;
use crate::host::Drift;
use crate::manifest::Manifest;
use crate::root::Root;
use crate::tree_path::TreePath;
use crate::update::UpdateError;
use crate::update::source::overrides::LayerSource;
use crate::update::source::published::PublishedImage;
use crate::update::strategy::Strategy;
use crate::update::strategy::chain_archives::is_broken;
use crate::update::strategy::diffs::{Stopped, missing};
use crate::update::transaction::Target;

impl Strategy<'_> {
    /// Fetches by digest what nothing else had: the content of paths that drifted, and of what is laid over
    /// the image.
    pub(in crate::update) fn fill_from_repository(
        &self,
        stage: &Stage,
        live: &LiveSource,
    ) -> Result<(), Stopped> {
        for laid in self.converge.layers {
            match &laid.source {
                LayerSource::Received(received) => {
                    take_received(stage, &laid.manifest, &received.tree)?
                }
                LayerSource::Published(published) => {
                    self.fill_by_digest(stage, live, published, Some(&laid.manifest))?
                }
            }
        }
        self.fill_by_digest(stage, live, self.published, None)?;
        if stage.missing_contents().is_empty() {
            Ok(())
        } else {
            Err(Stopped::Incomplete(missing(stage)))
        }
    }

    /// Fetches what is wanted, as far as the repository has it; with `of` only what that names.
    fn fill_by_digest(
        &self,
        stage: &Stage,
        live: &LiveSource,
        published: &PublishedImage,
        of: Option<&Manifest>,
    ) -> Result<(), Stopped> {
        let mut wanted: Vec<(Digest, u64)> = stage.missing_contents().into_iter().collect();
        if let Some(of) = of {
            let named: HashSet<Digest> =
                of.entries().iter().filter_map(|entry| Some(entry.file()?.1)).collect();
            wanted.retain(|(digest, _)| named.contains(digest));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        self.converge
            .run
            .monitor
            .note(format!("fetching {} contents whole, by their digests", wanted.len()));
        let mut failed = None;
        let fetched = self.fetch(published, live, &wanted, &mut |digest, content| match stage
            .fill(&digest, &mut BufReader::with_capacity(64 << 10, content))
        {
            Ok(()) => Ok(()),
            // Whether it was the right content is for the store to find out.
            Err(StageError::WrongContent { .. }) => Ok(()),
            Err(StageError::Unreadable(error)) => Err(error),
            Err(error) => {
                failed = Some(error);
                Err(std::io::Error::other("the stage is full"))
            }
        });
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(fetched?),
        }
    }

    /// Gives `sink` what the repository has of `wanted`; what is missing is found out by who wants it.
    fn fetch(
        &self,
        published: &PublishedImage,
        live: &LiveSource,
        wanted: &[(Digest, u64)],
        sink: &mut Sink<'_>,
    ) -> Result<(), UpdateError> {
        let Some(file) = &published.catalog.content else { return Ok(()) };
        let index = match published.repository.fetch(file, self.converge.run.monitor) {
            Ok(verified) => ContentIndex::read_zstd(BufReader::new(verified.into_file())),
            Err(error) if is_broken(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let Ok(index) = index else { return Ok(()) };
        let store =
            ContentStore::new(&index, &published.catalog.archives, &published.repository, live);
        match store.fetch(wanted, sink) {
            Err(ContentError::Fetch(error)) if !is_broken(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The rules of the exclude file that comes with the image, where they are others than those in effect.
    pub(in crate::update) fn excludes_shipped_by_target(
        &self,
        goal: &Target,
    ) -> Result<Option<Vec<u8>>, UpdateError> {
        let (converge, run) = (&self.converge, self.converge.run);
        let Some(place) = &run.excludes.place else { return Ok(None) };
        // Where the node keeps its own file, or will, that is the one that counts.
        let Some((size, digest)) = goal.target.get(place).and_then(Entry::file) else {
            return Ok(None);
        };
        let same =
            converge.base.and_then(|base| base.composed.get(place)) == goal.target.get(place);
        if digest == Digest::of(&run.excludes.rules) || (same && run.request.drift == Drift::Report)
        {
            return Ok(None);
        }
        let rules = self.content(digest, size.min(MAX_EXCLUDE_FILE as u64 + 1))?;
        if rules.is_none() {
            run.monitor.warn(format!(
                "{place} of the image could not be had yet: its rules count from the next run on"
            ));
        }
        Ok(rules)
    }

    /// A small content, from wherever it is to be had.
    fn content(&self, digest: Digest, size: u64) -> Result<Option<Vec<u8>>, UpdateError> {
        let (converge, live) = (&self.converge, self.converge.live_contents());
        for laid in converge.layers {
            let LayerSource::Received(received) = &laid.source else { continue };
            let at = laid
                .manifest
                .entries()
                .iter()
                .find(|entry| entry.file().is_some_and(|(_, d)| d == digest));
            let mut bytes = Vec::new();
            if let Some(entry) = at
                && let Ok(file) = received.tree.open_file(&entry.path)
                && file.take(size + 1).read_to_end(&mut bytes).is_ok()
                && Digest::of(&bytes) == digest
            {
                return Ok(Some(bytes));
            }
        }
        if let Ok(Some(bytes)) = live.read(&digest, size, &TreePath::root())
            && Digest::of(&bytes) == digest
        {
            return Ok(Some(bytes));
        }
        let over = converge.layers.iter().filter_map(|laid| match &laid.source {
            LayerSource::Published(published) => Some(published.as_ref()),
            LayerSource::Received(_) => None,
        });
        for published in over.chain([self.published]) {
            let mut found = None;
            self.fetch(published, &live, &[(digest, size)], &mut |_, content| {
                let mut bytes = Vec::new();
                content.take(size + 1).read_to_end(&mut bytes)?;
                found = (Digest::of(&bytes) == digest).then_some(bytes).or(found.take());
                Ok(())
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

/// Takes what rsync brought of an override.
pub(in crate::update) fn take_received(
    stage: &Stage,
    manifest: &Manifest,
    tree: &Root,
) -> Result<(), StageError> {
    let wanted = stage.missing_contents();
    for entry in manifest.entries() {
        if let Some((_, digest)) = entry
            .file()
            .filter(|(_, digest)| wanted.contains_key(digest) && stage.is_missing(digest))
        {
            stage.move_content(&digest, tree, &entry.path)?;
        }
    }
    Ok(())
}
