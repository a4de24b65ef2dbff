//! What happens around a run: signals, a terminal that dies, closed outputs, a clock that is wrong.

mod common;

use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use common::fault_server::{Fault, FaultServer};
use common::site::{Run, Site};
use common::trees::{self, Item};
use common::{Need, needs};

const NEEDED: [Need; 2] = [Need::Root, Need::Program("rsync")];

/// A node with an update before it that takes about a second to download.
fn slow() -> (Site, FaultServer, String) {
    let mut tree = trees::system();
    let mut site = Site::at(&tree);
    trees::put(&mut tree, "usr/lib/large", Item::file(trees::noise(100_000, 1)));
    trees::put(&mut tree, "etc/new", Item::file("new"));
    site.publish(&tree);
    let server = FaultServer::serve(&site.repo());
    let diff = site.archives("diffs").pop().expect("a diff");
    let path = format!("/node/diffs/{}", diff.file_name().expect("a name").to_string_lossy());
    server.always(&path, Fault::Drip(2_000, Duration::from_millis(15)));
    site.repo_url = server.url();
    (site, server, path)
}

/// Starts an update and waits until it downloads the diff.
fn start(site: &Site, server: &FaultServer, path: &str, command: &mut Command) -> Child {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let begin = Instant::now();
    // the listing in front, then all of it
    while server.seen().iter().filter(|seen| seen.path == path).count() < 2 {
        assert!(begin.elapsed() < Duration::from_secs(20), "the download never began");
        assert!(site.repo().exists());
        sleep(Duration::from_millis(5));
    }
    child
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).expect("kills");
}

fn finish(child: Child) -> Run {
    Run::of(child.wait_with_output().expect("it ends"))
}

#[test]
fn a_hangup_does_not_stop_a_run() {
    if !needs(&NEEDED) {
        return;
    }
    let (site, server, path) = slow();
    let child = start(&site, &server, &path, &mut site.command());
    signal(&child, Signal::SIGHUP);
    finish(child).ended(0, &["updated to node"]);
    site.same();
}

#[test]
fn a_stop_before_the_seal_leaves_nothing_behind() {
    if !needs(&NEEDED) {
        return;
    }
    for how in [Signal::SIGINT, Signal::SIGTERM] {
        let (site, server, path) = slow();
        let before = site.dir.path().join("before");
        common::copy_tree(&site.node(), &before);
        let child = start(&site, &server, &path, &mut site.command());
        signal(&child, how);
        finish(child).ended(11, &["stopped on request; nothing was changed"]);
        common::judge::same(&before, &site.node(), &[]);
        site.nothing_left();
        server.calm();
        site.updated(&["--no-fallback"]);
        site.same();
    }
}

#[test]
fn closed_or_full_outputs_change_nothing() {
    if !needs(&NEEDED) {
        return;
    }
    let mut tree = trees::system();
    let site = Site::at(&tree);
    for (number, outputs) in [">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"].iter().enumerate() {
        for (kind, more) in [&[][..], &["--json"], &["--quiet"]].iter().enumerate() {
            trees::put(&mut tree, "etc/new", Item::file(format!("{number} {kind}")));
            site.publish(&tree);
            let client = site.command();
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("exec \"$@\" {outputs}"), "sh"]).arg(client.get_program());
            let output = shell.args(client.get_args()).args(*more).output().expect("sh runs");
            Run::of(output).ended(0, &[]);
            site.same();
        }
    }
    for more in [&["--status"][..], &["--diff", "--help"]] {
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$@\" >&- 2>&-", "sh", env!("CARGO_BIN_EXE_si_updateclient")]);
        let output: Output = shell.args(more).arg("--root").arg(site.node()).output().expect("sh runs");
        assert_eq!(output.status.code(), Some(0), "{more:?}");
    }
    // a reader that goes away in the middle
    trees::put(&mut tree, "etc/new", Item::file("last"));
    site.publish(&tree);
    let mut command = site.command();
    let mut child = command.arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    site.same();
}

#[test]
fn the_terminal_dies_during_a_run() {
    if !needs(&[Need::Root, Need::Program("rsync"), Need::Program("script")]) {
        return;
    }
    let (site, server, path) = slow();
    let client = site.command();
    let words: Vec<String> = std::iter::once(client.get_program())
        .chain(client.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let mut script = Command::new("script");
    script.args(["-qec", &format!("exec {}", words.join(" ")), "/dev/null"]).stdin(Stdio::null());
    let mut child = start(&site, &server, &path, &mut script);
    // the far side of the terminal goes away: SIGHUP, then errors at every write
    signal(&child, Signal::SIGKILL);
    child.wait().expect("it ends");
    let begin = Instant::now();
    while !site.status().contains("serial:      2") {
        assert!(begin.elapsed() < Duration::from_secs(20), "{}", site.status());
        sleep(Duration::from_millis(20));
    }
    // it still tidies up
    while site.update(&[]).code == 7 {
        sleep(Duration::from_millis(20));
    }
    site.same();
}

#[test]
fn the_clock_says_1970() {
    if !needs(&[Need::Root, Need::Program("rsync"), Need::Program("cc")]) {
        return;
    }
    let mut tree = trees::system();
    let mut site = Site::at(&tree);
    let source = site.dir.path().join("clock.c");
    let library = site.dir.path().join("clock.so");
    let text = "#include <sys/syscall.h>\n#include <time.h>\n#include <unistd.h>\n\
        int clock_gettime(clockid_t id, struct timespec *now) {\n\
        long failed = syscall(SYS_clock_gettime, id, now);\n\
        if (!failed && id == CLOCK_REALTIME) now->tv_sec = 42;\n\
        return (int) failed;\n}\n";
    fs::write(&source, text).expect("writes");
    common::run(Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source));
    let server = FaultServer::serve(&site.repo());
    for (number, url) in [site.repo_url.clone(), server.url()].into_iter().enumerate() {
        site.repo_url = url;
        trees::put(&mut tree, "etc/new", Item::file(format!("new {number}")));
        site.publish(&tree);
        let run = Run::of(site.command().env("LD_PRELOAD", &library).output().expect("runs"));
        run.ended(0, &["clock says 1970-01-01", "updated to node"]);
        site.same();
        assert!(site.status().contains("recorded:    1970-01-01"), "{}", site.status());
    }
    Run::of(site.command().env("LD_PRELOAD", &library).output().expect("runs")).ended(0, &["up to date"]);
}
