//! Settings of all downloads of a run.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::tls_pin::TlsPin;

/// Retries, time limits and trust of downloads.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// Attempts in a row without progress before a file is given up; at least 1.
    pub attempts: u32,
    /// Pause before the second attempt; doubled for each further one, up to 30 s.
    pub base_delay: Duration,
    /// Time limit for a connection to be established.
    pub connect_timeout: Duration,
    /// Time limit for each read from a connection.
    pub idle_timeout: Duration,
    /// Minimum rate in bytes per second, averaged over each `speed_window`.
    pub minimum_speed: u64,
    /// Period over which `minimum_speed` is averaged.
    pub speed_window: Duration,
    /// Time at which a transfer by rsync is killed.
    pub deadline: Option<Instant>,
    /// Cancellation of the run; polled during every wait.
    pub is_cancelled: fn() -> bool,
    /// Certificates (PEM) for https servers; `None` for the bundle of the system.
    pub ca_file: Option<PathBuf>,
    /// Keys of https servers; if there are any, no other key is accepted.
    pub tls_pins: Vec<TlsPin>,
    /// Certificate that this node shows to https servers.
    pub client_certificate: Option<ClientCertificate>,
}

/// Files of a certificate of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate and those that lead to its authority (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
}

impl Default for FetchOptions {
    fn default() -> Self {
        FetchOptions {
            attempts: 5,
            base_delay: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            minimum_speed: 1024,
            speed_window: Duration::from_secs(60),
            deadline: None,
            is_cancelled: || false,
            ca_file: None,
            tls_pins: Vec::new(),
            client_certificate: None,
        }
    }
}
