//! Spelling of options as the old client accepted it (Perl's `Getopt::Long`).
//!
//! Long options begin with one dash, two, or a plus; case does not matter; they can be abbreviated.
//! The word after an option that takes a value is its value, even if it begins with a dash.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Options of the old client. Their abbreviations are frozen: no new option makes one ambiguous.
const HISTORIC: [&str; 17] = [
    "append",
    "autoinstall",
    "configure-from",
    "directory",
    "dry-run",
    "flavor",
    "help",
    "image",
    "log",
    "no-bootloader",
    "no-delete",
    "override",
    "reboot",
    "server",
    "ssh-user",
    "version",
    "yes",
];

/// Rewrites the arguments of a process in today's spelling, `--NAME` or `--NAME=VALUE`.
pub fn normalize(
    command: &clap::Command,
    arguments: impl IntoIterator<Item = OsString>,
) -> Vec<OsString> {
    let mut arguments = arguments.into_iter();
    let mut normal: Vec<OsString> = arguments.next().into_iter().collect();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            normal.push(argument);
            break;
        }
        let Some((name, value)) = parse_option(command, argument.as_bytes()) else {
            normal.push(argument);
            continue;
        };

        let mut option = format!("--{name}").into_bytes();
        let value = match value {
            Some(value) => Some(value.to_vec()),
            None if takes_value(command, &name) => arguments.next().map(OsStringExt::into_vec),
            None => None,
        };
        if let Some(value) = value {
            option.push(b'=');
            option.extend(value);
        }
        normal.push(OsString::from_vec(option));
    }

    normal.extend(arguments);
    normal
}

/// The full name of an option, and its value after a `=`; `None` if `argument` is no option.
fn parse_option<'a>(
    command: &clap::Command,
    argument: &'a [u8],
) -> Option<(String, Option<&'a [u8]>)> {
    let word = [&b"--"[..], b"-", b"+"].iter().find_map(|&prefix| argument.strip_prefix(prefix))?;
    let end = word.iter().position(|&b| b == b'=').unwrap_or(word.len());
    let typed = std::str::from_utf8(&word[..end]).ok()?.to_ascii_lowercase().replace('_', "-");
    if !typed.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return None;
    }

    Some((expand(command, typed), word.get(end + 1..)))
}

/// The full name for an abbreviation; the abbreviation itself if it is ambiguous or unknown.
fn expand(command: &clap::Command, typed: String) -> String {
    let known: Vec<&str> = command
        .get_arguments()
        .filter_map(clap::Arg::get_long)
        .chain(["help", "version"])
        .collect();
    if known.contains(&typed.as_str()) {
        return typed;
    }

    let mut candidates = with_prefix(HISTORIC, &typed);
    if candidates.is_empty() {
        candidates = with_prefix(known, &typed);
    }
    match candidates[..] {
        [name] => name.to_owned(),
        _ => typed,
    }
}

fn with_prefix<'n>(names: impl IntoIterator<Item = &'n str>, prefix: &str) -> Vec<&'n str> {
    names.into_iter().filter(|name| name.starts_with(prefix)).collect()
}

/// Whether an option has at least one value: the word after it.
fn takes_value(command: &clap::Command, name: &str) -> bool {
    command.get_arguments().any(|argument| {
        let may_have_none = argument.get_num_args().is_some_and(|number| number.min_values() == 0);
        argument.get_long() == Some(name) && argument.get_action().takes_values() && !may_have_none
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::cli::updateclient::args::{Arguments, command, parse};

    fn words(words: &[&str]) -> Vec<OsString> {
        std::iter::once("si_updateclient")
            .chain(words.iter().copied())
            .map(OsString::from)
            .collect()
    }

    fn parsed(typed: &[&str]) -> Arguments {
        parse(words(typed)).unwrap_or_else(|error| panic!("{typed:?}: {error}"))
    }

    #[test]
    fn spelling_of_old_client_is_accepted() {
        let arguments = parsed(&[
            "-Server",
            "head",
            "--IMAGE=node",
            "-diff",
            "--dry-run",
            "--excl",
            "/dev/null",
            "+Y",
        ]);

        assert_eq!(arguments.server.as_deref(), Some("head"));
        assert_eq!(arguments.image.as_deref(), Some("node"));
        assert!(arguments.diff && arguments.dry_run && arguments.yes);
        assert_eq!(arguments.exclude_file, Some(PathBuf::from("/dev/null")));
        let overrides = parsed(&["-override", "a", "--OVERRIDE", "b"]).r#override;
        assert_eq!(overrides, ["a", "b"]);
    }

    #[test]
    fn word_after_option_is_its_value() {
        let arguments = parsed(&[
            "--append",
            "-Quiet --Root=/x",
            "--log",
            "%o %f",
            "--image",
            "-node",
            "--yes",
        ]);

        assert_eq!(arguments.append.as_deref(), Some("-Quiet --Root=/x"));
        assert_eq!(arguments.image.as_deref(), Some("-node"));
        assert_eq!(arguments.log.as_deref(), Some("%o %f"));
        assert!(arguments.yes && !arguments.quiet);
    }

    #[test]
    fn option_with_optional_values_leaves_options_alone() {
        let arguments = parsed(&["--verify", "--json", "--root", "/x"]);
        assert_eq!(arguments.verify, Some(Vec::new()));
        assert!(arguments.json && arguments.root.as_os_str() == "/x");

        let arguments = parsed(&["-Verify", "/etc", "/usr", "--quiet"]);
        assert_eq!(arguments.verify, Some(vec!["/etc".into(), "/usr".into()]));
        assert!(arguments.quiet);
    }

    #[test]
    fn historic_abbreviations_keep_their_meaning() {
        let command = command();

        for name in HISTORIC {
            for end in 1..=name.len() {
                let short = &name[..end];
                if with_prefix(HISTORIC, short).len() > 1 {
                    continue;
                }
                for typed in [format!("--{short}"), format!("-{}", short.to_ascii_uppercase())] {
                    let option = parse_option(&command, typed.as_bytes()).map(|(name, _)| name);
                    assert_eq!(option.as_deref(), Some(name), "{typed}");
                }
            }
        }

        let new_names = command
            .get_arguments()
            .filter_map(clap::Arg::get_long)
            .filter(|name| !HISTORIC.contains(name));
        for name in new_names {
            let historic = with_prefix(HISTORIC, name);
            assert!(historic.is_empty(), "--{name} is an abbreviation of {historic:?}");
        }
    }

    #[test]
    fn ambiguous_abbreviations_are_refused() {
        for typed in ["--s", "--d", "-a", "--no-"] {
            assert!(parse(words(&[typed])).is_err(), "{typed}");
        }
    }
}
