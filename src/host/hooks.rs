//! Hooks: programs of the administrator that run before or after an update.
//!
//! They are in `etc/systemimager/hooks.d/pre-update.d` and `post-update.d` of the tree, and run in
//! the order of their names, byte by byte. Files that are not executable are ignored, and so are
//! hidden names and the backup files of editors and package managers.

use crate::process::{Programs, resolve_symlinks};
use crate::root::{Root, RootError};
use crate::tree_path::TreePath;

/// Ends of the names of backup files.
const BACKUP_ENDS: [&str; 6] = ["~", ".bak", ".old", ".orig", ".swp", "#"];
/// Other parts of the names of backup files.
const BACKUP_PARTS: [&str; 2] = [".dpkg-", ".rpm"];

/// Time at which a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookPhase {
    /// All checks have passed, and nothing is changed.
    Before,
    /// The update is complete and recorded.
    After,
}

impl HookPhase {
    /// The directory with the hooks of this phase.
    pub fn directory(self) -> &'static str {
        match self {
            HookPhase::Before => "etc/systemimager/hooks.d/pre-update.d",
            HookPhase::After => "etc/systemimager/hooks.d/post-update.d",
        }
    }

    /// The name of the phase for hooks.
    pub fn word(self) -> &'static str {
        match self {
            HookPhase::Before => "pre",
            HookPhase::After => "post",
        }
    }
}

/// Lists the hooks of a tree in the order in which they run.
pub fn list_hooks(root: &Root, phase: HookPhase) -> Result<Vec<TreePath>, RootError> {
    let directory = TreePath::new(phase.directory()).unwrap_or_else(|_| TreePath::root());
    let resolved = resolve_symlinks(root, &directory)?.filter(|directory| !directory.is_root());
    let Some(directory) = resolved else { return Ok(Vec::new()) };

    let programs = Programs::open(root)?;
    let mut hooks = Vec::new();
    for (path, _) in root.children(&directory)? {
        if is_hook_name(path.name()) && programs.is_program(&path)? {
            hooks.push(path);
        }
    }
    hooks.sort_unstable_by(|a, b| a.name().cmp(b.name()));
    Ok(hooks)
}

fn is_hook_name(name: &[u8]) -> bool {
    let is_hidden = name.starts_with(b".");
    let is_backup = BACKUP_ENDS.iter().any(|end| name.ends_with(end.as_bytes()))
        || BACKUP_PARTS
            .iter()
            .any(|part| name.windows(part.len()).any(|window| window == part.as_bytes()));
    !is_hidden && !is_backup
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn backup_and_hidden_file_not_hook() {
        for hook in ["10-drain", "drain.sh", "a b", "rpm", "dpkg", "z"] {
            assert!(is_hook_name(hook.as_bytes()), "{hook}");
        }
        for other in [
            ".hidden",
            "10-drain~",
            "#10-drain#",
            "a.bak",
            "a.dpkg-old",
            "a.dpkg-dist",
            "a.rpmnew",
            "a.rpmsave",
            "a.orig",
            ".a.swp",
        ] {
            assert!(!is_hook_name(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn hooks_listed_in_byte_order() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let real = scratch.path().join("srv/hooks");
        std::fs::create_dir_all(&real).expect("creates");
        std::fs::create_dir_all(scratch.path().join("etc/systemimager/hooks.d")).expect("creates");
        // The directory may be a symbolic link within the tree.
        symlink("/srv/hooks", scratch.path().join(HookPhase::Before.directory())).expect("links");
        for (name, mode) in
            [("9", 0o755), ("10", 0o700), ("B", 0o755), ("a", 0o755), ("notes", 0o644)]
        {
            std::fs::write(real.join(name), "#!/bin/sh\n").expect("writes");
            std::fs::set_permissions(real.join(name), std::fs::Permissions::from_mode(mode))
                .expect("sets");
        }
        symlink("/dev/null", real.join("masked")).expect("links");
        symlink("a", real.join("zz")).expect("links");
        let root = Root::open(scratch.path()).expect("opens");

        let hooks = list_hooks(&root, HookPhase::Before).expect("lists");

        let names: Vec<String> = hooks.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["10", "9", "B", "a", "zz"].map(|name| format!("/srv/hooks/{name}")));
        assert!(list_hooks(&root, HookPhase::After).expect("lists").is_empty());
    }
}
