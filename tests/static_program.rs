//! The static agent in a root directory that has nothing but the agent and a tree: no loader, no
//! libraries, no `/dev`, `/proc` or `/etc`.
//!
//! `make test-static` builds the static programs, names their directory in `SI_TEST_PROGRAMS`, and
//! runs these tests. `make test` does not build them, so it leaves these tests out.

mod common;

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use common::fault_server::FaultServer;
use common::site::{Run, Site};
use common::trees::{self, Item, Tree};
use common::{
    ROOT_AND_RSYNC, copy_program, copy_tree, free_port, judge, require, run, updateclient,
    wait_for_server,
};

/// Serves a directory on a port, with a certificate and its key.
const TLS_SERVER: &str = "
import http.server, ssl, sys
port, directory, certificate, key = sys.argv[1:]
def handler(*arguments):
    return http.server.SimpleHTTPRequestHandler(*arguments, directory=directory)
server = http.server.ThreadingHTTPServer(('127.0.0.1', int(port)), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
";

/// A root directory with the agent, and below `/tree` a node one generation behind.
struct Jail {
    site: Site,
    top: PathBuf,
    /// The first generation.
    first: Tree,
}

impl Jail {
    fn new(first: Tree, second: &Tree) -> Self {
        let site = Site::new().with_rsync();
        site.publish(&first);
        let top = site.dir.path().join("jail");
        fs::create_dir(&top).expect("makes");
        copy_program(&updateclient(), &top.join("si_updateclient"));
        let jail = Jail { site, top, first };
        jail.reset();
        jail.site.publish(second);
        jail
    }

    fn tree(&self) -> PathBuf {
        self.top.join("tree")
    }

    /// Makes the tree that of the first generation.
    fn reset(&self) {
        let _ = fs::remove_dir_all(self.tree());
        trees::write(&self.first, &self.tree());
    }

    /// Writes a file below the root directory.
    fn write(&self, path: &str, text: &str) {
        let place = self.top.join(path);
        fs::create_dir_all(place.parent().expect("a directory")).expect("makes");
        fs::write(place, text).expect("writes");
    }

    /// Runs the agent in the root directory with no environment.
    fn run(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new("chroot");
        command.arg(&self.top).args(["/si_updateclient", "--yes", "--root", "/tree"]);
        command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin").stdin(Stdio::null());
        Run::from_output(command.output().expect("chroot runs"))
    }

    /// Updates the tree from the repository at `url`.
    fn update(&self, url: &str, more: &[&str]) -> Run {
        let update = ["--diff", "--image", "node", "--exclude-file", "/dev/null", "--repo", url];
        self.run(&[&update, more].concat())
    }

    /// Asserts that the tree equals the image.
    #[track_caller]
    fn same(&self) {
        judge::same(&self.site.image(), &self.tree(), &[]);
    }
}

fn tree(round: u32) -> Tree {
    let mut tree = trees::mutate(&trees::everything(), 0);
    if round > 0 {
        tree = trees::mutate(&tree, round);
    }
    trees::put(&mut tree, "etc/issue", Item::file(format!("{round}")));
    tree
}

#[test]
#[ignore = "needs the static programs: make test-static"]
fn tree_in_empty_root_is_updated_from_each_repository() {
    require!(ROOT_AND_RSYNC);

    let jail = Jail::new(tree(0), &tree(1));
    let server = FaultServer::serve(&jail.site.repo());
    let by_name = server.url().replace("127.0.0.1", "imageserver");
    copy_tree(&jail.site.repo(), &jail.top.join("repo"));

    for url in [server.url(), "file:///repo/".to_owned(), by_name] {
        if url.contains("imageserver") {
            jail.update(&url, &[]).ended(4, &["cannot find the host imageserver", "resolv.conf"]);
            jail.write("etc/hosts", "127.0.0.1 imageserver\n");
            jail.write("etc/nsswitch.conf", "hosts: nonexistent\npasswd: nonexistent\n");
            // Nobody answers at this address.
            jail.write("etc/resolv.conf", "nameserver 127.0.0.99\n");
        }
        jail.reset();

        jail.update(&url, &["--no-fallback", "--max-delete", "100%"])
            .ended(0, &["updated to node"]);

        jail.same();
    }
    jail.run(&["--rollback", "--max-delete", "100%"]).ended(0, &["rolled back"]);
    assert_eq!(fs::read(jail.tree().join("etc/issue")).expect("reads"), b"0");
}

#[test]
#[ignore = "needs the static programs: make test-static"]
fn configured_name_server_is_asked_without_name_service() {
    require!(ROOT_AND_RSYNC);
    let jail = Jail::new(tree(0), &tree(1));
    let server = FaultServer::serve(&jail.site.repo());
    let url = server.url().replace("127.0.0.1", "imageserver.cluster");
    jail.write("etc/nsswitch.conf", "hosts: nonexistent\n");
    jail.write("etc/resolv.conf", &format!("nameserver {}\n", serve_names()));

    jail.update(&url, &["--no-fallback", "--max-delete", "100%"]).ended(0, &["updated to node"]);

    jail.same();
}

/// Starts a name server: each name has the address 127.0.0.1, and no other record.
fn serve_names() -> Ipv4Addr {
    // resolv.conf has no ports, so the server needs an address of its own at port 53.
    let address = Ipv4Addr::new(127, 0, 53, 11);
    let socket = UdpSocket::bind((address, 53)).expect("the port is free for root");
    thread::spawn(move || {
        let mut request = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut request) {
            let name_end = 12 + request[12..length].iter().position(|&b| b == 0).expect("a name");
            let question = &request[12..name_end + 5];
            let is_a = question.ends_with(&[0, 1, 0, 1]);

            // Header: the id of the request; an answer without error; one question.
            let mut answer = request[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
            answer.extend(question);
            if is_a {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            let _ = socket.send_to(&answer, client);
        }
    });
    address
}

#[test]
#[ignore = "needs the static programs: make test-static"]
fn server_with_tls_is_trusted_by_configured_certificate_only() {
    require!(ROOT_AND_RSYNC, Program("openssl"), Program("python3"));

    let jail = Jail::new(tree(0), &tree(1));
    let server = TlsServer::start(jail.site.dir.path(), &jail.site.repo());
    let url = format!("https://127.0.0.1:{}/", server.port);

    jail.update(&url, &[]).ended(5, &["no CA certificates", "ca_file"]);

    let config = jail.tree().join("etc/systemimager");
    fs::create_dir_all(&config).expect("makes");
    fs::write(config.join("updateclient.toml"), "ca_file = \"/ca.pem\"\n").expect("writes");
    fs::copy(&server.certificate, jail.tree().join("ca.pem")).expect("copies");
    jail.update(&url, &["--no-fallback", "--max-delete", "100%"]).ended(0, &["updated to node"]);
    judge::same(&jail.site.image(), &jail.tree(), &["/etc/systemimager", "/ca.pem"]);
}

#[test]
#[ignore = "needs the static programs: make test-static"]
fn rsync_runs_in_root_without_devices_or_is_reported_missing() {
    require!(ROOT_AND_RSYNC, Program("ldd"));

    // rsync 3.5 needs /proc for the mode of a device.
    let mut second = trees::system();
    trees::put(&mut second, "etc/issue", Item::file("2"));
    let jail = Jail::new(trees::system(), &second);
    let port = jail.site.rsync_port().expect("a daemon").to_string();
    let by_rsync = ["--image", "node", "--exclude-file", "/dev/null", "--server", "127.0.0.1"];
    let by_rsync = [&by_rsync[..], &["--rsync-port", &port, "--max-delete", "100%"]].concat();

    jail.run(&by_rsync).ended(5, &["the rsync program is not installed"]);
    copy_with_libraries("rsync", &jail.top);
    jail.run(&by_rsync).ended(0, &["updated"]);

    jail.same();
}

#[test]
#[ignore = "needs the static programs: make test-static"]
fn old_kernel_without_random_device_is_refused_with_remedy() {
    require!(ROOT_AND_RSYNC, Program("strace"));
    let jail = Jail::new(tree(0), &tree(1));
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=getrandom:error=ENOSYS", "chroot"]);
    strace.arg(&jail.top).args(["/si_updateclient", "--status", "--root", "/tree"]);

    let refused = Run::from_output(strace.output().expect("strace runs"));
    refused.ended(1, &["cannot get random numbers", "run mknod -m 444 /dev/urandom c 1 9"]);

    fs::create_dir(jail.top.join("dev")).expect("makes");
    let device = jail.top.join("dev/urandom");
    run(Command::new("mknod").args(["-m", "444"]).arg(device).args(["c", "1", "9"]));
    Run::from_output(strace.output().expect("strace runs")).ended(0, &["nothing is recorded"]);
}

/// Copies a program of the system, its loader and its libraries below `top`.
fn copy_with_libraries(program: &str, top: &Path) {
    let script = "program=$(command -v \"$1\")\n\
        mkdir -p \"$2/usr/bin\" && cp \"$program\" \"$2/usr/bin\"\n\
        ldd \"$program\" | grep -o '/[^ ]*' | while read -r library; do\n\
            mkdir -p \"$2${library%/*}\" && cp -L \"$library\" \"$2$library\"\n\
        done";
    run(Command::new("sh").args(["-ec", script, "sh", program]).arg(top));
}

/// A web server behind TLS; it stops on drop.
struct TlsServer {
    child: Child,
    port: u16,
    certificate: PathBuf,
}

impl TlsServer {
    fn start(scratch: &Path, directory: &Path) -> Self {
        let (certificate, key) = (scratch.join("cert.pem"), scratch.join("key.pem"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-nodes", "-subj", "/CN=test"]);
        openssl.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        openssl.args(["-addext", "subjectAltName=IP:127.0.0.1"]);
        openssl.args(["-addext", "basicConstraints=CA:FALSE"]);
        run(openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate));
        fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("chmod");

        let port = free_port();
        let mut python = Command::new("python3");
        python.args(["-c", TLS_SERVER, &port.to_string()]).arg(directory);
        python.arg(&certificate).arg(&key);
        let child = python
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 is installed");
        wait_for_server(port);
        TlsServer { child, port, certificate }
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
