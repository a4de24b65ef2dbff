//! Configuration files of the historic SystemImager client and server.

pub(super) mod client_conf;
pub(super) mod cluster_txt;
pub(super) mod overrides_list;
