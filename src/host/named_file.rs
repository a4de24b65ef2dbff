//! Files of the running system that a command line or a setting names.
//!
//! open(2) of a named pipe waits until somebody opens its other end, and no signal handler ends that
//! wait. So each such file is opened with `O_NONBLOCK`, and only plain files and character devices,
//! such as `/dev/null`, are read.

#![allow(
    clippy::disallowed_methods,
    reason = "the administrator names these files, including their symlinks"
)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a file for reading, without waiting.
pub fn open(path: &Path) -> io::Result<File> {
    let nonblock = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path)?;

    let kind = file.metadata()?.file_type();
    if kind.is_fifo() {
        return Err(io::Error::other("it is a named pipe and no plain file"));
    }
    if !kind.is_file() && !kind.is_char_device() {
        return Err(io::Error::other("it is no plain file"));
    }
    Ok(file)
}

/// Reads at most `limit` bytes of a file.
pub fn read(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(limit as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{CWD, FileType, Mode};

    use super::*;

    #[test]
    fn pipe_and_directory_are_refused_without_waiting() {
        let dir = tempfile::tempdir().expect("a directory");
        let pipe = dir.path().join("pipe");
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, mode, 0).expect("makes a pipe");
        let file = dir.path().join("file");
        fs::write(&file, "12345").expect("writes");

        assert!(open(&pipe).is_err_and(|error| error.to_string().contains("named pipe")));
        assert!(open(dir.path()).is_err());
        assert_eq!(read(&file, 3).expect("reads"), b"123");
        assert_eq!(read(Path::new("/dev/null"), 3).expect("reads"), b"");
    }
}
