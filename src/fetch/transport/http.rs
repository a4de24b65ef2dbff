//! Repository on a web server.
//!
//! A download is resumed only under the strong etag with which it began (RFC 9110, 13.1.5 and
//! 14.2), so bytes of two states of a file are never mixed. `Content-Encoding` is ignored: only
//! the stored bytes are requested, some servers set it for every `.gz` file, and the digest
//! decides.

use std::error::Error;
use std::io;
use std::path::Path;
use std::time::Duration;

use reqwest::blocking::{Client, RequestBuilder, Response};
use reqwest::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_NONE_MATCH, IF_RANGE, RANGE, RETRY_AFTER,
};
use reqwest::{StatusCode, Url, redirect};

use super::certificates::read_certificates;
use super::url::without_password;
use super::{CatalogAnswer, Transport, TransportError};
use crate::cancel::{self, ChannelReader};
use crate::fetch::download::partial_file::{CacheUse, PartialFile};
use crate::fetch::download::retry::MinimumRate;
use crate::fetch::download::spool::{Spool, is_strong_etag, is_valid_etag};
use crate::fetch::error::{FetchError, FetchProblem, Interruption, RedirectError, RootCause};
use crate::fetch::options::FetchOptions;

const USER_AGENT: &str = concat!("si_updateclient/", env!("CARGO_PKG_VERSION"));
/// Limit of redirects of one request.
const MAX_REDIRECTS: usize = 5;

/// Files of one directory of a web server.
pub(in crate::fetch) struct HttpTransport {
    client: Client,
    /// URL of the directory, with a slash at its end.
    base: String,
    /// The same URL for messages: without its password.
    shown: String,
    route: Route,
    options: FetchOptions,
}

/// Path of the connections to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// By the network of this node, possibly through a proxy.
    Network,
    /// Through the Unix socket of an ssh tunnel.
    Tunnel,
}

/// Value of a `Content-Range` header.
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    first: u64,
    last: u64,
    total: Option<u64>,
}

impl HttpTransport {
    /// `base` is the directory's URL, with a slash at its end.
    ///
    /// If the server is reached by a tunnel, `tunnel` is its Unix socket.
    pub fn new(
        base: &Url,
        tunnel: Option<&Path>,
        options: FetchOptions,
    ) -> Result<Self, FetchError> {
        // Fails if another part of the program has installed it; then it is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();

        let certificates = read_certificates(options.ca_file.as_deref())?;
        if base.scheme() == "https" && certificates.is_empty() {
            return Err(FetchProblem::NoCertificates.at(without_password(base)));
        }

        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut builder = Client::builder().redirect(redirect::Policy::custom(follow));
        if let Some(socket) = tunnel {
            // A proxy or another server would not be at the end of the tunnel.
            builder = builder.unix_socket(socket).no_proxy().redirect(redirect::Policy::none());
        }

        let client = builder
            .user_agent(USER_AGENT)
            .default_headers(headers)
            .referer(false)
            .connect_timeout(options.connect_timeout)
            // The blocking client applies it to request and headers together, then to each read.
            .timeout(options.idle_timeout)
            // Any list, even an empty one, prevents the search for the system's bundle, which
            // fails if there is none.
            .tls_certs_only(certificates)
            .build()
            .map_err(|error| {
                FetchProblem::HttpClient { source: RootCause::new(error) }
                    .at(without_password(base))
            })?;
        let shown = without_password(base);
        let route = if tunnel.is_some() { Route::Tunnel } else { Route::Network };
        Ok(HttpTransport { client, base: base.to_string(), shown, route, options })
    }

    fn get(&self, file: &str) -> RequestBuilder {
        self.client.get(format!("{}{file}", self.base))
    }

    fn send(&self, file: &str, request: RequestBuilder) -> Result<Response, TransportError> {
        let result = cancel::cancellable(self.options.is_cancelled, move || request.send())?;
        result.map_err(|error| self.send_error(file, error.without_url()))
    }

    /// The error for a request without an answer.
    fn send_error(&self, file: &str, error: reqwest::Error) -> TransportError {
        let address = self.address(file);

        // These need a change of the configuration.
        if error.is_redirect() {
            return FetchProblem::Redirect(RootCause::new(error)).at(address).into();
        }
        if error.is_builder() {
            return FetchProblem::InvalidRequest { source: RootCause::new(error) }
                .at(address)
                .into();
        }
        if find_source::<rustls::Error>(&error).is_some() {
            return FetchProblem::Tls { source: RootCause::new(error) }.at(address).into();
        }

        let io_error = find_source::<io::Error>(&error);
        let problem = if error.is_connect() && self.route == Route::Tunnel {
            FetchProblem::TunnelClosed { source: RootCause::new(error) }
        } else if io_error.is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
            FetchProblem::ConnectionRefused
        } else if error.is_timeout() {
            FetchProblem::NoAnswer { limit: self.options.idle_timeout }
        } else if error.is_dns() {
            self.name_lookup(&RootCause::new(error).to_string())
        } else {
            let source = RootCause::new(error);
            // The parser's errors have no public type; a test checks these words.
            if source.to_string().contains("invalid HTTP") {
                FetchProblem::NotHttp { source }
            } else {
                FetchProblem::Connection(source)
            }
        };
        TransportError::transient(problem.at(address))
    }

    /// The failed lookup of the server's name, without the resolver's debug output of its query.
    fn name_lookup(&self, reason: &str) -> FetchProblem {
        let host = Url::parse(&self.base).ok().and_then(|url| url.host_str().map(str::to_owned));
        let reason = match reason.split_once("no records found") {
            Some(_) => "no such host name",
            None => reason,
        };
        FetchProblem::NameLookup { host: host.unwrap_or_default(), reason: reason.to_owned() }
    }

    /// The error for an answer with an unexpected status.
    fn status_error(&self, file: &str, response: &Response) -> TransportError {
        let status = response.status();
        let error = FetchProblem::HttpStatus { status }.at(self.address(file));
        match status.as_u16() {
            408 | 425 | 429 | 500..=599 => {
                let seconds =
                    header_text(response, &RETRY_AFTER).and_then(|text| text.parse().ok());
                TransportError::Transient { error, pause: seconds.map(Duration::from_secs) }
            }
            _ => error.into(),
        }
    }

    /// A failure that a repeated request may not meet again.
    fn transient(&self, file: &str, problem: FetchProblem) -> TransportError {
        TransportError::transient(problem.at(self.address(file)))
    }

    /// Appends the body to the partial file.
    fn receive_body(
        &self,
        file: &str,
        response: Response,
        partial: &mut PartialFile<'_>,
    ) -> Result<(), TransportError> {
        let ends_with_file = partial.end() == partial.file_size();
        let content_length = response.content_length();
        let mut rate = MinimumRate::new(&self.options);
        let mut body = ChannelReader::new(response, self.options.is_cancelled);

        while partial.missing() > 0 {
            let chunk = match body.next_chunk()? {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Err(self.interrupted(file, partial, Interruption::End)),
                Err(error) => {
                    return Err(self.interrupted(file, partial, self.read_failure(error)));
                }
            };

            let wanted = usize::try_from(partial.missing()).unwrap_or(usize::MAX).min(chunk.len());
            if wanted < chunk.len() && ends_with_file {
                return Err(self.too_long(file, partial));
            }
            partial.append(&chunk[..wanted])?;
            if !rate.is_kept(chunk.len() as u64) {
                return Err(self.interrupted(file, partial, Interruption::TooSlow));
            }
        }

        // The end of a chunked body has to be read before the connection can be used again. All
        // bytes are present, so a failure here matters only if it shows surplus bytes.
        let is_chunked = content_length.is_none();
        if is_chunked && ends_with_file && matches!(body.next_chunk()?, Ok(Some(_))) {
            return Err(self.too_long(file, partial));
        }
        Ok(())
    }

    /// The reason for the end of a body whose read failed.
    fn read_failure(&self, error: io::Error) -> Interruption {
        let source = RootCause::new(error);
        if source.to_string().contains("timed out") {
            Interruption::Silence { limit: self.options.idle_timeout }
        } else {
            Interruption::Connection(source)
        }
    }

    fn interrupted(
        &self,
        file: &str,
        partial: &PartialFile<'_>,
        cause: Interruption,
    ) -> TransportError {
        let position = Some((partial.offset(), partial.end()));
        self.transient(file, FetchProblem::Interrupted { cause, position })
    }

    /// Discards a file with surplus bytes: any of its bytes may be wrong.
    fn too_long(&self, file: &str, partial: &mut PartialFile<'_>) -> TransportError {
        match partial.restart(None) {
            Ok(()) => self.transient(file, FetchProblem::TooLong { expected: partial.file_size() }),
            Err(error) => error.into(),
        }
    }

    /// Checks that a 206 has the requested bytes.
    fn check_partial_content(
        &self,
        file: &str,
        response: &Response,
        partial: &mut PartialFile<'_>,
    ) -> Result<(), TransportError> {
        let range = header_text(response, &CONTENT_RANGE).and_then(ContentRange::parse);
        let Some(range) = range else {
            return Err(self.transient(file, FetchProblem::NoContentRange));
        };

        if let Some(actual) = range.total.filter(|total| *total != partial.file_size()) {
            partial.restart(None)?;
            let expected = partial.file_size();
            return Err(self.transient(file, FetchProblem::WrongSize { actual, expected }));
        }

        if range.first != partial.offset() || range.last >= partial.end() {
            let requested = (partial.offset(), partial.end() - 1);
            let sent = (range.first, range.last);
            partial.restart(None)?;
            return Err(self.transient(file, FetchProblem::WrongRange { requested, sent }));
        }

        let etag = header_text(response, &ETAG);
        if partial.length() > 0 && etag.is_some_and(|etag| partial.etag() != Some(etag)) {
            partial.restart(None)?;
            return Err(self.transient(file, FetchProblem::Changed));
        }
        Ok(())
    }

    /// A request for the missing bytes of `partial`.
    fn request_for(&self, file: &str, partial: &PartialFile<'_>) -> RequestBuilder {
        let mut request = self.get(file);
        if partial.offset() > 0 || partial.end() < partial.file_size() {
            let last = partial.end().saturating_sub(1);
            request = request.header(RANGE, format!("bytes={}-{last}", partial.offset()));
        }
        if let Some(etag) = partial.etag().filter(|_| partial.length() > 0) {
            request = request.header(IF_RANGE, etag);
        }
        if partial.cache_use() == CacheUse::Bypassed {
            request = request.header(CACHE_CONTROL, "no-cache");
        }
        request
    }
}

impl Transport for HttpTransport {
    fn address(&self, file: &str) -> String {
        format!("{}{file}", self.shown)
    }

    fn download_into(
        &self,
        file: &str,
        partial: &mut PartialFile<'_>,
    ) -> Result<(), TransportError> {
        // Without an etag the bytes may belong to another state of the file.
        if partial.length() > 0 && partial.etag().is_none() {
            partial.restart(None)?;
        }

        let response = self.send(file, self.request_for(file, partial))?;
        let etag =
            header_text(&response, &ETAG).filter(|etag| is_strong_etag(etag)).map(str::to_owned);
        match response.status() {
            StatusCode::OK if partial.is_prefix() => {
                let expected = partial.file_size();
                if let Some(actual) = response.content_length().filter(|size| *size != expected) {
                    return Err(self.transient(file, FetchProblem::WrongSize { actual, expected }));
                }
                partial.restart(etag)?;
            }
            StatusCode::OK if partial.length() > 0 => {
                partial.restart(None)?;
                return Err(self.transient(file, FetchProblem::Changed));
            }
            StatusCode::OK => return Err(TransportError::WholeFilesOnly),
            StatusCode::PARTIAL_CONTENT => {
                self.check_partial_content(file, &response, partial)?;
                if partial.length() == 0 {
                    partial.restart(etag)?;
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                partial.restart(None)?;
                let end = partial.end();
                return Err(self.transient(file, FetchProblem::RangeNotSatisfiable { end }));
            }
            _ => return Err(self.status_error(file, &response)),
        }
        self.receive_body(file, response, partial)
    }

    fn download_unsized(
        &self,
        file: &str,
        known_etag: Option<&str>,
        limit: u64,
        _: &Spool,
    ) -> Result<CatalogAnswer, TransportError> {
        let known_etag = known_etag.filter(|etag| is_valid_etag(etag));
        let mut request = self.get(file);
        if let Some(etag) = known_etag {
            request = request.header(IF_NONE_MATCH, etag);
        }

        let response = self.send(file, request)?;
        match response.status() {
            StatusCode::NOT_MODIFIED if known_etag.is_some() => {
                return Ok(CatalogAnswer::NotModified);
            }
            StatusCode::OK => {}
            _ => return Err(self.status_error(file, &response)),
        }

        let etag =
            header_text(&response, &ETAG).filter(|etag| is_valid_etag(etag)).map(str::to_owned);
        let too_large = || FetchProblem::TooLarge { limit }.at(self.address(file));
        if response.content_length().is_some_and(|size| size > limit) {
            return Err(too_large().into());
        }

        let interrupted = |cause: Interruption| {
            self.transient(file, FetchProblem::Interrupted { cause, position: None })
        };
        let mut rate = MinimumRate::new(&self.options);
        let mut bytes = Vec::new();
        let mut body = ChannelReader::new(response, self.options.is_cancelled);
        while let Some(chunk) =
            body.next_chunk()?.map_err(|error| interrupted(self.read_failure(error)))?
        {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(too_large().into());
            }
            if !rate.is_kept(chunk.len() as u64) {
                return Err(interrupted(Interruption::TooSlow));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(CatalogAnswer::Fetched { bytes, etag })
    }
}

impl ContentRange {
    /// Parses `bytes FIRST-LAST/TOTAL`; TOTAL may be `*`.
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

/// Follows a limited number of redirects, and none from https to anything else.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error(RedirectError::TooMany);
    }

    let was_secure = attempt.previous().iter().any(|url| url.scheme() == "https");
    match attempt.url().scheme() {
        "https" => attempt.follow(),
        "http" if !was_secure => attempt.follow(),
        scheme => {
            let scheme = scheme.to_owned();
            attempt.error(RedirectError::NotSecure { scheme })
        }
    }
}

fn header_text<'r>(response: &'r Response, name: &HeaderName) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

/// Finds an error of type `E` among the sources of `error`.
fn find_source<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }

        // `source` of an io::Error skips the error that it wraps.
        let wrapped = error.downcast_ref::<io::Error>().and_then(|e| e.get_ref());
        if let Some(found) = wrapped.and_then(|e| find_source::<E>(e)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::error::{FetchErrorKind, Side};

    #[test]
    fn inconsistent_content_ranges_are_refused() {
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
            "bytes 0-99999999999999999999/*",
        ] {
            assert_eq!(ContentRange::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn missing_certificates_prevent_https_only() {
        let empty = tempfile::NamedTempFile::new().expect("scratch");
        let options =
            FetchOptions { ca_file: Some(empty.path().to_owned()), ..FetchOptions::default() };

        let http = Url::parse("http://127.0.0.1:9/node/").expect("a URL");
        assert!(HttpTransport::new(&http, None, options.clone()).is_ok());

        let https = Url::parse("https://127.0.0.1:9/node/").expect("a URL");
        let error = HttpTransport::new(&https, None, options).err().expect("no certificates");
        assert_eq!((error.kind, error.side), (FetchErrorKind::Other, Side::Node), "{error}");
    }
}
