//! Answers that do not come from the repository as it is stored.
//!
//! A captive portal or a proxy answers with a page of its own, and some servers compress what
//! nobody asked them to compress. Their bytes would only be found to be wrong, and the server
//! blamed for its files.

use reqwest::StatusCode;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};

use crate::fetch::error::FetchProblem;

/// Beginning of gzip data.
const GZIP: &[u8] = &[0x1f, 0x8b];
/// Words with which servers answer plain HTTP at a port for TLS: nginx, Apache, Go.
const NEEDS_TLS: [&str; 3] = ["HTTPS port", "SSL-enabled server port", "to an HTTPS server"];

/// Properties of an answer that explain wrong bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AnswerKind {
    /// The media type is that of a web page; no file of a repository is one.
    is_web_page: bool,
    /// Content coding, although only `identity` was requested.
    encoding: Option<String>,
}

impl AnswerKind {
    pub fn new(headers: &HeaderMap) -> Self {
        let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_web_page = media_type.is_some_and(|text| {
            text.trim_start().get(..9).is_some_and(|text| text.eq_ignore_ascii_case("text/html"))
        });
        let encoding = headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok());
        let encoding = encoding.filter(|name| !name.eq_ignore_ascii_case("identity"));
        AnswerKind { is_web_page, encoding: encoding.map(|name| name.chars().take(40).collect()) }
    }

    /// The cause of wrong bytes; `problem` if the headers have no better explanation.
    ///
    /// The headers alone prove nothing: some servers add the coding to every `.gz` file.
    pub fn explain(&self, problem: FetchProblem) -> FetchProblem {
        match &self.encoding {
            _ if self.is_web_page => FetchProblem::WebPage,
            Some(encoding) => FetchProblem::UnaskedEncoding { encoding: encoding.clone() },
            None => problem,
        }
    }

    /// The cause of a catalog that is none.
    pub fn check_catalog(&self, bytes: &[u8]) -> Result<(), FetchProblem> {
        let is_markup = bytes.trim_ascii_start().starts_with(b"<");
        if self.is_web_page && is_markup || is_page_text(bytes) {
            return Err(FetchProblem::WebPage);
        }
        if bytes.starts_with(GZIP) {
            let encoding = self.encoding.clone().unwrap_or_else(|| "gzip".to_owned());
            return Err(FetchProblem::UnaskedEncoding { encoding });
        }
        Ok(())
    }
}

/// Whether the text of an error page tells that the port is one for TLS.
pub(super) fn is_answer_of_tls_port(status: StatusCode, text: &str) -> bool {
    status == StatusCode::BAD_REQUEST && NEEDS_TLS.iter().any(|words| text.contains(words))
}

/// Whether the text begins as web pages do.
fn is_page_text(bytes: &[u8]) -> bool {
    let bytes = bytes.trim_ascii_start();
    [&b"<!doctype html"[..], b"<html"]
        .iter()
        .any(|begin| bytes.get(..begin.len()).is_some_and(|text| text.eq_ignore_ascii_case(begin)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(headers: &[(&'static str, &str)]) -> AnswerKind {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
        AnswerKind::new(&headers.collect())
    }

    #[test]
    fn web_page_and_compression_explain_wrong_bytes() {
        let wrong = || FetchProblem::WrongSize { actual: 1, expected: 2 };

        let page = kind(&[("content-type", "Text/HTML; charset=utf-8")]);
        assert!(matches!(page.explain(wrong()), FetchProblem::WebPage));
        let encoded = kind(&[("content-encoding", "br")]);
        assert!(matches!(encoded.explain(wrong()), FetchProblem::UnaskedEncoding { .. }));
        let plain = kind(&[("content-encoding", "identity"), ("content-type", "text/plain")]);
        assert!(matches!(plain.explain(wrong()), FetchProblem::WrongSize { .. }));
    }

    #[test]
    fn page_in_place_of_catalog_is_recognised() {
        let check = |headers: &[(&'static str, &str)], bytes: &[u8]| {
            kind(headers).check_catalog(bytes).map_err(|problem| problem.to_string())
        };

        assert!(check(&[], b"format = 1\n").is_ok());
        // Some servers send every unknown suffix as a web page.
        assert!(check(&[("content-type", "text/html")], b"format = 1\n").is_ok());
        assert!(check(&[("content-type", "text/html")], b"<p>Log in</p>").is_err());
        assert!(check(&[], b"\n<!DOCTYPE html>").is_err());
        assert!(check(&[("content-encoding", "gzip")], b"\x1f\x8b\x08").is_err());
    }
}
