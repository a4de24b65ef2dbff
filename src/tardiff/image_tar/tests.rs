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
    for options in [
        &["--format=pax"][..],
        &["--format=pax", "-S"],
        &["--format=pax", "-S", "--sparse-version=0.0"],
        &["--format=pax", "-S", "--sparse-version=0.1"],
    ] {
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

#[test]
fn incremental_archive_is_read_unless_it_is_incomplete() {
    let dir = tree();
    let snapshot = tempfile::NamedTempFile::new().expect("a scratch file");
    let option = format!("--listed-incremental={}", snapshot.path().display());
    // A file of the same second counts as changed.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    for format in ["--format=gnu", "--format=pax"] {
        fs::write(snapshot.path(), "").expect("empties");
        let whole = tar(dir.path(), &[format, &option]);
        let rest = tar(dir.path(), &[format, &option]);

        let image = read(&whole[..], &Silent).expect("reads");
        let (found, wanted) = (&image.manifest, &scanned(dir.path()));
        assert_eq!(without_fractions(found), without_fractions(wanted), "{format}");
        assert!(image.whole_seconds || found == wanted, "{format}");
        let error = read(&rest[..], &Silent).err().expect("is refused").to_string();
        assert!(error.contains("level 0"), "{format}: {error}");
    }
}

/// A pax archive with one empty file that has `records`.
fn with_records(records: &[(&str, &str)]) -> Vec<u8> {
    let mut text = Vec::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let length = (rest.len()..).find(|n| n.to_string().len() + rest.len() == *n);
        text.extend(format!("{}{rest}", length.expect("a length")).bytes());
    }

    let mut builder = tar::Builder::new(Vec::new());
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_size(text.len() as u64);
    header.set_path("pax").expect("fits");
    header.set_cksum();
    builder.append(&header, &text[..]).expect("appends");
    let mut header = Header::new_ustar();
    header.set_path("f").expect("fits");
    header.set_size(0);
    header.set_mode(0o664);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    builder.append(&header, &b""[..]).expect("appends");
    builder.into_inner().expect("ends")
}

#[test]
fn acl_in_text_form_becomes_attribute() {
    const NAMED: &str = "user::rw-\nuser:1234:rw-\ngroup::r--\nmask::rw-\nother::r--\n";
    const PLAIN: &str = "user::rw-\ngroup::r--\nother::r--\n";
    let attributes = |records: &[(&str, &str)]| {
        let image = read(&with_records(records)[..], &Silent).expect("reads");
        let entry = image.manifest.get(&TreePath::new("f").expect("good")).expect("an entry");
        let names = entry.meta.xattrs.keys();
        names.map(|name| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>()
    };

    assert_eq!(attributes(&[("SCHILY.acl.access", NAMED)]), ["system.posix_acl_access"]);
    assert_eq!(attributes(&[("SCHILY.acl.default", PLAIN)]), ["system.posix_acl_default"]);
    assert!(attributes(&[("SCHILY.acl.access", PLAIN)]).is_empty());
    assert!(attributes(&[("SCHILY.acl.access", &NAMED.replace("1234", "bob"))]).is_empty());
}

#[test]
fn damaged_sparse_records_are_refused() {
    let size = ("GNU.sparse.size", "10");
    let count = ("GNU.sparse.numblocks", "1");
    let (offset, length) = (("GNU.sparse.offset", "10"), ("GNU.sparse.numbytes", "0"));

    assert!(read(&with_records(&[size, count, offset, length])[..], &Silent).is_ok());
    for records in [
        &[size, count, length, offset][..],
        &[size, count, offset],
        &[size, count, offset, offset],
        &[size, offset, length],
        &[size, ("GNU.sparse.numblocks", "2"), offset, length],
        &[size, count, ("GNU.sparse.offset", "11"), length],
        &[size, count, ("GNU.sparse.map", "10")],
        &[size, count, ("GNU.sparse.map", "10,x")],
        &[("GNU.sparse.size", "99999999999999"), count, offset, length],
    ] {
        assert!(read(&with_records(records)[..], &Silent).is_err(), "{records:?}");
    }
}
