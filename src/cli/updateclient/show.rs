//! What a run tells in the end.

use std::io::Write;

use serde::Serialize;

use super::super::json;
use super::{Arguments, Exit};
use crate::state::Found;
use crate::update::{Outcome, Report, Request, Status, UpdateError};

/// More deviations than this are counted, not listed, unless asked for by `--status` or `--json`.
const LISTED: usize = 20;

#[derive(Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
enum Told<'a> {
    Item {
        change: &'a str,
        path: String,
        /// Where a symlink leads, what a hardlink links.
        #[serde(skip_serializing_if = "str::is_empty")]
        leads: &'a str,
        bytes: u64,
    },
    Done {
        outcome: &'a str,
        image: String,
        generation: String,
        serial: u64,
        way: &'a str,
        changed: usize,
        bytes: u64,
        mixed_ms: Option<u64>,
        repaired: usize,
        deviations: &'a std::collections::BTreeMap<String, String>,
        displaced: Vec<String>,
        untracked: Option<u64>,
    },
    Error {
        exit: u8,
        text: String,
    },
    Status {
        interrupted: bool,
        state: Option<&'a crate::state::State>,
        set_aside: Option<&'a str>,
    },
}

/// Prints what was done, or would be.
pub fn report(report: &Report, request: &Request, arguments: &Arguments) -> Result<(), UpdateError> {
    if arguments.json {
        report_json(report, request);
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    // A reader that has gone away is no reason to fail.
    if report.outcome == Outcome::WouldUpdate {
        for item in &report.items {
            let _ = writeln!(out, "{} {}{}", item.change, item.path, item.suffix);
        }
    }
    if arguments.quiet {
        return Ok(());
    }
    for (title, paths) in [("repaired", words(&report.repaired)), ("deviates", words(&report.deviations))] {
        for line in paths.iter().take(LISTED) {
            let _ = writeln!(out, "{title}: {line}");
        }
        if paths.len() > LISTED {
            let _ = writeln!(out, "{title}: {} more", paths.len() - LISTED);
        }
    }
    for path in &report.displaced {
        let _ = writeln!(out, "went with its directory, kept in .si-undo until the next update: {path}");
    }
    let _ = writeln!(out, "{}", sentence(report, request));
    let _ = out.flush();
    Ok(())
}

fn sentence(report: &Report, request: &Request) -> String {
    let (image, id, serial) = (&request.image, report.generation.short(), report.serial);
    let changes = format!("{} paths, {} of new content", report.items.len(), size(report.bytes));
    let mut text = match report.outcome {
        Outcome::UpToDate => format!("{image} is up to date: generation {id}, serial {serial}"),
        Outcome::Adopted if request.dry_run => {
            format!("this tree would be recorded as {image}, generation {id}, serial {serial}")
        }
        Outcome::Adopted => format!("this tree is recorded as {image}, generation {id}, serial {serial}"),
        Outcome::WouldUpdate => {
            format!("would update to {image}, generation {id}, serial {serial} ({changes}): {}", report.way)
        }
        Outcome::Updated => format!("updated to {image}, generation {id}, serial {serial} ({changes})"),
    };
    if let Some(mixed) = report.mixed {
        text += &format!(", mixed for {} ms", mixed.as_millis());
    }
    if let Some(untracked) = report.untracked.filter(|count| *count > 0) {
        text += &format!(", {untracked} untracked paths kept");
    }
    if !report.deviations.is_empty() {
        text += &format!(", {} deviations", report.deviations.len());
    }
    text
}

fn report_json(report: &Report, request: &Request) {
    for item in &report.items {
        json::line(&Told::Item {
            change: item.change.trim(),
            path: item.path.to_string(),
            leads: item.suffix.strip_prefix(" -> ").or_else(|| item.suffix.strip_prefix(" => ")).unwrap_or_default(),
            bytes: item.bytes,
        });
    }
    json::line(&Told::Done {
        outcome: match report.outcome {
            Outcome::UpToDate => "up-to-date",
            Outcome::Updated => "updated",
            Outcome::WouldUpdate => "would-update",
            Outcome::Adopted => "adopted",
        },
        image: request.image.to_string(),
        generation: report.generation.to_string(),
        serial: report.serial,
        way: &report.way,
        changed: report.items.len(),
        bytes: report.bytes,
        mixed_ms: report.mixed.map(|mixed| mixed.as_millis() as u64),
        repaired: report.repaired.len(),
        deviations: &report.deviations,
        displaced: report.displaced.iter().map(ToString::to_string).collect(),
        untracked: report.untracked,
    });
}

/// Prints what is recorded.
pub fn status(status: &Status, as_json: bool) -> Result<Exit, UpdateError> {
    let (state, set_aside) = match &status.found {
        Found::Nothing => (None, None),
        Found::State(state) | Found::Copied(state) => (Some(state.as_ref()), None),
        Found::SetAside(why) => (None, Some(why.as_str())),
    };
    if as_json {
        json::line(&Told::Status { interrupted: status.interrupted, state, set_aside });
    } else {
        let _ = print_status(status.interrupted, state, set_aside);
    }
    Ok(if status.interrupted { Exit::Interrupted } else { Exit::Done })
}

fn print_status(
    interrupted: bool,
    state: Option<&crate::state::State>,
    set_aside: Option<&str>,
) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if interrupted {
        writeln!(out, "interrupted: this tree is between two generations; the next run finishes")?;
    }
    if let Some(why) = set_aside {
        writeln!(out, "nothing is recorded: {why}")?;
    }
    let Some(state) = state else {
        if set_aside.is_none() {
            writeln!(out, "nothing is recorded of this tree")?;
        }
        return Ok(());
    };
    writeln!(out, "image:       {}", state.image)?;
    writeln!(out, "serial:      {}", state.serial)?;
    writeln!(out, "generation:  {}", state.generation)?;
    writeln!(out, "recorded:    {}", state.written)?;
    match state.untracked {
        Some(count) => writeln!(out, "untracked:   {count}")?,
        None => writeln!(out, "untracked:   not counted")?,
    }
    writeln!(out, "deviations:  {}", state.deviations.len())?;
    for (path, what) in &state.deviations {
        writeln!(out, "  {path}: {what}")?;
    }
    out.flush()
}

/// Prints why a run did not do what it was asked to.
pub fn error(error: &UpdateError, exit: Exit, as_json: bool) {
    if as_json {
        json::line(&Told::Error { exit: exit as u8, text: error.to_string() });
    }
    let _ = writeln!(std::io::stderr(), "si_updateclient: {error}");
}

fn words<K: ToString>(paths: &std::collections::BTreeMap<K, String>) -> Vec<String> {
    paths.iter().map(|(path, what)| format!("{}: {what}", path.to_string())).collect()
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}
