//! Arranges that this node is installed again at its next boot (`si_updateclient --autoinstall`).
//!
//! Kernel and initial ramdisk of a flavor are received from the server's rsync module `boot`, and
//! one boot of them is arranged. The boot method is chosen before anything is received, and each
//! step can be undone: if a later step fails, the node boots as before.

mod boot_files;
mod error;
mod leftovers;
mod local_cfg;
mod notice;
mod one_shot_boot;
mod paths;
mod request;
mod rollback;

use crate::apply::Untouched;
use crate::apply::session::Session;
use crate::fetch::{FetchError, FetchErrorKind, Side};
use crate::host::{CancelPolicy, RestartMethod, Tools};
use crate::image::ImageName;
use crate::process::Programs;
use crate::report::Monitor;
use crate::root::Root;
use crate::update::{self, UnsignedRoute, UpdateError};

use error::{AutoinstallError, FlavorError};
use notice::AutoinstallNotice;
use one_shot_boot::OneShotBoot;
use paths::{LOCAL_CFG, fixed_path};
use rollback::StepLog;

pub use leftovers::remove_leftovers;
pub use request::{AutoinstallRequest, Flavor};

/// The flavor that is preferred if the request names none.
const STANDARD: &str = "standard";

/// Result of [`arrange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arranged {
    /// The restart that leads into the installer.
    pub restart: RestartMethod,
}

/// Whether this run writes `/local.cfg` for the installer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NetworkSettings {
    Written,
    NotWritten,
}

/// Lists the flavors of the server and chooses one. Changes nothing.
///
/// Fails on a node that requires signatures.
pub fn flavor(request: &AutoinstallRequest, monitor: &dyn Monitor) -> Result<Flavor, UpdateError> {
    // Refused before a question is asked, and before the server is.
    let root = Root::open(&request.root).map_err(Untouched::from)?;
    update::refuse_unsigned(&root, &request.trust, UnsignedRoute::Autoinstall)?;

    let arch = boot_files::arch();
    let available = boot_files::list(&request.server, &arch, monitor)?;
    let name = choose(request.flavor.as_deref(), &available).map_err(|error| {
        let address = request.server.address(&format!("boot/{arch}/"));
        FetchError::new(FetchErrorKind::NotFound, Side::Server, address, error)
    })?;
    Ok(Flavor { arch, name })
}

/// Receives the boot files of `flavor` and arranges one boot of them.
pub fn arrange(
    request: &AutoinstallRequest,
    flavor: &Flavor,
    monitor: &dyn Monitor,
) -> Result<Arranged, UpdateError> {
    check_append(&request.append)?;
    let (session, _) = Session::open(&request.root, monitor)?;
    let root = &session.root;
    update::refuse_unsigned(root, &request.trust, UnsignedRoute::Autoinstall)?;
    let tools = Tools {
        programs: Programs::open(root).map_err(Untouched::from)?,
        monitor,
        timeout: request.program_timeout,
        cancellation: CancelPolicy::Honor,
    };
    let boot = OneShotBoot::choose(&session, &tools)?;

    let mut steps = StepLog::new(root)?;
    let arrangement = Arrangement { request, flavor, tools: &tools, boot: &boot };
    match arrangement.carry_out(&mut steps) {
        Ok(()) => {
            steps.finish(monitor);
            Ok(Arranged { restart: boot.restart() })
        }
        Err(error) => {
            steps.roll_back(monitor);
            Err(error)
        }
    }
}

/// The steps of one arrangement.
struct Arrangement<'a> {
    request: &'a AutoinstallRequest,
    flavor: &'a Flavor,
    tools: &'a Tools<'a>,
    boot: &'a OneShotBoot,
}

impl Arrangement<'_> {
    fn carry_out(&self, steps: &mut StepLog<'_>) -> Result<(), UpdateError> {
        let (root, monitor) = (steps.root(), self.tools.monitor);

        let mut settings = NetworkSettings::NotWritten;
        if let Some(device) = &self.request.configure_from {
            let text = local_cfg::make_text(device, self.request, root, monitor)?;
            steps.write(&fixed_path(LOCAL_CFG), text.as_bytes(), 0o644)?;
            settings = NetworkSettings::Written;

            let path = root.show(&fixed_path(LOCAL_CFG));
            monitor.note(AutoinstallNotice::LocalCfg { path: &path });
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                monitor.note(line);
            }
        }

        let last_root = find_last_root(root, monitor)?;
        let append = kernel_arguments(&self.request.append, last_root.as_deref(), settings);
        boot_files::receive(self.request, self.flavor, self.boot.directory(), steps, monitor)?;
        monitor.note(AutoinstallNotice::KernelArguments { append: &append });
        self.boot.arrange(&append, self.tools, steps)
    }
}

/// The requested flavor, else the standard or the only one.
fn choose(wanted: Option<&str>, available: &[ImageName]) -> Result<ImageName, FlavorError> {
    let find = |name: &str| available.iter().find(|flavor| flavor.as_str() == name).cloned();
    let names = || available.iter().map(ImageName::to_string).collect();

    match (wanted, available) {
        (_, []) => Err(FlavorError::NoBootFiles),
        (Some(wanted), _) => find(wanted)
            .ok_or_else(|| FlavorError::Unknown { wanted: wanted.to_owned(), available: names() }),
        (None, [only]) => Ok(only.clone()),
        (None, _) => find(STANDARD).ok_or_else(|| FlavorError::Ambiguous { available: names() }),
    }
}

/// Arguments of the installer's kernel, as the old client made them.
///
/// `last_root` is the device from which the installer reads `local.cfg`.
fn kernel_arguments(typed: &str, last_root: Option<&str>, settings: NetworkSettings) -> String {
    let mut words = vec![typed.trim().to_owned()];
    if !typed.split_whitespace().any(|word| word.starts_with("root=")) {
        words.push("root=/dev/ram".to_owned());
    }
    if !typed.contains("ramdisk_blocksize") {
        words.push("ramdisk_blocksize=1024".to_owned());
    }

    match last_root {
        _ if typed.contains("LAST_ROOT") => {}
        Some(device) => words.push(format!("LAST_ROOT={device}")),
        None if settings == NetworkSettings::NotWritten => {
            words.push("SKIP_LOCAL_CFG=y".to_owned());
        }
        None => {}
    }

    words.retain(|word| !word.is_empty());
    words.join(" ")
}

/// Refuses characters that the boot loaders' configuration files would interpret.
fn check_append(append: &str) -> Result<(), AutoinstallError> {
    if append.chars().any(|c| c.is_control() || matches!(c, '\'' | '\\' | '$' | '`')) {
        return Err(AutoinstallError::BadAppend);
    }
    Ok(())
}

/// The device of the tree, if the tree has a `local.cfg` that the installer is to read.
fn find_last_root(root: &Root, monitor: &dyn Monitor) -> Result<Option<String>, UpdateError> {
    if root.stat(&fixed_path(LOCAL_CFG)).map_err(Untouched::from)?.is_none() {
        return Ok(None);
    }

    let path = root.show(&fixed_path(LOCAL_CFG));
    let device = local_cfg::device_of(root);
    match &device {
        Some(device) => monitor.note(AutoinstallNotice::WillMount { path: &path, device }),
        None => monitor.warn(AutoinstallNotice::UnknownDevice { path: &path }),
    }
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flavors(names: &[&str]) -> Vec<ImageName> {
        names.iter().map(|name| name.parse().expect("a valid name")).collect()
    }

    #[test]
    fn default_flavor_is_standard_or_the_only_one() {
        let choose = |wanted, names: &[&str]| {
            choose(wanted, &flavors(names))
                .map(|name| name.to_string())
                .map_err(|error| error.to_string())
        };

        assert_eq!(choose(None, &["big", "standard"]).as_deref(), Ok("standard"));
        assert_eq!(choose(None, &["big"]).as_deref(), Ok("big"));
        assert_eq!(choose(Some("big"), &["big", "standard"]).as_deref(), Ok("big"));
        assert!(choose(None, &["big", "small"]).is_err_and(|error| error.contains("big, small")));
        assert!(choose(Some("../x"), &["big"]).is_err_and(|error| error.contains("has big")));
        assert!(choose(None, &[]).is_err());
    }

    #[test]
    fn kernel_arguments_equal_those_of_the_old_client() {
        use NetworkSettings::{NotWritten, Written};

        assert_eq!(
            kernel_arguments("", None, NotWritten),
            "root=/dev/ram ramdisk_blocksize=1024 SKIP_LOCAL_CFG=y"
        );
        assert_eq!(kernel_arguments("", None, Written), "root=/dev/ram ramdisk_blocksize=1024");
        assert_eq!(
            kernel_arguments(" quiet ", Some("/dev/sda2"), Written),
            "quiet root=/dev/ram ramdisk_blocksize=1024 LAST_ROOT=/dev/sda2"
        );
        let own = "root=/dev/x ramdisk_blocksize=4096 LAST_ROOT=/dev/sdb1";
        assert_eq!(kernel_arguments(own, Some("/dev/sda2"), NotWritten), own);
        assert_eq!(kernel_arguments(own, None, NotWritten), own);
    }

    #[test]
    fn append_with_special_characters_is_refused() {
        for bad in ["a'b", "a\nb", "$x", "`x`", "a\\b"] {
            assert!(check_append(bad).is_err(), "{bad:?}");
        }
        assert!(check_append("console=ttyS0,115200n8 si.x=\"a b\"").is_ok());
    }
}
