//! One pattern of rsync's filter language, compiled.
//!
//! Matching is a simulation of all alternatives at once: at most *path × pattern* steps, whatever
//! the pattern; no input makes it exponential.

/// The longest pattern in bytes: no path is longer.
pub(super) const MAX_PATTERN: usize = 4095;
/// Room for one bit for each position of the longest pattern and one for its end; the last word is
/// for the built-in rule below a mount point that is itself as deep as a path can be.
const WORDS: usize = (MAX_PATTERN + 1).div_ceil(64) + 1;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    source: Box<[u8]>,
    dir_only: bool,
    scope: Scope,
    matcher: Matcher,
}

/// Which part of a path the pattern is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scope {
    /// The last component.
    Name,
    /// The last so many components.
    Tail(usize),
    /// The whole path.
    Whole,
    /// The whole path after a slash, so that a leading `**/` can match nothing.
    WholeAfterSlash,
    /// The whole path, and what is left of it after each of its slashes.
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
    /// The bytes before the first wildcard and after the last: they reject nearly every path.
    prefix: Box<[u8]>,
    suffix: Box<[u8]>,
    /// A trailing `***` also matches the directory before it.
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
    /// Compiles `source`, which holds no NUL and at most [`MAX_PATTERN`] bytes (the caller's check).
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
        let matcher = if wild {
            Matcher::Wild(Wild::new(text, body.ends_with(b"***")))
        } else {
            Matcher::Literal(text.into())
        };
        Pattern { source: source.into(), dir_only, scope, matcher }
    }

    /// The pattern as it was written.
    pub(super) fn source(&self) -> &[u8] {
        &self.source
    }

    /// Whether the pattern matches this very path; what lies below a match is the caller's business.
    pub(super) fn matches(&self, path: &[u8], is_dir: bool) -> bool {
        if self.dir_only && !is_dir {
            return false;
        }
        match &self.matcher {
            Matcher::Literal(text) => match self.scope {
                Scope::Whole => path == &**text,
                // the text holds as many slashes as the scope has components, so where it ends the
                // path at a component's border it is that tail
                _ => path.ends_with(text) && at_component(path, path.len() - text.len()),
            },
            Matcher::Wild(wild) => match self.scope {
                Scope::Name => {
                    wild.matches_from_start(last_components(path, 1).unwrap_or(path), is_dir)
                }
                Scope::Tail(n) => last_components(path, n)
                    .is_some_and(|tail| wild.matches_from_start(tail, is_dir)),
                Scope::Whole => wild.matches_from_start(path, is_dir),
                Scope::WholeAfterSlash => wild.run(b"/", path, is_dir, false),
                Scope::AfterAnySlash => wild.run(b"", path, is_dir, true),
            },
        }
    }
}

fn at_component(path: &[u8], at: usize) -> bool {
    at == 0 || path[at - 1] == b'/'
}

/// The last `n` components; `None` where there are fewer.
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
    fn new(text: &[u8], with_directory: bool) -> Self {
        let tokens = tokens(text);
        let byte = |t: &Token| if let Token::Byte(b) = t { Some(*b) } else { None };
        let prefix = tokens.iter().map_while(byte).collect();
        let mut suffix: Vec<u8> = tokens.iter().rev().map_while(byte).collect();
        suffix.reverse();
        Wild { tokens: tokens.into(), prefix, suffix: suffix.into(), with_directory }
    }

    fn matches_from_start(&self, text: &[u8], is_dir: bool) -> bool {
        if !text.starts_with(&self.prefix) && !self.with_directory {
            return false;
        }
        self.run(b"", text, is_dir, false)
    }

    /// Follows every alternative through `lead`, `text` and, for the directory of a `***`, a slash.
    fn run(&self, lead: &[u8], text: &[u8], is_dir: bool, after_any_slash: bool) -> bool {
        let tail: &[u8] = if is_dir && self.with_directory { b"/" } else { b"" };
        if !text.ends_with(&self.suffix) && self.suffix.strip_prefix(lead) != Some(text) {
            return false;
        }
        let mut positions = Positions::new(&self.tokens);
        positions.enter(0);
        for &byte in lead.iter().chain(text).chain(tail) {
            positions.step(byte);
            if after_any_slash && byte == b'/' {
                positions.enter(0);
            }
            if positions.is_empty() && !after_any_slash {
                return false;
            }
        }
        positions.holds(self.tokens.len())
    }
}

/// The positions in a pattern that all bytes so far can have led to, one bit each.
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

    fn holds(&self, position: usize) -> bool {
        self.bits[position / 64] >> (position % 64) & 1 == 1
    }

    /// Adds `position`, and those after it that no byte separates from it.
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
        // from the last word to the first: positions only move on, into words that are done
        for index in (0..self.words).rev() {
            let mut word = std::mem::take(&mut self.bits[index]);
            while word != 0 {
                let position = index * 64 + word.trailing_zeros() as usize;
                word &= word - 1;
                match self.tokens.get(position) {
                    Some(Token::Byte(b)) if *b == byte => self.enter(position + 1),
                    Some(Token::NotSlash) if byte != b'/' => self.enter(position + 1),
                    Some(Token::OneOf(set)) if byte != b'/' && set.holds(byte) => {
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

/// Reads a pattern that holds at least one wildcard, in which a backslash therefore escapes.
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
            b'[' => match class(&text[at..]) {
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

/// Reads the rest of a class after its `[`: the set, and the length up to and with its `]`.
fn class(text: &[u8]) -> Option<(ByteSet, usize)> {
    let negated = matches!(text.first(), Some(b'!' | b'^'));
    let mut set = ByteSet::default();
    let mut at = usize::from(negated);
    // what a `-` would make a range from; a range or a named class leaves nothing
    let mut previous = None;
    // a `]` in the first place is a member
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
                    // no `:]` follows, so these are members like others
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
    fn holds(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
    }

    fn insert(&mut self, from: u8, to: u8) {
        for byte in from..=to {
            self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
    }

    /// Adds one of POSIX's classes, in ASCII as in the C locale; `None` for an unknown name.
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
            // C's vertical tab is white space, Rust's is not
            b"space" => |b| b.is_ascii_whitespace() || *b == 0x0b,
            b"upper" => u8::is_ascii_uppercase,
            b"xdigit" => u8::is_ascii_hexdigit,
            _ => return None,
        };
        (0..=u8::MAX).filter(member).for_each(|byte| self.insert(byte, byte));
        Some(())
    }
}
