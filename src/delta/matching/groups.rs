//! Groups of contents, bounded in size, with neighbours of the tree in the same group.

use std::collections::HashMap;

use crate::delta::limits::{GROUP_OUTPUT, GROUP_SOURCE};
use crate::delta::matching::pairs::{ContentClass, PairGroup, size_of};
use crate::digest::Digest;
use crate::entry::Entry;

/// Ratio by which a group of compressed files is smaller: their plain forms are larger.
const DECOMPOSED_SHARE: u64 = 4;

/// Fills groups in the order of the tree, because neighbours are similar.
#[derive(Default)]
pub(super) struct GroupBuilder<'m> {
    class: ContentClass,
    done: Vec<PairGroup<'m>>,
    open: PairGroup<'m>,
    /// The sources of the open group, with their indices.
    sources: HashMap<Digest, usize>,
    /// Bytes of the sources of the open group.
    source_bytes: u64,
    /// Bytes of the targets of the open group.
    output_bytes: u64,
}

impl<'m> GroupBuilder<'m> {
    pub fn new(class: ContentClass) -> Self {
        GroupBuilder { class, ..GroupBuilder::default() }
    }

    pub fn add(&mut self, source: &'m Entry, target: &'m Entry) {
        let more = if self.has_source(source) { 0 } else { size_of(source) };
        let share = match self.class {
            ContentClass::Decomposed | ContentClass::Replayed => DECOMPOSED_SHARE,
            ContentClass::Plain | ContentClass::Compressed => 1,
        };
        if self.source_bytes + more > GROUP_SOURCE / share
            || self.output_bytes + size_of(target) > GROUP_OUTPUT / share
        {
            self.close();
        }

        let Some((size, digest)) = source.file() else { return };
        let next = self.open.sources.len();
        let origin = *self.sources.entry(digest).or_insert(next);
        if origin == next {
            self.open.sources.push(source);
            self.source_bytes += size;
        }
        self.open.targets.push(target);
        self.open.origins.push(origin);
        self.output_bytes += size_of(target);
    }

    pub fn finish(mut self) -> Vec<PairGroup<'m>> {
        self.close();
        self.done
    }

    fn has_source(&self, source: &Entry) -> bool {
        source.file().is_some_and(|(_, digest)| self.sources.contains_key(&digest))
    }

    fn close(&mut self) {
        let full = PairGroup { class: self.class, ..std::mem::take(&mut self.open) };
        if !full.targets.is_empty() {
            self.done.push(full);
        }
        self.sources.clear();
        self.source_bytes = 0;
        self.output_bytes = 0;
    }
}
