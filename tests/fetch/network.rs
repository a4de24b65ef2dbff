//! Servers and proxies that are stricter, or more helpful, than asked: ranges, redirects, pages.

use std::io::Write;
use std::net::TcpStream;
use std::thread;

use super::*;

/// One attempt per file, so that each fault ends the download.
fn single_attempt() -> FetchOptions {
    FetchOptions { attempts: 1, ..patient_options() }
}

/// Answers each connection with `bytes`.
fn serve_bytes(bytes: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(bytes);
        }
    });
    port
}

fn catalog_error(url: &str, site: &Site) -> FetchError {
    let repository = open(url, &single_attempt(), &site.spool_dir(), u64::MAX);
    repository.fetch_head(None).expect_err("the answer is odd")
}

#[test]
fn refused_ranges_are_replaced_by_whole_files() {
    for refusal in [Some(400), Some(403), Some(416), Some(501), None] {
        let site = Site::new();
        site.server.always(ARCHIVE, Fault::RefuseRanges(refusal));
        let url = site.server.url();
        let repository = open(&url, &single_attempt(), &site.spool_dir(), u64::MAX);

        let frame = repository.fetch_frame(&site.claim(), &site.frame(40_000));
        assert_eq!(frame.expect("fetches"), &site.bytes[..40_000], "{refusal:?}");
        let range = repository.range(&site.claim(), 100_000, 50_000);
        let mut bytes = Vec::new();
        range.expect("fetches").read_to_end(&mut bytes).expect("reads");
        assert_eq!(bytes, &site.bytes[100_000..150_000], "{refusal:?}");

        // A closed connection may be an accident, so a range is requested once more.
        let with_range = site.requested_ranges().iter().filter(|range| range.is_some()).count();
        assert_eq!(with_range, if refusal.is_some() { 1 } else { 2 }, "{refusal:?}");
    }
}

#[test]
fn cut_download_continues_without_ranges() {
    let site = Site::new();
    site.server.next(ARCHIVE, [Fault::Cut(100_000)]);
    site.server.always(ARCHIVE, Fault::RefuseRanges(Some(403)));

    assert_eq!(site.fetch().expect("fetches"), site.bytes);
}

#[test]
fn refusal_of_the_file_itself_is_reported() {
    let site = Site::new();
    site.server.always(ARCHIVE, Fault::Status(403, None));

    let error = site.open().fetch_frame(&site.claim(), &site.frame(100)).expect_err("refused");

    assert_eq!((error.kind, error.side), (Other, Server), "{error}");
    assert!(error.to_string().contains("HTTP status 403"), "{error}");
}

#[test]
fn single_lost_connection_costs_no_whole_file() {
    let site = Site::new();
    site.server.next(ARCHIVE, [Fault::Hangup]);

    let repository = site.open();
    let mut bytes = Vec::new();
    let mut range = repository.range(&site.claim(), 100_000, 50_000).expect("fetches");
    range.read_to_end(&mut bytes).expect("reads");

    assert_eq!(bytes, &site.bytes[100_000..150_000]);
    assert_eq!(site.server.sent(), 50_000);
}

#[test]
fn redirect_to_other_host_is_refused() {
    let site = Site::new();
    let other = site.server.url().replace("127.0.0.1", "localhost");
    site.server.always(HEAD, Fault::Redirect(format!("{other}node/head.toml")));

    let error = catalog_error(&site.server.url(), &site);

    assert_eq!((error.kind, error.side), (Other, Server), "{error}");
    assert!(error.to_string().contains("redirects to another host, localhost"), "{error}");
}

#[test]
fn web_page_in_place_of_file_is_named() {
    let site = Site::new();
    fs::write(site.repo_dir().join(&HEAD[1..]), "<!DOCTYPE html>\n<p>Log in</p>").expect("scratch");
    let page = "text/html; charset=utf-8";
    site.server.always(ARCHIVE, Fault::Header("Content-Type", page, 7));

    let error = catalog_error(&site.server.url(), &site);
    assert_eq!((error.kind, error.side), (Unreachable, Network), "{error}");
    assert!(error.to_string().contains("the answer is a web page"), "{error}");

    let error = site.fails_with(Unreachable, Network);
    assert!(error.to_string().contains("the answer is a web page"), "{error}");
}

#[test]
fn compressed_answer_is_named_unless_it_is_right() {
    let site = Site::new();
    fs::write(site.repo_dir().join(&HEAD[1..]), b"\x1f\x8b\x08\0").expect("scratch");
    site.server.always(ARCHIVE, Fault::Header("Content-Encoding", "gzip", 7));

    let error = catalog_error(&site.server.url(), &site);
    assert!(error.to_string().contains("(Content-Encoding: gzip), which was not"), "{error}");
    assert_eq!((error.kind, error.side), (Corrupt, Server), "{error}");

    let error = site.fails_with(Corrupt, Server);
    assert!(error.to_string().contains("which was not requested"), "{error}");

    // Some servers name the coding of the stored file.
    site.server.always(ARCHIVE, Fault::Header("Content-Encoding", "gzip", 0));
    assert_eq!(site.fetch().expect("fetches"), site.bytes);
}

#[test]
fn plain_http_at_port_for_tls_is_named() {
    let site = Site::new();
    for (answer, words) in [
        (
            &b"HTTP/1.1 400 Bad\r\nContent-Length: 49\r\n\r\nThe plain HTTP request was sent to \
               HTTPS port</ht>"[..],
            "the server speaks TLS at this port; use https://",
        ),
        // The alert of a TLS library.
        (b"\x15\x03\x03\0\x02\x02\x46", "if the server speaks TLS here, use https://"),
        (b"", "the connection was closed before the answer"),
    ] {
        let error = catalog_error(&format!("http://127.0.0.1:{}/", serve_bytes(answer)), &site);
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn tls_at_plain_port_is_named() {
    require!(Program("openssl"));

    let site = Site::new();
    let directory = site.scratch.path().join("secure");
    fs::create_dir(&directory).expect("scratch");
    let secure = tls::Secure::start(&directory);
    for (answer, words) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "the server does not speak TLS at this port"),
        (b"", "the server closed the connection during the TLS handshake"),
    ] {
        let options =
            FetchOptions { ca_file: Some(secure.certificate.clone()), ..single_attempt() };
        let url = format!("https://127.0.0.1:{}/", serve_bytes(answer));
        let repository = open(&url, &options, &site.spool_dir(), u64::MAX);
        let error = repository.fetch_head(None).expect_err("there is no TLS");

        assert_eq!((error.kind, error.side), (Unreachable, Server), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }

    // A real server for TLS closes the connection, or answers with an alert.
    let error = catalog_error(&format!("http://127.0.0.1:{}/", secure.port), &site);
    assert_ne!(error.side, Node, "{error}");
    drop(TcpStream::connect(("127.0.0.1", secure.port)));
}
