//! Huffman codes as zlib and gzip build them: the same lengths for the same counts, ties included.

/// No code of literals, lengths or distances is longer.
pub(super) const MAX_BITS: usize = 15;
/// No code of code lengths is longer.
const MAX_LENGTH_BITS: usize = 7;

/// Symbols of the first alphabet: literals, the end of a block, and lengths.
pub(super) const LITERALS: usize = 286;
/// Symbols of the second alphabet: distances.
pub(super) const DISTANCES: usize = 30;
/// Symbols of the third alphabet: lengths of codes, and their repetitions.
const LENGTHS: usize = 19;

/// The order in which the lengths of the third alphabet's codes are sent (RFC 1951, 3.2.7).
const LENGTH_ORDER: [usize; LENGTHS] =
    [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
/// The bits that follow a repetition.
const REPEAT_EXTRA: [u8; 3] = [2, 3, 7];

/// The code of one alphabet.
pub(super) struct Code {
    /// The length of each symbol's code, 0 for one that does not occur.
    pub(super) lengths: Vec<u8>,
    /// The last symbol with a code.
    pub(super) last: usize,
}

impl Code {
    /// The code for symbols that occur `counts` times, none longer than `limit` bits.
    ///
    /// At least two symbols get a code, the first ones where fewer occur, since old readers want it so.
    pub(super) fn for_counts(counts: &[u32], limit: usize) -> Self {
        let mut tree = HuffmanTree::new(counts);
        tree.merge();
        let lengths = tree.lengths(limit);
        Code { lengths, last: tree.last }
    }

    /// The code of a block without codes of its own (RFC 1951, 3.2.6): of literals and lengths.
    pub(super) fn fixed_literals() -> Self {
        let length = |symbol| match symbol {
            0..=143 => 8,
            144..=255 => 9,
            256..=279 => 7,
            _ => 8,
        };
        Code { lengths: (0..288).map(length).collect(), last: 287 }
    }

    /// The same, of distances.
    pub(super) fn fixed_distances() -> Self {
        Code { lengths: vec![5; DISTANCES], last: DISTANCES - 1 }
    }

    /// How many bits all symbols take that occur `counts` times, without extra bits.
    pub(super) fn bits(&self, counts: &[u32]) -> u64 {
        self.lengths
            .iter()
            .zip(counts)
            .map(|(length, count)| u64::from(*length) * u64::from(*count))
            .sum()
    }

    /// The bits of each symbol's code, in the order in which they are written.
    pub(super) fn words(&self) -> Vec<u16> {
        let mut used = [0u16; MAX_BITS + 1];
        for length in self.lengths.iter().filter(|length| **length > 0) {
            used[usize::from(*length)] += 1;
        }
        let mut next = [0u16; MAX_BITS + 1];
        for bits in 1..=MAX_BITS {
            next[bits] = (next[bits - 1] + used[bits - 1]) << 1;
        }
        let word = |length: &u8| {
            if *length == 0 {
                return 0;
            }
            let next = &mut next[usize::from(*length)];
            *next += 1;
            (*next - 1).reverse_bits() >> (16 - u16::from(*length))
        };
        self.lengths.iter().map(word).collect()
    }
}

/// A forest that becomes one tree: leaves are symbols, other nodes follow them.
struct HuffmanTree {
    symbols: usize,
    last: usize,
    count: Vec<u32>,
    depth: Vec<u8>,
    parent: Vec<usize>,
    /// The nodes that have no parent yet: a heap, the rarest at its top.
    heap: Vec<usize>,
    /// The nodes that have one, the rarest first.
    sorted: Vec<usize>,
}

impl HuffmanTree {
    fn new(counts: &[u32]) -> Self {
        let symbols = counts.len();
        let mut heap: Vec<usize> = (0..symbols).filter(|symbol| counts[*symbol] > 0).collect();
        let mut count = counts.to_vec();
        let mut last = heap.last().copied();
        while heap.len() < 2 {
            let forced = match last {
                None => 0,
                Some(seen @ 0..=1) => seen + 1,
                Some(_) => 0,
            };
            last = last.max(Some(forced));
            count[forced] = 1;
            heap.push(forced);
        }
        let last = last.unwrap_or(0);
        HuffmanTree {
            symbols,
            last,
            count,
            depth: vec![0; symbols],
            parent: vec![0; symbols],
            heap,
            sorted: Vec::new(),
        }
    }

    /// Joins the two rarest nodes until one is left.
    fn merge(&mut self) {
        for top in (0..self.heap.len() / 2).rev() {
            self.sink(top);
        }
        while self.heap.len() > 1 {
            let first = self.heap.swap_remove(0);
            self.sink(0);
            let second = self.heap[0];
            let node = self.count.len();
            self.count.push(self.count[first] + self.count[second]);
            self.depth.push(self.depth[first].max(self.depth[second]) + 1);
            self.parent.push(0);
            (self.parent[first], self.parent[second]) = (node, node);
            self.sorted.extend([first, second]);
            self.heap[0] = node;
            self.sink(0);
        }
        self.sorted.push(self.heap[0]);
    }

    /// Moves a node down to where no child is rarer. The order of equals decides the code.
    fn sink(&mut self, mut at: usize) {
        let node = self.heap[at];
        loop {
            let mut child = 2 * at + 1;
            if child >= self.heap.len() {
                break;
            }
            if child + 1 < self.heap.len() && self.before(self.heap[child + 1], self.heap[child]) {
                child += 1;
            }
            if self.before(node, self.heap[child]) {
                break;
            }
            self.heap[at] = self.heap[child];
            at = child;
        }
        self.heap[at] = node;
    }

    fn before(&self, a: usize, b: usize) -> bool {
        (self.count[a], self.depth[a]) <= (self.count[b], self.depth[b])
    }

    /// The length of each symbol's code: its depth, or what the limit makes of it.
    fn lengths(&self, limit: usize) -> Vec<u8> {
        let mut length = vec![0usize; self.count.len()];
        let mut used = vec![0usize; limit + 1];
        let mut too_long = 0usize;
        let below = self.sorted.split_last().map_or(&[][..], |(_root, below)| below);
        for node in below.iter().rev() {
            let above = length[self.parent[*node]];
            if above == limit {
                too_long += 1;
            }
            length[*node] = (above + 1).min(limit);
            if *node < self.symbols {
                used[length[*node]] += 1;
            }
        }
        if too_long > 0 {
            shorten(&mut used, too_long, limit);
            let mut leaves = below.iter().filter(|node| **node < self.symbols);
            for bits in (1..=limit).rev() {
                for leaf in leaves.by_ref().take(used[bits]) {
                    length[*leaf] = bits;
                }
            }
        }
        length.truncate(self.symbols);
        length.into_iter().map(|bits| bits as u8).collect()
    }
}

/// Moves leaves up where codes are too long, so that the lengths make a code again.
fn shorten(used: &mut [usize], too_long: usize, limit: usize) {
    let mut left = too_long;
    while left > 0 {
        let Some(bits) = (1..limit).rev().find(|bits| used[*bits] > 0) else { return };
        used[bits] -= 1;
        used[bits + 1] += 2;
        used[limit] = used[limit].saturating_sub(1);
        left = left.saturating_sub(2);
    }
}

/// What precedes a block with codes of its own: the lengths of both codes, themselves coded.
pub(super) struct Prologue {
    sent: Vec<Sent>,
    code: Code,
    lengths_sent: usize,
    bits: u64,
}

/// One symbol of the third alphabet, with the value of the bits that follow it.
#[derive(Clone, Copy)]
struct Sent {
    symbol: u8,
    extra: u8,
}

impl Prologue {
    pub(super) fn new(literals: &Code, distances: &Code) -> Self {
        let mut sent = Vec::new();
        send_lengths(&literals.lengths[..=literals.last], &mut sent);
        send_lengths(&distances.lengths[..=distances.last], &mut sent);
        let mut counts = [0u32; LENGTHS];
        for one in &sent {
            counts[usize::from(one.symbol)] += 1;
        }
        let code = Code::for_counts(&counts, MAX_LENGTH_BITS);
        let trailing =
            LENGTH_ORDER.iter().rev().take_while(|symbol| code.lengths[**symbol] == 0).count();
        let lengths_sent = (LENGTHS - trailing).max(4);
        let extra: u64 = sent.iter().map(|one| u64::from(extra_bits(one.symbol))).sum();
        let bits = 5 + 5 + 4 + 3 * lengths_sent as u64 + code.bits(&counts) + extra;
        Prologue { sent, code, lengths_sent, bits }
    }

    /// Its length in bits.
    pub(super) fn bits(&self) -> u64 {
        self.bits
    }

    /// Gives `put` each value with its number of bits, in their order.
    pub(super) fn send(&self, literals: &Code, distances: &Code, mut put: impl FnMut(u32, u8)) {
        put((literals.last + 1 - 257) as u32, 5);
        put(distances.last as u32, 5);
        put((self.lengths_sent - 4) as u32, 4);
        for symbol in &LENGTH_ORDER[..self.lengths_sent] {
            put(u32::from(self.code.lengths[*symbol]), 3);
        }
        let words = self.code.words();
        for one in &self.sent {
            let symbol = usize::from(one.symbol);
            put(u32::from(words[symbol]), self.code.lengths[symbol]);
            put(u32::from(one.extra), extra_bits(one.symbol));
        }
    }
}

fn extra_bits(symbol: u8) -> u8 {
    symbol.checked_sub(16).map_or(0, |repeat| REPEAT_EXTRA[usize::from(repeat)])
}

/// Writes a row of lengths with its repetitions: each run is cut where both programs cut it.
fn send_lengths(lengths: &[u8], sent: &mut Vec<Sent>) {
    let mut before = None;
    let mut at = 0;
    while at < lengths.len() {
        let length = lengths[at];
        let most = match length {
            0 => 138,
            _ if before == Some(length) => 6,
            _ => 7,
        };
        let run = lengths[at..].iter().take(most).take_while(|next| **next == length).count();
        at += run;
        let least = if length != 0 && before != Some(length) { 4 } else { 3 };
        if run < least {
            sent.extend((0..run).map(|_| Sent { symbol: length, extra: 0 }));
        } else if length != 0 {
            let mut repeats = run;
            if before != Some(length) {
                sent.push(Sent { symbol: length, extra: 0 });
                repeats -= 1;
            }
            sent.push(Sent { symbol: 16, extra: (repeats - 3) as u8 });
        } else if run <= 10 {
            sent.push(Sent { symbol: 17, extra: (run - 3) as u8 });
        } else {
            sent.push(Sent { symbol: 18, extra: (run - 11) as u8 });
        }
        before = Some(length);
    }
}
