//! One pattern of rsync's filter language, compiled.
//!
//! Matching follows all alternatives at once, as a nondeterministic automaton does. A match takes
//! at most
//! *path × pattern* steps; with backtracking a hostile pattern could take exponential time.

use crate::entry::EntryKind;

/// Length of the longest pattern in bytes; no path is longer.
pub(super) const MAX_PATTERN: usize = 4095;
/// Words of a bit set with one bit for each position of the longest pattern and one for its end.
///
/// The additional word is for a built-in rule whose path, escaped, is longer than any path.
const WORDS: usize = (MAX_PATTERN + 1).div_ceil(64) + 1;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    source: Box<[u8]>,
    dir_only: bool,
    scope: Scope,
    matcher: Matcher,
}

/// Part of a path that the pattern is matched against.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scope {
    /// The last component.
    Name,
    /// The last *n* components.
    Tail(usize),
    /// The whole path.
    Whole,
    /// The whole path with a slash before it, so that a leading `**/` can match the empty string.
    WholeAfterSlash,
    /// The whole path, and the rest of it after each slash.
    AfterAnySlash,
}

#[derive(Clone, Debug)]
enum Matcher {
    Literal(Box<[u8]>),
    Wild(Wild),
}

#[derive(Clone, Debug)]
struct Wild {
    tokens: Box<[Token]>,
    /// The bytes before the first wildcard and after the last; a cheap test that rejects nearly all
    /// paths.
    prefix: Box<[u8]>,
    suffix: Box<[u8]>,
    /// A final `***` also matches the directory before it.
    with_directory: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Byte(u8),
    /// `?`
    NotSlash,
    /// `[...]`, which never matches a slash.
    OneOf(Box<ByteSet>),
    /// `*`
    Star,
    /// `**`
    DoubleStar,
    /// An unfinished class, an unknown class name, a backslash at the end.
    Nothing,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct ByteSet([u64; 4]);

impl Pattern {
    /// Compiles `source`; the caller has checked that it has no NUL and at most [`MAX_PATTERN`]
    /// bytes.
    pub(super) fn new(source: &[u8]) -> Self {
        let dir_only = source.len() > 1 && source.ends_with(b"/");
        let body = if dir_only { &source[..source.len() - 1] } else { source };
        let wild = body.iter().any(|b| b"*?[".contains(b));
        let double_star = wild && contains(body, b"**");
        let slashes = body.iter().filter(|&&b| b == b'/').count();
        let anchored = body.first() == Some(&b'/');
        let scope = match (anchored, double_star, slashes) {
            (false, false, 0) => Scope::Name,
            (false, false, n) => Scope::Tail(n + 1),
            (true, ..) => Scope::Whole,
            (false, true, _) if body.starts_with(b"**") => Scope::WholeAfterSlash,
            (false, true, _) => Scope::AfterAnySlash,
        };

        let text = if anchored { &body[1..] } else { body };
        let matcher =
            if wild { Matcher::Wild(Wild::new(text)) } else { Matcher::Literal(text.into()) };
        Pattern { source: source.into(), dir_only, scope, matcher }
    }

    /// The pattern as it was written.
    pub(super) fn source(&self) -> &[u8] {
        &self.source
    }

    /// Whether the pattern is a name without a slash, except at its end.
    pub(super) fn is_bare_name(&self) -> bool {
        let body = self.source.strip_suffix(b"/").unwrap_or(&self.source);
        !body.contains(&b'/')
    }

    /// Whether the pattern matches this path by itself; the caller cares for paths below a match.
    pub(super) fn matches(&self, path: &[u8], kind: EntryKind) -> bool {
        if self.dir_only && kind != EntryKind::Directory {
            return false;
        }

        match &self.matcher {
            Matcher::Literal(text) => match self.scope {
                Scope::Whole => path == &**text,
                // The text has as many slashes as the scope has components. So if the path ends
                // with it and a component begins there, these are the last components.
                _ => path.ends_with(text) && is_component_start(path, path.len() - text.len()),
            },
            Matcher::Wild(wild) => match self.scope {
                Scope::Name => {
                    wild.matches_from_start(last_components(path, 1).unwrap_or(path), kind)
                }
                Scope::Tail(n) => {
                    last_components(path, n).is_some_and(|tail| wild.matches_from_start(tail, kind))
                }
                Scope::Whole => wild.matches_from_start(path, kind),
                Scope::WholeAfterSlash => wild.run(b"/", path, kind, MatchStart::Beginning),
                Scope::AfterAnySlash => wild.run(b"", path, kind, MatchStart::AfterEachSlash),
            },
        }
    }
}

/// Places of the text at which a match may begin.
#[derive(Clone, Copy, PartialEq)]
enum MatchStart {
    Beginning,
    AfterEachSlash,
}

fn is_component_start(path: &[u8], at: usize) -> bool {
    at == 0 || path[at - 1] == b'/'
}

/// The last `n` components; `None` if there are fewer.
fn last_components(path: &[u8], n: usize) -> Option<&[u8]> {
    let mut left = n;
    for at in (0..path.len()).rev() {
        if path[at] == b'/' {
            left -= 1;
            if left == 0 {
                return Some(&path[at + 1..]);
            }
        }
    }
    (left == 1).then_some(path)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

impl Wild {
    fn new(text: &[u8]) -> Self {
        let tokens = tokens(text);
        let prefix = tokens.iter().map_while(Token::as_byte).collect();
        let mut suffix: Vec<u8> = tokens.iter().rev().map_while(Token::as_byte).collect();
        suffix.reverse();
        Wild {
            tokens: tokens.into(),
            prefix,
            suffix: suffix.into(),
            with_directory: text.ends_with(b"***"),
        }
    }

    fn matches_from_start(&self, text: &[u8], kind: EntryKind) -> bool {
        if !text.starts_with(&self.prefix) && !self.with_directory {
            return false;
        }
        self.run(b"", text, kind, MatchStart::Beginning)
    }

    /// Follows all alternatives through `lead`, `text` and, for the directory of a `***`, a slash.
    fn run(&self, lead: &[u8], text: &[u8], kind: EntryKind, start: MatchStart) -> bool {
        let is_directory = kind == EntryKind::Directory;
        let tail: &[u8] = if is_directory && self.with_directory { b"/" } else { b"" };
        if !text.ends_with(&self.suffix) && self.suffix.strip_prefix(lead) != Some(text) {
            return false;
        }

        let mut positions = Positions::new(&self.tokens);
        positions.enter(0);
        for &byte in lead.iter().chain(text).chain(tail) {
            positions.step(byte);
            if start == MatchStart::AfterEachSlash && byte == b'/' {
                positions.enter(0);
            }
            if positions.is_empty() && start == MatchStart::Beginning {
                return false;
            }
        }
        positions.contains(self.tokens.len())
    }
}

impl Token {
    fn as_byte(&self) -> Option<u8> {
        match self {
            Token::Byte(byte) => Some(*byte),
            _ => None,
        }
    }
}

/// Positions in a pattern that the bytes so far can lead to, one bit each.
struct Positions<'p> {
    tokens: &'p [Token],
    bits: [u64; WORDS],
    words: usize,
}

impl<'p> Positions<'p> {
    fn new(tokens: &'p [Token]) -> Self {
        Positions { tokens, bits: [0; WORDS], words: tokens.len() / 64 + 1 }
    }

    fn is_empty(&self) -> bool {
        self.bits[..self.words].iter().all(|&word| word == 0)
    }

    fn contains(&self, position: usize) -> bool {
        self.bits[position / 64] >> (position % 64) & 1 == 1
    }

    /// Adds `position`, and those after it that are reached without another byte.
    fn enter(&mut self, mut position: usize) {
        loop {
            self.bits[position / 64] |= 1 << (position % 64);
            match self.tokens.get(position) {
                Some(Token::Star | Token::DoubleStar) => position += 1,
                _ => return,
            }
        }
    }

    fn step(&mut self, byte: u8) {
        // From the last word to the first: a position only moves forward, into a word that is done.
        for index in (0..self.words).rev() {
            let mut word = std::mem::take(&mut self.bits[index]);
            while word != 0 {
                let position = index * 64 + word.trailing_zeros() as usize;
                word &= word - 1;
                match self.tokens.get(position) {
                    Some(Token::Byte(b)) if *b == byte => self.enter(position + 1),
                    Some(Token::NotSlash) if byte != b'/' => self.enter(position + 1),
                    Some(Token::OneOf(set)) if byte != b'/' && set.contains(byte) => {
                        self.enter(position + 1)
                    }
                    Some(Token::Star) if byte != b'/' => self.enter(position),
                    Some(Token::DoubleStar) => self.enter(position),
                    _ => {}
                }
            }
        }
    }
}

/// Parses a pattern with at least one wildcard, in which a backslash therefore escapes.
fn tokens(text: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::with_capacity(text.len());
    let mut at = 0;

    while at < text.len() {
        let byte = text[at];
        at += 1;
        tokens.push(match byte {
            b'\\' => {
                at += 1;
                text.get(at - 1).map_or(Token::Nothing, |&b| Token::Byte(b))
            }
            b'?' => Token::NotSlash,
            b'*' => {
                let stars = 1 + text[at..].iter().take_while(|&&b| b == b'*').count();
                at += stars - 1;
                if stars == 1 { Token::Star } else { Token::DoubleStar }
            }
            b'[' => match parse_class(&text[at..]) {
                Some((set, length)) => {
                    at += length;
                    Token::OneOf(Box::new(set))
                }
                None => {
                    at = text.len();
                    Token::Nothing
                }
            },
            literal => Token::Byte(literal),
        });
    }
    tokens
}

/// Parses the rest of a class after its `[`: the set, and the length including its `]`.
fn parse_class(text: &[u8]) -> Option<(ByteSet, usize)> {
    let negated = matches!(text.first(), Some(b'!' | b'^'));
    let mut set = ByteSet::default();
    let mut at = usize::from(negated);

    // Begin of a range if `-` follows; no range begins at the end of a range or at a named class.
    let mut previous = None;
    // A `]` in first place is a member.
    let mut first = true;

    loop {
        let byte = *text.get(at)?;
        match byte {
            b']' if !first => break,
            b'\\' => {
                at += 1;
                let escaped = *text.get(at)?;
                set.insert(escaped, escaped);
                previous = Some(escaped);
            }
            b'-' if previous.is_some() && text.get(at + 1).is_some_and(|&b| b != b']') => {
                at += 1;
                if text[at] == b'\\' {
                    at += 1;
                }
                let last = *text.get(at)?;
                if let Some(from) = previous.take() {
                    set.insert(from, last);
                }
            }
            b'[' if text.get(at + 1) == Some(&b':') => {
                let rest = &text[at + 2..];
                let end = rest.iter().position(|&b| b == b']')?;
                match rest[..end].strip_suffix(b":") {
                    Some(name) => {
                        set.insert_named(name)?;
                        at += 2 + end;
                        previous = None;
                    }
                    // Without `:]` these bytes are ordinary members.
                    None => {
                        set.insert(b'[', b'[');
                        previous = Some(b'[');
                    }
                }
            }
            member => {
                set.insert(member, member);
                previous = Some(member);
            }
        }
        first = false;
        at += 1;
    }

    if negated {
        set.0.iter_mut().for_each(|word| *word = !*word);
    }
    Some((set, at + 1))
}

impl ByteSet {
    fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
    }

    fn insert(&mut self, from: u8, to: u8) {
        for byte in from..=to {
            self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
    }

    /// Adds a POSIX class, as in the C locale; `None` for an unknown name.
    fn insert_named(&mut self, name: &[u8]) -> Option<()> {
        let member: fn(&u8) -> bool = match name {
            b"alnum" => u8::is_ascii_alphanumeric,
            b"alpha" => u8::is_ascii_alphabetic,
            b"blank" => |b| b" \t".contains(b),
            b"cntrl" => u8::is_ascii_control,
            b"digit" => u8::is_ascii_digit,
            b"graph" => u8::is_ascii_graphic,
            b"lower" => u8::is_ascii_lowercase,
            b"print" => |b| (b' '..=b'~').contains(b),
            b"punct" => u8::is_ascii_punctuation,
            // For C a vertical tab is white space, for Rust it is not.
            b"space" => |b| b.is_ascii_whitespace() || *b == 0x0b,
            b"upper" => u8::is_ascii_uppercase,
            b"xdigit" => u8::is_ascii_hexdigit,
            _ => return None,
        };
        (0..=u8::MAX).filter(member).for_each(|byte| self.insert(byte, byte));
        Some(())
    }
}
