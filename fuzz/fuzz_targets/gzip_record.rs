//! Corrections of a gzip file, and the plain form from which it is rebuilt. The first byte is the
//! length of the corrections.

#![no_main]

use libfuzzer_sys::fuzz_target;
use systemimager::delta::gzip::{Rebuild, plain_length};

fuzz_target!(|data: &[u8]| {
    let Some((length, rest)) = data.split_first() else { return };
    let (corrections, plain) = rest.split_at(rest.len().min(usize::from(*length)));
    let _ = plain_length(corrections);
    let Ok(mut rebuild) = Rebuild::new(corrections, Vec::new()) else { return };
    if rebuild.write(plain).is_ok() {
        let _ = rebuild.finish();
    }
});
