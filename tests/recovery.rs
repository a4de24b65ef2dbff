//! An update that was interrupted after its seal is finished first, by whatever runs first: here the
//! agent, whichever it is and whatever it was called for, and the unit at boot.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use common::fault_server::{Fault, FaultServer};
use common::interrupted::{STRACE, behind, interrupt, interrupt_node, read};
use common::site::{Run, Site};
use common::{judge, machine, require, trees};

const AGENT: &str = env!("CARGO_BIN_EXE_si_updateclient");

#[track_caller]
fn interrupted() -> Site {
    let site = behind();
    interrupt_node(&site);
    site
}

/// Runs `program` as `--recover --root NODE`.
fn recovered_by(program: &Path, site: &Site) -> Run {
    let mut command = Command::new(program);
    Run::from_output(
        command.arg("--recover").arg("--root").arg(site.node()).output().expect("it runs"),
    )
}

#[test]
fn the_agent_that_sealed_lies_beside_the_journal_and_finishes() {
    require!(STRACE);

    let site = interrupted();
    let agent = site.node().join(".si-stage/agent");
    // on one filesystem it costs a name and no bytes
    let found = fs::metadata(&agent).expect("it is kept");
    assert_eq!(found.ino(), fs::metadata(AGENT).expect("is there").ino());
    assert_eq!(
        fs::metadata(site.node().join(".si-stage")).expect("is there").mode() & 0o7777,
        0o700
    );
    recovered_by(&agent, &site).ended(0, &["completing an update that was interrupted"]);
    site.same();
    assert_eq!(read(&site.node().join("usr/sbin/si_updateclient")), "no program either");
}

#[test]
fn an_agent_from_another_filesystem_is_copied() {
    require!(STRACE, Program("unshare"));

    let site = behind();
    // a mount is what a hardlink cannot leave; the place where a symlink was planted is not followed
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
    let found = fs::symlink_metadata(&agent).expect("it is kept");
    assert!(found.is_file());
    assert_eq!(found.mode() & 0o7777, 0o700);
    assert_ne!(found.ino(), fs::metadata(AGENT).expect("is there").ino());
    assert!(
        fs::read(&agent).expect("reads") == fs::read(AGENT).expect("reads"),
        "it is another program"
    );
    assert_eq!(read(&sentinel), "untouched");
    recovered_by(&agent, &site).ended(0, &[]);
    site.same();
}

#[test]
fn without_a_copy_of_the_agent_an_update_is_made_all_the_same() {
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

/// What the unit runs, in its order: whether a failure counts, and the words.
fn unit() -> Vec<(bool, Vec<String>)> {
    let text = fs::read_to_string("packaging/systemd/si-recover.service").expect("the unit");
    let starts = text.lines().filter_map(|line| line.strip_prefix("ExecStart="));
    starts.map(|line| (!line.starts_with('-'), words(line.trim_start_matches('-')))).collect()
}

/// A command line as systemd takes it, as far as the unit goes: words, and some of them quoted.
fn words(line: &str) -> Vec<String> {
    assert!(!line.contains(['"', '\\', '$', '%']), "more than this reader knows: {line}");
    let pieces = line.split('\'').enumerate();
    let words = pieces.flat_map(|(at, piece)| match at % 2 {
        0 => piece.split_whitespace().map(str::to_owned).collect(),
        _ => vec![piece.to_owned()],
    });
    words.collect()
}

/// Boots as far as the unit, with the node as the root of everything; `None` where its condition fails.
fn booted(site: &Site) -> Option<Run> {
    let text = fs::read_to_string("packaging/systemd/si-recover.service").expect("the unit");
    let condition = text
        .lines()
        .find_map(|line| line.strip_prefix("ConditionPathExists=/"))
        .expect("a condition");
    if !site.node().join(condition).exists() {
        return None;
    }
    let mut whole = Run { code: 0, out: String::new(), err: String::new() };
    for (counts, words) in unit() {
        let run = Run::from_output(
            machine::chroot_command(&site.node())
                .args(&words)
                .stdin(Stdio::null())
                .output()
                .expect("it runs"),
        );
        whole.err += &format!("{words:?} ends with {}\n{}{}", run.code, run.out, run.err);
        if counts && run.code != 0 {
            whole.code = run.code;
            break;
        }
    }
    Some(whole)
}

/// Gives a node what its unit needs to run: a shell, and the libraries of the agent.
fn equip(site: &Site) {
    machine::install(&machine::program("sh"), &site.node(), "bin/sh");
    machine::install(Path::new(AGENT), &site.node(), "bin/agent");
}

/// The node is the image, but for what [`equip`] put there.
#[track_caller]
fn is_the_image(site: &Site) {
    judge::same(&site.image(), &site.node(), &["/bin", "/lib", "/lib64"]);
    site.nothing_left();
}

#[test]
fn at_boot_the_unit_finishes_with_the_copy_though_the_agent_was_replaced() {
    require!(STRACE, machine::PROGRAMS);

    let site = interrupted();
    equip(&site);
    let boot = booted(&site).expect("its condition holds");
    boot.ended(0, &["completing an update that was interrupted", "/ is at generation"]);
    is_the_image(&site);
    assert!(booted(&site).is_none(), "it runs at every boot");
}

#[test]
fn at_boot_the_installed_agent_finishes_where_the_copy_does_not_run() {
    require!(STRACE, machine::PROGRAMS);

    for gone in [true, false] {
        let site = interrupted();
        equip(&site);
        let copy = site.node().join(".si-stage/agent");
        fs::remove_file(&copy).expect("removes");
        if !gone {
            fs::write(&copy, "\x7fELF, but not really").expect("writes");
        }
        // nobody else is left, either
        let boot = booted(&site).expect("its condition holds");
        assert_ne!(boot.code, 0, "{boot:#?}");
        assert!(site.node().join(".si-stage/journal").exists());
        // the update that it finishes replaces it
        let installed = site.node().join("usr/sbin/si_updateclient");
        fs::remove_file(&installed).expect("removes");
        fs::hard_link(site.node().join("bin/agent"), &installed).expect("links");
        booted(&site)
            .expect("its condition holds")
            .ended(0, &["completing an update that was interrupted"]);
        is_the_image(&site);
    }
}

#[test]
fn days_later_when_what_changes_was_edited_removed_or_replaced() {
    require!(STRACE);

    let site = interrupted();
    let node = site.node();
    // what is still to come: edited, gone, another type; and what came already
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
    recovered_by(Path::new(AGENT), &site).ended(0, &["opt was missing or had become another type"]);
    site.nothing_left();
    // what came before the interruption is drift; a directory that nobody knew is not removed
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
fn a_run_that_finds_no_server_finishes_first_and_then_says_so() {
    require!(STRACE);

    let mut site = interrupted();
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
fn a_killed_run_leaves_no_lock() {
    require!(STRACE);

    let mut site = behind();
    let server = FaultServer::serve(&site.repo());
    let repo = std::mem::replace(&mut site.repo_url, server.url());
    server.always("/node/catalog.toml", Fault::Stall(0));
    let mut child =
        site.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    while server.seen().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // it holds the lock
    site.update(&[]).ended(7, &["is running"]);
    recovered_by(Path::new(AGENT), &site).ended(7, &["is running"]);
    child.kill().and_then(|()| child.wait()).expect("dies");
    site.repo_url = repo;
    site.updated(&["--no-fallback"]);
    site.same();
}
