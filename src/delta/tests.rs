use proptest::prelude::*;

use super::*;

fn old_and_new() -> (Vec<u8>, Vec<u8>) {
    let old: Vec<u8> = (0..200_000u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).collect();
    let mut new = old.clone();
    new[1000..1010].fill(7);
    new.splice(300_000..300_000, b"something inserted".iter().copied());
    (old, new)
}

#[test]
fn a_small_change_makes_a_small_patch() {
    let (old, new) = old_and_new();
    let patch = encode(&old, &new, 9).expect("encodes");
    assert!(patch.len() < 400, "{}", patch.len());
    assert_eq!(decode(&old, &patch, new.len() as u64).expect("decodes"), new);
    assert_eq!(encode(&old, &new, 9).expect("encodes"), patch, "the same input gives the same patch");
}

#[test]
fn lies_about_the_length_are_refused() {
    let (old, new) = old_and_new();
    let patch = encode(&old, &new, 3).expect("encodes");
    let length = new.len() as u64;
    for lie in [0, 1, length - 1, length + 1, MAX_GROUP] {
        assert!(matches!(decode(&old, &patch, lie), Err(DeltaError::NotTheFrame(_))), "{lie}");
    }
    assert!(matches!(decode(&old, &patch, u64::MAX), Err(DeltaError::TooLarge(_))));
}

#[test]
fn what_is_not_one_frame_is_refused() {
    let (old, new) = old_and_new();
    let length = new.len() as u64;
    let patch = encode(&old, &new, 3).expect("encodes");
    let twice = [&patch[..], &patch[..]].concat();
    for bad in [&b""[..], b"x", &patch[..patch.len() - 1], &twice] {
        assert!(decode(&old, bad, length).is_err());
    }
}

#[test]
fn a_flipped_bit_never_panics_or_grows_the_output() {
    let (old, new) = old_and_new();
    let patch = encode(&old, &new, 3).expect("encodes");
    for at in 0..patch.len() * 8 {
        let mut damaged = patch.clone();
        damaged[at / 8] ^= 1 << (at % 8);
        if let Ok(output) = decode(&old, &damaged, new.len() as u64) {
            assert_eq!(output.len(), new.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_source_and_any_target(
        old in prop::collection::vec(any::<u8>(), 0..3000),
        new in prop::collection::vec(any::<u8>(), 0..3000),
        level in 1..=19i32,
    ) {
        let patch = encode(&old, &new, level).expect("encodes");
        prop_assert_eq!(decode(&old, &patch, new.len() as u64).expect("decodes"), new);
    }
}
