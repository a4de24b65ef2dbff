//! Runs the boot loader's tool after boot files changed.
//!
//! Before the transaction the changed boot files are recorded as *pending*, and the record is
//! removed only after the tool succeeded. A run that is killed in between, or whose tool fails,
//! leaves the record, and the next run repeats the tool. Without the record, a new kernel could
//! stay unknown to the boot loader forever.

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::apply::Untouched;
use crate::apply::plan::ItemizedLine;
use crate::entry::Mtime;
use crate::host::boot_loader::{
    self, BootChanges, BootCommand, BootFileChange, BootLoaderPlan, pending,
};
use crate::host::{BootLoader, CancelPolicy, HostNotice, ToolError, ToolInput};
use crate::root::{Descend, FileKind, Root, RootError, Visit};
use crate::state::{self, LoadedState};
use crate::tree_path::TreePath;
use crate::update::error::{BootLoaderError, UpdateError};
use crate::update::hooks::context::HookContext;
use crate::update::notice::TransactionNotice;

/// Recorded reason of a deviation that the boot loader's tool caused.
const REWRITTEN: &str = "written by the boot loader's program";

/// Regular files below `boot` and `efi`, with inode number, size, mtime and ctime.
type BootFiles = BTreeMap<TreePath, (u64, u64, Mtime, Mtime)>;

/// Returns the boot files among changed paths whose content changes.
pub(in crate::update) fn list_boot_changes(items: &[ItemizedLine]) -> BootChanges {
    items
        .iter()
        .filter(|item| changes_content(item) && boot_loader::is_boot_file(&item.path))
        .map(|item| {
            let fate = if item.is_deletion() {
                BootFileChange::Removed
            } else {
                BootFileChange::Installed
            };
            (item.path.clone(), fate)
        })
        .collect()
}

/// Checks if a line is about more than metadata, and not about a directory that stays.
fn changes_content(item: &ItemizedLine) -> bool {
    let is_directory = item.change.as_bytes().get(1) == Some(&b'd') && !item.is_deletion();
    !item.change.starts_with('.') && !is_directory
}

/// Adds `changes` to the pending ones; returns those that were pending before.
pub(in crate::update) fn record_pending(
    context: &HookContext<'_>,
    changes: BootChanges,
) -> Result<BootChanges, UpdateError> {
    let earlier = pending::load(context.root).map_err(Untouched::from)?;
    if *context.bootloader != BootLoader::Never && !changes.is_empty() {
        let all = earlier.clone().into_iter().chain(changes).collect();
        pending::save(context.root, &all).map_err(Untouched::from_root)?;
    }
    Ok(earlier)
}

/// Whether the tree has the tool of its boot loader, or a boot loader that needs none.
pub(in crate::update) fn has_usable_tools(
    context: &HookContext<'_>,
    changes: &BootChanges,
) -> bool {
    choose_commands(context, changes).is_ok_and(|plan| !matches!(plan, BootLoaderPlan::Unknown))
}

/// Runs the boot loader's tool for all pending changes, and removes the record if it succeeds.
///
/// `is_tracked` says which rewritten files become deviations. Returns all failures.
pub(in crate::update) fn run_pending(
    context: &HookContext<'_>,
    is_tracked: &dyn Fn(&TreePath) -> bool,
) -> Vec<BootLoaderError> {
    if *context.bootloader == BootLoader::Never {
        return Vec::new();
    }
    let changes = match load_present_changes(context.root) {
        Ok(changes) if changes.is_empty() => return Vec::new(),
        Ok(changes) => changes,
        Err(error) => return vec![error.into()],
    };

    let failures = run_tools(context, &changes, is_tracked);
    if failures.is_empty()
        && let Err(error) = pending::save(context.root, &BootChanges::new())
    {
        context.monitor.warn(TransactionNotice::BootLoaderPendingKept(error));
    }
    failures
}

/// Reads the pending paths, and checks which of them exist now.
///
/// The record is older than the transaction, which may have been discarded.
fn load_present_changes(root: &Root) -> Result<BootChanges, RootError> {
    let mut changes = pending::load(root)?;
    for (path, change) in &mut changes {
        *change = if root.stat(path)?.is_some() {
            BootFileChange::Installed
        } else {
            BootFileChange::Removed
        };
    }
    Ok(changes)
}

fn run_tools(
    context: &HookContext<'_>,
    changes: &BootChanges,
    is_tracked: &dyn Fn(&TreePath) -> bool,
) -> Vec<BootLoaderError> {
    let commands = match choose_commands(context, changes) {
        Ok(BootLoaderPlan::Run(commands)) => commands,
        Ok(BootLoaderPlan::Nothing) => return Vec::new(),
        Ok(BootLoaderPlan::Unknown) => {
            context.monitor.warn(HostNotice::UnknownBootLoader);
            return Vec::new();
        }
        Err(error) => return vec![error],
    };

    // The tree is changed already, so a cancellation must not leave it with an old boot loader.
    let tools = match context.tools(CancelPolicy::Ignore) {
        Ok(tools) => tools,
        Err(error) => return vec![error.into()],
    };
    let mut failures = Vec::new();
    watch_boot_files(context, is_tracked, || {
        for command in &commands {
            context.monitor.note(TransactionNotice::BootLoaderTool(command));
            let arguments = ToolInput { arguments: &command.arguments, ..ToolInput::default() };
            if let Err(error) = tools.run(&command.program, &arguments) {
                failures.push(tool_error(context.root, error));
            }
        }
    });
    failures
}

/// Runs `programs`, and records tracked boot files that they rewrite as deviations.
pub(super) fn watch_boot_files<T>(
    context: &HookContext<'_>,
    is_tracked: &dyn Fn(&TreePath) -> bool,
    programs: impl FnOnce() -> T,
) -> T {
    let before = read_boot_files(context.root).unwrap_or_default();
    let result = programs();
    if let Err(error) = record_rewritten(context, &before, is_tracked) {
        context.monitor.warn(TransactionNotice::RewrittenNotRecorded(error));
    }
    result
}

/// Adds the directories that a tool of an offline tree may have missed.
fn tool_error(root: &Root, error: ToolError) -> BootLoaderError {
    // A tree may have device files of its own, which are not those of the disks.
    let device = |path: &TreePath| root.stat(path).ok().flatten().map(|stat| stat.dev);
    let top = device(&TreePath::root());
    let is_mounted = |dir: &str| {
        let device = TreePath::new(dir).ok().and_then(|dir| device(&dir));
        device.is_some() && device != top
    };
    let dirs: Vec<&'static str> =
        ["dev", "proc", "sys"].into_iter().filter(|dir| !is_mounted(dir)).collect();

    if dirs.is_empty() || root.is_running_system().unwrap_or(true) {
        return error.into();
    }
    BootLoaderError::ToolBelowRoot { source: error, root: root.show(&TreePath::root()), dirs }
}

/// Chooses the configured program, or the tools that this tree has.
fn choose_commands(
    context: &HookContext<'_>,
    changes: &BootChanges,
) -> Result<BootLoaderPlan, BootLoaderError> {
    let BootLoader::Command(words) = context.bootloader else {
        let equipment = boot_loader::find_boot_tools(context.root)?;
        return Ok(boot_loader::plan_commands(changes, &equipment));
    };
    let (program, arguments) = words.split_first().ok_or(BootLoaderError::NoProgram)?;
    let program = TreePath::new(program.trim_start_matches('/'))
        .map_err(|error| BootLoaderError::BadProgram(error.to_string()))?;
    let arguments = arguments.iter().map(OsString::from).collect();
    Ok(BootLoaderPlan::Run(vec![BootCommand { program, arguments }]))
}

/// Records tracked boot files that the tools rewrote as deviations.
fn record_rewritten(
    context: &HookContext<'_>,
    before: &BootFiles,
    is_tracked: &dyn Fn(&TreePath) -> bool,
) -> Result<(), UpdateError> {
    let now = read_boot_files(context.root).map_err(Untouched::from)?;
    let rewritten: Vec<&TreePath> = before
        .iter()
        .filter(|(path, stat)| now.get(*path) != Some(*stat) && is_tracked(path))
        .map(|(path, _)| path)
        .collect();
    if rewritten.is_empty() {
        return Ok(());
    }

    let (LoadedState::Valid(mut state) | LoadedState::FromCopy(mut state)) =
        state::load(context.root)?
    else {
        return Ok(());
    };
    for path in rewritten {
        state.record_deviation(path, REWRITTEN);
        context.monitor.note(TransactionNotice::Rewritten { path });
    }
    Ok(state::save(context.root, &state, None)?)
}

fn read_boot_files(root: &Root) -> Result<BootFiles, RootError> {
    let mut files = BootFiles::new();
    for directory in ["boot", "efi"] {
        let Ok(directory) = TreePath::new(directory) else { continue };
        if root.stat(&directory)?.is_none_or(|stat| stat.kind != FileKind::Directory) {
            continue;
        }
        root.walk::<RootError>(&directory, |Visit { path, stat }| {
            if stat.kind == FileKind::File {
                files.insert(path, (stat.ino, stat.size, stat.mtime, stat.ctime));
            }
            Ok(Descend::Into)
        })?;
    }
    Ok(files)
}
