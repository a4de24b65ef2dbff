//! Adaptive probabilities of the steps of a file and their headers.

use super::error::ReplayError;
use crate::replay::prediction::{ByteModel, SizeModel};
use crate::replay::range_coder::{AdaptiveBit, Coder};
use crate::replay::{xz, zstd};

/// Kinds of steps in a decision stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    Raw = 0,
    XzStart = 1,
    XzBlock = 2,
    XzChunk = 3,
    XzBlockEnd = 4,
    XzEnd = 5,
    FrameStart = 6,
    FrameBlock = 7,
    FrameEnd = 8,
    End = 9,
}

/// Bits of a kind.
const KIND_BITS: u32 = 4;

/// End of a piece of the plain form that has no length of its own in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceEnd {
    /// As usual: where liblzma ends a chunk; after 128 KiB for a block of zstd.
    Usual = 0,
    /// With the plain form.
    OfText = 1,
    /// After a length that follows.
    Stated = 2,
}

/// Probabilities of all steps; the files of a group share them.
pub struct StepModels {
    kinds: Vec<[AdaptiveBit; 1 << KIND_BITS]>,
    /// The last kind: it is the context of the next one.
    last: StepKind,
    ends: [[AdaptiveBit; 4]; 2],
    sizes: [SizeModel; 4],
    small: Vec<[AdaptiveBit; 8]>,
    flags: [AdaptiveBit; 8],
    pub heads: ByteModel,
    pub checks: ByteModel,
    trees: ByteModel,
    tables: ByteModel,
}

/// Longest description of a Huffman tree, and of the three tables of sequences, in bytes.
const MAX_TREE: usize = 129;
const MAX_TABLES: usize = 512;

impl Default for StepModels {
    fn default() -> Self {
        let one = AdaptiveBit::default();
        StepModels {
            kinds: vec![[one; 1 << KIND_BITS]; 1 << KIND_BITS],
            last: StepKind::End,
            ends: [[one; 4]; 2],
            sizes: Default::default(),
            small: vec![[one; 8]; 8],
            flags: [one; 8],
            heads: ByteModel::default(),
            checks: ByteModel::default(),
            trees: ByteModel::default(),
            tables: ByteModel::default(),
        }
    }
}

/// Numbers of [`StepModels::size`].
pub mod sizes {
    pub const RAW: usize = 0;
    pub const CHUNK: usize = 1;
    pub const BLOCK: usize = 2;
    pub const RANK: usize = 3;
}

/// Numbers of the models of small numbers.
mod small {
    pub const RESET: usize = 0;
    pub const BLOCK_KIND: usize = 1;
    pub const LITERALS: usize = 2;
    pub const FORMAT: usize = 3;
}

/// Numbers of the models of flags.
mod flags {
    pub const LAST: usize = 0;
    pub const COUNT_FORM: usize = 1;
    pub const RANKS: usize = 2;
    pub const CHECK: usize = 3;
}

impl StepModels {
    /// Codes the kind of a step.
    pub fn kind(
        &mut self,
        coder: &mut impl Coder,
        given: StepKind,
    ) -> Result<StepKind, ReplayError> {
        use StepKind::*;
        let model = &mut self.kinds[self.last as usize];
        let kind = coder.adaptive_tree(model, given as u32, KIND_BITS);
        let kinds = [
            Raw, XzStart, XzBlock, XzChunk, XzBlockEnd, XzEnd, FrameStart, FrameBlock, FrameEnd,
            End,
        ];
        self.last = *kinds.get(kind as usize).ok_or(ReplayError::Order)?;
        Ok(self.last)
    }

    /// Codes a size below 2^32.
    pub fn size(&mut self, coder: &mut impl Coder, model: usize, given: u32) -> u32 {
        self.sizes[model].code(coder, given)
    }

    /// Codes the end of a chunk of xz (0) or a block of zstd (1).
    pub fn end(
        &mut self,
        coder: &mut impl Coder,
        model: usize,
        given: PieceEnd,
    ) -> Result<PieceEnd, ReplayError> {
        match coder.adaptive_tree(&mut self.ends[model], given as u32, 2) {
            0 => Ok(PieceEnd::Usual),
            1 => Ok(PieceEnd::OfText),
            2 => Ok(PieceEnd::Stated),
            _ => Err(ReplayError::Head),
        }
    }

    /// Codes the kind of a chunk of xz.
    pub fn chunk_kind(
        &mut self,
        coder: &mut impl Coder,
        given: Option<xz::ChunkKind>,
    ) -> Result<xz::ChunkKind, ReplayError> {
        use xz::{ChunkKind, DictionaryUse, Reset};
        let (number, properties) = match given {
            None | Some(ChunkKind::Lzma(Reset::Nothing)) => (0, None),
            Some(ChunkKind::Lzma(Reset::State)) => (1, None),
            Some(ChunkKind::Lzma(Reset::Properties(properties))) => (2, Some(properties)),
            Some(ChunkKind::Lzma(Reset::Dictionary(properties))) => (3, Some(properties)),
            Some(ChunkKind::Stored(DictionaryUse::Keep)) => (4, None),
            Some(ChunkKind::Stored(DictionaryUse::Reset)) => (5, None),
        };
        let number = coder.adaptive_tree(&mut self.small[small::RESET], number, 3);
        let mut code_properties = || {
            let byte = properties.map(xz::Properties::byte);
            let row = self.heads.code(coder, byte.as_slice(), 1);
            let byte = row.first().copied().ok_or(ReplayError::Head)?;
            xz::Properties::from_byte(byte).ok_or(ReplayError::Head)
        };
        Ok(match number {
            0 => ChunkKind::Lzma(Reset::Nothing),
            1 => ChunkKind::Lzma(Reset::State),
            2 => ChunkKind::Lzma(Reset::Properties(code_properties()?)),
            3 => ChunkKind::Lzma(Reset::Dictionary(code_properties()?)),
            4 => ChunkKind::Stored(DictionaryUse::Keep),
            5 => ChunkKind::Stored(DictionaryUse::Reset),
            _ => return Err(ReplayError::Head),
        })
    }

    /// Codes the check after a block or a frame: `None` if it follows from the content.
    pub fn check(
        &mut self,
        coder: &mut impl Coder,
        stored: Option<&[u8]>,
        longest: usize,
    ) -> Option<Vec<u8>> {
        let is_stored = coder.adaptive(&mut self.flags[flags::CHECK], stored.is_some().into()) == 1;
        is_stored.then(|| self.checks.code(coder, stored.unwrap_or_default(), longest))
    }

    /// Codes all of a block's head except its size.
    pub fn block_head(
        &mut self,
        coder: &mut impl Coder,
        given: Option<&zstd::BlockHead>,
    ) -> Result<zstd::BlockHead, ReplayError> {
        use zstd::BlockKind;
        let is_last = given.is_some_and(|head| head.is_last);
        let is_last = coder.adaptive(&mut self.flags[flags::LAST], is_last.into()) == 1;
        let number = match given.map(|head| &head.kind) {
            None | Some(BlockKind::Raw) => 0,
            Some(BlockKind::Rle) => 1,
            Some(BlockKind::Compressed(_)) => 2,
        };
        let kind = match coder.adaptive_tree(&mut self.small[small::BLOCK_KIND], number, 2) {
            0 => BlockKind::Raw,
            1 => BlockKind::Rle,
            2 => {
                let given = given.and_then(|head| match &head.kind {
                    BlockKind::Compressed(head) => Some(head),
                    _ => None,
                });
                BlockKind::Compressed(zstd::CompressedHead {
                    literals: self.literals_head(coder, given.map(|head| &head.literals)),
                    sequences: self.sequences_head(coder, given.map(|head| &head.sequences))?,
                })
            }
            _ => return Err(ReplayError::Head),
        };
        Ok(zstd::BlockHead { is_last, size: 0, kind })
    }

    fn literals_head(
        &mut self,
        coder: &mut impl Coder,
        given: Option<&zstd::LiteralsHead>,
    ) -> zstd::LiteralsHead {
        use zstd::LiteralsKind;
        let (number, tree) = match given.map(|head| &head.kind) {
            None | Some(LiteralsKind::Raw) => (0, &[][..]),
            Some(LiteralsKind::Rle) => (1, &[][..]),
            Some(LiteralsKind::Huffman { table }) => (2, &table[..]),
            Some(LiteralsKind::Repeat) => (3, &[][..]),
        };
        let number = coder.adaptive_tree(&mut self.small[small::LITERALS], number, 2);
        let format = given.map_or(0, |head| u32::from(head.format));
        let format = coder.adaptive_tree(&mut self.small[small::FORMAT], format, 2) as u8;
        let kind = match number {
            0 => LiteralsKind::Raw,
            1 => LiteralsKind::Rle,
            2 => LiteralsKind::Huffman { table: self.trees.code(coder, tree, MAX_TREE) },
            _ => LiteralsKind::Repeat,
        };
        zstd::LiteralsHead { kind, format }
    }

    fn sequences_head(
        &mut self,
        coder: &mut impl Coder,
        given: Option<&zstd::SequencesHead>,
    ) -> Result<zstd::SequencesHead, ReplayError> {
        let none = zstd::SequencesHead::default();
        let given = given.unwrap_or(&none);
        let is_long = given.count_form == zstd::CountForm::TwoBytes;
        let is_long = coder.adaptive(&mut self.flags[flags::COUNT_FORM], is_long.into()) == 1;

        let modes = self.heads.code(coder, &[given.modes], 1);
        let modes = *modes.first().ok_or(ReplayError::Head)?;
        let tables = self.tables.code(coder, &given.tables, MAX_TABLES);
        let has_ranks = given.first_ranks != [0; 3];
        let has_ranks = coder.adaptive(&mut self.flags[flags::RANKS], has_ranks.into()) == 1;
        let mut first_ranks = [0; 3];
        if has_ranks {
            for (rank, given) in first_ranks.iter_mut().zip(given.first_ranks) {
                *rank = self.size(coder, sizes::RANK, given.into()) as u16;
            }
        }
        let count_form =
            if is_long { zstd::CountForm::TwoBytes } else { zstd::CountForm::Shortest };
        Ok(zstd::SequencesHead { count_form, modes, tables, first_ranks })
    }
}
