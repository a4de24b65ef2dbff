//! Removal of paths that were kept for a kernel, from a tree whose other paths are not read.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::apply::plan::live_tree::LiveTree;
use crate::apply::plan::{self, ChangePlan, CheckLevel, ComparePolicy, PlanInput, UntrackedPolicy};
use crate::apply::session::Session;
use crate::apply::{Untouched, preflight};
use crate::entry::EntryKind;
use crate::filter::Filter;
use crate::host::{Drift, KernelRetention};
use crate::manifest::{Manifest, path_text};
use crate::report::Silent;
use crate::root::Root;
use crate::state::{KernelPaths, State};
use crate::tree_path::TreePath;
use crate::update::error::UpdateError;
use crate::update::run::supported_part;

/// A tree with recorded kernel paths.
pub(in crate::update) struct KernelPathRemoval<'a> {
    pub session: &'a Session,
    pub filter: &'a Filter,
    pub state: &'a State,
    pub kernel: &'a KernelPaths,
    /// Recorded manifest with overrides.
    pub composed: &'a Manifest,
}

impl KernelPathRemoval<'_> {
    /// Plans the removal of all paths, except those that `retention` keeps for the running kernel.
    pub fn plan(&self, retention: KernelRetention) -> Result<ChangePlan, UpdateError> {
        let session = self.session;
        let tracked = supported_part(self.composed, self.filter, &session.mounts).manifest;
        let paths = kept_kernel_paths(&session.root, self.filter, Some(self.kernel));
        let live = LiveTree::stat_paths(&session.root, &paths).map_err(Untouched::from)?;
        let input = PlanInput {
            root: &session.root,
            installed: Some(&tracked),
            target: &tracked,
            formerly_tracked: &[],
            provisions: &[],
            old_kernel_paths: &paths,
            surplus_keys: &[],
            kernel: session.kernel.as_ref(),
            kernel_retention: retention,
            known_deviations: &HashSet::new(),
            repaired: &HashSet::new(),
            refused: &BTreeMap::new(),
            filter: self.filter,
            filesystems: &session.filesystems.with_roots(live.filesystem_roots()),
            host: session.host.as_ref(),
            mounts: &session.mounts,
            bind_mounts: &session.twins,
            policy: ComparePolicy {
                check_level: CheckLevel::Touched,
                drift: Drift::Report,
                untracked: UntrackedPolicy::Keep,
            },
            // No file is read.
            monitor: &Silent,
        };
        let mut plan = plan::plan_changes(&input, &live)?;

        // Directories keep the times that they have, which a rollback has restored.
        for entry in &mut plan.directories {
            if let Some(stat) = session.root.stat(&entry.path).map_err(Untouched::from)? {
                entry.meta.mtime = stat.mtime;
            }
        }
        Ok(plan)
    }

    /// Refuses a plan that cannot be applied.
    pub fn check(&self, plan: &ChangePlan) -> Result<(), UpdateError> {
        let root = &self.session.root;
        preflight::check_paths(root, plan, &plan.filesystems, &self.session.mounts)?;
        preflight::check_agent_paths(root, plan, self.state.generation)?;
        Ok(preflight::check_rollback_space(root, plan)?)
    }

    /// Returns the state after the plan; other deviations stay as recorded.
    pub fn new_state(&self, plan: &ChangePlan) -> State {
        let mut state = self.state.clone();
        let running = self.session.kernel.as_ref();
        state.kernel =
            running.and_then(|kernel| KernelPaths::new(kernel.release(), &plan.kernel_paths));

        let removed: BTreeSet<&String> = self.kernel.paths.iter().collect();
        state.deviations.retain(|path, _| !removed.contains(path));
        let remaining = plan.deviations.iter();
        state.deviations.extend(remaining.map(|(path, why)| (path_text(path), why.clone())));
        state
    }
}

/// Recorded kernel paths, without excluded ones.
pub(in crate::update) fn kept_kernel_paths(
    root: &Root,
    filter: &Filter,
    kernel: Option<&KernelPaths>,
) -> Vec<TreePath> {
    let Some(kernel) = kernel else { return Vec::new() };
    let mut cursor = filter.cursor();
    let mut paths = kernel.paths();
    paths.retain(|path| {
        let stat = root.stat(path).ok().flatten();
        let kind = stat.map_or(EntryKind::Other, |stat| stat.kind.entry_kind());
        cursor.excludes(path, kind).is_none()
    });
    paths
}
