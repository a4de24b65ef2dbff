//! Failures of downloads, with the side at fault and their wording.

use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use reqwest::StatusCode;
use rustls_pki_types::pem;

use crate::cancel::Cancelled;
use crate::fetch::tls_pin::TlsPin;
use crate::printable::one_line;
use crate::rsync::{RsyncError, RsyncFailure};

/// The side that has to be repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// This node: its disk, its configuration, its programs.
    Node,
    /// The server: its answers or its files.
    Server,
    /// The connection between node and server.
    Network,
}

/// Kind of a failure, for callers that branch on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FetchErrorKind {
    /// The server has no such file.
    NotFound,
    /// The file differs from the catalog's description, after a second download as well.
    Corrupt,
    /// No server answers, or the connection does not last.
    Unreachable,
    /// The spool has reached its limit, or its filesystem is full.
    DiskSpace,
    /// The run was cancelled.
    Cancelled,
    /// Any other failure.
    Other,
}

/// Failure to fetch a file.
#[derive(Clone, Debug)]
pub struct FetchError {
    /// For callers that branch.
    pub kind: FetchErrorKind,
    /// The side at fault.
    pub side: Side,
    /// URL or path of the file; added by the function that knows it.
    target: Option<String>,
    problem: FetchProblem,
    /// Number of failed attempts, if the download was repeated.
    attempts: Option<u32>,
}

/// Cause of a failure.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum FetchProblem {
    #[error("cancelled")]
    Cancelled,
    #[error("cannot {operation}: {source}")]
    LocalFile { operation: Cow<'static, str>, source: Arc<io::Error> },
    #[error(
        "{needed} more bytes exceed the spool limit: {used} of {limit} bytes are used; \
         raise the limit or remove files from the spool"
    )]
    SpoolLimit { needed: u64, used: u64, limit: u64 },
    #[error(
        "{needed} more bytes are needed in the spool, and its filesystem has {free} bytes free; \
         free some space"
    )]
    DiskFull { needed: u64, free: u64 },
    #[error("the download is no longer needed")]
    NoReaders,
    #[error("the file has an invalid certificate: {source}")]
    InvalidCertificate { source: Arc<CertificateError> },
    #[error(
        "no CA certificates are installed to verify the server; set ca_file to a file of them, or \
         tls_pins"
    )]
    NoCertificates,
    #[error("the file has no certificate in PEM form")]
    NoClientCertificate,
    #[error("the file has no usable private key in PEM form: {source}")]
    InvalidClientKey { source: Arc<pem::Error> },
    #[error("everyone can read this private key; run chmod 600")]
    OpenClientKey,
    #[error("the client certificate and its key cannot be used: {source}")]
    ClientCertificate { source: Arc<rustls::Error> },
    #[error("cannot create an HTTP client: {source}")]
    HttpClient { source: RootCause },
    #[error("cannot build the HTTP request: {source}")]
    InvalidRequest { source: RootCause },

    #[error("there is no such file")]
    NotFound,
    #[error("the file is not a regular file")]
    NotAFile,
    #[error("the file is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the catalog claims {claimed} bytes, and the limit is {limit}")]
    ClaimTooLarge { claimed: u64, limit: u64 },
    #[error("{length} bytes at offset {offset} are beyond the end of the file ({size} bytes)")]
    OutsideFile { offset: u64, length: u64, size: u64 },
    #[error("HTTP status {status}")]
    HttpStatus { status: StatusCode },
    #[error(
        "the answer is a web page and no file of a repository; a login page of the network, or \
         a proxy, may have answered in place of the server"
    )]
    WebPage,
    #[error(
        "the answer is compressed (Content-Encoding: {encoding}), which was not requested; switch \
         the compression off in the server or the proxy"
    )]
    UnaskedEncoding { encoding: String },
    #[error(transparent)]
    Redirect(RootCause),
    #[error("no secure connection: {source}")]
    Tls { source: RootCause },
    #[error(
        "the server has the key {key}, which is not among tls_pins; if it is the right server, add it"
    )]
    NotPinned { key: TlsPin },
    #[error("the server does not speak TLS at this port; check the port, or use http://")]
    PlainServer,
    #[error("the server closed the connection during the TLS handshake; check that it speaks TLS")]
    NoHandshake,
    #[error("the server speaks TLS at this port; use https://")]
    TlsServer,
    #[error("the answer is not HTTP: {source}; if the server speaks TLS here, use https://")]
    NotHttp { source: RootCause },
    #[error("connection refused; check that the service is running")]
    ConnectionRefused,
    #[error("the answer is a part of a file that was requested as a whole")]
    PartInsteadOfWhole,
    #[error("the file has {actual} bytes, and the catalog names {expected}")]
    WrongSize { actual: u64, expected: u64 },
    #[error("the file does not have the {expected} bytes that the catalog names")]
    UnexpectedSize { expected: u64 },
    #[error("the file is longer than the {expected} bytes that the catalog names")]
    TooLong { expected: u64 },
    #[error("the answer is a part without a valid Content-Range")]
    NoContentRange,
    #[error(
        "bytes {}-{} were requested, and the answer has bytes {}-{}",
        requested.0, requested.1, sent.0, sent.1
    )]
    WrongRange { requested: (u64, u64), sent: (u64, u64) },
    #[error("the file has fewer than {end} bytes")]
    RangeNotSatisfiable { end: u64 },
    #[error("the file changed during the download")]
    Changed,
    #[error(
        "the file does not have the digest that the catalog names, after a second download as well"
    )]
    WrongDigest,

    #[error("no answer within {limit:?}")]
    NoAnswer { limit: Duration },
    #[error("cannot find the host {host}: {fault}")]
    NameLookup { host: String, fault: LookupFault },
    #[error("a lookup of a host name has not ended within {limit:?}")]
    LookupPending { limit: Duration },
    #[error("cannot connect through the proxy: {source}")]
    Proxy { source: RootCause },
    #[error("the connection was closed before the answer")]
    HangUp,
    #[error("cannot connect to the ssh tunnel: {source}; ssh may have ended")]
    TunnelClosed { source: RootCause },
    #[error(transparent)]
    Connection(RootCause),
    #[error("{cause}{}", Position(*position))]
    Interrupted { cause: Interruption, position: Option<(u64, u64)> },

    #[error("{reason}")]
    Rsync { failure: RsyncFailure, connection: ConnectionState, reason: String },
    #[error(transparent)]
    RsyncRun(Arc<RsyncError>),

    /// A failure in the words of an upper layer, whose error types this one cannot name.
    #[error("{reason}")]
    Reported { kind: FetchErrorKind, side: Side, reason: String },
}

/// Reason for the end of a transfer before its last byte.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Interruption {
    #[error("the answer ends")]
    End,
    #[error("no data for {limit:?}")]
    Silence { limit: Duration },
    #[error("the data arrives too slowly")]
    TooSlow,
    #[error(transparent)]
    Connection(RootCause),
}

/// An error of the HTTP client; its text is that of the innermost source, since the others only
/// say that a request failed.
#[derive(Clone, Debug)]
pub(super) struct RootCause(Arc<dyn Error + Send + Sync>);

impl RootCause {
    pub(super) fn new(error: impl Error + Send + Sync + 'static) -> Self {
        RootCause(Arc::new(error))
    }
}

impl Error for RootCause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

impl fmt::Display for RootCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut innermost: &dyn Error = &*self.0;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        // Some texts are the server's.
        let text: String = innermost.to_string().chars().take(300).collect();
        f.write_str(&one_line(&text))
    }
}

/// Reason that a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    #[error(transparent)]
    Pem(#[from] pem::Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// Failure to find the addresses of a name, as an error of the HTTP client's resolver.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub(super) struct NameLookupError {
    pub host: String,
    pub fault: LookupFault,
}

/// Reason that the addresses of a name are unknown.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum LookupFault {
    #[error("{0}")]
    System(Arc<io::Error>),
    #[error("there is no such name")]
    NoSuchName,
    #[error("it is not in /etc/hosts, and /etc/resolv.conf names no name server")]
    NoNameServer,
    #[error("the name servers do not answer: {reason}")]
    NameServers { reason: String },
    #[error("no answer within {limit:?}")]
    NoAnswer { limit: Duration },
}

/// Reason that a redirect is not followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RedirectError {
    #[error("the server redirects in a circle, or too often")]
    TooMany,
    #[error("the server redirects to {scheme}, which is not secure")]
    NotSecure { scheme: String },
    #[error("the server redirects to another host, {host}, which is not followed")]
    OtherHost { host: String },
}

/// Whether the server's machine refused a connection, or did not answer at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionState {
    Refused,
    Silent,
}

/// Offset and end of an interrupted transfer, as the end of a sentence.
struct Position(Option<(u64, u64)>);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((offset, end)) => write!(f, " at byte {offset} of {end}"),
            None => Ok(()),
        }
    }
}

impl FetchProblem {
    /// The error for `target`, a URL or a path.
    pub(super) fn at(self, target: impl Into<String>) -> FetchError {
        FetchError { target: Some(target.into()), ..self.into() }
    }

    /// The failure of a system call on a file of this node; `operation` is a verb with its object.
    pub(super) fn local(
        operation: impl Into<Cow<'static, str>>,
        error: impl Into<io::Error>,
    ) -> Self {
        FetchProblem::LocalFile { operation: operation.into(), source: Arc::new(error.into()) }
    }

    fn kind_and_side(&self) -> (FetchErrorKind, Side) {
        use FetchErrorKind as Kind;
        match self {
            FetchProblem::Cancelled => (Kind::Cancelled, Side::Node),
            FetchProblem::LocalFile { source, .. } => (local_kind(source), Side::Node),
            FetchProblem::SpoolLimit { .. } | FetchProblem::DiskFull { .. } => {
                (Kind::DiskSpace, Side::Node)
            }
            FetchProblem::NoReaders
            | FetchProblem::InvalidCertificate { .. }
            | FetchProblem::NoCertificates
            | FetchProblem::NoClientCertificate
            | FetchProblem::InvalidClientKey { .. }
            | FetchProblem::OpenClientKey
            | FetchProblem::ClientCertificate { .. }
            | FetchProblem::HttpClient { .. }
            | FetchProblem::InvalidRequest { .. } => (Kind::Other, Side::Node),

            FetchProblem::NotFound => (Kind::NotFound, Side::Server),
            FetchProblem::HttpStatus { status } => match status.as_u16() {
                404 | 410 => (Kind::NotFound, Side::Server),
                // The proxy requests a password.
                407 => (Kind::Other, Side::Network),
                _ => (Kind::Other, Side::Server),
            },
            FetchProblem::NotAFile
            | FetchProblem::TooLarge { .. }
            | FetchProblem::Redirect(_)
            | FetchProblem::NotHttp { .. }
            | FetchProblem::PartInsteadOfWhole => (Kind::Other, Side::Server),
            FetchProblem::Tls { .. }
            | FetchProblem::NotPinned { .. }
            | FetchProblem::PlainServer
            | FetchProblem::NoHandshake
            | FetchProblem::TlsServer
            | FetchProblem::ConnectionRefused => (Kind::Unreachable, Side::Server),
            FetchProblem::ClaimTooLarge { .. }
            | FetchProblem::OutsideFile { .. }
            | FetchProblem::UnaskedEncoding { .. }
            | FetchProblem::WrongSize { .. }
            | FetchProblem::UnexpectedSize { .. }
            | FetchProblem::TooLong { .. }
            | FetchProblem::NoContentRange
            | FetchProblem::WrongRange { .. }
            | FetchProblem::RangeNotSatisfiable { .. }
            | FetchProblem::Changed
            | FetchProblem::WrongDigest => (Kind::Corrupt, Side::Server),

            FetchProblem::NoAnswer { .. }
            | FetchProblem::NameLookup { .. }
            | FetchProblem::LookupPending { .. }
            | FetchProblem::Proxy { .. }
            | FetchProblem::HangUp
            | FetchProblem::WebPage
            | FetchProblem::TunnelClosed { .. }
            | FetchProblem::Connection(_)
            | FetchProblem::Interrupted { .. } => (Kind::Unreachable, Side::Network),

            FetchProblem::Rsync { failure, connection, .. } => rsync_side(*failure, *connection),
            FetchProblem::RsyncRun(error) => match **error {
                RsyncError::TimedOut => (Kind::Unreachable, Side::Network),
                RsyncError::Cancelled => (Kind::Cancelled, Side::Node),
                RsyncError::NotInstalled | RsyncError::Run(_) => (Kind::Other, Side::Node),
            },
            FetchProblem::Reported { kind, side, .. } => (*kind, *side),
        }
    }
}

/// Kind and side of a failed rsync. A refused connection proves that the machine is reachable.
fn rsync_side(failure: RsyncFailure, connection: ConnectionState) -> (FetchErrorKind, Side) {
    use FetchErrorKind as Kind;
    match failure {
        RsyncFailure::NotFound => (Kind::NotFound, Side::Server),
        RsyncFailure::Unreachable if connection == ConnectionState::Refused => {
            (Kind::Unreachable, Side::Server)
        }
        RsyncFailure::Unreachable | RsyncFailure::Lost => (Kind::Unreachable, Side::Network),
        RsyncFailure::DiskSpace => (Kind::DiskSpace, Side::Node),
        RsyncFailure::Local | RsyncFailure::PartialHere => (Kind::Other, Side::Node),
        RsyncFailure::Refused | RsyncFailure::Partial | RsyncFailure::Other => {
            (Kind::Other, Side::Server)
        }
    }
}

fn local_kind(error: &io::Error) -> FetchErrorKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            FetchErrorKind::DiskSpace
        }
        _ => FetchErrorKind::Other,
    }
}

impl FetchError {
    /// A failure that another layer found and words: `reason` is lower case, without full stop.
    pub fn new(
        kind: FetchErrorKind,
        side: Side,
        target: impl fmt::Display,
        reason: impl fmt::Display,
    ) -> Self {
        FetchProblem::Reported { kind, side, reason: reason.to_string() }.at(target.to_string())
    }

    /// The same error, with `target` if it has none yet.
    pub(super) fn with_target(self, target: &str) -> Self {
        FetchError { target: self.target.or_else(|| Some(target.to_owned())), ..self }
    }

    /// The same error after `attempts`, if there was more than one.
    pub(super) fn after_attempts(self, attempts: u32) -> Self {
        FetchError { attempts: (attempts > 1).then_some(attempts), ..self }
    }
}

impl From<FetchProblem> for FetchError {
    fn from(problem: FetchProblem) -> Self {
        let (kind, side) = problem.kind_and_side();
        FetchError { kind, side, target: None, problem, attempts: None }
    }
}

impl From<Cancelled> for FetchError {
    fn from(_: Cancelled) -> Self {
        FetchProblem::Cancelled.into()
    }
}

impl std::error::Error for FetchError {}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.target.as_deref().unwrap_or("a file of the repository");
        write!(f, "cannot fetch {target}: {}: {}", self.side, self.problem)?;
        match self.attempts {
            Some(attempts) => write!(f, " (tried {attempts} times)"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Node => "this node",
            Side::Server => "the server",
            Side::Network => "the network",
        })
    }
}

/// Failure to read a [`GrowingFile`](super::GrowingFile).
#[derive(Debug, thiserror::Error)]
pub(super) enum GrowingFileError {
    #[error("the download was wrong and starts again")]
    Restarted,
    #[error("the download has failed")]
    Failed,
}

impl From<GrowingFileError> for io::Error {
    fn from(error: GrowingFileError) -> Self {
        io::Error::other(error)
    }
}
