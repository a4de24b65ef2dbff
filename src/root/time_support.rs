//! Times that a filesystem can hold: their resolution and their range.
//!
//! ext4 with inodes of 128 bytes holds whole seconds from 1901 to 2038, ext4 with larger ones times
//! until 2446, xfs without `bigtime` until 2038. The kernel rounds a time down to the resolution
//! and moves it into the range, without an error. A comparison that does not do the same finds a
//! difference at every run.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};

use crate::entry::Mtime;

use super::fault::change;
use super::{Root, Stat};

/// Resolutions in nanoseconds that the kernel's filesystems have, the finest first.
const RESOLUTIONS: [u32; 6] = [1, 100, 1_000, 1_000_000, 10_000_000, 1_000_000_000];
/// A time that each of [`RESOLUTIONS`] rounds to another one.
const FINE_TIME: Mtime = Mtime { seconds: 1_600_000_000, nanos: 123_456_789 };
/// A time later than that of any filesystem with a limit, in seconds.
const LATE: i64 = 1 << 40;

/// Times that a filesystem can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeSupport {
    /// Resolution in nanoseconds.
    resolution: u32,
    /// First and last time in seconds.
    first: i64,
    last: i64,
}

impl TimeSupport {
    /// Support of every time.
    pub const EXACT: TimeSupport = TimeSupport { resolution: 1, first: i64::MIN, last: i64::MAX };

    /// The time that the filesystem stores if it is given `time`.
    pub fn held(self, time: Mtime) -> Mtime {
        let seconds = time.seconds.clamp(self.first, self.last);
        // The kernel drops the fraction at both limits, also of a time that is in the range.
        let nanos = if seconds == self.first || seconds == self.last { 0 } else { time.nanos };
        Mtime { seconds, nanos: nanos - nanos % self.resolution }
    }

    /// First and last time, in seconds since 1970.
    pub fn range(self) -> (i64, i64) {
        (self.first, self.last)
    }

    /// Whether the filesystem is coarser than a nanosecond.
    pub fn is_coarse(self) -> bool {
        self.resolution > 1
    }
}

impl Root {
    /// Finds out which times the filesystem of the root directory can hold.
    ///
    /// It sets times of a file without a name and reads them back, so that nothing in the tree
    /// changes. If the filesystem has no such files, or is read-only, all times count as held.
    pub fn time_support(&self) -> TimeSupport {
        self.probe_times().unwrap_or(TimeSupport::EXACT)
    }

    fn probe_times(&self) -> rustix::io::Result<TimeSupport> {
        let (flags, mode) = (OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR);
        let file = change(|| rustix::fs::openat(&self.dir, c".", flags, mode))?;

        let fine = set_and_read(&file, FINE_TIME)?;
        let rounds = |nanos: &u32| FINE_TIME.nanos - FINE_TIME.nanos % nanos == fine.nanos;
        let resolution = RESOLUTIONS.into_iter().find(rounds).unwrap_or(1);

        // A filesystem without limits returns the times as they were set.
        let limit = |seconds, without_limit| -> rustix::io::Result<i64> {
            let read = set_and_read(&file, Mtime { seconds, nanos: 0 })?;
            Ok(if read.seconds == seconds { without_limit } else { read.seconds })
        };
        let (first, last) = (limit(-LATE, i64::MIN)?, limit(LATE, i64::MAX)?);

        // Before Linux 5.4 a time outside the range became any other time.
        let is_plausible = first < FINE_TIME.seconds && FINE_TIME.seconds < last;
        let (first, last) = if is_plausible { (first, last) } else { (i64::MIN, i64::MAX) };
        Ok(TimeSupport { resolution, first, last })
    }
}

fn set_and_read(file: &OwnedFd, time: Mtime) -> rustix::io::Result<Mtime> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() },
    };
    change(|| rustix::fs::futimens(file.as_fd(), &times))?;
    Ok(Stat::from(rustix::fs::fstat(file)?).mtime)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree_path::TreePath;

    #[test]
    fn held_times_are_those_that_the_kernel_stores() {
        let at = |seconds, nanos| Mtime { seconds, nanos };
        let ext3 = TimeSupport {
            resolution: 1_000_000_000,
            first: i32::MIN.into(),
            last: i32::MAX.into(),
        };
        let xfs = TimeSupport { resolution: 1, ..ext3 };
        let cases = [
            (TimeSupport::EXACT, at(1 << 40, 999_999_999), at(1 << 40, 999_999_999)),
            (ext3, at(5, 999_999_999), at(5, 0)),
            (ext3, at(-5, 1), at(-5, 0)),
            (ext3, at(4_000_000_000, 7), at(i32::MAX.into(), 0)),
            (xfs, at(5, 7), at(5, 7)),
            (xfs, at(-4_000_000_000, 7), at(i32::MIN.into(), 0)),
            // The kernel drops the fraction at the limits.
            (xfs, at(i32::MAX.into(), 7), at(i32::MAX.into(), 0)),
        ];

        for (support, time, held) in cases {
            assert_eq!(support.held(time), held, "{time} with {support:?}");
            assert_eq!(support.held(held), held, "{time} again");
        }
    }

    #[test]
    fn probe_leaves_directory_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = Root::open(dir.path()).expect("opens");
        let before = root.stat(&TreePath::root()).expect("stat");

        let support = root.time_support();

        assert_eq!(support.held(FINE_TIME).seconds, FINE_TIME.seconds);
        assert_eq!(root.stat(&TreePath::root()).expect("stat"), before);
    }
}
