use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::root::Root;
use crate::tree_path::TreePath;

fn path(text: &str) -> TreePath {
    TreePath::new(text).expect("a valid path")
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// Runs a line of sh; returns its result and the lines of both outputs.
fn run_shell(
    script: &str,
    input: &[u8],
    seconds: u64,
) -> (Result<ProcessOutcome, ProcessError>, Vec<String>) {
    let arguments = words(&["-c", script]);
    let environment = [("PATH".into(), PATH.into()), ("EXTRA".into(), "yes".into())];
    let call = ProcessCall {
        program: OsStr::new("/bin/sh"),
        arguments: &arguments,
        environment: &environment,
        working_dir: None,
        input,
        deadline: Some(Instant::now() + Duration::from_secs(seconds)),
        max_file_size: None,
        write_access: WriteAccess::Everywhere,
    };

    let mut lines = Vec::new();
    let outcome = run(&call, &mut |output| {
        match output {
            ProcessOutput::Line(line) => {
                lines.push(format!("out {}", String::from_utf8_lossy(line)))
            }
            ProcessOutput::ErrorLine(line) => {
                lines.push(format!("err {}", String::from_utf8_lossy(line)))
            }
            ProcessOutput::Tick => {}
        }
        ControlFlow::Continue(())
    });
    (outcome, lines)
}

#[test]
fn both_outputs_are_passed_line_by_line() {
    let (outcome, mut lines) = run_shell("echo one; echo two >&2; printf three; exit 7", b"", 20);

    let outcome = outcome.expect("the shell ends");
    assert_eq!(outcome.status.code(), Some(7));
    assert_eq!(outcome.stderr_excerpt, "two\n");
    lines.sort();
    assert_eq!(lines, ["err two", "out one", "out three"]);
}

#[test]
fn program_receives_only_the_given_environment() {
    let (_, lines) = run_shell("/usr/bin/env", b"", 20);

    // The shell adds variables of its own.
    let mut names: Vec<&str> =
        lines.iter().filter_map(|line| line.strip_prefix("out ")?.split('=').next()).collect();
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    names.sort();
    assert_eq!(names, ["EXTRA", "PATH"]);
}

#[test]
fn input_larger_than_a_pipe_arrives() {
    let input = vec![b'x'; 3 << 20];

    let (outcome, lines) = run_shell("wc -c", &input, 60);

    assert!(outcome.expect("the shell ends").status.success());
    assert_eq!(lines, ["out 3145728"]);
}

#[test]
fn unread_input_is_no_error() {
    let input = vec![b'x'; 3 << 20];

    let (outcome, _) = run_shell("exec <&-; exit 0", &input, 60);

    assert!(outcome.expect("the shell ends").status.success());
}

#[test]
fn deadline_kills_descendants() {
    let start = Instant::now();

    let (outcome, lines) = run_shell("sleep 1000 & echo $!; wait", b"", 1);

    assert!(matches!(outcome, Err(ProcessError::TimedOut)), "{outcome:?}");
    assert!(start.elapsed() < Duration::from_secs(10));
    let child = lines[0].strip_prefix("out ").expect("a process number");
    // The process that inherits the child may need a moment to reap it.
    let is_gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        let status = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        status.is_empty() || status.contains(") Z ")
    });
    assert!(is_gone, "{child} still runs");
}

#[test]
fn missing_program_is_reported_as_such() {
    let call = ProcessCall {
        program: OsStr::new("no-such-program"),
        arguments: &[],
        environment: &[],
        working_dir: None,
        input: b"",
        deadline: None,
        max_file_size: None,
        write_access: WriteAccess::Everywhere,
    };

    let outcome = run(&call, &mut |_| ControlFlow::Continue(()));

    assert!(matches!(outcome, Err(ProcessError::NotFound)), "{outcome:?}");
}

fn write_script(top: &Path, place: &str, mode: u32) {
    let place = top.join(place);
    std::fs::create_dir_all(place.parent().expect("a parent")).expect("creates");
    std::fs::write(&place, "#!/bin/sh\n").expect("writes");
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode)).expect("sets");
}

/// Absolute symlinks are resolved within the tree, even if their target exists outside.
#[test]
fn programs_are_found_through_symlinks_of_the_tree() {
    let scratch = tempfile::tempdir().expect("scratch");
    let top = scratch.path();
    write_script(top, "usr/bin/systemctl", 0o755);
    write_script(top, "usr/sbin/zipl", 0o644);
    write_script(top, "usr/bin/zipl", 0o755);
    std::fs::create_dir_all(top.join("usr/local/sbin/grub-mkconfig")).expect("creates");
    symlink("usr/bin", top.join("bin")).expect("links");
    symlink("/bin/systemctl", top.join("usr/sbin/shutdown")).expect("links");
    symlink("/../../../bin/../bin/systemctl", top.join("usr/sbin/reboot")).expect("links");
    symlink("loop", top.join("usr/sbin/loop")).expect("links");
    let outside = std::fs::canonicalize("/bin/sh").expect("a shell");
    symlink(&outside, top.join("usr/sbin/sh")).expect("links");
    let root = Root::open(top).expect("opens");
    let programs = Programs::open(&root).expect("a tree");

    let find = |name: &str| programs.find(name).expect("searches").map(|path| path.to_string());

    assert_eq!(find("systemctl").as_deref(), Some("/usr/bin/systemctl"));
    assert_eq!(find("shutdown").as_deref(), Some("/usr/sbin/shutdown"));
    assert_eq!(find("reboot").as_deref(), Some("/usr/sbin/reboot"));
    assert_eq!(find("zipl").as_deref(), Some("/usr/bin/zipl"));
    for absent in ["loop", "sh", "grub-mkconfig", "nothing"] {
        assert_eq!(find(absent), None, "{absent}");
    }
    assert_eq!(
        resolve_symlinks(&root, &path("bin/systemctl")).expect("resolves"),
        Some(path("usr/bin/systemctl"))
    );
}
