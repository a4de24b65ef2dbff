//! Patches that copy pieces: of files too large for memory, and of archives of other files.

use std::collections::HashMap;
use std::io::{self, Read};

use crate::delta::gzip::{self, Decomposed, GzipLimits};
use crate::delta::{
    self, Class, CompressedPair, CopiesWriter, Kind, MAX_CONTENT, MAX_DEPTH, ReadAt,
};
use crate::diff_archive::delta_plan::encode::{CLEAR_GAIN, LEAST_GAIN};
use crate::diff_archive::delta_plan::{Patched, Planner};
use crate::diff_archive::group::{DeltaGroup, GroupSource, GroupTarget, Inside};
use crate::diff_archive::similarity::Reading;
use crate::diff_archive::write::{Deltas, WriteError};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::manifest::Manifest;

/// What a large file would come to is found out at no higher level.
const ESTIMATE: i32 = 9;
/// Compressed files whose first bytes, so many, are the same have more in common: members of an archive that did not
/// change, or the microcode before an initrd. Of others a change leaves nothing.
const BEGINNING: u64 = 16 << 10;

/// The files of the target that archives may be made of.
pub(super) struct StreamCandidates<'m>(HashMap<Digest, &'m Entry>);

impl<'m> StreamCandidates<'m> {
    /// Those of which a repository may make one more delta once it has `groups`. Of the `archives` it is not
    /// known yet how they come.
    pub fn new<'g>(
        base: &Manifest,
        target: &'m Manifest,
        groups: impl Iterator<Item = &'g DeltaGroup>,
        archives: &[CompressedPair<'_>],
        deltas: &Deltas<'_>,
    ) -> Self {
        if archives.is_empty() {
            return StreamCandidates(HashMap::new());
        }
        let digest_of = |entry: &Entry| entry.file().map(|(_, digest)| digest);
        // What neither the base has nor a group makes travels whole.
        let mut depths: HashMap<Digest, u32> =
            target.entries().iter().filter_map(digest_of).map(|digest| (digest, 0)).collect();
        for digest in base.entries().iter().filter_map(digest_of) {
            depths.entry(digest).and_modify(|depth| *depth = (deltas.depth)(&digest));
        }
        for group in groups {
            let deepest = group
                .sources
                .iter()
                .map(|source| (deltas.depth)(&source.digest))
                .max()
                .unwrap_or(0);
            depths.extend(
                group.targets.iter().map(|target| (target.digest, deepest.saturating_add(1))),
            );
        }
        for digest in archives.iter().filter_map(|archive| digest_of(archive.entry)) {
            depths.remove(&digest);
        }
        let serves = |digest: &Digest| depths.get(digest).is_some_and(|depth| *depth < MAX_DEPTH);
        let files = target.entries().iter().filter_map(|entry| Some((digest_of(entry)?, entry)));
        StreamCandidates(files.filter(|(digest, _)| serves(digest)).collect())
    }
}

impl Planner<'_> {
    /// A content that is too large for a group: piece by piece, or in blocks where it is larger than memory
    /// and these are what it has in common with the old one. What is compressed is tried only where both begin alike.
    pub(super) fn large(&self, from: &Entry, to: &Entry) -> Result<Option<Patched>, WriteError> {
        let (Some((old_size, old)), Some((size, digest))) = (from.file(), to.file()) else {
            return Ok(None);
        };
        let unread = |source| WriteError::Source { path: from.path.clone(), source };
        let failed = |source| WriteError::Content { path: to.path.clone(), source };
        let Some(base) = self.deltas.sources.open(&old, old_size, &from.path).map_err(unread)?
        else {
            return Ok(None);
        };
        let open = || self.content.open(to).map_err(failed);
        if delta::is_packed(to.path.name()) && !begin_alike(&*base, open()?).map_err(failed)? {
            self.advanced(&[to]);
            return Ok(None);
        }
        let effort = self.deltas.effort;
        let mut group = self.group(Kind::Segments);
        group.sources.push(GroupSource {
            digest: old,
            size: old_size,
            path: from.path.clone(),
            plain: None,
        });
        group.targets.push(GroupTarget { digest, size, inside: None });
        let pieces =
            delta::encode_segments(&*base, old_size, open()?, size, effort).map_err(failed)?;
        let mut best = kept(group.clone(), pieces, 0);
        if size > MAX_CONTENT {
            let signature = delta::blocks::Signature::of(&*base, old_size).map_err(unread)?;
            let mut blocks =
                CopiesWriter::new(effort.whole_level()).map_err(WriteError::Compress)?;
            delta::blocks::diff(&signature, open()?, &mut blocks).map_err(failed)?;
            let blocks = kept(
                DeltaGroup { kind: Kind::Copies, ..group },
                blocks.finish().map_err(WriteError::Compress)?,
                0,
            );
            let length = |patched: &Option<Patched>| {
                patched.as_ref().map_or(u64::MAX, |one| one.group.patch_length)
            };
            best = if length(&blocks) < length(&best) { blocks } else { best };
        }
        self.advanced(&[to]);
        let Some(Patched { group, .. }) = &best else { return Ok(None) };
        let clear = group.patch_length <= size / CLEAR_GAIN as u64;
        let length = group.patch_length + group.patch_length / LEAST_GAIN as u64;
        let gains = clear || compressed(open()?, effort.whole_level()).map_err(failed)? > length;
        proven(self, best.filter(|_| gains))
    }

    /// A large compressed file, out of the target's files that it holds and of what the old one begins with; else
    /// of what was inside the old one; else of the old one as it is.
    pub(super) fn archive(
        &self,
        archive: &CompressedPair<'_>,
        files: &StreamCandidates<'_>,
    ) -> Result<Option<Patched>, WriteError> {
        let &CompressedPair { source, entry } = archive;
        let mut patched = self.of_files(archive, files)?;
        if let (None, Some(source)) = (&patched, source.filter(|_| archive.is_held())) {
            let pair = delta::PairGroup {
                class: Class::Opened,
                sources: vec![source],
                targets: vec![entry],
            };
            patched = self.opened(&pair)?;
        }
        match source {
            // Tells how far it got by itself.
            Some(source) if patched.is_none() => self.large(source, entry),
            _ => {
                self.advanced(&[entry]);
                Ok(patched)
            }
        }
    }

    /// Where the members stand with which the old archive begins, if it may serve.
    fn front(&self, old: Option<&Entry>) -> Result<HashMap<Digest, u64>, WriteError> {
        let Some((old, (size, digest))) = old.and_then(|old| Some((old, old.file()?))) else {
            return Ok(HashMap::new());
        };
        if (self.deltas.depth)(&digest) >= MAX_DEPTH {
            return Ok(HashMap::new());
        }
        let failed = |source| WriteError::Source { path: old.path.clone(), source };
        let Some(file) = self.deltas.sources.open(&digest, size, &old.path).map_err(failed)? else {
            return Ok(HashMap::new());
        };
        let reading = io::BufReader::with_capacity(128 << 10, Reading { file: &*file, at: 0 });
        delta::cpio::front(reading.take(size)).map_err(failed)
    }

    fn of_files(
        &self,
        archive: &CompressedPair<'_>,
        StreamCandidates(files): &StreamCandidates<'_>,
    ) -> Result<Option<Patched>, WriteError> {
        let &CompressedPair { source: old, entry } = archive;
        let Some((size, digest)) = entry.file() else { return Ok(None) };
        let failed = |source| WriteError::Content { path: entry.path.clone(), source };
        let open = || self.content.open(entry).map_err(failed);
        let taken = gzip::decompose(&mut open()?, &mut io::sink(), &GzipLimits::default())
            .map_err(failed)?;
        let Decomposed::Apart(parts) = taken else { return Ok(None) };
        let mut group = self.group(Kind::Copies);
        let mut numbers: HashMap<Digest, usize> = HashMap::new();
        let mut patch =
            CopiesWriter::new(self.deltas.effort.whole_level()).map_err(WriteError::Compress)?;
        patch.literal(&parts.corrections).map_err(WriteError::Compress)?;
        let front = self.front(old)?;
        let known = |found: &Digest| {
            let (file, offset) = match files.get(found) {
                Some(file) => (*file, 0),
                None => (old?, *front.get(found)?),
            };
            let ((size, digest), sources) = (file.file()?, &mut group.sources);
            let number = *numbers.entry(digest).or_insert_with(|| {
                sources.push(GroupSource { digest, size, path: file.path.clone(), plain: None });
                sources.len() - 1
            });
            Some((number, offset))
        };
        let plain = gzip::gunzip(open()?, parts.plain_length).take(parts.plain_length);
        delta::cpio::split(io::BufReader::with_capacity(128 << 10, plain), known, &mut patch)
            .map_err(failed)?;
        let patch = patch.finish().map_err(WriteError::Compress)?;
        let inside =
            Inside { corrections: parts.corrections.len() as u64, plain: parts.plain_length };
        group.targets.push(GroupTarget { digest, size, inside: Some(inside) });
        let opening = &self.deltas.opening;
        let pays = |patch: u64| {
            opening.pays(size.saturating_sub(patch), parts.cost) && patch < size / 4 * 3
        };
        let pays = |one: &Patched| !one.group.sources.is_empty() && pays(one.group.patch_length);
        proven(self, kept(group, patch, parts.cost).filter(pays))
    }
}

/// Whether two contents have a beginning in common that is longer than any header.
fn begin_alike(old: &dyn ReadAt, new: impl Read) -> io::Result<bool> {
    let (mut before, mut now) = (Vec::new(), Vec::new());
    Reading { file: old, at: 0 }.take(BEGINNING).read_to_end(&mut before)?;
    new.take(BEGINNING).read_to_end(&mut now)?;
    Ok(before == now)
}

fn proven(planner: &Planner<'_>, patched: Option<Patched>) -> Result<Option<Patched>, WriteError> {
    if let Some(Patched { group, patch, .. }) = &patched {
        planner.prove(group, patch)?;
    }
    Ok(patched)
}

/// How long `content` would be, compressed by itself.
fn compressed(mut content: impl Read, level: i32) -> io::Result<u64> {
    struct Count(u64);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut encoder = zstd::stream::write::Encoder::new(Count(0), level.min(ESTIMATE))?;
    io::copy(&mut content, &mut encoder)?;
    Ok(encoder.finish()?.0)
}

fn kept(mut group: DeltaGroup, patch: Option<Vec<u8>>, cost: u64) -> Option<Patched> {
    let patch = patch?;
    group.patch_length = patch.len() as u64;
    Some(Patched { group, patch, cost })
}
