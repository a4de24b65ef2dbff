//! Active swap files, which the kernel lets nobody rename, replace or remove.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD};

use super::{Stat, procfs};

/// Device and inode of each active swap file, from `/proc/swaps`; empty if it cannot be read.
pub fn active_swap_files() -> Vec<(u64, u64)> {
    let table = procfs::read("swaps").unwrap_or_default();
    parse(&table)
        .iter()
        .filter_map(|path| {
            let path = Path::new(OsStr::from_bytes(path));
            let stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let stat = Stat::from(stat);
            Some((stat.dev, stat.ino))
        })
        .collect()
}

/// Paths of the swap files in the table; swap partitions are left out.
fn parse(table: &[u8]) -> Vec<Vec<u8>> {
    // The first line is a heading: Filename, Type, Size, Used, Priority.
    let lines = table.split(|&byte| byte == b'\n').skip(1);
    lines
        .filter_map(|line| {
            let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
            let (path, kind) = (fields.next()?, fields.next()?);
            (kind == b"file").then(|| super::mounts::unescape(path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_files_listed_without_partitions() {
        let table = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
            /dev/dm-1                               partition\t100\t\t0\t\t-2\n\
            /opt/swap\\040file                       file\t\t8188\t\t0\t\t-3\n";

        assert_eq!(parse(table), [b"/opt/swap file".to_vec()]);
        assert_eq!(parse(b""), Vec::<Vec<u8>>::new());
    }
}
