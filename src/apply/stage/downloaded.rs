//! A stage and a downloaded update: contents of one become those of the other.

use rayon::prelude::*;

use crate::apply::downloaded::{DownloadWriter, DownloadedUpdate, OpenCopy, SyncMethod};
use crate::apply::error::{RefusalKind, Untouched};
use crate::apply::plan::{ContentSource, StagedItem};
use crate::apply::stage::{MAX_SYNCED_EACH, Stage};
use crate::digest::Digest;
use crate::report::{Event, Job};
use crate::root::{BoundedFile, syncfs_reports_errors};

use std::os::fd::AsFd;

impl<'a> Stage<'a> {
    /// Stages the contents that a downloaded update has, as hard links of its files.
    ///
    /// They stay in the downloaded update until the caller removes that. If this run ends before
    /// its commit point, a later one finds them there.
    pub fn take_downloaded(&self, downloaded: &DownloadedUpdate) -> Result<(), Untouched> {
        let mut wanted: Vec<Digest> = self.missing_contents().into_keys().collect();
        wanted.retain(|digest| downloaded.has(digest));
        wanted.par_iter().try_for_each(|digest| {
            let copies = downloaded
                .open_copies(digest, self.monitor)
                .map_err(|error| Untouched::cancelled_or(self.monitor, error))?;
            self.take_copies(digest, copies)
        })
    }

    /// Stages one content for all items that wait for it; without copies it stays missing.
    fn take_copies(&self, digest: &Digest, mut copies: Vec<OpenCopy>) -> Result<(), Untouched> {
        let Some(items) = self.missing().get(digest).cloned() else { return Ok(()) };
        let mut waiting: Vec<&StagedItem> = Vec::new();
        let mut source: Option<BoundedFile> = None;
        for index in items {
            let item = &self.plan.staged_items[index];
            let mount_root = &self.filesystems.mount_roots()[item.filesystem];
            match copies.iter().position(|copy| copy.mount_root == mount_root) {
                Some(at) => {
                    let copy = copies.swap_remove(at);
                    self.link_copy(item, &copy)?;
                    source = Some(copy.file);
                }
                None => waiting.push(item),
            }
        }

        let source = source.or_else(|| copies.pop().map(|copy| copy.file));
        let Some(source) = source else { return Ok(()) };
        for item in waiting {
            self.copy_content(item, source.as_fd())?;
        }
        self.missing().remove(digest);
        Ok(())
    }

    fn link_copy(&self, item: &StagedItem, copy: &OpenCopy) -> Result<(), Untouched> {
        let stage = self.stage_of(item)?;
        let held = copy.directory.hold_file(&copy.path, &copy.file)?;
        held.link_to(stage, &item.place).map_err(|error| self.error_of(item, error))?;
        self.complete_file(item, &stage.hold_file(&item.place, &copy.file)?)
    }

    /// Moves all contents into a downloaded update, durably; its record is not written yet.
    pub fn keep_downloaded(mut self) -> Result<DownloadWriter<'a>, Untouched> {
        let missing = self.missing_contents().len();
        if missing > 0 {
            return Err(RefusalKind::ContentsMissing { count: missing }.into());
        }
        if let Some(background_sync) = self.background_sync.take() {
            background_sync.finish().map_err(Untouched::from_root)?;
        }

        let contents = || {
            self.plan.staged_items.iter().filter_map(|item| match &item.source {
                ContentSource::Content { digest, .. } => Some((item, *digest)),
                _ => None,
            })
        };
        let which = contents().map(|(item, _)| item.filesystem);
        let mut writer = DownloadWriter::create(self.root, self.filesystems, which)
            .map_err(Untouched::from_root)?;
        for (item, digest) in contents() {
            let stage = self.stage_of(item)?;
            writer
                .take(digest, item.filesystem, (stage, &item.place))
                .map_err(|error| self.error_of(item, error))?;
        }

        let is_large = contents().nth(MAX_SYNCED_EACH).is_some() && syncfs_reports_errors();
        let method = if is_large { SyncMethod::Filesystems } else { SyncMethod::Files };
        writer.sync_contents(method).map_err(Untouched::from_root)?;
        self.monitor.event(Event::Finished { job: Job::Stage });
        Ok(writer)
    }
}
