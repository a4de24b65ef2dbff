use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Mutex;

use super::*;
use crate::digest::Digest;
use crate::report::Silent;

fn tree() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().expect("a scratch directory");
    fs::create_dir(dir.path().join("d")).expect("creates");
    fs::write(dir.path().join("d/one"), b"1").expect("writes");
    fs::hard_link(dir.path().join("d/one"), dir.path().join("two")).expect("links");
    fs::write(dir.path().join("three"), b"333").expect("writes");
    symlink("d/one", dir.path().join("link")).expect("links");
    let root = Root::open(dir.path()).expect("opens");
    (dir, root)
}

fn scanned(root: &Root) -> Scan {
    scan(root, &Cache::default(), &Silent).expect("scans")
}

fn entry<'a>(scan: &'a Scan, path: &str) -> &'a Entry {
    scan.manifest().get(&TreePath::new(path).expect("good")).expect("is there")
}

#[test]
fn tree_scanned_exactly() {
    let (dir, root) = tree();
    fs::set_permissions(dir.path().join("three"), fs::Permissions::from_mode(0o4711))
        .expect("chmods");
    let scan = scanned(&root);

    assert_eq!(scan.manifest().len(), 6);
    assert_eq!(entry(&scan, "three").meta.mode, 0o4711);
    assert_eq!(entry(&scan, "three").file(), Some((3, Digest::of(b"333"))));
    assert_eq!(entry(&scan, "two").group(), Some(&entry(&scan, "d/one").path));
    assert_eq!(entry(&scan, "two").file(), Some((1, Digest::of(b"1"))));
    assert_eq!((scan.manifest().bytes(), scan.bytes_read()), (4, 4));

    scan.recheck(&root).expect("nothing changed");
}

#[test]
fn link_outside_image_gives_no_group() {
    let (dir, root) = tree();
    fs::remove_file(dir.path().join("two")).expect("removes");
    let outside =
        tempfile::tempdir_in(dir.path().parent().expect("a parent")).expect("a scratch directory");
    fs::hard_link(dir.path().join("d/one"), outside.path().join("x")).expect("links");
    assert_eq!(entry(&scanned(&root), "d/one").group(), None);
}

/// Moves the begin of a scan, so that its files changed long before it.
fn settle(scan: Scan) -> Scan {
    Scan { started: Mtime { seconds: scan.started.seconds + 10, ..scan.started }, ..scan }
}

#[test]
fn unchanged_content_not_read_again() {
    let (dir, root) = tree();
    let first = settle(scanned(&root));
    let second = scan(&root, &first.cache(), &Silent).expect("scans");

    assert_eq!((second.bytes_read(), second.manifest().id()), (0, first.manifest().id()));

    fs::write(dir.path().join("three"), b"444").expect("writes");
    let third = scan(&root, &first.cache(), &Silent).expect("scans");

    assert_eq!(third.bytes_read(), 3);
    assert_eq!(entry(&third, "three").file(), Some((3, Digest::of(b"444"))));
}

#[test]
fn content_changed_just_before_scan_read_again() {
    let (_dir, root) = tree();
    assert!(scanned(&root).cache().is_empty());
}

#[test]
fn damaged_or_missing_cache_is_empty() {
    let (_dir, root) = tree();
    let cache = settle(scanned(&root)).cache();
    let place = tempfile::tempdir().expect("a scratch directory");
    let file = place.path().join("cache");
    cache.save(&file).expect("writes");

    assert_eq!(Cache::load(&file), cache);

    let bytes = fs::read(&file).expect("reads");

    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        fs::write(&file, &damaged).expect("writes");
        assert!(Cache::load(&file).is_empty());
        fs::write(&file, &bytes[..at]).expect("writes");
        assert!(Cache::load(&file).is_empty());
    }
    assert!(Cache::load(Path::new("/nonexistent")).is_empty());
}

#[test]
fn change_after_scan_named() {
    let (dir, root) = tree();
    let scan = scanned(&root);
    fs::write(dir.path().join("three"), b"444").expect("writes");
    let error = scan.recheck(&root).expect_err("it changed").to_string();

    assert!(error.contains("three changed"), "{error}");

    let scan = scanned(&root);
    fs::write(dir.path().join("d/new"), b"").expect("writes");

    assert!(scan.recheck(&root).expect_err("it changed").to_string().contains("/d changed"));
}

#[test]
fn client_state_in_image_refused_by_name() {
    for state in ["var/lib/systemimager/client/state.toml", ".si-journal", "boot/.si-stage/1"] {
        let (dir, root) = tree();
        let file = dir.path().join(state);
        fs::create_dir_all(file.parent().expect("a parent")).expect("creates");
        fs::write(&file, b"").expect("writes");
        let Err(error) = scan(&root, &Cache::default(), &Silent) else {
            panic!("{state} is accepted")
        };
        assert!(
            matches!(&error, ScanError::ClientState { path } if path.contains("si-") || path.contains("state"))
        );
    }

    let (dir, root) = tree();
    fs::create_dir_all(dir.path().join("var/lib/systemimager/client")).expect("creates");
    scanned(&root);
}

#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Monitor for Warnings {
    fn event(&self, event: Event) {
        if let Event::Warning { text } = event {
            self.0.lock().expect("no panic").push(text);
        }
    }
}

#[test]
fn socket_left_out_with_warning() {
    let (dir, root) = tree();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).expect("binds");
    let warnings = Warnings::default();
    let scan = scan(&root, &Cache::default(), &warnings).expect("scans");
    assert_eq!(scan.manifest().len(), 6);
    assert!(warnings.0.lock().expect("no panic")[0].ends_with("s is a socket and is left out"));
}

struct Stopped;

impl Monitor for Stopped {
    fn event(&self, _: Event) {}

    fn is_cancelled(&self) -> bool {
        true
    }
}

#[test]
fn cancellation_ends_reading_of_content() {
    let (_dir, root) = tree();
    let path = TreePath::new("three").expect("good");

    assert!(matches!(read_entries(&root, &[path], &Stopped), Err(ScanError::Cancelled)));
}

/// The judge is Debian's mtree-netbsd, which shares no code with this program.
#[test]
fn exported_tree_equal_for_mtree() {
    let probe =
        std::process::Command::new("mtree").arg("-c").arg("-p").arg("/dev/null/absent").output();
    if probe.is_err() {
        eprintln!("NOT TESTED: mtree is not installed (apt install mtree-netbsd)");
        return;
    }
    let (dir, root) = tree();
    for (name, content) in [("odd \n#=[*]\\ä", "x"), ("-dash", ""), ("~", "y")] {
        fs::write(dir.path().join(name), content).expect("writes");
    }
    root.create_fifo(&TreePath::new("pipe").expect("good")).expect("creates");
    let old = Mtime { seconds: -315_619_200, nanos: 5 };
    let file = root.hold(&TreePath::new("three").expect("good")).expect("opens").expect("exists");
    file.set_mtime(old).expect("sets");
    let specification = tempfile::NamedTempFile::new().expect("a scratch file");
    scanned(&root).manifest().export_mtree(&specification).expect("writes");
    let judged = |name: &str| {
        let mut mtree = std::process::Command::new("mtree");
        let output = mtree
            .arg("-f")
            .arg(specification.path())
            .arg("-p")
            .arg(dir.path())
            .output()
            .expect("runs");
        (output.status.success(), format!("{name}: {}", String::from_utf8_lossy(&output.stdout)))
    };

    assert_eq!(judged("equal"), (true, "equal: ".to_owned()));

    fs::write(dir.path().join("three"), b"444").expect("writes");

    assert!(!judged("changed").0);
}
