//! Order of kernel releases, as boot loaders sort them: the newest first.

use std::cmp::Ordering;

/// Compares kernel releases.
///
/// Runs of digits are compared by value and sort after letters; letters are compared byte by byte.
/// A release candidate (`-rc1`) sorts before its release.
pub fn compare_releases(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (ReleaseWords(a), ReleaseWords(b));
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (Some("rc"), None) => Ordering::Less,
            (None, Some("rc")) | (Some(_), None) => Ordering::Greater,
            (None, Some(_)) => Ordering::Less,
            (Some(a), Some(b)) => compare_words(a, b),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

fn compare_words(a: &str, b: &str) -> Ordering {
    match (number(a), number(b)) {
        // Without leading zeros the longer number is the larger one.
        (Some(a), Some(b)) => (a.len(), a).cmp(&(b.len(), b)),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => a.cmp(b),
    }
}

/// The digits without leading zeros, if the word consists of digits.
fn number(word: &str) -> Option<&str> {
    word.starts_with(|c: char| c.is_ascii_digit()).then(|| word.trim_start_matches('0'))
}

/// Iterator over the runs of digits and runs of letters; other characters separate them.
struct ReleaseWords<'a>(&'a str);

impl<'a> Iterator for ReleaseWords<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.0.trim_start_matches(|c: char| !c.is_alphanumeric());
        let first = rest.chars().next()?;
        let is_same_kind =
            |c: char| c.is_alphanumeric() && c.is_ascii_digit() == first.is_ascii_digit();
        let (word, rest) = rest.split_at(rest.find(|c| !is_same_kind(c)).unwrap_or(rest.len()));
        self.0 = rest;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_ordered() {
        for (older, newer) in [
            ("6.1.0-9-amd64", "6.1.0-18-amd64"),
            ("5.14.0-427.13.1.el9_4.x86_64", "5.14.0-503.el9_5.x86_64"),
            ("6.10.0-rc7", "6.10.0"),
            ("6.10.0-rc2", "6.10.0-rc10"),
            ("6.9.12", "6.10.0"),
            ("5.15.0-100-generic", "5.15.0-101-generic"),
            ("6.1", "6.1.2"),
        ] {
            assert_eq!(compare_releases(older, newer), Ordering::Less, "{older} {newer}");
            assert_eq!(compare_releases(newer, older), Ordering::Greater, "{older} {newer}");
        }
    }
}
