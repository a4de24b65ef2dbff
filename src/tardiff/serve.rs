//! Serves a repository over HTTP: for small sites, demonstrations and tests.
//!
//! The library implements files, ranges, HEAD and strong ETags (of size and modification time in
//! nanoseconds). Added here are `If-Range`, and a filter: only paths that a repository can have are
//! served.

#![allow(clippy::disallowed_methods, reason = "a repository is not a target tree")]

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use tokio::signal::unix::{SignalKind, signal};
use tower_http::services::ServeDir;

use crate::catalog::RepoPath;
use crate::tardiff::error::ServeError;

/// Bytes of a file that are read at a time.
const CHUNK: usize = 256 << 10;
/// Time for running downloads after the request to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Serves the repository at `repo` until SIGTERM or SIGINT.
///
/// `on_listening` gets the address when connections are accepted.
pub fn serve(
    repo: &Path,
    listen: SocketAddr,
    on_listening: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    if !repo.is_dir() {
        return Err(ServeError::NotADirectory { path: repo.display().to_string() });
    }
    let files =
        ServeDir::new(repo).append_index_html_on_directories(false).with_buf_chunk_size(CHUNK);
    let service = Router::new().fallback_service(files).layer(from_fn(only_files));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;

    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(listen)
            .await
            .map_err(|source| ServeError::Listen { address: listen, source })?;
        let (stopping, mut stopped) = tokio::sync::watch::channel(());
        let stop_signal = stop_signal()?;
        on_listening(listener.local_addr()?);

        let serving = axum::serve(listener, service).with_graceful_shutdown(async move {
            stop_signal.await;
            drop(stopping);
        });
        let grace_period = async move {
            // Nothing is sent: `changed` fails when the sender is dropped, at the stop signal.
            while stopped.changed().await.is_ok() {}
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            result = serving.into_future() => Ok(result?),
            () = grace_period => Ok(()),
        }
    })
}

/// Resolves at SIGTERM or SIGINT.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Serves only paths that a repository can have, which need no escapes; handles `If-Range`.
async fn only_files(mut request: Request, next: Next) -> Response {
    let path = request.uri().path().trim_start_matches('/');
    if RepoPath::new(path).is_err() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let Some(validator) = request.headers_mut().remove(header::IF_RANGE) else {
        return next.run(request).await;
    };

    let mut whole = Request::default();
    *whole.method_mut() = request.method().clone();
    *whole.uri_mut() = request.uri().clone();
    *whole.headers_mut() = request.headers().clone();
    whole.headers_mut().remove(header::RANGE);

    if may_resume(&validator, request.headers()) {
        // `If-Match` serves the range only if the opened file has this ETag.
        request.headers_mut().insert(header::IF_MATCH, validator);
        let answer = next.clone().run(request).await;
        if answer.status() != StatusCode::PRECONDITION_FAILED {
            return answer;
        }
    }
    next.run(whole).await
}

/// Whether a validator identifies the content: a strong ETag.
///
/// A date does not, since a file can change twice within one second. A weak ETag does not either.
fn may_resume(validator: &HeaderValue, headers: &HeaderMap) -> bool {
    let strong = validator.as_bytes().starts_with(b"\"") && !validator.as_bytes().contains(&b',');
    strong && !headers.contains_key(header::IF_MATCH)
}

#[cfg(test)]
mod tests;
