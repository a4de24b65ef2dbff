use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::root::Root;
use crate::tree_path::TreePath;

fn path(text: &str) -> TreePath {
    TreePath::new(text).expect("a good path")
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// Runs a line of sh for so many seconds, and tells what it said on both pipes.
fn said(
    script: &str,
    input: &[u8],
    seconds: u64,
) -> (Result<ProcessOutcome, ProcessError>, Vec<String>) {
    let arguments = words(&["-c", script]);
    let environment = [("PATH".into(), PATH.into()), ("SPOKEN".into(), "yes".into())];
    let call = ProcessCall {
        program: OsStr::new("/bin/sh"),
        arguments: &arguments,
        environment: &environment,
        inside: None,
        input,
        deadline: Some(Instant::now() + Duration::from_secs(seconds)),
        largest_file: None,
    };
    let mut lines = Vec::new();
    let outcome = run(&call, &mut |heard| {
        match heard {
            Output::Line(line) => lines.push(format!("out {}", String::from_utf8_lossy(line))),
            Output::Complaint(line) => lines.push(format!("err {}", String::from_utf8_lossy(line))),
            Output::Tick => {}
        }
        ControlFlow::Continue(())
    });
    (outcome, lines)
}

#[test]
fn both_outputs_are_heard_by_line() {
    let (outcome, lines) = said("echo one; echo two >&2; printf three; exit 7", b"", 20);
    let outcome = outcome.expect("it ends");
    assert_eq!(outcome.status.code(), Some(7));
    assert_eq!(outcome.complaint, "two\n");
    let mut sorted = lines;
    sorted.sort();
    assert_eq!(sorted, ["err two", "out one", "out three"]);
}

#[test]
fn the_environment_is_the_given_one_and_no_more() {
    let (_, lines) = said("/usr/bin/env", b"", 20);
    // the shell adds some of its own
    let mut names: Vec<&str> =
        lines.iter().filter_map(|line| line.strip_prefix("out ")?.split('=').next()).collect();
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    names.sort();
    assert_eq!(names, ["PATH", "SPOKEN"]);
}

#[test]
fn more_input_than_a_pipe_holds_arrives() {
    let input = vec![b'x'; 3 << 20];
    let (outcome, lines) = said("wc -c", &input, 60);
    assert!(outcome.expect("it ends").status.success());
    assert_eq!(lines, ["out 3145728"]);
}

#[test]
fn a_program_that_does_not_read_its_input_is_no_error() {
    let input = vec![b'x'; 3 << 20];
    let (outcome, _) = said("exec <&-; exit 0", &input, 60);
    assert!(outcome.expect("it ends").status.success());
}

#[test]
fn what_outlives_its_parent_is_gone_after_the_deadline() {
    let began = Instant::now();
    let (outcome, lines) = said("sleep 1000 & echo $!; wait", b"", 1);
    assert!(matches!(outcome, Err(ProcessError::TimedOut)), "{outcome:?}");
    assert!(began.elapsed() < Duration::from_secs(10));
    let child = lines[0].strip_prefix("out ").expect("a number");
    // it may be a moment before whoever inherits it has reaped it
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        let status = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        status.is_empty() || status.contains(") Z ")
    });
    assert!(gone, "{child} still runs");
}

#[test]
fn a_program_that_is_not_there_is_told_apart() {
    let call = ProcessCall {
        program: OsStr::new("no-such-program"),
        arguments: &[],
        environment: &[],
        inside: None,
        input: b"",
        deadline: None,
        largest_file: None,
    };
    let outcome = run(&call, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(outcome, Err(ProcessError::NotFound)), "{outcome:?}");
}

fn script(top: &Path, place: &str, mode: u32) {
    let place = top.join(place);
    std::fs::create_dir_all(place.parent().expect("a directory")).expect("makes");
    std::fs::write(&place, "#!/bin/sh\n").expect("writes");
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode)).expect("sets");
}

/// Symlinks lead within the tree, whatever they lead to outside.
#[test]
fn programs_are_found_through_the_trees_own_symlinks() {
    let top = tempfile::tempdir().expect("scratch");
    let top = top.path();
    script(top, "usr/bin/systemctl", 0o755);
    script(top, "usr/sbin/zipl", 0o644);
    script(top, "usr/bin/zipl", 0o755);
    std::fs::create_dir_all(top.join("usr/local/sbin/grub-mkconfig")).expect("makes");
    symlink("usr/bin", top.join("bin")).expect("links");
    symlink("/bin/systemctl", top.join("usr/sbin/shutdown")).expect("links");
    symlink("/../../../bin/../bin/systemctl", top.join("usr/sbin/reboot")).expect("links");
    symlink("loop", top.join("usr/sbin/loop")).expect("links");
    let outside = std::fs::canonicalize("/bin/sh").expect("a shell");
    symlink(&outside, top.join("usr/sbin/sh")).expect("links");
    let root = Root::open(top).expect("opens");
    let programs = Programs::of(&root).expect("a tree");
    let found = |name: &str| programs.find(name).expect("looks").map(|path| path.to_string());
    assert_eq!(found("systemctl").as_deref(), Some("/usr/bin/systemctl"));
    assert_eq!(found("shutdown").as_deref(), Some("/usr/sbin/shutdown"));
    assert_eq!(found("reboot").as_deref(), Some("/usr/sbin/reboot"));
    assert_eq!(found("zipl").as_deref(), Some("/usr/bin/zipl"));
    for absent in ["loop", "sh", "grub-mkconfig", "nothing"] {
        assert_eq!(found(absent), None, "{absent}");
    }
    assert_eq!(
        follow(&root, &path("bin/systemctl")).expect("follows"),
        Some(path("usr/bin/systemctl"))
    );
}
