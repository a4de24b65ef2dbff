//! The index at the end of a stream.

use super::varint;

/// Largest size of the records in bytes, for bounded memory.
///
/// A record has about eight bytes, and a block of a usual encoder several mebibytes, so this is
/// enough for terabytes.
pub(super) const MAX_RECORDS: usize = 16 << 20;

/// Records of the blocks so far.
#[derive(Default)]
pub(super) struct XzIndex {
    count: u64,
    records: Vec<u8>,
}

impl XzIndex {
    /// Adds a block; false, without effect, if the records would be too large.
    #[must_use]
    pub(super) fn push(&mut self, unpadded_size: u64, plain_size: u64) -> bool {
        let length = self.records.len();
        varint::push(&mut self.records, unpadded_size);
        varint::push(&mut self.records, plain_size);
        if self.records.len() > MAX_RECORDS {
            self.records.truncate(length);
            return false;
        }
        self.count += 1;
        true
    }

    /// The bytes of the index.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.records.len() + 20);
        bytes.push(0);
        varint::push(&mut bytes, self.count);
        bytes.extend_from_slice(&self.records);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }
}
