//! Record of the steps of an autoinstall, to undo them if a later one fails.

use super::error::AutoinstallError;
use super::leftovers::CreatedPaths;
use super::notice::AutoinstallNotice;
use crate::apply::Untouched;
use crate::report::Monitor;
use crate::root::{FileKind, Rename, Root};
use crate::tree_path::TreePath;
use crate::update::UpdateError;

/// Suffix of the backup of a file.
const BACKUP_SUFFIX: &[u8] = b".si-before";

/// Written paths with the backups of their former files, in the order of the steps.
#[must_use = "finish it or roll it back"]
pub(super) struct StepLog<'a> {
    root: &'a Root,
    steps: Vec<WrittenPath>,
    /// Record of an earlier arrangement.
    earlier: Option<CreatedPaths>,
    /// Record of this one, with the paths of the earlier one.
    created: CreatedPaths,
}

struct WrittenPath {
    path: TreePath,
    backup: Option<TreePath>,
}

impl<'a> StepLog<'a> {
    pub(super) fn new(root: &'a Root) -> Result<Self, UpdateError> {
        let earlier = CreatedPaths::load(root).map_err(Untouched::from)?;
        let created = CreatedPaths::in_this_boot(earlier.clone());
        Ok(StepLog { root, steps: Vec::new(), earlier, created })
    }

    pub(super) fn root(&self) -> &'a Root {
        self.root
    }

    /// Records a path that this arrangement creates, so that a later run can remove it.
    pub(super) fn record_created(&mut self, path: &TreePath) -> Result<(), UpdateError> {
        Ok(self.created.add(self.root, path).map_err(Untouched::from_root)?)
    }

    /// Writes a small file durably that belongs to the installation alone.
    pub(super) fn write_own(
        &mut self,
        path: &TreePath,
        bytes: &[u8],
        mode: u16,
    ) -> Result<(), UpdateError> {
        self.record_created(path)?;
        self.write(path, bytes, mode)
    }

    /// Writes a small file durably. A former file of the administrator is replaced for good.
    pub(super) fn write(
        &mut self,
        path: &TreePath,
        bytes: &[u8],
        mode: u16,
    ) -> Result<(), UpdateError> {
        if self.root.stat(path).map_err(Untouched::from)?.is_none() {
            self.record_created(path)?;
        }
        self.back_up(path)?;
        self.root.write_durably(path, bytes, mode).map_err(Untouched::from_root)?;
        Ok(())
    }

    /// Copies the file at a path that a program is going to write.
    pub(super) fn back_up(&mut self, path: &TreePath) -> Result<(), UpdateError> {
        let Some(stat) = self.root.stat(path).map_err(Untouched::from)? else {
            self.steps.push(WrittenPath { path: path.clone(), backup: None });
            return Ok(());
        };
        if stat.kind != FileKind::File {
            return Err(AutoinstallError::NotAFile { path: self.root.show(path) }.into());
        }

        let backup =
            TreePath::new([path.as_bytes(), BACKUP_SUFFIX].concat()).map_err(|source| {
                AutoinstallError::BackupName { path: self.root.show(path), source }
            })?;
        self.root.unlink(&backup).map_err(Untouched::from)?;
        if let Err(error) = self.root.copy(path, self.root, &backup, &|| false) {
            // The first error is reported; a partial backup is overwritten by the next run.
            let _ = self.root.unlink(&backup);
            return Err(Untouched::from_root(error).into());
        }

        self.steps.push(WrittenPath { path: path.clone(), backup: Some(backup) });
        Ok(())
    }

    /// Moves a received file to `path`. A former file there is not backed up: the server has it.
    pub(super) fn move_file(
        &mut self,
        from: &TreePath,
        path: &TreePath,
    ) -> Result<(), UpdateError> {
        self.record_created(path)?;
        self.steps.push(WrittenPath { path: path.clone(), backup: None });
        self.root.rename(from, self.root, path, Rename::Replace).map_err(Untouched::from_root)?;
        Ok(())
    }

    /// Keeps the written files and removes the backups.
    pub(super) fn finish(self, monitor: &dyn Monitor) {
        for backup in self.steps.iter().filter_map(|step| step.backup.as_ref()) {
            if let Err(error) = self.root.unlink(backup) {
                monitor.warn(AutoinstallNotice::BackupNotRemoved { error });
            }
        }
    }

    /// Restores the former files, the last one first, and removes new ones.
    pub(super) fn roll_back(self, monitor: &dyn Monitor) {
        for WrittenPath { path, backup } in self.steps.iter().rev() {
            let result = match backup {
                None => self.root.unlink(path),
                Some(backup) => self.root.rename(backup, self.root, path, Rename::Replace),
            };
            if let Err(error) = result {
                monitor.warn(AutoinstallNotice::NotUndone { error });
            }
        }

        let record = self.earlier.unwrap_or_default();
        if let Err(error) = record.save(self.root) {
            monitor.warn(AutoinstallNotice::NotUndone { error });
        }
    }
}
