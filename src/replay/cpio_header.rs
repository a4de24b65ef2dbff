//! Headers of cpio archives (newc, the format of an initrd).

/// Size of a header: six digits of magic and thirteen numbers of eight hexadecimal digits.
pub const CPIO_HEADER: usize = 110;
/// Alignment of names and contents, in bytes.
const ALIGNMENT: u64 = 4;

/// Lengths in the header of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpioHeader {
    /// Of the name, with its zero byte.
    pub name: u64,
    /// Of the content.
    pub size: u64,
}

impl CpioHeader {
    /// Parses the header at the beginning of `bytes`, if there is one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..CPIO_HEADER)?;
        if !header.starts_with(b"070701") && !header.starts_with(b"070702") {
            return None;
        }

        let number = |index: usize| {
            let digits = str::from_utf8(header.get(6 + 8 * index..14 + 8 * index)?).ok()?;
            u64::from_str_radix(digits, 16).ok()
        };
        Some(CpioHeader { name: number(11)?, size: number(6)? })
    }

    /// Length of the entry: header, name, content and padding.
    pub fn entry_length(&self) -> u64 {
        let name_end = (CPIO_HEADER as u64 + self.name).next_multiple_of(ALIGNMENT);
        name_end + self.size.next_multiple_of(ALIGNMENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_length_includes_padding_of_name_and_content() {
        let numbers = [0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 3, 0].map(|n| format!("{n:08X}")).concat();
        let header = format!("070701{numbers}ab");

        let parsed = CpioHeader::parse(header.as_bytes()).expect("a header");

        assert_eq!(parsed, CpioHeader { name: 3, size: 5 });
        assert_eq!(parsed.entry_length(), 116 + 8);
        assert_eq!(CpioHeader::parse(&header.as_bytes()[..109]), None);
        assert_eq!(CpioHeader::parse(header.replace("070701", "070707").as_bytes()), None);
        assert_eq!(CpioHeader::parse(header.replacen("00000005", "0000000x", 1).as_bytes()), None);
    }
}
