//! Patches of the kind `operations`: the operations of bsdiff, in separate streams (clause 5).
//!
//! Moved code differs from the old by the same few numbers at all its addresses. The differences
//! are nearly all zero bytes and compress well; a match finder sees only short matches there.

use std::io::{self, Read};

use bidiff::{Control, DiffParams, Translator};
use zstd::stream::read::Decoder;
use zstd::zstd_safe;

use super::error::{DeltaError, PatchDefect};
use super::limits::MAX_GROUP;
use super::output_buffer::reserve_output;
use super::varint::{get, put, unzigzag, zigzag};

/// Limit on the window of each stream: 8 MiB, which level 19 uses.
const WINDOW_LOG: u32 = 23;

/// One operation: the length of its difference, the number of new bytes, the move in the source.
struct Operation {
    add: u64,
    copy: u64,
    seek: i64,
}

/// Computes the operations that turn `source` into `output`.
///
/// Memory: a suffix array with five bytes for each byte of the source, and streams of the size of
/// the output.
pub(super) fn encode(source: &[u8], output: &[u8], level: i32) -> io::Result<Vec<u8>> {
    let mut operations: Vec<Operation> = Vec::new();
    let (mut difference, mut extra) = (Vec::with_capacity(output.len()), Vec::new());
    let mut on_control = |Control { add, copy, seek }: &Control| -> Result<(), io::Error> {
        match operations.last_mut() {
            Some(last) if add.len() + copy.len() == 0 => last.seek += seek,
            _ => operations.push(Operation {
                add: add.len() as u64,
                copy: copy.len() as u64,
                seek: *seek,
            }),
        }
        difference.extend_from_slice(add);
        extra.extend_from_slice(copy);
        Ok(())
    };

    if source.is_empty() {
        // bidiff panics on an empty source.
        on_control(&Control { add: &[], copy: output, seek: 0 })?;
    } else {
        let mut translator = Translator::new(source, output, on_control);
        // One partition and one chunk give the smallest patch, the same on any number of
        // processors.
        let parameters = DiffParams::new(1, None).map_err(io::Error::other)?;
        bidiff::diff(source, output, &parameters, |found| translator.translate(found))?;
        translator.close()?;
    }

    let (mut adds, mut copies, mut seeks) = (Vec::new(), Vec::new(), Vec::new());
    for Operation { add, copy, seek } in &operations {
        put(&mut adds, *add);
        put(&mut copies, *copy);
        put(&mut seeks, zigzag(*seek));
    }
    let mut patch = Vec::new();
    for stream in [adds, copies, seeks, difference, extra] {
        patch.extend_from_slice(&zstd::bulk::compress(&stream, level)?);
    }
    Ok(patch)
}

/// Applies `patch` to `source`; the output has exactly `length` bytes.
pub(super) fn decode(
    source: &[u8],
    patch: &[u8],
    length: u64,
    output: &mut Vec<u8>,
) -> Result<(), DeltaError> {
    if length > MAX_GROUP {
        return Err(DeltaError::TooLarge(length));
    }
    reserve_output(output, length)?;

    let Streams { mut adds, mut copies, mut seeks, mut difference, mut extra } =
        Streams::open(patch)?;
    let (mut at, mut left, mut first) = (0u64, length, true);
    while let Some(add) = get(&mut adds)? {
        let copy = read_number(&mut copies)?;
        let seek = unzigzag(read_number(&mut seeks)?);

        let sum = add.checked_add(copy).filter(|sum| *sum <= left && (*sum > 0 || first));
        left -= sum.ok_or(PatchDefect::OperationLength)?;
        first = false;

        let after = at.checked_add(add).ok_or(PatchDefect::OutsideSource)?;
        let old = usize::try_from(at)
            .ok()
            .zip(usize::try_from(after).ok())
            .and_then(|(at, end)| source.get(at..end))
            .ok_or(PatchDefect::OutsideSource)?;
        let from = output.len();
        append(&mut difference, add, output)?;
        for (new, old) in output[from..].iter_mut().zip(old) {
            *new = new.wrapping_add(*old);
        }

        append(&mut extra, copy, output)?;
        at = after.checked_add_signed(seek).ok_or(PatchDefect::OutsideSource)?;
    }

    // Each stream must be at its end, and the output complete.
    for stream in [&mut copies, &mut seeks, &mut difference, &mut extra] {
        left += stream.read(&mut [0])? as u64;
    }
    if left == 0 { Ok(()) } else { Err(PatchDefect::UnequalStreams.into()) }
}

type FrameReader<'p> = io::BufReader<Decoder<'static, &'p [u8]>>;

/// The five frames of a patch.
struct Streams<'p> {
    adds: FrameReader<'p>,
    copies: FrameReader<'p>,
    seeks: FrameReader<'p>,
    difference: FrameReader<'p>,
    extra: FrameReader<'p>,
}

impl<'p> Streams<'p> {
    fn open(patch: &'p [u8]) -> Result<Self, DeltaError> {
        let mut rest = patch;
        let streams = Streams {
            adds: open_frame(&mut rest)?,
            copies: open_frame(&mut rest)?,
            seeks: open_frame(&mut rest)?,
            difference: open_frame(&mut rest)?,
            extra: open_frame(&mut rest)?,
        };
        if rest.is_empty() { Ok(streams) } else { Err(PatchDefect::TrailingBytes.into()) }
    }
}

/// Removes the first frame from `rest`.
fn open_frame<'p>(rest: &mut &'p [u8]) -> Result<FrameReader<'p>, DeltaError> {
    let length = zstd_safe::find_frame_compressed_size(rest).unwrap_or(usize::MAX);
    let (frame, after) = rest.split_at_checked(length).ok_or(PatchDefect::MissingStream)?;
    *rest = after;

    let mut decoder = Decoder::with_buffer(frame)?;
    decoder.window_log_max(WINDOW_LOG)?;
    Ok(io::BufReader::with_capacity(16 << 10, decoder))
}

fn read_number(numbers: &mut impl Read) -> Result<u64, DeltaError> {
    get(numbers)?.ok_or_else(|| PatchDefect::TruncatedOperations.into())
}

fn append(from: &mut impl Read, length: u64, output: &mut Vec<u8>) -> Result<(), DeltaError> {
    let read = from.take(length).read_to_end(output)?;
    if read as u64 == length { Ok(()) } else { Err(PatchDefect::ShortStream.into()) }
}
