//! What was typed and what is configured, together: what it means.

use std::io::Read;

use super::arguments::Arguments;
use crate::apply::Untouched;
use crate::cli::signals;
use crate::fetch::{Options, RepoUrl};
use crate::host::{ClientConf, Config, DEFAULT_EXCLUDES, MAX_FILE};
use crate::report::Monitor;
use crate::root::{FileKind, Root};
use crate::tree_path::TreePath;
use crate::update::{Request, RollbackRequest, UpdateError};

const CONFIG: &str = "etc/systemimager/updateclient.toml";
const CLIENT_CONF: &str = "etc/systemimager/client.conf";
const EXCLUDES: &str = "etc/systemimager/updateclient.local.exclude";
/// rsync's registered port.
const RSYNC_PORT: u16 = 873;

/// Puts the command line over the configuration, and that over the old client's.
pub fn request(arguments: &Arguments, monitor: &dyn Monitor) -> Result<Request, UpdateError> {
    refuse_combinations(arguments)?;
    let root = Root::open(&arguments.root).map_err(Untouched::from)?;
    let config = configured(&root)?;
    let old = match read_below(&root, CLIENT_CONF)? {
        Some(bytes) => ClientConf::parse(CLIENT_CONF, &bytes).map_err(|e| usage(e.to_string()))?,
        None => ClientConf::default(),
    };
    if !old.ignored.is_empty() {
        monitor.note(format!("/{CLIENT_CONF} says what means nothing here: {}", old.ignored.join(", ")));
    }
    let server = arguments.server.clone().or_else(|| config.server.clone()).or_else(|| old.server.clone());
    let image = arguments.image.clone().or_else(|| config.image.clone()).or_else(|| old.image.clone());
    let image = image.ok_or_else(|| usage(format!("no image is named: give --image, or image in /{CONFIG}")))?;
    let repo = match (arguments.repo.as_ref().or(config.repo.as_ref()), &server) {
        (Some(repo), _) => repo.clone(),
        (None, Some(server)) => format!("http://{server}/"),
        (None, None) => {
            return Err(usage(format!("no repository is named: give --server or --repo, or one of them in /{CONFIG}")));
        }
    };
    let repo: RepoUrl = repo.parse().map_err(|e| usage(format!("{e}")))?;
    let port = arguments.rsync_port.or(config.rsync_port).or(old.rsync_port).unwrap_or(RSYNC_PORT);
    Ok(Request {
        root: arguments.root.clone(),
        image,
        repo,
        rsync: server.map(|server| (host_of(&server).to_owned(), port)),
        excludes: excludes(arguments, &config, &old, &root)?,
        check: arguments.check.unwrap_or(config.check),
        drift: arguments.drift.unwrap_or(config.drift),
        purge_untracked: arguments.purge_untracked,
        max_delete: arguments.max_delete.unwrap_or(config.max_delete),
        adopt_share: config.adopt_share,
        adopt_only: arguments.adopt,
        fallback: config.fallback && !arguments.no_fallback,
        dry_run: arguments.dry_run,
        unhold: arguments.unhold,
        keep_undo: config.keep_undo,
        undo_share: config.undo_share,
        allow_downgrade: arguments.allow_downgrade,
        allow_root_fs: arguments.allow_root_fs.iter().chain(&config.allow_root_fs).cloned().collect(),
        fetch: fetch_options(&config, &root),
        spool_limit: u64::from(config.download.spool_limit) << 20,
    })
}

/// What a rollback needs of them.
pub fn rollback(arguments: &Arguments) -> Result<RollbackRequest, UpdateError> {
    let root = Root::open(&arguments.root).map_err(Untouched::from)?;
    let config = configured(&root)?;
    Ok(RollbackRequest {
        root: arguments.root.clone(),
        dry_run: arguments.dry_run,
        allow_root_fs: arguments.allow_root_fs.iter().chain(&config.allow_root_fs).cloned().collect(),
        keep_undo: config.keep_undo,
        undo_share: config.undo_share,
    })
}

fn configured(root: &Root) -> Result<Config, UpdateError> {
    match read_below(root, CONFIG)? {
        Some(bytes) => Config::parse(CONFIG, &bytes).map_err(|e| usage(e.to_string())),
        None => Ok(Config::default()),
    }
}

fn refuse_combinations(arguments: &Arguments) -> Result<(), UpdateError> {
    if let Some(directory) = &arguments.directory {
        let why = format!("--directory {} cannot be followed: a diff is of the whole image", directory.display());
        return Err(usage(why));
    }
    if !arguments.diff && !arguments.adopt {
        return Err(usage(
            "say what to do: --diff updates this node, --rollback undoes that, --adopt, --status and --recover look after it".to_owned(),
        ));
    }
    Ok(())
}

fn excludes(
    arguments: &Arguments,
    config: &Config,
    old: &ClientConf,
    root: &Root,
) -> Result<(String, Vec<u8>), UpdateError> {
    if let Some(path) = &arguments.exclude_file {
        let name = path.display().to_string();
        let mut bytes = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes));
        read.map_err(|e| usage(format!("cannot read the exclude file {name}: {e}")))?;
        return Ok((name, bytes));
    }
    if let Some(named) = config.exclude_file.as_ref().or(old.exclude_file.as_ref()) {
        let found = read_below(root, named.trim_start_matches('/'))?;
        let bytes = found.ok_or_else(|| {
            usage(format!("the exclude file {named} does not exist below {}", root.shown().display()))
        })?;
        return Ok((named.clone(), bytes));
    }
    let own = read_below(root, EXCLUDES)?.map(|bytes| (format!("/{EXCLUDES}"), bytes));
    Ok(own.unwrap_or_else(|| ("the built-in excludes".to_owned(), DEFAULT_EXCLUDES.into())))
}

fn fetch_options(config: &Config, root: &Root) -> Options {
    let download = &config.download;
    Options {
        attempts: download.attempts,
        idle_timeout: std::time::Duration::from_secs(download.idle_timeout.into()),
        minimum_speed: download.min_speed.into(),
        stopped: signals::is_stopped,
        ca_file: config.ca_file.as_ref().map(|file| root.shown().join(file.trim_start_matches('/'))),
        ..Options::default()
    }
}

/// A configuration file below the root; `None` where there is none.
fn read_below(root: &Root, path: &str) -> Result<Option<Vec<u8>>, UpdateError> {
    let path = TreePath::new(path).map_err(|e| usage(e.to_string()))?;
    let file = match root.open_file(&path) {
        Err(e) if e.is_absent() => {
            refuse_symlinks(root, &path)?;
            return Ok(None);
        }
        answer => answer.map_err(Untouched::from)?,
    };
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|e| usage(format!("cannot read {}: {e}", root.show(&path))))?;
    Ok(Some(bytes))
}

/// A file behind a symlink is not read, since the link may lead out of the tree; nor is it taken for
/// none, since what it excludes would be overwritten.
fn refuse_symlinks(root: &Root, path: &TreePath) -> Result<(), UpdateError> {
    let mut at = Some(path.clone());
    while let Some(path) = at {
        if root.stat(&path).map_err(Untouched::from)?.is_some_and(|stat| stat.kind == FileKind::Symlink) {
            let place = root.show(&path);
            return Err(usage(format!("{place} is a symlink, and configuration is not read through one")));
        }
        at = path.parent();
    }
    Ok(())
}

/// The host of `HOST`, `HOST:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT`.
fn host_of(server: &str) -> &str {
    if let Some(rest) = server.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match server.split_once(':') {
        Some((host, port)) if !port.contains(':') => host,
        _ => server,
    }
}

fn usage(text: String) -> UpdateError {
    UpdateError::Usage(text)
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn the_host_is_told_from_its_port() {
        for (server, host) in
            [("head", "head"), ("head:8080", "head"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("::1", "::1")]
        {
            assert_eq!(host_of(server), host);
        }
    }
}
