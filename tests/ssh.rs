//! `--ssh-user`: all connections use a tunnel, which never outlasts the run.
//!
//! The ssh of these tests is this test binary. It forwards connections to the loopback interface,
//! instead of to a server whose name has no address.

mod common;

use std::fs;
use std::io::copy;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use common::fault_server::FaultServer;
use common::site::{Run, Site};
use common::trees::{self, Item, Tree};
use common::{ROOT_AND_RSYNC, require, scratch, write_program};

/// File for the notes of the ssh program; the variable turns [`ssh`] into that program.
const NOTES: &str = "SI_TEST_SSH";
/// A host name without an address.
const SERVER: &str = "head.invalid";

/// Not a test, but the ssh program, if the variable is set.
#[test]
fn ssh() {
    let Some(notes) = std::env::var_os(NOTES).map(PathBuf::from) else { return };
    let arguments = fs::read_to_string(notes.join("arguments")).expect("reads");
    let words: Vec<&str> = arguments.lines().collect();
    let forwards: Vec<&str> =
        words.windows(2).filter(|pair| pair[0] == "-L").map(|pair| pair[1]).collect();

    for forward in forwards {
        let parts: Vec<&str> = forward.split(':').collect();
        let [_, local, SERVER, remote] = parts[..] else { panic!("{forward}") };
        let (local, remote): (u16, u16) =
            (local.parse().expect("a port"), remote.parse().expect("a port"));
        let listener = TcpListener::bind(("127.0.0.1", local)).expect("listens");
        let note = notes.join(format!("used-{remote}"));
        drop(thread::spawn(move || {
            for here in listener.incoming().flatten() {
                fs::write(&note, "").expect("notes");
                let Ok(there) = TcpStream::connect(("127.0.0.1", remote)) else { continue };

                for (mut from, mut to) in [
                    (here.try_clone().expect("clones"), there.try_clone().expect("clones")),
                    (there, here),
                ] {
                    drop(thread::spawn(move || {
                        let _ = copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    }));
                }
            }
        }));
    }

    loop {
        thread::sleep(Duration::from_secs(60));
    }
}

/// A directory with the ssh program, which runs `script` after it has recorded its arguments and
/// its process id.
struct Ssh {
    dir: tempfile::TempDir,
}

impl Ssh {
    fn new() -> Self {
        let tests = std::env::current_exe().expect("this program");
        Ssh::with_script(&format!("exec '{}' --exact ssh --nocapture", tests.display()))
    }

    fn with_script(script: &str) -> Self {
        let dir = scratch();
        let program = dir.path().join("ssh");
        let at = dir.path().display();
        let text = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$@\" >'{at}/arguments'\necho $$ >'{at}/pid'\n\
             export {NOTES}='{at}'\n{script}\n"
        );
        write_program(&program, &text);
        Ssh { dir }
    }

    fn run(&self, command: &mut Command) -> Run {
        Run::from_output(self.put_into_path_of(command).output().expect("runs"))
    }

    fn put_into_path_of<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = std::iter::once(self.dir.path().to_owned()).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(dirs).expect("a path"))
    }

    fn has_note(&self, note: &str) -> bool {
        self.dir.path().join(note).exists()
    }

    fn arguments(&self) -> String {
        fs::read_to_string(self.dir.path().join("arguments"))
            .expect("it was called")
            .replace('\n', " ")
    }

    /// Asserts that ssh was called and has ended, and that nothing listens on its ports.
    #[track_caller]
    fn is_gone(&self) {
        let pid = fs::read_to_string(self.dir.path().join("pid")).expect("it was called");
        let ended = || !Path::new("/proc").join(pid.trim()).exists();
        assert!(
            (0..100).any(|_| ended() || (thread::sleep(Duration::from_millis(20)), false).1),
            "ssh still runs"
        );
        for forward in self.arguments().split(' ').filter(|word| word.starts_with("127.0.0.1:")) {
            let port: u16 = forward.split(':').nth(1).expect("a port").parse().expect("a number");
            assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "port {port} is open");
        }
    }
}

fn tree(motd: &str) -> Tree {
    let mut tree = trees::system();
    trees::put(&mut tree, "etc/motd", Item::file(motd));
    tree
}

/// A run on the node of the site, which only knows the name of the server.
fn command(site: &Site, http: u16, rsync: u16, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    command.args([
        "--diff",
        "--yes",
        "--image",
        "node",
        "--exclude-file",
        "/dev/null",
        "--ssh-user",
        "si",
    ]);
    command.args([
        "--server",
        &format!("{SERVER}:{http}"),
        "--rsync-port",
        &rsync.to_string(),
        "--root",
    ]);
    command.arg(site.node()).args(more).stdin(Stdio::null());

    command
}

fn port(server: &FaultServer) -> u16 {
    server
        .url()
        .trim_end_matches('/')
        .rsplit(':')
        .next()
        .expect("a port")
        .parse()
        .expect("a number")
}

#[test]
fn all_connections_use_tunnel() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new().with_rsync();
    site.publish(&tree("one"));
    fs::create_dir_all(site.node().join("etc")).expect("makes");
    let (server, rsync) =
        (FaultServer::serve(&site.repo()), site.rsync_port().expect("the daemon"));
    let http = port(&server);

    // The node is empty; rsync copies the missing files.
    let ssh = Ssh::new();
    let run = ssh.run(&mut command(&site, http, rsync, &["--max-delete", "100%"]));

    run.ended(0, &["updated to node", "head.invalid is reached through ssh as si"]);
    site.same();
    ssh.is_gone();
    assert!(
        ssh.has_note(&format!("used-{http}")) && ssh.has_note(&format!("used-{rsync}")),
        "{run:#?}"
    );

    let arguments = ssh.arguments();
    assert!(
        arguments.starts_with("-N ") && arguments.ends_with(&format!("-- {SERVER} ")),
        "{arguments}"
    );
    assert!(arguments.contains("-o BatchMode=yes") && arguments.contains("-l si "), "{arguments}");

    let state = fs::read_to_string(site.node().join("var/lib/systemimager/client/state.toml"))
        .expect("reads");
    assert!(state.contains(&format!("http://{SERVER}:{http}/")), "{state}");
    assert!(!format!("{}{}", run.out, run.err).contains("127.0.0.1"), "{run:#?}");

    // The next tunnel has another local port; the node still knows the catalog.
    let seen = server.seen().len();
    ssh.run(&mut command(&site, http, rsync, &[])).ended(0, &["is up to date"]);
    assert_eq!(server.seen()[seen..].iter().map(|seen| seen.status).collect::<Vec<_>>(), [304]);
    ssh.is_gone();
}

#[test]
fn failed_run_closes_tunnel_and_names_server() {
    let site = Site::at(&tree("one"));
    let empty = scratch();
    let server = FaultServer::serve(empty.path());
    let (ssh, http) = (Ssh::new(), port(&server));

    let run = ssh.run(&mut command(&site, http, 1, &[]));
    run.ended(4, &[&format!("http://{SERVER}:{http}/")]);
    ssh.is_gone();

    // A redirect of the server must not lead out of the tunnel.
    assert!(!run.err.contains("127.0.0.1"), "{run:#?}");
}

#[test]
fn failing_ssh_is_quoted_and_changes_nothing() {
    let site = Site::at(&tree("one"));
    let before = site.snapshot();
    let ssh =
        Ssh::with_script("echo 'si@head.invalid: Permission denied (publickey).' >&2; exit 255");

    let run = ssh.run(&mut command(&site, 80, 873, &[]));
    run.ended(
        4,
        &[
            "from si@head.invalid: the server: cannot open the ssh tunnel: ssh exited: ",
            "Permission denied (publickey).",
            "nothing was changed",
        ],
    );

    ssh.is_gone();

    let mut without = command(&site, 80, 873, &[]);
    let run = Run::from_output(without.env("PATH", "/nonexistent").output().expect("runs"));

    run.ended(5, &["the ssh program is not installed on this node"]);
    site.unchanged_since(&before);
}

#[test]
fn ssh_ends_with_cancelled_or_killed_run() {
    let site = Site::at(&tree("one"));

    for (signal, code) in
        [(rustix::process::Signal::TERM, Some(11)), (rustix::process::Signal::KILL, None)]
    {
        // This ssh never opens the tunnel.
        let ssh = Ssh::with_script("exec sleep 60");
        let mut command = command(&site, 80, 873, &[]);
        let mut child =
            ssh.put_into_path_of(&mut command).stderr(Stdio::null()).spawn().expect("starts");

        for _ in 0..500 {
            if ssh.has_note("pid") {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }

        let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a process");
        rustix::process::kill_process(pid, signal).expect("is there");

        assert_eq!(child.wait().expect("ends").code(), code);
        ssh.is_gone();
    }
}

#[test]
fn repository_with_own_address_bypasses_tunnel() {
    let site = Site::at(&tree("one"));
    site.publish(&tree("two"));
    let server = FaultServer::serve(&site.repo());
    let ssh = Ssh::new();

    let run = ssh.run(&mut command(&site, 80, 873, &["--repo", &server.url()]));
    run.ended(0, &["is not reached through ssh", "updated to node"]);
    assert_eq!(ssh.arguments().matches(" -L ").count(), 1);
    ssh.is_gone();
    site.same();
}
