//! Asks the image server which image this host follows, where nothing on the node says it.

use std::io::Read;
use std::path::Path;

use crate::apply::Untouched;
use crate::fetch::{FetchError, FetchErrorKind, FetchOptions, Repository, Side};
use crate::full_sync::Server;
use crate::host::{Cluster, MAX_FILE};
use crate::image::ImageName;
use crate::root::{Root, RootError};
use crate::tree_path::TreePath;
use crate::update::UpdateError;

/// The file, in the server's module `scripts`.
const FILE: &str = "cluster.txt";
/// Where an offline tree says what it is called.
const HOSTNAME: &str = "etc/hostname";
/// No host name is longer.
const MAX_NAME: u64 = 4096;

/// What the server assigns to this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The image.
    pub image: ImageName,
    /// What is laid over it, each over the ones before it.
    pub overrides: Vec<ImageName>,
}

/// Reads the server's `scripts/cluster.txt` for the host that the tree at `root` is.
pub fn cluster(
    root: &Path,
    server: &Server,
    options: &FetchOptions,
) -> Result<Assigned, UpdateError> {
    let root = Root::open(root).map_err(Untouched::from)?;
    let host = host_name(&root).map_err(Untouched::from)?;
    let unknown =
        "this host has no name that the server's cluster.txt could know it by: give --image";
    let host = host.ok_or_else(|| UpdateError::Usage(unknown.to_owned()))?;
    let address = server.shown("scripts/");
    let bytes = Repository::open_module(server.address("scripts/"), address.clone(), options)?
        .fetch_unverified(FILE, MAX_FILE as u64)?;
    let lying = |why: String| {
        FetchError::new(FetchErrorKind::Corrupt, Side::Server, format!("{address}{FILE}"), why)
    };
    let cluster = Cluster::parse(FILE, &bytes, &host).map_err(|e| lying(e.to_string()))?;
    let image = cluster
        .image
        .ok_or_else(|| lying(format!("it names no image for {host}: give --image")))?;
    Ok(Assigned { image, overrides: cluster.overrides })
}

/// The name of the system that the tree is, up to its first dot: what the tree itself says where it does not
/// run, else what the kernel says.
pub fn host_name(root: &Root) -> Result<Option<String>, RootError> {
    let mut name = None;
    if !root.is_running_system()? {
        let path = TreePath::new(HOSTNAME).unwrap_or_else(|_| TreePath::root());
        match root.open_file(&path) {
            Err(e) if e.is_absent() => {}
            answer => {
                let mut bytes = Vec::new();
                let read = answer?.take(MAX_NAME).read_to_end(&mut bytes);
                read.map_err(|source| RootError { what: "read", path: root.show(&path), source })?;
                let text = String::from_utf8_lossy(&bytes).into_owned();
                name = text
                    .lines()
                    .map(str::trim)
                    .find(|line| !line.is_empty() && !line.starts_with('#'))
                    .map(str::to_owned);
            }
        }
    }
    let name =
        name.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    let short = name.split('.').next().unwrap_or_default();
    Ok((!short.is_empty() && short != "(none)").then(|| short.to_owned()))
}
