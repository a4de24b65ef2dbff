//! Writes the archives of a publish, and reads each of them back.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom};

use crate::catalog::{Archive, ArchiveKind, Catalog, FileRef, Publish, RepoPath};
use crate::delta::{MAX_DEPTH, Matching};
use crate::diff_archive::content_index::{ContentIndex, IndexRecord};
use crate::diff_archive::{
    ArchiveError, ArchiveLimits, DeltaGroup, Deltas, DiffInput, FramedFile, WriteError,
    WrittenArchiveInfo, needs_of, pair_by_content, verify_diff, verify_full, write_diff,
    write_full,
};
use crate::digest::{Digest, Hasher};
use crate::fetch::content::{ContentStore, Missing};
use crate::filter::ExcludedContents;
use crate::manifest::Manifest;
use crate::publish::archived_contents::{ArchivedContents, contents_to_spool};
use crate::publish::content_sources::{NoContents, SpooledContents};
use crate::publish::existing::ValidArchives;
use crate::publish::head_clones::HeadClones;
use crate::publish::image_excludes::read_image_excludes;
use crate::publish::notice::PublishNotice;
use crate::publish::{
    DeltaDepth, LockedStore, NewFile, PublishError, PublishInput, PublishPolicy, archive_name,
    find_unreachable, policy, repo_path,
};
use crate::report::Monitor;

/// The inputs of all archives of one publish.
pub(super) struct ArchiveWriter<'a> {
    pub locked: &'a LockedStore,
    pub image: PublishInput<'a>,
    pub policy: &'a PublishPolicy,
    /// The manifest of the previous head, if it could be read.
    pub head: Option<&'a Manifest>,
    pub monitor: &'a dyn Monitor,
}

/// An archive that was written and read back.
pub(super) struct NewArchive {
    pub archive: Archive,
    pub file: NewFile,
    pub records: Vec<IndexRecord>,
    pub groups: Vec<DeltaGroup>,
}

impl ArchiveWriter<'_> {
    /// Writes the archives that the policy requires, and returns the content index with them.
    pub fn write_all(
        &self,
        catalog: Option<&Catalog>,
        valid: &ValidArchives,
    ) -> Result<(Vec<NewArchive>, ContentIndex), PublishError> {
        let target = self.image.manifest;
        let mut new = match catalog {
            Some(catalog) => self.write_diffs(catalog, valid)?,
            None => Vec::new(),
        };
        let mut index = joined_index(valid, &new);

        // A full archive is also written if the diffs alone cannot produce each file of the head.
        let full = ArchiveKind::Full { target: target.id() };
        let has_full = valid.archives.iter().any(|archive| archive.kind == full);
        let is_due = catalog.is_none_or(|catalog| self.is_full_due(catalog, valid, &new));
        let has_gap = || find_unreachable(target, &depths(valid, &new, &index)).is_some();
        if !has_full && (is_due || has_gap()) {
            new.push(self.write_full()?);
            index = joined_index(valid, &new);
        }

        match find_unreachable(target, &depths(valid, &new, &index)) {
            Some(entry) => Err(PublishError::Unreachable { path: entry.path.to_string() }),
            None => Ok((new, index)),
        }
    }

    fn is_full_due(&self, catalog: &Catalog, valid: &ValidArchives, new: &[NewArchive]) -> bool {
        let (base, target) = (catalog.head().generation, self.image.manifest.id());
        let archives = valid.archives.iter().chain(new.iter().map(|new| &new.archive));
        let catalog = Catalog { archives: archives.cloned().collect(), ..catalog.clone() };

        let mut archives = catalog.archives.iter();
        let step = archives.find(|archive| archive.kind == ArchiveKind::Diff { base, target });
        policy::full_is_due(&catalog, target, step.map(|archive| &archive.file), self.policy)
    }

    /// Writes the diffs from the latest generations, except those that exist already.
    fn write_diffs(
        &self,
        catalog: &Catalog,
        valid: &ValidArchives,
    ) -> Result<Vec<NewArchive>, PublishError> {
        let ValidArchives { archives, groups, index, .. } = valid;
        let store = self.locked.store();
        let target = self.image.manifest.id();
        let depths = DeltaDepth::new(index, groups.iter());
        let clones = HeadClones::open(store);
        let mut spooled = SpooledContents::new(self.locked.unnamed_file()?);
        let filter = read_image_excludes(self.image.manifest, self.image.content, self.monitor);
        let mut new = Vec::new();

        for base in policy::bases(catalog, target, self.policy) {
            let kind = ArchiveKind::Diff { base, target };
            if archives.iter().any(|archive| archive.kind == kind) {
                continue;
            }
            let publish = catalog.publish_of(base);
            let Some(base) = publish.and_then(|publish| self.base_manifest(publish)) else {
                continue;
            };

            // Sources that are neither cloned nor in a small frame are extracted before matching.
            let excluded = ExcludedContents::find(&base, self.image.manifest, &filter);
            let matching = self.policy.deltas.then(|| self.match_by_names(&base, &excluded));
            if let Some(matching) = &matching {
                let contents = ContentStore::new(index, archives, store, &NoContents);
                // A content at the maximum depth is no source: its dependants are sent whole.
                let wanted = contents_to_spool(matching.sources(), index, archives, &clones);
                let missing = spooled
                    .extract(wanted, &contents, |digest: &Digest| {
                        depths.get(digest).is_some_and(|depth| depth < MAX_DEPTH)
                    })
                    .map_err(|e| PublishError::file("extract contents of", store.dir(), e))?;
                self.report_missing(missing);
            }

            let sources =
                ArchivedContents::new(store, index, archives, (&clones, &depths), &spooled);
            let pairs = matching
                .map(|matching| pair_by_content(matching, &sources, self.image.content))
                .map(Matching::into_pairs);
            let patches = self.locked.unnamed_file()?;
            let depth = |digest: &Digest| depths.get(digest).unwrap_or(MAX_DEPTH);
            let deltas = pairs.as_ref().map(|pairs| Deltas {
                sources: &sources,
                pairs,
                spool: &patches,
                effort: self.policy.effort,
                rebuild_limit: self.policy.rebuild_limit,
                excluded: &excluded,
                depth: &depth,
            });
            new.push(self.write_diff(&base, kind, deltas)?);
        }
        Ok(new)
    }

    /// Reports the first few contents by name: a lost archive may hold all files of the image.
    fn report_missing(&self, missing: Vec<Missing>) {
        const NAMED: usize = 3;
        let more = missing.len().saturating_sub(NAMED);

        for Missing { digest, reason } in missing.into_iter().take(NAMED) {
            self.monitor.warn(PublishNotice::NoDeltaFrom { digest, reason: reason.to_string() });
        }
        if more > 0 {
            self.monitor.warn(PublishNotice::NoDeltaFromMore { count: more });
        }
    }

    fn write_full(&self) -> Result<NewArchive, PublishError> {
        let PublishInput { manifest, content, .. } = self.image;
        self.write(
            ArchiveKind::Full { target: manifest.id() },
            |to| write_full(manifest, content, self.policy.options, to, self.monitor),
            |file| verify_full(file, manifest, self.monitor).map(|()| Vec::new()),
        )
    }

    fn match_by_names<'m>(
        &'m self,
        base: &'m Manifest,
        excluded: &ExcludedContents,
    ) -> Matching<'m> {
        Matching::by_names(
            base,
            self.image.manifest,
            self.policy.effort,
            &self.policy.rebuild_limit,
            excluded,
        )
    }

    /// Writes a diff from `base`.
    fn write_diff(
        &self,
        base: &Manifest,
        kind: ArchiveKind,
        deltas: Option<Deltas<'_>>,
    ) -> Result<NewArchive, PublishError> {
        let PublishInput { manifest, content, .. } = self.image;
        let options = self.policy.options;
        let image = self.locked.store().layer().name();

        self.write(
            kind,
            |to| {
                let input = DiffInput { image, base, target: manifest, content, deltas };
                write_diff(&input, options, to, self.monitor)
            },
            |file| {
                // Patches are not applied again: each was tried when it was made, and the digests
                // of the frames show that these bytes are the same.
                let limits = ArchiveLimits::default();
                let listing = verify_diff(file, &limits, None, self.monitor)?;
                listing.target_of(base).map(|_| listing.groups().to_vec())
            },
        )
    }

    /// Writes an archive to `.new/`, syncs it, and verifies it by reading it back.
    fn write(
        &self,
        kind: ArchiveKind,
        write: impl FnOnce(&mut BufWriter<&File>) -> Result<WrittenArchiveInfo, WriteError>,
        verify: impl FnOnce(FramedFile<&mut HashingReader<'_>>) -> Result<Vec<DeltaGroup>, ArchiveError>,
    ) -> Result<NewArchive, PublishError> {
        let compression = self.policy.options.compression();
        let name = archive_name(kind);
        let temporary = name.replace('/', "-");
        let path = self.locked.store().dir().join(&name);

        let mut file = self.locked.create(&temporary)?;
        let mut to = BufWriter::with_capacity(1 << 20, &file);
        let WrittenArchiveInfo { size, first_frame, index } =
            write(&mut to).map_err(|source| PublishError::Write { file: name.clone(), source })?;
        to.into_inner().map_err(|e| PublishError::file("write", &path, e.into_error()))?;
        self.locked.sync(&temporary, &file)?;

        file.seek(SeekFrom::Start(0)).map_err(|e| PublishError::file("read", &path, e))?;
        let mut from = HashingReader { from: &file, hasher: Hasher::new() };
        let head = Some(first_frame);
        let groups = verify(FramedFile { bytes: &mut from, size, compression, head })
            .map_err(|source| PublishError::ReadBack { file: name.clone(), source })?;

        // The head was compared with the one written, and each frame with the table in it. So this
        // is the digest of the bytes that were written.
        let sha256 = from.hasher.finish();
        let digits = FileRef::digits(&sha256);
        let name = repo_path(&format!("{name}-{digits}.{}", compression.extension()));
        let file = FileRef { file: name.clone(), size, sha256 };
        let needs = needs_of(&groups);
        let archive = Archive { kind, file, first_frame, needs, torrent: None };
        let file = NewFile::new(&temporary, name);
        Ok(NewArchive { archive, file, records: index, groups })
    }

    /// The manifest of an earlier generation; `None`, with a warning, if it cannot be read.
    fn base_manifest(&self, publish: &Publish) -> Option<Manifest> {
        let generation = publish.generation;
        if let Some(head) = self.head.filter(|head| head.id() == generation) {
            return Some(head.clone());
        }

        match self.locked.store().manifest(publish) {
            Ok(manifest) => Some(manifest),
            Err(error) => {
                self.monitor.warn(PublishNotice::NoDiffFrom { generation, error });
                None
            }
        }
    }
}

/// The content index with the new archives, and without archives that are no longer valid.
fn joined_index(valid: &ValidArchives, new: &[NewArchive]) -> ContentIndex {
    let listed: HashSet<&RepoPath> =
        valid.archives.iter().map(|archive| &archive.file.file).collect();
    let old = valid.index.clone().into_archives().into_iter();
    let old = old.filter(|(file, _)| listed.contains(file));

    let new = new.iter().map(|new| (new.archive.file.file.clone(), new.records.clone()));
    ContentIndex::new(old.chain(new))
}

fn depths(valid: &ValidArchives, new: &[NewArchive], index: &ContentIndex) -> DeltaDepth {
    let new_groups = new.iter().flat_map(|new| &new.groups);
    DeltaDepth::new(index, valid.groups.iter().chain(new_groups))
}

/// A reader that computes the digest of all bytes read.
struct HashingReader<'f> {
    from: &'f File,
    hasher: Hasher,
}

impl Read for HashingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}
