//! Receives an image or an override by the system's rsync program, beside the live tree and never into it.
//!
//! rsync leaves out what the live tree has already (`--compare-dest`). What it brings of a published image is
//! only material: whoever asked for it takes each file by its digest, and all metadata from the manifest.
//! Where nothing is published, [`Module::receive_whole`] makes a manifest of what came and of what was left
//! out, and lets rsync judge it a second time.

mod forecast;
mod itemized;
mod receive_unpublished;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use crate::apply::filesystem::mount_root_times;
use crate::apply::on_disk::RECEIVE_DIR;
use crate::image::Layer;
use crate::report::{Event, Job, Monitor};
use crate::root::{Root, RootError};
use crate::rsync::{self, RsyncCall, RsyncError, RsyncFailure, RsyncOutcome, RsyncOutput};
use crate::scan::ScanError;
use crate::tree_path::TreePath;

pub use forecast::{Deletions, Forecast};
pub use receive_unpublished::{Received, above};

/// Seconds of silence after which rsync gives up.
const SILENCE: u32 = 120;
/// Seconds to wait for a connection.
const CONNECT: u32 = 15;
/// Times are compared as exactly as filesystems keep them.
const TO_THE_NANOSECOND: &str = "--modify-window=-1";
/// Extended attributes that no image has, in the words of rsync: see [`crate::entry::xattr_travels`].
const NEVER_TRAVEL: [&str; 6] = [
    "btrfs.*",
    "security.selinux",
    "security.ima",
    "security.evm",
    "trusted.overlay.*",
    "trusted.SGI_ACL_*",
];

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

/// What is to be received, and how.
#[derive(Clone, Copy)]
pub struct Module<'a> {
    /// From where.
    pub server: &'a Server,
    /// What.
    pub layer: &'a Layer,
    /// Only this directory of it; the top for all.
    pub directory: &'a TreePath,
    /// What does not come, in rsync's language.
    pub rules: &'a [u8],
    /// How what the live tree has is compared.
    pub comparison: Comparison,
    /// When rsync is stopped.
    pub deadline: Instant,
}

/// How rsync compares a file that is there with the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// By its content.
    Checksum,
    /// By size and time, as the old client did.
    Quick,
}

/// Why something could not be received.
#[derive(Debug, thiserror::Error)]
pub enum FullSyncError {
    /// This node's disk.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The run was asked to stop.
    #[error("stopped on request")]
    Stopped,
    /// The server has no such image or override.
    #[error("{0}")]
    NotFound(String),
    /// This node has no rsync program.
    #[error("the rsync program is not installed on this node")]
    NotInstalled,
    /// There is no way to an rsync server.
    #[error("{0}")]
    Unavailable(String),
    /// Some of it could not be read on the server, or vanished meanwhile.
    #[error("rsync could not bring everything: {0}")]
    Partial(String),
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

impl Comparison {
    fn option(self) -> Option<OsString> {
        (self == Comparison::Checksum).then(|| "--checksum".into())
    }
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
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("rsync://{host}:{}/{inside}", self.port)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown(""))
    }
}

impl Module<'_> {
    /// Receives what differs from the tree `live` into a new directory of `aside`, and returns it.
    ///
    /// Some files may be missing from it, of which a warning is given: whoever takes them finds out.
    pub fn receive(
        &self,
        live: &Root,
        aside: &ReceiveDir,
        monitor: &dyn Monitor,
    ) -> Result<Root, FullSyncError> {
        let (place, tree) = self.prepare(aside)?;
        match self.bring(live, &place, options(), monitor) {
            // What did not come is missed, by name, when the contents are taken.
            Err(error @ FullSyncError::Partial(_)) => monitor.warn(error.to_string()),
            done => done?,
        }
        Ok(tree)
    }

    /// Lets rsync bring into `place` what differs from the tree `live`.
    fn bring(
        &self,
        live: &Root,
        place: &Root,
        mut options: Vec<OsString>,
        monitor: &dyn Monitor,
    ) -> Result<(), FullSyncError> {
        options.extend(self.comparing(live));
        options.push("--out-format=%l".into());
        let advance = |line: &[u8]| {
            if let Some(by) =
                std::str::from_utf8(line).ok().and_then(|text| text.trim().parse().ok())
            {
                monitor.event(Event::Advanced { job: Job::Download, by });
            }
            Ok(())
        };
        monitor.event(Event::Started { job: Job::Download, total: 0 });
        let outcome = self.run(place, options, "tree/", advance, monitor);
        monitor.event(Event::Finished { job: Job::Download });
        self.judge(&outcome?).map_or(Ok(()), Err)
    }

    /// A new directory for this module, in it one for the tree and a file with the rules.
    fn prepare(&self, aside: &ReceiveDir) -> Result<(Root, Root), FullSyncError> {
        let name = aside_name(self.layer);
        aside.place.remove_tree(&name)?;
        aside.place.create_dir(&name)?;
        let place = aside.place.below(&name)?;
        place.create_dir(&path("tree"))?;
        let mut file = place.create_file(&path("rules"))?;
        let written = file.write_all(self.rules);
        written.map_err(|source| RootError {
            what: "write",
            path: place.show(&path("rules")),
            source,
        })?;
        let tree = place.below(&path("tree"))?;
        Ok((place, tree))
    }

    fn comparing(&self, live: &Root) -> Vec<OsString> {
        let mut compare = OsString::from("--compare-dest=");
        compare.push(live.shown());
        std::iter::once(compare).chain(self.comparison.option()).collect()
    }

    /// Runs rsync in `place` with `options` for all of the module, into `to` there.
    fn run(
        &self,
        place: &Root,
        mut options: Vec<OsString>,
        to: impl AsRef<OsStr>,
        mut hear: impl FnMut(&[u8]) -> Result<(), FullSyncError>,
        monitor: &dyn Monitor,
    ) -> Result<RsyncOutcome, FullSyncError> {
        options.push("--filter=merge rules".into());
        options.extend(NEVER_TRAVEL.map(|never| format!("--filter=-x {never}").into()));
        options.extend(["--relative", "--no-motd"].map(OsString::from));
        options.push(format!("--timeout={SILENCE}").into());
        options.push(format!("--contimeout={CONNECT}").into());
        options.push("--".into());
        let inside = if self.directory.is_root() { String::new() } else { "/".to_owned() };
        let mut source = OsString::from(self.server.address(&format!("{}/", self.layer.place())));
        source.push("./");
        source.push(self.directory.as_os_str());
        source.push(inside);
        options.push(source);
        options.push(to.as_ref().into());
        let call = RsyncCall {
            arguments: &options,
            working_dir: Some(place.as_fd()),
            deadline: Some(self.deadline),
            max_file_size: None,
        };
        let mut failed = None;
        let outcome = rsync::run(&call, &mut |heard| {
            if monitor.is_stopped() {
                return ControlFlow::Break(());
            }
            if let RsyncOutput::Line(line) = heard
                && let Err(error) = hear(line)
            {
                failed = Some(error);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        if let Some(error) = failed {
            return Err(error);
        }
        outcome.map_err(|error| match error {
            RsyncError::Stopped => FullSyncError::Stopped,
            RsyncError::NotInstalled => FullSyncError::NotInstalled,
            RsyncError::TimedOut => FullSyncError::Server(format!("{error} (full_sync_timeout)")),
            RsyncError::Run(_) => FullSyncError::Node(error.to_string()),
        })
    }

    /// What is wrong with a run, if anything is.
    fn judge(&self, outcome: &RsyncOutcome) -> Option<FullSyncError> {
        let why = format!(
            "{} ({})",
            outcome.reason(),
            self.server.shown(&format!("{}/", self.layer.place()))
        );
        Some(match outcome.failure()? {
            RsyncFailure::NoRoom => FullSyncError::NoRoom(why),
            RsyncFailure::Local => FullSyncError::Node(why),
            RsyncFailure::NotFound => {
                FullSyncError::NotFound(format!("the server has no {}: {why}", self.layer))
            }
            RsyncFailure::Refused | RsyncFailure::Unreachable => FullSyncError::Unavailable(why),
            RsyncFailure::Partial => FullSyncError::Partial(why),
            RsyncFailure::Lost | RsyncFailure::Other => FullSyncError::Server(why),
        })
    }
}

/// The directory beside a tree that what rsync brings comes to lie in.
pub struct ReceiveDir {
    place: Root,
    /// Where it is a temporary one, the directory that holds it, and its name there.
    temporary: Option<(Root, TreePath)>,
}

impl ReceiveDir {
    /// Makes it at the top of `root`, unless this run did; what it holds can be renamed from there into a stage.
    pub fn create(root: &Root) -> Result<Self, RootError> {
        mount_root_times::save_root_time(root)?;
        if root.stat(&path(RECEIVE_DIR))?.is_none() {
            root.create_dir(&path(RECEIVE_DIR))?;
        }
        Ok(ReceiveDir { place: root.below(&path(RECEIVE_DIR))?, temporary: None })
    }

    /// Makes one in the directory `temporary`, which goes in the end: for a run that changes nothing.
    pub fn temporary(temporary: &Path) -> Result<Self, RootError> {
        let above = Root::open(temporary)?;
        let name = path(&format!("si-received-{}", std::process::id()));
        above.remove_tree(&name)?;
        above.create_dir(&name)?;
        Ok(ReceiveDir { place: above.below(&name)?, temporary: Some((above, name)) })
    }
}

impl Drop for ReceiveDir {
    fn drop(&mut self) {
        if let Some((above, name)) = &self.temporary {
            // It is material only, and lies among other temporary things.
            let _ = above.remove_tree(name);
        }
    }
}

/// Where [`ReceiveDir::create`] makes it.
pub fn place() -> TreePath {
    path(RECEIVE_DIR)
}

/// Removes what was received beside the tree at `root`.
pub fn discard(root: &Root) -> Result<(), RootError> {
    root.remove_tree(&path(RECEIVE_DIR))
}

/// Names are checked and short; an image and an override may have the same.
fn aside_name(layer: &Layer) -> TreePath {
    match layer {
        Layer::Image(name) => path(&format!("image-{name}")),
        Layer::Override(name) => path(&format!("override-{name}")),
    }
}

fn options() -> Vec<OsString> {
    ["-aHAXS", "--numeric-ids", "--no-inc-recursive"].map(OsString::from).into()
}

impl From<ScanError> for FullSyncError {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Tree(error) => FullSyncError::Root(error),
            error => FullSyncError::Node(error.to_string()),
        }
    }
}

/// A fixed name as a path, or one made of a checked one; such names are good.
fn path(name: &str) -> TreePath {
    TreePath::new(name).unwrap_or_else(|_| TreePath::root())
}
