//! The proxy that the HTTP client uses, for messages.

use std::fmt;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

/// A proxy from the environment (`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proxy {
    /// Its URL, without user and password.
    url: String,
}

impl Proxy {
    /// The proxy for requests to `url`, if there is one; found as the HTTP client finds it.
    pub fn of(url: &Url) -> Option<Self> {
        Self::find(&Matcher::from_system(), url)
    }

    fn find(matcher: &Matcher, url: &Url) -> Option<Self> {
        let target = url.as_str().parse().ok()?;
        let intercept = matcher.intercept(&target)?;
        let proxy = intercept.uri();

        let scheme = proxy.scheme_str().unwrap_or("http");
        let authority = proxy.authority()?.as_str();
        let address = authority.rsplit('@').next().unwrap_or_default();
        Some(Proxy { url: format!("{scheme}://{address}") })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_is_shown_without_password() {
        let matcher =
            Matcher::builder().http("http://node:secret@proxy:3128").no("head,10.0.0.0/8").build();
        let find = |url: &str| {
            Proxy::find(&matcher, &Url::parse(url).expect("a URL")).map(|proxy| proxy.to_string())
        };

        assert_eq!(find("http://server/node/").as_deref(), Some("http://proxy:3128"));
        assert_eq!(find("http://head/node/"), None);
        assert_eq!(find("http://10.1.2.3:8080/node/"), None);
        assert_eq!(find("https://server/node/"), None);
    }
}
