//! Addresses of host names, as the system finds them.
//!
//! A dynamic program uses the resolver of the C library (`getaddrinfo`), so a name has the address
//! that it has for every other program: `/etc/hosts`, `nsswitch.conf` and the system's cache are
//! honoured. A lookup may block for long and cannot be interrupted. So it runs in a thread of its
//! own, which is abandoned at the time limit or after a cancellation.
//!
//! The C library loads modules for a lookup. After a commit point in this process they may belong
//! to another generation than the library. So [`leave_system_resolver`] ends its use before each
//! commit. From then on, and in a static program always, a name is looked up in `/etc/hosts`, then
//! by the name servers of `/etc/resolv.conf`. Without configured servers none is asked.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::oneshot;

use super::name_files::NameFiles;
use crate::cancel::Cancelled;
use crate::fetch::error::{FetchError, FetchProblem, LookupFault, NameLookupError};
use crate::report::Monitor;

/// Whether the C library is part of this program; then it must not load modules.
const IS_STATIC: bool = cfg!(any(target_env = "musl", target_feature = "crt-static"));
/// Time for abandoned lookups to end before a commit; the C library limits most of them.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Interval of the checks in that time.
const WAIT_INTERVAL: Duration = Duration::from_millis(20);

/// The resolver of this process.
static SYSTEM: SystemResolver =
    SystemResolver { is_left: AtomicBool::new(false), pending: AtomicUsize::new(0) };

/// Ends the use of the C library's resolver, before the files of its modules are replaced.
///
/// Waits for abandoned lookups, which may still load modules.
pub fn leave_system_resolver(monitor: &dyn Monitor) -> Result<(), FetchError> {
    SYSTEM.leave(MAX_WAIT, monitor)
}

/// Names for the HTTP client.
#[derive(Debug, Default)]
pub(in crate::fetch) struct HostNames {
    abandoned: Arc<Mutex<Option<String>>>,
}

impl HostNames {
    /// The name whose lookup was abandoned by a time limit of the client, if there is one.
    pub fn take_abandoned(&self) -> Option<String> {
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Resolve for HostNames {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let mut mark =
            AbandonMark { host: Some(host.clone()), abandoned: Arc::clone(&self.abandoned) };
        Box::pin(async move {
            let addresses = match SYSTEM.begin() {
                Some(lookup) => lookup.addresses(&host).await,
                None => NameFiles::system().addresses(&host).await,
            };
            mark.clear();

            let addresses =
                addresses.map_err(|fault| NameLookupError { host: host.clone(), fault })?;
            let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}

/// Stores the name of a lookup if this is dropped before its end.
struct AbandonMark {
    host: Option<String>,
    abandoned: Arc<Mutex<Option<String>>>,
}

impl AbandonMark {
    fn clear(&mut self) {
        self.host = None;
    }
}

impl Drop for AbandonMark {
    fn drop(&mut self) {
        if let Some(host) = self.host.take() {
            *self.abandoned.lock().unwrap_or_else(PoisonError::into_inner) = Some(host);
        }
    }
}

/// The C library's resolver, and the lookups that use it.
struct SystemResolver {
    is_left: AtomicBool,
    pending: AtomicUsize,
}

/// A lookup by the C library; it is pending until this is dropped.
struct SystemLookup {
    resolver: &'static SystemResolver,
}

impl SystemResolver {
    /// Begins a lookup, unless the resolver may not be used.
    fn begin(&'static self) -> Option<SystemLookup> {
        // Counted before the check: `leave` either prevents the lookup, or waits for it.
        self.pending.fetch_add(1, Ordering::SeqCst);
        let lookup = SystemLookup { resolver: self };
        let is_usable = !IS_STATIC && !self.is_left.load(Ordering::SeqCst);
        is_usable.then_some(lookup)
    }

    fn leave(&self, limit: Duration, monitor: &dyn Monitor) -> Result<(), FetchError> {
        self.is_left.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + limit;
        while self.pending.load(Ordering::SeqCst) > 0 {
            if monitor.is_cancelled() {
                return Err(Cancelled.into());
            }
            if Instant::now() >= deadline {
                return Err(FetchProblem::LookupPending { limit }.into());
            }
            thread::sleep(WAIT_INTERVAL);
        }
        Ok(())
    }
}

impl SystemLookup {
    async fn addresses(self, host: &str) -> Result<Vec<IpAddr>, LookupFault> {
        let (sender, receiver) = oneshot::channel();
        let host = host.to_owned();
        thread::spawn(move || {
            let addresses = system_addresses(&host);
            drop(self);
            // Fails if the lookup was abandoned.
            let _ = sender.send(addresses);
        });

        let addresses = receiver.await.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()));
        addresses.map_err(|error| LookupFault::System(Arc::new(error)))
    }
}

impl Drop for SystemLookup {
    fn drop(&mut self) {
        self.resolver.pending.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(not(any(target_env = "musl", target_feature = "crt-static")))]
fn system_addresses(host: &str) -> io::Result<Vec<IpAddr>> {
    use std::net::ToSocketAddrs;

    Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// Fails: no static program may contain `getaddrinfo`, which loads modules of the system.
///
/// The modules of another C library end the process. [`SystemResolver::begin`] prevents this call.
#[cfg(any(target_env = "musl", target_feature = "crt-static"))]
fn system_addresses(_: &str) -> io::Result<Vec<IpAddr>> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Silent;

    static OTHER: SystemResolver =
        SystemResolver { is_left: AtomicBool::new(false), pending: AtomicUsize::new(0) };

    #[test]
    fn system_resolver_is_not_used_after_it_was_left() {
        let lookup = OTHER.begin();
        assert_eq!(lookup.is_some(), !IS_STATIC);

        // A lookup that was abandoned delays the commit, and at last prevents it.
        let error = OTHER.leave(Duration::from_millis(50), &Silent).map_err(|e| e.to_string());
        assert_eq!(error.is_err(), lookup.is_some(), "{error:?}");
        drop(lookup);

        OTHER.leave(Duration::ZERO, &Silent).expect("no lookup is pending");
        assert!(OTHER.begin().is_none());
    }

    #[cfg(not(any(target_env = "musl", target_feature = "crt-static")))]
    #[test]
    fn system_knows_loopback() {
        let addresses = system_addresses("localhost").expect("every system has it");

        assert!(addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
    }
}
