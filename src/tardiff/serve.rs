//! Serves a repository over HTTP: for small sites, demonstrations and tests.
//!
//! Files, ranges, HEAD and strong ETags (from size and modification time in nanoseconds) are the
//! library's. Added here are `If-Range`, and that nothing is served but names a repository can have.

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

/// How much of a file is read at a time.
const PIECE: usize = 256 << 10;
/// How long downloads may go on after the server was told to end.
const GRACE: Duration = Duration::from_secs(10);

/// Why the server did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no such repository.
    #[error("{path} is not a directory that can be served")]
    NotADirectory {
        /// What was named.
        path: String,
    },
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The system does not give what a server needs.
    #[error("cannot serve: {0}")]
    System(#[from] io::Error),
}

/// Serves the repository at `repo` until the process is told to end (SIGTERM or SIGINT); `bound` hears
/// the address once connections are accepted.
pub fn serve(
    repo: &Path,
    listen: SocketAddr,
    bound: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    if !repo.is_dir() {
        return Err(ServeError::NotADirectory { path: repo.display().to_string() });
    }
    let files =
        ServeDir::new(repo).append_index_html_on_directories(false).with_buf_chunk_size(PIECE);
    let service = Router::new().fallback_service(files).layer(from_fn(only_files));
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let failed = |source| ServeError::Listen { address: listen, source };
        let listener = tokio::net::TcpListener::bind(listen).await.map_err(failed)?;
        let (told, mut heard) = tokio::sync::watch::channel(());
        let ending = end()?;
        bound(listener.local_addr()?);
        let serving = axum::serve(listener, service).with_graceful_shutdown(async move {
            ending.await;
            drop(told);
        });
        let late = async move {
            // The other end never sends: it is dropped when the server is told to end.
            while heard.changed().await.is_ok() {}
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            done = serving.into_future() => Ok(done?),
            () = late => Ok(()),
        }
    })
}

/// Resolves when the process is told to end.
fn end() -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Answers for a path that a repository can have, which needs no escapes; `If-Range` is added.
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
        // The range is served only if the file that is opened has this very ETag.
        request.headers_mut().insert(header::IF_MATCH, validator);
        let answer = next.clone().run(request).await;
        if answer.status() != StatusCode::PRECONDITION_FAILED {
            return answer;
        }
    }
    next.run(whole).await
}

/// A date says too little of a file that may change within its second; a weak tag says nothing.
fn may_resume(validator: &HeaderValue, headers: &HeaderMap) -> bool {
    let strong = validator.as_bytes().starts_with(b"\"") && !validator.as_bytes().contains(&b',');
    strong && !headers.contains_key(header::IF_MATCH)
}

#[cfg(test)]
mod tests;
