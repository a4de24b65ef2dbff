//! The changes that rsync would make to the live tree: a dry run that transfers no content.

use std::ffi::OsString;

use super::error::FullSyncError;
use super::itemized::{is_time_only, split_item, unescape};
use super::module::{Module, archive_options};
use super::receive_dir::ReceiveDir;
use crate::apply::plan::ItemizedLine;
use crate::report::Monitor;
use crate::root::{Root, Stat};
use crate::state::is_above_own;
use crate::tree_path::TreePath;

/// Beginning of rsync's message about a directory that keeps excluded or protected files.
const KEPT_DIRECTORY: &[u8] = b"cannot delete non-empty directory: ";

/// Changes that rsync would make.
#[derive(Debug, Default)]
pub struct Forecast {
    /// The changes, in the order of rsync.
    pub items: Vec<ItemizedLine>,
    /// Number of paths that the module has, apart from excluded ones.
    pub listed: usize,
    /// Failure that the run itself would meet as well.
    pub failure: Option<FullSyncError>,
}

/// Whether a forecast includes deletions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletions {
    /// Paths that the module does not have would be deleted.
    Included,
    /// Nothing would be deleted.
    Omitted,
}

/// Asks rsync for the changes that it would make to the tree `live`.
pub fn forecast(
    module: &Module<'_>,
    live: &Root,
    receive_dir: &ReceiveDir,
    deletions: Deletions,
    monitor: &dyn Monitor,
) -> Result<Forecast, FullSyncError> {
    let directory = receive_dir.create_layer(module.layer, module.rules)?;
    let mut options = archive_options();
    options.extend(
        [
            module.modify_window_of_tree(),
            "--dry-run",
            "-ii",
            "--no-implied-dirs",
            "--out-format=%i %l %n",
        ]
        .map(OsString::from),
    );
    options.extend(module.comparison.option());
    if deletions == Deletions::Included {
        options.push("--delete".into());
    }
    let mut destination = OsString::from(live.location());
    destination.push("/");

    let mut forecast = Forecast::default();
    let outcome = module.run(
        (&directory.top, &destination),
        options,
        |line| forecast.add_line(line),
        monitor,
    )?;
    // A time that the filesystem cannot hold differs at every run.
    forecast.items.retain(|item| {
        let is_held = |stat: Stat| !module.times.is_limit(&item.path, stat.mtime);
        let is_only_time = is_time_only(item.change.as_bytes());
        !is_only_time || live.stat(&item.path).ok().flatten().is_none_or(is_held)
    });
    match module.check_outcome(&outcome) {
        Ok(()) => Ok(forecast),
        // A directory with files to keep is in the place of a file; the run will fail there, too.
        Err(error @ (FullSyncError::Partial(_) | FullSyncError::PartialHere(_))) => {
            Ok(Forecast { failure: Some(error), ..forecast })
        }
        Err(error) => Err(error),
    }
}

impl Forecast {
    /// Adds a line `%i %l %n` of rsync: item letters, size and name.
    fn add_line(&mut self, line: &[u8]) -> Result<(), FullSyncError> {
        if line.starts_with(KEPT_DIRECTORY) {
            return Ok(());
        }
        let unknown_line = || FullSyncError::unknown_line(line);
        let (letters, rest) = split_item(line).ok_or_else(unknown_line)?;
        let space = rest.iter().position(|&byte| byte == b' ').ok_or_else(unknown_line)?;
        let (size, name) = (&rest[..space], unescape(&rest[space + 1..]));

        let is_directory = name.ends_with(b"/");
        let name = name.strip_suffix(b"/").unwrap_or(&name);
        let path = match name {
            b"." => TreePath::root(),
            name => TreePath::new(name).map_err(|_| unknown_line())?,
        };

        // `-ii` names unchanged paths as well, so that all of them can be counted.
        let is_message = letters.starts_with(b"*");
        if !is_message {
            self.listed += 1;
        }
        let is_changed = letters[2..].iter().any(|&letter| letter != b' ' && letter != b'.');
        // rsync would delete directories above the agent's own files; the transaction keeps them.
        let is_kept = is_message && is_above_own(&path);
        if !is_changed || is_kept {
            return Ok(());
        }

        let size = std::str::from_utf8(size).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let has_slash = is_directory && !path.is_root();
        self.items.push(ItemizedLine {
            change: String::from_utf8_lossy(letters).into_owned(),
            path,
            suffix: if has_slash { "/" } else { "" }.to_owned(),
            bytes: if letters.starts_with(b">f") { size } else { 0 },
        });
        Ok(())
    }
}
