//! Attributes that a parent process passes on: signals, limits, descriptors, environment, umask,
//! and outputs that cannot be written.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::machine;
use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item};
use crate::common::{ROOT_AND_RSYNC, judge, require, write_program};

/// Paths that the image does not have; `busybox` may need the libraries.
const OWN: &[&str] = &["/etc/systemimager", "/bin", "/lib", "/lib64", "/note"];

/// A node behind its image, with a hook that runs `script` before the update.
fn site_with_hook(script: &str) -> Site {
    let mut tree = trees::system();
    let site = Site::at(&tree);
    trees::put(&mut tree, "etc/new", Item::file("x".repeat(4000)));
    site.publish(&tree);
    let hooks = site.node().join("etc/systemimager/hooks.d/pre-update.d");
    fs::create_dir_all(&hooks).expect("creates");
    write_program(&hooks.join("hook"), &format!("#!/bin/sh\n{script}\n"));
    machine::install_busybox(&site.node(), &["sh", "env"]);
    site
}

/// A command that updates the node by rsync alone.
fn rsync_command(site: &Site) -> Command {
    let mut client = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    client.args(["--yes", "--image", "node", "--server", "127.0.0.1", "--exclude-file"]);
    client.args(["/dev/null", "--rsync-port", &site.rsync_port().expect("a port").to_string()]);
    client.args(["--max-delete", "100"]);
    client.arg("--root").arg(site.node());
    client
}

/// Runs `client` as the last command of a shell script, which has it as `"$@"`.
fn run_from_shell(script: &str, client: &Command) -> Run {
    run_after(&["sh", "-c", script, "sh"], client)
}

/// Runs `client` through other programs.
fn run_after(words: &[&str], client: &Command) -> Run {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(client.get_program()).args(client.get_args());
    Run::from_output(command.stdin(Stdio::null()).output().expect("runs"))
}

#[test]
fn ignored_sigchld_of_parent_does_not_fail_children() {
    require!(ROOT_AND_RSYNC, Program("busybox"));
    let site = site_with_hook("exit 0");

    let run = run_after(&["env", "--ignore-signal=CHLD", "--ignore-signal=TERM"], &site.command());

    run.ended(0, &["updated"]);
    site.same_except(OWN);
}

#[test]
fn file_size_limit_is_raised_or_refused() {
    require!(ROOT_AND_RSYNC, Program("busybox"), Program("setpriv"));
    let site = site_with_hook("exit 0");
    let before = site.snapshot();

    let words = ["setpriv", "--inh-caps=-sys_resource", "--bounding-set=-sys_resource", "sh", "-c"];
    let run =
        run_after(&[&words[..], &["ulimit -f 2; exec \"$@\"", "sh"]].concat(), &site.command());
    run.ended(5, &["at most 1024 bytes", "ulimit -f", "nothing was changed"]);
    site.unchanged_since(&before);

    run_from_shell("ulimit -S -f 2; exec \"$@\"", &site.command()).ended(0, &["updated"]);
    site.same_except(OWN);
}

#[test]
fn hook_gets_fixed_environment_umask_and_no_descriptors() {
    require!(ROOT_AND_RSYNC, Program("busybox"));
    let site = site_with_hook(
        "exec >/note; env; umask; for n in 3 4 5 6 7 8 9; do ( : >&$n ) && echo open $n; done; :",
    );

    let script = "exec 7</etc/passwd 9</; umask 077; IFS=x BASH_ENV=/x ENV=/x \
                  SI_STAGE=forged HOME=/tmp LANG=de_DE.UTF-8 exec \"$@\"";
    run_from_shell(script, &site.command()).ended(0, &["updated"]);

    let note = fs::read_to_string(site.node().join("note")).expect("the hook has run");
    let names: Vec<&str> = note
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0))
        .filter(|name| !name.starts_with("SI_") && !["PWD", "OLDPWD", "SHLVL", "_"].contains(name))
        .collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["HOME", "LC_ALL", "PATH", "TERM"], "{note}");
    assert!(note.contains("HOME=/root\n") && !note.contains("forged"), "{note}");
    assert!(note.contains("\n0022\n"), "{note}");
    assert!(!note.contains("open"), "{note}");
}

#[test]
fn rsync_gets_fixed_environment() {
    require!(ROOT_AND_RSYNC, Program("busybox"));
    let site = site_with_hook("exit 0").with_rsync();
    let programs = site.dir.path().join("programs");
    fs::create_dir(&programs).expect("creates");
    // It can write nowhere: a wrong variable is an error, and so is each call with `called`.
    let known = "^(PATH=/[^:]*(:/[^:]*)*$|(LC_ALL|TERM|RSYNC_PROXY|PWD|OLDPWD|SHLVL|_)=)";
    let script = format!(
        "#!/bin/sh\nif env | grep -Ev '{known}' >&2 || [ -e {}/called ]; then\n\
         echo rsync refuses >&2; exit 5; fi\nPATH=${{PATH#*:}} exec rsync \"$@\"\n",
        programs.display()
    );
    write_program(&programs.join("rsync"), &script);
    let script = format!(
        "PATH={}:bin:$PATH; export PATH; RSYNC_RSH=/x RSYNC_PASSWORD=secret BASH_ENV=/x HOME=/tmp \
         RSYNC_PROXY= exec \"$@\"",
        programs.display()
    );

    run_from_shell(&script, &rsync_command(&site)).ended(0, &["updated"]);

    fs::write(programs.join("called"), "").expect("writes");
    let run = run_from_shell(&script, &rsync_command(&site));
    assert!(run.code != 0 && run.err.contains("rsync refuses"), "{run:#?}");
}

#[test]
fn rsync_needs_no_devices() {
    require!(ROOT_AND_RSYNC, Program("unshare"));
    let site = site_with_hook("exit 0").with_rsync();
    let mut client = rsync_command(&site);
    client.args(["--exclude-file", "/etc/passwd"]);

    let script = "mount -t tmpfs none /dev; exec \"$@\"";
    let run = run_after(&["unshare", "--mount", "sh", "-c", script, "sh"], &client);

    run.ended(0, &["updated"]);
}

#[test]
fn report_that_cannot_be_written_fails() {
    require!(ROOT_AND_RSYNC);
    let mut tree = trees::system();
    let site = Site::at(&tree);
    trees::put(&mut tree, "etc/new", Item::file("new"));
    site.publish(&tree);
    let node = site.node().display().to_string();
    let repo = site.repo().display().to_string();
    let image = site.image().display().to_string();

    let mut commands = Vec::new();
    for words in [
        &["--status"][..],
        &["--status", "--json"],
        &["--show-config"],
        &["--show-config", "--json"],
        &["--why", "/etc/passwd"],
        &["--why", "/etc/passwd", "--json"],
        &["--help"],
        &["--version"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
        command.args(words).args(["--root", &node]);
        commands.push(command);
    }
    for more in [&["--dry-run"][..], &["--dry-run", "--json"], &["--dry-run", "--log=%i %n"]] {
        let mut command = site.command();
        command.args(more);
        commands.push(command);
    }
    for words in [
        &["list", "--repo", &repo][..],
        &["show", "--repo", &repo, "--image", "node"],
        &["manifest", &image],
        &["manifest", "--canonical", &image],
        &["verify", "--repo", &repo],
        &["--help"],
        &["--version"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
        command.args(words);
        commands.push(command);
    }

    for command in &commands {
        // The reader of the pipe ends before the program begins.
        let closed_pipe = "{ sleep 0.2; \"$@\"; echo \"code $?\" >&2; } | true";
        for output in ["\"$@\" >/dev/full", closed_pipe] {
            let run = run_from_shell(output, command);
            let is_failed = run.code == 1 || run.err.contains("code 1");
            assert!(is_failed, "{command:?} {output}: {run:#?}");
            assert!(run.err.contains("cannot write to standard output"), "{command:?}: {run:#?}");
        }
    }
}

/// Runs `client` with an empty directory in place of `/proc`, in a mount namespace of its own.
fn run_without_proc(client: &Command) -> Run {
    let script = "mount -t tmpfs none /proc; exec \"$@\"";
    run_after(&["unshare", "--mount", "sh", "-ec", script, "sh"], client)
}

#[test]
fn tree_is_updated_without_mounted_procfs() {
    require!(ROOT_AND_RSYNC, Program("unshare"));
    let site = Site::at(&trees::mutate(&trees::everything(), 0));
    let before = site.snapshot();
    site.publish(&trees::mutate(&trees::everything(), 1));

    let mut update = site.command();
    update.args(["--no-fallback", "--max-delete", "100%"]);
    run_without_proc(&update).ended(0, &["updated to node"]);
    site.same();

    let mut rollback = site.rollback_command();
    run_without_proc(rollback.args(["--max-delete", "100%"])).ended(0, &["rolled back"]);
    judge::same(&before, &site.node(), &[]);
}

#[test]
fn change_whose_report_cannot_be_written_is_complete() {
    require!(ROOT_AND_RSYNC, Program("busybox"));
    let site = site_with_hook("exit 0");

    for (number, more) in [&[][..], &["--json"], &["--quiet"]].into_iter().enumerate() {
        let mut tree = trees::system();
        trees::put(&mut tree, "etc/new", Item::file(number.to_string()));
        site.publish(&tree);
        let mut client = site.command();
        client.args(more);

        let run = run_from_shell("exec \"$@\" >/dev/full", &client);

        run.ended(0, &["cannot write to standard output", "its change was made"]);
        site.same_except(OWN);
    }

    let run = run_from_shell("exec \"$@\" >/dev/full", &site.rollback_command());
    run.ended(0, &["cannot write to standard output", "its change was made"]);
}

#[test]
fn publish_whose_report_cannot_be_written_is_complete() {
    require!(ROOT_AND_RSYNC);
    let site = Site::new();
    trees::write(&trees::system(), &site.image());
    let mut publish = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
    publish.args(["publish", "--image", "node", "--images-dir"]).arg(parent(&site.image()));
    publish.arg("--repo").arg(site.repo());

    let run = run_from_shell("exec \"$@\" >/dev/full", &publish);

    run.ended(1, &["cannot write to standard output", "the command itself is complete"]);
    assert_eq!(site.catalog().serial, 1);
}

fn parent(path: &Path) -> &Path {
    path.parent().expect("a parent")
}
