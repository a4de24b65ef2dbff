//! A redo journal.

#![no_main]

use libfuzzer_sys::fuzz_target;
use systemimager::apply::journal;

fuzz_target!(|text: &str| {
    let _ = journal::parse(text);
});
