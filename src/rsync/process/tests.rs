use std::os::fd::AsFd;
use std::time::Duration;

use super::*;

fn call<'a>(arguments: &'a [OsString], seconds: u64) -> RsyncCall<'a> {
    RsyncCall {
        arguments,
        inside: None,
        deadline: Some(Instant::now() + Duration::from_secs(seconds)),
        largest_file: None,
    }
}

fn arguments(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

#[test]
fn lines_are_heard_and_the_end_is_told() {
    let mut lines = Vec::new();
    let outcome = run(&call(&arguments(&["--version"]), 20), &mut |heard| {
        if let RsyncOutput::Line(line) = heard {
            lines.push(line.to_vec());
        }
        ControlFlow::Continue(())
    })
    .expect("rsync runs");
    assert_eq!(outcome.failure(), None);
    assert!(lines[0].starts_with(b"rsync"), "{lines:?}");
}

#[test]
fn a_wrong_option_is_this_nodes_fault() {
    let outcome =
        run(&call(&arguments(&["--no-such-option"]), 20), &mut |_| ControlFlow::Continue(()))
            .expect("runs");
    assert_eq!(outcome.failure(), Some(RsyncFailure::Local));
    assert!(outcome.reason().contains("no-such-option"), "{}", outcome.reason());
}

#[test]
fn a_server_that_never_answers_is_left_at_the_deadline() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("rsync://{}/module/", listener.local_addr().expect("bound"));
    let began = Instant::now();
    let result = run(&call(&arguments(&["--", &url]), 1), &mut |_| ControlFlow::Continue(()));
    assert!(matches!(result, Err(RsyncError::TimedOut)), "{result:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_caller_can_break_it_off() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("rsync://{}/module/", listener.local_addr().expect("bound"));
    let result = run(&call(&arguments(&["--", &url]), 20), &mut |heard| match heard {
        RsyncOutput::Tick => ControlFlow::Break(()),
        RsyncOutput::Line(_) => ControlFlow::Continue(()),
    });
    assert!(matches!(result, Err(RsyncError::Stopped)), "{result:?}");
}

#[test]
fn it_works_inside_the_directory_of_a_descriptor() {
    let directory = tempfile::tempdir().expect("scratch");
    std::fs::write(directory.path().join("from"), b"bytes").expect("scratch");
    let opened = std::fs::File::open(directory.path()).expect("scratch");
    let words = arguments(&["--", "from", "to"]);
    let call = RsyncCall { inside: Some(opened.as_fd()), ..call(&words, 20) };
    let outcome = run(&call, &mut |_| ControlFlow::Continue(())).expect("runs");
    assert_eq!(outcome.failure(), None, "{}", outcome.complaint);
    assert_eq!(std::fs::read(directory.path().join("to")).expect("made"), b"bytes");
}

#[test]
fn nothing_listening_is_unreachable() {
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("bound")
    };
    let words = arguments(&["--contimeout=5", "--", &format!("rsync://{address}/module/")]);
    let outcome = run(&call(&words, 20), &mut |_| ControlFlow::Continue(())).expect("runs");
    assert_eq!(outcome.failure(), Some(RsyncFailure::Unreachable), "{}", outcome.complaint);
}
