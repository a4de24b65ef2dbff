//! `--log FORMAT`: a line for each changed path, in the language of rsync's `--out-format`.
//!
//! Paths are relative to the top of the tree, as in items; unusual bytes are escaped.

use std::io::Write;

use crate::apply::plan::ItemizedLine;
use crate::root::{Root, Stat};
use crate::update::UpdateRequest;

/// Largest column width; a larger one would only fill memory.
const MAX_WIDTH: usize = 1000;

/// Values that a line can show.
struct FormatFields<'a> {
    item: &'a ItemizedLine,
    request: &'a UpdateRequest,
    stat: Option<Stat>,
}

/// Prints a line for each item.
///
/// Like rsync, items whose metadata alone changed are shown only if the format has `%i`.
pub fn print(format: &str, items: &[ItemizedLine], request: &UpdateRequest, mut out: impl Write) {
    let root = Root::open(&request.root).ok();
    let shows_all = format.contains("%i");

    for item in items.iter().filter(|item| shows_all || !is_metadata_only(item)) {
        let stat = root.as_ref().and_then(|root| root.stat(&item.path).ok().flatten());
        let fields = FormatFields { item, request, stat };
        // The end of the program reports a failure.
        let _ = writeln!(out, "{}", format_line(format, &fields));
    }
    let _ = out.flush();
}

fn is_metadata_only(item: &ItemizedLine) -> bool {
    item.change.starts_with('.') && item.change.as_bytes().get(1) != Some(&b'd')
}

/// Replaces each `%`, optional apostrophes, optional width, and letter; keeps unknown ones.
fn format_line(format: &str, fields: &FormatFields) -> String {
    let mut line = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        line += &rest[..at];

        let after = rest[at + 1..].trim_start_matches('\'');
        let digits =
            after.len() - after.trim_start_matches(|c: char| c == '-' || c.is_ascii_digit()).len();
        let (width, letters) = after.split_at(digits);
        let mut letters = letters.chars();
        match letters.next().and_then(|letter| fields.value(letter)) {
            Some(value) => {
                line += &pad(&value, width);
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

fn pad(value: &str, width: &str) -> String {
    let columns = width.trim_start_matches('-').parse().unwrap_or(0).min(MAX_WIDTH);
    if width.starts_with('-') { format!("{value:<columns$}") } else { format!("{value:>columns$}") }
}

impl FormatFields<'_> {
    fn value(&self, letter: char) -> Option<String> {
        let path = self.item.path.to_string();
        let name = path.strip_prefix('/').filter(|name| !name.is_empty()).unwrap_or(".");
        let (slash, link) = match self.item.suffix.as_str() {
            "/" => ("/", ""),
            link => ("", link),
        };

        Some(match letter {
            '%' => "%".to_owned(),
            'f' => name.to_owned(),
            'n' => format!("{name}{slash}"),
            'L' => link.to_owned(),
            'i' => self.item.change.clone(),
            'o' => if self.item.is_deletion() { "del." } else { "recv" }.to_owned(),
            'b' => self.item.bytes.to_string(),
            't' => time(jiff::Timestamp::now().as_second()),
            'p' => std::process::id().to_string(),
            'm' => self.request.image.to_string(),
            'h' | 'a' => {
                self.request.rsync.as_ref().map(|server| server.host.clone()).unwrap_or_default()
            }
            'u' | 'P' | 'C' => String::new(),
            'c' => "0".to_owned(),
            _ => return self.value_of_stat(letter),
        })
    }

    /// A value of the file itself; empty if it does not exist any more.
    fn value_of_stat(&self, letter: char) -> Option<String> {
        let stat = self.stat.as_ref();
        let value = match letter {
            'l' => return Some(stat.map_or(0, |stat| stat.size).to_string()),
            'B' => stat.map(|stat| permissions(stat.mode)),
            'U' => stat.map(|stat| stat.uid.to_string()),
            'G' => stat.map(|stat| stat.gid.to_string()),
            'M' => stat.map(|stat| time(stat.mtime.seconds).replace(' ', "-")),
            _ => return None,
        };
        Some(value.unwrap_or_default())
    }
}

fn time(seconds: i64) -> String {
    let timestamp = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    timestamp.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y/%m/%d %H:%M:%S").to_string()
}

/// Permissions in the form of `ls`, without the letter of the type.
fn permissions(mode: u16) -> String {
    let special = [(0o4000, 's', 'S'), (0o2000, 's', 'S'), (0o1000, 't', 'T')];
    let mut text = String::new();
    for (class, (bit, with_x, without_x)) in special.into_iter().enumerate() {
        let bits = mode >> (6 - 3 * class);
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & bit != 0) {
            (true, true) => with_x,
            (false, true) => without_x,
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
    fn permissions_have_form_of_ls() {
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
    fn column_width_is_limited() {
        assert_eq!(
            (pad("a", "3"), pad("a", "-3"), pad("abc", "")),
            ("  a".into(), "a  ".into(), "abc".into())
        );
        assert_eq!(pad("", "99999999999999999999").len(), 0);
        assert_eq!(pad("", "99999").len(), MAX_WIDTH);
    }
}
