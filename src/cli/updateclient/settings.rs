//! Every setting, and where it comes from: the command line, the configuration files, the defaults.
//!
//! What is typed counts before `updateclient.toml`, that before the old client's `client.conf`. The lines of
//! the file `overrides` are laid over whatever overrides are named elsewhere.

use std::fmt::{self, Display};
use std::io::Read;

use serde::Serialize;

use crate::apply::Untouched;
use crate::cli::updateclient::args::Arguments;
use crate::host::{
    BootLoader, Check, ClientConf, Config, DEFAULT_EXCLUDES, Download, Drift, KeepUndo, MAX_FILE,
    MaxDelete,
};
use crate::image::ImageName;
use crate::root::{FileKind, Root};
use crate::tree_path::TreePath;
use crate::update::{Excludes, UpdateError};

const CONFIG: &str = "etc/systemimager/updateclient.toml";
const CLIENT_CONF: &str = "etc/systemimager/client.conf";
const OVERRIDES: &str = "etc/systemimager/overrides";
const EXCLUDES: &str = "etc/systemimager/updateclient.local.exclude";
/// rsync's registered port.
const RSYNC_PORT: u16 = 873;

/// Everything that is settled before the server is asked.
pub struct Settings {
    pub server: Option<String>,
    pub image: Option<ImageName>,
    /// In the order in which they are laid over the image.
    pub overrides: Vec<ImageName>,
    pub repo: Option<String>,
    pub rsync_port: u16,
    pub ssh_user: Option<String>,
    pub excludes: Excludes,
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
    pub allow_root_fs: Vec<String>,
    pub splay: u32,
    pub syslog: bool,
    pub full_sync_timeout: u32,
    pub program_timeout: u32,
    pub download: Download,
    /// The same for people, with where each comes from.
    pub rows: Vec<Row>,
    /// What of the old client's configuration means nothing here.
    pub ignored: Vec<String>,
}

/// One setting, for people.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// As in `updateclient.toml`.
    pub name: &'static str,
    /// In words.
    pub value: String,
    /// Where it comes from.
    pub from: String,
}

/// Where a value comes from.
#[derive(Clone, Copy)]
enum SettingOrigin {
    CommandLine,
    File(&'static str),
    Default,
}

impl Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingOrigin::CommandLine => f.write_str("command line"),
            SettingOrigin::File(name) => write!(f, "/{name}"),
            SettingOrigin::Default => f.write_str("default"),
        }
    }
}

/// Puts the command line over the configuration, and that over the old client's.
pub fn settle(arguments: &Arguments) -> Result<Settings, UpdateError> {
    let root = Root::open(&arguments.root).map_err(Untouched::from)?;
    let (config, configured) = match read_below(&root, CONFIG)? {
        // What the file leaves out, and what it sets to the default, look alike to the parser.
        Some(bytes) => {
            let config = Config::parse(CONFIG, &bytes).map_err(|e| usage(e.to_string()))?;
            (config, Config::names(&bytes))
        }
        None => (Config::default(), Vec::new()),
    };
    let old = match read_below(&root, CLIENT_CONF)? {
        Some(bytes) => ClientConf::parse(CLIENT_CONF, &bytes).map_err(|e| usage(e.to_string()))?,
        None => ClientConf::default(),
    };
    let mut picker = Picker { rows: Vec::new(), configured };
    let pick = &mut picker;
    let server =
        pick.first("server", given(&arguments.server), config.server.clone(), old.server.clone());
    let server = server.map(|server| checked_server(&server).map(|()| server)).transpose()?;
    let image = given(&arguments.image).map(|name| image_name(&name)).transpose()?;
    let image = pick.first("image", image, config.image.clone(), old.image.clone());
    let overrides = overrides(arguments, &config, &root, pick)?;
    let repo = pick.first("repo", given(&arguments.repo), config.repo.clone(), None);
    let port = pick.first("rsync_port", arguments.rsync_port, config.rsync_port, old.rsync_port);
    let ssh_user =
        pick.first("ssh_user", given(&arguments.ssh_user), config.ssh_user.clone(), None);
    if let Some(user) = ssh_user.as_ref().filter(|user| !is_word(user, "._-@")) {
        return Err(usage(format!("{user:?} is no user name")));
    }
    let excludes = excludes(arguments, &config, &old, &root, pick)?;
    let old_types = (!old.fstypes.is_empty()).then(|| old.fstypes.clone());
    let fstypes = pick.first_list(
        "fstype",
        config.fstype.clone(),
        old_types,
        "every kind that can be updated",
    );
    let settings = Settings {
        server,
        image,
        overrides,
        repo,
        rsync_port: port.unwrap_or_else(|| pick.default("rsync_port", RSYNC_PORT)),
        ssh_user,
        excludes,
        fstypes,
        check: pick.typed_or("check", arguments.check, config.check),
        drift: pick.typed_or("drift", arguments.drift, config.drift),
        adopt_share: pick.typed_or("adopt_share", None, config.adopt_share),
        max_delete: pick.typed_or("max_delete", arguments.max_delete, config.max_delete),
        keep_undo: pick.typed_or("keep_undo", None, config.keep_undo),
        undo_share: pick.typed_or("undo_share", None, config.undo_share),
        fallback: pick.typed_or(
            "fallback",
            arguments.no_fallback.then_some(false),
            config.fallback,
        ),
        log: pick.first("log", given(&arguments.log), config.log.clone(), None),
        bootloader: pick.typed_or(
            "bootloader",
            arguments.no_bootloader.then_some(BootLoader::Never),
            config.bootloader.clone(),
        ),
        ca_file: pick.first("ca_file", None, config.ca_file.clone(), None),
        allow_root_fs: arguments
            .allow_root_fs
            .iter()
            .chain(&config.allow_root_fs)
            .cloned()
            .collect(),
        splay: pick.typed_or("splay", arguments.splay, config.splay),
        syslog: pick.typed_or("syslog", None, config.syslog),
        full_sync_timeout: pick.typed_or("full_sync_timeout", None, config.full_sync_timeout),
        program_timeout: pick.typed_or("program_timeout", None, config.program_timeout),
        download: config.download.clone(),
        rows: Vec::new(),
        ignored: old.ignored,
    };
    let download = &config.download;
    for (name, value) in [
        ("download.attempts", download.attempts),
        ("download.idle_timeout", download.idle_timeout),
        ("download.min_speed", download.min_speed),
        ("download.spool_limit", download.spool_limit),
    ] {
        pick.typed_or(name, None, value);
    }
    let allowed = match settings.allow_root_fs.is_empty() {
        true => "(none)".to_owned(),
        false => settings.allow_root_fs.join(" "),
    };
    pick.typed_or(
        "allow_root_fs",
        (!arguments.allow_root_fs.is_empty()).then(|| allowed.clone()),
        allowed,
    );
    Ok(Settings { rows: picker.rows, ..settings })
}

/// Notes each value as it is chosen.
struct Picker {
    rows: Vec<Row>,
    /// The names that `updateclient.toml` sets.
    configured: Vec<String>,
}

impl Picker {
    fn note(&mut self, name: &'static str, value: &dyn Display, from: SettingOrigin) {
        self.rows.push(Row { name, value: value.to_string(), from: from.to_string() });
    }

    /// The first that is there of what was typed, configured, and configured for the old client.
    fn first<T: Display>(
        &mut self,
        name: &'static str,
        typed: Option<T>,
        toml: Option<T>,
        old: Option<T>,
    ) -> Option<T> {
        let candidates = [
            (typed, SettingOrigin::CommandLine),
            (toml, SettingOrigin::File(CONFIG)),
            (old, SettingOrigin::File(CLIENT_CONF)),
        ];
        let found = candidates.into_iter().find_map(|(value, from)| Some((value?, from)));
        match &found {
            Some((value, from)) => self.note(name, value, *from),
            None if name == "rsync_port" => {}
            None => self.note(name, &unset(name), SettingOrigin::Default),
        }
        found.map(|(value, _)| value)
    }

    fn first_list(
        &mut self,
        name: &'static str,
        toml: Option<Vec<String>>,
        old: Option<Vec<String>>,
        unset: &str,
    ) -> Option<Vec<String>> {
        let candidates =
            [(toml, SettingOrigin::File(CONFIG)), (old, SettingOrigin::File(CLIENT_CONF))];
        let found = candidates.into_iter().find_map(|(value, from)| Some((value?, from)));
        match &found {
            Some((value, from)) => self.note(name, &value.join(" "), *from),
            None => self.note(name, &unset, SettingOrigin::Default),
        }
        found.map(|(value, _)| value)
    }

    /// What was typed, else what the configuration says or leaves at its default.
    fn typed_or<T: Display>(&mut self, name: &'static str, typed: Option<T>, config: T) -> T {
        let from = match typed {
            Some(_) => SettingOrigin::CommandLine,
            None if self.configured.iter().any(|set| set == name) => SettingOrigin::File(CONFIG),
            None => SettingOrigin::Default,
        };
        let value = typed.unwrap_or(config);
        self.note(name, &value, from);
        value
    }

    fn default<T: Display>(&mut self, name: &'static str, value: T) -> T {
        self.note(name, &value, SettingOrigin::Default);
        value
    }
}

/// What a setting without a value means.
fn unset(name: &str) -> &'static str {
    match name {
        "image" => "(what the server's scripts/cluster.txt says)",
        "repo" => "(http://SERVER/, with --diff)",
        "ca_file" => "(the system's certificates)",
        _ => "(none)",
    }
}

/// What was typed, unless it is empty: the old client took that for nothing.
fn given(typed: &Option<String>) -> Option<String> {
    typed.clone().filter(|text| !text.is_empty())
}

fn image_name(name: &str) -> Result<ImageName, UpdateError> {
    if name.starts_with('-') {
        return Err(usage(format!(
            "IMAGENAME (specified with --image) can't start with a hyphen: {name:?}"
        )));
    }
    name.parse().map_err(|e| usage(format!("--image: {e}")))
}

fn checked_server(server: &str) -> Result<(), UpdateError> {
    if server.starts_with('-') {
        return Err(usage(format!(
            "HOSTNAME (specified with --server) can't start with a hyphen: {server:?}"
        )));
    }
    if !is_word(server, "._-:[]%") {
        return Err(usage(format!("{server:?} is no host name and no address")));
    }
    Ok(())
}

/// Whether `text` is made of ASCII letters, digits and `more` alone, and begins with none of its hyphens.
fn is_word(text: &str, more: &str) -> bool {
    !text.starts_with('-') && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
}

/// What was typed, or else configured, and over it the lines of the file.
fn overrides(
    arguments: &Arguments,
    config: &Config,
    root: &Root,
    pick: &mut Picker,
) -> Result<Vec<ImageName>, UpdateError> {
    let typed = arguments.r#override.iter().filter(|name| !name.is_empty());
    let typed: Result<Vec<ImageName>, _> = typed.map(|name| name.parse()).collect();
    let typed = typed.map_err(|e| usage(format!("--override: {e}")))?;
    let (named, from) = match (typed.is_empty(), config.overrides.is_empty()) {
        (false, _) => (typed, SettingOrigin::CommandLine),
        (true, false) => (config.overrides.clone(), SettingOrigin::File(CONFIG)),
        (true, true) => (Vec::new(), SettingOrigin::Default),
    };
    let listed = match read_below(root, OVERRIDES)? {
        Some(bytes) => {
            crate::host::overrides(OVERRIDES, &bytes).map_err(|e| usage(e.to_string()))?
        }
        None => Vec::new(),
    };
    for (names, from) in [(&named, from), (&listed, SettingOrigin::File(OVERRIDES))] {
        let words: Vec<String> = names.iter().map(ImageName::to_string).collect();
        if !words.is_empty() {
            pick.note("overrides", &words.join(" "), from);
        }
    }
    if named.is_empty() && listed.is_empty() {
        pick.note(
            "overrides",
            &"(what the server's scripts/cluster.txt says, unless an image is named)",
            SettingOrigin::Default,
        );
    }
    Ok(named.into_iter().chain(listed).collect())
}

fn excludes(
    arguments: &Arguments,
    config: &Config,
    old: &ClientConf,
    root: &Root,
    pick: &mut Picker,
) -> Result<Excludes, UpdateError> {
    if let Some(path) = &arguments.exclude_file {
        let name = path.display().to_string();
        pick.note("exclude_file", &name, SettingOrigin::CommandLine);
        let mut rules = Vec::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE as u64 + 1).read_to_end(&mut rules));
        read.map_err(|e| usage(format!("cannot read the exclude file {name}: {e}")))?;
        return Ok(Excludes { name, rules, place: None });
    }
    let named = [
        (&config.exclude_file, SettingOrigin::File(CONFIG)),
        (&old.exclude_file, SettingOrigin::File(CLIENT_CONF)),
    ];
    if let Some((named, from)) =
        named.into_iter().find_map(|(named, from)| Some((named.as_ref()?, from)))
    {
        let below = named.trim_start_matches('/');
        let found = read_below(root, below)?;
        if found.is_none() && arguments.show_config {
            pick.note("exclude_file", &format!("{named} (does not exist)"), from);
            return Ok(Excludes { name: named.clone(), rules: Vec::new(), place: None });
        }
        pick.note("exclude_file", named, from);
        let rules = found.ok_or_else(|| {
            usage(format!(
                "the exclude file {named} does not exist below {}",
                root.shown().display()
            ))
        })?;
        return Ok(Excludes { name: named.clone(), rules, place: Some(tree_path(below)?) });
    }
    let place = Some(tree_path(EXCLUDES)?);
    if let Some(rules) = read_below(root, EXCLUDES)? {
        pick.note("exclude_file", &format!("/{EXCLUDES}"), SettingOrigin::Default);
        return Ok(Excludes { name: format!("/{EXCLUDES}"), rules, place });
    }
    let name = "the built-in excludes".to_owned();
    pick.note("exclude_file", &name, SettingOrigin::Default);
    Ok(Excludes { name, rules: DEFAULT_EXCLUDES.into(), place })
}

/// A configuration file below the root; `None` where there is none.
fn read_below(root: &Root, path: &str) -> Result<Option<Vec<u8>>, UpdateError> {
    let path = tree_path(path)?;
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
        if root
            .stat(&path)
            .map_err(Untouched::from)?
            .is_some_and(|stat| stat.kind == FileKind::Symlink)
        {
            let place = root.show(&path);
            return Err(usage(format!(
                "{place} is a symlink, and configuration is not read through one"
            )));
        }
        at = path.parent();
    }
    Ok(())
}

fn tree_path(text: &str) -> Result<TreePath, UpdateError> {
    TreePath::new(text).map_err(|e| usage(e.to_string()))
}

pub fn usage(why: String) -> UpdateError {
    UpdateError::Usage(why)
}
