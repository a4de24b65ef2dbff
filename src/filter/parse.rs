//! Reader of exclude files, with the syntax of rsync's `--exclude-from`.

use super::pattern::{MAX_PATTERN, Pattern};
use super::{Rule, RuleAction, RuleOrigin};
use crate::printable::Quoted;

/// Largest exclude file, in bytes.
pub const MAX_EXCLUDE_FILE: usize = 1 << 20;
/// Largest number of rules: each path is matched against each of them.
pub const MAX_RULES: usize = 10_000;
/// Length of the excerpt of a bad line in a message.
const MAX_EXCERPT: usize = 80;

/// A line of an exclude file that is not a rule.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{file}:{line}: {why}: {}", Quoted(.text))]
pub struct BadRule {
    file: String,
    line: usize,
    why: &'static str,
    text: Vec<u8>,
}

enum RuleLine<'a> {
    Nothing,
    Clear,
    Rule(RuleAction, &'a [u8]),
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
        text: text[..text.len().min(MAX_EXCERPT)].to_vec(),
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

/// Lines with their number from 1; a carriage return ends a line too, but is not counted.
fn numbered_lines(content: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    content
        .split(|&b| b == b'\n')
        .enumerate()
        .flat_map(|(index, line)| line.split(|&b| b == b'\r').map(move |part| (index + 1, part)))
}
