//! Walks over a tree: on one thread in tree order, or on many threads.

use std::os::fd::BorrowedFd;

use rayon::prelude::*;
use rustix::fs::{AtFlags, Dir, FileType};

use crate::entry::{EntryKind, Xattrs, xattr_travels};
use crate::tree_path::TreePath;

use super::error::is_absent;
use super::io_pool::on_many_threads;
use super::xattrs::{NamedXattrs, ReadXattrs};
use super::{FileKind, Result, Root, RootError, Stat};

/// A path that a walk visits.
pub struct Visit {
    pub path: TreePath,
    pub stat: Stat,
}

/// Whether a walk visits the content of a directory; meaningless for other paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descend {
    Into,
    Past,
}

/// The directory whose content a survey visits.
///
/// Reading through it resolves no path again.
pub struct OpenDirectory<'d> {
    root: &'d Root,
    dir: BorrowedFd<'d>,
}

impl OpenDirectory<'_> {
    /// Same as [`Root::xattrs`], for a path in this directory.
    pub fn xattrs(&self, path: &TreePath) -> Result<Xattrs> {
        NamedXattrs::new(self.dir, path.name())
            .read_all(xattr_travels)
            .map_err(|e| self.root.error("read the extended attributes of", path, e))
    }

    /// Same as [`Root::read_link`], for a path in this directory.
    pub fn read_link(&self, path: &TreePath) -> Result<Box<[u8]>> {
        rustix::fs::readlinkat(self.dir, path.name(), Vec::new())
            .map(|target| target.into_bytes().into())
            .map_err(|e| self.root.error("read the symlink", path, e))
    }
}

/// A name in a directory, before anything else is read of it.
pub struct ListedName<'a> {
    pub path: &'a TreePath,
    /// Whether it is a directory; `None` if the filesystem does not store it with the name.
    pub kind: Option<EntryKind>,
}

/// Rules of a survey: the paths that it visits, and the results.
///
/// Directories are visited on many threads, in any order, and the content of one directory in tree
/// order.
pub trait SurveyRules: Sync {
    /// State while one directory is visited.
    type State;
    /// Result for one path.
    type Item: Send;
    type Error: From<RootError> + Send;

    /// The state for a directory.
    fn enter(&self, directory: &TreePath) -> Self::State;

    /// Whether a name is inspected and visited. Other names cost no memory and no system call.
    fn selects(&self, state: &mut Self::State, name: ListedName<'_>) -> bool;

    /// Visits a path.
    fn visit(
        &self,
        state: &mut Self::State,
        directory: &OpenDirectory<'_>,
        visit: Visit,
    ) -> std::result::Result<(Option<Self::Item>, Descend), Self::Error>;

    /// Handles a path that cannot be inspected, or a directory that cannot be listed.
    fn fail(
        &self,
        path: TreePath,
        error: RootError,
    ) -> std::result::Result<Option<Self::Item>, Self::Error>;
}

/// An open directory, and its content in tree order.
struct DirListing {
    dir: Dir,
    children: Vec<(TreePath, Result<Stat>)>,
}

/// Results for the content of one directory.
///
/// For each path: the result of the visit, and the directory to descend into.
type Visited<T, D> = Vec<(Option<T>, Option<D>)>;

impl Root {
    /// Visits everything below `from` on many threads; returns the results in tree order.
    pub fn survey<R: SurveyRules>(
        &self,
        from: &TreePath,
        rules: &R,
    ) -> std::result::Result<Vec<R::Item>, R::Error> {
        // Level by level, not by recursion: the depth of a tree must not be limited by the stack.
        on_many_threads(|| -> std::result::Result<_, R::Error> {
            let mut level = vec![from.clone()];
            let mut directories: Vec<Visited<R::Item, usize>> = Vec::new();
            while !level.is_empty() {
                let visited: Vec<Visited<R::Item, TreePath>> = level
                    .par_iter()
                    .map(|path| self.visit_content(path, rules))
                    .collect::<std::result::Result<_, R::Error>>()?;
                level = number_subdirs(visited, &mut directories);
            }
            Ok(directories)
        })
        .map(in_tree_order)
    }

    fn visit_content<R: SurveyRules>(
        &self,
        path: &TreePath,
        rules: &R,
    ) -> std::result::Result<Visited<R::Item, TreePath>, R::Error> {
        let mut state = rules.enter(path);
        let listing = match self.list(path, |name| rules.selects(&mut state, name)) {
            Ok(Some(listing)) => listing,
            Ok(None) => return Ok(Vec::new()),
            Err(error) => return Ok(vec![(rules.fail(path.clone(), error)?, None)]),
        };
        let dir = listing.dir.fd().map_err(|e| self.error("list", path, e))?;
        let directory = OpenDirectory { root: self, dir };

        let mut visited = Vec::with_capacity(listing.children.len());
        for (path, stat) in listing.children {
            let stat = match stat {
                Ok(stat) => stat,
                Err(error) => {
                    visited.push((rules.fail(path, error)?, None));
                    continue;
                }
            };
            let subdir = (stat.kind == FileKind::Directory).then(|| path.clone());
            let (result, descend) = rules.visit(&mut state, &directory, Visit { path, stat })?;
            visited.push((result, subdir.filter(|_| descend == Descend::Into)));
        }
        Ok(visited)
    }

    /// Visits everything below `from`, except `from` itself, in tree order.
    ///
    /// Paths that another program removes meanwhile are left out. One directory is open at a time.
    pub fn walk<E: From<RootError>>(
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

            let subdir = (stat.kind == FileKind::Directory).then(|| path.clone());
            let descend = visit(Visit { path, stat })?;
            if let (Some(path), Descend::Into) = (subdir, descend) {
                stack.push(self.children(&path)?.into_iter());
            }
        }
        Ok(())
    }

    /// Lists a directory in tree order; empty if it does not exist.
    pub fn children(&self, path: &TreePath) -> Result<Vec<(TreePath, Stat)>> {
        let Some(listing) = self.list(path, |_| true)? else { return Ok(Vec::new()) };
        listing.children.into_iter().map(|(path, stat)| Ok((path, stat?))).collect()
    }

    /// Opens a directory and inspects the selected names in it; `None` if it does not exist.
    fn list(
        &self,
        path: &TreePath,
        mut selects: impl FnMut(ListedName<'_>) -> bool,
    ) -> Result<Option<DirListing>> {
        let dir = match self.open_dir(path) {
            Err(e) if is_absent(&e.source) && !path.is_root() => return Ok(None),
            answer => answer?,
        };

        let fail = |e: rustix::io::Errno| self.error("list", path, e);
        let mut dir = Dir::new(dir).map_err(fail)?;
        let mut names = Vec::new();
        for item in &mut dir {
            let item = item.map_err(fail)?;
            let name = item.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let child =
                path.join(name).map_err(|e| self.error("list", path, std::io::Error::other(e)))?;
            if selects(ListedName { path: &child, kind: entry_kind(item.file_type()) }) {
                names.push((item.ino(), child));
            }
        }

        // In the order of inodes a disk is read from one end to the other.
        names.sort_unstable_by_key(|(inode, _)| *inode);
        let mut children = Vec::with_capacity(names.len());
        for (_, child) in names {
            let fd = dir.fd().map_err(fail)?;
            match rustix::fs::statat(fd, child.name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => children.push((child, Ok(Stat::from(stat)))),
                Err(e) if is_absent(&e.into()) => {}
                Err(e) => {
                    let error = self.error("inspect", &child, e);
                    children.push((child, Err(error)));
                }
            }
        }
        children.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(Some(DirListing { dir, children }))
    }
}

/// The kind that a directory stores with a name.
fn entry_kind(file_type: FileType) -> Option<EntryKind> {
    match file_type {
        FileType::Unknown => None,
        FileType::Directory => Some(EntryKind::Directory),
        _ => Some(EntryKind::Other),
    }
}

/// Appends a level to `directories`, and returns the next one.
///
/// Each directory of the next level is named by the index that it will have in `directories`.
fn number_subdirs<T>(
    level: Vec<Visited<T, TreePath>>,
    directories: &mut Vec<Visited<T, usize>>,
) -> Vec<TreePath> {
    let first = directories.len() + level.len();
    let mut next = Vec::new();
    for visited in level {
        let mut numbered = Vec::with_capacity(visited.len());
        for (result, subdir) in visited {
            let number = subdir.map(|path| {
                next.push(path);
                first + next.len() - 1
            });
            numbered.push((result, number));
        }
        directories.push(numbered);
    }
    next
}

/// Flattens the results of all directories; the first directory contains all others.
fn in_tree_order<T>(directories: Vec<Visited<T, usize>>) -> Vec<T> {
    let mut results = Vec::with_capacity(directories.iter().map(Vec::len).sum());
    let mut directories: Vec<_> = directories.into_iter().map(Vec::into_iter).collect();
    let mut stack = vec![0];

    while let Some(&index) = stack.last() {
        match directories.get_mut(index).and_then(Iterator::next) {
            Some((result, subdir)) => {
                results.extend(result);
                stack.extend(subdir);
            }
            None => {
                stack.pop();
            }
        }
    }
    results
}
