//! Integrity checks of blocks.

use crc::{CRC_64_XZ, Crc, Digest, Table};
use ring::digest;

/// CRC-64 of the .xz format, sixteen bytes in each step.
static CRC64: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_XZ);

/// Size up to which small pieces of content are gathered, in bytes.
///
/// The algorithms are faster on long pieces, and most packets are short.
const GATHERED: usize = 8 << 10;

/// The kind of check that all blocks of a stream have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckKind(u8);

impl CheckKind {
    /// The kind with this number of the format; `None` above 15.
    pub fn from_id(id: u8) -> Option<Self> {
        (id < 16).then_some(CheckKind(id))
    }

    /// Number of the kind in the format.
    pub fn id(self) -> u8 {
        self.0
    }

    /// Length of the check in bytes, at most 64.
    ///
    /// The format defines it even for kinds that are reserved.
    pub fn length(self) -> usize {
        match self.0 {
            0 => 0,
            id => 4 << ((id - 1) / 3),
        }
    }
}

/// The check at the end of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XzCheck {
    /// Follows from the plain content.
    Computed,
    /// Bytes that are wrong, or cannot be computed from the plain content.
    Stored(Vec<u8>),
}

/// Computes the check of a block while its content passes.
pub(super) struct ContentCheck {
    algorithm: Algorithm,
    gathered: Vec<u8>,
}

enum Algorithm {
    Nothing,
    Crc32(crc32fast::Hasher),
    Crc64(Digest<'static, u64, Table<16>>),
    Sha256(Box<digest::Context>),
    Unknown,
}

impl ContentCheck {
    /// A check of this kind over plain content.
    pub(super) fn new(kind: CheckKind) -> Self {
        ContentCheck::with(match kind.id() {
            0 => Algorithm::Nothing,
            1 => Algorithm::Crc32(crc32fast::Hasher::new()),
            4 => Algorithm::Crc64(CRC64.digest()),
            10 => Algorithm::Sha256(Box::new(digest::Context::new(&digest::SHA256))),
            _ => Algorithm::Unknown,
        })
    }

    /// The check of content that other filters than LZMA2 still have to decode.
    pub(super) fn unknown() -> Self {
        ContentCheck::with(Algorithm::Unknown)
    }

    fn with(algorithm: Algorithm) -> Self {
        ContentCheck { algorithm, gathered: Vec::new() }
    }

    /// Adds the next bytes of the content.
    #[inline]
    pub(super) fn update(&mut self, content: &[u8]) {
        if matches!(self.algorithm, Algorithm::Nothing | Algorithm::Unknown) {
            return;
        }
        if self.gathered.len() + content.len() > GATHERED {
            self.flush();
        }
        if content.len() > GATHERED {
            self.algorithm.update(content);
        } else {
            self.gathered.extend_from_slice(content);
        }
    }

    /// The bytes of the check; `None` if it cannot be computed.
    pub(super) fn finish(mut self) -> Option<Vec<u8>> {
        self.flush();
        match self.algorithm {
            Algorithm::Nothing => Some(Vec::new()),
            Algorithm::Crc32(hasher) => Some(hasher.finalize().to_le_bytes().to_vec()),
            Algorithm::Crc64(digest) => Some(digest.finalize().to_le_bytes().to_vec()),
            Algorithm::Sha256(context) => Some(context.finish().as_ref().to_vec()),
            Algorithm::Unknown => None,
        }
    }

    fn flush(&mut self) {
        self.algorithm.update(&self.gathered);
        self.gathered.clear();
    }
}

impl Algorithm {
    fn update(&mut self, content: &[u8]) {
        match self {
            Algorithm::Nothing | Algorithm::Unknown => {}
            Algorithm::Crc32(hasher) => hasher.update(content),
            Algorithm::Crc64(digest) => digest.update(content),
            Algorithm::Sha256(context) => context.update(content),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_the_format() {
        let lengths: Vec<usize> =
            (0..16).map(|id| CheckKind::from_id(id).expect("valid").length()).collect();

        assert_eq!(lengths, [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64]);
        assert_eq!(CheckKind::from_id(16), None);
    }

    #[test]
    fn pieces_have_the_check_of_the_whole() {
        let content: Vec<u8> = (0..100_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        for id in [1, 4, 10] {
            let kind = CheckKind::from_id(id).expect("valid");
            let mut whole = ContentCheck::new(kind);
            let mut pieces = ContentCheck::new(kind);

            whole.update(&content);
            let mut rest = &content[..];
            for length in (0..).map(|i| i * i * 7) {
                let (piece, tail) = rest.split_at(rest.len().min(length));
                pieces.update(piece);
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }

            assert_eq!(whole.finish(), pieces.finish());
        }
    }
}
