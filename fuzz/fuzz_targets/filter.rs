//! An exclude file, and a path in its last line that is matched.

#![no_main]

use libfuzzer_sys::fuzz_target;
use systemimager::entry::EntryKind;
use systemimager::filter::Filter;
use systemimager::tree_path::TreePath;

fuzz_target!(|data: &[u8]| {
    let end = data.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    let (rules, path) = data.split_at(end);
    let Ok(builder) = Filter::builder().exclude_file("rules", rules) else { return };
    let filter = builder.build();
    filter.rsync_rules();
    if let Ok(path) = TreePath::new(path) {
        filter.excludes(&path, EntryKind::Other);
        filter.excludes(&path, EntryKind::Directory);
    }
});
