//! The old client's `client.conf`.

use crate::host::{BadFile, lines, text};
use crate::image::ImageName;

/// The settings of a `client.conf` that still have a meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientConf {
    pub server: Option<String>,
    pub image: Option<ImageName>,
    /// Port of the server's rsync daemon.
    pub rsync_port: Option<u16>,
    /// A path below the root.
    pub exclude_file: Option<String>,
    /// Types of mounted filesystems to update; empty if no line names one.
    pub fstypes: Vec<String>,
    /// Names without a meaning here, for a warning.
    pub ignored: Vec<String>,
}

impl ClientConf {
    /// Parses lines of the form `name = value` or `name value`, as Perl's AppConfig did.
    ///
    /// Case does not matter in names, quotes around a value are removed, and `#` begins a comment
    /// line. `$VAR`, `~` and here-documents, which AppConfig knew, are not expanded.
    pub fn parse(file: &str, content: &[u8]) -> Result<Self, BadFile> {
        let mut conf = ClientConf::default();

        for (number, line) in lines(text(file, content)?) {
            if line.is_empty() || line.starts_with(['#', '[']) {
                continue;
            }
            let (name, value) = split(line);
            match name.to_ascii_lowercase().as_str() {
                "server" => conf.server = Some(value.to_owned()),
                "image" => {
                    let image = value.parse().map_err(|e| BadFile::in_line(file, number, e))?;
                    conf.image = Some(image);
                }
                "rsync_port" => {
                    let port = value.parse().ok().filter(|&port| port != 0);
                    conf.rsync_port = Some(port.ok_or_else(|| {
                        BadFile::in_line(file, number, format!("{value:?} is not a port"))
                    })?);
                }
                "fstype" => conf.fstypes.push(value.to_owned()),
                "exclude_file" => conf.exclude_file = Some(value.to_owned()),
                _ => conf.ignored.push(name.to_owned()),
            }
        }
        Ok(conf)
    }
}

/// Splits a line into name and value.
fn split(line: &str) -> (&str, &str) {
    let end = line.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let value = rest.strip_prefix('=').unwrap_or(rest).trim();

    let unquoted = ['"', '\''].iter().find_map(|&q| value.strip_prefix(q)?.strip_suffix(q));
    (name, unquoted.unwrap_or(value))
}
