//! Why something could not be fetched, and who has to look into it.

use std::fmt;
use std::io;

/// The side that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// This node: its disk, its configuration, its programs.
    Node,
    /// The server: what it answers, or what it holds.
    Server,
    /// What lies between the two.
    Network,
}

/// What a caller does differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FetchErrorKind {
    /// The server has no such file.
    NotFound,
    /// What the server holds is not what the catalog names, also after it was fetched anew.
    Corrupt,
    /// No server answers, or the connection to it does not last.
    Unreachable,
    /// The spool, or the filesystem that it lies on, is full.
    NoRoom,
    /// Everything else.
    Other,
}

/// Why something could not be fetched.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot fetch {what}: {side}: {why}")]
pub struct FetchError {
    /// What a caller does differently.
    pub kind: FetchErrorKind,
    /// Who has to look into it.
    pub side: Side,
    what: String,
    why: String,
}

impl FetchError {
    /// An error about `what`, an URL or a path, for the reason `why`: lower case, no full stop.
    pub fn new(kind: FetchErrorKind, side: Side, what: impl fmt::Display, why: impl fmt::Display) -> Self {
        FetchError { kind, side, what: what.to_string(), why: why.to_string() }
    }

    /// A call on this node's own files that failed while it did `doing`.
    pub fn local(what: impl fmt::Display, doing: impl fmt::Display, error: io::Error) -> Self {
        let full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        let kind = if full { FetchErrorKind::NoRoom } else { FetchErrorKind::Other };
        FetchError::new(kind, Side::Node, what, format_args!("{doing}: {error}"))
    }

    /// What could not be fetched.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The reason alone.
    pub fn why(&self) -> &str {
        &self.why
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
