//! Search for the program and level that wrote a deflate stream, proven to the stream's last byte.

use crate::delta::gzip::deflater::{Deflater, Encoder, Model};

/// Number of plain bytes by which a model is chosen.
const PROBE: usize = 1 << 20;
/// Number of plain bytes that are compressed between two comparisons.
const PIECE: usize = 64 * 1024;
/// Largest distance in bytes between a stream and the output of its model: more than one block.
const MAX_LAG: usize = 1 << 20;

/// No known program writes the stream.
pub(super) struct NotReproduced;

/// A deflate stream that was reproduced completely.
pub(super) struct Reproduced {
    pub model: Model,
    /// Number of plain bytes.
    pub length: u64,
    /// See [`Deflater::cost`].
    pub cost: u64,
}

/// Reproduces one deflate stream while it is read.
pub(super) struct ModelSearch {
    hint: u8,
    /// Bytes of the stream that are not reproduced yet.
    packed: Vec<u8>,
    /// The plain bytes until a model is chosen.
    probe: Vec<u8>,
    chosen: Option<(Model, Deflater)>,
    length: u64,
}

/// Extent of the probe.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ProbeExtent {
    /// More of the stream follows.
    Beginning,
    /// The probe is the whole stream.
    Whole,
}

impl ModelSearch {
    /// Begins a stream; `hint` is the byte "XFL" of its header (RFC 1952), which depends on the
    /// level.
    pub(super) fn new(hint: u8) -> Self {
        ModelSearch { hint, packed: Vec::new(), probe: Vec::new(), chosen: None, length: 0 }
    }

    /// Adds bytes of the stream and of its content.
    pub(super) fn add(&mut self, packed: &[u8], plain: &[u8]) -> Result<(), NotReproduced> {
        self.packed.extend_from_slice(packed);
        self.length += plain.len() as u64;

        let Some((_, deflater)) = &mut self.chosen else {
            self.probe.extend_from_slice(plain);
            if self.probe.len() >= PROBE {
                self.choose_model(ProbeExtent::Beginning)?;
            }
            return Ok(());
        };

        for piece in plain.chunks(PIECE) {
            deflater.write(piece);
            match_output(deflater, &mut self.packed)?;
        }
        if self.packed.len() > MAX_LAG { Err(NotReproduced) } else { Ok(()) }
    }

    /// The model whose output is the whole stream, and the work that reproducing it took.
    pub(super) fn finish(mut self) -> Result<Reproduced, NotReproduced> {
        let is_probe = self.chosen.is_none();
        if is_probe {
            self.choose_model(ProbeExtent::Whole)?;
        }

        let (model, mut deflater) = self.chosen.take().ok_or(NotReproduced)?;
        if !is_probe {
            deflater.finish();
            match_output(&mut deflater, &mut self.packed)?;
        }
        if !self.packed.is_empty() {
            return Err(NotReproduced);
        }
        Ok(Reproduced { model, length: self.length, cost: deflater.cost() })
    }

    /// Takes the first model that reproduces the probe.
    fn choose_model(&mut self, extent: ProbeExtent) -> Result<(), NotReproduced> {
        let probe = std::mem::take(&mut self.probe);

        for model in models(self.hint) {
            let mut packed = self.packed.as_slice();
            let mut deflater = Deflater::new(model);
            if reproduces(&mut deflater, &probe, &mut packed, extent) {
                self.packed = packed.to_vec();
                self.chosen = Some((model, deflater));
                return Ok(());
            }
        }
        Err(NotReproduced)
    }
}

/// Whether `deflater` makes the beginning of `packed`, or all of it, out of `plain`.
fn reproduces(
    deflater: &mut Deflater,
    plain: &[u8],
    packed: &mut &[u8],
    extent: ProbeExtent,
) -> bool {
    for piece in plain.chunks(PIECE) {
        deflater.write(piece);
        if !strip_output(deflater, packed) {
            return false;
        }
    }
    if extent == ProbeExtent::Beginning {
        return true;
    }

    deflater.finish();
    strip_output(deflater, packed) && packed.is_empty()
}

/// Removes the new output of `deflater` from the front of `packed`; false if they differ.
fn strip_output(deflater: &mut Deflater, packed: &mut &[u8]) -> bool {
    match packed.strip_prefix(deflater.take().as_slice()) {
        Some(rest) => {
            *packed = rest;
            true
        }
        None => false,
    }
}

/// Removes the new output of `deflater` from the front of `packed`.
fn match_output(deflater: &mut Deflater, packed: &mut Vec<u8>) -> Result<(), NotReproduced> {
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
    let encoders = [Encoder::Gnu, Encoder::Zlib, Encoder::ZlibLarge];
    levels.into_iter().flat_map(move |level| encoders.map(|encoder| Model { encoder, level }))
}
