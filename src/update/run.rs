//! Context of one run: request, session and compiled filter, shared by all steps below.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::apply::Untouched;
use crate::apply::downloaded::DownloadedUpdate;
use crate::apply::filesystem::held_times::HeldTimes;
use crate::apply::filesystem::link_limits::LinkLimits;
use crate::apply::filesystem::{limited, mount_root_times};
use crate::apply::session::Session;
use crate::fetch::Spool;
use crate::filter::{Filter, FilterBuilder};
use crate::full_sync::ReceiveDir;
use crate::manifest::Manifest;
use crate::report::Monitor;
use crate::root::RootError;
use crate::root::mounts::Mount;
use crate::state::{KernelPaths, State};
use crate::tree_path::TreePath;
use crate::update::error::{UpdateError, UsageError};
use crate::update::request::{Excludes, SyncMode, UpdateRequest};
use crate::update::requester::Requester;

/// Everything that each step of a run needs.
pub(super) struct Run<'a> {
    pub request: &'a UpdateRequest,
    pub session: &'a Session,
    /// Rules from which `filter` was compiled.
    pub excludes: &'a Excludes,
    pub filter: Filter,
    /// Times that the filesystems of the tree can hold.
    pub times: HeldTimes,
    /// Numbers of hard links that these filesystems allow.
    pub links: LinkLimits,
    /// The downloaded update, if this run may use its contents.
    pub downloaded: Option<Arc<DownloadedUpdate>>,
    pub monitor: &'a dyn Monitor,
}

/// A manifest without excluded paths, split by the abilities of this node's filesystems.
pub(super) struct SupportedPart {
    pub manifest: Manifest,
    /// Paths that a limited filesystem cannot hold, and paths whose time cannot be held, with the
    /// reason.
    pub unsupported: BTreeMap<TreePath, String>,
}

impl SupportedPart {
    /// The part with the times and the hard links that the tree will show.
    pub fn held(mut self, times: &HeldTimes, links: &LinkLimits) -> Self {
        self.unsupported.extend(times.out_of_range(&self.manifest));
        let (manifest, split) = links.apply(&times.apply(&self.manifest));
        self.unsupported.extend(split);
        SupportedPart { manifest, ..self }
    }
}

impl<'a> Run<'a> {
    /// Compiles the filter from `excludes` and the mounts of the session.
    pub fn new(
        request: &'a UpdateRequest,
        session: &'a Session,
        excludes: &'a Excludes,
        monitor: &'a dyn Monitor,
    ) -> Result<Self, UpdateError> {
        let filter = build_request_filter(request, session, excludes)?;
        let times =
            HeldTimes::probe(&session.root, &session.filesystems).map_err(Untouched::from)?;
        let links =
            LinkLimits::read(&session.root, &session.filesystems).map_err(Untouched::from)?;
        Ok(Run { request, session, excludes, filter, times, links, downloaded: None, monitor })
    }

    /// Returns the same run, in which the exclude file `path` is tracked.
    ///
    /// The exclude file is tracked although its own rules exclude it.
    pub fn with_tracked_excludes(&self, path: TreePath) -> Result<Run<'a>, UpdateError> {
        let run = Run::new(self.request, self.session, self.excludes, self.monitor)?;
        let fstypes = self.request.fstypes.as_deref();
        let filter = build_filter(self.session, fstypes, self.excludes, Some(path))?;
        Ok(Run { filter, downloaded: self.downloaded.clone(), ..run })
    }

    /// Returns the same run under other exclude rules.
    pub fn with_excludes<'b>(&'b self, excludes: &'b Excludes) -> Result<Run<'b>, UpdateError> {
        let run = Run::new(self.request, self.session, excludes, self.monitor)?;
        Ok(Run { downloaded: self.downloaded.clone(), ..run })
    }

    /// Compiles the rules that no exclude file decides about.
    pub fn built_in_filter(&self) -> Result<Filter, UpdateError> {
        let no_rules = Excludes { name: String::new(), rules: Vec::new(), path: None };
        build_request_filter(self.request, self.session, &no_rules)
    }

    /// Checks if `state` was recorded for this tree and under this filter.
    pub fn matches_state(&self, state: &State) -> Result<bool, UpdateError> {
        let identity = self.session.root.identity().map_err(Untouched::from)?;
        Ok(state.tree_identity == identity && state.filter == self.filter.digest())
    }

    /// Checks if `kernel` was recorded under a kernel that no longer runs.
    pub fn has_rebooted_since(&self, kernel: Option<&KernelPaths>) -> bool {
        let running = self.session.kernel.as_ref().map(|kernel| kernel.release());
        kernel.is_some_and(|kernel| running != Some(kernel.release.as_str()))
    }

    /// Returns `manifest` without excluded paths and without unsupported ones.
    pub fn supported_manifest(&self, manifest: &Manifest) -> Manifest {
        self.supported_part(manifest).manifest
    }

    /// Splits `manifest`, without excluded paths, into supported and unsupported ones.
    ///
    /// The supported ones have the times and the hard links that the tree will show.
    pub fn supported_part(&self, manifest: &Manifest) -> SupportedPart {
        let part = supported_part(manifest, &self.filter, &self.session.mounts);
        part.held(&self.times, &self.links)
    }

    /// Opens the download spool; `None` in a dry run, which downloads to a temporary directory.
    pub fn open_spool(&self) -> Result<Option<Spool>, UpdateError> {
        self.requester().open_spool()
    }

    /// Returns the part of the run that asks repositories.
    pub fn requester(&self) -> Requester<'a> {
        let request = self.request;
        Requester {
            root: &self.session.root,
            fetch: &request.fetch,
            trust: &request.trust,
            allow_downgrade: request.allow_downgrade,
            dry_run: request.dry_run,
            spool_limit: request.spool_limit,
            monitor: self.monitor,
        }
    }

    /// Creates the receive directory beside the tree, or a temporary one in a dry run.
    pub fn create_receive_dir(&self) -> Result<ReceiveDir, UpdateError> {
        let directory = if self.request.dry_run {
            ReceiveDir::create_temporary(&std::env::temp_dir())
        } else {
            ReceiveDir::create(&self.session.root)
        };
        Ok(directory.map_err(Untouched::from_root)?)
    }

    /// Removes the receive directory and restores the mtime of the root, which that changed.
    pub fn discard_received(&self) -> Result<(), RootError> {
        let root = &self.session.root;
        if self.request.dry_run || root.stat(&ReceiveDir::path())?.is_none() {
            return Ok(());
        }
        ReceiveDir::discard(root)?;
        mount_root_times::restore(root)
    }

    /// Returns the time at which an rsync process started now is killed.
    pub fn rsync_deadline(&self) -> Instant {
        Instant::now() + self.request.sync_timeout
    }
}

/// Splits `manifest`, without the paths that `filter` excludes, into supported and unsupported ones.
pub(super) fn supported_part(
    manifest: &Manifest,
    filter: &Filter,
    mounts: &[Mount],
) -> SupportedPart {
    let manifest = filter.included_part(manifest);

    let unsupported = limited::unsupported_entries(&manifest, mounts);
    if unsupported.is_empty() {
        return SupportedPart { manifest, unsupported };
    }
    let manifest = manifest.filtered(|entry| !unsupported.contains_key(&entry.path));
    SupportedPart { manifest, unsupported }
}

/// Compiles the filter of `request` for the part of the tree that it updates.
pub(super) fn build_request_filter(
    request: &UpdateRequest,
    session: &Session,
    excludes: &Excludes,
) -> Result<Filter, UpdateError> {
    let directory = match &request.mode {
        SyncMode::Rsync(scope) => scope.directory.clone(),
        SyncMode::Diffs(_) | SyncMode::Repair(_) => TreePath::root(),
    };
    Ok(start_filter(session, request.fstypes.as_deref(), excludes)?.within(directory).build())
}

/// Compiles the filter for the whole tree; it includes the exclude file `tracked` in any case.
///
/// Foreign mounts are excluded, and if `fstypes` is given, also mounts of all other types.
pub(super) fn build_filter(
    session: &Session,
    fstypes: Option<&[String]>,
    excludes: &Excludes,
    tracked: Option<TreePath>,
) -> Result<Filter, UpdateError> {
    Ok(start_filter(session, fstypes, excludes)?.including(tracked).build())
}

fn start_filter(
    session: &Session,
    fstypes: Option<&[String]>,
    excludes: &Excludes,
) -> Result<FilterBuilder, UpdateError> {
    let unwanted_mounts = session
        .mounts
        .iter()
        .filter(|mount| fstypes.is_some_and(|types| !types.contains(&mount.kind)))
        .map(|mount| mount.at.clone());

    let builder = Filter::builder().foreign_mounts(session.foreign().chain(unwanted_mounts));
    Ok(builder.exclude_file(&excludes.name, &excludes.rules).map_err(UsageError::Excludes)?)
}
