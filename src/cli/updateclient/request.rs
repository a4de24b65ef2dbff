//! Turns arguments and settings into the requests of the library.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::autoinstall::AutoinstallRequest;
use crate::cli::signals;
use crate::cli::updateclient::args::Arguments;
use crate::cli::updateclient::error::{ArgumentError, PathFault};
use crate::cli::updateclient::notice::ClientNotice;
use crate::cli::updateclient::settings::{Settings, host_and_port, server_url};
use crate::cli::updateclient::tunnel::ServerTunnel;
use crate::fetch::{ClientCertificate, FetchOptions, RepoUrl};
use crate::full_sync::Server;
use crate::host::Drift;
use crate::report::Monitor;
use crate::tree_path::TreePath;
use crate::update::{
    self, Assigned, AssignmentSource, ClusterRequest, DownloadedSource, ExplainRequest, NewerHeads,
    RepairScope, RepositorySource, RollbackRequest, RsyncScope, SyncMode, TrustSettings,
    UpdateError, UpdateRequest, UpdateStep, VerifyRequest,
};

/// Refuses options that exclude each other.
pub fn check_combinations(arguments: &Arguments) -> Result<(), ArgumentError> {
    for (is_given, option) in [
        (arguments.image.is_some(), "--image"),
        (arguments.no_bootloader, "--no-bootloader"),
        (arguments.dry_run, "--dry-run"),
    ] {
        if arguments.autoinstall && is_given {
            // The old client named the options in this order.
            return Err(match option {
                "--image" => ArgumentError::Incompatible { first: option, second: "--autoinstall" },
                _ => ArgumentError::Incompatible { first: "--autoinstall", second: option },
            });
        }
    }

    for (is_given, option) in [
        (arguments.configure_from.is_some(), "--configure-from"),
        (arguments.append.is_some(), "--append"),
        (arguments.flavor.is_some(), "--flavor"),
    ] {
        if is_given && !arguments.autoinstall {
            return Err(ArgumentError::Needs { option, needed: "--autoinstall" });
        }
    }

    for (is_refused, option, other, reason) in [
        (
            arguments.diff && arguments.directory.is_some(),
            "--directory",
            "--diff",
            "a diff is for the whole image",
        ),
        (
            arguments.diff && arguments.no_delete,
            "--no-delete",
            "--diff",
            "a diff lists the paths to delete",
        ),
        (
            arguments.repair.is_some() && arguments.purge_untracked,
            "--purge-untracked",
            "--repair",
            "a repair leaves untracked paths as they are",
        ),
        (
            arguments.repair.is_some() && arguments.drift == Some(Drift::Report),
            "--drift report",
            "--repair",
            "it would repair nothing",
        ),
        (
            arguments.reboot && arguments.root.as_os_str() != "/",
            "--reboot",
            "--root",
            "the running system is another one",
        ),
    ] {
        if is_refused {
            return Err(ArgumentError::Conflict { option, other, reason });
        }
    }
    Ok(())
}

/// Image and overrides of this node: as configured, or else from the site's `cluster.txt`.
pub fn find_assignment(
    arguments: &Arguments,
    settings: &Settings,
    tunnel: Option<&ServerTunnel>,
    monitor: &dyn Monitor,
) -> Result<Assigned, UpdateError> {
    if arguments.repair.is_some() {
        return update::recorded_assignment(&arguments.root, monitor);
    }
    let overrides = settings.overrides.clone();
    if let Some(image) = settings.image.clone() {
        return Ok(Assigned { image, overrides, source: AssignmentSource::Configuration });
    }

    let repo = repository_source(settings, tunnel);
    let rsync = match require_rsync_server(settings, tunnel) {
        Err(error) if repo.is_none() => return Err(error.into()),
        server => server.ok(),
    };
    let deadline = Some(Instant::now() + Duration::from_secs(settings.full_sync_timeout.into()));
    let request = ClusterRequest {
        root: arguments.root.clone(),
        rsync,
        repo,
        fetch: FetchOptions { deadline, ..fetch_options(arguments, settings) },
        spool_limit: spool_limit(settings),
        trust: trust_settings(arguments, settings),
        // The update that follows removes all records of seen catalogs.
        allow_downgrade: arguments.allow_downgrade || arguments.forget_seen,
        allow_root_fs: settings.allow_root_fs.clone(),
        dry_run: arguments.dry_run,
    };
    let mut assigned = update::cluster(&request, monitor)?;
    if !overrides.is_empty() {
        assigned.overrides = overrides;
    }
    if matches!(assigned.source, AssignmentSource::Cluster(_) | AssignmentSource::Daemon) {
        monitor.note(ClientNotice::Assigned(&assigned));
    }
    Ok(assigned)
}

/// Request of a switch to a downloaded update, whose names replace those of `cluster.txt`.
pub fn switch_request(
    arguments: &Arguments,
    settings: &Settings,
    source: DownloadedSource,
) -> Result<UpdateRequest, UpdateError> {
    let DownloadedSource { image, overrides, assignment, repository } = source;
    let mut assigned = Assigned { image, overrides, source: assignment };
    let overrides = settings.overrides.clone();
    if let Some(image) = settings.image.clone() {
        assigned = Assigned { image, overrides, source: AssignmentSource::Configuration };
    } else if !overrides.is_empty() {
        assigned.overrides = overrides;
    }
    // If the server is not asked, its encryption does not matter.
    let repo = match named_repo(settings) {
        Err(ArgumentError::NoRepository) => repository.parse().map_err(ArgumentError::from)?,
        named => named?,
    };
    let mut request = request_of(arguments, settings, assigned, SyncMode::Diffs(repo));
    // A tunnel takes longer to open than the question may take.
    let may_ask = settings.ssh_user.is_none() && !is_refused(settings);
    request.step =
        UpdateStep::FromDownloaded(if may_ask { NewerHeads::Ask } else { NewerHeads::DoNotAsk });
    Ok(request)
}

/// Whether the settings forbid to ask the repository that they name.
fn is_refused(settings: &Settings) -> bool {
    matches!(repo_url(settings, None), Err(ArgumentError::NotEncrypted { .. }))
}

/// Request of an update to the assigned image.
pub fn update_request(
    arguments: &Arguments,
    settings: &Settings,
    assigned: Assigned,
    tunnel: Option<&ServerTunnel>,
) -> Result<UpdateRequest, UpdateError> {
    let mode = sync_mode(arguments, settings, tunnel)?;
    let rsync = rsync_server(settings, tunnel);
    Ok(UpdateRequest { rsync, ..request_of(arguments, settings, assigned, mode) })
}

fn request_of(
    arguments: &Arguments,
    settings: &Settings,
    assigned: Assigned,
    mode: SyncMode,
) -> UpdateRequest {
    UpdateRequest {
        root: arguments.root.clone(),
        image: assigned.image,
        overrides: assigned.overrides,
        assignment: assigned.source,
        mode,
        rsync: None,
        sync_timeout: Duration::from_secs(settings.full_sync_timeout.into()),
        excludes: settings.excludes.clone(),
        create_directories: settings.create_directories.clone(),
        seed_files: settings.seed_files.clone(),
        fstypes: settings.fstypes.clone(),
        bootloader: settings.bootloader.clone(),
        program_timeout: program_timeout(settings),
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
        spool_limit: spool_limit(settings),
        trust: trust_settings(arguments, settings),
        forget_seen: arguments.forget_seen,
        step: if arguments.download_only { UpdateStep::DownloadOnly } else { UpdateStep::Whole },
        staged_max_age: Duration::from_secs(settings.staged_max_age.into()),
        rebuild_jobs: rebuild_jobs(settings.rebuild_jobs),
    }
}

/// Number of compressed files that are rebuilt at a time.
///
/// By default most processors are left to the jobs of the node.
fn rebuild_jobs(configured: u32) -> usize {
    const MOST: usize = 8;
    let processors = thread::available_parallelism().map_or(1, usize::from);
    match usize::try_from(configured).unwrap_or(MOST) {
        0 => (processors / 4).clamp(1, MOST),
        configured => configured.min(MOST),
    }
}

/// Request of a rollback.
pub fn rollback_request(
    arguments: &Arguments,
    settings: &Settings,
) -> Result<RollbackRequest, UpdateError> {
    let skipped = arguments.skip_filesystem.iter();
    let skipped = skipped.map(|path| absolute("--skip-filesystem", path));
    Ok(RollbackRequest {
        root: arguments.root.clone(),
        excludes: settings.excludes.clone(),
        dry_run: arguments.dry_run,
        skip_filesystems: skipped.collect::<Result<_, _>>()?,
        allow_root_fs: settings.allow_root_fs.clone(),
        keep_undo: settings.keep_undo,
        undo_share: settings.undo_share,
        bootloader: settings.bootloader.clone(),
        program_timeout: program_timeout(settings),
    })
}

/// Request of `--why`; `path` is a path of the tree, not below `--root` on this machine.
pub fn explain_request(
    arguments: &Arguments,
    settings: &Settings,
    path: &Path,
) -> Result<ExplainRequest, UpdateError> {
    Ok(ExplainRequest {
        root: arguments.root.clone(),
        path: absolute("--why", path)?,
        excludes: settings.excludes.clone(),
        fstypes: settings.fstypes.clone(),
    })
}

/// Request of `--verify`; `tunnel` is open, or the reason that it cannot be opened.
pub fn verify_request(
    arguments: &Arguments,
    settings: &Settings,
    tunnel: Result<Option<&ServerTunnel>, String>,
) -> Result<VerifyRequest, UpdateError> {
    let paths = arguments.verify.iter().flatten().map(|path| absolute("--verify", path));
    let repo =
        tunnel.and_then(|tunnel| repo_url(settings, tunnel).map_err(|error| error.to_string()));
    Ok(VerifyRequest {
        root: arguments.root.clone(),
        paths: paths.collect::<Result<_, _>>()?,
        against: arguments.against.clone(),
        image: settings.image.clone(),
        overrides: settings.overrides.clone(),
        excludes: settings.excludes.clone(),
        fstypes: settings.fstypes.clone(),
        repo,
        fetch: fetch_options(arguments, settings),
        trust: trust_settings(arguments, settings),
        allow_downgrade: arguments.allow_downgrade,
    })
}

/// Request of `--autoinstall`.
pub fn autoinstall_request(
    arguments: &Arguments,
    settings: &Settings,
    tunnel: Option<&ServerTunnel>,
) -> Result<AutoinstallRequest, UpdateError> {
    let server = require_rsync_server(settings, tunnel)?;
    Ok(AutoinstallRequest {
        root: arguments.root.clone(),
        image_server: server.host.clone(),
        server,
        ssh_user: settings.ssh_user.clone(),
        trust: trust_settings(arguments, settings),
        flavor: arguments.flavor.clone().filter(|name| !name.is_empty()),
        append: arguments.append.clone().unwrap_or_default(),
        configure_from: arguments.configure_from.clone().filter(|device| !device.is_empty()),
        sync_timeout: Duration::from_secs(settings.full_sync_timeout.into()),
        program_timeout: program_timeout(settings),
    })
}

/// Time limit of each hook and tool.
pub fn program_timeout(settings: &Settings) -> Duration {
    Duration::from_secs(settings.program_timeout.into())
}

/// The rsync daemon, if a server is configured that may be used.
fn rsync_server(settings: &Settings, tunnel: Option<&ServerTunnel>) -> Option<Server> {
    require_rsync_server(settings, tunnel).ok()
}

/// The rsync daemon; an error if there is none, or none with the encryption that is required.
fn require_rsync_server(
    settings: &Settings,
    tunnel: Option<&ServerTunnel>,
) -> Result<Server, ArgumentError> {
    let server = settings.server.as_ref().ok_or(ArgumentError::NoServer)?;
    let (host, _) = host_and_port(server);
    let relay = tunnel.map(|tunnel| tunnel.rsync.clone());
    let server = Server { host: host.to_owned(), port: settings.rsync_port, relay };
    if settings.require_tls && server.relay.is_none() {
        return Err(ArgumentError::NotEncrypted { address: server.to_string() });
    }
    Ok(server)
}

fn trust_settings(arguments: &Arguments, settings: &Settings) -> TrustSettings {
    TrustSettings {
        require_signature: settings.require_signature,
        max_head_age: Duration::from_secs(settings.max_head_age.into()),
        allow_expired: arguments.allow_expired,
        keys_from: arguments.keys_from.clone(),
    }
}

/// Limit of the spool in bytes.
fn spool_limit(settings: &Settings) -> u64 {
    u64::from(settings.download.spool_limit) << 20
}

fn fetch_options(arguments: &Arguments, settings: &Settings) -> FetchOptions {
    let download = &settings.download;
    FetchOptions {
        attempts: download.attempts,
        idle_timeout: Duration::from_secs(download.idle_timeout.into()),
        minimum_speed: download.min_speed.into(),
        is_cancelled: signals::is_cancelled,
        ca_file: settings.ca_file.as_deref().map(|file| below(&arguments.root, file)),
        tls_pins: settings.tls_pins.clone(),
        client_certificate: settings.client_certificate.as_ref().map(|(certificate, key)| {
            ClientCertificate {
                certificate: below(&arguments.root, certificate),
                key: below(&arguments.root, key),
            }
        }),
        ..FetchOptions::default()
    }
}

/// A file that a setting names, in the tree.
fn below(root: &Path, file: &str) -> PathBuf {
    root.join(file.trim_start_matches('/'))
}

fn sync_mode(
    arguments: &Arguments,
    settings: &Settings,
    tunnel: Option<&ServerTunnel>,
) -> Result<SyncMode, UpdateError> {
    if let Some(paths) = &arguments.repair {
        let paths = paths.iter().map(|path| absolute("--repair", path));
        return Ok(SyncMode::Repair(RepairScope {
            paths: paths.collect::<Result<_, _>>()?,
            repo: repo_url(settings, tunnel).map_err(|error| error.to_string()),
        }));
    }
    if arguments.diff || arguments.adopt {
        return Ok(SyncMode::Diffs(repo_url(settings, tunnel)?));
    }

    require_rsync_server(settings, tunnel)?;
    let directory = match &arguments.directory {
        None => TreePath::root(),
        Some(path) => absolute("--directory", path)?,
    };
    let repo = repository_source(settings, tunnel);
    Ok(SyncMode::Rsync(RsyncScope { directory, delete: !arguments.no_delete, repo }))
}

/// The repository for a run that needs one only if the node requires signatures.
fn repository_source(
    settings: &Settings,
    tunnel: Option<&ServerTunnel>,
) -> Option<RepositorySource> {
    let url = repo_url(settings, tunnel).ok()?;
    Some(match settings.repo {
        Some(_) => RepositorySource::Configured(url),
        None => RepositorySource::Assumed(url),
    })
}

/// The repository that the settings name.
fn named_repo(settings: &Settings) -> Result<RepoUrl, ArgumentError> {
    let repo = match (&settings.repo, &settings.server) {
        (Some(repo), _) => repo.clone(),
        (None, Some(server)) => server_url(server),
        (None, None) => return Err(ArgumentError::NoRepository),
    };
    Ok(repo.parse()?)
}

fn repo_url(settings: &Settings, tunnel: Option<&ServerTunnel>) -> Result<RepoUrl, ArgumentError> {
    let repo = named_repo(settings)?;
    let repo = match tunnel.and_then(|tunnel| tunnel.http.clone()) {
        Some(socket) => repo.with_tunnel(socket),
        None => repo,
    };
    if settings.require_tls && !repo.is_encrypted() {
        return Err(ArgumentError::NotEncrypted { address: repo.to_string() });
    }
    Ok(repo)
}

/// Parses an absolute path; repeated and trailing slashes are ignored, as by the old client.
fn absolute(option: &'static str, path: &Path) -> Result<TreePath, ArgumentError> {
    let refuse = |reason| ArgumentError::Path { option, path: path.to_owned(), reason };
    let bytes = path.as_os_str().as_bytes();
    if !bytes.starts_with(b"/") {
        return Err(refuse(PathFault::Relative));
    }

    let words: Vec<&[u8]> =
        bytes.split(|&b| b == b'/').filter(|word| !word.is_empty() && *word != b".").collect();
    if words.is_empty() {
        return Ok(TreePath::root());
    }
    TreePath::new(words.join(&b'/')).map_err(|error| refuse(PathFault::Bad(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_is_parsed_as_by_old_client() {
        for (typed, path) in [
            ("/usr//share/", Some("/usr/share")),
            ("/", Some("/")),
            ("usr", None),
            ("/usr/../etc", None),
        ] {
            let parsed = absolute("--directory", Path::new(typed)).ok();
            assert_eq!(parsed.map(|path| path.to_string()).as_deref(), path, "{typed}");
        }
    }
}
