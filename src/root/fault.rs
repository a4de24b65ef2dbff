//! The fault point: each change of a tree passes it, so that a test can fail any one of them.
//!
//! A change is one system call that alters the disk: a name, content, an attribute, or durability.
//! All calls of [`root`](super) that change something are made within [`change`]; this includes
//! writes to a [`NewFile`](super::NewFile), and the spool. So each step of a run has a number, and
//! a test can fail, or kill, a run at each of them. Only changes by other programs, such as rsync,
//! have no number.
//!
//! In a program this costs one relaxed atomic subtraction per change. No option, variable or file
//! arms a fault.

use std::panic::Location;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

/// Effect of an armed fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed before the change: nothing is unwound or dropped.
    Die,
    /// The change is not made, and fails with this error.
    Fail(Errno),
    /// This change and all later ones fail, as on a disk that broke or became read-only.
    FailOn(Errno),
    /// This change and the next ones fail, `times` in all, as on a path that refuses each attempt.
    FailFor { error: Errno, times: u32 },
    /// As [`Fault::FailFor`]; the process is killed before the change after `later` further ones.
    FailForThenDie { error: Errno, times: u32, later: u32 },
    /// Nothing fails; [`take_sites`] returns the places in the code that make the changes.
    Record,
}

/// A place in the code that makes changes.
pub type Site = &'static Location<'static>;

/// Sites of the changes since [`Fault::Record`] was armed.
static SITES: Mutex<Vec<Site>> = Mutex::new(Vec::new());

/// The sites of the recorded changes, in order; for tests.
pub fn take_sites() -> Vec<Site> {
    std::mem::take(&mut SITES.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Changes up to and including the fault; counts on below zero.
static LEFT: AtomicI64 = AtomicI64::new(i64::MAX);
/// The armed fault; `None` if changes are only counted.
static ARMED: Mutex<Option<Fault>> = Mutex::new(None);

/// Arms a fault at the `nth` change of this process from now on, from 1; for tests.
pub fn arm(nth: u32, fault: Fault) {
    *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    LEFT.store(nth.into(), Ordering::SeqCst);
}

/// Disarms the fault, and returns whether it was reached; for tests.
pub fn disarm() -> bool {
    let was_reached = LEFT.swap(i64::MAX, Ordering::SeqCst) <= 0;
    let armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner).take();
    was_reached && armed.is_some()
}

/// Number of changes since [`arm`] was called with `nth`; for tests.
pub fn changes_since_arming(nth: u32) -> u32 {
    let left = LEFT.load(Ordering::SeqCst);
    u32::try_from(i64::from(nth) - left).unwrap_or(0)
}

/// Number of changes since the process began, or since [`disarm`]; for tests without an armed
/// fault.
pub fn changes_made() -> u64 {
    LEFT.load(Ordering::SeqCst).abs_diff(i64::MAX)
}

/// Makes one change.
#[track_caller]
pub fn change<T, E: From<Errno>>(call: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let left = LEFT.fetch_sub(1, Ordering::Relaxed);
    if left <= 1 {
        trigger(left, Location::caller())?;
    }
    call()
}

#[cold]
fn trigger(left: i64, site: Site) -> Result<(), Errno> {
    let armed = *ARMED.lock().unwrap_or_else(PoisonError::into_inner);
    // 0 for the change at which the fault was armed.
    let since = 1 - left;
    match armed {
        Some(Fault::Record) => {
            SITES.lock().unwrap_or_else(PoisonError::into_inner).push(site);
            Ok(())
        }
        Some(Fault::FailFor { error, times } | Fault::FailForThenDie { error, times, .. })
            if since < i64::from(times) =>
        {
            Err(error)
        }
        Some(Fault::FailForThenDie { times, later, .. })
            if since == i64::from(times) + i64::from(later) =>
        {
            die()
        }
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
    const HARMLESS: [&str; 22] = [
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
        "listxattr",
        "getxattr",
        "flistxattr",
        "fgetxattr",
        "seek",
        "makedev",
        "major",
        "minor",
        "fadvise",
        "fstatfs",
        "statfs",
    ];

    /// A changing call outside [`super::change`] would be missing in each sweep: it is found by its
    /// name.
    #[test]
    fn every_changing_call_passes_fault_point() {
        let mut wrong = Vec::new();
        let mut points = 0;

        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/root");
        for file in fs::read_dir(folder).expect("the folder is readable") {
            let file = file.expect("an entry is readable").path();
            if file.ends_with("tests.rs") || file.ends_with("fault.rs") {
                continue;
            }
            let text = fs::read_to_string(&file).expect("a source file is readable");
            points += text.matches("change(||").count();
            let calls = unguarded_calls(&text);
            wrong.extend(calls.into_iter().map(|call| format!("{}: {call}", file.display())));
        }

        assert!(wrong.is_empty(), "not in change(|| …):\n{}", wrong.join("\n"));
        assert!(points > 20, "only {points} changes were found: does this test still see them?");
    }

    /// Calls that are neither harmless nor within `change`, and imports that could hide one.
    fn unguarded_calls(text: &str) -> Vec<String> {
        let mut found = Vec::new();

        for (at, start) in text.match_indices("rustix::fs::") {
            let (before, name) = (text[..at].trim_end(), first_word(&text[at + start.len()..]));
            let line = text[at..].lines().next().unwrap_or_default();
            if before.ends_with("use") {
                let names = line.split(|c: char| !c.is_alphanumeric() && c != '_').skip(4);
                let functions = names.filter(|name| name.starts_with(|c: char| c.is_lowercase()));
                found.extend(functions.map(|name| format!("use {name}")));
                continue;
            }

            let is_call = name.starts_with(|c: char| c.is_lowercase());
            let may_change = line.contains("CREATE") || !HARMLESS.contains(&name.as_str());
            if is_call && may_change && !is_in_change(before) {
                found.push(name);
            }
        }

        // The standard library makes the same calls: by path, and on the file in a `NewFile`.
        for (at, start) in text.match_indices("std::fs::") {
            let name = first_word(&text[at + start.len()..]);
            if !["File", "canonicalize", "read"].contains(&name.as_str()) {
                found.push(name);
            }
        }
        for (at, start) in text.match_indices("self.0.") {
            let name = first_word(&text[at + start.len()..]);
            if name != "as_fd" && !is_in_change(&text[..at]) && text.contains("NewFile(File)") {
                found.push(name);
            }
        }
        found
    }

    /// Whether the code before a call is the begin of `change`, with or without a brace.
    fn is_in_change(before: &str) -> bool {
        before.trim_end().trim_end_matches('{').trim_end().ends_with("change(||")
    }

    fn first_word(text: &str) -> String {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    }

    #[test]
    fn unguarded_call_found_in_every_form() {
        let guarded = "use rustix::fs::{AtFlags, Mode};\n\
            change(|| rustix::fs::unlinkat(d, n, f))?;\n\
            change(||\n  rustix::fs::fsync(d))?;\nchange(|| {\n  rustix::fs::fsync(d)\n})?;\n\
            rustix::fs::statat(d, n)?;\nrustix::fs::Mode::empty()";
        assert_eq!(unguarded_calls(guarded), Vec::<String>::new());

        for unguarded in [
            "rustix::fs::unlinkat(d, n, f)",
            "change(|| Ok(())).and_then(|()| rustix::fs::unlinkat(d, n, f))",
            "use rustix::fs::{AtFlags, unlinkat};",
            "rustix::fs::openat(d, n, OFlags::CREATE, m)",
            "std::fs::write(p, b)",
            "struct NewFile(File);\nself.0.sync_all()",
        ] {
            assert_eq!(unguarded_calls(unguarded).len(), 1, "{unguarded}");
        }
    }
}
