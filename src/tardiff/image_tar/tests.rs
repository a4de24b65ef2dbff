use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::report::Silent;
use crate::root::Root;
use crate::scan::{Cache, scan};

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let at = |name: &str| dir.path().join(name);
    let deep = format!("{}/{}", "d".repeat(120), "e".repeat(120));
    fs::create_dir_all(at(&deep)).expect("creates");
    fs::write(at(&deep).join("odd \n=#ä"), b"1").expect("writes");
    fs::hard_link(at(&deep).join("odd \n=#ä"), at("a link")).expect("links");
    symlink("x".repeat(150), at("symlink")).expect("links");
    symlink("y", at("short")).expect("links");
    fs::write(at("empty"), b"").expect("writes");

    let mut holes = vec![0; 3 << 20];
    for piece in 0..30 {
        holes[piece * 100_000] = 7;
    }
    fs::write(at("dense"), &holes).expect("writes");
    assert!(
        Command::new("cp")
            .arg("--sparse=always")
            .arg(at("dense"))
            .arg(at("holes"))
            .status()
            .expect("runs")
            .success()
    );

    let root = Root::open(dir.path()).expect("opens");
    root.create_fifo(&TreePath::new("pipe").expect("good")).expect("creates");
    let old = Mtime { seconds: -5, nanos: 250_000_000 };
    let file = root.hold(&TreePath::new("empty").expect("good")).expect("opens").expect("exists");
    file.set_mtime(old).expect("sets");
    dir
}

fn tar(dir: &Path, options: &[&str]) -> Vec<u8> {
    let output =
        Command::new("tar").args(options).arg("-cC").arg(dir).arg(".").output().expect("tar runs");
    assert!(output.status.success());
    output.stdout
}

fn scanned(dir: &Path) -> Manifest {
    let root = Root::open(dir).expect("opens");
    scan(&root, &Cache::default(), &Silent).expect("scans").manifest().clone()
}

fn without_fractions(manifest: &Manifest) -> Vec<Entry> {
    let mut entries = manifest.entries().to_vec();
    entries.iter_mut().for_each(|entry| entry.meta.mtime.nanos = 0);
    entries
}

#[test]
fn pax_archive_has_manifest_of_tree() {
    let dir = tree();
    for options in [&["--format=pax"][..], &["--format=pax", "-S"]] {
        let image = read(&tar(dir.path(), options)[..], &Silent).expect("reads");
        assert_eq!(image.manifest, scanned(dir.path()), "{options:?}");
        assert!(!image.whole_seconds);
    }
}

#[test]
fn gnu_archive_has_manifest_of_tree_without_fractions() {
    let dir = tree();

    for options in [&["--format=gnu"][..], &["--format=gnu", "-S"]] {
        let image = read(&tar(dir.path(), options)[..], &Silent).expect("reads");
        assert_eq!(
            without_fractions(&image.manifest),
            without_fractions(&scanned(dir.path())),
            "{options:?}"
        );
        assert!(image.whole_seconds);
    }
}

#[test]
fn damaged_archive_is_refused_without_panic() {
    let dir = tree();
    let good = tar(dir.path(), &["--format=pax", "-S"]);
    for at in
        (0..good.len()).step_by(37).chain(good.len() - 20_000..good.len()).filter(|at| at % 3 == 0)
    {
        let mut bad = good.clone();
        bad.truncate(at);
        let _ = read(&bad[..], &Silent);
        if at > 200_000 {
            break;
        }
    }

    for at in (0..60_000.min(good.len())).step_by(101) {
        let mut bad = good.clone();
        bad[at] ^= 0x35;
        let _ = read(&bad[..], &Silent);
    }
    assert!(read(&good[..700], &Silent).is_err());
    assert!(read(&b"not a tar"[..], &Silent).is_err());
}
