//! Sparse members, in GNU tar's own format and in its pax formats, versions 0.0, 0.1 and 1.0.

use std::io::Read;

use tar::{EntryType, Header};

use super::TarError;
use super::blocks::Blocks;
use super::pax::{Pax, decimal};
use crate::digest::{Digest, Hasher};

/// Largest number of data regions of a file.
const MAX_REGIONS: usize = 1 << 20;
/// Largest size of a sparse file; SHA-256 takes about an hour for it.
const MAX_SIZE: u64 = 4 << 40;

const BAD_LIST: &str = "the list of a file's holes is damaged";
const BAD_HOLES: &str = "the holes of a file do not fit its size";

/// Offset and length of a data region.
type DataRegion = (u64, u64);

/// Reads a content with its padding; returns its size and digest.
///
/// `None` if its sparse format is unknown.
pub(super) fn content<R: Read>(
    header: &Header,
    pax: &Pax,
    stored: u64,
    blocks: &mut Blocks<R>,
) -> Result<Option<(u64, Digest)>, TarError> {
    let (size, regions, left) = if header.entry_type() == EntryType::GNUSparse {
        let Some((size, regions)) = gnu(header, blocks)? else { return Ok(None) };
        (size, regions, stored)
    } else if pax.bytes(b"GNU.sparse.major") == Some(b"1")
        && pax.bytes(b"GNU.sparse.minor") == Some(b"0")
    {
        let Some(size) = pax.number(b"GNU.sparse.realsize", blocks)? else { return Ok(None) };
        let (regions, used) = listed(stored, blocks)?;
        (size, regions, stored - used)
    } else if pax.bytes(b"GNU.sparse.major").is_some() {
        return Ok(None);
    } else if let Some(size) = pax.number(b"GNU.sparse.size", blocks)? {
        (size, recorded(pax, blocks)?, stored)
    } else {
        return Ok(Some((stored, blocks.digest(stored)?)));
    };

    let digest = with_holes(size, &regions, left, blocks)?;
    blocks.pad(stored)?;
    Ok(Some((size, digest)))
}

/// The map of GNU's format: in the header itself, and in the blocks that continue it.
fn gnu<R: Read>(
    header: &Header,
    blocks: &mut Blocks<R>,
) -> Result<Option<(u64, Vec<DataRegion>)>, TarError> {
    let Some(gnu) = header.as_gnu() else { return Ok(None) };
    let mut regions = Vec::new();
    for region in gnu.sparse.iter().filter(|region| !region.is_empty()) {
        regions.push((blocks.number(region.offset())?, blocks.number(region.length())?));
    }
    let size = blocks.number(gnu.real_size())?;

    let mut more = gnu.is_extended();
    while more {
        let mut extension = tar::GnuExtSparseHeader::new();
        extension.as_mut_bytes().copy_from_slice(&blocks.block()?);
        for region in extension.sparse.iter().filter(|region| !region.is_empty()) {
            regions.push((blocks.number(region.offset())?, blocks.number(region.length())?));
        }
        if regions.len() > MAX_REGIONS {
            return Err(blocks.error("a file has too many holes"));
        }
        more = extension.is_extended();
    }
    Ok(Some((size, regions)))
}

/// The map of the pax formats 0.0 and 0.1: in the records of the header.
fn recorded<R>(pax: &Pax, blocks: &Blocks<R>) -> Result<Vec<DataRegion>, TarError> {
    let numbers: Option<Vec<u64>> = pax.sparse_regions().into_iter().map(decimal).collect();
    let numbers = numbers.ok_or_else(|| blocks.error(BAD_LIST))?;
    let (regions, rest) = numbers.as_chunks::<2>();
    let count = pax.number(b"GNU.sparse.numblocks", blocks)?;
    if !rest.is_empty() || count != Some(regions.len() as u64) {
        return Err(blocks.error(BAD_LIST));
    }
    Ok(regions.iter().map(|&[offset, length]| (offset, length)).collect())
}

/// The map of the pax format 1.0: decimal lines in the first blocks of the body, the first their count.
fn listed<R: Read>(
    stored: u64,
    blocks: &mut Blocks<R>,
) -> Result<(Vec<DataRegion>, u64), TarError> {
    let (mut text, mut used) = (Vec::new(), 0);
    loop {
        if used + 512 > stored || text.len() > MAX_REGIONS * 40 {
            return Err(blocks.error(BAD_LIST));
        }
        text.extend_from_slice(&blocks.block()?);
        used += 512;

        let mut lines = text.split(|&b| b == b'\n');
        let count = lines.next().and_then(decimal).filter(|&count| count <= MAX_REGIONS as u64);
        let count = count.ok_or_else(|| blocks.error(BAD_LIST))?;
        let newlines = text.iter().filter(|&&b| b == b'\n').count() as u64;
        if newlines < 1 + 2 * count {
            continue;
        }

        let mut regions = Vec::new();
        for _ in 0..count {
            match (lines.next().and_then(decimal), lines.next().and_then(decimal)) {
                (Some(offset), Some(length)) => regions.push((offset, length)),
                _ => return Err(blocks.error(BAD_LIST)),
            }
        }
        return Ok((regions, used));
    }
}

/// The digest of `size` bytes: `left` bytes of data fill the regions, and zeros the rest.
fn with_holes<R: Read>(
    size: u64,
    regions: &[DataRegion],
    left: u64,
    blocks: &mut Blocks<R>,
) -> Result<Digest, TarError> {
    let mut hasher = Hasher::new();
    let mut position = 0;
    let mut left = left;
    if size > MAX_SIZE {
        return Err(blocks.error(BAD_HOLES));
    }

    for &(offset, length) in regions {
        let end = offset
            .checked_add(length)
            .filter(|&end| offset >= position && end <= size && length <= left);
        let Some(end) = end else { return Err(blocks.error(BAD_HOLES)) };
        hash_zeros(&mut hasher, offset - position);
        blocks.each_chunk(length, |chunk| hasher.update(chunk))?;
        position = end;
        left -= length;
    }
    if left > 0 {
        return Err(blocks.error(BAD_HOLES));
    }
    hash_zeros(&mut hasher, size - position);
    Ok(hasher.finish())
}

fn hash_zeros(hasher: &mut Hasher, mut count: u64) {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while count > 0 {
        let length = count.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..length as usize]);
        count -= length;
    }
}
