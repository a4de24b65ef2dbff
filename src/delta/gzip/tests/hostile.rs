//! Files that are not gzip, damage, invalid corrections, limits, and failing readers and writers.

use super::*;

#[test]
fn file_that_is_not_gzip_is_refused() {
    for bytes in [
        &b""[..],
        b"\x1f",
        b"plain text",
        b"\x1f\x8b\x07\0",
        b"\x1f\x8b\x08\xff\0\0\0",
        &[0; 100],
        b"070701",
    ] {
        assert!(matches!(refusal(bytes), NotDecomposed::Open(OpenError::NotGzip)), "{bytes:?}");
        let error = gunzip(bytes, 1000).read_to_end(&mut Vec::new()).expect_err("no plain form");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

#[test]
fn truncated_file_is_refused() {
    let gz = member(&HEADER, 9, &sample(3000, 6));

    for length in 3..gz.len() {
        assert!(
            matches!(refusal(&gz[..length]), NotDecomposed::Open(OpenError::Damaged(_))),
            "{length} bytes"
        );
        gunzip(&gz[..length], 10_000).read_to_end(&mut Vec::new()).expect_err("no plain form");
    }
}

#[test]
fn limits_are_enforced() {
    let plain = sample(100_000, 8);
    let gz = member(&HEADER, 6, &plain).repeat(40);
    let split = |plain, corrections| split(&gz, &GzipLimits { plain, corrections }).1;

    assert!(matches!(split(4_000_000, 1000), Decomposed::Apart(_)));
    assert!(matches!(
        split(3_999_999, 1000),
        Decomposed::Whole(NotDecomposed::Open(OpenError::TooLarge(3_999_999)))
    ));
    assert!(matches!(split(4_000_000, 600), Decomposed::Whole(NotDecomposed::Corrections(600))));

    assert_eq!(gunzip(&gz[..], 4_000_000).read_to_end(&mut Vec::new()).expect("room"), 4_000_000);
    gunzip(&gz[..], 3_999_999).read_to_end(&mut Vec::new()).expect_err("no room");

    let tail = [member(&HEADER, 6, b"x"), b"tail".to_vec()].concat();
    gunzip(&tail[..], 4).read_to_end(&mut Vec::new()).expect_err("no room for the tail");

    let long = [&[0x1f, 0x8b, 8, NAME, 0, 0, 0, 0, 0, 3][..], &[b'a'; 5000], &[0]].concat();
    assert!(matches!(refusal(&long), NotDecomposed::Open(OpenError::Damaged(_))));

    assert!(Rebuild::new(&vec![3; MAX_CORRECTIONS + 1], Vec::new()).is_err());
    let many = member(&HEADER, 6, b"x").repeat(5000);
    assert!(matches!(refusal(&many), NotDecomposed::Corrections(MAX_CORRECTIONS)));
}

const NAME: u8 = 8;

#[test]
fn plain_form_of_wrong_length_is_an_error() {
    let plain = sample(5000, 9);
    let (_, corrections) = round_trip(&member(&HEADER, 6, &plain));

    let mut rebuild = Rebuild::new(&corrections, Vec::new()).expect("good corrections");
    rebuild.write(&plain[1..]).expect("room");
    assert!(matches!(rebuild.finish(), Err(RebuildError::TooShort(1))));

    let mut rebuild = Rebuild::new(&corrections, Vec::new()).expect("good corrections");
    rebuild.write(&plain).expect("room");
    assert!(matches!(rebuild.write(b"x"), Err(RebuildError::TooLong)));
}

#[test]
fn invalid_corrections_are_refused() {
    let bad: [&[u8]; 9] = [
        &[4],
        &[1, 5, b'x'],
        &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        &[2],
        &[2, 0x06],
        &[2, 0x00, 1],
        &[2, 0x3a, 1],
        &[0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1],
        &[2, 0x36, 1],
    ];
    for corrections in bad {
        assert!(
            matches!(Rebuild::new(corrections, Vec::new()), Err(RebuildError::Corrections(_))),
            "{corrections:?}"
        );
    }

    let huge = [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f].repeat(3);
    assert!(matches!(plain_length(&huge), Err(RebuildError::Corrections(_))));
}

#[test]
fn failing_reader_or_writer_is_an_error() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("broken"))
        }
    }
    let gz = member(&HEADER, 6, b"content");

    decompose(&mut Broken, &mut Vec::new(), &GzipLimits::default()).expect_err("cannot be read");
    decompose(&mut &gz[..], &mut &mut [0u8; 3][..], &GzipLimits::default())
        .expect_err("cannot be written");

    let (plain, corrections) = round_trip(&gz);
    assert_eq!(plain, b"content");
    assert!(matches!(Rebuild::new(&corrections, &mut [0u8; 3][..]), Err(RebuildError::Write(_))));
}

proptest! {
    #[test]
    fn random_corrections_never_panic(corrections: Vec<u8>, plain: Vec<u8>) {
        if let Ok(mut rebuild) = Rebuild::new(&corrections, Vec::new()) {
            let written = rebuild.write(&plain);
            let finished = rebuild.finish();
            let is_whole = plain_length(&corrections).ok() == Some(plain.len() as u64);
            prop_assert!(written.is_err() || finished.is_err() || is_whole);
        }
    }

    #[test]
    fn changed_corrections_bound_the_output(
        at: prop::sample::Index,
        value: u8,
        seed: u64,
        keep: prop::sample::Index,
    ) {
        let plain = sample(20_000, seed);
        let gz = member(&HEADER, 1 + (seed % 9) as u8, &plain);
        let (_, mut corrections) = round_trip(&gz);
        let at = at.index(corrections.len());
        corrections[at] = value;

        if let Ok(mut rebuild) = Rebuild::new(&corrections, Vec::new())
            && rebuild.write(&plain[..keep.index(plain.len())]).is_ok()
            && let Ok(out) = rebuild.finish()
        {
            prop_assert!(out.len() < plain.len() + 8 * corrections.len() + 1000);
        }
    }

    #[test]
    fn changed_file_is_refused_or_rebuilt(at: prop::sample::Index, value: u8, seed: u64) {
        let mut gz = member(&HEADER, 6, &sample(3000, seed));
        let at = at.index(gz.len());
        gz[at] = value;

        let (plain, result) = split(&gz, &GzipLimits { plain: 1 << 20, corrections: 10_000 });
        if let Decomposed::Apart(parts) = result {
            prop_assert!(rebuild_file(&parts.corrections, &plain) == gz);
        }
    }
}
