//! Signatures of catalogs and heads, and the time for which a head is valid.

use std::str::FromStr;
use std::time::Duration;

use jiff::{Span, SpanRelativeTo, Timestamp};

use crate::catalog::{Catalog, Head};
use crate::publish::{PublishError, Published, Store};
use crate::signature::{KeySet, PublicKey, Role, SignedText};
use crate::signing::{Signer, SigningError};

/// Keys of a publisher; without them nothing is signed.
#[derive(Debug, Default)]
pub struct Signing {
    /// Signs catalogs, and heads if there is no head key.
    pub publish: Option<Signer>,
    /// Signs heads.
    pub head: Option<Signer>,
    pub validity: Validity,
    /// Further keys whose signature of the present head and catalog is accepted.
    pub trusted: Vec<PublicKey>,
    /// Keys of the image that is published: its nodes will trust no others.
    pub image_keys: Option<KeySet>,
}

/// Time for which a head is valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Validity {
    /// As long as the head before; the first one for ever.
    #[default]
    AsBefore,
    Forever,
    Until(Timestamp),
    For(Duration),
}

/// A text that is no validity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither \"never\", nor a time (2027-01-31T12:00:00Z), nor a duration (7d, 36h)")]
pub struct BadValidity(String);

impl Signing {
    /// The bytes of a catalog with its signature, if there is a key.
    pub(super) fn sign_catalog(
        &self,
        catalog: &Catalog,
        text: &str,
    ) -> Result<Vec<u8>, SigningError> {
        let comment = format!("catalog of {} serial {}", catalog.layer, catalog.version());
        let bytes = sign(self.publish.as_ref(), text, &comment)?;
        self.check_image_keys(&bytes, Role::Publish)?;
        Ok(bytes)
    }

    /// The bytes of a head with its signature, if there is a key.
    pub(super) fn sign_head(&self, head: &Head, text: &str) -> Result<Vec<u8>, SigningError> {
        if self.head.is_some() && head.expires.is_none() {
            return Err(SigningError::HeadWithoutEnd);
        }
        let comment =
            format!("head of {} serial {}, issued {:.0}", head.layer, head.version(), head.issued);
        let bytes = sign(self.head_signer(), text, &comment)?;
        self.check_image_keys(&bytes, Role::Head)?;
        Ok(bytes)
    }

    /// Refuses a file that nodes could not verify with the keys of the image.
    fn check_image_keys(&self, bytes: &[u8], role: Role) -> Result<(), SigningError> {
        let Some(keys) = &self.image_keys else { return Ok(()) };
        let signed = SignedText::split(bytes)?;
        signed.verify(keys, role).map(drop).map_err(SigningError::NotOfImage)
    }

    /// Whether a program signs whose public key is not known.
    pub fn is_unverified(&self) -> bool {
        matches!(&self.publish, Some(Signer::Command(command)) if command.is_unverified())
    }

    /// Whether heads are signed.
    pub fn signs_heads(&self) -> bool {
        self.head_signer().is_some()
    }

    /// Whether the present head and catalog have to be verified.
    pub(super) fn has_keys(&self) -> bool {
        self.signs_heads() || !self.trusted.is_empty()
    }

    /// Keys that verify the present head and catalog: those that sign, and further ones.
    pub fn accepted_keys(&self) -> KeySet {
        let mut keys = KeySet::new();
        let publish = self.publish.as_ref().and_then(Signer::public_key);
        for key in publish.into_iter().chain(self.trusted.iter().copied()) {
            keys.insert(Role::Publish, key);
        }
        if let Some(key) = self.head.as_ref().and_then(Signer::public_key) {
            keys.insert(Role::Head, key);
        }
        keys
    }

    fn head_signer(&self) -> Option<&Signer> {
        self.head.as_ref().or(self.publish.as_ref())
    }

    /// Refuses to publish without a signature where the catalog before has one, or the new head.
    ///
    /// Nodes with a key would refuse the result.
    pub(crate) fn check(
        &self,
        before: Option<&Published>,
        store: &Store,
    ) -> Result<(), PublishError> {
        let was_signed = before.is_some_and(|before| !before.catalog_keys.is_empty());
        if was_signed && self.publish.is_none() {
            let directory = store.dir().display().to_string();
            return Err(PublishError::KeyNeeded { directory });
        }
        if self.head.is_some() && self.publish.is_none() {
            return Err(PublishError::HeadKeyAlone(store.layer().clone()));
        }
        Ok(())
    }
}

impl FromStr for Validity {
    type Err = BadValidity;

    fn from_str(text: &str) -> Result<Self, BadValidity> {
        if text == "never" {
            return Ok(Validity::Forever);
        }
        if let Ok(end) = text.parse::<Timestamp>() {
            return Ok(Validity::Until(end));
        }

        let bad = || BadValidity(text.to_owned());
        let span: Span = text.parse().map_err(|_| bad())?;
        let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| bad())?;
        Duration::try_from(duration).map(Validity::For).map_err(|_| bad())
    }
}

impl Validity {
    /// Whether a head of this setting, issued now, is valid for longer than `limit`.
    pub fn is_longer_than(self, limit: Duration) -> bool {
        match self {
            Validity::AsBefore | Validity::Forever => false,
            Validity::Until(end) => {
                Timestamp::now().checked_add(limit).is_ok_and(|last| end > last)
            }
            Validity::For(duration) => duration > limit,
        }
    }

    /// The end of a head that is issued at `issued`, after `before`.
    pub(super) fn end(self, issued: Timestamp, before: Option<&Head>) -> Option<Timestamp> {
        match self {
            Validity::Forever => None,
            Validity::Until(end) => Some(end),
            Validity::For(duration) => Some(issued.checked_add(duration).unwrap_or(Timestamp::MAX)),
            Validity::AsBefore => {
                let before = before?;
                let duration = before.expires?.duration_since(before.issued);
                Some(issued.checked_add(duration).unwrap_or(Timestamp::MAX))
            }
        }
    }
}

fn sign(signer: Option<&Signer>, text: &str, comment: &str) -> Result<Vec<u8>, SigningError> {
    match signer {
        Some(signer) => signer.sign_text(text.as_bytes(), comment),
        None => Ok(text.as_bytes().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity_is_a_time_a_duration_or_never() {
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!("never".parse(), Ok(Validity::Forever));
        assert_eq!("7d".parse(), Ok(Validity::For(7 * day)));
        assert_eq!("36h".parse(), Ok(Validity::For(day * 3 / 2)));

        let end = "2027-01-31T12:00:00Z";
        assert_eq!(end.parse(), Ok(Validity::Until(end.parse().expect("a time"))));

        for bad in ["", "7", "soon", "-7d", "1 month"] {
            assert!(bad.parse::<Validity>().is_err(), "{bad}");
        }
    }
}
