//! Repository on a web server.
//!
//! A download is resumed only under the strong etag with which it began (RFC 9110, 13.1.5 and
//! 14.2), so bytes of two states of a file are never mixed. A server, or a proxy, that refuses
//! ranges is asked for whole files. Only the stored bytes are requested; a `Content-Encoding` does
//! not matter if they have the right digest, since some servers set it for every `.gz` file.

use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use reqwest::blocking::{Client, RequestBuilder, Response};
use reqwest::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_NONE_MATCH, IF_RANGE, RANGE, RETRY_AFTER,
};
use reqwest::{StatusCode, Url, redirect};

use super::connections::{Connections, RequestFailure, is_hang_up};
use super::odd_answer::{AnswerKind, is_answer_of_tls_port};
use super::tls;
use super::url::HttpUrl;
use super::{HeadAnswer, Transport, TransportError};
use crate::cancel::{self, Cancelled, ChannelReader};
use crate::fetch::download::partial_file::{CacheUse, PartialFile};
use crate::fetch::download::retry::MinimumRate;
use crate::fetch::download::spool::{Spool, is_strong_etag, is_valid_etag};
use crate::fetch::error::{FetchError, FetchProblem, Interruption, RedirectError, RootCause};
use crate::fetch::options::FetchOptions;

const USER_AGENT: &str = concat!("si_updateclient/", env!("CARGO_PKG_VERSION"));
/// Limit of redirects of one request.
const MAX_REDIRECTS: usize = 5;
/// Connections in a row, closed without an answer to a request for a range, that count as refusal.
///
/// One may be the fault of the network, and whole files may be large.
const MAX_HANG_UPS: u32 = 2;
/// Limit for the bytes read of an error page.
const MAX_ERROR_PAGE: u64 = 4096;

/// Files of one directory of a web server.
pub(in crate::fetch) struct HttpTransport {
    client: Client,
    /// URL of the directory, with a slash at its end.
    base: String,
    /// The same URL for messages: without its password.
    shown: String,
    connections: Connections,
    options: FetchOptions,
    /// Connections in a row that were closed without an answer to a request for a range.
    ///
    /// From [`MAX_HANG_UPS`] on, no more ranges are requested.
    range_refusals: AtomicU32,
}

/// Bytes that a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// Only those that are missing.
    Range,
    WholeFile,
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
        base: &HttpUrl,
        tunnel: Option<&Path>,
        options: FetchOptions,
    ) -> Result<Self, FetchError> {
        // Fails if another part of the program has installed it; then it is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();

        let tls = tls::configure(base, &options)?;

        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let builder = Client::builder().redirect(redirect::Policy::custom(follow));
        let (connections, builder) = Connections::new(builder, base, tunnel, &options)?;
        let client = builder
            .user_agent(USER_AGENT)
            .default_headers(headers)
            .referer(false)
            // The blocking client applies it to request and headers together, then to each read.
            .timeout(options.idle_timeout)
            .tls_backend_preconfigured(tls)
            .build()
            .map_err(|error| {
                FetchProblem::HttpClient { source: RootCause::new(error) }.at(base.to_string())
            })?;
        Ok(HttpTransport {
            client,
            base: base.url().to_string(),
            shown: base.to_string(),
            connections,
            options,
            range_refusals: AtomicU32::new(0),
        })
    }

    fn get(&self, file: &str) -> RequestBuilder {
        self.client.get(format!("{}{file}", self.base))
    }

    fn send(&self, file: &str, request: RequestBuilder) -> Result<Response, TransportError> {
        self.try_send(request)?.map_err(|error| self.send_error(file, error))
    }

    fn try_send(
        &self,
        request: RequestBuilder,
    ) -> Result<Result<Response, reqwest::Error>, TransportError> {
        Ok(cancel::cancellable(self.options.is_cancelled, move || request.send())?)
    }

    /// Requests the missing bytes of `partial`; `WholeFilesOnly` if only the file can be had.
    fn request_missing(
        &self,
        file: &str,
        partial: &PartialFile<'_>,
    ) -> Result<Response, TransportError> {
        let wants_range = partial.offset() > 0 || partial.end() < partial.file_size();
        if !wants_range {
            return self.send(file, self.request_for(file, partial, Extent::WholeFile));
        }

        if self.range_refusals.load(Ordering::Relaxed) < MAX_HANG_UPS {
            let request = self.request_for(file, partial, Extent::Range);
            match self.try_send(request)? {
                Ok(answer) if refuses_range(&answer) => {
                    self.range_refusals.store(MAX_HANG_UPS, Ordering::Relaxed);
                }
                Err(error) if is_hang_up(&error) => {
                    let refusals = self.range_refusals.fetch_add(1, Ordering::Relaxed) + 1;
                    if refusals < MAX_HANG_UPS && !partial.is_prefix() {
                        return Err(self.send_error(file, error));
                    }
                }
                Ok(answer) => {
                    if answer.status() == StatusCode::PARTIAL_CONTENT {
                        self.range_refusals.store(0, Ordering::Relaxed);
                    }
                    return Ok(answer);
                }
                Err(error) => return Err(self.send_error(file, error)),
            }
        }

        // The beginning of a file can be taken from the beginning of an answer with all of it.
        if !partial.is_prefix() {
            return Err(TransportError::WholeFilesOnly);
        }
        self.send(file, self.request_for(file, partial, Extent::WholeFile))
    }

    /// The error for a request without an answer.
    fn send_error(&self, file: &str, error: reqwest::Error) -> TransportError {
        let address = self.address(file);
        match self.connections.failure(error.without_url()) {
            RequestFailure::Permanent(problem) => problem.at(address).into(),
            RequestFailure::Transient(problem) => TransportError::transient(problem.at(address)),
        }
    }

    /// The error for an answer with an unexpected status.
    fn status_error(&self, file: &str, response: Response) -> TransportError {
        let status = response.status();
        let pause = header_text(&response, &RETRY_AFTER).and_then(|text| text.parse().ok());
        match status.as_u16() {
            408 | 425 | 429 | 500..=599 => TransportError::Transient {
                error: FetchProblem::HttpStatus { status }.at(self.address(file)),
                pause: pause.map(Duration::from_secs),
            },
            _ => match self.is_from_tls_port(response) {
                Ok(true) => FetchProblem::TlsServer.at(self.address(file)).into(),
                Ok(false) => FetchProblem::HttpStatus { status }.at(self.address(file)).into(),
                Err(cancelled) => cancelled.into(),
            },
        }
    }

    /// Whether an error page tells that the port is one for TLS.
    fn is_from_tls_port(&self, response: Response) -> Result<bool, Cancelled> {
        let status = response.status();
        if status != StatusCode::BAD_REQUEST {
            return Ok(false);
        }
        let page = response.take(MAX_ERROR_PAGE);
        let chunk = ChannelReader::new(page, self.options.is_cancelled).next_chunk()?;
        let bytes = chunk.ok().flatten().unwrap_or_default();
        Ok(is_answer_of_tls_port(status, &String::from_utf8_lossy(&bytes)))
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
        let kind = AnswerKind::new(response.headers());
        let mut rate = MinimumRate::new(&self.options);
        let mut body = ChannelReader::new(response, self.options.is_cancelled);

        while partial.missing() > 0 {
            let chunk = match body.next_chunk()? {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Err(self.ended(file, partial, &kind)),
                Err(error) => {
                    return Err(self.interrupted(file, partial, self.read_failure(error)));
                }
            };

            let wanted = usize::try_from(partial.missing()).unwrap_or(usize::MAX).min(chunk.len());
            if wanted < chunk.len() && ends_with_file {
                return Err(self.too_long(file, partial, &kind));
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
            return Err(self.too_long(file, partial, &kind));
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

    /// The error for an answer that ends too early.
    fn ended(&self, file: &str, partial: &PartialFile<'_>, kind: &AnswerKind) -> TransportError {
        let position = Some((partial.offset(), partial.end()));
        let problem = FetchProblem::Interrupted { cause: Interruption::End, position };
        self.transient(file, kind.explain(problem))
    }

    /// Discards a file with surplus bytes: any of its bytes may be wrong.
    fn too_long(
        &self,
        file: &str,
        partial: &mut PartialFile<'_>,
        kind: &AnswerKind,
    ) -> TransportError {
        match partial.restart(None) {
            Ok(()) => {
                let problem = FetchProblem::TooLong { expected: partial.file_size() };
                self.transient(file, kind.explain(problem))
            }
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

    /// A request for the missing bytes of `partial`, or for the whole file.
    fn request_for(&self, file: &str, partial: &PartialFile<'_>, extent: Extent) -> RequestBuilder {
        let mut request = self.get(file);
        if extent == Extent::Range {
            let last = partial.end().saturating_sub(1);
            request = request.header(RANGE, format!("bytes={}-{last}", partial.offset()));
            if let Some(etag) = partial.etag().filter(|_| partial.length() > 0) {
                request = request.header(IF_RANGE, etag);
            }
        }
        if partial.cache_use() == CacheUse::Bypassed {
            request = request.header(CACHE_CONTROL, "no-cache");
        }
        request
    }
}

impl Transport for HttpTransport {
    fn address(&self, file: &str) -> String {
        self.connections.describe(format!("{}{file}", self.shown))
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

        let response = self.request_missing(file, partial)?;
        let etag =
            header_text(&response, &ETAG).filter(|etag| is_strong_etag(etag)).map(str::to_owned);
        match response.status() {
            StatusCode::OK if partial.is_prefix() => {
                let expected = partial.file_size();
                if let Some(actual) = response.content_length().filter(|size| *size != expected) {
                    let problem = FetchProblem::WrongSize { actual, expected };
                    let kind = AnswerKind::new(response.headers());
                    return Err(self.transient(file, kind.explain(problem)));
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
            _ => return Err(self.status_error(file, response)),
        }
        self.receive_body(file, response, partial)
    }

    fn download_unsized(
        &self,
        file: &str,
        known_etag: Option<&str>,
        limit: u64,
        _: &Spool,
    ) -> Result<HeadAnswer, TransportError> {
        let known_etag = known_etag.filter(|etag| is_valid_etag(etag));
        let mut request = self.get(file);
        if let Some(etag) = known_etag {
            request = request.header(IF_NONE_MATCH, etag);
        }

        let response = self.send(file, request)?;
        match response.status() {
            StatusCode::NOT_MODIFIED if known_etag.is_some() => {
                return Ok(HeadAnswer::NotModified);
            }
            StatusCode::OK => {}
            _ => return Err(self.status_error(file, response)),
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
        let kind = AnswerKind::new(response.headers());
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
        kind.check_catalog(&bytes).map_err(|problem| problem.at(self.address(file)))?;
        Ok(HeadAnswer::Fetched { bytes, etag })
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

/// Whether a server, or a proxy before it, may answer the same request without a range.
///
/// A *416* that names the size of the file is about this file and not about ranges.
fn refuses_range(answer: &Response) -> bool {
    match answer.status().as_u16() {
        400 | 403 | 405 | 406 | 412 | 501 => true,
        416 => !answer.headers().contains_key(CONTENT_RANGE),
        _ => false,
    }
}

/// Follows a limited number of redirects, none to another host, and none from https to http.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error(RedirectError::TooMany);
    }
    let first_host = attempt.previous().first().and_then(Url::host_str);
    if attempt.url().host_str() != first_host {
        let host = attempt.url().host_str().unwrap_or_default().to_owned();
        return attempt.error(RedirectError::OtherHost { host });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::error::{FetchErrorKind, Side};
    use crate::fetch::transport::url::{RepoUrl, UrlTarget};

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

        let url = |text: &str| match text.parse::<RepoUrl>().expect("a URL").target() {
            UrlTarget::Http(url) => url.clone(),
            other => panic!("{other:?}"),
        };
        let http = url("http://127.0.0.1:9/node/");
        assert!(HttpTransport::new(&http, None, options.clone()).is_ok());

        let https = url("https://127.0.0.1:9/node/");
        let error = HttpTransport::new(&https, None, options).err().expect("no certificates");
        assert_eq!((error.kind, error.side), (FetchErrorKind::Other, Side::Node), "{error}");
    }
}
