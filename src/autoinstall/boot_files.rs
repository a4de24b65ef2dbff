//! The server's boot files: which there are, and how they come here.

#![allow(clippy::disallowed_methods, reason = "/proc is the running kernel's, not the tree's")]

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::apply::Untouched;
use crate::autoinstall::rollback::StepLog;
use crate::autoinstall::{AutoinstallRequest, Flavor, path};
use crate::fetch::{FetchError, FetchErrorKind, Side};
use crate::full_sync::Server;
use crate::image::ImageName;
use crate::report::{Event, Job, Monitor};
use crate::root::{FileKind, Root};
use crate::rsync::{self, RsyncCall, RsyncError, RsyncFailure, RsyncOutput};
use crate::tree_path::TreePath;
use crate::update::{UpdateError, UsageError};

/// Each boot file: its name on the server, its name here, and the most bytes that it may have.
pub(super) const KERNEL: (&str, &str, u64) = ("kernel", "kernel.systemimager", 512 << 20);
pub(super) const INITRD: (&str, &str, u64) = ("initrd.img", "initrd.img.systemimager", 2 << 30);
/// What they are received in, beside the place where they go.
const RECEIVED: &str = ".si-autoinstall";
/// Seconds of silence after which rsync gives up, and seconds to wait for a connection.
const PATIENCE: [&str; 2] = ["--timeout=120", "--contimeout=15"];
/// A listing takes no longer, and has no more lines that count.
const LISTING: Duration = Duration::from_secs(120);
const MAX_FLAVORS: usize = 1000;

/// The architecture, as SystemImager names its boot files.
pub(super) fn arch() -> String {
    let machine = rustix::system::uname().machine().to_string_lossy().into_owned();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    named(&machine, &cpuinfo)
}

fn named(machine: &str, cpuinfo: &str) -> String {
    let is_32_bit_x86 = machine.len() == 4 && machine.starts_with('i') && machine.ends_with("86");
    match machine {
        _ if cpuinfo.contains("PS3") => "ppc64-ps3".to_owned(),
        _ if is_32_bit_x86 => "i386".to_owned(),
        other => other.to_owned(),
    }
}

/// The flavors that `server` has.
pub(super) fn list(
    server: &Server,
    arch: &str,
    monitor: &dyn Monitor,
) -> Result<Vec<ImageName>, UpdateError> {
    let place = format!("boot/{arch}/");
    let mut flavors = Vec::new();
    let mut arguments: Vec<OsString> = PATIENCE.map(OsString::from).into();
    arguments
        .extend(["--no-motd", "--list-only", "--", &server.address(&place)].map(OsString::from));
    let deadline = Some(Instant::now() + LISTING);
    let call =
        RsyncCall { arguments: &arguments, working_dir: None, deadline, max_file_size: None };
    let ran = run(&call, &server.shown(&place), monitor, &mut |line| {
        if flavors.len() < MAX_FLAVORS {
            flavors.extend(flavor_of(line));
        }
    });
    match ran {
        Err(UpdateError::Fetch(error)) if error.kind == FetchErrorKind::NotFound => Ok(Vec::new()),
        answer => answer.map(|()| flavors),
    }
}

/// The flavor that a line of rsync's listing names: mode, size, date, time, name.
fn flavor_of(line: &[u8]) -> Option<ImageName> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_whitespace();
    // A symlink may lead to a directory.
    words.next().filter(|mode| mode.starts_with(['d', 'l']))?;
    let name = words.nth(3)?;
    // Its directory belongs to the server's own boot media.
    name.parse().ok().filter(|_| name != "ssh")
}

/// Fetches kernel and initial ramdisk to the directory `place`, whole and durable.
pub(super) fn receive(
    request: &AutoinstallRequest,
    flavor: &Flavor,
    place: &TreePath,
    ledger: &mut StepLog<'_>,
    monitor: &dyn Monitor,
) -> Result<(), UpdateError> {
    let root = ledger.root();
    let aside =
        place.join(RECEIVED.as_bytes()).map_err(|error| UsageError::Argument(error.to_string()))?;
    root.create_dirs(place).map_err(Untouched::from_root)?;
    root.remove_tree(&aside).map_err(Untouched::from)?;
    root.create_dir(&aside).map_err(Untouched::from_root)?;
    monitor.event(Event::Started { job: Job::Download, total: 0 });
    let received = receive_into(request, flavor, root, &aside, monitor);
    monitor.event(Event::Finished { job: Job::Download });
    let taken = received.and_then(|()| take(root, &aside, place, ledger));
    // Nothing that is left there is of use.
    let removed = root.remove_tree(&aside).map_err(|error| Untouched::from(error).into());
    taken.and(removed)
}

fn receive_into(
    request: &AutoinstallRequest,
    flavor: &Flavor,
    root: &Root,
    aside: &TreePath,
    monitor: &dyn Monitor,
) -> Result<(), UpdateError> {
    let tree = root.below(aside).map_err(Untouched::from)?;
    let deadline = Instant::now() + request.sync_timeout;
    for (name, here, most) in [KERNEL, INITRD] {
        let place = format!("boot/{}/{}/{name}", flavor.arch, flavor.name);
        let (address, shown) = (request.server.address(&place), request.server.shown(&place));
        let mut arguments: Vec<OsString> = PATIENCE.map(OsString::from).into();
        arguments.extend(["--no-motd", "--copy-links", "--out-format=%l"].map(OsString::from));
        arguments.push(format!("--max-size={most}").into());
        arguments.extend(["--".into(), OsString::from(&address), format!("./{here}").into()]);
        let inside = Some(tree.as_fd());
        let call = RsyncCall {
            arguments: &arguments,
            working_dir: inside,
            deadline: Some(deadline),
            max_file_size: Some(most + 1),
        };
        run(&call, &shown, monitor, &mut |line| {
            if let Some(by) =
                std::str::from_utf8(line).ok().and_then(|text| text.trim().parse().ok())
            {
                monitor.event(Event::Advanced { job: Job::Download, by });
            }
        })?;
        let stat = tree.stat(&path(here)).map_err(Untouched::from)?;
        if stat.is_none_or(|stat| stat.kind != FileKind::File || stat.size == 0) {
            let why = format!("it is no plain file, is empty, or has more than {most} bytes");
            return Err(FetchError::new(FetchErrorKind::Corrupt, Side::Server, shown, why).into());
        }
        tree.sync_file(&path(here)).map_err(Untouched::from_root)?;
    }
    Ok(())
}

fn take(
    root: &Root,
    aside: &TreePath,
    place: &TreePath,
    ledger: &mut StepLog<'_>,
) -> Result<(), UpdateError> {
    for (_, here, _) in [KERNEL, INITRD] {
        let joined = |directory: &TreePath| directory.join(here.as_bytes());
        let (Ok(from), Ok(to)) = (joined(aside), joined(place)) else { continue };
        ledger.take(&from, &to).map_err(Untouched::from_root)?;
    }
    Ok(root.sync_dir(place).map_err(Untouched::from_root)?)
}

fn run(
    call: &RsyncCall<'_>,
    address: &str,
    monitor: &dyn Monitor,
    hear: &mut dyn FnMut(&[u8]),
) -> Result<(), UpdateError> {
    let outcome = rsync::run(call, &mut |heard| {
        if let RsyncOutput::Line(line) = heard {
            hear(line);
        }
        if monitor.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let error =
        |kind, side, why: String| UpdateError::from(FetchError::new(kind, side, address, why));
    let outcome = outcome.map_err(|failed| match failed {
        RsyncError::Stopped => UpdateError::Stopped,
        RsyncError::TimedOut => error(FetchErrorKind::Other, Side::Network, failed.to_string()),
        RsyncError::NotInstalled | RsyncError::Run(_) => {
            error(FetchErrorKind::Other, Side::Node, failed.to_string())
        }
    })?;
    let why = outcome.reason();
    Err(match outcome.failure() {
        None => return Ok(()),
        Some(RsyncFailure::NotFound) => error(FetchErrorKind::NotFound, Side::Server, why),
        Some(RsyncFailure::Unreachable | RsyncFailure::Lost) => {
            error(FetchErrorKind::Unreachable, Side::Network, why)
        }
        Some(RsyncFailure::NoRoom) => Untouched::no_room(why).into(),
        Some(RsyncFailure::Local) => error(FetchErrorKind::Other, Side::Node, why),
        Some(RsyncFailure::Refused | RsyncFailure::Partial | RsyncFailure::Other) => {
            error(FetchErrorKind::Other, Side::Server, why)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_have_systemimagers_names() {
        assert_eq!(named("x86_64", ""), "x86_64");
        assert_eq!(named("i686", ""), "i386");
        assert_eq!(named("i386", ""), "i386");
        assert_eq!(named("ia64", ""), "ia64");
        assert_eq!(named("ppc64", "platform\t: PS3(PF)\n"), "ppc64-ps3");
    }

    #[test]
    fn flavors_are_the_directories_of_the_listing() {
        let name = |line: &str| flavor_of(line.as_bytes()).map(|name| name.to_string());
        assert_eq!(
            name("drwxr-xr-x          4,096 2024/01/02 03:04:05 standard").as_deref(),
            Some("standard")
        );
        assert_eq!(
            name("lrwxrwxrwx              8 2024/01/02 03:04:05 usual -> standard").as_deref(),
            Some("usual")
        );
        for none in [
            "drwxr-xr-x          4,096 2024/01/02 03:04:05 .",
            "drwxr-xr-x          4,096 2024/01/02 03:04:05 ssh",
            "drwxr-xr-x          4,096 2024/01/02 03:04:05 -rf",
            "drwxr-xr-x          4,096 2024/01/02 03:04:05 a;b",
            "-rw-r--r--          4,096 2024/01/02 03:04:05 README",
            "receiving file list ...",
            "",
        ] {
            assert_eq!(name(none), None, "{none}");
        }
    }
}
