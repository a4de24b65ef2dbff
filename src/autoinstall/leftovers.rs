//! Leftovers: files of an arranged installation that did not take place.
//!
//! The files for one boot of the installer have to stay until that boot. If the installer fails, or
//! the node boots otherwise, nobody needs them any more. So each path is recorded before it is
//! written, together with the boot in which that happened. The first update in another boot removes
//! the paths. An installation overwrites the record with everything else.

#![allow(clippy::disallowed_methods, reason = "/proc is the running kernel's, not the tree's")]

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use super::notice::AutoinstallNotice;
use super::paths::{RECEIVE_DIR, SCRIPT, fixed_path};
use crate::apply::Untouched;
use crate::apply::session::{Session, is_interrupted};
use crate::host::boot_loader::{BootFileChange, pending};
use crate::host::{MAX_FILE, mount_points};
use crate::manifest::{parse_path, path_text};
use crate::report::Monitor;
use crate::root::mounts::Mount;
use crate::root::{Root, RootError};
use crate::state;
use crate::tree_path::TreePath;
use crate::update::UpdateError;

/// Name of the record in the state directory.
const NAME: &str = "autoinstall";
/// First word of the line with the boot.
const BOOT: &str = "boot";
/// First word of a line with a path.
const PATH: &str = "path";

/// Paths that an autoinstall has created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CreatedPaths {
    /// Identifier of the boot in which they were created.
    boot: String,
    paths: BTreeSet<TreePath>,
}

/// Removes the files of an installation that was arranged in an earlier boot.
///
/// A failure is only a warning, because the files do no harm; the next run tries again.
pub fn remove_leftovers(path: &Path, monitor: &dyn Monitor) {
    match try_remove(path, monitor) {
        Ok(removed) if removed.is_empty() => {}
        Ok(removed) => monitor.note(AutoinstallNotice::LeftoversRemoved { paths: &removed }),
        Err(error) => monitor.warn(AutoinstallNotice::LeftoversKept { error }),
    }
}

fn try_remove(path: &Path, monitor: &dyn Monitor) -> Result<Vec<TreePath>, UpdateError> {
    let root = Root::open(path).map_err(Untouched::from)?;
    let Some(created) = CreatedPaths::load(&root).map_err(Untouched::from)? else {
        return Ok(Vec::new());
    };

    // Only the node itself knows that it has booted. An interrupted update is completed first.
    let is_same_boot = read_boot_id().is_none_or(|boot| boot == created.boot);
    if is_same_boot
        || !root.is_running_system().map_err(Untouched::from)?
        || is_interrupted(&root).map_err(Untouched::from)?
    {
        return Ok(Vec::new());
    }

    let (session, _) = Session::open(path, monitor)?;
    Ok(created.remove(&session.root, &session.mounts).map_err(Untouched::from)?)
}

impl CreatedPaths {
    /// Reads the record; `None` if there is none.
    pub(super) fn load(root: &Root) -> Result<Option<Self>, RootError> {
        let path = state::file_path(NAME);
        let file = match root.open_file(&path) {
            Err(error) if error.is_absent() => return Ok(None),
            answer => answer?,
        };

        let mut text = String::new();
        file.take(MAX_FILE as u64).read_to_string(&mut text).map_err(|source| RootError {
            operation: "read",
            path: root.show(&path),
            source,
        })?;
        Ok(Some(CreatedPaths::parse(&text)))
    }

    /// Parses a record; a line that is not valid is ignored.
    fn parse(text: &str) -> Self {
        let mut created = CreatedPaths::default();
        for (word, rest) in text.lines().filter_map(|line| line.split_once(' ')) {
            match word {
                BOOT => created.boot = rest.to_owned(),
                PATH => created.paths.extend(parse_path(rest.as_bytes())),
                _ => {}
            }
        }
        created
    }

    fn to_text(&self) -> String {
        let mut text = format!("{BOOT} {}\n", self.boot);
        for path in &self.paths {
            text += &format!("{PATH} {}\n", path_text(path));
        }
        text
    }

    /// The paths of an earlier arrangement, for one in this boot.
    pub(super) fn in_this_boot(earlier: Option<Self>) -> Self {
        let paths = earlier.map(|earlier| earlier.paths).unwrap_or_default();
        CreatedPaths { boot: read_boot_id().unwrap_or_default(), paths }
    }

    /// Adds a path durably, before it is created.
    pub(super) fn add(&mut self, root: &Root, path: &TreePath) -> Result<(), RootError> {
        self.paths.insert(path.clone());
        self.save(root)
    }

    /// Writes the record durably; removes it if no path is left.
    pub(super) fn save(&self, root: &Root) -> Result<(), RootError> {
        let file = state::file_path(NAME);
        if self.paths.is_empty() {
            return root.unlink(&file);
        }
        state::create_dirs(root, &state::directory_path())?;
        root.write_durably(&file, self.to_text().as_bytes(), 0o600)
    }

    /// Removes all paths, then the record; returns the paths that existed.
    ///
    /// A path on a filesystem that is not mounted stays in the record.
    fn remove(mut self, root: &Root, mounts: &[Mount]) -> Result<Vec<TreePath>, RootError> {
        let unmounted = read_unmounted(root, mounts)?;
        let (kept, removable): (BTreeSet<TreePath>, BTreeSet<TreePath>) = self
            .paths
            .into_iter()
            .partition(|path| unmounted.iter().any(|point| path.is_below(point)));
        self.paths = kept;

        let mut removed = Vec::new();
        for path in removable {
            if root.stat(&path)?.is_none() {
                continue;
            }
            if path == fixed_path(SCRIPT) {
                // The next run of the boot loader's tool removes the entry that it generated.
                let mut changes = pending::load(root)?;
                changes.insert(path.clone(), BootFileChange::Removed);
                pending::save(root, &changes)?;
            }

            if path.name() == RECEIVE_DIR.as_bytes() {
                root.remove_tree(&path)?;
            } else {
                root.unlink(&path)?;
            }
            root.sync_dir(&path.parent().unwrap_or_else(TreePath::root))?;
            removed.push(path);
        }
        self.save(root)?;
        Ok(removed)
    }
}

/// Identifier of the running system's boot.
fn read_boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// Mount points of the tree's fstab at which nothing is mounted.
fn read_unmounted(root: &Root, mounts: &[Mount]) -> Result<Vec<TreePath>, RootError> {
    let path = fixed_path("etc/fstab");
    let file = match root.open_file(&path) {
        Err(error) if error.is_absent() => return Ok(Vec::new()),
        answer => answer?,
    };

    let mut content = Vec::new();
    file.take(MAX_FILE as u64).read_to_end(&mut content).map_err(|source| RootError {
        operation: "read",
        path: root.show(&path),
        source,
    })?;
    let mut points = mount_points(&content);
    points.retain(|point| !mounts.iter().any(|mount| mount.at == *point));
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_round_trips_and_ignores_unknown_lines() {
        let paths = ["boot/kernel.systemimager", "boot/a b"].map(fixed_path);
        let created = CreatedPaths { boot: "1-2".to_owned(), paths: paths.into() };

        let text = created.to_text() + "later words\npath not/a/path\n";

        assert_eq!(CreatedPaths::parse(&text), created);
    }
}
