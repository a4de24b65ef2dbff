//! A walk over a tree in tree order.

use rustix::fs::{AtFlags, Dir};

use crate::tree_path::TreePath;

use super::{Result, Root, Stat, absent};

/// One stop of a walk.
pub struct Visit {
    /// Where.
    pub path: TreePath,
    /// What stands there.
    pub stat: Stat,
}

/// Whether a walk goes into a directory; without meaning for anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descend {
    /// On into it.
    Into,
    /// Past it.
    Past,
}

impl Root {
    /// Visits everything below `from` (which itself is not visited) in tree order. What vanishes
    /// while the walk goes on is left out. One directory is open at a time, whatever the depth.
    pub fn walk<E: From<super::RootError>>(
        &self,
        from: &TreePath,
        mut visit: impl FnMut(Visit) -> std::result::Result<Descend, E>,
    ) -> std::result::Result<(), E> {
        let mut stack = vec![self.children(from)?.into_iter()];
        while let Some(level) = stack.last_mut() {
            let Some((path, stat)) = level.next() else {
                stack.pop();
                continue;
            };
            let directory = stat.kind == super::FileKind::Directory;
            let inside = directory.then(|| path.clone());
            let descend = visit(Visit { path, stat })?;
            if let (Some(path), Descend::Into) = (inside, descend) {
                stack.push(self.children(&path)?.into_iter());
            }
        }
        Ok(())
    }

    /// The entries of one directory, sorted; empty where it is gone.
    pub fn children(&self, path: &TreePath) -> Result<Vec<(TreePath, Stat)>> {
        let dir = match self.open_dir(path) {
            Err(e) if absent(&e.source) && !path.is_root() => return Ok(Vec::new()),
            answer => answer?,
        };
        let fail = |e: rustix::io::Errno| self.error("list", path, e);
        let mut found = Vec::new();
        for item in Dir::read_from(&dir).map_err(fail)? {
            let item = item.map_err(fail)?;
            let name = item.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let child = path.join(name).map_err(|e| self.error("list", path, std::io::Error::other(e)))?;
            match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => found.push((child, Stat::from(stat))),
                Err(e) if absent(&e.into()) => {}
                Err(e) => return Err(self.error("inspect", &child, e)),
            }
        }
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }
}
