//! State shared by the strategies that install a generation of a catalog.

use crate::apply::stage::live_source::LiveSource;
use crate::manifest::Manifest;
use crate::update::error::UpdateError;
use crate::update::report::Report;
use crate::update::run::Run;
use crate::update::source::excludes::{self, ContentSources};
use crate::update::source::published::PublishedImage;
use crate::update::transaction::UpdateTransaction;
use crate::update::transaction::target::Target;

/// An update of one tree to the head of one catalog, or to its recorded generation.
pub(super) struct HeadUpdate<'a> {
    pub transaction: UpdateTransaction<'a>,
    pub published: &'a PublishedImage,
    pub goal: Goal,
}

/// Generation that an update installs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Head,
    /// The recorded one, although it may not be the head.
    Recorded(RepairExtent),
}

/// Extent of a repair to the recorded generation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RepairExtent {
    /// Check level and drift policy of the request.
    Requested,
    /// All tracked paths by content, as in a sync without diffs.
    Complete,
}

/// Result of a strategy that did not fail.
pub(super) enum StrategyOutcome {
    /// The run is complete.
    Done(Box<Report>),
    /// The target has other exclude rules; the run has to start over with them.
    OtherExcludes(Vec<u8>),
}

impl<'a> HeadUpdate<'a> {
    /// Returns the context of the run.
    pub fn run(&self) -> &'a Run<'a> {
        self.transaction.run
    }

    /// Returns the manifest of the image that the tree shall have.
    pub fn image_manifest(&self) -> Result<Manifest, UpdateError> {
        match (self.goal, self.transaction.installed) {
            (Goal::Recorded(_), Some(installed)) => Ok(installed.manifest.clone()),
            _ => self.published.manifest(self.published.catalog.head()),
        }
    }

    /// Returns the contents that the tree should have according to its record.
    pub fn recorded_contents(&self) -> LiveSource<'a> {
        self.transaction.recorded_contents()
    }

    /// Returns those of the recorded contents whose files look as recorded, by size and mtime.
    pub fn contents_as_recorded(&self) -> LiveSource<'a> {
        let installed = self.transaction.installed.map(|installed| &installed.composed);
        let run = self.run();
        LiveSource::from_manifest(&run.session.root, installed, &run.times, run.monitor, |_| true)
    }

    /// Returns the exclude rules of the target, if they differ from those in effect.
    pub fn find_other_excludes(&self, target: &Target) -> Result<Option<Vec<u8>>, UpdateError> {
        let installed = self.transaction.installed.map(|installed| &installed.composed);
        // The rules are verified by their digest, so that no path is doubtful.
        let run = self.run();
        let live = LiveSource::from_manifest(
            &run.session.root,
            installed,
            &run.times,
            run.monitor,
            |_| false,
        );
        let sources = ContentSources {
            live,
            published: self.published,
            overrides: self.transaction.overrides,
        };
        excludes::find_in_target(self.run(), &sources, &target.tracked, installed)
    }
}

impl StrategyOutcome {
    /// Outcome of a complete run.
    pub fn done(report: Report) -> Self {
        StrategyOutcome::Done(Box::new(report))
    }
}
