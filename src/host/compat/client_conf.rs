//! The old client's `client.conf`.

use crate::host::{BadFile, lines, text};
use crate::image::ImageName;

/// What the old client's `client.conf` says, as far as it still means something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientConf {
    /// The image server.
    pub server: Option<String>,
    /// The image.
    pub image: Option<ImageName>,
    /// The port of the server's rsync daemon.
    pub rsync_port: Option<u16>,
    /// Where the exclude file is, as a path below the root.
    pub exclude_file: Option<String>,
    /// The kinds of mounted filesystem that are updated; empty where none is named.
    pub fstypes: Vec<String>,
    /// Names that mean nothing here, for a warning.
    pub ignored: Vec<String>,
}

impl ClientConf {
    /// Reads lines of the form `name = value` or `name value`, as Perl's AppConfig did.
    ///
    /// Names are matched without regard to case, quotes around a value are taken off, `#` begins a
    /// comment line. `$VAR`, `~` and here-documents, which AppConfig also knew, are not expanded.
    pub fn parse(file: &str, content: &[u8]) -> Result<Self, BadFile> {
        let mut conf = ClientConf::default();
        for (number, line) in lines(text(file, content)?) {
            if line.is_empty() || line.starts_with(['#', '[']) {
                continue;
            }
            let (name, value) = split(line);
            let bad = |why: String| BadFile::at(file, number, why);
            match name.to_ascii_lowercase().as_str() {
                "server" => conf.server = Some(value.to_owned()),
                "image" => conf.image = Some(value.parse().map_err(|e| bad(format!("{e}")))?),
                "rsync_port" => {
                    let port = value.parse().ok().filter(|&port| port != 0);
                    conf.rsync_port =
                        Some(port.ok_or_else(|| bad(format!("{value:?} is not a port")))?);
                }
                "fstype" => conf.fstypes.push(value.to_owned()),
                "exclude_file" => conf.exclude_file = Some(value.to_owned()),
                _ => conf.ignored.push(name.to_owned()),
            }
        }
        Ok(conf)
    }
}

fn split(line: &str) -> (&str, &str) {
    let end = line.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let value = rest.strip_prefix('=').unwrap_or(rest).trim();
    let unquoted = ['"', '\''].iter().find_map(|&q| value.strip_prefix(q)?.strip_suffix(q));
    (name, unquoted.unwrap_or(value))
}
