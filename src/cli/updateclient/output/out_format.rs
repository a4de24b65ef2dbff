//! `--log FORMAT`: a line for each path that changed, in the language of rsync's `--out-format`.
//!
//! Paths are given from the top of the tree, as they are in items; unusual bytes are escaped.

use std::io::Write;

use crate::apply::plan::ItemizedLine;
use crate::root::{Root, Stat};
use crate::update::UpdateRequest;

/// What a line can tell beside the item.
struct FormatFields<'a> {
    item: &'a ItemizedLine,
    request: &'a UpdateRequest,
    stat: Option<Stat>,
}

/// Prints the lines of `items`. Where the format does not ask for `%i`, what changed in its metadata alone is
/// left out, as rsync does.
pub fn print(format: &str, items: &[ItemizedLine], request: &UpdateRequest, mut out: impl Write) {
    let root = Root::open(&request.root).ok();
    let all = format.contains("%i");
    for item in items.iter().filter(|item| all || !is_of_metadata(item)) {
        let stat = root.as_ref().and_then(|root| root.stat(&item.path).ok().flatten());
        // A reader that has gone away is no reason to fail.
        let _ = writeln!(out, "{}", line(format, &FormatFields { item, request, stat }));
    }
    let _ = out.flush();
}

fn is_of_metadata(item: &ItemizedLine) -> bool {
    item.change.starts_with('.') && item.change.as_bytes().get(1) != Some(&b'd')
}

/// Each `%`, perhaps an apostrophe and a width, and a letter is replaced; what is not known stays as it is.
fn line(format: &str, facts: &FormatFields) -> String {
    let mut line = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        line += &rest[..at];
        let after = rest[at + 1..].trim_start_matches('\'');
        let digits =
            after.len() - after.trim_start_matches(|c: char| c == '-' || c.is_ascii_digit()).len();
        let (width, letters) = after.split_at(digits);
        let mut letters = letters.chars();
        let value = letters.next().and_then(|letter| facts.value(letter));
        match value {
            Some(value) => {
                line += &padded(&value, width);
                rest = letters.as_str();
            }
            None => {
                line.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    line + rest
}

/// Wider columns than this are no columns.
const WIDEST: usize = 1000;

fn padded(value: &str, width: &str) -> String {
    let columns = width.trim_start_matches('-').parse().unwrap_or(0).min(WIDEST);
    if width.starts_with('-') { format!("{value:<columns$}") } else { format!("{value:>columns$}") }
}

impl FormatFields<'_> {
    fn value(&self, letter: char) -> Option<String> {
        let name = self.item.path.to_string();
        let name = name.strip_prefix('/').filter(|name| !name.is_empty()).unwrap_or(".");
        let server =
            self.request.rsync.as_ref().map(|server| server.host.clone()).unwrap_or_default();
        let (directory, link) = match self.item.suffix.as_str() {
            "/" => ("/", ""),
            link => ("", link),
        };
        let of_stat =
            |show: &dyn Fn(&Stat) -> String| self.stat.as_ref().map(show).unwrap_or_default();
        Some(match letter {
            '%' => "%".to_owned(),
            'f' => name.to_owned(),
            'n' => format!("{name}{directory}"),
            'L' => link.to_owned(),
            'i' => self.item.change.clone(),
            'o' => if self.item.is_deletion() { "del." } else { "recv" }.to_owned(),
            'b' => self.item.bytes.to_string(),
            'l' => self.stat.as_ref().map_or(0, |stat| stat.size).to_string(),
            'B' => of_stat(&|stat| permissions(stat.mode)),
            'U' => of_stat(&|stat| stat.uid.to_string()),
            'G' => of_stat(&|stat| stat.gid.to_string()),
            'M' => of_stat(&|stat| time(stat.mtime.seconds).replace(' ', "-")),
            't' => time(jiff::Timestamp::now().as_second()),
            'p' => std::process::id().to_string(),
            'm' => self.request.image.to_string(),
            'h' | 'a' => server,
            'u' | 'P' | 'C' => String::new(),
            'c' => "0".to_owned(),
            _ => return None,
        })
    }
}

fn time(seconds: i64) -> String {
    let at = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y/%m/%d %H:%M:%S").to_string()
}

/// As `ls` shows them, without the letter of the type.
fn permissions(mode: u16) -> String {
    let special = [(0o4000, 's', 'S'), (0o2000, 's', 'S'), (0o1000, 't', 'T')];
    let mut text = String::new();
    for (who, (bit, both, alone)) in special.into_iter().enumerate() {
        let of = mode >> (6 - 3 * who);
        text.push(if of & 4 != 0 { 'r' } else { '-' });
        text.push(if of & 2 != 0 { 'w' } else { '-' });
        text.push(match (of & 1 != 0, mode & bit != 0) {
            (true, true) => both,
            (false, true) => alone,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_shown_as_ls_shows_them() {
        for (mode, shown) in [
            (0o755, "rwxr-xr-x"),
            (0o4711, "rws--x--x"),
            (0o2640, "rw-r-S---"),
            (0o1777, "rwxrwxrwt"),
        ] {
            assert_eq!(permissions(mode), shown);
        }
    }

    #[test]
    fn widths_are_kept_within_reason() {
        assert_eq!(
            (padded("a", "3"), padded("a", "-3"), padded("abc", "")),
            ("  a".into(), "a  ".into(), "abc".into())
        );
        assert_eq!(padded("", "99999999999999999999").len(), 0);
        assert_eq!(padded("", "99999").len(), WIDEST);
    }
}
