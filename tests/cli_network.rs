//! The network of a node as it is: names without a name server, proxies, link-local addresses.
//!
//! Files and interfaces that a test needs are in namespaces of its own, made by `unshare`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::fault_server::{Fault, FaultServer};
use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item, Tree};
use crate::common::{ROOT_AND_RSYNC, free_port, require, tardiff, updateclient};

/// A site whose node is one generation behind.
fn site() -> Site {
    let site = Site::at(&tree("one"));
    site.publish(&tree("two"));
    set_single_attempt(&site);
    site
}

/// Configures the node to try each download once.
fn set_single_attempt(site: &Site) {
    let config = site.node().join("etc/systemimager/updateclient.toml");
    fs::create_dir_all(config.parent().expect("a directory")).expect("makes");
    fs::write(config, "[download]\nattempts = 1\n").expect("writes");
}

fn tree(motd: &str) -> Tree {
    let mut tree = trees::system();
    trees::put(&mut tree, "etc/motd", Item::file(motd));
    tree
}

/// The command that updates the node from the repository at `url`.
fn command(site: &Site, url: &str) -> Command {
    let mut command = site.command();
    command.args(["--repo", url]);
    for variable in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(variable).env_remove(variable.to_ascii_uppercase());
    }
    command
}

/// The same command after a shell `script`, in namespaces of its own.
fn in_namespaces(unshare: &[&str], script: &str, command: &Command) -> Run {
    let mut shell = Command::new("unshare");
    let script =
        format!("{script}\ncode=0; \"$@\" || code=$?; test -z \"$!\" || kill $!; exit $code");
    shell.args(unshare).args(["sh", "-ec", &script, "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    Run::from_output(shell.output().expect("runs"))
}

/// Writes a file beside the site, and returns its path.
fn file(site: &Site, name: &str, text: &str) -> PathBuf {
    let path = site.repo().with_file_name(name);
    fs::write(&path, text).expect("writes");
    path
}

#[test]
fn name_in_hosts_file_needs_no_name_server() {
    require!(Root, Program("unshare"));

    let site = site();
    let server = FaultServer::serve(&site.repo());
    let url = server.url().replace("127.0.0.1", "imageserver");
    let hosts = file(&site, "hosts", "127.0.0.1 localhost imageserver\n");
    // Nobody answers at this address.
    let resolv_conf = file(&site, "resolv.conf", "nameserver 127.0.0.99\n");
    let script = format!(
        "mount --bind {} /etc/hosts; mount --bind {} /etc/resolv.conf",
        hosts.display(),
        resolv_conf.display()
    );

    let begin = Instant::now();
    let run = in_namespaces(&["-m"], &script, &command(&site, &url));

    run.ended(0, &["updated to node"]);
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    site.same_except(&["/etc/systemimager"]);
}

#[test]
fn unknown_name_is_named() {
    let site = site();

    let run =
        Run::from_output(command(&site, "http://no-such-host.invalid/").output().expect("runs"));

    run.ended(4, &["the network: cannot find the host no-such-host.invalid: "]);
}

#[test]
fn proxy_is_named_without_its_password() {
    let site = site();
    let server = FaultServer::serve(&site.repo());
    let proxy = server.url().replace("http://", "http://node:secret@");

    // A proxy that cannot reach the server answers with its own error.
    server.always("http://images.invalid/node/head.toml", Fault::Status(502, None));
    let mut through = command(&site, "http://images.invalid/");
    let run = Run::from_output(through.env("http_proxy", &proxy).output().expect("runs"));
    run.ended(4, &[&format!("through the proxy {}: ", server.url().trim_end_matches('/'))]);
    assert!(!run.err.contains("secret"), "{run:#?}");
    assert_eq!(server.seen().len(), 1);

    // Nobody listens.
    let closed = format!("http://node:secret@127.0.0.1:{}", free_port());
    let mut through = command(&site, "http://images.invalid/");
    let run = Run::from_output(through.env("http_proxy", &closed).output().expect("runs"));
    run.ended(4, &["through the proxy http://127.0.0.1:", "the network: cannot connect through"]);
    assert!(!run.err.contains("secret"), "{run:#?}");

    // The name of the proxy is unknown, not the server's.
    let mut through = command(&site, "http://images.invalid/");
    let run = Run::from_output(
        through.env("http_proxy", "http://proxy.invalid:3128").output().expect("runs"),
    );
    run.ended(4, &["cannot find the host proxy.invalid: "]);
}

#[test]
fn link_local_address_with_zone_is_reached() {
    require!(Root, Program("unshare"), Program("ip"));

    let site = site();
    let serve = format!(
        "{} serve --repo {} --listen '[::]:8080' >/dev/null 2>&1 &",
        tardiff().display(),
        site.repo().display()
    );
    let script = format!(
        "ip link set lo up; ip address add fe80::51/64 dev lo nodad\n\
         {serve}\n\
         for n in $(seq 100); do grep -q ':1F90 ' /proc/self/net/tcp6 && break; sleep 0.1; done"
    );

    for url in ["http://[fe80::51%lo]:8080/", "http://[fe80::51%251]:8080/"] {
        site.install_node();
        set_single_attempt(&site);
        let run = in_namespaces(&["-n"], &script, &command(&site, url));
        run.ended(0, &["is up to date"]);
    }

    let run = in_namespaces(&["-n"], &script, &command(&site, "http://[fe80::99%lo]:8080/"));
    run.ended(4, &["http://[fe80::99%lo]:8080/node/head.toml: the network: "]);
}

#[test]
fn unencrypted_connections_are_refused_if_tls_is_required() {
    require!(ROOT_AND_RSYNC);
    let site = Site::at(&tree("one")).with_rsync();
    site.publish(&tree("two"));
    let config = site.node().join("etc/systemimager/updateclient.toml");
    fs::create_dir_all(config.parent().expect("a directory")).expect("makes");
    fs::write(config, "require_tls = true\n").expect("writes");
    let server = FaultServer::serve(&site.repo());
    let snapshot = site.snapshot();

    for url in [server.url(), "rsync://127.0.0.1:9/repo/".to_owned()] {
        let run = Run::from_output(command(&site, &url).output().expect("runs"));
        run.ended(2, &["the connection is not encrypted, and require_tls is set"]);
    }
    let mut by_rsync = Command::new(updateclient());
    by_rsync.args(["--yes", "--image", "node", "--server", "127.0.0.1", "--rsync-port"]);
    by_rsync.arg(site.rsync_port().expect("a daemon").to_string()).arg("--root").arg(site.node());
    let run = Run::from_output(by_rsync.output().expect("runs"));

    run.ended(2, &["rsync://127.0.0.1", "require_tls"]);
    assert!(server.seen().is_empty());
    site.unchanged_since(&snapshot);
    site.updated(&[]);
}
