//! Checks a repository against itself.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::list::layers;
use super::prune::{files_of, is_ours};
use crate::catalog::{Archive, ArchiveKind, Catalog};
use crate::diff_archive::content_index::ContentIndex;
use crate::diff_archive::{ArchiveLimits, Sources, verify_diff, verify_full};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::fetch::content::ContentStore;
use crate::generation::GenerationId;
use crate::image::Layer;
use crate::manifest::Manifest;
use crate::publish::{NoContents, PublishError, SpooledContents, Store, compression};
use crate::report::Monitor;

/// What was checked, and what is wrong.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Manifests that were read.
    pub manifests: usize,
    /// Archives that were read to their end.
    pub archives: usize,
    /// Contents of the head that were taken out of the repository by their digests.
    pub contents: usize,
    /// One sentence for each fault; none if the repository is sound.
    pub faults: Vec<String>,
}

/// Checks all that is published in `repo`, each fault with the name of what it is in.
pub fn verify_all(repo: &Path, monitor: &dyn Monitor) -> Result<Findings, PublishError> {
    let mut all = Findings::default();
    let mut published = false;
    for layer in layers(repo)? {
        let Findings { manifests, archives, contents, faults } = match verify(repo, &layer, monitor)
        {
            Ok(findings) => findings,
            Err(PublishError::NothingPublished(_)) => continue,
            Err(error) => Findings { faults: vec![error.to_string()], ..Findings::default() },
        };
        published = true;
        all.manifests += manifests;
        all.archives += archives;
        all.contents += contents;
        all.faults.extend(faults.into_iter().map(|fault| format!("{layer}: {fault}")));
    }
    if published {
        Ok(all)
    } else {
        Err(PublishError::Empty { repository: repo.display().to_string() })
    }
}

/// Checks what is published of `layer`: sizes, digests, first frames, every content of every archive, that
/// each diff turns its base into its target, and that each content of the head can be had.
pub fn verify(repo: &Path, layer: &Layer, monitor: &dyn Monitor) -> Result<Findings, PublishError> {
    let store = Store::open(repo, layer);
    let catalog = store.catalog()?.ok_or_else(|| PublishError::NothingPublished(layer.clone()))?;
    let mut findings = Findings::default();
    let index = store.index(&catalog).unwrap_or_else(|error| {
        findings.faults.push(error.to_string());
        ContentIndex::default()
    });
    let job = Verification { store: &store, catalog: &catalog, index: &index, monitor };
    for publish in &catalog.publishes {
        match store.manifest(publish) {
            Ok(manifest)
                if (manifest.len() as u64, manifest.bytes())
                    != (publish.entries, publish.bytes) =>
            {
                findings
                    .faults
                    .push(format!("{}: its counts are not the catalog's", publish.manifest.file));
            }
            Ok(_) => findings.manifests += 1,
            Err(error) => findings.faults.push(error.to_string()),
        }
    }
    for archive in &catalog.archives {
        match job.archive(archive) {
            Ok(()) => findings.archives += 1,
            Err(error) => findings.faults.push(format!("{}: {error}", archive.file.file)),
        }
    }
    match job.head() {
        Ok((contents, missing)) => {
            findings.contents = contents;
            findings.faults.extend(missing);
        }
        Err(error) => findings.faults.push(format!("{error}")),
    }
    let named: Vec<_> = files_of(&catalog).collect();
    for file in store.files()?.iter().filter(|file| is_ours(file) && !named.contains(file)) {
        // The index of the catalog before this one stays for readers that still have that one.
        if file.as_str().starts_with("content-") {
            continue;
        }
        monitor
            .note(format!("{file} is in the repository, but not in the catalog; prune removes it"));
    }
    Ok(findings)
}

/// Why something is wrong; it is only ever printed.
type VerifyFault = Box<dyn std::error::Error>;

struct Verification<'v> {
    store: &'v Store,
    catalog: &'v Catalog,
    index: &'v ContentIndex,
    monitor: &'v dyn Monitor,
}

impl Verification<'_> {
    fn archive(&self, archive: &Archive) -> Result<(), VerifyFault> {
        self.first_frame(archive)?;
        let file = BufReader::with_capacity(1 << 20, self.store.read_checked(&archive.file)?);
        let compression = compression(archive)?;
        match archive.kind {
            ArchiveKind::Full { target } => {
                Ok(verify_full(file, compression, &self.manifest(target)?, self.monitor)?)
            }
            ArchiveKind::Diff { base, .. } => {
                let base = self.manifest(base)?;
                let mut spooled = SpooledContents::new(unnamed()?);
                let listing = self.store.listing(archive)?;
                let sources = listing.groups().iter().flat_map(|group| &group.sources);
                let wanted: HashSet<(Digest, u64)> =
                    sources.map(|source| (source.digest, source.size)).collect();
                let missing = spooled.extract(wanted, &self.contents(), |_| true)?;
                if !missing.is_empty() {
                    self.monitor.note(format!(
                        "{}: its deltas are not tried, since only nodes have the content of their base",
                        archive.file.file
                    ));
                }
                let sources: Option<&dyn Sources> =
                    if missing.is_empty() { Some(&spooled) } else { None };
                let listing = verify_diff(
                    file,
                    compression,
                    &ArchiveLimits::default(),
                    sources,
                    self.monitor,
                )?;
                Ok(listing.target_of(&base).map(|_| ())?)
            }
        }
    }

    fn first_frame(&self, archive: &Archive) -> Result<(), VerifyFault> {
        let file = self.store.read(&archive.file)?;
        let (digest, length) = Digest::of_reader(file.take(archive.first_frame.length))?;
        if (digest, length) != (archive.first_frame.sha256, archive.first_frame.length) {
            return Err("its first frame is not the one that the catalog names".into());
        }
        Ok(())
    }

    fn manifest(&self, generation: GenerationId) -> Result<Manifest, VerifyFault> {
        let publish = self.catalog.publish_of(generation);
        let publish =
            publish.ok_or_else(|| format!("generation {} is not listed", generation.short()))?;
        Ok(self.store.manifest(publish)?)
    }

    fn contents(&self) -> ContentStore<'_> {
        ContentStore::new(self.index, &self.catalog.archives, self.store, &NoContents)
    }

    /// Takes every content of the head out of the repository: how many, and what cannot be had.
    fn head(&self) -> Result<(usize, Vec<String>), VerifyFault> {
        let head = self.manifest(self.catalog.head().generation)?;
        let wanted = wanted_of(&head);
        let mut sink =
            |_: Digest, content: &mut dyn Read| io::copy(content, &mut io::sink()).map(|_| ());
        let missing = self.contents().fetch(&wanted, &mut sink)?;
        let faults = missing
            .iter()
            .map(|content| format!("content {}: {}", content.digest, content.reason))
            .collect();
        Ok((wanted.len() - missing.len(), faults))
    }
}

fn wanted_of(manifest: &Manifest) -> Vec<(Digest, u64)> {
    let files = manifest.entries().iter().filter_map(Entry::file);
    let mut wanted: Vec<(Digest, u64)> = files.map(|(size, digest)| (digest, size)).collect();
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

/// A file without a name where there is room for contents: the repository may be read-only for us.
fn unnamed() -> io::Result<File> {
    let place = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(Path::new(&place), flags, Mode::RUSR | Mode::WUSR)?.into())
}
