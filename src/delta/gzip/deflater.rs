//! Deflate as GNU gzip and zlib do it, so exactly that it gives the same bytes.
//!
//! The algorithm is that of zlib (its `algorithm.txt`, and the notes in RFC 1951, 4): chains of equal
//! hashes ([`places`](crate::delta::gzip::hash_chains)) over a window of twice 32 KiB, a match held back for one byte to see whether a
//! better one follows. What it finds depends on details that are no part of the format: how long a chain is followed,
//! when the window slides, what lies behind its end, when a block is full. They are repeated here.

use crate::delta::gzip::block::{Bits, Block, BlockEnding, MAX_MATCH, MIN_MATCH};
use crate::delta::gzip::hash_chains::{HashChains, Query};

/// The reach of a match, before the margin.
pub(super) const SIZE: usize = 1 << 15;
const WINDOW: usize = 2 * SIZE;
/// With less ahead, the window is filled first.
const MARGIN: usize = MAX_MATCH + MIN_MATCH + 1;
pub(super) const MAX_DISTANCE: usize = SIZE - MARGIN;
/// A match of three bytes from further away costs more than three literals.
pub(super) const TOO_FAR: usize = 4096;

/// Whose choices are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoder {
    /// GNU gzip, and what descends from the same source.
    Gnu,
    /// zlib with its ordinary tables (memory level 8).
    Zlib,
    /// zlib with its largest tables (memory level 9).
    ZlibLarge,
}

/// A program's choices at one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) family: Encoder,
    /// From 1 to 9.
    pub(super) level: u8,
}

/// How hard a level searches.
#[derive(Clone, Copy)]
struct SearchEffort {
    /// A match so long shortens the search for a better one.
    good: usize,
    /// A match so long is taken at once (levels 4 to 9); no string of a longer one is remembered (1 to 3).
    lazy: usize,
    /// A match so long ends the search.
    nice: usize,
    /// How many places are looked at.
    chain: u16,
    /// Whether a match is held back.
    holds_back: bool,
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
        SearchEffort { good, lazy, nice, chain, holds_back: self.level > 3 }
    }

    fn ending(self) -> BlockEnding {
        match self.family {
            Encoder::Gnu => BlockEnding { symbols: (1 << 15) - 1, at_half: self.level > 2 },
            Encoder::Zlib => BlockEnding { symbols: (1 << 14) - 1, at_half: false },
            Encoder::ZlibLarge => BlockEnding { symbols: (1 << 15) - 1, at_half: false },
        }
    }

    fn hash_bits(self) -> u32 {
        match self.family {
            Encoder::Gnu | Encoder::Zlib => 15,
            Encoder::ZlibLarge => 16,
        }
    }
}

impl SearchEffort {
    /// Whether it looks at so many places that shortcuts pay.
    fn has_shortcuts(&self) -> bool {
        self.chain >= 128
    }
}

/// Compresses one stream, piece by piece.
///
/// Memory: less than a megabyte, and what was compressed and not yet taken.
pub(super) struct Deflater {
    model: Model,
    effort: SearchEffort,
    window: Vec<u8>,
    places: HashChains,
    /// The place in the window that is compressed next.
    at: usize,
    /// Bytes in the window from there on.
    ahead: usize,
    /// Bytes that the window takes before it is looked at.
    wanted: usize,
    /// Where the open block begins; negative when that has left the window.
    block_start: isize,
    block: Block,
    held: PendingMatch,
    bits: Bits,
    /// Bytes that were taken in.
    taken: u64,
}

/// What was found for the byte before, and is not written yet.
#[derive(Clone, Copy)]
struct PendingMatch {
    /// Whether there is such a byte.
    waits: bool,
    found: Match,
}

/// A match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) length: usize,
    pub(super) distance: usize,
}

/// One byte less than a match.
const NOTHING: Match = Match { length: MIN_MATCH - 1, distance: 0 };

impl Deflater {
    pub(super) fn new(model: Model) -> Self {
        Deflater::with_shortcuts(model, model.effort().has_shortcuts())
    }

    /// With or without them the bytes are the same.
    pub(super) fn with_shortcuts(model: Model, shortcuts: bool) -> Self {
        Deflater {
            model,
            effort: model.effort(),
            window: vec![0; WINDOW + MARGIN],
            places: HashChains::new(model.hash_bits(), shortcuts),
            at: 0,
            ahead: 0,
            wanted: WINDOW,
            block_start: 0,
            block: Block::new(model.ending()),
            held: PendingMatch { waits: false, found: NOTHING },
            bits: Bits::default(),
            taken: 0,
        }
    }

    /// Takes in more content.
    pub(super) fn write(&mut self, mut plain: &[u8]) {
        self.taken += plain.len() as u64;
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

    /// Compresses what is left. Nothing may be written afterwards.
    pub(super) fn finish(&mut self) {
        self.compress(MARGIN);
        self.slide();
        if self.model.family == Encoder::Gnu {
            // gzip clears the two bytes behind the end, and no more: what else lies there is compared
            let end = self.at + self.ahead;
            self.window[end..end + MIN_MATCH - 1].fill(0);
        }
        self.compress(1);
        if self.held.waits {
            self.block.literal(self.window[self.at - 1], self.span());
        }
        self.end_block(true);
        self.bits.pad();
    }

    /// What was compressed since the last call.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bits.bytes)
    }

    /// Moves the upper half of the window down when its end is near.
    fn slide(&mut self) {
        if self.at < SIZE + MAX_DISTANCE {
            return;
        }
        self.window.copy_within(SIZE..WINDOW, 0);
        self.at -= SIZE;
        self.block_start -= SIZE as isize;
        self.places.slide();
    }

    /// Compresses while at least `least` bytes lie ahead.
    fn compress(&mut self, least: usize) {
        while self.ahead >= least {
            if self.effort.holds_back {
                self.step_lazy();
            } else {
                self.step_fast();
            }
            if self.ahead < MARGIN && least < MARGIN && self.model.family != Encoder::Gnu {
                self.slide();
            }
        }
    }

    /// Levels 1 to 3: takes the first match.
    fn step_fast(&mut self) {
        let found = if self.remember_here() { self.longest(MIN_MATCH - 1) } else { None };
        let full = match found {
            Some(found) if found.length >= MIN_MATCH => {
                let full = self.block.matched(found.length, found.distance, self.span());
                if found.length <= self.effort.lazy && self.remembers(self.ahead - found.length) {
                    for place in self.at + 1..self.at + found.length {
                        self.remember(place);
                    }
                }
                self.advance(found.length);
                full
            }
            _ => {
                let full = self.block.literal(self.window[self.at], self.span());
                self.advance(1);
                full
            }
        };
        if full {
            self.end_block(false);
        }
    }

    /// Levels 4 to 9: a match is taken when the next byte has no longer one.
    fn step_lazy(&mut self) {
        let before = self.remember_here();
        let held = self.held;
        let seeks = before && held.found.length < self.effort.lazy;
        let found = if seeks { self.longest(held.found.length) } else { None };
        let found = found
            .filter(|found| found.length != MIN_MATCH || found.distance <= TOO_FAR)
            .unwrap_or(NOTHING);
        if held.found.length >= MIN_MATCH && found.length <= held.found.length {
            let full = self.block.matched(held.found.length, held.found.distance, self.span());
            // the match began one byte before
            let rest = held.found.length - 1;
            for place in self.at + 1..self.at + rest {
                if self.remembers(self.at + self.ahead - place) {
                    self.remember(place);
                }
            }
            self.advance(rest);
            self.held = PendingMatch { waits: false, found: NOTHING };
            if full {
                self.end_block(false);
            }
            return;
        }
        if held.waits && self.block.literal(self.window[self.at - 1], self.span()) {
            self.end_block(false);
        }
        self.advance(1);
        self.held = PendingMatch { waits: true, found };
    }

    fn advance(&mut self, bytes: usize) {
        self.at += bytes;
        self.ahead -= bytes;
    }

    /// The content of the open block so far, in bytes.
    fn span(&self) -> usize {
        (self.at as isize - self.block_start) as usize
    }

    fn end_block(&mut self, last: bool) {
        let content =
            usize::try_from(self.block_start).ok().map(|start| &self.window[start..self.at]);
        self.block.write(content, last, &mut self.bits);
        self.bits.settle();
        self.block_start = self.at as isize;
    }

    /// Whether a place with `left` bytes behind it is remembered: gzip does so even where they are too few.
    fn remembers(&self, left: usize) -> bool {
        self.model.family == Encoder::Gnu || left >= MIN_MATCH
    }

    /// Remembers the current place. True when there was one like it that is near enough for a match.
    fn remember_here(&mut self) -> bool {
        if !self.remembers(self.ahead) {
            return false;
        }
        let place = self.remember(self.at);
        // gzip takes no match where the end of the window is near
        let possible = self.model.family != Encoder::Gnu || self.at <= WINDOW - MARGIN;
        place != 0 && self.at - place <= MAX_DISTANCE && possible
    }

    /// Remembers a place by its first bytes; gives the one that was remembered before.
    fn remember(&mut self, place: usize) -> usize {
        self.places.remember(&self.window, place, self.at + self.ahead)
    }

    /// The longest match of more than `least` bytes for the current place, which is remembered and not the first.
    fn longest(&mut self, least: usize) -> Option<Match> {
        let SearchEffort { good, nice, chain, .. } = self.effort;
        let nice = match self.model.family {
            Encoder::Gnu => nice,
            Encoder::Zlib | Encoder::ZlibLarge => nice.min(self.ahead),
        };
        let chain = if least >= good { chain / 4 } else { chain };
        let sought = Query { at: self.at, least, nice, chain };
        let found = self.places.longest(&self.window, &sought, self.ahead < MARGIN)?;
        Some(Match { length: found.length.min(self.ahead), ..found })
    }

    /// How long it took so far, in bytes of usual files that GNU gzip compressed at its usual level.
    ///
    /// For five files (texts, a program, kernel modules) at levels 1 to 9 this was between 0.5 and 1.2 times what
    /// they took on one machine.
    pub(super) fn cost(&self) -> u64 {
        // in hundredths; with shortcuts a place takes longer to remember, and a look at it less
        let (byte, look) = if self.effort.has_shortcuts() { (86, 7) } else { (28, 12) };
        self.taken.saturating_mul(byte).saturating_add(self.places.looks.saturating_mul(look)) / 100
    }
}
