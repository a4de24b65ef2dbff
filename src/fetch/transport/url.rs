//! URLs of repositories.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use reqwest::Url;

/// URL of a repository: it has one directory per image, and `overrides/NAME` per override.
///
/// Four forms are valid: `http://HOST[:PORT]/PATH`, `https://…`, `file:///PATH` and
/// `rsync://HOST[:PORT]/MODULE[/PATH]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoUrl {
    target: UrlTarget,
    /// Unix socket of a tunnel to the server.
    tunnel: Option<PathBuf>,
}

/// Parsed URL, by its transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::fetch) enum UrlTarget {
    /// http or https; the path ends with a slash.
    Http(Url),
    /// A directory of this machine.
    File(PathBuf),
    /// `rsync://HOST[:PORT]/MODULE/PATH/`, safe as an argument and in rsync's protocol.
    Rsync(String),
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
            UrlTarget::Http(url) => f.write_str(&without_password(url)),
            UrlTarget::File(path) => write!(f, "file://{}", path.display()),
            UrlTarget::Rsync(url) => f.write_str(url),
        }
    }
}

/// `url` for messages: without its password.
pub(in crate::fetch) fn without_password(url: &Url) -> String {
    let mut url = url.clone();
    if url.password().is_some() {
        // Fails only for URLs without a host, and they have no password.
        let _ = url.set_password(None);
    }
    url.into()
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

    let mut url = Url::parse(text).map_err(|_| UrlFault::UnknownScheme)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(UrlFault::QueryOrFragment);
    }
    match url.scheme() {
        "http" | "https" => {
            if !url.path().ends_with('/') {
                url.set_path(&format!("{}/", url.path()));
            }
            Ok(UrlTarget::Http(url))
        }
        "file" => url.to_file_path().map(UrlTarget::File).map_err(|()| UrlFault::FileHost),
        _ => Err(UrlFault::UnknownScheme),
    }
}

/// Parses `HOST[:PORT]/MODULE[/PATH]`.
///
/// An rsync server expands wildcards and splits at blanks, so only characters are accepted that its
/// protocol transmits unchanged.
fn parse_rsync(rest: &str) -> Result<UrlTarget, UrlFault> {
    let (host, path) = rest.trim_end_matches('/').split_once('/').ok_or(UrlFault::NoModule)?;

    let (name, port) = match host.strip_prefix('[') {
        Some(bracketed) => {
            let (name, port) = bracketed.split_once(']').ok_or(UrlFault::OpenBracket)?;
            name.parse::<std::net::Ipv6Addr>().map_err(|_| UrlFault::NotIpv6)?;
            (name, port)
        }
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    if name.is_empty() || name.starts_with('-') || !name.bytes().all(is_host_byte) {
        return Err(UrlFault::BadHost);
    }
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
