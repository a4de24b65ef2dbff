//! Trust in a repository: the keys of this node, signatures, and the times of heads.
//!
//! Before a signature is verified, a run has read one head of at most 4 KiB. The keys are read
//! below the root of the tree, so that a rescue system uses those of the node.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::apply::Untouched;
use crate::catalog::{Catalog, Head};
use crate::host::{KeyDir, KeysError, collect_keys, read_key_files};
use crate::image::{ImageName, Layer};
use crate::report::Monitor;
use crate::root::Root;
use crate::signature::{KeySet, PublicKey, Role, SignedText};
use crate::state::seen::SeenHead;
use crate::update::error::{FreshnessError, TrustError, UnsignedRoute, UpdateError, UsageError};
use crate::update::notice::UpdateNotice;
use crate::update::request::{SignedFiles, TrustSettings};

/// Time by which the clock of a server may be ahead of that of a node.
const MAX_CLOCK_DIFFERENCE: SignedDuration = SignedDuration::from_hours(24);
/// A time before this program was written, in seconds since 1970: 1 November 2026.
///
/// A clock that is behind it was lost, with the battery of the machine.
const EARLIEST: i64 = 1_793_491_200;

/// Keys of a node, and its requirements for heads.
pub(in crate::update) struct Trust {
    keys: KeySet,
    /// Whether unsigned data is refused.
    is_required: bool,
    max_head_age: Duration,
    allow_expired: bool,
}

/// A head whose signature was verified, if this node requires one.
pub(in crate::update) struct TrustedHead {
    pub head: Head,
    /// The key that signed it.
    pub key: Option<PublicKey>,
}

impl Trust {
    /// Reads the keys of the tree.
    pub fn load(root: &Root, settings: &TrustSettings) -> Result<Self, UpdateError> {
        let keys = read_keys(root, settings)?;
        Ok(Trust {
            is_required: settings.require_signature || keys.requires_signature(),
            keys,
            max_head_age: settings.max_head_age,
            allow_expired: settings.allow_expired,
        })
    }

    /// Whether the record of a head counts: its catalog was signed by a key that is still trusted.
    ///
    /// If this node requires signatures, heads that it saw unsigned do not count: their serials are
    /// those of anyone.
    pub fn counts(&self, seen: &SeenHead) -> bool {
        match &seen.key {
            Some(key) => has(self.keys.publish_keys(), key),
            None => !self.is_required,
        }
    }

    /// Whether the answer "not modified" may stand for a recorded head.
    pub fn believes(&self, seen: &SeenHead) -> bool {
        let is_signed = match &seen.head_key {
            Some(key) => has(self.keys.head_keys(), key),
            None => !self.is_required,
        };
        let is_expired = seen.expires.is_some_and(|expires| expires < Timestamp::now());
        self.counts(seen) && is_signed && !is_expired
    }

    /// Refuses an override that nothing signs, if this node requires signatures.
    pub fn refuse_unsigned_override(&self, name: &ImageName) -> Result<(), TrustError> {
        if self.is_required {
            return Err(TrustError::UnsignedRoute(UnsignedRoute::Override { name: name.clone() }));
        }
        Ok(())
    }

    /// Whether a key with this text was revoked.
    pub fn revokes(&self, key: &str) -> bool {
        has(self.keys.revoked_keys(), key)
    }

    /// Verifies and parses a head.
    pub fn read_head(&self, bytes: &[u8], layer: &Layer) -> Result<TrustedHead, TrustError> {
        let (text, key) = self.verify(layer, bytes, Role::Head)?;
        Ok(TrustedHead { head: Head::parse(text, layer)?, key })
    }

    /// Verifies and parses the catalog of `head`, whose digest was checked.
    pub fn read_catalog(
        &self,
        bytes: &[u8],
        head: &Head,
    ) -> Result<(Catalog, Option<PublicKey>), TrustError> {
        let (text, key) = self.verify(&head.layer, bytes, Role::Publish)?;
        let catalog = Catalog::parse(text, &head.layer)?;
        head.check(&catalog)?;
        Ok((catalog, key))
    }

    /// Checks the times of a head by the clock of this node.
    ///
    /// `newest` is the time of the newest head seen: it replaces a clock that was lost.
    pub fn check_times(
        &self,
        monitor: &dyn Monitor,
        trusted: &TrustedHead,
        newest: Option<Timestamp>,
    ) -> Result<(), FreshnessError> {
        let TrustedHead { head, key } = trusted;
        let name = || head.layer.to_string();
        let (now, is_plausible) = clock(Timestamp::now(), newest);
        if is_plausible && head.issued > now + MAX_CLOCK_DIFFERENCE {
            return Err(FreshnessError::Future { name: name(), issued: head.issued, now });
        }
        if !is_plausible || head.issued > now {
            monitor.warn(UpdateNotice::ClockBehind { now: Timestamp::now() });
        }

        let is_publish_key = key.is_none_or(|key| self.keys.publish_keys().any(|own| *own == key));
        match head.expires {
            None if is_publish_key => Ok(()),
            // A stolen head key could keep a node at its generation for ever.
            None => Err(FreshnessError::Endless { name: name() }),
            Some(expires) if expires < now && self.allow_expired => {
                monitor.warn(UpdateNotice::ExpiredHead { expires });
                Ok(())
            }
            Some(expires) if expires < now => {
                Err(FreshnessError::Expired { name: name(), expires })
            }
            Some(expires) => {
                let age = expires.duration_since(head.issued).unsigned_abs();
                if age > self.max_head_age && !self.allow_expired {
                    let limit = self.max_head_age;
                    return Err(FreshnessError::Long { name: name(), expires, limit });
                }
                Ok(())
            }
        }
    }

    /// Refuses keys that do not verify an accepted head and catalog, if signatures are required.
    pub fn check_remaining(&self, keys: &KeySet, accepted: &SignedFiles) -> Result<(), TrustError> {
        if !self.is_required && !keys.requires_signature() {
            return Ok(());
        }
        let files = [(&accepted.head, Role::Head), (&accepted.catalog, Role::Publish)];
        for (bytes, role) in files {
            SignedText::split(bytes)
                .and_then(|signed| signed.verify(keys, role).map(drop))
                .map_err(|source| {
                    let layer = accepted.layer.clone();
                    TrustError::NoKeyLeft { role, layer, source }
                })?;
        }
        Ok(())
    }

    /// Verifies a file; returns its text and the key that signed it.
    fn verify<'b>(
        &self,
        layer: &Layer,
        bytes: &'b [u8],
        role: Role,
    ) -> Result<(&'b [u8], Option<PublicKey>), TrustError> {
        let refuse = |source| TrustError::Signature { role, layer: layer.clone(), source };
        let signed = SignedText::split(bytes).map_err(refuse)?;
        if !self.is_required {
            return Ok((signed.unverified_text(), None));
        }
        let authentic = signed.verify(&self.keys, role).map_err(refuse)?;
        Ok((authentic.text(), Some(*authentic.key())))
    }
}

/// Refuses a source of data that nothing signs, if the node at `root` requires signatures.
pub(crate) fn refuse_unsigned(
    root: &Root,
    settings: &TrustSettings,
    route: UnsignedRoute,
) -> Result<(), UpdateError> {
    if requires_signature(root, settings)? {
        return Err(TrustError::UnsignedRoute(route).into());
    }
    Ok(())
}

/// Whether the node at `root` requires signatures.
pub(in crate::update) fn requires_signature(
    root: &Root,
    settings: &TrustSettings,
) -> Result<bool, UpdateError> {
    Ok(settings.require_signature || read_keys(root, settings)?.requires_signature())
}

fn has<'k>(mut keys: impl Iterator<Item = &'k PublicKey>, text: &str) -> bool {
    keys.any(|key| key.to_string() == text)
}

/// The present time, and whether the clock of this node can show it.
pub(super) fn clock(now: Timestamp, newest: Option<Timestamp>) -> (Timestamp, bool) {
    let earliest = Timestamp::from_second(EARLIEST).unwrap_or(Timestamp::UNIX_EPOCH);
    if now >= earliest {
        return (now, true);
    }
    (newest.unwrap_or(earliest).max(earliest), false)
}

/// Reads the keys of a run, by role.
///
/// A rescue system may have publish and head keys of its own, since those of a damaged tree may be
/// lost. A key that the tree has revoked never counts.
fn read_keys(root: &Root, settings: &TrustSettings) -> Result<KeySet, UpdateError> {
    let Some(other) = &settings.keys_from else {
        let keys = read_key_files(root, &KeyDir::ALL);
        return keys
            .and_then(|files| collect_keys(&files, |path| root.show(path)))
            .map_err(keys_error);
    };

    let other = Root::open(other).map_err(Untouched::from)?;
    let mut files = read_key_files(&other, &KeyDir::ALL).map_err(keys_error)?;
    files.extend(read_key_files(root, &[KeyDir::Revoked]).map_err(keys_error)?);
    collect_keys(&files, |path| path.to_string()).map_err(keys_error)
}

/// Converts an error of the keys of this node.
pub(in crate::update) fn keys_error(error: KeysError) -> UpdateError {
    match error {
        KeysError::Root(error) => Untouched::from(error).into(),
        error => UsageError::Keys(error).into(),
    }
}

#[cfg(test)]
mod tests;
