//! Results as lines for people.
//!
//! Errors of standard output are ignored here; the end of the program reports the first one.

use std::collections::BTreeMap;
use std::io::Write;

use super::{RollbackResult, UpdateResult, out_format};
use crate::apply::plan::ItemizedLine;
use crate::autoinstall::{Arranged, Flavor};
use crate::cli::console::Output;
use crate::cli::terminal::Verbosity;
use crate::cli::updateclient::settings::Row;
use crate::generation::GenerationId;
use crate::host::RestartMethod;
use crate::image::ImageName;
use crate::report::units::{Count, Size, milliseconds, seconds};
use crate::update::{ByDigest, Report, RolledBack, SyncMode, UpdateOutcome, UpdateRequest};

/// Number of deviations that are listed; `--status` and `--json` list all.
const MAX_LISTED: usize = 20;

/// Prints the changes of an update, its deviations, and the summary if it is given.
pub(super) fn print_update(result: &UpdateResult<'_>, summary: Option<&str>, verbosity: Verbosity) {
    let UpdateResult { report, request, restart, format, .. } = result;
    let mut out = Output::open();

    if let Some(format) = format {
        out_format::print(format, &report.items, request, &mut out);
    } else if report.outcome == UpdateOutcome::WouldUpdate {
        print_items(&report.items, &mut out);
    }
    if !verbosity.is_quiet() {
        print_paths(report, &mut out);
    }
    if let Some(summary) = summary {
        let _ = writeln!(out, "{summary}");
    }
    if let Some(verdict) = restart.filter(|_| !verbosity.is_quiet()) {
        print_lines(verdict.lines(), &mut out);
    }
    let _ = out.flush();
}

fn print_paths(report: &Report, out: &mut impl Write) {
    print_some("repaired", &report.repaired, out);
    print_some("deviates", &report.deviations, out);
    print_displaced(&report.displaced, out);
}

fn print_displaced(paths: &[impl ToString], out: &mut impl Write) {
    for path in paths {
        let path = path.to_string();
        let _ = writeln!(out, "displaced, kept in .si-undo until the next update: {path}");
    }
}

/// Lists paths with reasons, and the number of those above the limit.
fn print_some<P: ToString>(title: &str, paths: &BTreeMap<P, String>, out: &mut impl Write) {
    for (path, reason) in paths.iter().take(MAX_LISTED) {
        let _ = writeln!(out, "{title}: {}: {reason}", absolute(&path.to_string()));
    }
    if paths.len() > MAX_LISTED {
        let _ = writeln!(out, "{title}: {} more", paths.len() - MAX_LISTED);
    }
}

/// A path of the state or of a report, as it is printed: absolute within the tree.
///
/// Keys of the state begin with `./`.
pub(super) fn absolute(path: &str) -> &str {
    path.strip_prefix('.').filter(|rest| rest.starts_with('/')).unwrap_or(path)
}

fn print_items(items: &[ItemizedLine], out: &mut impl Write) {
    for item in items {
        let _ = writeln!(out, "{item}");
    }
}

pub(super) fn print_lines(lines: impl IntoIterator<Item = String>, out: &mut impl Write) {
    for line in lines {
        let _ = writeln!(out, "{line}");
    }
}

/// Result of an update in one line.
pub(super) fn update_summary(result: &UpdateResult<'_>) -> String {
    let UpdateResult { report, request, fetched, duration, .. } = result;
    let target = target(request, report);

    let verbs = match request.mode {
        SyncMode::Repair(_) => ("repair", "repaired"),
        _ => ("update to", "updated to"),
    };
    let mut parts = Vec::new();
    let mut summary = match report.outcome {
        UpdateOutcome::UpToDate => up_to_date(request, report),
        UpdateOutcome::Adopted if request.dry_run => {
            format!("this tree would be recorded as {target}")
        }
        UpdateOutcome::Adopted => format!("this tree is recorded as {target}"),
        UpdateOutcome::WouldUpdate => {
            parts.push(format!("{} to change", paths(report.items.len())));
            parts.push(format!("{} to write", Size(report.bytes)));
            parts.extend(report.by_digest.map(|ByDigest { contents, bytes }| {
                let contents = Count::new(contents, "content", "contents");
                format!("about {} more to fetch for {contents} by digest", Size(bytes))
            }));
            format!("would {} {target}: {}", verbs.0, report.description)
        }
        UpdateOutcome::Updated => {
            parts.push(format!("{} changed", paths(report.items.len())));
            if *fetched > 0 {
                parts.push(format!("{} fetched", Size(*fetched)));
            }
            parts.push(format!("{} written", Size(report.bytes)));
            format!("{} {target}", verbs.1)
        }
        UpdateOutcome::Downloaded => {
            parts.push(format!("{} on disk", Size(report.bytes)));
            format!("downloaded {target}; --diff --from-downloaded installs it")
        }
    };
    if let Some(switch_time) = report.switch_time {
        parts.push(format!("switched in {}", milliseconds(switch_time)));
    }
    if report.outcome == UpdateOutcome::Updated {
        parts.extend(seconds(*duration).map(|text| format!("total {text}")));
    }
    if let Some(untracked) = report.untracked.filter(|count| *count > 0) {
        let count = Count::new(untracked as usize, "untracked path", "untracked paths");
        parts.push(format!("{count} kept"));
    }
    parts.extend(deviations(report.deviations.len()));
    parts.extend(left_out(report.left_out.len()));

    if !parts.is_empty() {
        let separator = match report.outcome {
            UpdateOutcome::UpToDate | UpdateOutcome::Adopted | UpdateOutcome::Downloaded => ", ",
            UpdateOutcome::WouldUpdate => "; ",
            UpdateOutcome::Updated => ": ",
        };
        summary += separator;
        summary += &parts.join(", ");
    }
    summary
}

fn up_to_date(request: &UpdateRequest, report: &Report) -> String {
    let publish = publish(report.generation, report.serial);
    if let (SyncMode::Repair(_), Some(publish)) = (&request.mode, &publish) {
        return format!("nothing to repair in {} {publish}", image(request));
    }
    if !report.left_out.is_empty() {
        let publish = publish.map(|publish| format!(": {publish}")).unwrap_or_default();
        return format!("{} is up to date except for paths of users{publish}", image(request));
    }
    match publish {
        Some(publish) => format!("{} is up to date: {publish}", image(request)),
        None => format!("{} is up to date", image(request)),
    }
}

/// The image with its overrides.
fn image(request: &UpdateRequest) -> String {
    let overrides: Vec<&str> = request.overrides.iter().map(ImageName::as_str).collect();
    match overrides.as_slice() {
        [] => request.image.to_string(),
        names => format!("{} with {}", request.image, names.join(", ")),
    }
}

/// The image with its overrides and the publish, such as `node serial 2 (generation 6287a19c06b1)`.
fn target(request: &UpdateRequest, report: &Report) -> String {
    let image = image(request);
    match publish(report.generation, report.serial) {
        Some(publish) if request.overrides.is_empty() => format!("{image} {publish}"),
        Some(publish) => format!("{image}, {publish}"),
        None => image,
    }
}

/// Names a publish; `None` for content that was never published.
pub(super) fn publish(generation: Option<GenerationId>, serial: Option<u64>) -> Option<String> {
    let (generation, serial) = generation.zip(serial)?;
    Some(format!("serial {serial} (generation {})", generation.short()))
}

fn paths(number: usize) -> Count {
    Count::new(number, "path", "paths")
}

fn deviations(number: usize) -> Option<String> {
    (number > 0).then(|| Count::new(number, "deviation", "deviations").to_string())
}

fn left_out(number: usize) -> Option<String> {
    (number > 0).then(|| format!("{} left out, the next run tries them again", paths(number)))
}

/// Prints the result of a rollback, or its changes in a dry run.
pub(super) fn print_rollback(result: &RollbackResult<'_>, summary: &str, verbosity: Verbosity) {
    let RolledBack {
        items, displaced, deviations, pinned, switch_time, follow_up_failures, ..
    } = result.outcome;
    let mut out = Output::open();

    if switch_time.is_none() {
        print_items(items, &mut out);
    }
    if verbosity.is_quiet() {
        if switch_time.is_some() {
            let _ = writeln!(out, "{summary}");
        }
        return;
    }

    print_displaced(displaced, &mut out);
    print_some("deviates", deviations, &mut out);
    let _ = writeln!(out, "{summary}");
    // After a failure, the last line has to be the failure, and not this.
    if let Some(pinned) = pinned.as_ref().filter(|_| follow_up_failures.is_empty()) {
        let verb = if switch_time.is_some() { "is" } else { "would be" };
        let _ = writeln!(
            out,
            "generation {} {verb} pinned: this node waits for a newer one; --unhold permits this \
             one",
            pinned.generation.short()
        );
    }
    if let Some(verdict) = result.restart {
        print_lines(verdict.lines(), &mut out);
    }
    let _ = out.flush();
}

/// Result of a rollback in one line.
pub(super) fn rollback_summary(result: &RollbackResult<'_>) -> String {
    let outcome = result.outcome;
    let target = publish(outcome.to, outcome.serial)
        .unwrap_or_else(|| "the state before anything was recorded".to_owned());
    let paths = paths(outcome.items.len());

    let mut summary = match outcome.switch_time {
        Some(switch_time) => {
            let switched = milliseconds(switch_time);
            format!("rolled back to {target}: {paths} changed, switched in {switched}")
        }
        None => format!("would roll back to {target}: {paths} to change"),
    };
    if outcome.switch_time.is_some()
        && let Some(total) = seconds(result.duration)
    {
        summary += &format!(", total {total}");
    }
    if let Some(deviations) = deviations(outcome.deviations.len()) {
        summary += &format!(", {deviations}");
    }
    if !outcome.left_out.is_empty() {
        let left_out = Count::new(outcome.left_out.len(), "path", "paths");
        summary += &format!(", {left_out} left out");
    }
    summary
}

/// Result of an arranged reinstallation in one line.
pub(super) fn autoinstall_summary(flavor: &Flavor, arranged: Arranged) -> String {
    let moment = match arranged.restart {
        RestartMethod::Reboot => "at its next boot",
        RestartMethod::Kexec => "by `systemctl kexec`, but not by any other boot",
    };
    format!(
        "this node will be reinstalled {moment}, with boot files {} for {}",
        flavor.name, flavor.arch
    )
}

/// Prints every setting with its source.
pub(super) fn print_settings(rows: &[Row]) {
    let mut out = Output::open();
    for row in rows {
        let _ = writeln!(out, "{:<23} {}  [{}]", row.name, row.value, row.from);
    }
    let _ = out.flush();
}
