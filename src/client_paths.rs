//! Names of the client's directories and files in a tree, for every layer that must know them.

/// Stage, at the mount root of each filesystem that takes part in a transaction.
pub const STAGE_DIR: &str = ".si-stage";
/// Undo set, at the mount root of each filesystem that took part in the last transaction.
pub const UNDO_DIR: &str = ".si-undo";
/// Downloaded update, at the mount root of each filesystem on which it has contents.
pub const DOWNLOADED_DIR: &str = ".si-downloaded";
/// Directory that rsync fills, in the root of the tree.
pub const RECEIVE_DIR: &str = ".si-full";
/// Prefix of the client's names in the root of the tree.
pub const OWN_PREFIX: &str = ".si-";
/// The state directory, below the root.
pub const STATE_DIR: &str = "var/lib/systemimager/client";
/// File with the image's name that the old client wrote, and that other tools read.
pub const LAST_SYNCED: &str = "etc/systemimager/IMAGE_LAST_SYNCED_TO";
/// Directory of the public keys whose signatures a node accepts.
pub const KEY_DIR: &str = "etc/systemimager/keys";
/// Suffix of the files of public keys.
pub const KEY_SUFFIX: &str = ".pub";
