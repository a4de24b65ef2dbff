//! What `--status` prints.

use std::io::Write;

use crate::cli::json;
use crate::cli::updateclient::Exit;
use crate::cli::updateclient::output::text::{OutputLine, size};
use crate::state::{State, StoredState};
use crate::update::{Status, UpdateError};

/// Prints what is recorded.
pub fn show(status: &Status, as_json: bool) -> Result<Exit, UpdateError> {
    let (state, set_aside) = match &status.found {
        StoredState::Nothing => (None, None),
        StoredState::State(state) | StoredState::Copied(state) => (Some(state.as_ref()), None),
        StoredState::SetAside(why) => (None, Some(why.as_str())),
    };
    if as_json {
        let (interrupted, held, undo) = (status.interrupted, status.held.as_ref(), status.undo);
        json::line(&OutputLine::Status { interrupted, state, set_aside, held, undo });
    } else {
        let _ = print_status(status, state, set_aside);
    }
    Ok(if status.interrupted { Exit::Interrupted } else { Exit::Done })
}

fn print_status(
    status: &Status,
    state: Option<&State>,
    set_aside: Option<&str>,
) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if status.interrupted {
        writeln!(out, "interrupted: this tree is between two generations; the next run finishes")?;
    }
    if let Some(why) = set_aside {
        writeln!(out, "nothing is recorded: {why}")?;
    }
    let Some(state) = state else {
        if set_aside.is_none() {
            writeln!(out, "nothing is recorded of this tree")?;
        }
        return print_undo(status, &mut out);
    };
    writeln!(out, "image:       {}", state.image)?;
    let laid: Vec<String> = state.overrides.iter().map(|laid| laid.name.to_string()).collect();
    if !laid.is_empty() {
        writeln!(out, "overrides:   {}", laid.join(" "))?;
    }
    if state.is_published() {
        writeln!(out, "serial:      {}", state.serial)?;
        writeln!(out, "generation:  {}", state.generation)?;
    } else {
        writeln!(out, "generation:  unknown: it came by rsync and was never published")?;
    }
    writeln!(out, "recorded:    {}", state.written)?;
    match state.untracked {
        Some(count) => writeln!(out, "untracked:   {count}")?,
        None => writeln!(out, "untracked:   not counted")?,
    }
    writeln!(out, "deviations:  {}", state.deviations.len())?;
    for (path, what) in &state.deviations {
        writeln!(out, "  {path}: {what}")?;
    }
    print_undo(status, &mut out)
}

fn print_undo(status: &Status, out: &mut impl Write) -> std::io::Result<()> {
    if let Some(undo) = status.undo {
        let to = match (undo.generation, undo.serial) {
            (Some(id), Some(serial)) => format!("generation {}, serial {serial}", id.short()),
            _ => "what it was before anything was recorded".to_owned(),
        };
        writeln!(out, "undo:        to {to}; {} on disk ({} bytes)", size(undo.bytes), undo.bytes)?;
    } else if !status.interrupted {
        writeln!(out, "undo:        nothing")?;
    }
    if let Some(held) = &status.held {
        writeln!(
            out,
            "held:        generation {}, serial {}, since {}",
            held.generation.short(),
            held.serial,
            held.since
        )?;
    }
    out.flush()
}
