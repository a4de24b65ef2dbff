//! Public keys that an image brings to its nodes.
//!
//! If the image has the directory of the keys, the key files of the node become exactly those of
//! the image, in the same transaction: a key that the image has dropped is not trusted any more.
//! Two rules keep a mistake in an image from locking its nodes out:
//!
//! - A transaction after which no key verifies the present head and catalog is refused.
//! - A generation that is not the newest removes no key that verified the newest head seen, and
//!   changes no revocation. A rollback obeys the same rule.

use std::collections::{BTreeMap, HashSet};

use crate::apply::Untouched;
use crate::apply::plan::{Action, ChangePlan, StagedItem};
use crate::digest::Digest;
use crate::entry::{Entry, EntryKind};
use crate::generation::GenerationId;
use crate::host::{KeyDir, KeyFile, collect_keys, read_key_files};
use crate::manifest::Manifest;
use crate::root::Root;
use crate::signature::PublicKey;
use crate::state::seen::{SeenHead, SeenHeads};
use crate::tree_path::TreePath;
use crate::update::error::{TrustError, UpdateError};
use crate::update::request::SignedFiles;
use crate::update::run::Run;
use crate::update::source::published::PublishedImage;
use crate::update::source::trust::{Trust, keys_error};

/// Deviation of a key that an older generation does not have.
const NEWEST_KEY: &str = "kept: it verified the newest head that this node has seen";
/// Deviation of a revocation.
const REVOCATION: &str = "kept: only a newer image changes its revocations";

/// Decisions about the key files of the tree.
#[derive(Debug, Default)]
pub(in crate::update) struct ImageKeys {
    /// Key files of the image; a difference is repaired at any drift policy.
    pub tracked: HashSet<TreePath>,
    /// Key files of the tree that the image does not have, in tree order. They are removed, with
    /// directories of keys that become empty.
    pub surplus: Vec<TreePath>,
    /// Key files that stay as they are, with the reason.
    pub kept: BTreeMap<TreePath, String>,
}

/// Place of an image among those that the node knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::update) enum ImageAge {
    Newest,
    Older,
}

impl ImageKeys {
    /// Compares the key files of the tree with those of `target`, both without excluded paths.
    pub(super) fn decide(
        run: &Run<'_>,
        target: &Manifest,
        installed: Option<&Manifest>,
        age: ImageAge,
    ) -> Result<Self, UpdateError> {
        let mut keys = ImageKeys::default();
        let directory = target.get(&KeyDir::Publish.path());
        if directory.is_none_or(|entry| !entry.is_dir()) {
            return Ok(keys);
        }

        // A sync of one directory leaves the keys outside it alone.
        let root = &run.session.root;
        let mut live = read_key_files(root, &KeyDir::ALL).map_err(keys_error)?;
        live.retain(|file| run.filter.excludes(&file.path, EntryKind::Other).is_none());
        let is_older = age == ImageAge::Older;
        let newest = if is_older { newest_keys(root, &live)? } else { HashSet::new() };
        for file in &live {
            let digest = Digest::of(&file.bytes);
            let has_file = |manifest: &Manifest| digest_at(manifest, &file.path) == Some(digest);
            // A revocation that no image has brought is one of the administrator.
            let is_own_revocation = !installed.is_some_and(has_file);
            let reason = match file.dir {
                _ if has_file(target) => continue,
                KeyDir::Revoked if is_older || is_own_revocation => REVOCATION,
                KeyDir::Publish | KeyDir::Head if is_one_of(file, &newest) => NEWEST_KEY,
                _ => continue,
            };
            keys.kept.insert(file.path.clone(), reason.to_owned());
        }
        for entry in target.entries() {
            let is_missing = || live.iter().all(|file| file.path != entry.path);
            match KeyDir::of(&entry.path) {
                // It may revoke a key that newer images use.
                Some(KeyDir::Revoked) if is_older && is_missing() => {
                    keys.kept.insert(entry.path.clone(), REVOCATION.to_owned());
                }
                Some(_) if !keys.kept.contains_key(&entry.path) => {
                    keys.tracked.insert(entry.path.clone());
                }
                _ => {}
            }
        }

        let paths = live.into_iter().map(|file| file.path);
        keys.surplus = paths
            .filter(|path| !keys.tracked.contains(path) && !keys.kept.contains_key(path))
            .collect();
        for path in [KeyDir::Head.path(), KeyDir::Revoked.path()] {
            if target.get(&path).is_none() && keys.empties(root, &path)? {
                keys.surplus.push(path);
            }
        }
        keys.surplus.sort_unstable();
        Ok(keys)
    }

    /// Checks if `directory` exists and has nothing except surplus keys.
    fn empties(&self, root: &Root, directory: &TreePath) -> Result<bool, UpdateError> {
        let is_present = root.stat(directory).map_err(Untouched::from)?.is_some();
        let children = root.children(directory).map_err(Untouched::from)?;
        Ok(is_present && children.iter().all(|(path, _)| self.surplus.contains(path)))
    }

    /// Paths that are compared in each transaction.
    pub(super) fn compared(&self) -> impl Iterator<Item = &TreePath> {
        self.tracked.iter().chain(&self.surplus)
    }
}

impl ImageAge {
    /// Compares `generation` with the newest one that this node knows of its image.
    pub(super) fn of(
        run: &Run<'_>,
        published: &PublishedImage,
        generation: GenerationId,
    ) -> Result<Self, UpdateError> {
        let catalog = &published.catalog;
        let trust = Trust::load(&run.session.root, &run.request.trust)?;
        let seen = SeenHeads::load(&run.session.root).map_err(Untouched::from)?;
        let has_seen_newer = seen
            .of(&catalog.layer)
            .any(|head| trust.counts(head) && head.version() > catalog.version());

        let is_head = generation == catalog.head().generation;
        let is_newest = is_head && !catalog.is_superseded(generation) && !has_seen_newer;
        Ok(if is_newest { ImageAge::Newest } else { ImageAge::Older })
    }
}

/// Lists the key files that a rollback leaves as they are, with the reason.
pub(in crate::update) fn kept_in_rollback<'r>(
    root: &Root,
    restored: impl Iterator<Item = &'r TreePath>,
) -> Result<BTreeMap<TreePath, String>, UpdateError> {
    let revoked = KeyDir::Revoked.path();
    let dir_of =
        |path: &TreePath| if *path == revoked { Some(KeyDir::Revoked) } else { KeyDir::of(path) };
    let mut restored = restored.filter_map(|path| Some((dir_of(path)?, path))).peekable();
    let mut kept = BTreeMap::new();
    if restored.peek().is_none() {
        return Ok(kept);
    }

    // A key file that cannot be read verifies nothing, and must not stop a rollback.
    let live = read_key_files(root, &KeyDir::ALL).unwrap_or_default();
    let newest = newest_keys(root, &live)?;
    for (dir, path) in restored {
        let verified_newest =
            || live.iter().any(|file| file.path == *path && is_one_of(file, &newest));
        let reason = match dir {
            KeyDir::Revoked => REVOCATION,
            KeyDir::Publish | KeyDir::Head if verified_newest() => NEWEST_KEY,
            KeyDir::Publish | KeyDir::Head => continue,
        };
        kept.insert(path.clone(), reason.to_owned());
    }
    Ok(kept)
}

/// Refuses a plan after which no key verifies the heads and catalogs in `accepted`.
///
/// `read` returns the content of a staged key, or `None` if a dry run cannot know it.
pub(super) fn check_remaining(
    run: &Run<'_>,
    plan: &ChangePlan,
    accepted: &[&SignedFiles],
    mut read: impl FnMut(&StagedItem) -> Result<Option<Vec<u8>>, UpdateError>,
) -> Result<(), UpdateError> {
    let is_key = |path: &TreePath| KeyDir::of(path).is_some();
    // A new directory is one change, with all files in it.
    let changes = plan.changes.iter().map(|change| &change.path);
    let staged = plan.staged_items.iter().map(|item| &item.entry.path);
    if !changes.chain(staged).any(is_key) {
        return Ok(());
    }

    let root = &run.session.root;
    let is_changed = |path: &TreePath| {
        let mut changes = plan.changes.iter();
        changes.any(|change| change.path == *path && !matches!(change.action, Action::SetTime(_)))
    };
    let mut files = read_key_files(root, &KeyDir::ALL).map_err(keys_error)?;
    files.retain(|file| !is_changed(&file.path));

    for item in &plan.staged_items {
        let path = &item.entry.path;
        let Some(dir) = KeyDir::of(path) else { continue };
        if item.entry.file().is_none() {
            let path = root.show(path);
            return Err(TrustError::KeyOfImageIsNoFile { path }.into());
        }
        let Some(bytes) = read(item)? else { return Ok(()) };
        files.push(KeyFile { dir, path: path.clone(), bytes });
    }
    let keys = collect_keys(&files, |path| root.show(path))
        .map_err(|source| TrustError::KeysOfImage { source })?;
    let trust = Trust::load(&run.session.root, &run.request.trust)?;
    for signed in accepted {
        trust.check_remaining(&keys, signed)?;
    }
    Ok(())
}

/// Keys of the tree that verified the newest head of each layer, as text.
fn newest_keys(root: &Root, live: &[KeyFile]) -> Result<HashSet<String>, UpdateError> {
    let trusted: HashSet<String> = collect_keys(live, |path| root.show(path))
        .map(|keys| keys.head_keys().map(PublicKey::to_string).collect())
        .unwrap_or_default();
    let Ok(seen) = SeenHeads::load(root) else {
        // Nobody knows which key verified the newest head, so that all of them are kept.
        return Ok(trusted);
    };
    // A revoked key may have signed a head with any serial.
    let counted: Vec<&SeenHead> = seen
        .iter()
        .filter(|head| head.key.as_ref().is_some_and(|key| trusted.contains(key)))
        .collect();

    let is_newest = |head: &SeenHead| {
        let mut of_layer = counted.iter().filter(|other| other.is_of_same_layer(head));
        of_layer.all(|other| (other.version(), other.issued) <= (head.version(), head.issued))
    };
    let newest = counted.iter().filter(|head| is_newest(head));
    Ok(newest.flat_map(|head| head.key.iter().chain(&head.head_key)).cloned().collect())
}

fn is_one_of(file: &KeyFile, keys: &HashSet<String>) -> bool {
    !keys.is_empty()
        && PublicKey::parse(&file.bytes).is_ok_and(|key| keys.contains(&key.to_string()))
}

fn digest_at(manifest: &Manifest, path: &TreePath) -> Option<Digest> {
    manifest.get(path).and_then(Entry::digest).copied()
}
