//! Random numbers on kernels without getrandom(2), which came with Linux 3.17.
//!
//! The standard library, and each crate that needs random numbers, then reads `/dev/urandom`; if
//! that is missing too, the standard library ends the process by a panic. So both programs begin
//! with [`check`]. Keys of TLS and of requests to name servers never come from a weaker source.

use std::fs::File;
use std::io;

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Source of random numbers if the kernel has no getrandom, or a filter refuses it.
const DEVICE: &str = "/dev/urandom";

/// A kernel and a root directory without random numbers.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot get random numbers: getrandom: {errno}; {DEVICE}: {source}; mount a devtmpfs on /dev, \
     or run mknod -m 444 {DEVICE} c 1 9"
)]
pub struct NoRandomNumbers {
    errno: Errno,
    source: io::Error,
}

/// Checks that there is a source of random numbers.
pub fn check() -> Result<(), NoRandomNumbers> {
    match getrandom(&mut [0_u8; 0][..], GetRandomFlags::empty()) {
        Err(errno @ (Errno::NOSYS | Errno::PERM)) => {
            open_device().map(drop).map_err(|source| NoRandomNumbers { errno, source })
        }
        _ => Ok(()),
    }
}

#[allow(clippy::disallowed_methods, reason = "a device of the running system")]
fn open_device() -> io::Result<File> {
    File::open(DEVICE)
}

/// Backend of the crate getrandom in a static program.
///
/// Its own backends find the system call in a dynamic C library, or lack the device.
#[cfg(getrandom_backend = "custom")]
mod backend {
    #![allow(unsafe_code, reason = "the crate getrandom calls a function of this name")]

    use std::io::Read;

    use super::*;

    /// Fills a buffer with random bytes.
    #[unsafe(no_mangle)]
    unsafe extern "Rust" fn __getrandom_v03_custom(
        buffer: *mut u8,
        length: usize,
    ) -> Result<(), getrandom::Error> {
        // SAFETY: the caller passes a buffer of `length` bytes, which it may not have initialized.
        let buffer = unsafe {
            std::ptr::write_bytes(buffer, 0, length);
            std::slice::from_raw_parts_mut(buffer, length)
        };
        fill(buffer).map_err(|_| getrandom::Error::UNEXPECTED)
    }

    fn fill(mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match getrandom(&mut *buffer, GetRandomFlags::empty()) {
                Ok(count) => buffer = &mut buffer[count..],
                Err(Errno::INTR) => {}
                Err(Errno::NOSYS | Errno::PERM) => return open_device()?.read_exact(buffer),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}
