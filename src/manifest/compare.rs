//! What turns one manifest into another.

use std::cmp::Ordering;

use super::Manifest;
use crate::entry::Entry;

/// What goes and what comes between two manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestChanges {
    /// Entries of the base whose path the target does not have, in order.
    pub removed: Vec<Entry>,
    /// Entries of the target that are new or differ in anything, in order.
    pub changed: Vec<Entry>,
}

/// What turns `base` into `target`: `base.apply(removed, changed)` is `target`.
pub fn compare(base: &Manifest, target: &Manifest) -> ManifestChanges {
    let (mut old, mut new) = (base.entries().iter().peekable(), target.entries().iter().peekable());
    let mut changes = ManifestChanges::default();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return changes,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(before), Some(after)) => before.path.cmp(&after.path),
        };
        let gone = if order.is_le() { old.next() } else { None };
        let here = if order.is_ge() { new.next() } else { None };
        match (gone, here) {
            (Some(before), None) => changes.removed.push(before.clone()),
            (before, Some(after)) if before != Some(after) => changes.changed.push(after.clone()),
            _ => {}
        }
    }
}

/// The entries of `base` whose path `target` does not have, in order.
pub fn gone<'b>(base: &'b Manifest, target: &Manifest) -> impl Iterator<Item = &'b Entry> {
    let mut rest = target.entries();
    base.entries().iter().filter(move |entry| {
        let before = rest.iter().take_while(|other| other.path < entry.path).count();
        rest = &rest[before..];
        rest.first().is_none_or(|other| other.path != entry.path)
    })
}
