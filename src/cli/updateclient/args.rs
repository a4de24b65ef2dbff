//! What was typed.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::{CommandFactory, Parser};

use crate::host::{Check, Drift, MaxDelete};

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
  12  the newest generation is the one that a rollback fled from; nothing was changed
  13  the tree was updated, but what follows failed: the boot loader's tool, a post-update hook, or the reboot
  14  a pre-update hook stopped the update; nothing was changed";

/// The options of the old client: what abbreviated one of them then does so for ever.
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

/// Brings this node to the state of its image: by the small archive of what changed, or by rsync.
#[derive(Debug, Parser)]
#[command(name = "si_updateclient", version, infer_long_args = true, args_override_self = true, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Arguments {
    /// The image server; its repository is `http://HOST[:PORT]/` unless --repo names another
    #[arg(long, value_name = "HOST[:PORT]")]
    pub server: Option<String>,
    /// The image to follow; without it the server's scripts/cluster.txt decides
    #[arg(long, value_name = "NAME")]
    pub image: Option<String>,
    /// A small tree laid over the image; repeated, each over the ones before it
    #[arg(long, value_name = "NAME")]
    pub r#override: Vec<String>,
    /// Update by image diffs, and by a full sync where they do not lead to the image
    #[arg(long)]
    pub diff: bool,
    /// Update only this directory, of image and node alike; not with --diff
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Print what would be done to each path, and why this way; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Delete nothing that the image does not have; not with --diff
    #[arg(long)]
    pub no_delete: bool,
    /// Print a line for each path that changed, in the language of rsync's --out-format
    #[arg(long, value_name = "FORMAT")]
    pub log: Option<String>,
    /// Reach the image server through ssh, as this user
    #[arg(long, value_name = "USER")]
    pub ssh_user: Option<String>,
    /// Leave the boot loader alone when boot files changed
    #[arg(long)]
    pub no_bootloader: bool,
    /// Reboot when the update has succeeded
    #[arg(long)]
    pub reboot: bool,
    /// Do not ask; needed where nobody can be asked
    #[arg(long)]
    pub yes: bool,
    /// Install this node anew at its next boot
    #[arg(long, conflicts_with = "diff")]
    pub autoinstall: bool,
    /// The boot files for --autoinstall [default: standard, or the only one]
    #[arg(long, value_name = "NAME")]
    pub flavor: Option<String>,
    /// What the kernel of --autoinstall is told besides
    #[arg(long, value_name = "STRING")]
    pub append: Option<String>,
    /// Keep the network settings of this interface for --autoinstall, in /local.cfg
    #[arg(long, value_name = "DEVICE")]
    pub configure_from: Option<String>,
    /// The repository: http://, https://, file:/// or rsync://
    #[arg(long, value_name = "URL")]
    pub repo: Option<String>,
    /// The port of the server's rsync daemon [default: 873]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub rsync_port: Option<u16>,
    /// The tree to update; configuration is read below it
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// What the image does not touch, in the language of rsync's --exclude-from; /dev/null for nothing
    #[arg(long, value_name = "FILE")]
    pub exclude_file: Option<PathBuf>,
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
    #[arg(long)]
    pub adopt: bool,
    /// Print what is recorded of this node; change nothing
    #[arg(long, conflicts_with = "diff")]
    pub status: bool,
    /// Print where a path comes from: image, override, exclude, protected or local; change nothing
    #[arg(long, value_name = "PATH")]
    pub why: Option<PathBuf>,
    /// Print every setting with where it comes from; change nothing
    #[arg(long)]
    pub show_config: bool,
    /// Print which running services use files that were replaced, and whether a reboot is needed
    #[arg(long, conflicts_with = "diff")]
    pub needs_restarting: bool,
    /// Only finish an update that was interrupted; needs no network
    #[arg(long, conflicts_with = "diff")]
    pub recover: bool,
    /// Bring back what the last update displaced; needs no network
    #[arg(long, conflicts_with = "diff")]
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
    /// Wait up to so many seconds before beginning, each host its own time [default: 0]
    #[arg(long, value_name = "SECONDS")]
    pub splay: Option<u32>,
    /// Print nothing when nothing happened, one line when something did; warnings and errors always
    #[arg(long, short, conflicts_with = "json")]
    pub quiet: bool,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// The command line as clap knows it: for help, man pages and completions.
pub fn command() -> clap::Command {
    // Of these one at most says what is to be done.
    let jobs = [
        "autoinstall",
        "adopt",
        "status",
        "why",
        "show_config",
        "needs_restarting",
        "recover",
        "rollback",
    ];
    Arguments::command().group(clap::ArgGroup::new("job").args(jobs).multiple(false))
}

/// Reads the arguments of a process.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, clap::Error> {
    let command = command();
    let arguments = as_the_old_client_took_them(&command, arguments);
    let matches = command.try_get_matches_from(arguments)?;
    clap::FromArgMatches::from_arg_matches(&matches)
}

/// The old client took long options with one dash or two, or a plus, in any case, and abbreviated, and
/// whatever followed an option that takes a value was that value.
fn as_the_old_client_took_them(
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
        let Some((name, value)) = option(command, argument.as_bytes()) else {
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

/// The whole name of the option that `argument` is, as far as one is meant, and its value after a `=`.
fn option<'a>(command: &clap::Command, argument: &'a [u8]) -> Option<(String, Option<&'a [u8]>)> {
    let word = [&b"--"[..], b"-", b"+"].iter().find_map(|&prefix| argument.strip_prefix(prefix))?;
    let end = word.iter().position(|&b| b == b'=').unwrap_or(word.len());
    let typed = std::str::from_utf8(&word[..end]).ok()?.to_ascii_lowercase().replace('_', "-");
    if !typed.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return None;
    }
    let known: Vec<&str> = command
        .get_arguments()
        .filter_map(clap::Arg::get_long)
        .chain(["help", "version"])
        .collect();
    let name = if known.contains(&typed.as_str()) {
        typed
    } else {
        let begins = |name: &&str| name.starts_with(&typed);
        let one = |mut found: Vec<&str>| (found.len() == 1).then(|| found.remove(0).to_owned());
        let historic: Vec<&str> = HISTORIC.into_iter().filter(begins).collect();
        match historic.len() {
            0 => one(known.into_iter().filter(begins).collect()).unwrap_or(typed),
            _ => one(historic).unwrap_or(typed),
        }
    };
    Some((name, word.get(end + 1..)))
}

fn takes_value(command: &clap::Command, name: &str) -> bool {
    let mut arguments = command.get_arguments();
    arguments
        .any(|argument| argument.get_long() == Some(name) && argument.get_action().takes_values())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_command_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn options_are_taken_as_the_old_client_took_them() {
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

    /// What the option before it takes is no option, whatever it looks like.
    #[test]
    fn what_follows_an_option_is_its_value() {
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

    /// Every abbreviation that told one historic option from the others still does.
    #[test]
    fn historic_abbreviations_keep_their_meaning() {
        let command = command();
        for name in HISTORIC {
            for end in 1..=name.len() {
                let short = &name[..end];
                if HISTORIC.iter().filter(|other| other.starts_with(short)).count() == 1 {
                    for typed in [format!("--{short}"), format!("-{}", short.to_ascii_uppercase())]
                    {
                        let meant = option(&command, typed.as_bytes()).map(|(name, _)| name);
                        assert_eq!(meant.as_deref(), Some(name), "{typed}");
                    }
                }
            }
        }
        let new = command
            .get_arguments()
            .filter_map(clap::Arg::get_long)
            .filter(|name| !HISTORIC.contains(name));
        for name in new {
            let short = HISTORIC.iter().find(|historic| historic.starts_with(name));
            assert_eq!(short, None, "--{name} takes an abbreviation's meaning");
        }
    }

    #[test]
    fn what_was_ambiguous_is_refused() {
        for typed in ["--s", "--d", "-a", "--no-"] {
            assert!(parse(words(&[typed])).is_err(), "{typed}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for typed in [
            ["--diff", "--status"],
            ["--rollback", "--status"],
            ["--quiet", "--json"],
            ["--adopt", "--recover"],
        ] {
            assert!(parse(words(&typed)).is_err());
        }
    }
}
