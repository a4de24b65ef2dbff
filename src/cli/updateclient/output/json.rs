//! Results as JSON lines. Events and keys are a format: they are added, never changed.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{RollbackResult, UpdateResult};
use crate::apply::downloaded::DownloadSummary;
use crate::apply::plan::ItemizedLine;
use crate::autoinstall::{Arranged, Flavor};
use crate::cli::json;
use crate::cli::updateclient::exit::Exit;
use crate::host::RestartMethod;
use crate::host::restart::RestartVerdict;
use crate::state::State;
use crate::state::pinned::Pinned;
use crate::update::{UndoSummary, UpdateError, UpdateOutcome};

/// One line of output; the variant's name is the event.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub(super) enum OutputLine<'a> {
    Item {
        change: &'a str,
        path: String,
        /// Target of a symlink, or the path that a hard link refers to.
        #[serde(skip_serializing_if = "str::is_empty")]
        leads: &'a str,
        bytes: u64,
    },
    Done {
        outcome: &'a str,
        image: String,
        generation: Option<String>,
        overrides: Vec<String>,
        serial: Option<u64>,
        way: &'a str,
        changed: usize,
        bytes: u64,
        /// Only in a dry run: estimated bytes of contents that are fetched by digest.
        #[serde(skip_serializing_if = "Option::is_none")]
        by_digest_bytes: Option<u64>,
        mixed_ms: Option<u64>,
        repaired: usize,
        deviations: &'a BTreeMap<String, String>,
        #[serde(skip_serializing_if = "BTreeSet::is_empty")]
        left_out: &'a BTreeSet<String>,
        displaced: Vec<String>,
        untracked: Option<u64>,
        /// Only after a change of the running system.
        #[serde(skip_serializing_if = "Option::is_none")]
        restart: Option<&'a RestartVerdict>,
    },
    Restart {
        #[serde(flatten)]
        restart: &'a RestartVerdict,
    },
    Arranged {
        flavor: &'a str,
        arch: &'a str,
        kexec: bool,
    },
    Error {
        exit: u8,
        text: String,
    },
    Status {
        interrupted: bool,
        state: Option<&'a State>,
        set_aside: Option<&'a str>,
        held: Option<&'a Pinned>,
        undo: Option<UndoSummary>,
        /// Proof digest of the recorded tree.
        proof: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        downloaded: Option<&'a DownloadSummary>,
        /// Reason that the downloaded update cannot be used.
        #[serde(skip_serializing_if = "Option::is_none")]
        downloaded_fault: Option<String>,
    },
    RolledBack {
        dry_run: bool,
        generation: Option<String>,
        serial: Option<u64>,
        held: Option<&'a Pinned>,
        changed: usize,
        displaced: Vec<String>,
        deviations: &'a BTreeMap<String, String>,
        #[serde(skip_serializing_if = "BTreeSet::is_empty")]
        left_out: &'a BTreeSet<String>,
        mixed_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        restart: Option<&'a RestartVerdict>,
    },
}

/// Prints an event per path, then the result.
pub(super) fn print_update(result: &UpdateResult<'_>) {
    let UpdateResult { report, request, .. } = result;
    print_items(&report.items);

    json::line(&OutputLine::Done {
        outcome: match report.outcome {
            UpdateOutcome::UpToDate => "up-to-date",
            UpdateOutcome::Updated => "updated",
            UpdateOutcome::WouldUpdate => "would-update",
            UpdateOutcome::Adopted => "adopted",
            UpdateOutcome::Downloaded => "downloaded",
        },
        image: request.image.to_string(),
        generation: report.generation.map(|id| id.to_string()),
        overrides: request.overrides.iter().map(ToString::to_string).collect(),
        serial: report.serial,
        way: &report.description,
        changed: report.items.len(),
        bytes: report.bytes,
        by_digest_bytes: report.by_digest.map(|by_digest| by_digest.bytes),
        mixed_ms: report.switch_time.map(|mixed| mixed.as_millis() as u64),
        repaired: report.repaired.len(),
        deviations: &report.deviations,
        left_out: &report.left_out,
        displaced: report.displaced.iter().map(ToString::to_string).collect(),
        untracked: report.untracked,
        restart: result.restart,
    });
}

/// Prints an event per path, then the result.
pub(super) fn print_rollback(result: &RollbackResult<'_>) {
    let outcome = result.outcome;
    print_items(&outcome.items);
    json::line(&OutputLine::RolledBack {
        dry_run: outcome.switch_time.is_none(),
        generation: outcome.to.map(|id| id.to_string()),
        serial: outcome.serial,
        held: outcome.pinned.as_ref(),
        changed: outcome.items.len(),
        displaced: outcome.displaced.iter().map(ToString::to_string).collect(),
        deviations: &outcome.deviations,
        left_out: &outcome.left_out,
        mixed_ms: outcome.switch_time.map(|mixed| mixed.as_millis() as u64),
        restart: result.restart,
    });
}

/// Prints that the node will be reinstalled.
pub(super) fn print_autoinstall(flavor: &Flavor, arranged: Arranged) {
    json::line(&OutputLine::Arranged {
        flavor: flavor.name.as_str(),
        arch: &flavor.arch,
        kexec: arranged.restart == RestartMethod::Kexec,
    });
}

/// Prints the error that ended a run.
pub(super) fn print_error(error: &UpdateError, exit: Exit) {
    json::line(&OutputLine::Error { exit: exit as u8, text: error.to_string() });
}

fn print_items(items: &[ItemizedLine]) {
    for item in items {
        json::line(&OutputLine::Item {
            change: item.change.trim(),
            path: item.path.to_string(),
            leads: item.link_target(),
            bytes: item.bytes,
        });
    }
}
