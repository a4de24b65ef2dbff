//! Privileges of replaced programs: removed from the backups, and set again by a rollback.
//!
//! An update that replaces a set-id program often closes a hole in it. The old inode must not keep
//! its privileges: a user may have it open, or may have another link to it. So they are recorded
//! beside the backups before the commit point, and removed after the renames. A rollback sets them
//! before its own renames. Both can be repeated.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::iter::successors;

use crate::apply::error::{FormatFault, LineFault, UndoLogError};
use crate::apply::filesystem::stage_dirs::Stages;
use crate::apply::notice::ApplyNotice;
use crate::apply::on_disk::{PRIVILEGES, name, slot_name};
use crate::apply::plan::{Action, Change, ChangePlan};
use crate::apply::undo::undo_log::read_file;
use crate::entry::Xattrs;
use crate::manifest::{parse_path, path_text};
use crate::report::Monitor;
use crate::root::{CAPABILITY, Privileges, ProgramIdentity, Root, RootError, Stat};
use crate::tree_path::TreePath;

/// First line of the file.
const HEAD: &str = "si-privileges 1";

/// Privileges of the programs among the backups, by filesystem and path in the backups.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::apply) struct BackupPrivileges(BTreeMap<(usize, TreePath), PrivilegedProgram>);

#[derive(Debug, PartialEq, Eq)]
struct PrivilegedProgram {
    identity: ProgramIdentity,
    privileges: Privileges,
}

impl BackupPrivileges {
    /// Reads the file beside an undo log; an undo set without privileged programs has none.
    pub(in crate::apply) fn read(dir: &Root) -> Result<Self, UndoLogError> {
        let Some(text) = read_file(dir, PRIVILEGES)? else { return Ok(Self::default()) };
        let invalid = |fault| UndoLogError::Invalid { path: dir.show(&name(PRIVILEGES)), fault };
        let text = String::from_utf8(text).map_err(|_| invalid(FormatFault::NotText))?;
        parse(&text).map_err(|fault| invalid(FormatFault::Line(fault)))
    }

    /// The stat that a backup has with its privileges.
    pub(super) fn with_mode(&self, filesystem: usize, place: &TreePath, stat: Stat) -> Stat {
        match self.find(filesystem, place, &stat) {
            Some(privileges) => Stat { mode: privileges.mode, ..stat },
            None => stat,
        }
    }

    /// The extended attributes that a backup has with its privileges.
    pub(super) fn with_capability(
        &self,
        filesystem: usize,
        place: &TreePath,
        stat: &Stat,
        mut xattrs: Xattrs,
    ) -> Xattrs {
        let privileges = self.find(filesystem, place, stat);
        if let Some(value) = privileges.and_then(|privileges| privileges.capability.clone()) {
            xattrs.insert(CAPABILITY.into(), value);
        }
        xattrs
    }

    fn find(&self, filesystem: usize, place: &TreePath, stat: &Stat) -> Option<&Privileges> {
        let found = self.0.get(&(filesystem, place.clone()))?;
        found.identity.matches(stat).then_some(&found.privileges)
    }

    fn text(&self) -> String {
        let mut text = format!("{HEAD}\n");
        for ((filesystem, place), PrivilegedProgram { identity, privileges }) in &self.0 {
            let capability = match &privileges.capability {
                Some(value) => faster_hex::hex_string(value),
                None => "-".to_owned(),
            };
            let ProgramIdentity { inode, uid, gid, size, mtime } = identity;
            let inode = inode.map_or_else(|| "-".to_owned(), |inode| inode.to_string());
            let (mode, place) = (privileges.mode, path_text(place));
            text += &format!("{mode:04o} {capability} {uid} {gid} {size} {mtime} {inode} ");
            text += &format!("{filesystem} {place}\n");
        }
        text + &format!("end {}\n", self.0.len())
    }
}

/// Records the privileges of all programs that `plan` replaces or removes, durably.
///
/// An inode that a tracked path keeps is still in use and is left out. A warning names an inode
/// with a link that is no path of this tree's generation.
pub(in crate::apply) fn record_privileges(
    root: &Root,
    stages: &Stages,
    plan: &ChangePlan,
    monitor: &dyn Monitor,
) -> Result<(), RootError> {
    let Some(backups) = stages.backups(0) else { return Ok(()) };
    let places = BackupPlaces::new(&plan.changes);
    // The node's own programs stay as they are, also if they are moved away.
    let displaced: HashSet<&TreePath> = plan.displaced.iter().collect();
    let moved: Vec<(&Change, (usize, TreePath))> = plan
        .changes
        .iter()
        .filter(|change| !displaced.contains(&change.path))
        .filter_map(|change| Some((change, places.find(change)?)))
        .collect();

    let paths: Vec<&TreePath> = moved.iter().map(|(change, _)| &change.path).collect();
    let programs: Vec<_> = moved
        .into_iter()
        .zip(read_each(root, &paths)?)
        .filter_map(|((change, place), program)| Some((&change.path, place, program?)))
        .collect();
    if programs.is_empty() {
        return Ok(());
    }

    let mut links: HashMap<(u64, u64), u64> = HashMap::new();
    for (_, _, (stat, _)) in &programs {
        *links.entry((stat.dev, stat.ino)).or_default() += 1;
    }
    let kept = KeptPrograms::new(plan);
    let mut recorded = BackupPrivileges::default();
    for (path, place, (stat, privileges)) in programs {
        let Some(known) = links.get_mut(&(stat.dev, stat.ino)) else { continue };
        if stat.links > *known {
            if kept.has_inode(root, &stat)? {
                continue;
            }
            let (path, inode, count) = (root.show(path), stat.ino, stat.links - *known);
            monitor.warn(ApplyNotice::PrivilegesOfOtherLinks { path, inode, count });
            // One warning for each inode.
            *known = stat.links;
        }
        let identity = identify(&place.1, &stat);
        recorded.0.insert(place, PrivilegedProgram { identity, privileges });
    }
    if recorded.0.is_empty() {
        return Ok(());
    }
    backups.write_durably(&name(PRIVILEGES), recorded.text().as_bytes(), 0o600)
}

/// The identity by which a program is found at `place` among the backups.
///
/// In a slot only root can exchange it. In a directory that was moved to a slot, a user who has that
/// directory open can put a file of his own in its place.
fn identify(place: &TreePath, stat: &Stat) -> ProgramIdentity {
    let is_in_directory = place.parent().is_some_and(|parent| !parent.is_root());
    let inode = (is_in_directory && stat.uid != 0).then_some(stat.ino);
    ProgramIdentity { inode, ..ProgramIdentity::new(stat) }
}

/// Stat and privileges of each path that is a privileged program.
///
/// A path of a user that cannot be inspected is left out here, and by the roll forward.
fn read_each(
    root: &Root,
    paths: &[&TreePath],
) -> Result<Vec<Option<(Stat, Privileges)>>, RootError> {
    match root.privileges_each(paths) {
        Err(error) if error.is_of_path() => {}
        answer => return answer,
    }
    let read = |path: &&TreePath| match root.privileges_each(&[path]) {
        Err(error) if error.is_of_path() && root.is_writable_by_others(path)? => Ok(None),
        answer => Ok(answer?.pop().flatten()),
    };
    paths.iter().map(read).collect()
}

/// Removes the recorded privileges from the backups, after all renames.
///
/// The backups in `left_out`, by filesystem and slot, are links of programs that are still in use in
/// the tree.
pub(in crate::apply) fn remove_privileges(
    stages: &Stages,
    left_out: &HashSet<(usize, TreePath)>,
    monitor: &dyn Monitor,
) -> Result<(), UndoLogError> {
    let Some(backups) = stages.backups(0) else { return Ok(()) };
    for ((filesystem, place), program) in &BackupPrivileges::read(backups)?.0 {
        if left_out.contains(&(*filesystem, place.clone())) {
            continue;
        }
        let Some(backups) = stages.backups(*filesystem) else { continue };
        remove_from(backups, place, program, monitor)?;
    }
    Ok(())
}

/// Sets the recorded privileges of all backups, before a reversal restores them.
pub(in crate::apply) fn restore_backup_privileges(stages: &Stages) -> Result<(), UndoLogError> {
    let Some(backups) = stages.backups(0) else { return Ok(()) };
    for ((filesystem, place), program) in &BackupPrivileges::read(backups)?.0 {
        if let Some(backups) = stages.backups(*filesystem) {
            backups.set_privileges(place, &program.identity, &program.privileges)?;
        }
    }
    Ok(())
}

/// Removes the recorded privileges from an undo set whose rollback was reversed.
pub(in crate::apply) fn remove_staged_privileges(
    stages: &Stages,
    monitor: &dyn Monitor,
) -> Result<(), UndoLogError> {
    let Some(undo_set) = stages.staged(0) else { return Ok(()) };
    for ((filesystem, place), program) in &BackupPrivileges::read(undo_set)?.0 {
        if let Some(staged) = stages.staged(*filesystem) {
            remove_from(staged, place, program, monitor)?;
        }
    }
    Ok(())
}

fn remove_from(
    dir: &Root,
    place: &TreePath,
    program: &PrivilegedProgram,
    monitor: &dyn Monitor,
) -> Result<(), RootError> {
    match dir.remove_privileges(place, &program.identity) {
        // The inode was made immutable after the commit point.
        Err(error) if error.is_forbidden() => {
            monitor.warn(ApplyNotice::PrivilegesKept { error });
            Ok(())
        }
        removed => removed,
    }
}

/// Sets the recorded privileges of the backups that a rollback will install.
pub(in crate::apply) fn restore_privileges(
    stages: &Stages,
    changes: &[Change],
) -> Result<(), UndoLogError> {
    let Some(undo_set) = stages.staged(0) else { return Ok(()) };
    let privileges = BackupPrivileges::read(undo_set)?;
    if privileges.0.is_empty() {
        return Ok(());
    }

    for change in changes {
        let (Action::Install { slot } | Action::Exchange { slot, .. }) = change.action else {
            continue;
        };
        let Some(staged) = stages.staged(change.filesystem) else { continue };
        let slot = slot_name(slot);
        let in_slot = privileges.0.iter().filter(|((filesystem, place), _)| {
            *filesystem == change.filesystem && (*place == slot || place.is_below(&slot))
        });
        for ((_, place), program) in in_slot {
            staged.set_privileges(place, &program.identity, &program.privileges)?;
        }
    }
    Ok(())
}

/// Places among the backups to which the actions of a plan move objects.
struct BackupPlaces<'a>(HashMap<&'a TreePath, (usize, u32)>);

impl<'a> BackupPlaces<'a> {
    fn new(changes: &'a [Change]) -> Self {
        let slots = changes.iter().filter_map(|change| match change.action {
            Action::Install { slot }
            | Action::Exchange { slot, .. }
            | Action::MakeDir { slot }
            | Action::Remove { slot }
            | Action::RemoveTree { slot } => Some((&change.path, (change.filesystem, slot))),
            _ => None,
        });
        BackupPlaces(slots.collect())
    }

    /// Filesystem and path among the backups of the object at the path of `change`.
    fn find(&self, change: &Change) -> Option<(usize, TreePath)> {
        // A covered path is moved with the nearest directory above it that has a slot.
        let top = match change.action {
            Action::CoveredByParent => successors(change.path.parent(), TreePath::parent)
                .find(|directory| self.0.contains_key(directory))?,
            _ => change.path.clone(),
        };
        let &(filesystem, slot) = self.0.get(&top)?;
        let below = &change.path.as_bytes()[top.as_bytes().len()..];
        let place = [slot_name(slot).as_bytes(), below].concat();
        Some((filesystem, TreePath::new(place).ok()?))
    }
}

/// Privileged programs of the target that stay as they are.
struct KeptPrograms<'a>(Vec<&'a TreePath>);

impl<'a> KeptPrograms<'a> {
    fn new(plan: &'a ChangePlan) -> Self {
        let changed = BackupPlaces::new(&plan.changes);
        let kept = plan.privileged_paths.iter().chain(&plan.kernel_paths);
        KeptPrograms(kept.filter(|path| !changed.0.contains_key(path)).collect())
    }

    fn has_inode(&self, root: &Root, stat: &Stat) -> Result<bool, RootError> {
        let found = root.stat_each(&self.0)?;
        Ok(found
            .iter()
            .flatten()
            .flatten()
            .any(|kept| (kept.dev, kept.ino) == (stat.dev, stat.ino)))
    }
}

fn parse(text: &str) -> Result<BackupPrivileges, LineFault> {
    let fault = |number, reason| LineFault { number, reason };
    let mut lines = text.lines().zip(1..);
    if lines.next().map(|(line, _)| line) != Some(HEAD) {
        return Err(fault(1, "it is of a format that this program does not know"));
    }

    let mut found = BTreeMap::new();
    for (line, number) in lines {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["end", count] if count.parse() == Ok(found.len()) => {
                return Ok(BackupPrivileges(found));
            }
            [mode, capability, uid, gid, size, mtime, inode, filesystem, place] => {
                let invalid = fault(number, "it is no record of privileges");
                let capability = match *capability {
                    "-" => None,
                    value => Some(decode_hex(value).ok_or(invalid)?),
                };
                let mode = u16::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777);
                let privileges = Privileges { mode: mode.ok_or(invalid)?, capability };
                let identity = ProgramIdentity {
                    inode: match *inode {
                        "-" => None,
                        number => Some(number.parse().map_err(|_| invalid)?),
                    },
                    uid: uid.parse().map_err(|_| invalid)?,
                    gid: gid.parse().map_err(|_| invalid)?,
                    size: size.parse().map_err(|_| invalid)?,
                    mtime: mtime.parse().map_err(|()| invalid)?,
                };
                let filesystem = filesystem.parse().map_err(|_| invalid)?;
                let place = parse_path(place.as_bytes()).map_err(|reason| fault(number, reason))?;
                found.insert((filesystem, place), PrivilegedProgram { identity, privileges });
            }
            _ => return Err(fault(number, "unknown record of privileges")),
        }
    }
    Err(fault(0, "its end is missing"))
}

fn decode_hex(text: &str) -> Option<Box<[u8]>> {
    let mut bytes = vec![0; text.len() / 2];
    let is_whole = text.len() == 2 * bytes.len();
    let decoded = faster_hex::hex_decode(text.as_bytes(), &mut bytes);
    (is_whole && decoded.is_ok()).then(|| bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Mtime;

    fn sample() -> BackupPrivileges {
        let path = |text: &str| TreePath::new(text).expect("a valid path");
        let program = |inode, mode, capability: Option<&[u8]>| PrivilegedProgram {
            identity: ProgramIdentity {
                inode,
                uid: 0,
                gid: 5,
                size: 48_144,
                mtime: Mtime { seconds: -5, nanos: 7 },
            },
            privileges: Privileges { mode, capability: capability.map(Into::into) },
        };
        BackupPrivileges(BTreeMap::from([
            ((0, path("3")), program(None, 0o4755, None)),
            ((1, path("4294967295/bin/a b")), program(Some(u64::MAX), 0o755, Some(&[1, 0, 0xff]))),
        ]))
    }

    #[test]
    fn format_is_frozen() {
        let frozen = include_str!("../../../tests/testdata/undo/v2-privileges");

        assert_eq!(sample().text(), frozen);
        assert_eq!(parse(frozen), Ok(sample()));
    }

    #[test]
    fn truncated_and_foreign_files_are_refused() {
        let text = sample().text();

        for length in 0..text.len() - 1 {
            assert!(parse(&text[..length]).is_err(), "the first {length} bytes");
        }
        for (from, to) in [
            ("si-privileges 1", "si-privileges 2"),
            ("4755", "14755"),
            ("4755", "x"),
            ("0100ff", "0100f"),
            (" 48144 ", " -1 "),
            ("./3", "3"),
            ("./3", "./../3"),
            ("end 2", "end 1"),
        ] {
            assert!(parse(&text.replacen(from, to, 1)).is_err(), "{to}");
        }
    }

    #[test]
    fn covered_path_is_placed_in_slot_of_nearest_directory() {
        let change = |path: &str, action| Change {
            filesystem: 0,
            path: TreePath::new(path).expect("a valid path"),
            action,
        };
        let changes = [
            change("opt", Action::Exchange { slot: 1, to_directory: false }),
            change("opt/a/tool", Action::CoveredByParent),
            change("usr/tool", Action::Install { slot: 2 }),
            change("usr/other", Action::CoveredByParent),
        ];

        let places = BackupPlaces::new(&changes);
        let found = changes.iter().map(|change| places.find(change).map(|(_, place)| place));

        let place = |text: &str| Some(TreePath::new(text).expect("a valid path"));
        assert!(found.eq([place("1"), place("1/a/tool"), place("2"), None]));
    }
}
