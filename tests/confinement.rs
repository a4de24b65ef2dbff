//! Confinement of rsync: a program that the server controls can write to one directory only.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item, Tree};
use crate::common::{ROOT_AND_RSYNC, require, updateclient, write_program};

/// Note of a run whose rsync was not confined.
const NOTE: &str = "rsync ran with the rights of this program";

/// Attempts to write outside of the working directory, which is `$outside`, and inside.
///
/// The words of its message name the attempts that succeeded.
const TAKEN_OVER: &str = r#"#!/bin/sh
done=
try() { name=$1; shift; if "$@" 2>/dev/null; then done="$done $name"; fi; }
overwrite() { echo forged 2>/dev/null >"$1"; }
try overwrite overwrite "$outside/file"
try create overwrite "$outside/new"
try truncate truncate -s 0 "$outside/file"
try mkdir mkdir "$outside/directory"
try symlink ln -s file "$outside/symlink"
try link ln "$outside/file" "$outside/link"
try device mknod "$outside/device" c 1 3
try rename mv "$outside/file" "$outside/moved"
try remove rm -f "$outside/file"
try take mv "$outside/file" taken
try plant overwrite "/proc/self/cwd/../planted"
try inside overwrite inside
try null overwrite /dev/null
privileges=$(sed -n 's/^NoNewPrivs:[^0-9]*//p' /proc/self/status)
echo "attempts that succeeded:$done, NoNewPrivs $privileges" >&2
exit 5
"#;

fn tree(motd: &str) -> Tree {
    let mut tree = trees::system();
    trees::put(&mut tree, "etc/motd", Item::file(motd));
    tree
}

/// The command of a run without diffs.
fn by_rsync(site: &Site) -> Command {
    let mut command = Command::new(updateclient());
    command.args(["--yes", "--image", "node", "--server", "127.0.0.1", "--rsync-port"]);
    command.arg(site.rsync_port().expect("a daemon").to_string());
    command.args(["--exclude-file", "/dev/null", "--root"]).arg(site.node());
    command
}

/// Makes the rsync program that the node runs one that is taken over.
fn take_over(command: &mut Command, place: &Path) {
    let outside = place.join("outside");
    fs::create_dir_all(&outside).expect("a directory");
    fs::write(outside.join("file"), "sentinel").expect("writes");
    let script =
        TAKEN_OVER.replacen("done=", &format!("outside='{}'\ndone=", outside.display()), 1);
    write_program(&place.join("bin/rsync"), &script);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(place.join("bin")).chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(dirs).expect("a path"));
}

#[test]
fn rsync_writes_only_below_its_directory() {
    require!(ROOT_AND_RSYNC, Landlock);
    let site = Site::at(&tree("one")).with_rsync_repository();
    site.publish(&tree("two"));
    let snapshot = site.snapshot();

    for (way, mut command) in [("full-sync", by_rsync(&site)), ("repository", site.command())] {
        let place = site.dir.path().join(way);
        take_over(&mut command, &place);

        let run = Run::from_output(command.output().expect("si_updateclient runs"));

        assert_ne!(run.code, 0, "{way}: {run:#?}");
        let words = "attempts that succeeded: inside null, NoNewPrivs 1";
        assert!(run.err.contains(words), "{way}: {run:#?}");
        assert!(!run.err.contains(NOTE), "{way}: {run:#?}");
        let names: Vec<_> = fs::read_dir(place.join("outside")).expect("is there").collect();
        assert_eq!(names.len(), 1, "{way}: {names:?}");
        assert_eq!(crate::common::read(&place.join("outside/file")), "sentinel", "{way}");
    }
    crate::common::judge::same(&snapshot, &site.node(), &[]);
}

#[test]
fn kernel_without_landlock_is_noted_once() {
    require!(ROOT_AND_RSYNC, Program("strace"));

    // The second: the kernel names a version, and refuses to use it.
    for fault in ["error=ENOSYS", "error=EINVAL:when=2+"] {
        let site = Site::at(&tree("one")).with_rsync();
        site.publish(&tree("two"));
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=landlock_create_ruleset", "-e"]);
        command.arg(format!("inject=landlock_create_ruleset:{fault}"));
        let client = by_rsync(&site);
        command.arg(client.get_program()).args(client.get_args());

        let run = Run::from_output(command.output().expect("strace runs"));

        assert_eq!(run.code, 0, "{fault}: {run:#?}");
        assert_eq!(run.err.matches(NOTE).count(), 1, "{fault}: {run:#?}");
        crate::common::judge::same(&site.image(), &site.node(), &[]);
    }
}
