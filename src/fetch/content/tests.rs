use std::cell::Cell;

use super::*;
use crate::catalog::{ArchiveKind, FirstFrame};
use crate::delta::Effort;
use crate::diff_archive::tests::{Builder, Tree, build, meta, noise};
use crate::diff_archive::{WriteOptions, WrittenArchiveInfo, write_full};
use crate::entry::Entry;
use crate::fetch::Side;
use crate::generation::GenerationId;
use crate::report::Silent;
use crate::tree_path::TreePath;

/// A repository in memory that counts what is asked of it.
#[derive(Default)]
struct Shelf {
    files: HashMap<RepoPath, Vec<u8>>,
    archives: Vec<Archive>,
    index: ContentIndex,
    requests: Cell<u32>,
    unreachable: bool,
}

impl Shelf {
    fn add(&mut self, name: &str, bytes: Vec<u8>, written: WrittenArchiveInfo) {
        let file = RepoPath::new(name).expect("a good name");
        let WrittenArchiveInfo {
            size,
            sha256,
            first_frame: FirstFrame { length, sha256: first },
            index,
        } = written;
        let kind = ArchiveKind::Full { target: GenerationId(sha256) };
        let first_frame = FirstFrame { length, sha256: first };
        self.archives.push(Archive {
            kind,
            file: FileRef { file: file.clone(), size, sha256 },
            first_frame,
        });
        let mut all = std::mem::take(&mut self.index).into_archives();
        all.push((file.clone(), index));
        self.index = ContentIndex::new(all);
        self.files.insert(file, bytes);
    }

    fn fetch(
        &self,
        wanted: &[(Digest, u64)],
        local: &dyn Sources,
    ) -> (HashMap<Digest, Vec<u8>>, Vec<Missing>) {
        let mut found = HashMap::new();
        let store = ContentStore::new(&self.index, &self.archives, self, local);
        let mut sink = |digest, content: &mut dyn Read| {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            found.insert(digest, bytes);
            Ok(())
        };
        let missing = store.fetch(wanted, &mut sink).expect("fetches");
        (found, missing)
    }

    fn damage(&mut self, name: &str) {
        let bytes =
            self.files.get_mut(&RepoPath::new(name).expect("a good name")).expect("is there");
        let (from, to) = (bytes.len() / 4, bytes.len() * 3 / 4);
        bytes[from..to].fill(0x55);
    }
}

impl Ranges for Shelf {
    fn range(
        &self,
        file: &FileRef,
        offset: u64,
        length: u64,
    ) -> Result<Box<dyn Read + '_>, FetchError> {
        self.requests.set(self.requests.get() + 1);
        let error = |kind, why| FetchError::new(kind, Side::Server, &file.file, why);
        if self.unreachable {
            return Err(error(FetchErrorKind::Unreachable, "no route"));
        }
        let bytes = self
            .files
            .get(&file.file)
            .ok_or_else(|| error(FetchErrorKind::NotFound, "it is not there"))?;
        Ok(Box::new(&bytes[offset as usize..(offset + length) as usize]))
    }
}

struct Nothing;

impl Sources for Nothing {
    fn read(&self, _: &Digest, _: u64, _: &TreePath) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }
}

fn full(tree: &Tree) -> (Vec<u8>, WrittenArchiveInfo) {
    let mut bytes = Vec::new();
    let options = WriteOptions::new(FrameCompression::Zstd, Effort::Fast, None);
    let written = write_full(&tree.manifest, tree, options, &mut bytes, &Silent).expect("writes");
    (bytes, written)
}

/// Three generations of a library and of other files; each differs from the one before in a few bytes.
fn generations() -> [Tree; 3] {
    let mut library = noise(1, 400_000);
    [0, 1, 2].map(|n| {
        library[n * 1000..n * 1000 + 10].fill(n as u8);
        let mut builder = Builder::default();
        builder.file(b"lib.so", meta(0o755, n as i64, 0), &library).file(
            b"note",
            meta(0o644, 1, 0),
            &[n as u8; 5],
        );
        for file in 0..40u32 {
            builder.file(
                format!("kept/{file}").as_bytes(),
                meta(0o644, 1, 0),
                &noise(file + 2, 60_000),
            );
        }
        builder.tree()
    })
}

fn shelf([a, b, c]: &[Tree; 3]) -> Shelf {
    let mut shelf = Shelf::default();
    let (bytes, written) = full(a);
    shelf.add("full/a.tar.zst", bytes, written);
    let (bytes, written) = build(a, b, true, FrameCompression::Zstd);
    shelf.add("diffs/a-b.tar.zst", bytes, written);
    let (bytes, written) = build(b, c, true, FrameCompression::Gzip);
    shelf.add("diffs/b-c.tar.gz", bytes, written);
    shelf
}

fn wanted(tree: &Tree) -> Vec<(Digest, u64)> {
    tree.manifest
        .entries()
        .iter()
        .filter_map(Entry::file)
        .map(|(size, digest)| (digest, size))
        .collect()
}

#[test]
fn every_content_of_every_generation_is_found_through_chains_of_deltas() {
    let trees = generations();
    let shelf = shelf(&trees);
    for tree in &trees {
        let (found, missing) = shelf.fetch(&wanted(tree), &Nothing);
        assert!(missing.is_empty(), "{missing:?}");
        assert_eq!(
            found,
            tree.contents
                .iter()
                .filter(|(d, _)| found.contains_key(d))
                .map(|(d, b)| (*d, b.clone()))
                .collect()
        );
        assert_eq!(found.len(), wanted(tree).len());
    }
}

#[test]
fn one_request_fetches_all_of_a_frame() {
    let trees = generations();
    let shelf = shelf(&trees);
    shelf.fetch(&wanted(&trees[0]), &Nothing);
    let frames: HashSet<u64> = shelf
        .index
        .iter()
        .filter(|(file, _)| file.as_str().starts_with("full"))
        .map(|(_, r)| r.place.frame_offset)
        .collect();
    assert_eq!(shelf.requests.get() as usize, frames.len());
    assert!(frames.len() < 10);
}

#[test]
fn sources_at_hand_are_not_fetched() {
    let trees = generations();
    let mut shelf = shelf(&trees);
    shelf.files.remove(&RepoPath::new("full/a.tar.zst").expect("good"));
    let library = trees[1]
        .manifest
        .get(&TreePath::new("lib.so").expect("good"))
        .and_then(Entry::file)
        .expect("there");
    let (found, missing) = shelf.fetch(&[(library.1, library.0)], &trees[0]);
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(found[&library.1], trees[1].contents[&library.1]);
    assert_eq!(shelf.requests.get(), 2, "the listing and the frame");
}

#[test]
fn what_cannot_be_had_is_named_with_its_reason() {
    let trees = generations();
    let mut shelf = shelf(&trees);
    let unknown = (Digest([7; 32]), 5);
    let (_, missing) = shelf.fetch(&[unknown], &Nothing);
    assert_eq!(missing[0].why, "the content index does not name it");
    shelf.files.remove(&RepoPath::new("full/a.tar.zst").expect("good"));
    let (found, missing) = shelf.fetch(&wanted(&trees[2]), &Nothing);
    assert_eq!(found.len() + missing.len(), wanted(&trees[2]).len());
    assert!(missing.iter().any(|m| m.why.starts_with("diffs/b-c.tar.gz: source")), "{missing:?}");
    assert!(missing.iter().any(|m| m.why.contains("it is not there")), "{missing:?}");
}

#[test]
fn another_place_serves_where_one_is_damaged() {
    let trees = generations();
    let mut shelf = shelf(&trees);
    let (bytes, written) = full(&trees[0]);
    shelf.add("full/z.tar.zst", bytes, written);
    shelf.damage("full/a.tar.zst");
    let (found, missing) = shelf.fetch(&wanted(&trees[0]), &Nothing);
    assert!(missing.is_empty(), "{missing:?}");
    assert!(found.iter().all(|(digest, bytes)| Digest::of(bytes) == *digest));
    shelf.damage("full/z.tar.zst");
    let (found, missing) = shelf.fetch(&wanted(&trees[0]), &Nothing);
    assert!(!missing.is_empty());
    assert!(found.iter().all(|(digest, bytes)| Digest::of(bytes) == *digest));
}

#[test]
fn an_index_that_lies_gives_no_wrong_bytes() {
    let trees = generations();
    let mut shelf = shelf(&trees);
    let mut all = std::mem::take(&mut shelf.index).into_archives();
    for (at, (_, records)) in all.iter_mut().enumerate() {
        for (n, record) in records.iter_mut().enumerate() {
            match (at + n) % 5 {
                0 => record.place.offset += 1,
                1 => record.place.offset = u64::MAX,
                2 => record.place.group = record.place.group.xor(Some(99)),
                3 => record.place.frame_length /= 2,
                _ => {}
            }
        }
    }
    shelf.index = ContentIndex::new(all);
    let (found, missing) = shelf.fetch(&wanted(&trees[2]), &Nothing);
    assert!(!missing.is_empty());
    assert!(found.iter().all(|(digest, bytes)| Digest::of(bytes) == *digest));
}

#[test]
fn a_server_that_is_gone_and_a_sink_that_fails_end_it() {
    let trees = generations();
    let mut shelf = shelf(&trees);
    let all = wanted(&trees[0]);
    let store = ContentStore::new(&shelf.index, &shelf.archives, &shelf, &Nothing);
    let error =
        store.fetch(&all, &mut |_, _| Err(io::ErrorKind::StorageFull.into())).expect_err("fails");
    assert!(matches!(error, ContentError::Sink { .. }), "{error}");
    shelf.unreachable = true;
    let store = ContentStore::new(&shelf.index, &shelf.archives, &shelf, &Nothing);
    let error = store.fetch(&all, &mut |_, _| Ok(())).expect_err("fails");
    assert!(matches!(error, ContentError::Fetch(_)), "{error}");
}

#[test]
fn a_sink_that_reads_nothing_is_not_left_believing() {
    let trees = generations();
    let mut shelf = shelf(&trees);
    let mut all = std::mem::take(&mut shelf.index).into_archives();
    all.retain(|(file, _)| file.as_str().starts_with("full"));
    all[0].1[0].place.offset += 1;
    let digest = all[0].1[0].digest;
    let size = all[0].1[0].size;
    shelf.index = ContentIndex::new(all);
    let store = ContentStore::new(&shelf.index, &shelf.archives, &shelf, &Nothing);
    assert!(store.fetch(&[(digest, size)], &mut |_, _| Ok(())).is_err());
}
