//! Headers and footers of streams.

use super::check::CheckKind;
use super::error::{XzDefect, XzOpenError, XzRefusal};

const MAGIC: &[u8; 6] = b"\xfd7zXZ\0";
const FOOTER_MAGIC: &[u8; 2] = b"YZ";
/// Length of headers and footers in bytes.
pub(super) const HEADER_LENGTH: usize = 12;

/// The header of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamHead {
    pub check: CheckKind,
}

impl StreamHead {
    /// Checks a header.
    pub(super) fn read(header: &[u8; HEADER_LENGTH]) -> Result<Self, XzOpenError> {
        let [magic @ .., first, second, c0, c1, c2, c3] = *header;
        if magic != *MAGIC {
            return Err(XzDefect::Magic.into());
        }
        if crc32fast::hash(&[first, second]) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(XzDefect::StreamHeaderChecksum.into());
        }

        match CheckKind::from_id(second) {
            Some(check) if first == 0 => Ok(StreamHead { check }),
            _ => Err(XzRefusal::StreamFlags { flags: u16::from_be_bytes([first, second]) }.into()),
        }
    }

    /// Appends the header.
    pub(super) fn push(self, output: &mut Vec<u8>) {
        output.extend_from_slice(MAGIC);
        output.extend_from_slice(&self.flags());
        output.extend_from_slice(&crc32fast::hash(&self.flags()).to_le_bytes());
    }

    /// The footer after an index of `index_length` bytes, a multiple of four.
    pub(super) fn footer(self, index_length: usize) -> [u8; HEADER_LENGTH] {
        let backward_size = (index_length / 4).saturating_sub(1) as u32;
        let [b0, b1, b2, b3] = backward_size.to_le_bytes();
        let [f0, f1] = self.flags();
        let [c0, c1, c2, c3] = crc32fast::hash(&[b0, b1, b2, b3, f0, f1]).to_le_bytes();
        let [m0, m1] = *FOOTER_MAGIC;
        [c0, c1, c2, c3, b0, b1, b2, b3, f0, f1, m0, m1]
    }

    fn flags(self) -> [u8; 2] {
        [0, self.check.id()]
    }
}
