//! Hostile streams and hostile decisions.

use proptest::prelude::*;

use super::*;
use crate::replay::PacketKind;

/// Small streams of several kinds, for damage.
fn small_streams() -> Vec<Vec<u8>> {
    let mut content = text(600);
    content.extend(noise(40));
    vec![
        xz(&["-6"], &content),
        xz(&["-6", "--check=none"], &noise(200)),
        xz(&["-T2", "--block-size=200", "--check=sha256", "-0"], &content),
        xz(&["--delta=dist=2", "--lzma2=lc=1,lp=3"], &content),
        xz(&["--check=crc32", "--lzma2=dict=4KiB"], &[5; 9000]),
    ]
}

#[test]
fn truncated_streams_are_defects() {
    for stream in small_streams() {
        for length in 0..stream.len() {
            let error = Driver::replay(&stream[..length]).expect_err("refused");

            assert!(matches!(error, XzOpenError::Defect(XzDefect::Truncated)), "{length}: {error}");
        }
    }
}

#[test]
fn damaged_streams_are_refused_or_reproduced() {
    for stream in small_streams() {
        for index in 0..stream.len() {
            for change in [1, 0x10, 0x80, 0xff, stream[index]] {
                let mut damaged = stream.clone();
                damaged[index] ^= change;

                // Damage that the reader accepts, such as that of a check, is reproduced.
                if let Ok(replay) = Driver::replay(&damaged) {
                    assert!(replay.rebuilt == damaged[..replay.consumed], "{index}: {change}");
                }
            }
        }
    }
}

#[test]
fn bomb_yields_one_chunk_for_each_step() {
    let stream = xz(&["-6"], &vec![0; 64 << 20]);
    let mut reader = XzReader::open(&stream[..], LIMITS).expect("valid");
    let (mut plain, mut packets) = (Window::default(), vec![]);

    reader.read_step(&mut plain, &mut packets).expect("valid");
    for count in 1..4 {
        reader.read_step(&mut plain, &mut packets).expect("valid");

        assert!(plain.end() <= count * (2 << 20));
        assert!(packets.len() <= 2 << 20);
        packets.clear();
    }
}

#[test]
fn match_before_the_dictionary_is_a_defect() {
    // The second block has the same chunk, without the reset of its dictionary.
    let stream = xz(&["-6", "--check=none", "--block-size=400"], &[text(400), text(400)].concat());
    let control = stream.iter().rposition(|&byte| byte == 0xe0).expect("valid");
    let mut damaged = stream.clone();
    damaged[control] = 0xc0;

    let error = Driver::replay(&damaged).expect_err("refused");

    assert!(matches!(error, XzOpenError::Defect(XzDefect::MissingReset)), "{error}");
}

fn packets() -> impl Strategy<Value = Packet> {
    let length = prop_oneof![8 => 0u32..300, 1 => Just(1), 1 => any::<u32>()];
    let distance = prop_oneof![8 => 0u32..600, 1 => any::<u32>()];
    (0u32..7, length, distance).prop_map(|(kind, length, distance)| Packet {
        kind: PacketKind::from_number(kind).expect("valid"),
        length,
        distance,
    })
}

proptest! {
    #[test]
    fn any_packets_give_an_error_or_bytes(
        packets in proptest::collection::vec(packets(), 0..200),
        properties in 0u8..=224,
        start in 0u64..50,
    ) {
        let mut plain = Window::default();
        plain.push(&text(4000));
        let mut writer = XzWriter::new(StreamHead { check: CheckKind::from_id(4).expect("valid") });
        let head = XzBlockHead::from_bytes(&[2, 0, 0x21, 1, 0, 0, 0, 0]).expect("valid");
        let Some(properties) = Properties::from_byte(properties) else { return Ok(()) };
        writer.begin_block(&head).expect("valid");
        writer.begin_chunk(Reset::Dictionary(properties)).expect("valid");
        let mut at = start;

        for packet in packets {
            if let Ok(written) = writer.write_packet(packet, plain.view(), at) {
                prop_assert!(written > 0 && written <= packet.length);
                at += u64::from(written);
            }
        }

        prop_assert!(at <= 4000);
        if writer.end_chunk().is_ok() {
            writer.end_block(&XzCheck::Computed).expect("valid");
            prop_assert!(writer.finish().expect("valid").len() < 10_000);
        }
    }

    #[test]
    fn any_bytes_after_a_header_are_no_panic(bytes in any::<Vec<u8>>()) {
        let mut stream = xz_head();
        stream.extend_from_slice(&bytes);
        let _ = Driver::replay(&stream);
    }
}

/// A stream header, a block header, and the head of an LZMA chunk.
fn xz_head() -> Vec<u8> {
    let mut writer = XzWriter::new(StreamHead { check: CheckKind::from_id(0).expect("valid") });
    let head = XzBlockHead::from_bytes(&[2, 0, 0x21, 1, 0, 0, 0, 0]).expect("valid");
    writer.begin_block(&head).expect("valid");
    let mut stream = writer.take_output();
    stream.extend_from_slice(&[0xe0, 0, 60, 0, 30, 93, 0]);
    stream
}

#[test]
fn calls_in_wrong_order_are_errors() {
    let plain = Window::default();
    let head = XzBlockHead::from_bytes(&[2, 0, 0x21, 1, 0, 0, 0, 0]).expect("valid");
    let mut writer = XzWriter::new(StreamHead { check: CheckKind::from_id(1).expect("valid") });
    let order = Err(XzWriteError::Order);

    assert_eq!(writer.begin_chunk(Reset::State), order);
    assert_eq!(writer.end_chunk(), order);
    assert_eq!(writer.end_block(&XzCheck::Computed), order);
    assert_eq!(writer.write_packet(Packet::literals(1), plain.view(), 0), Err(XzWriteError::Order));
    assert!(!writer.chunk_is_full());
    writer.begin_block(&head).expect("valid");
    assert_eq!(writer.begin_block(&head), order);
    assert_eq!(writer.begin_chunk(Reset::State), Err(XzWriteError::MissingReset));
    assert_eq!(writer.finish().expect_err("refused"), XzWriteError::Order);
}

#[test]
fn endless_chunk_is_an_error() {
    let mut plain = Window::default();
    plain.push(&noise(100_000));
    let mut writer = XzWriter::new(StreamHead { check: CheckKind::from_id(0).expect("valid") });
    let head = XzBlockHead::from_bytes(&[2, 0, 0x21, 1, 0, 0, 0, 0]).expect("valid");
    let properties = Properties::from_byte(93).expect("valid");
    writer.begin_block(&head).expect("valid");
    writer.begin_chunk(Reset::Dictionary(properties)).expect("valid");

    let mut at = 0;
    let error = loop {
        match writer.write_packet(Packet::literals(90_000 - at as u32), plain.view(), at) {
            Ok(written) => at += u64::from(written),
            Err(error) => break error,
        }
    };

    assert_eq!(error, XzWriteError::ChunkSize);
}
