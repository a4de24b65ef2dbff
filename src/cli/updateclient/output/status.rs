//! `--status`: the recorded state of a node.

use std::io::{self, Write};

use super::json::OutputLine;
use super::text;
use super::text::absolute;
use crate::cli::console::Output;
use crate::cli::json;
use crate::cli::updateclient::args::OutputMode;
use crate::cli::updateclient::exit::Exit;
use crate::digest::Digest;
use crate::report::units::Size;
use crate::state::{LoadedState, State};
use crate::update::{Status, UpdateError};

/// Proof digest of the recorded tree: `None` without a manifest, an error without exclude rules.
pub type RecordedProof = Result<Option<Digest>, UpdateError>;

/// Prints the recorded state; an interrupted update has its own exit code.
pub fn print_status(
    status: &Status,
    proof: &RecordedProof,
    mode: OutputMode,
) -> Result<Exit, UpdateError> {
    let (state, rejected) = match &status.state {
        LoadedState::Missing => (None, None),
        LoadedState::Valid(state) | LoadedState::FromCopy(state) => (Some(state.as_ref()), None),
        LoadedState::Rejected(error) => (None, Some(error.to_string())),
    };
    let set_aside = rejected.as_deref();

    match mode {
        OutputMode::Json => json::line(&OutputLine::Status {
            interrupted: status.interrupted,
            state,
            set_aside,
            held: status.pinned.as_ref(),
            undo: status.undo,
            proof: proof.as_ref().ok().and_then(|proof| proof.map(|proof| proof.to_string())),
            downloaded: status.downloaded.as_ref(),
            downloaded_fault: status.download_fault.as_ref().map(ToString::to_string),
        }),
        OutputMode::Text => {
            let _ = write_status(status, (state, set_aside), proof);
        }
    }
    Ok(if status.interrupted { Exit::Interrupted } else { Exit::Done })
}

fn write_status(
    status: &Status,
    (state, set_aside): (Option<&State>, Option<&str>),
    proof: &RecordedProof,
) -> io::Result<()> {
    let mut out = Output::open();

    if status.interrupted {
        writeln!(out, "interrupted: the last update is incomplete; the next run completes it")?;
    }
    match (state, set_aside) {
        (Some(state), _) => {
            write_state(state, &mut out)?;
            match proof {
                Ok(Some(proof)) => writeln!(out, "proof:       {proof} (recorded, not read)")?,
                Ok(None) => writeln!(out, "proof:       unknown: the recorded manifest is lost")?,
                Err(error) => writeln!(out, "proof:       unknown: {error}")?,
            }
        }
        (None, Some(reason)) => writeln!(out, "nothing is recorded: {reason}")?,
        (None, None) => writeln!(out, "nothing is recorded of this tree")?,
    }
    write_undo(status, &mut out)?;
    if let Some(found) = &status.downloaded {
        let target = text::publish(Some(found.generation), Some(found.serial)).unwrap_or_default();
        let size = Size(found.bytes);
        writeln!(out, "downloaded:  {target}, {size}, at {}", found.downloaded)?;
    }
    if let Some(fault) = &status.download_fault {
        writeln!(out, "downloaded:  damaged, and not installed: {fault}")?;
    }
    out.flush()
}

fn write_state(state: &State, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "image:       {}", state.image)?;
    let overrides: Vec<String> =
        state.overrides.iter().map(|layer| layer.name.to_string()).collect();
    if !overrides.is_empty() {
        writeln!(out, "overrides:   {}", overrides.join(" "))?;
    }

    if state.is_published() {
        writeln!(out, "serial:      {}", state.serial)?;
        writeln!(out, "generation:  {}", state.generation)?;
    } else {
        writeln!(out, "generation:  unknown: received by rsync, never published")?;
    }
    writeln!(out, "recorded:    {}", state.written)?;

    match state.untracked {
        Some(count) => writeln!(out, "untracked:   {count}")?,
        None => writeln!(out, "untracked:   not counted")?,
    }
    writeln!(out, "deviations:  {}", state.deviations.len())?;
    for (path, reason) in &state.deviations {
        writeln!(out, "  {}: {reason}", absolute(path))?;
    }
    Ok(())
}

fn write_undo(status: &Status, out: &mut impl Write) -> io::Result<()> {
    if let Some(undo) = status.undo {
        let target = text::publish(undo.generation, undo.serial)
            .unwrap_or_else(|| "the state before anything was recorded".to_owned());
        let size = Size(undo.bytes);
        writeln!(out, "undo:        to {target}; {size} on disk ({} bytes)", undo.bytes)?;
    } else if !status.interrupted {
        writeln!(out, "undo:        nothing")?;
    }

    if let Some(pinned) = &status.pinned {
        let target =
            text::publish(Some(pinned.generation), Some(pinned.serial)).unwrap_or_default();
        writeln!(out, "pinned:      {target}, since {}", pinned.since)?;
    }
    Ok(())
}
