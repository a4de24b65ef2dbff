//! The exclude rules: a named file, the file of the node, or the built-in rules.

use std::io::ErrorKind;
use std::path::Path;

use super::picker::{Picker, SettingOrigin};
use super::{CLIENT_CONF, CONFIG, Files, parse_path, read_below};
use crate::cli::updateclient::args::Arguments;
use crate::cli::updateclient::error::ArgumentError;
use crate::host::{DEFAULT_EXCLUDES, MAX_FILE, named_file};
use crate::root::Root;
use crate::update::{Excludes, UpdateError};

/// The exclude file of a node.
const FILE: &str = "etc/systemimager/updateclient.local.exclude";

/// Reads the exclude rules from their first source.
pub(super) fn resolve(
    arguments: &Arguments,
    files: &Files,
    root: &Root,
    pick: &mut Picker,
) -> Result<Excludes, UpdateError> {
    if let Some(path) = &arguments.exclude_file {
        return read_typed(path, pick);
    }

    let configured = [
        (&files.config.exclude_file, SettingOrigin::File(CONFIG)),
        (&files.client_conf.exclude_file, SettingOrigin::File(CLIENT_CONF)),
    ];
    if let Some((name, origin)) =
        configured.into_iter().find_map(|(name, origin)| Some((name.as_ref()?, origin)))
    {
        return read_configured(name, origin, arguments, root, pick);
    }

    let place = Some(parse_path(FILE)?);
    if let Some(rules) = read_below(root, FILE)? {
        pick.record("exclude_file", &format!("/{FILE}"), SettingOrigin::Default);
        return Ok(Excludes { name: format!("/{FILE}"), rules, path: place });
    }
    let name = "the built-in excludes".to_owned();
    pick.record("exclude_file", &name, SettingOrigin::Default);
    Ok(Excludes { name, rules: DEFAULT_EXCLUDES.into(), path: place })
}

/// Reads the file of `--exclude-file`, which belongs to the running system and not to the tree.
fn read_typed(path: &Path, pick: &mut Picker) -> Result<Excludes, UpdateError> {
    let name = path.display().to_string();
    pick.record("exclude_file", &name, SettingOrigin::CommandLine);

    let rules = match named_file::read(path, MAX_FILE + 1) {
        // It means no rules, also in a root directory without devices.
        Err(error) if error.kind() == ErrorKind::NotFound && path == Path::new("/dev/null") => {
            Ok(Vec::new())
        }
        answer => answer,
    };
    let rules = rules.map_err(|source| ArgumentError::Excludes { path: name.clone(), source })?;
    Ok(Excludes { name, rules, path: None })
}

/// Reads the file that a configuration file names; only `--show-config` accepts its absence.
fn read_configured(
    name: &str,
    origin: SettingOrigin,
    arguments: &Arguments,
    root: &Root,
    pick: &mut Picker,
) -> Result<Excludes, UpdateError> {
    let below = name.trim_start_matches('/');
    let rules = read_below(root, below)?;
    if rules.is_none() && arguments.show_config {
        pick.record("exclude_file", &format!("{name} (does not exist)"), origin);
        return Ok(Excludes { name: name.to_owned(), rules: Vec::new(), path: None });
    }

    pick.record("exclude_file", &name, origin);
    let rules = rules.ok_or_else(|| ArgumentError::NoExcludes {
        path: name.to_owned(),
        root: root.location().to_owned(),
    })?;
    Ok(Excludes { name: name.to_owned(), rules, path: Some(parse_path(below)?) })
}
