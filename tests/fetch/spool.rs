//! The spool of a node: its files, its limit and its disk.

use super::*;

#[test]
fn second_fetch_is_served_from_spool() {
    let site = Site::new();
    let (repository, notes) = (site.open(), EventLog::default());
    repository.fetch_head(None).expect("fetches");

    assert_eq!(fetch_content(&repository, &site.claim(), &notes).expect("fetches"), site.bytes);
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
fn damaged_spool_file_is_fetched_again() {
    let site = Site::new();
    fs::write(site.spool_dir().join(site.claim().sha256.to_string()), b"planted").expect("scratch");

    assert_eq!(site.fetch().expect("fetches"), site.bytes);

    let outside = site.scratch.path().join("outside");
    fs::write(&outside, b"sentinel").expect("scratch");

    for name in ["", ".part", ".etag"] {
        let name = site.spool_dir().join(format!("{}{name}", site.claim().sha256));
        let _ = fs::remove_file(&name);
        std::os::unix::fs::symlink(&outside, name).expect("scratch");
    }

    assert_eq!(site.fetch().expect("fetches"), site.bytes);
    assert_eq!(fs::read(&outside).expect("is there"), b"sentinel");
}

#[test]
fn full_spool_is_fault_of_node() {
    let site = Site::new();
    let repository = open(&site.server.url(), &quick_options(), &site.spool_dir(), 100_000);
    let error = fetch_content(&repository, &site.claim(), &Silent).expect_err("no room");
    assert_eq!((error.kind, error.side), (DiskSpace, Node), "{error}");
    assert_eq!(site.server.seen().len(), 0);
}

/// Fills the disk when the first bytes arrive.
struct FillsTheDisk(PathBuf);

impl Monitor for FillsTheDisk {
    fn event(&self, _: Event) {
        let _ = fs::write(self.0.join("filler"), vec![1; 1 << 20]);
    }
}

#[test]
fn disk_full_during_download_is_fault_of_node() {
    require!(Root);

    let site = Site::new();
    let disk = SmallDisk::mount(&site.scratch.path().join("disk"), 400_000);
    site.server.always(ARCHIVE, Fault::Drip(50_000, Duration::from_millis(120)));
    let repository = open(&site.server.url(), &quick_options(), &disk.0, u64::MAX);
    let error = fetch_content(&repository, &site.claim(), &FillsTheDisk(disk.0.clone()))
        .expect_err("no room");

    assert_eq!((error.kind, error.side), (DiskSpace, Node), "{error}");
    assert_eq!(site.server.seen().len(), 1, "trying again makes no room");

    let error = fetch_content(&repository, &site.claim(), &Silent).expect_err("no room");
    assert_eq!((error.kind, error.side), (DiskSpace, Node), "{error}");
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
fn clean_up_removes_unwanted_spool_files() {
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
    site.fails_with(Unreachable, Network);

    site.open().spool().tidy(&[site.claim().sha256]).expect("tidies");
    assert_eq!(fs::read_dir(site.spool_dir()).expect("is there").count(), 2);
}

#[test]
fn empty_file_needs_no_request() {
    let site = Site::new();
    let empty = FileRef { size: 0, sha256: Digest::of(b""), ..site.claim() };
    assert_eq!(fetch_content(&site.open(), &empty, &Silent).expect("is nothing"), b"");
    assert_eq!(site.server.seen().len(), 0);
}

#[test]
fn missing_spool_is_replaced_by_temporary_one() {
    let site = Site::new();
    let url = site.server.url().parse().expect("a URL");
    let repository = Repository::open(&url, &node(), &quick_options(), None).expect("opens");
    assert_eq!(repository.fetch_small(&site.claim(), 300_000).expect("fetches"), site.bytes);
    assert!(repository.fetch_small(&site.claim(), 299_999).is_err());
}
