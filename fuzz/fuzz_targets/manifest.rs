//! A manifest; there is one text for each, so one that is read is written as the same bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use systemimager::manifest::Manifest;

fuzz_target!(|data: &[u8]| {
    if let Ok(manifest) = Manifest::parse(data) {
        let mut text = Vec::new();
        manifest.write_to(&mut text).expect("a manifest is written");
        assert_eq!(text, data);
    }
});
