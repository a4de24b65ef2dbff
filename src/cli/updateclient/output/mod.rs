//! Output of `si_updateclient`: text, per-path lines, status.

pub(super) mod out_format;
pub(super) mod restart;
pub(super) mod status;
pub(super) mod text;
