//! What surrounds a transaction: hooks before it; afterwards the boot loader, and hooks.
//!
//! A hook that fails before it stops it. What fails afterwards changes nothing of what was made: it is
//! told, and the rest goes on.

pub(super) mod payload;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use crate::apply::Untouched;
use crate::apply::plan::ItemizedLine;
use crate::entry::Mtime;
use crate::host::boot_loader::{self, BootChanges, Choice, Fate, pending};
use crate::host::{BootLoader, Moment, Stops, ToolError, ToolOutcome, Tools, hooks};
use crate::process::Programs;
use crate::report::Monitor;
use crate::root::{Descend, FileKind, Root, RootError, Visit};
use crate::state::{self, StoredState};
use crate::tree_path::TreePath;
use crate::update::UpdateError;

use payload::HookPlan;

/// What is recorded of a tracked path that is not the image's any more.
const REWRITTEN: &str = "written by the boot loader's program";

/// Where, and how.
#[derive(Clone, Copy)]
pub(super) struct HookContext<'a> {
    pub root: &'a Root,
    pub bootloader: &'a BootLoader,
    /// The most time that each program may take.
    pub longest: Duration,
    pub monitor: &'a dyn Monitor,
}

/// What surrounds one transaction.
pub(super) struct Hooks<'a> {
    pub scene: HookContext<'a>,
    pub plan: HookPlan<'a>,
}

impl Hooks<'_> {
    /// Runs the hooks of before, of which none may fail; from then on the boot loader is due, where it has to
    /// be told. Returns what was due already.
    pub(super) fn before(&self) -> Result<BootChanges, UpdateError> {
        let root = self.scene.root;
        let stopped =
            |why: String| UpdateError::Hook(format!("a pre-update hook stopped the update: {why}"));
        for hook in hooks(root, Moment::Before).map_err(|error| stopped(error.to_string()))? {
            self.run_hook(&hook, Moment::Before).map_err(|error| match error {
                ToolError::Stopped => UpdateError::Stopped,
                ToolError::Failed(why) => stopped(why),
            })?;
        }
        let changes = self.boot_changes();
        let overdue = pending::load(root).map_err(Untouched::from)?;
        if *self.scene.bootloader != BootLoader::Never && !changes.is_empty() {
            let all = overdue.clone().into_iter().chain(changes).collect();
            pending::keep(root, &all).map_err(Untouched::from_root)?;
        }
        Ok(overdue)
    }

    /// Nothing came of the transaction: only what was `overdue` still is.
    pub(super) fn cancel_pending(&self, overdue: &BootChanges) {
        // Where that fails, the next run tells the boot loader once more than needed.
        let _ = pending::keep(self.scene.root, overdue);
    }

    /// Tells the boot loader, then runs the hooks of after, all of them; returns what failed. `is_tracked` says
    /// whether the image decides about a path here.
    pub(super) fn after(&self, is_tracked: &dyn Fn(&TreePath) -> bool) -> Vec<String> {
        let mut failed = Vec::new();
        if !self.boot_changes().is_empty() {
            failed = self.scene.tell_boot_loader(is_tracked);
        }
        match hooks(self.scene.root, Moment::After) {
            Ok(hooks) => failed.extend(hooks.iter().filter_map(|hook| {
                let error = self.run_hook(hook, Moment::After).err()?;
                Some(format!("a post-update hook failed: {error}"))
            })),
            Err(error) => failed.push(format!("the post-update hooks cannot be read: {error}")),
        }
        failed
    }

    fn run_hook(&self, hook: &TreePath, moment: Moment) -> Result<(), ToolError> {
        let root = self.scene.root;
        let stops = if moment == Moment::Before { Stops::Heeded } else { Stops::Ignored };
        let (environment, input) =
            (self.plan.environment(moment, root), self.plan.json(moment, root));
        let told = ToolOutcome { arguments: &[], environment: &environment, input: &input };
        self.scene.tools(stops)?.run(hook, &told)
    }

    fn boot_changes(&self) -> BootChanges {
        let fate = |item: &ItemizedLine| if item.is_deletion() { Fate::Went } else { Fate::Came };
        let changed = self
            .plan
            .items
            .iter()
            .filter(|item| is_of_content(item) && boot_loader::is_boot_file(&item.path));
        changed.map(|item| (item.path.clone(), fate(item))).collect()
    }
}

impl<'a> HookContext<'a> {
    fn tools(&self, stops: Stops) -> Result<Tools<'a>, ToolError> {
        let programs =
            Programs::open(self.root).map_err(|error| ToolError::Failed(error.to_string()))?;
        Ok(Tools { programs, monitor: self.monitor, longest: self.longest, stops })
    }

    /// Tells the boot loader what is due, if anything is; returns what failed, and is due still.
    pub(super) fn tell_boot_loader(&self, is_tracked: &dyn Fn(&TreePath) -> bool) -> Vec<String> {
        if *self.bootloader == BootLoader::Never {
            return Vec::new();
        }
        let failed = match pending::load(self.root) {
            Ok(changes) if changes.is_empty() => return Vec::new(),
            Ok(changes) => match as_they_stand(self.root, changes) {
                Ok(changes) => self.run_boot_programs(&changes, is_tracked),
                Err(error) => vec![error.to_string()],
            },
            Err(error) => vec![error.to_string()],
        };
        if failed.is_empty()
            && let Err(error) = pending::keep(self.root, &BootChanges::new())
        {
            self.monitor.warn(format!("the next run will tell the boot loader again: {error}"));
        }
        failed
            .into_iter()
            .map(|why| format!("the boot loader was not told of changed boot files: {why}"))
            .collect()
    }

    fn run_boot_programs(
        &self,
        changes: &BootChanges,
        is_tracked: &dyn Fn(&TreePath) -> bool,
    ) -> Vec<String> {
        let commands = match self.choose(changes) {
            Ok(Choice::Run(commands)) => commands,
            Ok(Choice::Nothing) => return Vec::new(),
            Ok(Choice::Unknown) => {
                self.monitor.warn(boot_loader::UNKNOWN);
                return Vec::new();
            }
            Err(why) => return vec![why],
        };
        let before = boot_files(self.root).unwrap_or_default();
        let tools = match self.tools(Stops::Ignored) {
            Ok(tools) => tools,
            Err(error) => return vec![error.to_string()],
        };
        let run = |command: &boot_loader::BootCommand| {
            let words: Vec<String> =
                command.arguments.iter().map(|word| word.display().to_string()).collect();
            self.monitor.note(
                format!("boot files changed: running {} {}", command.program, words.join(" "))
                    .trim_end(),
            );
            tools.run(
                &command.program,
                &ToolOutcome { arguments: &command.arguments, ..ToolOutcome::default() },
            )
        };
        let failed: Vec<String> =
            commands.iter().filter_map(|command| Some(run(command).err()?.to_string())).collect();
        if let Err(error) = self.record_rewritten(&before, is_tracked) {
            self.monitor
                .warn(format!("what the boot loader's program rewrote is not recorded: {error}"));
        }
        failed
    }

    fn choose(&self, changes: &BootChanges) -> Result<Choice, String> {
        let BootLoader::Command(words) = self.bootloader else {
            let equipment = boot_loader::equipment(self.root).map_err(|error| error.to_string())?;
            return Ok(boot_loader::choose(changes, &equipment));
        };
        let (program, arguments) = words.split_first().ok_or("bootloader names no program")?;
        let program =
            TreePath::new(program.trim_start_matches('/')).map_err(|error| error.to_string())?;
        let arguments = arguments.iter().map(OsString::from).collect();
        Ok(Choice::Run(vec![boot_loader::BootCommand { program, arguments }]))
    }

    /// Records as deviations what the image decides about and the programs have written.
    fn record_rewritten(
        &self,
        before: &BootFiles,
        is_tracked: &dyn Fn(&TreePath) -> bool,
    ) -> Result<(), UpdateError> {
        let now = boot_files(self.root).map_err(Untouched::from)?;
        let rewritten =
            before.iter().filter(|(path, stat)| now.get(path) != Some(stat) && is_tracked(path));
        let rewritten: Vec<&TreePath> = rewritten.map(|(path, _)| path).collect();
        if rewritten.is_empty() {
            return Ok(());
        }
        let (StoredState::State(mut state) | StoredState::Copied(mut state)) =
            state::load(self.root)?
        else {
            return Ok(());
        };
        for path in rewritten {
            state.deviate(path, REWRITTEN);
            self.monitor.note(format!(
                "{path} comes with the image and was rewritten by the boot loader's program: it is recorded as a \
                 deviation, and belongs into the exclude file"
            ));
        }
        Ok(state::save(self.root, &state, None)?)
    }
}

/// The same paths, with what the tree says of them: what was due may have been called off by a kill.
fn as_they_stand(root: &Root, changes: BootChanges) -> Result<BootChanges, RootError> {
    let stands = |path: TreePath| {
        let fate = if root.stat(&path)?.is_some() { Fate::Came } else { Fate::Went };
        Ok((path, fate))
    };
    changes.into_keys().map(stands).collect()
}

/// Whether something other than a directory, or more than metadata, changes.
fn is_of_content(item: &ItemizedLine) -> bool {
    let is_directory = item.change.as_bytes().get(1) == Some(&b'd') && !item.is_deletion();
    !item.change.starts_with('.') && !is_directory
}

/// The regular files below `boot` and `efi`, with what changes when one is written.
type BootFiles = BTreeMap<TreePath, (u64, u64, Mtime, Mtime)>;

fn boot_files(root: &Root) -> Result<BootFiles, RootError> {
    let mut files = BootFiles::new();
    for top in ["boot", "efi"] {
        let Ok(top) = TreePath::new(top) else { continue };
        if root.stat(&top)?.is_none_or(|stat| stat.kind != FileKind::Directory) {
            continue;
        }
        root.walk::<RootError>(&top, |Visit { path, stat }| {
            if stat.kind == FileKind::File {
                files.insert(path, (stat.ino, stat.size, stat.mtime, stat.ctime));
            }
            Ok(Descend::Into)
        })?;
    }
    Ok(files)
}
