//! Downloads with a bad server, a bad network or a full disk.
//!
//! A download is resumed, fetched again, or given up with the name of the side at fault. Wrong
//! bytes are never accepted.

#[path = "../common/mod.rs"]
mod common;
mod network;
mod rsync;
mod spool;
mod tls;

use std::fs::{self, File};
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::fault_server::{Fault, FaultServer};
use common::{free_port, require, wait_for_server};
use systemimager::catalog::{FileRef, FirstFrame, MAX_HEAD, RepoPath};
use systemimager::digest::Digest;
use systemimager::fetch::FetchErrorKind::{Corrupt, DiskSpace, NotFound, Other, Unreachable};
use systemimager::fetch::Side::{Network, Node, Server};
use systemimager::fetch::{
    FetchError, FetchErrorKind, FetchOptions, HeadAnswer, Ranges, Repository, Side, Spool,
};
use systemimager::image::Layer;
use systemimager::report::{Event, Job, Monitor, Silent};
use tempfile::TempDir;

const ARCHIVE: &str = "/node/diffs/a.tar.zst";
const HEAD: &str = "/node/head.toml";

/// A repository with one archive of 300,000 bytes and a catalog, its server, and the spool of a
/// node.
struct Site {
    scratch: TempDir,
    server: FaultServer,
    bytes: Vec<u8>,
}

impl Site {
    fn new() -> Self {
        let scratch = tempfile::tempdir().expect("scratch");
        let repository = scratch.path().join("repo");
        fs::create_dir_all(repository.join("node/diffs")).expect("scratch");
        fs::create_dir(scratch.path().join("spool")).expect("scratch");
        let bytes: Vec<u8> =
            (0u32..300_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        fs::write(repository.join("node/diffs/a.tar.zst"), &bytes).expect("scratch");
        fs::write(repository.join("node/head.toml"), b"format = 1\n").expect("scratch");
        let server = FaultServer::serve(&repository);
        Site { scratch, server, bytes }
    }

    fn repo_dir(&self) -> PathBuf {
        self.scratch.path().join("repo")
    }

    fn spool_dir(&self) -> PathBuf {
        self.scratch.path().join("spool")
    }

    fn claim(&self) -> FileRef {
        let file = RepoPath::new("diffs/a.tar.zst").expect("a path");
        FileRef { file, size: self.bytes.len() as u64, sha256: Digest::of(&self.bytes) }
    }

    fn frame(&self, length: usize) -> FirstFrame {
        FirstFrame { length: length as u64, sha256: Digest::of(&self.bytes[..length]) }
    }

    fn open(&self) -> Repository {
        self.open_at(&self.server.url())
    }

    fn open_at(&self, url: &str) -> Repository {
        open(url, &quick_options(), &self.spool_dir(), u64::MAX)
    }

    fn fetch(&self) -> Result<Vec<u8>, FetchError> {
        fetch_content(&self.open(), &self.claim(), &Silent)
    }

    /// Fetches the archive, which must fail and leave no file that could be taken for it.
    fn fails_with(&self, kind: FetchErrorKind, side: Side) -> FetchError {
        let error = self.fetch().expect_err("the server is at fault");
        assert_eq!((error.kind, error.side), (kind, side), "{error}");
        assert!(!self.spool_dir().join(self.claim().sha256.to_string()).exists());
        error
    }

    fn requested_ranges(&self) -> Vec<Option<String>> {
        self.server.seen().iter().map(|seen| seen.headers.get("range").cloned()).collect()
    }
}

fn quick_options() -> FetchOptions {
    FetchOptions {
        deadline: None,
        attempts: 3,
        base_delay: Duration::from_millis(1),
        connect_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_millis(500),
        minimum_speed: 1024,
        speed_window: Duration::from_secs(60),
        ca_file: None,
        tls_pins: Vec::new(),
        client_certificate: None,
        is_cancelled: || false,
    }
}

fn open(url: &str, options: &FetchOptions, spool: &Path, limit: u64) -> Repository {
    let spool =
        Spool::open(File::open(spool).expect("a directory").into(), limit).expect("a spool");
    Repository::open(&url.parse().expect("a URL"), &node(), options, Some(spool)).expect("opens")
}

fn node() -> Layer {
    Layer::Image("node".parse().expect("a name"))
}

fn fetch_content(
    repository: &Repository,
    claim: &FileRef,
    monitor: &dyn Monitor,
) -> Result<Vec<u8>, FetchError> {
    let verified = repository.fetch(claim, monitor)?;
    assert_eq!((verified.size(), verified.sha256()), (claim.size, claim.sha256));
    let mut bytes = Vec::new();
    verified.into_file().read_to_end(&mut bytes).expect("reads");
    assert_eq!(Digest::of(&bytes), claim.sha256, "content differs from the claim");
    Ok(bytes)
}

#[derive(Default)]
struct EventLog(Mutex<Vec<Event>>);

impl Monitor for EventLog {
    fn event(&self, event: Event) {
        self.0.lock().expect("no panic").push(event);
    }
}

#[test]
fn cut_download_is_resumed() {
    let site = Site::new();
    site.server.next(ARCHIVE, [Fault::Cut(100_000), Fault::Reset(50_000)]);

    assert_eq!(site.fetch().expect("fetches"), site.bytes);
    assert_eq!(site.server.sent(), 300_000, "no byte twice");
    assert_eq!(
        site.requested_ranges(),
        [None, Some("bytes=100000-299999".to_owned()), Some("bytes=150000-299999".to_owned())]
    );
    assert!(site.server.seen()[1].headers.contains_key("if-range"));
}

#[test]
fn partial_file_is_resumed_by_later_run() {
    let site = Site::new();
    site.server.always(ARCHIVE, Fault::Cut(70_000));
    let error = site.fails_with(Unreachable, Network);

    assert!(error.to_string().contains("tried 3 times"), "{error}");
    assert_eq!(site.server.sent(), 210_000);

    site.server.calm();
    assert_eq!(site.fetch().expect("fetches"), site.bytes);
    assert_eq!(site.server.sent(), 90_000);
}

#[test]
fn partial_file_without_strong_etag_is_restarted() {
    for fault in [Fault::WeakEtag, Fault::NoEtag] {
        let site = Site::new();
        site.server.always(ARCHIVE, fault);
        let part = site.spool_dir().join(format!("{}.part", site.claim().sha256));
        fs::write(part, &site.bytes[..200_000]).expect("scratch");

        assert_eq!(site.fetch().expect("fetches"), site.bytes);
        assert_eq!(site.server.sent(), 300_000);
        assert_eq!(site.requested_ranges(), [None]);
    }
}

#[test]
fn file_changed_between_attempts_is_not_mixed() {
    let site = Site::new();
    site.server.next(ARCHIVE, [Fault::Cut(100_000), Fault::OtherEtag]);
    assert_eq!(site.fetch().expect("fetches"), site.bytes);
    assert_eq!(site.server.sent(), 400_000, "sent whole after the change");
}

#[test]
fn server_without_ranges_sends_whole_files() {
    let site = Site::new();
    site.server.next(ARCHIVE, [Fault::Cut(100_000), Fault::NoRanges]);
    assert_eq!(site.fetch().expect("fetches"), site.bytes);
    assert_eq!(site.server.sent(), 400_000);
}

#[test]
fn stalled_download_is_retried() {
    let site = Site::new();
    site.server.next(ARCHIVE, [Fault::Stall(100_000)]);

    assert_eq!(site.fetch().expect("fetches"), site.bytes);
    assert_eq!(site.server.sent(), 300_000);

    site.server.always(HEAD, Fault::Stall(3));
    let began = Instant::now();
    let error = site.open().fetch_head(None).expect_err("it stalls");

    assert_eq!((error.kind, error.side), (Unreachable, Network), "{error}");
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[test]
fn slow_download_fails_though_never_silent() {
    let site = Site::new();
    site.server.always(ARCHIVE, Fault::Drip(10, Duration::from_millis(20)));
    let options =
        FetchOptions { attempts: 1, speed_window: Duration::from_millis(300), ..quick_options() };
    let began = Instant::now();
    let repository = open(
        &site.server.url(),
        &FetchOptions { minimum_speed: 10_000, ..options },
        &site.spool_dir(),
        u64::MAX,
    );
    let error = fetch_content(&repository, &site.claim(), &Silent).expect_err("too slow");

    assert_eq!((error.kind, error.side), (Unreachable, Network), "{error}");
    assert!(error.to_string().contains("too slowly"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[test]
fn wrong_content_length_is_detected() {
    let site = Site::new();
    site.server.next(
        ARCHIVE,
        [Fault::ContentLength(300_001), Fault::ContentLength(5), Fault::ContentLength(0)],
    );
    site.fails_with(Corrupt, Server);
    site.server.next(ARCHIVE, [Fault::Longer(1), Fault::Longer(100_000), Fault::Longer(7)]);
    site.fails_with(Corrupt, Server);
    site.server.next(ARCHIVE, [Fault::Shorter(1), Fault::Shorter(1000), Fault::Behave]);

    assert_eq!(site.fetch().expect("the third time"), site.bytes);
}

#[test]
fn download_stops_at_size_in_catalog() {
    let site = Site::new();
    site.server.always(ARCHIVE, Fault::Longer(20 << 20));
    site.fails_with(Corrupt, Server);
    let part = fs::metadata(site.spool_dir().join(format!("{}.part", site.claim().sha256)));
    assert!(part.map_or(0, |part| part.len()) <= 300_000);
    assert!(site.server.sent() < 30 << 20, "the client hangs up");
}

#[test]
fn wrong_content_range_is_detected() {
    for other in [
        "bytes 0-199999/300000",
        "bytes 100000-299999/300001",
        "bytes */300000",
        "nonsense",
        "bytes 9-1/3",
    ] {
        let site = Site::new();
        site.server.next(ARCHIVE, [Fault::Cut(100_000), Fault::ContentRange(other)]);
        assert_eq!(site.fetch().expect("fetches"), site.bytes, "{other}");
    }
}

#[test]
fn corrupt_download_is_retried_once() {
    let site = Site::new();
    site.server.next(ARCHIVE, [Fault::FlipFirstBit]);

    assert_eq!(site.fetch().expect("fetches"), site.bytes);
    assert_eq!(site.server.seen()[1].headers["cache-control"], "no-cache");

    site.server.calm();
    fs::remove_file(site.spool_dir().join(site.claim().sha256.to_string())).expect("was verified");
    site.server.always(ARCHIVE, Fault::FlipFirstBit);
    site.fails_with(Corrupt, Server);

    assert_eq!(site.server.seen().len(), 2, "a corrupt file is not fetched again and again");
    assert_eq!(fs::read_dir(site.spool_dir()).expect("is there").count(), 0);
}

#[test]
fn corrupt_partial_file_is_fetched_again() {
    let site = Site::new();
    site.server.next(ARCHIVE, [Fault::FlipFirstBit, Fault::Behave]);
    site.server.next(ARCHIVE, [Fault::Behave]);
    let mut wrong = site.bytes.clone();
    wrong[17] ^= 1;
    fs::write(site.spool_dir().join(format!("{}.part", site.claim().sha256)), &wrong)
        .expect("scratch");

    assert_eq!(site.fetch().map_err(|e| (e.kind, e.side)), Err((Corrupt, Server)));

    fs::write(site.spool_dir().join(format!("{}.part", site.claim().sha256)), &wrong)
        .expect("scratch");
    assert_eq!(site.fetch().expect("fetches"), site.bytes);
}

#[test]
fn missing_file_is_not_retried() {
    let site = Site::new();
    fs::remove_file(site.repo_dir().join(&ARCHIVE[1..])).expect("is there");
    let error = site.fails_with(NotFound, Server);

    assert!(
        error.to_string().contains(&format!("{}node/diffs/a.tar.zst", site.server.url())),
        "{error}"
    );
    assert_eq!(site.server.seen().len(), 1);
}

#[test]
fn busy_server_is_retried_after_its_pause() {
    let site = Site::new();
    site.server.next(ARCHIVE, [Fault::Status(503, Some("1")), Fault::Status(500, None)]);
    let began = Instant::now();

    assert_eq!(site.fetch().expect("fetches"), site.bytes);
    assert!(began.elapsed() >= Duration::from_secs(1));

    fs::remove_file(site.spool_dir().join(site.claim().sha256.to_string())).expect("was verified");
    site.server.always(ARCHIVE, Fault::Status(503, None));

    site.fails_with(Other, Server);

    site.server.calm();
    site.server.always(ARCHIVE, Fault::Status(403, None));

    site.fails_with(Other, Server);
    assert_eq!(site.server.seen().len(), 1, "no means no");
}

#[test]
fn redirects_are_followed_except_loops() {
    let site = Site::new();
    fs::copy(site.repo_dir().join(&ARCHIVE[1..]), site.repo_dir().join("mirrored"))
        .expect("scratch");
    site.server.next(ARCHIVE, [Fault::Redirect("/mirrored".to_owned())]);

    assert_eq!(site.fetch().expect("fetches"), site.bytes);

    site.server.calm();
    site.server.always(HEAD, Fault::Redirect(HEAD.to_owned()));
    let error = site.open().fetch_head(None).expect_err("a circle");

    assert_eq!((error.kind, error.side), (Other, Server), "{error}");
    assert!(error.to_string().contains("redirects"), "{error}");
    assert!(site.server.seen().len() < 10);
}

#[test]
fn invalid_http_is_fault_of_server() {
    let site = Site::new();
    site.server.always(ARCHIVE, Fault::Garbage);
    site.fails_with(Other, Server);
    site.server.always(ARCHIVE, Fault::Hangup);
    site.fails_with(Unreachable, Network);
}

#[test]
fn refused_connection_differs_from_unknown_name() {
    let site = Site::new();
    let closed =
        TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let error =
        site.open_at(&format!("http://{closed}/")).fetch_head(None).expect_err("nobody listens");

    assert_eq!((error.kind, error.side), (Unreachable, Server), "{error}");

    let error =
        site.open_at("http://no-such-host.invalid/").fetch_head(None).expect_err("nobody knows it");
    assert_eq!((error.kind, error.side), (Unreachable, Network), "{error}");
}

#[test]
fn unchanged_catalog_needs_one_conditional_request() {
    let site = Site::new();
    let repository = site.open();
    let HeadAnswer::Fetched { bytes, etag: Some(etag) } =
        repository.fetch_head(None).expect("fetches")
    else {
        panic!("a catalog with an etag")
    };

    assert_eq!(bytes, b"format = 1\n");
    assert_eq!(repository.fetch_head(Some(&etag)).expect("is the same"), HeadAnswer::NotModified);
    assert_eq!(site.server.seen().len(), 2);

    fs::write(site.repo_dir().join(&HEAD[1..]), b"format = 2\n").expect("scratch");
    assert!(matches!(
        repository.fetch_head(Some(&etag)).expect("fetches"),
        HeadAnswer::Fetched { .. }
    ));

    site.server.next(HEAD, [Fault::Status(503, None), Fault::Cut(4)]);
    assert!(matches!(repository.fetch_head(None).expect("fetches"), HeadAnswer::Fetched { .. }));
}

#[test]
fn endless_catalog_is_refused() {
    let site = Site::new();
    site.server.always(HEAD, Fault::Longer(usize::try_from(MAX_HEAD).expect("fits")));
    let error = site.open().fetch_head(None).expect_err("too large");
    assert_eq!((error.kind, error.side), (Other, Server), "{error}");
    assert_eq!(site.server.seen().len(), 1);
}

#[test]
fn first_frame_is_fetched_once() {
    let site = Site::new();
    let repository = site.open();

    assert_eq!(
        repository.fetch_frame(&site.claim(), &site.frame(40_000)).expect("fetches"),
        &site.bytes[..40_000]
    );
    assert_eq!(site.server.sent(), 40_000);
    assert_eq!(fetch_content(&repository, &site.claim(), &Silent).expect("fetches"), site.bytes);
    assert_eq!(site.server.sent(), 300_000);
    assert_eq!(
        repository.fetch_frame(&site.claim(), &site.frame(40_000)).expect("is there"),
        &site.bytes[..40_000]
    );
    assert_eq!(site.server.sent(), 300_000);
}

#[test]
fn corrupt_first_frame_is_detected() {
    let site = Site::new();
    let wrong = FirstFrame { length: 1000, sha256: Digest::of(b"other") };
    let error = site.open().fetch_frame(&site.claim(), &wrong).expect_err("it is another");
    assert_eq!((error.kind, error.side), (Corrupt, Server), "{error}");
    let beyond = FirstFrame { length: 300_001, sha256: Digest::of(b"other") };
    assert!(site.open().fetch_frame(&site.claim(), &beyond).is_err());
}

#[test]
fn cut_range_is_completed_without_leftovers() {
    let site = Site::new();
    site.server.next(ARCHIVE, [Fault::Cut(10_000), Fault::Reset(10_000)]);
    let repository = site.open();
    let mut bytes = Vec::new();
    let mut range = repository.range(&site.claim(), 100_000, 50_000).expect("fetches");
    range.read_to_end(&mut bytes).expect("nothing can happen any more");

    assert_eq!(bytes, &site.bytes[100_000..150_000]);
    assert_eq!(site.server.sent(), 50_000);
    assert_eq!(fs::read_dir(site.spool_dir()).expect("is there").count(), 0);
    assert!(repository.range(&site.claim(), 299_999, 2).is_err());
    assert!(repository.range(&site.claim(), u64::MAX, 2).is_err());
}

#[test]
fn range_is_fetched_again_without_caches() {
    let site = Site::new();
    let repository = site.open();
    site.server.next(ARCHIVE, [Fault::FlipFirstBit]);
    let read = |mut range: Box<dyn Read + '_>| {
        let mut bytes = Vec::new();
        range.read_to_end(&mut bytes).expect("reads");
        bytes
    };

    let wrong = read(repository.range(&site.claim(), 100, 50).expect("fetches"));
    let right = read(repository.range_again(&site.claim(), 100, 50).expect("fetches"));

    assert_ne!(wrong, &site.bytes[100..150]);
    assert_eq!(right, &site.bytes[100..150]);
    let seen = site.server.seen();
    assert!(!seen[0].headers.contains_key("cache-control"));
    assert_eq!(seen[1].headers["cache-control"], "no-cache");
}

#[test]
fn ranges_without_server_support_use_whole_file() {
    let site = Site::new();
    site.server.always(ARCHIVE, Fault::NoRanges);
    let repository = site.open();

    for offset in [100_000, 5, 299_990] {
        let mut bytes = Vec::new();
        repository
            .range(&site.claim(), offset, 10)
            .expect("fetches")
            .read_to_end(&mut bytes)
            .expect("reads");
        assert_eq!(bytes, &site.bytes[offset as usize..][..10]);
    }

    assert!(site.server.sent() <= 600_000, "asked for a range once, then for the file once");
}

#[test]
fn override_has_its_own_directories() {
    let scratch = common::scratch();
    let place = scratch.path().join("overrides/node");
    fs::create_dir_all(&place).expect("creates");
    fs::write(place.join("head.toml"), "an override's").expect("writes");
    let url = format!("file://{}/", scratch.path().display()).parse().expect("a URL");
    let layer = Layer::Override("node".parse().expect("a name"));
    let repository = Repository::open(&url, &layer, &quick_options(), None).expect("opens");
    let HeadAnswer::Fetched { bytes, .. } = repository.fetch_head(None).expect("fetches") else {
        panic!("a catalog")
    };

    assert_eq!(bytes, b"an override's");

    let image = Repository::open(&url, &node(), &quick_options(), None).expect("opens");
    assert_eq!(image.fetch_head(None).expect_err("there is none").kind, NotFound);
}

#[test]
fn local_directory_is_a_repository() {
    let site = Site::new();
    let repository = site.open_at(&format!("file://{}", site.repo_dir().display()));
    let HeadAnswer::Fetched { bytes, etag } = repository.fetch_head(None).expect("fetches") else {
        panic!("a catalog")
    };

    assert_eq!(bytes, b"format = 1\n");
    assert_eq!(
        repository.fetch_head(etag.as_deref()).expect("is the same"),
        HeadAnswer::NotModified
    );
    assert_eq!(
        repository.fetch_frame(&site.claim(), &site.frame(100)).expect("fetches"),
        &site.bytes[..100]
    );

    let mut bytes = Vec::new();
    repository
        .range(&site.claim(), 7, 100_000)
        .expect("fetches")
        .read_to_end(&mut bytes)
        .expect("reads");

    assert_eq!(bytes, &site.bytes[7..100_007]);

    let verified = repository.fetch(&site.claim(), &Silent).expect("fetches");

    let archive = site.repo_dir().join(&ARCHIVE[1..]);
    fs::write(&archive, b"edited in place").expect("scratch");
    let mut bytes = Vec::new();
    verified.into_file().read_to_end(&mut bytes).expect("reads");

    assert_eq!(bytes, site.bytes, "verified content changed");

    repository.spool().tidy(&[]).expect("tidies");
    let error = repository.fetch(&site.claim(), &Silent).expect_err("it is another");

    assert_eq!((error.kind, error.side), (Corrupt, Server), "{error}");

    fs::remove_file(&archive).expect("is there");
    let error = repository.fetch(&site.claim(), &Silent).expect_err("it is gone");

    assert_eq!((error.kind, error.side), (NotFound, Server), "{error}");
}

fn patient_options() -> FetchOptions {
    FetchOptions { idle_timeout: Duration::from_secs(10), attempts: 2, ..quick_options() }
}
