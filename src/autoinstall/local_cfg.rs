//! `/local.cfg`: the network settings that this node has, for the installer to have the same.
//!
//! The installer's shell reads it: no value holds anything but what names and addresses are made of. No name
//! service is asked.

#![allow(clippy::disallowed_methods, reason = "/proc is the running kernel's, not the tree's")]

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};

use nix::sys::socket::SockaddrStorage;

use crate::apply::Untouched;
use crate::process::resolve_symlinks;
use crate::report::Monitor;
use crate::root::Root;
use crate::update::{UpdateError, UsageError};

use super::{AutoinstallRequest, path};

/// Where it is, in the tree.
pub(super) const PLACE: &str = "local.cfg";
/// So much of a small text file is read.
const MAX_TEXT: u64 = 1 << 20;
/// A route through a gateway, in the flags of `/proc/net/route`.
const GATEWAY: u32 = 2;

/// The address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Address {
    address: Ipv4Addr,
    netmask: Ipv4Addr,
    broadcast: Ipv4Addr,
}

/// The text for the interface `device`.
pub(super) fn of(
    device: &str,
    request: &AutoinstallRequest,
    root: &Root,
    monitor: &dyn Monitor,
) -> Result<String, UpdateError> {
    if device.is_empty() || device.starts_with('-') || !device.chars().all(is_harmless) {
        return Err(UsageError::Argument(format!(
            "--configure-from: {device:?} names no network interface"
        ))
        .into());
    }
    let no_address =
        || Untouched::refused(format!("the network interface {device} has no IPv4 address"));
    let address = address_of(device)?.ok_or_else(no_address)?;
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let nodename = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let (host, own_domain) = nodename.split_once('.').unwrap_or((&nodename, ""));
    let domain =
        domain_in(&text_of(root, "etc/resolv.conf")).unwrap_or_else(|| own_domain.to_owned());
    let server = server_address(&request.image_server, &text_of(root, "etc/hosts"));
    if server.parse::<IpAddr>().is_err() {
        monitor.warn(format!(
            "/etc/hosts does not have the address of {server}: the installer is told the name, and needs a name service"
        ));
    }
    let network = Ipv4Addr::from(u32::from(address.address) & u32::from(address.netmask));
    let gateway = gateway_in(&routes, device).map(|gateway| gateway.to_string());
    Ok(text(&BTreeMap::from([
        ("GATEWAYDEV", device.to_owned()),
        ("GATEWAY", gateway.unwrap_or_default()),
        ("IPADDR", address.address.to_string()),
        ("BROADCAST", address.broadcast.to_string()),
        ("NETMASK", address.netmask.to_string()),
        ("NETWORK", network.to_string()),
        ("HOSTNAME", host.to_owned()),
        ("DOMAINNAME", domain),
        ("DEVICE", device.to_owned()),
        ("IMAGESERVER", server),
        ("SSH_USER", request.ssh_user.clone().unwrap_or_default()),
    ])))
}

/// One setting a line, by name.
fn text(settings: &BTreeMap<&str, String>) -> String {
    let mut text = "# written by si_updateclient --autoinstall --configure-from\n".to_owned();
    for (name, value) in settings {
        let value = if value.chars().all(is_harmless) { value.as_str() } else { "" };
        text += &format!("{name}={value}\n");
    }
    text
}

fn is_harmless(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-:@".contains(c)
}

fn address_of(device: &str) -> Result<Option<Address>, UpdateError> {
    let refused = |error: nix::Error| {
        Untouched::refused(format!("the kernel does not tell its addresses: {error}"))
    };
    let v4 = |address: Option<SockaddrStorage>| Some(address?.as_sockaddr_in()?.ip());
    let mut interfaces = nix::ifaddrs::getifaddrs().map_err(refused)?;
    Ok(interfaces.find_map(|interface| {
        let address = v4(interface.address).filter(|_| interface.interface_name == device)?;
        let netmask = v4(interface.netmask)?;
        let all_ones = Ipv4Addr::from(u32::from(address) | !u32::from(netmask));
        Some(Address { address, netmask, broadcast: v4(interface.broadcast).unwrap_or(all_ones) })
    }))
}

/// The gateway of the default route through `device`, else of any other.
fn gateway_in(routes: &str, device: &str) -> Option<Ipv4Addr> {
    let through = routes.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, destination, gateway, flags] = words[..].first_chunk()?;
        let number = |word: &str| u32::from_str_radix(word, 16).ok();
        // The kernel prints the bytes of the address as the number that they are in memory.
        let gateway = Ipv4Addr::from(number(gateway)?.to_ne_bytes());
        (*name == device && number(flags)? & GATEWAY != 0)
            .then_some((number(destination)? != 0, gateway))
    });
    through.min_by_key(|(is_special, _)| *is_special).map(|(_, gateway)| gateway)
}

/// The first domain that is searched, by the last line that says so.
fn domain_in(resolv_conf: &str) -> Option<String> {
    let mut said = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| matches!(*word, "search" | "domain"))?;
        words
            .next()
            .filter(|domain| *domain != ".")
            .map(|domain| domain.trim_end_matches('.').to_owned())
    });
    said.next_back()
}

/// The address of the server, where it is one or `hosts` knows it; else its name. IPv4 comes first.
fn server_address(server: &str, hosts: &str) -> String {
    if server.parse::<IpAddr>().is_ok() {
        return server.to_owned();
    }
    let known = hosts.lines().filter_map(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address: IpAddr = words.next()?.parse().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(server)).then_some(address)
    });
    known
        .min_by_key(IpAddr::is_ipv6)
        .map_or_else(|| server.to_owned(), |address| address.to_string())
}

/// The text of a file of the tree, also through symlinks within it; nothing where there is none.
fn text_of(root: &Root, place: &str) -> String {
    let mut text = Vec::new();
    if let Ok(Some(found)) = resolve_symlinks(root, &path(place))
        && let Ok(file) = root.open_file(&found)
    {
        // What cannot be read is as good as not there: each of these settings may be missing.
        let _ = file.take(MAX_TEXT).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The device that holds the top of the tree, as it was mounted.
pub(super) fn device_of(root: &Root) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    device_in(&mounts, &root.shown().to_string_lossy())
}

/// The device of the last mount at `place`.
fn device_in(mountinfo: &str, place: &str) -> Option<String> {
    let line = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some(place))?;
    let (_, filesystem) = line.split_once(" - ")?;
    let device = filesystem.split(' ').nth(1)?;
    let good =
        device.starts_with("/dev/") && device.chars().all(|c| is_harmless(c) || "/+=".contains(c));
    (good && device != "/dev/root").then(|| device.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_sorted_and_nothing_for_a_shell() {
        let settings = [
            ("IPADDR", "10.0.0.7"),
            ("DEVICE", "eth0"),
            ("HOSTNAME", "n;reboot"),
            ("SSH_USER", ""),
        ];
        let settings = settings.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
        let text = text(&settings);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines, ["DEVICE=eth0", "HOSTNAME=", "IPADDR=10.0.0.7", "SSH_USER="]);
    }

    #[test]
    fn the_gateway_is_that_of_the_interface() {
        let hex = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let routes = format!(
            "Iface\tDestination\tGateway \tFlags\tRefCnt\n\
             eth0\t{}\t{}\t0003\t0\n\
             eth0\t00000000\t{}\t0003\t0\n\
             eth0\t{}\t00000000\t0001\t0\n\
             eth1\t00000000\t{}\t0003\t0\n",
            hex([10, 9, 0, 0]),
            hex([10, 0, 0, 9]),
            hex([10, 0, 0, 1]),
            hex([10, 0, 0, 0]),
            hex([192, 168, 1, 1])
        );
        assert_eq!(gateway_in(&routes, "eth0"), Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(gateway_in(&routes, "eth1"), Some(Ipv4Addr::new(192, 168, 1, 1)));
        assert_eq!(gateway_in(&routes, "lo"), None);
    }

    #[test]
    fn the_domain_is_the_first_that_is_searched() {
        let text = "# search none\nnameserver 10.0.0.1\ndomain old.example\nsearch cluster.example. other.example\n";
        assert_eq!(domain_in(text).as_deref(), Some("cluster.example"));
        assert_eq!(domain_in("search .\n"), None);
    }

    #[test]
    fn the_server_is_looked_up_in_the_nodes_own_list() {
        let hosts = "127.0.0.1 localhost\n::5 head\n10.0.0.5 head.example Head # the server\n10.0.0.6 other #head\n";
        assert_eq!(server_address("head", hosts), "10.0.0.5");
        assert_eq!(server_address("10.1.1.1", hosts), "10.1.1.1");
        assert_eq!(server_address("elsewhere", hosts), "elsewhere");
    }

    #[test]
    fn the_disk_is_that_of_the_last_mount_there() {
        let mounts = "1 0 8:2 / / rw - rootfs rootfs rw\n2 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw\n\
            3 1 8:1 / /boot rw - vfat /dev/sda1 rw\n4 1 0:5 / /dev rw - devtmpfs udev rw\n";
        assert_eq!(device_in(mounts, "/").as_deref(), Some("/dev/sda2"));
        assert_eq!(device_in(mounts, "/boot").as_deref(), Some("/dev/sda1"));
        assert_eq!(device_in(mounts, "/dev"), None);
        assert_eq!(device_in(mounts, "/mnt"), None);
    }
}
