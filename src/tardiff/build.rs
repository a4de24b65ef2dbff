//! Builds one diff, without a repository.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::TreeInput;
use super::artifact::{self, Artifact, ArtifactError};
use super::image_tar::TarImage;
use crate::delta::{Effort, Matching, RebuildLimit};
use crate::diff_archive::{
    ArchiveError, ArchiveLimits, Deltas, DiffInput, FrameCompression, Listing, Sources, WriteError,
    WriteOptions, pair_by_content, verify_diff, write_diff,
};
use crate::digest::Digest;
use crate::entry::{Entry, Mtime};
use crate::generation::GenerationId;
use crate::image::ImageName;
use crate::manifest::{Manifest, ManifestError};
use crate::report::Monitor;
use crate::root::Root;
use crate::scan::{Cache, Scan, ScanError, scan};
use crate::tree_path::TreePath;

/// What to build.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// What the diff applies to: a tree, an archive of a whole image, or a manifest.
    pub base: PathBuf,
    /// The tree that the diff leads to.
    pub image_dir: PathBuf,
    /// Where it goes; `.tar.zst` or `.tar.gz`.
    pub output: PathBuf,
    /// The image's name in the diff; by default that of its directory.
    pub image: Option<ImageName>,
    /// Whether the diff holds deltas, which plain `tar` cannot unpack.
    pub deltas: bool,
    /// How much work goes into it.
    pub effort: Effort,
    /// When compressed files are taken apart.
    pub rebuild_limit: RebuildLimit,
    /// The level of the compression, if not that of the effort.
    pub level: Option<i32>,
}

/// What was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// What it applies to.
    pub base: GenerationId,
    /// What it leads to.
    pub target: GenerationId,
    /// Entries that go.
    pub removed: u64,
    /// Entries that come or change.
    pub changed: u64,
    /// Of the archive.
    pub size: u64,
}

/// Why nothing was built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The base or the image cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The base cannot be read.
    #[error(transparent)]
    BuildBase(#[from] ArtifactError),
    /// The base is a diff.
    #[error("{0} is a diff; a base is a tree, an archive of a whole image, or a manifest")]
    BaseIsDiff(String),
    /// Deltas need what is in the files of the base.
    #[error("deltas are made from the files of a directory; {0} is none")]
    NoContents(String),
    /// The name does not tell what to write.
    #[error("{0} ends neither in .tar.zst nor in .tar.gz")]
    Extension(String),
    /// Something else is where the diff should go.
    #[error("{0} is there and is not a regular file; it is not replaced")]
    Occupied(String),
    /// The diff would replace what it was built from.
    #[error("{0} is the base; a diff does not replace it")]
    OutputIsBase(String),
    /// The directory's name names no image.
    #[error("{0} does not name an image; say which it is with --image")]
    NoName(String),
    /// The diff cannot be written to its place.
    #[error("cannot {what} {path}: {source}")]
    Output {
        /// What was tried, as a verb.
        what: &'static str,
        /// Where.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The diff cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Where.
        path: String,
        /// Why not.
        source: WriteError,
    },
    /// The diff is not what it should be.
    #[error("{path} was written, but does not read back: {source}")]
    ReadBack {
        /// Where.
        path: String,
        /// What is wrong with it.
        source: ArchiveError,
    },
    /// The times of the base could not be completed.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// What is known of the base.
enum BuildBase {
    /// Its files are at hand.
    Tree(Root, Box<Scan>),
    /// Only its manifest is.
    Listed(Manifest),
}

/// Builds the diff from `request.base` to `request.image_dir`, reads it back, and puts it into its place.
pub fn build(request: &BuildRequest, monitor: &dyn Monitor) -> Result<Built, BuildError> {
    let name = request.output.to_str().unwrap_or_default();
    let compression = FrameCompression::from_name(name)
        .ok_or_else(|| BuildError::Extension(shown(&request.output)))?;
    refuse_occupied(&request.output)?;
    refuse_base(request)?;
    let root = Root::open(&request.image_dir).map_err(ScanError::from)?;
    let image = request.image.clone().map_or_else(|| name_of(&root), Ok)?;
    let target = scan(&root, &Cache::default(), monitor)?;
    let base = BuildBase::read(&request.base, target.manifest(), monitor)?;
    let contents = base.contents();
    if request.deltas && contents.is_none() {
        return Err(BuildError::NoContents(shown(&request.base)));
    }

    let new = New::create(&request.output)?;
    let patches = new.unnamed()?;
    let BuildRequest { effort, rebuild_limit, level, .. } = *request;
    let pair = (base.manifest(), target.manifest());
    let sources = contents.as_ref().map(|tree| tree as &dyn Sources).filter(|_| request.deltas);
    let paired = sources.map(|sources| {
        let named = Matching::by_names(pair.0, pair.1, effort, &rebuild_limit);
        (sources, pair_by_content(named, sources, &TreeInput(&root)).into_pairs())
    });
    // Nobody takes single contents out of it.
    let depth = &|_: &Digest| 0;
    let deltas = paired.as_ref();
    let deltas = deltas.map(|(sources, pairs)| Deltas {
        sources: *sources,
        pairs,
        spool: &patches,
        effort,
        rebuild_limit,
        depth,
    });
    let options = WriteOptions::new(compression, effort, level);
    let mut to = BufWriter::with_capacity(1 << 20, &new.file);
    let input = DiffInput {
        image: &image,
        base: pair.0,
        target: pair.1,
        content: &TreeInput(&root),
        deltas,
    };
    let written = write_diff(&input, options, &mut to, monitor);
    let written =
        written.map_err(|source| BuildError::Write { path: shown(&request.output), source })?;
    to.flush().map_err(|e| failed("write", &request.output, e))?;
    drop(to);

    let listing = new.read_back(compression, written.sha256, base.manifest(), monitor)?;
    target.recheck(&root)?;
    base.recheck()?;
    new.keep()?;
    let (removed, changed) = (listing.removed().len() as u64, listing.changed().len() as u64);
    Ok(Built { base: pair.0.id(), target: pair.1.id(), removed, changed, size: written.size })
}

impl BuildBase {
    fn read(path: &Path, target: &Manifest, monitor: &dyn Monitor) -> Result<Self, BuildError> {
        if path.is_dir() {
            let root = Root::open(path).map_err(ScanError::from)?;
            let scan = scan(&root, &Cache::default(), monitor)?;
            return Ok(BuildBase::Tree(root, Box::new(scan)));
        }
        match artifact::read(path, monitor)? {
            Artifact::Manifest(manifest) => Ok(BuildBase::Listed(manifest)),
            Artifact::Image(TarImage { manifest, whole_seconds: false }) => {
                Ok(BuildBase::Listed(manifest))
            }
            Artifact::Image(TarImage { manifest, whole_seconds: true }) => {
                monitor.warn(format!(
                    "{} has times in whole seconds (make it with tar --format=pax): the diff can be unpacked with tar, but no node has recorded this base",
                    shown(path)
                ));
                Ok(BuildBase::Listed(with_fractions_of(&manifest, target)?))
            }
            Artifact::Diff(_) => Err(BuildError::BaseIsDiff(shown(path))),
        }
    }

    fn manifest(&self) -> &Manifest {
        match self {
            BuildBase::Tree(_, scan) => scan.manifest(),
            BuildBase::Listed(manifest) => manifest,
        }
    }

    fn contents(&self) -> Option<TreeInput<'_>> {
        match self {
            BuildBase::Tree(root, _) => Some(TreeInput(root)),
            BuildBase::Listed(_) => None,
        }
    }

    fn recheck(&self) -> Result<(), ScanError> {
        match self {
            BuildBase::Tree(root, scan) => scan.recheck(root),
            BuildBase::Listed(_) => Ok(()),
        }
    }
}

/// `base`, whose times are whole seconds, with the fractions that `target` has at the same path and
/// second: otherwise every entry would differ.
fn with_fractions_of(base: &Manifest, target: &Manifest) -> Result<Manifest, ManifestError> {
    let fraction = |entry: &Entry| {
        let there = target.get(&entry.path)?.meta.mtime;
        (there.seconds == entry.meta.mtime.seconds).then_some(there)
    };
    // All names of a file have one time: that of the first name that finds a fraction.
    let mut groups: HashMap<&TreePath, Mtime> = HashMap::new();
    for entry in base.entries() {
        if let (Some(group), Some(time)) = (entry.group(), fraction(entry)) {
            groups.entry(group).or_insert(time);
        }
    }
    let completed = base.entries().iter().map(|entry| {
        let time = match entry.group() {
            Some(group) => groups.get(group).copied(),
            None => fraction(entry),
        };
        let mut entry = entry.clone();
        if let Some(time) = time {
            entry.meta.mtime = time;
        }
        entry
    });
    Manifest::new(completed.collect())
}

fn name_of(root: &Root) -> Result<ImageName, BuildError> {
    let name =
        root.shown().file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
    name.ok_or_else(|| BuildError::NoName(root.shown().display().to_string()))
}

/// The base is still needed when the output exists: by nodes, and for the next diff.
fn refuse_base(request: &BuildRequest) -> Result<(), BuildError> {
    let (Ok(base), Ok(output)) = (fs::metadata(&request.base), fs::metadata(&request.output))
    else {
        return Ok(());
    };
    if (base.dev(), base.ino()) == (output.dev(), output.ino()) {
        return Err(BuildError::OutputIsBase(shown(&request.output)));
    }
    Ok(())
}

/// A program that renames onto its output as root would replace a device by a file.
fn refuse_occupied(output: &Path) -> Result<(), BuildError> {
    match fs::symlink_metadata(output) {
        Ok(found) if !found.is_file() => Err(BuildError::Occupied(shown(output))),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("inspect", output, e)),
        _ => Ok(()),
    }
}

/// The diff in the making, beside its place; removed again unless it is kept.
struct New {
    file: File,
    beside: PathBuf,
    output: PathBuf,
}

impl New {
    fn create(output: &Path) -> Result<Self, BuildError> {
        let mut name = OsString::from(".");
        name.push(output.file_name().unwrap_or_default());
        name.push(format!(".new-{}", std::process::id()));
        let beside = output.with_file_name(name);
        let file = File::options().read(true).write(true).create_new(true).open(&beside);
        let file = file.map_err(|e| failed("create", &beside, e))?;
        Ok(New { file, beside, output: output.to_owned() })
    }

    /// A file that has no name from the beginning.
    fn unnamed(&self) -> Result<File, BuildError> {
        let other = New::create(&self.beside)?;
        other.file.try_clone().map_err(|e| failed("open", &other.beside, e))
    }

    fn read_back(
        &self,
        compression: FrameCompression,
        written: Digest,
        base: &Manifest,
        monitor: &dyn Monitor,
    ) -> Result<Listing, BuildError> {
        let bad = |source| BuildError::ReadBack { path: shown(&self.output), source };
        (&self.file).seek(SeekFrom::Start(0)).map_err(|e| bad(e.into()))?;
        let from = BufReader::with_capacity(1 << 20, &self.file);
        // Each patch was tried when it was made, and the digest says that these are the same.
        let listing = verify_diff(from, compression, &ArchiveLimits::default(), None, monitor)
            .map_err(bad)?;
        listing.target_of(base).map_err(bad)?;
        (&self.file).seek(SeekFrom::Start(0)).map_err(|e| bad(e.into()))?;
        if Digest::of_reader(&self.file).map_err(|e| bad(e.into()))?.0 != written {
            return Err(bad(io::Error::other("it is not what was written").into()));
        }
        Ok(listing)
    }

    fn keep(&self) -> Result<(), BuildError> {
        self.file.sync_all().map_err(|e| failed("sync", &self.beside, e))?;
        refuse_occupied(&self.output)?;
        fs::rename(&self.beside, &self.output)
            .map_err(|e| failed("rename into place", &self.output, e))
    }
}

impl Drop for New {
    fn drop(&mut self) {
        // Gone already where it was kept.
        let _ = fs::remove_file(&self.beside);
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> BuildError {
    BuildError::Output { what, path: shown(path), source }
}
