//! A repository behind a real rsync daemon.

use super::*;

/// A real rsync daemon for the repository of a site.
struct Daemon {
    child: Child,
    port: u16,
}

impl Daemon {
    fn start(site: &Site) -> Self {
        let port = free_port();
        let config = site.scratch.path().join("rsyncd.conf");
        let text = format!(
            "address = 127.0.0.1\nuse chroot = no\nuid = {0}\ngid = {1}\n\
             [repo]\npath = {2}\nread only = yes\n",
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
        wait_for_server(port);

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

#[test]
fn rsync_daemon_is_a_repository() {
    require!(Program("rsync"));

    let site = Site::new();
    let daemon = Daemon::start(&site);
    let repository = open(&daemon.url(), &patient_options(), &site.spool_dir(), u64::MAX);
    let answer = repository.fetch_head(Some("\"any\"")).expect("fetches");

    assert_eq!(answer, HeadAnswer::Fetched { bytes: b"format = 1\n".to_vec(), etag: None });
    assert_eq!(fs::read_dir(site.spool_dir()).expect("is there").count(), 0);

    let part = site.spool_dir().join(format!("{}.part", site.claim().sha256));
    fs::write(&part, &site.bytes[..123_456]).expect("scratch");

    assert_eq!(fetch_content(&repository, &site.claim(), &Silent).expect("fetches"), site.bytes);
    assert!(!part.exists());
    assert_eq!(
        repository.fetch_frame(&site.claim(), &site.frame(100)).expect("is there"),
        &site.bytes[..100]
    );
}

#[test]
fn ranges_over_rsync_use_whole_file() {
    require!(Program("rsync"));

    let site = Site::new();
    let daemon = Daemon::start(&site);
    let repository = open(&daemon.url(), &patient_options(), &site.spool_dir(), u64::MAX);

    for offset in [100_000, 5] {
        let mut bytes = Vec::new();
        repository
            .range(&site.claim(), offset, 1000)
            .expect("fetches")
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
fn rsync_errors_name_side_at_fault() {
    require!(Program("rsync"));

    let site = Site::new();
    let daemon = Daemon::start(&site);
    let repository = open(&daemon.url(), &patient_options(), &site.spool_dir(), u64::MAX);
    let archive = site.repo_dir().join(&ARCHIVE[1..]);
    let assert_fetch_fails = |kind, side| {
        let error =
            repository.fetch(&site.claim(), &Silent).map(|_| ()).expect_err("the fetch fails");
        assert_eq!((error.kind, error.side), (kind, side), "{error}");
    };
    let part = site.spool_dir().join(format!("{}.part", site.claim().sha256));
    fs::write(&part, vec![7; 1000]).expect("scratch");

    assert_eq!(
        fetch_content(&repository, &site.claim(), &Silent).expect("fetches again"),
        site.bytes
    );

    repository.spool().tidy(&[]).expect("tidies");
    fs::write(&archive, [&site.bytes[..], b"more"].concat()).expect("scratch");
    assert_fetch_fails(Corrupt, Server);

    fs::write(&archive, b"less").expect("scratch");
    assert_fetch_fails(Corrupt, Server);

    fs::write(&archive, vec![0; 300_000]).expect("scratch");
    assert_fetch_fails(Corrupt, Server);

    fs::remove_file(&archive).expect("is there");
    assert_fetch_fails(NotFound, Server);

    let other =
        open(&format!("{}-other", daemon.url()), &patient_options(), &site.spool_dir(), u64::MAX);
    let error = other.fetch_head(None).expect_err("no such module");

    assert_eq!((error.kind, error.side), (NotFound, Server), "{error}");

    drop(daemon);
    let error = repository.fetch_head(None).expect_err("nobody listens");

    assert_eq!((error.kind, error.side), (Unreachable, Server), "{error}");
}
