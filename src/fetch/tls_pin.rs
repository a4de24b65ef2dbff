//! Pins: keys of https servers that a site names itself.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::digest::Digest;

/// Begins the text of a pin, as in curl's `--pinnedpubkey`.
const PREFIX: &str = "sha256//";

/// SHA-256 of the public key of a server, a DER-encoded SubjectPublicKeyInfo (RFC 7469, 2.4).
///
/// A renewed certificate keeps its pin if it keeps its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsPin(pub(super) Digest);

/// Text that is not a pin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a pin: {PREFIX} and the base64 of 32 bytes")]
pub struct BadTlsPin {
    text: String,
}

impl FromStr for TlsPin {
    type Err = BadTlsPin;

    fn from_str(text: &str) -> Result<Self, BadTlsPin> {
        let bytes = text.strip_prefix(PREFIX).and_then(|rest| STANDARD.decode(rest).ok());
        let bytes: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(|bytes| TlsPin(Digest(bytes)))
            .ok_or_else(|| BadTlsPin { text: text.chars().take(100).collect() })
    }
}

impl fmt::Display for TlsPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", STANDARD.encode(self.0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_is_read_as_curl_writes_it() {
        let text = "sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

        let pin: TlsPin = text.parse().expect("a pin");

        assert_eq!(pin, TlsPin(Digest::of(b"")));
        assert_eq!(pin.to_string(), text);
        let padded = format!("{text}=");
        for bad in ["", "sha256//", "sha256//AAAA", "47DEQpj8HBSa", &text[..51], &padded] {
            assert!(bad.parse::<TlsPin>().is_err(), "{bad}");
        }
    }
}
