//! Text from outside, made safe for terminals, logs and JSON lines.
//!
//! Names of files, keys of TOML files, messages of servers and arguments reach the administrator's
//! terminal. Control characters there move the cursor or change the title; bidirectional controls
//! show a path in another order; a line separator adds a forged line. Such characters are written
//! as octal escapes, which lose nothing. A second danger is the password of a URL.
//!
//! Every sink of the command line calls [`text`] or [`json`]. A value that is one field of a line
//! is written by [`Quoted`] or [`one_line`], which escape line feeds as well.

use std::borrow::Cow;
use std::fmt;

/// Replaces a password.
const HIDDEN: &str = "…";

/// Bytes from outside, as one field of a line.
///
/// Unsafe characters, backslashes and bytes that are not UTF-8 become `\ooo`; other text is
/// unchanged.
pub struct Quoted<'a>(pub &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if is_unsafe(c) || c == '\\' { write_octal(c, f)? } else { write!(f, "{c}")? }
            }
            for byte in chunk.invalid() {
                write!(f, "\\{byte:03o}")?;
            }
        }
        Ok(())
    }
}

/// A text of one or more lines for a terminal or a log: without unsafe characters and passwords.
///
/// Line feeds and tabs stay. Backslashes stay as well: parts of the text are escaped already.
pub fn text(text: &str) -> Cow<'_, str> {
    let text = hide_passwords(text);
    if !text.chars().any(|c| is_unsafe(c) && !is_layout(c)) {
        return text;
    }
    Cow::Owned(escape(&text, is_layout))
}

/// A message from outside, such as that of a parser, in one line.
pub fn one_line(message: &str) -> Cow<'_, str> {
    if !message.chars().any(is_unsafe) {
        return Cow::Borrowed(message);
    }
    Cow::Owned(escape(message, |_| false))
}

/// A JSON text in which no string has unsafe characters or passwords; it has the same strings
/// otherwise.
///
/// The serializer escapes the control characters of ASCII except DEL.
pub fn json(text: &str) -> Cow<'_, str> {
    let text = hide_passwords(text);
    if !text.chars().any(is_unsafe) {
        return text;
    }

    let mut escaped = String::with_capacity(text.len());
    let mut units = [0; 2];
    for c in text.chars() {
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut units) {
                escaped += &format!("\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Replaces the password of each URL, as in `http://user:password@host/`.
pub fn hide_passwords(text: &str) -> Cow<'_, str> {
    if !text.contains("://") {
        return Cow::Borrowed(text);
    }

    let mut hidden = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        let (url, following) = after.split_at(after.find(ends_url).unwrap_or(after.len()));
        hidden += before;
        hidden += &without_password(url);
        rest = following;
    }
    hidden += rest;
    Cow::Owned(hidden)
}

/// A URL after its scheme, without the password.
fn without_password(url: &str) -> Cow<'_, str> {
    let (authority, path) = url.split_at(url.find(['/', '?', '#']).unwrap_or(url.len()));
    let Some((name, after_name)) = authority.split_once(':') else { return Cow::Borrowed(url) };

    // A password with an unescaped slash is no valid URL, but may be typed.
    let is_port = after_name.chars().all(|c| c.is_ascii_digit());
    let host = match authority.rsplit_once('@') {
        Some((_, host)) => format!("{host}{path}"),
        None if is_port || name.starts_with('[') => return Cow::Borrowed(url),
        None => match path.rsplit_once('@') {
            Some((_, host)) => host.to_owned(),
            None => return Cow::Borrowed(url),
        },
    };
    match name.split_once('@') {
        // The colon belongs to the port.
        Some(_) => Cow::Borrowed(url),
        None => Cow::Owned(format!("{name}:{HIDDEN}@{host}")),
    }
}

fn ends_url(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\\' | '<' | '>')
}

/// Whether a character can change the display of other text.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Invisible, or marks of direction.
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{206f}'
            // Separators of lines and paragraphs, embeddings and overrides of direction.
            | '\u{2028}'..='\u{202e}'
            // Byte order mark, annotations, tags.
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Whether a character arranges the lines of a text that this program composed.
fn is_layout(c: char) -> bool {
    matches!(c, '\n' | '\t')
}

fn escape(text: &str, is_kept: fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) && !is_kept(c) {
            // Writing to memory cannot fail.
            let _ = write_octal(c, &mut escaped);
        } else {
            escaped.push(c);
        }
    }
    escaped
}

fn write_octal(c: char, to: &mut impl fmt::Write) -> fmt::Result {
    let mut buffer = [0; 4];
    c.encode_utf8(&mut buffer).bytes().try_for_each(|byte| write!(to, "\\{byte:03o}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One character of each unsafe kind.
    const UNSAFE: [char; 12] = [
        '\0',
        '\x07',
        '\x1b',
        '\x7f',
        '\u{85}',
        '\u{9b}',
        '\u{200f}',
        '\u{2028}',
        '\u{202e}',
        '\u{2066}',
        '\u{feff}',
        '\u{e0041}',
    ];

    #[test]
    fn unsafe_characters_are_escaped_in_each_form() {
        for c in UNSAFE {
            let composed = format!("a\t{c}b\n");
            let json_text = serde_json::to_string(&composed).expect("a string");

            assert!(!Quoted(composed.as_bytes()).to_string().contains(c), "{c:?}");
            assert!(!one_line(&composed).contains([c, '\n']), "{c:?}");
            let shown = text(&composed);
            assert!(!shown.contains(c) && shown.ends_with("b\n"), "{c:?}");
            let json_text = json(&json_text).into_owned();
            assert!(!json_text.contains(c), "{c:?}");
            assert_eq!(serde_json::from_str::<String>(&json_text).expect("JSON"), composed);
        }
    }

    #[test]
    fn ordinary_text_is_unchanged() {
        let ordinary = "cannot read /srv/ä b\\134\t日本語: no such file\nnext line";

        assert!(matches!(text(ordinary), Cow::Borrowed(_)));
        assert!(matches!(one_line("straße"), Cow::Borrowed(_)));
        assert_eq!(Quoted(b"a\n\x1b[1m\xff\\\xc3\xa4").to_string(), "a\\012\\033[1m\\377\\134ä");
    }

    #[test]
    fn passwords_of_urls_are_hidden() {
        for (written, shown) in [
            (
                "get http://a:b@h/ and https://c:d:e@h:1/x",
                "get http://a:…@h/ and https://c:…@h:1/x",
            ),
            ("socks5://:secret@h", "socks5://:…@h"),
            ("http://a@h/ http://h/a:b@c", "http://a@h/ http://h/a:b@c"),
            ("{\"repo\":\"http://a:b@h\"}", "{\"repo\":\"http://a:…@h\"}"),
            ("http://a:p@ss@h/", "http://a:…@h/"),
            ("http://a:p/ss@h/", "http://a:…@h/"),
            ("http://h:80/a@b http://[::1]:80/a@b", "http://h:80/a@b http://[::1]:80/a@b"),
            ("http://a@h:80/ http://a@h:80/b@c", "http://a@h:80/ http://a@h:80/b@c"),
        ] {
            assert_eq!(text(written), shown);
            assert_eq!(json(written), shown);
        }
    }
}
