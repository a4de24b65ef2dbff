//! Which blocks of an old file stand in a new one: for files too large for memory.
//!
//! The search is rsync's, by `fast_rsync` in librsync's format, window by window; what it finds becomes
//! instructions of our own, so that nobody holds a whole file.

use std::io::{self, Read};

use fast_rsync::SignatureOptions;

use super::{CopiesWriter, ReadAt};

/// So much of either file is in memory at a time; a multiple of every block size.
const WINDOW: usize = 32 << 20;
/// Blocks are at least so large; larger ones where there would be too many of them.
const SMALLEST_BLOCK: u64 = 2 << 10;
const MOST_BLOCKS: u64 = 1 << 19;
/// MD4, whole: a block that is mistaken for another would make the archive useless.
const HASH: u32 = 16;
/// The magic number, the size of blocks, that of hashes.
const SIGNATURE_HEAD: usize = 12;
const DELTA_MAGIC: [u8; 4] = [0x72, 0x73, 0x02, 0x36];

/// The blocks of an old file.
pub struct Signature(fast_rsync::Signature);

impl Signature {
    /// Reads `file`, of `size` bytes.
    ///
    /// Memory: a window, and 20 bytes a block.
    pub fn of(file: &dyn ReadAt, size: u64) -> io::Result<Self> {
        let block =
            size.div_ceil(MOST_BLOCKS).next_power_of_two().clamp(SMALLEST_BLOCK, WINDOW as u64);
        let options = SignatureOptions { block_size: block as u32, crypto_hash_size: HASH };
        let (mut whole, mut window, mut at) = (Vec::new(), vec![0; WINDOW], 0u64);
        loop {
            let mut filled = 0;
            while filled < WINDOW {
                match file.read_at(&mut window[filled..], at + filled as u64)? {
                    0 => break,
                    n => filled += n,
                }
            }
            let part =
                fast_rsync::Signature::calculate(&window[..filled], options).into_serialized();
            // Blocks stand one after the other behind the head, so that windows can be joined.
            whole.extend_from_slice(if at == 0 {
                &part
            } else {
                part.get(SIGNATURE_HEAD..).unwrap_or_default()
            });
            at += filled as u64;
            if filled < WINDOW {
                break;
            }
        }
        fast_rsync::Signature::deserialize(whole).map(Signature).map_err(io::Error::other)
    }
}

/// Writes what `new` yields to `to`, as pieces of file 0, whose blocks `old` has, and literal bytes.
pub fn diff(old: &Signature, mut new: impl Read, to: &mut CopiesWriter) -> io::Result<()> {
    let index = old.0.index();
    let mut window = Vec::new();
    loop {
        window.clear();
        if new.by_ref().take(WINDOW as u64).read_to_end(&mut window)? == 0 {
            return Ok(());
        }
        let mut delta = Vec::new();
        fast_rsync::diff(&index, &window, &mut delta).map_err(io::Error::other)?;
        translate(&delta, to)?;
    }
}

/// Turns librsync's commands into our instructions.
fn translate(delta: &[u8], to: &mut CopiesWriter) -> io::Result<()> {
    let mut rest = delta.strip_prefix(&DELTA_MAGIC).ok_or_else(unknown)?;
    loop {
        match byte(&mut rest)? {
            0 => return Ok(()),
            length @ 0x01..=0x40 => to.literal(bytes(&mut rest, u64::from(length))?)?,
            command @ 0x41..=0x44 => {
                let length = number(&mut rest, command - 0x41)?;
                to.literal(bytes(&mut rest, length)?)?;
            }
            command @ 0x45..=0x54 => {
                let (offset, length) = ((command - 0x45) / 4, (command - 0x45) % 4);
                let offset = number(&mut rest, offset)?;
                to.copy(0, offset, number(&mut rest, length)?)?;
            }
            _ => return Err(unknown()),
        }
    }
}

fn byte(rest: &mut &[u8]) -> io::Result<u8> {
    let (first, after) = rest.split_first().ok_or_else(unknown)?;
    *rest = after;
    Ok(*first)
}

fn bytes<'d>(rest: &mut &'d [u8], length: u64) -> io::Result<&'d [u8]> {
    let length = usize::try_from(length).map_err(|_| unknown())?;
    let (taken, after) = rest.split_at_checked(length).ok_or_else(unknown)?;
    *rest = after;
    Ok(taken)
}

/// A number of 1, 2, 4 or 8 bytes, the highest first.
fn number(rest: &mut &[u8], width: u8) -> io::Result<u64> {
    let digits = bytes(rest, 1 << width)?;
    Ok(digits.iter().fold(0, |number, digit| number << 8 | u64::from(*digit)))
}

fn unknown() -> io::Error {
    io::Error::other("the block search gave something that is not librsync's format")
}
