use std::collections::HashMap;
use std::io;

use std::sync::atomic::AtomicU64;

use super::place_choice::MAX_PLACES;
use super::*;
use crate::catalog::{ArchiveKind, FirstFrame};
use crate::diff_archive::content_index::IndexRecord;
use crate::diff_archive::tests::{MemoryTree, TreeBuilder, build, build_full, meta, noise};
use crate::diff_archive::{DeltaMode, FrameCompression, WrittenArchiveInfo, decoded_frames};
use crate::entry::Entry;
use crate::fetch::{FetchError, FetchErrorKind, Side};
use crate::generation::GenerationId;
use crate::tree_path::TreePath;

/// A repository in memory that counts the requests.
#[derive(Default)]
struct MemoryRepository {
    files: HashMap<RepoPath, Vec<u8>>,
    archives: Vec<Archive>,
    index: ContentIndex,
    requests: AtomicU32,
    bytes: AtomicU64,
    /// Archive that a cache damages, until it is bypassed.
    damaged_by_cache: Option<RepoPath>,
    /// Number of requests that are answered.
    reachable_for: Option<u32>,
    longest: AtomicU64,
}

impl MemoryRepository {
    fn add(&mut self, name: &str, bytes: Vec<u8>, written: WrittenArchiveInfo) {
        let file = RepoPath::new(name).expect("a valid name");
        let WrittenArchiveInfo { size, first_frame, index } = written;
        let sha256 = Digest::of(&bytes);
        let kind = ArchiveKind::Full { target: GenerationId(sha256) };
        self.archives.push(Archive {
            kind,
            file: FileRef { file: file.clone(), size, sha256 },
            first_frame,
            needs: Vec::new(),
            torrent: None,
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
        fetch_from(&ContentStore::new(&self.index, &self.archives, self, local), wanted)
    }

    /// The same with the published index, of which only the needed blocks are fetched.
    fn fetch_by_published_index(
        &self,
        index: &IndexFile,
        wanted: &[(Digest, u64)],
    ) -> (HashMap<Digest, Vec<u8>>, Vec<Missing>) {
        let store = ContentStore::open(index, &self.archives, self, &NoSources);
        fetch_from(&store.expect("a valid index"), wanted)
    }

    /// Publishes the index, with records of `more` contents that no archive has.
    fn publish_index(&mut self, more: u32) -> IndexFile {
        let mut all = std::mem::take(&mut self.index).into_archives();
        let other = (0..more).map(|number| {
            let place = ContentLocation { frame: 0, offset: 0, group: None };
            IndexRecord { digest: Digest::of(&number.to_le_bytes()), size: 1, place }
        });
        all[0].1.extend(other);
        self.index = ContentIndex::new(all);

        let mut bytes = Vec::new();
        let first_frame: FirstFrame = self.index.write_zstd(&mut bytes).expect("writes");
        let name = RepoPath::new("content/x.idx.zst").expect("a valid name");
        let (size, sha256) = (bytes.len() as u64, Digest::of(&bytes));
        self.files.insert(name.clone(), bytes);
        IndexFile { file: FileRef { file: name, size, sha256 }, first_frame }
    }

    fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn damage(&mut self, name: &str) {
        let bytes =
            self.files.get_mut(&RepoPath::new(name).expect("a valid name")).expect("the file");
        let (from, to) = (bytes.len() / 4, bytes.len() * 3 / 4);
        bytes[from..to].fill(0x55);
    }
}

fn fetch_from(
    store: &ContentStore<'_>,
    wanted: &[(Digest, u64)],
) -> (HashMap<Digest, Vec<u8>>, Vec<Missing>) {
    let found = Mutex::new(HashMap::new());
    let sink = |content: &mut VerifyingReader<'_>| {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        lock(&found).insert(content.digest(), bytes);
        Ok(())
    };
    let missing = store.fetch(wanted, &sink).expect("fetches");
    (found.into_inner().expect("no panic"), missing)
}

impl Ranges for MemoryRepository {
    fn range(
        &self,
        file: &FileRef,
        offset: u64,
        length: u64,
    ) -> Result<Box<dyn Read + '_>, FetchError> {
        let earlier = self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(length, Ordering::Relaxed);
        self.longest.fetch_max(length, Ordering::Relaxed);
        let error = |kind, why| FetchError::new(kind, Side::Server, &file.file, why);

        if self.reachable_for.is_some_and(|requests| earlier >= requests) {
            return Err(error(FetchErrorKind::Unreachable, "no route"));
        }
        let bytes = self
            .files
            .get(&file.file)
            .ok_or_else(|| error(FetchErrorKind::NotFound, "no such file"))?;
        let mut bytes = bytes[offset as usize..(offset + length) as usize].to_vec();
        if self.damaged_by_cache.as_ref() == Some(&file.file) {
            bytes[length as usize / 2] ^= 1;
        }
        Ok(Box::new(io::Cursor::new(bytes)))
    }

    fn range_again(
        &self,
        file: &FileRef,
        offset: u64,
        length: u64,
    ) -> Result<Box<dyn Read + '_>, FetchError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(length, Ordering::Relaxed);
        let bytes = &self.files[&file.file];
        Ok(Box::new(&bytes[offset as usize..(offset + length) as usize]))
    }
}

struct NoSources;

impl Sources for NoSources {
    fn read(&self, _: &Digest, _: u64, _: &TreePath) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }
}

fn full(tree: &MemoryTree) -> (Vec<u8>, WrittenArchiveInfo) {
    build_full(tree, FrameCompression::Zstd)
}

/// Three generations of a library and other files; a few bytes differ from one to the next.
fn generations() -> [MemoryTree; 3] {
    let mut library = noise(1, 400_000);
    [0, 1, 2].map(|n| {
        library[n * 1000..n * 1000 + 10].fill(n as u8);
        let mut builder = TreeBuilder::default();
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

fn repository([a, b, c]: &[MemoryTree; 3]) -> MemoryRepository {
    let mut repository = MemoryRepository::default();
    let (bytes, written) = full(a);
    repository.add("full/a.tar.zst", bytes, written);
    let (bytes, written) = build(a, b, DeltaMode::WithDeltas, FrameCompression::Zstd);
    repository.add("diffs/a-b.tar.zst", bytes, written);
    let (bytes, written) = build(b, c, DeltaMode::WithDeltas, FrameCompression::Gzip);
    repository.add("diffs/b-c.tar.gz", bytes, written);
    repository
}

fn wanted(tree: &MemoryTree) -> Vec<(Digest, u64)> {
    tree.manifest
        .entries()
        .iter()
        .filter_map(Entry::file)
        .map(|(size, digest)| (digest, size))
        .collect()
}

#[test]
fn contents_of_all_generations_are_read_through_delta_chains() {
    let trees = generations();
    let repository = repository(&trees);

    for tree in &trees {
        let (found, missing) = repository.fetch(&wanted(tree), &NoSources);

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
fn adjacent_frames_are_fetched_by_one_request() {
    let trees = generations();
    let repository = repository(&trees);

    repository.fetch(&wanted(&trees[0]), &NoSources);

    let frames: HashSet<u64> = repository
        .index
        .iter()
        .filter(|(file, _)| file.as_str().starts_with("full"))
        .map(|(_, r)| r.place.frame)
        .collect();
    assert!(frames.len() > 40, "{}", frames.len());
    assert_eq!(repository.requests(), 2, "the head and the frames");
}

#[test]
fn patches_of_one_frame_are_fetched_together() {
    let tree = |generation: u32| {
        let mut builder = TreeBuilder::default();
        for number in 0..40u32 {
            let mut content = noise(number + 1, 30_000);
            content[..4].copy_from_slice(&generation.to_le_bytes());
            let name = format!("file-{number}");
            builder.file(name.as_bytes(), meta(0o644, i64::from(generation), 0), &content);
        }
        builder.tree()
    };
    let (old, new) = (tree(1), tree(2));
    let mut repository = MemoryRepository::default();
    let (bytes, written) = full(&old);
    repository.add("full/old.tar.zst", bytes, written);
    let (bytes, written) = build(&old, &new, DeltaMode::WithDeltas, FrameCompression::Zstd);
    let size = repository.files.values().map(Vec::len).sum::<usize>() + bytes.len();
    repository.add("diffs/old-new.tar.zst", bytes, written);

    let (found, missing) = repository.fetch(&wanted(&new), &NoSources);

    assert_eq!((found.len(), missing.len()), (40, 0));
    // Both heads, the patches, and the sources.
    assert_eq!(repository.requests(), 4);
    assert!(repository.bytes() <= size as u64, "{} of {size}", repository.bytes());
}

#[test]
fn large_content_is_fetched_in_pieces() {
    let mut builder = TreeBuilder::default();
    builder.file(b"large", meta(0o644, 1, 0), &noise(5, 11 << 20));
    let tree = builder.tree();
    let mut repository = MemoryRepository::default();
    let (bytes, written) = full(&tree);
    repository.add("full/large.tar.zst", bytes, written);
    let large = wanted(&tree);

    let (found, missing) = repository.fetch(&large, &NoSources);

    assert_eq!((found.len(), missing.len()), (1, 0));
    // The head of the archive, and 11 MiB in pieces.
    assert_eq!(repository.requests(), 1 + 3);
    assert!(repository.longest.load(Ordering::Relaxed) <= 4 << 20);

    repository.reachable_for = Some(repository.requests() + 3);
    let store = ContentStore::new(&repository.index, &repository.archives, &repository, &NoSources);
    let read_all = |content: &mut VerifyingReader<'_>| io::copy(content, &mut io::sink()).map(drop);
    let error = store.fetch(&large, &read_all).expect_err("fails");
    let is_unreachable =
        matches!(&error, ContentError::Fetch(FetchError { kind: FetchErrorKind::Unreachable, .. }));
    assert!(is_unreachable, "{error}");
}

#[test]
fn damaged_frame_hides_no_other_frame() {
    let trees = generations();
    let mut repository = repository(&trees);
    let name = RepoPath::new("full/a.tar.zst").expect("a valid name");
    let bytes = repository.files.get_mut(&name).expect("the file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let all = wanted(&trees[0]);

    let (found, missing) = repository.fetch(&all, &NoSources);

    assert_eq!((found.len(), missing.len()), (all.len() - 1, 1), "{missing:?}");
    let reason = missing[0].reason.to_string();
    assert!(reason.contains("digest of the frame table"), "{reason}");
}

#[test]
fn bytes_that_cache_damaged_are_fetched_again() {
    let trees = generations();
    for name in ["full/a.tar.zst", "diffs/a-b.tar.zst", "diffs/b-c.tar.gz"] {
        let mut repository = repository(&trees);
        repository.damaged_by_cache = Some(RepoPath::new(name).expect("a valid name"));

        let (found, missing) = repository.fetch(&wanted(&trees[2]), &NoSources);

        assert!(missing.is_empty(), "{name}: {missing:?}");
        assert_eq!(found.len(), wanted(&trees[2]).len());
    }
}

#[test]
fn damaged_archive_is_not_decoded() {
    let trees = generations();
    let mut repository = repository(&trees);
    let name = RepoPath::new("full/a.tar.zst").expect("a valid name");
    let head = repository.archives[0].first_frame.length as usize;
    let bytes = repository.files.get_mut(&name).expect("the file");
    bytes[head..].fill(0x55);
    repository.archives.truncate(1);
    let before = decoded_frames();

    // Sources of deltas are read on this thread, whose frames are counted.
    let store = ContentStore::new(&repository.index, &repository.archives, &repository, &NoSources);
    let missing = store.fetch_at_depth(&wanted(&trees[0]), 1, &|_| panic!("a wrong content"));

    assert_eq!(missing.expect("fetches").len(), wanted(&trees[0]).len());
    assert_eq!(decoded_frames(), before);
}

#[test]
fn local_sources_are_not_fetched() {
    let trees = generations();
    let mut repository = repository(&trees);
    repository.files.remove(&RepoPath::new("full/a.tar.zst").expect("a valid name"));
    let library = trees[1]
        .manifest
        .get(&TreePath::new("lib.so").expect("a valid name"))
        .and_then(Entry::file)
        .expect("the library");

    let (found, missing) = repository.fetch(&[(library.1, library.0)], &trees[0]);

    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(found[&library.1], trees[1].contents[&library.1]);
    assert_eq!(repository.requests(), 2, "the listing and the frame");
}

#[test]
fn missing_contents_are_returned_with_reasons() {
    let trees = generations();
    let mut repository = repository(&trees);
    let unknown = (Digest([7; 32]), 5);

    let (_, missing) = repository.fetch(&[unknown], &NoSources);
    assert_eq!(missing[0].reason.to_string(), "the content index does not name it");

    repository.files.remove(&RepoPath::new("full/a.tar.zst").expect("a valid name"));
    let (found, missing) = repository.fetch(&wanted(&trees[2]), &NoSources);
    assert_eq!(found.len() + missing.len(), wanted(&trees[2]).len());
    assert!(
        missing.iter().any(|m| m.reason.to_string().starts_with("diffs/b-c.tar.gz: source")),
        "{missing:?}"
    );
    assert!(missing.iter().any(|m| m.reason.to_string().contains("no such file")), "{missing:?}");
}

#[test]
fn damaged_place_is_replaced_by_another() {
    let trees = generations();
    let mut repository = repository(&trees);
    let (bytes, written) = full(&trees[0]);
    repository.add("full/z.tar.zst", bytes, written);
    repository.damage("full/a.tar.zst");

    let (found, missing) = repository.fetch(&wanted(&trees[0]), &NoSources);
    assert!(missing.is_empty(), "{missing:?}");
    assert!(found.iter().all(|(digest, bytes)| Digest::of(bytes) == *digest));

    repository.damage("full/z.tar.zst");
    let (found, missing) = repository.fetch(&wanted(&trees[0]), &NoSources);
    assert!(!missing.is_empty());
    assert!(found.iter().all(|(digest, bytes)| Digest::of(bytes) == *digest));
}

#[test]
fn number_of_places_that_are_tried_is_limited() {
    let tree = &generations()[0];
    let (bytes, mut written) = full(tree);
    let (digest, size) = wanted(tree)[0];
    // Places of one content, of which none has it.
    let record = |number: u64| {
        let place = ContentLocation { frame: number % 3, offset: number, group: None };
        IndexRecord { digest, size, place }
    };
    written.index = (0..1_000_000).map(record).collect();
    let mut repository = MemoryRepository::default();
    repository.add("full/a.tar.zst", bytes, written);

    let (found, missing) = repository.fetch(&[(digest, size)], &NoSources);

    assert!(found.is_empty() && missing.len() == 1);
    assert_eq!(repository.requests() as usize, 1 + MAX_PLACES, "the head, and each place");
}

#[test]
fn wrong_index_yields_no_wrong_bytes() {
    let trees = generations();
    let mut repository = repository(&trees);
    let mut all = std::mem::take(&mut repository.index).into_archives();
    for (at, (_, records)) in all.iter_mut().enumerate() {
        for (n, record) in records.iter_mut().enumerate() {
            match (at + n) % 5 {
                0 => record.place.offset += 1,
                1 => record.place.offset = u64::MAX,
                2 => record.place.group = record.place.group.xor(Some(99)),
                3 => record.place.frame += 1,
                _ => {}
            }
        }
    }
    repository.index = ContentIndex::new(all);

    let (found, missing) = repository.fetch(&wanted(&trees[2]), &NoSources);

    assert!(!missing.is_empty());
    assert!(found.iter().all(|(digest, bytes)| Digest::of(bytes) == *digest));
}

#[test]
fn unreachable_server_and_failing_sink_end_the_fetch() {
    let trees = generations();
    let mut repository = repository(&trees);
    let all = wanted(&trees[0]);

    let store = ContentStore::new(&repository.index, &repository.archives, &repository, &NoSources);
    let error = store.fetch(&all, &|_| Err(io::ErrorKind::StorageFull.into())).expect_err("fails");
    assert!(matches!(error, ContentError::Sink { .. }), "{error}");

    repository.reachable_for = Some(0);
    let store = ContentStore::new(&repository.index, &repository.archives, &repository, &NoSources);
    let error = store.fetch(&all, &|_| Ok(())).expect_err("fails");
    assert!(matches!(error, ContentError::Fetch(_)), "{error}");
}

#[test]
fn unread_wrong_content_is_reported_to_sink() {
    let trees = generations();
    let mut repository = repository(&trees);
    let mut all = std::mem::take(&mut repository.index).into_archives();
    all.retain(|(file, _)| file.as_str().starts_with("full"));
    all[0].1[0].place.offset += 1;
    let digest = all[0].1[0].digest;
    let size = all[0].1[0].size;
    repository.index = ContentIndex::new(all);

    let store = ContentStore::new(&repository.index, &repository.archives, &repository, &NoSources);
    assert!(store.fetch(&[(digest, size)], &|_| Ok(())).is_err());
}

#[test]
fn one_content_needs_one_block_of_published_index() {
    let trees = generations();
    let mut repository = repository(&trees);
    let index = repository.publish_index(20_000);
    let one = wanted(&trees[0])[5];

    let (found, missing) = repository.fetch_by_published_index(&index, &[one]);

    assert!(missing.is_empty() && found.contains_key(&one.0));
    assert_eq!(repository.requests(), 4, "head and block of the index, head and frame");
    let (bytes, size) = (repository.bytes(), index.file.size);
    assert!(size > 600_000 && bytes < 200_000, "{bytes} bytes, the index has {size}");
}

#[test]
fn most_blocks_of_published_index_need_one_request() {
    let trees = generations();
    let mut repository = repository(&trees);
    let index = repository.publish_index(20_000);
    let mut all = wanted(&trees[2]);
    all.extend((0..2_000u32).map(|number| (Digest::of(&number.to_le_bytes()), 7)));

    let (found, missing) = repository.fetch_by_published_index(&index, &all);

    assert_eq!((found.len(), missing.len()), (wanted(&trees[2]).len(), 2_000));
    let of_archives = repository.requests() - 2;
    assert!(of_archives < 20, "{of_archives} more requests");
}

#[test]
fn damaged_block_of_published_index_is_fetched_again() {
    let trees = generations();
    let mut repository = repository(&trees);
    let index = repository.publish_index(20_000);
    let one = wanted(&trees[0])[5];

    // The head is damaged as well, and fetched again.
    repository.damaged_by_cache = Some(index.file.file.clone());
    let (found, missing) = repository.fetch_by_published_index(&index, &[one]);
    assert!(missing.is_empty() && found.contains_key(&one.0));

    repository.damaged_by_cache = None;
    let head = index.first_frame.length as usize;
    repository.files.get_mut(&index.file.file).expect("the index")[head..].fill(0x55);
    let (found, missing) = repository.fetch_by_published_index(&index, &[one]);
    assert!(found.is_empty());
    assert!(matches!(missing[0].reason, MissingReason::IndexDamaged { .. }), "{missing:?}");
}

#[test]
fn archive_without_head_is_requested_once() {
    let trees = generations();
    let mut repository = repository(&trees);
    repository.files.remove(&RepoPath::new("full/a.tar.zst").expect("a valid name"));

    let (found, missing) = repository.fetch(&wanted(&trees[0]), &NoSources);

    assert_eq!((found.len(), missing.len()), (0, wanted(&trees[0]).len()));
    assert_eq!(repository.requests(), 1);
}

#[test]
fn near_frames_are_fetched_by_one_request_and_far_ones_are_not() {
    let mut builder = TreeBuilder::default();
    for file in 0..200u32 {
        let size = if file % 50 == 25 { 3_000 } else { 100_000 };
        builder.file(format!("{file:03}").as_bytes(), meta(0o644, 1, 0), &noise(file, size));
    }
    let tree = builder.tree();
    let mut repository = MemoryRepository::default();
    let (bytes, written) = full(&tree);
    repository.add("full/a.tar.zst", bytes, written);
    let content = |file: u32| {
        let path = TreePath::new(format!("{file:03}").as_bytes()).expect("a path");
        let (size, digest) = tree.manifest.get(&path).and_then(Entry::file).expect("a file");
        (digest, size)
    };

    // The small file between the first two is in a frame of its own, or beside one of them.
    let (found, missing) = repository.fetch(&[content(24), content(26), content(150)], &NoSources);

    assert!(missing.is_empty() && found.len() == 3);
    assert_eq!(repository.requests(), 3, "the head, two near frames, and a far one");
    assert!(repository.bytes() < 350_000, "{}", repository.bytes());
}

#[test]
fn delta_is_chosen_only_with_sources_at_hand() {
    let [old, new, _] = generations();
    let mut repository = MemoryRepository::default();
    let (bytes, written) = build(&old, &new, DeltaMode::WithDeltas, FrameCompression::Zstd);
    repository.add("diffs/a-b.tar.zst", bytes, written);
    let (bytes, written) = full(&new);
    repository.add("full/b.tar.zst", bytes, written);
    let path = TreePath::new("lib.so").expect("a valid name");
    let (size, digest) = new.manifest.get(&path).and_then(Entry::file).expect("the library");

    let (found, _) = repository.fetch(&[(digest, size)], &NoSources);
    let whole = repository.bytes.swap(0, Ordering::Relaxed);
    assert!(found.contains_key(&digest) && whole > size, "{whole} bytes");

    let (found, missing) = repository.fetch(&[(digest, size)], &old);
    assert!(found.contains_key(&digest), "{missing:?}");
    assert!(repository.bytes() < size / 4, "{} bytes", repository.bytes());
}
