//! Finds whose choices a deflate stream follows, and proves it to its end.

use super::deflater::{Deflater, Encoder, Model};

/// So many plain bytes decide between the models.
const PROBE: usize = 1 << 20;
/// So much is compressed before it is compared.
const PIECE: usize = 64 * 1024;
/// A model's output is never so far behind the stream that it repeats: a block has less.
const MAX_LAG: usize = 1 << 20;

/// The stream is none that a known program writes.
pub(super) struct NotReproduced;

/// A deflate stream that was repeated to its end.
pub(super) struct Repeated {
    pub model: Model,
    /// Of the plain bytes.
    pub length: u64,
    /// See [`Deflater::cost`].
    pub cost: u64,
}

/// One deflate stream that is being repeated while it is read.
pub(super) struct ModelSearch {
    hint: u8,
    /// Bytes of the stream that no model has repeated yet.
    packed: Vec<u8>,
    /// The plain bytes, until a model is chosen.
    probe: Vec<u8>,
    chosen: Option<(Model, Deflater)>,
    length: u64,
}

impl ModelSearch {
    /// Begins a stream; `hint` is the byte of the header that tells of its level (RFC 1952, "XFL").
    pub(super) fn new(hint: u8) -> Self {
        ModelSearch { hint, packed: Vec::new(), probe: Vec::new(), chosen: None, length: 0 }
    }

    /// Takes in more of the stream, and what is inside.
    pub(super) fn add(&mut self, packed: &[u8], plain: &[u8]) -> Result<(), NotReproduced> {
        self.packed.extend_from_slice(packed);
        self.length += plain.len() as u64;
        let Some((_, deflater)) = &mut self.chosen else {
            self.probe.extend_from_slice(plain);
            if self.probe.len() >= PROBE {
                self.choose(false)?;
            }
            return Ok(());
        };
        for piece in plain.chunks(PIECE) {
            deflater.write(piece);
            repeats(deflater, &mut self.packed)?;
        }
        if self.packed.len() > MAX_LAG { Err(NotReproduced) } else { Ok(()) }
    }

    /// The model whose output is the whole stream, and what repeating it took.
    pub(super) fn finish(mut self) -> Result<Repeated, NotReproduced> {
        let ended = self.chosen.is_none();
        if ended {
            self.choose(true)?;
        }
        let (model, mut deflater) = self.chosen.take().ok_or(NotReproduced)?;
        if !ended {
            deflater.finish();
            repeats(&mut deflater, &mut self.packed)?;
        }
        match self.packed.is_empty() {
            true => Ok(Repeated { model, length: self.length, cost: deflater.cost() }),
            false => Err(NotReproduced),
        }
    }

    /// Takes the first model that repeats what is at hand.
    fn choose(&mut self, ended: bool) -> Result<(), NotReproduced> {
        let probe = std::mem::take(&mut self.probe);
        for model in models(self.hint) {
            let mut packed = self.packed.as_slice();
            let mut deflater = Deflater::new(model);
            if same(&mut deflater, &probe, &mut packed, ended) {
                self.packed = packed.to_vec();
                self.chosen = Some((model, deflater));
                return Ok(());
            }
        }
        Err(NotReproduced)
    }
}

fn same(deflater: &mut Deflater, plain: &[u8], packed: &mut &[u8], ended: bool) -> bool {
    let mut repeats =
        |deflater: &mut Deflater| match packed.strip_prefix(deflater.take().as_slice()) {
            Some(rest) => {
                *packed = rest;
                true
            }
            None => false,
        };
    let so_far = plain.chunks(PIECE).all(|piece| {
        deflater.write(piece);
        repeats(deflater)
    });
    if !ended || !so_far {
        return so_far;
    }
    deflater.finish();
    repeats(deflater) && packed.is_empty()
}

fn repeats(deflater: &mut Deflater, packed: &mut Vec<u8>) -> Result<(), NotReproduced> {
    let bytes = deflater.take();
    if !packed.starts_with(&bytes) {
        return Err(NotReproduced);
    }
    packed.drain(..bytes.len());
    Ok(())
}

/// All models, the likely ones first.
fn models(hint: u8) -> impl Iterator<Item = Model> {
    let levels: [u8; 9] = match hint {
        2 => [9, 8, 7, 6, 5, 4, 3, 2, 1],
        4 => [1, 2, 3, 4, 5, 6, 7, 8, 9],
        _ => [6, 9, 5, 7, 8, 4, 3, 2, 1],
    };
    let families = [Encoder::Gnu, Encoder::Zlib, Encoder::ZlibLarge];
    levels.into_iter().flat_map(move |level| families.map(|family| Model { family, level }))
}
