//! `--ssh-user`: whatever is fetched from the server comes through ssh.

use std::io::IsTerminal;

use crate::cli::signals;
use crate::cli::updateclient::args::Arguments;
use crate::cli::updateclient::request::host_and_port;
use crate::cli::updateclient::settings::Settings;
use crate::fetch::{FetchError, FetchErrorKind, Side};
use crate::report::Monitor;
use crate::rsync::tunnel::{Tunnel, TunnelCommand, TunnelError};
use crate::update::UpdateError;

/// The port of a web server.
const HTTP: u16 = 80;

/// What leads to the server while the run lasts.
pub struct Tunnelled {
    _tunnel: Tunnel,
    /// The port of this machine that leads to the rsync daemon.
    pub rsync: u16,
    /// The one that leads to the repository, where that is the server's.
    pub http: Option<u16>,
}

/// Opens the tunnel, where one is wanted.
pub fn open(
    arguments: &Arguments,
    settings: &Settings,
    monitor: &dyn Monitor,
) -> Result<Option<Tunnelled>, UpdateError> {
    let Some(user) = settings.ssh_user.as_deref() else { return Ok(None) };
    if let Some(repo) = settings.repo.as_ref().filter(|repo| !repo.starts_with("file:")) {
        monitor.note(format!(
            "the repository {repo} is named by its own address and is not reached through ssh"
        ));
    }
    let Some(server) = settings.server.as_deref() else {
        monitor.note("no server is named that could be reached through ssh");
        return Ok(None);
    };
    let (host, port) = host_and_port(server);
    let mut ports = vec![settings.rsync_port];
    if (arguments.diff || arguments.adopt) && settings.repo.is_none() {
        ports.push(port.unwrap_or(HTTP));
    }
    let attended = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let tunnel = Tunnel::open(
        &TunnelCommand { user, server: host, ports: &ports, attended },
        signals::is_stopped,
    );
    let tunnel = tunnel.map_err(|error| refused(error, user, host))?;
    monitor.note(format!("{host} is reached through ssh, as {user}"));
    let rsync = tunnel.ports.first().copied().unwrap_or_default();
    Ok(Some(Tunnelled { rsync, http: tunnel.ports.get(1).copied(), _tunnel: tunnel }))
}

fn refused(error: TunnelError, user: &str, host: &str) -> UpdateError {
    let side = match &error {
        TunnelError::Stopped => return UpdateError::Stopped,
        TunnelError::NotInstalled | TunnelError::Run(_) => Side::Node,
        TunnelError::Ended { stderr } if stderr.contains("denied") => Side::Server,
        TunnelError::Ended { .. } | TunnelError::TimedOut(_) => Side::Network,
    };
    let what = format!("anything through ssh from {user}@{host}");
    UpdateError::Fetch(FetchError::new(FetchErrorKind::Unreachable, side, what, error))
}
