//! Files of an image that are secret on a node, and readable in an open repository.

use crate::entry::Entry;
use crate::manifest::Manifest;
use crate::tree_path::TreePath;

/// Permission to read for others.
const OTHERS_READ: u16 = 0o004;
/// Files of `/etc` with the digests of passwords, and the copies that tools keep.
const SHADOW: [&[u8]; 4] = [b"etc/shadow", b"etc/shadow-", b"etc/gshadow", b"etc/gshadow-"];
/// Names of private keys.
const KEYS: [&[u8]; 4] = [b"id_rsa", b"id_dsa", b"id_ecdsa", b"id_ed25519"];
/// Ends of the names of private keys.
const KEY_ENDS: [&[u8]; 4] = [b".key", b".pem", b".keytab", b".p12"];

/// Lists the password files and private keys of an image.
///
/// Only files that others cannot read on the node count: a public certificate may be named alike.
pub(crate) fn find_private_files(image: &Manifest) -> Vec<TreePath> {
    image.entries().iter().filter(|entry| is_private(entry)).map(|e| e.path.clone()).collect()
}

fn is_private(entry: &Entry) -> bool {
    let (path, name) = (entry.path.as_bytes(), entry.path.name());
    let is_host_key = name.starts_with(b"ssh_host_") && name.ends_with(b"_key");
    let is_key = KEYS.contains(&name) || KEY_ENDS.iter().any(|end| name.ends_with(end));

    entry.file().is_some()
        && entry.meta.mode & OTHERS_READ == 0
        && (SHADOW.contains(&path) || is_host_key || is_key)
}
