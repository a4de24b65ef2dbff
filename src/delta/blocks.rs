//! Search for blocks of an old file in a new one, for files too large for memory.
//!
//! The search is rsync's: `fast_rsync` finds blocks by a rolling checksum and MD4, one window of
//! the file at a time. Its commands, in librsync's format, are translated to a patch of the kind
//! `copies`, so neither side holds a whole file.

use std::io::{self, Read};

use fast_rsync::SignatureOptions;

use super::copies::{CopiesWriter, ReadAt};

/// Bytes of either file in memory at a time; a multiple of every block size.
const WINDOW: usize = 32 << 20;
/// Smallest block in bytes; blocks are larger if there would be more than [`MOST_BLOCKS`].
const SMALLEST_BLOCK: u64 = 2 << 10;
const MOST_BLOCKS: u64 = 1 << 19;
/// Bytes of MD4 in a signature: all of them, since a false match would make the archive useless.
const HASH: u32 = 16;
/// Size of the head of a signature: magic number, block size, hash size.
const SIGNATURE_HEAD: usize = 12;
const DELTA_MAGIC: [u8; 4] = [0x72, 0x73, 0x02, 0x36];

/// Checksums of the blocks of an old file.
pub struct Signature(fast_rsync::Signature);

impl Signature {
    /// Reads `file`, of `size` bytes.
    ///
    /// Memory: a window, and 20 bytes for each block.
    pub fn read(file: &dyn ReadAt, size: u64) -> io::Result<Self> {
        let block =
            size.div_ceil(MOST_BLOCKS).next_power_of_two().clamp(SMALLEST_BLOCK, WINDOW as u64);
        let options = SignatureOptions { block_size: block as u32, crypto_hash_size: HASH };

        let (mut signature, mut window, mut at) = (Vec::new(), vec![0; WINDOW], 0u64);
        loop {
            let mut filled = 0;
            while filled < WINDOW {
                match file.read_at(&mut window[filled..], at + filled as u64)? {
                    0 => break,
                    n => filled += n,
                }
            }

            // The blocks follow the head one after the other, so the windows can be concatenated.
            let part =
                fast_rsync::Signature::calculate(&window[..filled], options).into_serialized();
            let head = if at == 0 { 0 } else { SIGNATURE_HEAD };
            signature.extend_from_slice(part.get(head..).unwrap_or_default());

            at += filled as u64;
            if filled < WINDOW {
                break;
            }
        }
        fast_rsync::Signature::deserialize(signature).map(Signature).map_err(io::Error::other)
    }
}

/// Writes the content of `new` to `to`: blocks of `old` as copies of file 0, the rest as literal
/// bytes.
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

/// Translates librsync's commands to instructions of a patch.
fn translate(delta: &[u8], to: &mut CopiesWriter) -> io::Result<()> {
    let mut rest = delta.strip_prefix(&DELTA_MAGIC).ok_or_else(unknown_format)?;
    loop {
        match read_byte(&mut rest)? {
            0 => return Ok(()),
            length @ 0x01..=0x40 => to.add_literal(read_bytes(&mut rest, u64::from(length))?)?,
            command @ 0x41..=0x44 => {
                let length = read_number(&mut rest, command - 0x41)?;
                to.add_literal(read_bytes(&mut rest, length)?)?;
            }
            command @ 0x45..=0x54 => {
                let offset_width = (command - 0x45) / 4;
                let length_width = (command - 0x45) % 4;
                let offset = read_number(&mut rest, offset_width)?;
                to.add_copy(0, offset, read_number(&mut rest, length_width)?)?;
            }
            _ => return Err(unknown_format()),
        }
    }
}

fn read_byte(rest: &mut &[u8]) -> io::Result<u8> {
    let (first, after) = rest.split_first().ok_or_else(unknown_format)?;
    *rest = after;
    Ok(*first)
}

fn read_bytes<'d>(rest: &mut &'d [u8], length: u64) -> io::Result<&'d [u8]> {
    let length = usize::try_from(length).map_err(|_| unknown_format())?;
    let (bytes, after) = rest.split_at_checked(length).ok_or_else(unknown_format)?;
    *rest = after;
    Ok(bytes)
}

/// A number of 2^`width` bytes, the highest first.
fn read_number(rest: &mut &[u8], width: u8) -> io::Result<u64> {
    let digits = read_bytes(rest, 1 << width)?;
    Ok(digits.iter().fold(0, |number, digit| number << 8 | u64::from(*digit)))
}

fn unknown_format() -> io::Error {
    io::Error::other("the block search did not return librsync's format")
}
