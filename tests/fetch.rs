//! What a bad server, a bad network or a full disk does to a download: it is resumed, fetched anew, or
//! given up with the name of the side at fault; it is never taken for what it is not.

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use common::fault_server::{Fault, FaultServer};
use common::require;
use systemimager::catalog::{FileRef, FirstFrame, MAX_CATALOG, RepoPath};
use systemimager::digest::Digest;
use systemimager::fetch::FetchErrorKind::{Corrupt, NoRoom, NotFound, Other, Unreachable};
use systemimager::fetch::Side::{Network, Node, Server};
use systemimager::fetch::{
    CatalogAnswer, FetchError, FetchErrorKind, FetchOptions, Ranges, Repository, Side, Spool,
};
use systemimager::image::Layer;
use systemimager::report::{Event, Job, Monitor, Silent};
use tempfile::TempDir;

const ARCHIVE: &str = "/node/diffs/a.tar.zst";
const CATALOG: &str = "/node/catalog.toml";

/// A repository with one archive of 300,000 bytes and a catalog, its server, and a node's spool.
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
        fs::write(repository.join("node/catalog.toml"), b"format = 1\n").expect("scratch");
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
        open(url, &quick(), &self.spool_dir(), u64::MAX)
    }

    fn fetch(&self) -> Result<Vec<u8>, FetchError> {
        content(&self.open(), &self.claim(), &Silent)
    }

    /// Fetches, expects a failure, and that nothing was left that could be taken for the file.
    fn fails(&self, kind: FetchErrorKind, side: Side) -> FetchError {
        let error = self.fetch().expect_err("the server is at fault");
        assert_eq!((error.kind, error.side), (kind, side), "{error}");
        assert!(!self.spool_dir().join(self.claim().sha256.to_string()).exists());
        error
    }

    fn ranges_asked(&self) -> Vec<Option<String>> {
        self.server.seen().iter().map(|seen| seen.headers.get("range").cloned()).collect()
    }
}

fn quick() -> FetchOptions {
    FetchOptions {
        deadline: None,
        attempts: 3,
        base_delay: Duration::from_millis(1),
        connect_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_millis(500),
        minimum_speed: 1024,
        speed_window: Duration::from_secs(60),
        ca_file: None,
        stopped: || false,
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

fn content(
    repository: &Repository,
    claim: &FileRef,
    monitor: &dyn Monitor,
) -> Result<Vec<u8>, FetchError> {
    let verified = repository.fetch(claim, monitor)?;
    assert_eq!((verified.size(), verified.sha256()), (claim.size, claim.sha256));
    let mut bytes = Vec::new();
    verified.into_file().read_to_end(&mut bytes).expect("reads");
    assert_eq!(Digest::of(&bytes), claim.sha256, "what was vouched for");
    Ok(bytes)
}

#[derive(Default)]
struct Notes(Mutex<Vec<Event>>);

impl Monitor for Notes {
    fn event(&self, event: Event) {
        self.0.lock().expect("no panic").push(event);
    }
}

#[test]
fn a_file_comes_over_one_connection_and_the_second_time_from_the_spool() {
    let site = Site::new();
    let (repository, notes) = (site.open(), Notes::default());
    repository.fetch_catalog(None).expect("comes");
    assert_eq!(content(&repository, &site.claim(), &notes).expect("comes"), site.bytes);
    assert_eq!(site.server.connections(), 1);
    assert_eq!(site.server.seen()[1].headers["accept-encoding"], "identity");
    assert!(site.server.seen()[1].headers["user-agent"].starts_with("si_updateclient/"));
    let events = notes.0.lock().expect("no panic").clone();
    assert_eq!(events.first(), Some(&Event::Started { job: Job::Download, total: 300_000 }));
    assert_eq!(events.last(), Some(&Event::Finished { job: Job::Download }));
    let advanced = |e: &Event| if let Event::Advanced { by, .. } = e { *by } else { 0 };
    assert_eq!(events.iter().map(advanced).sum::<u64>(), 300_000);

    site.server.calm();
    assert_eq!(site.fetch().expect("is there"), site.bytes);
    assert_eq!(site.server.seen().len(), 0);
}

#[test]
fn what_lies_in_the_spool_is_not_believed() {
    let site = Site::new();
    fs::write(site.spool_dir().join(site.claim().sha256.to_string()), b"planted").expect("scratch");
    assert_eq!(site.fetch().expect("comes"), site.bytes);

    let outside = site.scratch.path().join("outside");
    fs::write(&outside, b"sentinel").expect("scratch");
    for name in ["", ".part", ".etag"] {
        let name = site.spool_dir().join(format!("{}{name}", site.claim().sha256));
        let _ = fs::remove_file(&name);
        std::os::unix::fs::symlink(&outside, name).expect("scratch");
    }
    assert_eq!(site.fetch().expect("comes"), site.bytes);
    assert_eq!(fs::read(&outside).expect("is there"), b"sentinel");
}

#[test]
fn a_cut_download_goes_on_where_it_stopped() {
    let site = Site::new();
    site.server.next(ARCHIVE, [Fault::Cut(100_000), Fault::Reset(50_000)]);
    assert_eq!(site.fetch().expect("comes"), site.bytes);
    assert_eq!(site.server.sent(), 300_000, "no byte twice");
    assert_eq!(
        site.ranges_asked(),
        [None, Some("bytes=100000-299999".to_owned()), Some("bytes=150000-299999".to_owned())]
    );
    assert!(site.server.seen()[1].headers.contains_key("if-range"));
}

#[test]
fn a_later_run_goes_on_where_an_earlier_one_stopped() {
    let site = Site::new();
    site.server.always(ARCHIVE, Fault::Cut(70_000));
    let error = site.fails(Unreachable, Network);
    assert!(error.to_string().contains("tried 3 times"), "{error}");
    assert_eq!(site.server.sent(), 210_000);
    site.server.calm();
    assert_eq!(site.fetch().expect("comes"), site.bytes);
    assert_eq!(site.server.sent(), 90_000);
}

#[test]
fn a_part_without_a_strong_etag_is_fetched_from_the_beginning() {
    for fault in [Fault::WeakEtag, Fault::NoEtag] {
        let site = Site::new();
        site.server.always(ARCHIVE, fault);
        let part = site.spool_dir().join(format!("{}.part", site.claim().sha256));
        fs::write(part, &site.bytes[..200_000]).expect("scratch");
        assert_eq!(site.fetch().expect("comes"), site.bytes);
        assert_eq!(site.server.sent(), 300_000);
        assert_eq!(site.ranges_asked(), [None]);
    }
}

#[test]
fn a_file_that_changes_between_two_attempts_is_not_mixed() {
    let site = Site::new();
    site.server.next(ARCHIVE, [Fault::Cut(100_000), Fault::OtherEtag]);
    assert_eq!(site.fetch().expect("comes"), site.bytes);
    assert_eq!(site.server.sent(), 400_000, "sent whole after the change");
}

#[test]
fn a_server_without_ranges_gives_whole_files() {
    let site = Site::new();
    site.server.next(ARCHIVE, [Fault::Cut(100_000), Fault::NoRanges]);
    assert_eq!(site.fetch().expect("comes"), site.bytes);
    assert_eq!(site.server.sent(), 400_000);
}

#[test]
fn a_stalled_server_is_left_and_tried_again() {
    let site = Site::new();
    site.server.next(ARCHIVE, [Fault::Stall(100_000)]);
    assert_eq!(site.fetch().expect("comes"), site.bytes);
    assert_eq!(site.server.sent(), 300_000);
    site.server.always(CATALOG, Fault::Stall(3));
    let began = Instant::now();
    let error = site.open().fetch_catalog(None).expect_err("it stalls");
    assert_eq!((error.kind, error.side), (Unreachable, Network), "{error}");
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_slow_drip_is_too_slow_though_it_is_never_silent() {
    let site = Site::new();
    site.server.always(ARCHIVE, Fault::Drip(10, Duration::from_millis(20)));
    let options = FetchOptions { attempts: 1, speed_window: Duration::from_millis(300), ..quick() };
    let began = Instant::now();
    let repository = open(
        &site.server.url(),
        &FetchOptions { minimum_speed: 10_000, ..options },
        &site.spool_dir(),
        u64::MAX,
    );
    let error = content(&repository, &site.claim(), &Silent).expect_err("too slow");
    assert_eq!((error.kind, error.side), (Unreachable, Network), "{error}");
    assert!(error.to_string().contains("too slowly"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_server_that_lies_about_lengths_is_found_out() {
    let site = Site::new();
    site.server.next(
        ARCHIVE,
        [Fault::ContentLength(300_001), Fault::ContentLength(5), Fault::ContentLength(0)],
    );
    site.fails(Corrupt, Server);
    site.server.next(ARCHIVE, [Fault::Longer(1), Fault::Longer(100_000), Fault::Longer(7)]);
    site.fails(Corrupt, Server);
    site.server.next(ARCHIVE, [Fault::Shorter(1), Fault::Shorter(1000), Fault::Behave]);
    assert_eq!(site.fetch().expect("the third time"), site.bytes);
}

#[test]
fn no_more_is_written_than_the_catalog_names() {
    let site = Site::new();
    site.server.always(ARCHIVE, Fault::Longer(20 << 20));
    site.fails(Corrupt, Server);
    let part = fs::metadata(site.spool_dir().join(format!("{}.part", site.claim().sha256)));
    assert!(part.map_or(0, |part| part.len()) <= 300_000);
    assert!(site.server.sent() < 30 << 20, "the client hangs up");
}

#[test]
fn a_wrong_content_range_is_found_out() {
    for other in [
        "bytes 0-199999/300000",
        "bytes 100000-299999/300001",
        "bytes */300000",
        "nonsense",
        "bytes 9-1/3",
    ] {
        let site = Site::new();
        site.server.next(ARCHIVE, [Fault::Cut(100_000), Fault::ContentRange(other)]);
        assert_eq!(site.fetch().expect("comes whole"), site.bytes, "{other}");
    }
}

#[test]
fn corrupt_bytes_are_fetched_anew_once_and_then_given_up() {
    let site = Site::new();
    site.server.next(ARCHIVE, [Fault::FlipFirstBit]);
    assert_eq!(site.fetch().expect("comes"), site.bytes);
    assert_eq!(site.server.seen()[1].headers["cache-control"], "no-cache");
    site.server.calm();
    fs::remove_file(site.spool_dir().join(site.claim().sha256.to_string())).expect("was verified");
    site.server.always(ARCHIVE, Fault::FlipFirstBit);
    site.fails(Corrupt, Server);
    assert_eq!(site.server.seen().len(), 2, "a corrupt file is not fetched again and again");
    assert_eq!(fs::read_dir(site.spool_dir()).expect("is there").count(), 0);
}

#[test]
fn a_corrupt_part_of_an_earlier_run_is_fetched_anew() {
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
    assert_eq!(site.fetch().expect("comes"), site.bytes);
}

#[test]
fn a_missing_file_is_not_asked_for_twice() {
    let site = Site::new();
    fs::remove_file(site.repo_dir().join(&ARCHIVE[1..])).expect("is there");
    let error = site.fails(NotFound, Server);
    assert!(
        error.to_string().contains(&format!("{}node/diffs/a.tar.zst", site.server.url())),
        "{error}"
    );
    assert_eq!(site.server.seen().len(), 1);
}

#[test]
fn a_busy_server_is_asked_again_after_the_pause_it_wants() {
    let site = Site::new();
    site.server.next(ARCHIVE, [Fault::Status(503, Some("1")), Fault::Status(500, None)]);
    let began = Instant::now();
    assert_eq!(site.fetch().expect("comes"), site.bytes);
    assert!(began.elapsed() >= Duration::from_secs(1));
    fs::remove_file(site.spool_dir().join(site.claim().sha256.to_string())).expect("was verified");
    site.server.always(ARCHIVE, Fault::Status(503, None));
    site.fails(Other, Server);
    site.server.calm();
    site.server.always(ARCHIVE, Fault::Status(403, None));
    site.fails(Other, Server);
    assert_eq!(site.server.seen().len(), 1, "no means no");
}

#[test]
fn redirects_are_followed_but_not_in_a_circle() {
    let site = Site::new();
    fs::copy(site.repo_dir().join(&ARCHIVE[1..]), site.repo_dir().join("mirrored"))
        .expect("scratch");
    site.server.next(ARCHIVE, [Fault::Redirect("/mirrored".to_owned())]);
    assert_eq!(site.fetch().expect("comes"), site.bytes);
    site.server.calm();
    site.server.always(CATALOG, Fault::Redirect(CATALOG.to_owned()));
    let error = site.open().fetch_catalog(None).expect_err("a circle");
    assert_eq!((error.kind, error.side), (Other, Server), "{error}");
    assert!(error.to_string().contains("redirects"), "{error}");
    assert!(site.server.seen().len() < 10);
}

#[test]
fn what_is_no_http_is_the_servers_fault() {
    let site = Site::new();
    site.server.always(ARCHIVE, Fault::Garbage);
    site.fails(Other, Server);
    site.server.always(ARCHIVE, Fault::Hangup);
    site.fails(Unreachable, Network);
}

#[test]
fn nobody_listening_is_told_from_a_name_that_nobody_knows() {
    let site = Site::new();
    let closed =
        TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let error =
        site.open_at(&format!("http://{closed}/")).fetch_catalog(None).expect_err("nobody listens");
    assert_eq!((error.kind, error.side), (Unreachable, Server), "{error}");
    let error = site
        .open_at("http://no-such-host.invalid/")
        .fetch_catalog(None)
        .expect_err("nobody knows it");
    assert_eq!((error.kind, error.side), (Unreachable, Network), "{error}");
}

#[test]
fn the_catalog_takes_one_conditional_request() {
    let site = Site::new();
    let repository = site.open();
    let CatalogAnswer::Fetched { bytes, etag: Some(etag) } =
        repository.fetch_catalog(None).expect("comes")
    else {
        panic!("a catalog with an etag")
    };
    assert_eq!(bytes, b"format = 1\n");
    assert_eq!(
        repository.fetch_catalog(Some(&etag)).expect("is the same"),
        CatalogAnswer::NotModified
    );
    assert_eq!(site.server.seen().len(), 2);
    fs::write(site.repo_dir().join(&CATALOG[1..]), b"format = 2\n").expect("scratch");
    assert!(matches!(
        repository.fetch_catalog(Some(&etag)).expect("comes"),
        CatalogAnswer::Fetched { .. }
    ));
    site.server.next(CATALOG, [Fault::Status(503, None), Fault::Cut(4)]);
    assert!(matches!(
        repository.fetch_catalog(None).expect("comes"),
        CatalogAnswer::Fetched { .. }
    ));
}

#[test]
fn a_catalog_without_end_is_refused() {
    let site = Site::new();
    site.server.always(CATALOG, Fault::Longer(usize::try_from(MAX_CATALOG).expect("fits")));
    let error = site.open().fetch_catalog(None).expect_err("too large");
    assert_eq!((error.kind, error.side), (Other, Server), "{error}");
    assert_eq!(site.server.seen().len(), 1);
}

#[test]
fn the_first_frame_travels_once() {
    let site = Site::new();
    let repository = site.open();
    assert_eq!(
        repository.fetch_frame(&site.claim(), &site.frame(40_000)).expect("comes"),
        &site.bytes[..40_000]
    );
    assert_eq!(site.server.sent(), 40_000);
    assert_eq!(content(&repository, &site.claim(), &Silent).expect("comes"), site.bytes);
    assert_eq!(site.server.sent(), 300_000);
    assert_eq!(
        repository.fetch_frame(&site.claim(), &site.frame(40_000)).expect("is there"),
        &site.bytes[..40_000]
    );
    assert_eq!(site.server.sent(), 300_000);
}

#[test]
fn a_corrupt_first_frame_is_found_out() {
    let site = Site::new();
    let wrong = FirstFrame { length: 1000, sha256: Digest::of(b"other") };
    let error = site.open().fetch_frame(&site.claim(), &wrong).expect_err("it is another");
    assert_eq!((error.kind, error.side), (Corrupt, Server), "{error}");
    let beyond = FirstFrame { length: 300_001, sha256: Digest::of(b"other") };
    assert!(site.open().fetch_frame(&site.claim(), &beyond).is_err());
}

#[test]
fn a_range_comes_whole_in_spite_of_cuts_and_leaves_nothing() {
    let site = Site::new();
    site.server.next(ARCHIVE, [Fault::Cut(10_000), Fault::Reset(10_000)]);
    let repository = site.open();
    let mut bytes = Vec::new();
    let mut range = repository.range(&site.claim(), 100_000, 50_000).expect("comes");
    range.read_to_end(&mut bytes).expect("nothing can happen any more");
    assert_eq!(bytes, &site.bytes[100_000..150_000]);
    assert_eq!(site.server.sent(), 50_000);
    assert_eq!(fs::read_dir(site.spool_dir()).expect("is there").count(), 0);
    assert!(repository.range(&site.claim(), 299_999, 2).is_err());
    assert!(repository.range(&site.claim(), u64::MAX, 2).is_err());
}

#[test]
fn ranges_of_a_server_that_has_none_come_from_the_whole_file() {
    let site = Site::new();
    site.server.always(ARCHIVE, Fault::NoRanges);
    let repository = site.open();
    for offset in [100_000, 5, 299_990] {
        let mut bytes = Vec::new();
        repository
            .range(&site.claim(), offset, 10)
            .expect("comes")
            .read_to_end(&mut bytes)
            .expect("reads");
        assert_eq!(bytes, &site.bytes[offset as usize..][..10]);
    }
    assert!(site.server.sent() <= 600_000, "asked for a range once, then for the file once");
}

#[test]
fn a_full_spool_is_this_nodes_matter() {
    let site = Site::new();
    let repository = open(&site.server.url(), &quick(), &site.spool_dir(), 100_000);
    let error = content(&repository, &site.claim(), &Silent).expect_err("no room");
    assert_eq!((error.kind, error.side), (NoRoom, Node), "{error}");
    assert_eq!(site.server.seen().len(), 0);
}

/// Fills the disk as soon as the first bytes came.
struct FillsTheDisk(PathBuf);

impl Monitor for FillsTheDisk {
    fn event(&self, _: Event) {
        let _ = fs::write(self.0.join("filler"), vec![1; 1 << 20]);
    }
}

#[test]
fn a_disk_that_fills_up_meanwhile_is_this_nodes_matter() {
    require!(Root);

    let site = Site::new();
    let disk = SmallDisk::mount(&site.scratch.path().join("disk"), 400_000);
    site.server.always(ARCHIVE, Fault::Drip(50_000, Duration::from_millis(120)));
    let repository = open(&site.server.url(), &quick(), &disk.0, u64::MAX);
    let error =
        content(&repository, &site.claim(), &FillsTheDisk(disk.0.clone())).expect_err("no room");
    assert_eq!((error.kind, error.side), (NoRoom, Node), "{error}");
    assert_eq!(site.server.seen().len(), 1, "trying again makes no room");
    let error = content(&repository, &site.claim(), &Silent).expect_err("no room");
    assert_eq!((error.kind, error.side), (NoRoom, Node), "{error}");
    assert_eq!(site.server.seen().len(), 1, "seen before anything is asked for");
}

struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, bytes: u64) -> Self {
        fs::create_dir(at).expect("scratch");
        let options = std::ffi::CString::new(format!("size={bytes}")).expect("no NUL");
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", at, "tmpfs", flags, Some(options.as_c_str()))
            .expect("mounts");
        SmallDisk(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn tidying_removes_what_nobody_wants() {
    let site = Site::new();
    let other = Digest::of(b"other");
    for name in [
        format!("{other}.part"),
        format!("{other}.etag"),
        format!("{other}"),
        "leftover.range".to_owned(),
    ] {
        fs::write(site.spool_dir().join(name), b"old").expect("scratch");
    }
    site.server.always(ARCHIVE, Fault::Cut(1000));
    site.fails(Unreachable, Network);
    site.open().spool().tidy(&[site.claim().sha256]).expect("tidies");
    assert_eq!(fs::read_dir(site.spool_dir()).expect("is there").count(), 2);
}

#[test]
fn an_empty_file_needs_no_request() {
    let site = Site::new();
    let empty = FileRef { size: 0, sha256: Digest::of(b""), ..site.claim() };
    assert_eq!(content(&site.open(), &empty, &Silent).expect("is nothing"), b"");
    assert_eq!(site.server.seen().len(), 0);
}

#[test]
fn without_a_spool_a_temporary_one_serves() {
    let site = Site::new();
    let url = site.server.url().parse().expect("a URL");
    let repository = Repository::open(&url, &node(), &quick(), None).expect("opens");
    assert_eq!(repository.fetch_small(&site.claim(), 300_000).expect("comes"), site.bytes);
    assert!(repository.fetch_small(&site.claim(), 299_999).is_err());
}

#[test]
fn an_override_has_a_place_of_its_own() {
    let scratch = common::scratch();
    let place = scratch.path().join("overrides/node");
    fs::create_dir_all(&place).expect("creates");
    fs::write(place.join("catalog.toml"), "an override's").expect("writes");
    let url = format!("file://{}/", scratch.path().display()).parse().expect("a URL");
    let layer = Layer::Override("node".parse().expect("a name"));
    let repository = Repository::open(&url, &layer, &quick(), None).expect("opens");
    let CatalogAnswer::Fetched { bytes, .. } = repository.fetch_catalog(None).expect("comes")
    else {
        panic!("a catalog")
    };
    assert_eq!(bytes, b"an override's");
    let image = Repository::open(&url, &node(), &quick(), None).expect("opens");
    assert_eq!(image.fetch_catalog(None).expect_err("there is none").kind, NotFound);
}

#[test]
fn a_directory_is_a_repository() {
    let site = Site::new();
    let repository = site.open_at(&format!("file://{}", site.repo_dir().display()));
    let CatalogAnswer::Fetched { bytes, etag } = repository.fetch_catalog(None).expect("comes")
    else {
        panic!("a catalog")
    };
    assert_eq!(bytes, b"format = 1\n");
    assert_eq!(
        repository.fetch_catalog(etag.as_deref()).expect("is the same"),
        CatalogAnswer::NotModified
    );
    assert_eq!(
        repository.fetch_frame(&site.claim(), &site.frame(100)).expect("comes"),
        &site.bytes[..100]
    );
    let mut bytes = Vec::new();
    repository
        .range(&site.claim(), 7, 100_000)
        .expect("comes")
        .read_to_end(&mut bytes)
        .expect("reads");
    assert_eq!(bytes, &site.bytes[7..100_007]);
    let verified = repository.fetch(&site.claim(), &Silent).expect("comes");

    let archive = site.repo_dir().join(&ARCHIVE[1..]);
    fs::write(&archive, b"edited in place").expect("scratch");
    let mut bytes = Vec::new();
    verified.into_file().read_to_end(&mut bytes).expect("reads");
    assert_eq!(bytes, site.bytes, "what was verified stays");

    repository.spool().tidy(&[]).expect("tidies");
    let error = repository.fetch(&site.claim(), &Silent).expect_err("it is another");
    assert_eq!((error.kind, error.side), (Corrupt, Server), "{error}");
    fs::remove_file(&archive).expect("is there");
    let error = repository.fetch(&site.claim(), &Silent).expect_err("it is gone");
    assert_eq!((error.kind, error.side), (NotFound, Server), "{error}");
}

/// A TLS server of files that hold whole answers, headers included.
struct Secure {
    child: Child,
    port: u16,
    certificate: PathBuf,
}

impl Secure {
    fn start(directory: &Path) -> Self {
        let (key, certificate) = (directory.join("key.pem"), directory.join("cert.pem"));
        common::run(
            Command::new("openssl")
                .args([
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:prime256v1",
                    "-nodes",
                    "-subj",
                ])
                .args([
                    "/CN=test",
                    "-addext",
                    "subjectAltName=IP:127.0.0.1",
                    "-addext",
                    "basicConstraints=CA:FALSE",
                ])
                .arg("-keyout")
                .arg(&key)
                .arg("-out")
                .arg(&certificate),
        );
        let port = free_port();
        let child = Command::new("openssl")
            .args(["s_server", "-HTTP", "-quiet", "-accept", &format!("127.0.0.1:{port}")])
            .arg("-key")
            .arg(key)
            .arg("-cert")
            .arg(&certificate)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed");
        wait_for(port);
        Secure { child, port, certificate }
    }

    fn repository(&self, site: &Site, ca_file: Option<PathBuf>) -> Repository {
        let options = FetchOptions { ca_file, ..patient() };
        open(&format!("https://127.0.0.1:{}/", self.port), &options, &site.spool_dir(), u64::MAX)
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_https_server_has_to_be_vouched_for_and_must_not_lead_out_of_https() {
    require!(Program("openssl"));

    let site = Site::new();
    let directory = site.scratch.path().join("secure");
    fs::create_dir_all(directory.join("node")).expect("scratch");
    fs::write(directory.join("node/catalog.toml"), "HTTP/1.0 200 OK\r\n\r\nformat = 1\n")
        .expect("scratch");
    let secure = Secure::start(&directory);
    let trusting = secure.repository(&site, Some(secure.certificate.clone()));
    let answer = trusting.fetch_catalog(None).expect("comes");
    assert_eq!(answer, CatalogAnswer::Fetched { bytes: b"format = 1\n".to_vec(), etag: None });

    if let Ok(repository) = Repository::open(
        &format!("https://127.0.0.1:{}/", secure.port).parse().expect("a URL"),
        &node(),
        &patient(),
        None,
    ) {
        let error = repository.fetch_catalog(None).expect_err("nobody vouches for it");
        assert_eq!((error.kind, error.side), (Unreachable, Server), "{error}");
    }

    let away =
        format!("HTTP/1.0 302 Found\r\nLocation: {}node/catalog.toml\r\n\r\n", site.server.url());
    fs::write(directory.join("node/catalog.toml"), away).expect("scratch");
    let error = trusting.fetch_catalog(None).expect_err("http is less safe");
    assert_eq!((error.kind, error.side), (Other, Server), "{error}");
    assert_eq!(site.server.seen().len(), 0);
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

fn wait_for(port: u16) {
    let began = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(began.elapsed() < Duration::from_secs(10), "nobody listens at port {port}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A real rsync daemon over a site's repository.
struct Daemon {
    child: Child,
    port: u16,
}

impl Daemon {
    fn start(site: &Site) -> Self {
        let port = free_port();
        let config = site.scratch.path().join("rsyncd.conf");
        let text = format!(
            "address = 127.0.0.1\nuse chroot = no\nuid = {0}\ngid = {1}\n[repo]\npath = {2}\nread only = yes\n",
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
            site.repo_dir().display()
        );
        fs::write(&config, text).expect("scratch");
        let child = Command::new("rsync")
            .args([
                "--daemon",
                "--no-detach",
                &format!("--port={port}"),
                &format!("--config={}", config.display()),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("rsync is installed");
        wait_for(port);
        Daemon { child, port }
    }

    fn url(&self) -> String {
        format!("rsync://127.0.0.1:{}/repo", self.port)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn patient() -> FetchOptions {
    FetchOptions { idle_timeout: Duration::from_secs(10), attempts: 2, ..quick() }
}

#[test]
fn an_rsync_daemon_is_a_repository() {
    require!(Program("rsync"));

    let site = Site::new();
    let daemon = Daemon::start(&site);
    let repository = open(&daemon.url(), &patient(), &site.spool_dir(), u64::MAX);
    let answer = repository.fetch_catalog(Some("\"any\"")).expect("comes");
    assert_eq!(answer, CatalogAnswer::Fetched { bytes: b"format = 1\n".to_vec(), etag: None });
    assert_eq!(fs::read_dir(site.spool_dir()).expect("is there").count(), 0);

    let part = site.spool_dir().join(format!("{}.part", site.claim().sha256));
    fs::write(&part, &site.bytes[..123_456]).expect("scratch");
    assert_eq!(content(&repository, &site.claim(), &Silent).expect("comes"), site.bytes);
    assert!(!part.exists());
    assert_eq!(
        repository.fetch_frame(&site.claim(), &site.frame(100)).expect("is there"),
        &site.bytes[..100]
    );
}

#[test]
fn over_rsync_ranges_come_from_the_whole_file() {
    require!(Program("rsync"));

    let site = Site::new();
    let daemon = Daemon::start(&site);
    let repository = open(&daemon.url(), &patient(), &site.spool_dir(), u64::MAX);
    for offset in [100_000, 5] {
        let mut bytes = Vec::new();
        repository
            .range(&site.claim(), offset, 1000)
            .expect("comes")
            .read_to_end(&mut bytes)
            .expect("reads");
        assert_eq!(bytes, &site.bytes[offset as usize..][..1000]);
    }
    assert_eq!(
        repository.fetch_frame(&site.claim(), &site.frame(100)).expect("is there"),
        &site.bytes[..100]
    );
}

#[test]
fn over_rsync_too_each_side_is_named() {
    require!(Program("rsync"));

    let site = Site::new();
    let daemon = Daemon::start(&site);
    let repository = open(&daemon.url(), &patient(), &site.spool_dir(), u64::MAX);
    let archive = site.repo_dir().join(&ARCHIVE[1..]);
    let fails = |kind, side| {
        let error =
            repository.fetch(&site.claim(), &Silent).map(|_| ()).expect_err("something is wrong");
        assert_eq!((error.kind, error.side), (kind, side), "{error}");
    };
    let part = site.spool_dir().join(format!("{}.part", site.claim().sha256));
    fs::write(&part, vec![7; 1000]).expect("scratch");
    assert_eq!(content(&repository, &site.claim(), &Silent).expect("comes anew"), site.bytes);
    repository.spool().tidy(&[]).expect("tidies");

    fs::write(&archive, [&site.bytes[..], b"more"].concat()).expect("scratch");
    fails(Corrupt, Server);
    fs::write(&archive, b"less").expect("scratch");
    fails(Corrupt, Server);
    fs::write(&archive, vec![0; 300_000]).expect("scratch");
    fails(Corrupt, Server);
    fs::remove_file(&archive).expect("is there");
    fails(NotFound, Server);

    let other = open(&format!("{}-other", daemon.url()), &patient(), &site.spool_dir(), u64::MAX);
    let error = other.fetch_catalog(None).expect_err("no such module");
    assert_eq!((error.kind, error.side), (NotFound, Server), "{error}");
    drop(daemon);
    let error = repository.fetch_catalog(None).expect_err("nobody listens");
    assert_eq!((error.kind, error.side), (Unreachable, Server), "{error}");
}
