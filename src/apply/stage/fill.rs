//! Fills a stage from the live tree and from the diffs of a chain.
//!
//! Each content is verified by its digest while it is staged, including that of the live tree. A
//! content that a source turns out not to have stays missing, so that the caller can try the next
//! source.

use std::io::BufReader;

use rayon::prelude::*;

use crate::apply::stage::live_source::LiveSource;
use crate::apply::stage::rebuild_slots::RebuildSlots;
use crate::apply::stage::sparse_copy::CHUNK;
use crate::apply::stage::unpack::{ArchiveInput, Unpacker, required_contents};
use crate::apply::stage::{Stage, StageError};

use crate::digest::Digest;

/// Stages the contents that the live tree already has.
///
/// These are renamed files and files of which only the metadata changes.
pub fn from_live(stage: &Stage, live: &LiveSource) -> Result<(), StageError> {
    let mut contents: Vec<(Digest, u64)> = stage.missing_contents().into_iter().collect();
    contents.retain(|(digest, _)| live.contains(digest));

    contents.par_iter().try_for_each(|(digest, size)| {
        for file in live.candidates(digest, *size) {
            match stage.fill(digest, &mut BufReader::with_capacity(CHUNK, file)) {
                Ok(()) => break,
                Err(error) if error.is_of_source() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })
}

/// Stages the contents of a chain of diffs, first to last.
///
/// At most `rebuild_jobs` compressed files are rebuilt at a time. Success means that every archive
/// was received completely and verified.
pub fn from_chain(
    stage: &Stage,
    live: &LiveSource,
    chain: &[ArchiveInput],
    rebuild_jobs: usize,
) -> Result<(), StageError> {
    let required = required_contents(stage, live, chain);
    let scratch = stage.scratch_dir()?;
    let slots = &RebuildSlots::new(rebuild_jobs);

    for (archive, required) in chain.iter().zip(&required) {
        Unpacker { stage, live, scratch, archive, required, slots }.run()?;
    }
    Ok(())
}
