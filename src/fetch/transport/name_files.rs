//! Addresses of host names without the C library: `/etc/hosts`, then the configured name servers.

#![allow(clippy::disallowed_methods, reason = "the files belong to the running system")]

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;

use crate::fetch::error::LookupFault;

/// Limit for the bytes read of each file; lists of blocked hosts have a few MiB.
const MAX_FILE: u64 = 16 << 20;
/// Longest time for each request to a name server.
const MAX_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest number of requests to all name servers.
const MAX_ATTEMPTS: usize = 2;

/// The two files.
pub(super) struct NameFiles {
    hosts: PathBuf,
    resolv_conf: PathBuf,
}

impl NameFiles {
    /// The files of the running system.
    pub fn system() -> Self {
        NameFiles { hosts: "/etc/hosts".into(), resolv_conf: "/etc/resolv.conf".into() }
    }

    /// The addresses of `host`. The files are read at each lookup, since they may change.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupFault> {
        let known = self.known_addresses(host);
        if !known.is_empty() {
            return Ok(known);
        }

        let bytes = read(&self.resolv_conf).unwrap_or_default();
        let Ok((config, mut options)) = parse_resolv_conf(bytes) else {
            return Err(LookupFault::NoNameServer);
        };
        options.timeout = options.timeout.min(MAX_TIMEOUT);
        options.attempts = options.attempts.min(MAX_ATTEMPTS);
        options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
        options.use_hosts_file = ResolveHosts::Never;

        let provider = TokioRuntimeProvider::default();
        let resolver =
            TokioResolver::builder_with_config(config, provider).with_options(options).build();
        let lookup = match resolver {
            Ok(resolver) => resolver.lookup_ip(host).await,
            Err(error) => Err(error),
        };
        match lookup {
            Ok(addresses) => Ok(addresses.iter().collect()),
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => {
                Err(LookupFault::NoSuchName)
            }
            Err(error) => Err(LookupFault::NameServers { reason: error.to_string() }),
        }
    }

    /// Addresses from the hosts file, or of the name that every system has.
    fn known_addresses(&self, host: &str) -> Vec<IpAddr> {
        let bytes = read(&self.hosts).unwrap_or_default();
        let found = find_host(&String::from_utf8_lossy(&bytes), host);
        if found.is_empty() && is_same_name(host, "localhost") {
            return vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
        }
        found
    }
}

/// Addresses of `host` in the text of a hosts file (`hosts(5)`).
fn find_host(text: &str, host: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
        if words.any(|name| is_same_name(name, host)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

fn is_same_name(one: &str, other: &str) -> bool {
    let bare = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    bare(one) == bare(other)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::UdpSocket;
    use std::thread;

    use super::*;

    /// Files in a scratch directory.
    fn files(scratch: &Path, hosts: &str, resolv_conf: &str) -> NameFiles {
        let files =
            NameFiles { hosts: scratch.join("hosts"), resolv_conf: scratch.join("resolv.conf") };
        fs::write(&files.hosts, hosts).expect("scratch");
        fs::write(&files.resolv_conf, resolv_conf).expect("scratch");
        files
    }

    fn lookup(files: &NameFiles, host: &str) -> Result<Vec<IpAddr>, LookupFault> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(files.addresses(host))
    }

    /// A name server that answers each request for an address of `name` with 192.0.2.7, and others
    /// with *no such name*.
    fn serve_names(name: &'static str) -> IpAddr {
        // resolv.conf has no ports, so each test needs an address of its own at port 53.
        let address = IpAddr::V4(Ipv4Addr::new(127, 0, 53, 7));
        let socket = UdpSocket::bind((address, 53)).expect("the port is free for root");
        thread::spawn(move || {
            let mut request = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut request) {
                let question_end = 12 + request[12..length].iter().position(|&b| b == 0)? + 5;
                let question = &request[12..question_end];
                let asked: Vec<u8> = name
                    .split('.')
                    .flat_map(|label| {
                        [&[label.len() as u8], label.to_ascii_lowercase().as_bytes()].concat()
                    })
                    .chain([0, 0, 1, 0, 1])
                    .collect();
                let is_known = question.to_ascii_lowercase() == asked;

                let mut answer = request[..question_end].to_vec();
                answer[2..12].copy_from_slice(&[
                    0x81,
                    0x80,
                    0,
                    1,
                    0,
                    u8::from(is_known),
                    0,
                    0,
                    0,
                    0,
                ]);
                if is_known {
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
                } else {
                    answer[3] |= 3;
                }
                let _ = socket.send_to(&answer, client);
            }
            Some(())
        });
        address
    }

    #[test]
    fn hosts_file_is_parsed_as_by_the_system() {
        let text = "# a comment\n127.0.0.1 localhost\n192.0.2.1\thead HEAD.cluster # images\n\
                    ::1 localhost\nno-address head\n2001:db8::1 head\n192.0.2.1 head\n";
        let head: Vec<IpAddr> =
            vec!["192.0.2.1".parse().expect("an address"), "2001:db8::1".parse().expect("one")];

        assert_eq!(find_host(text, "Head"), head);
        assert_eq!(find_host(text, "head.cluster."), head[..1]);
        assert_eq!(find_host(text, "images"), head[..0]);
    }

    #[test]
    fn name_in_hosts_file_needs_no_name_server() {
        let scratch = tempfile::tempdir().expect("scratch");
        let files = files(scratch.path(), "192.0.2.1 head\n", "nameserver 192.0.2.53\n");

        assert_eq!(
            lookup(&files, "head").expect("known"),
            ["192.0.2.1".parse::<IpAddr>().expect("one")]
        );
        assert_eq!(lookup(&files, "localhost").expect("known").len(), 2);
    }

    #[test]
    fn no_server_is_asked_if_none_is_configured() {
        let scratch = tempfile::tempdir().expect("scratch");
        let mut files = files(scratch.path(), "", "# empty\nsearch cluster\n");

        assert!(matches!(lookup(&files, "head"), Err(LookupFault::NoNameServer)));

        files.resolv_conf = scratch.path().join("missing");
        assert!(matches!(lookup(&files, "head"), Err(LookupFault::NoNameServer)));
    }

    #[test]
    fn configured_server_is_asked_with_search_list() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let server = serve_names("head.cluster");
        let scratch = tempfile::tempdir().expect("scratch");
        let text = format!("search cluster\nnameserver {server}\noptions timeout:1\n");
        let files = files(scratch.path(), "", &text);

        assert_eq!(
            lookup(&files, "head").expect("known"),
            ["192.0.2.7".parse::<IpAddr>().expect("one")]
        );
        assert!(matches!(lookup(&files, "tail"), Err(LookupFault::NoSuchName)));
    }
}
