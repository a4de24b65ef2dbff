//! Tests of the test harness: the fault server, copied programs and masks.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::common::fault_server::{Fault, FaultServer};
use crate::common::golden::Masks;
use crate::common::{copy_program, scratch, write_program};

/// Requests `path` from the server, and returns its answer.
fn get(server: &FaultServer, path: &str) -> String {
    let address = server.url().replace("http://", "").replace('/', "");
    let mut stream = TcpStream::connect(address).expect("connects");
    write!(stream, "GET {path} HTTP/1.1\r\n\r\n").expect("sends the request");
    stream.shutdown(std::net::Shutdown::Write).expect("ends the request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn reached_faults_pass() {
    let dir = scratch();
    let server = FaultServer::serve(dir.path());
    server.next("/file", [Fault::Status(503, None)]);
    server.always("/other", Fault::Status(500, None));

    assert!(get(&server, "/file").starts_with("HTTP/1.1 503"));
    assert!(get(&server, "/other").starts_with("HTTP/1.1 500"));

    server.finish();
}

#[test]
#[should_panic(expected = "no request reached these faults")]
fn unreached_fault_fails_on_drop() {
    let dir = scratch();
    let server = FaultServer::serve(dir.path());

    server.next("/file", [Fault::Behave, Fault::Hangup]);
}

#[test]
#[should_panic(expected = "reached the fault before this one")]
fn unreached_fault_cannot_be_replaced() {
    let dir = scratch();
    let server = FaultServer::serve(dir.path());

    server.always("/file", Fault::Hangup);
    server.always("/file", Fault::Garbage);
}

/// No forked child of another thread inherits a descriptor that is open for writing.
#[test]
fn copied_program_runs_while_other_threads_fork() {
    const THREADS: usize = 6;
    const ROUNDS: usize = 15;
    let dir = scratch();
    let shell = Path::new("/bin/sh");

    thread::scope(|scope| {
        for number in 0..THREADS {
            let dir = dir.path();
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let copy = dir.join(format!("copy-{number}-{round}"));
                    copy_program(shell, &copy);
                    crate::common::run(Command::new(&copy).args(["-c", ":"]));

                    let script = dir.join(format!("scripts/{number}-{round}"));
                    write_program(&script, "#!/bin/sh\necho \"it runs\"\n");
                    assert_eq!(crate::common::run(&mut Command::new(&script)), "it runs\n");
                }
            });
        }
    });
}

#[test]
fn masks_replace_varying_values() {
    let mut masks = Masks::default().literal("/tmp/x", "SITE");
    let (one, two) = ("0123456789abcdef".repeat(4), "fedcba9876543210".repeat(4));

    let masked = masks.apply(&format!(
        "{one} {two} 0123456789ab /tmp/x/f 127.0.0.1:873 2026-01-02T03:04:05.678Z, deadbeef 42"
    ));

    assert_eq!(masked, "ID-1 ID-2 SHORT-ID-1 SITE/f 127.0.0.1:PORT TIME, deadbeef 42");
}
