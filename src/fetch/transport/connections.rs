//! Connections of the HTTP client: their route, and requests that get no answer.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::blocking::ClientBuilder;
use reqwest::redirect;
use rustix::net::{AddressFamily, SocketType};

use super::names::HostNames;
use super::proxy::Proxy;
use super::tls;
use super::url::HttpUrl;
use crate::fetch::error::{FetchError, FetchProblem, LookupFault, NameLookupError, RootCause};
use crate::fetch::options::FetchOptions;

/// Connections to one server.
pub(super) struct Connections {
    route: Route,
    names: Arc<HostNames>,
    connect_timeout: Duration,
    idle_timeout: Duration,
}

/// Path of the connections to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    Direct,
    Proxy(Proxy),
    /// Through the Unix socket of an ssh tunnel.
    Tunnel,
}

/// Failure of a request that got no answer.
pub(super) enum RequestFailure {
    /// It needs a change of the configuration.
    Permanent(FetchProblem),
    /// Another attempt may not meet it.
    Transient(FetchProblem),
}

impl Connections {
    /// Configures the client for connections to `base`; `tunnel` is the socket of a tunnel to it.
    pub fn new(
        builder: ClientBuilder,
        base: &HttpUrl,
        tunnel: Option<&Path>,
        options: &FetchOptions,
    ) -> Result<(Self, ClientBuilder), FetchError> {
        let names = Arc::new(HostNames::default());
        let mut builder =
            builder.dns_resolver(Arc::clone(&names)).connect_timeout(options.connect_timeout);
        let mut route = Proxy::of(base.url()).map_or(Route::Direct, Route::Proxy);
        if let Some(socket) = tunnel {
            // A proxy or another server would not be at the end of the tunnel.
            builder = builder.unix_socket(socket).no_proxy().redirect(redirect::Policy::none());
            route = Route::Tunnel;
        } else if let Some(zone) = base.zone() {
            // No proxy knows the interfaces of this node.
            builder = builder.interface(&interface_name(zone)?).no_proxy();
            route = Route::Direct;
        }

        let FetchOptions { connect_timeout, idle_timeout, .. } = *options;
        Ok((Connections { route, names, connect_timeout, idle_timeout }, builder))
    }

    /// A URL for messages, with the proxy that leads there.
    pub fn describe(&self, url: String) -> String {
        match &self.route {
            Route::Proxy(proxy) => format!("{url} through the proxy {proxy}"),
            Route::Direct | Route::Tunnel => url,
        }
    }

    /// The failure of a request that ended with `error`.
    pub fn failure(&self, error: reqwest::Error) -> RequestFailure {
        if error.is_redirect() {
            return RequestFailure::Permanent(FetchProblem::Redirect(RootCause::new(error)));
        }
        if error.is_builder() {
            let source = RootCause::new(error);
            return RequestFailure::Permanent(FetchProblem::InvalidRequest { source });
        }
        if let Some(fault) = find_source::<rustls::Error>(&error) {
            let unpinned = tls::unpinned_key(fault);
            return RequestFailure::Permanent(match (fault, unpinned) {
                (_, Some(key)) => FetchProblem::NotPinned { key },
                (rustls::Error::InvalidMessage(_), None) => FetchProblem::PlainServer,
                _ => FetchProblem::Tls { source: RootCause::new(error) },
            });
        }
        RequestFailure::Transient(self.connection_problem(error))
    }

    /// The failure of a connection, which another attempt may not meet.
    fn connection_problem(&self, error: reqwest::Error) -> FetchProblem {
        let io_error = find_source::<io::Error>(&error);
        let is_refused = io_error.is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        if let Some(NameLookupError { host, fault }) = find_source(&error) {
            return FetchProblem::NameLookup { host: host.clone(), fault: fault.clone() };
        }
        if error.is_timeout()
            && let Some(host) = self.names.take_abandoned()
        {
            let fault = LookupFault::NoAnswer { limit: self.connect_timeout };
            return FetchProblem::NameLookup { host, fault };
        }
        match self.route {
            Route::Tunnel if error.is_connect() => {
                return FetchProblem::TunnelClosed { source: RootCause::new(error) };
            }
            Route::Proxy(_) if error.is_connect() => {
                return FetchProblem::Proxy { source: RootCause::new(error) };
            }
            _ => {}
        }
        if is_refused {
            return FetchProblem::ConnectionRefused;
        }
        if error.is_timeout() {
            let limit = if error.is_connect() { self.connect_timeout } else { self.idle_timeout };
            return FetchProblem::NoAnswer { limit };
        }
        if is_hang_up(&error) {
            return FetchProblem::HangUp;
        }

        // These errors have no public type; tests check the words.
        let source = RootCause::new(error);
        let text = source.to_string();
        if text.contains("invalid HTTP") {
            FetchProblem::NotHttp { source }
        } else if text.contains("tls handshake eof") {
            FetchProblem::NoHandshake
        } else {
            FetchProblem::Connection(source)
        }
    }
}

/// Whether the connection was closed in place of an answer.
pub(super) fn is_hang_up(error: &reqwest::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    if error.is_connect() || error.is_timeout() {
        return false;
    }

    let io_error = find_source::<io::Error>(error).map(io::Error::kind);
    let is_closed =
        matches!(io_error, Some(BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof));
    // The client's own error has no public type; a test checks these words.
    is_closed || innermost(error).to_string().contains("connection closed before message completed")
}

/// Name of the network interface of a zone, which may be its number.
fn interface_name(zone: &str) -> Result<String, FetchError> {
    let Ok(number) = zone.parse() else { return Ok(zone.to_owned()) };
    let socket = rustix::net::socket(AddressFamily::INET6, SocketType::DGRAM, None);
    let name = socket.and_then(|socket| rustix::net::netdevice::index_to_name(socket, number));
    let operation = format!("find the network interface {zone}");
    Ok(name.map_err(|error| FetchProblem::local(operation, error))?)
}

/// The last source of `error`.
fn innermost<'e>(error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
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
