//! Files of a real system, and the speed of reading and writing.

use super::*;

/// Reads and rebuilds all files below the directory that `XZ_CORPUS` names.
#[test]
#[ignore = "needs a directory of .xz files in XZ_CORPUS"]
fn corpus_is_reproduced() {
    let root = std::env::var_os("XZ_CORPUS").expect("XZ_CORPUS names a directory");
    let mut directories = vec![std::path::PathBuf::from(root)];
    let mut total = Replay::default();
    let (mut files, mut failures, mut plain) = (0, 0, 0);
    while let Some(directory) = directories.pop() {
        for entry in directory.read_dir().expect("valid") {
            let path = entry.expect("valid").path();
            if path.is_dir() && !path.is_symlink() {
                directories.push(path);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "xz") || path.is_symlink() {
                continue;
            }

            let file = std::fs::read(&path).expect("valid");
            files += 1;
            match Driver::replay(&file) {
                Ok(replay) if replay.rebuilt == file => {
                    plain += replay.plain.len();
                    total.reading += replay.reading;
                    total.writing += replay.writing;
                    total.ends.full += replay.ends.full;
                    total.ends.last += replay.ends.last;
                    total.ends.other += replay.ends.other;
                    total.ends.stored += replay.ends.stored;
                }
                other => {
                    failures += 1;
                    println!("{}: {:?}", path.display(), other.err());
                }
            }
        }
    }

    let megabytes = plain as f64 / 1e6;
    println!("{files} files, {failures} failures, {megabytes:.0} MB of plain content");
    println!("read {:.1} MB/s", megabytes / total.reading.as_secs_f64());
    println!("write {:.1} MB/s", megabytes / total.writing.as_secs_f64());
    println!("{:?}", total.ends);
    assert_eq!(failures, 0);
}
