//! While an update runs, or is rolled back, others look: no path that both generations have is ever
//! absent, be it reached directly, below a directory that was or becomes a symlink, or by a symlink that
//! leads elsewhere; and what is read is one generation's content, whole.
//!
//! `SI_LOOK_SECONDS` asks for a longer look than that of an ordinary test run.

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
use common::trees::{self, Item, ItemKind, Tree};
use common::{ROOT_AND_RSYNC, judge, require, rounds, tally};

/// So many of each group that changes in a way of its own.
const GROUPS: usize = 25;

/// Everything that both generations have changes in the way from one to the other, and back.
fn tree(second: bool) -> Tree {
    let mut tree = Tree::from([(Vec::new(), Item::dir())]);
    let mut put = |path: String, item: Item| trees::put(&mut tree, &path, item);
    let link = |to: String| Item::new(ItemKind::Symlink(to.into_bytes()));
    let (one, other) = if second { (2, 1) } else { (1, 2) };
    let text = |what: usize, length: usize| {
        Item::file(format!("generation {one}, {what} ").repeat(length / 20))
    };
    for number in 0..800 {
        put(format!("files/{:02}/{number}", number % 40), text(number, 2_000));
    }
    for number in 0..40 {
        // read piece by piece: there is time to mix them up
        put(format!("long/{number}"), text(number, 150_000 + 40_000 * one));
    }
    for n in 0..GROUPS {
        // a hardlink group that changes, one that falls apart, metadata alone
        put(format!("links/{n}/a"), text(n, 100));
        put(format!("links/{n}/b"), Item::new(ItemKind::Link(format!("links/{n}/a").into_bytes())));
        put(format!("apart/{n}/a"), Item::file("the same"));
        let linked = Item::new(ItemKind::Link(format!("apart/{n}/a").into_bytes()));
        put(format!("apart/{n}/b"), if second { text(n, 100) } else { linked });
        put(format!("modes/{n}"), Item::file("the same").mode(0o600 + one as u32));
        // every type becomes every other
        let kinds = [n % 5, n / 5];
        match kinds[one - 1] {
            0 => put(format!("types/{n}/inside/file"), Item::file("inside")),
            1 => put(format!("types/{n}"), text(n, 100)),
            2 => put(format!("types/{n}"), link("../apart".to_owned())),
            3 => put(format!("types/{n}"), Item::new(ItemKind::Fifo)),
            _ => put(format!("types/{n}"), Item::new(ItemKind::Link(b"apart/0/a".to_vec()))),
        }
        // a symlink to a directory becomes a directory
        put(format!("turned/{n}-to/file"), text(n, 100));
        match second {
            false => put(format!("turned/{n}"), link(format!("{n}-to"))),
            true => put(format!("turned/{n}/file"), text(n, 100)),
        }
        // a directory becomes a symlink to a new one, whose content is new as well: /bin and /usr/bin
        match second {
            false => put(format!("merged/{n}/bin/tool"), text(n, 100)),
            true => {
                put(format!("merged/{n}/bin"), link("usr/bin".to_owned()));
                put(format!("merged/{n}/usr/bin/tool"), text(n, 100));
            }
        }
        // a symlink leads to what only one generation has: libraries, and releases in directories
        put(format!("lib/lib{n}.so"), link(format!("lib{n}.so.{one}")));
        put(format!("lib/lib{n}.so.{one}"), text(n, 100));
        put(
            format!("app/{n}/current"),
            link(format!("/app/{n}/release-{one}").replacen("/app", "../../app", 1)),
        );
        put(format!("app/{n}/release-{one}/bin/tool"), text(n, 100));
        // a file becomes a symlink to a symlink to a file
        match second {
            false => put(format!("alternatives/{n}/editor"), text(n, 100)),
            true => {
                put(format!("alternatives/{n}/editor"), link("etc/editor".to_owned()));
                put(format!("alternatives/{n}/etc/editor"), link("../vim".to_owned()));
                put(format!("alternatives/{n}/vim"), text(n, 100));
            }
        }
        // two symlinks change of which one leads through the other in one generation: in the other one
        // there is no file where that one leads
        let by = [format!("chain/{n}/{one}-first"), format!("chain/{n}/{one}-second")];
        let [outer, inner] = if n % 2 == 0 { ["a", "b"] } else { ["b", "a"] };
        match second {
            false => {
                put(format!("chain/{n}/{outer}"), link("1-first".to_owned()));
                put(format!("chain/{n}/{inner}"), link("1-second".to_owned()));
                put(format!("{}/file", by[0]), text(n, 100));
                put(format!("{}/nothing", by[1]), text(n, 100));
            }
            true => {
                put(format!("chain/{n}/{outer}"), link(inner.to_owned()));
                put(format!("chain/{n}/{inner}"), link("2-second".to_owned()));
                put(format!("{}/file", by[1]), text(n, 100));
            }
        }
        put(format!("only-{other}/{n}"), Item::file("comes and goes"));
    }
    tree
}

/// What both generations have.
#[derive(Default)]
struct Watched {
    /// By lstat: the last name is not followed.
    names: Vec<PathBuf>,
    /// By stat: it leads somewhere.
    leading: Vec<PathBuf>,
    /// Regular files with what they hold in the one and the other.
    contents: HashMap<PathBuf, [Vec<u8>; 2]>,
}

impl Watched {
    /// Of the trees at `generations`, for the node.
    fn of(generations: [&Path; 2], trees: [&Tree; 2], node: &Path) -> Self {
        let mut paths: BTreeSet<PathBuf> = BTreeSet::new();
        for path in trees.iter().flat_map(|tree| tree.keys()).filter(|path| !path.is_empty()) {
            paths.insert(PathBuf::from(std::ffi::OsStr::from_bytes(path)));
        }
        // What is reached through the symlinks that have no directory of the same name in the other one.
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

/// What those who look share.
struct Look {
    watched: Watched,
    /// Is there while a transaction is sealed.
    journal: PathBuf,
    over: AtomicBool,
    all: AtomicU64,
    while_sealed: AtomicU64,
}

impl Look {
    /// Looks at everything in turn until it is over: without a pause behind a seal, else now and then.
    fn look(&self, first: usize) -> Result<(), String> {
        let each = |paths: &[PathBuf], look: fn(&Path) -> io::Result<fs::Metadata>| {
            paths.iter().try_fold(0, |looked, path| found(path, look(path)).map(|_| looked + 1))
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
            let found = found(path, fs::read(path))?;
            if !contents.contains(&found) {
                return Err(format!(
                    "{} holds neither generation's content, whole",
                    path.display()
                ));
            }
        }
        Ok(self.watched.contents.len() as u64)
    }
}

fn found<T>(path: &Path, answer: io::Result<T>) -> Result<T, String> {
    answer.map_err(|error| format!("{}: {error}", path.display()))
}

#[test]
fn no_path_of_both_generations_is_ever_absent() {
    require!(ROOT_AND_RSYNC);

    let generations = [tree(false), tree(true)];
    let site = Site::at(&generations[0]);
    site.publish(&generations[1]);
    let images = [site.dir.path().join("first"), site.dir.path().join("second")];
    for (tree, at) in generations.iter().zip(&images) {
        trees::write(tree, at);
    }
    let watched =
        Watched::of(images.each_ref().map(PathBuf::as_path), generations.each_ref(), &site.node());
    // The trees are what they are meant to be.
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
    let look = &Look {
        journal: node(".si-stage/journal"),
        watched,
        over: AtomicBool::new(false),
        all: AtomicU64::new(0),
        while_sealed: AtomicU64::new(0),
    };
    // The first run is an update, each further one goes back on the one before.
    let seconds = Duration::from_secs(rounds("SI_LOOK_SECONDS", 6) as u64);
    let mut runs = 0;
    thread::scope(|scope| {
        let lookers = [0, 1, 2].map(|first| scope.spawn(move || look.look(first)));
        let end = Over(&look.over);
        let begin = Instant::now();
        while begin.elapsed() < seconds && lookers.iter().all(|looker| !looker.is_finished()) {
            let run =
                if runs == 0 { site.update(&["--max-delete", "100%"]) } else { site.rollback(&[]) };
            assert_eq!(run.code, 0, "{run:#?}");
            runs += 1;
        }
        drop(end);
        for looker in lookers {
            if let Err(absent) = looker.join().expect("looks") {
                panic!("{absent}");
            }
        }
    });
    judge::same(&images[runs % 2], &site.node(), &[]);
    let [all, while_sealed] =
        [&look.all, &look.while_sealed].map(|count| count.load(Ordering::Relaxed));
    let detail = format!(
        "at {} paths in {runs} runs, {while_sealed} of them behind a seal",
        look.watched.len()
    );
    tally("looks", all as usize, &detail);
    let enough = look.watched.len() as u64 * runs as u64;
    assert!(while_sealed > enough, "{detail}: each path should have been looked at in each run");
}

/// Tells those who look that it is over, also when a run fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
