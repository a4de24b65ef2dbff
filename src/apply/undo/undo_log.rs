//! What was before a transaction: enough to bring it back, with the slots of what was displaced.
//!
//! It is written before the seal, durable with the stage, from what stands on the tree then, and put
//! right at the end where the tree had changed in between.
//!
#![doc = include_str!("format.md")]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Read;

use crate::apply::error::{FormatFault, LineFault, UndoLogError};
use crate::apply::filesystem::Stages;
use crate::apply::on_disk::{DIRECTORIES, UNDO_LOG, name, slot_name, slot_number};
use crate::apply::plan::{Action, Change, ChangePlan, KernelBackup};
use crate::entry::{Entry, Mtime, Node};
use crate::generation::GenerationId;
use crate::manifest::{parse_entries, parse_path, path_text, write_entries};
use crate::root::{Descend, FileKind, Root, RootError, Stat};
use crate::tree_path::TreePath;

/// The first line of every file of this format.
const HEAD: &str = "si-undo 1";
/// A way back larger than this is not ours: ten million paths take less.
const MAX_FILE: u64 = 4 << 30;

/// What was, path by path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndoLog {
    /// The generation that was recorded after the transaction, if any was: only from there it leads back.
    pub made: Option<GenerationId>,
    /// Where the filesystems begin that took part or could.
    pub tops: Vec<TreePath>,
    /// What was where, in the order in which it was changed.
    pub facts: Vec<UndoRecord>,
    /// Directories that were removed or whose metadata changed, in tree order.
    pub directories: Vec<Entry>,
}

/// What was at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndoRecord {
    /// The filesystem that holds the slot.
    pub filesystem: usize,
    /// Where.
    pub path: TreePath,
    /// What was there.
    pub before: PriorState,
}

/// What was at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriorState {
    /// What the slot holds.
    Existed(u32),
    /// Nothing; had anything been in the way, it would be in the slot. 0 is no slot.
    Missing(u32),
    /// Nothing, and nothing came: what was to go had gone by itself.
    AlreadyGone,
    /// The same, with another time.
    Time {
        /// The one that it had.
        old: Mtime,
        /// The one that it got.
        new: Mtime,
    },
    /// A directory with this time.
    DirectoryTime(Mtime),
}

impl UndoLog {
    /// What stands on the tree before `transaction`, whose slots are staged already.
    pub fn of(
        root: &Root,
        stages: &Stages,
        made: Option<GenerationId>,
        transaction: &ChangePlan,
    ) -> Result<UndoLog, RootError> {
        let tops = transaction.filesystems.mount_roots().to_vec();
        let mut way_back = UndoLog { made, tops, facts: Vec::new(), directories: Vec::new() };
        let mut whole: BTreeMap<TreePath, Entry> = BTreeMap::new();
        let mut stirred: BTreeSet<TreePath> = BTreeSet::new();
        let paths: Vec<&TreePath> = transaction.changes.iter().map(|change| &change.path).collect();
        for (change, stat) in transaction.changes.iter().zip(root.stat_each(&paths)?) {
            // What comes into a directory that goes, until it does, changes its time.
            if matches!(change.action, Action::RemoveTree { .. } | Action::CoveredByParent) {
                stirred.insert(change.path.clone());
            }
            if change.action == Action::CoveredByParent {
                continue;
            }
            match change.action {
                Action::Install { slot } | Action::MakeDir { slot } => {
                    let before = if stat.is_some() {
                        PriorState::Existed(slot)
                    } else {
                        PriorState::Missing(slot)
                    };
                    way_back.note(change, before);
                    if let (Action::Install { .. }, Some(coming)) =
                        (change.action, stages.staged(change.filesystem))
                    {
                        way_back.note_inside(change, coming, slot)?;
                    }
                }
                Action::Exchange { slot, .. }
                | Action::Remove { slot }
                | Action::RemoveTree { slot } => {
                    way_back.note(change, PriorState::Existed(slot));
                }
                Action::SetTime(new) => {
                    if let Some(stat) = stat {
                        way_back.note(change, PriorState::Time { old: stat.mtime, new });
                    }
                }
                Action::CoveredByParent => {}
                Action::RemoveDir | Action::SetDirMetadata => {
                    if let Some(stat) = stat.filter(|stat| stat.kind == FileKind::Directory) {
                        whole.insert(change.path.clone(), directory(root, &change.path, &stat)?);
                    }
                }
            }
            if change.action.is_visible() {
                stirred.extend(change.path.parent());
            }
            // xfs takes a directory that changes places with something else for modified.
            if matches!(change.action, Action::Exchange { to_directory: false, .. }) {
                stirred.insert(change.path.clone());
            }
        }
        for KernelBackup { filesystem, path, slot } in &transaction.kernel_backups {
            match root.stat(path)? {
                Some(stat) if stat.kind == FileKind::Directory => {
                    whole.insert(path.clone(), directory(root, path, &stat)?);
                }
                Some(_) => way_back.facts.push(UndoRecord {
                    filesystem: *filesystem,
                    path: path.clone(),
                    before: PriorState::Existed(*slot),
                }),
                None => {}
            }
            stirred.extend(path.parent());
        }
        let settled =
            transaction.directories.iter().map(|entry| (&entry.path, Some(entry.meta.mtime)));
        let stirred = stirred.iter().map(|path| (path, None));
        let mut seen: HashSet<&TreePath> = HashSet::new();
        let timed = stirred
            .chain(settled)
            .filter(|(path, _)| !whole.contains_key(path) && seen.insert(path));
        let timed: Vec<(&TreePath, Option<Mtime>)> = timed.collect();
        let paths: Vec<&TreePath> = timed.iter().map(|(path, _)| *path).collect();
        for ((path, new), stat) in timed.into_iter().zip(root.stat_each(&paths)?) {
            let Some(stat) = stat.filter(|stat| stat.kind == FileKind::Directory) else { continue };
            let time = stages.time_before(path).unwrap_or(stat.mtime);
            if new != Some(time) {
                let before = PriorState::DirectoryTime(time);
                way_back.facts.push(UndoRecord { filesystem: 0, path: path.clone(), before });
            }
        }
        way_back.directories = whole.into_values().collect();
        Ok(way_back)
    }

    fn note(&mut self, change: &Change, before: PriorState) {
        self.facts.push(UndoRecord {
            filesystem: change.filesystem,
            path: change.path.clone(),
            before,
        });
    }

    /// What comes inside a new directory was not there either.
    fn note_inside(&mut self, change: &Change, coming: &Root, slot: u32) -> Result<(), RootError> {
        let slot = slot_name(slot);
        if coming.stat(&slot)?.is_none_or(|stat| stat.kind != FileKind::Directory) {
            return Ok(());
        }
        coming.walk(&slot, |visit| {
            let inside = &visit.path.as_bytes()[slot.as_bytes().len()..];
            let path = TreePath::new([change.path.as_bytes(), inside].concat()).map_err(|e| {
                let source = std::io::Error::other(e);
                RootError { what: "note what comes to", path: change.path.to_string(), source }
            })?;
            self.facts.push(UndoRecord {
                filesystem: change.filesystem,
                path,
                before: PriorState::Missing(0),
            });
            Ok(Descend::Into)
        })
    }

    /// Writes it, durable, into what will be the undo set.
    pub fn write(&self, to: &Root) -> Result<(), RootError> {
        let mut directories = Vec::new();
        // Writing to memory does not fail.
        let _ = write_entries(&self.directories, &mut directories);
        to.write_durably(&name(DIRECTORIES), &directories, 0o600)?;
        to.write_durably(&name(UNDO_LOG), self.text().as_bytes(), 0o600)
    }

    /// Removes it.
    pub(in crate::apply) fn remove(from: &Root) -> Result<(), RootError> {
        from.unlink(&name(UNDO_LOG))
    }

    /// Reads it; `None` where there is none.
    pub fn read(from: &Root) -> Result<Option<UndoLog>, UndoLogError> {
        let invalid =
            |file: &str, fault| UndoLogError::Invalid { path: from.show(&name(file)), fault };
        let Some(text) = read(from, UNDO_LOG)? else { return Ok(None) };
        let text = String::from_utf8(text).map_err(|_| invalid(UNDO_LOG, FormatFault::NotText))?;
        let way_back = parse(&text).map_err(|fault| invalid(UNDO_LOG, FormatFault::Line(fault)))?;
        let directories =
            read(from, DIRECTORIES)?.ok_or_else(|| invalid(DIRECTORIES, FormatFault::Missing))?;
        let directories = parse_entries(directories.as_slice())
            .map_err(|e| invalid(DIRECTORIES, FormatFault::Directories(e.into())))?;
        Ok(Some(UndoLog { directories, ..way_back }))
    }

    /// Puts right what the tree did not keep to between the look at it and the renames: something had
    /// gone, or something had come.
    pub fn settle(stages: &Stages, changes: &[Change]) -> Result<(), UndoLogError> {
        let Some(to) = stages.backups(0) else { return Ok(()) };
        let Some(mut way_back) = UndoLog::read(to)? else { return Ok(()) };
        let mut slots: HashSet<(usize, u32)> = HashSet::new();
        for (at, old) in stages.filesystems().filter_map(|at| Some((at, stages.backups(at)?))) {
            for (path, _) in old.children(&TreePath::root())? {
                slots.extend(slot_number(&path).map(|slot| (at, slot)));
            }
        }
        let removals: HashSet<(usize, u32)> = changes
            .iter()
            .filter_map(|change| match change.action {
                Action::Remove { slot } | Action::RemoveTree { slot } => {
                    Some((change.filesystem, slot))
                }
                _ => None,
            })
            .collect();
        let mut differs = false;
        for fact in &mut way_back.facts {
            let (PriorState::Existed(slot) | PriorState::Missing(slot)) = fact.before else {
                continue;
            };
            let place = (fact.filesystem, slot);
            let before = if slots.contains(&place) {
                PriorState::Existed(slot)
            } else if removals.contains(&place) {
                PriorState::AlreadyGone
            } else {
                PriorState::Missing(slot)
            };
            differs |= fact.before != before;
            fact.before = before;
        }
        if differs { Ok(way_back.write(to)?) } else { Ok(()) }
    }

    fn text(&self) -> String {
        let mut text = format!("{HEAD}\n");
        text += &match self.made {
            Some(generation) => format!("made {generation}\n"),
            None => "made nothing\n".to_owned(),
        };
        for top in &self.tops {
            text += &format!("filesystem {}\n", path_text(top));
        }
        for fact in &self.facts {
            let before = match fact.before {
                PriorState::Existed(slot) => format!("stood {slot}"),
                PriorState::Missing(slot) => format!("nothing {slot}"),
                PriorState::AlreadyGone => "absent 0".to_owned(),
                PriorState::Time { old, new } => format!("time {old}/{new}"),
                PriorState::DirectoryTime(old) => format!("directory-time {old}"),
            };
            text += &format!("{before} {} {}\n", fact.filesystem, path_text(&fact.path));
        }
        text += &format!("end {}\n", self.facts.len());
        text
    }
}

/// A directory as it stands.
fn directory(root: &Root, path: &TreePath, stat: &Stat) -> Result<Entry, RootError> {
    let xattrs = root.xattrs(path)?;
    Ok(Entry::new(path.clone(), stat.meta(xattrs), Node::Directory))
}

fn read(from: &Root, file: &str) -> Result<Option<Vec<u8>>, RootError> {
    let open = match from.open_file(&name(file)) {
        Err(e) if e.is_absent() => return Ok(None),
        answer => answer?,
    };
    let mut bytes = Vec::new();
    let read = open.take(MAX_FILE).read_to_end(&mut bytes);
    read.map_err(|source| RootError { what: "read", path: from.show(&name(file)), source })?;
    Ok(Some(bytes))
}

/// The file alone, without what lies beside it.
fn parse(text: &str) -> Result<UndoLog, LineFault> {
    let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    if lines.next().map(|(_, line)| line) != Some(HEAD) {
        return Err(fault(1, "it is of a format that this program does not know"));
    }
    let (mut made, mut tops, mut facts) = (None, Vec::new(), Vec::new());
    for (at, line) in lines {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["made", "nothing"] => made = Some(None),
            ["made", id] => {
                made = Some(Some(id.parse().map_err(|_| fault(at, "it names no generation"))?))
            }
            ["filesystem", path] => {
                tops.push(parse_path(path.as_bytes()).map_err(|why| fault(at, why))?)
            }
            ["end", count] => {
                let whole = count.parse() == Ok(facts.len()) && !tops.is_empty();
                let (Some(made), true) = (made, whole) else {
                    return Err(fault(at, "lines are missing"));
                };
                return Ok(UndoLog { made, tops, facts, directories: Vec::new() });
            }
            [what, value, filesystem, path] => {
                let path = parse_path(path.as_bytes()).map_err(|why| fault(at, why))?;
                let filesystem =
                    filesystem.parse().map_err(|_| fault(at, "its filesystem is not a number"))?;
                let before = parse_before(what, value)
                    .ok_or_else(|| fault(at, "it says what is unknown"))?;
                if filesystem >= tops.len() {
                    return Err(fault(at, "its filesystem is not listed"));
                }
                facts.push(UndoRecord { filesystem, path, before });
            }
            _ => return Err(fault(at, "it is no line of a way back")),
        }
    }
    Err(fault(0, "its end is missing"))
}

fn fault(number: usize, reason: &'static str) -> LineFault {
    LineFault { number, reason }
}

fn parse_before(what: &str, value: &str) -> Option<PriorState> {
    Some(match what {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn sample() -> UndoLog {
        let path = |s: &str| TreePath::new(s).expect("good");
        let (old, new) = (Mtime { seconds: -5, nanos: 7 }, Mtime { seconds: 5, nanos: 0 });
        let befores = [
            ("etc/a b\n", PriorState::Existed(1)),
            ("new", PriorState::Missing(2)),
            ("new/inside", PriorState::Missing(0)),
            ("gone", PriorState::AlreadyGone),
            ("f", PriorState::Time { old, new }),
            ("boot", PriorState::DirectoryTime(old)),
        ];
        let fact = |(at, before)| UndoRecord { filesystem: 1, path: path(at), before };
        let facts = befores.into_iter().map(fact).collect();
        let made = Some(GenerationId(Digest([0xab; 32])));
        UndoLog { made, tops: vec![TreePath::root(), path("boot")], facts, directories: Vec::new() }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(parse(&sample().text()), Ok(sample()));
    }

    #[test]
    fn a_cut_or_foreign_way_back_is_refused() {
        let whole = sample().text();
        for cut in 0..whole.len() - 1 {
            assert!(parse(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for (from, to) in [
            ("si-undo 1", "si-undo 2"),
            ("made ab", "made xy"),
            ("stood 1 1", "stood 1 9"),
            ("nothing", "something"),
        ] {
            assert!(parse(&whole.replacen(from, to, 1)).is_err(), "{to}");
        }
    }

    #[test]
    fn the_format_is_frozen() {
        assert_eq!(sample().text(), include_str!("../../../tests/testdata/undo/v1"));
    }
}
