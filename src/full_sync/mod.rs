//! Receives an image or an override by rsync, beside the live tree and never into it.
//!
//! rsync writes into a receive directory and omits files that the live tree already has
//! (`--compare-dest`), so only differences are transferred. For a published image
//! ([`Module::receive`]) the result is only material: the caller takes each file by its digest, and
//! all metadata from the manifest. For an unpublished one ([`receive_unpublished`]) a manifest is
//! made from the received and the omitted files, and rsync compares the result a second time. A
//! dry run only asks rsync for the changes ([`forecast`]).

mod error;
mod forecast;
mod itemized;
mod module;
mod notice;
mod receive_dir;
mod receive_selected;
mod receive_unpublished;

pub use error::{ChangedNames, FullSyncError, NodeFault, RsyncReport, ServerFault};
pub use forecast::{Deletions, Forecast, forecast};
pub use module::{Comparison, Module, Server};
pub use receive_dir::ReceiveDir;
pub use receive_selected::{Selected, receive_selected};
pub use receive_unpublished::{Received, manifest_of_parents, receive_unpublished};
