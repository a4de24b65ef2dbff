//! The node as it asks a repository: its tree and its requirements.

use crate::apply::Untouched;
use crate::fetch::{FetchOptions, Spool};
use crate::report::Monitor;
use crate::root::Root;
use crate::state;
use crate::update::error::UpdateError;
use crate::update::request::TrustSettings;

/// Everything about a node that a request for a layer needs.
#[derive(Clone, Copy)]
pub(in crate::update) struct Requester<'a> {
    pub root: &'a Root,
    /// Options of downloads.
    pub fetch: &'a FetchOptions,
    /// Requirements for signatures and times.
    pub trust: &'a TrustSettings,
    /// Whether a catalog older than one seen before is accepted.
    pub allow_downgrade: bool,
    /// Whether the node records nothing, and downloads to a temporary directory.
    pub dry_run: bool,
    /// Limit for the bytes in the spool.
    pub spool_limit: u64,
    pub monitor: &'a dyn Monitor,
}

impl Requester<'_> {
    /// Opens the download spool; `None` in a dry run, which downloads to a temporary directory.
    pub fn open_spool(&self) -> Result<Option<Spool>, UpdateError> {
        if self.dry_run {
            return Ok(None);
        }
        let path = state::file_path("spool");
        self.root.create_dirs(&path).map_err(Untouched::from_root)?;
        let directory =
            self.root.below(&path).and_then(|tree| tree.duplicate()).map_err(Untouched::from)?;
        Ok(Some(Spool::open(directory, self.spool_limit)?))
    }
}
