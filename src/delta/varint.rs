//! Numbers of variable length: seven bits in each byte, the lowest first, the highest bit set if
//! more bytes follow (clause 8).

use std::io::{self, Read};

/// Appends `number`.
pub(super) fn put(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

/// Reads a number; `None` if `from` is at its end.
pub(super) fn get(from: &mut impl Read) -> io::Result<Option<u64>> {
    let (mut number, mut byte) = (0u64, [0]);
    for shift in (0..64).step_by(7) {
        if !read_byte(from, &mut byte)? {
            return if shift == 0 { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }

        let bits = u64::from(byte[0] & 0x7f);
        // The tenth byte has only one bit of the number.
        if shift == 63 && bits > 1 {
            break;
        }

        number |= bits << shift;
        if byte[0] < 0x80 {
            return Ok(Some(number));
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "a number is too large"))
}

/// Reads one byte; false at the end.
fn read_byte(from: &mut impl Read, byte: &mut [u8; 1]) -> io::Result<bool> {
    loop {
        match from.read(byte) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            answer => return Ok(answer? == 1),
        }
    }
}

/// Maps 0, -1, 1, -2, … to 0, 1, 2, 3, …, so that small distances have few bytes.
pub(super) fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

/// Inverse of [`zigzag`].
pub(super) fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), i64::MAX as u64, u64::MAX] {
            let mut bytes = Vec::new();
            put(&mut bytes, number);
            assert_eq!(get(&mut &bytes[..]).expect("reads"), Some(number));
            assert!(get(&mut &bytes[..bytes.len() - 1]).map_or(true, |cut| cut.is_none()));
        }

        for number in [0, -1, 1, i64::MIN, i64::MAX] {
            assert_eq!(unzigzag(zigzag(number)), number);
        }

        assert!(get(&mut &[0xff; 10][..]).is_err(), "more than 64 bits");
    }
}
