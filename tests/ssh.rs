//! `--ssh-user`: all connections use a tunnel, which never outlasts the run.
//!
//! The ssh of these tests is this test binary. It forwards connections from its Unix sockets to the
//! loopback interface, instead of to a server whose name has no address.

use std::fs;
use std::io::copy;
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::common::fault_server::{Fault, FaultServer};
use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item, Tree};
use crate::common::{ROOT_AND_RSYNC, require, scratch, updateclient, write_program};

/// File for the notes of the ssh program; the variable turns [`ssh`] into that program.
const NOTES: &str = "SI_TEST_SSH";
/// If it is set, the ssh program ends after it has forwarded this number of connections.
const CONNECTIONS: &str = "SI_TEST_SSH_CONNECTIONS";
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

    let limit = std::env::var(CONNECTIONS).ok().map(|number| number.parse().expect("a number"));
    for forward in forwards {
        let parts: Vec<&str> = forward.split(':').collect();
        let [local, SERVER, remote] = parts[..] else { panic!("{forward}") };
        let remote: u16 = remote.parse().expect("a port");
        let listener = UnixListener::bind(local).expect("listens");
        let directory = Path::new(local).parent().expect("a directory");
        let mode = fs::metadata(directory).expect("is there").mode() & 0o7777;
        fs::write(notes.join("mode"), format!("{mode:o}")).expect("notes");

        let note = notes.join(format!("used-{remote}"));
        drop(thread::spawn(move || {
            for number in 1.. {
                let (here, _) = listener.accept().expect("accepts");
                fs::write(&note, "").expect("notes");
                let Ok(there) = TcpStream::connect(("127.0.0.1", remote)) else { continue };
                if limit == Some(number) {
                    drop(listener);
                    forward_bytes(here, there).join().expect("forwards");
                    eprintln!("client_loop: the connection is lost");
                    std::process::exit(255);
                }
                drop(forward_bytes(here, there));
            }
        }));
    }

    loop {
        thread::sleep(Duration::from_secs(60));
    }
}

/// Forwards bytes in both directions; the thread ends with the answers of the server.
fn forward_bytes(here: UnixStream, there: TcpStream) -> thread::JoinHandle<()> {
    let (mut from, mut to) =
        (here.try_clone().expect("clones"), there.try_clone().expect("clones"));
    drop(thread::spawn(move || {
        let _ = copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    }));

    let (mut from, mut to) = (there, here);
    thread::spawn(move || {
        let _ = copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    })
}

/// A directory with the ssh program, which runs `script` after it has recorded its arguments and
/// its process id.
struct Ssh {
    dir: tempfile::TempDir,
}

impl Ssh {
    fn new() -> Self {
        Ssh::with_script(&Ssh::forwarding())
    }

    /// An ssh that ends after it has forwarded `number` connections.
    fn ending_after(number: u32) -> Self {
        Ssh::with_script(&format!("export {CONNECTIONS}={number}\n{}", Ssh::forwarding()))
    }

    fn forwarding() -> String {
        let tests = std::env::current_exe().expect("this program");
        format!("exec '{}' --exact ssh::ssh --nocapture", tests.display())
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

    /// Asserts that ssh was called and has ended, and that its sockets are removed.
    #[track_caller]
    fn is_gone(&self) {
        self.has_ended();
        let arguments = self.arguments();
        let sockets = arguments.split(' ').filter(|word| word.contains("/si-tunnel-"));
        for socket in sockets.filter_map(|forward| Path::new(forward.split(':').next()?).parent()) {
            assert!(!socket.exists(), "{} remains", socket.display());
        }
    }

    /// Asserts that ssh was called and ends.
    ///
    /// The ssh of a killed run becomes a child of process 1, which may take its time to reap it.
    #[track_caller]
    fn has_ended(&self) {
        let pid = fs::read_to_string(self.dir.path().join("pid")).expect("it was called");
        let stat = Path::new("/proc").join(pid.trim()).join("stat");
        let is_running = || {
            let stat = fs::read_to_string(&stat).unwrap_or_default();
            let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
            !(state.is_empty() || state.starts_with(['Z', 'X']))
        };
        assert!(
            (0..1000).any(|_| !is_running() || (thread::sleep(Duration::from_millis(20)), false).1),
            "ssh still runs"
        );
    }
}

fn tree(motd: &str) -> Tree {
    let mut tree = trees::system();
    trees::put(&mut tree, "etc/motd", Item::file(motd));
    tree
}

/// A run on the node of the site, which only knows the name of the server.
fn command(site: &Site, http: u16, rsync: u16, more: &[&str]) -> Command {
    let mut command = Command::new(updateclient());
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

    // The node is empty; rsync copies the contents that the repository lacks.
    for archive in site.archives("full") {
        fs::remove_file(archive).expect("removes");
    }
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
    assert!(!format!("{}{}", run.out, run.err).contains("si-tunnel"), "{run:#?}");

    // No other user can reach the sockets.
    assert_eq!(fs::read_to_string(ssh.dir.path().join("mode")).expect("reads"), "700");

    // The next tunnel has other sockets; the node still knows the catalog.
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
fn run_fails_if_ssh_ends_before_it() {
    let site = Site::at(&tree("one"));
    site.publish(&tree("two"));
    let server = FaultServer::serve(&site.repo());
    let config = site.node().join("etc/systemimager/updateclient.toml");
    fs::create_dir_all(config.parent().expect("a directory")).expect("makes");
    fs::write(&config, "[download]\nattempts = 2\n").expect("writes");
    let (ssh, before) = (Ssh::ending_after(1), site.snapshot());
    // Only the catalog arrives: the connection is closed after it.
    server.next("/node/head.toml", [Fault::Close]);

    let run = ssh.run(&mut command(&site, port(&server), 1, &[]));

    run.ended(
        4,
        &[
            "the ssh tunnel is closed: ssh ended during the run: client_loop: ",
            "the network: cannot connect to the ssh tunnel: ",
            "nothing was changed",
        ],
    );
    assert_eq!(server.seen().len(), 1, "{:#?}", server.seen());
    site.unchanged_since(&before);
    ssh.is_gone();
}

#[test]
fn relay_without_ssh_fails() {
    let scratch = scratch();
    let socket = scratch.path().join("socket");
    drop(UnixListener::bind(&socket).expect("listens"));

    let mut command = Command::new(updateclient());
    let output = command.arg("--internal-relay").arg(&socket).output().expect("runs");

    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.starts_with("cannot connect to the ssh tunnel: Connection refused"), "{err}");
}

#[test]
fn ssh_without_unix_sockets_is_named() {
    let site = Site::at(&tree("one"));
    let ssh = Ssh::with_script(
        "echo \"Bad local forwarding specification '/run/x:head.invalid:80'\" >&2; exit 255",
    );

    let run = ssh.run(&mut command(&site, 80, 873, &[]));

    run.ended(5, &["this node: ", "install OpenSSH 6.7 or newer"]);
}

#[test]
fn empty_user_is_usage_error() {
    let site = Site::at(&tree("one"));
    let ssh = Ssh::new();

    let mut command = Command::new(updateclient());
    command.args(["--server", "127.0.0.1", "--image", "node", "--yes", "--ssh-user", ""]);
    let run = ssh.run(command.args(["--rsync-port", "1", "--root"]).arg(site.node()));

    run.ended(2, &["is not a valid user name"]);
    assert!(!ssh.has_note("pid"), "ssh was started");
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
        ssh.has_ended();
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
