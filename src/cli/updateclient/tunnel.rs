//! `--ssh-user`: an ssh tunnel to the rsync daemon and the web server of the image server.

use std::io::IsTerminal;
use std::path::PathBuf;

use crate::cli::signals;
use crate::cli::updateclient::args::Arguments;
use crate::cli::updateclient::notice::ClientNotice;
use crate::cli::updateclient::settings::{Settings, host_and_port};
use crate::fetch::{FetchError, FetchErrorKind, Side};
use crate::report::Monitor;
use crate::rsync::Relay;
use crate::rsync::tunnel::{Tunnel, TunnelCommand, TunnelError};
use crate::update::UpdateError;

/// Default port of a web server.
const HTTP: u16 = 80;

/// Open tunnel to the server; closed on drop.
pub struct ServerTunnel {
    tunnel: Tunnel,
    /// Way to the rsync daemon.
    pub rsync: Relay,
    /// Socket that leads to the web server, if the repository is there.
    pub http: Option<PathBuf>,
}

impl ServerTunnel {
    /// Warns if ssh has ended, which explains the failure of a run.
    pub fn report_end(&self, monitor: &dyn Monitor) {
        if self.tunnel.has_ended() {
            monitor.warn(ClientNotice::TunnelEnded { reason: &self.tunnel.end_reason() });
        }
    }
}

/// Opens the tunnel if one is configured.
pub fn open(
    arguments: &Arguments,
    settings: &Settings,
    monitor: &dyn Monitor,
) -> Result<Option<ServerTunnel>, UpdateError> {
    let Some(user) = settings.ssh_user.as_deref() else { return Ok(None) };
    if let Some(repo) = settings.repo.as_ref().filter(|repo| !repo.starts_with("file:")) {
        monitor.note(ClientNotice::RepositoryOutsideTunnel { repo });
    }
    let Some(server) = settings.server.as_deref() else {
        monitor.note(ClientNotice::TunnelWithoutServer);
        return Ok(None);
    };

    let (host, port) = host_and_port(server);
    let mut ports = vec![settings.rsync_port];
    if arguments.asks_repository() && settings.repo.is_none() {
        ports.push(port.unwrap_or(HTTP));
    }
    let attended = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let command = TunnelCommand { user, server: host, ports: &ports, attended };
    let tunnel = Tunnel::open(&command, signals::is_cancelled)
        .map_err(|error| tunnel_error(error, user, host))?;
    monitor.note(ClientNotice::TunnelOpen { host, user });

    let rsync = Relay::new(tunnel.sockets.first().cloned().unwrap_or_default());
    Ok(Some(ServerTunnel { rsync, http: tunnel.sockets.get(1).cloned(), tunnel }))
}

fn tunnel_error(error: TunnelError, user: &str, host: &str) -> UpdateError {
    let side = match &error {
        TunnelError::Cancelled => return UpdateError::Cancelled,
        TunnelError::NotInstalled
        | TunnelError::Run(_)
        | TunnelError::SocketDir(_)
        | TunnelError::PortsOnly { .. } => Side::Node,
        TunnelError::Ended { stderr } if stderr.contains("denied") => Side::Server,
        TunnelError::Ended { .. } | TunnelError::TimedOut(_) => Side::Network,
    };

    let object = format!("data through ssh from {user}@{host}");
    UpdateError::Fetch(FetchError::new(FetchErrorKind::Unreachable, side, object, error))
}
