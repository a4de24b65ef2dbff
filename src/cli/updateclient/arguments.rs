//! What was typed.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::{CommandFactory, Parser};

use crate::host::{Check, Drift, MaxDelete};
use crate::image::ImageName;

const EXIT_CODES: &str = "\
Exit codes:
  0   done: the node is at the head of its image, or what was asked for was done
  1   a failure of the program itself; nothing was changed
  2   the command line or the configuration makes no sense; nothing was changed
  3   what the server offers is not to be trusted; nothing was changed
  4   the server or the network failed; nothing was changed
  5   this node does not take the change (no room, read-only, immutable, mounted over); nothing was changed
  6   the tree is between two generations; the next run finishes what was begun
  7   another run works on the tree
  8   only a full sync would help, and there is none, or it is forbidden; nothing was changed
  9   more would be deleted than is allowed; nothing was changed
  10  the node deviates from its image, and deviations are only reported
  11  stopped on request, before anything was changed
  12  the newest generation is the one that a rollback fled from; nothing was changed";

/// Brings this node to the published state of its image, by the small archive of what changed.
#[derive(Debug, Parser)]
#[command(name = "si_updateclient", version, infer_long_args = true, args_override_self = true, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Arguments {
    /// Update by image diffs, and by a full sync where they do not lead to the image
    #[arg(long)]
    pub diff: bool,
    /// The image server; its repository is `http://HOST[:PORT]/` unless --repo names another
    #[arg(long, value_name = "HOST[:PORT]")]
    pub server: Option<String>,
    /// The image to follow
    #[arg(long, value_name = "NAME")]
    pub image: Option<ImageName>,
    /// The repository: http://, https://, file:/// or rsync://
    #[arg(long, value_name = "URL")]
    pub repo: Option<String>,
    /// The port of the server's rsync daemon, for a full sync [default: 873]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub rsync_port: Option<u16>,
    /// The tree to update; configuration is read below it
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// What the image does not touch, in the language of rsync's --exclude-from; /dev/null for nothing
    #[arg(long, value_name = "FILE")]
    pub exclude_file: Option<PathBuf>,
    /// Print what would be done to each path, and why this way; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask, where a person could be asked
    #[arg(long)]
    pub yes: bool,
    /// Stop where only a full sync would help
    #[arg(long)]
    pub no_fallback: bool,
    /// How closely the node is compared: touched, update, stat or content [default: update]
    #[arg(
        long,
        value_name = "HOW",
        long_help = "How closely the node is compared with what it should be:\n\
        touched: only the paths that an update changes;\n\
        update: all tracked paths by type, size, time, owner and mode, when there is an update (default);\n\
        stat: the same at every run, also when the node is up to date;\n\
        content: at every run, every file by its digest, and extended attributes"
    )]
    pub check: Option<Check>,
    /// What happens to tracked paths that were changed on the node: repair or report [default: repair]
    #[arg(long, value_name = "WHAT")]
    pub drift: Option<Drift>,
    /// The most that a run may delete, in paths or in percent of the tracked ones [default: 25%]
    #[arg(long, value_name = "N|N%")]
    pub max_delete: Option<MaxDelete>,
    /// Remove what neither the image nor the exclude file names
    #[arg(long)]
    pub purge_untracked: bool,
    /// Only find out which published generation this tree is, and record that
    #[arg(long, conflicts_with_all = ["status", "recover"])]
    pub adopt: bool,
    /// Print what is recorded of this node; change nothing
    #[arg(long, conflicts_with = "diff")]
    pub status: bool,
    /// Only finish an update that was interrupted; needs no network
    #[arg(long, conflicts_with_all = ["diff", "status"])]
    pub recover: bool,
    /// Bring back what the last update displaced; needs no network
    #[arg(long, conflicts_with_all = ["diff", "status", "recover", "adopt"])]
    pub rollback: bool,
    /// Update also to the generation that a rollback fled from
    #[arg(long, requires = "diff")]
    pub unhold: bool,
    /// Accept a catalog that is older than one seen before
    #[arg(long)]
    pub allow_downgrade: bool,
    /// Update a tree on this kind of filesystem though that is not known to be safe
    #[arg(long, value_name = "TYPE")]
    pub allow_root_fs: Vec<String>,
    /// Print warnings and errors only
    #[arg(long, short, conflicts_with = "json")]
    pub quiet: bool,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
    /// A subtree of image and node alike; not with --diff
    #[arg(long, value_name = "DIR", hide = true)]
    pub directory: Option<PathBuf>,
}

/// The command line as clap knows it: for help, man pages and completions.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Reads the arguments of a process.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, clap::Error> {
    let mut rest = false;
    let arguments = arguments.into_iter().enumerate().map(|(at, argument)| {
        rest |= argument == "--";
        if at == 0 || rest { argument } else { as_the_old_client_took_it(argument) }
    });
    Arguments::try_parse_from(arguments)
}

/// The old client took long options with one dash and in any case.
fn as_the_old_client_took_it(argument: OsString) -> OsString {
    let bytes = argument.as_bytes();
    let dashes = bytes.iter().take_while(|&&b| b == b'-').count();
    let word = &bytes[dashes..];
    if dashes == 0 || dashes > 2 || word.len() < 2 || !word[0].is_ascii_alphabetic() {
        return argument;
    }
    let end = word.iter().position(|&b| b == b'=').unwrap_or(word.len());
    let mut normal = b"--".to_vec();
    normal.extend(word[..end].iter().map(|b| if *b == b'_' { b'-' } else { b.to_ascii_lowercase() }));
    normal.extend_from_slice(&word[end..]);
    OsString::from_vec(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Arguments {
        let words = std::iter::once("si_updateclient").chain(words.iter().copied()).map(OsString::from);
        parse(words).expect("a good command line")
    }

    #[test]
    fn the_command_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn options_are_taken_as_the_old_client_took_them() {
        let arguments = parsed(&["-Server", "head", "--IMAGE=node", "-diff", "--dry-run", "--excl", "/dev/null"]);
        assert_eq!(arguments.server.as_deref(), Some("head"));
        assert_eq!(arguments.image.map(|i| i.to_string()).as_deref(), Some("node"));
        assert!(arguments.diff && arguments.dry_run);
        assert_eq!(arguments.exclude_file, Some(PathBuf::from("/dev/null")));
    }

    #[test]
    fn contradictions_are_refused() {
        for words in [["--diff", "--status"], ["--quiet", "--json"], ["--adopt", "--recover"]] {
            let words = std::iter::once("si_updateclient").chain(words).map(OsString::from);
            assert!(parse(words).is_err());
        }
    }
}
