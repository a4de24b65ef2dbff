//! Has this node installed anew at its next boot: the whole of `si_updateclient --autoinstall`.
//!
//! The kernel and the initial ramdisk of a flavor come from the server's module `boot`, and one boot into
//! them is arranged, by whatever the node boots with. How that is done is decided before anything is
//! fetched, and what a step has made goes again where a later one fails: a node either installs itself at its
//! next boot, or boots as ever.

mod boot_files;
mod local_cfg;
mod one_shot_boot;
mod rollback;

use std::path::PathBuf;
use std::time::Duration;

use crate::apply::Untouched;
use crate::apply::session::Session;
use crate::fetch::{FetchError, FetchErrorKind, Side};
use crate::full_sync::Server;
use crate::host::{Restart, Stops, ToolError, Tools};
use crate::image::ImageName;
use crate::process::Programs;
use crate::report::Monitor;
use crate::root::Root;
use crate::tree_path::TreePath;
use crate::update::{UpdateError, UsageError};

use rollback::StepLog;

/// The flavor that is taken where none is named, if there is one.
const STANDARD: &str = "standard";

/// What is to be arranged.
#[derive(Clone, Debug)]
pub struct AutoinstallRequest {
    /// The tree that boots.
    pub root: PathBuf,
    /// The rsync daemon that has the module `boot`.
    pub server: Server,
    /// The image server, as the installer is to know it: another name where the daemon is reached by a tunnel.
    pub image_server: String,
    /// The user that reaches it through ssh.
    pub ssh_user: Option<String>,
    /// The boot files; `None` for the usual ones.
    pub flavor: Option<String>,
    /// What the kernel is told besides.
    pub append: String,
    /// The network interface whose settings the installer is to use.
    pub configure_from: Option<String>,
    /// The most time that fetching may take.
    pub sync_timeout: Duration,
    /// The most time that each program may take.
    pub program_timeout: Duration,
}

/// Boot files that the server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flavor {
    /// The architecture, as SystemImager names it.
    pub arch: String,
    /// The name; the rules are those of an image's.
    pub name: ImageName,
}

/// What was arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arranged {
    /// How the node has to be started anew for it.
    pub restart: Restart,
}

/// Asks the server which boot files there are, and chooses. Changes nothing.
pub fn flavor(request: &AutoinstallRequest, monitor: &dyn Monitor) -> Result<Flavor, UpdateError> {
    let arch = boot_files::arch();
    let available = boot_files::list(&request.server, &arch, monitor)?;
    let name = choose(request.flavor.as_deref(), &available).map_err(|why| {
        let place = request.server.shown(&format!("boot/{arch}/"));
        FetchError::new(FetchErrorKind::NotFound, Side::Server, place, why)
    })?;
    Ok(Flavor { arch, name })
}

/// Fetches the boot files of a `flavor` and arranges one boot into them.
pub fn arrange(
    request: &AutoinstallRequest,
    flavor: &Flavor,
    monitor: &dyn Monitor,
) -> Result<Arranged, UpdateError> {
    check_append(&request.append)?;
    let (session, _) = Session::open(&request.root, monitor)?;
    let root = &session.root;
    let tools = Tools {
        programs: Programs::open(root).map_err(Untouched::from)?,
        monitor,
        longest: request.program_timeout,
        stops: Stops::Heeded,
    };
    let once = one_shot_boot::choose(&session, &tools)?;
    let mut ledger = StepLog::of(root);
    let done = arrange_by(request, flavor, &session, &tools, &once, &mut ledger);
    if let Err(error) = done {
        ledger.undo(monitor);
        return Err(error);
    }
    ledger.finish(monitor);
    Ok(Arranged { restart: once.restart() })
}

fn arrange_by(
    request: &AutoinstallRequest,
    flavor: &Flavor,
    session: &Session,
    tools: &Tools<'_>,
    once: &one_shot_boot::OneShotBoot,
    ledger: &mut StepLog<'_>,
) -> Result<(), UpdateError> {
    let (root, monitor) = (&session.root, tools.monitor);
    if let Some(device) = &request.configure_from {
        let text = local_cfg::of(device, request, root, monitor)?;
        ledger.write(&path(local_cfg::PLACE), text.as_bytes(), 0o644)?;
        monitor.note(format!(
            "the installer will be told, by {}:",
            root.show(&path(local_cfg::PLACE))
        ));
        text.lines().filter(|line| !line.starts_with('#')).for_each(|line| monitor.note(line));
    }
    let last_root = last_root(root, monitor)?;
    let append = append(&request.append, last_root.as_deref(), request.configure_from.is_some());
    boot_files::receive(request, flavor, once.place(), ledger, monitor)?;
    monitor.note(format!("the installer's kernel is told: {append}"));
    once.arrange(&append, tools, ledger)
}

/// The flavor that is meant.
fn choose(wanted: Option<&str>, available: &[ImageName]) -> Result<ImageName, String> {
    let names: Vec<&str> = available.iter().map(ImageName::as_str).collect();
    let listed = names.join(", ");
    let named = |name: &str| available.iter().find(|flavor| flavor.as_str() == name).cloned();
    match (wanted, available) {
        (_, []) => {
            Err("it has no boot files for this architecture: install them on the server".to_owned())
        }
        (Some(wanted), _) => {
            named(wanted).ok_or_else(|| format!("it has no flavor {wanted:?}, but {listed}"))
        }
        (None, [only]) => Ok(only.clone()),
        (None, _) => named(STANDARD)
            .ok_or_else(|| format!("it has the flavors {listed}: name one by --flavor")),
    }
}

/// What the installer's kernel is told; `last_root` is the disk where it finds its network settings.
fn append(typed: &str, last_root: Option<&str>, configured: bool) -> String {
    let mut words = vec![typed.trim().to_owned()];
    let mut add = |word: String| words.push(word);
    if !typed.split_whitespace().any(|word| word.starts_with("root=")) {
        add("root=/dev/ram".to_owned());
    }
    if !typed.contains("ramdisk_blocksize") {
        add("ramdisk_blocksize=1024".to_owned());
    }
    let named = typed.contains("LAST_ROOT");
    match last_root {
        Some(device) if !named => add(format!("LAST_ROOT={device}")),
        None if !named && !configured => add("SKIP_LOCAL_CFG=y".to_owned()),
        _ => {}
    }
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

/// The words become part of files that boot loaders read by rules of their own.
fn check_append(append: &str) -> Result<(), UpdateError> {
    if append.chars().any(|c| c.is_control() || matches!(c, '\'' | '\\' | '$' | '`')) {
        let why = "--append: quotation marks of the ' kind, backslashes, $, ` and control characters are not possible";
        return Err(UsageError::Argument(why.to_owned()).into());
    }
    Ok(())
}

/// The device that holds the tree, where the installer is to read `local.cfg` from it.
fn last_root(root: &Root, monitor: &dyn Monitor) -> Result<Option<String>, UpdateError> {
    if root.stat(&path(local_cfg::PLACE)).map_err(Untouched::from)?.is_none() {
        return Ok(None);
    }
    let place = root.show(&path(local_cfg::PLACE));
    let device = local_cfg::device_of(root);
    match &device {
        Some(device) => monitor.note(format!(
            "{place} exists: the installer will mount {device} to read it, which needs the drivers in its initial ramdisk"
        )),
        None => monitor.warn(format!(
            "{place} exists, but the device that holds it is not known: give LAST_ROOT=DEVICE with --append, or the \
             installer will not read it"
        )),
    }
    Ok(device)
}

fn tool_failed(error: ToolError) -> UpdateError {
    match error {
        ToolError::Stopped => UpdateError::Stopped,
        ToolError::Failed(why) => Untouched::refused(why).into(),
    }
}

/// A fixed place as a path; such places are good.
fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap_or_else(|_| TreePath::root())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flavors(names: &[&str]) -> Vec<ImageName> {
        names.iter().map(|name| name.parse().expect("a good name")).collect()
    }

    #[test]
    fn the_usual_flavor_is_standard_or_the_only_one() {
        let chosen =
            |wanted, names: &[&str]| choose(wanted, &flavors(names)).map(|name| name.to_string());
        assert_eq!(chosen(None, &["big", "standard"]).as_deref(), Ok("standard"));
        assert_eq!(chosen(None, &["big"]).as_deref(), Ok("big"));
        assert_eq!(chosen(Some("big"), &["big", "standard"]).as_deref(), Ok("big"));
        assert!(chosen(None, &["big", "small"]).is_err_and(|why| why.contains("big, small")));
        assert!(chosen(Some("../x"), &["big"]).is_err_and(|why| why.contains("but big")));
        assert!(chosen(None, &[]).is_err());
    }

    #[test]
    fn the_kernel_is_told_what_the_old_client_told_it() {
        assert_eq!(
            append("", None, false),
            "root=/dev/ram ramdisk_blocksize=1024 SKIP_LOCAL_CFG=y"
        );
        assert_eq!(append("", None, true), "root=/dev/ram ramdisk_blocksize=1024");
        assert_eq!(
            append(" quiet ", Some("/dev/sda2"), true),
            "quiet root=/dev/ram ramdisk_blocksize=1024 LAST_ROOT=/dev/sda2"
        );
        let own = "root=/dev/x ramdisk_blocksize=4096 LAST_ROOT=/dev/sdb1";
        assert_eq!(append(own, Some("/dev/sda2"), false), own);
        assert_eq!(append(own, None, false), own);
    }

    #[test]
    fn what_a_boot_loader_would_read_otherwise_is_refused() {
        for bad in ["a'b", "a\nb", "$x", "`x`", "a\\b"] {
            assert!(check_append(bad).is_err(), "{bad:?}");
        }
        assert!(check_append("console=ttyS0,115200n8 si.x=\"a b\"").is_ok());
    }
}
