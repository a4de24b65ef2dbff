//! The server's `cluster.txt`: image and overrides of a host whose own configuration names none.

use std::io::Read;
use std::path::Path;

use crate::apply::Untouched;
use crate::fetch::{FetchError, FetchErrorKind, FetchOptions, Repository, Side};
use crate::full_sync::Server;
use crate::host::{HostAssignment, MAX_FILE};
use crate::image::ImageName;
use crate::root::{Root, RootError};
use crate::tree_path::TreePath;
use crate::update::error::{ClusterFault, UnsignedRoute, UpdateError, UsageError};
use crate::update::request::TrustSettings;
use crate::update::source::trust::refuse_unsigned;

/// Name of the file in the rsync module `scripts`.
const FILE: &str = "cluster.txt";
/// File with the host name of an offline tree.
const HOSTNAME: &str = "etc/hostname";
/// Limit for the bytes read of that file; a host name is shorter.
const MAX_NAME: u64 = 4096;

/// Image and overrides that the server assigns to a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The image.
    pub image: ImageName,
    /// Overrides, each copied over the image and those before it.
    pub overrides: Vec<ImageName>,
}

/// Fetches `cluster.txt` and finds the host to which the tree at `root` belongs.
pub fn cluster(
    root: &Path,
    server: &Server,
    options: &FetchOptions,
    trust: &TrustSettings,
) -> Result<Assigned, UpdateError> {
    let root = Root::open(root).map_err(Untouched::from)?;
    refuse_unsigned(&root, trust, UnsignedRoute::Cluster)?;
    let host = host_name(&root).map_err(Untouched::from)?.ok_or(UsageError::NamelessHost)?;

    let address = server.address("scripts/");
    let bytes = Repository::open_module(address.clone(), server.relay.clone(), options)?
        .fetch_unverified(FILE, MAX_FILE as u64)?;

    let unusable = |why: ClusterFault| {
        FetchError::new(FetchErrorKind::Corrupt, Side::Server, format!("{address}{FILE}"), why)
    };
    let cluster =
        HostAssignment::parse(FILE, &bytes, &host).map_err(|error| unusable(error.into()))?;
    let image = cluster.image.ok_or_else(|| unusable(ClusterFault::NoImage { host }))?;
    Ok(Assigned { image, overrides: cluster.overrides })
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
