//! The files of the redo journal: writing them is the commit, reading them the recovery.

use std::io::Read;

use crate::apply::error::{FormatFault, Interrupted, JournalError, StageError, Untouched};
use crate::apply::journal::{CommitRecord, Journal, JournalState, codec};
use crate::apply::notice::ApplyNotice;
use crate::apply::on_disk::{
    AGENT, APPLIED, CLOSED_JOURNAL, DIRECTORIES, JOURNAL, MANIFEST, PINNED, REVERSED, STAGE_DIR,
    STATE, SYNCED, name,
};
use crate::entry::Mtime;
use crate::image::ImageName;
use crate::manifest::{parse_entries, parse_path, path_text, write_entries};
use crate::report::Monitor;
use crate::root::{Rename, Root, RootError};
use crate::tree_path::TreePath;

/// Largest file of a journal in bytes: ten million changes with long paths need less.
const MAX_JOURNAL: u64 = 4 << 30;

/// Commits a transaction.
///
/// All files beside the journal are durable before the journal is renamed into place.
pub fn seal(root: &Root, journal: &Journal, monitor: &dyn Monitor) -> Result<(), StageError> {
    // If the journal is visible but not known to be durable, it must not stay: the caller is going
    // to remove the stage that it refers to.
    write(root, journal, monitor).map_err(|write| match discard(root) {
        Ok(()) => Untouched::from_root(write).into(),
        Err(removal) => Interrupted::CommitUnknown { write, removal }.into(),
    })
}

fn write(root: &Root, journal: &Journal, monitor: &dyn Monitor) -> Result<(), RootError> {
    let stage = root.below(&name(STAGE_DIR))?;
    keep_agent(&stage, monitor)?;

    let mut directories = Vec::new();
    // Writing to memory does not fail.
    let _ = write_entries(&journal.directories, &mut directories);
    stage.write_durably(&name(DIRECTORIES), &directories, 0o600)?;

    let record = &journal.record;
    let parts = [
        (STATE, record.state.as_ref().map(String::as_bytes)),
        (MANIFEST, record.manifest.as_deref()),
        (PINNED, record.pinned.as_ref().map(String::as_bytes)),
        (SYNCED, record.synced.as_ref().map(|image| image.as_str().as_bytes())),
    ];
    for (part, bytes) in parts {
        match bytes {
            Some(bytes) => stage.write_durably(&name(part), bytes, 0o600)?,
            None => stage.unlink(&name(part))?,
        }
    }

    stage.unlink(&name(APPLIED))?;
    stage.unlink(&name(REVERSED))?;
    // The name of the stage itself has to be durable before the journal in it.
    root.sync_dir(&TreePath::root())?;
    stage.write_durably(&name(JOURNAL), codec::write(journal).as_bytes(), 0o600)
}

/// Keeps this program beside the journal, so that the version that wrote it can complete it.
///
/// Every later version can complete it too, so a failure is only a warning.
fn keep_agent(stage: &Root, monitor: &dyn Monitor) -> Result<(), RootError> {
    let agent = name(AGENT);
    stage.unlink(&agent)?;
    if let Err(error) = stage.store_running_program(&agent) {
        monitor.warn(ApplyNotice::AgentNotKept { error });
        stage.unlink(&agent)?;
    }
    Ok(())
}

/// Removes a journal that may have become visible.
fn discard(root: &Root) -> Result<(), RootError> {
    let stage = root.below(&name(STAGE_DIR))?;
    stage.unlink(&name(JOURNAL))?;
    stage.sync_dir(&TreePath::root())
}

/// Reads the journal, with the files beside it.
pub fn find(root: &Root) -> Result<JournalState, JournalError> {
    let Some(stage) = open_stage(root)? else { return Ok(JournalState::Nothing) };
    if let Some(text) = read(&stage, JOURNAL)? {
        return Ok(JournalState::Sealed(load(&stage, JOURNAL, text)?));
    }
    match read(&stage, CLOSED_JOURNAL)? {
        Some(text) => Ok(JournalState::Done(load(&stage, CLOSED_JOURNAL, text)?)),
        None => Ok(JournalState::Nothing),
    }
}

/// Reads the journal file alone, for a caller without the lock.
///
/// The run that owns the journal may end at any moment, so a missing or invalid file is `None`;
/// [`find`] reports it later.
pub fn peek(root: &Root) -> Result<Option<Journal>, RootError> {
    peek_file(root, JOURNAL)
}

/// Same as [`peek`], for the journal of a transaction that has ended.
pub fn peek_closed(root: &Root) -> Result<Option<Journal>, RootError> {
    peek_file(root, CLOSED_JOURNAL)
}

fn peek_file(root: &Root, file: &str) -> Result<Option<Journal>, RootError> {
    let Some(stage) = open_stage(root)? else { return Ok(None) };
    let text = read(&stage, file)?.and_then(|text| String::from_utf8(text).ok());
    Ok(text.and_then(|text| codec::parse(&text).ok()))
}

fn open_stage(root: &Root) -> Result<Option<Root>, RootError> {
    match root.below(&name(STAGE_DIR)) {
        Err(error) if error.is_absent() => Ok(None),
        stage => stage.map(Some),
    }
}

fn load(stage: &Root, file: &str, text: Vec<u8>) -> Result<Journal, JournalError> {
    let invalid = |fault| JournalError::Invalid { path: stage.show(&name(file)), fault };
    let text = String::from_utf8(text).map_err(|_| invalid(FormatFault::NotText))?;
    let journal = codec::parse(&text).map_err(|fault| invalid(FormatFault::Line(fault)))?;

    let directories = match read(stage, DIRECTORIES)? {
        Some(directories) => parse_entries(directories.as_slice())
            .map_err(|error| invalid(FormatFault::Directories(error.into())))?,
        // A stage is removed file by file.
        None if file == CLOSED_JOURNAL => Vec::new(),
        None => return Err(invalid(FormatFault::PartMissing(DIRECTORIES))),
    };

    let read_text = |part| -> Result<Option<String>, JournalError> {
        let text = read(stage, part)?.map(String::from_utf8).transpose();
        text.map_err(|_| invalid(FormatFault::PartNotText(part)))
    };
    let synced = match read_text(SYNCED)?.map(|name| name.parse::<ImageName>()).transpose() {
        Ok(synced) => synced,
        Err(error) => {
            let source = error.into();
            return Err(invalid(FormatFault::PartInvalid { name: SYNCED, source }));
        }
    };
    let (state, pinned) = (read_text(STATE)?, read_text(PINNED)?);
    let record = CommitRecord { state, manifest: read(stage, MANIFEST)?, pinned, synced };
    Ok(Journal { directories, record, ..journal })
}

fn read(stage: &Root, file: &str) -> Result<Option<Vec<u8>>, RootError> {
    let open = match stage.open_file(&name(file)) {
        Err(error) if error.is_absent() => return Ok(None),
        answer => answer?,
    };
    let mut bytes = Vec::new();
    open.take(MAX_JOURNAL).read_to_end(&mut bytes).map_err(|source| RootError {
        operation: "read",
        path: stage.show(&name(file)),
        source,
    })?;
    Ok(Some(bytes))
}

/// Time of the commit, by the clock of the root's filesystem.
pub fn sealed_at(root: &Root) -> Result<Mtime, RootError> {
    let stat = root.below(&name(STAGE_DIR))?.stat(&name(JOURNAL))?;
    Ok(stat.map_or(Mtime { seconds: i64::MAX, nanos: 0 }, |stat| stat.mtime))
}

/// Records, durably, that all actions are done and that the state is not recorded.
///
/// `state` has the deviations that the roll forward found; it replaces the state beside the journal.
/// `unmounted` are the mount roots without a filesystem, for which the state has to wait.
pub fn mark_applied(
    root: &Root,
    state: Option<&str>,
    unmounted: &[TreePath],
) -> Result<(), RootError> {
    let stage = root.below(&name(STAGE_DIR))?;
    if let Some(state) = state {
        stage.write_durably(&name(STATE), state.as_bytes(), 0o600)?;
    }
    let list: String = unmounted.iter().map(|path| path_text(path) + "\n").collect();
    stage.write_durably(&name(APPLIED), list.as_bytes(), 0o600)
}

/// Mount roots without a filesystem when all actions were done; `None` if actions are pending.
pub fn read_applied(root: &Root) -> Result<Option<Vec<TreePath>>, RootError> {
    let Some(stage) = open_stage(root)? else { return Ok(None) };
    let list = read(&stage, APPLIED)?;
    Ok(list.map(|list: Vec<u8>| {
        list.split(|&byte| byte == b'\n').filter_map(|line| parse_path(line).ok()).collect()
    }))
}

/// Marks, durably, that the transaction is being reversed: no later run carries out the journal.
pub fn begin_reversal(root: &Root) -> Result<(), RootError> {
    root.below(&name(STAGE_DIR))?.write_durably(&name(REVERSED), b"", 0o600)
}

/// Whether the transaction is being reversed.
pub fn is_reversing(root: &Root) -> Result<bool, RootError> {
    let Some(stage) = open_stage(root)? else { return Ok(false) };
    Ok(stage.stat(&name(REVERSED))?.is_some())
}

/// Ends a reversed transaction, durably: its stages may be removed.
pub fn end_reversal(root: &Root) -> Result<(), RootError> {
    let stage = root.below(&name(STAGE_DIR))?;
    stage.unlink(&name(JOURNAL))?;
    stage.sync_dir(&TreePath::root())
}

/// Ends a transaction: only its backups and stages are left to be cleaned up.
pub fn close(root: &Root) -> Result<(), RootError> {
    let stage = root.below(&name(STAGE_DIR))?;
    stage.rename(&name(JOURNAL), &stage, &name(CLOSED_JOURNAL), Rename::Replace)
}

/// Makes the end of a transaction durable; only then may its stages be removed.
pub fn sync_close(root: &Root) -> Result<(), RootError> {
    root.below(&name(STAGE_DIR))?.sync_dir(&TreePath::root())
}
