//! Receives an image by the system's rsync program, beside the live tree and never into it.
//!
//! rsync leaves out what the live tree has already (`--compare-dest`). What it brings is only material:
//! whoever asked for it takes each file by its digest, and all metadata from the manifest.

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::apply::FULL;
use crate::image::ImageName;
use crate::report::{Event, Job, Monitor};
use crate::root::{Root, RootError};
use crate::rsync::{self, Call, Failure, Heard, RsyncError};
use crate::tree_path::TreePath;

/// No full sync takes longer: 100 GB at 5 MB/s take less.
const LONGEST: Duration = Duration::from_secs(6 * 3600);
/// Seconds of silence after which rsync gives up.
const SILENCE: u32 = 120;
/// Seconds to wait for a connection.
const CONNECT: u32 = 15;
/// Extended attributes that no image has, in the words of rsync: see [`crate::entry::xattr_travels`].
const NEVER_TRAVEL: [&str; 6] =
    ["btrfs.*", "security.selinux", "security.ima", "security.evm", "trusted.overlay.*", "trusted.SGI_ACL_*"];

/// An rsync daemon that serves images as modules.
#[derive(Clone, Debug)]
pub struct Server {
    /// Name or address.
    pub host: String,
    /// Of the daemon.
    pub port: u16,
    /// A port of this machine that leads to the daemon, where it is not reached itself.
    pub through: Option<u16>,
}

impl Server {
    /// The address that a module, or something in it, is reached by.
    pub fn address(&self, inside: &str) -> String {
        match self.through {
            Some(port) => format!("rsync://127.0.0.1:{port}/{inside}"),
            None => self.shown(inside),
        }
    }

    /// The address that it is known by.
    pub fn shown(&self, inside: &str) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("rsync://{host}:{}/{inside}", self.port)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown(""))
    }
}

/// Why an image could not be received.
#[derive(Debug, thiserror::Error)]
pub enum FullSyncError {
    /// This node's disk.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The run was asked to stop.
    #[error("stopped on request")]
    Stopped,
    /// There is no way to an rsync server.
    #[error("{0}")]
    Unavailable(String),
    /// A filesystem of this node is full.
    #[error("rsync: {0}")]
    NoRoom(String),
    /// Something on this node.
    #[error("rsync: {0}")]
    Node(String),
    /// The server or the network.
    #[error("rsync: {0}")]
    Server(String),
}

/// Receives what differs from the live tree; returns the tree that holds it, to be removed by
/// [`discard`]. `rules` are the filter in rsync's language.
pub fn receive(
    root: &Root,
    server: &Server,
    image: &ImageName,
    rules: &[u8],
    monitor: &dyn Monitor,
) -> Result<Root, FullSyncError> {
    discard(root)?;
    let place = path(FULL);
    root.create_dir(&place)?;
    let full = root.below(&place)?;
    let tree = path("tree");
    full.create_dir(&tree)?;
    let mut file = full.create_file(&path("rules"))?;
    file.write_all(rules).map_err(|source| RootError { what: "write", path: full.show(&path("rules")), source })?;
    let arguments = arguments(root, server, image);
    let call = Call {
        arguments: &arguments,
        inside: Some(full.as_fd()),
        deadline: Some(Instant::now() + LONGEST),
        largest_file: None,
    };
    monitor.event(Event::Started { job: Job::Download, total: 0 });
    let outcome = rsync::run(&call, &mut |heard| {
        if monitor.is_stopped() {
            return ControlFlow::Break(());
        }
        if let Heard::Line(line) = heard
            && let Some(by) = std::str::from_utf8(line).ok().and_then(|text| text.trim().parse().ok())
        {
            monitor.event(Event::Advanced { job: Job::Download, by });
        }
        ControlFlow::Continue(())
    });
    monitor.event(Event::Finished { job: Job::Download });
    let outcome = outcome.map_err(|error| match error {
        RsyncError::Stopped => FullSyncError::Stopped,
        RsyncError::NotInstalled => FullSyncError::Unavailable(error.to_string()),
        RsyncError::TimedOut => FullSyncError::Server(error.to_string()),
        RsyncError::Run(_) => FullSyncError::Node(error.to_string()),
    })?;
    let reason = || format!("{} ({})", outcome.reason(), server.shown(&format!("{image}/")));
    match outcome.failure() {
        None => {}
        // What did not come is missed, by name, when the contents are taken.
        Some(Failure::Partial) => monitor.warn(format!("rsync could not bring everything: {}", reason())),
        Some(Failure::NoRoom) => return Err(FullSyncError::NoRoom(reason())),
        Some(Failure::Local) => return Err(FullSyncError::Node(reason())),
        Some(Failure::NotFound | Failure::Refused | Failure::Unreachable) => {
            return Err(FullSyncError::Unavailable(reason()));
        }
        Some(Failure::Lost | Failure::Other) => return Err(FullSyncError::Server(reason())),
    }
    Ok(full.below(&tree)?)
}

/// Removes what [`receive`] left.
pub fn discard(root: &Root) -> Result<(), RootError> {
    root.remove_tree(&path(FULL))
}

fn arguments(root: &Root, server: &Server, image: &ImageName) -> Vec<OsString> {
    let mut compare = OsString::from("--compare-dest=");
    compare.push(root.shown());
    let mut arguments: Vec<OsString> =
        ["-aHAXS", "--numeric-ids", "--no-inc-recursive", "--checksum"].map(OsString::from).into();
    arguments.push(compare);
    arguments.push("--filter=merge rules".into());
    for never in NEVER_TRAVEL {
        arguments.push(format!("--filter=-x {never}").into());
    }
    arguments.push("--out-format=%l".into());
    arguments.push(format!("--timeout={SILENCE}").into());
    arguments.push(format!("--contimeout={CONNECT}").into());
    arguments.push("--".into());
    arguments.push(server.address(&format!("{image}/")).into());
    arguments.push("tree/".into());
    arguments
}

/// A fixed name as a path; such names are good.
fn path(name: &str) -> TreePath {
    TreePath::new(name).unwrap_or_else(|_| TreePath::root())
}
