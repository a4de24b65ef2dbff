//! A compressed file that is taken apart and, if that works, made again from its decisions; then the
//! same bytes as a decision stream. The first byte chooses which is tried.

#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use systemimager::replay::prediction::Reach;
use systemimager::replay::file::{
    DecisionReader, DecisionWriter, NewText, OldFile, OpenLimits, PlainReader,
};

const LIMITS: OpenLimits = OpenLimits { dictionary: 8 << 20, plain: 1 << 20 };

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    if choice % 2 == 0 {
        take_apart(data);
    } else {
        read_stream(data);
    }
});

fn take_apart(file: &[u8]) {
    let mut plain = Vec::new();
    if PlainReader::new(file, LIMITS).read_to_end(&mut plain).is_err() {
        return;
    }
    let mut writer = DecisionWriter::new(Reach::from_bytes(1 << 20));
    let mut made = Vec::new();
    let mut old = OldFile::new(Box::new(file), LIMITS);
    let recorded = writer.add(&mut &file[..], &plain, Some((0, &mut old)), LIMITS, &mut made);
    if recorded.is_err() || made != file {
        return;
    }

    let stream = writer.finish();
    let mut reader = DecisionReader::new(&stream).expect("a stream");
    assert_eq!(reader.old_file(), Some(0));
    let mut old = OldFile::new(Box::new(file), LIMITS);
    let mut again = Vec::new();
    reader
        .rebuild(NewText::Held(&plain), Some(&mut old), file.len() as u64)
        .read_to_end(&mut again)
        .expect("decisions that were recorded");
    assert_eq!(again, file);
}

fn read_stream(data: &[u8]) {
    let (plain, stream) = data.split_at(data.len() / 2);
    let Ok(mut reader) = DecisionReader::new(stream) else { return };
    let _ = reader.old_file();
    let mut made = Vec::new();
    let _ = reader.rebuild(NewText::Held(plain), None, 1 << 20).read_to_end(&mut made);
    assert!(made.len() <= 1 << 20);
}
