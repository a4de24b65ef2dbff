//! Builds one diff without a repository.
//!
//! The diff is written beside its final name, read back, and renamed. So a damaged or partial file
//! never has that name.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::TreeInput;
use super::artifact::{self, Artifact};
use super::error::BuildError;
use super::image_tar::TarImage;
use super::notice::TardiffNotice;
use crate::delta::{Effort, Matching, RebuildLimit};
use crate::diff_archive::{
    ArchiveLimits, Deltas, DiffInput, FrameCompression, FramedFile, Listing, WriteOptions,
    WrittenArchiveInfo, pair_by_content, verify_diff, write_diff,
};
use crate::digest::Digest;
use crate::entry::{Entry, Mtime};
use crate::filter::ExcludedContents;
use crate::generation::GenerationId;
use crate::image::ImageName;
use crate::manifest::{Manifest, ManifestError};
use crate::publish::read_image_excludes;
use crate::report::Monitor;
use crate::root::Root;
use crate::scan::{Cache, Scan, ScanError, refuse_pseudo_mounts, scan};
use crate::tree_path::TreePath;

/// A diff to be built.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// Base: a tree, an archive of a whole image, or a manifest.
    pub base: PathBuf,
    /// Tree that the diff produces.
    pub image_dir: PathBuf,
    /// File to write; `.tar.zst` or `.tar.gz`.
    pub output: PathBuf,
    /// Name of the image in the diff; `None` for the name of its directory.
    pub image: Option<ImageName>,
    /// Whether the diff has deltas, which plain `tar` cannot unpack.
    pub deltas: bool,
    /// Effort for deltas and compression.
    pub effort: Effort,
    /// Limits of recompression.
    pub rebuild_limit: RebuildLimit,
    /// Compression level; `None` for that of the effort.
    pub level: Option<i32>,
}

/// A diff that was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// Generation of the base.
    pub base: GenerationId,
    /// Generation of the target.
    pub target: GenerationId,
    /// Number of removed entries.
    pub removed: u64,
    /// Number of added and changed entries.
    pub changed: u64,
    /// Size of the archive in bytes.
    pub size: u64,
}

/// Base of a diff.
enum BuildBase {
    /// A tree with all contents.
    Tree(Root, Box<Scan>),
    /// Only a manifest.
    Listed(Manifest),
}

/// Builds the diff from the base to the image, verifies it, and renames it into place.
pub fn build(request: &BuildRequest, monitor: &dyn Monitor) -> Result<Built, BuildError> {
    let name = request.output.to_str().unwrap_or_default();
    let compression = FrameCompression::from_name(name)
        .ok_or_else(|| BuildError::Extension { path: shown(&request.output) })?;
    refuse_occupied(&request.output)?;
    refuse_base(request)?;

    let root = Root::open(&request.image_dir).map_err(ScanError::from)?;
    let image = request.image.clone().map_or_else(|| name_of(&root), Ok)?;
    refuse_pseudo_mounts(&root)?;
    let target = scan(&root, &Cache::default(), monitor)?;
    let base = BuildBase::read(&request.base, target.manifest(), monitor)?;
    if request.deltas && base.contents().is_none() {
        return Err(BuildError::NoContents { path: shown(&request.base) });
    }

    let output = DiffOutput { request, root: &root, image: &image, compression };
    let file = UnfinishedFile::create(&request.output)?;
    let written = write(&output, &base, target.manifest(), &file, monitor)?;

    let listing = file.read_back(compression, &written, base.manifest(), monitor)?;
    target.recheck(&root)?;
    base.recheck()?;
    file.rename_into_place()?;

    Ok(Built {
        base: base.manifest().id(),
        target: target.manifest().id(),
        removed: listing.removed().len() as u64,
        changed: listing.changed().len() as u64,
        size: written.size,
    })
}

/// Parameters of the archive.
struct DiffOutput<'d> {
    request: &'d BuildRequest,
    /// The tree of the image.
    root: &'d Root,
    image: &'d ImageName,
    compression: FrameCompression,
}

/// Writes the archive, with deltas if they are requested.
fn write(
    archive: &DiffOutput<'_>,
    base: &BuildBase,
    target: &Manifest,
    file: &UnfinishedFile,
    monitor: &dyn Monitor,
) -> Result<WrittenArchiveInfo, BuildError> {
    let BuildRequest { effort, rebuild_limit, level, deltas, ref output, .. } = *archive.request;
    let manifests = (base.manifest(), target);
    let tree = TreeInput(archive.root);
    let patches = file.create_unnamed()?;
    let base_contents = base.contents().filter(|_| deltas);

    let filter = read_image_excludes(target, &tree, monitor);
    let excluded = ExcludedContents::find(manifests.0, manifests.1, &filter);
    let pairs = base_contents.as_ref().map(|sources| {
        let matching =
            Matching::by_names(manifests.0, manifests.1, effort, &rebuild_limit, &excluded);
        pair_by_content(matching, sources, &tree).into_pairs()
    });
    let deltas = base_contents.as_ref().zip(pairs.as_ref()).map(|(sources, pairs)| Deltas {
        sources,
        pairs,
        spool: &patches,
        effort,
        rebuild_limit,
        excluded: &excluded,
        depth: &no_depth,
    });

    let options = WriteOptions::new(archive.compression, effort, level);
    let mut to = BufWriter::with_capacity(1 << 20, &file.file);
    let input = DiffInput {
        image: archive.image,
        base: manifests.0,
        target: manifests.1,
        content: &tree,
        deltas,
    };
    let written = write_diff(&input, options, &mut to, monitor)
        .map_err(|source| BuildError::Write { path: shown(output), source })?;
    to.into_inner().map_err(|e| output_error("write", output, e.into_error()))?;
    Ok(written)
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
            Artifact::Export(manifest) => {
                monitor.warn(TardiffNotice::BaseWithoutAttributes { path });
                Ok(BuildBase::Listed(manifest))
            }
            Artifact::Image(TarImage { manifest, whole_seconds: false }) => {
                Ok(BuildBase::Listed(manifest))
            }
            Artifact::Image(TarImage { manifest, whole_seconds: true }) => {
                monitor.warn(TardiffNotice::BaseInWholeSeconds { path });
                Ok(BuildBase::Listed(with_fractions(&manifest, target)?))
            }
            Artifact::Diff(_) => Err(BuildError::BaseIsDiff { path: shown(path) }),
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

/// Delta depth of all contents: no repository reads single contents from this archive.
fn no_depth(_: &Digest) -> u32 {
    0
}

/// Adds to `base`, whose times are whole seconds, the fractions of `target` at the same paths.
///
/// Without them, every entry would count as changed. A fraction is added only if the seconds agree.
fn with_fractions(base: &Manifest, target: &Manifest) -> Result<Manifest, ManifestError> {
    // A hard-link group has one time: that of its first path with a fraction.
    let mut group_times: HashMap<&TreePath, Mtime> = HashMap::new();
    for entry in base.entries() {
        if let (Some(group), Some(time)) = (entry.group(), exact_time(entry, target)) {
            group_times.entry(group).or_insert(time);
        }
    }

    let completed = base.entries().iter().map(|entry| {
        let time = match entry.group() {
            Some(group) => group_times.get(group).copied(),
            None => exact_time(entry, target),
        };
        let mut entry = entry.clone();
        if let Some(time) = time {
            entry.meta.mtime = time;
        }
        entry
    });
    Manifest::new(completed.collect())
}

/// The time of the same path in `target`, if the seconds agree.
fn exact_time(entry: &Entry, target: &Manifest) -> Option<Mtime> {
    let time = target.get(&entry.path)?.meta.mtime;
    (time.seconds == entry.meta.mtime.seconds).then_some(time)
}

fn name_of(root: &Root) -> Result<ImageName, BuildError> {
    let name = root
        .location()
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.parse().ok());
    name.ok_or_else(|| BuildError::NoName { path: shown(root.location()) })
}

/// Refuses to replace the base: nodes and the next diff still need it.
fn refuse_base(request: &BuildRequest) -> Result<(), BuildError> {
    let (Ok(base), Ok(output)) = (fs::metadata(&request.base), fs::metadata(&request.output))
    else {
        return Ok(());
    };
    if (base.dev(), base.ino()) == (output.dev(), output.ino()) {
        return Err(BuildError::OutputIsBase { path: shown(&request.output) });
    }
    Ok(())
}

/// Refuses an output that is no regular file: the rename, as root, would replace a device.
fn refuse_occupied(output: &Path) -> Result<(), BuildError> {
    match fs::symlink_metadata(output) {
        Ok(metadata) if !metadata.is_file() => Err(BuildError::Occupied { path: shown(output) }),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(output_error("inspect", output, e)),
        _ => Ok(()),
    }
}

/// A diff that is being written, beside its final name; removed on drop unless renamed.
struct UnfinishedFile {
    file: File,
    /// Temporary path.
    path: PathBuf,
    output: PathBuf,
}

impl UnfinishedFile {
    fn create(output: &Path) -> Result<Self, BuildError> {
        let mut name = OsString::from(".");
        name.push(output.file_name().unwrap_or_default());
        name.push(format!(".new-{}", std::process::id()));
        let path = output.with_file_name(name);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|e| output_error("create", &path, e))?;
        Ok(UnfinishedFile { file, path, output: output.to_owned() })
    }

    /// Creates a file in the same directory whose name is removed at once.
    fn create_unnamed(&self) -> Result<File, BuildError> {
        let other = UnfinishedFile::create(&self.path)?;
        other.file.try_clone().map_err(|e| output_error("open", &other.path, e))
    }

    /// Verifies that the file is the archive that was written, and leads from `base` to its target.
    fn read_back(
        &self,
        compression: FrameCompression,
        written: &WrittenArchiveInfo,
        base: &Manifest,
        monitor: &dyn Monitor,
    ) -> Result<Listing, BuildError> {
        let error = |source| BuildError::ReadBack { path: shown(&self.output), source };
        (&self.file).seek(SeekFrom::Start(0)).map_err(|e| error(e.into()))?;
        let file = FramedFile {
            bytes: &self.file,
            size: written.size,
            compression,
            head: Some(written.first_frame),
        };

        // Each patch was verified when it was built; head and frames prove that it is the same.
        let listing = verify_diff(file, &ArchiveLimits::default(), None, monitor).map_err(error)?;
        listing.target_of(base).map_err(error)?;
        Ok(listing)
    }

    fn rename_into_place(&self) -> Result<(), BuildError> {
        self.file.sync_all().map_err(|e| output_error("sync", &self.path, e))?;
        refuse_occupied(&self.output)?;
        fs::rename(&self.path, &self.output)
            .map_err(|e| output_error("rename a file to", &self.output, e))
    }
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        // Fails after the rename, which moved the name.
        let _ = fs::remove_file(&self.path);
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn output_error(operation: &'static str, path: &Path, source: io::Error) -> BuildError {
    BuildError::Output { operation, path: shown(path), source }
}
