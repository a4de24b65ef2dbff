use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::Path;

use proptest::collection::btree_map;
use proptest::prelude::*;

use super::*;
use crate::apply::filesystem::Filesystems;
use crate::filter::Filter;
use crate::host::{Drift, Kernel, KernelRetention};
use crate::report::Silent;
use crate::root::Root;
use crate::scan::{Cache, scan};

const RELEASE: &str = "6.1.0";
/// Paths of the trees; `R` is the release of the running kernel.
const PATHS: [&str; 14] = [
    "a",
    "b",
    "boot/a",
    "boot/initrd-R",
    "boot/vmlinuz-R",
    "c/d",
    "c/e/f",
    "c/g",
    "etc/h",
    "etc/i",
    "j",
    "lib/modules/R/k.ko",
    "lib/modules/R/l.ko",
    "lib/modules/other/k.ko",
];

/// A small tree: the content of a file, or nothing for a directory with one file in it.
fn any_tree() -> impl Strategy<Value = BTreeMap<&'static str, Option<u8>>> {
    let content = prop::option::weighted(0.8, 0u8..2);
    btree_map(prop::sample::select(&PATHS[..]), content, 0..PATHS.len())
}

fn write(tree: &BTreeMap<&str, Option<u8>>, top: &Path) {
    for (path, content) in tree {
        let at = top.join(path.replace('R', RELEASE));
        let (at, content) = match content {
            Some(content) => (at, [b'0' + content]),
            None => (at.join("inside"), [b'x']),
        };
        fs::create_dir_all(at.parent().expect("a parent")).expect("makes the directory");
        fs::write(at, content).expect("writes the file");
    }
}

/// The plan that leads from one tree to the other.
fn plan_between(
    base: &BTreeMap<&str, Option<u8>>,
    target: &BTreeMap<&str, Option<u8>>,
) -> ChangePlan {
    let (live_dir, target_dir) = (tempfile::tempdir(), tempfile::tempdir());
    let (live_dir, target_dir) = (live_dir.expect("a directory"), target_dir.expect("a directory"));
    write(base, live_dir.path());
    write(target, target_dir.path());
    let read = |root: &Root| {
        scan(root, &Cache::default(), &Silent).expect("reads the tree").manifest().clone()
    };
    let root = Root::open(live_dir.path()).expect("opens the tree");
    let base = read(&root);
    let target = read(&Root::open(target_dir.path()).expect("opens the tree"));

    let paths: BTreeSet<TreePath> = [&base, &target]
        .into_iter()
        .flat_map(|manifest| manifest.entries().iter().map(|entry| entry.path.clone()))
        .collect();
    let live = LiveTree::stat_paths(&root, &paths.into_iter().collect::<Vec<_>>()).expect("stats");
    let (kernel, recorded) = (Kernel::new(RELEASE), HashSet::new());
    let (filter, filesystems) = (Filter::builder().build(), Filesystems::default());
    let input = PlanInput {
        root: &root,
        installed: Some(&base),
        target: &target,
        formerly_tracked: &[],
        provisions: &[],
        old_kernel_paths: &[],
        surplus_keys: &[],
        kernel: kernel.as_ref(),
        kernel_retention: KernelRetention::ModulesAndBootFiles,
        repaired: &HashSet::new(),
        refused: &BTreeMap::new(),
        known_deviations: &recorded,
        filter: &filter,
        filesystems: &filesystems,
        host: None,
        mounts: &[],
        bind_mounts: &[],
        policy: ComparePolicy {
            check_level: CheckLevel::Stat,
            drift: Drift::Repair,
            untracked: UntrackedPolicy::Keep,
        },
        monitor: &Silent,
    };
    plan_changes(&input, &live).expect("plans")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn slots_of_an_update_are_distinct(
        base in any_tree(),
        target in any_tree(),
    ) {
        let plan = plan_between(&base, &target);

        let changes = plan.changes.iter().filter_map(|change| match change.action {
            Action::Install { slot } | Action::Exchange { slot, .. } | Action::MakeDir { slot } => {
                Some(slot)
            }
            Action::Remove { slot } | Action::RemoveTree { slot } => Some(slot),
            _ => None,
        });
        let kernels: Vec<u32> = plan.kernel_backups.iter().map(|backup| backup.slot).collect();
        prop_assert_eq!(kernels.len(), plan.kernel_paths.len());
        let slots: Vec<u32> = changes.chain(kernels).collect();
        let distinct: HashSet<u32> = slots.iter().copied().collect();
        prop_assert_eq!(distinct.len(), slots.len(), "{:?}", slots);
        prop_assert!(!distinct.contains(&0), "0 is no slot");
    }
}
