//! Why something could not be fetched, and who has to look into it.

use std::{fmt, io};

use crate::fetch::cancel::Cancelled;

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
    /// The run was asked to stop.
    Stopped,
    /// Everything else.
    Other,
}

/// Why something could not be fetched.
#[derive(Clone, Debug, thiserror::Error)]
pub struct FetchError {
    /// What a caller does differently.
    pub kind: FetchErrorKind,
    /// Who has to look into it.
    pub side: Side,
    /// An URL or a path; nothing as long as it is the spool alone that failed.
    what: Option<String>,
    why: String,
}

impl FetchError {
    /// An error about `what`, an URL or a path, for the reason `why`: lower case, no full stop.
    pub fn new(
        kind: FetchErrorKind,
        side: Side,
        what: impl fmt::Display,
        why: impl fmt::Display,
    ) -> Self {
        FetchError { kind, side, what: Some(what.to_string()), why: why.to_string() }
    }

    /// A call on this node's own files that failed while it did `doing` for `what`.
    pub fn local(
        what: impl fmt::Display,
        doing: impl fmt::Display,
        error: impl Into<io::Error>,
    ) -> Self {
        let error = error.into();
        FetchError::new(
            local_kind(&error),
            Side::Node,
            what,
            format_args!("cannot {doing}: {error}"),
        )
    }

    /// The same in the spool.
    pub(super) fn spool(doing: impl fmt::Display, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let why = format!("cannot {doing}: {error}");
        FetchError { kind: local_kind(&error), side: Side::Node, what: None, why }
    }

    /// The spool has no room, for the reason `why`.
    pub(super) fn no_room(why: impl fmt::Display) -> Self {
        FetchError {
            kind: FetchErrorKind::NoRoom,
            side: Side::Node,
            what: None,
            why: why.to_string(),
        }
    }

    /// The same error, as one about `what` if it was about the spool.
    pub(super) fn about(self, what: &str) -> Self {
        match self.what {
            Some(_) => self,
            None => FetchError {
                what: Some(what.to_owned()),
                why: format!("in the spool, {}", self.why),
                ..self
            },
        }
    }

    /// The same error after `attempts`.
    pub(super) fn after(self, attempts: u32) -> Self {
        if attempts < 2 {
            return self;
        }
        FetchError { why: format!("{} (tried {attempts} times)", self.why), ..self }
    }

    /// The reason alone.
    pub fn why(&self) -> &str {
        &self.why
    }
}

impl From<Cancelled> for FetchError {
    fn from(_: Cancelled) -> Self {
        let why = "stopped on request".to_owned();
        FetchError { kind: FetchErrorKind::Stopped, side: Side::Node, what: None, why }
    }
}

fn local_kind(error: &io::Error) -> FetchErrorKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            FetchErrorKind::NoRoom
        }
        _ => FetchErrorKind::Other,
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            Some(what) => write!(f, "cannot fetch {what}: {}: {}", self.side, self.why),
            None => write!(f, "the spool of this node: {}", self.why),
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
