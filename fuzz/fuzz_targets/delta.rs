//! A patch of each kind. The first byte is the kind, the second the length of the source.

#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use systemimager::delta::{Copies, Kind, ReadAt, Segments, decode, segments_memory};

/// Length that the listing claims for the output.
const OUTPUT: u64 = 1 << 16;

fuzz_target!(|data: &[u8]| {
    let [kind, length, rest @ ..] = data else { return };
    let (source, patch) = rest.split_at(rest.len().min(usize::from(*length)));
    let mut output = Vec::new();
    match kind % 4 {
        0 => drop(decode(Kind::Prefix, source, patch, OUTPUT, &mut output)),
        1 => drop(decode(Kind::Operations, source, patch, OUTPUT, &mut output)),
        2 => {
            segments_memory(patch);
            let mut range = Vec::new();
            let mut segment = Vec::new();
            let old: Box<dyn ReadAt> = Box::new(source.to_vec());
            let segments = Segments::new(patch, OUTPUT, old, (&mut range, &mut segment));
            let _ = { segments }.read_to_end(&mut output);
        }
        _ => {
            let open = |_| Ok(Box::new(source.to_vec()) as Box<dyn ReadAt>);
            if let Ok(copies) = Copies::new(patch, OUTPUT, open) {
                let _ = { copies }.read_to_end(&mut output);
            }
        }
    }
    assert!(output.len() as u64 <= OUTPUT);
});
