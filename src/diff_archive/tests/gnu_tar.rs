//! GNU tar unpacks our archives, and rsync judges the result; needs root, tar and rsync.

use std::path::Path;
use std::process::{Command, Output};

use super::trees::{ACL, CAPABILITY};
use super::*;

fn run(program: &str, arguments: &[&str], directory: &Path) -> Output {
    let output =
        Command::new(program).args(arguments).current_dir(directory).env("LC_ALL", "C").output();
    let output = output.unwrap_or_else(|e| panic!("this test needs {program}: {e}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn unpack(archive: &Path, directory: &Path) {
    let archive = archive.to_str().expect("a plain name");
    let options = [
        "-xpf",
        archive,
        "--xattrs",
        "--xattrs-include=*",
        "--numeric-owner",
        "--exclude=.si-diff",
    ];
    run("tar", &options, directory);
}

fn may_run() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: unpacking devices and owners needs root");
    }
    root
}

#[test]
fn diff_without_deltas_unpacks_over_its_base() {
    if !may_run() {
        return;
    }
    let (base, target) = rich_pair();
    for compression in FrameCompression::ALL {
        let scratch = tempfile::tempdir().expect("a directory");
        let at = |name: &str| scratch.path().join(name);
        let full = |tree: &MemoryTree, name: &str| {
            let (bytes, _) = build_full(tree, compression);
            let archive = at(&format!("{name}.{}", compression.extension()));
            std::fs::write(&archive, bytes).expect("writes");
            std::fs::create_dir(at(name)).expect("a directory");
            unpack(&archive, &at(name));
        };
        full(&base, "node");
        full(&target, "wanted");
        check_by_hand(&at("wanted"));

        let (bytes, _) = build(&base, &target, DeltaMode::WithoutDeltas, compression);
        let archive = at(&format!("diff.{}", compression.extension()));
        std::fs::write(&archive, &bytes).expect("writes");
        let listing = judge_names(&archive, &bytes, compression);
        for entry in listing.removed().iter().rev() {
            run(
                "rm",
                &["-rf", "--", entry.path.as_os_str().to_str().expect("a plain name")],
                &at("node"),
            );
        }
        unpack(&archive, &at("node"));

        let judge = ["-aHAXn", "--delete", "--checksum", "--numeric-ids", "-i", "wanted/", "node/"];
        let differences = run("rsync", &judge, scratch.path()).stdout;
        assert_eq!(String::from_utf8_lossy(&differences), "");
    }
}

/// Checks that `tar` lists the names of the listing, in its order.
fn judge_names(archive: &Path, bytes: &[u8], compression: FrameCompression) -> Listing {
    let file = framed(bytes, compression);
    let listing = verify_diff(file, &ArchiveLimits::default(), None, &Silent).expect("verifies");
    let options =
        ["--quoting-style=literal", "--null", "-tf", archive.to_str().expect("a plain name")];
    let names = run("tar", &options, Path::new("/")).stdout;
    let ours: Vec<u8> = listing
        .changed()
        .iter()
        .flat_map(|entry| {
            let top: &[u8] = if entry.path.is_root() { b"." } else { b"" };
            [top, entry.path.as_bytes(), if entry.is_dir() { b"/" } else { b"" }, b"\n"].concat()
        })
        .collect();
    assert!(names.ends_with(&ours), "{}", String::from_utf8_lossy(&names));
    listing
}

/// Checks values that rsync misses if both sides were unpacked with the same error.
fn check_by_hand(tree: &Path) {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let stat = |name: &[u8]| {
        tree.join(std::ffi::OsStr::from_bytes(name)).symlink_metadata().expect("is there")
    };
    let odd = b"odd\n\xff name";
    assert_eq!((stat(odd).mtime(), stat(odd).mtime_nsec()), (5, 999_999_999));
    assert_eq!(
        (stat(b"dev/b").mtime(), stat(b"dev/b").rdev()),
        (1 << 33, rustix::fs::makedev(254, 1_000_000))
    );
    assert!(stat(b"dev/c").file_type().is_char_device());
    assert_eq!(stat(b"type/linked-3").ino(), stat(b"linked-1").ino());
    let long = [vec![b'd'; 250], vec![b'e'; 250], vec![b'\xfe'; 200]].join(&b'/');
    let owned = stat(&long);
    assert_eq!(
        (owned.uid(), owned.gid(), owned.mode() & 0o7777),
        (3_000_000, 4_000_000_000, 0o4755)
    );
    assert_eq!((owned.mtime(), owned.mtime_nsec()), (-3, 250_000_000));
    let far = std::fs::read_link(tree.join("far")).expect("a link");
    assert_eq!(far.as_os_str().len(), 4095);
    let attribute = |name: &[u8], of: &[u8]| {
        let mut value = [0; 100];
        let path = tree.join(std::ffi::OsStr::from_bytes(of));
        let length = rustix::fs::lgetxattr(&path, std::ffi::OsStr::from_bytes(name), &mut value);
        value[..length.expect("has the attribute")].to_vec()
    };
    assert_eq!(attribute(b"user.a=b%\xff", odd), b"\0binary\nwith = lines\n\xff");
    assert_eq!(attribute(b"system.posix_acl_access", b"acl"), ACL);
    assert_eq!(attribute(b"security.capability", b"capable"), CAPABILITY);
}
