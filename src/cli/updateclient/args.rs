//! The command line of `si_updateclient`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, Parser};

use crate::cli::terminal::Verbosity;
use crate::cli::updateclient::legacy_args;
use crate::host::{Check, Drift, MaxDelete};

/// `docs/operation.md` has the same table; a test compares both.
const EXIT_CODES: &str = "\
Exit codes:
  0   done: the node is at the head of its image, or the requested action succeeded
  1   internal failure of the program, or unwritable report; nothing was changed
  2   invalid command line or configuration; nothing was changed
  3   the server's data cannot be trusted; nothing was changed
  4   the server or the network failed; nothing was changed
  5   the update cannot be applied on this node (full, read-only, immutable, mounted \
  over); nothing was changed
  6   the update was interrupted after its commit point; the next run completes it
  7   another run is working on the tree
  8   a full sync is needed, but unavailable or forbidden; nothing was changed
  9   the update would delete more than is allowed; nothing was changed
  10  the node deviates from its image, and deviations are only reported
  11  cancelled before anything was changed
  12  the newest generation is pinned after a rollback; nothing was installed
  13  the tree was updated, but a later step failed: the boot loader's tool, a \
  post-update hook, or the reboot
  14  a pre-update hook stopped the update; nothing was changed
  15  the tree was updated, except paths of users that were left out; the next run tries \
  them again
  16  the downloaded update may not be installed now (paused or superseded); nothing was changed";

// Headings of the help, in its order. The fields of `Arguments` have the same order.
const TARGET: &str = "Target";
const UPDATE: &str = "Update";
const LIMITS: &str = "Limits";
const VERIFICATION: &str = "Verification and repair";
const RECOVERY: &str = "Recovery and rollback";
const REINSTALLATION: &str = "Reinstallation";
const OUTPUT: &str = "Reports and output";

// clap does not report a missing required option that conflicts with one that is given. So an option
// for one job also conflicts with the other jobs.
const OTHER_THAN_RECOVER: [&str; 11] = [
    "verify",
    "repair",
    "diff",
    "autoinstall",
    "adopt",
    "status",
    "why",
    "show_config",
    "needs_restarting",
    "rollback",
    "json",
];
const OTHER_THAN_ROLLBACK: [&str; 10] = [
    "verify",
    "repair",
    "diff",
    "autoinstall",
    "adopt",
    "status",
    "why",
    "show_config",
    "needs_restarting",
    "recover",
];
const OTHER_THAN_VERIFY: [&str; 10] = [
    "repair",
    "diff",
    "autoinstall",
    "adopt",
    "status",
    "why",
    "show_config",
    "needs_restarting",
    "recover",
    "rollback",
];

/// Update this node to the state of its image, by a small diff or by rsync.
#[derive(Debug, Parser)]
#[command(
    name = "si_updateclient",
    version,
    infer_long_args = true,
    args_override_self = true,
    after_help = EXIT_CODES,
    max_term_width = 100
)]
pub struct Arguments {
    /// Image server; its repository is `http://HOST[:PORT]/`, unless --repo names another
    #[arg(long, help_heading = TARGET, value_name = "HOST[:PORT]")]
    pub server: Option<String>,
    /// Image of this node [default: as the server's cluster.txt says]
    #[arg(long, help_heading = TARGET, value_name = "NAME")]
    pub image: Option<String>,
    /// Copy this override over the image; can be repeated, each over those before it
    #[arg(long, help_heading = TARGET, value_name = "NAME")]
    pub r#override: Vec<String>,
    /// Update only this directory of the image; not with --diff
    #[arg(long, help_heading = TARGET, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Tree to update; its configuration files are used
    #[arg(long, help_heading = TARGET, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Repository: an http://, https://, file:/// or rsync:// URL [default: http://SERVER/]
    #[arg(long, help_heading = TARGET, value_name = "URL")]
    pub repo: Option<String>,
    /// Port of the server's rsync daemon [default: 873]
    #[arg(
        long,
        help_heading = TARGET,
        value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub rsync_port: Option<u16>,
    /// Connect to the image server through ssh, as this user
    #[arg(long, help_heading = TARGET, value_name = "USER")]
    pub ssh_user: Option<String>,
    /// Update by diffs from the repository, and by a full sync if diffs cannot be used
    #[arg(long, help_heading = UPDATE)]
    pub diff: bool,
    /// With --diff: only download the update, at idle priority; the tree is not changed
    #[arg(
        long,
        help_heading = UPDATE,
        requires = "diff",
        conflicts_with_all = ["from_downloaded", "adopt", "reboot"],
        long_help = "With --diff: only download the update, and keep it on this node. All of it is \
        fetched, verified, decoded and rebuilt at idle priority, and the tree is not changed. No \
        hook runs. A later --diff --from-downloaded installs it; so does --diff, if it still leads \
        to the head"
    )]
    pub download_only: bool,
    /// With --diff: install the update that --download-only has kept, without a network
    #[arg(
        long,
        help_heading = UPDATE,
        requires = "diff",
        conflicts_with = "adopt",
        long_help = "With --diff: install the update that --download-only has kept, without a \
        network. The server is asked for at most one second whether it has paused or superseded \
        the update (exit code 16); without an answer the update is installed. Paths that were \
        changed since the download, and whose content is not on this node, are left out (exit code \
        15), and the next --diff repairs them"
    )]
    pub from_downloaded: bool,
    /// Only find the published generation that this tree is closest to, and record it
    #[arg(long, help_heading = UPDATE)]
    pub adopt: bool,
    /// Check level: touched, update, stat or content [default: update]
    #[arg(
        long,
        help_heading = UPDATE,
        value_name = "LEVEL",
        long_help = "Check level, how closely the node is compared with its image:\n\
        touched: only paths that the update changes;\n\
        update: all tracked paths by type, size, time, owner and mode, if there is an update \
        (default);\n\
        stat: the same in every run, even if the node is up to date;\n\
        content: in every run, the digest of every file, and extended attributes"
    )]
    pub check: Option<Check>,
    /// Action for tracked paths that were changed on the node: repair, report or save-aside
    /// [default: repair]
    #[arg(
        long,
        help_heading = UPDATE,
        value_name = "ACTION",
        long_help = "Action for tracked paths that were changed on the node:\n\
        repair: they become those of the image again (default);\n\
        report: they stay, and are listed as deviations;\n\
        save-aside: as repair, and each file whose content was changed is first copied to \
        /var/lib/systemimager/client/saved"
    )]
    pub drift: Option<Drift>,
    /// Exclude rules, in the format of rsync's --exclude-from; /dev/null for none
    #[arg(long, help_heading = UPDATE, value_name = "FILE")]
    pub exclude_file: Option<PathBuf>,
    /// Ignore updateclient.toml and client.conf of the tree, which may be damaged
    #[arg(long, help_heading = UPDATE)]
    pub ignore_config: bool,
    /// Remove untracked paths: those that neither the image nor an exclude rule names
    #[arg(long, help_heading = UPDATE)]
    pub purge_untracked: bool,
    /// Do not run the boot loader's tool when boot files change
    #[arg(long, help_heading = UPDATE)]
    pub no_bootloader: bool,
    /// Reboot after a successful update
    #[arg(long, help_heading = UPDATE)]
    pub reboot: bool,
    /// Wait at most this many seconds before the run, a different time for each host [default: 0]
    #[arg(long, help_heading = UPDATE, value_name = "SECONDS")]
    pub splay: Option<u32>,
    /// Compressed files that are rebuilt at a time, at most 8 [default: a quarter of the processors]
    #[arg(long, help_heading = UPDATE, value_name = "N")]
    pub rebuild_jobs: Option<u32>,
    /// Do not ask for confirmation; required if there is no terminal
    #[arg(long, help_heading = UPDATE)]
    pub yes: bool,
    /// Largest number of deletions, in paths or in percent of the tracked paths [default: 25%]
    #[arg(long, help_heading = LIMITS, value_name = "N|N%")]
    pub max_delete: Option<MaxDelete>,
    /// Delete no path that the image does not have; not with --diff
    #[arg(long, help_heading = LIMITS)]
    pub no_delete: bool,
    /// Stop if a full sync is needed
    #[arg(long, help_heading = LIMITS)]
    pub no_fallback: bool,
    /// Accept a catalog older than the last one seen
    #[arg(long, help_heading = LIMITS)]
    pub allow_downgrade: bool,
    /// Accept a head that has expired, such as that of a mirror on a disk
    #[arg(long, help_heading = LIMITS)]
    pub allow_expired: bool,
    /// Forget the newest catalogs that this node has seen, before the run
    #[arg(long, help_heading = LIMITS)]
    pub forget_seen: bool,
    /// Use the public keys below DIR/etc/systemimager/keys, and the tree's own revocations
    #[arg(long, help_heading = LIMITS, value_name = "DIR")]
    pub keys_from: Option<PathBuf>,
    /// Update a root filesystem of this type, although it is not known to be safe
    #[arg(long, help_heading = LIMITS, value_name = "TYPE")]
    pub allow_root_fs: Vec<String>,
    /// Read every tracked path, or those at and below PATH, and print what differs; change nothing
    #[arg(
        long,
        help_heading = VERIFICATION,
        value_name = "PATH",
        num_args = 0..,
        conflicts_with = "diff",
        long_help = "Read every tracked path, or those at and below PATH, and print each that \
        differs from the recorded generation, with the change that would repair it. Says of each \
        whether the newest published generation differs too; without a network this is left out. \
        Changes nothing"
    )]
    pub verify: Option<Vec<PathBuf>>,
    /// With --verify: compare with this published generation: head, a serial, or the begin of an id
    #[arg(
        long,
        help_heading = VERIFICATION,
        value_name = "GENERATION",
        requires = "verify",
        conflicts_with_all = OTHER_THAN_VERIFY
    )]
    pub against: Option<String>,
    /// Restore every tracked path, or those at and below PATH, as the recorded generation has it
    #[arg(
        long,
        help_heading = VERIFICATION,
        value_name = "PATH",
        num_args = 0..,
        conflicts_with = "diff",
        long_help = "Restore every tracked path, or those at and below PATH, as the recorded \
        generation has it, in one transaction; install no other generation. Content comes from this \
        tree, or else by digest from the repository, or else from the rsync daemon: a server is \
        needed only if the tree lacks a content"
    )]
    pub repair: Option<Vec<PathBuf>>,
    /// Only complete an interrupted update, without network access
    #[arg(long, help_heading = RECOVERY, conflicts_with = "diff")]
    pub recover: bool,
    /// Print the disks of the tree's fstab that are not mounted, and change nothing
    #[arg(
        long,
        help_heading = RECOVERY,
        conflicts_with_all = OTHER_THAN_RECOVER,
        long_help = "Print the disks of the tree's /etc/fstab that are not mounted, and change \
        nothing; with --recover those that it needs, also without an entry there. Each line has \
        the mount point and, if it can be mounted, device, type and options, separated by spaces. \
        Unusual bytes are written as \\0ooo. An initramfs mounts these filesystems before an \
        update or a recovery"
    )]
    pub list_filesystems: bool,
    /// Undo the last update, without network access
    #[arg(long, help_heading = RECOVERY, conflicts_with = "diff")]
    pub rollback: bool,
    /// With --rollback: leave out the lost filesystem of this mount point; can be repeated
    #[arg(
        long,
        help_heading = RECOVERY,
        value_name = "PATH",
        requires = "rollback",
        conflicts_with_all = OTHER_THAN_ROLLBACK
    )]
    pub skip_filesystem: Vec<PathBuf>,
    /// Install the newest generation even if a rollback has pinned it
    #[arg(long, help_heading = RECOVERY)]
    pub unhold: bool,
    /// Reinstall this node at its next boot
    #[arg(long, help_heading = REINSTALLATION, conflicts_with = "diff")]
    pub autoinstall: bool,
    /// Boot files for --autoinstall [default: standard, or the only flavor of the server]
    #[arg(long, help_heading = REINSTALLATION, value_name = "NAME")]
    pub flavor: Option<String>,
    /// Append these parameters to the kernel command line of --autoinstall
    #[arg(long, help_heading = REINSTALLATION, value_name = "PARAMETERS")]
    pub append: Option<String>,
    /// Write the network settings of this interface to /local.cfg, for --autoinstall
    #[arg(long, help_heading = REINSTALLATION, value_name = "DEVICE")]
    pub configure_from: Option<String>,
    /// Print the change of each path and the chosen strategy, and change nothing
    #[arg(long, help_heading = OUTPUT)]
    pub dry_run: bool,
    /// Print the recorded state of this node, and change nothing
    #[arg(long, help_heading = OUTPUT, conflicts_with = "diff")]
    pub status: bool,
    /// Print the source of a path: image, override, exclude, protected or local; change nothing
    #[arg(long, help_heading = OUTPUT, value_name = "PATH")]
    pub why: Option<PathBuf>,
    /// Print every setting and its source, and change nothing
    #[arg(long, help_heading = OUTPUT)]
    pub show_config: bool,
    /// Print the running services that use replaced files, and if a reboot is needed
    #[arg(long, help_heading = OUTPUT, conflicts_with = "diff")]
    pub needs_restarting: bool,
    /// Print a line for each changed path, in the format of rsync's --out-format
    #[arg(long, help_heading = OUTPUT, value_name = "FORMAT")]
    pub log: Option<String>,
    /// Print only warnings and errors, and one line if something changed
    #[arg(long, help_heading = OUTPUT, short, conflicts_with = "json")]
    pub quiet: bool,
    /// Print one JSON object per line
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
}

/// Form of the output on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputMode {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Arguments {
    /// Form of the output, by `--json`.
    pub fn output_mode(&self) -> OutputMode {
        if self.json { OutputMode::Json } else { OutputMode::Text }
    }

    /// Amount of output, by `--quiet`.
    pub fn verbosity(&self) -> Verbosity {
        if self.quiet { Verbosity::Quiet } else { Verbosity::Normal }
    }

    /// Whether the run asks the repository itself.
    pub fn asks_repository(&self) -> bool {
        self.diff || self.adopt || self.verify.is_some() || self.repair.is_some()
    }

    /// Whether the run only reports and changes nothing.
    pub fn is_read_only(&self) -> bool {
        self.dry_run
            || self.status
            || self.show_config
            || self.why.is_some()
            || self.needs_restarting
            || self.list_filesystems
            || self.verify.is_some()
    }
}

/// The command line as clap knows it: for help, man pages and completions.
pub fn command() -> clap::Command {
    // These options name the job of the run, and exclude each other.
    let jobs = [
        "autoinstall",
        "adopt",
        "status",
        "why",
        "show_config",
        "needs_restarting",
        "recover",
        "rollback",
        "verify",
        "repair",
    ];
    Arguments::command().group(clap::ArgGroup::new("job").args(jobs).multiple(false))
}

/// Parses the arguments of a process, in today's or in the old client's spelling.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, clap::Error> {
    let command = command();
    let arguments = legacy_args::normalize(&command, arguments);
    let matches = command.try_get_matches_from(arguments)?;
    clap::FromArgMatches::from_arg_matches(&matches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_option_has_heading() {
        let command = command();

        let without: Vec<&str> = command
            .get_arguments()
            .filter(|option| option.get_help_heading().is_none())
            .map(|option| option.get_id().as_str())
            .collect();

        assert!(without.is_empty(), "{without:?}");
    }

    #[test]
    fn contradictory_options_are_refused() {
        for options in [
            ["--diff", "--status"],
            ["--rollback", "--status"],
            ["--quiet", "--json"],
            ["--adopt", "--recover"],
        ] {
            let words = ["si_updateclient"].iter().chain(&options).map(OsString::from);
            assert!(parse(words).is_err(), "{options:?}");
        }
    }

    #[test]
    fn options_of_one_job_are_refused_with_others() {
        for (option, own, is_job) in [
            ("--list-filesystems", "--recover", true),
            ("--skip-filesystem=/boot", "--rollback", false),
            ("--against=head", "--verify", false),
        ] {
            let is_valid = |job: Option<&str>| {
                let words = ["si_updateclient", option].into_iter().chain(job);
                parse(words.map(OsString::from)).is_ok()
            };

            assert!(is_valid(Some(own)));
            for job in ["--diff", "--status", "--adopt", "--why=/etc", "--needs-restarting"] {
                assert!(!is_valid(Some(job)), "{option} {job}");
            }
            assert_eq!(is_valid(None), is_job, "{option}");
        }
    }
}
