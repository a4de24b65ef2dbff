//! The administrator's own programs that run before and after an update.
//!
//! They lie in `etc/systemimager/hooks.d/pre-update.d` and `post-update.d` of the tree and run in the order of
//! their names, byte by byte. What is no executable file is left out, as are hidden names and what editors
//! and package managers leave behind.

use crate::process::{Programs, resolve_symlinks};
use crate::root::{Root, RootError};
use crate::tree_path::TreePath;

/// What a name ends with that is no hook.
const LEFTOVER_ENDS: [&str; 6] = ["~", ".bak", ".old", ".orig", ".swp", "#"];
/// What a name holds that is no hook.
const LEFTOVER_PARTS: [&str; 2] = [".dpkg-", ".rpm"];

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// When everything is known and checked and nothing is touched.
    Before,
    /// When the update is made and recorded.
    After,
}

impl Moment {
    /// The directory of its hooks.
    pub fn directory(self) -> &'static str {
        match self {
            Moment::Before => "etc/systemimager/hooks.d/pre-update.d",
            Moment::After => "etc/systemimager/hooks.d/post-update.d",
        }
    }

    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Moment::Before => "pre",
            Moment::After => "post",
        }
    }
}

/// The hooks that the tree at `root` has, in the order in which they run.
pub fn hooks(root: &Root, moment: Moment) -> Result<Vec<TreePath>, RootError> {
    let directory = TreePath::new(moment.directory()).unwrap_or_else(|_| TreePath::root());
    let Some(directory) =
        resolve_symlinks(root, &directory)?.filter(|directory| !directory.is_root())
    else {
        return Ok(Vec::new());
    };
    let programs = Programs::open(root)?;
    let mut hooks = Vec::new();
    for (path, _) in root.children(&directory)? {
        if is_named_as_hook(path.name()) && programs.is_program(&path)? {
            hooks.push(path);
        }
    }
    hooks.sort_unstable_by(|a, b| a.name().cmp(b.name()));
    Ok(hooks)
}

fn is_named_as_hook(name: &[u8]) -> bool {
    let ends = LEFTOVER_ENDS.iter().any(|end| name.ends_with(end.as_bytes()));
    let holds = |part: &str| name.windows(part.len()).any(|window| window == part.as_bytes());
    !name.starts_with(b".") && !ends && !LEFTOVER_PARTS.iter().any(|part| holds(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_and_hidden_names_are_no_hooks() {
        for hook in ["10-drain", "drain.sh", "a b", "rpm", "dpkg", "z"] {
            assert!(is_named_as_hook(hook.as_bytes()), "{hook}");
        }
        for none in [
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
            assert!(!is_named_as_hook(none.as_bytes()), "{none}");
        }
    }

    #[test]
    fn hooks_run_in_the_order_of_their_bytes() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let top = tempfile::tempdir().expect("scratch");
        let real = top.path().join("srv/hooks");
        std::fs::create_dir_all(&real).expect("makes");
        std::fs::create_dir_all(top.path().join("etc/systemimager/hooks.d")).expect("makes");
        // a directory elsewhere in the tree is as good
        symlink("/srv/hooks", top.path().join(Moment::Before.directory())).expect("links");
        for (name, mode) in
            [("9", 0o755), ("10", 0o700), ("B", 0o755), ("a", 0o755), ("notes", 0o644)]
        {
            std::fs::write(real.join(name), "#!/bin/sh\n").expect("writes");
            std::fs::set_permissions(real.join(name), std::fs::Permissions::from_mode(mode))
                .expect("sets");
        }
        symlink("/dev/null", real.join("masked")).expect("links");
        symlink("a", real.join("zz")).expect("links");
        let root = Root::open(top.path()).expect("opens");
        let found = hooks(&root, Moment::Before).expect("lists");
        let names: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["10", "9", "B", "a", "zz"].map(|name| format!("/srv/hooks/{name}")));
        assert!(hooks(&root, Moment::After).expect("lists").is_empty());
    }
}
