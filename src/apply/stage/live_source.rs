//! The live tree as a source of content, by digest.

use std::io::{self, Read};

use rayon::prelude::*;

use crate::apply::difference::Difference;
use crate::apply::filesystem::held_times::HeldTimes;
use crate::apply::plan::live_tree::LiveTree;
use crate::cancel::CancelReader;
use crate::delta::{self, ReadAt};
use crate::diff_archive::Sources;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::manifest::Manifest;
use crate::report::Monitor;
use crate::root::{BoundedFile, Root, Stat};
use crate::tree_path::TreePath;

/// Files of the live tree by the digest that they are expected to have.
///
/// A file may have been edited since, so that its content has to be verified when it is read.
pub struct LiveSource<'a> {
    root: &'a Root,
    monitor: &'a dyn Monitor,
    /// Sorted by digest, then by path.
    files: Vec<(&'a Digest, &'a TreePath)>,
}

impl<'a> LiveSource<'a> {
    /// Expects the contents that the manifest of the installed generation names.
    ///
    /// A path for which `is_doubtful` holds, such as an excluded one, may have another content or
    /// none. It is expected only if it has the size of its entry, and the mtime that its filesystem
    /// holds for that of the entry.
    pub fn from_manifest(
        root: &'a Root,
        installed: Option<&'a Manifest>,
        times: &HeldTimes,
        monitor: &'a dyn Monitor,
        mut is_doubtful: impl FnMut(&Entry) -> bool,
    ) -> Self {
        let entries = installed.map(Manifest::entries).unwrap_or_default();
        let files = entries.iter().filter(|entry| entry.digest().is_some());
        let (doubtful, mut expected): (Vec<&Entry>, Vec<&Entry>) =
            files.partition(|entry| is_doubtful(entry));

        let paths: Vec<&TreePath> = doubtful.iter().map(|entry| &entry.path).collect();
        // If the tree cannot be read, the staging reports it.
        let stats = root.stat_each(&paths).unwrap_or_default();
        let is_as_recorded = |entry: &Entry, stat: &Stat| {
            !Difference::from_stat(entry, Some(stat)).content
                && stat.mtime == times.held(&entry.path, entry.meta.mtime)
        };
        expected.extend(
            doubtful
                .into_iter()
                .zip(stats)
                .filter(
                    |(entry, stat)| matches!(stat, Some(Ok(stat)) if is_as_recorded(entry, stat)),
                )
                .map(|(entry, _)| entry),
        );
        let files = expected.into_iter().filter_map(|entry| Some((entry.digest()?, &entry.path)));
        LiveSource::new(root, monitor, files)
    }

    /// Expects the contents that this run has read in the tree.
    pub fn from_live_tree(root: &'a Root, live: &'a LiveTree, monitor: &'a dyn Monitor) -> Self {
        LiveSource::new(root, monitor, live.digests.iter().map(|(path, digest)| (digest, path)))
    }

    fn new(
        root: &'a Root,
        monitor: &'a dyn Monitor,
        files: impl Iterator<Item = (&'a Digest, &'a TreePath)>,
    ) -> Self {
        let mut files: Vec<_> = files.collect();
        files.par_sort_unstable();
        LiveSource { root, monitor, files }
    }

    /// Whether any file is expected to have this content.
    pub fn contains(&self, digest: &Digest) -> bool {
        !self.files_with(digest).is_empty()
    }

    /// Whether a file has this content now; reads it.
    pub fn has_verified(&self, digest: &Digest, size: u64) -> bool {
        self.candidates(digest, size).any(|file| {
            let reader = CancelReader { from: file.reader(), monitor: self.monitor };
            Digest::of_reader(reader).is_ok_and(|found| found == (*digest, size))
        })
    }

    /// Opens, one after the other, the files that may have this content, if they have its size.
    pub(super) fn candidates(
        &self,
        digest: &Digest,
        size: u64,
    ) -> impl Iterator<Item = BoundedFile> {
        self.files_with(digest).iter().filter_map(move |(_, path)| {
            let file = self.root.open_file(path).ok()?;
            (file.size() == size).then_some(file)
        })
    }

    fn files_with(&self, digest: &Digest) -> &[(&'a Digest, &'a TreePath)] {
        let first = self.files.partition_point(|(other, _)| *other < digest);
        let count = self.files[first..].iter().take_while(|(other, _)| *other == digest).count();
        &self.files[first..first + count]
    }

    /// Whether the caller's own check is enough, because there is no second file to try.
    fn has_one_candidate(&self, digest: &Digest) -> bool {
        self.files_with(digest).len() == 1
    }
}

impl Sources for LiveSource<'_> {
    fn read(&self, digest: &Digest, size: u64, path: &TreePath) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        Ok(self.append(digest, size, path, &mut bytes)?.then_some(bytes))
    }

    fn append(
        &self,
        digest: &Digest,
        size: u64,
        _: &TreePath,
        to: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let start = to.len();

        for file in self.candidates(digest, size) {
            to.truncate(start);
            if append_exactly(file, size, to)
                && (self.has_one_candidate(digest) || Digest::of(&to[start..]) == *digest)
            {
                return Ok(true);
            }
        }

        Ok(false)
    }

    fn open(
        &self,
        digest: &Digest,
        size: u64,
        _: &TreePath,
    ) -> io::Result<Option<Box<dyn ReadAt + '_>>> {
        for file in self.candidates(digest, size) {
            if self.has_one_candidate(digest) {
                return Ok(Some(Box::new(file)));
            }
            let reader = CancelReader { from: file.reader(), monitor: self.monitor };
            if Digest::of_reader(reader)? == (*digest, size) {
                return Ok(Some(Box::new(file)));
            }
        }

        Ok(None)
    }
}

/// Appends all of `file`; returns false unless it has exactly `size` bytes.
pub(super) fn append_exactly(file: BoundedFile, size: u64, to: &mut Vec<u8>) -> bool {
    let start = to.len();
    // The size is from an archive: it must not decide alone how much memory is reserved.
    to.reserve_exact(usize::try_from(size.min(delta::MAX_CONTENT)).unwrap_or(0));
    file.take(size + 1).read_to_end(to).is_ok_and(|_| (to.len() - start) as u64 == size)
}
