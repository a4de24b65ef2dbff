//! The head of a file in frames: its frame table, and the frames that the table does not list.

use std::io::Read;
use std::sync::Arc;

use crate::catalog::FirstFrame;
use crate::diff_archive::compression::FrameCompression;
use crate::diff_archive::error::FrameFault;
use crate::diff_archive::frame_table::FrameTable;
use crate::diff_archive::frames::HeadFrames;
use crate::diff_archive::limits::MAX_FRAME_HEAD;
use crate::digest::Digest;

/// A file in frames.
#[derive(Clone, Copy, Debug)]
pub struct FramedFile<R> {
    /// Its bytes, from the beginning.
    pub bytes: R,
    /// Its size in bytes.
    pub size: u64,
    /// Compression of its frames.
    pub compression: FrameCompression,
    /// Head that the catalog names; `None` for a file that no catalog names.
    pub head: Option<FirstFrame>,
}

/// The head of a file in frames; its digest was compared.
#[derive(Clone, Debug)]
pub struct FrameHead {
    bytes: Vec<u8>,
    table: Arc<FrameTable>,
    table_length: usize,
    compression: FrameCompression,
}

impl FrameHead {
    /// The compression of a file that begins with `start`, if it begins with a frame table.
    pub fn recognize(start: &[u8]) -> Option<FrameCompression> {
        let has_table = |compression| {
            let stated = FrameTable::stated_length(compression, start);
            !matches!(stated, Err(FrameFault::NoTable))
        };
        FrameCompression::ALL.into_iter().find(|compression| has_table(*compression))
    }

    /// Reads `bytes`, the head of a file of `size` bytes, whose digest the caller has compared.
    pub fn from_verified(
        bytes: Vec<u8>,
        size: u64,
        compression: FrameCompression,
    ) -> Result<Self, FrameFault> {
        let table_length = FrameTable::stated_length(compression, &bytes)?;
        let table = bytes.get(..table_length).ok_or(FrameFault::Table)?;
        let table = FrameTable::new(FrameTable::decode(compression, table)?, size)?;
        if table.head_length() != bytes.len() as u64 {
            return Err(FrameFault::OtherSize);
        }
        Ok(FrameHead { bytes, table: Arc::new(table), table_length, compression })
    }

    /// Reads the head of `file`, up to its end.
    ///
    /// Without a head in a catalog, its length follows from the table and the size of the file.
    pub fn read(file: &mut FramedFile<impl Read>) -> Result<Self, FrameFault> {
        let FramedFile { bytes: from, size, compression, head } = file;
        let (size, compression) = (*size, *compression);
        let mut bytes = Vec::new();
        let mut extend = |bytes: &mut Vec<u8>, length: u64| {
            let missing = length.saturating_sub(bytes.len() as u64);
            from.by_ref().take(missing).read_to_end(bytes).map_err(FrameFault::Io)?;
            if bytes.len() as u64 == length { Ok(()) } else { Err(FrameFault::CutOff) }
        };

        if let Some(head) = head {
            if head.length > MAX_FRAME_HEAD {
                return Err(FrameFault::HeadTooLong);
            }
            extend(&mut bytes, head.length)?;
            if Digest::of(&bytes) != head.sha256 {
                return Err(FrameFault::OtherHead);
            }
        } else {
            extend(&mut bytes, FrameTable::prefix_length(compression) as u64)?;
            let length = FrameTable::stated_length(compression, &bytes)?;
            extend(&mut bytes, length as u64)?;
            let table = FrameTable::new(FrameTable::decode(compression, &bytes)?, size)?;
            let length = table.head_length();
            if length < bytes.len() as u64 {
                return Err(FrameFault::OtherSize);
            }
            if length > MAX_FRAME_HEAD {
                return Err(FrameFault::HeadTooLong);
            }
            extend(&mut bytes, length)?;
        }
        FrameHead::from_verified(bytes, size, compression)
    }

    /// The frames after the head.
    pub fn table(&self) -> &Arc<FrameTable> {
        &self.table
    }

    /// Whether the head has frames after its table.
    pub fn has_frames(&self) -> bool {
        self.table_length < self.bytes.len()
    }

    /// Raw bytes of the frames in the head.
    pub(super) fn frames(&self) -> HeadFrames<'_> {
        HeadFrames::new(&self.bytes[self.table_length..], self.compression)
    }
}
