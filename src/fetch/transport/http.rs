//! A repository on a web server.
//!
//! A download is resumed only under the strong etag that it began with (RFC 9110, 13.1.5 and 14.2), so
//! two states of a file never get mixed. `Content-Encoding` is not looked at: nothing is asked for but
//! the bytes as stored, some servers mark every `.gz` file with it, and the digest decides.

use std::error::Error;
use std::io;
use std::time::Duration;

use reqwest::blocking::{Client, RequestBuilder, Response};
use reqwest::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_RANGE, ETAG, HOST, HeaderMap, HeaderName, HeaderValue,
    IF_NONE_MATCH, IF_RANGE, RANGE, RETRY_AFTER,
};
use reqwest::{StatusCode, Url, redirect};

use crate::fetch::cancel::{self, ChannelReader};
use crate::fetch::download::partial_file::PartialFile;
use crate::fetch::download::retry::MinimumRate;
use crate::fetch::download::spool::{Spool, is_header, is_strong};
use crate::fetch::error::{FetchError, FetchErrorKind as Kind, Side};
use crate::fetch::transport::certificates::certificates;
use crate::fetch::transport::file::too_large;
use crate::fetch::transport::url::shown;
use crate::fetch::transport::{Transport, TransportError};
use crate::fetch::{CatalogAnswer, FetchOptions};

const USER_AGENT: &str = concat!("si_updateclient/", env!("CARGO_PKG_VERSION"));
/// A request is sent on no more often.
const MAX_REDIRECTS: usize = 5;
pub(in crate::fetch) struct HttpTransport {
    client: Client,
    /// The image's directory, ending with a slash.
    base: String,
    shown: String,
    options: FetchOptions,
}

/// What a `Content-Range` of an answer says.
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    first: u64,
    last: u64,
    total: Option<u64>,
}

impl HttpTransport {
    /// `base` is the image's directory, ending with a slash; `through` a port of this machine that leads to its
    /// server, where that is not reached itself.
    pub fn new(
        base: &Url,
        through: Option<u16>,
        options: FetchOptions,
    ) -> Result<Self, FetchError> {
        let this_node = |why: String| FetchError::new(Kind::Other, Side::Node, shown(base), why);
        // Another part of the program may have installed it; then it is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificates = certificates(options.ca_file.as_deref())?;
        if base.scheme() == "https" && certificates.is_empty() {
            return Err(this_node(
                "it has no certificates to check the server with; name a file of them".to_owned(),
            ));
        }
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut reached = base.clone();
        let mut builder = Client::builder();
        let mut redirects = redirect::Policy::custom(follow);
        if let Some(port) = through {
            let host =
                HeaderValue::from_str(base.authority()).map_err(|e| this_node(e.to_string()))?;
            headers.insert(HOST, host);
            let moved =
                reached.set_host(Some("127.0.0.1")).is_ok() && reached.set_port(Some(port)).is_ok();
            if !moved || base.scheme() != "http" {
                return Err(this_node(
                    "only an http address can be reached through another port".to_owned(),
                ));
            }
            // Neither a proxy nor another server is the one at the end of the tunnel.
            builder = builder.no_proxy();
            redirects = redirect::Policy::none();
        }
        let client = builder
            .user_agent(USER_AGENT)
            .default_headers(headers)
            .referer(false)
            .redirect(redirects)
            .connect_timeout(options.connect_timeout)
            // The blocking client takes this for the whole of request and headers, then for each read.
            .timeout(options.idle_timeout)
            // Given a list, also an empty one, it does not look for the system's, which fails where there is none.
            .tls_certs_only(certificates)
            .build()
            .map_err(|e| this_node(format!("cannot make an HTTP client: {}", reason(&e))))?;
        Ok(HttpTransport { client, base: reached.to_string(), shown: shown(base), options })
    }

    fn get(&self, file: &str) -> RequestBuilder {
        self.client.get(format!("{}{file}", self.base))
    }

    fn send(&self, file: &str, request: RequestBuilder) -> Result<Response, TransportError> {
        let sent = cancel::cancellable(self.options.stopped, move || request.send())?;
        sent.map_err(|e| self.not_sent(file, &e))
    }

    fn error(&self, file: &str, kind: Kind, side: Side, why: impl std::fmt::Display) -> FetchError {
        FetchError::new(kind, side, self.address(file), why)
    }

    /// Why there is no answer.
    fn not_sent(&self, file: &str, error: &reqwest::Error) -> TransportError {
        let why = reason(error);
        if error.is_redirect() {
            return self.error(file, Kind::Other, Side::Server, why).into();
        }
        if error.is_builder() {
            return self.error(file, Kind::Other, Side::Node, why).into();
        }
        if source::<rustls::Error>(error).is_some() {
            return self.error(file, Kind::Unreachable, Side::Server, why).into();
        }
        let refused = source::<io::Error>(error)
            .is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        let (kind, side, why) = if refused {
            (
                Kind::Unreachable,
                Side::Server,
                "nothing listens there: connection refused".to_owned(),
            )
        } else if error.is_timeout() {
            (
                Kind::Unreachable,
                Side::Network,
                format!("no answer within {:?}", self.options.idle_timeout),
            )
        } else if error.is_dns() {
            (Kind::Unreachable, Side::Network, format!("the server's name leads nowhere: {why}"))
        } else if why.contains("invalid HTTP") {
            // The parser's errors have no type that is public here; a test keeps these words.
            (Kind::Other, Side::Server, format!("it does not answer in HTTP: {why}"))
        } else {
            (Kind::Unreachable, Side::Network, why)
        };
        TransportError::transient(self.error(file, kind, side, why))
    }

    /// What an answer means that does not bring what was asked for.
    fn refused(&self, file: &str, response: &Response) -> TransportError {
        let status = response.status();
        let error =
            |kind| self.error(file, kind, Side::Server, format_args!("it answers {status}"));
        match status.as_u16() {
            404 | 410 => error(Kind::NotFound).into(),
            408 | 425 | 429 | 500..=599 => {
                let pause = text(response, &RETRY_AFTER)
                    .and_then(|t| t.parse().ok())
                    .map(Duration::from_secs);
                TransportError::Transient { error: error(Kind::Other), pause }
            }
            _ => error(Kind::Other).into(),
        }
    }

    fn corrupt(&self, file: &str, why: impl std::fmt::Display) -> TransportError {
        TransportError::transient(self.error(file, Kind::Corrupt, Side::Server, why))
    }

    /// Takes the body in, as far as the part needs it.
    fn pump(
        &self,
        file: &str,
        response: Response,
        part: &mut PartialFile<'_>,
    ) -> Result<(), TransportError> {
        let ends_with_part = part.end() == part.total();
        let told = response.content_length();
        let mut pace = MinimumRate::new(&self.options);
        let mut pieces = ChannelReader::of(response, self.options.stopped);
        while part.left() > 0 {
            let Some(piece) =
                pieces.next()?.map_err(|e| self.cut(file, part, &self.interruption(&e)))?
            else {
                return Err(self.cut(file, part, "the body ends"));
            };
            let wanted = usize::try_from(part.left()).unwrap_or(usize::MAX).min(piece.len());
            if wanted < piece.len() && ends_with_part {
                return Err(self.too_long(file, part));
            }
            part.append(&piece[..wanted])?;
            if !pace.holds(piece.len() as u64) {
                return Err(self.cut(file, part, "the bytes come too slowly"));
            }
        }
        // Reads the end of a chunked body, so that the connection can be used again; all that was
        // asked for is here, so only surplus bytes matter.
        if told.is_none() && ends_with_part && matches!(pieces.next()?, Ok(Some(_))) {
            return Err(self.too_long(file, part));
        }
        Ok(())
    }

    /// Why no more of a body comes.
    fn interruption(&self, error: &io::Error) -> String {
        match reason(error) {
            why if why.contains("timed out") => {
                format!("nothing came for {:?}", self.options.idle_timeout)
            }
            why => why,
        }
    }

    fn cut(&self, file: &str, part: &PartialFile<'_>, why: &str) -> TransportError {
        let why = format!("{why} at byte {} of {}", part.next(), part.end());
        TransportError::transient(self.error(file, Kind::Unreachable, Side::Network, why))
    }

    fn too_long(&self, file: &str, part: &mut PartialFile<'_>) -> TransportError {
        match part.restart(None) {
            Ok(()) => self.corrupt(
                file,
                format_args!("the file is longer than the {} bytes of the catalog", part.total()),
            ),
            Err(e) => e.into(),
        }
    }

    /// Checks that a 206 brings the bytes that were asked for.
    fn check_partial(
        &self,
        file: &str,
        response: &Response,
        part: &mut PartialFile<'_>,
    ) -> Result<(), TransportError> {
        let range = text(response, &CONTENT_RANGE).and_then(ContentRange::parse);
        let Some(range) = range else {
            return Err(self.corrupt(file, "it sends a part without saying which (Content-Range)"));
        };
        if range.total.is_some_and(|total| total != part.total()) {
            part.restart(None)?;
            return Err(self.wrong_size(file, range.total.unwrap_or(0), part.total()));
        }
        if range.first != part.next() || range.last >= part.end() {
            let (from, to) = (part.next(), part.end() - 1);
            let why =
                format!("asked for bytes {from}-{to} it sends {}-{}", range.first, range.last);
            part.restart(None)?;
            return Err(self.corrupt(file, why));
        }
        if part.held() > 0 && text(response, &ETAG).is_some_and(|etag| part.etag() != Some(etag)) {
            part.restart(None)?;
            return Err(self.corrupt(file, "the file changed while it was fetched"));
        }
        Ok(())
    }

    fn wrong_size(&self, file: &str, size: u64, wanted: u64) -> TransportError {
        self.corrupt(file, format_args!("the file has {size} bytes, the catalog names {wanted}"))
    }
}

impl Transport for HttpTransport {
    fn address(&self, file: &str) -> String {
        format!("{}{file}", self.shown)
    }

    fn fill(&self, file: &str, part: &mut PartialFile<'_>) -> Result<(), TransportError> {
        if part.held() > 0 && part.etag().is_none() {
            part.restart(None)?;
        }
        let mut request = self.get(file);
        if part.next() > 0 || part.end() < part.total() {
            request = request
                .header(RANGE, format!("bytes={}-{}", part.next(), part.end().saturating_sub(1)));
        }
        if let (Some(etag), true) = (part.etag(), part.held() > 0) {
            request = request.header(IF_RANGE, etag);
        }
        if part.fresh {
            request = request.header(CACHE_CONTROL, "no-cache");
        }
        let response = self.send(file, request)?;
        let etag = text(&response, &ETAG).filter(|etag| is_strong(etag)).map(str::to_owned);
        match response.status() {
            StatusCode::OK if part.is_prefix() => {
                if let Some(size) = response.content_length().filter(|size| *size != part.total()) {
                    return Err(self.wrong_size(file, size, part.total()));
                }
                part.restart(etag)?;
            }
            StatusCode::OK if part.held() > 0 => {
                part.restart(None)?;
                return Err(self.corrupt(file, "the file changed while it was fetched"));
            }
            StatusCode::OK => return Err(TransportError::WholeFilesOnly),
            StatusCode::PARTIAL_CONTENT => {
                self.check_partial(file, &response, part)?;
                if part.held() == 0 {
                    part.restart(etag)?;
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                part.restart(None)?;
                return Err(
                    self.corrupt(file, format_args!("the file has no bytes up to {}", part.end()))
                );
            }
            _ => return Err(self.refused(file, &response)),
        }
        self.pump(file, response, part)
    }

    fn unsized_file(
        &self,
        file: &str,
        known: Option<&str>,
        cap: u64,
        _: &Spool,
    ) -> Result<CatalogAnswer, TransportError> {
        let known = known.filter(|etag| is_header(etag));
        let mut request = self.get(file);
        if let Some(etag) = known {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let response = self.send(file, request)?;
        match response.status() {
            StatusCode::NOT_MODIFIED if known.is_some() => return Ok(CatalogAnswer::NotModified),
            StatusCode::OK => {}
            _ => return Err(self.refused(file, &response)),
        }
        let etag = text(&response, &ETAG).filter(|etag| is_header(etag)).map(str::to_owned);
        let too_large = || TransportError::Permanent(too_large(self.address(file), cap));
        if response.content_length().is_some_and(|size| size > cap) {
            return Err(too_large());
        }
        let broken = |why: &str| {
            TransportError::transient(self.error(file, Kind::Unreachable, Side::Network, why))
        };
        let (mut pace, mut bytes) = (MinimumRate::new(&self.options), Vec::new());
        let mut pieces = ChannelReader::of(response, self.options.stopped);
        while let Some(piece) = pieces.next()?.map_err(|e| broken(&self.interruption(&e)))? {
            if (bytes.len() + piece.len()) as u64 > cap {
                return Err(too_large());
            }
            if !pace.holds(piece.len() as u64) {
                return Err(broken("the bytes come too slowly"));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(CatalogAnswer::Fetched { bytes, etag })
    }
}

impl ContentRange {
    /// Reads `bytes FIRST-LAST/TOTAL`, where TOTAL may be `*`.
    fn parse(text: &str) -> Option<Self> {
        let (range, total) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        let total = if total == "*" { None } else { Some(total.parse().ok()?) };
        (first <= last && total.is_none_or(|total| last < total)).then_some(ContentRange {
            first,
            last,
            total,
        })
    }
}

/// Follows a few redirects, and never one that would leave encryption behind.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error("it redirects in a circle, or too often");
    }
    let secure = attempt.previous().iter().any(|url| url.scheme() == "https");
    match attempt.url().scheme() {
        "https" => attempt.follow(),
        "http" if !secure => attempt.follow(),
        scheme => {
            let why = format!("it redirects to {scheme}, which is less safe or unknown");
            attempt.error(why)
        }
    }
}

fn text<'r>(response: &'r Response, name: &HeaderName) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

/// The error of a type among the sources of `error`.
fn source<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        // An io::Error hides what it wraps from `source`, and shows only what that has as its source.
        let wrapped = error.downcast_ref::<io::Error>().and_then(|e| e.get_ref());
        if let Some(found) = wrapped.and_then(|e| source::<E>(e)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The innermost reason of `error`; what stands around it says only that a request failed.
fn reason(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string().chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_has_to_make_sense() {
        let range = |first, last, total| Some(ContentRange { first, last, total });
        assert_eq!(ContentRange::parse("bytes 0-9/10"), range(0, 9, Some(10)));
        assert_eq!(ContentRange::parse("bytes 5-9/*"), range(5, 9, None));
        for bad in [
            "",
            "bytes */10",
            "bytes 9-5/10",
            "bytes 0-10/10",
            "items 0-1/2",
            "bytes 0-/5",
            "bytes -1-2/3",
        ] {
            assert_eq!(ContentRange::parse(bad), None, "{bad:?}");
        }
        assert_eq!(ContentRange::parse("bytes 0-99999999999999999999/*"), None);
    }

    #[test]
    fn without_any_certificate_plain_http_still_works() {
        let base = Url::parse("http://127.0.0.1:9/node/").expect("a URL");
        let empty = tempfile::NamedTempFile::new().expect("scratch");
        let options =
            FetchOptions { ca_file: Some(empty.path().to_owned()), ..FetchOptions::default() };
        assert!(HttpTransport::new(&base, None, options.clone()).is_ok());
        let base = Url::parse("https://127.0.0.1:9/node/").expect("a URL");
        let error = HttpTransport::new(&base, None, options)
            .err()
            .expect("nothing to check the server with");
        assert_eq!((error.kind, error.side), (Kind::Other, Side::Node), "{error}");
    }
}
