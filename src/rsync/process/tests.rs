use std::os::fd::AsFd;
use std::time::Duration;

use super::*;

fn call<'a>(arguments: &'a [OsString], seconds: u64) -> RsyncCall<'a> {
    RsyncCall {
        arguments,
        working_dir: None,
        deadline: Some(Instant::now() + Duration::from_secs(seconds)),
        max_file_size: None,
        relay: None,
    }
}

fn arguments(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

#[test]
fn standard_output_is_passed_line_by_line() {
    let mut lines = Vec::new();

    let outcome = run(&call(&arguments(&["--version"]), 20), &mut |output| {
        if let RsyncOutput::Line(line) = output {
            lines.push(line.to_vec());
        }
        ControlFlow::Continue(())
    });

    assert_eq!(outcome.expect("rsync runs").failure(), None);
    assert!(lines[0].starts_with(b"rsync"), "{lines:?}");
}

#[test]
fn unknown_option_is_a_local_failure() {
    let arguments = arguments(&["--no-such-option"]);

    let outcome = run(&call(&arguments, 20), &mut |_| ControlFlow::Continue(())).expect("runs");

    assert_eq!(outcome.failure(), Some(RsyncFailure::Local));
    assert!(outcome.reason().contains("no-such-option"), "{}", outcome.reason());
}

#[test]
fn silent_server_is_abandoned_at_the_deadline() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("rsync://{}/module/", listener.local_addr().expect("bound"));
    let start = Instant::now();

    let result = run(&call(&arguments(&["--", &url]), 1), &mut |_| ControlFlow::Continue(()));

    assert!(matches!(result, Err(RsyncError::TimedOut)), "{result:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn break_cancels_the_run() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("rsync://{}/module/", listener.local_addr().expect("bound"));

    let result = run(&call(&arguments(&["--", &url]), 20), &mut |output| match output {
        RsyncOutput::Tick => ControlFlow::Break(()),
        RsyncOutput::Line(_) => ControlFlow::Continue(()),
    });

    assert!(matches!(result, Err(RsyncError::Cancelled)), "{result:?}");
}

#[test]
fn relative_paths_refer_to_the_working_directory() {
    let directory = tempfile::tempdir().expect("scratch");
    std::fs::write(directory.path().join("from"), b"bytes").expect("scratch");
    let opened = std::fs::File::open(directory.path()).expect("scratch");
    let words = arguments(&["--", "from", "to"]);
    let call = RsyncCall { working_dir: Some(opened.as_fd()), ..call(&words, 20) };

    let outcome = run(&call, &mut |_| ControlFlow::Continue(())).expect("runs");

    assert_eq!(outcome.failure(), None, "{}", outcome.stderr_excerpt);
    assert_eq!(std::fs::read(directory.path().join("to")).expect("copied"), b"bytes");
}

#[test]
fn refused_connection_is_unreachable() {
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("bound")
    };
    let words = arguments(&["--contimeout=5", "--", &format!("rsync://{address}/module/")]);

    let outcome = run(&call(&words, 20), &mut |_| ControlFlow::Continue(())).expect("runs");

    assert_eq!(outcome.failure(), Some(RsyncFailure::Unreachable), "{}", outcome.stderr_excerpt);
}

/// An outcome with an exit code and a text on standard error.
fn outcome(code: i32, stderr: &str) -> RsyncOutcome {
    let status = std::os::unix::process::ExitStatusExt::from_raw(code << 8);
    RsyncOutcome { status, stderr_excerpt: stderr.to_owned() }
}

#[test]
fn relay_without_tunnel_is_unreachable() {
    let reason = "cannot connect to the ssh tunnel: Connection refused (os error 111)";
    let outcome = outcome(5, &format!("rsync: did not see server greeting\n{reason}\n"));

    assert_eq!(outcome.failure(), Some(RsyncFailure::Unreachable));
    assert_eq!(outcome.reason(), reason);
}

#[test]
fn failures_with_one_exit_code_are_told_apart_by_side() {
    for (code, stderr, failure) in [
        (1, "ERROR: module is write only", RsyncFailure::Refused),
        (1, "rsync: --xattrs: unknown option", RsyncFailure::Local),
        (
            23,
            "rsync: [generator] symlink \"a\" failed: File name too long (36)",
            RsyncFailure::PartialHere,
        ),
        (
            23,
            "rsync: [receiver] mkstemp \"a\" failed: Permission denied (13)",
            RsyncFailure::PartialHere,
        ),
        (
            23,
            "rsync: [generator] get_acl: sys_acl_get_file(a): No such file or directory (2)",
            RsyncFailure::PartialHere,
        ),
        (
            23,
            "rsync: [sender] change_dir \"/a\" failed: No such file or directory (2)",
            RsyncFailure::NotFound,
        ),
        (
            24,
            "rsync: [generator] gen_entry_copy_xattrs: secure open of basis \"a\" failed: \
             Not a directory (20)",
            RsyncFailure::PartialHere,
        ),
        (
            23,
            "rsync: [sender] send_files failed to open \"a\": Permission denied (13)",
            RsyncFailure::Partial,
        ),
    ] {
        assert_eq!(outcome(code, stderr).failure(), Some(failure), "{stderr}");
    }
}
