//! Repository in a module of an rsync daemon, for sites without a web server.
//!
//! rsync transfers no ranges, so files are transferred whole. A partial file of an earlier run is
//! resumed by `--append`.

use std::ffi::OsString;
use std::io::Read;
use std::ops::ControlFlow;
use std::sync::Arc;

use rustix::fs::OFlags;

use super::{HeadAnswer, Transport, TransportError};
use crate::cancel::Cancelled;
use crate::digest::Digest;
use crate::fetch::download::partial_file::PartialFile;
use crate::fetch::download::retry::MinimumRate;
use crate::fetch::download::spool::{Spool, partial_name, spool_error};
use crate::fetch::error::{ConnectionState, FetchError, FetchProblem, Interruption};
use crate::fetch::options::FetchOptions;
use crate::rsync::{self, Relay, RsyncCall, RsyncError, RsyncFailure, RsyncOutcome, RsyncOutput};

/// Name in the spool of a file whose digest is unknown.
const UNSIZED: &str = "unsized.part";

/// Files of one directory of a module.
pub(in crate::fetch) struct RsyncTransport {
    /// Address of the directory, with a slash at its end.
    base: String,
    /// Tunnel to the daemon, if there is one.
    relay: Option<Relay>,
    options: FetchOptions,
}

/// One transfer into a file of the spool.
struct Transfer<'t> {
    file: &'t str,
    /// Name in the spool.
    name: &'t str,
    /// Limit of the size in bytes.
    limit: u64,
    spool: &'t Spool,
}

/// State of the file that rsync writes, as seen at each tick.
enum TransferCheck {
    Good,
    TooSlow,
    TooLong,
}

impl RsyncTransport {
    /// `base` is the address of the directory, with a slash at its end.
    pub fn new(base: String, relay: Option<Relay>, options: FetchOptions) -> Self {
        RsyncTransport { base, relay, options }
    }

    /// Runs rsync for one file; `on_tick` may end it early, which is no error.
    fn run(
        &self,
        transfer: &Transfer<'_>,
        on_tick: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<(), TransportError> {
        let arguments = self.arguments(transfer);
        let call = RsyncCall {
            arguments: &arguments,
            working_dir: Some(transfer.spool.directory()),
            deadline: self.options.deadline,
            max_file_size: Some(transfer.limit + 1),
            relay: self.relay.as_ref(),
        };
        let result = rsync::run(&call, &mut |output| match output {
            RsyncOutput::Line(_) => ControlFlow::Continue(()),
            RsyncOutput::Tick if (self.options.is_cancelled)() => ControlFlow::Break(()),
            RsyncOutput::Tick => on_tick(),
        });

        match result {
            Ok(outcome) => match outcome.failure() {
                Some(failure) => Err(self.outcome_error(transfer.file, failure, &outcome)),
                None => Ok(()),
            },
            Err(RsyncError::Cancelled) if (self.options.is_cancelled)() => Err(Cancelled.into()),
            Err(RsyncError::Cancelled) => Ok(()),
            Err(error) => {
                Err(FetchProblem::RsyncRun(Arc::new(error)).at(self.address(transfer.file)).into())
            }
        }
    }

    fn arguments(&self, transfer: &Transfer<'_>) -> Vec<OsString> {
        let arguments = [
            // Written in place and only extended, so a partial file of any run can be resumed.
            "--append",
            "--ignore-times",
            "--copy-links",
            "--no-motd",
            &format!("--max-size={}", transfer.limit),
            &format!("--timeout={}", self.options.idle_timeout.as_secs().max(1)),
            &format!("--contimeout={}", self.options.connect_timeout.as_secs().max(1)),
            "--",
            &format!("{}{}", self.base, transfer.file),
            &format!("./{}", transfer.name),
        ];
        arguments.iter().map(OsString::from).collect()
    }

    /// The error for a failed rsync, and whether repeating it may help.
    fn outcome_error(
        &self,
        file: &str,
        failure: RsyncFailure,
        outcome: &RsyncOutcome,
    ) -> TransportError {
        let connection = if outcome.stderr_excerpt.contains("Connection refused") {
            ConnectionState::Refused
        } else {
            ConnectionState::Silent
        };
        let problem = FetchProblem::Rsync { failure, connection, reason: outcome.reason() };
        let error = problem.at(self.address(file));

        match failure {
            RsyncFailure::NotFound
            | RsyncFailure::DiskSpace
            | RsyncFailure::Local
            | RsyncFailure::PartialHere => TransportError::Permanent(error),
            RsyncFailure::Refused
            | RsyncFailure::Unreachable
            | RsyncFailure::Lost
            | RsyncFailure::Partial
            | RsyncFailure::Other => TransportError::transient(error),
        }
    }

    /// Transfers the whole file of `digest`; returns the last check of the partial file.
    fn transfer_partial(
        &self,
        file: &str,
        digest: Digest,
        partial: &mut PartialFile<'_>,
    ) -> Result<(Result<(), TransportError>, TransferCheck), FetchError> {
        let name = partial_name(digest);
        let (limit, spool) = (partial.file_size(), partial.spool());
        let transfer = Transfer { file, name: &name, limit, spool };
        let mut rate = MinimumRate::new(&self.options);
        let mut last_length = partial.length();
        let mut check = Ok(TransferCheck::Good);

        let result = self.run(&transfer, &mut || {
            check = partial.refresh_length().map(|fits| {
                let received = partial.length().saturating_sub(last_length);
                last_length = partial.length();
                if !fits {
                    TransferCheck::TooLong
                } else if !rate.is_kept(received) {
                    TransferCheck::TooSlow
                } else {
                    TransferCheck::Good
                }
            });
            match check {
                Ok(TransferCheck::Good) => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        });

        let mut check = check?;
        if !matches!(check, TransferCheck::TooLong) && !partial.refresh_length()? {
            check = TransferCheck::TooLong;
        }
        Ok((result, check))
    }

    fn too_slow(&self, file: &str) -> TransportError {
        let cause = Interruption::TooSlow;
        let problem = FetchProblem::Interrupted { cause, position: None };
        TransportError::transient(problem.at(self.address(file)))
    }

    fn unexpected_size(&self, file: &str, expected: u64) -> TransportError {
        let problem = FetchProblem::UnexpectedSize { expected };
        TransportError::transient(problem.at(self.address(file)))
    }
}

impl Transport for RsyncTransport {
    fn address(&self, file: &str) -> String {
        format!("{}{file}", self.base)
    }

    fn download_into(
        &self,
        file: &str,
        partial: &mut PartialFile<'_>,
    ) -> Result<(), TransportError> {
        let Some(digest) = partial.digest_in_spool().filter(|_| partial.is_prefix()) else {
            return Err(TransportError::WholeFilesOnly);
        };

        let (result, check) = self.transfer_partial(file, digest, partial)?;
        if matches!(check, TransferCheck::TooLong) {
            partial.restart(None)?;
            return Err(self.unexpected_size(file, partial.file_size()));
        }

        result?;
        if partial.length() == partial.file_size() {
            return Ok(());
        }
        Err(match check {
            TransferCheck::TooSlow => self.too_slow(file),
            _ => self.unexpected_size(file, partial.file_size()),
        })
    }

    fn download_unsized(
        &self,
        file: &str,
        _: Option<&str>,
        limit: u64,
        spool: &Spool,
    ) -> Result<HeadAnswer, TransportError> {
        spool.remove(UNSIZED)?;
        let mut rate = MinimumRate::new(&self.options);
        let mut last_size = 0;
        let mut is_fast_enough = true;

        let transfer = Transfer { file, name: UNSIZED, limit, spool };
        self.run(&transfer, &mut || {
            let size = spool.size(UNSIZED);
            is_fast_enough = rate.is_kept(size.saturating_sub(last_size));
            last_size = size;
            if is_fast_enough { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if !is_fast_enough {
            return Err(self.too_slow(file));
        }

        let too_large = || FetchProblem::TooLarge { limit }.at(self.address(file));
        // rsync succeeds without a file only if --max-size excluded it.
        let Some(opened) = spool.open_file(UNSIZED, OFlags::RDONLY)? else {
            return Err(too_large().into());
        };
        let mut bytes = Vec::new();
        opened
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(spool_error("read a file in the spool"))?;
        spool.remove(UNSIZED)?;

        if bytes.len() as u64 > limit {
            return Err(too_large().into());
        }
        Ok(HeadAnswer::Fetched { bytes, etag: None })
    }
}
