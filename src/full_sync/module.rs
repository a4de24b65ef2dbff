//! An rsync module of the image server, and the runs of rsync for it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::time::Instant;

use super::error::{FullSyncError, NodeFault, RsyncReport, ServerFault};
use super::notice::FullSyncNotice;
use super::receive_dir::ReceiveDir;
use crate::apply::filesystem::held_times::HeldTimes;
use crate::image::Layer;
use crate::report::{Event, Job, Monitor};
use crate::root::Root;
use crate::rsync::{self, Relay, RsyncCall, RsyncFailure, RsyncOutcome, RsyncOutput};
use crate::tree_path::TreePath;

/// Seconds without data after which rsync fails.
const IDLE_TIMEOUT: u32 = 120;
/// Seconds for a connection to be established.
const CONNECT_TIMEOUT: u32 = 15;
/// Compares times to the nanosecond.
const NANOSECONDS: &str = "--modify-window=-1";
/// Compares whole seconds.
const SECONDS: &str = "--modify-window=0";
/// Extended attributes that no image has; see [`crate::entry::xattr_travels`].
const EXCLUDED_XATTRS: [&str; 6] = [
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
    /// Port of the daemon.
    pub port: u16,
    /// Tunnel to the daemon, if there is one.
    pub relay: Option<Relay>,
}

/// A layer on an rsync server, with the options of its transfer.
#[derive(Clone, Copy)]
pub struct Module<'a> {
    /// The server.
    pub server: &'a Server,
    /// The image or override.
    pub layer: &'a Layer,
    /// The directory to receive; the top for all of it.
    pub directory: &'a TreePath,
    /// Filter rules in rsync's language.
    pub rules: &'a [u8],
    /// Comparison with the files of the live tree.
    pub comparison: Comparison,
    /// Times that the filesystems of the live tree can hold.
    pub times: &'a HeldTimes,
    /// Time at which rsync is killed.
    pub deadline: Instant,
}

/// Comparison of a file of the live tree with the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Comparison of the contents.
    Checksum,
    /// Comparison of size and mtime, as the old client did.
    Quick,
}

impl Comparison {
    pub(super) fn option(self) -> Option<OsString> {
        (self == Comparison::Checksum).then(|| "--checksum".into())
    }
}

impl Server {
    /// Address of a module or a path in it.
    pub fn address(&self, path: &str) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("rsync://{host}:{}/{path}", self.port)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address(""))
    }
}

impl Module<'_> {
    /// Receives the files that differ from the tree `live`; returns their directory.
    ///
    /// Some files may be missing, which is only a warning: the caller takes the files by digest
    /// and finds out which ones.
    pub fn receive(
        &self,
        live: &Root,
        receive_dir: &ReceiveDir,
        monitor: &dyn Monitor,
    ) -> Result<Root, FullSyncError> {
        let directory = receive_dir.create_layer(self.layer, self.rules)?;
        match self.transfer(live, &directory.top, archive_options(), monitor) {
            Err(error @ (FullSyncError::Partial(_) | FullSyncError::PartialHere(_))) => {
                monitor.warn(FullSyncNotice::Partial { error: &error });
            }
            result => result?,
        }
        Ok(directory.tree)
    }

    /// Transfers the files that differ from the tree `live` into `tree/` of the layer directory.
    pub(super) fn transfer(
        &self,
        live: &Root,
        layer_dir: &Root,
        mut options: Vec<OsString>,
        monitor: &dyn Monitor,
    ) -> Result<(), FullSyncError> {
        options.extend(self.comparison_options(live));
        options.push("--out-format=%l".into());

        monitor.event(Event::Started { job: Job::Download, total: 0 });
        let result = self.run(
            (layer_dir, OsStr::new("tree/")),
            options,
            |line: &[u8]| {
                let size = std::str::from_utf8(line).ok().and_then(|text| text.trim().parse().ok());
                if let Some(by) = size {
                    monitor.event(Event::Advanced { job: Job::Download, by });
                }
                Ok(())
            },
            monitor,
        );
        monitor.event(Event::Finished { job: Job::Download });
        self.check_outcome(&result?)
    }

    /// The option that compares times as exactly as the receive directory stores them.
    pub(super) fn modify_window(&self) -> &'static str {
        if self.times.of_root().is_coarse() { SECONDS } else { NANOSECONDS }
    }

    /// The option that compares times as exactly as every filesystem of the live tree stores them.
    pub(super) fn modify_window_of_tree(&self) -> &'static str {
        if self.times.is_any_coarse() { SECONDS } else { NANOSECONDS }
    }

    /// Options that omit files which equal those of the tree `live`.
    pub(super) fn comparison_options(&self, live: &Root) -> Vec<OsString> {
        let mut compare = OsString::from("--compare-dest=");
        compare.push(live.location());
        std::iter::once(compare).chain(self.comparison.option()).collect()
    }

    /// Runs rsync in a layer directory, to a destination there; passes its lines to `on_line`.
    pub(super) fn run(
        &self,
        (layer_dir, destination): (&Root, &OsStr),
        mut options: Vec<OsString>,
        mut on_line: impl FnMut(&[u8]) -> Result<(), FullSyncError>,
        monitor: &dyn Monitor,
    ) -> Result<RsyncOutcome, FullSyncError> {
        options.push("--filter=merge rules".into());
        options.extend(EXCLUDED_XATTRS.map(|pattern| format!("--filter=-x {pattern}").into()));
        options.extend(["--relative", "--no-motd"].map(OsString::from));
        options.push(format!("--timeout={IDLE_TIMEOUT}").into());
        options.push(format!("--contimeout={CONNECT_TIMEOUT}").into());
        options.push("--".into());
        options.push(self.source());
        options.push(destination.into());

        let call = RsyncCall {
            arguments: &options,
            working_dir: Some(layer_dir.as_fd()),
            deadline: Some(self.deadline),
            max_file_size: None,
            relay: self.server.relay.as_ref(),
        };
        let mut line_error = None;
        let result = rsync::run(&call, &mut |output| {
            if monitor.is_cancelled() {
                return ControlFlow::Break(());
            }
            if let RsyncOutput::Line(line) = output
                && let Err(error) = on_line(line)
            {
                line_error = Some(error);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });

        match line_error {
            Some(error) => Err(error),
            None => Ok(result?),
        }
    }

    /// The source argument. With `--relative`, the part after `./` is created at the destination.
    fn source(&self) -> OsString {
        let mut source =
            OsString::from(self.server.address(&format!("{}/", self.layer.repository_path())));
        source.push("./");
        source.push(self.directory.as_os_str());
        if !self.directory.is_root() {
            source.push("/");
        }
        source
    }

    /// The failure of a run that has ended, if it failed.
    pub(super) fn check_outcome(&self, outcome: &RsyncOutcome) -> Result<(), FullSyncError> {
        let Some(failure) = outcome.failure() else { return Ok(()) };

        let address = self.server.address(&format!("{}/", self.layer.repository_path()));
        let report = RsyncReport { layer: self.layer.clone(), address, reason: outcome.reason() };
        Err(match failure {
            RsyncFailure::DiskSpace => FullSyncError::DiskSpace(report),
            RsyncFailure::Local => FullSyncError::Node(NodeFault::Rsync(report)),
            RsyncFailure::NotFound => FullSyncError::NotFound(report),
            RsyncFailure::Refused | RsyncFailure::Unreachable => FullSyncError::Unavailable(report),
            RsyncFailure::Partial => FullSyncError::Partial(report),
            RsyncFailure::PartialHere => FullSyncError::PartialHere(report),
            RsyncFailure::Lost | RsyncFailure::Other => {
                FullSyncError::Server(ServerFault::Rsync(report))
            }
        })
    }
}

/// Options that transfer all metadata of an image.
pub(super) fn archive_options() -> Vec<OsString> {
    ["-aHAXS", "--numeric-ids", "--no-inc-recursive"].map(OsString::from).into()
}
