//! A question to the server before a switch: whether a newer head says to wait.
//!
//! A switch needs no network, so that no answer is a reason to go on. The question has one time
//! limit for all layers, with the lookup of the name and the connection.

use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::apply::Untouched;
use crate::cancel::check_cancelled;
use crate::catalog::Head;
use crate::fetch::{FetchOptions, HeadAnswer, RepoUrl, Repository, leave_system_resolver};
use crate::update::error::{NotNow, TrustError, UpdateError};
use crate::update::notice::{DownloadNotice, NoNewerHead};
use crate::update::run::Run;
use crate::update::source::trust::Trust;

/// Time limit for all answers.
const LIMIT: Duration = Duration::from_secs(1);
/// An error this short a time before the limit is a timeout of the transport.
const TOLERANCE: Duration = Duration::from_millis(50);

/// Asks for the heads of all layers; an error if one of them says to wait.
pub(in crate::update) fn ask(
    run: &Run<'_>,
    repo: &RepoUrl,
    heads: &[Head],
) -> Result<(), UpdateError> {
    let deadline = Instant::now() + LIMIT;
    let trust = Trust::load(&run.session.root, &run.request.trust)?;
    // A lookup by the C library cannot be cancelled, and would delay the commit.
    leave_system_resolver(run.monitor)?;
    for head in heads {
        let answer = ask_for_head(run, repo, head, deadline)
            .and_then(|bytes| trust.read_head(&bytes, &head.layer).map_err(NoNewerHead::Untrusted));
        check_cancelled(run.monitor).map_err(Untouched::from)?;
        let answer = match answer {
            Ok(answer) => answer,
            Err(reason) => {
                run.monitor.note(DownloadNotice::NoNewerHead(reason));
                return Ok(());
            }
        };

        let (name, newer) = (head.layer.to_string(), answer.head.version());
        if answer.head.paused && newer >= head.version() {
            return Err(UpdateError::NotNow(NotNow::Paused { name }));
        }
        if newer > head.version() {
            return Err(UpdateError::NotNow(NotNow::Superseded { name, newer }));
        }
    }
    Ok(())
}

/// Asks for one head in a thread of its own.
fn ask_for_head(
    run: &Run<'_>,
    repo: &RepoUrl,
    head: &Head,
    deadline: Instant,
) -> Result<Vec<u8>, NoNewerHead> {
    let left = deadline.checked_duration_since(Instant::now()).ok_or(NoNewerHead::Late)?;
    let options = FetchOptions {
        attempts: 1,
        connect_timeout: left,
        idle_timeout: left,
        deadline: Some(deadline),
        ..run.request.fetch.clone()
    };
    let spool = run.open_spool().map_err(NoNewerHead::Node)?;
    let repository =
        Repository::open(repo, &head.layer, &options, spool).map_err(NoNewerHead::Fetch)?;

    let (sender, receiver) = sync_channel(1);
    let asking = thread::Builder::new().name("newer-head".to_owned()).spawn(move || {
        // Fails if the time is over.
        let _ = sender.send(repository.fetch_head(None));
    });
    asking.map_err(NoNewerHead::Thread)?;
    match receiver.recv_timeout(left) {
        Ok(Ok(HeadAnswer::Fetched { bytes, .. })) => Ok(bytes),
        Ok(Ok(HeadAnswer::NotModified)) => {
            Err(NoNewerHead::Untrusted(TrustError::UnexpectedNotModified))
        }
        // The transport has the same time limit.
        Ok(Err(error)) if Instant::now() + TOLERANCE < deadline => Err(NoNewerHead::Fetch(error)),
        Ok(Err(_)) | Err(_) => Err(NoNewerHead::Late),
    }
}
