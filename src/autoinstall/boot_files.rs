//! The server's boot files: the list of flavors, and their transfer.

#![allow(clippy::disallowed_methods, reason = "/proc is the running kernel's, not the tree's")]

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::error::{AutoinstallError, BadBootFile};
use super::paths::{BootFile, INITRD, KERNEL, RECEIVE_DIR, fixed_path};
use super::request::{AutoinstallRequest, Flavor};
use super::rollback::StepLog;
use crate::apply::Untouched;
use crate::fetch::{FetchError, FetchErrorKind, Side};
use crate::full_sync::Server;
use crate::image::ImageName;
use crate::report::{Event, Job, Monitor};
use crate::root::{FileKind, Root};
use crate::rsync::{self, RsyncCall, RsyncError, RsyncFailure, RsyncOutcome, RsyncOutput};
use crate::tree_path::TreePath;
use crate::update::UpdateError;

/// Seconds without data, and seconds for a connection, after which rsync fails.
const TIMEOUTS: [&str; 2] = ["--timeout=120", "--contimeout=15"];
/// Time limit of the listing.
const LISTING_LIMIT: Duration = Duration::from_secs(120);
/// Limit of the number of flavors; further ones are ignored.
const MAX_FLAVORS: usize = 1000;

/// Architecture of this node, as SystemImager names its boot files.
pub(super) fn arch() -> String {
    let machine = rustix::system::uname().machine().to_string_lossy().into_owned();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    arch_name(&machine, &cpuinfo)
}

fn arch_name(machine: &str, cpuinfo: &str) -> String {
    let is_32_bit_x86 = machine.len() == 4 && machine.starts_with('i') && machine.ends_with("86");
    match machine {
        _ if cpuinfo.contains("PS3") => "ppc64-ps3".to_owned(),
        _ if is_32_bit_x86 => "i386".to_owned(),
        other => other.to_owned(),
    }
}

/// The flavors of the server.
pub(super) fn list(
    server: &Server,
    arch: &str,
    monitor: &dyn Monitor,
) -> Result<Vec<ImageName>, UpdateError> {
    let directory = format!("boot/{arch}/");
    let mut arguments: Vec<OsString> = TIMEOUTS.map(OsString::from).into();
    arguments.extend(
        ["--no-motd", "--list-only", "--", &server.address(&directory)].map(OsString::from),
    );
    let call = RsyncCall {
        arguments: &arguments,
        working_dir: None,
        deadline: Some(Instant::now() + LISTING_LIMIT),
        max_file_size: None,
        relay: server.relay.as_ref(),
    };

    let mut flavors = Vec::new();
    let result = run_rsync(&call, &server.address(&directory), monitor, &mut |line| {
        if flavors.len() < MAX_FLAVORS {
            flavors.extend(parse_flavor(line));
        }
    });
    match result {
        Ok(()) => Ok(flavors),
        Err(UpdateError::Fetch(error)) if error.kind == FetchErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The flavor in a line of rsync's listing: mode, size, date, time, name.
fn parse_flavor(line: &[u8]) -> Option<ImageName> {
    let mut words = std::str::from_utf8(line).ok()?.split_whitespace();

    // A symlink may lead to a directory.
    words.next().filter(|mode| mode.starts_with(['d', 'l']))?;
    let name = words.nth(3)?;

    // The directory `ssh` belongs to the server's own boot media.
    name.parse().ok().filter(|_| name != "ssh")
}

/// Receives kernel and initial ramdisk into `directory`, whole and durable.
pub(super) fn receive(
    request: &AutoinstallRequest,
    flavor: &Flavor,
    directory: &TreePath,
    steps: &mut StepLog<'_>,
    monitor: &dyn Monitor,
) -> Result<(), UpdateError> {
    let root = steps.root();
    let receive_dir = directory.join(RECEIVE_DIR.as_bytes()).map_err(AutoinstallError::from)?;
    root.create_dirs(directory).map_err(Untouched::from_root)?;
    steps.record_created(&receive_dir)?;
    root.remove_tree(&receive_dir).map_err(Untouched::from)?;
    root.create_dir(&receive_dir).map_err(Untouched::from_root)?;

    monitor.event(Event::Started { job: Job::Download, total: 0 });
    let result = root.below(&receive_dir).map_err(|error| Untouched::from(error).into());
    let result = result.and_then(|tree| receive_into(request, flavor, &tree, monitor));
    monitor.event(Event::Finished { job: Job::Download });
    let result = result.and_then(|()| move_files(root, &receive_dir, directory, steps));

    // After a failure its files are useless, since this run does not resume them.
    let removal = root.remove_tree(&receive_dir).map_err(|error| Untouched::from(error).into());
    result.and(removal)
}

fn receive_into(
    request: &AutoinstallRequest,
    flavor: &Flavor,
    tree: &Root,
    monitor: &dyn Monitor,
) -> Result<(), UpdateError> {
    let deadline = Instant::now() + request.sync_timeout;
    for BootFile { remote_name, local_name, max_size } in [KERNEL, INITRD] {
        let source = format!("boot/{}/{}/{remote_name}", flavor.arch, flavor.name);
        let address = request.server.address(&source);

        let mut arguments: Vec<OsString> = TIMEOUTS.map(OsString::from).into();
        arguments.extend(["--no-motd", "--copy-links", "--out-format=%l"].map(OsString::from));
        arguments.push(format!("--max-size={max_size}").into());
        arguments.extend(["--", &address, &format!("./{local_name}")].map(OsString::from));
        let call = RsyncCall {
            arguments: &arguments,
            working_dir: Some(tree.as_fd()),
            deadline: Some(deadline),
            max_file_size: Some(max_size + 1),
            relay: request.server.relay.as_ref(),
        };
        run_rsync(&call, &address, monitor, &mut |line| {
            let size = std::str::from_utf8(line).ok().and_then(|text| text.trim().parse().ok());
            if let Some(by) = size {
                monitor.event(Event::Advanced { job: Job::Download, by });
            }
        })?;

        // rsync succeeds without a file if --max-size excluded it.
        let path = fixed_path(local_name);
        let stat = tree.stat(&path).map_err(Untouched::from)?;
        if stat.is_none_or(|stat| stat.kind != FileKind::File || stat.size == 0) {
            let fault = BadBootFile { limit: max_size };
            let error = FetchError::new(FetchErrorKind::Corrupt, Side::Server, address, fault);
            return Err(error.into());
        }
        tree.sync_file(&path).map_err(Untouched::from_root)?;
    }
    Ok(())
}

fn move_files(
    root: &Root,
    receive_dir: &TreePath,
    directory: &TreePath,
    steps: &mut StepLog<'_>,
) -> Result<(), UpdateError> {
    for BootFile { local_name, .. } in [KERNEL, INITRD] {
        let from = receive_dir.join(local_name.as_bytes()).map_err(AutoinstallError::from)?;
        let to = directory.join(local_name.as_bytes()).map_err(AutoinstallError::from)?;
        steps.move_file(&from, &to)?;
    }
    root.sync_dir(directory).map_err(Untouched::from_root)?;
    Ok(())
}

/// Runs rsync, passes its lines to `on_line`, and names the side at fault if it fails.
fn run_rsync(
    call: &RsyncCall<'_>,
    address: &str,
    monitor: &dyn Monitor,
    on_line: &mut dyn FnMut(&[u8]),
) -> Result<(), UpdateError> {
    let result = rsync::run(call, &mut |output| {
        if let RsyncOutput::Line(line) = output {
            on_line(line);
        }
        if monitor.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });

    let error = match result {
        Ok(outcome) => return check_outcome(&outcome, address),
        Err(error) => error,
    };
    let side = match error {
        RsyncError::Cancelled => return Err(UpdateError::Cancelled),
        RsyncError::TimedOut => Side::Network,
        RsyncError::NotInstalled | RsyncError::Run(_) => Side::Node,
    };
    Err(FetchError::new(FetchErrorKind::Other, side, address, error).into())
}

fn check_outcome(outcome: &RsyncOutcome, address: &str) -> Result<(), UpdateError> {
    let (kind, side) = match outcome.failure() {
        None => return Ok(()),
        Some(RsyncFailure::DiskSpace) => return Err(Untouched::disk_space(outcome.reason()).into()),
        Some(RsyncFailure::NotFound) => (FetchErrorKind::NotFound, Side::Server),
        Some(RsyncFailure::Unreachable | RsyncFailure::Lost) => {
            (FetchErrorKind::Unreachable, Side::Network)
        }
        Some(RsyncFailure::Local | RsyncFailure::PartialHere) => {
            (FetchErrorKind::Other, Side::Node)
        }
        Some(RsyncFailure::Refused | RsyncFailure::Partial | RsyncFailure::Other) => {
            (FetchErrorKind::Other, Side::Server)
        }
    };
    Err(FetchError::new(kind, side, address, outcome.reason()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_have_the_names_of_systemimager() {
        assert_eq!(arch_name("x86_64", ""), "x86_64");
        assert_eq!(arch_name("i686", ""), "i386");
        assert_eq!(arch_name("i386", ""), "i386");
        assert_eq!(arch_name("ia64", ""), "ia64");
        assert_eq!(arch_name("ppc64", "platform\t: PS3(PF)\n"), "ppc64-ps3");
    }

    #[test]
    fn flavors_are_the_directories_of_the_listing() {
        let parse = |line: &str| parse_flavor(line.as_bytes()).map(|name| name.to_string());

        let directory = "drwxr-xr-x          4,096 2024/01/02 03:04:05 standard";
        assert_eq!(parse(directory).as_deref(), Some("standard"));
        let symlink = "lrwxrwxrwx              8 2024/01/02 03:04:05 usual -> standard";
        assert_eq!(parse(symlink).as_deref(), Some("usual"));

        for other in [
            "drwxr-xr-x          4,096 2024/01/02 03:04:05 .",
            "drwxr-xr-x          4,096 2024/01/02 03:04:05 ssh",
            "drwxr-xr-x          4,096 2024/01/02 03:04:05 -rf",
            "drwxr-xr-x          4,096 2024/01/02 03:04:05 a;b",
            "-rw-r--r--          4,096 2024/01/02 03:04:05 README",
            "receiving file list ...",
            "",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
