//! Programs that belong to a tree, and how they are run in it.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::root::{FileKind, Root, RootError};
use crate::tree_path::TreePath;

use super::confinement::WriteAccess;
use super::environment::{PATH, of_tree_programs};
use super::error::ProcessError;
use super::output::OutputSink;
use super::run::{ProcessCall, ProcessOutcome, run};

/// Largest number of symlinks that one lookup follows, as in the kernel.
const MAX_SYMLINKS: usize = 40;

/// The programs of a tree.
///
/// Programs of the running system are executed directly. Programs of any other tree are executed
/// by the system's `chroot`: that tree is all they can see, and `/proc`, `/sys` and `/dev` are
/// available only if they are mounted in it.
pub struct Programs<'a> {
    root: &'a Root,
    is_running_system: bool,
}

/// One run of a program of a tree.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// Path of the program in the tree.
    pub program: &'a TreePath,
    /// Arguments after the program's name.
    pub arguments: &'a [OsString],
    /// Variables in addition to the fixed environment.
    pub environment: &'a [(OsString, OsString)],
    /// Bytes for standard input.
    pub input: &'a [u8],
    /// Time after which the program is killed.
    pub time_limit: Duration,
}

impl<'a> Programs<'a> {
    /// Finds out whether the tree at `root` is the running system.
    pub fn open(root: &'a Root) -> Result<Self, RootError> {
        Ok(Programs { root, is_running_system: root.is_running_system()? })
    }

    /// Whether the tree is the running system.
    pub fn is_running_system(&self) -> bool {
        self.is_running_system
    }

    /// Path of the program `name`, in the first directory of [`PATH`] that has it.
    pub fn find(&self, name: &str) -> Result<Option<TreePath>, RootError> {
        for directory in PATH.split(':') {
            let path = format!("{}/{name}", directory.trim_start_matches('/'));
            let Ok(path) = TreePath::new(path) else { continue };
            if self.is_program(&path)? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Whether `path` is, possibly through symlinks, an executable regular file.
    pub fn is_program(&self, path: &TreePath) -> Result<bool, RootError> {
        let Some(path) = resolve_symlinks(self.root, path)? else { return Ok(false) };
        let stat = self.root.stat(&path)?;
        Ok(stat.is_some_and(|stat| stat.kind == FileKind::File && stat.mode & 0o111 != 0))
    }

    /// Runs a program of the tree and passes its output to `sink`.
    pub fn run(
        &self,
        task: &Task<'_>,
        sink: &mut OutputSink<'_>,
    ) -> Result<ProcessOutcome, ProcessError> {
        let mut environment = of_tree_programs();
        environment.extend(task.environment.iter().cloned());

        let mut program = OsString::from("/");
        program.push(task.program.as_os_str());
        let mut arguments = Vec::new();
        if !self.is_running_system {
            // The top of the tree is the working directory, so `.` needs no path to it.
            arguments.extend([OsString::from("."), program]);
            program = "chroot".into();
        }
        arguments.extend(task.arguments.iter().cloned());

        let call = ProcessCall {
            program: OsStr::new(&program),
            arguments: &arguments,
            environment: &environment,
            working_dir: Some(self.root.as_fd()),
            input: task.input,
            deadline: Some(Instant::now() + task.time_limit),
            max_file_size: None,
            write_access: WriteAccess::Everywhere,
        };
        run(&call, sink)
    }
}

/// Resolves all symlinks of `path` within the tree, as the kernel does after `chroot`.
///
/// `None` if the path does not exist, or has more symlinks than the kernel follows.
pub fn resolve_symlinks(root: &Root, path: &TreePath) -> Result<Option<TreePath>, RootError> {
    let mut pending: Vec<Box<[u8]>> = path.components().map(Into::into).collect();
    pending.reverse();
    let mut resolved = TreePath::root();
    let mut symlinks = 0;

    while let Some(name) = pending.pop() {
        match &*name {
            b"" | b"." => continue,
            b".." => {
                resolved = resolved.parent().unwrap_or_else(TreePath::root);
                continue;
            }
            _ => {}
        }

        let Ok(next) = resolved.join(&name) else { return Ok(None) };
        let Some(stat) = root.stat(&next)? else { return Ok(None) };
        if stat.kind != FileKind::Symlink {
            resolved = next;
            continue;
        }

        symlinks += 1;
        if symlinks > MAX_SYMLINKS {
            return Ok(None);
        }
        let target = root.read_link(&next)?;
        if target.starts_with(b"/") {
            resolved = TreePath::root();
        }
        pending.extend(target.split(|&byte| byte == b'/').rev().map(Box::from));
    }
    Ok(Some(resolved))
}
