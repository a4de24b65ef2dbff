//! Deflate as GNU gzip and zlib implement it, so exactly that it writes the same bytes.
//!
//! The algorithm is zlib's (its `algorithm.txt`, and the notes in RFC 1951, section 4): chains of
//! equal hashes ([`hash_chains`](super::hash_chains)) over a window of twice 32 KiB, and lazy
//! evaluation, which holds a match back for one byte in case the next byte begins a longer one.
//!
//! The matches depend on details that are not part of the format: the length of the chains, the
//! moment at which the window slides, the bytes after its end, and the end of a block. All of them
//! are repeated here. One deviation changes the compressed bytes, and the file could not be
//! rebuilt.

use crate::delta::gzip::block::{BitWriter, Block, BlockEnding, BlockPosition, MIN_MATCH};
use crate::delta::gzip::hash_chains::{
    ChainSearch, HashChains, MARGIN, MAX_DISTANCE, Match, Query, SIZE, TOO_FAR,
};

const WINDOW: usize = 2 * SIZE;

/// A program whose choices are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoder {
    /// GNU gzip, and descendants of its source.
    Gnu,
    /// zlib with its default tables (memory level 8).
    Zlib,
    /// zlib with its largest tables (memory level 9).
    ZlibLarge,
}

/// A program at one compression level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) encoder: Encoder,
    /// From 1 to 9.
    pub(super) level: u8,
}

/// Amount of searching at one level.
#[derive(Clone, Copy)]
struct SearchEffort {
    /// A match of this length shortens the search for a better one.
    good: usize,
    /// Lazy levels: a longer match is taken at once. Fast levels: the positions inside a longer
    /// match are not added to the chains.
    lazy: usize,
    /// A match of this length ends the search.
    nice: usize,
    /// Largest number of positions to try.
    chain: u16,
    /// Whether a match is held back for one byte (levels 4 to 9).
    is_lazy: bool,
}

impl Model {
    fn effort(self) -> SearchEffort {
        let (good, lazy, nice, chain) = match self.level {
            0 | 1 => (4, 4, 8, 4),
            2 => (4, 5, 16, 8),
            3 => (4, 6, 32, 32),
            4 => (4, 4, 16, 16),
            5 => (8, 16, 32, 32),
            6 => (8, 16, 128, 128),
            7 => (8, 32, 128, 256),
            8 => (32, 128, 258, 1024),
            _ => (32, 258, 258, 4096),
        };
        SearchEffort { good, lazy, nice, chain, is_lazy: self.level > 3 }
    }

    fn block_ending(self) -> BlockEnding {
        match self.encoder {
            Encoder::Gnu => BlockEnding { symbols: (1 << 15) - 1, at_half: self.level > 2 },
            Encoder::Zlib => BlockEnding { symbols: (1 << 14) - 1, at_half: false },
            Encoder::ZlibLarge => BlockEnding { symbols: (1 << 15) - 1, at_half: false },
        }
    }

    fn hash_bits(self) -> u32 {
        match self.encoder {
            Encoder::Gnu | Encoder::Zlib => 15,
            Encoder::ZlibLarge => 16,
        }
    }
}

impl SearchEffort {
    /// Shortcuts pay if a level tries many positions.
    fn chain_search(&self) -> ChainSearch {
        if self.chain >= 128 { ChainSearch::Shortcuts } else { ChainSearch::Single }
    }
}

/// Compresses one stream, piece by piece.
///
/// Memory: less than 1 MB, and the output that was not taken yet.
pub(super) struct Deflater {
    model: Model,
    effort: SearchEffort,
    window: Vec<u8>,
    chains: HashChains,
    /// Position in the window of the next byte to compress.
    at: usize,
    /// Number of bytes in the window from there on.
    ahead: usize,
    /// Number of bytes that the window takes before it is compressed.
    wanted: usize,
    /// Position of the first byte of the open block; negative if it has left the window.
    block_start: isize,
    block: Block,
    pending: PendingMatch,
    bits: BitWriter,
    /// Number of bytes written to the deflater.
    consumed: u64,
}

/// Result of lazy evaluation for the previous byte, not written yet.
#[derive(Clone, Copy)]
struct PendingMatch {
    /// Whether the previous byte is not written yet.
    is_set: bool,
    best: Match,
}

/// A length below that of any match.
const NO_MATCH: Match = Match { length: MIN_MATCH - 1, distance: 0 };

impl Deflater {
    pub(super) fn new(model: Model) -> Self {
        Deflater::with_search(model, model.effort().chain_search())
    }

    /// Uses the given search; the output does not depend on it.
    pub(super) fn with_search(model: Model, search: ChainSearch) -> Self {
        Deflater {
            model,
            effort: model.effort(),
            window: vec![0; WINDOW + MARGIN],
            chains: HashChains::new(model.hash_bits(), search),
            at: 0,
            ahead: 0,
            wanted: WINDOW,
            block_start: 0,
            block: Block::new(model.block_ending()),
            pending: PendingMatch { is_set: false, best: NO_MATCH },
            bits: BitWriter::default(),
            consumed: 0,
        }
    }

    /// Adds content.
    pub(super) fn write(&mut self, mut plain: &[u8]) {
        self.consumed += plain.len() as u64;

        while !plain.is_empty() {
            let (now, later) = plain.split_at(plain.len().min(self.wanted));
            let end = self.at + self.ahead;
            self.window[end..end + now.len()].copy_from_slice(now);
            self.ahead += now.len();
            self.wanted -= now.len();
            plain = later;

            if self.wanted == 0 {
                self.compress(MARGIN);
                self.slide();
                self.wanted = WINDOW - self.ahead - self.at;
            }
        }
    }

    /// Compresses the rest. Nothing may be written afterwards.
    pub(super) fn finish(&mut self) {
        self.compress(MARGIN);
        self.slide();

        if self.model.encoder == Encoder::Gnu {
            // gzip clears two bytes after the end. It compares the older bytes after those.
            let end = self.at + self.ahead;
            self.window[end..end + MIN_MATCH - 1].fill(0);
        }
        self.compress(1);

        if self.pending.is_set {
            self.block.add_literal(self.window[self.at - 1], self.block_length());
        }
        self.end_block(BlockPosition::Last);
        self.bits.pad();
    }

    /// The output since the last call.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bits.bytes)
    }

    /// Moves the upper half of the window to the lower if the end is near.
    fn slide(&mut self) {
        if self.at < SIZE + MAX_DISTANCE {
            return;
        }
        self.window.copy_within(SIZE..WINDOW, 0);
        self.at -= SIZE;
        self.block_start -= SIZE as isize;
        self.chains.slide();
    }

    /// Compresses as long as `least` bytes are ahead.
    fn compress(&mut self, least: usize) {
        while self.ahead >= least {
            if self.effort.is_lazy {
                self.step_lazy();
            } else {
                self.step_fast();
            }

            // zlib fills, and so slides, its window at each step near the end; gzip does not.
            if self.ahead < MARGIN && least < MARGIN && self.model.encoder != Encoder::Gnu {
                self.slide();
            }
        }
    }

    /// One step of levels 1 to 3: takes the first match.
    fn step_fast(&mut self) {
        let longest = if self.insert_here() { self.longest(MIN_MATCH - 1) } else { None };

        let full = match longest {
            Some(longest) if longest.length >= MIN_MATCH => {
                let full =
                    self.block.add_match(longest.length, longest.distance, self.block_length());
                if longest.length <= self.effort.lazy
                    && self.is_inserted(self.ahead - longest.length)
                {
                    for position in self.at + 1..self.at + longest.length {
                        self.insert(position);
                    }
                }
                self.advance(longest.length);
                full
            }
            _ => {
                let full = self.block.add_literal(self.window[self.at], self.block_length());
                self.advance(1);
                full
            }
        };

        if full {
            self.end_block(BlockPosition::Inner);
        }
    }

    /// One step of levels 4 to 9: takes the pending match unless the next byte begins a longer one.
    fn step_lazy(&mut self) {
        let has_candidate = self.insert_here();
        let pending = self.pending;
        let searches = has_candidate && pending.best.length < self.effort.lazy;
        let longest = if searches { self.longest(pending.best.length) } else { None };
        let longest = longest
            .filter(|longest| longest.length != MIN_MATCH || longest.distance <= TOO_FAR)
            .unwrap_or(NO_MATCH);

        if pending.best.length >= MIN_MATCH && longest.length <= pending.best.length {
            let full = self.block.add_match(
                pending.best.length,
                pending.best.distance,
                self.block_length(),
            );

            // The match began at the previous byte.
            let rest = pending.best.length - 1;
            for position in self.at + 1..self.at + rest {
                if self.is_inserted(self.at + self.ahead - position) {
                    self.insert(position);
                }
            }
            self.advance(rest);
            self.pending = PendingMatch { is_set: false, best: NO_MATCH };

            if full {
                self.end_block(BlockPosition::Inner);
            }
            return;
        }

        if pending.is_set && self.block.add_literal(self.window[self.at - 1], self.block_length()) {
            self.end_block(BlockPosition::Inner);
        }
        self.advance(1);
        self.pending = PendingMatch { is_set: true, best: longest };
    }

    fn advance(&mut self, bytes: usize) {
        self.at += bytes;
        self.ahead -= bytes;
    }

    /// Length of the open block's content so far, in bytes.
    fn block_length(&self) -> usize {
        (self.at as isize - self.block_start) as usize
    }

    fn end_block(&mut self, position: BlockPosition) {
        let content =
            usize::try_from(self.block_start).ok().map(|start| &self.window[start..self.at]);
        self.block.write(content, position, &mut self.bits);
        self.bits.flush();
        self.block_start = self.at as isize;
    }

    /// Whether a position with `left` bytes after it is added to the chains.
    ///
    /// gzip adds it even if there are too few for a match.
    fn is_inserted(&self, left: usize) -> bool {
        self.model.encoder == Encoder::Gnu || left >= MIN_MATCH
    }

    /// Adds the current position; true if an earlier one with its hash is near enough for a match.
    fn insert_here(&mut self) -> bool {
        if !self.is_inserted(self.ahead) {
            return false;
        }
        let last = self.insert(self.at);

        // gzip takes no match close to the end of the window.
        let possible = self.model.encoder != Encoder::Gnu || self.at <= WINDOW - MARGIN;
        last != 0 && self.at - last <= MAX_DISTANCE && possible
    }

    /// Adds a position to the chains; returns the last one with the same hash.
    fn insert(&mut self, position: usize) -> usize {
        self.chains.insert(&self.window, position, self.at + self.ahead)
    }

    /// The longest match of more than `least` bytes for the current position.
    ///
    /// The position must have been added, with an earlier one that is near enough.
    fn longest(&mut self, least: usize) -> Option<Match> {
        let SearchEffort { good, nice, chain, .. } = self.effort;
        let nice = match self.model.encoder {
            Encoder::Gnu => nice,
            Encoder::Zlib | Encoder::ZlibLarge => nice.min(self.ahead),
        };
        let chain = if least >= good { chain / 4 } else { chain };
        let query = Query { at: self.at, least, nice, chain };

        let best = if self.ahead < MARGIN {
            self.chains.longest_near_end(&self.window, &query)?
        } else {
            self.chains.longest(&self.window, &query)?
        };
        Some(Match { length: best.length.min(self.ahead), ..best })
    }

    /// Work so far, in bytes of usual files that GNU gzip compresses at its default level in that
    /// time.
    ///
    /// For five files (texts, a program, kernel modules) at levels 1 to 9 the estimate was between
    /// 0.5 and 1.2 times the measured time on one machine.
    pub(super) fn cost(&self) -> u64 {
        // In hundredths. With shortcuts, adding a position takes longer, and trying one less.
        let (byte, look) = match self.effort.chain_search() {
            ChainSearch::Shortcuts => (86, 7),
            ChainSearch::Single => (28, 12),
        };
        self.consumed.saturating_mul(byte).saturating_add(self.chains.looks.saturating_mul(look))
            / 100
    }
}
