//! Random changes of archives and of content indices, with digests that are wrong or right.
//!
//! `SI_MUTATIONS` is the number of rounds of each test; `make torture` raises it.

use super::frames::pack_frames;
use super::hostile::{listing_length, small_pair};
use super::*;
use crate::catalog::{FirstFrame, RepoPath};
use crate::diff_archive::content_index::ContentIndex;

/// Generator of numbers that are the same in each run.
pub(crate) struct Numbers(pub u64);

impl Numbers {
    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
        (self.0 >> 33) as usize % end
    }
}

pub(crate) fn rounds() -> usize {
    std::env::var("SI_MUTATIONS").map_or(1000, |text| text.parse().expect("a number"))
}

/// Changes `bytes` at one to three places, perhaps to the same bytes.
pub(crate) fn mutate(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    for _ in 0..=numbers.below(3) {
        let at = numbers.below(bytes.len());
        let end = (at + 1 + numbers.below(40)).min(bytes.len());
        match numbers.below(6) {
            0 => bytes[at] ^= 1 << numbers.below(8),
            1 => bytes[at] = numbers.below(256) as u8,
            2 => bytes[at..end].fill(numbers.below(256) as u8),
            3 if bytes.len() > 100 => drop(bytes.drain(at..end)),
            4 => bytes.truncate(end),
            _ => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
}

/// Offset of the first difference.
fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    let shorter = a.len().min(b.len());
    let different = a.iter().zip(b).position(|(a, b)| a != b);
    different.or_else(|| (a.len() != b.len()).then_some(shorter))
}

#[test]
fn mutated_archive_is_refused_before_its_wrong_bytes_are_decoded() {
    let (base, target) = small_pair();
    let mut numbers = Numbers(1);

    for compression in FrameCompression::ALL {
        for mode in [DeltaMode::WithDeltas, DeltaMode::WithoutDeltas] {
            let (bytes, written) = build(&base, &target, mode, compression);
            let head = FrameHead::read(&mut framed(&bytes, compression)).expect("reads");

            for _ in 0..rounds() {
                let mut damaged = bytes.clone();
                mutate(&mut damaged, &mut numbers);
                let Some(first) = first_difference(&damaged, &bytes) else { continue };
                let file = FramedFile {
                    size: written.size,
                    head: Some(written.first_frame),
                    ..framed(&damaged, compression)
                };
                let before = decoded_frames();

                let result = verify_diff(file, &ArchiveLimits::default(), Some(&base), &Silent);

                assert!(result.is_err(), "changed from byte {first} on");
                let good = (0..head.table().count()).take_while(|number| {
                    let range = head.table().range(*number..*number + 1);
                    range.is_some_and(|(offset, length)| offset + length <= first as u64)
                });
                let in_head = u64::from(first as u64 >= written.first_frame.length);
                let decoded = decoded_frames() - before;
                assert!(decoded <= in_head + good.count() as u64, "byte {first}: {decoded}");
            }
        }
    }
}

#[test]
fn mutated_archive_with_right_digests_yields_no_other_tree() {
    let (base, target) = small_pair();
    let mut numbers = Numbers(2);

    for compression in FrameCompression::ALL {
        for mode in [DeltaMode::WithDeltas, DeltaMode::WithoutDeltas] {
            let (bytes, _) = build(&base, &target, mode, compression);
            let raw = unpacked(&bytes, compression);

            for round in 0..rounds() {
                let mut forged = raw.clone();
                mutate(&mut forged, &mut numbers);
                let cut = listing_length(&forged);
                let bytes = pack_frames(&forged[..cut], &forged[cut..], compression);
                let file = framed(&bytes, compression);

                let result = verify_diff(file, &ArchiveLimits::default(), Some(&base), &Silent);

                // The caller refuses a listing of another generation than the catalog names.
                let Ok(listing) = result else { continue };
                let Ok(reached) = listing.target_of(&base.manifest) else { continue };
                if reached.id() == target.manifest.id() {
                    assert_eq!(reached, target.manifest, "round {round}");
                }
            }
        }
    }
}

#[test]
fn mutated_content_index_is_refused_or_written_alike() {
    let (tree, _) = small_pair();
    let (_, written) = build_full(&tree, FrameCompression::Zstd);
    let file = RepoPath::new("full/a.tar.zst").expect("a good name");
    let index = ContentIndex::new([(file, written.index)]);
    let mut bytes = Vec::new();
    let head = index.write_zstd(&mut bytes).expect("writes");
    let text = unpacked(&bytes, FrameCompression::Zstd);
    let cut = text.windows(7).position(|word| word == b"\nblock ").expect("a block") + 72;
    let mut numbers = Numbers(3);
    let read = |bytes: &[u8], head: Option<FirstFrame>| {
        ContentIndex::read_published(bytes, bytes.len() as u64, head)
    };

    for _ in 0..rounds() {
        let mut damaged = bytes.clone();
        mutate(&mut damaged, &mut numbers);
        assert!(damaged == bytes || read(&damaged, Some(head)).is_err());

        let (mut first, mut block) = (text[..cut].to_vec(), text[cut..].to_vec());
        mutate(if numbers.below(2) == 0 { &mut first } else { &mut block }, &mut numbers);
        let forged = pack_frames(&first, &block, FrameCompression::Zstd);
        let Ok(index) = read(&forged, None) else { continue };
        let mut again = Vec::new();
        index.write_zstd(&mut again).expect("writes");
        assert_eq!(unpacked(&again, FrameCompression::Zstd), [first, block].concat());
    }
}
