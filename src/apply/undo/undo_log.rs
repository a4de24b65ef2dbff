//! Undo log: the prior state of each path of a transaction, and the slot of its backup.
//!
//! It is written before the commit point, from the live tree of that moment, and becomes durable
//! with the stage. The roll forward corrects it at the end if another program created or removed a
//! path between planning and the rename.
//!
#![doc = include_str!("format.md")]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Read;

use crate::apply::error::{FormatFault, LineFault, UndoLogError};
use crate::apply::filesystem::stage_dirs::Stages;
use crate::apply::on_disk::{DIRECTORIES, UNDO_LOG, name, slot_name, slot_number};
use crate::apply::plan::{Action, Change, ChangePlan, KernelBackup};
use crate::entry::{Entry, Mtime, Node};
use crate::generation::GenerationId;
use crate::manifest::{parse_entries, parse_path, path_text, write_entries};
use crate::root::{Descend, FileKind, Root, RootError, Stat};
use crate::tree_path::TreePath;

/// First line of every file of this format (clause 1).
const HEAD: &str = "si-undo 2";
/// First line of the older format, which knows no file `privileges`.
const OLD_HEAD: &str = "si-undo 1";
/// Largest file of an undo log in bytes: ten million paths need less.
const MAX_FILE: u64 = 4 << 30;

/// Prior state of the paths of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndoLog {
    /// The composed id that was recorded after the transaction, if any. The log applies only to a
    /// tree with this recorded id.
    pub recorded_id: Option<GenerationId>,
    /// Mount roots of the filesystems.
    pub mount_roots: Vec<TreePath>,
    /// Prior states, in the order of the changes.
    pub records: Vec<UndoRecord>,
    /// Directories that were removed or whose metadata changed, in tree order.
    pub directories: Vec<Entry>,
}

/// Prior state of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndoRecord {
    /// The filesystem with the slot.
    pub filesystem: usize,
    /// The path.
    pub path: TreePath,
    /// Its prior state.
    pub before: PriorState,
}

/// State of a path before a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriorState {
    /// It existed; the slot has it.
    Existed(u32),
    /// It did not exist. An object that was created meanwhile would be in the slot; 0 is no slot.
    Missing(u32),
    /// It was to be removed, and another program had removed it.
    AlreadyGone,
    /// Only its time was changed.
    Time {
        /// Time before.
        old: Mtime,
        /// Time after.
        new: Mtime,
    },
    /// It is a directory, and had this time.
    DirectoryTime(Mtime),
}

impl UndoLog {
    /// Reads the prior state of all paths of `plan` from the live tree; the stage is complete.
    pub(super) fn read_live(
        root: &Root,
        stages: &Stages,
        recorded_id: Option<GenerationId>,
        plan: &ChangePlan,
    ) -> Result<UndoLog, RootError> {
        let mount_roots = plan.filesystems.mount_roots().to_vec();
        let log =
            UndoLog { recorded_id, mount_roots, records: Vec::new(), directories: Vec::new() };
        let (directories, disturbed) = (BTreeMap::new(), BTreeSet::new());
        let mut reader = LiveReader { root, stages, log, directories, disturbed };

        let paths: Vec<&TreePath> = plan.changes.iter().map(|change| &change.path).collect();
        for (change, stat) in plan.changes.iter().zip(root.stat_each(&paths)?) {
            match reader.add_change(change, stat.transpose().unwrap_or_default()) {
                // Nothing is known of it. The roll forward leaves it out, or corrects the log.
                Err(error) if root.is_unknown(&change.path, &error) => {}
                answer => answer?,
            }
        }
        for backup in &plan.kernel_backups {
            reader.add_kernel_backup(backup)?;
        }
        reader.add_directory_times(plan)?;
        Ok(reader.finish())
    }

    /// Writes it, durable, to the backups of the root's filesystem.
    pub(super) fn write(&self, backups: &Root) -> Result<(), RootError> {
        let mut directories = Vec::new();
        // Writing to memory does not fail.
        let _ = write_entries(&self.directories, &mut directories);
        backups.write_durably(&name(DIRECTORIES), &directories, 0o600)?;
        backups.write_durably(&name(UNDO_LOG), self.text().as_bytes(), 0o600)
    }

    /// Removes it from an undo set, or from backups that become none.
    pub(in crate::apply) fn remove(dir: &Root) -> Result<(), RootError> {
        dir.unlink(&name(UNDO_LOG))?;
        dir.unlink(&name(DIRECTORIES))
    }

    /// Reads it from an undo set or from the backups, if it exists.
    pub(in crate::apply) fn read(dir: &Root) -> Result<Option<UndoLog>, UndoLogError> {
        let invalid =
            |file: &str, fault| UndoLogError::Invalid { path: dir.show(&name(file)), fault };
        let Some(text) = read_file(dir, UNDO_LOG)? else { return Ok(None) };
        let text = String::from_utf8(text).map_err(|_| invalid(UNDO_LOG, FormatFault::NotText))?;
        let log = parse(&text).map_err(|fault| invalid(UNDO_LOG, FormatFault::Line(fault)))?;

        let directories = read_file(dir, DIRECTORIES)?
            .ok_or_else(|| invalid(DIRECTORIES, FormatFault::Missing))?;
        let directories = parse_entries(directories.as_slice())
            .map_err(|error| invalid(DIRECTORIES, FormatFault::Directories(error.into())))?;
        Ok(Some(UndoLog { directories, ..log }))
    }

    /// Corrects the log among the backups by the slots that exist after all changes.
    ///
    /// A path may have been created or removed between planning and the rename. Changes that were
    /// left out, and everything in a new directory that was, have nothing to be restored.
    pub(in crate::apply) fn correct(
        stages: &Stages,
        changes: &[Change],
        left_out: &[TreePath],
    ) -> Result<(), UndoLogError> {
        let Some(backups) = stages.backups(0) else { return Ok(()) };
        let Some(mut log) = UndoLog::read(backups)? else { return Ok(()) };

        let existing = existing_slots(stages)?;
        let removals: HashSet<(usize, u32)> = changes
            .iter()
            .filter_map(|change| match change.action {
                Action::Remove { slot } | Action::RemoveTree { slot } => {
                    Some((change.filesystem, slot))
                }
                _ => None,
            })
            .collect();

        let count = log.records.len() + log.directories.len();
        if !left_out.is_empty() {
            let left_out: HashSet<&TreePath> = left_out.iter().collect();
            let is_in_new_directory = |record: &UndoRecord| {
                record.before == PriorState::Missing(0)
                    && std::iter::successors(record.path.parent(), TreePath::parent)
                        .any(|above| left_out.contains(&above))
            };
            log.records
                .retain(|record| !left_out.contains(&record.path) && !is_in_new_directory(record));
            log.directories.retain(|entry| !left_out.contains(&entry.path));
        }

        let mut differs = log.records.len() + log.directories.len() != count;
        for record in &mut log.records {
            let (PriorState::Existed(slot) | PriorState::Missing(slot)) = record.before else {
                continue;
            };
            let key = (record.filesystem, slot);
            let before = if existing.contains(&key) {
                PriorState::Existed(slot)
            } else if removals.contains(&key) {
                PriorState::AlreadyGone
            } else {
                PriorState::Missing(slot)
            };
            differs |= record.before != before;
            record.before = before;
        }
        if differs { Ok(log.write(backups)?) } else { Ok(()) }
    }

    fn text(&self) -> String {
        let mut text = format!("{HEAD}\n");
        text += &match self.recorded_id {
            Some(generation) => format!("made {generation}\n"),
            None => "made nothing\n".to_owned(),
        };
        for mount_root in &self.mount_roots {
            text += &format!("filesystem {}\n", path_text(mount_root));
        }

        for UndoRecord { filesystem, path, before } in &self.records {
            let before = match before {
                PriorState::Existed(slot) => format!("stood {slot}"),
                PriorState::Missing(slot) => format!("nothing {slot}"),
                PriorState::AlreadyGone => "absent 0".to_owned(),
                PriorState::Time { old, new } => format!("time {old}/{new}"),
                PriorState::DirectoryTime(old) => format!("directory-time {old}"),
            };
            text += &format!("{before} {filesystem} {}\n", path_text(path));
        }
        text += &format!("end {}\n", self.records.len());
        text
    }
}

/// Slots that exist among the backups of all filesystems.
fn existing_slots(stages: &Stages) -> Result<HashSet<(usize, u32)>, RootError> {
    let mut slots = HashSet::new();
    for at in stages.filesystems() {
        let Some(backups) = stages.backups(at) else { continue };
        for (path, _) in backups.children(&TreePath::root())? {
            slots.extend(slot_number(&path).map(|slot| (at, slot)));
        }
    }
    Ok(slots)
}

pub(super) fn read_file(dir: &Root, file: &str) -> Result<Option<Vec<u8>>, RootError> {
    let open = match dir.open_file(&name(file)) {
        Err(error) if error.is_absent() => return Ok(None),
        answer => answer?,
    };
    let mut bytes = Vec::new();
    open.take(MAX_FILE).read_to_end(&mut bytes).map_err(|source| RootError {
        operation: "read",
        path: dir.show(&name(file)),
        source,
    })?;
    Ok(Some(bytes))
}

/// An undo log that is read from the live tree.
struct LiveReader<'a> {
    root: &'a Root,
    stages: &'a Stages,
    log: UndoLog,
    /// Directories that are restored with all their metadata.
    directories: BTreeMap<TreePath, Entry>,
    /// Directories whose time the transaction changes.
    disturbed: BTreeSet<TreePath>,
}

impl LiveReader<'_> {
    fn add_change(&mut self, change: &Change, stat: Option<Stat>) -> Result<(), RootError> {
        match change.action {
            Action::Install { slot } => {
                self.add_install(change, slot, stat);
                self.add_staged_children(change, slot)?;
            }
            Action::MakeDir { slot } => self.add_install(change, slot, stat),
            Action::Exchange { slot, to_directory } => {
                self.add(change, PriorState::Existed(slot));
                // xfs changes the time of a directory that RENAME_EXCHANGE moves.
                if !to_directory {
                    self.disturbed.insert(change.path.clone());
                }
            }
            Action::Remove { slot } => self.add(change, PriorState::Existed(slot)),
            // A late arrival changes the time of its directory.
            Action::RemoveTree { slot } => {
                self.add(change, PriorState::Existed(slot));
                self.disturbed.insert(change.path.clone());
            }
            Action::CoveredByParent => {
                self.disturbed.insert(change.path.clone());
            }
            Action::SetTime(new) => {
                if let Some(stat) = stat {
                    self.add(change, PriorState::Time { old: stat.mtime, new });
                }
            }
            Action::RemoveDir | Action::SetDirMetadata => {
                if let Some(stat) = stat.filter(|stat| stat.kind == FileKind::Directory) {
                    self.add_directory(&change.path, &stat)?;
                }
            }
        }

        if change.action.is_visible() {
            self.disturbed.extend(change.path.parent());
        }
        Ok(())
    }

    fn add(&mut self, change: &Change, before: PriorState) {
        let (filesystem, path) = (change.filesystem, change.path.clone());
        self.log.records.push(UndoRecord { filesystem, path, before });
    }

    fn add_install(&mut self, change: &Change, slot: u32, stat: Option<Stat>) {
        let before = match stat {
            Some(_) => PriorState::Existed(slot),
            None => PriorState::Missing(slot),
        };
        self.add(change, before);
    }

    /// Adds the paths inside a new directory, none of which existed.
    fn add_staged_children(&mut self, change: &Change, slot: u32) -> Result<(), RootError> {
        let Some(staged) = self.stages.staged(change.filesystem) else { return Ok(()) };
        let slot = slot_name(slot);
        if staged.stat(&slot)?.is_none_or(|stat| stat.kind != FileKind::Directory) {
            return Ok(());
        }

        staged.walk(&slot, |visit| {
            let below = &visit.path.as_bytes()[slot.as_bytes().len()..];
            let path =
                TreePath::new([change.path.as_bytes(), below].concat()).map_err(|error| {
                    let source = std::io::Error::other(error);
                    RootError {
                        operation: "record the prior state of",
                        path: change.path.to_string(),
                        source,
                    }
                })?;
            let (filesystem, before) = (change.filesystem, PriorState::Missing(0));
            self.log.records.push(UndoRecord { filesystem, path, before });
            Ok(Descend::Into)
        })
    }

    fn add_kernel_backup(&mut self, backup: &KernelBackup) -> Result<(), RootError> {
        let KernelBackup { filesystem, ref path, slot } = *backup;
        match self.root.stat(path)? {
            Some(stat) if stat.kind == FileKind::Directory => self.add_directory(path, &stat)?,
            Some(_) => {
                let (path, before) = (path.clone(), PriorState::Existed(slot));
                self.log.records.push(UndoRecord { filesystem, path, before });
            }
            None => {}
        }
        self.disturbed.extend(path.parent());
        Ok(())
    }

    fn add_directory(&mut self, path: &TreePath, stat: &Stat) -> Result<(), RootError> {
        let meta = stat.meta(self.root.xattrs(path)?);
        self.directories.insert(path.clone(), Entry::new(path.clone(), meta, Node::Directory));
        Ok(())
    }

    /// Adds the time of each directory that gets another one and is not restored as a whole.
    fn add_directory_times(&mut self, plan: &ChangePlan) -> Result<(), RootError> {
        // With the time that the plan sets, if it is the only reason for a change.
        let disturbed = self.disturbed.iter().map(|path| (path, None));
        let planned = plan.directories.iter().map(|entry| (&entry.path, Some(entry.meta.mtime)));
        let mut paths: HashSet<&TreePath> = HashSet::new();
        let timed: Vec<(&TreePath, Option<Mtime>)> = disturbed
            .chain(planned)
            .filter(|(path, _)| !self.directories.contains_key(path) && paths.insert(path))
            .collect();

        let paths: Vec<&TreePath> = timed.iter().map(|(path, _)| *path).collect();
        for ((path, new), stat) in timed.into_iter().zip(self.root.stat_each(&paths)?) {
            let stat = stat.transpose().unwrap_or_default();
            let Some(stat) = stat.filter(|stat| stat.kind == FileKind::Directory) else { continue };
            // Creating the stage has changed the time of its mount root.
            let old = self.stages.time_before(path).unwrap_or(stat.mtime);
            if new != Some(old) {
                let (path, before) = (path.clone(), PriorState::DirectoryTime(old));
                self.log.records.push(UndoRecord { filesystem: 0, path, before });
            }
        }
        Ok(())
    }

    fn finish(self) -> UndoLog {
        UndoLog { directories: self.directories.into_values().collect(), ..self.log }
    }
}

/// Parses the file `way-back`; the result has no directories.
pub fn parse(text: &str) -> Result<UndoLog, LineFault> {
    let mut lines = text.lines().zip(1..);
    if !lines.next().is_some_and(|(line, _)| line == HEAD || line == OLD_HEAD) {
        return Err(fault(1, "it is of a format that this program does not know"));
    }

    let (mut recorded_id, mut mount_roots, mut records) = (None, Vec::new(), Vec::new());
    for (line, number) in lines {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["made", "nothing"] => recorded_id = Some(None),
            ["made", id] => {
                let id = id.parse().map_err(|_| fault(number, "it names no generation"))?;
                recorded_id = Some(Some(id));
            }
            ["filesystem", path] => mount_roots.push(path_of(path, number)?),
            ["end", count] => {
                let is_complete = count.parse() == Ok(records.len()) && !mount_roots.is_empty();
                let (Some(recorded_id), true) = (recorded_id, is_complete) else {
                    return Err(fault(number, "lines are missing"));
                };
                return Ok(UndoLog { recorded_id, mount_roots, records, directories: Vec::new() });
            }
            [kind, value, filesystem, path] => {
                let path = path_of(path, number)?;
                let filesystem = filesystem
                    .parse()
                    .map_err(|_| fault(number, "its filesystem is not a number"))?;
                let before = parse_before(kind, value)
                    .ok_or_else(|| fault(number, "its kind of prior state is unknown"))?;
                if filesystem >= mount_roots.len() {
                    return Err(fault(number, "its filesystem is not listed"));
                }
                records.push(UndoRecord { filesystem, path, before });
            }
            _ => return Err(fault(number, "unknown record of an undo log")),
        }
    }
    Err(fault(0, "its end is missing"))
}

fn path_of(text: &str, number: usize) -> Result<TreePath, LineFault> {
    parse_path(text.as_bytes()).map_err(|reason| fault(number, reason))
}

fn parse_before(kind: &str, value: &str) -> Option<PriorState> {
    Some(match kind {
        "stood" => PriorState::Existed(value.parse().ok()?),
        "nothing" => PriorState::Missing(value.parse().ok()?),
        "absent" => PriorState::AlreadyGone,
        "time" => {
            let (old, new) = value.split_once('/')?;
            PriorState::Time { old: old.parse().ok()?, new: new.parse().ok()? }
        }
        "directory-time" => PriorState::DirectoryTime(value.parse().ok()?),
        _ => return None,
    })
}

fn fault(number: usize, reason: &'static str) -> LineFault {
    LineFault { number, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn sample() -> UndoLog {
        let path = |text: &str| TreePath::new(text).expect("a valid path");
        let (old, new) = (Mtime { seconds: -5, nanos: 7 }, Mtime { seconds: 5, nanos: 0 });
        let prior_states = [
            ("etc/a b\n", PriorState::Existed(1)),
            ("new", PriorState::Missing(2)),
            ("new/inside", PriorState::Missing(0)),
            ("gone", PriorState::AlreadyGone),
            ("f", PriorState::Time { old, new }),
            ("boot", PriorState::DirectoryTime(old)),
        ];
        UndoLog {
            recorded_id: Some(GenerationId(Digest([0xab; 32]))),
            mount_roots: vec![TreePath::root(), path("boot")],
            records: prior_states
                .into_iter()
                .map(|(at, before)| UndoRecord { filesystem: 1, path: path(at), before })
                .collect(),
            directories: Vec::new(),
        }
    }

    #[test]
    fn written_undo_logs_are_read_back() {
        assert_eq!(parse(&sample().text()), Ok(sample()));
    }

    #[test]
    fn truncated_and_foreign_undo_logs_are_refused() {
        let text = sample().text();

        for length in 0..text.len() - 1 {
            assert!(parse(&text[..length]).is_err(), "the first {length} bytes");
        }
        for (from, to) in [
            ("si-undo 2", "si-undo 3"),
            ("made ab", "made xy"),
            ("stood 1 1", "stood 1 9"),
            ("nothing", "something"),
        ] {
            assert!(parse(&text.replacen(from, to, 1)).is_err(), "{to}");
        }
    }

    #[test]
    fn format_is_frozen() {
        assert_eq!(sample().text(), include_str!("../../../tests/testdata/undo/v2"));
    }

    #[test]
    fn undo_log_of_format_1_is_read() {
        assert_eq!(parse(include_str!("../../../tests/testdata/undo/v1")), Ok(sample()));
    }
}
