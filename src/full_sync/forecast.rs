//! What rsync would do to the live tree, by its own account: a dry run that brings nothing.

use std::ffi::OsString;

use crate::apply::plan::ItemizedLine;
use crate::full_sync::itemized::{itemized, unescape};
use crate::full_sync::{FullSyncError, Module, ReceiveDir, TO_THE_NANOSECOND, options};
use crate::report::Monitor;
use crate::root::Root;
use crate::state::is_above_own;
use crate::tree_path::TreePath;

/// A directory that something excluded or protected keeps.
const STAYS: &[u8] = b"cannot delete non-empty directory: ";

/// What rsync would do.
#[derive(Debug, Default)]
pub struct Forecast {
    /// What would change, in the order in which rsync says it.
    pub items: Vec<ItemizedLine>,
    /// How many paths the module has, as far as the rules let them come.
    pub listed: usize,
    /// What rsync could not do.
    pub stops: Option<String>,
}

impl Module<'_> {
    /// Asks rsync what it would do to the tree `live`; with `delete` also what it would delete.
    pub fn forecast(
        &self,
        live: &Root,
        aside: &ReceiveDir,
        delete: Deletions,
        monitor: &dyn Monitor,
    ) -> Result<Forecast, FullSyncError> {
        let (place, _) = self.prepare(aside)?;
        let mut arguments = options();
        arguments.extend(
            [TO_THE_NANOSECOND, "--dry-run", "-ii", "--no-implied-dirs", "--out-format=%i %l %n"]
                .map(OsString::from),
        );
        arguments.extend(self.comparison.option());
        if delete == Deletions::Told {
            arguments.push("--delete".into());
        }
        let mut forecast = Forecast::default();
        let mut to = OsString::from(live.shown());
        to.push("/");
        let outcome = self.run(&place, arguments, &to, |line| forecast.hear(line), monitor)?;
        match self.judge(&outcome) {
            None => Ok(forecast),
            // A directory that something keeps stands where none is to be: the run will stop there, too.
            Some(FullSyncError::Partial(why)) => Ok(Forecast { stops: Some(why), ..forecast }),
            Some(error) => Err(error),
        }
    }
}

/// Whether a forecast tells what would be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletions {
    /// It does.
    Told,
    /// Nothing would be.
    None,
}

impl Forecast {
    fn hear(&mut self, line: &[u8]) -> Result<(), FullSyncError> {
        if line.starts_with(STAYS) {
            return Ok(());
        }
        let odd = || {
            FullSyncError::Server(format!(
                "it says what is not understood: {}",
                line.escape_ascii()
            ))
        };
        let (how, rest) = itemized(line).ok_or_else(odd)?;
        let space = rest.iter().position(|&b| b == b' ').ok_or_else(odd)?;
        let bytes = std::str::from_utf8(&rest[..space])
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let name = unescape(&rest[space + 1..]);
        let change = String::from_utf8_lossy(how).into_owned();
        let directory = name.ends_with(b"/");
        let name = name.strip_suffix(b"/").unwrap_or(&name);
        let path =
            if name == b"." { TreePath::root() } else { TreePath::new(name).map_err(|_| odd())? };
        let top = path.is_root();
        if !how.starts_with(b"*") {
            self.listed += 1;
        }
        // What is as it should be is named as well, so that it is counted; what is above the agent's own files
        // stays.
        let stays = how.starts_with(b"*") && is_above_own(&path);
        if !stays && how[2..].iter().any(|&b| b != b' ' && b != b'.') {
            let bytes = if how.starts_with(b">f") { bytes } else { 0 };
            self.items.push(ItemizedLine {
                change,
                path,
                suffix: if directory && !top { "/" } else { "" }.to_owned(),
                bytes,
            });
        }
        Ok(())
    }
}
