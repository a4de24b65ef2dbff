//! All settings, each with its source: command line, configuration files, defaults.
//!
//! The command line has precedence over `updateclient.toml`, and that over the old client's
//! `client.conf`. The overrides of the file `overrides` are added to those named elsewhere. All
//! files are read below the root of the tree, and never through a symlink.

mod excludes;
mod overrides;
mod picker;

use std::io::Read;
use std::net::Ipv6Addr;

use crate::apply::Untouched;
use crate::cli::updateclient::args::Arguments;
use crate::cli::updateclient::error::ArgumentError;
use crate::fetch::TlsPin;
use crate::host::{
    BootLoader, Check, ClientConf, Config, Download, Drift, KeepUndo, MAX_FILE, MaxDelete,
};
use crate::image::ImageName;
use crate::root::{FileKind, Root};
use crate::tree_path::TreePath;
use crate::update::{Excludes, UpdateError};

pub use picker::Row;

use picker::Picker;

const CONFIG: &str = "etc/systemimager/updateclient.toml";
const CLIENT_CONF: &str = "etc/systemimager/client.conf";
/// Port that is registered for rsync.
const RSYNC_PORT: u16 = 873;

/// Settings of a run, known before the server is contacted.
pub struct Settings {
    pub server: Option<String>,
    pub image: Option<ImageName>,
    /// In the order in which they are copied over the image.
    pub overrides: Vec<ImageName>,
    pub repo: Option<String>,
    pub rsync_port: u16,
    pub ssh_user: Option<String>,
    pub excludes: Excludes,
    pub create_directories: Vec<TreePath>,
    pub seed_files: Vec<TreePath>,
    pub fstypes: Option<Vec<String>>,
    pub check: Check,
    pub drift: Drift,
    pub max_delete: MaxDelete,
    pub adopt_share: f64,
    pub fallback: bool,
    pub log: Option<String>,
    pub bootloader: BootLoader,
    pub keep_undo: KeepUndo,
    pub undo_share: f64,
    pub ca_file: Option<String>,
    pub tls_pins: Vec<TlsPin>,
    /// Files of certificate and key.
    pub client_certificate: Option<(String, String)>,
    pub require_tls: bool,
    pub require_signature: bool,
    pub max_head_age: u32,
    pub staged_max_age: u32,
    /// Compressed files that are rebuilt at a time; 0: a quarter of the processors.
    pub rebuild_jobs: u32,
    pub allow_root_fs: Vec<String>,
    pub splay: u32,
    pub syslog: bool,
    pub full_sync_timeout: u32,
    pub program_timeout: u32,
    pub download: Download,
    /// The same settings for `--show-config`.
    pub rows: Vec<Row>,
    /// Lines of `client.conf` without a meaning for this program.
    pub ignored: Vec<String>,
    /// Reason that the configuration files were not used; only for a rollback.
    pub unused_files: Option<UpdateError>,
}

/// Content of the configuration files.
#[derive(Default)]
struct Files {
    config: Config,
    /// Names that `updateclient.toml` sets; the parser itself adds defaults.
    configured: Vec<String>,
    client_conf: ClientConf,
}

impl Files {
    fn read(root: &Root) -> Result<Self, UpdateError> {
        let (config, configured) = match read_below(root, CONFIG)? {
            Some(bytes) => {
                let config = Config::parse(CONFIG, &bytes).map_err(ArgumentError::from)?;
                (config, Config::names(&bytes))
            }
            None => (Config::default(), Vec::new()),
        };
        let client_conf = match read_below(root, CLIENT_CONF)? {
            Some(bytes) => ClientConf::parse(CLIENT_CONF, &bytes).map_err(ArgumentError::from)?,
            None => ClientConf::default(),
        };

        Ok(Files { config, configured, client_conf })
    }
}

/// Settings that name the server and the content: each can be absent.
struct Names {
    server: Option<String>,
    image: Option<ImageName>,
    overrides: Vec<ImageName>,
    repo: Option<String>,
    ssh_user: Option<String>,
    excludes: Excludes,
    fstypes: Option<Vec<String>>,
    rsync_port: u16,
}

/// Checked settings of TLS.
struct TlsSettings {
    pins: Vec<TlsPin>,
    client_certificate: Option<(String, String)>,
}

impl TlsSettings {
    fn resolve(config: &Config) -> Result<Self, ArgumentError> {
        let pins = config.tls_pins.iter().map(|pin| pin.parse()).collect::<Result<_, _>>()?;
        let client_certificate = match (&config.tls_client_cert, &config.tls_client_key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => return Err(ArgumentError::HalfClientCertificate),
        };
        Ok(TlsSettings { pins, client_certificate })
    }
}

/// Combines command line and configuration files to the settings of a run.
///
/// An update may have installed a file that is not valid. It must not keep an administrator from
/// undoing that update, so a rollback does without the files then.
pub fn resolve(arguments: &Arguments) -> Result<Settings, UpdateError> {
    let root = Root::open(&arguments.root).map_err(Untouched::from)?;
    if arguments.ignore_config {
        return combine(arguments, &root, Files::default());
    }
    match Files::read(&root).and_then(|files| combine(arguments, &root, files)) {
        Err(fault @ UpdateError::Usage(_)) if arguments.rollback => {
            let settings = combine(arguments, &root, Files::default())?;
            Ok(Settings { unused_files: Some(fault), ..settings })
        }
        settings => settings,
    }
}

fn combine(arguments: &Arguments, root: &Root, files: Files) -> Result<Settings, UpdateError> {
    let mut picker = Picker::new(files.configured.clone());

    let names = resolve_names(arguments, &files, root, &mut picker)?;
    let tls = TlsSettings::resolve(&files.config)?;
    let settings = resolve_values(arguments, files, (names, tls), &mut picker);
    list_remaining(arguments, &settings, &mut picker);

    Ok(Settings { rows: picker.into_rows(), ..settings })
}

fn resolve_names(
    arguments: &Arguments,
    files: &Files,
    root: &Root,
    pick: &mut Picker,
) -> Result<Names, UpdateError> {
    let Files { config, client_conf, .. } = files;

    let server = pick.first(
        "server",
        non_empty(&arguments.server),
        config.server.clone(),
        client_conf.server.clone(),
    );
    if let Some(server) = &server {
        check_server(server)?;
    }
    let image = non_empty(&arguments.image).map(|name| parse_image(&name)).transpose()?;
    let image = pick.first("image", image, config.image.clone(), client_conf.image.clone());
    let overrides = overrides::resolve(arguments, config, root, pick)?;
    let repo = pick.first("repo", non_empty(&arguments.repo), config.repo.clone(), None);
    // Without a user name the connection would not be encrypted, so an empty one is refused.
    let ssh_user =
        pick.first("ssh_user", arguments.ssh_user.clone(), config.ssh_user.clone(), None);
    if let Some(user) = ssh_user.as_ref().filter(|user| !is_user_name(user)) {
        return Err(ArgumentError::User { user: user.clone() }.into());
    }
    let excludes = excludes::resolve(arguments, files, root, pick)?;
    let fstypes = pick.first_list(
        "fstype",
        config.fstype.clone(),
        Some(client_conf.fstypes.clone()).filter(|types| !types.is_empty()),
    );
    let rsync_port = pick.first_or(
        "rsync_port",
        [arguments.rsync_port, config.rsync_port, client_conf.rsync_port],
        RSYNC_PORT,
    );

    Ok(Names { server, image, overrides, repo, ssh_user, excludes, fstypes, rsync_port })
}

/// Adds the settings that have a default.
fn resolve_values(
    arguments: &Arguments,
    files: Files,
    (names, tls): (Names, TlsSettings),
    pick: &mut Picker,
) -> Settings {
    let Names { server, image, overrides, repo, ssh_user, excludes, fstypes, rsync_port } = names;
    let config = files.config;
    let no_fallback = arguments.no_fallback.then_some(false);
    let no_bootloader = arguments.no_bootloader.then_some(BootLoader::Never);
    let allowed = arguments.allow_root_fs.iter().chain(&config.allow_root_fs);

    // `--show-config` prints the settings in this order.
    Settings {
        server,
        image,
        overrides,
        repo,
        rsync_port,
        ssh_user,
        excludes,
        create_directories: config.create_directories,
        seed_files: config.seed_files,
        fstypes,
        check: pick.typed_or("check", arguments.check, config.check),
        drift: pick.typed_or("drift", arguments.drift, config.drift),
        adopt_share: pick.typed_or("adopt_share", None, config.adopt_share),
        max_delete: pick.typed_or("max_delete", arguments.max_delete, config.max_delete),
        keep_undo: pick.typed_or("keep_undo", None, config.keep_undo),
        undo_share: pick.typed_or("undo_share", None, config.undo_share),
        fallback: pick.typed_or("fallback", no_fallback, config.fallback),
        log: pick.first("log", non_empty(&arguments.log), config.log, None),
        bootloader: pick.typed_or("bootloader", no_bootloader, config.bootloader),
        ca_file: pick.first("ca_file", None, config.ca_file, None),
        tls_pins: tls.pins,
        client_certificate: tls.client_certificate,
        require_tls: pick.typed_or("require_tls", None, config.require_tls),
        require_signature: pick.typed_or("require_signature", None, config.require_signature),
        max_head_age: pick.typed_or("max_head_age", None, config.max_head_age),
        staged_max_age: pick.typed_or("staged_max_age", None, config.staged_max_age),
        rebuild_jobs: pick.typed_or("rebuild_jobs", arguments.rebuild_jobs, config.rebuild_jobs),
        allow_root_fs: allowed.cloned().collect(),
        splay: pick.typed_or("splay", arguments.splay, config.splay),
        syslog: pick.typed_or("syslog", None, config.syslog),
        full_sync_timeout: pick.typed_or("full_sync_timeout", None, config.full_sync_timeout),
        program_timeout: pick.typed_or("program_timeout", None, config.program_timeout),
        download: config.download,
        rows: Vec::new(),
        ignored: files.client_conf.ignored,
        unused_files: None,
    }
}

/// Adds the rows of settings that are combined of several values.
fn list_remaining(arguments: &Arguments, settings: &Settings, pick: &mut Picker) {
    let download = &settings.download;
    for (name, value) in [
        ("download.attempts", download.attempts),
        ("download.idle_timeout", download.idle_timeout),
        ("download.min_speed", download.min_speed),
        ("download.spool_limit", download.spool_limit),
    ] {
        pick.typed_or(name, None, value);
    }

    for (name, paths) in
        [("create_directories", &settings.create_directories), ("seed_files", &settings.seed_files)]
    {
        let paths: Vec<String> = paths.iter().map(TreePath::to_string).collect();
        let shown = if paths.is_empty() { "(none)".to_owned() } else { paths.join(" ") };
        pick.typed_or(name, None, shown);
    }

    let pins: Vec<String> = settings.tls_pins.iter().map(TlsPin::to_string).collect();
    let shown = if pins.is_empty() { "(none)".to_owned() } else { pins.join(" ") };
    pick.typed_or("tls_pins", None, shown);
    let (certificate, key) = settings.client_certificate.clone().unzip();
    pick.first("tls_client_cert", None, certificate, None);
    pick.first("tls_client_key", None, key, None);

    let allowed = match settings.allow_root_fs.as_slice() {
        [] => "(none)".to_owned(),
        types => types.join(" "),
    };
    let is_typed = !arguments.allow_root_fs.is_empty();
    pick.typed_or("allow_root_fs", is_typed.then(|| allowed.clone()), allowed);
}

/// Treats an empty argument as absent, as the old client did.
fn non_empty(argument: &Option<String>) -> Option<String> {
    argument.clone().filter(|text| !text.is_empty())
}

fn parse_image(name: &str) -> Result<ImageName, ArgumentError> {
    if name.starts_with('-') {
        return Err(ArgumentError::LeadingHyphen {
            name: "IMAGENAME",
            option: "--image",
            value: name.to_owned(),
        });
    }
    name.parse().map_err(|source| ArgumentError::Name { option: "--image", source })
}

fn check_server(server: &str) -> Result<(), ArgumentError> {
    if server.starts_with('-') {
        return Err(ArgumentError::LeadingHyphen {
            name: "HOSTNAME",
            option: "--server",
            value: server.to_owned(),
        });
    }
    if !is_word(server, "._-:[]%") {
        return Err(ArgumentError::Server { server: server.to_owned() });
    }

    let (host, port) = split_server(server);
    let address = host.split('%').next().unwrap_or_default();
    if host.contains(':') && address.parse::<Ipv6Addr>().is_err() {
        return Err(ArgumentError::ServerAddress { server: server.to_owned() });
    }
    if port.is_some_and(|port| port.parse::<u16>().map_or(true, |number| number == 0)) {
        return Err(ArgumentError::ServerPort { server: server.to_owned() });
    }
    Ok(())
}

/// Whether `text` has only ASCII letters, digits and the characters `more`, and no leading hyphen.
fn is_word(text: &str, more: &str) -> bool {
    !text.starts_with('-') && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
}

/// Whether `text` can be the name of a user for ssh.
fn is_user_name(text: &str) -> bool {
    !text.is_empty() && is_word(text, "._-@")
}

/// Splits `HOST`, `HOST:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT` into host and port.
pub fn host_and_port(server: &str) -> (&str, Option<u16>) {
    let (host, port) = split_server(server);
    (host, port.and_then(|port| port.parse().ok()))
}

/// The URL of the web server on the image server.
pub fn server_url(server: &str) -> String {
    let (host, port) = split_server(server);
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    if host.contains(':') {
        format!("http://[{host}]{port}/")
    } else {
        format!("http://{host}{port}/")
    }
}

/// Splits off the text of a port. An IPv6 address without brackets has none.
fn split_server(server: &str) -> (&str, Option<&str>) {
    if let Some(rest) = server.strip_prefix('[') {
        let (host, port) = rest.split_once(']').unwrap_or((rest, ""));
        return (host, Some(port.strip_prefix(':').unwrap_or("")).filter(|_| !port.is_empty()));
    }
    match server.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        _ => (server, None),
    }
}

/// Reads a configuration file below the root; `None` if it does not exist.
fn read_below(root: &Root, path: &str) -> Result<Option<Vec<u8>>, UpdateError> {
    let path = parse_path(path)?;
    let file = match root.open_file(&path) {
        Err(e) if e.is_absent() => {
            refuse_symlinks(root, &path)?;
            return Ok(None);
        }
        result => result.map_err(Untouched::from)?,
    };

    let mut bytes = Vec::new();
    file.take(MAX_FILE as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| ArgumentError::Unreadable { path: root.show(&path), source })?;
    Ok(Some(bytes))
}

/// Refuses a configuration file behind a symlink.
///
/// The link may lead out of the tree. The file must not count as absent either: files that it
/// excludes would be overwritten.
fn refuse_symlinks(root: &Root, path: &TreePath) -> Result<(), UpdateError> {
    let mut current = Some(path.clone());
    while let Some(path) = current {
        let stat = root.stat(&path).map_err(Untouched::from)?;
        if stat.is_some_and(|stat| stat.kind == FileKind::Symlink) {
            return Err(ArgumentError::Symlink { path: root.show(&path) }.into());
        }
        current = path.parent();
    }
    Ok(())
}

fn parse_path(text: &str) -> Result<TreePath, ArgumentError> {
    Ok(TreePath::new(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_is_split_into_host_and_port() {
        for (server, host, port) in [
            ("head", "head", None),
            ("head:8080", "head", Some(8080)),
            ("[::1]:80", "::1", Some(80)),
            ("[::1]", "::1", None),
            ("::1", "::1", None),
        ] {
            assert_eq!(host_and_port(server), (host, port));
            assert!(check_server(server).is_ok(), "{server}");
        }
    }

    #[test]
    fn fault_of_server_is_named() {
        for (server, fault) in [
            ("127.0.0.1:99999", "port"),
            ("head:0", "port"),
            ("head:", "port"),
            ("[::1]80", "port"),
            ("[::1]:x", "port"),
            ("::1:21999", "[ADDRESS]:PORT"),
            ("[head:1]", "[ADDRESS]:PORT"),
            ("he ad", "neither a host name nor an address"),
        ] {
            let error = check_server(server);
            let text = error.map_or_else(|error| error.to_string(), |()| String::new());
            assert!(text.contains(fault), "{server}: {text}");
        }
    }

    #[test]
    fn url_of_server_has_brackets_for_ipv6() {
        for (server, url) in [
            ("head:8080", "http://head:8080/"),
            ("::1", "http://[::1]/"),
            ("[fe80::1%eth0]:80", "http://[fe80::1%eth0]:80/"),
        ] {
            assert_eq!(server_url(server), url);
        }
    }
}
