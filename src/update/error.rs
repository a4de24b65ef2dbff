//! Errors of a run, and their wording.
//!
//! Each variant of [`UpdateError`] has one exit code, which the command line maps. The live tree is
//! as it was, except after `Interrupted`, `Unfinished` (an earlier run's transaction is pending)
//! and `Afterwards`.

use std::fmt;
use std::time::Duration;

use crate::apply::error::DownloadedFault;
use crate::apply::preflight::disk_space::Shortage;
use crate::apply::{Interrupted, Reversed, SessionError, Unapplied, UndoLogError, Untouched};
use crate::catalog::{CatalogError, GenerationWordError, Version};
use crate::diff_archive::ArchiveError;
use crate::digest::Digest;
use crate::fetch::{FetchError, FetchErrorKind, Side};
use crate::filter::BadRule;
use crate::full_sync::{FullSyncError, Server};
use crate::generation::GenerationId;
use crate::host::{BadFile, KeysError, NoDefaultEntry, ToolError};
use crate::image::{ImageName, Layer};
use crate::manifest::ManifestError;
use crate::plan::FullSyncReason;
use crate::report::units::exact_duration;
use crate::root::RootError;
use crate::signature::{Role, SignatureError};
use crate::state::StateError;
use crate::tree_path::TreePath;

/// Number of paths that a message lists.
const MAX_LISTED: usize = 10;

/// Reason that an archive of the server cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArchiveFault {
    #[error("its name has no known compression")]
    UnknownCompression,
    #[error("it leads to another generation than the catalog says")]
    OtherTarget,
    #[error(transparent)]
    Download(#[from] FetchError),
    #[error(transparent)]
    Invalid(#[from] ArchiveError),
}

/// Reason that the server's `cluster.txt` does not assign an image to a host.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClusterFault {
    #[error(transparent)]
    Invalid(#[from] BadFile),
    #[error("it names no image for {host}; pass --image")]
    NoImage { host: String },
}

/// Reason that a run did not do its job.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The request cannot be carried out as given.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The server's answer cannot be trusted. Never followed by another strategy.
    #[error("the server is not trusted: {0}; nothing was changed")]
    Trust(#[from] TrustError),
    /// A download failed.
    #[error("{0}; nothing was changed")]
    Fetch(FetchError),
    /// Another run works on the tree.
    #[error(transparent)]
    Locked(StateError),
    /// The repository has no catalog of the image.
    #[error(
        "cannot find image {image} in {repository}: the server has no catalog of it; publish it, \
         or check --image; nothing was changed"
    )]
    UnknownImage {
        /// The requested image.
        image: ImageName,
        /// Address of the repository, without a password.
        repository: String,
    },
    /// The transaction failed before the commit point, because of this node.
    #[error("{0}; nothing was changed")]
    Node(Untouched),
    /// The update cannot be applied on this node.
    #[error("{0}; nothing was changed")]
    Refused(#[from] Refusal),
    /// A filesystem of this node is too small.
    #[error("no room on this node: {0}; nothing was changed")]
    DiskSpace(#[from] SpaceError),
    /// The deletion budget is exceeded.
    #[error("{0}\nnothing was changed")]
    Budget(Untouched),
    /// The run was cancelled before the commit point.
    #[error("cancelled; nothing was changed")]
    Cancelled,
    /// A full sync is needed and impossible.
    #[error("{0}; nothing was changed")]
    NoFullSync(#[from] NoFullSync),
    /// There is no undo set that fits the tree.
    #[error(
        "nothing can be undone on {root}: there was no update, its backups were not kept \
         (keep_undo), or the tree was changed by another program since; nothing was changed"
    )]
    NothingToUndo {
        /// Top of the tree.
        root: String,
    },
    /// The head of the catalog is the pinned generation.
    #[error(
        "cannot install generation {} of {image}: this node was rolled back from it, and it is \
         still the newest; publish another, or pass --unhold; nothing was installed",
        generation.short()
    )]
    Pinned {
        /// The image.
        image: ImageName,
        /// Head of its catalog.
        generation: GenerationId,
    },
    /// The downloaded update may not be installed now.
    #[error("cannot install the downloaded update now: {0}; nothing was changed")]
    NotNow(NotNow),
    /// A pre-update hook failed or could not be run.
    #[error("a pre-update hook stopped the update: {0}; nothing was changed")]
    Hook(#[from] HookError),
    /// The tree is changed and recorded, but a later step failed.
    #[error("the tree was changed as requested, but {}", join(.0, "; besides, "))]
    Afterwards(Vec<FollowUpError>),
    /// An interrupted transaction cannot be completed now.
    #[error("cannot complete the interrupted update: {0}")]
    Unfinished(SessionError),
    /// The live tree may be mixed, so that nothing can be said about it.
    #[error(
        "cannot verify {root}: an interrupted update is not complete; run si_updateclient \
         --recover first; nothing was changed"
    )]
    NotVerifiable {
        /// Top of the tree.
        root: String,
    },
    /// The transaction failed after the commit point.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The transaction was reversed after the commit point.
    #[error(transparent)]
    Reversed(#[from] Reversed),
}

/// Reason that a request cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// An argument or a setting is wrong; the command line has the wording.
    #[error("{0}")]
    Argument(String),
    /// The run needs an rsync server. The old client has the same words.
    #[error("You must specify --server.")]
    NoServer,
    /// A rule of an exclude file is wrong.
    #[error(transparent)]
    Excludes(#[from] BadRule),
    /// The exclude file of the image excludes or changes itself.
    #[error(
        "cannot use the exclude file {name} of the image: under its own rules the node would get \
         another version of it; do not exclude {name}"
    )]
    UnstableExcludes {
        /// Path of the file.
        name: String,
    },
    /// Only the directory of the request would be updated, and the image has none there.
    #[error("cannot update {directory}: image {image} has no such directory, or it is excluded")]
    NoDirectoryOfImage { directory: TreePath, image: ImageName },
    /// Nothing at or below a path of the request is tracked.
    #[error("cannot verify or repair {path}: {reason}")]
    NotTracked { path: TreePath, reason: Untracked },
    #[error("cannot find the generation: {0}")]
    Generation(GenerationWordError),
    /// Neither the tree nor the kernel has a host name.
    #[error(
        "cannot find this host in the server's cluster.txt: the host has no name; pass --image"
    )]
    NamelessHost,
    /// The keys of this node are not valid.
    #[error(transparent)]
    Keys(KeysError),
    /// Only the running system can be rebooted.
    #[error("--reboot cannot be used with --root: the running system is another one")]
    RebootOfOtherRoot,
}

/// Reason that a path is not tracked.
#[derive(Debug, thiserror::Error)]
pub enum Untracked {
    #[error("it is excluded: {0}")]
    Excluded(String),
    #[error("it belongs to the node; neither the image nor an override has it")]
    Local,
    #[error("it does not exist, and neither the image nor an override has it")]
    Absent,
}

/// Reason that an answer of the server cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("it answered \"not modified\" to a request that has no condition")]
    UnexpectedNotModified,
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The catalog is not the one that the head names.
    #[error(transparent)]
    CatalogDigest(FetchError),
    /// The repository was written by a program before format 2.
    #[error(
        "the repository has format 1 of {layer}, which this program cannot read; on the server, \
         move its directory away, and publish it again with 'si_tardiff publish {}'",
        .layer.publish_option()
    )]
    OldFormat { layer: Layer },
    /// The head is older than one that this node has seen, and was written later.
    #[error(
        "the server offers serial {offered} of {name}, and this node has seen {seen}; if the server \
         was restored from a backup, run 'si_tardiff publish --serial N' there with a larger one; \
         pass --allow-downgrade to accept the older one"
    )]
    OlderHead { name: String, offered: Version, seen: Version },
    #[error(
        "the server offers serial {offered} of {name}, and this node has seen {seen}: no server \
         publishes that often; pass --allow-downgrade to accept it"
    )]
    SerialTooHigh { name: String, offered: Version, seen: Version },
    /// Two catalogs have one version.
    #[error(
        "the server offers serial {version} of {name} with another content than this node has \
         seen: two servers publish it, or one was restored from a backup; raise the serial with \
         'si_tardiff publish --serial N', or pass --allow-downgrade"
    )]
    ForkedServer { name: String, version: Version },
    /// The published `cluster.txt` is not the one that its catalog names.
    #[error(transparent)]
    ClusterDigest(FetchError),
    /// Nothing signs the data of the run.
    #[error("this node requires signatures, and {0}")]
    UnsignedRoute(UnsignedRoute),
    /// No key of the node would verify what it has just accepted.
    #[error(
        "cannot install the keys of the image: with them, this node could not verify the {} of \
         {layer} any more: {source}; add the public key to etc/systemimager/keys of the image and \
         publish it again, or sign {layer} with a key of the image", signed_file(.role)
    )]
    NoKeyLeft { role: Role, layer: Layer, source: SignatureError },
    #[error("cannot install the keys of the image: {source}; correct the image")]
    KeysOfImage { source: KeysError },
    #[error("cannot install the key {path} of the image: it is no regular file; correct the image")]
    KeyOfImageIsNoFile { path: String },
    /// A signature is missing or wrong.
    #[error("the {} of {layer}: {source}{}", signed_file(.role), remedy(.source))]
    Signature { role: Role, layer: Layer, source: SignatureError },
    /// The head of `cluster.txt` is not fresh, and the node has no record of its image.
    #[error("{0}; pass --image to name the image of this node, since none is recorded here")]
    NotAssigned(FreshnessError),
    /// Nothing shows that the head is the newest one.
    #[error(transparent)]
    NotFresh(#[from] FreshnessError),
}

/// Reason that a head may not be the newest: somebody may hold that back, or replay an old one.
///
/// Such a head leads to no other generation than the recorded one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FreshnessError {
    #[error(
        "the head of {name} was issued at {issued}, and this node's clock shows {now}: one of the \
         clocks is wrong"
    )]
    Future { name: String, issued: jiff::Timestamp, now: jiff::Timestamp },
    #[error("the head of {name} has no end: only a publish key may sign such a head")]
    Endless { name: String },
    #[error(
        "the head of {name} is valid until {expires}, for more than the {} days that max_head_age \
         allows; pass --allow-expired to accept it", limit.as_secs() / 86_400
    )]
    Long { name: String, expires: jiff::Timestamp, limit: Duration },
    #[error(
        "the head of {name} expired at {expires}; the server is not updated any more; pass \
         --allow-expired to install it all the same"
    )]
    Expired { name: String, expires: jiff::Timestamp },
    /// The node has seen a newer head, and that of another catalog than the tree was brought up to.
    #[error(
        "the repository is older than one that this node has seen, and this tree was not brought \
         up to that one; use another repository, or pass --allow-downgrade"
    )]
    StaleImage {
        /// The newest catalog seen.
        newest: Digest,
    },
    #[error(
        "the repository has an older override {name} than this node has seen; use another \
         repository, or pass --allow-downgrade"
    )]
    StaleOverride { name: ImageName },
    #[error(
        "the repository has an older cluster.txt than this node has seen; use another repository, \
         or pass --allow-downgrade"
    )]
    StaleCluster,
}

/// Reason that the data of a run cannot be verified.
#[derive(Debug, thiserror::Error)]
pub enum UnsignedRoute {
    #[error(
        "image {image} is not published in {repository}; publish it with 'si_tardiff publish \
         --image {image} --sign-key FILE'"
    )]
    Image { image: ImageName, repository: String },
    #[error(
        "override {name} is not published; publish it with 'si_tardiff publish --override {name} \
         --sign-key FILE'"
    )]
    Override { name: ImageName },
    #[error(
        "cluster.txt is not published in {repository}; publish it with 'si_tardiff publish \
         --cluster FILE --sign-key FILE', or pass --image"
    )]
    Cluster { repository: String },
    #[error("no repository is known that could be signed, or require_tls forbids it; pass --repo")]
    NoRepository,
    /// Nobody said that the image server has a repository.
    #[error("the image server has no repository that could be signed: {0}; pass --repo")]
    NoRepositoryOfServer(FetchError),
    /// Verified boot files would not help: the installer itself verifies nothing.
    #[error(
        "--autoinstall starts an installer that takes its kernel, its scripts and the image from \
         rsync, where nothing is signed; start the installer by other means"
    )]
    Autoinstall,
}

/// Reason that an update cannot be applied on this node.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(
        "cannot start a dry run: an interrupted update is not complete; run without --dry-run first"
    )]
    DryRunWhileInterrupted,
    #[error(
        "cannot adopt this tree: in each published generation more than {percent:.0} % of the \
         entries differ"
    )]
    NotAdoptable { percent: f64 },
    #[error("cannot copy the overrides over the image: {0}")]
    Overrides(#[source] ManifestError),
    #[error("cannot use override {name}: it has {entries} entries; at most {limit} are allowed")]
    LargeOverride { name: ImageName, entries: usize, limit: usize },
    #[error(
        "cannot replace a directory of this node: {path} in it is the node's own, and the image \
         has another type at a path above it; --no-delete keeps it"
    )]
    WouldDisplace { path: TreePath },
    #[error("this tree changed while the image was received: {}; run again", list_paths(.paths))]
    ChangedWhileReceiving { paths: Vec<TreePath> },
    #[error("cannot read the undo set: {0}")]
    UndoSet(#[source] UndoLogError),
    #[error(
        "cannot change this tree: the files of this process may have at most {bytes} bytes \
         (RLIMIT_FSIZE), and it may not raise the limit; run without `ulimit -f`"
    )]
    FileSizeLimit { bytes: u64 },
    #[error("the download thread of this program failed")]
    DownloadThread,
    #[error("cannot explain {path}: nothing is recorded of this tree; update it first")]
    NothingRecorded { path: String },
    #[error("cannot verify or repair {root}: nothing is recorded of this tree; update it first")]
    NothingToVerify { root: String },
    #[error(
        "cannot repair {path}: the directory {parent} above it is missing, or has another type; \
         repair {parent}"
    )]
    NoParent { path: TreePath, parent: TreePath },
    #[error(
        "cannot save the edited {path}: {limit} versions of it are saved already; remove old ones from \
         /var/lib/systemimager/client/saved"
    )]
    TooManySaved { path: TreePath, limit: u32 },
    #[error("cannot repair this tree: the record of override {name} is damaged; update it")]
    OverrideLost { name: ImageName },
    #[error(
        "cannot verify the tree: the manifest of its generation {} is lost, and the repository does \
         not list this generation any more", generation.short()
    )]
    ManifestLost { generation: GenerationId },
    #[error("cannot compare with override {name}: it is not published, and not recorded here")]
    OverrideNotPublished { name: ImageName },
    /// The mounts of this node cannot be read.
    #[error(transparent)]
    Mounts(SessionError),
    /// The downloaded update was found to be unusable, and a line has named the reason.
    #[error(
        "cannot install the downloaded update: it cannot be used any more; run --download-only \
         again, or --diff"
    )]
    DownloadDropped,
    #[error(
        "cannot use the downloaded update: it has no manifest of generation {}; run --diff",
        generation.short()
    )]
    NotDownloaded { generation: GenerationId },
    #[error(
        "cannot use the downloaded update: it is damaged: {0}; run --download-only again, or --diff"
    )]
    Downloaded(#[source] DownloadedFault),
    #[error("cannot keep the download: {0}")]
    DownloadNotKept(#[source] DownloadedFault),
    #[error(
        "cannot install the downloaded update: contents were changed or removed since the \
         download, for {}; run --download-only again, or --diff", list_paths(.paths)
    )]
    DownloadDamaged { paths: Vec<TreePath> },
    #[error(
        "cannot install the downloaded update: it was downloaded at {downloaded}, more than {} ago, \
         which staged_max_age does not allow; run --download-only again, or --diff",
        exact_duration(*limit)
    )]
    OldDownload { downloaded: jiff::Timestamp, limit: Duration },
    #[error("this tree was changed during the switch: {}; run again", list_paths(.paths))]
    ChangedDuringSwitch { paths: Vec<TreePath> },
    /// Rsync, or its dry run, failed because of this node.
    #[error(transparent)]
    Rsync(FullSyncError),
}

/// Reason that a downloaded update may not be installed now.
#[derive(Debug, thiserror::Error)]
pub enum NotNow {
    #[error("the server has paused updates of {name}; run again later")]
    Paused { name: String },
    #[error(
        "serial {newer} of {name} has been published since; run --download-only, or --diff, to get \
         it"
    )]
    Superseded { name: String, newer: Version },
}

/// Reason that an update does not fit.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    #[error("{}", join(.0, "; "))]
    Shortages(Vec<Shortage>),
    /// Removing the undo set would help, but the configuration forbids it.
    #[error(
        "{}; the undo set is in the way, and keep_undo = \"always\" keeps it", join(.0, "; ")
    )]
    UndoSetKept(Vec<Shortage>),
    /// Removing the undo set would help, but a download keeps it.
    #[error(
        "{}; the undo set is in the way, and a download keeps it until the switch; free space, or \
         run --diff", join(.0, "; ")
    )]
    UndoSetNeeded(Vec<Shortage>),
    /// Rsync met a full filesystem.
    #[error("{0}")]
    Rsync(FullSyncError),
}

/// Reason that a needed full sync is impossible.
#[derive(Debug, thiserror::Error)]
pub enum NoFullSync {
    #[error("cannot run a full sync: --no-fallback forbids it: {0}")]
    Forbidden(FullSyncReason),
    #[error(
        "cannot run a full sync: {0}, and no rsync server is configured (--server), or require_tls \
         is set without --ssh-user; repair the repository, or name an rsync server"
    )]
    NoServer(FullSyncReason),
    #[error("override {name} is not published, and no rsync server is configured (--server)")]
    NoServerForOverride { name: ImageName },
    #[error(
        "cannot run a full sync: {repository}; rsync, the next source, fails as well: {rsync}; \
         repair the repository or the rsync server"
    )]
    Unavailable { repository: Box<RepositoryFailure>, rsync: FullSyncError },
    /// A repair needs a content that no source has.
    #[error(
        "cannot repair {}: neither this tree nor a server supplies the recorded content; run \
         si_tardiff verify on the server, or update to a newer generation", list_paths(.paths)
    )]
    ContentNowhere { paths: Vec<TreePath> },
    /// The image changed on the server after it was published.
    #[error(
        "the image tree on the server is not the published head any more: {0}; publish it and run \
         again"
    )]
    ImageChanged(FullSyncReason),
}

/// Reason that the repository did not supply all contents of a full sync.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryFailure {
    #[error("{0}")]
    Lacks(FullSyncReason),
    #[error(transparent)]
    Unusable(Box<UpdateError>),
}

/// Reason that the pre-update hooks did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("cannot read the hook directory: {0}")]
    Unreadable(#[from] RootError),
    #[error(transparent)]
    Failed(#[from] ToolError),
}

/// Failure after the transaction. The tree stays as it was made.
#[derive(Debug, thiserror::Error)]
pub enum FollowUpError {
    /// The boot loader's run is pending.
    #[error("the boot loader was not updated after boot files changed: {0}")]
    BootLoader(#[from] BootLoaderError),
    /// The boot loader's run is pending until no boot file is left out.
    #[error("the boot loader was not updated, since {path} was left out; the next run will retry")]
    BootFileLeftOut { path: String },
    /// A kernel that the tree does not have stays first in the boot menu.
    #[error(
        "the next boot starts kernel {wrong}, which is still in {boot_file}, and not {wanted}: \
         {reason}; remove {boot_file} and run the boot loader's tool, or choose {wanted} at boot"
    )]
    NextBoot { wrong: String, wanted: String, boot_file: String, reason: NoDefaultEntry },
    /// The kernel that the tree has left stays in the boot menu.
    #[error(
        "the boot files of the kernel that was left cannot be removed: {0}; the next run will retry"
    )]
    BootFilesLeft(Box<UpdateError>),
    /// The default entry that an earlier run set is still set.
    #[error(
        "the default boot entry of an earlier rollback ({entry}) cannot be cleared: {reason}; \
         the next update will retry"
    )]
    DefaultEntryLeft { entry: String, reason: NoDefaultEntry },
    /// Nothing is known about the next boot.
    #[error("the kernel of the next boot cannot be verified: {0}")]
    NextBootUnknown(NoDefaultEntry),
    /// No post-update hook was run.
    #[error("the post-update hooks cannot be read: {0}")]
    HooksUnreadable(RootError),
    /// The other hooks were run.
    #[error("a post-update hook failed: {0}")]
    Hook(ToolError),
    /// The node runs with the updated tree.
    #[error("this node could not be rebooted: {0}")]
    Reboot(ToolError),
}

/// Reason that a boot loader tool was not run successfully.
#[derive(Debug, thiserror::Error)]
pub enum BootLoaderError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A tool of an offline tree failed, in which directories of the kernel are not mounted.
    #[error(
        "{source}; {root} has no {}: bind the directories (mount --rbind /{} {root}/{}) and run \
         again", dirs.iter().map(|dir| format!("/{dir}")).collect::<Vec<_>>().join(", "),
        dirs.first().unwrap_or(&""), dirs.first().unwrap_or(&"")
    )]
    ToolBelowRoot { source: ToolError, root: String, dirs: Vec<&'static str> },
    #[error("the setting bootloader names no program")]
    NoProgram,
    #[error("the setting bootloader names no usable path: {0}")]
    BadProgram(String),
}

impl UpdateError {
    /// Converts an error of a reception from `server`, by the side at fault.
    pub(super) fn from_full_sync(error: FullSyncError, server: &Server) -> Self {
        let kind = match error {
            FullSyncError::Root(error) => return Untouched::from_root(error).into(),
            FullSyncError::Cancelled => return UpdateError::Cancelled,
            FullSyncError::DiskSpace(_) => return SpaceError::Rsync(error).into(),
            FullSyncError::Node(_)
            | FullSyncError::PartialHere(_)
            | FullSyncError::NotInstalled => {
                return Refusal::Rsync(error).into();
            }
            FullSyncError::Server(_) | FullSyncError::Partial(_) => FetchErrorKind::Other,
            FullSyncError::NotFound(_) => FetchErrorKind::NotFound,
            FullSyncError::Unavailable(_) => FetchErrorKind::Unreachable,
        };
        FetchError::new(kind, Side::Server, server.to_string(), error).into()
    }
}

impl RepositoryFailure {
    /// Returns the error of a run that has no rsync server.
    pub(super) fn without_rsync(self) -> UpdateError {
        match self {
            RepositoryFailure::Lacks(reason) => NoFullSync::NoServer(reason).into(),
            RepositoryFailure::Unusable(error) => *error,
        }
    }

    /// Returns the error of a run whose reception from `server` failed as well.
    pub(super) fn and_rsync(self, error: FullSyncError, server: &Server) -> UpdateError {
        match error {
            rsync @ (FullSyncError::Unavailable(_)
            | FullSyncError::NotInstalled
            | FullSyncError::NotFound(_)) => {
                NoFullSync::Unavailable { repository: Box::new(self), rsync }.into()
            }
            error => UpdateError::from_full_sync(error, server),
        }
    }
}

impl From<FetchError> for UpdateError {
    fn from(error: FetchError) -> Self {
        match error.kind {
            FetchErrorKind::Cancelled => UpdateError::Cancelled,
            _ => UpdateError::Fetch(error),
        }
    }
}

impl From<Untouched> for UpdateError {
    fn from(error: Untouched) -> Self {
        match error {
            Untouched::State(error) => error.into(),
            Untouched::Budget { .. } => UpdateError::Budget(error),
            Untouched::Cancelled => UpdateError::Cancelled,
            error => UpdateError::Node(error),
        }
    }
}

impl From<StateError> for UpdateError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Locked { .. } => UpdateError::Locked(error),
            error => UpdateError::Node(Untouched::State(error)),
        }
    }
}

impl From<Unapplied> for UpdateError {
    fn from(error: Unapplied) -> Self {
        match error {
            Unapplied::Interrupted(error) => UpdateError::Interrupted(error),
            Unapplied::Reversed(error) => UpdateError::Reversed(error),
        }
    }
}

impl From<SessionError> for UpdateError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Root(error) => Untouched::from_root(error).into(),
            SessionError::State(error) => error.into(),
            SessionError::Interrupted(error) => UpdateError::Interrupted(error),
            SessionError::Reversed(error) => UpdateError::Reversed(error),
            SessionError::Mounts(_) => Refusal::Mounts(error).into(),
            SessionError::NotMounted { .. } | SessionError::Journal(_) => {
                UpdateError::Unfinished(error)
            }
        }
    }
}

/// Name of the file that keys of a role sign.
fn signed_file(role: &Role) -> &'static str {
    match role {
        Role::Publish => "catalog",
        Role::Head => "head",
    }
}

/// Help for a node that has slept through a rotation of keys.
fn remedy(error: &SignatureError) -> &'static str {
    match error {
        SignatureError::UnknownKeys { .. } => {
            "; if the site has a new key, copy its .pub file to /etc/systemimager/keys"
        }
        _ => "",
    }
}

/// Returns the first of many paths, for a message.
pub(super) fn list_paths(paths: &[TreePath]) -> String {
    let listed = join(&paths[..paths.len().min(MAX_LISTED)], ", ");
    match paths.len().saturating_sub(MAX_LISTED) {
        0 => listed,
        more => format!("{listed} and {more} more"),
    }
}

pub(super) fn join(parts: &[impl fmt::Display], separator: &str) -> String {
    parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}
