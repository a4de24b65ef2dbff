//! Contents that are made together: bounded in size, neighbours of the tree beside each other.

use std::collections::HashSet;

use crate::delta::matching::{Class, PairGroup, size_of};
use crate::delta::{GROUP_OUTPUT, GROUP_SOURCE};
use crate::digest::Digest;
use crate::entry::Entry;

/// Groups that are filled in the order of the tree, where neighbours are alike.
#[derive(Default)]
pub(super) struct Groups<'m> {
    class: Class,
    done: Vec<PairGroup<'m>>,
    open: PairGroup<'m>,
    held: HashSet<Digest>,
    source: u64,
    output: u64,
}

impl<'m> Groups<'m> {
    pub fn of(class: Class) -> Self {
        Groups { class, ..Groups::default() }
    }

    pub fn add(&mut self, source: &'m Entry, target: &'m Entry) {
        let more = if self.holds(source) { 0 } else { size_of(source) };
        // What is opened is several times as large when it is plain.
        let share = if self.class == Class::Opened { 4 } else { 1 };
        if self.source + more > GROUP_SOURCE / share
            || self.output + size_of(target) > GROUP_OUTPUT / share
        {
            self.close();
        }
        if let Some((size, digest)) = source.file()
            && self.held.insert(digest)
        {
            self.open.sources.push(source);
            self.source += size;
        }
        self.open.targets.push(target);
        self.output += size_of(target);
    }

    fn holds(&self, source: &Entry) -> bool {
        source.file().is_some_and(|(_, digest)| self.held.contains(&digest))
    }

    fn close(&mut self) {
        let full = PairGroup { class: self.class, ..std::mem::take(&mut self.open) };
        if !full.targets.is_empty() {
            self.done.push(full);
        }
        self.held.clear();
        (self.source, self.output) = (0, 0);
    }

    pub fn finish(mut self) -> Vec<PairGroup<'m>> {
        self.close();
        self.done
    }
}
