//! Verifies the kernel of the next boot, and sets a default boot entry if nothing else helps.
//!
//! A boot loader starts the newest kernel that it finds. If a transaction removes the running
//! kernel, because only older ones are in the target, then its boot files are removed and the boot
//! loader's tool lists the right kernel. But a boot file can stay: it is excluded or untracked, or
//! its filesystem does not take part. Then each boot would start the kernel that the node has left,
//! unless a default entry overrules it. The entry is cleared as soon as the boot loader's own order
//! is right again; otherwise no later kernel would ever be started.

use crate::apply::plan::ChangePlan;
use crate::host::boot_loader::default_entry::{self, DefaultEntry, DefaultKeeper};
use crate::host::boot_loader::{self, BootCommand, BootTools};
use crate::host::{BootLoader, CancelPolicy, Kernel, NoDefaultEntry, ToolInput, compare_releases};
use crate::root::Root;
use crate::tree_path::TreePath;
use crate::update::error::FollowUpError;
use crate::update::hooks::boot_loader::watch_boot_files;
use crate::update::hooks::context::HookContext;
use crate::update::notice::TransactionNotice;

/// Kernels before and after a transaction.
#[derive(Clone, Debug, Default)]
pub(in crate::update) struct KernelChange {
    /// Kernels of which the transaction takes paths out of the tree.
    pub left: Vec<Kernel>,
    /// Releases of the kernels of the target.
    pub target: Vec<String>,
}

/// A kernel that the boot loader starts, although the target does not have it.
struct WrongKernel {
    release: String,
    boot_file: TreePath,
}

impl KernelChange {
    /// The change that a plan makes to a tree that has the kernels `target` afterwards.
    pub fn from_plan(plan: &ChangePlan, target: Vec<String>) -> Self {
        let deletions = plan.itemized.iter().filter(|item| item.is_deletion());
        let paths = deletions.map(|item| &item.path).chain(&plan.kernel_paths);
        let mut left: Vec<Kernel> = paths.filter_map(Kernel::from_path).collect();
        left.sort_unstable_by(|a, b| a.release().cmp(b.release()));
        left.dedup();
        left.retain(|kernel| !target.iter().any(|release| release == kernel.release()));
        KernelChange { left, target }
    }
}

/// Makes the next boot start a kernel of the target.
pub(in crate::update) fn arrange(
    context: &HookContext<'_>,
    kernels: &KernelChange,
    is_tracked: &dyn Fn(&TreePath) -> bool,
) -> Option<FollowUpError> {
    if *context.bootloader == BootLoader::Never {
        return None;
    }
    let record = match default_entry::load(context.root) {
        Ok(record) => record,
        Err(error) => return Some(FollowUpError::NextBootUnknown(error.into())),
    };
    if record.is_none() && kernels.left.is_empty() {
        return None;
    }

    let wrong = match find_wrong_kernel(context.root, kernels, record.as_ref()) {
        Ok(wrong) => wrong,
        Err(error) => return Some(FollowUpError::NextBootUnknown(error)),
    };
    let arranger = Arranger { context, is_tracked };
    match (wrong, record) {
        (None, None) => None,
        (None, Some(record)) => arranger
            .clear(&record)
            .err()
            .map(|reason| FollowUpError::DefaultEntryLeft { entry: record.entry.clone(), reason }),
        (Some(wrong), record) => {
            let wanted = newest(&kernels.target)?;
            arranger.set(&wrong, wanted, record.as_ref()).err().map(|reason| {
                FollowUpError::NextBoot {
                    wanted: wanted.clone(),
                    boot_file: context.root.show(&wrong.boot_file),
                    wrong: wrong.release,
                    reason,
                }
            })
        }
    }
}

/// Finds a kernel in the boot menu that is newer than all of the target, and not among them.
fn find_wrong_kernel(
    root: &Root,
    kernels: &KernelChange,
    record: Option<&DefaultEntry>,
) -> Result<Option<WrongKernel>, NoDefaultEntry> {
    let recorded = record.and_then(|record| Kernel::new(&record.kernel));
    for kernel in kernels.left.iter().chain(&recorded) {
        if !kernel.is_newer_than_all(&kernels.target) {
            continue;
        }
        if let Some(boot_file) = default_entry::find_boot_file(root, kernel.release())? {
            let release = kernel.release().to_owned();
            return Ok(Some(WrongKernel { release, boot_file }));
        }
    }
    Ok(None)
}

fn newest(releases: &[String]) -> Option<&String> {
    releases.iter().max_by(|a, b| compare_releases(a, b))
}

/// Sets and clears default entries.
struct Arranger<'a> {
    context: &'a HookContext<'a>,
    /// Whether a file that a tool rewrites becomes a deviation.
    is_tracked: &'a dyn Fn(&TreePath) -> bool,
}

impl Arranger<'_> {
    /// Sets the entry of the kernel `wanted`; `record` is that of an earlier run.
    fn set(
        &self,
        wrong: &WrongKernel,
        wanted: &str,
        record: Option<&DefaultEntry>,
    ) -> Result<(), NoDefaultEntry> {
        let root = self.context.root;
        let tools = boot_loader::find_boot_tools(root)?;
        let loader = DefaultKeeper::find(root, &tools)?.ok_or(NoDefaultEntry::UnknownLoader)?;
        let entry = loader.find_entry(root, wanted)?;
        let present = loader.read_default(root)?;
        if present.as_ref() == Some(&entry) {
            return Ok(());
        }

        // The entry of an earlier run is no former value, unless somebody has replaced it since.
        let own = record.filter(|record| present.as_ref() == Some(&record.entry));
        let former = own.map_or(present.clone(), |record| record.former.clone());
        let command = loader.command(&tools, Some(&entry))?;
        let kernel = wrong.release.clone();
        let new = DefaultEntry { loader, kernel, entry: entry.clone(), former };

        // Recorded first: a run that is killed must not leave an entry that nobody clears.
        default_entry::save(root, Some(&new))?;
        if let Err(error) = self.run(loader, &command, Some(&entry)) {
            default_entry::save(root, record)?;
            return Err(error);
        }
        self.context.monitor.warn(TransactionNotice::DefaultEntrySet {
            wrong: &wrong.release,
            boot_file: root.show(&wrong.boot_file),
            entry: &entry,
        });
        Ok(())
    }

    /// Restores the value before the recorded entry, unless somebody has replaced the entry.
    fn clear(&self, record: &DefaultEntry) -> Result<(), NoDefaultEntry> {
        let root = self.context.root;
        if record.loader.read_default(root)?.as_ref() == Some(&record.entry) {
            let tools: BootTools = boot_loader::find_boot_tools(root)?;
            let former = record.former.as_deref();
            self.run(record.loader, &record.loader.command(&tools, former)?, former)?;
            let entry = &record.entry;
            self.context.monitor.note(TransactionNotice::DefaultEntryCleared { entry });
        }
        Ok(default_entry::save(root, None)?)
    }

    /// Runs a command, and verifies that `entry` is the default afterwards.
    fn run(
        &self,
        loader: DefaultKeeper,
        command: &BootCommand,
        entry: Option<&str>,
    ) -> Result<(), NoDefaultEntry> {
        let tools = self.context.tools(CancelPolicy::Ignore)?;
        let input = ToolInput { arguments: &command.arguments, ..ToolInput::default() };
        watch_boot_files(self.context, self.is_tracked, || tools.run(&command.program, &input))?;

        let kept = loader.read_default(self.context.root)?;
        if kept.as_deref() == entry {
            return Ok(());
        }
        let entry = entry.unwrap_or("cleared").to_owned();
        Err(NoDefaultEntry::NotKept { program: command.program.clone(), entry })
    }
}
