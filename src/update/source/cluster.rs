//! The `cluster.txt` of a site: image and overrides of a host whose own configuration names none.
//!
//! A node that requires signatures reads the published one, which is verified like an image. Any
//! other node reads that of the rsync daemon, as the old client did, so that a change of the file
//! needs no publish.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::apply::Untouched;
use crate::apply::session::Session;
use crate::catalog::CatalogFault;
use crate::fetch::{FetchError, FetchErrorKind, FetchOptions, Repository, Side};
use crate::full_sync::Server;
use crate::host::{BadFile, HostAssignment, MAX_FILE};
use crate::image::{ImageName, Layer};
use crate::report::Monitor;
use crate::root::{Root, RootError};
use crate::state::{self, LoadedState};
use crate::tree_path::TreePath;
use crate::update::error::{
    ClusterFault, FreshnessError, Refusal, TrustError, UnsignedRoute, UpdateError, UsageError,
};
use crate::update::notice::{KeptAssignment, UpdateNotice};
use crate::update::recover::{open_for_dry_run, open_session};
use crate::update::request::{AssignmentSource, RepositorySource, TrustSettings};
use crate::update::requester::Requester;
use crate::update::source::head::{LayerAnswer, LayerRequest};
use crate::update::source::published::PublishedImage;
use crate::update::source::trust::requires_signature;

/// Name of the file in the rsync module `scripts`.
const FILE: &str = "cluster.txt";
/// File with the host name of an offline tree.
const HOSTNAME: &str = "etc/hostname";
/// Limit for the bytes read of that file; a host name is shorter.
const MAX_NAME: u64 = 4096;

/// Request for the image and the overrides of a host.
#[derive(Clone, Debug)]
pub struct ClusterRequest {
    /// Top of the tree of the host.
    pub root: PathBuf,
    /// Rsync daemon with the module `scripts`.
    pub rsync: Option<Server>,
    /// Repository with the published file.
    pub repo: Option<RepositorySource>,
    /// Options of downloads.
    pub fetch: FetchOptions,
    /// Limit for the bytes in the spool.
    pub spool_limit: u64,
    /// Requirements for signatures and times.
    pub trust: TrustSettings,
    /// Whether a file older than one seen before is accepted.
    pub allow_downgrade: bool,
    /// Filesystem types of the root that are accepted although they are not known to be safe.
    pub allow_root_fs: Vec<String>,
    /// Whether the node records nothing.
    pub dry_run: bool,
}

/// Image and overrides of a host.
#[derive(Clone, Debug)]
pub struct Assigned {
    /// The image.
    pub image: ImageName,
    /// Overrides, each copied over the image and those before it.
    pub overrides: Vec<ImageName>,
    /// Source of these names.
    pub source: AssignmentSource,
}

/// A `cluster.txt`, its address and its source.
struct ClusterFile {
    bytes: Vec<u8>,
    address: String,
    source: AssignmentSource,
}

/// Fetches `cluster.txt` and finds the host of the tree; without a newest one, reads the record.
pub fn cluster(request: &ClusterRequest, monitor: &dyn Monitor) -> Result<Assigned, UpdateError> {
    let root = Root::open(&request.root).map_err(Untouched::from)?;
    let host = host_name(&root).map_err(Untouched::from)?.ok_or(UsageError::NamelessHost)?;

    let is_required = requires_signature(&root, &request.trust)?;
    let file = match (&request.rsync, &request.repo) {
        (Some(server), _) if !is_required => fetch_from_daemon(server, &request.fetch)?,
        (_, Some(repo)) => return assign_as_published(request, repo, &host, monitor),
        (_, None) if is_required => {
            return Err(TrustError::UnsignedRoute(UnsignedRoute::NoRepository).into());
        }
        (_, None) => return Err(UsageError::NoServer.into()),
    };
    file.assignment(&host)
}

fn fetch_from_daemon(server: &Server, options: &FetchOptions) -> Result<ClusterFile, UpdateError> {
    let address = server.address("scripts/");
    let bytes = Repository::open_module(address.clone(), server.relay.clone(), options)?
        .fetch_unverified(FILE, MAX_FILE as u64)?;
    let address = format!("{address}{FILE}");
    Ok(ClusterFile { bytes, address, source: AssignmentSource::Daemon })
}

/// Assigns by the published file, or by the record if the head of that file is not fresh.
fn assign_as_published(
    request: &ClusterRequest,
    repo: &RepositorySource,
    host: &str,
    monitor: &dyn Monitor,
) -> Result<Assigned, UpdateError> {
    // The record of the newest catalog is a file of the tree, which only one run may change.
    let session = if request.dry_run {
        open_for_dry_run(&request.root)?
    } else {
        open_session(&request.root, &request.allow_root_fs, monitor)?
    };
    let mut published = ask(request, repo, &session, monitor)?;
    match published.not_fresh.take() {
        Some(not_fresh) => assign_as_recorded(&session.root, *published, not_fresh, monitor),
        None => fetch_published(*published, repo)?.assignment(host),
    }
}

/// Asks for head and catalog, which are verified like those of an image.
fn ask(
    request: &ClusterRequest,
    repo: &RepositorySource,
    session: &Session,
    monitor: &dyn Monitor,
) -> Result<Box<PublishedImage>, UpdateError> {
    let node = Requester {
        root: &session.root,
        fetch: &request.fetch,
        trust: &request.trust,
        allow_downgrade: request.allow_downgrade,
        dry_run: request.dry_run,
        spool_limit: request.spool_limit,
        monitor,
    };
    let question = LayerRequest { node, repo: repo.url(), layer: &Layer::Cluster, known: None };
    match question.send().map_err(|error| repo.explain(error))? {
        LayerAnswer::Published(published) => Ok(published),
        LayerAnswer::NotPublished => {
            let repository = repo.url().to_string();
            Err(TrustError::UnsignedRoute(UnsignedRoute::Cluster { repository }).into())
        }
        // Without a known catalog there is no answer without a catalog.
        LayerAnswer::Unchanged | LayerAnswer::Stale => {
            Err(TrustError::UnexpectedNotModified.into())
        }
    }
}

/// Keeps the recorded image and overrides.
///
/// Otherwise a server that is not updated any more would keep a node from its own repair. A mirror
/// that is behind has nothing new to say about the assignment; any other reason leads to no other
/// generation than the recorded one.
fn assign_as_recorded(
    root: &Root,
    published: PublishedImage,
    not_fresh: FreshnessError,
    monitor: &dyn Monitor,
) -> Result<Assigned, UpdateError> {
    let is_stale = not_fresh == FreshnessError::StaleCluster;
    let state = match state::load(root).map_err(Untouched::from)? {
        LoadedState::Valid(state) | LoadedState::FromCopy(state)
            if is_stale || state.is_published() =>
        {
            state
        }
        _ => return Err(TrustError::NotAssigned(not_fresh).into()),
    };

    let overrides: Vec<ImageName> = state.overrides.into_iter().map(|record| record.name).collect();
    monitor.warn(KeptAssignment { image: &state.image, overrides: &overrides });
    let source = if is_stale {
        AssignmentSource::Record
    } else {
        AssignmentSource::RecordToRepair { cluster: published.signed, not_fresh }
    };
    Ok(Assigned { image: state.image, overrides, source })
}

/// Image and overrides of the record, for a run that installs no other generation.
pub fn recorded_assignment(root: &Path, monitor: &dyn Monitor) -> Result<Assigned, UpdateError> {
    let root = Root::open(root).map_err(Untouched::from)?;
    match state::load(&root).map_err(Untouched::from)? {
        LoadedState::Valid(state) | LoadedState::FromCopy(state) => {
            let overrides = state.overrides.into_iter().map(|record| record.name).collect();
            return Ok(Assigned {
                image: state.image,
                overrides,
                source: AssignmentSource::Record,
            });
        }
        LoadedState::Rejected(error) => monitor.warn(UpdateNotice::StateIgnored(error)),
        LoadedState::Missing => {}
    }
    Err(Refusal::NothingToVerify { root: root.show(&TreePath::root()) }.into())
}

/// Fetches the file that the catalog names.
fn fetch_published(
    published: PublishedImage,
    repo: &RepositorySource,
) -> Result<ClusterFile, UpdateError> {
    let repository = &published.repository;
    let file = published.catalog.cluster_file.as_ref().ok_or(CatalogFault::ClusterFile);
    let file = file.map_err(|fault| TrustError::Catalog(fault.into()))?;
    let fetched = repository.fetch_small(file, MAX_FILE as u64);
    let bytes = fetched.map_err(|error| match error.kind {
        FetchErrorKind::Corrupt => TrustError::ClusterDigest(error).into(),
        _ => UpdateError::from(error),
    })?;
    repository.discard(file)?;
    let address = format!("{}cluster/{}", repo.url(), file.file);
    Ok(ClusterFile { bytes, address, source: AssignmentSource::Cluster(published.signed) })
}

impl ClusterFile {
    /// Finds image and overrides of `host`.
    fn assignment(self, host: &str) -> Result<Assigned, UpdateError> {
        let found = HostAssignment::parse(FILE, &self.bytes, host)
            .map_err(|error: BadFile| self.unusable(error.into()))?;
        let no_image = ClusterFault::NoImage { host: host.to_owned() };
        let image = found.image.ok_or_else(|| self.unusable(no_image))?;
        Ok(Assigned { image, overrides: found.overrides, source: self.source })
    }

    fn unusable(&self, why: ClusterFault) -> FetchError {
        FetchError::new(FetchErrorKind::Corrupt, Side::Server, self.address.clone(), why)
    }
}

/// Returns the host name of a tree, up to the first dot.
///
/// An offline tree has its own `etc/hostname`; without one the running kernel's name is used.
pub fn host_name(root: &Root) -> Result<Option<String>, RootError> {
    let own = if root.is_running_system()? { None } else { read_host_name(root)? };
    let name =
        own.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());

    let short = name.split('.').next().unwrap_or_default();
    // The kernel reports "(none)" if no name was set.
    Ok((!short.is_empty() && short != "(none)").then(|| short.to_owned()))
}

/// Reads the first line of `etc/hostname` that is no comment.
fn read_host_name(root: &Root) -> Result<Option<String>, RootError> {
    let path = TreePath::new(HOSTNAME).unwrap_or_else(|_| TreePath::root());
    let file = match root.open_file(&path) {
        Err(error) if error.is_absent() => return Ok(None),
        answer => answer?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_NAME).read_to_end(&mut bytes).map_err(|source| RootError {
        operation: "read",
        path: root.show(&path),
        source,
    })?;

    let text = String::from_utf8_lossy(&bytes);
    let name = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(name.map(str::to_owned))
}
