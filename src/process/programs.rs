//! The programs that a tree has, run where they belong.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::root::{FileKind, Root, RootError};
use crate::tree_path::TreePath;

use super::{Hear, ProcessCall, ProcessError, ProcessOutcome, run};

/// Where programs are looked for, and where they look for others.
pub const PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";
/// What every program gets besides; nothing is taken over from the environment of this one.
const ENVIRONMENT: [(&str, &str); 4] =
    [("PATH", PATH), ("LC_ALL", "C"), ("HOME", "/root"), ("TERM", "dumb")];
/// As many symlinks as the kernel follows.
const MAX_LINKS: usize = 40;

/// The programs of a tree.
///
/// Those of the running system are run as they are. Those of any other tree are run in it, by the system's
/// `chroot`: they see that tree as all there is, and only as much of `/proc`, `/sys` and `/dev` as is
/// mounted in it.
pub struct Programs<'a> {
    root: &'a Root,
    running: bool,
}

/// What a program of a tree is to do.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// The program.
    pub program: &'a TreePath,
    /// What it is told.
    pub arguments: &'a [OsString],
    /// What its environment has beyond the fixed one.
    pub environment: &'a [(OsString, OsString)],
    /// What it reads from its standard input.
    pub input: &'a [u8],
    /// After so long it is killed.
    pub longest: Duration,
}

impl<'a> Programs<'a> {
    /// Those of the tree at `root`.
    pub fn of(root: &'a Root) -> Result<Self, RootError> {
        Ok(Programs { root, running: root.is_running_system()? })
    }

    /// Whether the tree is the running system.
    pub fn are_running_systems(&self) -> bool {
        self.running
    }

    /// The program that is called `name`, from the first directory of [`PATH`] that has it.
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

    /// Whether `path` is, or leads to, a regular file that may be executed.
    pub fn is_program(&self, path: &TreePath) -> Result<bool, RootError> {
        let Some(path) = follow(self.root, path)? else { return Ok(false) };
        let stat = self.root.stat(&path)?;
        Ok(stat.is_some_and(|stat| stat.kind == FileKind::File && stat.mode & 0o111 != 0))
    }

    /// Runs a program of the tree and tells `hear` what it prints.
    pub fn run(
        &self,
        task: &Task<'_>,
        hear: &mut Hear<'_>,
    ) -> Result<ProcessOutcome, ProcessError> {
        let fixed =
            ENVIRONMENT.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let environment: Vec<(OsString, OsString)> =
            fixed.chain(task.environment.iter().cloned()).collect();
        let mut program = OsString::from("/");
        program.push(task.program.as_os_str());
        let mut arguments = Vec::new();
        if !self.running {
            // `chroot` goes to the top of the tree itself, which is its working directory.
            arguments.extend([OsString::from("."), program.clone()]);
            program = "chroot".into();
        }
        arguments.extend(task.arguments.iter().cloned());
        let call = ProcessCall {
            program: OsStr::new(&program),
            arguments: &arguments,
            environment: &environment,
            inside: Some(self.root.as_fd()),
            input: task.input,
            deadline: Some(Instant::now() + task.longest),
            largest_file: None,
        };
        run(&call, hear)
    }
}

/// Where `path` leads when the tree is all there is: symlinks are followed, also on the way, as the kernel
/// does after a `chroot`. `None` where nothing stands there.
pub fn follow(root: &Root, path: &TreePath) -> Result<Option<TreePath>, RootError> {
    let mut left: Vec<Box<[u8]>> = path.components().map(Into::into).collect();
    left.reverse();
    let (mut at, mut links) = (TreePath::root(), 0);
    while let Some(name) = left.pop() {
        match &*name {
            b"" | b"." => continue,
            b".." => {
                at = at.parent().unwrap_or_else(TreePath::root);
                continue;
            }
            _ => {}
        }
        let Ok(next) = at.join(&name) else { return Ok(None) };
        let Some(stat) = root.stat(&next)? else { return Ok(None) };
        if stat.kind != FileKind::Symlink {
            at = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Ok(None);
        }
        let text = root.read_link(&next)?;
        if text.starts_with(b"/") {
            at = TreePath::root();
        }
        left.extend(text.split(|&b| b == b'/').rev().map(Box::from));
    }
    Ok(Some(at))
}
