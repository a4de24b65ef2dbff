//! The point that every change of a tree passes, so that a test can let any one of them fail, or be the
//! one before which the program dies.
//!
//! A change is one system call that leaves something else on the disk: a name, a byte, an attribute, or
//! what was promised to be durable. In this module and those beside it each of them is made in
//! [`change`]; what is written to a new file goes through [`super::NewFile`]; the spool, which lies in
//! the tree as well, does the same. So no step of a run is without a number, and a test can go through
//! all of them. Only what another program writes (the rsync of a full sync) has none.
//!
//! Without a test this costs one relaxed atomic subtraction a change. Nothing in the programs arms a
//! fault: no option, no variable, no file.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

/// What happens at an armed change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies before the change is made, as by a kill: nothing is unwound or dropped.
    Die,
    /// The change is not made and fails with this error.
    Fail(Errno),
    /// So do all that follow, as on a disk that went bad or read-only.
    FailOn(Errno),
}

/// How many changes come before the fault, that one included; counts on below zero.
static LEFT: AtomicI64 = AtomicI64::new(i64::MAX);
/// What happens then; `None` where changes are only counted.
static ARMED: Mutex<Option<Fault>> = Mutex::new(None);

/// Lets the `nth` change of this process from now on, the first being 1, meet `fault`; for tests.
pub fn arm(nth: u32, fault: Fault) {
    *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    LEFT.store(nth.into(), Ordering::SeqCst);
}

/// Whether an armed fault was met; arms none any more; for tests.
pub fn disarm() -> bool {
    let met = LEFT.swap(i64::MAX, Ordering::SeqCst) <= 0;
    let armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner).take();
    met && armed.is_some()
}

/// How many changes this process made since it began, or since [`disarm`]; for tests, while nothing is
/// armed.
pub fn made() -> u64 {
    LEFT.load(Ordering::SeqCst).abs_diff(i64::MAX)
}

/// Makes one change.
pub fn change<T, E: From<Errno>>(call: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let left = LEFT.fetch_sub(1, Ordering::Relaxed);
    if left <= 1 {
        meet(left)?;
    }
    call()
}

#[cold]
fn meet(left: i64) -> Result<(), Errno> {
    let armed = *ARMED.lock().unwrap_or_else(PoisonError::into_inner);
    match armed {
        Some(Fault::Die) if left == 1 => die(),
        Some(Fault::Fail(error)) if left == 1 => Err(error),
        Some(Fault::FailOn(error)) => Err(error),
        _ => Ok(()),
    }
}

fn die() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// Calls that change nothing.
    const HARMLESS: [&str; 16] = [
        "accessat",
        "open",
        "openat",
        "openat2",
        "fstat",
        "statat",
        "statx",
        "fstatvfs",
        "readlinkat",
        "llistxattr",
        "lgetxattr",
        "makedev",
        "major",
        "minor",
        "fadvise",
        "fstatfs",
    ];

    /// A call in this module that changes a tree and passes no fault point would be missing in every
    /// sweep: it is found here, by its name.
    #[test]
    fn every_call_that_can_change_a_tree_passes_the_point() {
        let mut wrong = Vec::new();
        let mut points = 0;
        for file in
            fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/root")).expect("sources")
        {
            let file = file.expect("an entry").path();
            if file.ends_with("tests.rs") || file.ends_with("fault.rs") {
                continue;
            }
            let text = fs::read_to_string(&file).expect("a source file");
            points += text.matches("change(||").count();
            wrong.extend(
                unguarded(&text).into_iter().map(|what| format!("{}: {what}", file.display())),
            );
        }
        assert!(wrong.is_empty(), "not in change(|| …):\n{}", wrong.join("\n"));
        assert!(points > 20, "only {points} changes were found: does this test still see them?");
    }

    /// Calls that are neither harmless nor made in `change`, and names that would hide some.
    fn unguarded(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        let word = |text: &str| {
            text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
        };
        for (at, start) in text.match_indices("rustix::fs::") {
            let (before, name) = (text[..at].trim_end(), word(&text[at + start.len()..]));
            let imported = text[at..].lines().next().unwrap_or_default();
            if before.ends_with("use") {
                let lower = imported.split(|c: char| !c.is_alphanumeric() && c != '_').skip(4);
                found.extend(
                    lower
                        .filter(|w| w.starts_with(|c: char| c.is_lowercase()))
                        .map(|w| format!("use {w}")),
                );
                continue;
            }
            let call = name.starts_with(|c: char| c.is_lowercase());
            let creates = imported.contains("CREATE");
            if call
                && (creates || !HARMLESS.contains(&name.as_str()))
                && !before.ends_with("change(||")
            {
                found.push(name);
            }
        }
        // The standard library's way to the same calls: by path, and on the file in a `NewFile`.
        for (at, start) in text.match_indices("std::fs::") {
            let name = word(&text[at + start.len()..]);
            if !["File", "canonicalize", "read"].contains(&name.as_str()) {
                found.push(name);
            }
        }
        for (at, start) in text.match_indices("self.0.") {
            let name = word(&text[at + start.len()..]);
            if name != "as_fd"
                && !text[..at].trim_end().ends_with("change(||")
                && text.contains("NewFile(File)")
            {
                found.push(name);
            }
        }
        found
    }

    #[test]
    fn the_reader_of_this_test_sees_what_is_not_guarded() {
        let good = "use rustix::fs::{AtFlags, Mode};\nchange(|| rustix::fs::unlinkat(d, n, f))?;\n\
            change(||\n  rustix::fs::fsync(d))?;\nrustix::fs::statat(d, n)?;\nrustix::fs::Mode::empty()";
        assert_eq!(unguarded(good), Vec::<String>::new());
        for bad in [
            "rustix::fs::unlinkat(d, n, f)",
            "change(|| Ok(())).and_then(|()| rustix::fs::unlinkat(d, n, f))",
            "use rustix::fs::{AtFlags, unlinkat};",
            "rustix::fs::openat(d, n, OFlags::CREATE, m)",
            "std::fs::write(p, b)",
            "struct NewFile(File);\nself.0.sync_all()",
        ] {
            assert_eq!(unguarded(bad).len(), 1, "{bad}");
        }
    }
}
