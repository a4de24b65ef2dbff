//! Huffman codes as zlib and gzip build them: the same lengths for the same counts, ties included.
//!
//! Many optimal codes exist for the same counts. A code with other lengths would decode to the same
//! content but change the compressed bytes, so each order of comparison below is zlib's
//! (`trees.c`).

/// No code of literals, lengths or distances is longer.
pub(super) const MAX_BITS: usize = 15;
/// No code of code lengths is longer.
const MAX_LENGTH_BITS: usize = 7;

/// Number of symbols of the first alphabet: literals, the end of a block, lengths.
pub(super) const LITERALS: usize = 286;
/// Number of symbols of the second alphabet: distances.
pub(super) const DISTANCES: usize = 30;
/// Number of symbols of the third alphabet: lengths of codes, and repetitions.
const LENGTHS: usize = 19;

/// Order in which the lengths of the third alphabet's codes are written (RFC 1951, 3.2.7).
const LENGTH_ORDER: [usize; LENGTHS] =
    [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
/// Number of extra bits of each repetition symbol.
const REPEAT_EXTRA: [u8; 3] = [2, 3, 7];

/// The code of one alphabet.
pub(super) struct Code {
    /// Length of each symbol's code in bits, 0 for a symbol that does not occur.
    pub(super) lengths: Vec<u8>,
    /// The last symbol with a code.
    pub(super) last: usize,
}

impl Code {
    /// The code for symbols that occur `counts` times, none longer than `limit` bits.
    ///
    /// At least two symbols get a code, because old decoders reject a code with one. If fewer
    /// occur, the first symbols of the alphabet are added.
    pub(super) fn for_counts(counts: &[u32], limit: usize) -> Self {
        let mut tree = HuffmanTree::new(counts);
        tree.merge();
        let lengths = tree.code_lengths(limit);
        Code { lengths, last: tree.last }
    }

    /// The fixed code of literals and lengths (RFC 1951, 3.2.6).
    pub(super) fn fixed_literals() -> Self {
        let mut lengths = vec![8; 288];
        lengths[144..=255].fill(9);
        lengths[256..=279].fill(7);
        Code { lengths, last: 287 }
    }

    /// The fixed code of distances (RFC 1951, 3.2.6).
    pub(super) fn fixed_distances() -> Self {
        Code { lengths: vec![5; DISTANCES], last: DISTANCES - 1 }
    }

    /// Length in bits of symbols that occur `counts` times, without their extra bits.
    pub(super) fn encoded_bits(&self, counts: &[u32]) -> u64 {
        self.lengths
            .iter()
            .zip(counts)
            .map(|(length, count)| u64::from(*length) * u64::from(*count))
            .sum()
    }

    /// The bits of each symbol's code, the first bit lowest.
    pub(super) fn words(&self) -> Vec<u16> {
        let mut used = [0u16; MAX_BITS + 1];
        for length in self.lengths.iter().filter(|length| **length > 0) {
            used[usize::from(*length)] += 1;
        }

        let mut next = [0u16; MAX_BITS + 1];
        for bits in 1..=MAX_BITS {
            next[bits] = (next[bits - 1] + used[bits - 1]) << 1;
        }

        self.lengths
            .iter()
            .map(|length| {
                if *length == 0 {
                    return 0;
                }
                let next = &mut next[usize::from(*length)];
                *next += 1;
                (*next - 1).reverse_bits() >> (16 - u16::from(*length))
            })
            .collect()
    }
}

/// A forest that becomes one tree. Nodes are numbered: leaves are the symbols, others follow.
struct HuffmanTree {
    /// Size of the alphabet.
    symbols: usize,
    /// The last symbol with a code.
    last: usize,
    /// Occurrences of each node.
    count: Vec<u32>,
    /// Height of the tree below each node.
    depth: Vec<u8>,
    parent: Vec<usize>,
    /// Heap of the nodes without a parent, the rarest at its top.
    heap: Vec<usize>,
    /// The nodes with a parent, the rarest first, then the root.
    sorted: Vec<usize>,
}

impl HuffmanTree {
    fn new(counts: &[u32]) -> Self {
        let symbols = counts.len();
        let mut heap: Vec<usize> = (0..symbols).filter(|symbol| counts[*symbol] > 0).collect();
        let mut count = counts.to_vec();
        let mut last = heap.last().copied();

        // At least two symbols get a code: see `Code::for_counts`.
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
            self.parent[first] = node;
            self.parent[second] = node;
            self.sorted.extend([first, second]);

            self.heap[0] = node;
            self.sink(0);
        }

        self.sorted.push(self.heap[0]);
    }

    /// Moves a node of the heap down until no child is rarer.
    ///
    /// The order of equal nodes decides the code, so this is zlib's `pqdownheap` step by step.
    fn sink(&mut self, mut at: usize) {
        let node = self.heap[at];
        loop {
            let mut child = 2 * at + 1;
            if child >= self.heap.len() {
                break;
            }
            if child + 1 < self.heap.len() && self.is_before(self.heap[child + 1], self.heap[child])
            {
                child += 1;
            }
            if self.is_before(node, self.heap[child]) {
                break;
            }
            self.heap[at] = self.heap[child];
            at = child;
        }
        self.heap[at] = node;
    }

    fn is_before(&self, a: usize, b: usize) -> bool {
        (self.count[a], self.depth[a]) <= (self.count[b], self.depth[b])
    }

    /// The length of each symbol's code: its depth in the tree, shortened to the limit.
    fn code_lengths(&self, limit: usize) -> Vec<u8> {
        let mut length = vec![0usize; self.count.len()];
        let mut used = vec![0usize; limit + 1];
        let mut too_long = 0usize;

        // From the root down.
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

        // The rarest symbols get the longest codes.
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

/// Moves leaves in the tree until no code is longer than `limit` bits.
///
/// `used` counts the codes of each length; `too_long` nodes were cut to the limit.
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

/// The head of a block with codes of its own: the lengths of both codes, in a third code.
pub(super) struct Prologue {
    symbols: Vec<LengthSymbol>,
    code: Code,
    /// Number of lengths of the third code that are written.
    code_lengths: usize,
    bits: u64,
}

/// One symbol of the third alphabet, with the value of its extra bits.
#[derive(Clone, Copy)]
struct LengthSymbol {
    symbol: u8,
    extra: u8,
}

impl Prologue {
    pub(super) fn new(literals: &Code, distances: &Code) -> Self {
        let mut symbols = Vec::new();
        add_lengths(&literals.lengths[..=literals.last], &mut symbols);
        add_lengths(&distances.lengths[..=distances.last], &mut symbols);

        let mut counts = [0u32; LENGTHS];
        for one in &symbols {
            counts[usize::from(one.symbol)] += 1;
        }
        let code = Code::for_counts(&counts, MAX_LENGTH_BITS);

        let trailing =
            LENGTH_ORDER.iter().rev().take_while(|symbol| code.lengths[**symbol] == 0).count();
        let code_lengths = (LENGTHS - trailing).max(4);
        let extra: u64 = symbols.iter().map(|one| u64::from(extra_bits(one.symbol))).sum();
        let bits = 5 + 5 + 4 + 3 * code_lengths as u64 + code.encoded_bits(&counts) + extra;
        Prologue { symbols, code, code_lengths, bits }
    }

    /// Length in bits.
    pub(super) fn bits(&self) -> u64 {
        self.bits
    }

    /// Passes each value with its number of bits to `put`, in order.
    pub(super) fn write(&self, literals: &Code, distances: &Code, mut put: impl FnMut(u32, u8)) {
        put((literals.last + 1 - 257) as u32, 5);
        put(distances.last as u32, 5);
        put((self.code_lengths - 4) as u32, 4);
        for symbol in &LENGTH_ORDER[..self.code_lengths] {
            put(u32::from(self.code.lengths[*symbol]), 3);
        }

        let words = self.code.words();
        for one in &self.symbols {
            let symbol = usize::from(one.symbol);
            put(u32::from(words[symbol]), self.code.lengths[symbol]);
            put(u32::from(one.extra), extra_bits(one.symbol));
        }
    }
}

fn extra_bits(symbol: u8) -> u8 {
    symbol.checked_sub(16).map_or(0, |repeat| REPEAT_EXTRA[usize::from(repeat)])
}

/// Adds the symbols of a list of lengths; runs are cut at the same places as in both programs.
fn add_lengths(lengths: &[u8], symbols: &mut Vec<LengthSymbol>) {
    let mut previous = None;
    let mut at = 0;
    while at < lengths.len() {
        let length = lengths[at];

        // A run of a new length includes the symbol of the length itself.
        let most = match length {
            0 => 138,
            _ if previous == Some(length) => 6,
            _ => 7,
        };
        let run = lengths[at..].iter().take(most).take_while(|next| **next == length).count();
        at += run;

        let least = if length != 0 && previous != Some(length) { 4 } else { 3 };
        if run < least {
            symbols.extend((0..run).map(|_| LengthSymbol { symbol: length, extra: 0 }));
        } else if length != 0 {
            let mut repeats = run;
            if previous != Some(length) {
                symbols.push(LengthSymbol { symbol: length, extra: 0 });
                repeats -= 1;
            }
            symbols.push(LengthSymbol { symbol: 16, extra: (repeats - 3) as u8 });
        } else if run <= 10 {
            symbols.push(LengthSymbol { symbol: 17, extra: (run - 3) as u8 });
        } else {
            symbols.push(LengthSymbol { symbol: 18, extra: (run - 11) as u8 });
        }

        previous = Some(length);
    }
}
