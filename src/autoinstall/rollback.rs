//! What was made, so that it can be unmade.

use crate::apply::Untouched;
use crate::report::Monitor;
use crate::root::{FileKind, Rename, Root, RootError};
use crate::tree_path::TreePath;

/// What the copy of what stood at a place before is called: its name, with this behind it.
const ASIDE: &[u8] = b".si-before";

/// The places that were written to, each with the copy of what stood there, if anything did.
#[must_use]
pub(super) struct StepLog<'a> {
    root: &'a Root,
    written: Vec<(TreePath, Option<TreePath>)>,
}

impl<'a> StepLog<'a> {
    pub(super) fn of(root: &'a Root) -> Self {
        StepLog { root, written: Vec::new() }
    }

    pub(super) fn root(&self) -> &'a Root {
        self.root
    }

    /// Writes a small file, durably.
    pub(super) fn write(
        &mut self,
        path: &TreePath,
        bytes: &[u8],
        mode: u16,
    ) -> Result<(), Untouched> {
        self.keep(path)?;
        self.root.write_durably(path, bytes, mode).map_err(Untouched::from_root)
    }

    /// Keeps what stands at a place that a program is going to write to.
    pub(super) fn keep(&mut self, path: &TreePath) -> Result<(), Untouched> {
        let place = self.root.show(path);
        let Some(stat) = self.root.stat(path)? else {
            self.written.push((path.clone(), None));
            return Ok(());
        };
        if stat.kind != FileKind::File {
            return Err(Untouched::refused(format!("{place} is in the way: it is no plain file")));
        }
        let aside = TreePath::new([path.as_bytes(), ASIDE].concat());
        let aside = aside
            .map_err(|error| Untouched::refused(format!("{place} cannot be kept: {error}")))?;
        self.root.unlink(&aside)?;
        if let Err(error) = self.root.copy(path, self.root, &aside) {
            // The half of a copy is of no use; what is told is why it is one.
            let _ = self.root.unlink(&aside);
            return Err(Untouched::from_root(error));
        }
        self.written.push((path.clone(), Some(aside)));
        Ok(())
    }

    /// Moves a file of the tree to `path`. What stood there is not brought back: it is a copy of something.
    pub(super) fn take(&mut self, from: &TreePath, path: &TreePath) -> Result<(), RootError> {
        self.written.push((path.clone(), None));
        self.root.rename(from, self.root, path, Rename::Replace)
    }

    /// What was made stays.
    pub(super) fn finish(self, monitor: &dyn Monitor) {
        for aside in self.written.iter().filter_map(|(_, aside)| aside.as_ref()) {
            if let Err(error) = self.root.unlink(aside) {
                monitor.warn(format!("a copy of what was there before is left: {error}"));
            }
        }
    }

    /// Makes everything what it was, as far as it can be.
    pub(super) fn undo(self, monitor: &dyn Monitor) {
        for (path, aside) in self.written.iter().rev() {
            let undone = match aside {
                None => self.root.unlink(path),
                Some(aside) => self.root.rename(aside, self.root, path, Rename::Replace),
            };
            if let Err(error) = undone {
                monitor.warn(format!("it is not what it was: {error}"));
            }
        }
    }
}
