//! Connections of the server: their number, and the time in which each has to make progress.
//!
//! A client that opens many connections and sends nothing must not shut others out. At the limit
//! the oldest connection without a complete request is closed for a new one.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::FileResponse;

/// Largest number of connections, if the process has enough descriptors.
const MAX_CONNECTIONS: u32 = 1000;
/// Descriptors that are not for connections.
const OTHER_DESCRIPTORS: u64 = 64;
/// Descriptors of one connection: its socket, and its file, which is opened twice.
const DESCRIPTORS_EACH: u64 = 3;
/// Time for the next request of a connection.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time in which a client has to receive some data.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// Memory for the header of a request.
const MAX_HEADER: usize = 16 << 10;

/// Limits on the connections of a server.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// Number of connections at a time.
    pub connections: u32,
    /// Time for the next complete request of a connection, also if it is idle.
    pub request_timeout: Duration,
    /// Time without an acknowledgement after which a connection is closed.
    pub send_timeout: Duration,
}

impl ServeLimits {
    /// Raises the limit of descriptors, and derives the number of connections from it.
    pub fn of_process() -> Self {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // It cannot fail: each process may raise its limit to the maximum.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });

        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let connections = descriptors.saturating_sub(OTHER_DESCRIPTORS) / DESCRIPTORS_EACH;
        ServeLimits {
            connections: u32::try_from(connections).unwrap_or(u32::MAX).clamp(1, MAX_CONNECTIONS),
            request_timeout: REQUEST_TIMEOUT,
            send_timeout: SEND_TIMEOUT,
        }
    }
}

/// The open connections of a server.
pub struct Connections {
    limits: ServeLimits,
    permits: Arc<Semaphore>,
    waiting: Arc<Waiting>,
    /// Closes idle connections when it is dropped, and others after their answer.
    stopping: watch::Sender<()>,
    /// Number of the next connection.
    next: u64,
}

/// Connections that have not sent a complete request yet, the oldest first.
#[derive(Default)]
struct Waiting(Mutex<BTreeMap<u64, oneshot::Sender<()>>>);

impl Waiting {
    fn senders(&self) -> MutexGuard<'_, BTreeMap<u64, oneshot::Sender<()>>> {
        // Each change of the map is one call, so that a poisoned map is consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the event that closes connection `number`.
    fn add(&self, number: u64) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.senders().insert(number, sender);
        receiver
    }

    fn remove(&self, number: u64) {
        self.senders().remove(&number);
    }

    fn close_oldest(&self) {
        if let Some((_, sender)) = self.senders().pop_first() {
            // It fails only if the connection has ended.
            let _ = sender.send(());
        }
    }
}

impl Connections {
    pub fn new(limits: ServeLimits) -> Self {
        Connections {
            limits,
            permits: Arc::new(Semaphore::new(limits.connections as usize)),
            waiting: Arc::default(),
            stopping: watch::channel(()).0,
            next: 0,
        }
    }

    /// Waits until there is room for another connection, after closing one that only waits.
    pub async fn admit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Some(permit);
        }
        self.waiting.close_oldest();
        // It fails only if the semaphore is closed, which never happens.
        self.permits.clone().acquire_owned().await.ok()
    }

    /// Serves one connection in a task of its own.
    pub fn start<F>(
        &mut self,
        stream: TcpStream,
        permit: Option<OwnedSemaphorePermit>,
        answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<FileResponse, Infallible>> + Send + 'static,
    {
        let millis = u32::try_from(self.limits.send_timeout.as_millis()).unwrap_or(u32::MAX);
        // Without it a client that stops reading is only noticed by TCP, after a quarter of an hour.
        let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, millis);
        // Else the end of each answer waits for a delayed acknowledgement, 40 ms on Linux.
        let _ = stream.set_nodelay(true);

        self.next += 1;
        let number = self.next;
        let waiting = self.waiting.clone();
        let closed = waiting.add(number);
        let mut stopping = self.stopping.subscribe();
        let request_timeout = self.limits.request_timeout;
        tokio::spawn(async move {
            let service = service_fn(|request| {
                waiting.remove(number);
                answer(request)
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(request_timeout);
            builder.max_buf_size(MAX_HEADER);
            let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));

            // Errors are those of the client, which needs no answer then.
            tokio::select! {
                _ = connection.as_mut() => {}
                // A sender that was removed disables this branch.
                Ok(()) = closed => {}
                _ = stopping.changed() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
            waiting.remove(number);
            drop(permit);
        });
    }

    /// Waits for running answers, at most `grace`.
    pub async fn finish(self, grace: Duration) {
        drop(self.stopping);
        let all = self.permits.acquire_many(self.limits.connections);
        // Connections that are left end with the process.
        let _ = tokio::time::timeout(grace, all).await;
    }
}
