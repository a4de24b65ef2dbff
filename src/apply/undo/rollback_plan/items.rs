//! What a rollback tells: what comes back and over what, and where that is not what was recorded.

use std::collections::HashSet;

use crate::apply::Untouched;
use crate::apply::filesystem::limited;
use crate::apply::plan::ItemizedLine;
use crate::apply::plan::difference::Difference;
use crate::apply::undo::rollback_plan::RollbackPlanner;
use crate::manifest::Manifest;
use crate::root::{Descend, FileKind, Root, RootError, Stat};
use crate::tree_path::TreePath;

impl RollbackPlanner<'_> {
    /// Whether `path` lies in a directory that comes back as a whole.
    pub(super) fn comes_with_another(&self, path: &TreePath) -> bool {
        std::iter::successors(path.parent(), TreePath::parent)
            .any(|above| self.returning.contains_key(&above))
    }

    /// Notes where what comes back to `path` is not what was recorded.
    pub(super) fn compare(&mut self, path: &TreePath, kept: &Stat) {
        let Some(entry) = self.before.and_then(|before| before.get(path)) else { return };
        let mut difference = Difference::from_stat(entry, Some(kept));
        if self.transaction.filesystems.is_limited(path) {
            difference = limited::mask_unsupported(difference, entry, Some(kept));
        }
        if difference.any() {
            self.transaction.deviations.insert(path.clone(), difference.to_string());
        }
    }

    /// Notes what was recorded at `path` and below it, and will not be there, but for what `comes`.
    pub(super) fn add_missing(
        &mut self,
        path: &TreePath,
        comes: impl Fn(&Self, &TreePath) -> bool,
    ) {
        let entries = self.before.map(Manifest::entries).unwrap_or_default();
        let from = entries.partition_point(|entry| entry.path < *path);
        let here = entries[from..]
            .iter()
            .take_while(|entry| entry.path == *path || entry.path.is_below(path));
        let missing: Vec<TreePath> =
            here.map(|entry| &entry.path).filter(|at| !comes(self, at)).cloned().collect();
        let what = Difference { missing: true, ..Difference::default() }.to_string();
        self.transaction.deviations.extend(missing.into_iter().map(|path| (path, what.clone())));
    }

    /// Itemises what comes back, with all that it holds, over what stands there.
    pub(super) fn tell(
        &mut self,
        path: &TreePath,
        set: &Root,
        place: &TreePath,
        kept: &Stat,
        live: Option<&Stat>,
    ) -> Result<(), Untouched> {
        let letter = letter(kept.kind);
        let difference = match live {
            Some(live) if live.kind == kept.kind => Difference {
                content: (live.size, live.mtime) != (kept.size, kept.mtime),
                mode: live.mode != kept.mode,
                uid: live.uid != kept.uid,
                gid: live.gid != kept.gid,
                time: live.mtime != kept.mtime,
                xattrs: self.root.xattrs(path)? != set.xattrs(place)?,
                ..Difference::default()
            },
            _ => Difference { missing: true, ..Difference::default() },
        };
        self.item(
            &difference.itemize_as(letter),
            path,
            if letter == 'd' { "/" } else { "" },
            kept.size,
        );
        if kept.kind != FileKind::Directory {
            return Ok(());
        }
        let mut comes = HashSet::from([path.clone()]);
        set.walk::<RootError>(place, |visit| {
            let inside = &visit.path.as_bytes()[place.as_bytes().len()..];
            if let Ok(path) = TreePath::new([path.as_bytes(), inside].concat()) {
                let letter = self::letter(visit.stat.kind);
                let new = Difference { missing: true, ..Difference::default() }.itemize_as(letter);
                self.compare(&path, &visit.stat);
                comes.insert(path.clone());
                if visit.stat.kind == FileKind::Directory {
                    self.returning.insert(path.clone(), visit.stat);
                }
                self.item(&new, &path, if letter == 'd' { "/" } else { "" }, visit.stat.size);
            }
            Ok(Descend::Into)
        })?;
        self.add_missing(path, |_, path| comes.contains(path));
        Ok(())
    }
}

/// The letter of a kind in rsync's itemised form.
fn letter(kind: FileKind) -> char {
    match kind {
        FileKind::Directory => 'd',
        FileKind::File => 'f',
        FileKind::Symlink => 'L',
        FileKind::Char(_) | FileKind::Block(_) => 'D',
        FileKind::Fifo | FileKind::Socket => 'S',
    }
}

pub(super) fn removed(path: &TreePath, suffix: &str) -> ItemizedLine {
    ItemizedLine {
        change: "*deleting  ".to_owned(),
        path: path.clone(),
        suffix: suffix.to_owned(),
        bytes: 0,
    }
}
