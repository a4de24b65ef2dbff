//! Writes the archives of a publish, and reads each of them back.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};

use crate::catalog::{Archive, ArchiveKind, Catalog, FileRef, Publish, RepoPath};
use crate::delta::{MAX_DEPTH, MatchedPairs, Matching};
use crate::diff_archive::content_index::{ContentIndex, IndexRecord};
use crate::diff_archive::{
    ArchiveError, ArchiveLimits, DeltaGroup, Deltas, FrameCompression, Sources, WriteError,
    WrittenArchiveInfo, pair_by_content, verify_diff, verify_full, write_diff, write_full,
};
use crate::digest::{Digest, Hasher};
use crate::fetch::content::{ContentStore, Missing};
use crate::manifest::Manifest;
use crate::publish::content_sources::{NoContents, SpooledContents};
use crate::publish::frames::{Earlier, to_be_spooled};
use crate::publish::snapshot::Snapshot;
use crate::publish::store::failed;
use crate::publish::{
    DeltaDepth, Locked, PublishError, PublishInput, PublishPolicy, Store, ValidArchives,
    archive_name, policy, unreached,
};
use crate::report::Monitor;

/// What the archives of one publish are made with.
pub(super) struct Archives<'a> {
    pub locked: &'a Locked,
    pub image: PublishInput<'a>,
    pub policy: &'a PublishPolicy,
    /// The manifest of the last head, if it could be read.
    pub head: Option<&'a Manifest>,
    pub monitor: &'a dyn Monitor,
}

/// An archive that was written and read back.
pub(super) struct Made {
    pub archive: Archive,
    pub records: Vec<IndexRecord>,
    pub groups: Vec<DeltaGroup>,
}

impl Archives<'_> {
    /// Makes what the policy asks for, and the index of what the repository then holds.
    pub fn make(
        &self,
        catalog: Option<&Catalog>,
        known: &ValidArchives,
    ) -> Result<(Vec<Made>, ContentIndex), PublishError> {
        let target = self.image.manifest;
        let mut made = match catalog {
            Some(catalog) => self.diffs(catalog, known)?,
            None => Vec::new(),
        };
        let mut index = joined(known, &made);
        let has_full = known
            .archives
            .iter()
            .any(|archive| archive.kind == ArchiveKind::Full { target: target.id() });
        let due = catalog.is_none_or(|catalog| self.full_is_due(catalog, known, &made));
        if !has_full && (due || unreached(target, &reach(known, &made, &index)).is_some()) {
            self.refuse_taken_name(ArchiveKind::Full { target: target.id() }, &known.archives)?;
            made.push(self.full()?);
            index = joined(known, &made);
        }
        match unreached(target, &reach(known, &made, &index)) {
            Some(entry) => Err(PublishError::Unreachable { path: entry.path.to_string() }),
            None => Ok((made, index)),
        }
    }

    fn full_is_due(&self, catalog: &Catalog, known: &ValidArchives, made: &[Made]) -> bool {
        let (base, target) = (catalog.head().generation, self.image.manifest.id());
        let all = known.archives.iter().chain(made.iter().map(|made| &made.archive));
        let catalog = Catalog { archives: all.cloned().collect(), ..catalog.clone() };
        let step = catalog
            .archives
            .iter()
            .find(|archive| archive.kind == ArchiveKind::Diff { base, target });
        policy::full_is_due(&catalog, target, step.map(|archive| &archive.file), self.policy)
    }

    /// The diffs from the last generations; one that is there already is not written again.
    fn diffs(&self, catalog: &Catalog, known: &ValidArchives) -> Result<Vec<Made>, PublishError> {
        let ValidArchives { archives, groups, index, .. } = known;
        let reach = DeltaDepth::of(index, groups.iter());
        let target = self.image.manifest.id();
        let mut made = Vec::new();
        let snapshot = Snapshot::of(self.locked.store());
        let mut spooled = SpooledContents::new(self.locked.unnamed()?);
        for base in policy::bases(catalog, target, self.policy) {
            let kind = ArchiveKind::Diff { base, target };
            if archives.iter().any(|archive| archive.kind == kind) {
                continue;
            }
            let Some(base) = catalog.publish_of(base).and_then(|publish| self.base(publish)) else {
                continue;
            };
            let pairing = self.policy.deltas.then(|| self.pairing(&base));
            if let Some(pairing) = &pairing {
                let store = ContentStore::new(index, archives, self.locked.store(), &NoContents);
                // What is made by as many deltas as there may be is sent whole again.
                let near =
                    |digest: &Digest| reach.depth(digest).is_some_and(|depth| depth < MAX_DEPTH);
                let wanted = to_be_spooled(pairing.sources(), index, archives, &snapshot);
                let missing =
                    spooled.take(wanted, &store, near).map_err(|e| self.spool_failed(e))?;
                self.tell_missing(&missing);
            }
            self.refuse_taken_name(kind, archives)?;
            let earlier =
                Earlier::new(self.locked.store(), index, archives, (&snapshot, &reach), &spooled);
            let pairs = pairing
                .map(|named| pair_by_content(named, &earlier, self.image.content).into_pairs());
            made.push(self.diff(&base, kind, pairs.as_ref(), &earlier, &reach)?);
        }
        Ok(made)
    }

    /// Where an archive is gone, these may be as many as the image has files.
    fn tell_missing(&self, missing: &[Missing]) {
        const TOLD: usize = 3;
        for Missing { digest, why } in missing.iter().take(TOLD) {
            self.monitor.warn(format!("no delta is made from {}: {why}", digest.short()));
        }
        if missing.len() > TOLD {
            self.monitor
                .warn(format!("no deltas are made from {} more contents", missing.len() - TOLD));
        }
    }

    /// The whole image.
    fn full(&self) -> Result<Made, PublishError> {
        let PublishInput { manifest, content } = self.image;
        let kind = ArchiveKind::Full { target: manifest.id() };
        self.write(
            kind,
            |to| write_full(manifest, content, self.policy.options, to, self.monitor),
            |compression, from| {
                verify_full(from, compression, manifest, self.monitor).map(|()| Vec::new())
            },
        )
    }

    fn pairing<'m>(&'m self, base: &'m Manifest) -> Matching<'m> {
        Matching::by_names(base, self.image.manifest, self.policy.effort, &self.policy.opening)
    }

    /// A diff from `base`; without `pairs` one that holds no deltas.
    fn diff(
        &self,
        base: &Manifest,
        kind: ArchiveKind,
        pairs: Option<&MatchedPairs<'_>>,
        sources: &dyn Sources,
        reach: &DeltaDepth,
    ) -> Result<Made, PublishError> {
        let PublishInput { manifest, content } = self.image;
        let patches = self.locked.unnamed()?;
        let depth = |digest: &Digest| reach.depth(digest).unwrap_or(MAX_DEPTH);
        let PublishPolicy { effort, opening, .. } = *self.policy;
        let deltas = pairs.map(|pairs| Deltas {
            sources,
            pairs,
            spool: &patches,
            effort,
            opening,
            depth: &depth,
        });
        let (image, options) = (self.locked.store().layer().name(), self.policy.options);
        self.write(
            kind,
            |to| write_diff((base, manifest), image, content, deltas, options, to, self.monitor),
            |compression, from| {
                // Each patch was tried when it was made, and the digest says that these are the same.
                let listing =
                    verify_diff(from, compression, &ArchiveLimits::default(), None, self.monitor)?;
                listing.target_of(base).map(|_| listing.groups().to_vec())
            },
        )
    }

    /// Writes one archive beside its place, syncs it, and reads it back from there.
    fn write(
        &self,
        kind: ArchiveKind,
        write: impl FnOnce(&mut dyn Write) -> Result<WrittenArchiveInfo, WriteError>,
        verify: impl FnOnce(
            FrameCompression,
            &mut (dyn io::BufRead + Send),
        ) -> Result<Vec<DeltaGroup>, ArchiveError>,
    ) -> Result<Made, PublishError> {
        let compression = self.policy.options.compression();
        let name = archive_name(kind, compression.extension());
        let path = self.locked.store().path(&name);
        let mut file = self.locked.create(&name)?;
        let mut to = BufWriter::with_capacity(1 << 20, &file);
        let WrittenArchiveInfo { size, sha256, first_frame, index } =
            write(&mut to).map_err(|source| PublishError::Write { file: name.clone(), source })?;
        to.flush().map_err(|e| failed("write", &path, e))?;
        drop(to);
        self.locked.sync(&name, &file)?;

        file.seek(SeekFrom::Start(0)).map_err(|e| failed("read", &path, e))?;
        let mut from =
            BufReader::with_capacity(1 << 20, Hashing { from: &file, hasher: Hasher::new() });
        let bad = |source| PublishError::ReadBack { file: name.clone(), source };
        let groups = verify(compression, &mut from).map_err(bad)?;
        // What the verification did not need to read, should there be any, belongs to the digest.
        io::copy(&mut from, &mut io::sink()).map_err(|e| bad(e.into()))?;
        if from.into_inner().hasher.finish() != sha256 {
            return Err(bad(io::Error::other("it is not what was written").into()));
        }
        let archive = Archive { kind, file: FileRef { file: name, size, sha256 }, first_frame };
        Ok(Made { archive, records: index, groups })
    }

    fn base(&self, publish: &Publish) -> Option<Manifest> {
        if let Some(head) = self.head.filter(|head| head.id() == publish.generation) {
            return Some(head.clone());
        }
        let manifest = self.locked.store().manifest(publish);
        manifest
            .map_err(|e| {
                self.monitor.warn(format!(
                    "no diff is made from generation {}: {e}",
                    publish.generation.short()
                ))
            })
            .ok()
    }

    /// Names are made of the first digits of ids.
    fn refuse_taken_name(&self, kind: ArchiveKind, known: &[Archive]) -> Result<(), PublishError> {
        let file = archive_name(kind, self.policy.options.compression().extension());
        match known.iter().any(|archive| archive.file.file == file && archive.kind != kind) {
            true => Err(PublishError::NameTaken { file }),
            false => Ok(()),
        }
    }

    fn spool_failed(&self, source: io::Error) -> PublishError {
        failed("take contents out of the repository in", self.locked.store().dir(), source)
    }
}

/// What the index holds once `made` has come.
fn joined(known: &ValidArchives, made: &[Made]) -> ContentIndex {
    let kept: HashSet<&RepoPath> =
        known.archives.iter().map(|archive| &archive.file.file).collect();
    let old =
        known.index.clone().into_archives().into_iter().filter(|(file, _)| kept.contains(file));
    let new = made.iter().map(|made| (made.archive.file.file.clone(), made.records.clone()));
    ContentIndex::new(old.chain(new))
}

fn reach(known: &ValidArchives, made: &[Made], index: &ContentIndex) -> DeltaDepth {
    DeltaDepth::of(index, known.groups.iter().chain(made.iter().flat_map(|made| &made.groups)))
}

/// The delta groups of all diffs among `archives`, by what they say of themselves.
pub(crate) fn groups_of(
    store: &Store,
    archives: &[Archive],
) -> Result<Vec<DeltaGroup>, PublishError> {
    let mut groups = Vec::new();
    for archive in
        archives.iter().filter(|archive| matches!(archive.kind, ArchiveKind::Diff { .. }))
    {
        groups.extend_from_slice(store.listing(archive)?.groups());
    }
    Ok(groups)
}

/// Takes the digest of all that is read.
struct Hashing<'f> {
    from: &'f File,
    hasher: Hasher,
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}
