//! The inputs of an update: the published image, its overrides, the cluster file.

pub(super) mod cluster;
pub(super) mod overrides;
pub(super) mod published;
