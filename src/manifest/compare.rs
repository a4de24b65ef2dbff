//! The difference between two manifests.

use std::cmp::Ordering;

use super::Manifest;
use crate::entry::Entry;

/// The entries in which a target differs from a base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestChanges {
    /// Entries of the base whose path the target does not have, in tree order.
    pub removed: Vec<Entry>,
    /// Entries of the target that are new, or differ in anything, in tree order.
    pub changed: Vec<Entry>,
}

/// Computes the changes for which `base.apply(removed, changed)` is `target`.
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
        let in_base = if order.is_le() { old.next() } else { None };
        let in_target = if order.is_ge() { new.next() } else { None };

        match (in_base, in_target) {
            (Some(before), None) => changes.removed.push(before.clone()),
            (before, Some(after)) if before != Some(after) => changes.changed.push(after.clone()),
            _ => {}
        }
    }
}

/// The entries of `base` whose path `target` does not have, in tree order.
pub fn removed_entries<'b>(
    base: &'b Manifest,
    target: &Manifest,
) -> impl Iterator<Item = &'b Entry> {
    let mut rest = target.entries();
    base.entries().iter().filter(move |entry| {
        let skipped = rest.iter().take_while(|other| other.path < entry.path).count();
        rest = &rest[skipped..];
        rest.first().is_none_or(|other| other.path != entry.path)
    })
}
