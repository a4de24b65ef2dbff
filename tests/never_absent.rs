//! Other programs read the tree during an update and a rollback. No path of both generations is
//! ever missing, whether it is opened directly, below a directory that is a symlink in one
//! generation, or through a symlink. Each read returns the complete content of one generation.
//!
//! `SI_LOOK_SECONDS` sets the duration of the observation.

mod common;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::site::Site;
use common::trees::{self, Generation, Item, ItemKind, Tree};
use common::{ROOT_AND_RSYNC, judge, require, rounds, tally};

/// Number of paths for each kind of change.
const GROUPS: usize = 25;

/// Tree in which every path of both generations changes, each group in a way of its own.
fn tree(generation: Generation) -> Tree {
    let second = generation.is_second();
    let mut generation =
        GenerationBuilder { tree: Tree::from([(Vec::new(), Item::dir())]), second };

    for number in 0..800 {
        generation.put_text(&format!("files/{:02}/{number}", number % 40), number, 2_000);
    }
    // Long files are read in several calls, between which their content could change.
    let long = if second { 230_000 } else { 190_000 };
    for number in 0..40 {
        generation.put_text(&format!("long/{number}"), number, long);
    }
    for n in 0..GROUPS {
        generation.put_hard_links(n);
        generation.put_type(n);
        generation.put_turned_directories(n);
        generation.put_symlinks(n);
        generation.put_chain(n);
    }

    generation.tree
}

struct GenerationBuilder {
    tree: Tree,
    second: bool,
}

impl GenerationBuilder {
    /// Number of this generation: 1 or 2.
    fn number(&self) -> usize {
        if self.second { 2 } else { 1 }
    }

    fn put(&mut self, path: &str, item: Item) {
        trees::put(&mut self.tree, path, item);
    }

    fn put_symlink(&mut self, path: &str, to: &str) {
        self.put(path, symlink_to(to));
    }

    /// Adds a file whose text names the generation throughout.
    fn put_text(&mut self, path: &str, name: usize, length: usize) {
        let text = format!("generation {}, {name} ", self.number()).repeat(length / 20);
        self.put(path, Item::file(text));
    }

    /// A hard-link group that changes, one that is split, and a file that changes only its mode.
    fn put_hard_links(&mut self, n: usize) {
        self.put_text(&format!("links/{n}/a"), n, 100);
        self.put(&format!("links/{n}/b"), hard_link_to(&format!("links/{n}/a")));

        self.put(&format!("apart/{n}/a"), Item::file("the same"));
        if self.second {
            self.put_text(&format!("apart/{n}/b"), n, 100);
        } else {
            self.put(&format!("apart/{n}/b"), hard_link_to(&format!("apart/{n}/a")));
        }

        let mode = 0o600 + self.number() as u32;
        self.put(&format!("modes/{n}"), Item::file("the same").mode(mode));
        let other = 3 - self.number();
        self.put(&format!("only-{other}/{n}"), Item::file("in one generation only"));
    }

    /// An entry that changes from each type to each other.
    fn put_type(&mut self, n: usize) {
        let path = format!("types/{n}");
        match if self.second { n / 5 } else { n % 5 } {
            0 => self.put(&format!("{path}/inside/file"), Item::file("inside")),
            1 => self.put_text(&path, n, 100),
            2 => self.put_symlink(&path, "../apart"),
            3 => self.put(&path, Item::new(ItemKind::Fifo)),
            _ => self.put(&path, hard_link_to("apart/0/a")),
        }
    }

    fn put_turned_directories(&mut self, n: usize) {
        // A symlink to a directory becomes a directory.
        self.put_text(&format!("turned/{n}-to/file"), n, 100);
        if self.second {
            self.put_text(&format!("turned/{n}/file"), n, 100);
        } else {
            self.put_symlink(&format!("turned/{n}"), &format!("{n}-to"));
        }

        // A directory becomes a symlink to a new directory, as in the merge of /bin into /usr/bin.
        if self.second {
            self.put_symlink(&format!("merged/{n}/bin"), "usr/bin");
            self.put_text(&format!("merged/{n}/usr/bin/tool"), n, 100);
        } else {
            self.put_text(&format!("merged/{n}/bin/tool"), n, 100);
        }
    }

    fn put_symlinks(&mut self, n: usize) {
        let number = self.number();

        // The target of a symlink exists in one generation only: libraries, and release
        // directories.
        self.put_symlink(&format!("lib/lib{n}.so"), &format!("lib{n}.so.{number}"));
        self.put_text(&format!("lib/lib{n}.so.{number}"), n, 100);
        self.put_symlink(&format!("app/{n}/current"), &format!("../../app/{n}/release-{number}"));
        self.put_text(&format!("app/{n}/release-{number}/bin/tool"), n, 100);

        // A file becomes a symlink to a symlink to a file.
        if self.second {
            self.put_symlink(&format!("alternatives/{n}/editor"), "etc/editor");
            self.put_symlink(&format!("alternatives/{n}/etc/editor"), "../vim");
            self.put_text(&format!("alternatives/{n}/vim"), n, 100);
        } else {
            self.put_text(&format!("alternatives/{n}/editor"), n, 100);
        }
    }

    /// Two symlinks change, of which the outer one leads through the inner one in the second
    /// generation only. A wrong order of the two changes makes the outer one lead to no file.
    fn put_chain(&mut self, n: usize) {
        let [outer, inner] = if n.is_multiple_of(2) { ["a", "b"] } else { ["b", "a"] };
        let path = |name: &str| format!("chain/{n}/{name}");
        if self.second {
            self.put_symlink(&path(outer), inner);
            self.put_symlink(&path(inner), "2-second");
            self.put_text(&path("2-second/file"), n, 100);
        } else {
            self.put_symlink(&path(outer), "1-first");
            self.put_symlink(&path(inner), "1-second");
            self.put_text(&path("1-first/file"), n, 100);
            self.put_text(&path("1-second/nothing"), n, 100);
        }
    }
}

fn symlink_to(path: &str) -> Item {
    Item::new(ItemKind::Symlink(path.as_bytes().to_vec()))
}

fn hard_link_to(path: &str) -> Item {
    Item::new(ItemKind::Link(path.as_bytes().to_vec()))
}

/// Paths that exist in both generations.
#[derive(Default)]
struct Watched {
    /// Paths for lstat, which does not follow the last name.
    names: Vec<PathBuf>,
    /// Paths for stat: symlinks must lead to an existing file.
    leading: Vec<PathBuf>,
    /// Regular files with their content in each generation.
    contents: HashMap<PathBuf, [Vec<u8>; 2]>,
}

impl Watched {
    /// Collects the common paths of the trees at `generations`, relative to the node.
    fn collect(generations: [&Path; 2], trees: [&Tree; 2], node: &Path) -> Self {
        let mut paths: BTreeSet<PathBuf> = BTreeSet::new();
        for path in trees.iter().flat_map(|tree| tree.keys()).filter(|path| !path.is_empty()) {
            paths.insert(PathBuf::from(std::ffi::OsStr::from_bytes(path)));
        }

        // Paths through symlinks that are directories in neither generation.
        for n in 0..GROUPS {
            for below in [
                format!("app/{n}/current/bin/tool"),
                format!("chain/{n}/a/file"),
                format!("chain/{n}/b/file"),
            ] {
                paths.insert(below.into());
            }
        }

        let mut watched = Watched::default();
        for path in paths {
            let both = generations.map(|generation| generation.join(&path));
            if both.iter().all(|path| path.symlink_metadata().is_ok()) {
                watched.names.push(node.join(&path));
            }

            if both.iter().all(|path| path.exists()) {
                watched.leading.push(node.join(&path));
            }
            if both.iter().all(|path| path.is_file()) {
                watched
                    .contents
                    .insert(node.join(&path), both.map(|path| fs::read(path).expect("reads")));
            }
        }

        watched
    }

    fn len(&self) -> usize {
        self.names.len() + self.leading.len() + self.contents.len()
    }
}

/// State shared by the observing threads.
struct Observation {
    watched: Watched,
    /// Exists while a transaction is sealed.
    journal: PathBuf,
    over: AtomicBool,
    all: AtomicU64,
    while_sealed: AtomicU64,
}

impl Observation {
    /// Checks all paths in turn until the runs are over: without a pause while a transaction is
    /// sealed, otherwise with pauses.
    fn observe(&self, first: usize) -> Result<(), String> {
        let each = |paths: &[PathBuf], look: fn(&Path) -> io::Result<fs::Metadata>| {
            paths
                .iter()
                .try_fold(0, |looked, path| check_found(path, look(path)).map(|_| looked + 1))
        };

        let mut nth = first;
        while !self.over.load(Ordering::Relaxed) {
            let sealed = self.journal.exists();
            let looked = match nth % 3 {
                0 => each(&self.watched.names, |path| fs::symlink_metadata(path)),
                1 => each(&self.watched.leading, |path| fs::metadata(path)),
                _ => self.read(),
            }?;
            self.all.fetch_add(looked, Ordering::Relaxed);
            if sealed && self.journal.exists() {
                self.while_sealed.fetch_add(looked, Ordering::Relaxed);
            }

            for _ in 0..100 {
                if self.journal.exists() || self.over.load(Ordering::Relaxed) {
                    break;
                }
                thread::sleep(Duration::from_micros(200));
            }

            nth += 1;
        }

        Ok(())
    }

    fn read(&self) -> Result<u64, String> {
        for (path, contents) in &self.watched.contents {
            let content = check_found(path, fs::read(path))?;
            if !contents.contains(&content) {
                return Err(format!(
                    "{} has the complete content of neither generation",
                    path.display()
                ));
            }
        }

        Ok(self.watched.contents.len() as u64)
    }
}

fn check_found<T>(path: &Path, answer: io::Result<T>) -> Result<T, String> {
    answer.map_err(|error| format!("{}: {error}", path.display()))
}

#[test]
fn path_of_both_generations_is_never_absent() {
    require!(ROOT_AND_RSYNC);

    let generations = Generation::BOTH.map(tree);
    let site = Site::at(&generations[0]);
    site.publish(&generations[1]);
    let images = [site.dir.path().join("first"), site.dir.path().join("second")];
    for (tree, at) in generations.iter().zip(&images) {
        trees::write(tree, at);
    }

    let watched = Watched::collect(
        images.each_ref().map(PathBuf::as_path),
        generations.each_ref(),
        &site.node(),
    );

    // The observed paths include each kind of change.
    let node = |path: &str| site.node().join(path);
    for path in [
        "turned/0/file",
        "merged/0/bin/tool",
        "lib/lib0.so",
        "app/0/current/bin/tool",
        "alternatives/0/editor",
    ] {
        assert!(watched.contents.contains_key(&node(path)), "{path}");
    }
    assert!(
        watched.contents.contains_key(&node("chain/0/a/file"))
            && watched.contents.contains_key(&node("chain/1/b/file"))
    );

    let observation = &Observation {
        journal: node(".si-stage/journal"),
        watched,
        over: AtomicBool::new(false),
        all: AtomicU64::new(0),
        while_sealed: AtomicU64::new(0),
    };

    // The first run is an update; each further run rolls back the one before.
    let seconds = Duration::from_secs(rounds("SI_LOOK_SECONDS", 6) as u64);
    let mut runs = 0;
    thread::scope(|scope| {
        let observers = [0, 1, 2].map(|first| scope.spawn(move || observation.observe(first)));
        let end = StopOnDrop(&observation.over);
        let begin = Instant::now();
        while begin.elapsed() < seconds && observers.iter().all(|observer| !observer.is_finished())
        {
            let run =
                if runs == 0 { site.update(&["--max-delete", "100%"]) } else { site.rollback(&[]) };
            assert_eq!(run.code, 0, "{run:#?}");
            runs += 1;
        }
        drop(end);
        for observer in observers {
            if let Err(missing) = observer.join().expect("looks") {
                panic!("{missing}");
            }
        }
    });
    judge::same(&images[runs % 2], &site.node(), &[]);

    let [all, while_sealed] =
        [&observation.all, &observation.while_sealed].map(|count| count.load(Ordering::Relaxed));
    let detail = format!(
        "at {} paths in {runs} runs, {while_sealed} of them in a sealed transaction",
        observation.watched.len()
    );
    tally("looks", all as usize, &detail);
    let enough = observation.watched.len() as u64 * runs as u64;
    assert!(while_sealed > enough, "{detail}: each path should have been looked at in each run");
}

/// Stops the observing threads on drop, also if a run fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
