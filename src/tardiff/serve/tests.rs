use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;

use super::*;

/// A server over a small repository; the thread ends with the test's process.
fn server() -> (tempfile::TempDir, SocketAddr) {
    server_within(ServeLimits::of_process())
}

fn server_within(limits: ServeLimits) -> (tempfile::TempDir, SocketAddr) {
    let dir = tempfile::tempdir().expect("a scratch directory");
    fs::create_dir_all(dir.path().join("node/diffs")).expect("creates");
    fs::create_dir_all(dir.path().join(".scan")).expect("creates");
    fs::write(dir.path().join("node/head.toml"), b"0123456789").expect("writes");
    fs::write(dir.path().join(".scan/node"), b"secret").expect("writes");
    fs::write(dir.path().join("node/index.html"), b"index").expect("writes");
    let (send, receive) = mpsc::channel();
    let repo = dir.path().to_owned();
    std::thread::spawn(move || {
        let listen = ([127, 0, 0, 1], 0).into();
        serve_within(&repo, listen, limits, |address| send.send(address).expect("heard"))
    });
    let address = receive.recv().expect("it listens");
    (dir, address)
}

fn ask(address: SocketAddr, request: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connects");
    write!(stream, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")
        .expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("reads");
    answer
}

fn etag(answer: &str) -> String {
    let line = answer.lines().find(|line| line.starts_with("etag: ")).expect("an ETag");
    line["etag: ".len()..].to_owned()
}

#[test]
fn file_and_range_are_served() {
    let (_dir, address) = server();
    let whole = ask(address, "GET /node/head.toml", "");

    assert!(whole.starts_with("HTTP/1.1 200") && whole.ends_with("\r\n\r\n0123456789"), "{whole}");

    let part = ask(address, "GET /node/head.toml", "Range: bytes=3-5\r\n");

    assert!(part.starts_with("HTTP/1.1 206") && part.ends_with("\r\n\r\n345"), "{part}");
    assert!(part.contains("content-range: bytes 3-5/10"), "{part}");

    let head = ask(address, "HEAD /node/head.toml", "");
    assert!(head.contains("cache-control: public, max-age=5, must-revalidate"), "{head}");

    assert!(head.contains("content-length: 10") && head.ends_with("\r\n\r\n"), "{head}");
    assert_eq!(etag(&head), etag(&whole));

    let beyond = ask(address, "GET /node/head.toml", "Range: bytes=10-\r\n");

    assert!(beyond.starts_with("HTTP/1.1 416"), "{beyond}");
}

#[test]
fn unchanged_file_is_not_sent_again() {
    let (dir, address) = server();
    let known = etag(&ask(address, "GET /node/head.toml", ""));
    let condition = format!("If-None-Match: {known}\r\n");
    assert!(ask(address, "GET /node/head.toml", &condition).starts_with("HTTP/1.1 304"));
    fs::write(dir.path().join("node/head.toml"), b"abcdefghij").expect("writes");
    assert!(ask(address, "GET /node/head.toml", &condition).starts_with("HTTP/1.1 200"));
}

#[test]
fn range_is_served_only_of_same_file() {
    let (dir, address) = server();
    let known = etag(&ask(address, "GET /node/head.toml", ""));
    let resume = format!("Range: bytes=8-\r\nIf-Range: {known}\r\n");
    let rest = ask(address, "GET /node/head.toml", &resume);
    assert!(rest.starts_with("HTTP/1.1 206") && rest.ends_with("\r\n\r\n89"), "{rest}");

    for other in
        [format!("W/{known}"), "\"x\"".into(), "*".into(), "Sun, 22 Nov 2026 13:00:00 GMT".into()]
    {
        let answer = ask(
            address,
            "GET /node/head.toml",
            &format!("Range: bytes=8-\r\nIf-Range: {other}\r\n"),
        );
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("0123456789"),
            "{other}: {answer}"
        );
    }
    fs::write(dir.path().join("node/head.toml"), b"abcdefghij").expect("writes");
    let whole = ask(address, "GET /node/head.toml", &resume);
    assert!(whole.starts_with("HTTP/1.1 200") && whole.ends_with("\r\n\r\nabcdefghij"), "{whole}");
}

#[test]
fn paths_outside_repository_are_not_served() {
    let (_dir, address) = server();
    for path in [
        "/",
        "/node",
        "/node/",
        "/.scan/node",
        "/node/../.scan/node",
        "/node/%2e%2e/.scan/node",
        "/%2escan/node",
        "//.scan/node",
        "/node//head.toml",
        "/absent",
        "/node/head.toml/",
        "/node/diffs",
    ] {
        let answer = ask(address, &format!("GET {path}"), "");
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }

    let put = ask(address, "PUT /node/head.toml", "Content-Length: 0\r\n");
    assert!(put.starts_with("HTTP/1.1 405"), "{put}");
}

#[test]
fn symlink_of_repository_is_not_followed() {
    let (dir, address) = server();
    let outside = tempfile::tempdir().expect("a scratch directory");
    fs::write(outside.path().join("secret"), "secret").expect("writes");
    let link = |to: &Path, name: &str| {
        std::os::unix::fs::symlink(to, dir.path().join(name)).expect("links");
    };
    link(&outside.path().join("secret"), "node/link");
    link(outside.path(), "node/dir");
    link(Path::new("head.toml"), "node/inner");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("node/fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("makes a FIFO");

    for path in ["/node/link", "/node/dir/secret", "/node/inner", "/node/fifo"] {
        let answer = ask(address, &format!("GET {path}"), "");
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
}

#[test]
fn silent_connections_shut_nobody_out() {
    let limits =
        ServeLimits { connections: 20, request_timeout: Duration::from_secs(60), ..limits() };
    let (_dir, address) = server_within(limits);

    let mut silent: Vec<TcpStream> = Vec::new();
    for _ in 0..60 {
        let mut stream = TcpStream::connect(address).expect("connects");
        write!(stream, "GET /node/head.toml HTTP/1.1\r\nHost: x\r\nX: ").expect("writes");
        silent.push(stream);
    }
    let answer = ask(address, "GET /node/head.toml", "");

    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn connection_without_request_is_closed() {
    let limits = ServeLimits { request_timeout: Duration::from_millis(300), ..limits() };
    let (_dir, address) = server_within(limits);
    let request = "GET /node/head.toml HTTP/1.1\r\nHost: x\r\n";

    // Nothing; the beginning of a request; a request, and then nothing.
    for sent in ["", request, &format!("{request}\r\n")] {
        let mut stream = TcpStream::connect(address).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("sets");
        stream.write_all(sent.as_bytes()).expect("writes");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the server closes the connection");
    }
}

fn limits() -> ServeLimits {
    ServeLimits::of_process()
}
