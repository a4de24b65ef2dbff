//! What was typed and what is configured, together: what it means.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use crate::autoinstall;
use crate::cli::signals;
use crate::cli::updateclient::args::Arguments;
use crate::cli::updateclient::settings::{Settings, usage};
use crate::cli::updateclient::tunnel::Tunnelled;
use crate::fetch::{FetchOptions, RepoUrl};
use crate::full_sync::Server;
use crate::image::ImageName;
use crate::tree_path::TreePath;
use crate::update::{ExplainRequest, RollbackRequest, Sync, SyncMode, UpdateError, UpdateRequest};

/// What this node follows.
pub struct Follows {
    pub image: ImageName,
    /// In the order in which they are laid over the image.
    pub overrides: Vec<ImageName>,
}

/// Refuses options that contradict each other, in the words of the old client where it had some.
pub fn refuse_combinations(arguments: &Arguments) -> Result<(), UpdateError> {
    let reasons = [
        (
            arguments.autoinstall && arguments.image.is_some(),
            "--image and --autoinstall are not compatible options",
        ),
        (
            arguments.configure_from.is_some() && !arguments.autoinstall,
            "--configure-from can only be used with --autoinstall",
        ),
        (
            arguments.autoinstall && arguments.no_bootloader,
            "--autoinstall and --no-bootloader are not compatible options",
        ),
        (
            arguments.autoinstall && arguments.dry_run,
            "--autoinstall and --dry-run are not compatible options",
        ),
        (
            arguments.append.is_some() && !arguments.autoinstall,
            "--append can be used only with --autoinstall",
        ),
        (
            arguments.flavor.is_some() && !arguments.autoinstall,
            "--flavor can be used only with --autoinstall",
        ),
        (
            arguments.diff && arguments.directory.is_some(),
            "--directory cannot be used with --diff: a diff is of the whole image",
        ),
        (
            arguments.diff && arguments.no_delete,
            "--no-delete cannot be used with --diff: a diff says what goes",
        ),
        (
            arguments.reboot && arguments.root.as_os_str() != "/",
            "--reboot cannot be used with --root: the running system is another one",
        ),
    ];
    match reasons.into_iter().find(|(refused, _)| *refused) {
        Some((_, why)) => Err(usage(why.to_owned())),
        None => Ok(()),
    }
}

/// What a run is to do on a node that `follows` something.
pub fn request(
    arguments: &Arguments,
    settings: &Settings,
    follows: Follows,
    tunnel: Option<&Tunnelled>,
) -> Result<UpdateRequest, UpdateError> {
    Ok(UpdateRequest {
        root: arguments.root.clone(),
        image: follows.image,
        overrides: follows.overrides,
        way: way(arguments, settings, tunnel)?,
        rsync: server(settings, tunnel),
        sync_timeout: Duration::from_secs(settings.full_sync_timeout.into()),
        excludes: settings.excludes.clone(),
        fstypes: settings.fstypes.clone(),
        bootloader: settings.bootloader.clone(),
        program_timeout: Duration::from_secs(settings.program_timeout.into()),
        check: settings.check,
        drift: settings.drift,
        purge_untracked: arguments.purge_untracked,
        max_delete: settings.max_delete,
        adopt_share: settings.adopt_share,
        adopt_only: arguments.adopt,
        fallback: settings.fallback,
        dry_run: arguments.dry_run,
        unhold: arguments.unhold,
        keep_undo: settings.keep_undo,
        undo_share: settings.undo_share,
        allow_downgrade: arguments.allow_downgrade,
        allow_root_fs: settings.allow_root_fs.clone(),
        fetch: fetch_options(arguments, settings),
        spool_limit: u64::from(settings.download.spool_limit) << 20,
    })
}

/// What a rollback needs of them.
pub fn rollback(arguments: &Arguments, settings: &Settings) -> RollbackRequest {
    RollbackRequest {
        root: arguments.root.clone(),
        dry_run: arguments.dry_run,
        allow_root_fs: settings.allow_root_fs.clone(),
        keep_undo: settings.keep_undo,
        undo_share: settings.undo_share,
        bootloader: settings.bootloader.clone(),
        program_timeout: Duration::from_secs(settings.program_timeout.into()),
    }
}

/// What is asked about a path of the tree, which is given as the tree has it.
pub fn why(
    arguments: &Arguments,
    settings: &Settings,
    path: &Path,
) -> Result<ExplainRequest, UpdateError> {
    Ok(ExplainRequest {
        root: arguments.root.clone(),
        path: absolute(path).map_err(|why| usage(format!("--why {}: {why}", path.display())))?,
        excludes: settings.excludes.clone(),
        fstypes: settings.fstypes.clone(),
    })
}

/// What `--autoinstall` is to arrange.
pub fn autoinstall(
    arguments: &Arguments,
    settings: &Settings,
    tunnel: Option<&Tunnelled>,
) -> Result<autoinstall::AutoinstallRequest, UpdateError> {
    let server =
        server(settings, tunnel).ok_or_else(|| usage("You must specify --server.".to_owned()))?;
    let given = |typed: &Option<String>| typed.clone().filter(|text| !text.is_empty());
    Ok(autoinstall::AutoinstallRequest {
        root: arguments.root.clone(),
        image_server: server.host.clone(),
        server,
        ssh_user: settings.ssh_user.clone(),
        flavor: given(&arguments.flavor),
        append: arguments.append.clone().unwrap_or_default(),
        configure_from: given(&arguments.configure_from),
        sync_timeout: Duration::from_secs(settings.full_sync_timeout.into()),
        program_timeout: Duration::from_secs(settings.program_timeout.into()),
    })
}

/// The rsync daemon, where a server is named.
pub fn server(settings: &Settings, tunnel: Option<&Tunnelled>) -> Option<Server> {
    let (host, _) = host_and_port(settings.server.as_ref()?);
    let through = tunnel.map(|tunnel| tunnel.rsync);
    Some(Server { host: host.to_owned(), port: settings.rsync_port, through })
}

/// How patient downloads are.
pub fn fetch_options(arguments: &Arguments, settings: &Settings) -> FetchOptions {
    let download = &settings.download;
    FetchOptions {
        attempts: download.attempts,
        idle_timeout: Duration::from_secs(download.idle_timeout.into()),
        minimum_speed: download.min_speed.into(),
        stopped: signals::is_stopped,
        ca_file: settings
            .ca_file
            .as_ref()
            .map(|file| arguments.root.join(file.trim_start_matches('/'))),
        ..FetchOptions::default()
    }
}

fn way(
    arguments: &Arguments,
    settings: &Settings,
    tunnel: Option<&Tunnelled>,
) -> Result<SyncMode, UpdateError> {
    if arguments.diff || arguments.adopt {
        let repo = match (&settings.repo, &settings.server) {
            (Some(repo), _) => repo.clone(),
            (None, Some(server)) => format!("http://{server}/"),
            (None, None) => {
                return Err(usage("no repository is named: give --server or --repo".to_owned()));
            }
        };
        let repo: RepoUrl = repo.parse().map_err(|e| usage(format!("{e}")))?;
        return Ok(SyncMode::Diffs(match tunnel.and_then(|tunnel| tunnel.http) {
            Some(port) => repo.with_tunnel(port),
            None => repo,
        }));
    }
    if settings.server.is_none() {
        return Err(usage("You must specify --server.".to_owned()));
    }
    let directory = match &arguments.directory {
        None => TreePath::root(),
        Some(path) => {
            absolute(path).map_err(|why| usage(format!("--directory {}: {why}", path.display())))?
        }
    };
    Ok(SyncMode::Sync(Sync { directory, delete: !arguments.no_delete }))
}

/// An absolute path as it was typed: slashes count once, and the last one for nothing.
fn absolute(path: &Path) -> Result<TreePath, String> {
    let bytes = path.as_os_str().as_bytes();
    if !bytes.starts_with(b"/") {
        return Err("give an absolute path".to_owned());
    }
    let words: Vec<&[u8]> =
        bytes.split(|&b| b == b'/').filter(|word| !word.is_empty() && *word != b".").collect();
    if words.is_empty() {
        return Ok(TreePath::root());
    }
    TreePath::new(words.join(&b'/')).map_err(|e| e.to_string())
}

/// The host, and the port if there is one, of `HOST`, `HOST:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT`.
pub fn host_and_port(server: &str) -> (&str, Option<u16>) {
    if let Some(rest) = server.strip_prefix('[') {
        let (host, port) = rest.split_once(']').unwrap_or((rest, ""));
        return (host, port.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match server.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, port.parse().ok()),
        _ => (server, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_told_from_its_port() {
        for (server, host, port) in [
            ("head", "head", None),
            ("head:8080", "head", Some(8080)),
            ("[::1]:80", "::1", Some(80)),
            ("[::1]", "::1", None),
            ("::1", "::1", None),
        ] {
            assert_eq!(host_and_port(server), (host, port));
        }
    }

    #[test]
    fn a_directory_is_taken_as_the_old_client_took_it() {
        let shown = |text: &str| absolute(Path::new(text)).map(|path| path.to_string()).ok();
        assert_eq!(shown("/usr//share/").as_deref(), Some("/usr/share"));
        assert_eq!(shown("/").as_deref(), Some("/"));
        assert_eq!((shown("usr"), shown("/usr/../etc")), (None, None));
    }
}
