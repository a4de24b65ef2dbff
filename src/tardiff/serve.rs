//! Serves a repository over HTTP: for small sites, demonstrations and tests.
//!
//! The library implements files, ranges, HEAD, conditions and strong ETags (of size and
//! modification time in nanoseconds). Added here are `If-Range`, limits on connections, and the
//! opening of files: only paths that a repository can have, through [`Root`], without following a
//! symbolic link.

#![allow(clippy::disallowed_methods, reason = "a repository is not a target tree")]

mod connections;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{Either, Empty};
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Request, Response, StatusCode, header};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tower_http::services::ServeFile;
use tower_http::services::fs::ServeFileSystemResponseBody;

use crate::catalog::{HEAD_FILE, RepoPath};
use crate::root::{BoundedFile, Root, procfs};
use crate::tardiff::error::ServeError;
use crate::tree_path::TreePath;

use connections::{Connections, ServeLimits};

/// Bytes of a file that are read at a time.
const CHUNK: usize = 256 << 10;
/// Time for running downloads after the request to stop.
const GRACE: Duration = Duration::from_secs(10);
/// Pause after a connection that could not be accepted, for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An answer whose body is a file, or empty.
type FileResponse = Response<Either<ServeFileSystemResponseBody, Empty<Bytes>>>;

/// Serves the repository at `repo` until SIGTERM or SIGINT.
///
/// `on_listening` gets the address when connections are accepted.
pub fn serve(
    repo: &Path,
    listen: SocketAddr,
    on_listening: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    serve_within(repo, listen, ServeLimits::of_process(), on_listening)
}

fn serve_within(
    repo: &Path,
    listen: SocketAddr,
    limits: ServeLimits,
    on_listening: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    if !repo.is_dir() {
        return Err(ServeError::NotADirectory { path: repo.display().to_string() });
    }
    if !procfs::is_mounted() {
        return Err(ServeError::NoProc);
    }
    let repo: Arc<Path> = repo.into();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;

    runtime.block_on(async {
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|source| ServeError::Listen { address: listen, source })?;
        let mut stop_signal = std::pin::pin!(stop_signal()?);
        on_listening(listener.local_addr()?);

        let mut connections = Connections::new(limits);
        loop {
            let stream = tokio::select! {
                () = &mut stop_signal => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(_) => {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let permit = tokio::select! {
                () = &mut stop_signal => break,
                permit = connections.admit() => permit,
            };
            let repo = repo.clone();
            connections.start(stream, permit, move |request| answer(repo.clone(), request));
        }
        connections.finish(GRACE).await;
        Ok(())
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

/// Answers one request.
async fn answer<B>(repo: Arc<Path>, request: Request<B>) -> Result<FileResponse, Infallible> {
    let (parts, _) = request.into_parts();
    let path = parts.uri.path().trim_start_matches('/').to_owned();
    let Some(file) = open(repo, &path).await else {
        return Ok(empty(StatusCode::NOT_FOUND));
    };
    let Ok(mut answer) = send(&file, parts).await else {
        return Ok(empty(StatusCode::INTERNAL_SERVER_ERROR));
    };
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(caching(&path)));
    Ok(answer)
}

/// Permission for caches: only heads are ever replaced.
fn caching(path: &str) -> &'static str {
    if path.rsplit('/').next() == Some(HEAD_FILE) {
        "public, max-age=5, must-revalidate"
    } else {
        "public, max-age=31536000, immutable"
    }
}

/// Opens a file of the repository; `None` if there is none that may be served.
async fn open(repo: Arc<Path>, path: &str) -> Option<BoundedFile> {
    let path = TreePath::new(RepoPath::new(path).ok()?.as_str()).ok()?;
    let opened = tokio::task::spawn_blocking(move || Root::open(&repo)?.open_file(&path));
    opened.await.ok()?.ok()
}

/// Sends a file, or the requested range of it; handles `If-Range`.
async fn send(file: &BoundedFile, mut request: Parts) -> io::Result<FileResponse> {
    let Some(validator) = request.headers.remove(header::IF_RANGE) else {
        return send_by_library(file, request).await;
    };

    let mut whole = request.clone();
    whole.headers.remove(header::RANGE);
    if may_resume(validator.as_bytes(), &request.headers) {
        // `If-Match` serves the range only if the opened file has this ETag.
        request.headers.insert(header::IF_MATCH, validator);
        let answer = send_by_library(file, request).await?;
        if answer.status() != StatusCode::PRECONDITION_FAILED {
            return Ok(answer);
        }
    }
    send_by_library(file, whole).await
}

/// The answer of the library, which opens the file again by its descriptor.
async fn send_by_library(file: &BoundedFile, request: Parts) -> io::Result<FileResponse> {
    // A link of /proc leads to the opened file itself, also if its path has changed.
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let mut service = ServeFile::new(path).with_buf_chunk_size(CHUNK);
    let answer = service.try_call(Request::from_parts(request, ())).await?;
    Ok(answer.map(Either::Left))
}

/// Whether a validator identifies the content: a strong ETag.
///
/// A date does not, since a file can change twice within one second. A weak ETag does not either.
fn may_resume(validator: &[u8], headers: &HeaderMap) -> bool {
    let strong = validator.starts_with(b"\"") && !validator.contains(&b',');
    strong && !headers.contains_key(header::IF_MATCH)
}

fn empty(status: StatusCode) -> FileResponse {
    let mut answer = Response::new(Either::Right(Empty::new()));
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests;
