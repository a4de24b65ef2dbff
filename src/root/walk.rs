//! A walk over a tree in tree order, and a survey of one on many threads.

use std::os::fd::BorrowedFd;

use rayon::prelude::*;
use rustix::fs::{AtFlags, Dir};

use crate::entry::{Xattrs, xattr_travels};
use crate::root::inspect::StatTarget;
use crate::root::io_pool::on_many_threads;
use crate::root::{Result, Root, Stat, absent};
use crate::tree_path::TreePath;

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

/// A directory that is open while a survey looks at what it holds.
pub struct Surveyed<'d> {
    root: &'d Root,
    dir: BorrowedFd<'d>,
}

impl Surveyed<'_> {
    /// As [`Root::xattrs`], of something in this directory.
    pub fn xattrs(&self, path: &TreePath) -> Result<Xattrs> {
        let found = StatTarget::inside(self.dir, path.name()).all(xattr_travels);
        found.map_err(|e| self.root.error("read the extended attributes of", path, e))
    }

    /// As [`Root::read_link`], of something in this directory.
    pub fn read_link(&self, path: &TreePath) -> Result<Box<[u8]>> {
        let text = rustix::fs::readlinkat(self.dir, path.name(), Vec::new());
        text.map(|t| t.into_bytes().into())
            .map_err(|e| self.root.error("read the symlink", path, e))
    }
}

/// A directory and what it holds.
type Opened = (Dir, Vec<(TreePath, Stat)>);

/// What came of one directory: what is kept of each entry, and which of them is a directory to go into.
type Listed<T, D> = Vec<(Option<T>, Option<D>)>;

impl Root {
    /// Visits everything below `from`, as [`Root::walk`] does, on many threads: directories in any order, what
    /// one directory holds in tree order and with what `enter` makes for that directory. Returns what
    /// `visit` keeps, in tree order.
    pub fn survey<S, T: Send, E: From<super::RootError> + Send>(
        &self,
        from: &TreePath,
        enter: impl Fn(&TreePath) -> S + Sync,
        visit: impl Fn(&mut S, &Surveyed<'_>, Visit) -> std::result::Result<(Option<T>, Descend), E>
        + Sync,
    ) -> std::result::Result<Vec<T>, E> {
        let list = |path: &TreePath| {
            let Some((dir, children)) = self.list(path)? else { return Ok(Vec::new()) };
            let dir = dir.fd().map_err(|e| self.error("list", path, e))?;
            let (surveyed, mut state) = (Surveyed { root: self, dir }, enter(path));
            let visit = |(path, stat): (TreePath, Stat)| {
                let inside = (stat.kind == super::FileKind::Directory).then(|| path.clone());
                let (kept, descend) = visit(&mut state, &surveyed, Visit { path, stat })?;
                Ok((kept, inside.filter(|_| descend == Descend::Into)))
            };
            children.into_iter().map(visit).collect::<std::result::Result<Listed<T, TreePath>, E>>()
        };
        // Level by level, so that the depth of a tree is none of the stack.
        let levels = || -> std::result::Result<_, E> {
            let mut level = vec![from.clone()];
            let mut listed: Vec<Listed<T, usize>> = Vec::new();
            while !level.is_empty() {
                let found: Vec<Listed<T, TreePath>> =
                    level.par_iter().map(list).collect::<std::result::Result<_, E>>()?;
                let next = listed.len() + found.len();
                level = Vec::new();
                for children in found {
                    let mut number = |path| {
                        level.push(path);
                        next + level.len() - 1
                    };
                    listed.push(
                        children
                            .into_iter()
                            .map(|(kept, path)| (kept, path.map(&mut number)))
                            .collect(),
                    );
                }
            }
            Ok(listed)
        };
        on_many_threads(levels).map(in_tree_order)
    }

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
        Ok(self.list(path)?.map_or_else(Vec::new, |(_, children)| children))
    }

    /// A directory and its entries, sorted; `None` where it is gone.
    fn list(&self, path: &TreePath) -> Result<Option<Opened>> {
        let dir = match self.open_dir(path) {
            Err(e) if absent(&e.source) && !path.is_root() => return Ok(None),
            answer => answer?,
        };
        let fail = |e: rustix::io::Errno| self.error("list", path, e);
        let mut dir = Dir::new(dir).map_err(fail)?;
        let mut items = Vec::new();
        for item in &mut dir {
            let item = item.map_err(fail)?;
            let name = item.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let child =
                path.join(name).map_err(|e| self.error("list", path, std::io::Error::other(e)))?;
            items.push((item.ino(), child));
        }
        // So a disk is read from one end to the other.
        items.sort_unstable_by_key(|(inode, _)| *inode);
        let mut found = Vec::with_capacity(items.len());
        for (_, child) in items {
            match rustix::fs::statat(
                dir.fd().map_err(fail)?,
                child.name(),
                AtFlags::SYMLINK_NOFOLLOW,
            ) {
                Ok(stat) => found.push((child, Stat::from(stat))),
                Err(e) if absent(&e.into()) => {}
                Err(e) => return Err(self.error("inspect", &child, e)),
            }
        }
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(Some((dir, found)))
    }
}

/// What was kept of directories, each with the numbers of those in it; the first holds all others.
fn in_tree_order<T>(listed: Vec<Listed<T, usize>>) -> Vec<T> {
    let mut kept = Vec::with_capacity(listed.iter().map(Vec::len).sum());
    let mut listed: Vec<_> = listed.into_iter().map(Vec::into_iter).collect();
    let mut stack = vec![0];
    while let Some(&at) = stack.last() {
        match listed.get_mut(at).and_then(Iterator::next) {
            Some((one, inside)) => {
                kept.extend(one);
                stack.extend(inside);
            }
            None => drop(stack.pop()),
        }
    }
    kept
}
