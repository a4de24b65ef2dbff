//! An archive of a whole image, as tar writes it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use systemimager::report::Silent;
use systemimager::tardiff::image_tar;

fuzz_target!(|data: &[u8]| {
    let _ = image_tar::read(data, &Silent);
});
