//! The state of a node; one that is read is written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use systemimager::state::State;

fuzz_target!(|text: &str| {
    if let Ok(state) = State::parse(text, "the input") {
        let written = state.to_toml().expect("a state is written");
        assert_eq!(State::parse(&written, "the output").expect("and read"), state);
    }
});
