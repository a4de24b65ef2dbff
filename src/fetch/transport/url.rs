//! Where a repository is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use reqwest::Url;

/// The address of a repository, in which each image has a directory of its name, and each override one in
/// `overrides/`.
///
/// Of four forms: `http://HOST[:PORT]/PATH`, `https://…`, `file:///PATH` and
/// `rsync://HOST[:PORT]/MODULE[/PATH]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoUrl {
    place: UrlTarget,
    through: Option<u16>,
}

/// The address, by how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::fetch) enum UrlTarget {
    /// http or https; the path ends with a slash.
    Http(Url),
    /// A directory of this machine.
    File(PathBuf),
    /// `rsync://HOST[:PORT]/MODULE/PATH/`, all of it safe as an argument and in rsync's protocol.
    Rsync(String),
}

/// Text that is not the address of a repository.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{url:?} is not the address of a repository: {why}")]
pub struct BadRepoUrl {
    url: String,
    why: &'static str,
}

impl RepoUrl {
    /// The same repository, of a web server that is reached by this port of this machine: its address stays what
    /// it is known by.
    pub fn reached_by(self, port: u16) -> Self {
        RepoUrl { through: Some(port), ..self }
    }

    pub(in crate::fetch) fn place(&self) -> &UrlTarget {
        &self.place
    }

    pub(in crate::fetch) fn through(&self) -> Option<u16> {
        self.through
    }
}

impl FromStr for RepoUrl {
    type Err = BadRepoUrl;

    fn from_str(text: &str) -> Result<Self, BadRepoUrl> {
        let place = parse(text).map_err(|why| BadRepoUrl { url: without_password(text), why })?;
        Ok(RepoUrl { place, through: None })
    }
}

impl fmt::Display for RepoUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            UrlTarget::Http(url) => f.write_str(&shown(url)),
            UrlTarget::File(path) => write!(f, "file://{}", path.display()),
            UrlTarget::Rsync(url) => f.write_str(url),
        }
    }
}

/// `url` as it may be printed: without the password.
pub(in crate::fetch) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    if url.password().is_some() {
        // Fails only for addresses without a host, and they have no password.
        let _ = url.set_password(None);
    }
    url.into()
}

fn without_password(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!("{}://…{}", &text[..scheme], &text[at..])
        }
        _ => text.to_owned(),
    }
}

fn parse(text: &str) -> Result<UrlTarget, &'static str> {
    if text.len() > 4096 || text.bytes().any(|b| b.is_ascii_control()) {
        return Err("it is too long, or holds control characters");
    }
    if let Some(rest) = text.strip_prefix("rsync://") {
        return rsync(rest);
    }
    let mut url =
        Url::parse(text).map_err(|_| "it is none of http://, https://, file:/// and rsync://")?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a repository has no query and no fragment");
    }
    match url.scheme() {
        "http" | "https" => {
            if !url.path().ends_with('/') {
                url.set_path(&format!("{}/", url.path()));
            }
            Ok(UrlTarget::Http(url))
        }
        "file" => url
            .to_file_path()
            .map(UrlTarget::File)
            .map_err(|()| "a file address has an absolute path and no host"),
        _ => Err("it is none of http://, https://, file:/// and rsync://"),
    }
}

/// Takes only what rsync's daemon protocol passes on unchanged: a server expands wildcards and splits
/// at blanks.
fn rsync(rest: &str) -> Result<UrlTarget, &'static str> {
    let (host, path) = rest
        .trim_end_matches('/')
        .split_once('/')
        .ok_or("the name of the rsync module is missing")?;
    let (name, port) = match host.strip_prefix('[') {
        Some(v6) => {
            let (name, port) = v6.split_once(']').ok_or("a bracket is not closed")?;
            name.parse::<std::net::Ipv6Addr>()
                .map_err(|_| "no IPv6 address stands in the brackets")?;
            (name, port)
        }
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let good_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
    if name.is_empty() || name.starts_with('-') || !name.bytes().all(good_name) {
        return Err("the host's name holds other than letters, digits, dots and dashes");
    }
    if !port.is_empty()
        && port.strip_prefix(':').and_then(|p| p.parse::<u16>().ok()).is_none_or(|p| p == 0)
    {
        return Err("the port is not a number from 1 to 65535");
    }
    let good_component = |component: &str| {
        !matches!(component, "" | "." | "..")
            && component.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+@%~,=".contains(&b))
    };
    if path.starts_with('-') || !path.split('/').all(good_component) {
        return Err("an rsync path may hold letters, digits and ._-+@%~,= only");
    }
    Ok(UrlTarget::Rsync(format!("rsync://{host}/{path}/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_as(text: &str) -> String {
        text.parse::<RepoUrl>().expect(text).to_string()
    }

    #[test]
    fn the_four_forms_are_understood() {
        assert_eq!(shown_as("http://server"), "http://server/");
        assert_eq!(shown_as("http://127.0.0.1:8750/repo"), "http://127.0.0.1:8750/repo/");
        assert_eq!(shown_as("https://[::1]:8443/a/b/"), "https://[::1]:8443/a/b/");
        assert_eq!(shown_as("file:///srv/my%20repo/"), "file:///srv/my repo/");
        assert_eq!(shown_as("rsync://server/images"), "rsync://server/images/");
        assert_eq!(
            shown_as("rsync://[fe80::1]:8730/module/a/b/"),
            "rsync://[fe80::1]:8730/module/a/b/"
        );
    }

    #[test]
    fn what_could_mean_something_else_to_a_program_is_refused() {
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
        assert_eq!(shown_as("http://node:secret@server/"), "http://node@server/");
        let error = "rsync://node:secret@server/module".parse::<RepoUrl>().expect_err("has a user");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
