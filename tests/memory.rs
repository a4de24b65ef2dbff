//! Peak memory of a node's run does not grow with the bytes of the image, nor with untracked names.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item};
use crate::common::{ROOT_AND_RSYNC, require};
use rustix::fs::{FileType, Mode};

const MIB: u64 = 1 << 20;
/// Size of the large file in the smaller image; in the other image it is twice as large.
const SIZE: u64 = 110 * MIB;
const LARGE: &str = "usr/lib/large";
/// Less than half of the smaller file.
const BOUND: u64 = 48 * MIB;
/// Difference that the allocator and threads may cause between two runs.
const SLACK: u64 = 16 * MIB;

/// Writes `size` incompressible bytes without holding them in memory.
fn write_noise(path: &Path, size: u64) {
    let mut file = File::create(path).expect("creates the file");
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut block = vec![0; MIB as usize];

    for _ in 0..size / MIB {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block).expect("writes the block");
    }
}

/// Runs `command`, which must succeed, and returns its peak memory in bytes.
#[track_caller]
fn peak(command: &mut Command) -> u64 {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let status = format!("/proc/{}/status", child.id());

    let mut peak = 0;
    while child.try_wait().expect("a child").is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let kilobytes = text.lines().find_map(|line| {
            line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok()
        });
        peak = peak.max(kilobytes.unwrap_or(0) << 10);
        sleep(Duration::from_millis(2));
    }

    Run::from_output(child.wait_with_output().expect("the output")).ended(0, &["updated to node"]);
    assert!(peak > MIB, "the peak was not seen");

    peak
}

/// Publishes the image with the least effort.
fn publish(site: &Site) {
    let cheap = ["--effort", "fast", "--level", "1", "--diffs", "1", "--full-share", "1000"];
    site.publish_image(&cheap);
}

/// A node with an update before it that adds a file of `size` bytes.
fn behind_large_file(size: u64) -> Site {
    let site = Site::at(&trees::system());
    write_noise(&site.image().join(LARGE), size);
    publish(&site);
    site
}

/// Changes a few bytes in each part of the large file, and publishes the image.
fn publish_edited_file(site: &Site) {
    let large = site.image().join(LARGE);
    let size = fs::metadata(&large).expect("the large file").len();
    let file = OpenOptions::new().write(true).open(&large).expect("opens the file");
    for part in 0..16 {
        file.write_all_at(b"edited", part * size / 16 + 1000).expect("edits the file");
    }
    publish(site);
}

#[test]
fn file_of_any_size_is_updated_within_fixed_memory() {
    require!(ROOT_AND_RSYNC);

    let small = behind_large_file(SIZE);
    let large = behind_large_file(2 * SIZE);

    let small_peak = peak(small.command().arg("--no-fallback"));
    let large_peak = peak(large.command().arg("--no-fallback"));
    publish_edited_file(&small);
    let edited_peak = peak(small.command().arg("--no-fallback"));

    let peaks = [small_peak, large_peak, edited_peak];
    assert!(peaks.iter().all(|peak| *peak < BOUND), "{peaks:?} bytes");
    assert!(large_peak < small_peak + SLACK, "{peaks:?} bytes");
    assert_eq!(fs::metadata(large.node().join(LARGE)).expect("the large file").len(), 2 * SIZE);
}

/// Names that anybody can make in `/tmp`.
const NAMES: usize = 100_000;

/// A node with an update to do, and with `names` untracked names in one directory.
fn behind_with_names(names: usize) -> Site {
    let mut tree = trees::system();
    let site = Site::at(&tree);
    trees::put(&mut tree, "etc/hostname", Item::file("new"));
    site.publish(&tree);

    let tmp = File::open(site.node().join("tmp")).expect("opens");
    for number in 0..names {
        let name = format!("a-name-that-anybody-can-make-{number}");
        rustix::fs::mknodat(&tmp, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .expect("a pipe");
    }
    site
}

#[test]
fn untracked_names_need_little_memory() {
    require!(ROOT_AND_RSYNC);

    let (few, many) = (behind_with_names(0), behind_with_names(NAMES));

    let peaks = [&few, &many].map(|site| peak(&mut site.command()));

    // An entry of a list would need some hundred bytes a name.
    assert!(peaks[1] < peaks[0] + SLACK, "{peaks:?} bytes for 0 and {NAMES} names");
}
