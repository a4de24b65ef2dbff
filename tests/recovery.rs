//! Recovery of an update that was interrupted after its seal. The next run of any agent finishes
//! the update before its own task; at boot, a systemd unit finishes it.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::fault_server::{Fault, FaultServer};
use crate::common::interrupted::{STRACE, behind, interrupt, interrupted_site};
use crate::common::site::{Run, Site};
use crate::common::{judge, machine, read, require, trees, updateclient};

/// Paths of [`equip`], which the image lacks.
const EQUIPMENT: [&str; 3] = ["/bin", "/lib", "/lib64"];

/// Runs `program` as `--recover --root NODE`.
fn recover_with(program: &Path, site: &Site) -> Run {
    let mut command = Command::new(program);
    Run::from_output(
        command.arg("--recover").arg("--root").arg(site.node()).output().expect("it runs"),
    )
}

#[test]
fn agent_beside_journal_finishes_update() {
    require!(STRACE);

    let site = interrupted_site();
    let agent = site.node().join(".si-stage/agent");

    // On the same filesystem, the copy is a hard link.
    let metadata = fs::metadata(&agent).expect("it is kept");
    assert_eq!(metadata.ino(), fs::metadata(updateclient()).expect("is there").ino());
    assert_eq!(
        fs::metadata(site.node().join(".si-stage")).expect("is there").mode() & 0o7777,
        0o700
    );

    recover_with(&agent, &site).ended(0, &["completing an update that was interrupted"]);
    site.same();
    assert_eq!(read(&site.node().join("usr/sbin/si_updateclient")), "no program either");
}

#[test]
fn agent_from_another_filesystem_is_copied() {
    require!(STRACE, Program("unshare"));

    let site = behind();
    // A mount prevents a hard link. A symlink planted at the name of the copy is not followed.
    let sentinel = site.dir.path().join("sentinel");
    fs::write(&sentinel, "untouched").expect("writes");
    fs::create_dir(site.node().join(".si-stage")).expect("makes");
    symlink(&sentinel, site.node().join(".si-stage/agent")).expect("links");
    let client = site.command();
    let mut elsewhere = Command::new("unshare");
    let script = "mount --bind \"$1\" \"$1\" && shift && exec \"$@\"";
    elsewhere.args(["--mount", "sh", "-c", script, "sh"]).arg(site.node());
    elsewhere.arg(client.get_program()).args(client.get_args());
    interrupt(&site.node(), &elsewhere);
    let agent = site.node().join(".si-stage/agent");
    let metadata = fs::symlink_metadata(&agent).expect("it is kept");
    assert!(metadata.is_file());
    assert_eq!(metadata.mode() & 0o7777, 0o700);
    assert_ne!(metadata.ino(), fs::metadata(updateclient()).expect("is there").ino());
    assert!(
        fs::read(&agent).expect("reads") == fs::read(updateclient()).expect("reads"),
        "the copy is another program"
    );
    assert_eq!(read(&sentinel), "untouched");

    recover_with(&agent, &site).ended(0, &[]);
    site.same();
}

#[test]
fn update_succeeds_without_copy_of_agent() {
    require!(STRACE);

    let site = behind();
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-P",
        "/proc/self/exe",
        "-e",
        "trace=openat,open",
    ]);
    strace.args(["-e", "inject=openat,open:error=EACCES"]);
    let client = site.command();
    let run = Run::from_output(
        strace.arg(client.get_program()).args(client.get_args()).output().expect("strace runs"),
    );
    run.ended(0, &["cannot keep this program as", "Permission denied", "updated to node"]);
    site.same();
}

/// A unit of the packaging.
fn unit(name: &str) -> String {
    read(&Path::new("packaging/systemd").join(name))
}

/// Command lines of a unit in their order, and whether each failure is fatal.
fn unit_commands(text: &str) -> Vec<(bool, Vec<String>)> {
    let starts = text.lines().filter_map(|line| line.strip_prefix("ExecStart="));
    starts.map(|line| (!line.starts_with('-'), split_words(line.trim_start_matches('-')))).collect()
}

/// Splits a command line as systemd does, as far as the unit needs it: words, some in quotes.
fn split_words(line: &str) -> Vec<String> {
    assert!(!line.contains(['"', '\\', '$', '%']), "this parser does not support: {line}");
    let pieces = line.split('\'').enumerate();
    let words = pieces.flat_map(|(at, piece)| match at % 2 {
        0 => piece.split_whitespace().map(str::to_owned).collect(),
        _ => vec![piece.to_owned()],
    });
    words.collect()
}

/// Whether the conditions of a unit hold, with the node as root directory.
fn conditions_hold(site: &Site, text: &str) -> bool {
    let mut conditions =
        text.lines().filter_map(|line| line.strip_prefix("ConditionPathExists=")).peekable();
    assert!(conditions.peek().is_some(), "a condition");
    conditions.all(|condition| {
        let path = condition.trim_start_matches('!');
        let exists = site.node().join(path.trim_start_matches('/')).exists();
        exists != condition.starts_with('!')
    })
}

/// Runs `si-recover.service`; returns `None` if its condition is not met.
fn run_unit(site: &Site) -> Option<Run> {
    run_unit_named(site, "si-recover.service")
}

/// Runs a unit with the node as root directory; returns `None` if its conditions are not met.
fn run_unit_named(site: &Site, name: &str) -> Option<Run> {
    let text = unit(name);
    if !conditions_hold(site, &text) {
        return None;
    }

    let mut unit_run = Run { code: 0, out: String::new(), err: String::new() };
    for (is_fatal, words) in unit_commands(&text) {
        let run = Run::from_output(
            machine::chroot_command(&site.node())
                .args(&words)
                .stdin(Stdio::null())
                .output()
                .expect("it runs"),
        );
        unit_run.err += &format!("{words:?} ends with {}\n{}{}", run.code, run.out, run.err);

        if is_fatal && run.code != 0 {
            unit_run.code = run.code;
            break;
        }
    }

    Some(unit_run)
}

/// Installs a shell and the libraries of the agent on the node, which the unit needs.
fn equip(site: &Site) {
    machine::install(&machine::program("sh"), &site.node(), "bin/sh");
    machine::install(&updateclient(), &site.node(), "bin/agent");
}

#[test]
fn boot_unit_finishes_with_copy_of_replaced_agent() {
    require!(STRACE, machine::PROGRAMS);

    let site = interrupted_site();
    equip(&site);
    let boot = run_unit(&site).expect("its condition holds");
    boot.ended(0, &["completing an update that was interrupted", "/ is at generation"]);
    site.same_except(&EQUIPMENT);
    assert!(run_unit(&site).is_none(), "the unit runs at every boot");
}

#[test]
fn boot_unit_finishes_with_installed_agent_if_copy_fails() {
    require!(STRACE, machine::PROGRAMS);

    for is_missing in [true, false] {
        let site = interrupted_site();
        equip(&site);
        let copy = site.node().join(".si-stage/agent");
        fs::remove_file(&copy).expect("removes");
        if !is_missing {
            fs::write(&copy, "\x7fELF, but not really").expect("writes");
        }

        // Without another agent, the unit fails.
        let boot = run_unit(&site).expect("its condition holds");
        assert_ne!(boot.code, 0, "{boot:#?}");
        assert!(site.node().join(".si-stage/journal").exists());

        // The recovered update replaces the installed agent.
        let installed = site.node().join("usr/sbin/si_updateclient");
        fs::remove_file(&installed).expect("removes");
        fs::hard_link(site.node().join("bin/agent"), &installed).expect("links");

        run_unit(&site)
            .expect("its condition holds")
            .ended(0, &["completing an update that was interrupted"]);

        site.same_except(&EQUIPMENT);
    }
}

#[test]
fn boot_loader_that_was_not_updated_is_reported_once_at_boot() {
    require!(STRACE, machine::PROGRAMS);

    let site = interrupted_site();
    equip(&site);
    let record = site.node().join("var/lib/systemimager/client/boot-loader-due");
    fs::write(&record, "came ./boot/vmlinuz\n").expect("writes");
    let due = "si-boot-loader-due.service";
    let line = "warning: boot files changed, but the boot loader was not updated";

    // The unit that finishes the update reports it; at each later boot the other one does.
    assert!(run_unit_named(&site, due).is_none());
    let boot = run_unit(&site).expect("its condition holds");
    assert_eq!(boot.ended(0, &[line]).err.matches("boot loader").count(), 1, "{boot:#?}");

    let installed = site.node().join("usr/sbin/si_updateclient");
    fs::remove_file(&installed).expect("removes");
    fs::hard_link(site.node().join("bin/agent"), &installed).expect("links");
    assert!(run_unit(&site).is_none());
    let boot = run_unit_named(&site, due).expect("its conditions hold");
    assert_eq!(boot.ended(0, &[line]).err.matches("boot loader").count(), 1, "{boot:#?}");

    fs::remove_file(&record).expect("removes");
    assert!(run_unit_named(&site, due).is_none());
}

#[test]
fn units_are_in_the_log_by_the_name_of_their_program() {
    let units = fs::read_dir("packaging/systemd").expect("lists");
    let services: Vec<String> = units
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .filter(|name| name.ends_with(".service"))
        .collect();

    let without: Vec<&String> = services
        .iter()
        .filter(|name| {
            let is_server = ["si-tardiff.service", "si-refresh.service"].contains(&name.as_str());
            let program = if is_server { "si_tardiff" } else { "si_updateclient" };
            let expected = format!("SyslogIdentifier={program}");
            !unit(name).lines().any(|line| line == expected)
        })
        .collect();

    assert!(services.len() >= 3 && without.is_empty(), "{without:?} of {services:?}");
}

#[test]
fn recovery_after_local_edits_restores_image_or_records_drift() {
    require!(STRACE);

    let site = interrupted_site();
    let node = site.node();

    // Edit, remove and change the type of paths that are still to be changed, and edit one that
    // the update has already changed.
    fs::write(node.join("usr/bin/tool"), "edited").expect("writes");
    fs::remove_file(node.join("usr/lib/app/one.py")).expect("removes");
    fs::remove_file(node.join("usr/sbin/si_updateclient")).expect("removes");
    fs::create_dir_all(node.join("usr/sbin/si_updateclient/a/b")).expect("makes");
    fs::write(node.join("usr/b-new"), "in the way").expect("writes");
    fs::remove_dir_all(node.join("opt")).expect("removes");
    fs::write(node.join("opt"), "a file").expect("writes");
    fs::remove_file(node.join("srv/emptied/file")).expect("removes");
    fs::create_dir(node.join("srv/emptied/file")).expect("makes");
    fs::write(node.join("etc/version"), "edited since").expect("writes");

    recover_with(&updateclient(), &site).ended(0, &["opt was missing or had become another type"]);
    site.nothing_left();

    // A path changed before the interruption has drifted; an untracked directory is not removed.
    let left = judge::differences(&site.image(), &node, &["/srv/emptied/file"]);
    let left: Vec<&str> =
        left.iter().map(|line| line.split_once(' ').expect("two words").1.trim()).collect();
    assert!(left.iter().all(|path| ["etc/version", "opt/", "./"].contains(path)), "{left:#?}");
    assert!(left.contains(&"etc/version"), "{left:#?}");

    site.updated(&["--check", "stat", "--no-fallback"]).ended(0, &["repaired: /etc/version"]);
    fs::remove_dir(node.join("srv/emptied/file")).expect("it was kept");
    judge::same(&site.image(), &node, &["/srv/emptied"]);
}

#[test]
fn recovery_without_server_succeeds_before_download_error() {
    require!(STRACE);

    let mut site = interrupted_site();
    let server = FaultServer::serve(&site.repo());
    let repo = std::mem::replace(&mut site.repo_url, server.url());
    drop(server);
    let configuration = site.node().join("etc/systemimager/updateclient.toml");
    trees::write_text(&configuration, "[download]\nattempts = 1\n");

    site.update(&[]).ended(
        4,
        &["the interrupted update was finished:", "is at generation", "nothing was changed"],
    );

    fs::remove_file(&configuration).expect("removes");
    site.same();
    assert!(site.status().contains("serial:      2"), "{}", site.status());

    site.repo_url = repo;
    site.updated(&[]).ended(0, &["up to date"]);
}

#[test]
fn killed_run_leaves_no_lock() {
    require!(STRACE);

    let mut site = behind();
    let server = FaultServer::serve(&site.repo());
    let repo = std::mem::replace(&mut site.repo_url, server.url());
    server.always("/node/head.toml", Fault::Stall(0));
    let mut child =
        site.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    while server.seen().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }

    // The first run holds the lock.
    site.update(&[]).ended(7, &["is running"]);
    recover_with(&updateclient(), &site).ended(7, &["is running"]);
    child.kill().and_then(|()| child.wait()).expect("dies");
    site.repo_url = repo;

    site.updated(&["--no-fallback"]);
    site.same();
}
