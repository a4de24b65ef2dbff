use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::apply::filesystem::Filesystems;
use crate::apply::undo::undo_log::UndoLog;

const RELEASE: &str = "6.1.0";

fn path(text: &str) -> TreePath {
    TreePath::new(text).expect("a valid path")
}

/// A tree with an undo set of the given records; each file exists in the tree, and each backup in
/// the undo set.
fn tree_with_undo_set(records: &[(&str, PriorState)]) -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir_in("/var/tmp").expect("a scratch directory");
    let root = Root::open(dir.path()).expect("the scratch directory opens");
    root.create_dir(&path(UNDO_DIR)).expect("the undo set is created");
    let set = root.below(&path(UNDO_DIR)).expect("the undo set opens");

    for (file, before) in records {
        root.create_dirs(&path(file).parent().expect("a parent")).expect("parents are created");
        root.create_file(&path(file)).expect("the file is created");
        if let PriorState::Existed(slot) = before {
            set.create_file(&slot_name(*slot)).expect("the backup is created");
        }
    }
    let record = |(file, before): &(&str, PriorState)| UndoRecord {
        filesystem: 0,
        path: path(file),
        before: *before,
    };
    let log = UndoLog {
        recorded_id: None,
        mount_roots: vec![TreePath::root()],
        records: records.iter().map(record).collect(),
        directories: Vec::new(),
    };
    log.write(&set).expect("the undo log is written");
    (dir, root)
}

/// Plans a rollback while the kernel `RELEASE` is running.
fn plan(root: &Root) -> ChangePlan {
    let undo = UndoSet::find(root).expect("the undo set is read").expect("an undo set");
    let kernel = Kernel::new(RELEASE);
    let times = HeldTimes::probe(root, &Filesystems::default()).expect("probes");
    let input = RollbackInput {
        root,
        host: None,
        mounts: &[],
        kernel: kernel.as_ref(),
        kernel_retention: KernelRetention::Modules,
        tracked: None,
        before: None,
        times: &times,
        filter: None,
        kept: &BTreeMap::new(),
        refused: &BTreeMap::new(),
    };
    plan_rollback(&undo, input).expect("the rollback is planned")
}

/// All slots of a plan, one for each use.
fn used_slots(plan: &ChangePlan) -> Vec<u32> {
    let changes = plan.changes.iter().filter_map(|change| match change.action {
        Action::Install { slot }
        | Action::Exchange { slot, .. }
        | Action::MakeDir { slot }
        | Action::Remove { slot }
        | Action::RemoveTree { slot } => Some(slot),
        _ => None,
    });
    changes.chain(plan.kernel_backups.iter().map(|backup| backup.slot)).collect()
}

fn are_distinct(slots: &[u32]) -> bool {
    slots.iter().collect::<HashSet<_>>().len() == slots.len()
}

#[test]
fn rollback_kernel_backups_have_own_slots() {
    // The first slot is restored in one case and unused in the other.
    for restored in [PriorState::Existed(1), PriorState::Missing(1)] {
        let module = format!("lib/modules/{RELEASE}/k.ko");
        let records = [
            ("etc/edited", restored),
            ("etc/new", PriorState::Missing(2)),
            (module.as_str(), PriorState::Missing(3)),
        ];
        let (_dir, root) = tree_with_undo_set(&records);

        let plan = plan(&root);

        let backups: Vec<&TreePath> =
            plan.kernel_backups.iter().map(|backup| &backup.path).collect();
        assert_eq!(backups, [&path(&module)]);
        assert!(are_distinct(&used_slots(&plan)), "{:?}", used_slots(&plan));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Each path was replaced, or was new, or is a new file of the running kernel.
    #[test]
    fn slots_of_a_rollback_are_distinct(
        kinds in prop::collection::vec(0u8..3, 1..12),
        first in 1u32..5,
    ) {
        let files: Vec<(String, PriorState)> = kinds
            .iter()
            .zip(first..)
            .map(|(kind, slot)| match kind {
                0 => (format!("etc/replaced-{slot}"), PriorState::Existed(slot)),
                1 => (format!("etc/new-{slot}"), PriorState::Missing(slot)),
                _ => (format!("lib/modules/{RELEASE}/m{slot}.ko"), PriorState::Missing(slot)),
            })
            .collect();
        let records: Vec<(&str, PriorState)> =
            files.iter().map(|(file, before)| (file.as_str(), *before)).collect();
        let (_dir, root) = tree_with_undo_set(&records);

        let plan = plan(&root);

        let slots = used_slots(&plan);
        prop_assert_eq!(slots.len(), kinds.len());
        prop_assert!(are_distinct(&slots), "{:?}", slots);
    }
}
