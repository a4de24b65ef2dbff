//! Part of a tree that a repair may change, and the record of everything else.

use std::collections::HashSet;

use crate::apply::Untouched;
use crate::apply::plan::ChangePlan;
use crate::entry::EntryKind;
use crate::filter::Filter;
use crate::manifest::{Manifest, parse_path, path_text};
use crate::root::{FileKind, Root};
use crate::state::State;
use crate::tree_path::TreePath;
use crate::update::error::{Refusal, Untracked, UpdateError, UsageError};

/// Paths of a repair with everything below them, or the whole tree.
pub(in crate::update) struct Selection {
    /// Empty for the whole tree.
    tops: Vec<TreePath>,
    /// Other names of selected files: a hard-link group is one file.
    links: HashSet<TreePath>,
    /// The record, which stays true outside the selection.
    record: State,
}

impl Selection {
    /// Selects the tracked paths at and below `tops`; the whole tree if there are none.
    pub fn new(
        root: &Root,
        tracked: &Manifest,
        tops: &[TreePath],
        record: State,
    ) -> Result<Self, UpdateError> {
        let mut selection = Selection { tops: tops.to_vec(), links: HashSet::new(), record };
        if tops.is_empty() {
            return Ok(selection);
        }
        for top in tops {
            check_parents(root, tracked, top)?;
        }

        let entries = tracked.entries();
        let groups: HashSet<&TreePath> = entries
            .iter()
            .filter(|entry| selection.contains(&entry.path))
            .filter_map(|entry| entry.group())
            .collect();
        let is_other_name = |path: &TreePath| {
            let group = tracked.get(path).and_then(|entry| entry.group());
            group.is_some_and(|group| groups.contains(group)) && !selection.contains(path)
        };
        let links: HashSet<TreePath> = entries
            .iter()
            .map(|entry| &entry.path)
            .filter(|path| is_other_name(path) && check_parents(root, tracked, path).is_ok())
            .cloned()
            .collect();
        selection.links = links;
        Ok(selection)
    }

    /// Whether only some paths are selected.
    pub fn is_partial(&self) -> bool {
        !self.tops.is_empty()
    }

    /// Whether the repair may change `path`.
    pub fn contains(&self, path: &TreePath) -> bool {
        let is_at_or_below = |top: &TreePath| path == top || path.is_below(top);
        !self.is_partial() || self.tops.iter().any(is_at_or_below) || self.links.contains(path)
    }

    /// Whether `text`, a path of a state, is one that the repair may change.
    pub fn contains_text(&self, text: &str) -> bool {
        parse_path(text.as_bytes()).map_or(!self.is_partial(), |path| self.contains(&path))
    }

    /// The state after `plan`: the generation stays, and outside the selection everything does.
    ///
    /// `repaired` is the state of a tree of which every path was compared.
    pub fn state_after(&self, repaired: State, plan: &ChangePlan) -> State {
        let mut state = self.record.clone();
        state.written = repaired.written;
        if !self.is_partial() {
            let State { filter, tree_identity, deviations, left_out, kernel, untracked, .. } =
                repaired;
            state.filter = filter;
            state.tree_identity = tree_identity;
            state.deviations = deviations;
            state.left_out = left_out;
            state.kernel = kernel;
            state.untracked = untracked;
            return state;
        }

        state.deviations.retain(|path, _| !self.contains_text(path));
        state.left_out.retain(|path| !self.contains_text(path));
        for (path, reason) in &plan.deviations {
            state.record_deviation(path, reason.clone());
        }
        state.left_out.extend(plan.left_out.iter().map(path_text));
        state
    }
}

/// Refuses a path whose directory does not exist: nothing could be installed in it.
fn check_parents(root: &Root, tracked: &Manifest, path: &TreePath) -> Result<(), UpdateError> {
    let above = std::iter::successors(path.parent(), TreePath::parent);
    for parent in above.filter(|parent| tracked.get(parent).is_some_and(|entry| entry.is_dir())) {
        let stat = root.stat(&parent).map_err(Untouched::from)?;
        if stat.is_none_or(|stat| stat.kind != FileKind::Directory) {
            return Err(Refusal::NoParent { path: path.clone(), parent }.into());
        }
    }
    Ok(())
}

/// Refuses a path at and below which nothing is tracked: it may be mistyped.
pub(in crate::update) fn refuse_untracked(
    root: &Root,
    filter: &Filter,
    tops: &[TreePath],
    is_tracked: impl Fn(&TreePath) -> bool,
) -> Result<(), UpdateError> {
    let Some(path) = tops.iter().find(|top| !is_tracked(top)) else { return Ok(()) };
    let stat = root.stat(path).map_err(Untouched::from)?;
    let kind = stat.map_or(EntryKind::Other, |stat| stat.kind.entry_kind());
    let reason = match filter.excludes(path, kind) {
        Some(reason) => Untracked::Excluded(reason.to_string()),
        None if stat.is_some() => Untracked::Local,
        None => Untracked::Absent,
    };
    Err(UsageError::NotTracked { path: path.clone(), reason }.into())
}
