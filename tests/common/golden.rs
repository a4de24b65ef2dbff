//! Golden files: recorded output of the programs, below `tests/testdata/golden/`.
//!
//! A test passes the output through [`Masks`], which replaces values that vary between runs, and
//! compares it with the recorded file. `SI_UPDATE_GOLDEN=1` rewrites the files instead.

use std::fs;
use std::path::{Path, PathBuf};

/// Replaces values that differ between runs: identifiers, times, ports, paths of the test.
///
/// An identifier keeps its number for the life of the masks, so that a file shows which
/// identifiers are equal.
#[derive(Default)]
pub struct Masks {
    identifiers: Vec<String>,
    literals: Vec<(String, String)>,
}

/// Length of the abbreviated form of an identifier.
const SHORT: usize = 12;
/// Length of the part of a digest in the name of a file of a repository.
const IN_NAME: usize = 32;

impl Masks {
    /// Also replaces each occurrence of `text`.
    pub fn literal(mut self, text: impl Into<String>, placeholder: &str) -> Self {
        self.literals.push((text.into(), placeholder.to_owned()));
        self
    }

    /// Replaces everything that varies in `text`.
    pub fn apply(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        for (literal, placeholder) in &self.literals {
            text = text.replace(literal, placeholder);
        }

        let text = mask_times(&text);
        let text = mask_number_after(&text, "127.0.0.1:", "PORT");
        let text = mask_number_after(&text, "switched in ", "MS");
        let text = mask_summaries(&text);
        let text = mask_number_after(&text, "\"mixed_ms\":", "MS");
        let text = mask_between(&text, "one diff of ", " to the head", "SIZE");
        let text = mask_number_after(&text, "\"job\":\"download\",\"total\":", "SIZE");
        let text = mask_between(&text, "\"home\":\"", "\"", "TREE");
        let text = mask_between(&text, "\"etag\":\"\\\"", "\\\"", "ETAG");
        let text = mask_disk_usage(&text);

        self.mask_identifiers(&text)
    }

    /// Replaces runs of 64, 32 or 12 hexadecimal digits.
    fn mask_identifiers(&mut self, text: &str) -> String {
        let mut masked = String::new();
        let mut rest = text;

        while !rest.is_empty() {
            let run = rest.bytes().take_while(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).count();
            if run == SHORT || run == 64 {
                let number = self.number(&rest[..SHORT]);
                masked += &match run {
                    SHORT => format!("SHORT-ID-{number}"),
                    _ => format!("ID-{number}"),
                };
                rest = &rest[run..];
                continue;
            }

            if run == IN_NAME {
                masked += "DIGITS";
                rest = &rest[run..];
                continue;
            }

            let end = match run {
                0 => rest.chars().next().map_or(0, char::len_utf8),
                _ => run,
            };
            masked += &rest[..end];
            rest = &rest[end..];
        }

        masked
    }

    fn number(&mut self, short: &str) -> usize {
        let known = self.identifiers.iter().position(|known| known == short);
        known.unwrap_or_else(|| {
            self.identifiers.push(short.to_owned());
            self.identifiers.len() - 1
        }) + 1
    }
}

/// Replaces times of the form `2026-01-02T03:04:05.678Z`.
fn mask_times(text: &str) -> String {
    const FORM: &[u8] = b"0000-00-00T00:00:00";
    let is_time = |bytes: &[u8]| {
        bytes.len() >= FORM.len()
            && bytes.iter().zip(FORM).all(|(byte, form)| match form {
                b'0' => byte.is_ascii_digit(),
                _ => byte == form,
            })
    };

    let mut masked = String::new();
    let mut rest = text;

    while let Some(at) = rest.as_bytes().windows(FORM.len()).position(is_time) {
        masked += &rest[..at];
        masked += "TIME";
        rest = rest[at + FORM.len()..].trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
        rest = rest.strip_prefix('Z').unwrap_or(rest);
    }

    masked + rest
}

/// Replaces the decimal number after each occurrence of `prefix`.
pub fn mask_number_after(text: &str, prefix: &str, placeholder: &str) -> String {
    let mut parts = text.split(prefix);
    let mut masked = parts.next().unwrap_or_default().to_owned();

    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        masked += prefix;
        if rest.len() < part.len() {
            masked += placeholder;
        }
        masked += rest;
    }

    masked
}

/// Replaces the text between `begin` and the next `end`.
fn mask_between(text: &str, begin: &str, end: &str, placeholder: &str) -> String {
    let mut parts = text.split(begin);
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.find(end).map_or("", |at| &part[at..]);
        masked += &format!("{begin}{placeholder}{rest}");
    }
    masked
}

/// Replaces downloaded bytes in the summary of an update, and removes its total time.
///
/// A time that rounds to 0.0 s is not printed.
fn mask_summaries(text: &str) -> String {
    let mask_line = |line: &str| {
        let parts: Vec<&str> = line.split(", ").collect();
        let masked = parts.iter().filter_map(|part| {
            let is_size = part.starts_with(|first: char| first.is_ascii_digit());
            match (part.strip_suffix(" fetched"), part.trim_end().strip_prefix("total ")) {
                (Some(_), _) if is_size => Some("SIZE fetched"),
                (_, Some(time)) if time.ends_with(" s") => None,
                _ => Some(*part),
            }
        });
        masked.collect::<Vec<_>>().join(", ")
    };
    text.split('\n').map(mask_line).collect::<Vec<_>>().join("\n")
}

/// Replaces the size of the undo set, which depends on the filesystem.
fn mask_disk_usage(text: &str) -> String {
    let mask_line = |line: &str| match line.split_once(" on disk (") {
        Some((before, _)) => {
            let (before, _size) = before.rsplit_once("; ").expect("a size after a semicolon");
            format!("{before}; SIZE on disk (BYTES bytes)\n")
        }
        None if line.contains("\"event\":\"status\"") => {
            mask_number_after(line, "\"bytes\":", "BYTES")
        }
        None => line.to_owned(),
    };
    text.split_inclusive('\n').map(mask_line).collect()
}

/// Compares `text` with the golden file `name`, or rewrites the file.
#[track_caller]
pub fn check(name: &str, text: &str) {
    let path = directory().join(name);
    if std::env::var_os("SI_UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().expect("a file below the directory")).expect("makes it");
        fs::write(&path, text).expect("writes the golden file");
        return;
    }

    let recorded = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let differences = differences(&recorded, text);

    assert!(
        differences.is_empty(),
        "{name} differs from the recorded output; if that is intended, run the test with \
         SI_UPDATE_GOLDEN=1 and commit the file:\n{differences}"
    );
}

/// Lines that differ between the texts, in a form for people.
fn differences(recorded: &str, text: &str) -> String {
    let (recorded, text): (Vec<&str>, Vec<&str>) =
        (recorded.split('\n').collect(), text.split('\n').collect());
    let mut lines = String::new();

    for at in 0..recorded.len().max(text.len()) {
        let (old, new) = (recorded.get(at), text.get(at));
        if old == new {
            continue;
        }

        for (sign, line) in [('-', old), ('+', new)] {
            if let Some(line) = line {
                lines += &format!("{:>4} {sign} {line}\n", at + 1);
            }
        }
    }

    lines
}

/// The directory of the golden files.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/golden")
}
