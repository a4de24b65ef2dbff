//! Names inside `.si-stage`, `.si-undo` and `.si-full`, and the numbers of slots.
//!
//! `docs/recovery.md` lists all names with their content, every state that an interrupted run can
//! leave, and the behaviour of each kind of run in it. The states follow from a few names:
//!
//! | state | on disk | next run |
//! |---|---|---|
//! | S0 idle | no [`STAGE_DIR`], no [`RECEIVE_DIR`] | starts |
//! | S1 receiving | [`RECEIVE_DIR`] | removes it |
//! | S2 no journal | [`STAGE_DIR`] without `JOURNAL` and `CLOSED_JOURNAL` | removes it |
//! | S3 committed | `JOURNAL` without `APPLIED` and `REVERSED` | completes the transaction |
//! | S8 applied | `JOURNAL` with `APPLIED` | records the state, then ends the transaction |
//! | S9 reversing | `JOURNAL` with `REVERSED` | completes the reversal |
//! | S4 closed | `CLOSED_JOURNAL` | retains the backups, removes the stages |
//! | S5 leftovers | [`STAGE_DIR`] with only `LEFTOVER_PREFIX` names | tries to remove them |
//! | S6 invalid journal | `JOURNAL` that cannot be parsed | stops |
//! | U0 no undo set | no `UNDO_LOG` in [`UNDO_DIR`] | a rollback has nothing to restore |
//! | U1 valid | `UNDO_LOG` that names the recorded generation | can be rolled back |
//! | U2 outdated | `UNDO_LOG` that names another generation | is ignored until it is replaced |
//! | U3 damaged | `UNDO_LOG` that cannot be parsed, or a slot is missing | rollback is refused |
//! | U4 taken over | [`UNDO_DIR`] renamed to `STAGED_DIR` after the commit point of a rollback | as S3 |
//! | D0 none | no [`DOWNLOADED_DIR`] | a switch has nothing to install |
//! | D1 incomplete | [`DOWNLOADED_DIR`] without a valid `record` | removes it |
//! | D2 valid | `record` for the recorded generation | an update may use it |
//! | D3 outdated | `record` for another base, tree, filter, override or agent | removes it |
//!
//! A slot is a number; its file in `STAGED_DIR` is content to be installed, and its file in
//! `BACKUP_DIR` is the backup of the object that the same action replaces or removes. Two actions
//! with one slot would overwrite each other's backup, so every slot of a transaction is taken from
//! one `SlotAllocator`.

use std::collections::HashSet;

use crate::apply::error::SlotsExhausted;
use crate::digest::Digest;
use crate::state;
use crate::tree_path::TreePath;

pub use crate::client_paths::{DOWNLOADED_DIR, RECEIVE_DIR, STAGE_DIR, UNDO_DIR};

/// In a stage: staged content, by slot.
pub(in crate::apply) const STAGED_DIR: &str = "new";
/// In a stage: backups, by slot; the directory becomes the undo set.
pub(in crate::apply) const BACKUP_DIR: &str = "old";
/// In the root's stage: the redo journal. Its rename to this name is the commit point.
pub(in crate::apply) const JOURNAL: &str = "journal";
/// Beside the journal: all its actions are done and durable; only the state is not recorded.
pub(in crate::apply) const APPLIED: &str = "applied";
/// Beside the journal: the transaction is being reversed.
pub(in crate::apply) const REVERSED: &str = "reversed";
/// In the root's stage: the redo journal of a transaction that has ended.
pub(in crate::apply) const CLOSED_JOURNAL: &str = "done";
/// Beside the journal: the program that wrote it.
pub(in crate::apply) const AGENT: &str = "agent";
/// Beside the journal, and beside the undo log: directories with their metadata.
pub(in crate::apply) const DIRECTORIES: &str = "directories.mtree";
/// Beside the journal: the state to be recorded.
pub(in crate::apply) const STATE: &str = state::STATE_FILE;
/// Beside the journal: the compressed manifest to be recorded.
pub(in crate::apply) const MANIFEST: &str = "manifest";
/// Beside the journal: the pinned generation to be recorded.
pub(in crate::apply) const PINNED: &str = "held.toml";
/// Beside the journal: the image name to be recorded if no state is.
pub(in crate::apply) const SYNCED: &str = "synced";
/// In the root's stage: mount roots of all filesystems that have a stage.
pub(in crate::apply) const FILESYSTEM_LIST: &str = "filesystems";
/// In a stage: an earlier undo set that is being removed.
pub(in crate::apply) const REMOVED_UNDO: &str = "gone";
/// In a stage, with a number: an object that cannot be removed now.
pub(in crate::apply) const LEFTOVER_PREFIX: &str = "left-";
/// In a stage and in the state directory, with a number: a space reserve.
pub(in crate::apply) const RESERVE_PREFIX: &str = "reserve-";

/// Among the backups: the undo log. Without it no undo set exists.
pub(in crate::apply) const UNDO_LOG: &str = "way-back";
/// Among the backups: identities of the other filesystems, to recognise another disk.
pub(in crate::apply) const IDENTITIES: &str = "identities";
/// Among the backups: set-id bits and capabilities that replaced programs had.
pub(in crate::apply) const PRIVILEGES: &str = "privileges";
/// Among the backups: list of untracked paths that were moved there with a directory.
pub(in crate::apply) const DISPLACED_LIST: &str = "displaced";
/// Among the backups, with a number: an object that was in the place of a parent directory.
const OBSTACLE_PREFIX: &str = "aside-";
/// In an undo set, with a number: backups of a later repair.
pub(in crate::apply) const REPAIRED_PREFIX: &str = "repaired-";

/// A fixed name as a path. All names of this file are valid paths.
pub(in crate::apply) fn name(text: &str) -> TreePath {
    TreePath::new(text).unwrap_or_else(|_| TreePath::root())
}

/// The file of a slot.
pub(in crate::apply) fn slot_name(slot: u32) -> TreePath {
    name(&slot.to_string())
}

/// The slot that a file belongs to; `None` for a file that is no slot.
pub(in crate::apply) fn slot_number(path: &TreePath) -> Option<u32> {
    std::str::from_utf8(path.name()).ok()?.parse().ok()
}

/// The remains of a slot whose content was copied to a limited filesystem.
pub(in crate::apply) fn copied_slot_name(slot: &TreePath) -> TreePath {
    name(&format!("{}.gone", String::from_utf8_lossy(slot.name())))
}

/// An incomplete backup that is being copied from a limited filesystem.
pub(in crate::apply) fn partial_backup_name(slot: &TreePath) -> TreePath {
    name(&format!("{}.part", String::from_utf8_lossy(slot.name())))
}

/// The backup of an object that was in the place of a parent directory.
pub(in crate::apply) fn obstacle_name(number: u32) -> TreePath {
    name(&format!("{OBSTACLE_PREFIX}{number}"))
}

/// Content in the root's stage that only a later delta of the chain needs.
pub(in crate::apply) fn intermediate_name(digest: &Digest) -> TreePath {
    name(&format!("between-{digest}"))
}

/// Gives out the slots of one transaction, each of them once.
///
/// Installs take slots from 1 up, all backups without an install from [`u32::MAX`] down. Both ends
/// skip the slots of the undo set that a rollback restores. If the ends meet, the plan fails; a
/// change without a slot would have no backup.
#[derive(Debug)]
pub(in crate::apply) struct SlotAllocator {
    /// Slots that are neither given out nor passed over, except those in `reserved`.
    free: std::ops::RangeInclusive<u32>,
    /// Slots of the undo set that is restored.
    reserved: HashSet<u32>,
}

impl SlotAllocator {
    /// All slots are free.
    pub(in crate::apply) fn new() -> Self {
        SlotAllocator::with_reserved(HashSet::new())
    }

    /// All slots are free except those in `reserved`.
    pub(in crate::apply) fn with_reserved(reserved: HashSet<u32>) -> Self {
        // 0 means "no slot" in the journal and in the undo log.
        SlotAllocator { free: 1..=u32::MAX, reserved }
    }

    /// Takes the lowest free slot, for an object that will be installed.
    pub(in crate::apply) fn take_install(&mut self) -> Result<u32, SlotsExhausted> {
        let reserved = &self.reserved;
        self.free.find(|slot| !reserved.contains(slot)).ok_or(SlotsExhausted)
    }

    /// Takes the highest free slot, for an object that only leaves the tree or only has a backup.
    pub(in crate::apply) fn take_backup(&mut self) -> Result<u32, SlotsExhausted> {
        let reserved = &self.reserved;
        self.free.rfind(|slot| !reserved.contains(slot)).ok_or(SlotsExhausted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Take {
        Install,
        Backup,
    }

    fn allocator(free: std::ops::RangeInclusive<u32>, reserved: &[u32]) -> SlotAllocator {
        SlotAllocator { free, reserved: reserved.iter().copied().collect() }
    }

    #[test]
    fn installs_count_up_and_backups_count_down() {
        let mut slots = SlotAllocator::new();

        let installs = [slots.take_install(), slots.take_install()];
        let backups = [slots.take_backup(), slots.take_backup()];

        assert_eq!(installs, [Ok(1), Ok(2)]);
        assert_eq!(backups, [Ok(u32::MAX), Ok(u32::MAX - 1)]);
    }

    #[test]
    fn slots_of_restored_undo_set_are_skipped() {
        let mut slots = SlotAllocator::with_reserved(HashSet::from([1, 2, 4, u32::MAX]));

        let installs = [slots.take_install(), slots.take_install()];
        let backup = slots.take_backup();

        assert_eq!(installs, [Ok(3), Ok(5)]);
        assert_eq!(backup, Ok(u32::MAX - 1));
    }

    #[test]
    fn exhausted_slots_are_an_error() {
        let mut slots = allocator(1..=3, &[2]);

        let taken = [slots.take_install(), slots.take_backup()];

        assert_eq!(taken, [Ok(1), Ok(3)]);
        assert_eq!(slots.take_install(), Err(SlotsExhausted));
        assert_eq!(slots.take_backup(), Err(SlotsExhausted));
    }

    #[test]
    fn slot_names_round_trip() {
        assert_eq!(slot_number(&slot_name(17)), Some(17));
        for other in [UNDO_LOG, DISPLACED_LIST, "repaired-1", "17.part", "aside-0"] {
            assert_eq!(slot_number(&name(other)), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn taken_slots_are_distinct_and_never_reserved(
            reserved in prop::collection::hash_set(1u32..40, 0..30),
            takes in prop::collection::vec(
                prop_oneof![Just(Take::Install), Just(Take::Backup)], 0..60),
        ) {
            let mut slots = SlotAllocator { free: 1..=40, reserved: reserved.clone() };

            let taken: Vec<u32> = takes
                .iter()
                .filter_map(|take| match take {
                    Take::Install => slots.take_install().ok(),
                    Take::Backup => slots.take_backup().ok(),
                })
                .collect();

            let distinct: HashSet<u32> = taken.iter().copied().collect();
            prop_assert_eq!(distinct.len(), taken.len());
            prop_assert!(distinct.is_disjoint(&reserved));
            prop_assert!(!distinct.contains(&0));
            prop_assert_eq!(taken.len(), takes.len().min(40 - reserved.len()));
        }
    }
}
