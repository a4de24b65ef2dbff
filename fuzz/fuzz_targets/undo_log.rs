//! An undo log.

#![no_main]

use libfuzzer_sys::fuzz_target;
use systemimager::apply::undo::undo_log;

fuzz_target!(|text: &str| {
    let _ = undo_log::parse(text);
});
