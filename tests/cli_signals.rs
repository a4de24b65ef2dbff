//! The surroundings of a run: signals, a closed terminal, closed outputs, a wrong clock.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::fault_server::{Fault, FaultServer};
use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item};
use crate::common::{ROOT_AND_RSYNC, judge, require, wait_until};

/// A node with an update to do, a server, and the path of the diff on the server.
fn behind() -> (Site, FaultServer, String) {
    let mut tree = trees::system();
    let mut site = Site::at(&tree);
    trees::put(&mut tree, "usr/lib/large", Item::file(trees::noise(100_000, 1)));
    trees::put(&mut tree, "etc/new", Item::file("new"));
    site.publish(&tree);
    let server = FaultServer::serve(&site.repo());
    let path = site.served_diff();
    site.repo_url = server.url();
    (site, server, path)
}

/// As [`behind`], with a download that takes about a second.
fn slow() -> (Site, FaultServer, String) {
    let (site, server, path) = behind();
    server.always(&path, Fault::Drip(2_000, Duration::from_millis(15)));
    (site, server, path)
}

/// Starts an update and waits until it downloads the diff.
fn start(server: &FaultServer, path: &str, command: &mut Command) -> Child {
    let child = spawn(command);
    // The first request is for the listing, the second one for the whole diff.
    wait_until("the download begins", || {
        server.seen().iter().filter(|seen| seen.path == path).count() >= 2
    });
    child
}

fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).expect("kills");
}

fn finish(child: Child) -> Run {
    Run::from_output(child.wait_with_output().expect("it ends"))
}

#[test]
fn hangup_does_not_stop_update() {
    require!(ROOT_AND_RSYNC);

    let (site, server, path) = slow();
    let child = start(&server, &path, &mut site.command());
    signal(&child, Signal::SIGHUP);

    finish(child).ended(0, &["updated to node"]);
    site.same();
}

#[test]
fn cancellation_before_seal_leaves_nothing() {
    require!(ROOT_AND_RSYNC);

    for signal_sent in [Signal::SIGINT, Signal::SIGTERM] {
        let (site, server, path) = slow();
        let before = site.dir.path().join("before");
        crate::common::copy_tree(&site.node(), &before);
        let child = start(&server, &path, &mut site.command());
        signal(&child, signal_sent);

        finish(child).ended(11, &["cancelled; nothing was changed"]);
        crate::common::judge::same(&before, &site.node(), &[]);
        site.nothing_left();

        server.calm();
        site.updated(&["--no-fallback"]);

        site.same();
    }
}

/// Asserts that a signal ended the run soon, and that only its downloads are left.
#[track_caller]
fn cancelled_soon(site: &Site, before: &Path, child: Child, since: Instant) -> Run {
    let run = finish(child);
    assert!(
        since.elapsed() < Duration::from_secs(3),
        "it took {:?} to stop: {run:#?}",
        since.elapsed()
    );
    run.ended(11, &["cancelled; nothing was changed"]);
    judge::same(before, &site.node(), &[]);
    site.nothing_left();
    run
}

/// File names in the spool.
fn spool(site: &Site) -> Vec<String> {
    let listed =
        fs::read_dir(site.node().join("var/lib/systemimager/client/spool")).expect("a spool");
    let mut names: Vec<String> = listed
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn silent_server_does_not_delay_cancellation() {
    require!(ROOT_AND_RSYNC);

    // The server falls silent before the catalog, in it, in the listing, and in the diff.
    for (path, fault, requests, signal_sent) in [
        (Some("/node/head.toml"), Fault::Stall(0), 1, Signal::SIGINT),
        (Some("/node/head.toml"), Fault::Stall(100), 1, Signal::SIGTERM),
        (None, Fault::Stall(10), 1, Signal::SIGINT),
        (None, Fault::Stall(60_000), 2, Signal::SIGTERM),
    ] {
        let (site, server, diff) = behind();
        let path = path.map_or(diff.clone(), str::to_owned);
        if requests == 2 {
            server.next(&path, [Fault::Behave]);
        }
        server.always(&path, fault.clone());
        let before = site.snapshot();
        let child = spawn(&mut site.command());
        wait_until("it asks", || {
            server.seen().iter().filter(|seen| seen.path == path).count() == requests
        });

        // The bytes before the silence have to arrive first.
        sleep(Duration::from_millis(100));
        let since = Instant::now();
        signal(&child, signal_sent);
        cancelled_soon(&site, &before, child, since);
        let names = spool(&site);

        assert!(
            names.iter().all(|name| name.ends_with(".part") || name.ends_with(".etag")),
            "{names:?}"
        );

        // The next run resumes the download.
        server.calm();
        site.updated(&["--no-fallback"]);

        site.same();
        assert_eq!(spool(&site), [""; 0]);

        if requests == 2 {
            let resumed = server.seen().into_iter().rfind(|seen| seen.path == path);
            assert_eq!(resumed.expect("it asks for the rest").status, 206);
        }
    }
}

#[test]
fn retry_pause_does_not_delay_cancellation() {
    require!(ROOT_AND_RSYNC);

    let (site, server, path) = behind();
    server.always(&path, Fault::Status(503, Some("60")));
    let before = site.snapshot();
    let child = spawn(&mut site.command());
    wait_until("it asks", || server.seen().iter().any(|seen| seen.path == path));
    sleep(Duration::from_millis(100));
    let since = Instant::now();
    signal(&child, Signal::SIGTERM);
    cancelled_soon(&site, &before, child, since);
}

#[test]
fn unaccepted_connection_does_not_delay_cancellation() {
    require!(ROOT_AND_RSYNC);

    let (mut site, server, _) = behind();
    drop(server);

    // With a full backlog the next connection is neither accepted nor refused.
    let full = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    rustix::net::listen(&full, 0).expect("listens");
    let address = full.local_addr().expect("bound");
    let _held: Vec<_> = (0..2)
        .filter_map(|_| {
            std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok()
        })
        .collect();
    site.repo_url = format!("http://{address}/");
    let before = site.snapshot();
    let child = spawn(&mut site.command());
    sleep(Duration::from_millis(500));
    let since = Instant::now();
    signal(&child, Signal::SIGINT);
    cancelled_soon(&site, &before, child, since);
}

/// Runs `command` under strace, which delays every `call`. The child is the program itself.
fn held_up(command: &Command, call: &str, delay: Duration) -> Child {
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    strace.args(["-e", &format!("inject={call}:delay_enter={}", delay.as_micros())]);
    spawn(strace.arg(command.get_program()).args(command.get_args()))
}

#[test]
fn staging_does_not_delay_cancellation() {
    require!(ROOT_AND_RSYNC, Program("strace"));

    let mut tree = trees::system();
    let site = Site::at(&tree);

    for number in 0..400 {
        trees::put(
            &mut tree,
            &format!("usr/lib/new-{number}"),
            Item::file(format!("new {number}")),
        );
    }

    trees::put(&mut tree, "usr/lib/large", Item::file(trees::noise(9_000_000, 1)));
    site.publish(&tree);
    let before = site.snapshot();

    // Many small files, or a large one that is first in order.
    for (call, delay, files) in [("fchown", 20, 5), ("pwrite64", 100, 1)] {
        let child = held_up(&site.command(), call, Duration::from_millis(delay));
        let staged = site.node().join(".si-stage/new");
        wait_until("it stages", || {
            fs::read_dir(&staged).is_ok_and(|listed| listed.count() >= files)
        });
        let since = Instant::now();
        signal(&child, Signal::SIGINT);
        cancelled_soon(&site, &before, child, since);
    }

    site.updated(&["--no-fallback"]);
    site.same();
}

#[test]
fn silent_rsync_server_does_not_delay_cancellation() {
    require!(ROOT_AND_RSYNC);

    let (site, _server, _) = behind();
    for archive in [site.archives("diffs"), site.archives("full")].concat() {
        fs::remove_file(archive).expect("removes");
    }
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = silent.local_addr().expect("bound").port().to_string();
    let before = site.snapshot();
    let child = spawn(site.command().args(["--server", "127.0.0.1", "--rsync-port", &port]));
    let (mut rsync, _) = silent.accept().expect("rsync connects");
    sleep(Duration::from_millis(100));

    assert!(site.node().join(".si-full").exists());

    let since = Instant::now();
    signal(&child, Signal::SIGTERM);
    cancelled_soon(&site, &before, child, since);

    // rsync has ended as well: the connection is closed.
    rsync.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let mut greeting = Vec::new();
    rsync.read_to_end(&mut greeting).expect("the other side has hung up");

    assert!(greeting.starts_with(b"@RSYNCD:"));
}

#[test]
fn repeated_signals_after_seal_wait_for_roll_forward() {
    require!(ROOT_AND_RSYNC, Program("strace"));

    for signal_sent in [Signal::SIGINT, Signal::SIGTERM] {
        let mut tree = trees::system();
        let site = Site::at(&tree);

        for number in 0..12 {
            trees::put(
                &mut tree,
                &format!("usr/lib/new-{number:02}"),
                Item::file(format!("new {number}")),
            );
        }

        site.publish(&tree);

        // Each new path is installed by one of these calls; files of the stage are not.
        let child = held_up(&site.command(), "renameat2", Duration::from_millis(100));
        wait_until("the first new file exists", || site.node().join("usr/lib/new-00").exists());

        for _ in 0..3 {
            signal(&child, signal_sent);
            sleep(Duration::from_millis(50));
        }

        assert!(!site.node().join("usr/lib/new-11").exists(), "the run ended before the signals");
        finish(child).ended(0, &["updated to node"]);
        site.same();
        assert!(site.status().contains("serial:      2"));
    }
}

#[test]
fn prompt_does_not_delay_cancellation() {
    require!(ROOT_AND_RSYNC, Program("script"));

    let (site, _server, _) = behind();
    let before = site.snapshot();
    let client = site.command();
    let words = std::iter::once(client.get_program())
        .chain(client.get_args().filter(|word| *word != "--yes"));
    let words: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
    let mut script = Command::new("script");
    script
        .args(["-qfec", &format!("echo $$; exec {}", words.join(" ")), "/dev/null"])
        .stdin(Stdio::piped());
    let mut child = script.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut number = String::new();
    output.read_line(&mut number).expect("its number");
    let mut question = [0; 6];
    output.read_exact(&mut question).expect("it asks");

    assert_eq!(&question, b"update");

    sleep(Duration::from_millis(200));
    let since = Instant::now();
    kill(Pid::from_raw(number.trim().parse().expect("a number")), Signal::SIGINT).expect("kills");
    let status = child.wait().expect("it ends");

    assert_eq!(status.code(), Some(11));
    assert!(since.elapsed() < Duration::from_secs(3));
    judge::same(&before, &site.node(), &[]);
}

#[test]
fn closed_or_full_output_does_not_affect_update() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    let site = Site::at(&tree);

    for (number, outputs) in
        [">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"].iter().enumerate()
    {
        for (kind, more) in [&[][..], &["--json"], &["--quiet"]].iter().enumerate() {
            trees::put(&mut tree, "etc/new", Item::file(format!("{number} {kind}")));
            site.publish(&tree);
            let client = site.command();
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("exec \"$@\" {outputs}"), "sh"]).arg(client.get_program());
            let output = shell.args(client.get_args()).args(*more).output().expect("sh runs");
            Run::from_output(output).ended(0, &[]);
            site.same();
        }
    }

    for more in [&["--status"][..], &["--diff", "--help"]] {
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$@\" >&- 2>&-", "sh", env!("CARGO_BIN_EXE_si_updateclient")]);
        let output: Output =
            shell.args(more).arg("--root").arg(site.node()).output().expect("sh runs");
        assert_eq!(output.status.code(), Some(0), "{more:?}");
    }

    // A reader that closes the pipe in the middle.
    trees::put(&mut tree, "etc/new", Item::file("last"));
    site.publish(&tree);
    let mut command = site.command();
    let mut child = command
        .arg("--json")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop((child.stdout.take(), child.stderr.take()));

    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    site.same();
}

#[test]
fn update_completes_after_terminal_is_closed() {
    require!(ROOT_AND_RSYNC, Program("script"));

    let (site, server, path) = slow();
    let client = site.command();
    let words: Vec<String> = std::iter::once(client.get_program())
        .chain(client.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let mut script = Command::new("script");
    script.args(["-qec", &format!("exec {}", words.join(" ")), "/dev/null"]).stdin(Stdio::null());
    let mut child = start(&server, &path, &mut script);

    // The other end of the terminal is closed: SIGHUP, then errors at every write.
    signal(&child, Signal::SIGKILL);
    child.wait().expect("it ends");
    let begin = Instant::now();

    while !site.status().contains("serial:      2") {
        assert!(begin.elapsed() < Duration::from_secs(20), "{}", site.status());
        sleep(Duration::from_millis(20));
    }

    // The run still removes its stage.
    while site.update(&[]).code == 7 {
        sleep(Duration::from_millis(20));
    }
    site.same();
}

#[test]
fn clock_at_1970_does_not_stop_update() {
    require!(ROOT_AND_RSYNC, Program("cc"));

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
    crate::common::run(
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source),
    );
    let server = FaultServer::serve(&site.repo());

    for (number, url) in [site.repo_url.clone(), server.url()].into_iter().enumerate() {
        site.repo_url = url;
        trees::put(&mut tree, "etc/new", Item::file(format!("new {number}")));
        site.publish(&tree);
        let run =
            Run::from_output(site.command().env("LD_PRELOAD", &library).output().expect("runs"));
        run.ended(0, &["clock shows 1970-01-01", "updated to node"]);
        site.same();
        assert!(site.status().contains("recorded:    1970-01-01"), "{}", site.status());
    }

    Run::from_output(site.command().env("LD_PRELOAD", &library).output().expect("runs"))
        .ended(0, &["up to date"]);
}
