//! Integers of variable length: seven bits in a byte, the lowest first.

/// Largest number of bytes of an integer, which has at most 63 bits.
const MAX_LENGTH: usize = 9;

/// Reads an integer from the front of `input`.
///
/// `None` if it is cut off or not in its shortest form.
pub(super) fn take(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for index in 0..MAX_LENGTH {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return (byte != 0 || index == 0).then_some(value);
        }
    }
    None
}

/// Appends an integer.
pub(super) fn push(output: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        output.push(value as u8 | 0x80);
        value >>= 7;
    }
    output.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_survive_a_round_trip() {
        for value in [0, 1, 127, 128, 300, 1 << 32, (1 << 63) - 1] {
            let mut bytes = vec![];
            push(&mut bytes, value);

            let mut rest = &bytes[..];

            assert_eq!(take(&mut rest), Some(value));
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn long_forms_are_refused() {
        assert_eq!(take(&mut &[0x80, 0][..]), None);
        assert_eq!(take(&mut &[0xff; 9][..]), None);
        assert_eq!(take(&mut &[0x80][..]), None);
    }
}
