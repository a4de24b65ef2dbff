//! `/local.cfg`: the network settings of this node, for the installer.
//!
//! The installer's shell reads the file, so values consist of the characters of names and addresses
//! only. No name service is asked, since it may not answer in the installer.

#![allow(clippy::disallowed_methods, reason = "/proc is the running kernel's, not the tree's")]

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};

use nix::sys::socket::SockaddrStorage;

use super::error::AutoinstallError;
use super::notice::AutoinstallNotice;
use super::paths::fixed_path;
use super::request::AutoinstallRequest;
use crate::process::resolve_symlinks;
use crate::report::Monitor;
use crate::root::Root;

/// Limit of the text files that are read; the rest is ignored.
const MAX_TEXT: u64 = 1 << 20;
/// Flag in `/proc/net/route` of a route through a gateway.
const RTF_GATEWAY: u32 = 2;

/// IPv4 settings of a network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InterfaceAddress {
    address: Ipv4Addr,
    netmask: Ipv4Addr,
    broadcast: Ipv4Addr,
}

/// Makes the file for the interface `device`.
pub(super) fn make_text(
    device: &str,
    request: &AutoinstallRequest,
    root: &Root,
    monitor: &dyn Monitor,
) -> Result<String, AutoinstallError> {
    if device.is_empty() || device.starts_with('-') || !device.chars().all(is_safe) {
        return Err(AutoinstallError::BadDevice { device: device.to_owned() });
    }

    let InterfaceAddress { address, netmask, broadcast } = address_of(device)?;
    let network = Ipv4Addr::from(u32::from(address) & u32::from(netmask));
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let gateway = find_gateway(&routes, device).map(|gateway| gateway.to_string());

    let node_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let (host, own_domain) = node_name.split_once('.').unwrap_or((&node_name, ""));
    let domain = find_domain(&read_text(root, "etc/resolv.conf"));

    let server = find_server_address(&request.image_server, &read_text(root, "etc/hosts"));
    if server.parse::<IpAddr>().is_err() {
        monitor.warn(AutoinstallNotice::UnknownServer { server: &server });
    }

    Ok(format_settings(&BTreeMap::from([
        ("GATEWAYDEV", device.to_owned()),
        ("GATEWAY", gateway.unwrap_or_default()),
        ("IPADDR", address.to_string()),
        ("BROADCAST", broadcast.to_string()),
        ("NETMASK", netmask.to_string()),
        ("NETWORK", network.to_string()),
        ("HOSTNAME", host.to_owned()),
        ("DOMAINNAME", domain.unwrap_or_else(|| own_domain.to_owned())),
        ("DEVICE", device.to_owned()),
        ("IMAGESERVER", server),
        ("SSH_USER", request.ssh_user.clone().unwrap_or_default()),
    ])))
}

/// One line per setting, sorted. A value with other characters is replaced by nothing.
fn format_settings(settings: &BTreeMap<&str, String>) -> String {
    let mut text = "# written by si_updateclient --autoinstall --configure-from\n".to_owned();
    for (name, value) in settings {
        let value = if value.chars().all(is_safe) { value.as_str() } else { "" };
        text += &format!("{name}={value}\n");
    }
    text
}

fn is_safe(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-:@".contains(c)
}

fn address_of(device: &str) -> Result<InterfaceAddress, AutoinstallError> {
    let ipv4 = |address: Option<SockaddrStorage>| Some(address?.as_sockaddr_in()?.ip());
    let mut interfaces =
        nix::ifaddrs::getifaddrs().map_err(|source| AutoinstallError::Addresses { source })?;

    let address = interfaces.find_map(|interface| {
        let address = ipv4(interface.address).filter(|_| interface.interface_name == device)?;
        let netmask = ipv4(interface.netmask)?;
        let all_ones = Ipv4Addr::from(u32::from(address) | !u32::from(netmask));
        let broadcast = ipv4(interface.broadcast).unwrap_or(all_ones);
        Some(InterfaceAddress { address, netmask, broadcast })
    });
    address.ok_or_else(|| AutoinstallError::NoAddress { device: device.to_owned() })
}

/// Gateway of the default route of `device`, else of another route of it.
fn find_gateway(routes: &str, device: &str) -> Option<Ipv4Addr> {
    let gateways = routes.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, destination, gateway, flags] = words[..].first_chunk()?;
        let number = |word: &str| u32::from_str_radix(word, 16).ok();

        // The kernel prints addresses as numbers in the machine's byte order.
        let gateway = Ipv4Addr::from(number(gateway)?.to_ne_bytes());
        let is_default = number(destination)? == 0;
        (*name == device && number(flags)? & RTF_GATEWAY != 0).then_some((is_default, gateway))
    });
    gateways.min_by_key(|(is_default, _)| !*is_default).map(|(_, gateway)| gateway)
}

/// First domain of the last `search` or `domain` line, which is the valid one.
fn find_domain(resolv_conf: &str) -> Option<String> {
    let mut domains = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| matches!(*word, "search" | "domain"))?;
        let domain = words.next().filter(|domain| *domain != ".")?;
        Some(domain.trim_end_matches('.').to_owned())
    });
    domains.next_back()
}

/// Address of the server by `/etc/hosts`, IPv4 first; else its name.
fn find_server_address(server: &str, hosts: &str) -> String {
    if server.parse::<IpAddr>().is_ok() {
        return server.to_owned();
    }

    let addresses = hosts.lines().filter_map(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address: IpAddr = words.next()?.parse().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(server)).then_some(address)
    });
    match addresses.min_by_key(IpAddr::is_ipv6) {
        Some(address) => address.to_string(),
        None => server.to_owned(),
    }
}

/// Text of a file of the tree, also through symlinks within it; empty if it cannot be read.
fn read_text(root: &Root, place: &str) -> String {
    let mut text = Vec::new();
    if let Ok(Some(path)) = resolve_symlinks(root, &fixed_path(place))
        && let Ok(file) = root.open_file(&path)
    {
        // Each of these settings is optional, so an unreadable file equals a missing one.
        let _ = file.take(MAX_TEXT).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Device of the top of the tree, as it was mounted.
pub(super) fn device_of(root: &Root) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    find_device(&mounts, &root.location().to_string_lossy())
}

/// Device of the last mount at `place`, which hides earlier ones.
fn find_device(mountinfo: &str, place: &str) -> Option<String> {
    let line = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some(place))?;
    let (_, filesystem) = line.split_once(" - ")?;
    let device = filesystem.split(' ').nth(1)?;

    let is_valid =
        device.starts_with("/dev/") && device.chars().all(|c| is_safe(c) || "/+=".contains(c));
    (is_valid && device != "/dev/root").then(|| device.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_sorted_and_shell_quoted() {
        let settings = [
            ("IPADDR", "10.0.0.7"),
            ("DEVICE", "eth0"),
            ("HOSTNAME", "n;reboot"),
            ("SSH_USER", ""),
        ];
        let settings = settings.map(|(name, value)| (name, value.to_owned())).into();

        let text = format_settings(&settings);

        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines, ["DEVICE=eth0", "HOSTNAME=", "IPADDR=10.0.0.7", "SSH_USER="]);
    }

    #[test]
    fn default_gateway_of_the_interface_is_found() {
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

        assert_eq!(find_gateway(&routes, "eth0"), Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(find_gateway(&routes, "eth1"), Some(Ipv4Addr::new(192, 168, 1, 1)));
        assert_eq!(find_gateway(&routes, "lo"), None);
    }

    #[test]
    fn domain_is_the_first_one_of_the_last_line() {
        let text = "# search none\nnameserver 10.0.0.1\ndomain old.example\n\
                    search cluster.example. other.example\n";

        assert_eq!(find_domain(text).as_deref(), Some("cluster.example"));
        assert_eq!(find_domain("search .\n"), None);
    }

    #[test]
    fn server_address_is_read_from_hosts() {
        let hosts = "127.0.0.1 localhost\n::5 head\n10.0.0.5 head.example Head # the server\n\
                     10.0.0.6 other #head\n";

        assert_eq!(find_server_address("head", hosts), "10.0.0.5");
        assert_eq!(find_server_address("10.1.1.1", hosts), "10.1.1.1");
        assert_eq!(find_server_address("elsewhere", hosts), "elsewhere");
    }

    #[test]
    fn device_is_that_of_the_last_mount() {
        let mounts = "1 0 8:2 / / rw - rootfs rootfs rw\n\
            2 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw\n\
            3 1 8:1 / /boot rw - vfat /dev/sda1 rw\n4 1 0:5 / /dev rw - devtmpfs udev rw\n";

        assert_eq!(find_device(mounts, "/").as_deref(), Some("/dev/sda2"));
        assert_eq!(find_device(mounts, "/boot").as_deref(), Some("/dev/sda1"));
        assert_eq!(find_device(mounts, "/dev"), None);
        assert_eq!(find_device(mounts, "/mnt"), None);
    }
}
