//! The list of contents: each copy with its digest and the identity of its file.

use std::fmt::Write;

use crate::apply::error::{DownloadedFault, LineFault};
use crate::digest::Digest;
use crate::entry::Mtime;
use crate::root::Stat;

const HEAD: &str = "si-downloaded-contents 1";
const END: &str = "end ";

/// All copies of a downloaded update, sorted by digest, filesystem and number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentList {
    copies: Vec<(Digest, StoredCopy)>,
}

/// One copy of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredCopy {
    /// Index of the filesystem in the record.
    pub filesystem: usize,
    /// Number of the copy on that filesystem, from 0.
    pub number: u32,
    pub identity: FileIdentity,
}

/// Identity of a file: if it is unchanged, the content is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileIdentity {
    /// Size in bytes.
    pub size: u64,
    pub inode: u64,
    pub mtime: Mtime,
    pub ctime: Mtime,
}

impl ContentList {
    /// Sorts `copies`.
    pub fn new(mut copies: Vec<(Digest, StoredCopy)>) -> Self {
        copies.sort_unstable();
        ContentList { copies }
    }

    /// All copies.
    pub fn iter(&self) -> impl Iterator<Item = &(Digest, StoredCopy)> {
        self.copies.iter()
    }

    /// Copies of one content.
    pub fn of(&self, digest: &Digest) -> &[(Digest, StoredCopy)] {
        let first = self.copies.partition_point(|(other, _)| other < digest);
        let count = self.copies[first..].iter().take_while(|(other, _)| other == digest).count();
        &self.copies[first..first + count]
    }

    /// Bytes of all copies.
    pub fn bytes(&self) -> u64 {
        self.copies.iter().fold(0, |sum, (_, copy)| sum.saturating_add(copy.identity.size))
    }

    /// The text of the list.
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEAD}\n");
        for (digest, StoredCopy { filesystem, number, identity }) in &self.copies {
            let FileIdentity { size, inode, mtime, ctime } = identity;
            // Writing to memory does not fail.
            let _ = writeln!(text, "{digest} {filesystem} {number} {size} {inode} {mtime} {ctime}");
        }
        text + END + &format!("{}\n", self.copies.len())
    }

    /// Parses a list whose copies are on one of `filesystems` filesystems.
    pub fn parse(text: &str, filesystems: usize) -> Result<Self, DownloadedFault> {
        let mut lines = text.split('\n').enumerate().map(|(index, line)| (index + 1, line));
        let fail = |number, reason| DownloadedFault::Contents(LineFault { number, reason });
        if lines.next().is_none_or(|(_, line)| line != HEAD) {
            return Err(fail(1, "it is not the head of a list of contents"));
        }

        let mut copies: Vec<(Digest, StoredCopy)> = Vec::new();
        for (number, line) in &mut lines {
            if let Some(count) = line.strip_prefix(END) {
                if count != copies.len().to_string() {
                    return Err(fail(number, "it counts other lines"));
                }
                return match (lines.next(), lines.next()) {
                    (Some((_, "")), None) => Ok(ContentList { copies }),
                    _ => Err(fail(number + 1, "it follows the end")),
                };
            }
            let copy = parse_line(line, filesystems).ok_or(fail(number, "it is not a content"))?;
            let position =
                |(digest, copy): &(Digest, StoredCopy)| (*digest, copy.filesystem, copy.number);
            if copies.last().is_some_and(|last| position(last) >= position(&copy)) {
                return Err(fail(number, "it is not in order"));
            }
            copies.push(copy);
        }
        Err(fail(0, "the end is missing"))
    }
}

impl FileIdentity {
    /// Identity of a file as it is now.
    pub fn of(stat: &Stat) -> Self {
        FileIdentity { size: stat.size, inode: stat.ino, mtime: stat.mtime, ctime: stat.ctime }
    }
}

fn parse_line(line: &str, filesystems: usize) -> Option<(Digest, StoredCopy)> {
    let mut words = line.split(' ');
    let digest = Digest::from_hex(words.next()?.as_bytes()).ok()?;
    let copy = StoredCopy {
        filesystem: words.next()?.parse().ok().filter(|filesystem| *filesystem < filesystems)?,
        number: words.next()?.parse().ok()?,
        identity: FileIdentity {
            size: words.next()?.parse().ok()?,
            inode: words.next()?.parse().ok()?,
            mtime: words.next()?.parse().ok()?,
            ctime: words.next()?.parse().ok()?,
        },
    };
    words.next().is_none().then_some((digest, copy))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn copy(filesystem: usize, number: u32) -> StoredCopy {
        let time = |seconds| Mtime { seconds, nanos: 5 };
        let identity = FileIdentity { size: 7, inode: 12, mtime: time(-1), ctime: time(9) };
        StoredCopy { filesystem, number, identity }
    }

    fn list() -> ContentList {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        ContentList::new(vec![(b, copy(0, 0)), (a, copy(1, 0)), (a, copy(0, 1)), (a, copy(0, 0))])
    }

    #[test]
    fn list_round_trips() {
        let list = list();

        let parsed = ContentList::parse(&list.to_text(), 2).expect("is valid");

        assert_eq!(parsed, list);
        assert_eq!(parsed.of(&Digest::of(b"a")).len(), 3);
        assert!(parsed.of(&Digest::of(b"c")).is_empty());
        assert_eq!(parsed.bytes(), 28);
    }

    #[test]
    fn damaged_list_is_refused() {
        let text = list().to_text();
        let first = text.lines().nth(1).expect("a line").to_owned() + "\n";
        for (old, new) in [
            (HEAD, "si-downloaded-contents 2"),
            ("end 4\n", "end 3\n"),
            ("end 4\n", ""),
            ("end 4\n", "end 4\nmore\n"),
            ("end 4\n", "end 4"),
            (first.as_str(), &first.repeat(2)),
            (" 1 0 7 ", " 2 0 7 "),
            (" 7 12 ", " 7 -12 "),
            (" 9.000000005", " 9.5000000000"),
        ] {
            let damaged = text.replacen(old, new, 1);
            assert_ne!(damaged, text, "{old}");
            assert!(ContentList::parse(&damaged, 2).is_err(), "{old} as {new}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "(?s).{0,200}") {
            let _ = ContentList::parse(&format!("{HEAD}\n{text}"), 1);
        }
    }
}
