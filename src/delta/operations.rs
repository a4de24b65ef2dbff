//! Patches of the kind `operations`: what bsdiff finds, in streams that compress apart from each other.
//!
//! Code that was moved differs from the old by the same few numbers everywhere: as differences they are
//! nearly all zeros, where a match finder would see short matches.

use std::io::{self, Read};

use bidiff::{Control, DiffParams, Translator};
use zstd::stream::read::Decoder;
use zstd::zstd_safe;

use super::varint::{get, put, unzigzag, zigzag};
use super::{DeltaError, MAX_GROUP, reserve};

/// How many bytes of each operation are added to the source, how many are new, and where the source goes on;
/// then what is added, and what is new.
const STREAMS: usize = 5;
/// A decoder allocates no larger window, 8 MiB for each stream: what level 19 uses.
const WINDOW_LOG: u32 = 23;

/// Finds the operations that make `output` out of `source`.
///
/// Memory: a suffix array, five bytes for each of the source, and the streams, as large as the output.
pub(super) fn encode(source: &[u8], output: &[u8], level: i32) -> io::Result<Vec<u8>> {
    let mut operations: Vec<(u64, u64, i64)> = Vec::new();
    let (mut difference, mut extra) = (Vec::with_capacity(output.len()), Vec::new());
    let mut on_control = |Control { add, copy, seek }: &Control| -> Result<(), io::Error> {
        match operations.last_mut() {
            Some((.., before)) if add.len() + copy.len() == 0 => *before += seek,
            _ => operations.push((add.len() as u64, copy.len() as u64, *seek)),
        }
        difference.extend_from_slice(add);
        extra.extend_from_slice(copy);
        Ok(())
    };
    if source.is_empty() {
        // bidiff panics where there is nothing to look in.
        on_control(&Control { add: &[], copy: output, seek: 0 })?;
    } else {
        let mut translator = Translator::new(source, output, on_control);
        // One partition and one chunk: the smallest patch, and the same on any number of processors.
        let parameters = DiffParams::new(1, None).map_err(io::Error::other)?;
        bidiff::diff(source, output, &parameters, |found| translator.translate(found))?;
        translator.close()?;
    }
    let numbers = |number: fn(&(u64, u64, i64)) -> u64| {
        let mut bytes = Vec::new();
        operations.iter().for_each(|operation| put(&mut bytes, number(operation)));
        bytes
    };
    let (adds, copies, seeks) = (numbers(|o| o.0), numbers(|o| o.1), numbers(|o| zigzag(o.2)));
    let mut patch = Vec::new();
    for stream in [adds, copies, seeks, difference, extra] {
        patch.extend_from_slice(&zstd::bulk::compress(&stream, level)?);
    }
    Ok(patch)
}

/// Carries `patch` out on `source`; what comes has exactly `length` bytes.
pub(super) fn decode(
    source: &[u8],
    patch: &[u8],
    length: u64,
    output: &mut Vec<u8>,
) -> Result<(), DeltaError> {
    if length > MAX_GROUP {
        return Err(DeltaError::TooLarge(length));
    }
    reserve(output, length)?;
    let [mut adds, mut copies, mut seeks, mut difference, mut extra] = streams(patch)?;
    let (mut at, mut left, mut first) = (0u64, length, true);
    while let Some(add) = get(&mut adds)? {
        let copy = next(&mut copies)?;
        let seek = unzigzag(next(&mut seeks)?);
        let made = add.checked_add(copy).filter(|made| *made <= left && (*made > 0 || first));
        left -= made.ok_or_else(|| damaged("an operation makes nothing, or too much"))?;
        first = false;
        let after = at.checked_add(add).ok_or_else(|| damaged(OUTSIDE))?;
        let old = usize::try_from(at)
            .ok()
            .zip(usize::try_from(after).ok())
            .and_then(|(at, end)| source.get(at..end));
        let old = old.ok_or_else(|| damaged(OUTSIDE))?;
        let from = output.len();
        take(&mut difference, add, output)?;
        for (new, old) in output[from..].iter_mut().zip(old) {
            *new = new.wrapping_add(*old);
        }
        take(&mut extra, copy, output)?;
        at = after.checked_add_signed(seek).ok_or_else(|| damaged(OUTSIDE))?;
    }
    for stream in [&mut copies, &mut seeks, &mut difference, &mut extra] {
        left += stream.read(&mut [0])? as u64;
    }
    if left == 0 { Ok(()) } else { Err(damaged("its streams do not end together")) }
}

const OUTSIDE: &str = "an operation reads outside its source";

type Stream<'p> = io::BufReader<Decoder<'static, &'p [u8]>>;

/// The frames that `patch` consists of, each one to be read to its end.
fn streams(patch: &[u8]) -> Result<[Stream<'_>; STREAMS], DeltaError> {
    let mut rest = patch;
    let mut cut = || {
        let length = zstd_safe::find_frame_compressed_size(rest).unwrap_or(usize::MAX);
        let (frame, after) = rest
            .split_at_checked(length)
            .ok_or_else(|| damaged("it does not have all its streams"))?;
        rest = after;
        let mut decoder = Decoder::with_buffer(frame)?;
        decoder.window_log_max(WINDOW_LOG)?;
        Ok::<_, DeltaError>(io::BufReader::with_capacity(16 << 10, decoder))
    };
    let streams = [cut()?, cut()?, cut()?, cut()?, cut()?];
    if rest.is_empty() { Ok(streams) } else { Err(damaged("it goes on after its last stream")) }
}

fn next(numbers: &mut impl Read) -> Result<u64, DeltaError> {
    get(numbers)?.ok_or_else(|| damaged("its operations are cut off"))
}

fn take(from: &mut impl Read, length: u64, output: &mut Vec<u8>) -> Result<(), DeltaError> {
    let taken = from.take(length).read_to_end(output)?;
    if taken as u64 == length { Ok(()) } else { Err(damaged("a stream ends too early")) }
}

fn damaged(why: &str) -> DeltaError {
    DeltaError::Damaged(why.to_owned())
}
