//! Sources of an update: the published image, overrides, exclude rules, and `cluster.txt`.

pub(super) mod cluster;
pub(super) mod excludes;
pub(super) mod head;
pub(super) mod newer_heads;
pub(super) mod overrides;
pub(super) mod published;
pub(super) mod stored;
pub(crate) mod trust;
