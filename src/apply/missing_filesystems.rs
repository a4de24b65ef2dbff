//! Filesystems of a committed transaction that are not mounted now.
//!
//! A recovery would write below their mount points, and the files would vanish with the next mount.
//! It needs the filesystems with changes. One that only has the state directory is needed to record
//! the state, which a later run can do.

use crate::apply::error::SessionError;
use crate::apply::filesystem::{Filesystems, is_mounted, stage_dirs};
use crate::apply::journal::Journal;
use crate::root::{Root, RootError};
use crate::state::is_above_own;
use crate::tree_path::TreePath;

/// Mount roots of the filesystems that are not mounted, in tree order.
#[derive(Debug, Default)]
pub struct MissingFilesystems {
    /// Those with changes of the journal.
    pub with_changes: Vec<TreePath>,
    /// Those without a change, but with the state directory.
    pub with_state: Vec<TreePath>,
}

impl MissingFilesystems {
    /// Compares the filesystems of a journal with those in `present`.
    ///
    /// A filesystem that takes part is recognised by its stage, so that another one at its mount
    /// root counts as missing too.
    pub fn find(root: &Root, present: &Filesystems, journal: &Journal) -> Result<Self, RootError> {
        let filesystems = Filesystems::from_mount_roots(journal.mount_roots.clone());
        let mut missing = MissingFilesystems::default();

        for (at, mount_root) in journal.mount_roots.iter().enumerate().skip(1) {
            let has_stage = journal.changes.iter().any(|change| change.filesystem == at);
            // A limited filesystem has no stage.
            let has_changes = has_stage
                || journal
                    .changes
                    .iter()
                    .any(|change| change.path == *mount_root || change.path.is_below(mount_root));
            let is_present = if has_stage {
                stage_dirs::exists(root, &filesystems, at)?
            } else {
                is_mounted(root, present.mount_roots().iter(), mount_root)?
            };

            if is_present {
                continue;
            }
            if has_changes {
                missing.with_changes.push(mount_root.clone());
            } else if is_above_own(mount_root) {
                missing.with_state.push(mount_root.clone());
            }
        }
        Ok(missing)
    }

    /// Compares the filesystems of a journal that is closed, which may have lost their stages.
    pub fn find_after_end(
        root: &Root,
        present: &Filesystems,
        journal: &Journal,
    ) -> Result<Self, RootError> {
        let mut missing = MissingFilesystems::default();
        for at in journal.participants() {
            let Some(mount_root) = journal.mount_roots.get(at) else { continue };
            if at != 0 && !is_mounted(root, present.mount_roots().iter(), mount_root)? {
                missing.with_changes.push(mount_root.clone());
            }
        }
        Ok(missing)
    }

    /// Refuses to go on without a filesystem that has changes.
    pub fn check_changes(&self, root: &Root) -> Result<(), SessionError> {
        refuse_first(root, self.with_changes.first())
    }

    /// Refuses to go on without any of these filesystems.
    pub fn check_all(&self, root: &Root) -> Result<(), SessionError> {
        self.check_changes(root)?;
        refuse_first(root, self.with_state.first())
    }
}

fn refuse_first(root: &Root, mount_root: Option<&TreePath>) -> Result<(), SessionError> {
    match mount_root {
        Some(mount_root) => Err(SessionError::NotMounted { mount_root: root.show(mount_root) }),
        None => Ok(()),
    }
}
