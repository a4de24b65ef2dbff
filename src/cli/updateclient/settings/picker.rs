//! Chooses each setting by precedence, and records its source for `--show-config`.

use std::fmt::{self, Display};

use serde::Serialize;

use super::{CLIENT_CONF, CONFIG};

/// One line of `--show-config`.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Spelling in `updateclient.toml`.
    pub name: &'static str,
    pub value: String,
    /// Source of the value.
    pub from: String,
}

/// Source of a setting.
#[derive(Clone, Copy)]
pub(super) enum SettingOrigin {
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

/// Records each setting when it is chosen.
pub(super) struct Picker {
    rows: Vec<Row>,
    /// Names that `updateclient.toml` sets.
    configured: Vec<String>,
}

impl Picker {
    pub(super) fn new(configured: Vec<String>) -> Self {
        Picker { rows: Vec::new(), configured }
    }

    pub(super) fn into_rows(self) -> Vec<Row> {
        self.rows
    }

    /// Adds a row.
    pub(super) fn record(
        &mut self,
        name: &'static str,
        value: &dyn Display,
        origin: SettingOrigin,
    ) {
        self.rows.push(Row { name, value: value.to_string(), from: origin.to_string() });
    }

    /// The first value of the command line, `updateclient.toml` and `client.conf`.
    pub(super) fn first<T: Display>(
        &mut self,
        name: &'static str,
        typed: Option<T>,
        toml: Option<T>,
        client_conf: Option<T>,
    ) -> Option<T> {
        match choose_first([typed, toml, client_conf]) {
            Some((value, origin)) => {
                self.record(name, &value, origin);
                Some(value)
            }
            None => {
                self.record(name, &meaning_of_absence(name), SettingOrigin::Default);
                None
            }
        }
    }

    /// The same for a setting with a default.
    pub(super) fn first_or<T: Display>(
        &mut self,
        name: &'static str,
        candidates: [Option<T>; 3],
        default: T,
    ) -> T {
        let (value, origin) = choose_first(candidates).unwrap_or((default, SettingOrigin::Default));
        self.record(name, &value, origin);
        value
    }

    /// The same for a list, which has no option on the command line.
    pub(super) fn first_list(
        &mut self,
        name: &'static str,
        toml: Option<Vec<String>>,
        client_conf: Option<Vec<String>>,
    ) -> Option<Vec<String>> {
        match choose_first([None, toml, client_conf]) {
            Some((values, origin)) => {
                self.record(name, &values.join(" "), origin);
                Some(values)
            }
            None => {
                self.record(name, &meaning_of_absence(name), SettingOrigin::Default);
                None
            }
        }
    }

    /// The typed value, or else that of the parsed configuration, which may be a default.
    pub(super) fn typed_or<T: Display>(
        &mut self,
        name: &'static str,
        typed: Option<T>,
        config: T,
    ) -> T {
        let origin = match typed {
            Some(_) => SettingOrigin::CommandLine,
            None if self.configured.iter().any(|set| set == name) => SettingOrigin::File(CONFIG),
            None => SettingOrigin::Default,
        };
        let value = typed.unwrap_or(config);
        self.record(name, &value, origin);
        value
    }
}

/// The first value, of command line, `updateclient.toml` and `client.conf` in this order.
fn choose_first<T>(candidates: [Option<T>; 3]) -> Option<(T, SettingOrigin)> {
    let origins =
        [SettingOrigin::CommandLine, SettingOrigin::File(CONFIG), SettingOrigin::File(CLIENT_CONF)];
    candidates.into_iter().zip(origins).find_map(|(value, origin)| Some((value?, origin)))
}

/// Value that `--show-config` prints for a setting without one.
fn meaning_of_absence(name: &str) -> &'static str {
    match name {
        "image" => "(from the server's scripts/cluster.txt)",
        "repo" => "(http://SERVER/, with --diff)",
        "ca_file" => "(the system's certificates)",
        "fstype" => "(every supported type)",
        _ => "(none)",
    }
}
