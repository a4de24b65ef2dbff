//! Members with holes, in GNU tar's own format and in its form of pax, version 1.0.

use std::io::Read;

use tar::{EntryType, Header};

use super::TarError;
use super::blocks::Blocks;
use super::pax::{Pax, decimal};
use crate::digest::{Digest, Hasher};

/// A file with more pieces than this is not an image's.
const MAX_PIECES: usize = 1 << 20;
/// What a hole may have; SHA-256 takes about an hour for as much.
const MAX_SIZE: u64 = 4 << 40;

/// A piece of data: where it belongs and how long it is.
type SparsePiece = (u64, u64);

/// Size and digest of the content that follows, read to the end of its last block; `None` where it has
/// holes in a form that is not known.
pub(super) fn content<R: Read>(
    header: &Header,
    pax: &Pax,
    stored: u64,
    blocks: &mut Blocks<R>,
) -> Result<Option<(u64, Digest)>, TarError> {
    let (size, pieces, left) = if header.entry_type() == EntryType::GNUSparse {
        let Some((size, pieces)) = gnu(header, blocks)? else { return Ok(None) };
        (size, pieces, stored)
    } else if pax.bytes(b"GNU.sparse.major") == Some(b"1")
        && pax.bytes(b"GNU.sparse.minor") == Some(b"0")
    {
        let Some(size) = pax.number(b"GNU.sparse.realsize", blocks)? else { return Ok(None) };
        let (pieces, used) = listed(stored, blocks)?;
        (size, pieces, stored - used)
    } else if pax.bytes(b"GNU.sparse.size").is_some() || pax.bytes(b"GNU.sparse.major").is_some() {
        return Ok(None);
    } else {
        return Ok(Some((stored, blocks.digest(stored)?)));
    };
    let digest = with_holes(size, &pieces, left, blocks)?;
    blocks.pad(stored)?;
    Ok(Some((size, digest)))
}

/// The map in the header itself, and in the blocks that continue it.
fn gnu<R: Read>(
    header: &Header,
    blocks: &mut Blocks<R>,
) -> Result<Option<(u64, Vec<SparsePiece>)>, TarError> {
    let Some(gnu) = header.as_gnu() else { return Ok(None) };
    let mut pieces = Vec::new();
    for piece in gnu.sparse.iter().filter(|piece| !piece.is_empty()) {
        pieces.push((blocks.number(piece.offset())?, blocks.number(piece.length())?));
    }
    let size = blocks.number(gnu.real_size())?;
    let mut more = gnu.is_extended();
    while more {
        let mut extension = tar::GnuExtSparseHeader::new();
        extension.as_mut_bytes().copy_from_slice(&blocks.block()?);
        for piece in extension.sparse.iter().filter(|piece| !piece.is_empty()) {
            pieces.push((blocks.number(piece.offset())?, blocks.number(piece.length())?));
        }
        if pieces.len() > MAX_PIECES {
            return Err(blocks.fault("a file has too many holes"));
        }
        more = extension.is_extended();
    }
    Ok(Some((size, pieces)))
}

/// The map in the first blocks of the body: numbers, each on its line, the first one their count.
fn listed<R: Read>(
    stored: u64,
    blocks: &mut Blocks<R>,
) -> Result<(Vec<SparsePiece>, u64), TarError> {
    let (mut text, mut used) = (Vec::new(), 0);
    loop {
        if used + 512 > stored || text.len() > MAX_PIECES * 40 {
            return Err(blocks.fault("the list of a file's holes is damaged"));
        }
        text.extend_from_slice(&blocks.block()?);
        used += 512;
        let mut lines = text.split(|&b| b == b'\n');
        let count = lines.next().and_then(decimal).filter(|&count| count <= MAX_PIECES as u64);
        let count = count.ok_or_else(|| blocks.fault("the list of a file's holes is damaged"))?;
        let newlines = text.iter().filter(|&&b| b == b'\n').count() as u64;
        if newlines < 1 + 2 * count {
            continue;
        }
        let mut pieces = Vec::new();
        for _ in 0..count {
            match (lines.next().and_then(decimal), lines.next().and_then(decimal)) {
                (Some(offset), Some(length)) => pieces.push((offset, length)),
                _ => return Err(blocks.fault("the list of a file's holes is damaged")),
            }
        }
        return Ok((pieces, used));
    }
}

/// The digest of `size` bytes, where `left` bytes of data fill the pieces and zeros the rest.
fn with_holes<R: Read>(
    size: u64,
    pieces: &[SparsePiece],
    left: u64,
    blocks: &mut Blocks<R>,
) -> Result<Digest, TarError> {
    let mut hasher = Hasher::new();
    let (mut at, mut left) = (0, left);
    let damaged = "the holes of a file do not fit it";
    if size > MAX_SIZE {
        return Err(blocks.fault(damaged));
    }
    for &(offset, length) in pieces {
        let end =
            offset.checked_add(length).filter(|&end| offset >= at && end <= size && length <= left);
        let Some(end) = end else { return Err(blocks.fault(damaged)) };
        zeros(&mut hasher, offset - at);
        blocks.each_piece(length, |piece| hasher.update(piece))?;
        (at, left) = (end, left - length);
    }
    if left > 0 {
        return Err(blocks.fault(damaged));
    }
    zeros(&mut hasher, size - at);
    Ok(hasher.finish())
}

fn zeros(hasher: &mut Hasher, mut count: u64) {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while count > 0 {
        let length = count.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..length as usize]);
        count -= length;
    }
}
