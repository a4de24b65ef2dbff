//! Exclude files, as rsync's `--exclude-from` reads them.

use super::pattern::{MAX_PATTERN, Pattern};
use super::{Rule, RuleAction, RuleOrigin};
use crate::tree_path::Quoted;

/// An exclude file larger than this is refused.
pub const MAX_EXCLUDE_FILE: usize = 1 << 20;
/// More rules than this are refused: every path is held against every rule.
pub const MAX_RULES: usize = 10_000;

/// A line of an exclude file that is no rule.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{file}:{line}: {why}: {}", Quoted(.text))]
pub struct BadRule {
    file: String,
    line: usize,
    why: &'static str,
    text: Vec<u8>,
}

/// Adds the rules of `content` to `rules`.
pub(super) fn exclude_file(
    file: &str,
    content: &[u8],
    index: usize,
    rules: &mut Vec<Rule>,
) -> Result<(), BadRule> {
    let bad = |line, why, text: &[u8]| BadRule {
        file: file.to_owned(),
        line,
        why,
        text: excerpt(text).to_vec(),
    };
    if content.len() > MAX_EXCLUDE_FILE {
        return Err(bad(0, "the file is larger than 1 MiB", b""));
    }
    for (number, line) in numbered_lines(content) {
        match parse_line(line).map_err(|why| bad(number, why, line))? {
            RuleLine::Nothing => {}
            RuleLine::Clear => rules.clear(),
            RuleLine::Rule(action, pattern) => {
                if rules.len() == MAX_RULES {
                    return Err(bad(number, "there are more than 10,000 rules", line));
                }
                let origin = RuleOrigin::File { index, line: number };
                rules.push(Rule { action, pattern: Pattern::new(pattern), origin });
            }
        }
    }
    Ok(())
}

enum RuleLine<'a> {
    Nothing,
    Clear,
    Rule(RuleAction, &'a [u8]),
}

fn parse_line(line: &[u8]) -> Result<RuleLine<'_>, &'static str> {
    if line.is_empty() || line.starts_with(b"#") || line.starts_with(b";") {
        return Ok(RuleLine::Nothing);
    }
    if line == b"!" {
        return Ok(RuleLine::Clear);
    }
    let (action, pattern) = match line {
        [b'-', b' ', pattern @ ..] => (RuleAction::Exclude, pattern),
        [b'+', b' ', pattern @ ..] => (RuleAction::Include, pattern),
        pattern => (RuleAction::Exclude, pattern),
    };
    if pattern.is_empty() {
        return Err("a rule needs a pattern");
    }
    if pattern.contains(&0) {
        return Err("a pattern cannot hold a NUL");
    }
    if pattern.len() > MAX_PATTERN {
        return Err("the pattern is longer than 4095 bytes");
    }
    Ok(RuleLine::Rule(action, pattern))
}

/// Lines end at a line feed; a carriage return ends one as well, as it does for rsync.
fn numbered_lines(content: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    content
        .split(|&b| b == b'\n')
        .enumerate()
        .flat_map(|(index, line)| line.split(|&b| b == b'\r').map(move |part| (index + 1, part)))
}

fn excerpt(text: &[u8]) -> &[u8] {
    &text[..text.len().min(80)]
}
