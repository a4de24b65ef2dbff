//! URLs of repositories.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use reqwest::Url;

/// Limit of a zone; names of interfaces have up to 15 characters.
const MAX_ZONE: usize = 20;

/// URL of a repository: it has one directory per image, and `overrides/NAME` per override.
///
/// Four forms are valid: `http://HOST[:PORT]/PATH`, `https://…`, `file:///PATH` and
/// `rsync://HOST[:PORT]/MODULE[/PATH]`. An IPv6 address may have a zone: `[fe80::1%eth0]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoUrl {
    target: UrlTarget,
    /// Unix socket of a tunnel to the server.
    tunnel: Option<PathBuf>,
}

/// Parsed URL, by its transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::fetch) enum UrlTarget {
    /// http or https.
    Http(HttpUrl),
    /// A directory of this machine.
    File(PathBuf),
    /// `rsync://HOST[:PORT]/MODULE/PATH/`, safe as an argument and in rsync's protocol.
    Rsync(String),
}

/// URL of a directory on a web server; its path ends with a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::fetch) struct HttpUrl {
    url: Url,
    /// Network interface of a link-local address: its name, or its number.
    zone: Option<String>,
}

/// Text that is not the URL of a repository.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{url:?} is not the URL of a repository: {fault}")]
pub struct BadRepoUrl {
    url: String,
    fault: UrlFault,
}

/// Reason why a URL is refused.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
enum UrlFault {
    #[error("it is too long or has control characters")]
    NotPrintable,
    #[error("it begins with none of http://, https://, file:/// and rsync://")]
    UnknownScheme,
    #[error("it has a query or a fragment")]
    QueryOrFragment,
    #[error("a file URL needs an absolute path and no host")]
    FileHost,
    #[error("the name of the rsync module is missing")]
    NoModule,
    #[error("a bracket is not closed")]
    OpenBracket,
    #[error("the brackets contain no IPv6 address")]
    NotIpv6,
    #[error("only a link-local address (fe80::/10) has a zone, which is a network interface")]
    BadZone,
    #[error("the host name may only have letters, digits, dots, dashes and underscores")]
    BadHost,
    #[error("the port is not a number from 1 to 65535")]
    BadPort,
    #[error("an rsync path may only have letters, digits and ._-+@%~,=")]
    BadRsyncPath,
}

impl RepoUrl {
    /// The same repository on a web server that is reached by a tunnel from the Unix `socket`.
    pub fn with_tunnel(self, socket: PathBuf) -> Self {
        RepoUrl { tunnel: Some(socket), ..self }
    }

    /// Whether no network path to the repository can be read or changed by others.
    pub fn is_encrypted(&self) -> bool {
        match &self.target {
            UrlTarget::Http(url) => url.url.scheme() == "https" || self.tunnel.is_some(),
            UrlTarget::File(_) => true,
            UrlTarget::Rsync(_) => false,
        }
    }

    pub(in crate::fetch) fn target(&self) -> &UrlTarget {
        &self.target
    }

    pub(in crate::fetch) fn tunnel(&self) -> Option<&Path> {
        self.tunnel.as_deref()
    }
}

impl FromStr for RepoUrl {
    type Err = BadRepoUrl;

    fn from_str(text: &str) -> Result<Self, BadRepoUrl> {
        let target =
            parse(text).map_err(|fault| BadRepoUrl { url: hide_credentials(text), fault })?;
        Ok(RepoUrl { target, tunnel: None })
    }
}

impl fmt::Display for RepoUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            UrlTarget::Http(url) => url.fmt(f),
            UrlTarget::File(path) => write!(f, "file://{}", path.display()),
            UrlTarget::Rsync(url) => f.write_str(url),
        }
    }
}

impl HttpUrl {
    /// The URL, without its zone.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Network interface of a link-local address.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// The URL of a directory below this one.
    pub fn join(&self, directory: &str) -> Self {
        let mut joined = self.clone();
        joined.url.set_path(&format!("{}{directory}/", self.url.path()));
        joined
    }

    fn parse(text: &str) -> Result<Self, UrlFault> {
        let (text, zone) = split_zone(text)?;
        let mut url = Url::parse(&text).map_err(|_| UrlFault::UnknownScheme)?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(UrlFault::QueryOrFragment);
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        Ok(HttpUrl { url, zone })
    }
}

impl fmt::Display for HttpUrl {
    /// For messages: without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        if url.password().is_some() {
            // Fails only for URLs without a host, and they have no password.
            let _ = url.set_password(None);
        }
        match (&self.zone, url.as_str().split_once(']')) {
            (Some(zone), Some((address, rest))) => write!(f, "{address}%{zone}]{rest}"),
            _ => f.write_str(url.as_str()),
        }
    }
}

/// Splits the zone from the address of a URL, which no standard for URLs has.
///
/// Both spellings are accepted: `%eth0`, as all programs print it, and `%25eth0` (RFC 6874).
fn split_zone(text: &str) -> Result<(String, Option<String>), UrlFault> {
    let authority = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or_default();
    let bracketed = authority.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    let Some((address, zone)) = bracketed.and_then(|(inside, _)| inside.split_once('%')) else {
        return Ok((text.to_owned(), None));
    };

    check_zone(address, zone)?;
    let bare = text.replacen(&format!("[{address}%{zone}]"), &format!("[{address}]"), 1);
    let zone = zone.strip_prefix("25").filter(|rest| !rest.is_empty()).unwrap_or(zone);
    Ok((bare, Some(zone.to_owned())))
}

/// Checks an IPv6 address, which may have a zone.
fn check_ipv6(text: &str) -> Result<(), UrlFault> {
    match text.split_once('%') {
        Some((address, zone)) => check_zone(address, zone),
        None => text.parse::<Ipv6Addr>().map(drop).map_err(|_| UrlFault::NotIpv6),
    }
}

/// Checks that `zone` can be the interface of the link-local `address`.
fn check_zone(address: &str, zone: &str) -> Result<(), UrlFault> {
    let address: Ipv6Addr = address.parse().map_err(|_| UrlFault::NotIpv6)?;
    let is_name = !zone.is_empty() && zone.len() <= MAX_ZONE && zone.bytes().all(is_host_byte);
    if !address.is_unicast_link_local() || !is_name {
        return Err(UrlFault::BadZone);
    }
    Ok(())
}

/// Text that may be a URL, without user and password.
fn hide_credentials(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!("{}://…{}", &text[..scheme], &text[at..])
        }
        _ => text.to_owned(),
    }
}

fn parse(text: &str) -> Result<UrlTarget, UrlFault> {
    if text.len() > 4096 || text.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(UrlFault::NotPrintable);
    }
    if let Some(rest) = text.strip_prefix("rsync://") {
        return parse_rsync(rest);
    }

    let url = HttpUrl::parse(text)?;
    match url.url.scheme() {
        "http" | "https" => Ok(UrlTarget::Http(url)),
        "file" => url.url.to_file_path().map(UrlTarget::File).map_err(|()| UrlFault::FileHost),
        _ => Err(UrlFault::UnknownScheme),
    }
}

/// Parses `HOST[:PORT]/MODULE[/PATH]`.
///
/// An rsync server expands wildcards and splits at blanks, so only characters are accepted that its
/// protocol transmits unchanged.
fn parse_rsync(rest: &str) -> Result<UrlTarget, UrlFault> {
    let (host, path) = rest.trim_end_matches('/').split_once('/').ok_or(UrlFault::NoModule)?;

    let port = match host.strip_prefix('[') {
        Some(bracketed) => {
            let (name, port) = bracketed.split_once(']').ok_or(UrlFault::OpenBracket)?;
            check_ipv6(name)?;
            port
        }
        None => {
            let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
            if name.is_empty() || name.starts_with('-') || !name.bytes().all(is_host_byte) {
                return Err(UrlFault::BadHost);
            }
            port
        }
    };
    if !port.is_empty()
        && port.strip_prefix(':').and_then(|p| p.parse::<u16>().ok()).is_none_or(|p| p == 0)
    {
        return Err(UrlFault::BadPort);
    }

    if path.starts_with('-') || !path.split('/').all(is_safe_component) {
        return Err(UrlFault::BadRsyncPath);
    }
    Ok(UrlTarget::Rsync(format!("rsync://{host}/{path}/")))
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-_:".contains(&byte)
}

fn is_safe_component(component: &str) -> bool {
    !matches!(component, "" | "." | "..")
        && component
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-+@%~,=".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<RepoUrl>().expect(text).to_string()
    }

    #[test]
    fn valid_urls_are_made_canonical() {
        assert_eq!(canonical("http://server"), "http://server/");
        assert_eq!(canonical("http://127.0.0.1:8750/repo"), "http://127.0.0.1:8750/repo/");
        assert_eq!(canonical("https://[::1]:8443/a/b/"), "https://[::1]:8443/a/b/");
        assert_eq!(canonical("file:///srv/my%20repo/"), "file:///srv/my repo/");
        assert_eq!(canonical("rsync://server/images"), "rsync://server/images/");
        assert_eq!(
            canonical("rsync://[fe80::1]:8730/module/a/b/"),
            "rsync://[fe80::1]:8730/module/a/b/"
        );
    }

    #[test]
    fn zone_of_link_local_address_is_kept_beside_the_url() {
        for (text, url, zone) in [
            ("http://[fe80::1%eth0]:8080/a", "http://[fe80::1]:8080/a/", "eth0"),
            ("https://[fe80::1%25eth0]/", "https://[fe80::1]/", "eth0"),
            ("http://user@[fe80::1%25]/", "http://user@[fe80::1]/", "25"),
        ] {
            let parsed = HttpUrl::parse(text).expect(text);
            assert_eq!((parsed.url().as_str(), parsed.zone()), (url, Some(zone)), "{text}");
        }

        assert_eq!(canonical("http://[fe80::1%25eth0]:80/a"), "http://[fe80::1%eth0]/a/");
        assert_eq!(canonical("rsync://[fe80::1%eth0]/module"), "rsync://[fe80::1%eth0]/module/");
    }

    #[test]
    fn ambiguous_urls_are_refused() {
        for bad in [
            "",
            "server",
            "/srv/repo",
            "ftp://server/",
            "file://server/path",
            "http:///",
            "http://server/?query",
            "http://server/a\nb",
            "rsync://server",
            "rsync://server/",
            "rsync:///module",
            "rsync://-oProxyCommand=x/module",
            "rsync://user@server/module",
            "rsync://server:0/module",
            "rsync://server:port/module",
            "rsync://server/a/../b",
            "rsync://server/a b",
            "rsync://server/a*",
            "rsync://server/--delete",
            "rsync://[::1/module",
            "rsync://[::1%eth0]/module",
            "rsync://server%eth0/module",
            "http://[::1%eth0]/",
            "http://[fe80::1%]/",
            "http://[fe80::1%a b]/",
            "http://[head%eth0]/",
        ] {
            assert!(bad.parse::<RepoUrl>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn passwords_are_not_printed() {
        assert_eq!(canonical("http://node:secret@server/"), "http://node@server/");

        let error = "rsync://node:secret@server/module".parse::<RepoUrl>().expect_err("a user");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
