//! What a run tells in the end.

use std::io::Write;

use serde::Serialize;

use crate::apply::plan::ItemizedLine;
use crate::autoinstall::{Arranged, Flavor};
use crate::cli::json;
use crate::cli::log::{Level, Log};
use crate::cli::updateclient::output::out_format;
use crate::cli::updateclient::settings::Row;
use crate::cli::updateclient::{Arguments, Exit};
use crate::host::Restart;
use crate::host::restart::RestartVerdict;
use crate::image::ImageName;
use crate::state::State;
use crate::state::pinned::Pinned;
use crate::update::{
    Provenance, Report, RolledBack, UndoSummary, UpdateError, UpdateOutcome, UpdateRequest,
};

/// More deviations than this are counted, not listed, unless asked for by `--status` or `--json`.
const LISTED: usize = 20;

#[derive(Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub(in crate::cli::updateclient) enum OutputLine<'a> {
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
        generation: Option<String>,
        overrides: Vec<String>,
        serial: Option<u64>,
        way: &'a str,
        changed: usize,
        bytes: u64,
        mixed_ms: Option<u64>,
        repaired: usize,
        deviations: &'a std::collections::BTreeMap<String, String>,
        displaced: Vec<String>,
        untracked: Option<u64>,
        /// Of the running system alone.
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
    },
    RolledBack {
        dry_run: bool,
        generation: Option<String>,
        serial: Option<u64>,
        held: Option<&'a Pinned>,
        changed: usize,
        displaced: Vec<String>,
        deviations: &'a std::collections::BTreeMap<String, String>,
        mixed_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        restart: Option<&'a RestartVerdict>,
    },
}

/// What there is to tell of a run.
pub struct JsonReport<'a> {
    pub report: &'a Report,
    pub request: &'a UpdateRequest,
    /// Of the running system that was changed.
    pub restart: Option<&'a RestartVerdict>,
    /// What a line for each path is to tell, in the language of rsync's `--out-format`.
    pub format: Option<&'a str>,
    pub exit: Exit,
}

/// Prints what was done, or would be, and logs it.
pub fn report(told: &JsonReport<'_>, arguments: &Arguments, log: &Log) {
    let JsonReport { report, request, restart, format, exit } = told;
    let changed = matches!(report.outcome, UpdateOutcome::Updated | UpdateOutcome::Adopted)
        && !request.dry_run;
    let sentence = sentence(report, request);
    // One line, where something happened or has to be looked at.
    let is_said = !arguments.quiet || changed || *exit != Exit::Done;
    log.say(if changed { Level::Notice } else { Level::Info }, &sentence, is_said);
    log_restart(*restart, !arguments.quiet, log);
    if arguments.json {
        report_json(report, request, *restart);
        return;
    }
    let mut out = std::io::stdout().lock();
    // A reader that has gone away is no reason to fail.
    if let Some(format) = format {
        out_format::print(format, &report.items, request, &mut out);
    } else if report.outcome == UpdateOutcome::WouldUpdate {
        for item in &report.items {
            let _ = writeln!(out, "{} {}{}", item.change, item.path, item.suffix);
        }
    }
    if !arguments.quiet {
        let _ = print_paths(report, &mut out);
    }
    if is_said && !(arguments.quiet && request.dry_run) {
        let _ = writeln!(out, "{sentence}");
    }
    for line in restart.iter().filter(|_| !arguments.quiet).flat_map(|verdict| verdict.lines()) {
        let _ = writeln!(out, "{line}");
    }
    let _ = out.flush();
}

fn print_paths(report: &Report, out: &mut impl Write) -> std::io::Result<()> {
    for (title, paths) in
        [("repaired", words(&report.repaired)), ("deviates", words(&report.deviations))]
    {
        for line in paths.iter().take(LISTED) {
            writeln!(out, "{title}: {line}")?;
        }
        if paths.len() > LISTED {
            writeln!(out, "{title}: {} more", paths.len() - LISTED)?;
        }
    }
    for path in &report.displaced {
        writeln!(out, "went with its directory, kept in .si-undo until the next update: {path}")?;
    }
    Ok(())
}

/// What has to be started anew is for whoever looks after the node, also where nothing is printed of it.
fn log_restart(restart: Option<&RestartVerdict>, printed: bool, log: &Log) {
    for line in
        restart.iter().filter(|verdict| !verdict.is_clean()).flat_map(|verdict| verdict.lines())
    {
        log.say(Level::Notice, &line, printed);
    }
}

/// Prints what uses replaced files.
pub fn restart(verdict: &RestartVerdict, as_json: bool) {
    if as_json {
        json::line(&OutputLine::Restart { restart: verdict });
        return;
    }
    let mut out = std::io::stdout().lock();
    for line in verdict.lines() {
        let _ = writeln!(out, "{line}");
    }
    let _ = out.flush();
}

fn sentence(report: &Report, request: &UpdateRequest) -> String {
    let laid: Vec<&str> = request.overrides.iter().map(ImageName::as_str).collect();
    let name = match laid.is_empty() {
        true => request.image.to_string(),
        false => format!("{} with {}", request.image, laid.join(", ")),
    };
    let at = match (report.generation, report.serial) {
        (Some(id), Some(serial)) => format!(", generation {}, serial {serial}", id.short()),
        _ => String::new(),
    };
    let image = format!("{name}{at}");
    let changes = format!("{} paths, {} of new content", report.items.len(), size(report.bytes));
    let mut text = match report.outcome {
        UpdateOutcome::UpToDate => format!("{name} is up to date{}", at.replacen(", ", ": ", 1)),
        UpdateOutcome::Adopted if request.dry_run => {
            format!("this tree would be recorded as {image}")
        }
        UpdateOutcome::Adopted => format!("this tree is recorded as {image}"),
        UpdateOutcome::WouldUpdate => {
            format!("would update to {image} ({changes}): {}", report.way)
        }
        UpdateOutcome::Updated => format!("updated to {image} ({changes})"),
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

/// Prints what a rollback did, or would do.
pub fn rolled_back(
    done: &RolledBack,
    restart: Option<&RestartVerdict>,
    arguments: &Arguments,
    log: &Log,
) {
    let sentence = way_back(done);
    log.say(Level::Notice, &sentence, true);
    log_restart(restart, !arguments.quiet, log);
    if arguments.json {
        items_json(&done.items);
        json::line(&OutputLine::RolledBack {
            dry_run: done.mixed.is_none(),
            generation: done.to.map(|id| id.to_string()),
            serial: done.serial,
            held: done.held.as_ref(),
            changed: done.items.len(),
            displaced: done.displaced.iter().map(ToString::to_string).collect(),
            deviations: &done.deviations,
            mixed_ms: done.mixed.map(|mixed| mixed.as_millis() as u64),
            restart,
        });
        return;
    }
    let mut out = std::io::stdout().lock();
    if done.mixed.is_none() {
        for item in &done.items {
            let _ = writeln!(out, "{} {}{}", item.change, item.path, item.suffix);
        }
    }
    if arguments.quiet {
        if done.mixed.is_some() {
            let _ = writeln!(out, "{sentence}");
        }
        return;
    }
    for path in &done.displaced {
        let _ = writeln!(out, "makes way, kept in .si-undo until the next update: {path}");
    }
    for (path, what) in done.deviations.iter().take(LISTED) {
        let _ = writeln!(out, "deviates: {path}: {what}");
    }
    let _ = writeln!(out, "{sentence}");
    if let Some(held) = &done.held {
        let id = held.generation.short();
        let _ = writeln!(
            out,
            "generation {id} is held: this node waits for a newer one, or for --unhold"
        );
    }
    for line in restart.iter().flat_map(|verdict| verdict.lines()) {
        let _ = writeln!(out, "{line}");
    }
    let _ = out.flush();
}

fn way_back(done: &RolledBack) -> String {
    let to = match (done.to, done.serial) {
        (Some(id), Some(serial)) => format!("generation {}, serial {serial}", id.short()),
        _ => "what it was before anything was recorded".to_owned(),
    };
    let (verb, end) = match done.mixed {
        Some(mixed) => ("rolled back", format!(", mixed for {} ms", mixed.as_millis())),
        None => ("would roll back", String::new()),
    };
    let deviations = match done.deviations.len() {
        0 => String::new(),
        1 => ", 1 deviation".to_owned(),
        more => format!(", {more} deviations"),
    };
    format!("{verb} to {to} ({} paths){end}{deviations}", done.items.len())
}

fn items_json(items: &[ItemizedLine]) {
    for item in items {
        json::line(&OutputLine::Item {
            change: item.change.trim(),
            path: item.path.to_string(),
            leads: item.link_target(),
            bytes: item.bytes,
        });
    }
}

fn report_json(report: &Report, request: &UpdateRequest, restart: Option<&RestartVerdict>) {
    items_json(&report.items);
    json::line(&OutputLine::Done {
        outcome: match report.outcome {
            UpdateOutcome::UpToDate => "up-to-date",
            UpdateOutcome::Updated => "updated",
            UpdateOutcome::WouldUpdate => "would-update",
            UpdateOutcome::Adopted => "adopted",
        },
        image: request.image.to_string(),
        generation: report.generation.map(|id| id.to_string()),
        overrides: request.overrides.iter().map(ToString::to_string).collect(),
        serial: report.serial,
        way: &report.way,
        changed: report.items.len(),
        bytes: report.bytes,
        mixed_ms: report.mixed.map(|mixed| mixed.as_millis() as u64),
        repaired: report.repaired.len(),
        deviations: &report.deviations,
        displaced: report.displaced.iter().map(ToString::to_string).collect(),
        untracked: report.untracked,
        restart,
    });
}

/// Prints how this node will be installed anew.
pub fn arranged(flavor: &Flavor, arranged: Arranged, arguments: &Arguments, log: &Log) {
    let by = match arranged.restart {
        Restart::Reboot => "at its next boot",
        Restart::Kexec => "by `systemctl kexec`, and not at another boot",
    };
    let (name, arch) = (&flavor.name, &flavor.arch);
    let sentence = format!("this node will be installed anew {by}: boot files {name} for {arch}");
    log.say(Level::Notice, &sentence, true);
    if arguments.json {
        let kexec = arranged.restart == Restart::Kexec;
        json::line(&OutputLine::Arranged {
            flavor: flavor.name.as_str(),
            arch: &flavor.arch,
            kexec,
        });
        return;
    }
    let _ = writeln!(std::io::stdout(), "{sentence}");
}

/// Prints every setting with where it comes from.
pub fn settings(rows: &[Row], as_json: bool) {
    if as_json {
        rows.iter().for_each(json::line);
        return;
    }
    let mut out = std::io::stdout().lock();
    for row in rows {
        let _ = writeln!(out, "{:<23} {}  [{}]", row.name, row.value, row.from);
    }
    let _ = out.flush();
}

/// Prints where a path comes from.
pub fn why(reason: &Provenance, as_json: bool) {
    if as_json {
        json::line(reason);
    } else {
        let _ = writeln!(std::io::stdout(), "{reason}");
    }
}

/// Prints why a run did not do what it was asked to.
pub fn error(error: &UpdateError, exit: Exit, as_json: bool) {
    if as_json {
        json::line(&OutputLine::Error { exit: exit as u8, text: error.to_string() });
    }
    let _ = writeln!(std::io::stderr(), "si_updateclient: {error}");
}

fn words<K: ToString>(paths: &std::collections::BTreeMap<K, String>) -> Vec<String> {
    paths.iter().map(|(path, what)| format!("{}: {what}", path.to_string())).collect()
}

pub(in crate::cli::updateclient) fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}
