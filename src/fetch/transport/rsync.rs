//! A repository in a module of an rsync daemon: a site that has one needs no other server.
//!
//! rsync gives no ranges, so files come whole; what an earlier run left is resumed by `--append`.

use std::ffi::OsString;
use std::io::Read;
use std::ops::ControlFlow;

use rustix::fs::OFlags;

use crate::fetch::cancel::Cancelled;
use crate::fetch::download::partial_file::PartialFile;
use crate::fetch::download::retry::MinimumRate;
use crate::fetch::download::spool::{Spool, part_name};
use crate::fetch::error::{FetchError, FetchErrorKind, Side};
use crate::fetch::transport::file::too_large;
use crate::fetch::transport::{Transport, TransportError};
use crate::fetch::{CatalogAnswer, FetchOptions};
use crate::rsync::{self, RsyncCall, RsyncError, RsyncFailure, RsyncOutcome, RsyncOutput};

/// Where files lie for a moment whose digest is not known.
const UNSIZED: &str = "unsized.part";

pub(in crate::fetch) struct RsyncTransport {
    /// The image's directory, ending with a slash.
    base: String,
    /// The same as it is known.
    shown: String,
    options: FetchOptions,
}

impl RsyncTransport {
    pub fn new(base: String, shown: String, options: FetchOptions) -> Self {
        RsyncTransport { base, shown, options }
    }

    /// Runs rsync for `file`; it writes into `name` in the spool.
    fn run(
        &self,
        file: &str,
        name: &str,
        cap: u64,
        spool: &Spool,
        tick: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<(), TransportError> {
        let arguments: Vec<OsString> = [
            // Written in place, and only ever added to: a part of any run can be resumed.
            "--append",
            "--ignore-times",
            "--copy-links",
            "--no-motd",
            &format!("--max-size={cap}"),
            &format!("--timeout={}", self.options.idle_timeout.as_secs().max(1)),
            &format!("--contimeout={}", self.options.connect_timeout.as_secs().max(1)),
            "--",
            &format!("{}{file}", self.base),
            &format!("./{name}"),
        ]
        .iter()
        .map(OsString::from)
        .collect();
        let call = RsyncCall {
            arguments: &arguments,
            working_dir: Some(spool.directory()),
            deadline: self.options.deadline,
            max_file_size: Some(cap + 1),
        };
        let outcome = rsync::run(&call, &mut |heard| match heard {
            RsyncOutput::Line(_) => ControlFlow::Continue(()),
            RsyncOutput::Tick if (self.options.stopped)() => ControlFlow::Break(()),
            RsyncOutput::Tick => tick(),
        });
        match outcome {
            Ok(outcome) => outcome
                .failure()
                .map_or(Ok(()), |failure| Err(self.trouble(file, failure, &outcome))),
            Err(RsyncError::Stopped) if (self.options.stopped)() => Err(Cancelled.into()),
            Err(RsyncError::Stopped) => Ok(()),
            Err(e @ RsyncError::TimedOut) => Err(FetchError::new(
                FetchErrorKind::Unreachable,
                Side::Network,
                self.address(file),
                e,
            )
            .into()),
            Err(e @ (RsyncError::NotInstalled | RsyncError::Run(_))) => {
                Err(FetchError::new(FetchErrorKind::Other, Side::Node, self.address(file), e)
                    .into())
            }
        }
    }

    fn trouble(&self, file: &str, failure: RsyncFailure, outcome: &RsyncOutcome) -> TransportError {
        use FetchErrorKind as Kind;
        let error = |kind, side| FetchError::new(kind, side, self.address(file), outcome.reason());
        match failure {
            RsyncFailure::NotFound => {
                TransportError::Permanent(error(Kind::NotFound, Side::Server))
            }
            RsyncFailure::Refused => TransportError::transient(error(Kind::Other, Side::Server)),
            RsyncFailure::Unreachable => {
                // Refused, and not lost on the way: the machine is there, the daemon is not.
                let refused = outcome.stderr_excerpt.contains("Connection refused");
                TransportError::transient(error(
                    Kind::Unreachable,
                    if refused { Side::Server } else { Side::Network },
                ))
            }
            RsyncFailure::Lost => {
                TransportError::transient(error(Kind::Unreachable, Side::Network))
            }
            RsyncFailure::NoRoom => TransportError::Permanent(error(Kind::NoRoom, Side::Node)),
            RsyncFailure::Local => TransportError::Permanent(error(Kind::Other, Side::Node)),
            RsyncFailure::Partial | RsyncFailure::Other => {
                TransportError::transient(error(Kind::Other, Side::Server))
            }
        }
    }
}

impl Transport for RsyncTransport {
    fn address(&self, file: &str) -> String {
        format!("{}{file}", self.shown)
    }

    fn fill(&self, file: &str, part: &mut PartialFile<'_>) -> Result<(), TransportError> {
        let (Some(digest), true) = (part.named(), part.is_prefix()) else {
            return Err(TransportError::WholeFilesOnly);
        };
        let (mut pace, mut seen, mut too_slow, mut verdict) =
            (MinimumRate::new(&self.options), part.held(), false, Ok(true));
        let spool = part.spool();
        let run = self.run(file, &part_name(digest), part.total(), spool, &mut || {
            verdict = part.rehash();
            too_slow = !pace.holds(part.held().saturating_sub(seen));
            seen = part.held();
            if too_slow || !matches!(verdict, Ok(true)) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        if !verdict? || !part.rehash()? {
            part.restart(None)?;
            return Err(TransportError::transient(self.wrong_size(file, part.total())));
        }
        run?;
        match part.held() == part.total() {
            true => Ok(()),
            false if too_slow => Err(self.too_slow(file)),
            false => Err(TransportError::transient(self.wrong_size(file, part.total()))),
        }
    }

    fn unsized_file(
        &self,
        file: &str,
        _: Option<&str>,
        cap: u64,
        spool: &Spool,
    ) -> Result<CatalogAnswer, TransportError> {
        spool.remove(UNSIZED)?;
        let (mut pace, mut seen) = (MinimumRate::new(&self.options), 0);
        let mut too_slow = false;
        self.run(file, UNSIZED, cap, spool, &mut || {
            let size = spool.size(UNSIZED);
            too_slow = !pace.holds(size.saturating_sub(seen));
            seen = size;
            if too_slow { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if too_slow {
            return Err(self.too_slow(file));
        }
        let opened = spool
            .open_at(UNSIZED, OFlags::RDONLY)
            .map_err(|e| FetchError::spool("open a file", e))?;
        // Without an error there is no file only where it is larger than rsync was told to take.
        let Some(opened) = opened else {
            return Err(TransportError::Permanent(too_large(self.address(file), cap)));
        };
        let mut bytes = Vec::new();
        opened
            .take(cap + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| FetchError::spool("read a file", e))?;
        spool.remove(UNSIZED)?;
        if bytes.len() as u64 > cap {
            return Err(TransportError::Permanent(too_large(self.address(file), cap)));
        }
        Ok(CatalogAnswer::Fetched { bytes, etag: None })
    }
}

impl RsyncTransport {
    fn too_slow(&self, file: &str) -> TransportError {
        let why = "the bytes come too slowly";
        TransportError::transient(FetchError::new(
            FetchErrorKind::Unreachable,
            Side::Network,
            self.address(file),
            why,
        ))
    }

    fn wrong_size(&self, file: &str, wanted: u64) -> FetchError {
        let why = format!("the file has not the {wanted} bytes that the catalog names");
        FetchError::new(FetchErrorKind::Corrupt, Side::Server, self.address(file), why)
    }
}
